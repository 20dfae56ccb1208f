//! One connection to the store, to either engine, and what its errors mean.

use std::fmt;

use sqlx::{
    Connection as _, Executor as _, PgConnection, SqliteConnection,
    postgres::{PgConnectOptions, Postgres},
    sqlite::{Sqlite, SqliteConnectOptions},
};

use super::{
    error::Error,
    statement::{Row, Statement},
};

/// Where connections lead to.
#[derive(Clone)]
pub(super) enum Target {
    Sqlite(SqliteConnectOptions),
    Postgres(PgConnectOptions),
}

/// It does not show a password.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite(_) => "Sqlite",
            Self::Postgres(_) => "Postgres",
        })
    }
}

impl Target {
    pub(super) async fn connect(&self) -> Result<Connection, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(options) => Connection::Sqlite(SqliteConnection::connect_with(options).await?),
            Self::Postgres(options) => {
                Connection::Postgres(Box::new(PgConnection::connect_with(options).await?))
            }
        })
    }
}

/// A connection to the store.
#[derive(Debug)]
pub(super) enum Connection {
    Sqlite(SqliteConnection),
    Postgres(Box<PgConnection>),
}

impl Connection {
    /// Runs a statement, and gives its rows.
    pub(super) async fn rows(&mut self, statement: &Statement) -> Result<Vec<Row>, sqlx::Error> {
        match self {
            Self::Sqlite(connection) => {
                let rows = connection.fetch_all(statement.query::<Sqlite>()).await?;
                rows.iter().map(Row::read).collect()
            }
            Self::Postgres(connection) => {
                let rows = connection.fetch_all(statement.query::<Postgres>()).await?;
                rows.iter().map(Row::read).collect()
            }
        }
    }

    /// Runs a statement, and tells how many rows it has written.
    pub(super) async fn execute(&mut self, statement: &Statement) -> Result<u64, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(connection) => {
                connection.execute(statement.query::<Sqlite>()).await?.rows_affected()
            }
            Self::Postgres(connection) => {
                connection.execute(statement.query::<Postgres>()).await?.rows_affected()
            }
        })
    }

    /// Runs a text as it is, without values.
    pub(super) async fn raw(&mut self, text: &'static str) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(connection) => connection.execute(sqlx::raw_sql(text)).await.map(|_| ()),
            Self::Postgres(connection) => connection.execute(sqlx::raw_sql(text)).await.map(|_| ()),
        }
    }

    /// Begins a transaction that writes.
    pub(super) async fn begin(&mut self) -> Result<(), sqlx::Error> {
        let text = match self {
            // One that reads first and then cannot write would have to be done again.
            Self::Sqlite(_) => "BEGIN IMMEDIATE",
            Self::Postgres(_) => "BEGIN",
        };
        self.raw(text).await
    }

    /// Ends it in good order.
    pub(super) async fn close(self) {
        // It is closed in any case; an error says that the other side was first.
        let _ = match self {
            Self::Sqlite(connection) => connection.close().await,
            Self::Postgres(connection) => connection.close().await,
        };
    }
}

/// Why a statement failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The store is away: there is no connection, or it cannot write at all.
    Away(String),
    /// The store could not do this now, such as for a lock that another has.
    Busy(String),
    /// What was to be done fits not, and that is not the store's fault.
    Refused(Error),
}

impl Failure {
    /// As the caller of the store gets it.
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Away(problem) | Self::Busy(problem) => Error::Unavailable { problem },
            Self::Refused(error) => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        use Kind as K;
        let problem = words(&error);
        match Kind::of(&error) {
            K::Broken | K::Denied | K::ReadOnly | K::Full => Self::Away(problem),
            K::Busy => Self::Busy(problem),
            K::Orphan => Self::Refused(Error::Gone),
            K::Damaged | K::Other => Self::Refused(Error::Corrupt { problem }),
        }
    }
}

/// What an error of sqlx is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The connection is lost, or there is none.
    Broken,
    /// It could not be done now.
    Busy,
    /// The user or the database is refused.
    Denied,
    /// Nothing may be written.
    ReadOnly,
    /// The disk is full.
    Full,
    /// The row that this one belongs to is not there.
    Orphan,
    /// The file is damaged, or none of SQLite's.
    Damaged,
    /// Something that should not happen.
    Other,
}

impl Kind {
    pub(super) fn of(error: &sqlx::Error) -> Self {
        let sqlx::Error::Database(error) = error else {
            return match error {
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::WorkerCrashed
                | sqlx::Error::PoolClosed => Self::Broken,
                _ => Self::Other,
            };
        };
        let code = error.code().unwrap_or_default();
        // SQLite's codes are numbers; PostgreSQL's have five signs.
        match code.parse::<i64>() {
            Ok(code) if code_is_sqlite(error.as_ref()) => Self::of_sqlite(code),
            _ => Self::of_postgres(&code),
        }
    }

    /// <https://www.sqlite.org/rescode.html>
    fn of_sqlite(code: i64) -> Self {
        const FOREIGN_KEY: i64 = 787;
        // An extended code has the primary one in its low byte.
        match (code, code & 0xff) {
            (FOREIGN_KEY, _) => Self::Orphan,
            (_, 5 | 6 | 9) => Self::Busy,
            (_, 3 | 8 | 23) => Self::ReadOnly,
            (_, 13) => Self::Full,
            (_, 10 | 14 | 15) => Self::Broken,
            (_, 11 | 26) => Self::Damaged,
            _ => Self::Other,
        }
    }

    /// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
    fn of_postgres(code: &str) -> Self {
        match code {
            "23503" => Self::Orphan,
            "25006" | "42501" => Self::ReadOnly,
            "53100" => Self::Full,
            "3D000" | "3F000" => Self::Denied,
            "55P03" | "57014" => Self::Busy,
            _ => match code.get(..2) {
                Some("28") => Self::Denied,
                Some("40") => Self::Busy,
                Some("08" | "53" | "57" | "58") => Self::Broken,
                // "idle_in_transaction_session_timeout" ends the connection.
                Some("25") => Self::Broken,
                Some("XX") => Self::Damaged,
                _ => Self::Other,
            },
        }
    }
}

fn code_is_sqlite(error: &dyn sqlx::error::DatabaseError) -> bool {
    error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some()
}

/// An error's words, without what may quote a value: a database's own words only, and no more of them than its first line.
pub(super) fn words(error: &sqlx::Error) -> String {
    let words = match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        error => error.to_string(),
    };
    words.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_says_what_to_do() {
        let check = |code, expected| assert_eq!(Kind::of_postgres(code), expected, "{code}");
        check("57P01", Kind::Broken);
        check("57P03", Kind::Broken);
        check("57014", Kind::Busy);
        check("53300", Kind::Broken);
        check("53100", Kind::Full);
        check("40P01", Kind::Busy);
        check("28P01", Kind::Denied);
        check("25006", Kind::ReadOnly);
        check("25P03", Kind::Broken);
        check("22021", Kind::Other);
        check("", Kind::Other);
        let check = |code, expected| assert_eq!(Kind::of_sqlite(code), expected, "{code}");
        check(5, Kind::Busy);
        check(517, Kind::Busy);
        check(13, Kind::Full);
        check(26, Kind::Damaged);
        check(787, Kind::Orphan);
        check(2067, Kind::Other);
    }
}
