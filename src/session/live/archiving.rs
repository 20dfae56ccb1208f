//! A session's folder goes into the archive, and is made anew from there.

use std::{path::PathBuf, sync::Arc};

use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::{
    archived::{Archived, News},
    home::out_of_reach,
    means::Archive,
    session::{Session, State},
};
use crate::{
    copilot::{
        Event,
        event::{self, Payload},
    },
    session::turn::TurnCause,
    store::{
        self, Time, Uid,
        archive::restore,
        folder::{LeftOut, Manifest},
    },
};

impl Session {
    /// Whether what is new in its folder goes into the archive before a turn's callers get the answer.
    pub(in crate::session) fn is_archived_first(&self) -> bool {
        self.means.archive == Archive::BeforeAnswer && self.backend().home().is_some()
    }

    /// Whether another server could have all of it: its folder is in the archive, or no server's but its CLI's.
    pub(in crate::session) fn is_archived(&self) -> bool {
        self.means.archive != Archive::Off || self.backend().home().is_none()
    }

    /// What is new in its folder since it was last archived; `None`: nothing, or there is no archive. A folder that cannot be read is
    /// told of, and left as it was archived.
    pub(super) async fn new_in_folder(
        &self,
        uid: Uid,
        archived: &mut Option<Box<Archived>>,
    ) -> Result<Option<News>, store::Error> {
        if self.means.archive == Archive::Off {
            return Ok(None);
        }
        let Some(folder) = self.folder() else { return Ok(None) };
        let known = match archived.take() {
            Some(known) if known.tracker.folder() == folder => known,
            // It is the first time in this process, or the session has moved.
            _ => Box::new(Archived::new(folder, self.means.store.folder_head(uid).await?)),
        };
        let limits = self.means.folder_limits;
        let looked = spawn_blocking(move || {
            let news = known.look(&limits);
            (known, news)
        });
        let Ok((mut known, news)) = looked.await else { return Ok(None) };
        let news = match news {
            Ok(news) => news,
            Err(error) => {
                self.warn_of_folder(&format!("the session is not archived any further: {error}"));
                None
            }
        };
        if let Some(news) = &news {
            for LeftOut { path, why } in known.news_of(&news.changes.left_out) {
                self.warn_of_folder(&format!("the file {path:?} is not archived: {why}"));
            }
        }
        *archived = Some(known);
        Ok(news)
    }

    /// Tells those who read the session, and not the log, because files are named.
    pub(super) fn warn_of_folder(&self, message: &str) {
        warn!(session = %self.id(), "a session's folder, or a file in it, is not archived, or does not move");
        self.lock().warn_of_archive(message);
    }

    /// Makes its folder anew from the archive. False: it is not in there.
    pub(super) async fn restore(&self, to: PathBuf) -> Result<bool, TurnCause> {
        let Some(uid) = self.uid().filter(|_| self.means.archive != Archive::Off) else { return Ok(false) };
        let store = &self.means.store;
        let Some(head) = store.folder_head(uid).await.map_err(TurnCause::Store)? else { return Ok(false) };
        let chunks = store.folder(uid).await.map_err(TurnCause::Store)?;
        let made = spawn_blocking(move || {
            let manifest = Manifest::decode(&head.manifest).ok();
            restore(&chunks, manifest.as_ref(), &to)
        });
        match made.await {
            Ok(Ok(_)) => {
                info!(session = %self.id(), "a session was restored from the archive");
                Ok(true)
            }
            Ok(Err(error)) => Err(out_of_reach(&error.to_string())),
            Err(error) => Err(out_of_reach(&error.to_string())),
        }
    }
}

impl State {
    fn warn_of_archive(&self, message: &str) {
        let warning =
            event::Warning { warning_type: Some(NOT_ARCHIVED.to_owned()), message: message.to_owned() };
        self.warn(Arc::new(Event {
            id: String::new(),
            timestamp: Time::now().rfc3339(),
            agent_id: None,
            ephemeral: true,
            kind: "session.warning".into(),
            weight: message.len(),
            payload: Payload::SessionWarning(warning),
        }));
    }
}

/// The type of the warning that something of a session's folder is not in the archive.
const NOT_ARCHIVED: &str = "not_archived";
