//! Lists of sessions: the store has them all, and what each is doing this process knows.

use std::{collections::HashMap, sync::Arc};

use crate::session::{
    error::Error,
    id::{SessionId, Tenant},
    listing::{Listing, Page},
    live::Session,
    sessions::Sessions,
    summary::Summary,
};

impl Sessions {
    /// A page of the sessions of a tenant, and where the next one starts.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn list(&self, tenant: Tenant, listing: &Listing) -> Result<Page, Error> {
        let known: HashMap<_, _> = self
            .inner
            .registry
            .all(tenant)
            .into_iter()
            .map(|session| (session.id().clone(), session))
            .collect();
        if !listing.wanted.may_be_unloaded() {
            let loaded = known.values().map(|session| session.summary());
            return Ok(listing.page_of(loaded.filter(|session| listing.wanted.has(session)).collect()));
        }
        // One more than fit on it: whether there is another page.
        let wanted = listing.size + 1;
        let (mut found, mut from) = (Vec::new(), listing.clone());
        loop {
            let records = self.store().list(&from.query(tenant, wanted)).await?;
            let is_end = records.len() < wanted;
            let sessions = records.into_iter().filter_map(Summary::of);
            let sessions: Vec<_> = sessions.map(|session| as_it_is(session, &known)).collect();
            from.after = sessions.last().map(|last| listing.token_after(last));
            found.extend(sessions.into_iter().filter(|session| listing.wanted.has_state(session.state)));
            if is_end || found.len() >= wanted {
                return Ok(listing.cut(found, !is_end));
            }
        }
    }
}

/// A session of the store as it is now. Its times stay those by which it is listed.
fn as_it_is(stored: Summary, known: &HashMap<SessionId, Arc<Session>>) -> Summary {
    match known.get(&stored.id) {
        Some(session) => {
            let Summary { create_time, update_time, .. } = stored;
            Summary { create_time, update_time, ..session.summary() }
        }
        None => stored,
    }
}
