//! The settings of who is let in: the token file, the proxies that are trusted, and the tables `[[jwt]]`, `[[certificate]]` and
//! `[[unix_user]]` of the TOML file.

use std::{collections::BTreeMap, ops::RangeInclusive, path::Path, time::Duration};

use toml::{Table, Value};

use super::{
    section::Section,
    text::{DURATION, any, within},
};
use crate::{
    app::settings::{Mistake, Origin, Values},
    identity::{
        Algorithm, Authorities, Issuer, KeySet, Pattern, Role, Roles, Rule, Settings, Source, Subject,
        TenantFrom, TenantName, TokenFile, Tokens, User,
    },
};

/// Zero: clocks agree. With more than five minutes a token would outlive its end by more than most live.
const SKEWS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(5 * 60);
const USUAL_SKEW: Duration = Duration::from_secs(60);
const TOKEN_FILE: &str = "token_file";

/// Who is let in, and how they show it; `None`: nothing is configured.
pub(super) fn identity(values: &mut Values<'_>) -> Option<Settings> {
    let tokens = token_file(values);
    let trusted_proxies = values.read("trusted_proxies", patterns).unwrap_or_default();
    let mut seen = Vec::new();
    let issuers = each(values, "jwt", |section| issuer(section, &mut seen));
    let certificates = each(values, "certificate", rule);
    let mut seen = Vec::new();
    let users = each(values, "unix_user", |section| user(section, &mut seen));
    let is_empty = tokens.is_none()
        && trusted_proxies.is_empty()
        && issuers.is_empty()
        && certificates.is_empty()
        && users.is_empty();
    (!is_empty).then_some(Settings { tokens, issuers, certificates, trusted_proxies, users })
}

/// Whether all callers are to be trusted, which is not to be said beside ways to ask them.
pub(super) fn trusts_callers(values: &mut Values<'_>, asks_who: bool) -> Option<()> {
    const TRUST: &str = "trust";
    let trusted = values.read(TRUST, |text| match text.trim() {
        "callers" => Ok(()),
        _ => {
            Err("write callers, or leave it out and say how callers show who they are, such as by token_file"
                .into())
        }
    });
    if asks_who && values.origin(TRUST).is_some() {
        values.refuse(TRUST, "callers are asked who they are, and so are not all trusted: leave this out, or the ways to ask them");
    }
    trusted
}

fn patterns(text: &str) -> Result<Vec<Pattern>, String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::parse).collect()
}

fn token_file(values: &mut Values<'_>) -> Option<TokenFile> {
    let path = values.path(TOKEN_FILE)?;
    // The path is not shown: somebody may have taken the setting for a token itself.
    let text = match values.env().read(&path) {
        Ok(text) => text,
        Err(error) => {
            values.refuse(TOKEN_FILE, format!("the file cannot be read: {error}"));
            return None;
        }
    };
    match Tokens::parse(&text) {
        Ok(tokens) => Some(TokenFile { path, tokens }),
        Err(mistakes) => {
            for (key, problem) in mistakes {
                values.note(Mistake::new(Origin::Key { file: path.clone(), key }, problem));
            }
            None
        }
    }
}

/// Reads each table of an array of the file.
fn each<T>(
    values: &mut Values<'_>,
    name: &str,
    mut read: impl FnMut(Section<'_, '_>) -> Option<T>,
) -> Vec<T> {
    let Some((file, value)) = values.table(name) else { return Vec::new() };
    let Value::Array(tables) = value else {
        let mut section = Section::new(values, file, name.into(), Table::new());
        section.refuse_itself(format!("write [[{name}]] above each table"));
        return Vec::new();
    };
    let mut all = Vec::new();
    for (n, table) in tables.into_iter().enumerate() {
        let mut section = Section::new(values, file.clone(), format!("{name}[{n}]"), Table::new());
        match table {
            Value::Table(table) => {
                section.rest = table;
                all.extend(read(section));
            }
            _ => section.refuse_itself("write a table"),
        }
    }
    all
}

fn issuer(mut section: Section<'_, '_>, seen: &mut Vec<String>) -> Option<Issuer> {
    section.require(&["issuer", "audiences", "jwks"]);
    let name = section.text("issuer", |name| {
        let is_new = !seen.iter().any(|other| other == name);
        is_new
            .then(|| name.to_owned())
            .ok_or_else(|| "stands above, too: write one table for each issuer".into())
    });
    seen.extend(name.clone());
    let audiences = section.list("audiences", any);
    if audiences.as_ref().is_some_and(Vec::is_empty) {
        section.refuse(
            "audiences",
            "name at least one: without it, tokens for other services would be let in",
            None,
        );
    }
    let source = source(&mut section);
    let algorithms = section.list("algorithms", |name| name.parse::<Algorithm>());
    if algorithms.as_ref().is_some_and(Vec::is_empty) {
        section.refuse("algorithms", "name at least one, or leave it out", None);
    }
    let skew = section.text("skew", within(SKEWS, DURATION));
    let tenant = tenant_from(&mut section);
    let subject_claim = section.text("subject_claim", any);
    let (has_claim, has_roles) =
        (section.rest.contains_key("roles_claim"), section.rest.contains_key("roles"));
    if has_claim != has_roles {
        let key = if has_claim { "roles_claim" } else { "roles" };
        section.refuse(
            key,
            "write roles_claim and roles, which says what the names in the claim mean, or neither",
            None,
        );
    }
    let roles_claim = section.text("roles_claim", any);
    let roles = meanings(&mut section);
    section.done();
    Some(Issuer {
        issuer: name?.into(),
        audiences: audiences?,
        source: source?,
        algorithms: algorithms.unwrap_or_else(|| Algorithm::USUAL.into()),
        skew: skew.unwrap_or(USUAL_SKEW),
        tenant: tenant?,
        subject_claim: subject_claim.unwrap_or_else(|| "sub".into()),
        roles_claim,
        roles,
    })
}

/// Where the keys are. Those of a file are looked at here, so that a wrong path is told at the start.
fn source(section: &mut Section<'_, '_>) -> Option<Source> {
    let jwks = section.text("jwks", any);
    let authorities = section.text("ca_file", any).and_then(|path| {
        let pem = section.read("ca_file", &path)?;
        let parsed = Authorities::parse(pem.as_bytes());
        parsed.map_err(|problem| section.refuse("ca_file", problem, Some(&path))).ok()
    });
    let jwks = jwks?;
    if Path::new(&jwks).is_absolute() {
        let json = section.read("jwks", &jwks)?;
        let parsed = KeySet::parse(json.as_bytes());
        return parsed
            .map_err(|problem| section.refuse("jwks", problem, Some(&jwks)))
            .ok()
            .map(|_| Source::File(jwks.into()));
    }
    match jwks.parse() {
        Ok(at) => Some(Source::Url { at, authorities }),
        Err(problem) => {
            // A URL can carry a password.
            section.refuse("jwks", format!("{problem}, or the absolute path of a file"), None);
            None
        }
    }
}

fn tenant_from(section: &mut Section<'_, '_>) -> Option<TenantFrom> {
    let name = section.text("tenant", tenant);
    let claim = section.text("tenant_claim", any);
    match (name, claim) {
        (Some(name), None) => Some(TenantFrom::Name(name)),
        (None, Some(claim)) => Some(TenantFrom::Claim(claim)),
        (Some(_), Some(_)) => {
            section.refuse("tenant_claim", "write either this or tenant", None);
            None
        }
        (None, None) => {
            section.refuse(
                "tenant",
                "is missing: write the tenant, or the claim with it as tenant_claim",
                None,
            );
            None
        }
    }
}

/// What an issuer's names of roles mean here.
fn meanings(section: &mut Section<'_, '_>) -> BTreeMap<String, Role> {
    if !section.rest.contains_key("roles") {
        return BTreeMap::new();
    }
    let Some(mut table) = section.table("roles") else { return BTreeMap::new() };
    let names: Vec<_> = table.rest.keys().cloned().collect();
    let meaning = |name: String| Some((name.clone(), table.text(&name, |role| role.parse::<Role>())?));
    names.into_iter().filter_map(meaning).collect()
}

fn rule(mut section: Section<'_, '_>) -> Option<Rule> {
    section.require(&["name", "tenant"]);
    let name = section.text("name", |name| name.parse::<Pattern>());
    let tenant = section.text("tenant", tenant);
    let subject = section.text("subject", subject);
    let roles = roles(&mut section);
    section.done();
    Some(Rule { name: name?, tenant: tenant?, subject, roles })
}

fn user(mut section: Section<'_, '_>, seen: &mut Vec<u32>) -> Option<User> {
    section.require(&["uid", "tenant", "subject"]);
    let uid = section.text("uid", |text| {
        let uid = text.parse().map_err(|_| "write the number of a user, as `id -u` prints it".to_owned())?;
        if seen.contains(&uid) {
            Err("stands above, too: write one table for each user".into())
        } else {
            Ok(uid)
        }
    });
    seen.extend(uid);
    let tenant = section.text("tenant", tenant);
    let subject = section.text("subject", subject);
    let roles = roles(&mut section);
    section.done();
    Some(User { uid: uid?, tenant: tenant?, subject: subject?, roles })
}

fn roles(section: &mut Section<'_, '_>) -> Roles {
    if !section.rest.contains_key("roles") {
        return Roles::default();
    }
    section.list("roles", |role| role.parse::<Role>()).into_iter().flatten().collect()
}

fn tenant(text: &str) -> Result<TenantName, String> {
    TenantName::parse(text).map_err(|error| error.to_string())
}

fn subject(text: &str) -> Result<Subject, String> {
    Subject::parse(text).map_err(|error| error.to_string())
}
