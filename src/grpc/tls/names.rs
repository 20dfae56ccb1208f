//! Which names a client's certificate may have: DNS names and URIs, each whole or with a `*` at one end.

use std::str::FromStr;

use crate::grpc::transport::ClientCertificate;

/// Names of which a client's certificate must have one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedNames(Vec<Name>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    /// In lower case.
    Dns(String),
    /// What follows the first label, with its dot, in lower case.
    DnsBelow(String),
    Uri(String),
    /// What comes before the `*`, which ends with a slash.
    UriBelow(String),
}

impl AllowedNames {
    /// Names, of texts as the operator writes them.
    ///
    /// # Errors
    /// If one is neither a DNS name nor a URI; with what to write.
    pub fn parse(texts: &[String]) -> Result<Self, String> {
        texts.iter().map(|text| text.parse()).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a certificate has one of the names. Without names, every certificate does.
    pub(super) fn allow(&self, certificate: &ClientCertificate) -> bool {
        let has = |name: &Name| {
            certificate.dns_names.iter().any(|dns| name.is_dns(dns))
                || certificate.uris.iter().any(|uri| name.is_uri(uri))
        };
        self.0.is_empty() || self.0.iter().any(has)
    }
}

impl Name {
    fn is_dns(&self, dns: &str) -> bool {
        let dns = dns.to_ascii_lowercase();
        match self {
            Self::Dns(name) => *name == dns,
            // One label, which is no `*` itself.
            Self::DnsBelow(rest) => dns
                .strip_suffix(rest.as_str())
                .is_some_and(|label| !label.is_empty() && !label.contains(['.', '*'])),
            Self::Uri(_) | Self::UriBelow(_) => false,
        }
    }

    fn is_uri(&self, uri: &str) -> bool {
        match self {
            Self::Uri(name) => name == uri,
            Self::UriBelow(start) => uri.strip_prefix(start.as_str()).is_some_and(is_plain_path),
            Self::Dns(_) | Self::DnsBelow(_) => false,
        }
    }
}

/// Whether a path stays below where it begins, however it is read.
fn is_plain_path(path: &str) -> bool {
    !path.contains(['%', '?', '#', '\\']) && path.split('/').all(|step| !matches!(step, "" | "." | ".."))
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write DNS names such as client.example.org or *.example.org, and URIs such as \
                            spiffe://example.org/backend or spiffe://example.org/ns/*, with commas between them";
        let name = match (text.split_once("://"), text.strip_prefix("*.")) {
            (Some((scheme, rest)), _) if !scheme.is_empty() && !rest.starts_with(['/', '*']) => {
                match text.strip_suffix('*') {
                    Some(start) if start.ends_with('/') => Self::UriBelow(start.into()),
                    _ => Self::Uri(text.into()),
                }
            }
            (None, Some(rest)) => Self::DnsBelow(format!(".{}", rest.to_ascii_lowercase())),
            _ => Self::Dns(text.to_ascii_lowercase()),
        };
        let is_good = match &name {
            Self::Dns(name) => is_dns_name(name),
            Self::DnsBelow(rest) => is_dns_name(&rest[1..]),
            Self::Uri(uri) | Self::UriBelow(uri) => !uri.contains(|c: char| c == '*' || c.is_whitespace()),
        };
        if is_good { Ok(name) } else { Err(FORM.into()) }
    }
}

fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_needs_one_of_the_names() {
        let check = |allowed: &[&str], dns: &[&str], uris: &[&str], expected: bool| {
            let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
            let names = AllowedNames::parse(&texts(allowed)).unwrap();
            let certificate =
                ClientCertificate { dns_names: texts(dns), uris: texts(uris), ..Default::default() };
            assert_eq!(names.allow(&certificate), expected, "{allowed:?}: {dns:?}, {uris:?}");
        };
        check(&[], &[], &[], true);
        check(&["a.org"], &[], &[], false);
        check(&["a.org"], &["A.org"], &[], true);
        check(&["a.org"], &["b.a.org", "a.orgs"], &[], false);
        check(&["a.org", "b.org"], &["x.org", "b.org"], &[], true);
        check(&["*.A.org"], &["b.a.org"], &[], true);
        check(&["*.a.org"], &["a.org", "c.b.a.org", ".a.org", "*.a.org", "xa.org"], &[], false);
        check(&["spiffe://a.org/x"], &[], &["spiffe://a.org/x"], true);
        check(
            &["spiffe://a.org/x"],
            &[],
            &["spiffe://a.org/x/y", "spiffe://a.org/", "spiffe://b.org/x"],
            false,
        );
        check(&["spiffe://a.org/ns/*"], &[], &["spiffe://a.org/ns/prod/sa/web"], true);
        check(
            &["spiffe://a.org/ns/*"],
            &["spiffe"],
            &[
                "spiffe://a.org/ns/",
                "spiffe://a.org/nsx",
                "spiffe://a.org/ns/../x",
                "spiffe://a.org/ns/a//b",
                "spiffe://a.org/ns/%2e%2e/x",
                "spiffe://b.org/ns/x",
            ],
            false,
        );
        // What looks like another kind of name is none.
        check(&["a.org"], &[], &["a.org"], false);
        check(&["spiffe://a.org/x"], &["spiffe://a.org/x"], &[], false);
    }

    #[test]
    fn what_is_neither_a_name_nor_a_uri_is_refused() {
        for text in [
            "*",
            "*.",
            "",
            "a b",
            "a.*.org",
            "a..org",
            "spiffe://*/x",
            "spiffe:///x",
            "spiffe://a/*/b",
            "://a",
            "me@a.org",
        ] {
            assert!(AllowedNames::parse(&[text.into()]).is_err(), "{text}");
        }
    }
}
