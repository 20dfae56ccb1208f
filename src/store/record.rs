//! What the store holds, as its users see it. Pure.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The end of the year 9999, which is the last that RFC 3339 can write.
const LAST: i64 = 253_402_300_799_999_999;

/// Microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub i64);

impl Time {
    /// This machine's time.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// How long it has been since an earlier time; nothing, if that is yet to come.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0).max(0).unsigned_abs())
    }

    /// The time that was so long before.
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }

    /// The time in UTC by RFC 3339, always with six digits after the second. What it cannot write is written as the nearest
    /// that it can.
    pub fn rfc3339(self) -> String {
        humantime::format_rfc3339_micros(self.into()).to_string()
    }

    /// Reads what [`rfc3339`](Self::rfc3339) writes, with fewer or more digits, too.
    pub fn parse(text: &str) -> Option<Self> {
        humantime::parse_rfc3339(text).ok().map(Self::from)
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        let micros = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        Self(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

impl From<Time> for SystemTime {
    fn from(time: Time) -> Self {
        UNIX_EPOCH + Duration::from_micros(time.0.clamp(0, LAST).unsigned_abs())
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

/// A session's row. It is never used again: a session that is deleted and made anew with its id is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(pub i64);

/// What who owns a session writes with: its row, and the fence that it had when it was taken. A write with another fence is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ownership {
    /// The session's row.
    pub uid: Uid,
    /// Its fence.
    pub fence: i64,
    /// The life of the process's lease in which it was asked for. In another one the session is not the process's any more.
    pub life: u64,
}

/// All that the store knows of a session, apart from its folder and credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its row, and its fence when it was read.
    pub ownership: Ownership,
    /// The process that owns it; `None`: none does, or the store is a file, whose sessions are all its one server's.
    pub node: Option<Incarnation>,
    /// Whose it is.
    pub tenant: String,
    /// Its id, unique in its tenant.
    pub id: String,
    /// All that may change.
    pub facts: Facts,
    /// When it was made.
    pub create_time: Time,
    /// When it last changed, as its users tell.
    pub update_time: Time,
}

/// What a session's record tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Who made it; empty: nobody in particular.
    pub owner: String,
    /// The id by which the CLI knows it, which never changes.
    pub cli_id: String,
    /// The id of the request that has made it, which never changes; empty: it had none.
    pub request: String,
    /// The profile it was made with; empty: none.
    pub profile: String,
    /// Its model; empty: the CLI's default.
    pub model: String,
    /// How much the model thinks; empty: the model's default.
    pub reasoning_effort: String,
    /// Its title; empty: none yet.
    pub title: String,
    /// The folder in which its agent works.
    pub working_directory: String,
    /// What callers find it by.
    pub labels: BTreeMap<String, String>,
    /// Its settings, as JSON; opaque.
    pub settings: String,
    /// Whether it has got a message.
    pub has_message: bool,
    /// Where its folder is newest: a CLI's name; opaque.
    pub home: String,
    /// The disk that this home is on; empty: it is the CLI's own.
    pub home_disk: String,
    /// What it has used, as JSON; opaque.
    pub usage: String,
    /// The stored size of its folder in bytes.
    pub bytes: i64,
}

/// A change of a session: what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// See [`Facts::owner`].
    pub owner: Option<String>,
    /// See [`Facts::profile`].
    pub profile: Option<String>,
    /// See [`Facts::model`].
    pub model: Option<String>,
    /// See [`Facts::reasoning_effort`].
    pub reasoning_effort: Option<String>,
    /// See [`Facts::title`].
    pub title: Option<String>,
    /// See [`Facts::working_directory`].
    pub working_directory: Option<String>,
    /// See [`Facts::labels`]. They replace all that there are.
    pub labels: Option<BTreeMap<String, String>>,
    /// See [`Facts::settings`].
    pub settings: Option<String>,
    /// See [`Facts::has_message`].
    pub has_message: Option<bool>,
    /// See [`Facts::home`].
    pub home: Option<String>,
    /// See [`Facts::home_disk`].
    pub home_disk: Option<String>,
    /// See [`Facts::usage`].
    pub usage: Option<String>,
    /// See [`Facts::bytes`].
    pub bytes: Option<i64>,
    /// See [`SessionRecord::update_time`]. A time before the one that is stored is left out.
    pub update_time: Option<Time>,
}

/// Which sessions of a tenant are listed, and in which order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Whose.
    pub tenant: String,
    /// Only those with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Only those of this owner.
    pub owner: Option<String>,
    /// Only those with this profile.
    pub profile: Option<String>,
    /// Only those that were made in this range.
    pub created: Range,
    /// Only those that changed last in this range.
    pub updated: Range,
    /// Their order.
    pub order: Order,
    /// Only those after this one in the order: its time, by which the order goes, and its id.
    pub after: Option<(Time, String)>,
    /// Only those that a process owns.
    pub is_owned: bool,
    /// How many at most.
    pub limit: usize,
}

/// A range of times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Range {
    /// The first time in it; `None`: it has no beginning.
    pub from: Option<Time>,
    /// The first time after it; `None`: it has no end.
    pub until: Option<Time>,
}

/// An order of sessions. Those of one time are ordered by id, in the same direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// Made last, first.
    #[default]
    Newest,
    /// Made first, first.
    Oldest,
    /// Changed last, first.
    LatestChange,
    /// Longest unchanged, first.
    EarliestChange,
}

/// Where a request id is unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Among the tenant's requests to make sessions.
    Create,
    /// Among the requests of one session.
    Session(Uid),
}

/// What a request is found by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// Whose.
    pub tenant: String,
    /// Where its id is unique.
    pub scope: Scope,
    /// Its id.
    pub id: String,
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestState {
    /// Nothing has been sent to a CLI.
    Accepted,
    /// A CLI may have got it.
    Sent,
    /// It has ended well; it has a result.
    Succeeded,
    /// It has failed; its result says how.
    Failed,
}

impl RequestState {
    /// Whether nothing will come after this state.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// For how long a request is known after its last change.
pub(super) const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// What is known of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRecord {
    /// What tells its content from another's.
    pub fingerprint: i64,
    /// How far it has come.
    pub state: RequestState,
    /// The process that has it.
    pub owner: Incarnation,
    /// Whether that process still lives.
    pub is_alive: bool,
    /// Whether that process is this one.
    pub is_ours: bool,
    /// What came of it, as JSON; opaque.
    pub result: Option<String>,
    /// What the CLI calls its message, if it has ended and there is one.
    pub message_id: Option<String>,
    /// Whether what is to be sent is stored with it.
    pub has_prompt: bool,
    /// When it was made, by the store's clock.
    pub create_time: Time,
    /// When it last changed, by the store's clock.
    pub update_time: Time,
}

/// How a request has ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Which one.
    pub key: RequestKey,
    /// How.
    pub state: RequestState,
    /// What came of it, as JSON; opaque.
    pub result: Option<String>,
    /// What the CLI calls its message, if there is one.
    pub message_id: Option<String>,
}

/// A process of a node: each start has the next number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Incarnation {
    /// The node.
    pub node: String,
    /// Its number, from 1.
    pub number: i64,
}

/// Whether a request was known when it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It was not: it is this process's from now on.
    First,
    /// It was, and this is what is known.
    Known(RequestRecord),
}

/// What is stored of a session's folder, without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderHead {
    /// The number of the last chunk.
    pub seq: i64,
    /// How many chunks there are, from the last snapshot on.
    pub chunks: i64,
    /// Their size in bytes.
    pub bytes: i64,
    /// What is in the folder; opaque.
    pub manifest: Vec<u8>,
}

/// A chunk of a session's folder.
#[derive(Clone, PartialEq, Eq)]
pub struct FolderWrite {
    /// The last chunk's number, which this one follows; `None`: nothing is stored of the folder yet.
    pub after: Option<i64>,
    /// The chunk; opaque.
    pub data: Vec<u8>,
    /// What is in the folder with it; opaque.
    pub manifest: Vec<u8>,
    /// Whether it replaces all chunks before.
    pub is_snapshot: bool,
}

/// It does not show what is in the folder.
impl fmt::Debug for FolderWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FolderWrite")
            .field("after", &self.after)
            .field("bytes", &self.data.len())
            .field("is_snapshot", &self.is_snapshot)
            .finish_non_exhaustive()
    }
}

/// All that is written when a turn has come to rest, together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Settling {
    /// What has changed of the session.
    pub changes: Changes,
    /// How the turn's request has ended.
    pub request: Option<Ended>,
    /// What is new in its folder.
    pub folder: Option<FolderWrite>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_with_microseconds_and_read_again() {
        let check = |micros: i64, text: &str| {
            assert_eq!(Time(micros).rfc3339(), text);
            assert_eq!(Time::parse(text), Some(Time(micros)));
        };
        check(0, "1970-01-01T00:00:00.000000Z");
        check(1_700_000_000_123_456, "2023-11-14T22:13:20.123456Z");
        check(1_700_000_000_000_001, "2023-11-14T22:13:20.000001Z");
        check(LAST, "9999-12-31T23:59:59.999999Z");
        assert_eq!(Time::parse("2023-11-14T22:13:20Z"), Some(Time(1_700_000_000_000_000)));
        assert_eq!(Time::parse("yesterday"), None);
    }

    #[test]
    fn a_time_that_cannot_be_written_is_written_as_the_nearest() {
        assert_eq!(Time(i64::MIN).rfc3339(), Time(0).rfc3339());
        assert_eq!(Time(i64::MAX).rfc3339(), Time(LAST).rfc3339());
    }
}
