//! What goes on beside the calls: the node's lease is renewed, old requests are deleted, and a store that is away is looked for.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    error::Error,
    neighbours::Neighbours,
    nodes::{self, known},
    postgres::Claim,
    record::RETENTION,
    runner::{Engine, Runner},
    statement::{Statement, micros},
};
use crate::lock::lock;

/// How many times a lease is renewed before it runs out, at least: two of them may fail.
const RENEWALS: u32 = 3;

/// How often it is renewed at least, so that the others know what there is to do.
const RENEWAL: Duration = Duration::from_secs(5);

/// How often a store that is away is looked for.
const PROBE: Duration = Duration::from_secs(1);

/// How often old requests and nodes are deleted.
const SWEEP: Duration = Duration::from_secs(600);

/// How many requests one statement deletes, so that it takes no long time.
const SWEPT: i64 = 1_000;

/// Keeps a store until it is closed, and lets go of it.
pub(super) async fn run(runner: Arc<Runner>, mut claim: Option<Claim>, stop: CancellationToken) {
    let mut swept: Option<Instant> = None;
    // Not in the middle of a renewal, which might come after the end of the lease.
    while !stop.is_cancelled() {
        if !runner.is_seen() || runner.engine == Engine::Postgres {
            look(&runner, claim.as_mut()).await;
        }
        if runner.is_seen() && swept.is_none_or(|swept| swept.elapsed() >= SWEEP) {
            stop.run_until_cancelled(sweep(&runner)).await;
            swept = Some(Instant::now());
        }
        let pause = match (runner.is_seen(), runner.engine) {
            (false, _) => PROBE,
            (true, Engine::Postgres) => (runner.node.lease / RENEWALS).min(RENEWAL),
            // The lease of an SQLite file is its lock, and an idle server leaves the disk alone.
            (true, Engine::Sqlite) => SWEEP,
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = runner.troubled.notified() => {}
            () = sleep(pause) => {}
        }
    }
    if runner.is_seen() {
        let end = renewed_for(&runner, Duration::ZERO);
        let end = runner.write(0, async move |mut work| work.execute(&end).await).await;
        if let Err(error) = end {
            warn!(%error, "other processes see only later that this one is gone");
        }
    }
    runner.close().await;
    if let Some(claim) = claim {
        claim.release().await;
    }
}

/// Tells of the end of this process's lease, which no call of the store may put off.
pub(super) async fn watch_lease(runner: Arc<Runner>) {
    let mut held = runner.lease.held();
    loop {
        match runner.lease.end() {
            Some(end) => sleep_until(end).await,
            None => {
                if held.wait_for(Option::is_some).await.is_err() {
                    return;
                }
                if runner.engine == Engine::Sqlite {
                    return;
                }
            }
        }
        runner.lease.look();
    }
}

/// Looks whether the store is there, and this process's.
async fn look(runner: &Arc<Runner>, claim: Option<&mut Claim>) {
    if let Some(claim) = claim
        && let Err(problem) = claim.hold().await
    {
        return runner.is_away(&problem);
    }
    let (asked, renewal, known) =
        (Instant::now(), renewed_for(runner, runner.node.lease), known(runner.engine));
    let is_shared = runner.engine == Engine::Postgres;
    let renewed = runner
        .write_anyhow(0, async move |mut work| {
            if work.execute(&renewal).await? == 0 {
                return Ok(None);
            }
            let rows = if is_shared { work.rows(&known).await? } else { Vec::new() };
            let nodes: Result<Vec<_>, Error> = rows.into_iter().map(nodes::record).collect();
            Ok(Some(nodes?))
        })
        .await;
    match renewed {
        Ok(Some(nodes)) => {
            runner.lease.granted(asked);
            runner.neighbours.send_replace(Neighbours { seen: Instant::now(), nodes: nodes.into() });
            runner.is_here();
        }
        Ok(None) => {
            runner.lease.refused();
            runner.is_away("another server has taken this node's name (node_name)");
        }
        // Noted where it is about the store; else the store answers, if only to refuse.
        Err(Error::Unavailable { .. }) => {}
        Err(error) => runner.is_away(&error.to_string()),
    }
}

/// Renews this process's lease for so long.
fn renewed_for(runner: &Runner, lease: Duration) -> Statement {
    nodes::renewal(runner.engine, &runner.node, runner.incarnation.number, lease, *lock(&runner.load))
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
