//! Clears up: closes sessions in which nothing happens, and deletes those that are too old, too idle, or too many.
//!
//! [`decide`] knows the rules. What it decides is looked at once more with the session's queue in hand, so that no turn that runs or
//! waits is ever cut; a session of which anything is in doubt is left for the next run.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use crate::{
    lock::lock,
    session::{
        cleanup::{Act, Cleanup, Facts, Rules, decide, has_ages},
        error::Error,
        id::{SessionKey, Tenant},
        live::{Session, is_busy},
        sessions::Sessions,
    },
    store::{Order, Query, Range, SessionRecord, Time},
};

/// A session that is looked at.
struct Candidate {
    key: SessionKey,
    /// It, if this process knows it.
    session: Option<Arc<Session>>,
    /// When it last changed, to see whether it does meanwhile.
    update_time: Time,
    facts: Facts,
}

/// What one round has done.
#[derive(Debug, Default)]
struct Done {
    closed: u64,
    deleted: u64,
    failed: u64,
}

impl Sessions {
    /// Starts to clear up by these rules and those of the profiles, until the server drains.
    pub fn keep_clean(&self, rules: Rules) {
        if !rules.say_anything() && !self.inner.profiles.all().any(has_ages) {
            return;
        }
        *lock(&self.inner.cleanup) = Some(Cleanup { dry_run: rules.dry_run, ..Cleanup::default() });
        let this = self.clone();
        self.inner.means.tasks.spawn(async move {
            let mut ticks = interval(rules.interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let looking = async {
                this.knows_others().await;
                loop {
                    ticks.tick().await;
                    this.clean_up(&rules).await;
                }
            };
            // To stop between asking for a deletion and its answer does no harm.
            this.inner.draining.run_until_cancelled(looking).await;
        });
    }

    /// What has been cleared up so far; `None`: nothing is to be.
    pub fn cleanup(&self) -> Option<Cleanup> {
        *lock(&self.inner.cleanup)
    }

    async fn clean_up(&self, rules: &Rules) {
        let mut done = Done::default();
        // While the store is away there is nothing to clear up.
        let looked = async {
            for tenant in self.tenants().await? {
                self.clean_up_of(&tenant, rules, &mut done).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = looked.await {
            debug!(%error, "not all sessions that are to be cleared up could be looked at");
        }
        let Done { closed, deleted, failed } = done;
        if closed + deleted + failed > 0 {
            info!(closed, deleted, failed, dry_run = rules.dry_run, "cleared up");
        }
        if let Some(cleanup) = &mut *lock(&self.inner.cleanup) {
            cleanup.last_run = Some(SystemTime::now());
            if !rules.dry_run {
                cleanup.closed += closed;
                cleanup.deleted += deleted;
                cleanup.failed += failed;
            }
        }
    }

    /// The tenants that may have sessions to be cleared up by this server.
    async fn tenants(&self) -> Result<BTreeSet<Tenant>, Error> {
        let known = self.inner.registry.all().into_iter().map(|session| session.key().tenant().clone());
        let mut tenants: BTreeSet<_> = known.collect();
        if self.is_elected() {
            tenants.extend(self.store().tenants().await?.iter().map(|name| Tenant::named(name)));
        }
        Ok(tenants)
    }

    async fn clean_up_of(&self, tenant: &Tenant, rules: &Rules, done: &mut Done) -> Result<(), Error> {
        let (candidates, count) = self.candidates(tenant, rules).await?;
        let facts: Vec<_> = candidates.iter().map(|candidate| candidate.facts).collect();
        for (n, act) in decide(rules, &facts, count) {
            let candidate = &candidates[n];
            let result = match rules.dry_run {
                true => {
                    info!(session = %candidate.key.id(), ?act, idle = ?facts[n].idle, "would be cleared up");
                    Ok(true)
                }
                false => self.carry_out(candidate, act).await,
            };
            match (result, act) {
                (Ok(true), Act::Close) => done.closed += 1,
                (Ok(true), Act::Delete(_)) => done.deleted += 1,
                // Something has happened in it meanwhile.
                (Ok(false), _) => {}
                (Err(error), _) => {
                    done.failed += 1;
                    warn!(session = %candidate.key.id(), ?act, %error, "a session could not be cleared up");
                }
            }
        }
        Ok(())
    }

    /// The sessions of a tenant to which something may be to do: those that are known here, and of the others those that the store finds to be too
    /// old, too idle or too many.
    async fn candidates(&self, tenant: &Tenant, rules: &Rules) -> Result<(Vec<Candidate>, usize), Error> {
        let now = Time::now();
        let mut candidates = Vec::new();
        for session in self.inner.registry.all_of(tenant) {
            let blueprint = session.blueprint();
            let (summary, rest) = (session.summary(), session.rest());
            let facts = Facts {
                loaded: rest.loaded,
                busy: rest.busy,
                ..Facts::of(summary.create_time, summary.update_time, now, blueprint.profile.as_deref())
            };
            let facts = Facts { idle: facts.idle.min(rest.silent), ..facts };
            let update_time = summary.update_time;
            candidates.push(Candidate {
                key: session.key().clone(),
                session: Some(session),
                update_time,
                facts,
            });
        }
        if !self.is_elected() {
            return Ok((candidates, 0));
        }
        let known: HashSet<_> = candidates.iter().map(|known| known.key.clone()).collect();
        let count = match rules.max_stored {
            Some(_) => usize::try_from(self.store().count(tenant.as_str()).await?).unwrap_or(usize::MAX),
            None => 0,
        };
        let mut seen = HashSet::new();
        for query in self.queries(tenant, rules, now, count, known.len()) {
            for record in self.all_of(query).await? {
                let Some(key) = SessionKey::of_record(&record) else { continue };
                if known.contains(&key) || !seen.insert(record.ownership.uid) {
                    continue;
                }
                let profile = self.inner.profiles.named(&record.facts.profile);
                let facts = Facts::of(record.create_time, record.update_time, now, profile.as_deref());
                candidates.push(Candidate { key, session: None, update_time: record.update_time, facts });
            }
        }
        Ok((candidates, count))
    }

    /// The questions to the store for sessions that the rules may concern.
    fn queries(&self, tenant: &Tenant, rules: &Rules, now: Time, count: usize, known: usize) -> Vec<Query> {
        let before = |limit: Duration| Range { from: None, until: Some(now.before(limit)) };
        let all = Query { tenant: tenant.as_str().into(), order: Order::EarliestChange, ..Query::default() };
        let mut queries = Vec::new();
        queries.extend(rules.delete_idle_after.map(|limit| Query { updated: before(limit), ..all.clone() }));
        queries.extend(rules.delete_after_age.map(|limit| Query { created: before(limit), ..all.clone() }));
        for profile in self.inner.profiles.all() {
            let of = Query { profile: Some(profile.name.clone()), ..all.clone() };
            queries
                .extend(profile.max_session_idle.map(|limit| Query { updated: before(limit), ..of.clone() }));
            queries
                .extend(profile.max_session_age.map(|limit| Query { created: before(limit), ..of.clone() }));
        }
        if let Some(excess) =
            rules.max_stored.and_then(|max| count.checked_sub(max)).filter(|excess| *excess > 0)
        {
            // Those that are known here may be among them.
            queries.push(Query { limit: excess.saturating_add(known), ..all });
        }
        queries
    }

    /// All that the store has of a question, which has a limit or none.
    async fn all_of(&self, mut query: Query) -> Result<Vec<SessionRecord>, Error> {
        let mut left = if query.limit == 0 { usize::MAX } else { query.limit };
        let mut found = Vec::new();
        loop {
            query.limit = left.min(PAGE);
            let page = self.store().list(&query).await?;
            let is_end = page.len() < query.limit;
            left -= page.len();
            query.after = page.last().map(|last| (last.update_time, last.id.clone()));
            found.extend(page);
            if is_end || left == 0 {
                return Ok(found);
            }
        }
    }

    /// Does it, unless something has happened in the session meanwhile.
    async fn carry_out(&self, candidate: &Candidate, act: Act) -> Result<bool, Error> {
        let Candidate { key, session, update_time, facts } = candidate;
        let Some(session) = session else {
            // Nobody can take it up while it is held.
            let held = match self.hold(key).await {
                Ok(Some(held)) => held,
                Ok(None) | Err(Error::NotFound(_) | Error::Moved(_)) => return Ok(false),
                Err(error) => return Err(error),
            };
            let unchanged = self.record(key).await?.is_some_and(|record| record.update_time == *update_time);
            return Ok(unchanged && self.delete_idle(held.session()).await?);
        };
        // From here on turns wait; one that waits or runs already has kept the session busy.
        let Some(place) = session.try_place() else { return Ok(false) };
        // Somebody may have deleted it, and made another of this id.
        let changed = session.summary().update_time != *update_time || session.rest().silent < facts.idle;
        if changed || session.gone().is_cancelled() {
            return Ok(false);
        }
        match act {
            Act::Close => {
                session.unload().await?;
                drop(place);
                self.hand_over(session, false).await?;
                Ok(true)
            }
            Act::Delete(_) => self.delete_idle(session).await,
        }
    }

    /// Deletes a session that does nothing, also not for another client of its CLI. What that says it is not asked where it is down.
    async fn delete_idle(&self, session: &Arc<Session>) -> Result<bool, Error> {
        let idle = match session.backend().link() {
            Ok(link) => !is_busy(&link, session.cli_id()).await?,
            Err(_) => true,
        };
        if idle {
            self.delete_known(session).await?;
        }
        Ok(idle)
    }
}

/// How many sessions the store is asked for at once.
const PAGE: usize = 1000;
