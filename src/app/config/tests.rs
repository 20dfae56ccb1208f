//! From arguments, environment and file to a configuration or to all that is wrong with it.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use super::{
    super::command::{Command, Failure, parse},
    *,
};
use crate::{
    app::{chat::Chat, settings::settings},
    copilot::SystemMessage,
    grpc::{
        client::Target,
        tls::{Clients, Files, Serving},
    },
    identity::{Algorithm, Role, Source, TenantFrom},
    session::{Effect, Policy, Rule},
};

/// An environment and files that a test provides.
struct World {
    vars: BTreeMap<String, OsString>,
    files: BTreeMap<PathBuf, String>,
}

impl Environment for World {
    fn var(&self, name: &str) -> Option<OsString> {
        self.vars.get(name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.vars.keys().cloned().collect()
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

const FILE: &str = "/etc/copilot-grpc.toml";

const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const JWKS: &str =
    r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const OTHER_KEY: &str = "/////////////////////////////////////////ws=";

/// A home, a configuration file unless it is empty, and files with the token `s3cret` and with keys.
fn world(vars: &[(&str, &str)], file: &str) -> World {
    let mut vars: BTreeMap<_, _> =
        vars.iter().map(|(name, value)| (name.to_string(), value.into())).collect();
    vars.entry("HOME".into()).or_insert("/home/me".into());
    let mut files = BTreeMap::from([
        ("/token".into(), " s3cret\n".into()),
        ("/empty".into(), "\n".into()),
        ("/key".into(), format!("{KEY}\n")),
        ("/keys".into(), format!("{KEY}\r\n\n {OTHER_KEY}")),
        (
            "/tokens".into(),
            format!("[[token]]\nsha256 = \"{}\"\ntenant = \"t\"\nsubject = \"s\"", "0".repeat(64)),
        ),
        ("/jwks.json".into(), JWKS.into()),
        ("/three-keys".into(), [KEY, KEY, KEY].join("\n")),
    ]);
    if !file.is_empty() {
        vars.entry("COPILOT_GRPC_CONFIG".into()).or_insert(FILE.into());
        files.insert(FILE.into(), file.into());
    }
    World { vars, files }
}

fn run(args: &[&str], world: &World) -> Result<Command, Failure> {
    parse(std::iter::once("copilot-grpc").chain(args.iter().copied()).map(OsString::from), world)
}

fn load(args: &[&str], vars: &[(&str, &str)], file: &str) -> Result<Config, ConfigError> {
    match run(args, &world(vars, file)) {
        Ok(Command::Serve(config)) => Ok(*config),
        Err(Failure::Config(error)) => Err(error),
        other => panic!("{other:?}"),
    }
}

fn good(args: &[&str], vars: &[(&str, &str)], file: &str) -> Config {
    load(args, vars, file).unwrap_or_else(|error| panic!("{args:?} {vars:?} {file}: {error}"))
}

fn mistakes(args: &[&str], vars: &[(&str, &str)], file: &str) -> String {
    load(args, vars, file)
        .map(|config| panic!("{args:?} {vars:?} {file}: {config:?}"))
        .unwrap_err()
        .to_string()
}

fn usage(args: &[&str]) -> String {
    match run(args, &world(&[], "")) {
        Err(Failure::Usage(error)) => error.to_string(),
        other => panic!("{args:?}: {other:?}"),
    }
}

/// A value of a setting that is not its default.
struct Row {
    key: &'static str,
    text: &'static str,
    toml: &'static str,
    /// The flags without which the setting would be a mistake, with spaces between them.
    needs: &'static str,
    seen: fn(&Config) -> String,
    expected: &'static str,
}

macro_rules! row {
        ($key:ident = $text:literal, $toml:literal => $expected:literal $(, needs $needs:literal)?) => {
            row!($key = $text, $toml => $expected, seen |config| format!("{:?}", config.$key) $(, needs $needs)?)
        };
        ($key:ident = $text:literal, $toml:literal => $expected:literal, seen $seen:expr $(, needs $needs:literal)?) => {
            Row {
                key: stringify!($key),
                text: $text,
                toml: $toml,
                needs: concat!($($needs)?),
                seen: $seen,
                expected: $expected,
            }
        };
    }

fn serving(config: &Config) -> Option<&Serving> {
    config.transport.tls.serving.as_ref()
}

fn clients(config: &Config) -> Option<&Clients> {
    serving(config)?.clients.as_ref()
}

const ROWS: &[Row] = &[
    row!(listen = "[::1]:1", "'[::1]:1'" => "[::1]:1", seen |config| config.transport.listen.to_string()),
    row!(allow_insecure_listen = "true", "true" => "true",
            seen |config| config.transport.allow_insecure.to_string()),
    row!(tls_cert_file = "/cert", "'/cert'" => "Some(\"/cert\")",
            seen |config| format!("{:?}", serving(config).map(|it| &it.certificate)), needs "--tls-key-file=/key"),
    row!(tls_key_file = "/key", "'/key'" => "Some(\"/key\")",
            seen |config| format!("{:?}", serving(config).map(|it| &it.key)), needs "--tls-cert-file=/cert"),
    row!(tls_client_ca_file = "/ca", "'/ca'" => "(\"/ca\", true)",
            seen |config| clients(config).map(|it| format!("{:?}", (&it.ca, it.is_required))).unwrap_or_default(),
            needs "--tls-cert-file=/cert --tls-key-file=/key"),
    row!(tls_client_auth = "optional", "'optional'" => "Some(false)",
            seen |config| format!("{:?}", clients(config).map(|it| it.is_required)),
            needs "--tls-cert-file=/cert --tls-key-file=/key --tls-client-ca-file=/ca"),
    row!(tls_allowed_names = "a.org, spiffe://a.org/*", "['a.org', 'spiffe://a.org/*']"
            => r#"Some(AllowedNames([Dns("a.org"), UriBelow("spiffe://a.org/")]))"#,
            seen |config| format!("{:?}", clients(config).map(|it| &it.allowed)),
            needs "--tls-cert-file=/cert --tls-key-file=/key --tls-client-ca-file=/ca"),
    row!(listen_unix = "/run/s", "'/run/s'" => r#"Some(UnixSettings { path: "/run/s", users: None })"#,
            seen |config| format!("{:?}", config.transport.unix)),
    row!(listen_unix_users = "0, 1000", "['0', '1000']" => "Some([0, 1000])",
            seen |config| format!("{:?}", config.transport.unix.as_ref().and_then(|unix| unix.users.as_ref())),
            needs "--listen-unix=/run/s"),
    row!(probe_listen = "0.0.0.0:1", "'0.0.0.0:1'" => "Some(0.0.0.0:1)",
            seen |config| format!("{:?}", config.transport.probes)),
    row!(trust = "callers", "'callers'" => "true", seen |config| config.trusts_callers.to_string()),
    row!(token_file = "/tokens", "'/tokens'" => "Some(1 tokens)",
            seen |config| format!("{:?}", config.identity.as_ref().and_then(|it| Some(&it.tokens.as_ref()?.tokens)))),
    row!(trusted_proxies = "a.example.com,spiffe://b/c", "['a.example.com', 'spiffe://b/c']" => "2",
            seen |config| config.identity.as_ref().map_or(0, |it| it.trusted_proxies.len()).to_string()),
    row!(cli_url = "cli:1, [::1]:2", "['cli:1', '[::1]:2']" => "cli:1 [::1]:2",
            seen |config| config.cli_url.iter().map(CliAddress::to_string).collect::<Vec<_>>().join(" ")),
    row!(cli_home = "/a, /b/{name}", "['/a', '/b/{name}']" => r#"["/a", "/b/{name}"]"#,
            needs "--cli-url=cli:1,srv:///_cli._tcp.cli"),
    row!(drain_file = "/etc/drains", "'/etc/drains'" => r#"Some("/etc/drains")"#),
    row!(embedded_clis = "16", "16" => "16"),
    row!(cli_token_file = "/token", "'/token'" => "Some(\"s3cret\")",
            seen |config| format!("{:?}", config.cli_token.as_ref().map(Secret::expose)), needs "--cli-url=cli:1"),
    row!(cli = "native", "'native'" => "Only(Native)"),
    row!(cli_path = "bin/copilot", "'bin/copilot'" => r#"Some("bin/copilot")"#),
    row!(state_dir = "/var", "'/var'" => r#""/var""#),
    row!(store_url = "postgres://me@db/x", "'postgres://me@db/x'" => "Postgres { url: [redacted], password: None }",
            seen |config| format!("{:?}", config.store.location)),
    row!(store_password_file = "/token", "'/token'" => "s3cret",
            seen |config| match &config.store.location {
                StoreLocation::Postgres { password: Some(password), .. } => password.expose().into(),
                _ => String::new(),
            }, needs "--store-url=postgres://me@db/x"),
    row!(node_name = "node-1", "'node-1'" => "Some(\"node-1\")", seen |config| format!("{:?}", config.cluster.node_name)),
    row!(advertise = "localhost:1", "'localhost:1'" => "Some(\"localhost:1\")",
            seen |config| format!("{:?}", config.cluster.advertise), needs "--store-url=postgres://me@db/x"),
    row!(lease = "9s", "'9s'" => "9s", seen |config| format!("{:?}", config.cluster.lease)),
    row!(cluster_token_file = "/key", "'/key'" => "true",
            seen |config| config.cluster.token.is_some().to_string(), needs "--store-url=postgres://me@db/x"),
    row!(cluster_ca_file = "/ca", "'/ca'" => "Some(File(\"/ca\"))",
            seen |config| format!("{:?}", config.transport.tls.peers), needs "--store-url=postgres://me@db/x"),
    row!(store_timeout = "100ms", "'100ms'" => "100ms", seen |config| format!("{:?}", config.store.time_limit)),
    row!(archive = "after_answer", "'after_answer'" => "AfterAnswer", needs "--store-url=postgres://me@db/x"),
    row!(max_session_size = "1MiB", "'1MiB'" => "1048576", seen |config| config.store.max_session_size.to_string()),
    row!(max_session_file_size = "64KiB", "65536" => "65536",
            seen |config| config.store.max_session_file_size.to_string()),
    row!(seal_key_file = "/key", "'/key'" => "true", seen |config| config.seal.is_some().to_string()),
    row!(available_tools = "bash, mcp:*,web.fetch", "['bash', 'mcp:*', 'web.fetch']" => r#"["bash", "mcp:*", "web.fetch"]"#),
    row!(roots = "/a, /b/c", "['/a', '/b/c']" => r#"Some(["/a", "/b/c"])"#),
    row!(allow_permissions = "read,custom-tool", "'read, custom-tool'" => r#"["read", "custom-tool"]"#),
    row!(default_profile = "a", "'a'" => "a",
            seen |config| config.profiles.unnamed().map(|profile| profile.name.clone()).unwrap_or_default()),
    row!(turn_timeout = "1h 30m", "'1h30m'" => "5400s"),
    row!(ask_timeout = "90s", "'90s'" => "90s"),
    row!(max_queued_turns = "1", "1" => "1"),
    row!(max_running_turns = "3", "3" => "Some(3)"),
    row!(max_waiting_turns = "0", "0" => "0"),
    row!(max_sessions = "1000000", "1_000_000" => "1000000"),
    row!(max_watchers = "7", "7" => "7"),
    row!(max_reader_memory = "1GiB", "'1GiB'" => "1073741824"),
    row!(max_message_size = "64KiB", "65536" => "65536"),
    row!(max_frame_size = "1 GiB", "'1gib'" => "1073741824"),
    row!(keeper_link = "false", "false" => "false"),
    row!(start_timeout = "500ms", "'500ms'" => "500ms"),
    row!(recycle_after_age = "7d", "'7d'" => "Some(604800s)", seen |config| format!("{:?}", config.recycling.after_age)),
    row!(recycle_at_memory = "1GiB", "'1GiB'" => "Bytes(1073741824)", seen |config| format!("{:?}", config.recycling.at_memory)),
    row!(recycle_after_turns = "9", "9" => "Some(9)", seen |config| format!("{:?}", config.recycling.after_turns)),
    row!(eject_after = "0", "0" => "0", seen |config| format!("{:?}", config.ejection.after)),
    row!(eject_for = "1m", "'1m'" => "60s", seen |config| format!("{:?}", config.ejection.first)),
    row!(max_connection_age = "90s", "'90s'" => "Some(90s)"),
    row!(max_connections = "500", "500" => "Some(500)"),
    row!(drain_delay = "5s", "'5s'" => "5s"),
    row!(grace_period = "0s", "'0s'" => "0ns"),
    row!(close_idle_after = "1h", "'1h'" => "Some(3600s)", seen |config| format!("{:?}", config.cleanup.close_idle_after)),
    row!(delete_idle_after = "7d", "'7d'" => "Some(604800s)", seen |config| format!("{:?}", config.cleanup.delete_idle_after)),
    row!(delete_after_age = "30d", "'30d'" => "Some(2592000s)", seen |config| format!("{:?}", config.cleanup.delete_after_age)),
    row!(max_stored_sessions = "7", "7" => "Some(7)", seen |config| format!("{:?}", config.cleanup.max_stored)),
    row!(cleanup_interval = "5s", "'5s'" => "5s", seen |config| format!("{:?}", config.cleanup.interval)),
    row!(cleanup_dry_run = "true", "true" => "true", seen |config| format!("{:?}", config.cleanup.dry_run)),
    row!(log_format = "json", "'json'" => "Json"),
    row!(log_level = "warn,copilot_grpc=trace", "'warn,copilot_grpc=trace'" => r#""warn,copilot_grpc=trace""#),
];

#[test]
fn every_setting_can_be_set_from_each_source() {
    for setting in settings() {
        let row = ROWS.iter().find(|row| row.key == setting.key);
        let row = row.unwrap_or_else(|| panic!("give {} a row", setting.key));
        let needs = &row.needs.split(' ').filter(|flag| !flag.is_empty()).collect::<Vec<_>>()[..];
        let flag = format!("{}={}", setting.flag(), row.text);
        // For `default_profile`.
        let profile = "[profiles.a]";
        let toml = format!("{} = {}\n{profile}", setting.key, row.toml);
        let check = |source: &str, config: Config| {
            assert_eq!((row.seen)(&config), row.expected, "{} from its {source}", setting.key);
        };
        check("flag", good(&[needs, &[&flag]].concat(), &[], profile));
        check("flag after serve", good(&[&["serve"], needs, &[&flag]].concat(), &[], profile));
        check("variable", good(needs, &[(&setting.variable(), row.text)], profile));
        check("key", good(needs, &[], &toml));
        // Where it goes together with another, there is no default.
        let default = load(needs, &[], "").map(|config| (row.seen)(&config));
        assert_ne!(default.as_deref(), Ok(row.expected), "{} must differ from its default", row.key);
    }
}

#[test]
fn without_any_source_the_defaults_count() {
    let config = good(&[], &[], "");
    assert_eq!(config.transport.listen, SocketAddr::from((Ipv4Addr::LOCALHOST, 50051)));
    assert_eq!(config.state_dir, Path::new("/home/me/.local/state/copilot-grpc"));
    assert_eq!(config.turn_timeout, Duration::from_secs(600));
    assert_eq!(config.ask_timeout, Duration::from_secs(300));
    assert_eq!((config.max_queued_turns, config.max_sessions), (32, 1_000));
    assert_eq!((config.max_message_size, config.max_frame_size), (16 * MIB, 256 * MIB));
    assert!(config.keeper_link);
    assert_eq!(config.start_timeout, Duration::from_secs(60));
    assert_eq!(config.grace_period, Duration::from_secs(30));
    assert_eq!(config.max_connection_age, Some(Duration::from_secs(30 * 60)));
    assert_eq!(good(&["--max-connection-age=0s"], &[], "").max_connection_age, None);
    assert_eq!((config.log_format, config.log_level.as_str()), (LogFormat::Human, "info"));
    assert_eq!(config.roots(), [config.work_dir()]);
    assert!(good(&["--cli-url=cli:1"], &[], "").roots().is_empty());
    assert!(config.available_tools.is_empty() && config.allow_permissions.is_empty());
    assert!(!config.transport.allow_insecure);
    assert!(config.transport.tls == Files::default());
    assert!(
        config.cli_url.is_empty()
            && config.embedded_clis == 1
            && config.cli_path.is_none()
            && config.cli_token.is_none()
    );
    assert!(config.provider.is_none() && config.model.is_none());
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let variable: &[_] = &[("COPILOT_GRPC_MAX_SESSIONS", "2")];
    let file = "max_sessions = 3";
    for (args, vars, file, expected) in [
        (&["--max-sessions=1"] as &[_], variable, file, 1),
        (&[], variable, file, 2),
        (&[], &[], file, 3),
        (&[], &[], "", 1_000),
        (&[], &[("COPILOT_GRPC_MAX_SESSIONS", "")], file, 3),
    ] {
        assert_eq!(good(args, vars, file).max_sessions, expected, "{args:?} {vars:?} {file}");
    }
}

#[test]
fn a_wrong_value_that_is_overridden_is_no_mistake() {
    good(&["--max-sessions=1"], &[("COPILOT_GRPC_MAX_SESSIONS", "many")], "max_sessions = []");
}

#[test]
fn an_empty_variable_takes_a_list_back() {
    let file = "allow_permissions = ['shell']";
    assert!(good(&[], &[("COPILOT_GRPC_ALLOW_PERMISSIONS", "")], file).allow_permissions.is_empty());
}

#[test]
fn a_list_flag_may_be_repeated() {
    let config = good(&["--available-tools=a,b", "--available-tools", "c"], &[], "");
    assert_eq!(config.available_tools, ["a", "b", "c"]);
    let config = good(&["--cli-url=b:1", "--cli-url", "a:1,c:1"], &[], "cli_url = 'd:1'");
    assert_eq!(config.cli_url.iter().map(CliAddress::to_string).collect::<Vec<_>>(), ["b:1", "a:1", "c:1"]);
}

#[test]
fn a_switch_needs_no_value_and_takes_none_from_its_neighbour() {
    assert!(good(&["--allow-insecure-listen"], &[], "").transport.allow_insecure);
    let config = good(&["--allow-insecure-listen=false"], &[], "allow_insecure_listen = true");
    assert!(!config.transport.allow_insecure);
    assert!(usage(&["--allow-insecure-listen", "true"]).contains("'true'"));
}

#[test]
fn the_file_is_named_by_flag_or_variable() {
    let mut world = world(&[("COPILOT_GRPC_CONFIG", "/two")], "");
    world.files.insert("/one".into(), "max_sessions = 1".into());
    world.files.insert("/two".into(), "max_sessions = 2".into());
    for (args, expected) in [(&["--config=/one"] as &[_], 1), (&[], 2)] {
        let Ok(Command::Serve(config)) = run(args, &world) else { panic!("{args:?}") };
        assert_eq!(config.max_sessions, expected);
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let told = mistakes(
        &["--turn-timeout=soon", "--cli-path=copilot"],
        &[("COPILOT_GRPC_LISTEN", "0.0.0.0:50051"), ("COPILOT_GRPC_TURN_TIMOUT", "1m")],
        "cli_url = 'cli:4321'\nmax_sesions = 5\nlog_level = ['info']",
    );
    let expected = r#"
key max_sesions in /etc/copilot-grpc.toml: unknown key; did you mean max_sessions?
environment variable COPILOT_GRPC_TURN_TIMOUT: unknown variable; did you mean COPILOT_GRPC_TURN_TIMEOUT?
environment variable COPILOT_GRPC_LISTEN = "0.0.0.0:50051": other machines could drive the agent here without TLS or authentication: listen on a loopback address, set tls_cert_file, tls_key_file and tls_client_ca_file, or set allow_insecure_listen = true (--allow-insecure-listen)
flag --cli-path: cli_path and cli_url (key cli_url in /etc/copilot-grpc.toml) exclude each other: start a CLI or use a running one
flag --turn-timeout = "soon": write a time with its unit, such as 90s, 10m or 1h30m, from 1ms to 1day
key log_level in /etc/copilot-grpc.toml: this is a TOML array: write log_level = "FILTER""#;
    assert_eq!(told, expected.trim_start());
}

#[test]
fn a_wrong_value_is_refused_with_what_to_write() {
    for (flag, problem) in [
        ("--listen=localhost", "write an IP address and a port"),
        ("--listen=example.com:1", "write an IP address and a port"),
        ("--listen=[::]:1", "--allow-insecure-listen"),
        ("--listen=", "the value is empty"),
        ("--allow-insecure-listen=yes", "write true or false"),
        ("--cli-url=cli", "the port is missing"),
        ("--cli-url=cli:0", "the port is not"),
        ("--cli-url=cli:65536", "the port is not"),
        ("--cli-url=:1", "names no host"),
        ("--cli-url=::1:1", "names no host"),
        ("--cli-url=[cli]:1", "names no host"),
        ("--cli-url=me@cli:1", "names no host"),
        ("--cli-url=http://cli:1/rpc", "an address has no path"),
        ("--cli-url=https://cli:1", "there is no https"),
        ("--cli-url=ws://cli:1", "plain TCP"),
        ("--cli-url=", "the value is empty"),
        ("--cli-url=cli:1,", "the port is missing"),
        ("--cli-url=cli:1,http://cli:1/", "cli:1 is named twice"),
        ("--cli-url=dns:///cli", "write dns:///NAME:PORT"),
        ("--cli-url=dns:///10.0.0.1:1", "write dns:///NAME:PORT"),
        ("--cli-url=dns:///dns:///cli:1", "write dns:///NAME:PORT"),
        ("--cli-url=srv:///", "write srv:///NAME without a port"),
        ("--cli-url=srv:///_cli._tcp.cli:1", "write srv:///NAME without a port"),
        ("--cli-url=srv:///10.0.0.1", "write srv:///NAME without a port"),
        ("--cli-home=/a", "the homes of CLIs that are started are in state_dir"),
        ("--embedded-clis=0", "from 1 to 16"),
        ("--embedded-clis=17", "from 1 to 16"),
        ("--cli-path=", "the value is empty"),
        ("--available-tools=ba/sh", "names of tools"),
        ("--allow-permissions=read,everything", "write one of shell, write,"),
        ("--turn-timeout=0s", "from 1ms to 1day"),
        ("--turn-timeout=25h", "from 1ms to 1day"),
        ("--turn-timeout=600", "a time with its unit"),
        ("--max-queued-turns=0", "from 1 to 10000"),
        ("--max-sessions=1000001", "from 1 to 1000000"),
        ("--max-message-size=16MB", "from 64KiB to 256MiB"),
        ("--max-message-size=65535", "from 64KiB to 256MiB"),
        ("--max-message-size=99999999999999999999", "from 64KiB to 256MiB"),
        ("--max-message-size=18446744073709551615GiB", "from 64KiB to 256MiB"),
        ("--max-frame-size=1025MiB", "from 1MiB to 1GiB"),
        ("--store-timeout=99ms", "from 100ms to 1m"),
        ("--max-session-size=1GiB", "from 1MiB to 512MiB"),
        ("--max-session-file-size=1KiB", "from 64KiB to 512MiB"),
        ("--start-timeout=2h", "from 1ms to 1h"),
        ("--grace-period=-1s", "from 0s to 1day"),
        ("--log-format=xml", "write human or json"),
        ("--log-level=inof", "write off, error,"),
        ("--log-level=info,h2", "write off, error,"),
        ("--log-level=h2=loud", "write off, error,"),
    ] {
        let told = mistakes(&[flag], &[], "");
        assert!(told.contains(problem) && !told.contains('\n'), "{flag}: {told}");
    }
}

/// Certificates, and with them clients' own.
const TLS: [&str; 2] = ["--tls-cert-file=/cert", "--tls-key-file=/key"];
const MUTUAL: [&str; 3] = [TLS[0], TLS[1], "--tls-client-ca-file=/ca"];

#[test]
fn off_loopback_callers_show_who_they_are_over_tls_unless_the_operator_says_that_they_need_not() {
    const ANYWHERE: &str = "--listen=0.0.0.0:1";
    let optional = [MUTUAL[0], MUTUAL[1], MUTUAL[2], "--tls-client-auth=optional"];
    for (flags, problem, risk) in [
        (&[][..], "without TLS or authentication", "without TLS"),
        (&TLS[..], "need not show who they are", "do not show who they are"),
        (&optional[..], "need not show who they are", "do not show who they are"),
    ] {
        let flags = [flags, &[ANYWHERE]].concat();
        let told = mistakes(&flags, &[], "");
        assert!(told.starts_with("flag --listen") && told.contains(problem), "{flags:?}: {told}");
        assert!(told.contains("--allow-insecure-listen") && !told.contains('\n'), "{flags:?}: {told}");
        let allowed = good(&[&flags[..], &["--allow-insecure-listen"]].concat(), &[], "");
        assert!(allowed.transport.risk().unwrap().contains(risk), "{flags:?}");
        let local = flags.iter().map(|flag| flag.replace("0.0.0.0", "127.0.0.1")).collect::<Vec<_>>();
        let local = good(&local.iter().map(String::as_str).collect::<Vec<_>>(), &[], "");
        assert_eq!(local.transport.risk(), None);
    }
    let mutual = good(&[&MUTUAL[..], &[ANYWHERE]].concat(), &[], "");
    assert!(mutual.transport.is_mutual() && mutual.transport.risk().is_none());
    assert_eq!(good(&["--probe-listen=0.0.0.0:1"], &[], "").transport.risk(), None);
}

#[test]
fn settings_of_tls_that_do_not_go_together_are_refused() {
    let with = |others: &[&'static str], flag: &'static str| [others, &[flag]].concat();
    for (flags, problem) in [
        (vec![TLS[0]], "flag --tls-cert-file: a certificate and its key go together: set tls_key_file"),
        (vec![TLS[1]], "flag --tls-key-file: a certificate and its key go together: set tls_cert_file"),
        (vec![MUTUAL[2]], "flag --tls-client-ca-file: clients show certificates over TLS only"),
        (
            with(&TLS, "--tls-client-auth=required"),
            "flag --tls-client-auth: it is about the certificates of clients",
        ),
        (
            with(&TLS, "--tls-allowed-names=a"),
            "flag --tls-allowed-names: it is about the certificates of clients",
        ),
        (
            with(&MUTUAL, "--tls-client-auth=maybe"),
            "flag --tls-client-auth = \"maybe\": write required or optional",
        ),
        (with(&MUTUAL, "--tls-allowed-names=*"), "flag --tls-allowed-names = \"*\": write DNS names"),
        (vec!["--listen-unix-users=0"], "flag --listen-unix-users: it says who may connect"),
        (
            vec!["--listen-unix=/s", "--listen-unix-users=me"],
            "flag --listen-unix-users = \"me\": write user ids",
        ),
        (
            vec!["--listen-unix=/s", "--listen-unix-users="],
            "flag --listen-unix-users = \"\": nobody could connect",
        ),
        (vec!["--probe-listen=here"], "flag --probe-listen = \"here\": write an IP address and a port"),
        (vec!["--cluster-ca-file=/ca"], "flag --cluster-ca-file: it is for servers that share a store"),
    ] {
        // None of them makes a mistake of the address, too.
        let told = mistakes(&with(&flags, "--listen=0.0.0.0:1"), &[], "");
        let told = told.lines().filter(|line| !line.contains("without TLS or auth")).collect::<Vec<_>>();
        assert!(told.len() == 1 && told[0].starts_with(problem), "{flags:?}: {told:?}");
    }
}

#[test]
fn servers_that_share_a_store_know_each_other_by_a_token_or_by_certificates() {
    const STORE: [&str; 2] = ["--store-url=postgres://me@db/x", "--advertise=10.0.0.7:1"];
    let with = |others: &[&'static str]| [&STORE, others].concat();
    for flags in [with(&[]), with(&TLS)] {
        let told = mistakes(&flags, &[], "");
        assert!(told.starts_with("setting cluster_token_file: servers that share a store"), "{told}");
    }
    good(&with(&MUTUAL), &[], "");
    good(&with(&["--cluster-token-file=/key"]), &[], "");
    let advertised = |address: &str| {
        let flags = [STORE[0], &format!("--advertise={address}"), "--cluster-token-file=/key"];
        good(&flags, &[], "").cluster.advertise.unwrap()
    };
    assert_eq!(advertised("http://host:1/"), "host:1");
    assert_eq!(advertised("https://host:1"), "https://host:1");
    assert_eq!(good(&[STORE[0], "--advertise=https://localhost:1"], &[], "").cluster.token, None);
}

#[test]
fn clis_that_run_are_not_started() {
    for flag in
        ["--embedded-clis=2", "--recycle-after-age=1h", "--recycle-at-memory=1GiB", "--recycle-after-turns=1"]
    {
        let told = mistakes(&["--cli-url=cli:1", flag], &[], "");
        let expected = "and cli_url (flag --cli-url) exclude each other";
        assert!(told.contains(expected) && !told.contains('\n'), "{told}");
    }
    // An empty variable counts as none.
    good(&["--embedded-clis=2"], &[("COPILOT_GRPC_CLI_URL", "")], "");
}

#[test]
fn a_toml_value_of_the_wrong_type_is_refused() {
    for (file, problem) in [
        ("turn_timeout = 600", "a time with its unit"),
        ("listen = true", "write an IP address"),
        ("max_sessions = 1.5", "this is a TOML float: write max_sessions = \"COUNT\""),
        ("[listen]\nport = 1", "this is a TOML table"),
        ("available_tools = [1]", "every entry must be a string"),
        ("roots = ['here']", "absolute paths"),
        ("roots = ['/a/../b']", "absolute paths"),
    ] {
        let told = mistakes(&[], &[], file);
        assert!(told.contains(problem) && !told.contains('\n'), "{file}: {told}");
    }
}

#[test]
fn a_file_that_cannot_be_used_is_one_mistake() {
    assert_eq!(
        mistakes(&["--config=/none"], &[], ""),
        "flag --config = \"/none\": the file cannot be read: entity not found"
    );
    let told = mistakes(&[], &[], "listen = '[::1]:1'\n\nmax_sessions 5");
    let start =
        format!("environment variable COPILOT_GRPC_CONFIG = {FILE:?}: the file is not TOML: line 3: ");
    assert!(told.starts_with(&start) && !told.contains('\n'), "{told}");
}

#[test]
fn addresses_are_accepted_in_every_usual_form() {
    for (text, expected) in [
        ("localhost:0", "127.0.0.1:0"),
        ("[::1]:1", "[::1]:1"),
        ("[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:1"),
    ] {
        assert_eq!(good(&["--listen", text], &[], "").transport.listen.to_string(), expected);
    }
    let anywhere = good(&["--listen=0.0.0.0:1", "--allow-insecure-listen"], &[], "");
    assert_eq!(anywhere.transport.listen.to_string(), "0.0.0.0:1");
    for (text, expected) in [
        ("cli:4321", "cli:4321"),
        ("http://10.0.0.1:4321", "10.0.0.1:4321"),
        ("http://cli.example:4321/", "cli.example:4321"),
        ("[::1]:4321", "[::1]:4321"),
        ("dns:///cli.default.svc:4321", "dns:///cli.default.svc:4321"),
        ("srv:///_copilot._tcp.cli.default.svc", "srv:///_copilot._tcp.cli.default.svc"),
    ] {
        let address = good(&["--cli-url", text], &[], "").cli_url.remove(0);
        assert_eq!(address.to_string(), expected);
        assert!(!matches!(address, CliAddress::One { host, .. } if host.contains('[')));
    }
}

#[test]
fn the_state_directory_follows_xdg() {
    for (vars, expected) in [
        (&[("XDG_STATE_HOME", "/xdg")] as &[_], "/xdg/copilot-grpc"),
        (&[("XDG_STATE_HOME", "relative")], "/home/me/.local/state/copilot-grpc"),
        (&[("XDG_STATE_HOME", ""), ("HOME", "/root")], "/root/.local/state/copilot-grpc"),
    ] {
        assert_eq!(good(&[], vars, "").state_dir, Path::new(expected), "{vars:?}");
    }
    let told = mistakes(&[], &[("HOME", "")], "");
    assert_eq!(
        told,
        "setting state_dir: there is neither XDG_STATE_HOME nor HOME to put it in: set --state-dir"
    );
    good(&["--state-dir=here"], &[("HOME", "")], "");
}

#[test]
fn the_token_comes_from_its_file_or_else_from_the_clis_variable() {
    let variable: &[_] = &[("COPILOT_CONNECTION_TOKEN", "other ")];
    for (args, vars, expected) in [
        (&["--cli-url=cli:1", "--cli-token-file=/token"] as &[_], variable, Some("s3cret")),
        (&["--cli-url=cli:1"], variable, Some("other")),
        (&["--cli-url=cli:1"], &[("COPILOT_CONNECTION_TOKEN", "")], None),
        (&["--cli-url=cli:1"], &[], None),
        (&[], variable, None),
    ] {
        let token = good(args, vars, "").cli_token;
        assert_eq!(token.as_ref().map(Secret::expose), expected, "{args:?} {vars:?}");
    }
}

#[test]
fn a_token_file_is_refused_without_its_cli_or_its_token() {
    for (args, problem) in [
        (
            &["--cli-token-file=/token"] as &[_],
            "flag --cli-token-file: a token is only for the CLIs at cli_url",
        ),
        (&["--cli-url=cli:1", "--cli-token-file=/empty"], "flag --cli-token-file: the file is empty"),
        (&["--cli-url=cli:1", "--cli-token-file=/none"], "flag --cli-token-file: the file cannot be read"),
        (&["--cli-url=cli", "--cli-token-file=/token"], "flag --cli-url = \"cli\": the port is missing"),
    ] {
        let told = mistakes(args, &[("COPILOT_CONNECTION_TOKEN", "other")], "");
        assert!(told.starts_with(problem) && !told.contains('\n'), "{args:?}: {told}");
    }
}

#[test]
fn sessions_live_in_a_file_of_the_state_directory_or_in_postgresql() {
    let store = |args: &[&str], vars: &[(&str, &str)]| good(args, vars, "").store.location;
    assert_eq!(store(&["--state-dir=/var"], &[]), StoreLocation::Sqlite("/var/store.db".into()));
    let password = ("COPILOT_GRPC_STORE_PASSWORD", " s3cret ");
    assert_eq!(store(&["--state-dir=/var"], &[password]), StoreLocation::Sqlite("/var/store.db".into()));
    let url = "postgresql://me@[::1]:5432/x?sslmode=verify-full";
    let expected = |password: Option<&str>| StoreLocation::Postgres {
        url: Secret::new(url),
        password: password.map(Secret::new),
    };
    let flag = format!("--store-url={url}");
    assert_eq!(store(&[&flag], &[]), expected(None));
    assert_eq!(store(&[&flag], &[password]), expected(Some("s3cret")));
    let other = ("COPILOT_GRPC_STORE_PASSWORD", "other");
    assert_eq!(store(&[&flag, "--store-password-file=/token"], &[other]), expected(Some("s3cret")));
    // In a variable or the file a URL may hold its password; it is then a secret of the server's.
    let whole = "postgres://me:hunter2@db/x";
    let file = format!("store_url = '{whole}'");
    for config in [good(&[], &[("COPILOT_GRPC_STORE_URL", whole)], ""), good(&[], &[], &file)] {
        let location = StoreLocation::Postgres { url: Secret::new(whole), password: None };
        assert_eq!(config.store.location, location);
        assert!(config.secrets.contains(&Secret::new("hunter2")));
    }
}

#[test]
fn a_store_that_cannot_be_is_refused_without_its_password() {
    const PASSWORD_FILE: &str = "--store-password-file=/token";
    for (args, problem) in [
        (&["--store-url="] as &[_], ": the value is empty"),
        (&["--store-url=hunter2"], ": write a URL such as postgres://"),
        (&["--store-url=mysql://me:hunter2@db/x"], ": only PostgreSQL is known: write"),
        (&["--store-url=postgres://"], ": only PostgreSQL is known: write"),
        (&["--store-url=postgres://db/x?password=hunt er2"], ": there is a space in it"),
        (&["--store-url=postgres://me:hunter2@db/x"], ": everybody on this machine can see"),
        (&["--store-url=postgres://db/x?a=b&password=hunter2"], ": everybody on this machine can see"),
    ] {
        let told = mistakes(args, &[], "");
        assert!(told.starts_with(&format!("flag --store-url{problem}")), "{args:?}: {told}");
        assert!(!told.contains("hunt") && !told.contains('\n'), "{args:?}: {told}");
    }
    let two = mistakes(&[PASSWORD_FILE], &[("COPILOT_GRPC_STORE_URL", "postgres://me:hunter2@db/x")], "");
    assert!(two.contains("COPILOT_GRPC_STORE_URL: there is a password in store_password_file"), "{two}");
    for (args, problem) in [
        (&[PASSWORD_FILE] as &[_], ": a password is only for the database at store_url"),
        (&["--store-url=postgres://db", "--store-password-file=/empty"], ": the file is empty"),
        (&["--store-url=postgres://db", "--store-password-file=/hunter2"], ": the file cannot be read"),
    ] {
        let told = mistakes(args, &[], "");
        assert!(told.starts_with(&format!("flag --store-password-file{problem}")), "{args:?}: {told}");
        assert!(!told.contains("hunt") && !told.contains('\n'), "{args:?}: {told}");
    }
    let told = mistakes(&[], &[], "store_password = 'hunter2'");
    assert!(told.contains("unknown key") && !told.contains("hunt"), "{told}");
}

#[test]
fn folders_are_archived_where_the_store_is_on_another_disk() {
    const URL: &str = "--store-url=postgres://db/x";
    for (args, expected) in [
        (&[] as &[_], Archive::Off),
        (&["--archive=off"], Archive::Off),
        (&[URL], Archive::BeforeAnswer),
        (&[URL, "--archive=before_answer"], Archive::BeforeAnswer),
        (&[URL, "--archive=off"], Archive::Off),
    ] {
        assert_eq!(good(args, &[], "").archive, expected, "{args:?}");
    }
    for (args, problem) in [
        (&["--archive=before_answer"] as &[_], "without store_url the archive would be on the disk"),
        (&["--archive=after_answer"], "without store_url the archive would be on the disk"),
        (&["--archive=sometimes"], "write before_answer, after_answer or off"),
        (&[URL, "--archive=on"], "write before_answer, after_answer or off"),
    ] {
        let told = mistakes(args, &[], "");
        assert!(told.contains(problem) && !told.contains('\n'), "{args:?}: {told}");
    }
}

#[test]
fn credentials_are_sealed_with_the_first_key_of_a_file_and_opened_with_both() {
    let sealer = |path: &str| good(&[&format!("--seal-key-file={path}")], &[], "").seal.unwrap();
    let (one, two) = (sealer("/key"), sealer("/keys"));
    let sealed = two.seal(b"s", b"token");
    assert_eq!(one.open(b"s", &sealed).unwrap().as_slice(), b"token");
    assert!(good(&[], &[], "").seal.is_none());
    for (path, problem) in [
        ("/none", " = \"/none\": the file cannot be read"),
        ("/empty", " = \"/empty\": the file is empty: make a key with `openssl rand -base64 32`"),
        ("/token", " = \"/token\": line 1 of the file: a key is 32 bytes in base64"),
        ("/three-keys", " = \"/three-keys\": the file has 3 keys"),
        (KEY, ": this is a key, which others may have seen"),
    ] {
        let told = mistakes(&[&format!("--seal-key-file={path}")], &[], "");
        assert!(told.starts_with(&format!("flag --seal-key-file{problem}")), "{path}: {told}");
        assert!(!told.contains("s3cret") && !told.contains(KEY) && !told.contains('\n'), "{path}: {told}");
    }
}

#[test]
fn each_external_cli_has_a_home_of_its_own() {
    for (url, home) in [
        ("a:1", "/a"),
        ("a:1,b:1", "/a,/b"),
        ("srv:///_cli._tcp.cli", "/homes/{name}"),
        ("a:1,srv:///_cli._tcp.cli", "/a,/homes/{name}/copilot"),
    ] {
        let config = good(&["--cli-url", url, "--cli-home", home], &[], "");
        assert_eq!(config.cli_home.join(","), home);
    }
    assert!(good(&["--cli-url=a:1"], &[], "").cli_home.is_empty());
    for (url, home, problem) in [
        ("a:1,b:1", "/a", "there are 2 entries in cli_url and 1 here"),
        ("a:1", "", "the value is empty"),
        ("a:1", "a", "write absolute paths"),
        ("a:1", "/a/../b", "write absolute paths"),
        ("a:1,b:1", "/a,/a", "two CLIs must not share a home, and /a is named twice"),
        ("a:1", "/{name}", "a:1 is one CLI"),
        ("srv:///_cli._tcp.cli", "/a", "srv:///_cli._tcp.cli leads to several CLIs"),
        ("dns:///cli:1", "/{name}", "dns:///cli:1 leads to addresses"),
    ] {
        let told = mistakes(&["--cli-url", url, "--cli-home", home], &[], "");
        assert!(told.starts_with("flag --cli-home") && told.contains(problem), "{url} {home}: {told}");
        assert!(!told.contains('\n'), "{told}");
    }
    let told = mistakes(&["--cli-url=cli", "--cli-home=/a,/b"], &[], "");
    assert!(told.starts_with("flag --cli-url") && !told.contains('\n'), "{told}");
}

#[test]
fn variables_that_kubernetes_sets_are_not_unknown() {
    let service = [
        ("COPILOT_GRPC_SERVICE_HOST", "10.0.0.1"),
        ("COPILOT_GRPC_SERVICE_PORT", "50051"),
        ("COPILOT_GRPC_SERVICE_PORT_GRPC", "50051"),
        ("COPILOT_GRPC_PORT", "tcp://10.0.0.1:50051"),
        ("COPILOT_GRPC_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
        ("COPILOT_GRPC_PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("COPILOT_GRPC_CANARY_SERVICE_HOST", "10.0.0.2"),
        ("COPILOT_GRPC_SERVER", "http://elsewhere:1"),
    ];
    good(&[], &service, "");
    let told = mistakes(&[], &[("COPILOT_GRPC_PORT", "50051")], "");
    assert!(told.starts_with("environment variable COPILOT_GRPC_PORT: unknown variable"), "{told}");
}

const PROVIDER: &[(&str, &str)] =
    &[("COPILOT_PROVIDER_BASE_URL", "http://model:11434/v1"), ("COPILOT_MODEL", "tiny")];

#[test]
fn the_operators_provider_comes_from_the_clis_variables() {
    let vars = [
        PROVIDER,
        &[
            ("COPILOT_PROVIDER_TYPE", "azure"),
            ("COPILOT_PROVIDER_API_KEY", "key"),
            ("COPILOT_PROVIDER_BEARER_TOKEN", "bearer"),
            ("COPILOT_PROVIDER_WIRE_API", "responses"),
            ("COPILOT_PROVIDER_TRANSPORT", "websockets"),
            ("COPILOT_PROVIDER_AZURE_API_VERSION", "2024-10-21"),
            ("COPILOT_PROVIDER_HEADERS", "X-One: 1:1\r\nX-Two:2\\nX-Three: 3\n"),
            ("COPILOT_PROVIDER_MODEL_ID", "gpt-5"),
            ("COPILOT_PROVIDER_WIRE_MODEL", "deployed"),
            ("COPILOT_PROVIDER_MAX_PROMPT_TOKENS", "1000"),
            ("COPILOT_PROVIDER_MAX_OUTPUT_TOKENS", "100"),
        ],
    ];
    let config = good(&[], &vars.concat(), "");
    let provider = config.provider.unwrap();
    assert_eq!(config.model.as_deref(), Some("tiny"));
    assert_eq!(provider.base_url, "http://model:11434/v1");
    assert_eq!(provider.kind.as_deref(), Some("azure"));
    assert_eq!(provider.api_key.as_ref().map(Secret::expose), Some("key"));
    assert_eq!(provider.bearer_token.as_ref().map(Secret::expose), Some("bearer"));
    assert_eq!(provider.wire_api.as_deref(), Some("responses"));
    assert_eq!(provider.transport.as_deref(), Some("websockets"));
    assert_eq!(provider.azure_api_version.as_deref(), Some("2024-10-21"));
    let headers: Vec<_> =
        provider.headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(headers, [("X-One", "1:1"), ("X-Three", "3"), ("X-Two", "2")]);
    assert_eq!(provider.model_id.as_deref(), Some("gpt-5"));
    assert_eq!(provider.wire_model.as_deref(), Some("deployed"));
    assert_eq!((provider.max_prompt_tokens, provider.max_output_tokens), (Some(1000), Some(100)));
}

#[test]
fn a_provider_needs_a_base_url_and_a_model() {
    let url = ("COPILOT_PROVIDER_BASE_URL", "http://model/v1");
    let told = mistakes(&[], &[url], "");
    assert!(told.contains("set COPILOT_MODEL or COPILOT_PROVIDER_MODEL_ID"), "{told}");
    let config = good(&[], &[url, ("COPILOT_PROVIDER_MODEL_ID", "gpt-5")], "");
    assert_eq!(config.model.as_deref(), Some("gpt-5"));
    // Without the URL there is no provider, and the other variables count for nothing.
    for url in [&[] as &[_], &[("COPILOT_PROVIDER_BASE_URL", " ")]] {
        let vars = [url, &[("COPILOT_PROVIDER_TYPE", "?"), ("COPILOT_MODEL", "m")]].concat();
        let config = good(&[], &vars, "");
        assert!(config.provider.is_none());
        assert_eq!(config.model.as_deref(), Some("m"));
    }
}

#[test]
fn a_wrong_provider_is_refused() {
    for (name, value, problem) in [
        ("TYPE", "ollama", " = \"ollama\": write one of openai, azure, anthropic"),
        ("WIRE_API", "grpc", " = \"grpc\": write one of completions, responses"),
        ("TRANSPORT", "pigeon", " = \"pigeon\": write one of http, websockets"),
        ("MAX_PROMPT_TOKENS", "0", " = \"0\": write a whole number of tokens"),
        ("MAX_OUTPUT_TOKENS", "many", " = \"many\": write a whole number of tokens"),
        ("API_KEY_COMMAND", "vault", ": is not supported here"),
        ("BASE_URL", "model:11434", ": write an http:// or https:// URL"),
        ("BASE_URL", "https://me:hunter2@model/v1", ": write no user or password"),
        ("HEADERS", "A: 1\\nhunter2", ": line 2 is not"),
        ("HEADERS", "hun ter2: 1", ": line 1 does not begin with"),
        ("HEADERS", "A: hunter\u{1}2", ": the value in line 1 contains control"),
        ("HEADERS", "A: 1\na: hunter2", ": line 2 names a header for the second time"),
    ] {
        let name = format!("COPILOT_PROVIDER_{name}");
        let mut vars: BTreeMap<_, _> = PROVIDER.iter().copied().collect();
        vars.insert(&name, value);
        let told = mistakes(&[], &vars.into_iter().collect::<Vec<_>>(), "");
        assert!(told.starts_with(&format!("environment variable {name}{problem}")), "{told}");
        assert!(!told.contains("hun") && !told.contains('\n'), "{told}");
    }
}

#[test]
fn secrets_are_neither_in_debug_nor_in_mistakes() {
    const SECRET: &str = "hunter2";
    let secrets: &[_] = &[
        ("COPILOT_CONNECTION_TOKEN", SECRET),
        ("COPILOT_PROVIDER_API_KEY", SECRET),
        ("COPILOT_PROVIDER_BEARER_TOKEN", SECRET),
        ("COPILOT_PROVIDER_HEADERS", "X-Key: hunter2"),
    ];
    let command = run(&["--cli-url=cli:1"], &world(&[PROVIDER, secrets].concat(), "")).unwrap();
    let shown = format!("{command:?} {command:#?}");
    assert!(!shown.contains(SECRET) && shown.contains("X-Key"), "{shown}");

    let wrong: &[_] = &[
        ("COPILOT_PROVIDER_BASE_URL", "ftp://me:hunter2@model"),
        ("COPILOT_PROVIDER_HEADERS", "hunter2"),
        ("COPILOT_GRPC_CLI_TOKENS", SECRET),
        ("COPILOT_GRPC_CLI_TOKEN_FILE", SECRET),
    ];
    let args = ["--cli-url=http://me:hunter2@cli:1"];
    let error = load(&args, wrong, "cli_token = 'hunter2'").unwrap_err();
    assert_eq!(error.mistakes.len(), 7, "{error}");
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains(SECRET), "{shown}");
}

#[cfg(unix)]
#[test]
fn a_path_need_not_be_utf8_but_text_must() {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = OsString::from_vec(vec![b'/', 0xff]);
    let mut world = world(&[], "");
    world.vars.insert("COPILOT_GRPC_CLI_PATH".into(), bytes.clone());
    let Ok(Command::Serve(config)) = run(&[], &world) else { panic!("refused") };
    assert_eq!(config.cli_path, Some(bytes.clone().into()));
    world.vars.insert("COPILOT_GRPC_LISTEN".into(), bytes.clone());
    world.vars.insert("COPILOT_MODEL".into(), bytes);
    let told = run(&[], &world).unwrap_err().to_string();
    assert_eq!(told.lines().filter(|line| line.ends_with("this is not UTF-8")).count(), 2, "{told}");
}

#[test]
fn chat_and_health_find_their_server_and_care_for_nothing_else() {
    let world_with = |url| world(&[("COPILOT_GRPC_SERVER", url), ("COPILOT_GRPC_NONSENSE", "1")], "nonsense");
    for (args, variable, expected) in [
        (&["--server=https://one:1"] as &[&str], "http://two:2", "https://one:1"),
        (&[], "http://two:2", "http://two:2"),
        (&[], "", "http://127.0.0.1:50051"),
    ] {
        let world = world_with(variable);
        match run(&[&["chat"], args].concat(), &world).unwrap() {
            Command::Chat(Chat { server, session: None, model: None, prompt: None }) => {
                assert_eq!(
                    server,
                    Target { server: expected.into(), ca_file: None, certificate: None, token: None }
                )
            }
            other => panic!("{other:?}"),
        }
        match run(&[&["health"], args].concat(), &world).unwrap() {
            Command::Health { server, service } => {
                assert_eq!((server.server.as_str(), service.as_str()), (expected, ""));
            }
            other => panic!("{other:?}"),
        }
    }
    let told = run(&["health"], &world_with("127.0.0.1:50051")).unwrap_err().to_string();
    assert_eq!(
        told,
        "environment variable COPILOT_GRPC_SERVER = \"127.0.0.1:50051\": write a URL such as http://127.0.0.1:50051, or unix:/path of a Unix socket"
    );
}

#[test]
fn clients_take_their_arguments() {
    let world = world(&[], "");
    let args = ["chat", "--session=s", "--model", "m", "what", "is this"];
    match run(&args, &world).unwrap() {
        Command::Chat(Chat { session, model, prompt, .. }) => {
            assert_eq!(session.as_deref(), Some("s"));
            assert_eq!(model.as_deref(), Some("m"));
            assert_eq!(prompt.as_deref(), Some("what is this"));
        }
        other => panic!("{other:?}"),
    }
    match run(&["health", "--service=liveness"], &world).unwrap() {
        Command::Health { service, .. } => assert_eq!(service, "liveness"),
        other => panic!("{other:?}"),
    }
    let files = ["--ca-file=/ca", "--cert-file=/cert", "--key-file=/key"];
    let world = self::world(&[("COPILOT_GRPC_TOKEN", " cgt_x\n")], "");
    match run(&[&["health", "--server=unix:/run/s"], &files[..]].concat(), &world).unwrap() {
        Command::Health { server, .. } => {
            let certificate = Some(("/cert".into(), "/key".into()));
            let ca_file = Some("/ca".into());
            let token = Some(Secret::new("cgt_x"));
            assert_eq!(server, Target { server: "unix:/run/s".into(), ca_file, certificate, token });
        }
        other => panic!("{other:?}"),
    }
    assert!(usage(&["health", "--cert-file=/cert"]).contains("--key-file"));
}

#[test]
fn guard_hands_its_arguments_on_untouched() {
    match run(&["guard", "--", "copilot", "--help", "--", "-x"], &world(&[], "")).unwrap() {
        Command::Guard { args } => assert_eq!(args, ["copilot", "--help", "--", "-x"]),
        other => panic!("{other:?}"),
    }
    assert!(usage(&["guard"]).contains("required"));
    assert!(!usage(&["--help"]).contains("guard"));
}

#[test]
fn settings_before_a_subcommand_are_refused_not_forgotten() {
    assert!(usage(&["--listen=127.0.0.1:1", "chat", "hello"]).contains("cannot be used with"));
    assert!(usage(&["chat", "--listen=127.0.0.1:1"]).contains("unexpected argument"));
}

#[test]
fn help_shows_every_default_and_variable() {
    for help in [usage(&["--help"]), usage(&["serve", "-h"])] {
        // Clap breaks lines where the terminal ends.
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for setting in settings() {
            let default = setting.default.unwrap_or("none");
            let text = format!("{} [default: {default}] [env: {}]", setting.help, setting.variable());
            assert!(help.contains(&text), "{text}\n{help}");
            assert!(help.contains(&setting.flag()), "{}", setting.key);
        }
    }
}

/// The profile `p` of a file.
fn good_profile(vars: &[(&str, &str)], table: &str) -> crate::session::Profile {
    let config = good(&[], vars, &format!("[profiles.p]\n{table}"));
    crate::session::Profile::clone(&config.profiles.named("p").unwrap())
}

#[test]
fn a_profile_is_read_whole() {
    let file = r#"
        models = ["gpt-5", "o*"]
        available_tools = ["bash", "mcp:*"]
        excluded_tools = ["view"]
        allow_permissions = ["shell", "read"]
        github_token_env = "PAYS"
        max_session_age = "30d"
        max_session_idle = "1h"
        system_message = { mode = "replace", text = "You are a parrot." }
        [profiles.p.provider]
        type = "azure"
        base_url = "https://models.example.com"
        wire_api = "responses"
        api_key_file = "/token"
        headers_env = "HEADERS"
        azure_api_version = "1"
        max_prompt_tokens = 1000
    "#;
    let profile = good_profile(&[("PAYS", "ghu_token"), ("HEADERS", "X-Team: blue")], file);
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let expected = crate::session::Profile {
        name: "p".into(),
        provider: Some(Arc::new(Provider {
            kind: Some("azure".into()),
            wire_api: Some("responses".into()),
            base_url: "https://models.example.com".into(),
            api_key: Some(Secret::new("s3cret")),
            azure_api_version: Some("1".into()),
            headers: BTreeMap::from([("X-Team".into(), Secret::new("blue"))]),
            max_prompt_tokens: Some(1000),
            ..Provider::default()
        })),
        github_token: Some(Secret::new("ghu_token")),
        models: list(&["gpt-5", "o*"]),
        available_tools: Some(list(&["bash", "mcp:*"])),
        excluded_tools: list(&["view"]),
        policy: Some(Policy::allowing(&list(&["shell", "read"]))),
        system_message: Some(SystemMessage::Replace { content: "You are a parrot.".into() }),
        max_session_age: Some(Duration::from_secs(30 * 24 * HOUR)),
        max_session_idle: Some(Duration::from_secs(HOUR)),
    };
    assert_eq!(profile, expected);
}

#[test]
fn what_a_profile_does_not_say_is_as_without_it() {
    let empty = crate::session::Profile { name: "p".into(), ..Default::default() };
    assert_eq!(good_profile(&[], ""), empty);
    let rules = "permissions = [{ kind = 'shell', pattern = 'git *', effect = 'ask' }, \
                 { kind = 'shell', effect = 'deny' }, { kind = '*', effect = 'allow' }]";
    let rule =
        |kind: &str, pattern: &str, effect| Rule { kind: kind.into(), pattern: pattern.into(), effect };
    let rules_of = |rules: &str| good_profile(&[], rules).policy;
    let expected =
        [rule("shell", "git *", Effect::Ask), rule("shell", "", Effect::Deny), rule("*", "", Effect::Allow)];
    assert_eq!(rules_of(rules), Some(Policy::new(expected.into())));
    assert_eq!(rules_of("permissions = []"), Some(Policy::default()));
    let added = SystemMessage::Customize { content: Some("s3cret".into()), sections: BTreeMap::new() };
    let message = good_profile(&[], "system_message = 's3cret'").system_message;
    assert_eq!(message, Some(added));
    let from_file = good_profile(&[], "system_message = { file = '/token' }").system_message;
    assert_eq!(
        from_file,
        Some(SystemMessage::Customize { content: Some(" s3cret\n".into()), sections: BTreeMap::new() })
    );
    assert_eq!(good_profile(&[], "available_tools = []").available_tools, Some(vec![]));
}

#[test]
fn all_that_is_wrong_with_profiles_is_reported_at_once_by_its_key_and_without_secrets() {
    let file = r#"
        default_profile = "nobody"
        [profiles."a b"]
        [profiles.p]
        github_token = "ghu_secret"
        modles = []
        models = "gpt"
        available_tools = ["a b"]
        allow_permissions = ["fly"]
        permissions = [{ kind = "shell", effect = "maybe", why = "x", pattern = "" }, 7, {}]
        system_message = { mode = "shout" }
        max_session_age = "1"
        [profiles.p.provider]
        base_url = "https://me:hunter2@host"
        api_key = "sk-secret"
        bearer_token_env = "NOT_THERE"
        headers_file = "/empty"
        type = "other"
        [profiles.q]
        provider = { api_key_file = "/nowhere", wire_api = 1 }
        github_token_file = "/token"
        github_token_env = "HOME"
    "#;
    let told = mistakes(&[], &[], file);
    let origin = |key: &str| format!("key {key} in {FILE}");
    for key in [
        "default_profile",
        "profiles.a b",
        "profiles.p.github_token",
        "profiles.p.modles",
        "profiles.p.models",
        "profiles.p.available_tools",
        "profiles.p.allow_permissions",
        "profiles.p.permissions",
        "profiles.p.permissions[0].pattern",
        "profiles.p.permissions[0].effect",
        "profiles.p.permissions[0].why",
        "profiles.p.permissions[1]",
        "profiles.p.permissions[2].kind",
        "profiles.p.permissions[2].effect",
        "profiles.p.system_message.mode",
        "profiles.p.system_message.text",
        "profiles.p.max_session_age",
        "profiles.p.provider.base_url",
        "profiles.p.provider.api_key",
        "profiles.p.provider.bearer_token_env",
        "profiles.p.provider.headers_file",
        "profiles.p.provider.type",
        "profiles.q.provider.base_url",
        "profiles.q.provider.api_key_file",
        "profiles.q.provider.wire_api",
        "profiles.q.github_token_file",
    ] {
        let lines = told
            .lines()
            .filter(|line| line.strip_prefix(&origin(key)).is_some_and(|rest| rest.starts_with([':', ' '])));
        assert_eq!(lines.count(), 1, "{key} in {told}");
    }
    assert_eq!(told.lines().count(), 26, "{told}");
    assert!(told.contains("did you mean models?"), "{told}");
    assert!(told.contains("name a file (api_key_file) or a variable (api_key_env)"), "{told}");
    assert!(!told.contains("secret\"") && !told.contains("hunter2") && !told.contains("s3cret"), "{told}");
}

#[test]
fn profiles_are_a_table_and_cannot_be_a_value() {
    assert!(mistakes(&[], &[], "profiles = 1").contains("key profiles in"));
    assert!(mistakes(&[], &[], "[profiles]\np = 1").contains("key profiles.p in"));
    assert!(mistakes(&["--default-profile=p"], &[], "").contains("flag --default-profile"));
}

#[test]
fn the_ways_to_show_who_one_is_are_read_whole() {
    assert!(good(&[], &[], "").identity.is_none());
    let identity = good(
        &[],
        &[],
        r#"
        [[jwt]]
        issuer = "https://issuer.example"
        audiences = ["copilot-grpc"]
        jwks = "https://issuer.example/keys"
        tenant_claim = "org.name"
        roles_claim = "groups"
        roles = { "copilot-admins" = "tenant_admin" }
        [[jwt]]
        issuer = "https://kubernetes.default.svc"
        audiences = ["a", "b"]
        jwks = "/jwks.json"
        algorithms = ["RS256", "ES384"]
        skew = "0s"
        tenant = "cluster"
        subject_claim = "kubernetes.io.serviceaccount.name"
        [[certificate]]
        name = "*.workers.example.com"
        tenant = "acme"
        [[certificate]]
        name = "spiffe://example.org/ns/*/sa/chat"
        tenant = "mesh"
        subject = "chat"
        roles = ["operator"]
        [[unix_user]]
        uid = 1000
        tenant = "local"
        subject = "ann"
        "#,
    )
    .identity
    .unwrap();
    let [first, second] = &identity.issuers[..] else { panic!("{identity:?}") };
    assert_eq!((first.skew, first.subject_claim.as_str()), (Duration::from_secs(60), "sub"));
    assert_eq!(first.algorithms, Algorithm::USUAL);
    assert_eq!(first.tenant, TenantFrom::Claim("org.name".into()));
    assert_eq!(first.roles["copilot-admins"], Role::TenantAdmin);
    assert!(matches!(&first.source, Source::Url { .. }) && matches!(&second.source, Source::File(_)));
    assert_eq!(second.algorithms, [Algorithm::Rs256, Algorithm::Es384]);
    assert_eq!((second.skew, second.audiences.len()), (Duration::ZERO, 2));
    assert_eq!(identity.certificates[0].subject, None);
    assert!(
        identity.certificates[1].roles.has(Role::Operator)
            && !identity.certificates[0].roles.has(Role::Operator)
    );
    assert_eq!((identity.users[0].uid, identity.users[0].subject.as_str()), (1000, "ann"));
}

#[test]
fn all_that_is_wrong_with_who_is_let_in_is_reported_at_once_by_its_key() {
    let told = mistakes(
        &["--token-file=/three-keys", "--trusted-proxies=*.com"],
        &[],
        r#"
        unix_user = [1]
        [[jwt]]
        [[jwt]]
        issuer = "i"
        audiences = []
        jwks = "http://issuer.example/keys"
        algorithms = ["HS256"]
        skew = "1h"
        tenant = "Acme"
        ca_file = "/key"
        roles = { admin = "root" }
        secret = 1
        [[jwt]]
        issuer = "i"
        audiences = "a"
        jwks = "/key"
        algorithms = []
        tenant = "a"
        tenant_claim = "b"
        [certificate]
        name = "a.example.com"
        "#,
    );
    let keys = [
        "jwt[0].issuer",
        "jwt[0].audiences",
        "jwt[0].jwks",
        "jwt[0].tenant",
        "jwt[1].audiences",
        "jwt[1].jwks",
        "jwt[1].algorithms",
        "jwt[1].skew",
        "jwt[1].tenant",
        "jwt[1].ca_file",
        "jwt[1].roles",
        "jwt[1].roles.admin",
        "jwt[1].secret",
        "jwt[2].issuer",
        "jwt[2].audiences",
        "jwt[2].jwks",
        "jwt[2].algorithms",
        "jwt[2].tenant_claim",
        "certificate",
        "unix_user[0]",
    ];
    for key in keys {
        let origin = format!("key {key} in {FILE}");
        let is_told =
            |line: &str| line.strip_prefix(&origin).is_some_and(|rest| rest.starts_with([':', ' ']));
        assert!(told.lines().any(is_told), "{key} in {told}");
    }
    assert!(told.contains("key token in /three-keys: the file is not TOML: see line 1"), "{told}");
    assert!(told.contains("flag --trusted-proxies"), "{told}");
    assert!(told.contains("write some of RS256") && !told.contains(KEY), "{told}");
}

#[test]
fn a_new_token_is_asked_for_with_whose_it_is() {
    let args =
        ["token", "new", "--tenant", "acme", "--subject", "ann", "--role", "operator", "--expires", "90d"];
    let Ok(Command::Token(new)) = run(&args, &world(&[], "")) else { panic!("{args:?}") };
    assert_eq!((new.tenant.as_str(), new.subject.as_str(), new.name), ("acme", "ann", None));
    assert!(new.roles.has(Role::Operator));
    assert_eq!(new.expires, Some(Duration::from_secs(90 * 24 * 60 * 60)));
    for wrong in [
        &["token", "new", "--tenant", "acme"][..],
        &["token", "new", "--tenant", "Acme", "--subject", "ann"],
        &["token", "new", "--tenant", "acme", "--subject", "ann", "--role", "root"],
        &["token", "new", "--tenant", "acme", "--subject", "ann", "--expires", "soon"],
    ] {
        usage(wrong);
    }
}
