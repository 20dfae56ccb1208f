//! File descriptors: how many this process may have, and how many of them are for clients.
//!
//! At the limit nothing can be opened any more: not the pipes of a CLI that has to be started again, nor the connection to it.
//! So clients never get all of them.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, info, warn};

/// Kept back for whatever there is one of: listener, logs, signals, runtime, files that are read again, lookups.
const FOR_ALL: u64 = 48;

/// Kept back for each CLI: its sockets and pipes, those of another that is started while the old one's are not closed yet, and what
/// spawning takes. An estimate on the safe side.
const FOR_A_CLI: u64 = 24;

/// As many clients as there are without a setting, where there is no limit, or a very large one.
const MOST_CLIENTS: usize = 10_000;

/// Allows this process as many descriptors as it may allow itself.
pub(super) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => debug!(from = current, to = maximum, "more file descriptors are allowed"),
        // Some systems have a maximum that nobody may come up to.
        Err(error) => warn!(limit = current, %error, "no more file descriptors can be allowed"),
    }
}

/// How many clients there may be beside so many CLIs, of which as many as are `wanted`.
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
    // Where there are next to none, half of them.
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
