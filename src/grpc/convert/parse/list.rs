//! Pages, and what is to be on them.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::Checks;
use crate::{
    grpc::pb,
    session::{From, PageToken, Selection, SessionId, SessionState, hub::Cursor},
};

/// The longest `page_size`.
pub(in crate::grpc) const MAX_PAGE: usize = 1000;

/// The `page_size` of a request that has none.
pub(in crate::grpc) const DEFAULT_PAGE: usize = 50;

impl Checks {
    /// Where a page of a history begins.
    pub(in crate::grpc) fn history_token(&mut self, id: &str, token: &str) -> Option<String> {
        if token.is_empty() {
            return None;
        }
        let decoded = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let cursor = decoded
            .and_then(|text| Some(text.strip_prefix("1 ")?.strip_prefix(id)?.strip_prefix(' ')?.into()));
        if cursor.is_none() {
            let advice =
                "is not a `next_page_token` of this session's history; leave it empty for the first page";
            self.wrong("page_token", advice);
        }
        cursor
    }

    /// From where on a session is watched.
    pub(in crate::grpc) fn from(
        &mut self,
        id: Option<&SessionId>,
        cursor: &str,
        from_beginning: bool,
    ) -> From {
        match (cursor, from_beginning) {
            ("", false) => From::Now,
            ("", true) => From::Beginning,
            (_, true) => {
                self.wrong("from_beginning", "cannot be had together with `cursor`");
                From::Beginning
            }
            (cursor, false) => match id.and_then(|id| Cursor::event_id(cursor, id)) {
                Some(event_id) => From::After(event_id),
                None => {
                    self.wrong(
                        "cursor",
                        "is not a `cursor` of this session; leave it empty to go on from now",
                    );
                    From::Now
                }
            },
        }
    }

    pub(in crate::grpc) fn page_size(&mut self, size: i32) -> usize {
        match usize::try_from(size) {
            Ok(0) => DEFAULT_PAGE,
            Ok(size) => size.min(MAX_PAGE),
            Err(_) => {
                self.wrong("page_size", "must not be negative; 0 is the default");
                DEFAULT_PAGE
            }
        }
    }

    pub(in crate::grpc) fn page_token(&mut self, token: &str) -> Option<PageToken> {
        if token.is_empty() {
            return None;
        }
        let parsed = PageToken::decode(token);
        if parsed.is_none() {
            self.wrong(
                "page_token",
                "is not a `next_page_token` of this server; leave it empty for the first page",
            );
        }
        parsed
    }

    /// Which sessions are to be listed.
    pub(in crate::grpc) fn selection(
        &mut self,
        labels: BTreeMap<String, String>,
        states: Vec<i32>,
    ) -> Selection {
        let states = states.into_iter().enumerate().filter_map(|(n, state)| {
            let known = match pb::SessionState::try_from(state) {
                Ok(pb::SessionState::Idle) => Some(SessionState::Idle),
                Ok(pb::SessionState::Running) => Some(SessionState::Running),
                Ok(pb::SessionState::Waiting) => Some(SessionState::Waiting),
                Ok(pb::SessionState::Unloaded) => Some(SessionState::Unloaded),
                Ok(pb::SessionState::Unspecified) | Err(_) => None,
            };
            if known.is_none() {
                self.wrong(format!("states[{n}]"), "is not a state that a session can be in");
            }
            known
        });
        let states = states.collect();
        Selection { labels: self.labels(labels), states }
    }
}
