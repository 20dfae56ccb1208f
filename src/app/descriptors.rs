//! File descriptors: how many this process may have, and how many of them clients may use.
//!
//! At the limit nothing can be opened any more: not the pipes of a CLI that has to be started again, nor the connection to it.
//! So clients never get all of them.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, info, warn};

/// Descriptors kept back for the process itself: listener, logs, signals, runtime, files that are read again, lookups.
const FOR_ALL: u64 = 48;

/// Descriptors kept back for each CLI: its sockets and pipes, those of its successor while the old ones are not closed yet, and
/// what spawning takes. An estimate on the safe side.
const FOR_A_CLI: u64 = 24;

/// The default number of clients where there is no limit of descriptors, or a very large one.
const MOST_CLIENTS: usize = 10_000;

/// Raises the limit of descriptors as far as the system allows.
pub(super) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => debug!(from = current, to = maximum, "more file descriptors are allowed"),
        // Some systems have a maximum that no process may reach.
        Err(error) => warn!(limit = current, %error, "no more file descriptors can be allowed"),
    }
}

/// How many clients may be connected beside this many CLIs, up to the number that is `wanted`.
pub(super) fn for_clients(wanted: Option<usize>, clis: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    let clients = clients(limit, wanted, clis);
    match wanted {
        Some(wanted) if clients < wanted => warn!(
            max_connections = wanted,
            clients,
            limit,
            "file descriptors do not suffice for as many clients: raise the limit (ulimit -n)"
        ),
        Some(_) => {}
        None => info!(clients, "as many clients may be connected at once (max_connections)"),
    }
    clients
}

fn clients(limit: Option<u64>, wanted: Option<usize>, clis: usize) -> usize {
    let wanted = wanted.unwrap_or(MOST_CLIENTS);
    let Some(limit) = limit else { return wanted };
    let kept_back = FOR_ALL + FOR_A_CLI * clis as u64;
    // If hardly any are left, clients get half of all.
    let left = limit.saturating_sub(kept_back).max(limit / 2);
    usize::try_from(left).unwrap_or(usize::MAX).min(wanted).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_is_left_beside_the_clis() {
        for (limit, wanted, clis, expected) in [
            (None, None, 1, MOST_CLIENTS),
            (None, Some(50_000), 1, 50_000),
            (Some(1024), None, 1, 952),
            (Some(1024), None, 10, 736),
            (Some(1024), Some(100), 1, 100),
            (Some(1024), Some(5000), 1, 952),
            (Some(1_000_000), None, 1, MOST_CLIENTS),
            (Some(1_000_000), Some(50_000), 1, 50_000),
            (Some(100), None, 16, 50),
            (Some(0), None, 1, 1),
        ] {
            assert_eq!(clients(limit, wanted, clis), expected, "{limit:?} {wanted:?} {clis}");
        }
    }

    #[test]
    fn this_process_gets_as_many_as_it_may_have() {
        raise_limit();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
    }
}
