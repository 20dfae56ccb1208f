//! What the agent's tools may do. Pure.

use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

/// The kinds of permission that the CLI asks for (cli-protocol.md, section 7.3), without those for its own extensions.
pub const KINDS: &[&str] = &["shell", "write", "read", "mcp", "url", "memory", "custom-tool"];

/// What a session's tools may do. The first rule that matches decides; what no rule matches is denied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Policy {
    rules: Vec<Rule>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// What it is about: one of [`KINDS`], or `*`.
    pub kind: String,
    /// Which of these: a text in which `*` stands for any text and `?` for any character. Empty: all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pattern: String,
    /// What it does.
    pub effect: Effect,
}

/// What a rule does; the stricter is the smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// The tool is refused.
    Deny,
    /// The session's callers are asked.
    Ask,
    /// The tool may go ahead.
    Allow,
}

impl Policy {
    /// A policy of these rules.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    /// A policy that allows these kinds.
    pub fn allowing(kinds: &[String]) -> Self {
        let rule = |kind: &String| Rule { kind: kind.clone(), pattern: String::new(), effect: Effect::Allow };
        Self { rules: kinds.iter().map(rule).collect() }
    }

    /// Whether nothing at all can be allowed, so that the CLI need not ask.
    pub fn denies_all(&self) -> bool {
        self.rules.iter().all(|rule| rule.effect == Effect::Deny)
    }

    /// Decides as the stricter of this policy and a ceiling that it may not go beyond.
    pub(in crate::session) fn within(&self, ceiling: Option<&Self>, kind: &str, subject: &str) -> Effect {
        let own = self.decide(kind, subject);
        ceiling.map_or(own, |ceiling| own.min(ceiling.decide(kind, subject)))
    }

    /// Decides on a request of this kind that is about `subject`: a command, a path, a URL, a tool.
    pub fn decide(&self, kind: &str, subject: &str) -> Effect {
        self.rules.iter().find(|rule| rule.matches(kind, subject)).map_or(Effect::Deny, |rule| rule.effect)
    }
}

impl Rule {
    fn matches(&self, kind: &str, subject: &str) -> bool {
        (self.kind == kind || self.kind == "*")
            && (self.pattern.is_empty()
                || WildMatch::new(&self.pattern).matches(subject) && !self.is_tricked(kind, subject))
    }

    /// Whether a subject is more than the pattern that allows it seems to say: `git *` is not to allow
    /// `git status; rm -rf .`, and `/tmp/*` not `/tmp/../etc/passwd`.
    fn is_tricked(&self, kind: &str, subject: &str) -> bool {
        let tricks = match kind {
            "shell" => subject.contains(|c| SHELL_OPERATORS.contains(c) && !self.pattern.contains(c)),
            "read" | "write" | "url" => subject.split('/').any(|part| part == ".."),
            _ => false,
        };
        tricks && self.effect == Effect::Allow
    }
}

/// What starts another command, or writes a file.
const SHELL_OPERATORS: &str = ";&|`$<>()\n\r";

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(kind: &str, pattern: &str, effect: Effect) -> Rule {
        Rule { kind: kind.into(), pattern: pattern.into(), effect }
    }

    #[test]
    fn the_first_rule_that_matches_decides_and_the_rest_is_denied() {
        use Effect::{Allow, Ask, Deny};
        let check = |rules: &[Rule], kind, subject, expected| {
            assert_eq!(
                Policy::new(rules.to_vec()).decide(kind, subject),
                expected,
                "{rules:?} {kind} {subject}"
            );
        };
        let all = |kind, effect| rule(kind, "", effect);
        check(&[], "shell", "ls", Deny);
        check(&[all("shell", Allow)], "shell", "ls; rm x", Allow);
        check(&[all("shell", Allow)], "write", "/x", Deny);
        check(&[all("shell", Deny), all("*", Allow)], "shell", "ls", Deny);
        check(&[all("shell", Deny), all("*", Ask)], "url", "https://x", Ask);
        check(&[all("*", Allow), all("shell", Deny)], "shell", "ls", Allow);
        check(&[all("read", Allow)], "", "", Deny);
        check(&[rule("write", "/tmp/*", Allow), all("write", Ask)], "write", "/tmp/a/b", Allow);
        check(&[rule("write", "/tmp/*", Allow), all("write", Ask)], "write", "/etc/x", Ask);
        check(&[rule("mcp", "files-?ead", Allow)], "mcp", "files-read", Allow);
        check(&[rule("mcp", "files-?ead", Allow)], "mcp", "files-write", Deny);
    }

    #[test]
    fn a_pattern_that_allows_a_command_does_not_allow_what_is_chained_to_it() {
        let git = Policy::new(vec![rule("shell", "git *", Effect::Allow)]);
        let check = |command: &str, allowed| {
            assert_eq!(git.decide("shell", command) == Effect::Allow, allowed, "{command}");
        };
        check("git status", true);
        check("git log --oneline -3", true);
        for more in ["; ls", " && ls", " | sh", " > x", " $(ls)", " `ls`", "\nls", " & ls"] {
            check(&format!("git status{more}"), false);
        }
        let piped = Policy::new(vec![rule("shell", "git * | head", Effect::Allow)]);
        assert_eq!(piped.decide("shell", "git log | head"), Effect::Allow);
        let refused =
            Policy::new(vec![rule("shell", "*rm *", Effect::Deny), rule("shell", "", Effect::Allow)]);
        assert_eq!(refused.decide("shell", "ls; rm x"), Effect::Deny);
    }

    #[test]
    fn a_pattern_that_allows_a_place_does_not_allow_what_is_reached_from_there() {
        let check = |kind, pattern, subject, allowed| {
            let policy = Policy::new(vec![rule(kind, pattern, Effect::Allow)]);
            assert_eq!(policy.decide(kind, subject) == Effect::Allow, allowed, "{subject}");
        };
        for kind in ["read", "write"] {
            check(kind, "/tmp/*", "/tmp/..a/b..", true);
            check(kind, "/tmp/*", "/tmp/../etc/passwd", false);
            check(kind, "/tmp/*", "/tmp/a/..", false);
            check(kind, "", "/tmp/../etc/passwd", true);
        }
        check("url", "https://host/a/*", "https://host/a/b", true);
        check("url", "https://host/a/*", "https://host/a/../b", false);
        let refused =
            Policy::new(vec![rule("read", "/etc/*", Effect::Deny), rule("read", "", Effect::Allow)]);
        assert_eq!(refused.decide("read", "/etc/../etc/passwd"), Effect::Deny);
    }

    #[test]
    fn of_a_policy_and_its_ceiling_the_stricter_decides() {
        use Effect::{Allow, Ask, Deny};
        let git = |effect| Policy::new(vec![rule("shell", "git *", effect), rule("read", "", Allow)]);
        let check = |policy, ceiling: Option<Effect>, subject, expected| {
            let ceiling = ceiling.map(git);
            let decided = git(policy).within(ceiling.as_ref(), "shell", subject);
            assert_eq!(decided, expected, "{policy:?} {ceiling:?} {subject}");
        };
        for effect in [Allow, Ask, Deny] {
            check(effect, None, "git log", effect);
            check(effect, Some(Allow), "git log", effect);
            check(Allow, Some(effect), "git log", effect);
            check(effect, Some(Deny), "git log", Deny);
            check(Deny, Some(effect), "git log", Deny);
        }
        check(Ask, Some(Ask), "git log", Ask);
        check(Allow, Some(Allow), "git log; ls", Deny);
        let all = Policy::new(vec![rule("*", "", Allow)]);
        assert_eq!(all.within(Some(&git(Ask)), "shell", "git log"), Ask);
        assert_eq!(all.within(Some(&git(Ask)), "shell", "ls"), Deny);
        assert_eq!(git(Ask).within(Some(&all), "shell", "git log"), Ask);
        assert_eq!(all.within(Some(&Policy::default()), "read", "/x"), Deny);
    }

    #[test]
    fn the_stricter_effect_is_the_smaller() {
        assert!(Effect::Deny < Effect::Ask && Effect::Ask < Effect::Allow);
    }
}
