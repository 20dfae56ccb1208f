//! The operator's profiles: the tables `[profiles.NAME]` of the TOML file, and all mistakes in them.
//!
//! They have neither flags nor variables. Keys and tokens are not in them: they name a file or a variable, which is read once,
//! here.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use toml::{Table, Value};

use super::{
    section::Section,
    text::{DURATION, any, base_url, headers, one_of, tokens, tool, within},
};
use crate::{
    app::settings::Values,
    copilot::{Provider, SystemMessage},
    session::{Effect, PERMISSION_KINDS, Policy, Profile, Rule},
};

/// The range of the ages of sessions. One that is closed before its first turn ends is useless, except in tests; a thousand
/// years are for ever.
pub(super) const AGES: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(1000 * 365 * 24 * 60 * 60);

/// The profiles of the file.
pub(super) fn profiles(values: &mut Values<'_>) -> Vec<Profile> {
    let Some((file, value)) = values.table("profiles") else { return Vec::new() };
    let Value::Table(tables) = value else {
        let mut section = Section::new(values, file, "profiles".into(), Table::new());
        section.refuse_itself("write a table [profiles.NAME] for each profile");
        return Vec::new();
    };
    let mut profiles = Vec::new();
    for (name, value) in tables {
        let mut section = Section::new(values, file.clone(), format!("profiles.{name}"), Table::new());
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_name) {
            section.refuse_itself("a profile's name consists of 1 to 64 of A-Z a-z 0-9 _ and -");
        }
        match value {
            Value::Table(table) => {
                section.rest = table;
                profiles.push(profile(section, name));
            }
            other => section.refuse_itself(format!("this is a TOML {}: write a table", other.type_str())),
        }
    }
    profiles
}

fn profile(mut section: Section<'_, '_>, name: String) -> Profile {
    let policy = policy(&mut section);
    let profile = Profile {
        provider: section.table("provider").map(|section| Arc::new(provider(section))),
        github_token: section.secret("github_token"),
        models: section.list("models", any).unwrap_or_default(),
        available_tools: section.list("available_tools", tool),
        excluded_tools: section.list("excluded_tools", tool).unwrap_or_default(),
        policy,
        system_message: system_message(&mut section),
        max_session_age: section.text("max_session_age", within(AGES, DURATION)),
        max_session_idle: section.text("max_session_idle", within(AGES, DURATION)),
        name,
    };
    section.done();
    profile
}

fn provider(mut section: Section<'_, '_>) -> Provider {
    if !section.rest.contains_key("base_url") {
        section.refuse("base_url", "is missing: write where the provider's API is", None);
    }
    let provider = Provider {
        kind: section.text("type", one_of(&["openai", "azure", "anthropic"])),
        wire_api: section.text("wire_api", one_of(&["completions", "responses"])),
        transport: section.text("transport", one_of(&["http", "websockets"])),
        // A URL can carry a password or a key, so it is not shown.
        base_url: section.hidden("base_url", base_url).unwrap_or_default(),
        api_key: section.secret("api_key"),
        bearer_token: section.secret("bearer_token"),
        azure_api_version: section.text("azure_api_version", any),
        headers: section.secret_as("headers", headers).unwrap_or_default(),
        model_id: section.text("model_id", any),
        wire_model: section.text("wire_model", any),
        max_prompt_tokens: section.text("max_prompt_tokens", tokens),
        max_output_tokens: section.text("max_output_tokens", tokens),
    };
    section.done();
    provider
}

/// The permission policy: the kinds that are allowed, or rules.
fn policy(section: &mut Section<'_, '_>) -> Option<Policy> {
    let has = |key| section.rest.contains_key(key);
    if has("allow_permissions") && has("permissions") {
        section.refuse("permissions", "write either this or allow_permissions", None);
    }
    let allowed = section.list("allow_permissions", one_of(PERMISSION_KINDS));
    let rules = section.tables("permissions", rule);
    rules
        .map(|rules| Policy::new(rules.into_iter().flatten().collect()))
        .or_else(|| allowed.map(|kinds| Policy::allowing(&kinds)))
}

fn rule(mut section: Section<'_, '_>) -> Option<Rule> {
    let kinds: Vec<_> = PERMISSION_KINDS.iter().copied().chain(["*"]).collect();
    section.require(&["kind", "effect"]);
    let kind = section.text("kind", one_of(&kinds));
    let pattern = section.text("pattern", any).unwrap_or_default();
    let effect = section.text("effect", effect);
    section.done();
    Some(Rule { kind: kind?, pattern, effect: effect? })
}

fn effect(text: &str) -> Result<Effect, String> {
    match text {
        "allow" => Ok(Effect::Allow),
        "ask" => Ok(Effect::Ask),
        "deny" => Ok(Effect::Deny),
        _ => Err("write one of allow, ask, deny".into()),
    }
}

/// Reads the system message: a text, or a table with a text or a file, and with a mode.
fn system_message(profile: &mut Section<'_, '_>) -> Option<SystemMessage> {
    const KEY: &str = "system_message";
    if profile.rest.get(KEY).is_some_and(Value::is_str) {
        let content = profile.text(KEY, any);
        return content
            .map(|text| SystemMessage::Customize { content: Some(text), sections: Default::default() });
    }
    let mut section = profile.table(KEY)?;
    let mode = section.text("mode", one_of(&["append", "replace"]));
    let text = section.text("text", any);
    let file = section.text("file", any);
    let content = match (text, file) {
        (Some(text), None) => Some(text),
        (None, Some(file)) => section.read("file", &file).map(|text| text.to_string()),
        (Some(_), Some(_)) => {
            section.refuse("file", "write either this or text", None);
            None
        }
        (None, None) => {
            section.refuse("text", "is missing: write the text, or the name of its file as file", None);
            None
        }
    };
    section.done();
    let content = content?;
    Some(match mode.as_deref() {
        Some("replace") => SystemMessage::Replace { content },
        _ => SystemMessage::Customize { content: Some(content), sections: Default::default() },
    })
}
