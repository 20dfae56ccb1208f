//! Setting a session back to before a prompt, and what its tools have done to files since.

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::{
    backend::{self, Link},
    copilot::{
        AgentFailure, Method, Rejection,
        method::{
            FileChange, ListRewindPoints, PreviewRewind, Rewind, RewindPoint, RewindPoints, RewindPreview,
            Rewound, SkippedFile,
        },
    },
    session::{
        blueprint::{Credentials, Unfit},
        error::Error,
        id::SessionKey,
        live::Session,
        sessions::Sessions,
        turn::{Deadline, TurnError},
    },
};

/// How many files a turn is said to have changed.
const MAX_FILES: usize = 1_000;

/// How long the caller of a turn waits to be told of files. It takes a millisecond, and on a busy machine up to a second.
const FILES_LIMIT: Duration = Duration::from_secs(5);

/// The pause before a CLI is asked again that is still at work.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// What the CLI says while it is still at work.
const BUSY: &str = "session-busy";

/// What came, or would come, of setting a session back.
#[derive(Debug, Default)]
pub struct SetBack {
    /// How many events were taken out of the history.
    pub events_removed: i64,
    /// The files that were restored, with what was taken back.
    pub files: Vec<FileChange>,
    /// The files that were not.
    pub skipped: Vec<SkippedFile>,
}

impl Sessions {
    /// The prompts before which a session can be set back, oldest first, after the turns that were accepted before.
    ///
    /// # Cancel safety
    /// Dropping it may leave the session loaded.
    pub async fn rewind_points(
        &self,
        key: &SessionKey,
        deadline: Deadline,
    ) -> Result<Vec<RewindPoint>, Error> {
        self.refuse_if_draining()?;
        let session = self.known(key, Credentials::default()).await?;
        let _place = session.place(deadline).await?;
        let link = self.load_within(deadline, &session).await?;
        let question = ListRewindPoints { session_id: session.cli_id() };
        let is_busy = |told: &RewindPoints| told.unavailable_reason.as_deref() == Some(BUSY);
        Ok(at_rest(deadline, &link, &question, is_busy).await?.points)
    }

    /// Sets a session back to before a prompt, after the turns that were accepted before, with `files` those that have changed
    /// since, too; or only says what would be, where it is a `trial`.
    ///
    /// # Cancel safety
    /// Dropping it may leave the session set back or not.
    pub async fn rewind(
        &self,
        key: &SessionKey,
        event_id: &str,
        files: bool,
        trial: bool,
        deadline: Deadline,
    ) -> Result<SetBack, Error> {
        self.refuse_if_draining()?;
        let session = self.known(key, Credentials::default()).await?;
        let _place = session.place(deadline).await?;
        let link = self.load_within(deadline, &session).await?;
        let session_id = session.cli_id();
        let preview = PreviewRewind { session_id, event_id };
        let is_busy = |told: &RewindPreview| told.reason.as_deref() == Some(BUSY);
        let RewindPreview { available, files: changed, .. } =
            at_rest(deadline, &link, &preview, is_busy).await?;
        if files && !available {
            return Err(Error::Unfit(NOT_FOLLOWED));
        }
        let changed = if files { changed } else { Vec::new() };
        if trial {
            return Ok(SetBack { files: changed, ..SetBack::default() });
        }
        let mode = if files { "conversation-and-files" } else { "conversation" };
        let rewind = Rewind { session_id, event_id, mode };
        let done = at_rest(deadline, &link, &rewind, |done: &Rewound| done.outcome == BUSY).await?;
        set_back(&session, done, changed)
    }
}

impl Session {
    /// What has happened to files since a prompt. Nothing, where the CLI does not tell.
    pub(super) async fn files_changed(&self, link: &Link, event_id: &str) -> Vec<FileChange> {
        let question = PreviewRewind { session_id: self.cli_id(), event_id };
        let told = timeout(FILES_LIMIT, async {
            loop {
                match link.call(&question).await {
                    Ok(preview) if preview.reason.as_deref() == Some(BUSY) => sleep(BUSY_PAUSE).await,
                    told => return told,
                }
            }
        });
        match told.await {
            Ok(Ok(RewindPreview { mut files, .. })) => {
                files.truncate(MAX_FILES);
                files
            }
            Ok(Err(error)) => {
                debug!(session = %self.id(), %error, "it is not known which files a turn has changed");
                Vec::new()
            }
            Err(_) => {
                debug!(session = %self.id(), "the CLI does not say in time which files a turn has changed");
                Vec::new()
            }
        }
    }
}

/// What came of it, by the CLI's word for that.
fn set_back(session: &Session, done: Rewound, changed: Vec<FileChange>) -> Result<SetBack, Error> {
    let Rewound { outcome, events_removed, restored_files, skipped_files, error } = done;
    match outcome.as_str() {
        "success" => {}
        // The history is as it should be; only what else was kept of it is still there.
        "checkpoint-cleanup-failed" | "snapshot-prune-failed" => {
            warn!(session = %session.id(), outcome, "the CLI has not cleared up all after it set a session back");
        }
        "file-change-tracking-disabled" | "unsupported-remote-session" => {
            return Err(Error::Unfit(NOT_FOLLOWED));
        }
        outcome => {
            // The CLI's words have its paths in them.
            warn!(session = %session.id(), outcome, error, "the CLI could not set a session back");
            let failure =
                AgentFailure::other(format!("the Copilot CLI could not set the session back: {outcome}"));
            return Err(backend::Error::Rejected(Rejection::Agent(failure)).into());
        }
    }
    let restored = |file: &FileChange| restored_files.contains(&file.path);
    Ok(SetBack {
        events_removed: events_removed.unwrap_or_default(),
        files: changed.into_iter().filter(restored).collect(),
        skipped: skipped_files,
    })
}

const NOT_FOLLOWED: Unfit = Unfit {
    field: "restore_files",
    problem: "it is not known what has happened to files: the session has no tools of the Copilot CLI's that could change any",
};

/// What the CLI says once it is at rest: another client may run a turn there.
async fn at_rest<M: Method + Sync>(
    deadline: Deadline,
    link: &Link,
    question: &M,
    is_busy: fn(&M::Output) -> bool,
) -> Result<M::Output, Error> {
    let asking = async {
        loop {
            match link.call(question).await? {
                told if is_busy(&told) => sleep(BUSY_PAUSE).await,
                told => return Ok(told),
            }
        }
    };
    tokio::select! {
        biased;
        told = asking => told,
        cause = deadline.passed() => Err(Error::Turn(Arc::new(TurnError::not_delivered(cause)))),
    }
}
