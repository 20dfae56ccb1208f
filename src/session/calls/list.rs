//! Lists of sessions: those that this process knows, and those that the CLIs have stored.
//!
//! Any page may be anywhere among all of them, in four orders, and they change all the time. So for each page all are passed over,
//! with a look at their times; more is made of those only that may be on it. Where labels or the owner decide, the notes of as many
//! are read as it takes to fill the page, and else of those that are on it. What a CLI is asked, and how often, is its [`Stock`]'s
//! affair.
//!
//! A CLI that cannot be asked makes a list shorter, not fail, unless it is the only one; the caller is told which.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use foldhash::quality::RandomState;
use futures_util::future::join_all;
use tokio::time::Instant;
use tracing::warn;

use crate::{
    backend::{Backend, BackendId},
    lock::lock,
    session::{
        catalogue::{
            Catalogue, Foremost, Listed, Listing, NOTES_AT_ONCE, Page, Stock, is_ours, note, outline,
        },
        error::Error,
        id::{SessionKey, Tenant},
        live::Session,
        sessions::Sessions,
        summary::{Outline, Summary},
    },
};

/// Stored sessions, and the CLI that has them.
pub(super) type Found = (Backend, Vec<Summary>);

impl Sessions {
    /// A page of the sessions of a tenant, and where the next one starts. Of sessions that another server on the same CLIs
    /// has changed, it may tell what was so 3 s ago.
    pub async fn list(&self, tenant: Tenant, listing: &Listing) -> Result<Page, Error> {
        let mut clis = Clis::default();
        if listing.wanted.may_be_stored() {
            clis.stocks = self.stocks();
            clis.ask(|stock| async move { stock.look_at_list().await }).await?;
        }
        let known = self.inner.registry.all(tenant);
        let page = loop {
            let mut page = known_ones(listing, &known);
            if self.add_stored(tenant, listing, &known, &mut clis, &mut page).await? {
                break page;
            }
        };
        let (mut page, next) = listing.cut(page);
        for stock in &clis.stocks {
            stock.complete(tenant, &mut page).await?;
        }
        let mut sessions: Vec<_> = page.into_iter().map(|listed| listed.session).collect();
        let next = listing.cut_to_bytes(&mut sessions).or(next);
        Ok(Page { sessions, next, unreachable: clis.unreachable })
    }

    /// Adds to a page what is stored only. `false`: a CLI has been lost over it, so that none of its sessions may count.
    async fn add_stored(
        &self,
        tenant: Tenant,
        listing: &Listing,
        known: &[Arc<Session>],
        clis: &mut Clis,
        page: &mut Foremost<'_>,
    ) -> Result<bool, Error> {
        if clis.stocks.is_empty() {
            return Ok(true);
        }
        let known: HashSet<_, RandomState> = known.iter().map(|session| session.cli_id()).collect();
        let (mut after, mut count) = (listing.after.clone(), listing.size + 1);
        loop {
            let may_be = |cli_id: &str, session: Outline<'_>| {
                page.has_room_for(session) && listing.wanted.may_have(session) && !known.contains(cli_id)
            };
            let mut found = listing.foremost(after.as_ref(), count);
            self.find_stored(tenant, &clis.stocks, may_be, &mut found);
            let mut found = found.into_sorted();
            let is_end = found.len() < count;
            let Some(last) = found.last().map(|last| listing.token(&last.session)) else { return Ok(true) };
            if listing.wanted.needs_notes() {
                if !clis.add_notes(tenant, &mut found).await? {
                    return Ok(false);
                }
                found.retain(|listed| listing.wanted.has(&listed.session));
            }
            found.into_iter().for_each(|listed| page.add(listed));
            page.settle();
            if is_end || !page.has_room_at(last.place()) {
                return Ok(true);
            }
            // The fewer of them are wanted, the more are looked at.
            (after, count) = (Some(last), count.max(NOTES_AT_ONCE.min(2 * count)));
        }
    }

    /// Finds the first of the stored sessions that may be wanted.
    fn find_stored(
        &self,
        tenant: Tenant,
        stocks: &[Stock],
        may_be: impl Fn(&str, Outline<'_>) -> bool,
        found: &mut Foremost<'_>,
    ) {
        // All at once, so that each session is with exactly one of them. Everybody locks them in the order of the pool.
        let catalogues: Vec<_> = stocks.iter().map(|stock| (stock.backend.id(), stock.lock())).collect();
        for (own, catalogue) in &catalogues {
            for (cli_id, card) in catalogue.cards() {
                let session = card.outline(cli_id);
                if !found.has_room_for(session) || !may_be(cli_id, session) || !is_ours(card) {
                    continue;
                }
                let has = |other: &Catalogue| other.card(cli_id).is_some_and(is_ours);
                let holders = catalogues.iter().filter(|(_, other)| has(other)).map(|(id, _)| *id);
                let key = SessionKey::from_cli_id(cli_id).filter(|key| key.tenant() == tenant);
                if let Some(key) = key.filter(|_| self.is_first(*own, cli_id, holders)) {
                    found.add(Listed { session: outline(&key, card), stored_in: Some(*own) });
                }
            }
        }
    }

    /// Whether everybody who asks for a session gets it from this one of the CLIs that have it.
    fn is_first(&self, own: BackendId, cli_id: &str, holders: impl Iterator<Item = BackendId>) -> bool {
        let holders: Vec<_> = holders.collect();
        holders == [own] || {
            let order = self.inner.pool.in_order(cli_id);
            order.iter().map(Backend::id).find(|id| holders.contains(id)) == Some(own)
        }
    }

    /// All stored sessions of a tenant, without titles; labels, owner and profile only `with_notes`. Those of CLIs that cannot
    /// be asked are left out.
    pub(super) async fn stored_sessions(
        &self,
        tenant: Tenant,
        with_notes: bool,
    ) -> Result<Vec<Found>, Error> {
        let mut clis = Clis { stocks: self.stocks(), ..Clis::default() };
        let stored = clis.ask(|stock| async move { stock.all(tenant, with_notes).await }).await?;
        Ok(clis.stocks.into_iter().map(|stock| stock.backend).zip(stored).collect())
    }

    /// A session that is deleted is on no list any more.
    pub(super) fn strike_off(&self, backend: &Backend, key: &SessionKey) {
        self.stock(backend).lock().forget(key.cli_id(), Instant::now());
    }

    fn stock(&self, backend: &Backend) -> Stock {
        let mut shelves = lock(&self.inner.shelves);
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
}

/// The CLIs that are asked for a list.
#[derive(Default)]
struct Clis {
    stocks: Vec<Stock>,
    /// The names of those that cannot be asked, which are not among the others.
    unreachable: Vec<String>,
}

impl Clis {
    /// What they answer. Those that do not are asked no more.
    ///
    /// # Errors
    /// If none answers.
    async fn ask<T, A>(&mut self, question: impl Fn(Stock) -> A) -> Result<Vec<T>, Error>
    where
        A: Future<Output = Result<T, Error>>,
    {
        let results = join_all(self.stocks.iter().cloned().map(question)).await;
        let (mut answers, mut problem) = (Vec::new(), None);
        for (stock, result) in std::mem::take(&mut self.stocks).into_iter().zip(results) {
            match result {
                Ok(answer) => {
                    answers.push(answer);
                    self.stocks.push(stock);
                }
                Err(error) => {
                    warn!(backend = stock.backend.name(), %error, "a CLI's sessions cannot be listed");
                    self.unreachable.push(stock.backend.name().to_owned());
                    problem = problem.or(Some(error));
                }
            }
        }
        match problem {
            Some(error) if answers.is_empty() => Err(error),
            _ => Ok(answers),
        }
    }

    /// Adds what is stored with sessions; those go that are gone. `false`: a CLI has been lost over it.
    async fn add_notes(&mut self, tenant: Tenant, found: &mut Vec<Listed>) -> Result<bool, Error> {
        let before = self.stocks.len();
        let listed = &**found;
        let notes = self.ask(|stock| async move { stock.notes_of(tenant, listed).await }).await?;
        let mut notes: HashMap<_, _> = notes.into_iter().flatten().collect();
        found.retain_mut(|listed| {
            let notes = notes.remove(&listed.session.id);
            notes.map(|notes| note(&mut listed.session, notes)).is_some()
        });
        Ok(self.stocks.len() == before)
    }
}

/// The first of the sessions that this process knows and that are wanted.
fn known_ones<'a>(listing: &'a Listing, known: &[Arc<Session>]) -> Foremost<'a> {
    let (wanted, mut page) = (&listing.wanted, listing.page());
    for session in known {
        let summary = session.summary_if(|outline| {
            page.has_room_for(outline) && wanted.may_have(outline) && {
                let blueprint = session.blueprint();
                wanted.has_noted(&blueprint.labels, &blueprint.owner)
            }
        });
        if let Some(session) = summary {
            page.add(Listed { session, stored_in: None });
        }
    }
    page.settle();
    page
}
