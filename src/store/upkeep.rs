//! What goes on beside the calls: the node's lease is renewed, old requests are deleted, and a store that is away is looked for.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    connection::Failure,
    error::Error,
    node::{LEASE, lease},
    postgres::Claim,
    record::RETENTION,
    runner::{Engine, Runner},
    statement::micros,
};

/// How often a process gives a sign of life.
const RENEWAL: Duration = Duration::from_secs(5);

/// How often a store that is away is looked for.
const PROBE: Duration = Duration::from_secs(1);

/// How often old requests and nodes are deleted.
const SWEEP: Duration = Duration::from_secs(600);

/// How many requests one statement deletes, so that it takes no long time.
const SWEPT: i64 = 1_000;

/// Keeps a store until it is closed, and lets go of it.
pub(super) async fn run(runner: Arc<Runner>, mut claim: Option<Claim>, stop: CancellationToken) {
    let until_stopped = async {
        let mut swept: Option<Instant> = None;
        loop {
            if !runner.is_seen() || runner.engine == Engine::Postgres {
                look(&runner, claim.as_mut()).await;
            }
            if runner.is_seen() && swept.is_none_or(|swept| swept.elapsed() >= SWEEP) {
                sweep(&runner).await;
                swept = Some(Instant::now());
            }
            let pause = match (runner.is_seen(), runner.engine) {
                (false, _) => PROBE,
                (true, Engine::Postgres) => RENEWAL,
                // The lease of an SQLite file is its lock, and an idle server leaves the disk alone.
                (true, Engine::Sqlite) => SWEEP,
            };
            tokio::select! {
                () = runner.troubled.notified() => {}
                () = sleep(pause) => {}
            }
        }
    };
    stop.run_until_cancelled(until_stopped).await;
    if runner.is_seen() {
        let (engine, incarnation) = (runner.engine, runner.incarnation.clone());
        let end =
            runner.write(0, async move |mut work| work.execute(&lease(engine, &incarnation, 0)).await).await;
        if let Err(error) = end {
            warn!(%error, "other processes see only later that this one is gone");
        }
    }
    runner.close().await;
    if let Some(claim) = claim {
        claim.release().await;
    }
}

/// Looks whether the store is there, and this process's.
async fn look(runner: &Arc<Runner>, claim: Option<&mut Claim>) {
    if let Some(claim) = claim
        && let Err(problem) = claim.hold().await
    {
        return runner.is_away(&problem);
    }
    let (engine, incarnation) = (runner.engine, runner.incarnation.clone());
    let renewed = runner
        .write_anyhow(0, async move |mut work| {
            match work.execute(&lease(engine, &incarnation, micros(LEASE))).await? {
                0 => Err(Failure::Away("another server has taken this node's id".into())),
                _ => Ok(()),
            }
        })
        .await;
    match renewed {
        Ok(()) => runner.is_here(),
        // Noted where it is about the store; else the store answers, if only to refuse.
        Err(Error::Unavailable { .. }) => {}
        Err(error) => runner.is_away(&error.to_string()),
    }
}

/// Deletes what is over.
async fn sweep(runner: &Arc<Runner>) {
    let engine = runner.engine;
    loop {
        let swept = runner
            .write(0, async move |mut work| {
                let requests = engine
                    .timed(
                        "DELETE FROM requests WHERE (scope, tenant, id) IN (SELECT scope, tenant, id FROM requests \
                         WHERE update_time < {now} - $1 ORDER BY update_time LIMIT $2)",
                    )
                    .with(micros(RETENTION))
                    .with(SWEPT);
                work.execute(&requests).await
            })
            .await;
        match swept {
            Ok(swept) if swept >= SWEPT.unsigned_abs() => {}
            Ok(_) => break,
            Err(error) => return warn!(%error, "old requests are not deleted"),
        }
    }
    // A node's number must outlast the requests that name it.
    let own = runner.incarnation.node.clone();
    let nodes = runner
        .write(0, async move |mut work| {
            let nodes = engine
                .timed("DELETE FROM nodes WHERE lease_until < {now} - $1 AND node <> $2")
                .with(2 * micros(RETENTION))
                .with(own.as_str());
            work.execute(&nodes).await
        })
        .await;
    if let Err(error) = nodes {
        warn!(%error, "old nodes are not deleted");
    }
}
