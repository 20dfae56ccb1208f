//! Sessions as they are listed, and pages of them. Pure.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::key::SessionId;

/// What is told of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its id.
    pub id: SessionId,
    /// Its model, if it was chosen.
    pub model: String,
    /// What it is doing.
    pub state: SessionState,
    /// Its owner's notes.
    pub labels: BTreeMap<String, String>,
    /// Who it belongs to, in the caller's own terms.
    pub owner: String,
    /// Its title.
    pub title: String,
    /// When it was created; RFC 3339.
    pub create_time: String,
    /// When it last changed; RFC 3339.
    pub update_time: String,
    /// Where it works.
    pub working_directory: String,
}

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// Loaded, and nothing to do.
    Idle,
    /// Busy.
    Running,
    /// Busy, and waiting for an answer of its callers.
    Waiting,
    /// Stored only.
    Unloaded,
}

/// Which sessions are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Those that have all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Those in one of these states; any, if there are none.
    pub states: Vec<SessionState>,
}

impl Selection {
    /// Whether a session is one of them.
    pub fn has(&self, session: &Summary) -> bool {
        let labelled = self.labels.iter().all(|(name, value)| session.labels.get(name) == Some(value));
        labelled && (self.states.is_empty() || self.states.contains(&session.state))
    }
}

/// Where a page starts: after this session. The CLI writes all times in one format, so that they order as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken {
    create_time: String,
    id: String,
}

impl PageToken {
    /// Reads a token; `None` if it is none of ours.
    pub fn decode(token: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let (create_time, id) = text.strip_prefix("1 ")?.split_once(' ')?;
        SessionId::parse(id).ok()?;
        Some(Self { create_time: create_time.into(), id: id.into() })
    }

    /// Writes a token.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("1 {} {}", self.create_time, self.id))
    }
}

/// The page of `sessions` that starts after `after`, newest first, and where the next one starts.
pub fn page(
    mut sessions: Vec<Summary>,
    size: usize,
    after: Option<&PageToken>,
) -> (Vec<Summary>, Option<PageToken>) {
    let newest_first = |a: (&str, &str), b: (&str, &str)| b.cmp(&a);
    let place = |session: &Summary| (session.create_time.clone(), session.id.as_str().to_owned());
    if let Some(PageToken { create_time, id }) = after {
        sessions.retain(|session| {
            newest_first((&session.create_time, session.id.as_str()), (create_time, id)).is_gt()
        });
    }
    sessions.sort_by(|a, b| newest_first((&a.create_time, a.id.as_str()), (&b.create_time, b.id.as_str())));
    let more = sessions.len() > size;
    sessions.truncate(size);
    let next = sessions.last().filter(|_| more).map(place);
    (sessions, next.map(|(create_time, id)| PageToken { create_time, id }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: &str, create_time: &str) -> Summary {
        Summary {
            id: SessionId::parse(id).unwrap(),
            model: String::new(),
            labels: BTreeMap::new(),
            owner: String::new(),
            state: SessionState::Idle,
            title: String::new(),
            create_time: create_time.into(),
            update_time: String::new(),
            working_directory: String::new(),
        }
    }

    fn ids(sessions: &[Summary]) -> Vec<&str> {
        sessions.iter().map(|session| session.id.as_str()).collect()
    }

    #[test]
    fn sessions_are_selected_by_all_labels_and_any_state() {
        let labels =
            |labels: &[(&str, &str)]| labels.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        let session = Summary { labels: labels(&[("team", "blue"), ("env", "test")]), ..session("a", "1") };
        let check = |wanted: &[(&str, &str)], states: &[SessionState], expected| {
            let selection = Selection { labels: labels(wanted), states: states.to_vec() };
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
    fn pages_go_from_the_newest_to_the_oldest() {
        let all = vec![session("a", "2026-01-01"), session("c", "2026-01-03"), session("b", "2026-01-02")];
        let (first, next) = page(all.clone(), 2, None);
        assert_eq!(ids(&first), ["c", "b"]);
        let (second, next) = page(all, 2, next.as_ref());
        assert_eq!((ids(&second), next), (vec!["a"], None));
    }

    #[test]
    fn a_page_is_not_upset_by_sessions_that_come_and_go() {
        let before = vec![session("a", "1"), session("b", "2"), session("c", "2"), session("d", "3")];
        let (first, next) = page(before, 2, None);
        assert_eq!(ids(&first), ["d", "c"]);
        let after = vec![session("a", "1"), session("b", "2"), session("new", "9")];
        let (second, next) = page(after, 2, next.as_ref());
        assert_eq!((ids(&second), next), (vec!["b", "a"], None));
    }

    #[test]
    fn a_token_survives_its_journey_and_others_are_refused() {
        let token = PageToken { create_time: "2026-11-23T14:28:56.393Z".into(), id: "s-1".into() };
        assert_eq!(PageToken::decode(&token.encode()), Some(token));
        for bad in ["", "x", "!!!", "MSA", "MSBh"] {
            assert_eq!(PageToken::decode(bad), None, "{bad:?}");
        }
    }
}
