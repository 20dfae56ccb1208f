//! Client certificates: which names in them are whose. Pure.
//!
//! That a certificate is good, TLS has said before; this decides who it is.

use super::{
    caller::{Caller, Means, Roles, Subject, TenantName},
    pattern::Pattern,
    presented::CertificateNames,
    refused::Refused,
};

/// Whose the certificates with a name are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The name.
    pub name: Pattern,
    /// The tenant.
    pub tenant: TenantName,
    /// The subject; `None`: the name that was found.
    pub subject: Option<Subject>,
    /// The roles.
    pub roles: Roles,
}

/// Who a certificate is, by the first rule that knows one of its names.
///
/// # Errors
/// [`Refused::Unknown`] if none does; [`Refused::Malformed`] if the name is longer than a subject may be.
pub(super) fn caller(rules: &[Rule], names: &CertificateNames, by: Means) -> Result<Caller, Refused> {
    let found = rules.iter().find_map(|rule| Some((rule, rule.name.find(names)?)));
    let (rule, name) = found.ok_or(Refused::Unknown)?;
    let subject = match &rule.subject {
        Some(subject) => subject.clone(),
        None => Subject::parse(name)
            .map_err(|_| Refused::Malformed("the name in the certificate is longer than a subject may be"))?,
    };
    Ok(Caller { tenant: rule.tenant.clone(), subject, roles: rule.roles, by })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str, tenant: &str, subject: Option<&str>) -> Rule {
        Rule {
            name: name.parse().unwrap(),
            tenant: TenantName::parse(tenant).unwrap(),
            subject: subject.map(|subject| Subject::parse(subject).unwrap()),
            roles: Roles::default(),
        }
    }

    #[test]
    fn the_first_rule_that_knows_a_name_decides_and_the_name_is_the_subject() {
        let rules = [
            rule("special.example.com", "special", Some("chosen")),
            rule("*.example.com", "acme", None),
            rule("spiffe://example.org/ns/*/sa/*", "mesh", None),
        ];
        let check = |names: CertificateNames, expected: Result<(&str, &str), Refused>| {
            let found = caller(&rules, &names, Means::Certificate);
            let found = found.as_ref().map(|caller| (caller.tenant.as_str(), caller.subject.as_str()));
            assert_eq!(found, expected.as_ref().map(|(a, b)| (*a, *b)));
        };
        let dns = |name: &str| CertificateNames { dns: vec![name.into()], ..CertificateNames::default() };
        check(dns("special.example.com"), Ok(("special", "chosen")));
        check(dns("a.example.com"), Ok(("acme", "a.example.com")));
        check(dns("a.example.org"), Err(Refused::Unknown));
        check(CertificateNames::default(), Err(Refused::Unknown));
        let uri = |path: &str| CertificateNames {
            uri: vec![format!("spiffe://example.org/ns/{path}/sa/b")],
            ..CertificateNames::default()
        };
        check(uri("a"), Ok(("mesh", "spiffe://example.org/ns/a/sa/b")));
        let long = Refused::Malformed("the name in the certificate is longer than a subject may be");
        check(uri(&"a".repeat(300)), Err(long));
    }
}
