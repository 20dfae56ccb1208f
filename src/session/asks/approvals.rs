//! What a session's callers have approved for as long as it is known here. Pure.

use std::collections::BTreeSet;

use crate::copilot::event::PermissionRequested;

/// How many approvals are remembered; what comes after is asked for again.
const MAX_APPROVALS: usize = 1_000;

/// What was approved: exactly this command, path, URL or tool, of this kind.
#[derive(Debug, Default)]
pub(in crate::session) struct Approvals(BTreeSet<(String, String)>);

impl Approvals {
    /// Remembers that this was approved. What does not say what it is about would cover all of its kind.
    pub(in crate::session) fn add(&mut self, request: &PermissionRequested) {
        if self.0.len() < MAX_APPROVALS && !request.subject().is_empty() {
            self.0.insert(entry(request));
        }
    }

    /// Whether this was approved.
    pub(in crate::session) fn cover(&self, request: &PermissionRequested) -> bool {
        !self.0.is_empty() && self.0.contains(&entry(request))
    }
}

fn entry(request: &PermissionRequested) -> (String, String) {
    (request.kind().into_owned(), request.subject().into_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_was_approved_is_covered() {
        let request = |kind: &str, command: &str| PermissionRequested {
            permission_request: json!({"kind": kind, "fullCommandText": command, "path": command}).into(),
            ..PermissionRequested::default()
        };
        let mut approvals = Approvals::default();
        assert!(!approvals.cover(&request("shell", "ls")));
        approvals.add(&request("shell", "ls"));
        assert!(approvals.cover(&request("shell", "ls")));
        assert!(!approvals.cover(&request("shell", "ls -l")) && !approvals.cover(&request("read", "ls")));
    }

    #[test]
    fn what_does_not_say_what_it_is_about_is_asked_for_again() {
        let memory = |fact: &str| PermissionRequested {
            permission_request: json!({"kind": "memory", "fact": fact}).into(),
            ..PermissionRequested::default()
        };
        let mut approvals = Approvals::default();
        approvals.add(&memory("one"));
        assert!(!approvals.cover(&memory("one")) && !approvals.cover(&memory("two")));
    }
}
