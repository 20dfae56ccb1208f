//! The settings of `serve`: one table, and the three sources that fill it.
//!
//! The key of a setting (`turn_timeout`) gives the names of its flag (`--turn-timeout`), its environment variable
//! (`COPILOT_GRPC_TURN_TIMEOUT`) and its key in the TOML file (`turn_timeout`). A flag wins over the environment, the
//! environment over the file, the file over the default. This file knows texts, where each came from, and how a mistake is
//! shown; `config` decides what a text must look like.
//!
//! Only [`Process`] reads the process's environment and disk; all else is handed an [`Environment`].

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt, io,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, builder::ValueParser};

/// One setting of `serve`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The TOML key, from which the names of flag and variable follow.
    pub key: &'static str,
    /// The placeholder for the value in `--help`.
    pub value: &'static str,
    /// The text that counts when no source gives one, as `--help` shows it; `None` if the setting is then unset.
    pub default: Option<&'static str>,
    /// What the setting does, in a sentence.
    pub help: &'static str,
}

/// All settings, in the order of `--help`.
pub fn settings() -> &'static [Setting] {
    SETTINGS
}

const SETTINGS: &[Setting] = &[
    Setting {
        key: "listen",
        value: "ADDR",
        default: Some("127.0.0.1:50051"),
        help: "IP address and port (or localhost:PORT) on which gRPC is served",
    },
    Setting {
        key: "allow_insecure_listen",
        value: BOOL,
        default: Some("false"),
        help: "Allow --listen to be an address that other machines can reach, without TLS or without certificates of clients",
    },
    Setting {
        key: "tls_cert_file",
        value: "FILE",
        default: None,
        help: "PEM file with the server's certificate and its chain; with it, TLS is spoken at --listen. It and the other files of TLS \
               are read again when they change",
    },
    Setting {
        key: "tls_key_file",
        value: "FILE",
        default: None,
        help: "PEM file with the private key of --tls-cert-file",
    },
    Setting {
        key: "tls_client_ca_file",
        value: "FILE",
        default: None,
        help: "PEM file with the CAs of clients: they have to show a certificate",
    },
    Setting {
        key: "tls_client_auth",
        value: "required|optional",
        default: None,
        help: "Whether a client without a certificate is refused; without it required, where there is --tls-client-ca-file",
    },
    Setting {
        key: "tls_allowed_names",
        value: LIST,
        default: None,
        help: "Names of which a client's certificate must have one: DNS names, also *.example.org, and URIs, also \
               spiffe://example.org/ns/*; without it, every certificate of the CAs is taken",
    },
    Setting {
        key: "listen_unix",
        value: "PATH",
        default: None,
        help: "Unix socket on which gRPC is served, too",
    },
    Setting {
        key: "listen_unix_users",
        value: LIST,
        default: None,
        help: "Ids of the users that may connect to --listen-unix; without it the server's own and root",
    },
    Setting {
        key: "probe_listen",
        value: "ADDR",
        default: None,
        help: "IP address and port on which health is served, and nothing else, without TLS",
    },
    Setting {
        key: "trust",
        value: "WHOM",
        default: None,
        help: "callers: nobody is asked who he is, and whoever reaches the server may do everything; not together with token_file and the \
               other ways to show who calls",
    },
    Setting {
        key: "token_file",
        value: "FILE",
        default: None,
        help: "TOML file with the hashes of the bearer tokens that are let in (copilot-grpc token new); read again every 2 s",
    },
    Setting {
        key: "trusted_proxies",
        value: LIST,
        default: None,
        help: "Names in the certificates of proxies that may tell who their clients are (x-forwarded-client-cert)",
    },
    Setting {
        key: "cli_url",
        value: ADDRESSES,
        default: None,
        help: "Addresses of Copilot CLIs that already run (copilot --headless --port PORT), or dns:///HOST:PORT for \
               one CLI at each address of a name, or srv:///NAME for one at each target of its SRV records; without \
               it, the service starts its own",
    },
    Setting {
        key: "cli_token_file",
        value: "FILE",
        default: None,
        help: "File with the connection token of the CLIs at --cli-url; wins over COPILOT_CONNECTION_TOKEN",
    },
    Setting {
        key: "cli_home",
        value: FOLDERS,
        default: None,
        help: "COPILOT_HOME of each CLI at --cli-url as this server sees it, in their order, so that their sessions can \
               be archived and move; {name} stands for the first label of a target of srv:///NAME",
    },
    Setting {
        key: "drain_file",
        value: "FILE",
        default: None,
        help: "File with the CLIs that get no new sessions, an address or name on each line, and the servers at --store-url that get \
               none and give theirs away, by node_name; read again every 2 s",
    },
    Setting {
        key: "embedded_clis",
        value: "COUNT",
        default: Some("1"),
        help: "CLIs to start, each a process with a home and memory of its own",
    },
    Setting {
        key: "cli",
        value: "FORM",
        default: Some("auto"),
        help: "Which form of the CLI to start: native (npm's @github/copilot-sdk-PLATFORM from 1.0.14 on, without \
               Node), node (@github/copilot from 1.0.85 on), or auto: native where it is installed, otherwise node",
    },
    Setting {
        key: "cli_path",
        value: "PATH",
        default: None,
        help: "Program to start, copilot-runtime or copilot; without it, the program is searched for",
    },
    Setting {
        key: "state_dir",
        value: "DIR",
        default: Some(STATE_DIR),
        help: "Folder of this server: its store, and the homes of the started CLIs, each in a folder of its own",
    },
    Setting {
        key: "store_url",
        value: "URL",
        default: None,
        help: "PostgreSQL database in which sessions live, postgres://USER@HOST/DATABASE?sslmode=verify-full; without \
               it, they live in an SQLite file, store.db in --state-dir",
    },
    Setting {
        key: "store_password_file",
        value: "FILE",
        default: None,
        help: "File with the password for --store-url; wins over COPILOT_GRPC_STORE_PASSWORD",
    },
    Setting {
        key: "store_timeout",
        value: "DURATION",
        default: Some("5s"),
        help: "How long each call to the store may take",
    },
    Setting {
        key: "node_name",
        value: "NAME",
        default: None,
        help: "Name of this server among those at --store-url, another for each; without it an id of its state directory",
    },
    Setting {
        key: "advertise",
        value: "HOST:PORT",
        default: None,
        help: "Where the other servers at --store-url reach this one; without it where it listens, unless that is every address",
    },
    Setting {
        key: "lease",
        value: "DURATION",
        default: Some("15s"),
        help: "How long the sessions of a server at --store-url that has died wait for another",
    },
    Setting {
        key: "cluster_token_file",
        value: "FILE",
        default: None,
        help: "File with the token by which the servers at --store-url know each other; required off loopback, unless all clients \
               show certificates",
    },
    Setting {
        key: "cluster_ca_file",
        value: "FILE",
        default: None,
        help: "PEM file with the CAs of the other servers at --store-url that speak TLS; without it those that the machine trusts",
    },
    Setting {
        key: "archive",
        value: "WHEN",
        default: None,
        help: "When the folder of a session is copied to the store: before_answer, after_answer, or off; without it \
               before_answer with --store-url, and off with SQLite",
    },
    Setting {
        key: "max_session_size",
        value: "BYTES",
        default: Some("256MiB"),
        help: "Largest folder of a session that the store takes",
    },
    Setting {
        key: "max_session_file_size",
        value: "BYTES",
        default: Some("32MiB"),
        help: "Largest file in the folder of a session that the store takes; larger ones are left out, with a warning",
    },
    Setting {
        key: "seal_key_file",
        value: "FILE",
        default: None,
        help: "File with one or two keys (openssl rand -base64 32), one on each line, to seal the credentials of \
               sessions in the store: the first seals, both open; without it, credentials are in memory only",
    },
    Setting {
        key: "available_tools",
        value: LIST,
        default: None,
        help: "Built-in tools that a session gets when its request names none, separated by commas",
    },
    Setting {
        key: "roots",
        value: LIST,
        default: None,
        help: "Absolute folders in which requests may name paths, separated by commas; without it the work folder of \
               the started CLIs, and none for CLIs at --cli-url",
    },
    Setting {
        key: "allow_permissions",
        value: LIST,
        default: None,
        help: "What sessions without a permission policy may do: shell, write, read, mcp, url, memory, custom-tool",
    },
    Setting {
        key: "default_profile",
        value: "NAME",
        default: None,
        help: "Profile, of those in the file, for sessions whose requests name none",
    },
    Setting { key: "turn_timeout", value: "DURATION", default: Some("10m"), help: "Default turn deadline" },
    Setting {
        key: "ask_timeout",
        value: "DURATION",
        default: Some("5m"),
        help: "How long an ask of the agent (a permission, a tool call, a question) waits for an answer",
    },
    Setting {
        key: "max_queued_turns",
        value: "COUNT",
        default: Some("32"),
        help: "Turns that may wait in one session",
    },
    Setting {
        key: "max_running_turns",
        value: "COUNT",
        default: None,
        help: "Turns that one CLI runs at once, while others wait; without it, for each core of this machine, 32 for a started \
               CLI of the native form, and 5 for others",
    },
    Setting {
        key: "max_waiting_turns",
        value: "COUNT",
        default: Some("1000"),
        help: "Turns that may wait for one CLI, in all its sessions together; more are refused",
    },
    Setting {
        key: "max_sessions",
        value: "COUNT",
        default: Some("1000"),
        help: "Sessions at once; the CLI takes 2 to 3 MB for each one that is loaded",
    },
    Setting {
        key: "max_watchers",
        value: "COUNT",
        default: Some("100"),
        help: "Streams that may watch one session at once (WatchSession, Converse); more are refused",
    },
    Setting {
        key: "max_reader_memory",
        value: "BYTES",
        default: Some("256MiB"),
        help: "Memory for what all callers together leave unread; beyond it, the streams that are furthest behind are \
               ended",
    },
    Setting { key: "max_message_size", value: "BYTES", default: Some("16MiB"), help: "Largest gRPC request" },
    Setting {
        key: "max_frame_size",
        value: "BYTES",
        default: Some("256MiB"),
        help: "Largest JSON-RPC message taken from the CLI",
    },
    Setting {
        key: "keeper_link",
        value: "true|false",
        default: Some("true"),
        help: "Keep a second connection to each CLI of --cli-url, so that turns outlive the loss of one; a started \
               CLI has one connection, its standard input and output",
    },
    Setting {
        key: "start_timeout",
        value: "DURATION",
        default: Some("60s"),
        help: "Time in which a started CLI must be ready",
    },
    Setting {
        key: "recycle_after_age",
        value: "DURATION",
        default: None,
        help: "Replace a started CLI by a new one at this age; its turns run to their end",
    },
    Setting {
        key: "recycle_at_memory",
        value: "BYTES",
        default: None,
        help: "Replace a started CLI when it holds this much memory (Linux only), 0 for never; without it 512MiB, and \
               2MiB for each loaded session, for the native form, which gives no memory back, and never for node",
    },
    Setting {
        key: "recycle_after_turns",
        value: "COUNT",
        default: None,
        help: "Replace a started CLI after this many turns",
    },
    Setting {
        key: "eject_after",
        value: "COUNT",
        default: Some("5"),
        help: "Failures in a row after which a CLI gets no new sessions for a while; 0 for never",
    },
    Setting {
        key: "eject_for",
        value: "DURATION",
        default: Some("10s"),
        help: "How long that lasts the first time; it doubles each time, up to 32 times as long",
    },
    Setting {
        key: "max_connection_age",
        value: "DURATION",
        default: Some("30m"),
        help: "Age at which a client is told to open another connection, up to a tenth less at random; 0s for never",
    },
    Setting {
        key: "max_connections",
        value: "COUNT",
        default: None,
        help: "Clients that may be connected at once; without it as many as the limit of open files (ulimit -n) \
               leaves beside the CLIs, at most 10000. A larger number is cut to what that limit leaves",
    },
    Setting {
        key: "drain_delay",
        value: "DURATION",
        default: Some("0s"),
        help: "Time after SIGTERM in which health is NOT_SERVING and calls are still taken",
    },
    Setting {
        key: "grace_period",
        value: "DURATION",
        default: Some("30s"),
        help: "Time that running turns get to finish after SIGTERM",
    },
    Setting {
        key: "close_idle_after",
        value: "DURATION",
        default: None,
        help: "Close sessions in which nothing has happened for this long; they are loaded again when used",
    },
    Setting {
        key: "delete_idle_after",
        value: "DURATION",
        default: None,
        help: "Delete sessions in which nothing has happened for this long, with their history",
    },
    Setting {
        key: "delete_after_age",
        value: "DURATION",
        default: None,
        help: "Delete sessions this long after their creation, with their history",
    },
    Setting {
        key: "max_stored_sessions",
        value: "COUNT",
        default: None,
        help: "Number of stored sessions beyond which those are deleted in which nothing has happened for longest",
    },
    Setting {
        key: "cleanup_interval",
        value: "DURATION",
        default: Some("1m"),
        help: "How often to look for sessions to close or delete",
    },
    Setting {
        key: "cleanup_dry_run",
        value: BOOL,
        default: Some("false"),
        help: "Only log which sessions would be closed or deleted",
    },
    Setting { key: "log_format", value: "human|json", default: Some("human"), help: "Format of log lines" },
    Setting {
        key: "log_level",
        value: "FILTER",
        default: Some("info"),
        help: "Which events are logged: a level, or tracing directives such as info,h2=warn",
    },
];

/// The placeholder of settings that take several values: repeated flags, commas, or a TOML array.
const LIST: &str = "LIST";
/// The placeholder of settings that take several addresses, in the ways of [`LIST`].
const ADDRESSES: &str = "ADDRESS,...";
/// The placeholder of settings that take several folders, in the ways of [`LIST`].
const FOLDERS: &str = "DIR,...";
/// The placeholder of settings that are true as a flag without a value.
const BOOL: &str = "BOOL";
/// The default of `state_dir` in `--help`; the one default that is computed (in `config`) instead of parsed.
const STATE_DIR: &str = "$XDG_STATE_HOME/copilot-grpc or $HOME/.local/state/copilot-grpc";

const PREFIX: &str = "COPILOT_GRPC_";
const CONFIG: &str = "config";
/// The tables of the file, which have neither flags nor variables: `config::profiles` and `config::identity` read them.
const TABLES: [&str; 4] = ["profiles", "jwt", "certificate", "unix_user"];
/// The variable with the name of the file.
const CONFIG_VARIABLE: &str = "COPILOT_GRPC_CONFIG";
/// The variable of the clients' `--server`. It is no setting, but not unknown either: one shell may run both sides.
pub(super) const SERVER_VARIABLE: &str = "COPILOT_GRPC_SERVER";

/// The variable with the bearer token that `chat` and `health` bring. There is no flag: everybody on the machine can see those.
pub(super) const TOKEN_VARIABLE: &str = "COPILOT_GRPC_TOKEN";
/// The variable with the password of the store, which has no flag and no key: it would be where others read it.
pub(super) const STORE_PASSWORD: &str = "COPILOT_GRPC_STORE_PASSWORD";

impl Setting {
    /// The name of its flag, with the dashes.
    pub fn flag(&self) -> String {
        format!("--{}", self.long())
    }

    /// The name of its environment variable.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.key.to_ascii_uppercase())
    }

    fn long(&self) -> String {
        self.key.replace('_', "-")
    }

    fn arg(&self) -> Arg {
        let default =
            self.default.map_or_else(|| "[default: none]".into(), |text| format!("[default: {text}]"));
        let arg = Arg::new(self.key)
            .long(self.long())
            .value_name(self.value)
            .value_parser(ValueParser::os_string())
            .help(format!("{}\n{default} [env: {}]", self.help, self.variable()));
        match self.value {
            LIST | ADDRESSES | FOLDERS => arg.action(ArgAction::Append),
            // With `=` alone: `--allow-insecure-listen serve` must not take `serve` for its value.
            BOOL => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
            _ => arg,
        }
    }
}

/// The flags of all settings, and `--config`.
pub(super) fn args() -> impl Iterator<Item = Arg> {
    let config = Arg::new(CONFIG)
        .long(CONFIG)
        .value_name("FILE")
        .value_parser(ValueParser::os_string())
        .help(format!("TOML file with settings\n[default: none] [env: {CONFIG_VARIABLE}]"));
    std::iter::once(config).chain(SETTINGS.iter().map(Setting::arg))
}

/// The outside world, as far as the configuration reads it.
pub trait Environment {
    /// The value of an environment variable.
    fn var(&self, name: &str) -> Option<OsString>;

    /// The names of all environment variables. Those that are not UTF-8 may be left out.
    fn names(&self) -> Vec<String>;

    /// The text of a file.
    ///
    /// # Errors
    /// As [`std::fs::read_to_string`].
    fn read(&self, path: &Path) -> io::Result<String>;
}

/// The environment and the files of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process;

impl Environment for Process {
    fn var(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }
}

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag, with its dashes.
    Flag(String),
    /// An environment variable.
    Variable(String),
    /// A key of the TOML file.
    Key {
        /// The file, as it was named.
        file: PathBuf,
        /// The key.
        key: String,
    },
    /// No source gave a value; with the key of the setting.
    Unset(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names are whatever somebody typed; escaped, a mistake stays on its line.
        match self {
            Self::Flag(flag) => write!(f, "flag {}", flag.escape_debug()),
            Self::Variable(name) => write!(f, "environment variable {}", name.escape_debug()),
            Self::Key { file, key } => {
                write!(f, "key {} in {}", key.escape_debug(), file.to_string_lossy().escape_debug())
            }
            Self::Unset(key) => write!(f, "setting {key}"),
        }
    }
}

/// A mistake in the configuration. Displayed on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The source of the value.
    pub origin: Origin,
    /// The text that was given, unless it may be or hold a secret.
    pub value: Option<String>,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl Mistake {
    pub(super) fn new(origin: Origin, problem: impl Into<String>) -> Self {
        Self { origin, value: None, problem: problem.into() }
    }

    /// Adds the value, which must not be a secret.
    pub(super) fn of(self, value: &str) -> Self {
        // A URL with an @ may hold a password.
        Self { value: (!value.contains('@')).then(|| value.into()), ..self }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.origin)?;
        if let Some(value) = &self.value {
            write!(f, " = {value:?}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// All mistakes in the configuration. Displayed with one mistake on each line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError {
    /// The mistakes; at least one.
    pub mistakes: Vec<Mistake>,
}

impl From<Mistake> for ConfigError {
    fn from(mistake: Mistake) -> Self {
        Self { mistakes: vec![mistake] }
    }
}

/// The values that the sources gave, and the mistakes found so far.
pub(super) struct Values<'e> {
    env: &'e dyn Environment,
    given: BTreeMap<&'static str, Given>,
    /// The file and its tables.
    tables: Option<(PathBuf, toml::Table)>,
    mistakes: Vec<Mistake>,
}

/// A value that a source gave: its text, or why it has none.
struct Given {
    origin: Origin,
    text: Result<OsString, String>,
}

impl<'e> Values<'e> {
    /// Collects the values of the three sources. A value that another source overrides is not checked: a wrong value that does
    /// not count is no mistake.
    pub(super) fn collect(flags: &ArgMatches, env: &'e dyn Environment) -> Self {
        let mut values = Self { env, given: BTreeMap::new(), tables: None, mistakes: Vec::new() };
        if let Some((origin, path)) = config_file(flags, env) {
            values.add_file(origin, &path);
        }
        values.add_variables();
        values.add_flags(flags);
        values
    }

    fn add_file(&mut self, origin: Origin, path: &OsStr) {
        let (shown, file) = (path.to_string_lossy(), Path::new(path));
        let text = match self.env.read(file) {
            Ok(text) => text,
            Err(error) => {
                let problem = format!("the file cannot be read: {error}");
                return self.mistakes.push(Mistake::new(origin, problem).of(&shown));
            }
        };
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                let message = error.message().replace('\n', ", ");
                let problem = format!("the file is not TOML: line {line}: {message}");
                return self.mistakes.push(Mistake::new(origin, problem).of(&shown));
            }
        };
        let mut tables = toml::Table::new();
        for (key, value) in table {
            if TABLES.contains(&key.as_str()) {
                tables.insert(key, value);
                continue;
            }
            let origin = Origin::Key { file: file.into(), key: key.clone() };
            match SETTINGS.iter().find(|setting| setting.key == key) {
                Some(setting) => self.give(setting, origin, text_of(setting, value)),
                None => {
                    let problem = unknown(
                        "key",
                        &key,
                        SETTINGS.iter().map(|setting| setting.key).chain(TABLES).map(String::from),
                    );
                    self.mistakes.push(Mistake::new(origin, problem));
                }
            }
        }
        self.tables = Some((file.into(), tables));
    }

    fn add_variables(&mut self) {
        for setting in SETTINGS {
            let name = setting.variable();
            // `NAME=` counts as unset, as `${NAME}` of an unset variable in a compose file means it. Not so for a list: an
            // empty list in the environment takes back a permission that the file gives.
            if let Some(text) = self.env.var(&name).filter(|text| setting.value == LIST || !text.is_empty()) {
                self.give(setting, Origin::Variable(name), Ok(text));
            }
        }
        let mut known: Vec<_> = SETTINGS.iter().map(Setting::variable).collect();
        known.extend([CONFIG_VARIABLE, SERVER_VARIABLE, TOKEN_VARIABLE, STORE_PASSWORD].map(String::from));
        let mut names = self.env.names();
        names.sort_unstable();
        for name in names {
            if name.starts_with(PREFIX) && !known.contains(&name) && !is_service_link(&name, self.env) {
                let problem = unknown("variable", &name, known.iter().cloned());
                self.mistakes.push(Mistake::new(Origin::Variable(name), problem));
            }
        }
    }

    fn add_flags(&mut self, flags: &ArgMatches) {
        for setting in SETTINGS {
            if let Some(values) = flags.get_many::<OsString>(setting.key) {
                let values: Vec<_> = values.map(OsString::as_os_str).collect();
                self.give(setting, Origin::Flag(setting.flag()), Ok(values.join(OsStr::new(","))));
            }
        }
    }

    fn give(&mut self, setting: &Setting, origin: Origin, text: Result<OsString, String>) {
        self.given.insert(setting.key, Given { origin, text });
    }

    /// The source of a setting's value, right or wrong, if any source gave one.
    pub(super) fn origin(&self, key: &str) -> Option<&Origin> {
        self.given.get(key).map(|given| &given.origin)
    }

    /// Parses a setting or its default. `None` if it is unset, or wrong, which is then noted.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let default = || SETTINGS.iter().find(|setting| setting.key == key)?.default;
        let (origin, text) = match self.take(key) {
            Some(given) => given?,
            None => (Origin::Unset(key), default()?.into()),
        };
        let mistake = match text.to_str().map(parse) {
            Some(Ok(value)) => return Some(value),
            Some(Err(problem)) => Mistake::new(origin, problem),
            None => Mistake::new(origin, "this is not UTF-8"),
        };
        self.mistakes.push(mistake.of(&text.to_string_lossy()));
        None
    }

    /// Parses a setting that may hold a secret: no mistake shows the text, and `parse` must not quote it either.
    pub(super) fn hidden<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let before = self.mistakes.len();
        let value = self.read(key, parse);
        self.mistakes[before..].iter_mut().for_each(|mistake| mistake.value = None);
        value
    }

    /// The path that a setting holds, which need not be UTF-8. It has no default here.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.take(key)?.map(|(_, text)| text.into())
    }

    /// The text that a source gave: `None` if none did, `Some(None)` if it cannot be used, which is then noted.
    fn take(&mut self, key: &str) -> Option<Option<(Origin, OsString)>> {
        let Given { origin, text } = self.given.get(key)?;
        let is_list = SETTINGS.iter().any(|setting| setting.key == key && setting.value == LIST);
        let problem = match text {
            Ok(text) if is_list || !text.is_empty() => return Some(Some((origin.clone(), text.clone()))),
            Ok(_) => "the value is empty: give one, or leave the setting out".into(),
            Err(problem) => problem.clone(),
        };
        self.mistakes.push(Mistake::new(origin.clone(), problem));
        Some(None)
    }

    /// Parses one of the CLI's variables, whose text may be shown. Empty counts as unset. `None` also if it is wrong, which is
    /// then noted.
    pub(super) fn variable<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.variable_text(name)?;
        parse(&text).map_err(|problem| self.refuse_variable(name, problem, Some(&text))).ok()
    }

    /// Parses one of the CLI's variables that may hold a secret: no mistake shows the text, and `parse` must not quote it
    /// either.
    pub(super) fn hidden_variable<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.variable_text(name)?;
        parse(&text).map_err(|problem| self.refuse_variable(name, problem, None)).ok()
    }

    fn variable_text(&mut self, name: &str) -> Option<String> {
        let text = self.env.var(name)?;
        let text =
            text.into_string().map_err(|_| self.refuse_variable(name, "this is not UTF-8", None)).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.into())
    }

    /// Notes a mistake in one of the CLI's variables.
    pub(super) fn refuse_variable(&mut self, name: &str, problem: impl Into<String>, shown: Option<&str>) {
        let mistake = Mistake::new(Origin::Variable(name.into()), problem);
        self.mistakes.push(match shown {
            Some(text) => mistake.of(text),
            None => mistake,
        });
    }

    /// Notes a mistake in a setting without showing its value.
    pub(super) fn refuse(&mut self, key: &'static str, problem: impl Into<String>) {
        let origin = self.origin(key).cloned().unwrap_or(Origin::Unset(key));
        self.mistakes.push(Mistake::new(origin, problem));
    }

    /// Notes a mistake.
    pub(super) fn note(&mut self, mistake: Mistake) {
        self.mistakes.push(mistake);
    }

    /// One of the tables of the file, and the file.
    pub(super) fn table(&mut self, name: &str) -> Option<(PathBuf, toml::Value)> {
        let (file, tables) = self.tables.as_mut()?;
        Some((file.clone(), tables.remove(name)?))
    }

    pub(super) fn env(&self) -> &'e dyn Environment {
        self.env
    }

    /// All mistakes, once all settings have been read.
    pub(super) fn into_mistakes(self) -> Vec<Mistake> {
        self.mistakes
    }
}

fn config_file(flags: &ArgMatches, env: &dyn Environment) -> Option<(Origin, OsString)> {
    let flag = flags.get_one::<OsString>(CONFIG).map(|path| (Origin::Flag("--config".into()), path.clone()));
    let variable = || {
        let path = env.var(CONFIG_VARIABLE).filter(|path| !path.is_empty())?;
        Some((Origin::Variable(CONFIG_VARIABLE.into()), path))
    };
    flag.or_else(variable)
}

/// The text of a TOML value, as a flag would have given it.
fn text_of(setting: &Setting, value: toml::Value) -> Result<OsString, String> {
    match value {
        toml::Value::String(text) => Ok(text.into()),
        toml::Value::Integer(number) => Ok(number.to_string().into()),
        toml::Value::Boolean(truth) => Ok(truth.to_string().into()),
        toml::Value::Array(items) if [LIST, ADDRESSES, FOLDERS].contains(&setting.value) => {
            let texts: Option<Vec<_>> = items.iter().map(toml::Value::as_str).collect();
            texts.map(|texts| texts.join(",").into()).ok_or_else(|| "every entry must be a string".into())
        }
        other => {
            Err(format!("this is a TOML {}: write {} = \"{}\"", other.type_str(), setting.key, setting.value))
        }
    }
}

/// Whether Kubernetes has set this variable. It tells every pod about each service of its namespace: with a service named
/// `copilot-grpc`, `COPILOT_GRPC_SERVICE_HOST`, `COPILOT_GRPC_PORT=tcp://…` and `COPILOT_GRPC_PORT_50051_TCP_ADDR` appear, and
/// must not keep the pod from starting. (Kubernetes documentation, "Service: environment variables".)
fn is_service_link(name: &str, env: &dyn Environment) -> bool {
    let is_url = || env.var(name).is_some_and(|value| value.to_string_lossy().contains("://"));
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT") && is_url()
        || name.split_once("_PORT_").is_some_and(|(_, port)| port.starts_with(|c: char| c.is_ascii_digit()))
}

pub(super) fn unknown(kind: &str, name: &str, known: impl Iterator<Item = String>) -> String {
    let nearest = known.map(|other| (distance(name, &other), other)).min();
    match nearest {
        Some((distance, other)) if distance <= MAX_TYPOS => format!("unknown {kind}; did you mean {other}?"),
        _ => format!("unknown {kind}; `copilot-grpc --help` lists the settings"),
    }
}

/// The distance from which on two names count as different names.
const MAX_TYPOS: usize = 3;

/// Levenshtein's distance.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.chars().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_and_variable_follow_from_the_key() {
        let setting = SETTINGS.iter().find(|setting| setting.key == "turn_timeout").unwrap();
        assert_eq!(setting.flag(), "--turn-timeout");
        assert_eq!(setting.variable(), "COPILOT_GRPC_TURN_TIMEOUT");
    }

    #[test]
    fn keys_are_unique_and_nobody_elses() {
        let mut keys: Vec<_> = SETTINGS.iter().map(|setting| setting.key).collect();
        keys.extend(["config", "server", "help", "version"]);
        keys.sort_unstable();
        let count = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn distance_counts_the_letters_that_differ() {
        for (one, other, expected) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "", 3),
            ("timout", "timeout", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
            assert_eq!(distance(other, one), expected, "{other} {one}");
        }
    }

    #[test]
    fn a_mistake_is_one_line_whatever_was_typed() {
        let origin = Origin::Key { file: "a\nb".into(), key: "c\nd".into() };
        let mistake = Mistake::new(origin, "wrong").of("e\nf");
        assert_eq!(mistake.to_string(), r#"key c\nd in a\nb = "e\nf": wrong"#);
    }

    #[test]
    fn what_looks_like_a_password_in_a_url_is_not_shown() {
        let mistake = Mistake::new(Origin::Flag("--cli-url".into()), "wrong").of("http://me:hunter2@host:1");
        assert_eq!(mistake.to_string(), "flag --cli-url: wrong");
    }

    #[test]
    fn the_process_has_an_environment_and_files() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "text").unwrap();
        assert_eq!(Process.read(file.path()).unwrap(), "text");
        let path = Process.var("PATH");
        assert_eq!(path.is_some(), Process.names().iter().any(|name| name == "PATH"));
    }
}
