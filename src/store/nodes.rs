//! The rows of nodes: each process of a node has the next number, a lease as long as it lives, and tells the others what it has to do.

use std::time::Duration;

use tracing::warn;

use super::{
    connection::Connection,
    error::{Error, OpenError},
    neighbours::{Load, Node, NodeRecord, Role},
    record::{Incarnation, Time},
    runner::Engine,
    statement::{Row, Statement, micros},
};

/// How far this machine's clock may be from the store's before it is told.
const TOLERANCE: Duration = Duration::from_secs(30);

/// For how long a node is told of after its lease has run out.
const TOLD: Duration = Duration::from_secs(60 * 60);

/// The columns of a record, of the table `n`, in the order in which [`record`] reads them; `{now}` is yet to be filled in.
pub(super) const COLUMNS: &str = "n.node, n.incarnation, n.address, n.version, n.role, n.sessions, n.turns, n.room, \
     n.lease_until - {now}, n.start_time";

/// The nodes that live, or have lately.
pub(super) fn known(engine: Engine) -> Statement {
    let select = format!(
        "SELECT {COLUMNS} FROM nodes n WHERE n.role < $1 AND n.lease_until > {{now}} - $2 ORDER BY n.node"
    );
    engine.timed(&select).with(role_number(Role::Command)).with(micros(TOLD))
}

/// Reads a row of [`COLUMNS`].
pub(super) fn record(mut row: Row) -> Result<NodeRecord, Error> {
    let name = row.text()?;
    rest(name, row)
}

/// Reads a row of [`COLUMNS`] that may have no node in it.
pub(super) fn maybe_record(mut row: Row) -> Result<Option<NodeRecord>, Error> {
    match row.maybe_text()? {
        Some(name) => rest(name, row).map(Some),
        None => Ok(None),
    }
}

fn rest(node: String, mut row: Row) -> Result<NodeRecord, Error> {
    let count = |number: i64| u32::try_from(number).unwrap_or_default();
    Ok(NodeRecord {
        incarnation: Incarnation { node, number: row.int()? },
        address: row.text()?,
        version: row.text()?,
        load: Load {
            role: match row.int()? {
                0 => Role::Serving,
                1 => Role::Draining,
                _ => Role::Command,
            },
            sessions: count(row.int()?),
            turns: count(row.int()?),
            room: count(row.int()?),
        },
        lease: Duration::from_micros(u64::try_from(row.int()?).unwrap_or_default()),
        start_time: Time(row.int()?),
    })
}

/// Begins the next incarnation of a node.
pub(super) async fn incarnate(connection: &mut Connection, node: &Node) -> Result<Incarnation, OpenError> {
    let engine = match connection {
        Connection::Sqlite(_) => Engine::Sqlite,
        Connection::Postgres(_) => Engine::Postgres,
    };
    let statement = engine
        .timed(
            "INSERT INTO nodes (node, incarnation, lease_until, address, version, role, sessions, turns, room, start_time) \
             VALUES ($1, 1, {now} + $2, $3, $4, $5, 0, 0, 0, {now}) \
             ON CONFLICT (node) DO UPDATE SET incarnation = nodes.incarnation + 1, lease_until = excluded.lease_until, \
             address = excluded.address, version = excluded.version, role = excluded.role, sessions = 0, turns = 0, room = 0, \
             start_time = excluded.start_time RETURNING incarnation, start_time",
        )
        .with(node.name.as_str())
        .with(micros(node.lease))
        .with(node.address.as_str())
        .with(node.version.as_str())
        .with(role_number(if node.is_command { Role::Command } else { Role::Serving }));
    let rows = connection.rows(&statement).await?;
    let number_and_time = rows.into_iter().next().map(|mut row| Ok::<_, Error>((row.int()?, row.int()?)));
    let Some(Ok((number, now))) = number_and_time else {
        return Err(OpenError::Failed { problem: "it gives this node no number".into() });
    };
    compare_clocks(now);
    Ok(Incarnation { node: node.name.clone(), number })
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

/// Renews an incarnation's lease for so long; writes nothing if the node has a later incarnation. Its row may have been
/// deleted while the store was away.
pub(super) fn renewal(engine: Engine, node: &Node, number: i64, lease: Duration, load: Load) -> Statement {
    engine
        .timed(
            "INSERT INTO nodes (node, incarnation, lease_until, address, version, role, sessions, turns, room, start_time) \
             VALUES ($1, $2, {now} + $3, $4, $5, $6, $7, $8, $9, {now}) \
             ON CONFLICT (node) DO UPDATE SET lease_until = excluded.lease_until, role = excluded.role, \
             sessions = excluded.sessions, turns = excluded.turns, room = excluded.room WHERE nodes.incarnation = $2",
        )
        .with(node.name.as_str())
        .with(number)
        .with(micros(lease))
        .with(node.address.as_str())
        .with(node.version.as_str())
        .with(role_number(load.role))
        .with(i64::from(load.sessions))
        .with(i64::from(load.turns))
        .with(i64::from(load.room))
}

fn role_number(role: Role) -> i64 {
    match role {
        Role::Serving => 0,
        Role::Draining => 1,
        Role::Command => 2,
    }
}
