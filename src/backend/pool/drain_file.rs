//! The drain file: the operator's list of CLIs that get no new sessions, read every 2 s.
//!
//! A file reaches all servers at once, and those that start later, without a port or a signal. In Kubernetes it is a key of a
//! ConfigMap, mounted as a folder, which the kubelet keeps up to date.

use std::{collections::BTreeSet, io, path::Path, time::Duration};

use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

/// How often the file is read. It is small, and the kubelet takes up to a minute to write it.
const INTERVAL: Duration = Duration::from_secs(2);

/// Calls `tell` with the names in the file whenever they have changed. A missing file counts as empty; one that cannot be read
/// changes nothing.
pub(super) async fn follow(file: &Path, mut tell: impl FnMut(BTreeSet<String>)) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = None;
    loop {
        ticks.tick().await;
        let text = match tokio::fs::read_to_string(file).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read.map_err(|error| error.to_string()),
        };
        if known.as_ref() == Some(&text) {
            continue;
        }
        match &text {
            Ok(text) => tell(names(text)),
            Err(problem) => {
                warn!(file = %file.display(), problem, "the list of CLIs that drain cannot be read: it stays as it was")
            }
        }
        known = Some(text);
    }
}

/// The names in the file: one a line, and a `#` begins a comment.
fn names(text: &str) -> BTreeSet<String> {
    let names = text.lines().filter_map(|line| line.split('#').next()).map(str::trim);
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_name_or_a_comment() {
        let text =
            "cli-2.cli:4321\n\n  # for the new disks\ncli-0.cli:4321 # since Monday\r\ncli-2.cli:4321\n";
        assert_eq!(names(text), ["cli-0.cli:4321".to_owned(), "cli-2.cli:4321".to_owned()].into());
        assert_eq!(names(""), BTreeSet::new());
    }
}
