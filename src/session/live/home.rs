//! The CLI that a session is in, and how it gets into another one.
//!
//! A session is its folder in a CLI's home (cli-protocol.md, section 15). Where this server can read that home, or the folder is in the
//! archive, the session moves: when its CLI is down for longer than a moment, drains, or has gone for good. It is moved when it is
//! next loaded, while nothing runs in it: the folder is put into the other CLI's home, the record says so, and the old copy goes. A
//! session whose folder is out of reach waits for its CLI.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::task::spawn_blocking;
use tracing::{debug, info, warn};

use super::{
    means::Means,
    session::{Session, Stored},
};
use crate::{
    backend::{self, Backend, BackendId, Link, Standing},
    copilot::method::{Entry, GetMetadata},
    session::{blueprint::Blueprint, error::Error, id::SessionKey, turn::TurnCause},
    store::{
        self, FolderLimits,
        folder::{self, LeftOut},
    },
};

/// How long a session waits for its own CLI before it goes to another: one that has ended is mostly there again by then, and the
/// session is loaded again just the same.
pub(super) const OWN_CLI_WAIT: Duration = Duration::from_millis(500);

impl Session {
    /// The copy of it that its CLI has made, with what that says of it.
    pub(in crate::session) fn copy(&self, key: SessionKey, cli_id: &str, entry: Entry) -> Self {
        let blueprint = Blueprint::clone(&self.blueprint());
        let copy = Self::new(key, cli_id.into(), blueprint, self.home.copy(), self.means.clone());
        {
            let mut state = copy.lock();
            state.stored = Stored::Yes;
            state.title = entry.summary.unwrap_or_default();
            state.working_directory = entry.context.and_then(|context| context.cwd).unwrap_or_default();
        }
        copy
    }

    /// The CLI that it is in, be it still one of the server's or not.
    pub(in crate::session) fn backend(&self) -> Backend {
        self.home.lock().backend.clone()
    }

    /// Whether it is in this CLI.
    pub(in crate::session) fn is_in(&self, backend: BackendId) -> bool {
        self.home.lock().backend.id() == backend
    }

    /// The CLI to use it in, which is one of the server's: mostly the one that it is in.
    ///
    /// # Errors
    /// If its CLI has gone, and it cannot move.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub(in crate::session) async fn home(&self) -> Result<Backend, backend::Error> {
        let backend = self.backend();
        let is_there = self.means.pool.has(&backend);
        if is_there && self.is_astray() {
            match self.found_elsewhere(&backend).await {
                Ok(Some(found)) => return Ok(self.go_to(&backend, found)),
                // There may be a copy in the archive.
                Ok(None) => {}
                Err(_) if self.means.archive != super::Archive::Off => {}
                Err(error) => return Err(error),
            }
        }
        if is_there && (!self.may_move() || self.is_well(&backend).await) {
            return Ok(backend);
        }
        let other = self.another(&backend);
        if let Some(other) = other {
            return Ok(self.go_to(&backend, other));
        }
        if is_there {
            return Ok(backend);
        }
        match self.found_elsewhere(&backend).await? {
            Some(found) => Ok(self.go_to(&backend, found)),
            None => Err(backend::Error::Unavailable {
                problem: format!("{}, which has the session, has left, and no other has it", backend.name()),
            }),
        }
    }

    /// Whether its record tells of a CLI that this server does not have: that may have another address by now.
    pub(super) fn is_astray(&self) -> bool {
        if self.lock().stored != Stored::Yes {
            return false;
        }
        let place = self.home.lock();
        !place.home.is_empty() && place.home_disk.is_empty() && self.means.pool.at(&place.home).is_none()
    }

    /// Whether its CLI is to be used further: it is there, or soon.
    async fn is_well(&self, backend: &Backend) -> bool {
        !is_leaving(backend) && backend.connected_within(OWN_CLI_WAIT).await.is_ok()
    }

    /// Whether it is to leave its CLI as soon as nothing runs in it, and can.
    pub(super) fn is_to_leave(&self) -> bool {
        let backend = self.backend();
        is_leaving(&backend) && self.may_move_at_rest() && self.another(&backend).is_some()
    }

    /// Whether it can be used in another CLI: it is loaded nowhere, and its folder can be brought there.
    fn may_move(&self) -> bool {
        self.attached().is_none() && self.may_move_at_rest()
    }

    fn may_move_at_rest(&self) -> bool {
        if self.is_kept() || self.lock().current.as_deref().is_some_and(|turn| turn.is_sent()) {
            return false;
        }
        self.lock().stored == Stored::No
            || self.folder().is_some()
            || self.means.archive != super::Archive::Off
    }

    /// Another CLI that would take it.
    fn another(&self, than: &Backend) -> Option<Backend> {
        let has_folder = self.lock().stored != Stored::No;
        let will_do = |other: &Backend| other.id() != than.id() && (!has_folder || other.home().is_some());
        self.means.pool.ready_for(self.cli_id(), will_do)
    }

    /// It is about to be made in this CLI, whose home gets its folder with its first message.
    pub(in crate::session) fn is_made_in(&self, backend: &Backend) {
        let mut place = self.home.lock();
        place.backend = backend.clone();
        backend.place().clone_into(&mut place.home);
        place.home_disk = self.node_of(backend);
    }

    /// Uses it in another CLI that has room, where its own has none and nothing runs in it.
    pub(in crate::session) fn go_where_there_is_room(&self) -> Option<Backend> {
        let backend = self.backend();
        let state = self.lock();
        let is_idle = !state.queue.is_busy() && state.compaction.is_none();
        drop(state);
        if !is_idle || !self.may_move_at_rest() {
            return None;
        }
        let has_folder = self.lock().stored != Stored::No;
        let will_do = |other: &Backend| {
            other.id() != backend.id()
                && (!has_folder || other.home().is_some())
                && other.admission().has_room()
        };
        let other = self.means.pool.ready_for(self.cli_id(), will_do)?;
        Some(self.go_to(&backend, other))
    }

    fn go_to(&self, from: &Backend, to: Backend) -> Backend {
        let mut place = self.home.lock();
        // Another call may have been faster.
        if place.backend.id() == from.id() {
            info!(session = %self.id(), from = from.name(), to = to.name(), "a session has another CLI");
            place.backend = to;
        }
        place.backend.clone()
    }

    /// Whether its folder is in the home of the CLI to use it in.
    ///
    /// # Errors
    /// As of [`home`](Self::home).
    pub(in crate::session) async fn is_where_it_is_used(&self) -> Result<bool, backend::Error> {
        let backend = self.home().await?;
        Ok(self.home.lock().home.is_empty() || self.has_its_folder_in(&backend))
    }

    /// Whether the home of this CLI has its folder, or will have it with its first message.
    pub(super) fn has_its_folder_in(&self, backend: &Backend) -> bool {
        let place = self.home.lock();
        place.home == backend.place() && place.home_disk == self.node_of(backend)
    }

    /// A link to the CLI that has its folder, to read that. It is not loaded.
    ///
    /// # Cancel safety
    /// Dropping it may leave the session moved or not.
    pub(in crate::session) async fn link_to_read(&self) -> Result<Arc<Link>, Error> {
        if let Some(link) = self.reachable() {
            return Ok(link);
        }
        let _loading = self.loading.lock().await;
        let backend = self.home().await?;
        let link = backend.connected().await?;
        Box::pin(self.bring_to(&backend)).await.map_err(|cause| self.not_loaded(cause))?;
        Ok(link)
    }

    /// The node on whose disk the home of a CLI is; empty: it is the CLI's own.
    fn node_of(&self, backend: &Backend) -> String {
        if backend.form().is_some() { self.means.disk.clone() } else { String::new() }
    }

    /// The CLI that has it by now, where its own has got another address and this server cannot read its home.
    async fn found_elsewhere(&self, gone: &Backend) -> Result<Option<Backend>, backend::Error> {
        let asked = self.means.pool.in_order(self.cli_id()).into_iter().map(|backend| async move {
            let metadata =
                backend.connected().await?.call(&GetMetadata { session_id: self.cli_id() }).await?;
            Ok(metadata.session.map(|_| backend))
        });
        // All at once: one that is out of reach is waited for only if no other has it.
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut unknown = None;
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(Some(backend)) => {
                    self.home.lock().home = backend.place().to_owned();
                    debug!(session = %self.id(), gone = gone.name(), "a session was found in another CLI");
                    return Ok(Some(backend));
                }
                Ok(None) => {}
                Err(error) => unknown = Some(error),
            }
        }
        unknown.map_or(Ok(None), Err)
    }

    /// Its folder, where it is on a disk that this server can read.
    pub(in crate::session) fn folder(&self) -> Option<PathBuf> {
        self.folder_to_be().filter(|folder| folder.is_dir())
    }

    /// The same, also where the CLI has not made it yet.
    pub(super) fn folder_to_be(&self) -> Option<PathBuf> {
        let (home, node) = {
            let place = self.home.lock();
            (place.home.clone(), place.home_disk.clone())
        };
        if home.is_empty() || !(node.is_empty() || node == self.means.disk) {
            return None;
        }
        let path = match self.means.pool.at(&home) {
            Some(backend) => backend.home()?.to_owned(),
            // Of an embedded CLI that is run no more.
            None if !node.is_empty() => self.means.state_dir.join(home),
            None => return None,
        };
        Some(folder_in(path, self.cli_id()))
    }

    /// Sees to it that its folder is in the home of this CLI, before it is loaded there. Nobody else loads it meanwhile.
    ///
    /// # Errors
    /// If there is a folder and it cannot be had.
    pub(super) async fn bring_to(&self, backend: &Backend) -> Result<(), TurnCause> {
        let node = self.node_of(backend);
        if self.has_its_folder_in(backend) {
            return Ok(());
        }
        let home = self.home.lock().home.clone();
        let from = self.folder();
        self.leave_copy().await.map_err(TurnCause::Store)?;
        let brought = match backend.home() {
            Some(target) => {
                self.put_folder(from.clone(), folder_in(target.to_owned(), self.cli_id())).await?
            }
            None => Brought::Nothing,
        };
        if brought == Brought::Nothing && self.lock().stored == Stored::Yes && !home.is_empty() {
            return Err(TurnCause::Backend(backend::Error::Unavailable {
                problem: format!(
                    "{home}, which has the session, is out of reach, and the session is in no archive"
                ),
            }));
        }
        {
            let mut place = self.home.lock();
            backend.place().clone_into(&mut place.home);
            place.home_disk = node;
        }
        self.save(None).await.map_err(TurnCause::Store)?;
        if brought == Brought::Whole
            && let Some(from) = from
        {
            self.remove_copy(from).await;
        }
        Ok(())
    }

    /// Puts its folder where it is to be, from where it is or from the archive.
    async fn put_folder(&self, from: Option<PathBuf>, to: PathBuf) -> Result<Brought, TurnCause> {
        if let Some(from) = from {
            debug!(session = %self.id(), "a session's folder is copied");
            // What is archived of it has bounds; what is on the disk is not to be lost.
            let copied = spawn_blocking(move || folder::copy(&from, &to, &FolderLimits::NONE)).await;
            return match copied {
                Ok(Ok(copied)) => {
                    for LeftOut { path, why } in &copied.left_out {
                        self.warn_of_folder(&format!("{path:?} does not move with the session: {why}"));
                    }
                    Ok(if copied.left_out.is_empty() { Brought::Whole } else { Brought::InPart })
                }
                Ok(Err(error)) => Err(out_of_reach(&error.to_string())),
                Err(error) => Err(out_of_reach(&error.to_string())),
            };
        }
        Ok(if self.restore(to).await? { Brought::Whole } else { Brought::Nothing })
    }

    /// Whether nothing of it can be in this CLI: it has no message, or its folder is on another node's disk.
    pub(super) fn has_nothing_in(&self, backend: &Backend) -> bool {
        let place = self.home.lock();
        let is_elsewhere = place.home != backend.place()
            || !(place.home_disk.is_empty() || place.home_disk == self.means.disk);
        drop(place);
        self.lock().stored == Stored::No || (is_elsewhere && self.folder().is_none())
    }

    /// Removes its folder from the home of a CLI that is down, which then does not know it any more.
    pub(super) async fn remove_folder(&self) -> Result<(), Error> {
        let Some(folder) = self.folder() else { return Ok(()) };
        let removed = spawn_blocking(move || folder::remove(&folder)).await;
        let problem = match removed {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        Err(backend::Error::Unavailable {
            problem: format!("the session's folder could not be removed: {problem}"),
        }
        .into())
    }

    async fn remove_copy(&self, folder: PathBuf) {
        let removed = spawn_blocking(move || folder::remove(&folder)).await;
        if let Ok(Err(error)) = removed {
            warn!(session = %self.id(), %error, "the old copy of a session that has moved could not be removed");
        }
    }
}

impl Means {
    /// Removes the folder of a session that is not in a home of this disk any more.
    pub(in crate::session) async fn remove_folder_of(&self, copy: &store::Copy) -> Result<(), Error> {
        let home = self.pool.at(&copy.home).and_then(|backend| backend.home().map(PathBuf::from));
        let home = home.unwrap_or_else(|| self.state_dir.join(&copy.home));
        let folder = folder_in(home, &copy.cli_id);
        let removed = spawn_blocking(move || folder::remove(&folder)).await;
        let problem = match removed {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        Err(backend::Error::Unavailable { problem }.into())
    }
}

/// What has been put into a CLI's home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Brought {
    /// There is no folder, or none that can be had.
    Nothing,
    /// The folder, but for what does not move, such as links. The old copy stays.
    InPart,
    /// All of it.
    Whole,
}

/// A session's folder in a CLI's home.
fn folder_in(home: PathBuf, cli_id: &str) -> PathBuf {
    home.join("session-state").join(cli_id)
}

/// A session that could not be brought to another CLI.
pub(super) fn out_of_reach(problem: &str) -> TurnCause {
    TurnCause::Backend(backend::Error::Unavailable {
        problem: format!("the session could not be moved to it: {problem}"),
    })
}

/// Whether sessions are to leave this CLI.
fn is_leaving(backend: &Backend) -> bool {
    matches!(backend.standing(), Standing::Draining | Standing::Leaving)
}
