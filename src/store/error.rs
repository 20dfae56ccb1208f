//! Why a call of the store has no result, and why a store does not open.

/// Why a call of the store has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store is away, or did not answer in time. A write may have been done.
    #[error("the store is not available: {problem}")]
    Unavailable {
        /// Why.
        problem: String,
    },
    /// There is a session with this id.
    #[error("a session with this id exists")]
    Exists,
    /// The session or request is not there any more.
    #[error("the store has it no more")]
    Gone,
    /// The session has changed hands: this process does not own it any more.
    #[error("the session is not this server's any more")]
    Fenced,
    /// Another process has written what this one was about to.
    #[error("another process has written to it")]
    Conflict,
    /// What is stored, or what was asked, makes no sense to the other side. To try again does not help.
    #[error("the store has a fault: {problem}")]
    Corrupt {
        /// What is wrong.
        problem: String,
    },
}

impl Error {
    /// There was no answer in the time that a caller has.
    pub(crate) fn late() -> Self {
        Self::Unavailable { problem: "it does not answer in time".into() }
    }
}

/// Why a store does not open: what is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The URL is none.
    #[error(
        "the store's URL is wrong: {problem}. It has the form postgres://user@host:5432/database?sslmode=require"
    )]
    BadUrl {
        /// What is wrong.
        problem: String,
    },
    /// There is no connection, or no answer in time.
    #[error(
        "the store cannot be reached: {problem}. Is it running, and do its URL's host, port and sslmode fit?"
    )]
    Unreachable {
        /// Why.
        problem: String,
    },
    /// The database refuses the user.
    #[error(
        "the store refuses the connection: {problem}. Do its URL's user and database, and the password, fit?"
    )]
    Refused {
        /// Its words.
        problem: String,
    },
    /// It may not be written to.
    #[error(
        "the store cannot be written to: {problem}. It needs a database, a file and a folder to which this server may write"
    )]
    ReadOnly {
        /// Why.
        problem: String,
    },
    /// Its tables are of a newer version of the program.
    #[error(
        "the store's tables have version {found}, and this server knows up to {known}: it was used by a newer server, run that one"
    )]
    Newer {
        /// The version of the tables.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// It holds something else.
    #[error("the store is not one of copilot-grpc: {problem}. Give it a database of its own")]
    Foreign {
        /// What is wrong.
        problem: String,
    },
    /// It is damaged. Nothing was written to it.
    #[error(
        "the store is damaged: {problem}. Nothing was written to it; put back a backup, or move it aside to begin anew"
    )]
    Damaged {
        /// What is wrong.
        problem: String,
    },
    /// Another server uses it.
    #[error("{problem}")]
    InUse {
        /// Who uses what, and what to do.
        problem: String,
    },
    /// Its disk is full.
    #[error("the store's disk is full: {problem}")]
    Full {
        /// The store's words.
        problem: String,
    },
    /// It cannot be opened for another reason.
    #[error("the store does not open: {problem}")]
    Failed {
        /// Why.
        problem: String,
    },
}
