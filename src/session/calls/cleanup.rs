//! Clears up: closes sessions in which nothing happens, and deletes those that are too old, too idle, or too many.
//!
//! [`decide`] is pure. What it decides is looked at once more with the session's queue in hand, so that no turn that runs or
//! waits is ever cut; a session of which anything is in doubt is left for the next run.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::list::Found;
use crate::{
    backend::Backend,
    lock::lock,
    session::{
        blueprint::{Blueprint, Profile},
        catalogue::stored_in,
        error::Error,
        id::{SessionKey, Tenant},
        live::{Session, is_busy},
        sessions::Sessions,
        summary::Summary,
    },
};

/// When sessions are closed and deleted. Nothing is, where nothing is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Sessions in which nothing has happened for so long are closed.
    pub close_idle_after: Option<Duration>,
    /// The same for deleting.
    pub delete_idle_after: Option<Duration>,
    /// Sessions that are so old are deleted.
    pub delete_after_age: Option<Duration>,
    /// Beyond so many stored sessions, those that have been idle longest are deleted.
    pub max_stored: Option<usize>,
    /// How often it is looked.
    pub interval: Duration,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What has been done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleanup {
    /// Sessions closed.
    pub closed: u64,
    /// Sessions deleted.
    pub deleted: u64,
    /// Sessions that could not be.
    pub failed: u64,
    /// When it was last looked.
    pub last_run: Option<SystemTime>,
    /// Whether it is only said what would be done.
    pub dry_run: bool,
}

/// What there is to decide about a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Facts {
    age: Duration,
    /// How long nothing has happened in it.
    idle: Duration,
    loaded: bool,
    stored: bool,
    /// Whether a turn runs or waits.
    busy: bool,
    /// Of its profile.
    max_age: Option<Duration>,
    /// Of its profile.
    max_idle: Option<Duration>,
}

/// What to do with a session, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Close,
    Delete(Why),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Age,
    Idle,
    Number,
}

/// What to do with which of these sessions, by their places.
fn decide(rules: &Rules, sessions: &[Facts]) -> Vec<(usize, Act)> {
    let over = |time: Duration, limits: [Option<Duration>; 2]| {
        limits.into_iter().flatten().any(|limit| time >= limit)
    };
    let single = |facts: &Facts| {
        if facts.busy {
            None
        } else if over(facts.age, [rules.delete_after_age, facts.max_age]) {
            Some(Act::Delete(Why::Age))
        } else if over(facts.idle, [rules.delete_idle_after, facts.max_idle]) {
            Some(Act::Delete(Why::Idle))
        } else {
            (facts.loaded && over(facts.idle, [rules.close_idle_after, None])).then_some(Act::Close)
        }
    };
    let mut acts: Vec<_> = sessions.iter().map(single).collect();
    if let Some(max) = rules.max_stored {
        let stays = |n: &usize| sessions[*n].stored && !matches!(acts[*n], Some(Act::Delete(_)));
        let mut stored: Vec<_> = (0..sessions.len()).filter(stays).collect();
        let excess = stored.len().saturating_sub(max);
        stored.retain(|n| !sessions[*n].busy);
        stored.sort_by_key(|n| std::cmp::Reverse(sessions[*n].idle));
        for n in stored.into_iter().take(excess) {
            acts[n] = Some(Act::Delete(Why::Number));
        }
    }
    acts.into_iter().enumerate().filter_map(|(n, act)| Some((n, act?))).collect()
}

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
        *self.cleanup_lock() = Some(Cleanup { dry_run: rules.dry_run, ..Cleanup::default() });
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
        *self.cleanup_lock()
    }

    fn cleanup_lock(&self) -> std::sync::MutexGuard<'_, Option<Cleanup>> {
        lock(&self.inner.cleanup)
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
        if let Some(cleanup) = &mut *self.cleanup_lock() {
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

fn has_ages(profile: &Profile) -> bool {
    profile.max_session_age.is_some() || profile.max_session_idle.is_some()
}

impl Rules {
    fn delete_anything(&self) -> bool {
        self.delete_idle_after.is_some() || self.delete_after_age.is_some() || self.max_stored.is_some()
    }

    fn say_anything(&self) -> bool {
        self.delete_anything() || self.close_idle_after.is_some()
    }
}

impl Facts {
    /// A session whose times make no sense is taken for new.
    fn of(summary: &Summary, now: SystemTime, profile: Option<&Profile>) -> Self {
        let since = |time: &str| {
            let then = humantime::parse_rfc3339(time).ok();
            then.and_then(|then| now.duration_since(then).ok()).unwrap_or_default()
        };
        Self {
            age: since(&summary.create_time),
            idle: since(&summary.update_time),
            max_age: profile.and_then(|profile| profile.max_session_age),
            max_idle: profile.and_then(|profile| profile.max_session_idle),
            ..Self::default()
        }
    }
}

/// How a session rests.
#[derive(Debug, Clone, Copy)]
pub(in crate::session) struct Rest {
    pub(in crate::session) loaded: bool,
    pub(in crate::session) stored: bool,
    pub(in crate::session) busy: bool,
    /// How long nothing was heard of it here.
    pub(in crate::session) silent: Duration,
}

impl Rest {
    pub(in crate::session) fn since(heard: Instant, loaded: bool, stored: bool, busy: bool) -> Self {
        Self { loaded, stored, busy, silent: heard.elapsed() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        close_idle_after: None,
        delete_idle_after: None,
        delete_after_age: None,
        max_stored: None,
        interval: Duration::from_secs(60),
        dry_run: false,
    };

    fn hours(hours: u64) -> Duration {
        Duration::from_secs(hours * 3600)
    }

    fn session(age: u64, idle: u64) -> Facts {
        Facts { age: hours(age), idle: hours(idle), loaded: true, stored: true, ..Facts::default() }
    }

    #[test]
    fn sessions_are_closed_and_deleted_when_their_time_has_come() {
        let rules = Rules {
            close_idle_after: Some(hours(1)),
            delete_idle_after: Some(hours(10)),
            delete_after_age: Some(hours(100)),
            ..RULES
        };
        let check = |facts: Facts, expected: Option<Act>| {
            let acts: Vec<_> = decide(&rules, &[facts]).into_iter().map(|(_, act)| act).collect();
            assert_eq!(acts, Vec::from_iter(expected), "{facts:?}");
        };
        check(session(0, 0), None);
        check(session(99, 0), None);
        check(session(5, 1), Some(Act::Close));
        check(Facts { loaded: false, ..session(5, 1) }, None);
        check(session(20, 10), Some(Act::Delete(Why::Idle)));
        check(Facts { loaded: false, ..session(20, 10) }, Some(Act::Delete(Why::Idle)));
        check(session(100, 0), Some(Act::Delete(Why::Age)));
        check(Facts { busy: true, ..session(100, 50) }, None);
        // A profile may be stricter, not laxer.
        check(Facts { max_age: Some(hours(2)), ..session(2, 0) }, Some(Act::Delete(Why::Age)));
        check(Facts { max_idle: Some(hours(2)), ..session(5, 2) }, Some(Act::Delete(Why::Idle)));
        check(Facts { max_age: Some(hours(900)), ..session(100, 0) }, Some(Act::Delete(Why::Age)));
    }

    #[test]
    fn without_rules_nothing_is_done() {
        assert_eq!(decide(&RULES, &[session(1_000_000, 1_000_000)]), []);
    }

    #[test]
    fn of_too_many_those_go_that_have_been_idle_longest_and_do_nothing() {
        let rules = |max| Rules { max_stored: Some(max), ..RULES };
        let sessions = [
            session(9, 1),
            session(9, 5),
            Facts { busy: true, ..session(9, 9) },
            session(9, 3),
            // It is not stored, and so not counted.
            Facts { stored: false, ..session(9, 9) },
        ];
        let check = |max, expected: &[usize]| {
            let acts = decide(&rules(max), &sessions);
            assert!(acts.iter().all(|(_, act)| *act == Act::Delete(Why::Number)));
            assert_eq!(acts.into_iter().map(|(n, _)| n).collect::<Vec<_>>(), expected, "{max}");
        };
        check(4, &[]);
        check(3, &[1]);
        check(2, &[1, 3]);
        check(1, &[0, 1, 3]);
        // What goes for another reason makes room.
        let old = Rules { delete_idle_after: Some(hours(5)), ..rules(3) };
        let acts = decide(&old, &sessions[..4]);
        assert_eq!(acts, [(1, Act::Delete(Why::Idle))]);
    }

    #[test]
    fn a_session_whose_times_make_no_sense_is_taken_for_new() {
        let now = humantime::parse_rfc3339("2026-11-23T12:00:00Z").unwrap();
        let check = |time: &str, expected| {
            let summary = Summary {
                id: crate::session::SessionId::parse("s").unwrap(),
                model: String::new(),
                reasoning_effort: String::new(),
                state: crate::session::SessionState::Unloaded,
                labels: Default::default(),
                title: String::new(),
                create_time: time.into(),
                update_time: time.into(),
                working_directory: String::new(),
                owner: String::new(),
                profile: String::new(),
            };
            let facts = Facts::of(&summary, now, None);
            assert_eq!((facts.age, facts.idle), (expected, expected), "{time}");
        };
        check("2026-11-23T11:00:00.000Z", hours(1));
        check("", Duration::ZERO);
        check("yesterday", Duration::ZERO);
        check("2026-11-24T12:00:00Z", Duration::ZERO);
    }
}
