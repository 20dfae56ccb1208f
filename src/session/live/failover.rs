//! How a turn outlives the link that it began on.
//!
//! The CLI ends a session's turn when the last connection leaves that is attached to it. So a second link, the keeper, is
//! attached to each loaded session. When the main link is lost, the agent goes on; what it does meanwhile is read from the
//! CLI's memory once the session is attached to a new one, before anything that is told there.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tracing::{debug, warn};

use super::{
    incoming::may_quote_a_secret,
    session::{Session, State},
};
use crate::{
    backend::{Link, LinkId},
    copilot::{
        Event,
        event::{self, Payload},
        method::{Attach, Detach, PersistedEvents, ReadEventLog},
    },
    session::{cursor::Cursor, error::Error},
};

/// How many events are read at once: as many as the CLI takes.
const PAGE: usize = 1000;

/// How long a prompt waits for the keeper link to be attached, which takes a tenth of a second, and on a busy machine more than
/// one.
const KEEPING_LIMIT: Duration = Duration::from_secs(5);

impl Session {
    /// Attaches the keeper link, if there is one, in the background: whoever loads the session does not wait for it, but the
    /// next prompt does, see [`begin_prompt`](Self::begin_prompt).
    pub(in crate::session) fn keep(self: &Arc<Self>) {
        let Some(keeper) = self.backend().keeper() else { return };
        let keeping = self.keeping.clone().try_lock_owned();
        let session = self.clone();
        self.tasks().spawn(async move {
            let _keeping = match keeping {
                Ok(keeping) => keeping,
                Err(_) => session.keeping.clone().lock_owned().await,
            };
            session.attach(&keeper).await;
        });
    }

    /// The same, and resolves when it is done, unless a prompt is in its way.
    pub(in crate::session) async fn keep_as_one_of_many(self: &Arc<Self>) {
        let Some(keeper) = self.backend().keeper() else { return };
        match self.keeping.clone().try_lock_owned() {
            Ok(_keeping) => self.attach(&keeper).await,
            Err(_) => self.keep(),
        }
    }

    /// A prompt is about to be sent: until the agent is at work on it no keeper link is attached. One that meets a prompt makes
    /// it run without the session's system message, or with tools that are excluded (observed on the native runtime, 1.0.89; in
    /// the middle of a turn it does no harm). One that is just being attached is waited for, unless it takes too long, as on
    /// one that is dead and not known to be.
    pub(in crate::session) async fn begin_prompt(&self) {
        let keeping = timeout(KEEPING_LIMIT, self.keeping.clone().lock_owned()).await.ok();
        self.lock().beginning = keeping;
    }

    /// Attaches a keeper link. Not while the session is compacted: the native runtime never answers again in a session where
    /// the two meet (seen on 1.0.89).
    async fn attach(&self, keeper: &Link) {
        let _loading = self.loading.lock().await;
        if !self.is_loaded() || self.lock().compaction.is_some() {
            return;
        }
        let (session_id, blueprint) = (self.cli_id(), self.blueprint());
        let settings = &blueprint.settings;
        let attach = Attach {
            session_id,
            streaming: true,
            include_sub_agent_streaming_events: true,
            request_elicitation: settings.elicitation,
            additional_directories: settings
                .options
                .as_deref()
                .map_or(&[], |options| &options.additional_directories),
        };
        match self.call(keeper, &attach).await {
            Ok(_) => {}
            Err(error) => {
                return debug!(session = %self.id(), %error, "the keeper link could not be attached");
            }
        }
        if !self.lock().kept_by(keeper) {
            // It was closed meanwhile, and would stay loaded.
            let _ = self.call(keeper, &Detach { session_id }).await;
        }
    }

    /// Has the keeper link leave the session too.
    pub(in crate::session) async fn let_go(&self) {
        let kept = self.lock().kept.take();
        if let Some(keeper) = self.backend().keeper().filter(|keeper| Some(keeper.id()) == kept)
            && let Err(error) = self.call(&keeper, &Detach { session_id: self.cli_id() }).await
        {
            debug!(session = %self.id(), %error, "the keeper link could not leave");
        }
    }

    /// The keeper link is gone. If the main one is too, the CLI closes the session, and only a turn that waits for an answer it
    /// takes up again. Where the session is just being attached to another link, it may have been in time: whoever runs the
    /// turn finds out.
    pub(in crate::session) fn keeper_lost(&self, keeper: LinkId) {
        let settled = self.loading.try_lock();
        let mut state = self.lock();
        if state.kept != Some(keeper) {
            return;
        }
        state.kept = None;
        let nothing_attached = state.link.is_none() && state.gap.is_some() && settled.is_ok();
        if nothing_attached && !state.asks.outlive_link() {
            state.gap = None;
            if let Some(current) = &mut state.current {
                current.reconnected(false);
            }
            state.hub.link_lost();
            state.conclude();
        }
    }

    /// Tells what happened since the link was lost, now that there is a new one.
    pub(in crate::session) async fn fill_gap(self: &Arc<Self>, link: &Link) {
        let place = {
            let state = self.lock();
            let Some(gap) = &state.gap else { return };
            let event_id = state.cursor().and_then(|cursor| Cursor::event_id(cursor.as_str(), self.id()));
            (gap.since.clone(), event_id.as_deref().map(ReadEventLog::cursor_after))
        };
        // Whatever becomes of this, the gap ends with it: nothing would be heard any more.
        let _ends = EndsGap(self);
        let missed = self.missed_since(link, place).await;
        let mut state = self.lock();
        let Some(gap) = state.gap.take() else { return };
        let missed = missed.unwrap_or_else(|error| {
            warn!(session = %self.id(), %error, "what happened while the link was lost cannot be read");
            if let Some(current) = &mut state.current {
                current.reconnected(false);
            }
            Vec::new()
        });
        debug!(session = %self.id(), missed = missed.len(), held = gap.held.len(), "a gap is filled");
        // That the session was closed, after its last link, is over: it is loaded again.
        let is_over = |event: &Event| matches!(event.payload, Payload::SessionShutdown(_));
        for event in missed.iter().filter(|event| !is_over(event)).chain(&gap.held) {
            // What was read is told on the new link, too.
            if !state.dedup.has_seen(&event.id) {
                self.apply_to(&mut state, event);
            }
        }
    }

    /// Tells what has not been heard of a turn, now that the agent does nothing any more: its end may be on its way still.
    pub(in crate::session) async fn catch_up(self: &Arc<Self>, link: &Link) {
        self.lock().open_gap();
        self.fill_gap(link).await;
    }

    /// What the CLI remembers since a time, from a place in its log on. The log mixes stored events after the place with others
    /// of any time (observed).
    async fn missed_since(
        &self,
        link: &Link,
        (since, place): (String, Option<String>),
    ) -> Result<Vec<Arc<Event>>, Error> {
        let blueprint = self.blueprint();
        let (mut missed, mut cursor) = (Vec::new(), place);
        loop {
            let question = ReadEventLog {
                session_id: self.cli_id(),
                cursor: cursor.as_deref(),
                max: PAGE,
                include_ephemeral: true,
            };
            let page: PersistedEvents = self.call(link, &question).await?;
            if page.is_expired() {
                return Err(Error::CursorExpired);
            }
            let redact = |text: &str| blueprint.settings.redact(text);
            let events = page.events.iter().filter_map(|raw| readable(raw.get(), redact));
            missed.extend(events.filter(|event| event.timestamp >= since).map(Arc::new));
            if !page.has_more {
                return Ok(missed);
            }
            cursor = Some(page.cursor);
        }
    }
}

/// Ends a gap that nobody fills any more: what was told meanwhile is heard.
struct EndsGap<'a>(&'a Arc<Session>);

impl Drop for EndsGap<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        let Some(gap) = state.gap.take() else { return };
        for event in gap.held {
            if !state.dedup.has_seen(&event.id) {
                self.0.apply_to(&mut state, &event);
            }
        }
    }
}

impl State {
    /// The keeper link is attached. False: the session is not loaded any more.
    fn kept_by(&mut self, keeper: &Link) -> bool {
        let loaded = self.link.is_some() || self.gap.is_some();
        if loaded && keeper.loss().is_none() {
            self.kept = Some(keeper.id());
        }
        loaded
    }
}

/// An event of a stored history, without the secrets that a provider may have quoted.
pub(in crate::session) fn readable(raw: &str, redact: impl Fn(&str) -> String) -> Option<Event> {
    let Some(event) = event::parse_stored(raw) else {
        warn!("the CLI has stored an event that makes no sense");
        return None;
    };
    if may_quote_a_secret(&event.kind) { event::parse_stored(&redact(raw)) } else { Some(event) }
}
