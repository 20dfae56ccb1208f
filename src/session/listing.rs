//! Lists of sessions: those that this process knows, and those that the CLIs have stored.
//!
//! Notes of all are read only where labels or the owner decide, and else of those that are on the page. What a CLI is asked, and
//! how often, is its [`Stock`]'s affair.
//!
//! A CLI that cannot be asked makes a list shorter, not fail, unless it is the only one; the caller is told which.

use std::{
    collections::{HashMap, HashSet},
    sync::PoisonError,
};

use futures_util::future::join_all;
use tokio::time::Instant;
use tracing::warn;

use super::{
    Sessions,
    error::Error,
    key::{SessionId, SessionKey, Tenant},
    list::{Listing, Page, Summary},
    stock::Stock,
};
use crate::backend::{Backend, BackendId};

/// Stored sessions, and the CLI that has them.
pub(super) type Found = (Backend, Vec<Summary>);

impl Sessions {
    /// A page of the sessions of a tenant, and where the next one starts. Of sessions that another server on the same CLIs
    /// has changed, it may tell what was so 3 s ago.
    pub async fn list(&self, tenant: Tenant, listing: &Listing) -> Result<Page, Error> {
        let (mut stored, mut unreachable) = (HashMap::new(), Vec::new());
        if listing.wanted.may_be_stored() {
            let found =
                self.ask_all(|stock| async move { stock.outlines(tenant, &listing.wanted).await }).await?;
            (stored, unreachable) = (self.without_doubles(tenant, found.0), found.1);
        }
        let known: Vec<_> = self.inner.registry.all(tenant).iter().map(|session| session.summary()).collect();
        let ids: HashSet<_> = known.iter().map(|session| session.id.clone()).collect();
        stored.retain(|id, _| !ids.contains(id));
        let mut all = Vec::with_capacity(stored.len());
        let mut places = HashMap::with_capacity(stored.len());
        for (id, (place, session)) in stored {
            all.push(session);
            places.insert(id, place);
        }
        all.extend(known.into_iter().filter(|session| listing.wanted.has(session)));
        let (mut page, next) = listing.page(all);
        for stock in self.stocks() {
            let is_its = |session: &Summary| places.get(&session.id) == Some(&stock.backend.id());
            stock.complete(tenant, &mut page, is_its).await?;
        }
        Ok(Page { sessions: page, next, unreachable })
    }

    /// All stored sessions of a tenant, without titles; labels, owner and profile only `with_notes`. Those of CLIs that cannot
    /// be asked are left out.
    pub(super) async fn stored_sessions(
        &self,
        tenant: Tenant,
        with_notes: bool,
    ) -> Result<Vec<Found>, Error> {
        let all = self.ask_all(|stock| async move { stock.all(tenant, with_notes).await }).await?;
        Ok(all.0)
    }

    /// A session that is deleted is on no list any more.
    pub(super) fn strike_off(&self, backend: &Backend, key: &SessionKey) {
        self.stock(backend).catalogue(|catalogue| catalogue.forget(key.cli_id(), Instant::now()));
    }

    fn stock(&self, backend: &Backend) -> Stock {
        let mut shelves = self.inner.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        if !shelves.contains_key(&backend.id()) {
            // Those of CLIs that have left go when others come.
            let all = self.inner.pool.all();
            shelves.retain(|id, _| all.iter().any(|backend| backend.id() == *id));
        }
        Stock { backend: backend.clone(), shelf: shelves.entry(backend.id()).or_default().clone() }
    }

    fn stocks(&self) -> Vec<Stock> {
        self.inner.pool.all().iter().map(|backend| self.stock(backend)).collect()
    }

    /// What the CLIs answer, and the names of those that do not.
    ///
    /// # Errors
    /// If none answers.
    async fn ask_all<A>(&self, question: impl Fn(Stock) -> A) -> Result<(Vec<Found>, Vec<String>), Error>
    where
        A: Future<Output = Result<Vec<Summary>, Error>>,
    {
        let stocks = self.stocks();
        let backends: Vec<_> = stocks.iter().map(|stock| stock.backend.clone()).collect();
        let answers = join_all(stocks.into_iter().map(question)).await;
        let (mut found, mut unreachable, mut problem) = (Vec::new(), Vec::new(), None);
        for (backend, answer) in backends.into_iter().zip(answers) {
            match answer {
                Ok(answer) => found.push((backend, answer)),
                Err(error) => {
                    warn!(backend = backend.name(), %error, "a CLI's sessions cannot be listed");
                    unreachable.push(backend.name().to_owned());
                    problem = problem.or(Some(error));
                }
            }
        }
        match problem {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok((found, unreachable)),
        }
    }

    /// Stored sessions by their ids, with the CLI that has them: if there are two of one id, with the one which everybody gets.
    fn without_doubles(&self, tenant: Tenant, found: Vec<Found>) -> HashMap<SessionId, (BackendId, Summary)> {
        let mut sessions = HashMap::<_, (BackendId, Summary)>::new();
        for (backend, stored) in found {
            let own = backend.id();
            for session in stored {
                let ranks_before = |other: BackendId| {
                    let key = SessionKey::new(tenant, session.id.clone());
                    let order = self.inner.pool.in_order(key.cli_id());
                    order.iter().map(Backend::id).find(|id| [own, other].contains(id)) == Some(own)
                };
                if sessions.get(&session.id).is_none_or(|(other, _)| ranks_before(*other)) {
                    sessions.insert(session.id.clone(), (own, session));
                }
            }
        }
        sessions
    }
}
