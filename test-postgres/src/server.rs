//! A server, from its start to its end.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
    process::{ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use sqlx::{Connection as _, Executor as _, PgConnection, postgres::PgConnectOptions};

use crate::install;

/// A user who needs a password, which is [`PASSWORD`]; `postgres`, who needs none, owns all.
///
/// [`PASSWORD`]: Postgres::PASSWORD
pub const GUARDED: &str = "guarded";

/// Who runs the server if this process is root's, which PostgreSQL refuses: nobody.
const NOBODY: u32 = 65_534;

/// How a server runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Options {
    /// Fast, and without the writes to the disk by which data would outlast the machine's crash.
    #[default]
    Fast,
    /// As in use, for measurements.
    Durable,
}

/// A server. It ends when this is dropped.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    /// The shell that keeps it: its input, whose end ends all, and its answers.
    keeper: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    databases: AtomicU64,
}

/// The server that all tests of this process share. Nobody may stop it.
pub fn shared() -> &'static Postgres {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    SHARED.get_or_init(|| Postgres::start(Options::Fast))
}

impl Postgres {
    /// The password of [`GUARDED`].
    pub const PASSWORD: &'static str = "open-sesame-0123";

    /// Starts a server, which takes a second or two.
    pub fn start(options: Options) -> Self {
        let programs = install::programs();
        let folder =
            tempfile::Builder::new().prefix("postgres-").tempdir().expect("a folder can be made").keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("it is ours");
        // Bound for a moment to learn of a port that is free.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = port.expect("there is a free port").port();
        let mut keeper = Command::new("sh");
        keeper.args(["-c", include_str!("keeper.sh"), "keeper.sh"]).arg(programs).arg(&folder);
        keeper.args(["-p", &port.to_string()]);
        let settings = [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=200",
            "shared_buffers=64MB",
            "dynamic_shared_memory_type=mmap",
        ];
        let fast = ["fsync=off", "full_page_writes=off"];
        let fast = fast.into_iter().filter(|_| options == Options::Fast);
        for setting in settings.into_iter().chain(fast) {
            keeper.args(["-c", setting]);
        }
        if rustix::process::geteuid().is_root() {
            chown(&folder, Some(NOBODY), Some(NOBODY)).expect("root may give a folder away");
            keeper.uid(NOBODY).gid(NOBODY);
        }
        // In a group of its own it outlives a Ctrl-C, by which it could not clean up.
        keeper.current_dir("/").process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        #[expect(clippy::zombie_processes, reason = "it ends with this process, or right after it")]
        let mut keeper = keeper.spawn().expect("there is a shell");
        let (input, output) = (keeper.stdin.take(), keeper.stdout.take());
        let (input, output) = (input.expect("it is piped"), output.expect("it is piped"));
        let server =
            Self { port, keeper: Mutex::new((input, BufReader::new(output))), databases: AtomicU64::new(0) };
        server.answered(&folder);
        server
    }

    /// The URL of a new and empty database.
    pub async fn database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.run("postgres", &format!("CREATE DATABASE {name}")).await;
        self.url("postgres", &name)
    }

    /// The URL of a new and empty database whose clock is fast by so many hours.
    pub async fn fast_database(&self, hours: i8) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.run("postgres", &format!("CREATE DATABASE {name}")).await;
        let clock = format!(
            "CREATE SCHEMA fast; \
             CREATE FUNCTION fast.clock_timestamp() RETURNS timestamptz LANGUAGE sql \
             AS 'SELECT pg_catalog.clock_timestamp() + interval ''{hours} hours'''; \
             ALTER DATABASE {name} SET search_path = fast, pg_catalog"
        );
        self.run(&name, &clock).await;
        self.url("postgres", &name)
    }

    /// The URL of a new and empty database that belongs to [`GUARDED`], without the password.
    pub async fn guarded_database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let role = format!(
            "DO $$ BEGIN CREATE ROLE {GUARDED} LOGIN PASSWORD '{}'; EXCEPTION WHEN duplicate_object OR unique_violation THEN \
             NULL; END $$",
            Self::PASSWORD
        );
        self.run("postgres", &role).await;
        self.run("postgres", &format!("CREATE DATABASE {name} OWNER {GUARDED}")).await;
        self.url(GUARDED, &name)
    }

    /// The URL of a database.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// The port that it listens on, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs SQL in a database, as its owner.
    pub async fn run(&self, database: &str, sql: &str) {
        let options: PgConnectOptions = self.url("postgres", database).parse().expect("it is a URL");
        let mut connection = PgConnection::connect_with(&options).await.expect("it takes connections");
        connection.execute(sqlx::raw_sql(sql)).await.expect(sql);
        connection.close().await.expect("it closes");
    }

    /// Stops the server as a crash does.
    pub fn stop(&self) {
        self.command("stop");
    }

    /// Starts it again, with its data and port.
    pub fn start_again(&self) {
        self.command("start");
    }

    /// Lets it answer nobody, with all connections open.
    pub fn pause(&self) {
        self.command("pause");
    }

    /// Lets it answer again.
    pub fn resume(&self) {
        self.command("resume");
    }

    fn command(&self, command: &str) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(keeper.0, "{command}").expect("its keeper runs");
        drop(keeper);
        self.answered(Path::new(command));
    }

    fn answered(&self, what: &Path) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answer = String::new();
        keeper.1.read_line(&mut answer).expect("its keeper answers");
        assert_eq!(answer, "done\n", "PostgreSQL has failed: {}", what.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_keeps_its_data_when_it_is_stopped_and_started() {
        let server = Postgres::start(Options::Fast);
        server.run("postgres", "CREATE TABLE kept (it bigint)").await;
        server.stop();
        server.start_again();
        server.run("postgres", "INSERT INTO kept VALUES (1)").await;
        let url = server.database().await;
        assert_ne!(url, server.database().await);
    }
}
