//! What is listed of sessions, in which order, and where pages begin. Pure.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    id::{SessionId, Tenant},
    summary::{SessionState, Summary},
};
use crate::{
    fnv,
    store::{Order, Query, Range, Time},
};

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The sessions on it.
    pub sessions: Vec<Summary>,
    /// Where the next one starts; `None` if it is the last one.
    pub next: Option<PageToken>,
}

/// Which sessions are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Those that have all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Those in one of these states; any, if there are none.
    pub states: Vec<SessionState>,
    /// Those of this owner.
    pub owner: Option<String>,
    /// Those created within this time.
    pub created: Range,
    /// Those that last changed within this time.
    pub updated: Range,
}

impl Selection {
    /// Whether a session is one of them.
    pub(super) fn has(&self, session: &Summary) -> bool {
        let Self { labels, owner, created, updated, .. } = self;
        self.has_state(session.state)
            && labels.iter().all(|(name, value)| session.labels.get(name) == Some(value))
            && owner.as_ref().is_none_or(|owner| *owner == session.owner)
            && is_within(created, session.create_time)
            && is_within(updated, session.update_time)
    }

    /// The same as far as its state tells.
    pub(super) fn has_state(&self, state: SessionState) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    /// Whether one that is not loaded can be one of them.
    pub(super) fn may_be_unloaded(&self) -> bool {
        self.has_state(SessionState::Unloaded)
    }

    /// A number that another selection hardly has: FNV-1a over its fields by their names, which is the same in every build.
    fn fingerprint(&self) -> u64 {
        let Self { labels, states, owner, created, updated } = self;
        let mut text = String::new();
        let mut note = |name: &str, value: &str| text += &format!("{name} {} {value}\n", value.len());
        labels.iter().for_each(|(name, value)| {
            note("label", name);
            note("is", value);
        });
        states.iter().for_each(|state| note("state", state.name()));
        owner.iter().for_each(|owner| note("owner", owner));
        let ends = [
            ("created_from", created.from),
            ("created_until", created.until),
            ("updated_from", updated.from),
            ("updated_until", updated.until),
        ];
        ends.into_iter()
            .for_each(|(name, time)| time.iter().for_each(|time| note(name, &time.0.to_string())));
        fnv::hash(text.as_bytes())
    }
}

fn is_within(range: &Range, time: Time) -> bool {
    range.from.is_none_or(|from| time >= from) && range.until.is_none_or(|until| time < until)
}

/// How many bytes of sessions there are on a page. gRPC's clients take 4 MiB unless they are told otherwise.
const MAX_PAGE_BYTES: usize = 3 * 1024 * 1024;

/// The orders in which sessions are listed, by their names in requests.
pub const ORDERS: [(&str, Order); 4] = [
    ("create_time desc", Order::Newest),
    ("create_time", Order::Oldest),
    ("update_time desc", Order::LatestChange),
    ("update_time", Order::EarliestChange),
];

/// An order in a page token.
fn code(order: Order) -> char {
    match order {
        Order::Newest => 'C',
        Order::Oldest => 'c',
        Order::LatestChange => 'U',
        Order::EarliestChange => 'u',
    }
}

/// Where a page starts: after the session of this time and id, of those that were wanted then, in the order of then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken {
    order: char,
    wanted: u64,
    time: Time,
    id: String,
}

impl PageToken {
    /// Reads a token; `None` if it is none of ours.
    pub fn decode(token: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let mut parts = text.strip_prefix("4 ")?.splitn(4, ' ');
        let order = parts.next()?.parse().ok()?;
        let wanted = u64::from_str_radix(parts.next()?, 16).ok()?;
        let (time, id) = (Time(parts.next()?.parse().ok()?), parts.next()?);
        SessionId::parse(id).ok()?;
        Some(Self { order, wanted, time, id: id.into() })
    }

    /// Writes a token.
    pub fn encode(&self) -> String {
        let Self { order, wanted, time, id } = self;
        URL_SAFE_NO_PAD.encode(format!("4 {order} {wanted:x} {} {id}", time.0))
    }

    /// Whether it comes from a list of these sessions in this order.
    pub fn is_of(&self, wanted: &Selection, order: Order) -> bool {
        self.order == code(order) && self.wanted == wanted.fingerprint()
    }
}

/// What is to be listed.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Which sessions.
    pub wanted: Selection,
    /// In what order.
    pub order: Order,
    /// How many at most.
    pub size: usize,
    /// Where the page starts; at the beginning, if nowhere.
    pub after: Option<PageToken>,
}

impl Listing {
    /// The question to the store for as many as this of its sessions, whatever their states.
    pub(super) fn query(&self, tenant: &Tenant, limit: usize) -> Query {
        let Selection { labels, states: _, owner, created, updated } = self.wanted.clone();
        Query {
            tenant: tenant.as_str().into(),
            labels,
            owner,
            created,
            updated,
            order: self.order,
            after: self.after.as_ref().map(|after| (after.time, after.id.clone())),
            limit,
            ..Query::default()
        }
    }

    /// The page of these sessions, which are all that are wanted, in any order.
    pub(super) fn page_of(&self, mut sessions: Vec<Summary>) -> Page {
        let place = |session: &Summary| (self.time(session), session.id.as_str().to_owned());
        if let Some(PageToken { time, id, .. }) = &self.after {
            let after = (*time, id.clone());
            sessions.retain(|session| {
                if self.is_descending() { place(session) < after } else { place(session) > after }
            });
        }
        sessions.sort_by_cached_key(place);
        if self.is_descending() {
            sessions.reverse();
        }
        self.cut(sessions, false)
    }

    /// The page of the first of these sessions, which are wanted and in order. `more`: there may be others after them.
    pub(super) fn cut(&self, mut sessions: Vec<Summary>, more: bool) -> Page {
        let count = fitting(&sessions).min(self.size);
        let more = more || sessions.len() > count;
        sessions.truncate(count);
        let next = sessions.last().filter(|_| more).map(|last| self.token_after(last));
        Page { sessions, next }
    }

    /// The token of the page that starts after a session.
    pub(super) fn token_after(&self, last: &Summary) -> PageToken {
        let (time, id) = (self.time(last), last.id.as_str().to_owned());
        PageToken { order: code(self.order), wanted: self.wanted.fingerprint(), time, id }
    }

    /// The time of a session that counts in this order.
    fn time(&self, session: &Summary) -> Time {
        match self.order {
            Order::Newest | Order::Oldest => session.create_time,
            Order::LatestChange | Order::EarliestChange => session.update_time,
        }
    }

    fn is_descending(&self) -> bool {
        matches!(self.order, Order::Newest | Order::LatestChange)
    }
}

/// How many of these sessions fit on a page, one at least: with all their labels, a thousand can be too much for a client.
fn fitting(sessions: &[Summary]) -> usize {
    let mut room = MAX_PAGE_BYTES;
    let fits = |session: &Summary| {
        let left = room.checked_sub(session.weight());
        room = left.unwrap_or_default();
        left.is_some()
    };
    sessions.iter().map(fits).take_while(|fits| *fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: &str, time: i64) -> Summary {
        Summary {
            id: SessionId::parse(id).unwrap(),
            model: String::new(),
            reasoning_effort: String::new(),
            labels: BTreeMap::new(),
            owner: String::new(),
            state: SessionState::Idle,
            title: String::new(),
            create_time: Time(time),
            update_time: Time(-time),
            working_directory: String::new(),
            profile: String::new(),
        }
    }

    fn ids(page: &Page) -> Vec<&str> {
        page.sessions.iter().map(|session| session.id.as_str()).collect()
    }

    fn listing(order: Order, size: usize, after: Option<PageToken>) -> Listing {
        Listing { order, size, after, ..Listing::default() }
    }

    #[test]
    fn sessions_are_selected_by_all_that_is_asked_for() {
        let labels =
            |labels: &[(&str, &str)]| labels.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        let session = Summary {
            labels: labels(&[("team", "blue"), ("env", "test")]),
            owner: "ann".into(),
            ..session("a", 5)
        };
        let range = |from: i64, until: i64| Range { from: Some(Time(from)), until: Some(Time(until)) };
        let all = Selection::default;
        let check = |selection: Selection, expected| {
            assert_eq!(selection.has(&session), expected, "{selection:?}");
        };
        check(all(), true);
        check(Selection { labels: labels(&[("team", "blue")]), ..all() }, true);
        check(Selection { labels: labels(&[("team", "blue"), ("env", "live")]), ..all() }, false);
        check(Selection { states: vec![SessionState::Idle, SessionState::Running], ..all() }, true);
        check(Selection { states: vec![SessionState::Unloaded], ..all() }, false);
        check(Selection { owner: Some("ann".into()), ..all() }, true);
        check(Selection { owner: Some("an".into()), ..all() }, false);
        check(Selection { owner: Some(String::new()), ..all() }, false);
        check(Selection { created: range(5, 6), ..all() }, true);
        check(Selection { created: range(4, 5), ..all() }, false);
        check(Selection { updated: range(-5, 0), ..all() }, true);
        check(Selection { updated: range(-4, 0), ..all() }, false);
    }

    #[test]
    fn pages_go_in_the_order_that_was_asked_for_and_hold_every_session_once() {
        let all = vec![session("b", 2), session("a", 1), session("d", 3), session("c", 2)];
        for (name, expected) in [
            ("create_time desc", "dcba"),
            ("create_time", "abcd"),
            ("update_time desc", "acbd"),
            ("update_time", "dbca"),
        ] {
            let (_, order) = ORDERS.into_iter().find(|(known, _)| *known == name).unwrap();
            for size in 1..=5 {
                let (mut found, mut after) = (String::new(), None);
                loop {
                    let page = listing(order, size, after).page_of(all.clone());
                    found.extend(ids(&page));
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
                assert_eq!(found, expected, "{name} by {size}");
            }
        }
    }

    #[test]
    fn a_page_that_is_too_much_for_a_client_ends_earlier_and_the_next_one_goes_on() {
        let large =
            |id: &str, of: usize| Summary { title: "x".repeat(MAX_PAGE_BYTES / 2 * of), ..session(id, 1) };
        let listing = listing(Order::Newest, 10, None);
        let page = listing.cut(vec![large("c", 1), large("b", 1), large("a", 1)], false);
        assert_eq!((ids(&page), page.next.is_some()), (vec!["c"], true));
        let page = listing.cut(vec![large("d", 4), large("c", 1)], false);
        assert_eq!((ids(&page), page.next.is_some()), (vec!["d"], true));
        let page = listing.cut(vec![session("b", 2), session("a", 1)], false);
        assert_eq!((ids(&page), &page.next), (vec!["b", "a"], &None));
        assert_eq!(listing.cut(Vec::new(), false), Page { sessions: Vec::new(), next: None });
    }

    #[test]
    fn a_token_survives_its_journey_and_others_are_refused() {
        let token =
            PageToken { order: 'C', wanted: u64::MAX, time: Time(1_763_909_336_393_000), id: "s-1".into() };
        assert_eq!(PageToken::decode(&token.encode()), Some(token));
        for bad in
            ["", "x", "!!!", "MSA", "MSBh", "MyBDIDAgMSA", "MyBD", "MiBDIDAgMSBzLTE", "NCBDIDAgeCBzLTE"]
        {
            assert_eq!(PageToken::decode(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn each_field_of_a_selection_counts_for_its_token_and_the_number_is_the_same_in_every_build() {
        let label = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let (from, until) =
            (Range { from: Some(Time(1)), until: None }, Range { from: None, until: Some(Time(1)) });
        let all = Selection::default;
        let selections = [
            all(),
            Selection { labels: label("a", "bc"), ..all() },
            Selection { labels: label("ab", "c"), ..all() },
            Selection { states: vec![SessionState::Idle], ..all() },
            Selection { states: vec![SessionState::Unloaded], ..all() },
            Selection { owner: Some("idle".into()), ..all() },
            Selection { owner: Some(String::new()), ..all() },
            Selection { created: from, ..all() },
            Selection { created: until, ..all() },
            Selection { updated: from, ..all() },
            Selection { updated: until, ..all() },
        ];
        let fingerprints: std::collections::BTreeSet<_> =
            selections.iter().map(Selection::fingerprint).collect();
        assert_eq!(fingerprints.len(), selections.len());
        assert_eq!(all().fingerprint(), 0xcbf2_9ce4_8422_2325);
    }

    #[test]
    fn a_token_is_of_the_sessions_and_the_order_that_it_was_made_for() {
        let all = vec![session("a", 1), session("b", 2)];
        let token = listing(Order::Newest, 1, None).page_of(all).next.unwrap();
        let other = Selection { owner: Some("ann".into()), ..Selection::default() };
        assert!(token.is_of(&Selection::default(), Order::Newest));
        assert!(!token.is_of(&Selection::default(), Order::Oldest));
        assert!(!token.is_of(&other, Order::Newest));
    }
}
