//! A compaction: the model summarizes a session's history.
//!
//! It runs on a task of its own, which has the session's place until the CLI has come to an end with it, also where its caller has
//! given it up: a prompt that were sent meanwhile would wait in the CLI's queue, and run whatever its sender has been told.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    backend::{self, Link},
    copilot::{
        Rejection,
        method::{Compact, Compacted},
    },
    session::{
        blueprint::Credentials,
        error::Error,
        id::SessionKey,
        live::Session,
        sessions::Sessions,
        turn::{Deadline, TurnCause},
    },
};

/// Its deadline is its limit, and no other.
const NO_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// The pause before a compaction is told once more to end.
const STOP_PAUSE: Duration = Duration::from_millis(200);

/// How long it may take to end. It takes 50 ms.
const STOP_LIMIT: Duration = Duration::from_secs(30);

impl Sessions {
    /// Has the model summarize a session's history, after the turns that were accepted before.
    ///
    /// # Cancel safety
    /// Dropping it stops the compaction; it may be done before.
    pub async fn compact(&self, key: &SessionKey, deadline: Deadline) -> Result<Compacted, Error> {
        self.refuse_if_draining()?;
        let session = self.known(key, Credentials::default()).await?;
        let place = session.place(deadline).await?;
        let link = self.load_within(deadline, &session).await?;
        let caller_gone = CancellationToken::new();
        let _gone = caller_gone.clone().drop_guard();
        let aborted = session.compacting();
        let shutdown = self.inner.shutdown.clone();
        let compaction = Compaction { session, link, deadline, aborted, caller_gone, shutdown };
        let (told, outcome) = oneshot::channel();
        self.inner.means.tasks.spawn(async move {
            compaction.run(told).await;
            drop(place);
        });
        outcome.await.unwrap_or(Err(Error::Draining))
    }
}

struct Compaction {
    session: Arc<Session>,
    link: Arc<Link>,
    deadline: Deadline,
    /// Cancelled when somebody asks for its end.
    aborted: CancellationToken,
    caller_gone: CancellationToken,
    shutdown: CancellationToken,
}

type Call<'a> = Pin<&'a mut (dyn Future<Output = Result<Compacted, backend::Error>> + Send + 'a)>;

impl Compaction {
    /// Runs it, and tells the caller of its end, as soon as that is known to be one for the caller.
    async fn run(self, told: oneshot::Sender<Result<Compacted, Error>>) {
        // From now on no other link is attached; one that just is comes first.
        drop(self.session.loading.lock().await);
        let compact = Compact { session_id: self.session.cli_id() };
        let mut call = std::pin::pin!(self.session.call_within(NO_LIMIT, &self.link, &compact));
        let outcome = tokio::select! {
            biased;
            done = &mut call => Ok(done),
            cause = self.reason_to_stop() => Err(cause),
        };
        match outcome {
            Ok(done) => {
                // With the keeper link it goes on.
                if let Err(backend::Error::Lost { .. }) = done {
                    self.session.abandoned();
                }
                // Nobody may want to know any more.
                let _ = told.send(of_the_cli(done));
            }
            Err(cause) => {
                let _ = told.send(Err(self.session.not_loaded(cause)));
                self.end(call).await;
            }
        }
        self.session.compacted();
        self.session.keep();
    }

    async fn reason_to_stop(&self) -> TurnCause {
        tokio::select! {
            biased;
            () = self.session.gone().cancelled() => self.session.why_gone(),
            () = self.aborted.cancelled() => TurnCause::Aborted,
            () = self.caller_gone.cancelled() => TurnCause::Cancelled,
            () = self.shutdown.cancelled() => TurnCause::Draining,
            timeout = self.deadline.passed() => timeout,
        }
    }

    /// Has the CLI end it, and waits for that. Of a deleted session nothing more is heard.
    async fn end(&self, mut call: Call<'_>) {
        tokio::select! {
            biased;
            _ = &mut call => {}
            () = self.session.gone().cancelled() => {}
            () = self.keep_stopping() => self.session.close_stuck().await,
        }
    }

    /// Tells the CLI to end it, again and again: the first time it may not have begun. Resolves when that is of no use.
    async fn keep_stopping(&self) {
        let limit = Instant::now() + STOP_LIMIT;
        while Instant::now() < limit {
            match self.session.stop_compaction(&self.link).await {
                // It does not answer to that any more (seen on the native runtime), nor will it.
                Err(backend::Error::Timeout { .. }) => return,
                Err(error) => {
                    debug!(session = %self.session.id(), %error, "a compaction could not be stopped")
                }
                Ok(_) => {}
            }
            sleep(STOP_PAUSE).await;
        }
    }
}

/// What the CLI says to it.
fn of_the_cli(done: Result<Compacted, backend::Error>) -> Result<Compacted, Error> {
    match done {
        Err(backend::Error::Rejected(Rejection::NothingToCompact)) => Ok(Compacted::default()),
        done => Ok(done?),
    }
}
