//! Sessions as they are listed, and pages of them. Pure.

use std::{cmp::Ordering, collections::BTreeMap};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    backend::BackendId,
    fnv,
    session::{
        id::SessionId,
        summary::{Outline, SessionState, Summary},
    },
};

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The sessions on it.
    pub sessions: Vec<Summary>,
    /// Where the next one starts; `None` if it is the last one.
    pub next: Option<PageToken>,
    /// The names of the CLIs that could not be asked.
    pub unreachable: Vec<String>,
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
    pub created: Span,
    /// Those that last changed within this time.
    pub updated: Span,
}

/// A time; open where it has no end. Both ends are RFC 3339, in UTC.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Span {
    /// From this moment on.
    pub from: Option<String>,
    /// Before this moment.
    pub until: Option<String>,
}

impl Span {
    fn has(&self, time: &str) -> bool {
        self.from.as_deref().is_none_or(|from| moment(time) >= moment(from))
            && self.until.as_deref().is_none_or(|until| moment(time) < moment(until))
    }
}

/// A time without what does not count, so that times of any precision order as text.
fn moment(time: &str) -> &str {
    let time = time.trim_end_matches('Z');
    if time.contains('.') { time.trim_end_matches('0').trim_end_matches('.') } else { time }
}

impl Selection {
    /// Whether a session is one of them.
    pub fn has(&self, session: &Summary) -> bool {
        self.may_have(session.outline()) && self.has_noted(&session.labels, &session.owner)
    }

    /// The same as far as it can be told without the session's labels and owner.
    pub(in crate::session) fn may_have(&self, session: Outline<'_>) -> bool {
        let in_state = self.states.is_empty() || self.states.contains(&session.state);
        in_state && self.created.has(session.create_time) && self.updated.has(session.update_time)
    }

    /// The same as far as a session's labels and owner tell.
    pub(in crate::session) fn has_noted(&self, labels: &BTreeMap<String, String>, owner: &str) -> bool {
        let labelled = self.labels.iter().all(|(name, value)| labels.get(name) == Some(value));
        labelled && self.owner.as_ref().is_none_or(|wanted| wanted == owner)
    }

    /// Whether it takes a session's labels or owner to tell.
    pub(in crate::session) fn needs_notes(&self) -> bool {
        !self.labels.is_empty() || self.owner.is_some()
    }

    /// Whether one that is not loaded can be one of them.
    pub(in crate::session) fn may_be_stored(&self) -> bool {
        self.states.is_empty() || self.states.contains(&SessionState::Unloaded)
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
        let spans = [
            ("owner", owner),
            ("created_from", &created.from),
            ("created_until", &created.until),
            ("updated_from", &updated.from),
            ("updated_until", &updated.until),
        ];
        spans.into_iter().for_each(|(name, value)| value.iter().for_each(|value| note(name, value)));
        fnv::hash(text.as_bytes())
    }
}

/// How many bytes of sessions there are on a page. gRPC's clients take 4 MiB unless they are told otherwise.
const MAX_PAGE_BYTES: usize = 3 * 1024 * 1024;

/// Where a session is in a list: its time that counts, and its id.
pub(in crate::session) type Place<'a> = (&'a str, &'a str);

/// In what order sessions are listed. Those of one time are ordered by their ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// Newest first.
    #[default]
    Newest,
    /// Oldest first.
    Oldest,
    /// What changed last first.
    LatestChange,
    /// What changed last last.
    EarliestChange,
}

impl Order {
    /// All of them, with their names.
    pub const NAMES: [(&str, Self); 4] = [
        ("create_time desc", Self::Newest),
        ("create_time", Self::Oldest),
        ("update_time desc", Self::LatestChange),
        ("update_time", Self::EarliestChange),
    ];

    fn code(self) -> char {
        match self {
            Self::Newest => 'C',
            Self::Oldest => 'c',
            Self::LatestChange => 'U',
            Self::EarliestChange => 'u',
        }
    }

    /// The place of a session.
    pub(in crate::session) fn place(self, session: Outline<'_>) -> Place<'_> {
        match self {
            Self::Newest | Self::Oldest => (session.create_time, session.id),
            Self::LatestChange | Self::EarliestChange => (session.update_time, session.id),
        }
    }

    pub(in crate::session) fn compare(self, a: Place<'_>, b: Place<'_>) -> Ordering {
        match self {
            Self::Newest | Self::LatestChange => b.cmp(&a),
            Self::Oldest | Self::EarliestChange => a.cmp(&b),
        }
    }
}

/// Where a page starts: after this session, of those that were wanted then, in the order of then. The CLI writes all times
/// in one format, so that they order as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken {
    order: char,
    wanted: u64,
    time: String,
    id: String,
}

impl PageToken {
    /// Reads a token; `None` if it is none of ours.
    pub fn decode(token: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let mut parts = text.strip_prefix("3 ")?.splitn(4, ' ');
        let order = parts.next()?.parse().ok()?;
        let wanted = u64::from_str_radix(parts.next()?, 16).ok()?;
        let (time, id) = (parts.next()?, parts.next()?);
        SessionId::parse(id).ok()?;
        Some(Self { order, wanted, time: time.into(), id: id.into() })
    }

    /// Writes a token.
    pub fn encode(&self) -> String {
        let Self { order, wanted, time, id } = self;
        URL_SAFE_NO_PAD.encode(format!("3 {order} {wanted:x} {time} {id}"))
    }

    /// The place of the session that it names.
    pub(in crate::session) fn place(&self) -> Place<'_> {
        (&self.time, &self.id)
    }

    /// Whether it comes from a list of these sessions in this order.
    pub fn is_of(&self, wanted: &Selection, order: Order) -> bool {
        self.order == order.code() && self.wanted == wanted.fingerprint()
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
    /// A page without sessions yet.
    pub(in crate::session) fn page(&self) -> Foremost<'_> {
        // One more than fit on it: whether there is another page.
        self.foremost(self.after.as_ref(), self.size + 1)
    }

    /// The first `limit` after a place, none yet.
    pub(in crate::session) fn foremost<'a>(
        &self,
        after: Option<&'a PageToken>,
        limit: usize,
    ) -> Foremost<'a> {
        Foremost::new(self.order, after, limit)
    }

    /// What is on a page, and where the next one starts.
    pub(in crate::session) fn cut(&self, page: Foremost<'_>) -> (Vec<Listed>, Option<PageToken>) {
        let mut found = page.into_sorted();
        let more = found.len() > self.size;
        found.truncate(self.size);
        let next = found.last().filter(|_| more).map(|last| self.token(&last.session));
        (found, next)
    }

    /// Leaves as many sessions on a page as [`MAX_PAGE_BYTES`] allow, one at least, and says where the next one starts, if some
    /// had to go: with all their labels, a thousand can be too much for a client.
    pub(in crate::session) fn cut_to_bytes(&self, page: &mut Vec<Summary>) -> Option<PageToken> {
        let mut room = MAX_PAGE_BYTES;
        let fits = |session: &Summary| {
            let left = room.checked_sub(session.weight());
            room = left.unwrap_or_default();
            left.is_some()
        };
        let fitting = page.iter().map(fits).take_while(|fits| *fits).count().max(1);
        let last = page.get(fitting - 1).filter(|_| fitting < page.len())?;
        let next = self.token(last);
        page.truncate(fitting);
        Some(next)
    }

    /// The token of the page that starts after a session.
    pub fn token(&self, last: &Summary) -> PageToken {
        let (time, id) = self.order.place(last.outline());
        let wanted = self.wanted.fingerprint();
        PageToken { order: self.order.code(), wanted, time: time.to_owned(), id: id.to_owned() }
    }
}

/// A session on a list.
#[derive(Debug)]
pub(in crate::session) struct Listed {
    pub(in crate::session) session: Summary,
    /// The CLI that has stored it; `None`: this process knows it.
    pub(in crate::session) stored_in: Option<BackendId>,
}

/// The first of many sessions after a place, in a list's order. It takes them in any order, and never holds more than twice as
/// many as are asked for: whoever has many asks for each whether there is room, before anything is made of it.
#[derive(Debug)]
pub(in crate::session) struct Foremost<'a> {
    order: Order,
    after: Option<&'a PageToken>,
    limit: usize,
    /// If it is full, the first `limit` of them are in order, and no other counts that is not before the last of these.
    found: Vec<Listed>,
    is_full: bool,
}

impl<'a> Foremost<'a> {
    pub(in crate::session) fn new(order: Order, after: Option<&'a PageToken>, limit: usize) -> Self {
        Self { order, after, limit, found: Vec::new(), is_full: false }
    }

    /// Whether a session is one of the first, as far as is known yet.
    pub(in crate::session) fn has_room_for(&self, session: Outline<'_>) -> bool {
        self.has_room_at(self.order.place(session))
    }

    /// The same of its place.
    pub(in crate::session) fn has_room_at(&self, place: Place<'_>) -> bool {
        self.after.is_none_or(|after| self.order.compare(place, after.place()).is_gt())
            && self.last().is_none_or(|last| self.order.compare(place, last).is_lt())
    }

    fn last(&self) -> Option<Place<'_>> {
        let last = self.found.get(self.limit.checked_sub(1)?).filter(|_| self.is_full)?;
        Some(self.order.place(last.session.outline()))
    }

    /// Adds one that there is room for.
    pub(in crate::session) fn add(&mut self, listed: Listed) {
        self.found.push(listed);
        // So seldom that to sort them costs each of them little.
        if self.found.len() >= 2 * self.limit {
            self.settle();
        }
    }

    /// Lets those go that are not among the first, so that it is known for which others there is room.
    pub(in crate::session) fn settle(&mut self) {
        let order = self.order;
        self.found.sort_by(|a, b| {
            order.compare(order.place(a.session.outline()), order.place(b.session.outline()))
        });
        self.found.truncate(self.limit);
        self.is_full = self.found.len() == self.limit;
    }

    /// All of them, in order.
    pub(in crate::session) fn into_sorted(mut self) -> Vec<Listed> {
        self.settle();
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: &str, create_time: &str) -> Summary {
        Summary {
            id: SessionId::parse(id).unwrap(),
            model: String::new(),
            reasoning_effort: String::new(),
            labels: BTreeMap::new(),
            owner: String::new(),
            state: SessionState::Idle,
            title: String::new(),
            create_time: create_time.into(),
            update_time: String::new(),
            working_directory: String::new(),
            profile: String::new(),
        }
    }

    fn ids(sessions: &[Summary]) -> Vec<&str> {
        sessions.iter().map(|session| session.id.as_str()).collect()
    }

    fn listing(size: usize, after: Option<PageToken>) -> Listing {
        Listing { size, after, ..Listing::default() }
    }

    /// The page of these sessions, and where the next one starts.
    fn page(listing: &Listing, sessions: &[Summary]) -> (Vec<Summary>, Option<PageToken>) {
        let mut page = listing.page();
        for session in sessions.iter().filter(|session| listing.wanted.has(session)) {
            if page.has_room_for(session.outline()) {
                page.add(Listed { session: session.clone(), stored_in: None });
            }
        }
        let (page, next) = listing.cut(page);
        (page.into_iter().map(|listed| listed.session).collect(), next)
    }

    #[test]
    fn sessions_are_selected_by_all_labels_and_any_state() {
        let labels =
            |labels: &[(&str, &str)]| labels.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        let session = Summary { labels: labels(&[("team", "blue"), ("env", "test")]), ..session("a", "1") };
        let check = |wanted: &[(&str, &str)], states: &[SessionState], expected| {
            let selection =
                Selection { labels: labels(wanted), states: states.to_vec(), ..Selection::default() };
            assert_eq!(selection.has(&session), expected, "{selection:?}");
        };
        check(&[], &[], true);
        check(&[("team", "blue")], &[], true);
        check(&[("team", "blue"), ("env", "live")], &[], false);
        check(&[("owner", "")], &[], false);
        check(&[], &[SessionState::Idle, SessionState::Running], true);
        check(&[("team", "blue")], &[SessionState::Unloaded], false);
    }

    #[test]
    fn sessions_are_selected_by_their_owner_exactly() {
        let session = Summary { owner: "ann".into(), ..session("a", "1") };
        for (owner, expected) in [(None, true), (Some("ann"), true), (Some("an"), false), (Some(""), false)] {
            let selection = Selection { owner: owner.map(str::to_owned), ..Selection::default() };
            assert_eq!(selection.has(&session), expected, "{owner:?}");
        }
    }

    #[test]
    fn a_span_has_its_first_moment_and_not_its_last_whatever_their_precision() {
        let check = |from: &str, until: &str, time: &str, expected| {
            let end = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let span = Span { from: end(from), until: end(until) };
            assert_eq!(span.has(time), expected, "{time} in {span:?}");
        };
        let time = "2026-11-23T17:50:46.070Z";
        check("", "", time, true);
        check(time, "", time, true);
        check("", time, time, false);
        check("2026-11-23T17:50:46.07Z", "", time, true);
        check("2026-11-23T17:50:46.070000001Z", "", time, false);
        check("", "2026-11-23T17:50:46.070000001Z", time, true);
        check("2026-11-23T17:50:46Z", "2026-11-23T17:50:47Z", time, true);
        check("2026-11-23T17:50:47Z", "", time, false);
        check("2026-11-23T17:50:40Z", "", "2026-11-23T17:50:40.000Z", true);
        check("", "2026-11-23T17:50:40Z", "2026-11-23T17:50:40.000Z", false);
    }

    #[test]
    fn pages_go_from_the_newest_to_the_oldest() {
        let all = vec![session("a", "2026-01-01"), session("c", "2026-01-03"), session("b", "2026-01-02")];
        let (first, next) = page(&listing(2, None), &all);
        assert_eq!(ids(&first), ["c", "b"]);
        let (second, next) = page(&listing(2, next), &all);
        assert_eq!((ids(&second), next), (vec!["a"], None));
    }

    #[test]
    fn pages_go_in_the_order_that_was_asked_for() {
        let session =
            |id, created, updated: &str| Summary { update_time: updated.into(), ..session(id, created) };
        let all =
            [session("a", "1", "9"), session("b", "2", "7"), session("c", "2", "8"), session("d", "3", "7")];
        for (name, expected) in [
            ("create_time desc", "dcba"),
            ("create_time", "abcd"),
            ("update_time desc", "acdb"),
            ("update_time", "bdca"),
        ] {
            let (_, order) = Order::NAMES.into_iter().find(|(known, _)| *known == name).unwrap();
            let mut listing = Listing { size: 1, order, ..Listing::default() };
            let mut found = String::new();
            loop {
                let (page, next) = page(&listing, &all);
                found.extend(ids(&page));
                listing.after = next;
                if listing.after.is_none() {
                    break;
                }
            }
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn pages_of_any_size_hold_every_session_once_in_order_however_they_are_found() {
        // All places but the last have two sessions each.
        let mut all: Vec<_> = (0..99).map(|n| session(&format!("s{n}"), &format!("{:02}", n / 2))).collect();
        let mut expected = all.clone();
        expected.sort_by(|a, b| (&b.create_time, &b.id).cmp(&(&a.create_time, &a.id)));
        for (size, step) in [(1, 2), (2, 5), (7, 1), (7, 98), (33, 10), (98, 4), (99, 7), (100, 13)] {
            all.rotate_left(step);
            all.sort_by_key(|session| session.id.as_str().len() * step % 3);
            let (mut found, mut after) = (Vec::new(), None);
            for _ in 0..99_usize.div_ceil(size) {
                let (some, next) = page(&listing(size, after), &all);
                assert!(some.len() == size || next.is_none(), "{size}");
                found.extend(some);
                after = next;
            }
            assert_eq!((ids(&found), after), (ids(&expected), None), "{size}");
        }
    }

    #[test]
    fn a_page_is_not_upset_by_sessions_that_come_and_go() {
        let before = vec![session("a", "1"), session("b", "2"), session("c", "2"), session("d", "3")];
        let (first, next) = page(&listing(2, None), &before);
        assert_eq!(ids(&first), ["d", "c"]);
        let after = vec![session("a", "1"), session("b", "2"), session("new", "9")];
        let (second, next) = page(&listing(2, next), &after);
        assert_eq!((ids(&second), next), (vec!["b", "a"], None));
    }

    #[test]
    fn a_page_that_is_too_much_for_a_client_ends_earlier_and_the_next_one_goes_on() {
        let large = |id: &str| Summary { title: "x".repeat(MAX_PAGE_BYTES / 2), ..session(id, id) };
        let listing = listing(10, None);
        let mut page = vec![large("c"), large("b"), large("a")];
        let next = listing.cut_to_bytes(&mut page).unwrap();
        assert_eq!((ids(&page), next.place()), (vec!["c"], ("c", "c")));
        let mut huge =
            vec![Summary { title: "x".repeat(2 * MAX_PAGE_BYTES), ..session("d", "d") }, large("c")];
        assert!(listing.cut_to_bytes(&mut huge).is_some());
        assert_eq!(ids(&huge), ["d"]);
        let mut small = vec![session("b", "2"), session("a", "1")];
        assert_eq!(listing.cut_to_bytes(&mut small), None);
        assert_eq!((ids(&small), listing.cut_to_bytes(&mut Vec::new())), (vec!["b", "a"], None));
    }

    #[test]
    fn a_token_survives_its_journey_and_others_are_refused() {
        let token = PageToken {
            order: 'C',
            wanted: u64::MAX,
            time: "2026-11-23T14:28:56.393Z".into(),
            id: "s-1".into(),
        };
        assert_eq!(PageToken::decode(&token.encode()), Some(token));
        for bad in ["", "x", "!!!", "MSA", "MSBh", "MyBDIDAgMSA", "MyBD", "MiBDIDAgMSBzLTE"] {
            assert_eq!(PageToken::decode(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn each_field_of_a_selection_counts_for_its_token_and_the_number_is_the_same_in_every_build() {
        let label = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let span = |from: Option<&str>, until: Option<&str>| Span {
            from: from.map(str::to_owned),
            until: until.map(str::to_owned),
        };
        let all = Selection::default;
        let selections = [
            all(),
            Selection { labels: label("a", "bc"), ..all() },
            Selection { labels: label("ab", "c"), ..all() },
            Selection { states: vec![SessionState::Idle], ..all() },
            Selection { states: vec![SessionState::Unloaded], ..all() },
            Selection { owner: Some("idle".into()), ..all() },
            Selection { owner: Some(String::new()), ..all() },
            Selection { created: span(Some("t"), None), ..all() },
            Selection { created: span(None, Some("t")), ..all() },
            Selection { updated: span(Some("t"), None), ..all() },
            Selection { updated: span(None, Some("t")), ..all() },
        ];
        let fingerprints: std::collections::BTreeSet<_> =
            selections.iter().map(Selection::fingerprint).collect();
        assert_eq!(fingerprints.len(), selections.len());
        assert_eq!(all().fingerprint(), 0xcbf2_9ce4_8422_2325);
    }

    #[test]
    fn a_token_is_of_the_sessions_and_the_order_that_it_was_made_for() {
        let all = [session("a", "1"), session("b", "2")];
        let token = page(&listing(1, None), &all).1.unwrap();
        let other = Selection { owner: Some("ann".into()), ..Selection::default() };
        assert!(token.is_of(&Selection::default(), Order::Newest));
        assert!(!token.is_of(&Selection::default(), Order::Oldest));
        assert!(!token.is_of(&other, Order::Newest));
    }
}
