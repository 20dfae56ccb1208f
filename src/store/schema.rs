//! The store's tables: made when there are none, changed when they are of an older program, refused when of a newer one.

use std::future;

use futures_util::future::BoxFuture;
use sqlx::migrate::{MigrateError, Migration, MigrationSource, MigrationType, Migrator};

use super::{
    connection::{Connection, Kind, words},
    error::OpenError,
    runner::Engine,
    statement::Statement,
};

/// How migrations call themselves, by which a database of another program is known.
const NAME: &str = "copilot-grpc tables";

const SQLITE: [&str; 1] = [include_str!("migrations/sqlite/0001_tables.sql")];

const POSTGRES: [&str; 1] = [include_str!("migrations/postgres/0001_tables.sql")];

/// Brings the tables to the version that this program knows.
pub(super) async fn migrate(connection: &mut Connection) -> Result<(), OpenError> {
    let texts: &'static [&'static str] = match connection {
        Connection::Sqlite(_) => &SQLITE,
        Connection::Postgres(_) => &POSTGRES,
    };
    let failed = |error: MigrateError| OpenError::Failed { problem: error.to_string() };
    let migrator = Migrator::new(Texts(texts)).await.map_err(failed)?;
    let done = match connection {
        Connection::Sqlite(connection) => migrator.run(connection).await,
        Connection::Postgres(connection) => migrator.run(&mut **connection).await,
    };
    match done {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(found)) if is_ours(connection).await => {
            Err(OpenError::Newer { found, known: texts.len() as i64 })
        }
        Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => Err(unmade(&error)),
        Err(error) => Err(OpenError::Foreign { problem: error.to_string() }),
    }
}

/// Whether it was this program that made the first tables.
async fn is_ours(connection: &mut Connection) -> bool {
    let first = Statement::new("SELECT version FROM _sqlx_migrations WHERE version = 1 AND description = $1");
    connection.rows(&first.with(NAME)).await.is_ok_and(|rows| !rows.is_empty())
}

/// Why the tables could not be made.
fn unmade(error: &sqlx::Error) -> OpenError {
    const TABLE_EXISTS: &str = "42P07";
    let code = error.as_database_error().and_then(|error| error.code());
    let problem = words(error);
    match Kind::of(error) {
        _ if code.as_deref() == Some(TABLE_EXISTS) => OpenError::Foreign { problem },
        kind => OpenError::of(kind, problem),
    }
}

impl OpenError {
    /// What it means for opening that something went wrong.
    pub(super) fn of(kind: Kind, problem: String) -> Self {
        match kind {
            Kind::Broken => Self::Unreachable { problem },
            Kind::Denied => Self::Refused { problem },
            Kind::ReadOnly => Self::ReadOnly { problem },
            Kind::Full => Self::Full { problem },
            Kind::Damaged => Self::Damaged { problem },
            Kind::Busy | Kind::Orphan | Kind::Other => Self::Failed { problem },
        }
    }
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        Self::of(Kind::of(&error), words(&error))
    }
}

/// The texts of the migrations, by version from 1.
#[derive(Debug)]
struct Texts(&'static [&'static str]);

impl MigrationSource<'static> for Texts {
    fn resolve(self) -> BoxFuture<'static, Result<Vec<Migration>, Box<dyn std::error::Error + Send + Sync>>> {
        let migration = |(version, text): (i64, &&'static str)| {
            Migration::new(version, NAME.into(), MigrationType::Simple, (*text).into(), false)
        };
        Box::pin(future::ready(Ok((1..).zip(self.0).map(migration).collect())))
    }
}

impl Engine {
    /// The store's own time in microseconds since the Unix epoch.
    fn clock(self) -> &'static str {
        match self {
            Self::Sqlite => "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
            Self::Postgres => "CAST(extract(epoch from clock_timestamp()) * 1000000 AS bigint)",
        }
    }

    /// A statement in whose text `{now}` stands for the store's own time.
    pub(super) fn timed(self, text: &str) -> Statement {
        Statement::new(text.replace("{now}", self.clock()))
    }
}
