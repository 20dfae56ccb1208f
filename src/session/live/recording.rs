//! A session's record in the store: made, written, removed.
//!
//! What changes in a session is written soon after, by one task at a time, each time as it is then. While the store is away that is
//! owed: it is written when the store is back. Only what a caller was promised is waited for.

use std::sync::{Arc, atomic::Ordering};

use tracing::{debug, warn};

use super::{
    row::Owed,
    session::{Session, Stored},
};
use crate::{
    lock::lock,
    session::{
        blueprint::{Blueprint, Record},
        error::Error,
        turn::Spent,
    },
    store::{self, Availability, Changes, Ended, Facts, Ownership, SessionRecord, Settling, Time, Uid},
};

impl Session {
    /// Its record; `None` until that is made.
    pub(in crate::session) fn uid(&self) -> Option<Uid> {
        self.ownership().map(|ownership| ownership.uid)
    }

    /// What it is written with; `None` until its record is made.
    pub(in crate::session) fn ownership(&self) -> Option<Ownership> {
        self.row.ownership.get().copied()
    }

    /// Makes its record. It is of the request with this id; empty: of one without.
    ///
    /// # Errors
    /// If there is a session with its id.
    ///
    /// # Cancel safety
    /// Dropping it may leave the record or not.
    pub(in crate::session) async fn enter(&self, request_id: &str) -> Result<(), Error> {
        let blueprint = self.blueprint();
        let mut facts = self.facts(&blueprint).ok_or(Error::TooMuchToStore)?;
        facts.cli_id = self.cli_id().into();
        facts.request = request_id.into();
        let (tenant, id) = (self.key.tenant().as_str(), self.id().as_str());
        let now = Time::now();
        let ownership = match self.means.store.create(tenant, id, &facts, now).await {
            Err(store::Error::Exists) => return Err(Error::Exists(self.id().clone())),
            created => created?,
        };
        let _ = self.row.ownership.set(ownership);
        {
            let mut state = self.lock();
            (state.create_time, state.update_time) = (now, now);
        }
        self.row.saved.lock().await.blueprint = Some(blueprint);
        self.save_credentials().await
    }

    /// The session of this record, as it was when that was written.
    pub(in crate::session) fn of_record(mut self, record: &SessionRecord) -> Self {
        let _ = self.row.ownership.set(record.ownership);
        let blueprint = self.blueprint();
        // Nothing of what it is made of is news.
        self.row.saved.get_mut().blueprint = Some(blueprint);
        let mut state = self.lock();
        state.stored = if record.facts.has_message { Stored::Yes } else { Stored::No };
        (state.create_time, state.update_time) = (record.create_time, record.update_time);
        state.title.clone_from(&record.facts.title);
        state.working_directory.clone_from(&record.facts.working_directory);
        state.spent = Spent::read(&record.facts.usage).map(Box::new);
        drop(state);
        self
    }

    /// It was changed now.
    pub(in crate::session) fn touch(&self) {
        let mut state = self.lock();
        state.update_time = state.update_time.max(Time::now());
    }

    /// Removes its record, and with it all that the store has of the session.
    pub(in crate::session) async fn erase(&self) -> Result<(), store::Error> {
        let Some(ownership) = self.ownership() else { return Ok(()) };
        self.leave_copy().await?;
        self.means.store.delete(ownership).await.map(|_| ())
    }

    /// Notes that its folder stays on another node's disk, if it does, which that node is to remove.
    pub(super) async fn leave_copy(&self) -> Result<(), store::Error> {
        let (home, disk) = {
            let place = self.home.lock();
            (place.home.clone(), place.home_disk.clone())
        };
        if disk.is_empty() || disk == self.means.disk {
            return Ok(());
        }
        self.means.store.leave_copy(&store::Copy { disk, home, cli_id: self.cli_id().to_owned() }).await
    }

    /// Something has changed that its record is to tell: a task writes it.
    pub(in crate::session) fn record_changed(self: &Arc<Self>) {
        if self.uid().is_none() || self.row.is_owed.swap(true, Ordering::AcqRel) {
            return;
        }
        let session = self.clone();
        self.means.tasks.spawn(async move { session.write_what_is_owed().await });
    }

    /// What came of a request is to be written when the store is back.
    pub(in crate::session) fn owe(self: &Arc<Self>, owed: Owed) {
        lock(&self.row.requests).push(owed);
        self.record_changed();
    }

    pub(super) async fn save_with_requests(&self) -> Result<(), store::Error> {
        loop {
            let Some(next) = lock(&self.row.requests).first().cloned() else { return self.save(None).await };
            let Owed { request, ended } = next;
            let written = match ended {
                // With what is to be archived, as if it had been recorded in time.
                Some(ended) => self.save(Some(ended)).await,
                None => self.means.store.forget(request.key()).await,
            };
            match written {
                Err(error @ store::Error::Unavailable { .. }) => return Err(error),
                Ok(()) | Err(store::Error::Gone | store::Error::Fenced) => {}
                Err(error) => {
                    warn!(session = %self.id(), %error, "what came of a request could not be recorded")
                }
            }
            lock(&self.row.requests).remove(0);
        }
    }

    async fn write_what_is_owed(&self) {
        let mut availability = self.means.store.availability();
        loop {
            // What changes from now on is owed anew.
            self.row.is_owed.store(false, Ordering::Release);
            match self.save_with_requests().await {
                Err(store::Error::Unavailable { problem }) => {
                    debug!(session = %self.id(), problem, "a session's record is written when the store is back");
                    self.row.is_owed.store(true, Ordering::Release);
                    let back = availability.wait_for(|now| matches!(now, Availability::Here));
                    let gone = self.gone().clone();
                    if !matches!(gone.run_until_cancelled(back).await, Some(Ok(_))) {
                        return;
                    }
                }
                // It is deleted.
                Ok(()) | Err(store::Error::Gone | store::Error::Fenced) => return,
                Err(error) => {
                    return warn!(session = %self.id(), %error, "a session's record could not be written");
                }
            }
        }
    }

    /// Writes all that is new in the session, together with the end of a request.
    ///
    /// # Cancel safety
    /// Dropping it may leave it written or not.
    pub(in crate::session) async fn save(&self, ended: Option<Ended>) -> Result<(), store::Error> {
        let Some(ownership) = self.ownership() else { return Ok(()) };
        let mut saved = self.row.saved.lock().await;
        let blueprint = self.blueprint();
        let is_new = saved.blueprint.as_ref().is_none_or(|saved| !Arc::ptr_eq(saved, &blueprint));
        let mut changes = self.changes(is_new.then_some(&*blueprint));
        let news = self.new_in_folder(ownership.uid, &mut saved.archived).await?;
        if let Some(news) = &news {
            changes.bytes = Some(news.bytes);
        }
        let folder = news.as_ref().map(|news| news.write.clone());
        match self.means.store.settle(ownership, &Settling { changes, request: ended, folder }).await {
            Ok(()) => {}
            Err(error) => {
                // Whether the archive has it by now is not known: next time it is asked.
                saved.archived = None;
                if error == store::Error::Fenced {
                    self.has_gone_elsewhere();
                }
                return Err(error);
            }
        }
        if let (Some(news), Some(archived)) = (news, &mut saved.archived) {
            archived.took(news);
        }
        saved.blueprint = Some(blueprint);
        Ok(())
    }

    /// What its record is to tell, with what the session is made of where that is new.
    fn changes(&self, blueprint: Option<&Blueprint>) -> Changes {
        let mut facts = Facts::default();
        let made_of = blueprint.and_then(|blueprint| Record::of(blueprint).write(&mut facts));
        self.note_state(&mut facts);
        let update_time = Some(self.lock().update_time);
        let Facts { title, working_directory, has_message, home, home_disk, usage, .. } = facts;
        let changes = Changes {
            title: Some(title),
            working_directory: Some(working_directory),
            has_message: Some(has_message),
            home: Some(home),
            home_disk: Some(home_disk),
            usage: Some(usage),
            update_time,
            ..Changes::default()
        };
        match made_of {
            None => changes,
            Some(()) => Changes {
                owner: Some(facts.owner),
                profile: Some(facts.profile),
                model: Some(facts.model),
                reasoning_effort: Some(facts.reasoning_effort),
                labels: Some(facts.labels),
                settings: Some(facts.settings),
                ..changes
            },
        }
    }

    /// All that its record tells; `None` if that is too much.
    fn facts(&self, blueprint: &Blueprint) -> Option<Facts> {
        let mut facts = Facts::default();
        Record::of(blueprint).write(&mut facts)?;
        self.note_state(&mut facts);
        Some(facts)
    }

    fn note_state(&self, facts: &mut Facts) {
        {
            let place = self.home.lock();
            facts.home.clone_from(&place.home);
            facts.home_disk.clone_from(&place.home_disk);
        }
        let state = self.lock();
        facts.title.clone_from(&state.title);
        facts.working_directory.clone_from(&state.working_directory);
        // A CLI that is killed in the first turn may not have stored it; then it is made anew.
        facts.has_message = state.stored == Stored::Yes;
        facts.usage = state.spent.as_deref().map(Spent::write).unwrap_or_default();
    }
}
