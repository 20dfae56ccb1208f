//! New sessions.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::*;
use crate::{
    copilot::{Provider, Secret, Section, Settings, SystemMessage},
    grpc::{pb, violation::Violation},
    session::{Blueprint, Effect, Policy, Profile, Profiles, Rule},
};

fn provider() -> pb::Provider {
    pb::Provider {
        r#type: "azure".into(),
        base_url: "https://api.example.com/v1".into(),
        api_key: SECRET.into(),
        bearer_token: "bearer".into(),
        wire_api: "responses".into(),
        headers: BTreeMap::from([("X-Team".into(), "a b".into())]),
        azure_api_version: "2026-01-01".into(),
        model_id: "gpt-5".into(),
        wire_model: "deployment".into(),
        max_prompt_tokens: 1000,
        max_output_tokens: 100,
    }
}

fn request() -> pb::CreateSessionRequest {
    pb::CreateSessionRequest {
        session_id: String::new(),
        model: "gpt".into(),
        provider: Some(provider()),
        system_message: Some(system_message(pb::SystemMessageMode::Append, "be brief", &[])),
        available_tools: vec!["bash".into(), "builtin:view".into(), "builtin:*".into()],
        excluded_tools: vec!["builtin:task".into()],
        permission_policy: Some(pb::PermissionPolicy {
            rules: vec![
                rule("shell", "git *", pb::PermissionEffect::Ask),
                rule("shell", "", pb::PermissionEffect::Deny),
                rule("*", "", pb::PermissionEffect::Allow),
            ],
        }),
        labels: BTreeMap::from([("team".into(), "blue".into()), ("a/b.c_d-E".into(), String::new())]),
        working_directory: "/work".into(),
        reasoning_effort: "low".into(),
        request_id: "once".into(),
        ask_timeout: Some(seconds(90)),
        user_input: true,
        elicitation: true,
        exit_plan: true,
        ..Default::default()
    }
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

fn system_message(
    mode: pb::SystemMessageMode,
    content: &str,
    sections: &[(&str, pb::SectionAction, &str)],
) -> pb::SystemMessage {
    let section = |(name, action, content): &(&str, pb::SectionAction, &str)| {
        (
            (*name).to_owned(),
            pb::SystemMessageSection { action: (*action).into(), content: (*content).into() },
        )
    };
    let sections = sections.iter().map(section).collect();
    pb::SystemMessage { mode: mode.into(), content: content.into(), sections }
}

#[test]
fn a_system_message_is_appended_replaced_or_customized() {
    use pb::{SectionAction as Do, SystemMessageMode as Mode};
    let content = || Some("text".to_owned());
    let parsed = |message| asked(|checks| checks.system_message(message));
    let customize = |content, sections: &[(&str, Section)]| SystemMessage::Customize {
        content,
        sections: sections.iter().map(|(name, section)| ((*name).into(), section.clone())).collect(),
    };
    assert_eq!(parsed(None), Ok(SystemMessage::default()));
    assert_eq!(parsed(Some(system_message(Mode::Append, "text", &[]))), Ok(customize(content(), &[])));
    let replaced = SystemMessage::Replace { content: "text".into() };
    assert_eq!(parsed(Some(system_message(Mode::Replace, "text", &[]))), Ok(replaced));
    let sections = [
        ("a", Do::Preserve, ""),
        ("b", Do::Remove, ""),
        ("c", Do::Replace, "x"),
        ("d", Do::Append, "x"),
        ("e", Do::Prepend, "x"),
    ];
    let text = || "x".to_owned();
    let expected = [
        ("a", Section::Preserve),
        ("b", Section::Remove),
        ("c", Section::Replace { content: text() }),
        ("d", Section::Append { content: text() }),
        ("e", Section::Prepend { content: text() }),
    ];
    assert_eq!(parsed(Some(system_message(Mode::Customize, "", &sections))), Ok(customize(None, &expected)));
    let refused = |message, fields: &str| assert_eq!(parsed(Some(message)), Err(fields.into()));
    refused(system_message(Mode::Unspecified, "text", &[]), "system_message.mode");
    refused(system_message(Mode::Append, " ", &[]), "system_message.content");
    refused(system_message(Mode::Replace, "", &[]), "system_message.content");
    refused(system_message(Mode::Append, "text", &sections[..1]), "system_message.sections");
    let section = |action| system_message(Mode::Customize, "", &[("a", action, "")]);
    refused(section(Do::Unspecified), "system_message.sections[\"a\"].action");
    refused(section(Do::Replace), "system_message.sections[\"a\"].content");
}

fn rule(kind: &str, pattern: &str, effect: pb::PermissionEffect) -> pb::PermissionRule {
    pb::PermissionRule { kind: kind.into(), pattern: pattern.into(), effect: effect.into() }
}

fn parse_all(request: pb::CreateSessionRequest, defaults: &Defaults) -> Result<Blueprint, Vec<Violation>> {
    let mut checks = Checks::default();
    let blueprint = checks.blueprint(request, defaults);
    checks.done(Some(blueprint))
}

fn parse(
    request: pb::CreateSessionRequest,
    defaults: &Defaults,
) -> Result<(Settings, Policy), Vec<Violation>> {
    parse_all(request, defaults).map(|blueprint| (blueprint.settings, blueprint.policy))
}

#[test]
fn labels_are_passed_on_and_it_is_noted_whose_provider_it_is() {
    let check = |request: pb::CreateSessionRequest, defaults: &Defaults, operators_provider| {
        assert_eq!(parse_all(request, defaults).unwrap().operators_provider, operators_provider);
    };
    let labels = parse_all(request(), &Defaults::default()).unwrap().labels;
    assert_eq!(labels, BTreeMap::from([("team".into(), "blue".into()), ("a/b.c_d-E".into(), String::new())]));
    let operator = Provider { base_url: "http://localhost".into(), ..Provider::default() };
    let defaults =
        Defaults { provider: Some(operator.into()), model: Some("m".into()), ..Defaults::default() };
    check(request(), &defaults, false);
    check(pb::CreateSessionRequest::default(), &defaults, true);
    check(pb::CreateSessionRequest::default(), &Defaults::default(), false);
}

#[test]
fn a_good_request_is_passed_on_whole() {
    let (settings, policy) = parse(request(), &Defaults::default()).unwrap();
    let expected = Settings {
        model: Some("gpt".into()),
        provider: Some(Arc::new(Provider {
            kind: Some("azure".into()),
            wire_api: Some("responses".into()),
            transport: None,
            base_url: "https://api.example.com/v1".into(),
            api_key: Some(Secret::new(SECRET)),
            bearer_token: Some(Secret::new("bearer")),
            azure_api_version: Some("2026-01-01".into()),
            headers: BTreeMap::from([("X-Team".into(), Secret::new("a b"))]),
            model_id: Some("gpt-5".into()),
            wire_model: Some("deployment".into()),
            max_prompt_tokens: Some(1000),
            max_output_tokens: Some(100),
        })),
        reasoning_effort: Some("low".into()),
        system_message: SystemMessage::Customize {
            content: Some("be brief".into()),
            sections: BTreeMap::new(),
        },
        available_tools: vec!["bash".into(), "builtin:view".into(), "builtin:*".into()],
        excluded_tools: vec!["builtin:task".into()],
        ask_permission: true,
        user_input: true,
        elicitation: true,
        exit_plan: true,
        working_directory: Some("/work".into()),
        ..Settings::default()
    };
    assert_eq!(settings, expected);
    let rules = [("shell", "git *", Effect::Ask), ("shell", "", Effect::Deny), ("*", "", Effect::Allow)];
    let rule = |(kind, pattern, effect): (&str, &str, _)| Rule {
        kind: kind.into(),
        pattern: pattern.into(),
        effect,
    };
    let rules = rules.map(rule);
    assert_eq!(policy, Policy::new(rules.into()));
}

#[test]
fn what_a_request_does_not_say_is_left_to_the_cli() {
    let (settings, policy) = parse(pb::CreateSessionRequest::default(), &Defaults::default()).unwrap();
    assert_eq!((settings, policy), (Settings::default(), Policy::default()));
    let bare = pb::Provider { base_url: "http://localhost".into(), ..Default::default() };
    let request =
        pb::CreateSessionRequest { model: " gpt ".into(), provider: Some(bare), ..Default::default() };
    let (settings, _) = parse(request, &Defaults::default()).unwrap();
    let expected = Provider { base_url: "http://localhost".into(), ..Provider::default() };
    assert_eq!((settings.provider.as_deref(), settings.model.as_deref()), (Some(&expected), Some("gpt")));
}

#[test]
fn defaults_apply_only_where_the_request_is_silent() {
    let defaults = Defaults {
        model: Some("default-model".into()),
        provider: Some(Arc::new(Provider { base_url: "http://default".into(), ..Provider::default() })),
        available_tools: vec!["default-tool".into()],
        policy: Policy::allowing(&["read".into()]),
        ask_timeout: None,
    };
    let (settings, policy) = parse(pb::CreateSessionRequest::default(), &defaults).unwrap();
    assert_eq!(settings.model, defaults.model);
    assert_eq!(settings.provider, defaults.provider);
    assert_eq!(settings.available_tools, defaults.available_tools);
    assert_eq!((settings.ask_permission, &policy), (true, &defaults.policy));

    let (settings, policy) = parse(request(), &defaults).unwrap();
    let (own_settings, own_policy) = parse(request(), &Defaults::default()).unwrap();
    assert_eq!((settings, policy), (own_settings, own_policy));

    let mut paid = request();
    (paid.provider, paid.github_token) = (None, "ghu_token".into());
    let (settings, _) = parse(paid, &Defaults::default()).unwrap();
    assert_eq!((settings.provider, settings.github_token), (None, Some(Secret::new("ghu_token"))));

    // A policy without rules is a policy, and denies everything.
    let silent = pb::CreateSessionRequest::default();
    let strict = pb::CreateSessionRequest { permission_policy: Some(Default::default()), ..silent.clone() };
    let (settings, policy) = parse(strict, &defaults).unwrap();
    assert_eq!((settings.ask_permission, policy), (false, Policy::default()));

    // The default model goes with the default provider, not with a caller's.
    let own = pb::CreateSessionRequest { provider: Some(provider()), ..silent.clone() };
    let violations = parse(own, &defaults).unwrap_err();
    assert_eq!(violations[0].field, "model");
    let other_model = pb::CreateSessionRequest { model: "mine".into(), ..silent };
    let (settings, _) = parse(other_model, &defaults).unwrap();
    assert_eq!((settings.model.as_deref(), settings.provider), (Some("mine"), defaults.provider));
}

/// Breaks a good request, and expects an error that names the field and quotes no secret.
#[track_caller]
fn refuses(field: &str, spoil: impl Fn(&mut pb::CreateSessionRequest, &mut pb::Provider)) {
    let mut request = request();
    let mut provider = provider();
    spoil(&mut request, &mut provider);
    request.provider = request.provider.map(|_| provider);
    let violations = parse(request, &Defaults::default()).expect_err(field);
    let named: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(named, [field]);
    assert!(!violations[0].description.is_empty());
    assert!(!format!("{violations:?}").contains(SECRET), "{violations:?}");
}

#[test]
fn each_wrong_field_of_a_new_session_is_named_without_its_secret() {
    for model in ["", " \t"] {
        refuses("model", |request, _| request.model = model.into());
    }
    for token in ["hunter2 ", "hunter2\n", "hunter2\u{0}", " hunter2"] {
        refuses("github_token", |request, _| {
            (request.provider, request.github_token) = (None, token.into());
        });
        refuses("provider.api_key", |_, provider| provider.api_key = token.into());
        refuses("provider.bearer_token", |_, provider| provider.bearer_token = token.into());
    }
    for tool in ["", "*", "a b", "builtin:", "builtin:a*", "tool*", "é", "a/b"] {
        refuses("available_tools[1]", |request, _| request.available_tools[1] = tool.into());
    }
    for path in ["work", "./work", "~/work", " /work", "C:\\work"] {
        refuses("working_directory", |request, _| request.working_directory = path.into());
    }
    for kind in ["", "Shell", "shell*", "sh", "hook"] {
        refuses("permission_policy.rules[0].kind", |request, _| {
            let bad = rule(kind, "", pb::PermissionEffect::Allow);
            request.permission_policy = Some(pb::PermissionPolicy { rules: vec![bad] });
        });
    }
    for effect in [0, 4, -1] {
        refuses("permission_policy.rules[1].effect", |request, _| {
            let bad = pb::PermissionRule { effect, ..rule("*", "", pb::PermissionEffect::Allow) };
            let good = rule("read", "", pb::PermissionEffect::Allow);
            request.permission_policy = Some(pb::PermissionPolicy { rules: vec![good, bad] });
        });
    }
    refuses("permission_policy.rules[0].pattern", |request, _| {
        let long = rule("shell", &"x".repeat(MAX_PATTERN + 1), pb::PermissionEffect::Allow);
        request.permission_policy = Some(pb::PermissionPolicy { rules: vec![long] });
    });
    for timeout in [seconds(0), seconds(-1), seconds(i64::MIN)] {
        refuses("ask_timeout", |request, _| request.ask_timeout = Some(timeout));
    }
    for kind in ["OpenAI", "gemini", " openai", SECRET] {
        refuses("provider.type", |_, provider| provider.r#type = kind.into());
    }
    for wire_api in ["completion", "Responses", SECRET] {
        refuses("provider.wire_api", |_, provider| provider.wire_api = wire_api.into());
    }
    for url in [
        "",
        "api.example.com/v1",
        "//api.example.com",
        "/v1",
        "ftp://api.example.com",
        "https://",
        "https:///v1",
        "http://:80",
        "https://a b/v1",
        " https://api.example.com",
        "https://user:hunter2@api.example.com/v1",
        "https://hunter2@api.example.com/v1",
    ] {
        refuses("provider.base_url", |_, provider| provider.base_url = url.into());
    }
    for (name, value) in [("X Team", SECRET), ("", SECRET), ("é", SECRET), ("X-Team", "hunter2\r\nX-Evil: 1")]
    {
        refuses("provider.headers", |_, provider| {
            provider.headers = BTreeMap::from([(name.into(), value.into())]);
        });
    }
}

#[test]
fn a_secret_that_is_not_visible_ascii_is_refused() {
    for token in ["hunter2é", "hunter2\t", "\u{feff}hunter2", "hunter2…"] {
        refuses("github_token", |request, _| {
            (request.provider, request.github_token) = (None, token.into());
        });
        refuses("provider.api_key", |_, provider| provider.api_key = token.into());
        refuses("provider.bearer_token", |_, provider| provider.bearer_token = token.into());
    }
}

#[test]
fn a_session_is_paid_for_by_a_provider_or_by_a_github_token() {
    refuses("github_token", |request, _| request.github_token = "ghu_token".into());
    // Also where the provider is the operator's.
    let defaults = Defaults {
        model: Some("m".into()),
        provider: Some(Arc::new(Provider { base_url: "http://default".into(), ..Provider::default() })),
        ..Defaults::default()
    };
    let request = pb::CreateSessionRequest { github_token: "ghu_token".into(), ..Default::default() };
    let violations = parse(request.clone(), &defaults).unwrap_err();
    assert_eq!(violations[0].field, "github_token");
    // Under a profile that pays with a token nothing of the default provider is used.
    let profile = Profile { github_token: Some(Secret::new("ghu_ours")), ..Profile::default() };
    let under = defaults.under(&profile);
    assert_eq!((under.provider, under.model), (None, None));
    let both = pb::ResumeSessionRequest {
        provider: Some(provider()),
        github_token: "ghu_token".into(),
        ..Default::default()
    };
    let mut checks = Checks::default();
    checks.credentials(both);
    assert_eq!(checks.done(Some(())).unwrap_err()[0].field, "github_token");
}

#[test]
fn the_machines_own_identity_is_not_a_callers_to_use() {
    let key_in_headers = |provider: &mut pb::Provider| {
        (provider.api_key, provider.bearer_token) = (String::new(), String::new());
        provider.headers = BTreeMap::from([("api-key".into(), SECRET.into())]);
    };
    refuses("provider.api_key", |_, provider| key_in_headers(provider));
    let named = pb::NamedProvider {
        name: "n".into(),
        r#type: "azure".into(),
        base_url: "https://x".into(),
        ..Default::default()
    };
    let mut keyless = provider();
    key_in_headers(&mut keyless);
    let resume = pb::ResumeSessionRequest {
        provider: Some(keyless),
        providers: vec![named.clone()],
        ..Default::default()
    };
    let mut checks = Checks::default();
    checks.credentials(resume);
    let named_fields = checks.done(Some(())).unwrap_err();
    let fields: Vec<_> = named_fields.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["provider.api_key", "providers[0].api_key"]);
    let mut checks = Checks::default();
    checks.providers(vec![pb::NamedProvider { bearer_token: "b".into(), ..named }]);
    assert!(checks.done(Some(())).is_ok());
}

#[test]
fn good_urls_of_providers_are_taken() {
    for url in [
        "http://localhost",
        "http://localhost:8080/",
        "https://api.example.com/v1?api-version=1",
        "HTTPS://API.EXAMPLE.COM",
        "http://127.0.0.1:1234/v1",
        "http://[::1]:1234/v1",
        "https://host/a@b",
    ] {
        let mut request = request();
        request.provider = Some(pb::Provider { base_url: url.into(), ..provider() });
        let (settings, _) = parse(request, &Defaults::default()).expect(url);
        assert_eq!(settings.provider.unwrap().base_url, url);
    }
}

#[test]
fn all_that_is_wrong_with_a_new_session_is_said_at_once() {
    let request = pb::CreateSessionRequest {
        session_id: "a b".into(),
        model: String::new(),
        provider: Some(pb::Provider {
            r#type: "x".into(),
            wire_api: "x".into(),
            api_key: "a b".into(),
            bearer_token: "a b".into(),
            headers: BTreeMap::from([("a b".into(), String::new())]),
            ..Default::default()
        }),
        github_token: "a b".into(),
        system_message: Some(Default::default()),
        available_tools: vec![String::new(), "fine".into(), "*".into()],
        excluded_tools: vec!["*".into()],
        permission_policy: Some(pb::PermissionPolicy { rules: vec![Default::default()] }),
        labels: BTreeMap::from([("a b".into(), String::new())]),
        working_directory: "x".into(),
        reasoning_effort: String::new(),
        request_id: "a b".into(),
        ask_timeout: Some(seconds(0)),
        user_input: true,
        elicitation: true,
        exit_plan: true,
        ..Default::default()
    };
    let mut checks = Checks::default();
    let id = checks.session_id(&request.session_id);
    checks.request_id("request_id", &request.request_id, &request);
    let blueprint = checks.blueprint(request, &Defaults::default());
    let violations = checks.done(id.zip(Some(blueprint))).unwrap_err();
    let mut named: Vec<_> = violations.into_iter().map(|violation| violation.field).collect();
    named.sort();
    let expected = [
        "ask_timeout",
        "available_tools[0]",
        "available_tools[2]",
        "excluded_tools[0]",
        "github_token",
        "github_token",
        "labels",
        "model",
        "permission_policy.rules[0].effect",
        "permission_policy.rules[0].kind",
        "provider.api_key",
        "provider.base_url",
        "provider.bearer_token",
        "provider.headers",
        "provider.type",
        "provider.wire_api",
        "request_id",
        "session_id",
        "system_message.mode",
        "working_directory",
    ];
    assert_eq!(named, expected);
}

#[test]
fn a_request_of_the_agents_waits_for_a_day_at_most() {
    let check = |timeout: Option<prost_types::Duration>, expected: Result<Option<Duration>, &str>| {
        let request = pb::CreateSessionRequest { ask_timeout: timeout, ..Default::default() };
        let default = Some(Duration::from_secs(7));
        let defaults = Defaults { ask_timeout: default, ..Defaults::default() };
        let parsed = asked(|checks| checks.blueprint(request, &defaults).ask_timeout);
        assert_eq!(parsed, expected.map_err(String::from), "{timeout:?}");
    };
    check(None, Ok(Some(Duration::from_secs(7))));
    check(Some(seconds(1)), Ok(Some(Duration::from_secs(1))));
    check(Some(prost_types::Duration { seconds: 0, nanos: 1 }), Ok(Some(Duration::from_nanos(1))));
    check(Some(seconds(86_400)), Ok(Some(MAX_ASK_TIMEOUT)));
    check(Some(prost_types::Duration { seconds: 86_400, nanos: 1 }), Err("ask_timeout"));
    check(Some(seconds(i64::MAX)), Err("ask_timeout"));
    check(Some(seconds(0)), Err("ask_timeout"));
}

#[test]
fn callers_are_asked_only_for_what_a_session_says_they_may_be() {
    let request = |user_input, elicitation, exit_plan| pb::CreateSessionRequest {
        user_input,
        elicitation,
        exit_plan,
        ..Default::default()
    };
    for said in [(false, false, false), (true, false, false), (false, true, false), (false, false, true)] {
        let (settings, _) = parse(request(said.0, said.1, said.2), &Defaults::default()).unwrap();
        assert_eq!((settings.user_input, settings.elicitation, settings.exit_plan), said);
    }
}

#[test]
fn the_cli_asks_for_permissions_unless_all_of_them_are_denied() {
    use pb::PermissionEffect::*;
    let check = |rules: &[pb::PermissionRule], expected| {
        let policy = pb::PermissionPolicy { rules: rules.to_vec() };
        let request = pb::CreateSessionRequest { permission_policy: Some(policy), ..Default::default() };
        let (settings, _) = parse(request, &Defaults::default()).unwrap();
        assert_eq!(settings.ask_permission, expected, "{rules:?}");
    };
    check(&[], false);
    check(&[rule("*", "", Deny)], false);
    check(&[rule("*", "", Deny), rule("write", "/tmp/*", Allow)], true);
    check(&[rule("*", "", Ask)], true);
    check(&[rule("mcp", &"x".repeat(MAX_PATTERN), Ask)], true);
}

#[test]
fn a_title_is_short_and_of_one_line() {
    let check = |title: &str, expected: Option<&str>| {
        let session = pb::Session { title: title.into(), ..Default::default() };
        let mask = prost_types::FieldMask { paths: vec!["title".into()] };
        let changed = asked(|checks| checks.change(session, mask).title.unwrap());
        assert_eq!(changed, expected.map(str::to_owned).ok_or("session.title".into()), "{title:?}");
    };
    check(" A talk ", Some("A talk"));
    check(&"é".repeat(MAX_TITLE), Some(&"é".repeat(MAX_TITLE)));
    check(&"é".repeat(MAX_TITLE + 1), None);
    for bad in ["", "  ", "a\nb", "a\u{7}"] {
        check(bad, None);
    }
}

#[test]
fn a_profiles_defaults_come_before_the_operators_and_its_provider_has_no_other_model() {
    let provider = |url: &str| Some(Arc::new(Provider { base_url: url.into(), ..Provider::default() }));
    let operator = Defaults {
        model: Some("theirs".into()),
        provider: provider("http://operator"),
        available_tools: vec!["bash".into()],
        policy: Policy::allowing(&["shell".into()]),
        ask_timeout: Some(Duration::from_secs(7)),
    };
    let unchanged = operator.under(&Profile::default());
    assert_eq!((unchanged.model, unchanged.provider), (operator.model.clone(), operator.provider.clone()));
    assert_eq!((unchanged.available_tools, unchanged.policy), (vec!["bash".into()], operator.policy.clone()));
    assert_eq!(unchanged.ask_timeout, operator.ask_timeout);
    let profile = Profile {
        provider: provider("http://profile"),
        available_tools: Some(vec![]),
        policy: Some(Policy::default()),
        ..Profile::default()
    };
    let changed = operator.under(&profile);
    assert_eq!((changed.model, changed.provider), (None, profile.provider.clone()));
    assert_eq!((changed.available_tools, changed.policy), (vec![], Policy::default()));
    let named = Profile { models: vec!["o*".into(), "o3".into()], ..Profile::default() };
    assert_eq!(operator.under(&named).model.as_deref(), Some("o3"));
}

#[test]
fn a_profile_that_there_is_not_is_refused_without_the_names_of_others() {
    let profiles = Profiles::new([Profile { name: "secret-team".into(), ..Profile::default() }], None);
    assert_eq!(asked(|checks| checks.profile("other", &profiles)), Err("profile".into()));
    assert_eq!(asked(|checks| checks.profile("", &profiles)), Ok(None));
    assert!(asked(|checks| checks.profile("secret-team", &profiles)).unwrap().is_some());
}
