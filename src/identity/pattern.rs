//! Patterns for the names in certificates. Pure.
//!
//! A star stands for one part of a name, never for several and never for a piece of one, so that what a pattern lets in can be
//! seen.

use std::str::FromStr;

use super::presented::CertificateNames;

/// A pattern for a name in a certificate: a DNS name (`*.workers.example.com`), a SPIFFE id (`spiffe://example.org/ns/*/sa/chat`)
/// or an e-mail address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Labels in small letters; the first one may be a star.
    Dns(Vec<String>),
    /// The trust domain, and the segments of the path, some of which may be stars.
    Spiffe(Vec<String>),
    /// What stands before the `@`, and the domain in small letters.
    Email(String, String),
}

const STAR: &str = "*";
const SCHEME: &str = "spiffe://";
/// The longest name that is compared, in bytes: a SPIFFE id has no more (SPIFFE-ID, section 2.3), and a DNS name has 253.
const MAX_NAME: usize = 2048;

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write a DNS name (*.example.com: one label for the star), a SPIFFE id (spiffe://example.org/ns/*: one \
                            segment for each star) or an e-mail address";
        let wrong = || FORM.to_owned();
        if text.len() > MAX_NAME || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(wrong());
        }
        let kind = if let Some(id) = text.strip_prefix(SCHEME) {
            let parts = segments(id).ok_or_else(wrong)?;
            // Whose certificates are good must be written out; and a star within a segment would look like one that works.
            if parts[0].contains(STAR) || parts.iter().any(|part| part != STAR && part.contains(STAR)) {
                return Err(wrong());
            }
            Kind::Spiffe(parts)
        } else if text.contains("://") {
            return Err(wrong());
        } else if text.contains('@') {
            let (local, domain) = email(text).ok_or_else(wrong)?;
            Kind::Email(local, domain)
        } else {
            let rest = text.strip_prefix("*.");
            let mut parts = labels(rest.unwrap_or(text)).ok_or_else(wrong)?;
            if rest.is_some() {
                // `*.com` would let in whoever buys a name.
                if parts.len() < 2 {
                    return Err(wrong());
                }
                parts.insert(0, STAR.into());
            }
            Kind::Dns(parts)
        };
        Ok(Self(kind))
    }
}

impl Pattern {
    /// The first name of a certificate that the pattern is for.
    pub(super) fn find<'n>(&self, names: &'n CertificateNames) -> Option<&'n str> {
        let named = |names: &'n [String]| names.iter().map(String::as_str).find(|name| self.matches(name));
        match &self.0 {
            Kind::Dns(_) => {
                let has_others = [&names.dns, &names.uri, &names.email].iter().any(|names| !names.is_empty());
                let common = names.common_name.as_deref().filter(|name| !has_others && self.matches(name));
                named(&names.dns).or(common)
            }
            Kind::Spiffe(_) => named(&names.uri),
            Kind::Email(..) => named(&names.email),
        }
    }

    fn matches(&self, name: &str) -> bool {
        if name.len() > MAX_NAME {
            return false;
        }
        match &self.0 {
            Kind::Dns(pattern) => labels(name).is_some_and(|name| are_alike(pattern, &name)),
            Kind::Spiffe(pattern) => {
                let id = name.strip_prefix(SCHEME).and_then(segments);
                id.is_some_and(|id| are_alike(pattern, &id))
            }
            Kind::Email(local, domain) => email(name).is_some_and(|(l, d)| l == *local && d == *domain),
        }
    }
}

fn are_alike(pattern: &[String], name: &[String]) -> bool {
    pattern.len() == name.len() && pattern.iter().zip(name).all(|(part, other)| part == STAR || part == other)
}

/// The labels of a DNS name in small letters; `None` if it is none. A star is no label.
fn labels(name: &str) -> Option<Vec<String>> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let is_name = name.len() <= 253 && name.split('.').all(is_label);
    is_name.then(|| name.split('.').map(str::to_ascii_lowercase).collect())
}

/// The trust domain and the segments of a SPIFFE id without its scheme; `None` if it is none (SPIFFE-ID, section 2). A star, which
/// no id has, is left for patterns.
fn segments(id: &str) -> Option<Vec<String>> {
    let is_domain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.*".contains(&b);
    let is_path = |b: u8| b.is_ascii_alphanumeric() || b"-_.*".contains(&b);
    let mut parts = id.split('/');
    let domain = parts.next().filter(|domain| !domain.is_empty() && domain.bytes().all(is_domain))?;
    let is_segment =
        |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(is_path);
    let parts: Vec<_> = parts.collect();
    let is_id = parts.iter().all(|part| is_segment(part));
    is_id.then(|| std::iter::once(domain).chain(parts).map(str::to_owned).collect())
}

/// An address of one `@`, with its domain in small letters.
fn email(text: &str) -> Option<(String, String)> {
    let (local, domain) = text.split_once('@')?;
    let is_good =
        !local.is_empty() && !local.contains(['*', '"']) && local.chars().all(|c| c.is_ascii_graphic());
    Some((local.to_owned(), labels(domain)?.join("."))).filter(|_| is_good)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(name: &str) -> CertificateNames {
        let all = vec![name.to_owned()];
        CertificateNames { dns: all.clone(), uri: all.clone(), email: all, ..CertificateNames::default() }
    }

    #[test]
    fn a_star_stands_for_one_whole_part() {
        let check = |pattern: &str, name: &str, expected: bool| {
            let found = pattern.parse::<Pattern>().unwrap().find(&names(name)).is_some();
            assert_eq!(found, expected, "{pattern} {name}");
        };
        check("a.example.com", "A.Example.COM", true);
        check("a.example.com", "b.example.com", false);
        check("*.example.com", "a.example.com", true);
        check("*.example.com", "example.com", false);
        check("*.example.com", "a.b.example.com", false);
        check("*.example.com", "*.example.com", false);
        check("*.example.com", ".example.com", false);
        check("*.example.com", "a.example.com.", false);
        check("*.example.com", "a\0.example.com", false);
        check("localhost", "localhost", true);
        check("spiffe://example.org/ns/*/sa/chat", "spiffe://example.org/ns/prod/sa/chat", true);
        check("spiffe://example.org/ns/*/sa/chat", "spiffe://example.org/ns/prod/x/sa/chat", false);
        check("spiffe://example.org/ns/*/sa/chat", "spiffe://example.org/ns//sa/chat", false);
        check("spiffe://example.org/ns/*", "spiffe://example.org/ns/..", false);
        check("spiffe://example.org/ns/*", "spiffe://example.org/ns/a?b", false);
        check("spiffe://example.org/ns/*", "spiffe://example.org.evil/ns/a", false);
        check("spiffe://example.org/ns/a", "spiffe://example.org/ns/A", false);
        check("spiffe://example.org", "spiffe://example.org", true);
        check("ann@example.com", "ann@EXAMPLE.com", true);
        check("ann@example.com", "Ann@example.com", false);
        check("ann@example.com", "ann@example.com@evil.com", false);
        check("ann@example.com", "bob@example.com", false);
    }

    #[test]
    fn a_pattern_that_lets_in_too_much_or_cannot_match_is_refused() {
        let bad = [
            "",
            "*",
            "*.com",
            "a.*.com",
            "a*.example.com",
            "*.*.example.com",
            "a..b",
            "https://example.com",
            "spiffe://",
            "spiffe://*/a",
            "spiffe://a/b*",
            "spiffe://a/",
            "spiffe://A/b",
            "*@example.com",
            "ann@*.com",
            "@example.com",
            "a b",
            "ä.com",
        ];
        for bad in bad {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_common_name_counts_only_without_other_names() {
        let pattern: Pattern = "a.example.com".parse().unwrap();
        let alone =
            CertificateNames { common_name: Some("a.example.com".into()), ..CertificateNames::default() };
        assert_eq!(pattern.find(&alone), Some("a.example.com"));
        let with_others = CertificateNames { uri: vec!["spiffe://a/b".into()], ..alone };
        assert_eq!(pattern.find(&with_others), None);
    }

    proptest! {
        #[test]
        fn no_text_panics_as_a_pattern_or_as_a_name(pattern in any::<String>(), name in any::<String>()) {
            let _ = pattern.parse::<Pattern>();
            for known in ["*.example.com", "spiffe://example.org/*", "a@example.com"] {
                let found = known.parse::<Pattern>().unwrap().find(&names(&name)).is_some();
                prop_assert!(!found || name.ends_with("example.com") || name.starts_with("spiffe://example.org/"));
            }
        }
    }
}
