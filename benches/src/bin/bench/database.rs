//! A PostgreSQL of the bench's own, which writes to its disk as one in use does, and what it costs.

use std::{fs, path::PathBuf};

use copilot_grpc_bench::proc;
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};
use test_postgres::{Options, Postgres};
use tokio::task::spawn_blocking;

use crate::Result;

/// A PostgreSQL that runs for as long as this.
pub(crate) struct Database {
    server: Postgres,
    /// Its first process, whose children are all the others.
    pid: u32,
    log: PathBuf,
}

impl Database {
    pub(crate) async fn start() -> Result<Self> {
        let server = spawn_blocking(|| Postgres::start(Options::Durable)).await?;
        let mut sql = Sql::connect(&server.url("postgres", "postgres")).await?;
        let [child] = sql.numbers("SELECT pg_backend_pid()::bigint").await?;
        let data: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&mut sql.0).await?;
        // Where test-postgres has it.
        let log = PathBuf::from(data).with_file_name("log");
        Ok(Self { pid: proc::parent(u32::try_from(child)?)?, log, server })
    }

    /// The URL of an empty database.
    pub(crate) async fn fresh(&self) -> String {
        self.server.database().await
    }

    /// A connection to a database that no server uses.
    pub(crate) async fn sql(&self) -> Result<Sql> {
        Sql::connect(&self.server.url("postgres", "postgres")).await
    }

    /// Counts from now on what is asked on new connections to this database.
    pub(crate) async fn count_statements(&self, url: &str) -> Result<()> {
        let name = name(url);
        self.sql().await?.run(&format!("ALTER DATABASE {name} SET log_statement = 'all'")).await
    }

    /// How many statements have been counted so far.
    pub(crate) fn statements(&self) -> Result<usize> {
        let log = fs::read_to_string(&self.log)?;
        let is_one = |line: &&str| line.contains("LOG:  execute ") || line.contains("LOG:  statement: ");
        Ok(log.lines().filter(is_one).count())
    }

    /// The processes that serve a database, one for each connection to it.
    pub(crate) async fn servers_of(&self, sql: &mut Sql, url: &str) -> Result<Vec<u32>> {
        let all = format!("SELECT pid FROM pg_stat_activity WHERE datname = '{}'", name(url));
        let all: Vec<i32> = sqlx::query_scalar(&all).fetch_all(&mut sql.0).await?;
        Ok(all.into_iter().map(i32::cast_unsigned).collect())
    }

    /// The CPU time that all its processes have used so far, in microseconds.
    pub(crate) fn cpu(&self) -> Result<u64> {
        // One that ends meanwhile is counted with those that have ended.
        let running = proc::children(self.pid)?.into_iter().filter_map(|child| proc::cpu(child).ok());
        Ok(running.sum::<u64>() + proc::cpu(self.pid)? + proc::cpu_of_ended(self.pid)?)
    }
}

/// A connection for looking at what the servers do, and not for what they do themselves.
pub(crate) struct Sql(PgConnection);

impl Sql {
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        Ok(Self(PgConnection::connect(url).await?))
    }

    /// The row that a statement gives, all of numbers.
    pub(crate) async fn numbers<const N: usize>(&mut self, statement: &str) -> Result<[i64; N]> {
        let row = sqlx::query(statement).fetch_one(&mut self.0).await?;
        let mut numbers = [0; N];
        for (column, number) in numbers.iter_mut().enumerate() {
            *number = row.try_get(column)?;
        }
        Ok(numbers)
    }

    /// How many bytes of WAL have been written so far.
    pub(crate) async fn wal(&mut self) -> Result<i64> {
        let [wal] = self.numbers("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint").await?;
        Ok(wal)
    }

    pub(crate) async fn run(&mut self, statement: &str) -> Result<()> {
        self.0.execute(sqlx::raw_sql(statement)).await?;
        Ok(())
    }
}

/// The name of a URL's database.
fn name(url: &str) -> &str {
    let path = url.split('?').next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default()
}
