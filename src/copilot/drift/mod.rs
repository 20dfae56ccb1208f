//! Whether the CLI still is as this room expects: the methods, fields and events that the facade uses, against the schemas that
//! come with a version of the CLI; and what is new in another version.
//!
//! The schemas of the pinned version are checked with all other tests. `make drift` checks the newest.

mod schemas;
mod uses;

use std::{collections::BTreeSet, env, fmt, path::Path};

use schemas::Schemas;
use uses::{Side, uses};

/// A difference that somebody has to look at.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Finding {
    /// The CLI has no more of what the facade uses.
    Gone(String),
    /// The CLI requires what the facade does not send.
    Needed(String),
    /// The CLI has more than the pinned version.
    New(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(what) => write!(f, "gone:   {what}"),
            Self::Needed(what) => write!(f, "needed: {what}"),
            Self::New(what) => write!(f, "new:    {what}"),
        }
    }
}

/// What the facade uses and a CLI of these schemas does not have.
fn missing(schemas: &Schemas) -> BTreeSet<Finding> {
    let mut findings = BTreeSet::new();
    for used in uses() {
        let (subject, side) = (used.subject, used.side);
        let Some(schema) = schemas.of(subject, side) else {
            findings.insert(Finding::Gone(format!("{} {subject}", side.kind())));
            continue;
        };
        let gone = used.paths.iter().filter(|path| !schemas.has(schema, path));
        findings.extend(gone.map(|path| Finding::Gone(format!("{side} {} of {subject}", path.join(".")))));
        if side == Side::Parameters {
            let needed = schemas
                .required(schema)
                .into_iter()
                .filter(|field| !used.paths.iter().any(|path| path.len() == 1 && path[0] == *field));
            findings.extend(needed.map(|field| Finding::Needed(format!("{side} {field} of {subject}"))));
        }
    }
    findings
}

/// What a newer CLI has and the pinned one has not: methods, events, and fields of what the facade uses.
fn news(pinned: &Schemas, newest: &Schemas) -> BTreeSet<Finding> {
    let new = |kind: &str, before: BTreeSet<&str>, now: BTreeSet<&str>| -> Vec<Finding> {
        now.difference(&before).map(|name| Finding::New(format!("{kind} {name}"))).collect()
    };
    let mut findings = BTreeSet::new();
    findings.extend(new("method", pinned.methods(), newest.methods()));
    findings.extend(new("event", pinned.events(), newest.events()));
    for used in uses() {
        let fields = |schemas: &Schemas| -> BTreeSet<String> {
            schemas.of(used.subject, used.side).map(|schema| schemas.fields(schema)).unwrap_or_default()
        };
        let (before, now) = (fields(pinned), fields(newest));
        // What is new as a whole was reported above.
        if !before.is_empty() {
            let of = |field: &String| Finding::New(format!("{} {field} of {}", used.side, used.subject));
            findings.extend(now.difference(&before).map(of));
        }
    }
    findings
}

fn pinned() -> Schemas {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("node_modules/@github");
    let mut packages: Vec<_> = std::fs::read_dir(modules)
        .expect("run `make tools` first")
        .map(|package| package.unwrap().path().join("schemas"))
        .filter(|schemas| schemas.join("api.schema.json").exists())
        .collect();
    packages.sort();
    Schemas::read(packages.first().expect("run `make tools` first"))
}

#[test]
fn all_that_is_used_is_in_the_schemas_of_the_pinned_cli() {
    assert_eq!(missing(&pinned()), BTreeSet::new());
}

#[test]
fn every_method_and_event_that_is_used_is_looked_at() {
    let looked_at = |side| -> BTreeSet<_> {
        uses().into_iter().filter(|used| used.side == side).map(|used| used.subject).collect()
    };
    let methods = looked_at(Side::Parameters);
    assert_eq!(methods, uses::methods_in_the_source().into_iter().collect());
    assert_eq!(methods, looked_at(Side::Result));
}

#[test]
fn what_is_gone_renamed_or_new_is_found() {
    let found = |change: &dyn Fn(&mut Schemas)| {
        let mut changed = pinned();
        change(&mut changed);
        missing(&changed).into_iter().chain(news(&pinned(), &changed)).collect::<Vec<_>>()
    };
    let gone = |what: &str| Finding::Gone(what.into());
    let new = |what: &str| Finding::New(what.into());
    assert_eq!(found(&|_| {}), []);
    assert_eq!(found(&|schemas| schemas.remove_method("session.abort")), [gone("method session.abort")]);
    assert_eq!(found(&|schemas| schemas.remove_event("session.idle")), [gone("event session.idle")]);
    assert_eq!(
        found(&|schemas| schemas.rename("SendResult", "messageId", "promptId")),
        [gone("result messageId of session.send"), new("result promptId of session.send")]
    );
    assert_eq!(
        found(&|schemas| schemas.rename("AssistantMessageDeltaData", "deltaContent", "delta")),
        [
            gone("field deltaContent of assistant.message_delta"),
            new("field delta of assistant.message_delta")
        ]
    );
    assert_eq!(found(&|schemas| schemas.add_event("session.surprise")), [new("event session.surprise")]);
    assert_eq!(found(&|schemas| schemas.add_method("session.undo")), [new("method session.undo")]);
    assert_eq!(
        found(&|schemas| schemas.require("PingRequest", "nonce")),
        [Finding::Needed("parameter nonce of ping".into()), new("parameter nonce of ping")]
    );
}

/// Run by `make drift`, which sets the path of the schemas.
#[test]
#[ignore = "wants the schemas of another version: make drift"]
fn the_newest_cli_is_as_the_pinned_one() {
    let newest = Schemas::read(Path::new(&env::var("CLI_SCHEMAS").expect("make drift says which schemas")));
    let findings: BTreeSet<_> = missing(&newest).into_iter().chain(news(&pinned(), &newest)).collect();
    findings.iter().for_each(|finding| println!("{finding}"));
    assert!(findings.is_empty(), "{} differences", findings.len());
}
