//! Parses lists: which sessions or events, in which order, and from which place on.

use std::ops::RangeInclusive;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost_types::Timestamp;

use super::{Checks, non_empty};
use crate::{
    grpc::pb,
    session::{
        Cursor, From, HistoryPlace, Listing, ORDERS, PageToken, Selection, SessionId, SessionState, TurnName,
        TurnPlace,
    },
    store::{Order, Range, Time},
};

/// The longest `page_size`.
pub(in crate::grpc) const MAX_PAGE: usize = 1000;

/// The `page_size` of a request that has none.
pub(in crate::grpc) const DEFAULT_PAGE: usize = 50;

impl Checks {
    /// Parses the token for the place where a page of a history begins.
    pub(in crate::grpc) fn history_token(&mut self, id: &str, token: &str) -> Option<HistoryPlace> {
        if token.is_empty() {
            return None;
        }
        let decoded = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let place = decoded.and_then(|text| {
            let rest = text.strip_prefix("2 ")?.strip_prefix(id)?.strip_prefix(' ')?;
            let (event_id, cursor) = rest.split_once(' ')?;
            Some(HistoryPlace { cursor: cursor.into(), event_id: event_id.into() })
        });
        if place.is_none() {
            let advice =
                "is not a `next_page_token` of this session's history; leave it empty for the first page";
            self.wrong("page_token", advice);
        }
        place
    }

    /// Parses the token for the place where a page of turns begins.
    pub(in crate::grpc) fn turn_token(&mut self, token: &str) -> Option<TurnPlace> {
        if token.is_empty() {
            return None;
        }
        let decoded = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let place = decoded.and_then(|text| {
            let (time, request_id) = text.strip_prefix("1 ")?.split_once(' ')?;
            Some(TurnPlace { create_time: Time(time.parse().ok()?), request_id: request_id.into() })
        });
        if place.is_none() {
            self.wrong(
                "page_token",
                "is not a `next_page_token` of ListTurns; leave it empty for the first page",
            );
        }
        place
    }

    /// Parses what a turn is known by.
    pub(in crate::grpc) fn turn_name(&mut self, request_id: String, message_id: String) -> Option<TurnName> {
        match (request_id.is_empty(), message_id.is_empty()) {
            (false, true) => Some(TurnName::Request(request_id)),
            (true, false) => Some(TurnName::Message(message_id)),
            (true, true) => {
                self.wrong("request_id", "is required, or `message_id`");
                None
            }
            (false, false) => {
                self.wrong("message_id", "cannot be set together with `request_id`");
                None
            }
        }
    }

    /// Parses the place from which on a session is watched.
    pub(in crate::grpc) fn from(
        &mut self,
        id: Option<&SessionId>,
        cursor: &str,
        from_beginning: bool,
    ) -> From {
        match (cursor, from_beginning) {
            ("", true) => From::Beginning,
            (_, true) => {
                self.wrong("from_beginning", "cannot be set together with `cursor`");
                From::Beginning
            }
            (cursor, false) => self.parse_from("cursor", id, cursor),
        }
    }

    /// Parses a cursor in this field, which may be empty.
    pub(in crate::grpc) fn parse_from(&mut self, field: &str, id: Option<&SessionId>, cursor: &str) -> From {
        match cursor {
            "" => From::Now,
            cursor => match id.and_then(|id| Cursor::event_id(cursor, id)) {
                Some(event_id) => From::After(event_id),
                None => {
                    self.wrong(field, "is not a `cursor` of this session; leave it empty to go on from now");
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

    /// Parses which sessions are to be listed, and how.
    pub(in crate::grpc) fn listing(&mut self, request: pb::ListSessionsRequest) -> Listing {
        let size = self.page_size(request.page_size);
        let order = self.order(request.order_by.trim());
        let created = self.range("created", request.created_after, request.created_before);
        let updated = self.range("updated", request.updated_after, request.updated_before);
        let wanted = Selection {
            labels: self.labels(request.labels),
            states: self.states(request.states),
            owner: non_empty(request.owner),
            created,
            updated,
        };
        let after = self.page_token(&request.page_token, &wanted, order);
        Listing { wanted, order, size, after }
    }

    fn page_token(&mut self, token: &str, wanted: &Selection, order: Order) -> Option<PageToken> {
        if token.is_empty() {
            return None;
        }
        let parsed = PageToken::decode(token);
        match &parsed {
            None => self.wrong(
                "page_token",
                "is not a `next_page_token` of this server; leave it empty for the first page",
            ),
            Some(token) if !token.is_of(wanted, order) => self.wrong(
                "page_token",
                "is of a list with other filters or another `order_by`: give the same ones with it, or start without it",
            ),
            Some(_) => {}
        }
        parsed
    }

    fn order(&mut self, name: &str) -> Order {
        if name.is_empty() {
            return Order::default();
        }
        let known = ORDERS.into_iter().find(|(known, _)| *known == name);
        known.map(|(_, order)| order).unwrap_or_else(|| {
            let names = ORDERS.map(|(name, _)| format!("`{name}`")).join(", ");
            self.wrong("order_by", format!("must be one of {names}, or empty"));
            Order::default()
        })
    }

    fn range(&mut self, what: &str, from: Option<Timestamp>, until: Option<Timestamp>) -> Range {
        let mut end = |name: &str, time: Option<Timestamp>| {
            let time = time?;
            let is_time = YEARS_1_TO_9999.contains(&time.seconds) && (0..1_000_000_000).contains(&time.nanos);
            if !is_time {
                self.wrong(format!("{what}_{name}"), "is not a time of the years 1 to 9999");
            }
            // The first microsecond that is not before it: the store has no finer ones.
            is_time.then(|| Time(time.seconds * 1_000_000 + (i64::from(time.nanos) + 999) / 1_000))
        };
        Range { from: end("after", from), until: end("before", until) }
    }

    fn states(&mut self, states: Vec<i32>) -> Vec<SessionState> {
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
        let mut states: Vec<_> = states.collect();
        // Equal selections must be equal here, in whatever order the states come.
        states.sort_unstable();
        states.dedup();
        states
    }
}

/// The times of `google.protobuf.Timestamp`, in seconds since 1970.
const YEARS_1_TO_9999: RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
