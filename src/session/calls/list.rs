//! Lists of sessions: the store has them all, and what each is doing its server knows.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};

use crate::{
    session::{
        error::Error,
        id::{SessionId, SessionKey, Tenant},
        listing::{Listing, Page},
        live::Session,
        others::{Others, Peer},
        sessions::Sessions,
        summary::{SessionState, Summary},
    },
    store::{Incarnation, NodeRecord, SessionRecord},
};

impl Sessions {
    /// A page of the sessions of a tenant, and where the next one starts.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn list(&self, tenant: &Tenant, listing: &Listing) -> Result<Page, Error> {
        let known: HashMap<_, _> = self
            .inner
            .registry
            .all_of(tenant)
            .into_iter()
            .map(|session| (session.id().clone(), session))
            .collect();
        let only_loaded = !listing.wanted.may_be_unloaded();
        if only_loaded && !self.store().is_shared() {
            let loaded = known.values().map(|session| session.summary());
            return Ok(listing.page_of(loaded.filter(|session| listing.wanted.has(session)).collect()));
        }
        // One more than fit on it: whether there is another page.
        let wanted = listing.size + 1;
        let (mut found, mut from) = (Vec::new(), listing.clone());
        loop {
            let mut query = from.query(tenant, wanted);
            // What no server owns is loaded nowhere.
            query.is_owned = only_loaded;
            let records = self.store().list(&query).await?;
            let is_end = records.len() < wanted;
            let elsewhere = self.states_elsewhere(tenant, &records, &known).await;
            let sessions = records.into_iter().filter_map(Summary::of);
            let sessions: Vec<_> = sessions.map(|session| as_it_is(session, &known, &elsewhere)).collect();
            from.after = sessions.last().map(|last| listing.token_after(last));
            found.extend(sessions.into_iter().filter(|session| listing.wanted.has_state(session.state)));
            if is_end || found.len() >= wanted {
                return Ok(listing.cut(found, !is_end));
            }
        }
    }

    /// Who owns a session, as its callers say it; `None`: there is none.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn owner(&self, key: &SessionKey) -> Result<Option<String>, Error> {
        if let Some(session) = self.inner.registry.find(key) {
            return Ok(Some(session.blueprint().owner.clone()));
        }
        Ok(self.record(key).await?.map(|record| record.facts.owner))
    }

    /// What there is to know of a session, whichever server owns it.
    pub(super) async fn glance(&self, key: &SessionKey) -> Result<Summary, Error> {
        let id = key.id();
        if let Some(session) = self.inner.registry.find(key) {
            return Ok(session.summary());
        }
        let gone = || Error::NotFound(id.clone());
        let record = self.record(key).await?.ok_or_else(gone)?;
        let records = std::slice::from_ref(&record);
        let elsewhere = self.states_elsewhere(key.tenant(), records, &HashMap::new()).await;
        Ok(as_it_is(Summary::of(record).ok_or_else(gone)?, &HashMap::new(), &elsewhere))
    }

    /// What those of some sessions do that this server knows.
    pub fn states(
        &self,
        tenant: &Tenant,
        ids: impl Iterator<Item = SessionId>,
    ) -> HashMap<SessionId, SessionState> {
        let known = |id: SessionId| {
            let session = self.inner.registry.find(&SessionKey::new(tenant.clone(), id.clone()))?;
            Some((id, session.summary().state))
        };
        ids.filter_map(known).collect()
    }

    /// Sets how other servers are asked.
    pub fn ask_others_by(&self, others: Arc<dyn Others>) {
        // A server is set up once.
        let _ = self.inner.others.set(others);
    }

    /// What those of some sessions of a tenant do that other servers own, which are asked all at once.
    async fn states_elsewhere(
        &self,
        tenant: &Tenant,
        records: &[SessionRecord],
        known: &HashMap<SessionId, Arc<Session>>,
    ) -> HashMap<SessionId, SessionState> {
        let Some(others) = self.inner.others.get().filter(|_| self.store().is_shared()) else {
            return HashMap::new();
        };
        let nodes = self.nodes_of(records).await;
        let mut asked: BTreeMap<_, (Peer, Vec<SessionId>)> = BTreeMap::new();
        for record in records {
            let Ok(id) = SessionId::parse(&record.id) else { continue };
            let Some(owner) = record.node.as_ref().filter(|_| !known.contains_key(&id)) else { continue };
            let owner = nodes.iter().find(|node| node.incarnation == *owner && !node.lease.is_zero());
            let Some(owner) = owner.filter(|owner| owner.incarnation != *self.store().incarnation()) else {
                continue;
            };
            let of_owner =
                asked.entry(&owner.incarnation.node).or_insert_with(|| (Peer::from(owner), Vec::new()));
            of_owner.1.push(id);
        }
        let answers: FuturesUnordered<_> =
            asked.values().map(|(peer, ids)| others.states(peer, tenant, ids.clone())).collect();
        answers
            .filter_map(std::future::ready)
            .fold(HashMap::new(), async |mut all, some| {
                all.extend(some);
                all
            })
            .await
    }
}

impl Sessions {
    /// The servers, those included that own some of these sessions.
    async fn nodes_of(&self, records: &[SessionRecord]) -> Arc<[NodeRecord]> {
        let known = self.store().neighbours().borrow().nodes.clone();
        let has = |owner: &Incarnation| known.iter().any(|node| node.incarnation == *owner);
        if records.iter().filter_map(|record| record.node.as_ref()).all(has) {
            return known;
        }
        // One of them has only just started.
        self.store().nodes().await.map_or(known, Arc::from)
    }
}

/// A session of the store as it is now. Its times stay those by which it is listed.
fn as_it_is(
    stored: Summary,
    known: &HashMap<SessionId, Arc<Session>>,
    elsewhere: &HashMap<SessionId, SessionState>,
) -> Summary {
    match known.get(&stored.id) {
        Some(session) => {
            let Summary { create_time, update_time, .. } = stored;
            Summary { create_time, update_time, ..session.summary() }
        }
        None => {
            let state = elsewhere.get(&stored.id).copied().unwrap_or(stored.state);
            Summary { state, ..stored }
        }
    }
}
