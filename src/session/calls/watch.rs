//! A session as a watcher sees it: its history from some place on, and then what happens, with nothing left out and
//! nothing twice.
//!
//! What happens is listened to before the history is read, so that there is no gap between the two; what is in both is
//! dropped from the former. The same is done again when the session was loaded anew, because the CLI tells of its events
//! only those who are attached. Only stored events are in the history: a watcher that comes in the middle of a message gets
//! the message, and those of its deltas that are still to come.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    backend::{self, Link},
    copilot::method::{PersistedEvents, ReadEventLog},
    session::{
        cursor::Cursor,
        error::Error,
        fanout::{Filter, Item, Scope, Subscriber, Update},
        live::{Session, readable},
        summary::Summary,
        turn::{Outcome, Ticket, TurnCause},
    },
};

/// How many events of the history are read at once: as many as the CLI takes.
const PAGE: usize = 1000;

/// The pause before a session that could not be loaded again is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// From where on a session is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// From now on.
    Now,
    /// From its first event on.
    Beginning,
    /// After this event.
    After(String),
}

/// What a watcher gets.
#[derive(Debug)]
pub enum Watched {
    /// An event.
    Update(Update),
    /// A turn has ended.
    TurnEnded(Ticket, Outcome),
    /// The last one: the session was deleted, or cannot be watched any more.
    Ended(Error),
    /// The last one: the reader fell too far behind. It may go on from here.
    Lagged(Option<Cursor>),
}

/// A watcher of a session. Dropping it ends the watching.
#[derive(Debug)]
pub struct Watch {
    session: Arc<Session>,
    /// Cancelled when it is to end because the server does.
    closing: CancellationToken,
    /// Taken when it is dropped.
    subscriber: Option<Subscriber<Outcome>>,
    filter: Filter,
    history: History,
    /// After which stored event to go on, should the session be loaded again.
    after: Option<String>,
    /// How often the session had been made anew by then.
    made_anew: u32,
    /// Where it began, if that is known.
    began: Option<Cursor>,
    /// Whether there may be more of the history, or some of it may come once more.
    catching_up: bool,
}

/// How far the history has been read.
#[derive(Debug, PartialEq, Eq)]
enum History {
    /// All there is of it.
    Complete,
    /// To be read from this cursor of the CLI's on; `None` is the beginning.
    From(Option<String>),
    /// The session has to be loaded again first.
    Unloaded,
}

impl Watch {
    /// Watches a session that is loaded.
    ///
    /// # Cancel safety
    /// Dropping it leaves nothing behind.
    pub(super) async fn open(
        session: Arc<Session>,
        max_watchers: usize,
        closing: CancellationToken,
        link: Arc<Link>,
        from: From,
        filter: Filter,
    ) -> Result<Self, Error> {
        // Those requests that are open come first, and not again with the history. Nothing else comes under the lock.
        let (subscriber, open, cursor, made_anew) = {
            let mut state = session.lock();
            if session.gone().is_cancelled() {
                return Err(session.not_here());
            }
            if state.hub.watchers() >= max_watchers {
                return Err(Error::TooManyWatchers { session: session.id().clone(), limit: max_watchers });
            }
            let mut subscriber = state.subscribe(Scope::Session, filter.clone());
            let mut open = Vec::new();
            while let Some(Item::Update(update)) = subscriber.ready() {
                open.push((update.event.id.clone(), Some(update)));
            }
            (subscriber, open, state.cursor().cloned(), state.made_anew)
        };
        let (began, after, history) = match from {
            From::Now => {
                let after =
                    cursor.as_ref().and_then(|cursor| Cursor::event_id(cursor.as_str(), session.id()));
                (cursor, after, History::Complete)
            }
            From::Beginning => (None, None, History::From(None)),
            From::After(event_id) => {
                let place = ReadEventLog::cursor_after(&event_id);
                (Some(Cursor::after(session.id(), &event_id)), Some(event_id), History::From(Some(place)))
            }
        };
        subscriber.read(open);
        let subscriber = Some(subscriber);
        let catching_up = true;
        let mut watch =
            Self { session, closing, subscriber, filter, history, after, made_anew, began, catching_up };
        // At once, so that a place that is not known any more is refused and not found out later.
        if watch.history != History::Complete {
            watch.read_on(&link).await?;
        }
        Ok(watch)
    }

    /// The next thing to tell.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn next(&mut self) -> Watched {
        loop {
            let Some(subscriber) = &mut self.subscriber else { return self.lagged() };
            if self.catching_up
                && let Some(update) = subscriber.earlier()
            {
                return Watched::Update(update);
            }
            if self.history != History::Complete {
                // What is read for one that is ended is lost.
                if let Some(Item::Lagged(_)) = subscriber.end() {
                    return self.lagged();
                }
                let closing = self.closing.clone();
                let caught_up = tokio::select! {
                    biased;
                    caught_up = self.catch_up() => caught_up,
                    // The CLI may stay away for ever.
                    () = closing.cancelled() => Err(Error::Draining),
                };
                if let Err(error) = caught_up {
                    return Watched::Ended(error);
                }
                continue;
            }
            let item = tokio::select! {
                // What has happened is told first.
                biased;
                item = subscriber.next() => item,
                () = self.closing.cancelled() => return Watched::Ended(Error::Draining),
            };
            match item {
                Item::Update(update) => {
                    if let Some(update) = self.admit(update) {
                        return Watched::Update(update);
                    }
                }
                Item::TurnEnded(ticket, outcome) => return Watched::TurnEnded(ticket, outcome),
                Item::LinkLost => self.history = History::Unloaded,
                Item::Reloaded => self.go_on(),
                Item::Gone => return Watched::Ended(self.session.not_here()),
                Item::Lagged(_) => return self.lagged(),
            }
        }
    }

    /// The session was loaded again: its history is read from where it was left, or if it was made anew, from its beginning.
    fn go_on(&mut self) {
        let made_anew = self.session.lock().made_anew;
        if std::mem::replace(&mut self.made_anew, made_anew) != made_anew {
            self.after = None;
        }
        self.history = History::From(self.after.as_deref().map(ReadEventLog::cursor_after));
    }

    /// It falls too far behind.
    fn lagged(&self) -> Watched {
        Watched::Lagged(self.cursor())
    }

    /// What is listened to, unless it was given from the history.
    fn admit(&mut self, update: Update) -> Option<Update> {
        if self.catching_up
            && let Some(subscriber) = &mut self.subscriber
        {
            if subscriber.comes_again(&update.event.id) {
                return None;
            }
            if !update.event.ephemeral {
                // In order: if this one is not among them, those that follow are not.
                subscriber.forget_what_was_read();
                self.catching_up = false;
            }
        }
        if !update.event.ephemeral {
            self.after =
                update.cursor.as_ref().and_then(|it| Cursor::event_id(it.as_str(), self.session.id()));
        }
        Some(update)
    }

    async fn catch_up(&mut self) -> Result<(), Error> {
        match self.reload().await {
            Ok(Some(link)) => match self.read_on(&link).await {
                // Lost again.
                Err(Error::Backend(error)) if is_passing(&error) => {
                    self.history = History::Unloaded;
                    Ok(())
                }
                read => read,
            },
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Loads the session again, where it must be. `None`: it could not be, for now.
    async fn reload(&mut self) -> Result<Option<Arc<Link>>, Error> {
        match self.session.reach().await {
            Ok(link) => {
                if self.history == History::Unloaded {
                    self.go_on();
                }
                Ok(Some(link))
            }
            Err(TurnCause::Backend(error)) if is_passing(&error) => {
                debug!(session = %self.session.id(), %error, "a session that is watched could not be loaded again");
                sleep(RETRY).await;
                Ok(None)
            }
            Err(cause) => Err(self.session.not_loaded(cause)),
        }
    }

    /// Reads the next page of the history; behind the last one comes what was listened to meanwhile.
    async fn read_on(&mut self, link: &Link) -> Result<(), Error> {
        let History::From(cursor) = &self.history else { return Ok(()) };
        let session_id = self.session.cli_id();
        let question =
            ReadEventLog { session_id, cursor: cursor.as_deref(), max: PAGE, include_ephemeral: false };
        let page: PersistedEvents = self.session.call(link, &question).await?;
        if page.is_expired() {
            return Err(Error::CursorExpired);
        }
        let PersistedEvents { events, cursor, has_more, .. } = page;
        let blueprint = self.session.blueprint();
        let redact = |text: &str| blueprint.settings.redact(text);
        let Some(subscriber) = &mut self.subscriber else { return Ok(()) };
        let mut read = Vec::new();
        for event in events.iter().filter_map(|raw| readable(raw.get(), redact)) {
            if event.ephemeral || subscriber.was_read(&event.id) {
                continue;
            }
            if event.kind != "system.message" {
                self.after = Some(event.id.clone());
            }
            let id = event.id.clone();
            let update = self.filter.wants(&event).then(|| {
                let cursor = self.after.as_deref().map(|id| Cursor::after(self.session.id(), id));
                Update::new(Arc::new(event), cursor)
            });
            read.push((id, update));
        }
        self.catching_up = true;
        subscriber.read(read);
        self.history = if has_more { History::From(Some(cursor)) } else { History::Complete };
        if !has_more {
            subscriber.drop_what_was_read();
        }
        self.session.relieve();
        Ok(())
    }
}

impl Watch {
    /// The place after the last event that was told, if it is known.
    pub fn cursor(&self) -> Option<Cursor> {
        let last = self.subscriber.as_ref().and_then(Subscriber::last);
        last.or_else(|| self.began.clone())
    }

    /// What there is to know of the session.
    pub fn session(&self) -> Summary {
        self.session.summary()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.subscriber.take();
        self.session.left();
    }
}

/// Whether it may go well the next time.
fn is_passing(error: &backend::Error) -> bool {
    match error {
        backend::Error::Unavailable { .. }
        | backend::Error::Lost { .. }
        | backend::Error::Timeout { .. }
        | backend::Error::Overloaded
        | backend::Error::Incompatible { .. } => true,
        backend::Error::Rejected(_) | backend::Error::TooLarge { .. } | backend::Error::Protocol { .. } => {
            false
        }
    }
}
