//! What the agent's tools may do. Pure.

use crate::copilot::method::Decision;

/// The kinds of permission that the CLI asks for (cli-protocol.md, section 7.3), without those for its own extensions.
pub const KINDS: &[&str] = &["shell", "write", "read", "mcp", "url", "memory", "custom-tool"];

/// What a session's tools may do. The first rule that matches decides; what no rule matches is denied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it is about: one of [`KINDS`], or `*`.
    pub kind: String,
    /// Whether it allows or denies.
    pub allow: bool,
}

impl Policy {
    /// A policy of these rules.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    /// Its rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// A policy that allows these kinds.
    pub fn allowing(kinds: &[String]) -> Self {
        Self { rules: kinds.iter().map(|kind| Rule { kind: kind.clone(), allow: true }).collect() }
    }

    /// Whether nothing at all can be allowed, so that the CLI need not ask.
    pub fn denies_all(&self) -> bool {
        !self.rules.iter().any(|rule| rule.allow)
    }

    /// Decides as the stricter of this policy and a ceiling that it may not go beyond.
    pub(super) fn within(&self, ceiling: Option<&Self>, kind: &str) -> Decision {
        match ceiling.map(|ceiling| ceiling.decide(kind)) {
            Some(refusal @ Decision::Reject { .. }) => refusal,
            _ => self.decide(kind),
        }
    }

    /// Decides.
    pub fn decide(&self, kind: &str) -> Decision {
        let rule = self.rules.iter().find(|rule| rule.kind == kind || rule.kind == "*");
        if rule.is_some_and(|rule| rule.allow) {
            Decision::ApproveOnce
        } else {
            Decision::Reject { feedback: format!("the session's policy does not allow {kind:?}") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_decides_and_the_rest_is_denied() {
        let rule = |kind: &str, allow| Rule { kind: kind.into(), allow };
        let check = |rules: &[Rule], kind, allowed| {
            let decision = Policy::new(rules.to_vec()).decide(kind);
            assert_eq!(decision == Decision::ApproveOnce, allowed, "{rules:?} {kind}");
        };
        check(&[], "shell", false);
        check(&[rule("shell", true)], "shell", true);
        check(&[rule("shell", true)], "write", false);
        check(&[rule("shell", false), rule("*", true)], "shell", false);
        check(&[rule("shell", false), rule("*", true)], "url", true);
        check(&[rule("*", true), rule("shell", false)], "shell", true);
        check(&[rule("read", true)], "", false);
    }

    #[test]
    fn of_a_policy_and_its_ceiling_the_stricter_decides() {
        let allowing = |kinds: &[&str]| {
            Policy::allowing(&kinds.iter().map(|kind| (*kind).to_owned()).collect::<Vec<_>>())
        };
        let check = |policy: &[&str], ceiling: Option<&[&str]>, allowed| {
            let ceiling = ceiling.map(allowing);
            let decision = allowing(policy).within(ceiling.as_ref(), "shell");
            assert_eq!(decision == Decision::ApproveOnce, allowed, "{policy:?} {ceiling:?}");
        };
        check(&["shell"], None, true);
        check(&["shell"], Some(&["*"]), true);
        check(&["*"], Some(&["read"]), false);
        check(&["read"], Some(&["*"]), false);
        check(&[], None, false);
    }

    #[test]
    fn only_decisions_that_the_cli_understands_are_made() {
        let json = |decision| serde_json::to_string(&decision).unwrap();
        assert_eq!(json(Policy::allowing(&["read".into()]).decide("read")), r#"{"kind":"approve-once"}"#);
        let refusal = json(Policy::default().decide("read"));
        assert_eq!(refusal, r#"{"kind":"reject","feedback":"the session's policy does not allow \"read\""}"#);
    }
}
