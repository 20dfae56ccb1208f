//! The sessions that one CLI has stored: what it is asked of them, and how often.
//!
//! To list 10,000 stored sessions with all that it knows of them takes a CLI 2.1 s, and to read the notes of all another
//! 1.1 s. So it is asked for their ids and times, which takes 0.65 s, and at most once in [`FRESH`](super::cache::FRESH);
//! for the rest only of those of which somebody wants to know it. A [`Catalogue`] remembers the answers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;

use super::{
    cache::{Card, Catalogue, MAX_NOTES, Notes},
    locate::{self, records},
    query::Listed,
};
use crate::{
    backend::{self, Backend, Link},
    copilot::{
        Rejection,
        method::{Entry, GetMetadata, Index, List},
    },
    lock::lock,
    session::{
        error::Error,
        id::{SessionId, SessionKey, Tenant},
        summary::{SessionState, Summary},
    },
};

/// Of one stored session the CLI tells in 1 ms, of all of them in 0.2 ms each: beyond this share of them, all are asked for.
const SHARE: usize = 5;

/// How many sessions are asked for at once.
const AT_ONCE: usize = 16;

/// Of how many sessions the notes are read at once: they, and those that somebody else reads meanwhile, fit in.
pub(in crate::session) const NOTES_AT_ONCE: usize = MAX_NOTES / 2;

/// What is remembered of the sessions that one CLI has stored.
#[derive(Debug, Default)]
pub(in crate::session) struct Shelf {
    catalogue: Mutex<Catalogue>,
    /// Held by whoever asks the CLI for a list.
    listing: tokio::sync::Mutex<()>,
}

/// The sessions that one CLI has stored.
#[derive(Clone)]
pub(in crate::session) struct Stock {
    pub(in crate::session) backend: Backend,
    pub(in crate::session) shelf: Arc<Shelf>,
}

impl Stock {
    /// All of a tenant.
    pub(in crate::session) async fn all(
        &self,
        tenant: Tenant,
        with_notes: bool,
    ) -> Result<Vec<Summary>, Error> {
        self.look_at_list().await?;
        let mut stored: Vec<_> = self.catalogue(|catalogue| {
            let ours = catalogue.cards().filter(|(_, card)| is_ours(card));
            let ours = ours.filter_map(|(cli_id, card)| Some((SessionKey::from_cli_id(cli_id)?, card)));
            let ours = ours.filter(|(key, _)| key.tenant() == tenant);
            ours.map(|(key, card)| outline(&key, card)).collect()
        });
        if with_notes {
            let keys: Vec<_> = stored.iter().map(|one| SessionKey::new(tenant, one.id.clone())).collect();
            let mut notes = self.notes(&keys).await?;
            stored.iter_mut().for_each(|one| note(one, notes.remove(&one.id).unwrap_or_default()));
        }
        Ok(stored)
    }

    /// The keys of those of these sessions that are its own.
    fn keys(&self, tenant: Tenant, listed: &[Listed]) -> Vec<SessionKey> {
        let own = listed.iter().filter(|listed| self.has(listed));
        own.map(|listed| SessionKey::new(tenant, listed.session.id.clone())).collect()
    }

    /// What is stored with those of these sessions that are its own.
    pub(in crate::session) async fn notes_of(
        &self,
        tenant: Tenant,
        listed: &[Listed],
    ) -> Result<HashMap<SessionId, Notes>, Error> {
        self.notes(&self.keys(tenant, listed)).await
    }

    fn has(&self, listed: &Listed) -> bool {
        listed.stored_in == Some(self.backend.id())
    }

    /// Adds what is known of the sessions of a page that are its own.
    pub(in crate::session) async fn complete(
        &self,
        tenant: Tenant,
        page: &mut Vec<Listed>,
    ) -> Result<(), Error> {
        let keys = self.keys(tenant, page);
        if keys.is_empty() {
            return Ok(());
        }
        let mut notes = self.notes(&keys).await?;
        self.look_at_faces(&keys.iter().map(SessionKey::cli_id).collect::<Vec<_>>()).await?;
        let catalogue = self.lock();
        page.retain_mut(|listed| {
            if !self.has(listed) {
                return true;
            }
            let key = SessionKey::new(tenant, listed.session.id.clone());
            // What has gone meanwhile is not on the page.
            let Some(card) = catalogue.card(key.cli_id()).filter(|card| is_ours(card)) else { return false };
            note(&mut listed.session, notes.remove(key.id()).unwrap_or_default());
            show(&mut listed.session, card);
            true
        });
        Ok(())
    }

    /// What is stored with these sessions, but for those that have gone.
    async fn notes(&self, keys: &[SessionKey]) -> Result<HashMap<SessionId, Notes>, Error> {
        let mut notes = HashMap::with_capacity(keys.len());
        for keys in keys.chunks(NOTES_AT_ONCE) {
            let asked = Instant::now();
            loop {
                match self.known_notes(keys, asked) {
                    Ok(known) => break notes.extend(known),
                    // By the time that they are known, some that were before may have had to make room.
                    Err(stale) => {
                        let records = records(&self.backend, &stale).await?;
                        self.catalogue(|catalogue| catalogue.take_notes(asked, &stale, records));
                    }
                }
            }
        }
        Ok(notes)
    }

    /// The same, if it is known of all of them.
    ///
    /// # Errors
    /// Those of which it is not.
    fn known_notes<'a>(
        &self,
        keys: &'a [SessionKey],
        asked: Instant,
    ) -> Result<Vec<(SessionId, Notes)>, Vec<&'a str>> {
        let catalogue = self.lock();
        let cli_ids: Vec<_> = keys.iter().map(SessionKey::cli_id).collect();
        let stale = catalogue.without_notes(&cli_ids, asked);
        let notes = |key: &SessionKey| {
            let notes = catalogue.card(key.cli_id())?.notes()?;
            Some((key.id().clone(), notes.clone()))
        };
        if stale.is_empty() { Ok(keys.iter().filter_map(notes).collect()) } else { Err(stale) }
    }

    /// Sees to it that the list of stored sessions is fresh, and that of each is known whether it is ours.
    pub(in crate::session) async fn look_at_list(&self) -> Result<(), Error> {
        // Those who ask at the same time share one answer.
        let _turn = self.shelf.listing.lock().await;
        let link = self.backend.connected().await?;
        let (is_fresh, is_known) =
            self.catalogue(|catalogue| (catalogue.is_fresh(link.id(), Instant::now()), catalogue.len() > 0));
        if is_fresh {
            return Ok(());
        }
        if !is_known {
            return self.look_at_all(&link).await;
        }
        let asked = Instant::now();
        match link.call(&Index { metadata_limit: 0 }).await {
            Ok(index) => self.catalogue(|catalogue| catalogue.take_list(asked, index.sessions, false)),
            // Older CLIs cannot.
            Err(backend::Error::Rejected(Rejection::MethodMissing(_))) => {
                return self.look_at_all(&link).await;
            }
            Err(error) => return Err(error.into()),
        }
        let strangers: Vec<_> = self.catalogue(|catalogue| {
            let strangers = catalogue.cards().filter(|(_, card)| card.face().is_none());
            strangers.map(|(cli_id, _)| cli_id.to_owned()).collect()
        });
        self.look_at_faces(&strangers.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    /// Asks for all that the CLI knows of all sessions.
    async fn look_at_all(&self, link: &Link) -> Result<(), Error> {
        let asked = Instant::now();
        let listed = link.call(&List {}).await?;
        self.catalogue(|catalogue| catalogue.take_list(asked, listed.sessions, true));
        Ok(())
    }

    /// Sees to it that what the CLI knows of these sessions is known here.
    async fn look_at_faces(&self, cli_ids: &[&str]) -> Result<(), Error> {
        let link = self.backend.connected().await?;
        let asked = Instant::now();
        let (stale, all) =
            self.catalogue(|catalogue| (catalogue.without_face(cli_ids, asked), catalogue.len()));
        if stale.len() > AT_ONCE && stale.len() * SHARE > all {
            return self.look_at_all(&link).await;
        }
        let stale: Vec<_> = stale.into_iter().map(str::to_owned).collect();
        let questions = stale.into_iter().map(|cli_id| face(link.clone(), cli_id));
        let mut answers = stream::iter(questions).buffer_unordered(AT_ONCE);
        while let Some((cli_id, entry)) = answers.try_next().await? {
            self.catalogue(|catalogue| catalogue.take_face(asked, &cli_id, entry));
        }
        Ok(())
    }

    fn catalogue<T>(&self, act: impl FnOnce(&mut Catalogue) -> T) -> T {
        act(&mut self.lock())
    }

    pub(in crate::session) fn lock(&self) -> MutexGuard<'_, Catalogue> {
        // What it holds is valid after every statement.
        lock(&self.shelf.catalogue)
    }
}

/// What the CLI knows of a session, if there is one.
async fn face(link: Arc<Link>, cli_id: String) -> Result<(String, Option<Entry>), backend::Error> {
    let answer = link.call(&GetMetadata { session_id: &cli_id }).await?;
    Ok((cli_id, answer.session))
}

pub(in crate::session) fn is_ours(card: &Card) -> bool {
    card.face().is_some_and(|face| locate::is_ours(face.client_name.as_deref()))
}

/// What is told of a session by its list alone.
pub(in crate::session) fn outline(key: &SessionKey, card: &Card) -> Summary {
    Summary {
        id: key.id().clone(),
        model: String::new(),
        reasoning_effort: String::new(),
        state: SessionState::Unloaded,
        labels: Default::default(),
        title: String::new(),
        create_time: card.start_time.clone(),
        update_time: card.modified_time.clone(),
        working_directory: String::new(),
        owner: String::new(),
        profile: String::new(),
    }
}

/// Adds what is stored with a session.
pub(in crate::session) fn note(session: &mut Summary, notes: Notes) {
    session.labels = notes.labels;
    session.model = notes.model;
    session.reasoning_effort = notes.reasoning_effort;
    session.owner = notes.owner;
    session.profile = notes.profile;
}

/// Adds what the CLI itself knows of a session.
fn show(session: &mut Summary, card: &Card) {
    if let Some(face) = card.face() {
        session.title.clone_from(&face.title);
        session.working_directory.clone_from(&face.working_directory);
    }
}
