//! Clears up: closes sessions in which nothing happens, and deletes those that are too old, too idle, or too many.
//!
//! [`decide`] knows the rules. What it decides is looked at once more with the session's queue in hand, so that no turn that runs or
//! waits is ever cut; a session of which anything is in doubt is left for the next run.

use std::{sync::Arc, time::SystemTime};

use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::list::Found;
use crate::{
    backend::Backend,
    lock::lock,
    session::{
        blueprint::Blueprint,
        catalogue::stored_in,
        cleanup::{Act, Cleanup, Facts, Rules, decide, has_ages},
        error::Error,
        id::{SessionKey, Tenant},
        live::{Session, is_busy},
        sessions::Sessions,
    },
};

/// A session that is looked at.
struct Candidate {
    key: SessionKey,
    /// The CLI that has it.
    backend: Backend,
    /// It, if this process knows it.
    session: Option<Arc<Session>>,
    /// When it last changed, to see whether it does meanwhile.
    update_time: String,
    facts: Facts,
}

impl Sessions {
    /// Starts to clear up by these rules and those of the profiles, until the server drains.
    pub fn keep_clean(&self, rules: Rules) {
        if !rules.say_anything() && !self.inner.profiles.all().any(has_ages) {
            return;
        }
        *lock(&self.inner.cleanup) = Some(Cleanup { dry_run: rules.dry_run, ..Cleanup::default() });
        let this = self.clone();
        self.inner.tasks.spawn(async move {
            let mut ticks = interval(rules.interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let looking = async {
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
        let candidates = match self.candidates(rules).await {
            Ok(candidates) => candidates,
            // While the CLI is away there is nothing to clear up.
            Err(error) => return debug!(%error, "the sessions to clear up could not be looked at"),
        };
        let facts: Vec<_> = candidates.iter().map(|candidate| candidate.facts).collect();
        let (mut closed, mut deleted, mut failed) = (0, 0, 0);
        for (n, act) in decide(rules, &facts) {
            let candidate = &candidates[n];
            let done = match rules.dry_run {
                true => {
                    info!(session = %candidate.key.id(), ?act, idle = ?facts[n].idle, "would be cleared up");
                    Ok(true)
                }
                false => self.carry_out(candidate, act).await,
            };
            match (done, act) {
                (Ok(true), Act::Close) => closed += 1,
                (Ok(true), Act::Delete(_)) => deleted += 1,
                // Something has happened in it meanwhile.
                (Ok(false), _) => {}
                (Err(error), _) => {
                    failed += 1;
                    warn!(session = %candidate.key.id(), ?act, %error, "a session could not be cleared up");
                }
            }
        }
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

    async fn candidates(&self, rules: &Rules) -> Result<Vec<Candidate>, Error> {
        let now = SystemTime::now();
        let mut candidates = Vec::new();
        for session in self.inner.registry.all(Tenant::ONLY) {
            let blueprint = session.blueprint();
            let (summary, rest) = (session.summary(), session.rest());
            let facts = Facts {
                loaded: rest.loaded,
                stored: rest.stored,
                busy: rest.busy,
                ..Facts::of(&summary, now, blueprint.profile.as_deref())
            };
            let facts = Facts { idle: facts.idle.min(rest.silent), ..facts };
            let (key, backend) = (session.key().clone(), session.backend());
            let update_time = summary.update_time;
            candidates.push(Candidate { key, backend, session: Some(session), update_time, facts });
        }
        let profiles_count = self.inner.profiles.all().any(has_ages);
        if rules.delete_anything() || profiles_count {
            let stored = self.stored_sessions(Tenant::ONLY, profiles_count).await?.into_iter();
            let each = |(backend, sessions): Found| {
                sessions.into_iter().map(move |session| (backend.clone(), session))
            };
            for (backend, summary) in stored.flat_map(each) {
                let key = SessionKey::new(Tenant::ONLY, summary.id.clone());
                if self.inner.registry.find(&key).is_none() {
                    let profile = self.inner.profiles.named(&summary.profile);
                    let facts = Facts { stored: true, ..Facts::of(&summary, now, profile.as_deref()) };
                    let update_time = summary.update_time;
                    candidates.push(Candidate { key, backend, session: None, update_time, facts });
                }
            }
        }
        Ok(candidates)
    }

    /// Does it, unless something has happened in the session meanwhile.
    async fn carry_out(&self, candidate: &Candidate, act: Act) -> Result<bool, Error> {
        let Candidate { key, backend, session, update_time, facts } = candidate;
        let Some(session) = session else {
            // Nobody can take it up while it is held.
            let blank = Arc::new(self.session(key.clone(), Blueprint::default(), backend));
            let Some(_held) = self.inner.registry.hold(blank) else { return Ok(false) };
            let entry = stored_in(backend, key).await?;
            let unchanged = entry.is_some_and(|entry| entry.modified_time == *update_time);
            return Ok(unchanged && self.delete_idle(backend, key).await?);
        };
        // From here on turns wait; one that waits or runs already has kept the session busy.
        let Some(_place) = session.try_place() else { return Ok(false) };
        // Somebody may have deleted it, and made another of this id.
        let changed = session.summary().update_time != *update_time || session.rest().silent < facts.idle;
        if changed || session.deleted().is_cancelled() {
            return Ok(false);
        }
        match act {
            Act::Close => session.unload().await.map(|()| true).map_err(Error::from),
            Act::Delete(_) => self.delete_idle(backend, key).await,
        }
    }

    /// Deletes a session that does nothing, also not for another server on the same CLI.
    async fn delete_idle(&self, backend: &Backend, key: &SessionKey) -> Result<bool, Error> {
        let idle = !is_busy(&*backend.connected().await?, key.cli_id()).await?;
        if idle {
            self.delete_in(backend, key).await?;
        }
        Ok(idle)
    }
}
