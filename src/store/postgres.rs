//! A store in a database of PostgreSQL.

use std::time::Duration;

use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};
use tokio::time::{Instant, sleep, timeout};

use super::{
    connection::{Connection, Target, words},
    error::OpenError,
    neighbours::Node,
    nodes::incarnate,
    runner::{Engine, Runner, late},
    schema,
    statement::Statement,
};
use crate::copilot::{Secret, redact};

/// How long each step of opening may take at least: nobody waits for it as for a call.
const OPENING: Duration = Duration::from_secs(5);

/// How long a server waits for the one before it, which may just be ending.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often it asks.
const PAUSE: Duration = Duration::from_millis(100);

/// How much longer than a call a statement may take, for those with much data.
const MUCH: Duration = Duration::from_secs(60);

/// The advisory lock of a database: shared by those that may be several, exclusive for one that is alone.
pub(super) const LOCK: i64 = 0x0063_7067_7270_6331;

/// The parameters of a URL. sqlx passes over one that it does not know, with its value in the log: a slip in `sslmode` would
/// be a connection without TLS, and one in `password` would show it.
const PARAMETERS: [&str; 11] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "options",
];

fn is_known(parameter: &str) -> bool {
    let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
    PARAMETERS.contains(&name)
}

/// Reads a URL.
pub(super) fn target(
    url: &Secret,
    password: Option<&Secret>,
    time_limit: Duration,
) -> Result<PgConnectOptions, OpenError> {
    let bad =
        |problem: String| OpenError::BadUrl { problem: redact(&problem, [url].into_iter().chain(password)) };
    let text = url.expose();
    if !["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
        return Err(bad("it does not begin with postgres://".into()));
    }
    if let Some((_, parameters)) = text.split_once('?')
        && !parameters.split('&').all(is_known)
    {
        return Err(bad(format!(
            "it has a parameter that is not known. Known are {}",
            PARAMETERS.join(", ")
        )));
    }
    let options: PgConnectOptions = text.parse().map_err(|error: sqlx::Error| bad(words(&error)))?;
    let millis = |time: Duration| time.as_millis().max(1).to_string();
    let options = options
        .application_name("copilot-grpc")
        .options([
            // So that the database gives up, too, what this server has given up.
            ("statement_timeout", millis(time_limit + MUCH)),
            // Before the call is late, so that it is known what it waits for.
            ("lock_timeout", millis(time_limit / 2)),
            ("idle_in_transaction_session_timeout", millis(time_limit + MUCH)),
            // Each statement has one good plan, by an index in order. For a table that has grown since it was last looked at,
            // PostgreSQL would think of others.
            ("plan_cache_mode", "force_generic_plan".into()),
            ("enable_bitmapscan", "off".into()),
            // Else sqlx's log tells at each start that a table is there already.
            ("client_min_messages", "warning".into()),
        ])
        .disable_statement_logging();
    Ok(match password {
        Some(password) => options.password(password.expose()),
        None => options,
    })
}

/// Opens a database.
pub(super) async fn open(
    options: PgConnectOptions,
    node: Node,
    time_limit: Duration,
    alone: bool,
) -> Result<(Runner, Claim), OpenError> {
    let target = Target::Postgres(options);
    let limit = time_limit.max(OPENING);
    let mut claim = Claim { target: target.clone(), time_limit, alone, connection: None };
    let mut connection = in_time(limit, async { Ok(target.connect().await?) }).await?;
    claim.wait(limit).await?;
    in_time(limit, schema::migrate(&mut connection)).await?;
    claim.name(&mut connection, &node, limit).await?;
    let began = Instant::now();
    let incarnation = in_time(limit, incarnate(&mut connection, &node)).await?;
    connection.close().await;
    Ok((Runner::new(target, None, node, incarnation, began, time_limit, None), claim))
}

async fn in_time<T>(
    limit: Duration,
    act: impl Future<Output = Result<T, OpenError>>,
) -> Result<T, OpenError> {
    timeout(limit, act).await.unwrap_or_else(|_| Err(OpenError::Unreachable { problem: late(limit) }))
}

/// This server's right to use the database: a lock that lasts as long as its connection, which is no pool's.
#[derive(Debug)]
pub(super) struct Claim {
    target: Target,
    time_limit: Duration,
    alone: bool,
    connection: Option<Connection>,
}

impl Claim {
    /// Takes the lock, at the latest when a server has ended that is just ending.
    async fn wait(&mut self, limit: Duration) -> Result<(), OpenError> {
        let until = Instant::now() + PATIENCE;
        loop {
            match in_time(limit, async { Ok(self.take().await?) }).await? {
                true => return Ok(()),
                false if Instant::now() >= until => {
                    return Err(OpenError::InUse { problem: self.in_use().into() });
                }
                false => sleep(PAUSE).await,
            }
        }
    }

    /// Takes the node's name, at the latest when the process that has it is dead: its connection is gone, or its lease has run out.
    /// One that renews its lease meanwhile lives.
    async fn name(
        &mut self,
        connection: &mut Connection,
        node: &Node,
        limit: Duration,
    ) -> Result<(), OpenError> {
        let mut first = None;
        loop {
            if in_time(limit, async { Ok(self.take_name(&node.name).await?) }).await? {
                return Ok(());
            }
            let holder = in_time(limit, async { Ok(holder(connection, &node.name).await?) }).await?;
            let Some((until, _)) = holder.filter(|(_, is_alive)| *is_alive) else { return Ok(()) };
            if until > *first.get_or_insert(until) {
                return Err(OpenError::InUse {
                    problem: format!(
                        "a server with the name {:?} uses this store already. Give each a node_name of its own",
                        node.name
                    ),
                });
            }
            sleep(PAUSE).await;
        }
    }

    /// Takes the lock of a name, if nobody has it.
    async fn take_name(&mut self, name: &str) -> Result<bool, sqlx::Error> {
        let Some(connection) = &mut self.connection else { return Ok(false) };
        let take = Statement::new(
            "SELECT CASE WHEN pg_try_advisory_lock(hashtextextended($1, $2)) THEN 1 ELSE 0 END",
        );
        let rows = connection.rows(&take.with(name).with(LOCK)).await?;
        Ok(rows.into_iter().next().and_then(|mut row| row.bool().ok()).unwrap_or_default())
    }

    /// Looks that the lock is still held, and takes it again if its connection was lost. The error says who has it, or why
    /// there is no connection.
    pub(super) async fn hold(&mut self) -> Result<(), String> {
        if let Some(connection) = &mut self.connection {
            let look = Statement::new("SELECT 1");
            if let Ok(Ok(_)) = timeout(self.time_limit, connection.rows(&look)).await {
                return Ok(());
            }
            self.connection = None;
        }
        match timeout(self.time_limit, self.take()).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(self.in_use().into()),
            Ok(Err(error)) => Err(words(&error)),
            Err(_) => Err(late(self.time_limit)),
        }
    }

    /// Lets go of the lock.
    pub(super) async fn release(self) {
        if let Some(connection) = self.connection {
            // A store that does not answer frees it by itself once it sees the connection's end.
            let _ = timeout(self.time_limit, connection.close()).await;
        }
    }

    async fn take(&mut self) -> Result<bool, sqlx::Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.target.connect().await?,
        };
        let text = match self.alone {
            true => "SELECT CASE WHEN pg_try_advisory_lock($1) THEN 1 ELSE 0 END",
            false => "SELECT CASE WHEN pg_try_advisory_lock_shared($1) THEN 1 ELSE 0 END",
        };
        let rows = connection.rows(&Statement::new(text).with(LOCK)).await?;
        let taken = rows.into_iter().next().and_then(|mut row| row.bool().ok()).unwrap_or_default();
        self.connection = taken.then_some(connection);
        Ok(taken)
    }

    fn in_use(&self) -> &'static str {
        if self.alone {
            "another copilot-grpc uses this store, and this one has CLIs' homes on its own disk, which no other can read. \
             Give it a database of its own"
        } else {
            "another copilot-grpc, with CLIs' homes on its own disk, uses this store alone. Give this one a database of its \
             own"
        }
    }
}

/// Until when the lease of the process lasts that has a name, and whether it is over.
async fn holder(connection: &mut Connection, name: &str) -> Result<Option<(i64, bool)>, sqlx::Error> {
    let look = Engine::Postgres.timed(
        "SELECT lease_until, CASE WHEN lease_until > {now} THEN 1 ELSE 0 END FROM nodes WHERE node = $1",
    );
    let rows = connection.rows(&look.with(name)).await?;
    let row = rows.into_iter().next();
    Ok(row.and_then(|mut row| Some((row.int().ok()?, row.bool().ok()?))))
}
