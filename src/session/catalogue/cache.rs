//! What the facade remembers of the sessions that the CLI has stored, so that a list of many thousand need not be asked for
//! again with each page. Pure: time and the CLI's answers are handed in.
//!
//! It is a memory of the CLI's answers, and none of it is believed for longer than [`FRESH`]: neither a new title nor new
//! labels change a session's time (observed), and another server on the same CLI may give it some. It knows nothing of
//! tenants: whoever asks sees to whose a session is.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    backend::LinkId,
    copilot::method::Entry,
    session::{
        blueprint::Record,
        summary::{Outline, SessionState},
    },
};

/// How long an answer counts. As long as that a change by another server may go unnoticed.
pub(in crate::session) const FRESH: Duration = Duration::from_secs(3);

/// How long a deletion is remembered, so that a list that was asked for before does not bring the session back: longer than
/// the CLI may take to answer.
const DELETED: Duration = Duration::from_secs(120);

/// How many sessions' notes are kept. At some hundred bytes each, or a few KiB with many labels.
pub(in crate::session) const MAX_NOTES: usize = 20_000;

/// What is remembered.
#[derive(Debug, Default)]
pub(in crate::session) struct Catalogue {
    /// Where the answers come from; those of a lost CLI do not count.
    link: Option<LinkId>,
    listed: Option<Instant>,
    cards: HashMap<Box<str>, Card>,
    deleted: HashMap<Box<str>, Instant>,
    noted: usize,
}

/// What is remembered of a session.
#[derive(Debug)]
pub(in crate::session) struct Card {
    pub(in crate::session) start_time: String,
    pub(in crate::session) modified_time: String,
    face: Option<(Instant, Face)>,
    notes: Option<(Instant, Notes)>,
}

/// What the CLI itself knows of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::session) struct Face {
    pub(in crate::session) client_name: Option<String>,
    pub(in crate::session) title: String,
    pub(in crate::session) working_directory: String,
}

/// What we have stored with a session, as far as lists have to do with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::session) struct Notes {
    pub(in crate::session) labels: BTreeMap<String, String>,
    pub(in crate::session) model: String,
    pub(in crate::session) reasoning_effort: String,
    pub(in crate::session) owner: String,
    pub(in crate::session) profile: String,
}

impl From<Record> for Notes {
    fn from(record: Record) -> Self {
        Self {
            labels: record.labels,
            model: record.model.unwrap_or_default(),
            reasoning_effort: record.reasoning_effort.unwrap_or_default(),
            owner: record.owner,
            profile: record.profile,
        }
    }
}

impl Face {
    fn of(entry: Entry) -> Self {
        Self {
            client_name: entry.client_name,
            title: entry.summary.unwrap_or_default(),
            working_directory: entry.context.and_then(|context| context.cwd).unwrap_or_default(),
        }
    }
}

impl Card {
    pub(in crate::session) fn outline<'a>(&'a self, id: &'a str) -> Outline<'a> {
        let (create_time, update_time) = (&*self.start_time, &*self.modified_time);
        Outline { id, state: SessionState::Unloaded, create_time, update_time }
    }

    /// What is remembered of it, be it fresh or not.
    pub(in crate::session) fn face(&self) -> Option<&Face> {
        self.face.as_ref().map(|(_, face)| face)
    }

    /// The same of its notes.
    pub(in crate::session) fn notes(&self) -> Option<&Notes> {
        self.notes.as_ref().map(|(_, notes)| notes)
    }
}

impl Catalogue {
    /// Whether the list is fresh and of this link. If it is another link's, all is forgotten.
    pub(in crate::session) fn is_fresh(&mut self, link: LinkId, now: Instant) -> bool {
        if self.link != Some(link) {
            *self = Self { link: Some(link), ..Self::default() };
        }
        self.listed.is_some_and(|at| now - at < FRESH)
    }

    /// How many sessions there are.
    pub(in crate::session) fn len(&self) -> usize {
        self.cards.len()
    }

    /// Takes in the list that was asked for at `asked`. `whole`: with all that the CLI knows of each.
    pub(in crate::session) fn take_list(&mut self, asked: Instant, entries: Vec<Entry>, whole: bool) {
        let mut before = std::mem::take(&mut self.cards);
        self.deleted.retain(|_, at| asked.saturating_duration_since(*at) < DELETED);
        for entry in entries {
            if self.deleted.get(entry.session_id.as_str()).is_some_and(|at| *at >= asked) {
                continue;
            }
            let old = before
                .remove(entry.session_id.as_str())
                // A session of the same id that began at another time is another one.
                .filter(|card| card.start_time == entry.start_time);
            let changed = old.as_ref().is_none_or(|card| card.modified_time != entry.modified_time);
            let (face, notes) = old.map_or((None, None), |card| (card.face, card.notes));
            let (id, start_time, modified_time) =
                (entry.session_id.clone(), entry.start_time.clone(), entry.modified_time.clone());
            let face = match whole {
                true => Some((asked, Face::of(entry))),
                // What it was still tells whose it is; its title may have changed.
                false if changed => face.map(|(_, face)| (long_ago(asked), face)),
                false => face,
            };
            self.cards.insert(id.into(), Card { start_time, modified_time, face, notes });
        }
        self.noted = self.cards.values().filter(|card| card.notes.is_some()).count();
        self.listed = Some(asked);
    }

    /// Takes in what the CLI knows of one session; `None`: it is not there.
    pub(in crate::session) fn take_face(&mut self, asked: Instant, cli_id: &str, entry: Option<Entry>) {
        match (entry, self.cards.get_mut(cli_id)) {
            (None, _) => {
                self.cards.remove(cli_id);
            }
            (Some(entry), Some(card)) if card.start_time == entry.start_time => {
                card.modified_time.clone_from(&entry.modified_time);
                card.face = Some((asked, Face::of(entry)));
            }
            // It is another one by now: the next list tells of it.
            (Some(_), _) => {}
        }
    }

    /// Takes in what is stored with these sessions.
    pub(in crate::session) fn take_notes(
        &mut self,
        asked: Instant,
        cli_ids: &[&str],
        mut read: HashMap<String, Record>,
    ) {
        if self.noted + cli_ids.len() > MAX_NOTES {
            self.cards.values_mut().for_each(|card| card.notes = None);
            self.noted = 0;
        }
        for cli_id in cli_ids {
            let Some(card) = self.cards.get_mut(*cli_id) else { continue };
            let notes = read.remove(*cli_id).map(Notes::from).unwrap_or_default();
            self.noted += usize::from(card.notes.is_none());
            card.notes = Some((asked, notes));
        }
    }

    /// The session is deleted.
    pub(in crate::session) fn forget(&mut self, cli_id: &str, now: Instant) {
        self.cards.remove(cli_id);
        self.deleted.insert(cli_id.into(), now);
        // Where nobody lists, nobody else clears this up.
        if self.deleted.len() > MAX_NOTES {
            self.deleted.retain(|_, at| now - *at < DELETED);
        }
    }

    pub(in crate::session) fn card(&self, cli_id: &str) -> Option<&Card> {
        self.cards.get(cli_id)
    }

    /// All sessions.
    pub(in crate::session) fn cards(&self) -> impl Iterator<Item = (&str, &Card)> {
        self.cards.iter().map(|(cli_id, card)| (&**cli_id, card))
    }

    /// Of these sessions, the ones of which is not known what the CLI knows, or not any more.
    pub(in crate::session) fn without_face<'a>(&self, cli_ids: &[&'a str], now: Instant) -> Vec<&'a str> {
        self.stale(cli_ids, |card| card.face.as_ref().map(|(at, _)| *at), now)
    }

    /// Of these sessions, the ones of which is not known what is stored with them, or not any more.
    pub(in crate::session) fn without_notes<'a>(&self, cli_ids: &[&'a str], now: Instant) -> Vec<&'a str> {
        self.stale(cli_ids, |card| card.notes.as_ref().map(|(at, _)| *at), now)
    }

    fn stale<'a>(
        &self,
        cli_ids: &[&'a str],
        read: impl Fn(&Card) -> Option<Instant>,
        now: Instant,
    ) -> Vec<&'a str> {
        let stale = |cli_id: &&&str| {
            self.cards.get(**cli_id).is_some_and(|card| read(card).is_none_or(|at| now - at >= FRESH))
        };
        cli_ids.iter().filter(stale).copied().collect()
    }
}

/// A moment at which nothing that was read is fresh any more.
fn long_ago(now: Instant) -> Instant {
    now.checked_sub(FRESH).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{copilot::Settings, session::blueprint::Blueprint};

    fn entry(id: &str, modified: &str) -> Entry {
        Entry {
            session_id: id.into(),
            start_time: "1".into(),
            modified_time: modified.into(),
            summary: Some(format!("title at {modified}")),
            client_name: Some("copilot-grpc".into()),
            context: None,
            unstored: false,
        }
    }

    fn record(model: &str) -> Record {
        let settings = Settings { model: Some(model.into()), ..Settings::default() };
        Record::of(&Blueprint { settings, ..Blueprint::default() })
    }

    /// A catalogue of these sessions, and when it was made.
    fn catalogue(ids: &[&str]) -> (Catalogue, Instant) {
        let (mut catalogue, now) = (Catalogue::default(), Instant::now());
        catalogue.take_list(now, ids.iter().map(|id| entry(id, "1")).collect(), true);
        (catalogue, now)
    }

    fn ids(catalogue: &Catalogue) -> Vec<&str> {
        let mut ids: Vec<_> = catalogue.cards().map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    #[tokio::test]
    async fn an_answer_counts_for_a_moment_only() {
        let (mut catalogue, now) = catalogue(&["a"]);
        let records = HashMap::from([("a".to_owned(), record("m"))]);
        catalogue.take_notes(now, &["a"], records);
        let soon = now + FRESH - Duration::from_millis(1);
        assert!(catalogue.without_face(&["a"], soon).is_empty());
        assert!(catalogue.without_notes(&["a"], soon).is_empty());
        let late = now + FRESH;
        assert_eq!(catalogue.without_face(&["a"], late), ["a"]);
        assert_eq!(catalogue.without_notes(&["a"], late), ["a"]);
    }

    #[tokio::test]
    async fn a_session_that_changed_is_looked_at_again_and_one_that_did_not_is_not() {
        let (mut catalogue, now) = catalogue(&["a", "b"]);
        catalogue.take_list(now, vec![entry("a", "1"), entry("b", "2")], false);
        assert_eq!(catalogue.without_face(&["a", "b"], now), ["b"]);
        // Whose it is does not change.
        assert!(catalogue.card("b").unwrap().face().unwrap().client_name.is_some());
    }

    #[tokio::test]
    async fn what_is_not_listed_any_more_is_forgotten() {
        let (mut catalogue, now) = catalogue(&["a", "b"]);
        catalogue.take_list(now, vec![entry("b", "1")], false);
        assert_eq!(ids(&catalogue), ["b"]);
        catalogue.take_face(now, "b", None);
        assert_eq!(ids(&catalogue), Vec::<&str>::new());
    }

    #[tokio::test]
    async fn a_session_with_the_id_of_an_earlier_one_is_another() {
        let (mut catalogue, now) = catalogue(&["a"]);
        let records = HashMap::from([("a".to_owned(), record("m"))]);
        catalogue.take_notes(now, &["a"], records);
        let another = Entry { start_time: "2".into(), ..entry("a", "1") };
        catalogue.take_face(now, "a", Some(another.clone()));
        assert_eq!(catalogue.card("a").unwrap().start_time, "1");
        catalogue.take_list(now, vec![another], false);
        let card = catalogue.card("a").unwrap();
        assert_eq!((card.face(), card.notes()), (None, None));
    }

    #[tokio::test]
    async fn a_list_that_was_asked_for_before_a_deletion_does_not_undo_it() {
        let (mut catalogue, now) = catalogue(&["a", "b"]);
        let later = now + Duration::from_secs(1);
        catalogue.forget("a", later);
        assert_eq!(ids(&catalogue), ["b"]);
        catalogue.take_list(now, vec![entry("a", "1"), entry("b", "1")], true);
        assert_eq!(ids(&catalogue), ["b"]);
        // It was made anew.
        catalogue.take_list(later + Duration::from_secs(1), vec![entry("a", "1"), entry("b", "1")], true);
        assert_eq!(ids(&catalogue), ["a", "b"]);
    }

    #[tokio::test]
    async fn notes_are_kept_of_so_many_sessions_only() {
        let names: Vec<_> = (0..=MAX_NOTES).map(|n| format!("s{n}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let (mut catalogue, now) = catalogue(&names);
        for part in names.chunks(1000) {
            catalogue.take_notes(now, part, HashMap::new());
        }
        let noted = catalogue.cards().filter(|(_, card)| card.notes().is_some()).count();
        assert_eq!((noted, catalogue.noted), (1, 1));
    }
}
