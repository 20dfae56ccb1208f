//! Stored conversations, read in pages without loading their sessions.
//!
//! The CLI forgets where a page ended: when it restarts, once it has been asked for the next page, and after a dozen other
//! reads (observed on 1.0.102). So a place is the CLI's own mark and the last event before it, by which it is found again.

use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::debug;

use crate::{
    backend::{self, Link},
    copilot::{
        Event, Rejection, Settings,
        method::{PersistedEvents, ReadPersistedEvents},
    },
    session::{error::Error, id::SessionKey, live::readable, sessions::Sessions},
};

/// How many events are read at once where a place is looked for.
const STRIDE: usize = 1000;

/// A place in a session's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPlace {
    /// The CLI's mark.
    pub cursor: String,
    /// The last event before it.
    pub event_id: String,
}

impl Sessions {
    /// A page of a session's stored history, oldest first, each event with the place after it, and where the next page begins;
    /// without loading the session.
    pub async fn history(
        &self,
        key: &SessionKey,
        after: Option<&HistoryPlace>,
        max: usize,
    ) -> Result<(Vec<(Event, HistoryPlace)>, Option<HistoryPlace>), Error> {
        let reading = self.readable(key).await?;
        let link = reading.session.link_to_read().await?;
        let history = History { link: &link, session_id: reading.session.cli_id() };
        let page = match history.page(after, max).await {
            // Before the first message there is no history.
            Err(Error::Backend(backend::Error::Rejected(Rejection::SessionNotFound))) => {
                return Ok((Vec::new(), None));
            }
            page => page?,
        };
        let settings = match reading.is_known {
            true => reading.session.blueprint().settings.clone(),
            false => Settings { provider: self.inner.operator.clone(), ..Settings::default() },
        };
        let redact = |text: &str| self.inner.profiles.redact(&settings.redact(text));
        let events = page.events.iter().filter_map(|raw| readable(raw.get(), redact));
        // The CLI marks only the end of a page; from elsewhere on a place is found by its event.
        let with_place = |event: Event| {
            let place = HistoryPlace { cursor: NO_MARK.into(), event_id: event.id.clone() };
            (event, place)
        };
        let events = events.map(with_place).collect();
        let last = page.events.last().and_then(|raw| event_id(raw));
        let event_id = last.or_else(|| after.map(|place| place.event_id.clone())).unwrap_or_default();
        Ok((events, page.has_more.then_some(HistoryPlace { cursor: page.cursor, event_id })))
    }
}

/// The stored history of one session.
struct History<'a> {
    link: &'a Link,
    session_id: &'a str,
}

impl History<'_> {
    /// The page after a place.
    async fn page(&self, after: Option<&HistoryPlace>, max: usize) -> Result<PersistedEvents, Error> {
        if let Some(place) = after.filter(|place| place.cursor == NO_MARK) {
            return self.page_after(&place.event_id, max).await;
        }
        let page = self.read(after.map(|place| place.cursor.as_str()), max).await?;
        match after {
            Some(place) if page.is_expired() => {
                debug!(session = self.session_id, "the CLI has forgotten a place in a history");
                self.page_after(&place.event_id, max).await
            }
            _ => Ok(page),
        }
    }

    /// The page after an event, which is looked for from the beginning on.
    async fn page_after(&self, event_id: &str, max: usize) -> Result<PersistedEvents, Error> {
        let (mut before, mut cursor) = (0, None);
        let (mut page, at) = loop {
            let page = self.read(cursor.as_deref(), STRIDE).await?;
            let found = page.events.iter().position(|raw| self::event_id(raw).as_deref() == Some(event_id));
            match found {
                Some(at) => break (page, at),
                None if page.has_more => {
                    before += page.events.len();
                    cursor = Some(page.cursor);
                }
                None => return Err(Error::CursorExpired),
            }
        };
        let rest = page.events.len() - at - 1;
        if rest == 0 && page.has_more {
            self.read(Some(&page.cursor), max).await
        } else if rest <= max {
            page.events.drain(..=at);
            Ok(page)
        } else {
            self.page_at(before + at + 1, event_id, max).await
        }
    }

    /// The page after so many events. The CLI marks only the end of a page, and each mark serves once: so one has to be made
    /// to end there.
    async fn page_at(&self, count: usize, event_id: &str, max: usize) -> Result<PersistedEvents, Error> {
        let (mut left, mut cursor, mut last) = (count, None::<String>, None);
        while left > 0 {
            let page = self.read(cursor.as_deref(), left.min(STRIDE)).await?;
            if page.events.is_empty() {
                return Err(Error::CursorExpired);
            }
            left = left.saturating_sub(page.events.len());
            last = page.events.last().and_then(|raw| self::event_id(raw));
            cursor = Some(page.cursor);
        }
        // Meanwhile it may have been cut back, and written anew.
        if last.as_deref() != Some(event_id) {
            return Err(Error::CursorExpired);
        }
        self.read(cursor.as_deref(), max).await
    }

    async fn read(&self, cursor: Option<&str>, max: usize) -> Result<PersistedEvents, Error> {
        let question = ReadPersistedEvents { session_id: self.session_id, cursor, max };
        Ok(self.link.call(&question).await?)
    }
}

/// In place of the CLI's mark, where there is none.
const NO_MARK: &str = "-";

fn event_id(raw: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Id {
        id: String,
    }
    serde_json::from_str::<Id>(raw.get()).ok().map(|event| event.id)
}
