//! The row of this node: each process of it has the next number, and a lease as long as it lives.

use std::time::Duration;

use tracing::warn;

use super::{
    connection::Connection,
    error::{Error, OpenError},
    record::{Incarnation, Time},
    runner::Engine,
    statement::{Statement, micros},
};

/// For how long a process counts as alive after its last sign of life: three of these may fail.
pub(super) const LEASE: Duration = Duration::from_secs(15);

/// How far this machine's clock may be from the store's before it is told.
const TOLERANCE: Duration = Duration::from_secs(30);

/// Begins the next incarnation of a node.
pub(super) async fn incarnate(connection: &mut Connection, node: &str) -> Result<Incarnation, OpenError> {
    let engine = match connection {
        Connection::Sqlite(_) => Engine::Sqlite,
        Connection::Postgres(_) => Engine::Postgres,
    };
    let statement = engine
        .timed(
            "INSERT INTO nodes (node, incarnation, lease_until, version, start_time) \
             VALUES ($1, 1, {now} + $2, $3, {now}) \
             ON CONFLICT (node) DO UPDATE SET incarnation = nodes.incarnation + 1, lease_until = excluded.lease_until, \
             version = excluded.version, start_time = excluded.start_time RETURNING incarnation, start_time",
        )
        .with(node)
        .with(micros(LEASE))
        .with(env!("CARGO_PKG_VERSION"));
    let rows = connection.rows(&statement).await?;
    let number_and_time = rows.into_iter().next().map(|mut row| Ok::<_, Error>((row.int()?, row.int()?)));
    let Some(Ok((number, now))) = number_and_time else {
        return Err(OpenError::Failed { problem: "it gives this node no number".into() });
    };
    compare_clocks(now);
    Ok(Incarnation { node: node.to_owned(), number })
}

/// Tells of a clock that is not the store's, in microseconds. Leases and retention go by the store's alone.
fn compare_clocks(store: i64) {
    let ahead = Time::now().0.saturating_sub(store) / 1_000_000;
    if ahead.unsigned_abs() > TOLERANCE.as_secs() {
        warn!(
            seconds_ahead = ahead,
            "this machine's clock is not the store's: the times of sessions, and which are old, are wrong by that"
        );
    }
}

/// Renews an incarnation's lease for so many microseconds; writes nothing if the node has a later incarnation. Its row may
/// have been deleted while the store was away.
pub(super) fn lease(engine: Engine, incarnation: &Incarnation, micros: i64) -> Statement {
    engine
        .timed(
            "INSERT INTO nodes (node, incarnation, lease_until, version, start_time) \
             VALUES ($1, $2, {now} + $3, $4, {now}) \
             ON CONFLICT (node) DO UPDATE SET lease_until = excluded.lease_until WHERE nodes.incarnation = $2",
        )
        .with(incarnation.node.as_str())
        .with(incarnation.number)
        .with(micros)
        .with(env!("CARGO_PKG_VERSION"))
}
