//! The typed configuration: from flags, environment and file to a [`Config`] that can be trusted, or to all mistakes at once.
//!
//! `settings` decides where the texts come from, `text` what they must look like, and this file what they mean and which of
//! them go together. The operator's own model provider comes from the CLI's variables (`copilot help providers`), so that what
//! works with `copilot` works with the facade. Nothing here starts, binds or logs anything.
//!
//! Tests: `config/tests.rs`.

mod address;
mod cluster;
mod identity;
mod profiles;
mod section;
mod store;
mod text;
mod transport;

use std::{
    ops::RangeInclusive,
    path::{self, Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use clap::ArgMatches;
use zeroize::Zeroizing;

use super::settings::{ConfigError, Environment, Values};
use crate::{
    backend::{
        CLI_NAME, Ejection,
        process::discover::Wanted,
        recycling::{self, AtMemory},
    },
    copilot::{Provider, Secret},
    identity::Settings,
    session::{Archive, PERMISSION_KINDS, Profiles, Rules},
    store::Sealer,
};

pub use address::CliAddress;
pub use cluster::ClusterSettings;
use profiles::AGES;
pub use store::{StoreLocation, StoreSettings};
use text::{
    BYTES, COUNT, DURATION, GIB, KIB, MIB, absolute_path, any, base_url, headers, list, log_directives,
    one_of, tokens, tool, truth, within,
};
pub use transport::{TransportSettings, UnixSettings};

/// The configuration of `serve`. Every value has been checked; secrets are redacted in `Debug`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients come in.
    pub transport: TransportSettings,
    /// How callers show who they are; `None`: nobody is asked.
    pub identity: Option<Settings>,
    /// Whether the operator says that all callers are to be trusted. Never together with `identity`.
    pub trusts_callers: bool,
    /// The external CLIs, each once; if there are none, embedded ones are started. Never together with `cli_path`.
    pub cli_url: Vec<CliAddress>,
    /// The homes of the CLIs at `cli_url`, one for each in their order; empty: this server does not see them. The home of an
    /// `srv:///` name has [`CLI_NAME`] in it.
    pub cli_home: Vec<String>,
    /// The connection token of the CLIs at `cli_url`; `None` if there are none.
    pub cli_token: Option<Secret>,
    /// The file with the CLIs that get no new sessions. It need not exist.
    pub drain_file: Option<PathBuf>,
    /// How many embedded CLIs to start, if `cli_url` is empty; at least 1.
    pub embedded_clis: usize,
    /// The program to start; without it, the program is searched for.
    pub cli_path: Option<PathBuf>,
    /// The form of the CLI to start.
    pub cli: Wanted,
    /// The folder of the server: its store, and the homes of its embedded CLIs. It need not exist yet.
    pub state_dir: PathBuf,
    /// Where sessions live.
    pub store: StoreSettings,
    /// What this server is among those that share the store.
    pub cluster: ClusterSettings,
    /// What is archived of sessions. `Off` with SQLite.
    pub archive: Archive,
    /// Seals the credentials of sessions for the store; `None`: they are in memory only.
    pub seal: Option<Sealer>,
    /// Built-in tools of sessions whose requests name none.
    pub available_tools: Vec<String>,
    /// The folders in which requests may name paths; `None`: the one that the embedded CLIs work in.
    pub roots: Option<Vec<PathBuf>>,
    /// What sessions may do whose requests have no permission policy: some of `PERMISSION_KINDS`.
    pub allow_permissions: Vec<String>,
    /// The operator's profiles.
    pub profiles: Profiles,
    /// The default turn deadline.
    pub turn_timeout: Duration,
    /// How long asks wait for an answer, in sessions whose requests do not say.
    pub ask_timeout: Duration,
    /// How many turns may wait in one session.
    pub max_queued_turns: usize,
    /// How many turns one CLI runs at once; `None`: as many as suit the machine.
    pub max_running_turns: Option<usize>,
    /// How many turns may wait for one CLI, in all sessions together.
    pub max_waiting_turns: usize,
    /// How many sessions may be known at once.
    pub max_sessions: usize,
    /// How many streams may watch one session.
    pub max_watchers: usize,
    /// How many bytes all callers together may leave unread.
    pub max_reader_memory: usize,
    /// The largest gRPC request, in bytes.
    pub max_message_size: usize,
    /// The largest JSON-RPC message taken from the CLI, in bytes.
    pub max_frame_size: usize,
    /// Whether there is a keeper link to each CLI at `cli_url`, which keeps turns going when the main link is lost.
    pub keeper_link: bool,
    /// The time in which a CLI that was started must be ready.
    pub start_timeout: Duration,
    /// When embedded CLIs are replaced.
    pub recycling: recycling::Rules,
    /// When a CLI gets no new sessions because too much failed.
    pub ejection: Ejection,
    /// The age at which a client is told to open another connection; `None`: never.
    pub max_connection_age: Option<Duration>,
    /// How many clients may be connected at once; `None`: as many as there are file descriptors for.
    pub max_connections: Option<usize>,
    /// The time after SIGTERM in which health is NOT_SERVING and calls are still taken.
    pub drain_delay: Duration,
    /// The time that running turns get to finish after SIGTERM; zero cuts them off.
    pub grace_period: Duration,
    /// When sessions are closed and deleted.
    pub cleanup: Rules,
    /// The format of log lines.
    pub log_format: LogFormat,
    /// The level of logs: directives that `tracing_subscriber::EnvFilter` accepts.
    pub log_level: String,
    /// Secrets that must not be shown, wherever they turn up: the connection token, the store's password, and those in the
    /// environment, which the CLIs inherit.
    pub secrets: Vec<Secret>,
    /// The provider of sessions whose requests name none.
    pub provider: Option<Arc<Provider>>,
    /// The model of sessions whose requests name none. Set whenever `provider` is.
    pub model: Option<String>,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Human,
    /// A JSON object on each line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err("write human or json".into()),
        }
    }
}

impl Config {
    pub(super) fn load(flags: &ArgMatches, env: &impl Environment) -> Result<Self, ConfigError> {
        let mut values = Values::collect(flags, env);
        let config = Self::read(&mut values);
        let mistakes = values.into_mistakes();
        config.filter(|_| mistakes.is_empty()).ok_or(ConfigError { mistakes })
    }

    /// The folder that embedded CLIs work in.
    pub fn work_dir(&self) -> PathBuf {
        self.state_dir.join("work")
    }

    /// The folders in which requests may name paths. By default there are none for external CLIs, whose working folders are
    /// unknown.
    pub fn roots(&self) -> Vec<PathBuf> {
        match &self.roots {
            Some(roots) => roots.clone(),
            None if self.cli_url.is_empty() => path::absolute(self.work_dir()).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// Reads all settings before it gives up on any, so that all mistakes are noted.
    fn read(values: &mut Values<'_>) -> Option<Self> {
        let identity = identity::identity(values);
        let trusts_callers = identity::trusts_callers(values, identity.is_some());
        let transport = transport::transport(values, identity.is_some());
        let cli_url = values.read("cli_url", cli_addresses);
        let cli_home = cli_home(values, cli_url.as_deref());
        let cli_token = cli_token(values);
        let drain_file = values.path("drain_file");
        let embedded_clis = values.read("embedded_clis", within(EMBEDDED_CLIS, COUNT));
        let cli = values.read("cli", Wanted::from_str);
        let cli_path = values.path("cli_path");
        refuse_two_clis(values);
        let state_dir = state_dir(values);
        let store = store::store(values, state_dir.as_ref());
        let cluster = cluster::cluster(values, transport.as_ref());
        let archive = store::archive(values);
        let seal = store::sealer(values);
        let available_tools = values.read("available_tools", |text| list(text, tool));
        let roots = values.read("roots", |text| {
            list(text, absolute_path).map(|roots| roots.into_iter().map(PathBuf::from).collect())
        });
        let allow_permissions = values.read("allow_permissions", |text| list(text, one_of(PERMISSION_KINDS)));
        let profiles = profiles(values);
        let turn_timeout = values.read("turn_timeout", within(TURN_TIMEOUTS, DURATION));
        let ask_timeout = values.read("ask_timeout", within(ASK_TIMEOUTS, DURATION));
        let max_queued_turns = values.read("max_queued_turns", within(QUEUED_TURNS, COUNT));
        let max_running_turns = values.read("max_running_turns", within(RUNNING_TURNS, COUNT));
        let max_waiting_turns = values.read("max_waiting_turns", within(WAITING_TURNS, COUNT));
        let max_sessions = values.read("max_sessions", within(SESSIONS, COUNT));
        let max_watchers = values.read("max_watchers", within(WATCHERS, COUNT));
        let max_reader_memory = values.read("max_reader_memory", within(READER_MEMORIES, BYTES));
        let max_message_size = values.read("max_message_size", within(MESSAGE_SIZES, BYTES));
        let max_frame_size = values.read("max_frame_size", within(FRAME_SIZES, BYTES));
        let keeper_link = values.read("keeper_link", truth);
        let start_timeout = values.read("start_timeout", within(START_TIMEOUTS, DURATION));
        let recycling = recycling(values);
        let ejection = ejection(values);
        let max_connection_age = values.read("max_connection_age", within(CONNECTION_AGES, DURATION));
        let max_connections = values.read("max_connections", within(CONNECTIONS, COUNT));
        let drain_delay = values.read("drain_delay", within(DRAIN_DELAYS, DURATION));
        let grace_period = values.read("grace_period", within(GRACE_PERIODS, DURATION));
        let cleanup = cleanup(values);
        let log_format = values.read("log_format", LogFormat::from_str);
        let log_level = values.read("log_level", log_directives);
        let (provider, model) = provider(values);
        let (store, cluster) = (store?, cluster?);
        let known = cli_token.clone().into_iter().chain(cluster.token.clone());
        let secrets = secrets(values.env()).chain(known).chain(store::secrets(&store.location)).collect();
        Some(Self {
            transport: transport?,
            identity,
            trusts_callers: trusts_callers.is_some(),
            cli_url: cli_url.unwrap_or_default(),
            cli_home: cli_home.unwrap_or_default(),
            cli_token,
            drain_file,
            embedded_clis: embedded_clis?,
            cli: cli?,
            cli_path,
            state_dir: state_dir?,
            store,
            cluster,
            archive: archive?,
            seal,
            available_tools: available_tools.unwrap_or_default(),
            roots,
            allow_permissions: allow_permissions.unwrap_or_default(),
            profiles,
            turn_timeout: turn_timeout?,
            ask_timeout: ask_timeout?,
            max_queued_turns: max_queued_turns?,
            max_running_turns,
            max_waiting_turns: max_waiting_turns?,
            max_sessions: max_sessions?,
            max_watchers: max_watchers?,
            max_reader_memory: max_reader_memory?,
            max_message_size: max_message_size?,
            max_frame_size: max_frame_size?,
            keeper_link: keeper_link?,
            start_timeout: start_timeout?,
            recycling: recycling?,
            ejection: ejection?,
            max_connection_age: max_connection_age.filter(|age| !age.is_zero()),
            max_connections,
            drain_delay: drain_delay?,
            grace_period: grace_period?,
            cleanup: cleanup?,
            log_format: log_format?,
            log_level: log_level?,
            secrets,
            provider,
            model,
        })
    }
}

const HOUR: u64 = 60 * 60;

/// Nothing can be done in less than a millisecond; a turn longer than a day was forgotten.
const TURN_TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * HOUR);
/// A person may need a while; an ask that waits longer than a day was forgotten.
const ASK_TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * HOUR);
/// A CLI that needs longer than this does not come up at all.
const START_TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(HOUR);
/// Zero: at SIGTERM running turns are cut off at once. No turn needs longer than the longest `turn_timeout`.
const GRACE_PERIODS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * HOUR);
/// Zero: connections have no maximum age. A year means as much.
const CONNECTION_AGES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(365 * 24 * HOUR);
/// One is for tests. No machine has room for the buffers of more than a million.
const CONNECTIONS: RangeInclusive<usize> = 1..=1_000_000;
/// Zero: at SIGTERM calls are refused at once. Load balancers ask for health every few seconds.
const DRAIN_DELAYS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(HOUR);
/// A shorter interval would leave no time for anything else; with a longer one disks fill up in between.
const CLEANUP_INTERVALS: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(24 * HOUR);
/// A CLI takes a second to start. No CLI of a year of age is still in use.
const RECYCLE_AGES: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(365 * 24 * HOUR);
/// With less than a CLI holds when idle, it would be replaced for ever.
const RECYCLE_MEMORIES: RangeInclusive<usize> = 256 * MIB..=1024 * GIB;
/// One: a CLI for each turn. A billion are never reached.
const RECYCLE_TURNS: RangeInclusive<usize> = 1..=1_000_000_000;
/// Zero: never. Who has more failures than this in a row has gone elsewhere.
const FAILURES: RangeInclusive<usize> = 0..=1000;
/// With a shorter time, a CLI that fails would be probed all the time.
const EJECTIONS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(HOUR);
/// No CLI lists more sessions in a bearable time.
const STORED_SESSIONS: RangeInclusive<usize> = 1..=10_000_000;
/// More than 16 need memory and CPU that one machine does not have.
const EMBEDDED_CLIS: RangeInclusive<usize> = 1..=16;
/// Without one waiting turn, two callers of a session could not take turns; more than ten thousand hide a jam.
const QUEUED_TURNS: RangeInclusive<usize> = 1..=10_000;
/// No CLI does thousands of things at once, but one on a very large machine may do hundreds.
const RUNNING_TURNS: RangeInclusive<usize> = 1..=10_000;
/// Zero: a turn that cannot run at once is refused. Each turn that waits takes a few kilobytes, and its prompt.
const WAITING_TURNS: RangeInclusive<usize> = 0..=1_000_000;
/// The state of more than a million sessions would not fit into a usual machine.
const SESSIONS: RangeInclusive<usize> = 1..=1_000_000;
/// Without one, nobody beside the turn's caller could answer an ask. Each event goes into the queue of each watcher.
const WATCHERS: RangeInclusive<usize> = 1..=100_000;
/// With less than 1 MiB a single reader is behind at once; a terabyte is no limit.
const READER_MEMORIES: RangeInclusive<usize> = MIB..=1024 * GIB;
/// With less than 64 KiB ordinary prompts fail; with more than 256 MiB a few callers can exhaust the memory.
const MESSAGE_SIZES: RangeInclusive<usize> = 64 * KIB..=256 * MIB;
/// With less than 1 MiB the history of an ordinary session fails; no real message of the CLI reaches 1 GiB.
const FRAME_SIZES: RangeInclusive<usize> = MIB..=GIB;

/// The connection token for external CLIs; nobody can connect to an embedded one.
fn cli_token(values: &mut Values<'_>) -> Option<Secret> {
    const FILE: &str = "cli_token_file";
    let external = values.origin("cli_url").is_some();
    if values.origin(FILE).is_none() {
        let token = |text: &str| Ok(Secret::new(text));
        return external.then(|| values.hidden_variable("COPILOT_CONNECTION_TOKEN", token)).flatten();
    }
    let path = values.path(FILE)?;
    if !external {
        values.refuse(
            FILE,
            "a token is only for the CLIs at cli_url: set cli_url (--cli-url) too, or leave this out",
        );
        return None;
    }
    // The path is not shown: if somebody took the setting for the token itself, the token must not be in the log.
    match values.env().read(&path).map(Zeroizing::new) {
        Ok(text) if text.trim().is_empty() => {
            values.refuse(FILE, "the file is empty: write the token into it")
        }
        Ok(text) => return Some(Secret::new(text.trim())),
        Err(error) => values.refuse(FILE, format!("the file cannot be read: {error}")),
    }
    None
}

/// The values of variables whose names suggest secrets.
fn secrets(env: &dyn Environment) -> impl Iterator<Item = Secret> {
    const WORDS: [&str; 5] = ["TOKEN", "KEY", "SECRET", "PASSWORD", "CREDENTIAL"];
    let names = env.names().into_iter().filter(|name| {
        let name = name.to_ascii_uppercase();
        WORDS.iter().any(|word| name.contains(word))
    });
    // A path or a switch is hardly a secret.
    let values = names.filter_map(|name| env.var(&name)?.into_string().ok());
    values.filter(|value| value.len() >= 8 && !value.starts_with('/')).map(Secret::new)
}

fn recycling(values: &mut Values<'_>) -> Option<recycling::Rules> {
    let after_age = values.read("recycle_after_age", within(RECYCLE_AGES, DURATION));
    let at_memory = values.read("recycle_at_memory", |text| match text.trim() {
        "0" => Ok(0),
        text => within(RECYCLE_MEMORIES, BYTES)(text),
    });
    let after_turns = values.read("recycle_after_turns", within(RECYCLE_TURNS, COUNT));
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let at_memory = match at_memory {
        None => AtMemory::Usual,
        Some(0) => AtMemory::Never,
        Some(bytes) => AtMemory::Bytes(number(bytes)),
    };
    Some(recycling::Rules { after_age, at_memory, after_turns: after_turns.map(number) })
}

fn ejection(values: &mut Values<'_>) -> Option<Ejection> {
    let after = values.read("eject_after", within(FAILURES, COUNT));
    let first = values.read("eject_for", within(EJECTIONS, DURATION));
    Some(Ejection { after: after?, first: first? })
}

fn cleanup(values: &mut Values<'_>) -> Option<Rules> {
    let close_idle_after = values.read("close_idle_after", within(AGES, DURATION));
    let delete_idle_after = values.read("delete_idle_after", within(AGES, DURATION));
    let delete_after_age = values.read("delete_after_age", within(AGES, DURATION));
    let max_stored = values.read("max_stored_sessions", within(STORED_SESSIONS, COUNT));
    let interval = values.read("cleanup_interval", within(CLEANUP_INTERVALS, DURATION));
    let dry_run = values.read("cleanup_dry_run", truth);
    let (interval, dry_run) = (interval?, dry_run?);
    Some(Rules { close_idle_after, delete_idle_after, delete_after_age, max_stored, interval, dry_run })
}

/// The profiles. `default_profile` must be one of them.
fn profiles(values: &mut Values<'_>) -> Profiles {
    let profiles = profiles::profiles(values);
    let default = values.read("default_profile", |name| {
        let is_there = profiles.iter().any(|profile| profile.name == name);
        is_there.then(|| name.to_owned()).ok_or_else(|| format!("there is no [profiles.{name}] in the file"))
    });
    Profiles::new(profiles, default.as_deref())
}

fn refuse_two_clis(values: &mut Values<'_>) {
    const EMBEDDED_ONLY: [&str; 6] =
        ["cli", "cli_path", "embedded_clis", "recycle_after_age", "recycle_at_memory", "recycle_after_turns"];
    for key in EMBEDDED_ONLY {
        if let (Some(url), Some(_)) = (values.origin("cli_url"), values.origin(key)) {
            let problem =
                format!("{key} and cli_url ({url}) exclude each other: start a CLI or use a running one");
            values.refuse(key, problem);
        }
    }
}

/// Parses addresses with commas between them. Each may come once: a CLI that counted twice would get twice the sessions, and be
/// asked for each of them twice.
fn cli_addresses(text: &str) -> Result<Vec<CliAddress>, String> {
    let mut addresses = Vec::new();
    for address in text.split(',') {
        let address = CliAddress::from_str(address.trim())?;
        if addresses.contains(&address) {
            return Err(format!("{address} is named twice: write each address once"));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// The homes of external CLIs. `urls` is `None` if `cli_url` is unset, or wrong, which has been noted.
///
/// Two CLIs must never share a home: each would write its own continuation of a session. So those that an address name leads to
/// can have none: which of them is which is not known.
fn cli_home(values: &mut Values<'_>, urls: Option<&[CliAddress]>) -> Option<Vec<String>> {
    const KEY: &str = "cli_home";
    if values.origin("cli_url").is_none() && values.origin(KEY).is_some() {
        values
            .refuse(KEY, "the homes of CLIs that are started are in state_dir: this is for those at cli_url");
        return None;
    }
    let check = |homes: Vec<String>, urls: &[CliAddress]| {
        if homes.len() != urls.len() {
            let (homes, urls) = (homes.len(), urls.len());
            return Err(format!("there are {urls} entries in cli_url and {homes} here: write one for each"));
        }
        for (index, (home, url)) in homes.iter().zip(urls).enumerate() {
            match (url, home.contains(CLI_NAME)) {
                (CliAddress::One { .. }, false) | (CliAddress::Targets { .. }, true) => {}
                (CliAddress::One { .. }, true) => {
                    return Err(format!("{url} is one CLI: {CLI_NAME} is for the targets of srv:///NAME"));
                }
                (CliAddress::Targets { .. }, false) => {
                    let problem = "leads to several CLIs, which must not share a home";
                    return Err(format!("{url} {problem}: write {CLI_NAME} where the name of each stands"));
                }
                (CliAddress::Addresses { .. }, _) => {
                    let problem = "leads to addresses, from which no home follows";
                    return Err(format!("{url} {problem}: use srv:///NAME, or a list of addresses"));
                }
            }
            if homes[..index].iter().any(|other| Path::new(other) == Path::new(home)) {
                return Err(format!("two CLIs must not share a home, and {home} is named twice"));
            }
        }
        Ok(homes)
    };
    values.read(KEY, |text| {
        let homes = list(text, absolute_path)?;
        // Without addresses, which are wrong, nothing can be said about their homes.
        urls.map_or(Ok(Vec::new()), |urls| check(homes, urls))
    })
}

/// The state directory. Relative paths in the variables are ignored, as the XDG Base Directory Specification says.
fn state_dir(values: &mut Values<'_>) -> Option<PathBuf> {
    if values.origin("state_dir").is_some() {
        return values.path("state_dir");
    }
    let env = values.env();
    let base = |name| env.var(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let dir = base("XDG_STATE_HOME").or_else(|| Some(base("HOME")?.join(".local/state")));
    if dir.is_none() {
        values.refuse("state_dir", "there is neither XDG_STATE_HOME nor HOME to put it in: set --state-dir");
    }
    Some(dir?.join("copilot-grpc"))
}

/// The operator's provider and model, by the CLI's rules (`copilot help providers`): the base URL activates the provider,
/// without which the other variables mean nothing, and a provider needs a model.
fn provider(values: &mut Values<'_>) -> (Option<Arc<Provider>>, Option<String>) {
    const BASE_URL: &str = "COPILOT_PROVIDER_BASE_URL";
    const MODEL: &str = "COPILOT_MODEL";
    let model = values.variable(MODEL, any);
    if values.env().var(BASE_URL).is_none_or(|url| url.to_string_lossy().trim().is_empty()) {
        return (None, model);
    }
    const KEY_COMMAND: &str = "COPILOT_PROVIDER_API_KEY_COMMAND";
    if values.env().var(KEY_COMMAND).is_some() {
        let problem = "is not supported here: set COPILOT_PROVIDER_API_KEY or COPILOT_PROVIDER_BEARER_TOKEN";
        values.refuse_variable(KEY_COMMAND, problem, None);
    }
    let secret = |text: &str| Ok(Secret::new(text));
    // A URL can carry a password or a key, so it is not shown.
    let base_url = values.hidden_variable(BASE_URL, base_url);
    let provider = Provider {
        kind: values.variable("COPILOT_PROVIDER_TYPE", one_of(&["openai", "azure", "anthropic"])),
        wire_api: values.variable("COPILOT_PROVIDER_WIRE_API", one_of(&["completions", "responses"])),
        transport: values.variable("COPILOT_PROVIDER_TRANSPORT", one_of(&["http", "websockets"])),
        base_url: base_url.unwrap_or_default(),
        api_key: values.hidden_variable("COPILOT_PROVIDER_API_KEY", secret),
        bearer_token: values.hidden_variable("COPILOT_PROVIDER_BEARER_TOKEN", secret),
        azure_api_version: values.variable("COPILOT_PROVIDER_AZURE_API_VERSION", any),
        headers: values.hidden_variable("COPILOT_PROVIDER_HEADERS", headers).unwrap_or_default(),
        model_id: values.variable("COPILOT_PROVIDER_MODEL_ID", any),
        wire_model: values.variable("COPILOT_PROVIDER_WIRE_MODEL", any),
        max_prompt_tokens: values.variable("COPILOT_PROVIDER_MAX_PROMPT_TOKENS", tokens),
        max_output_tokens: values.variable("COPILOT_PROVIDER_MAX_OUTPUT_TOKENS", tokens),
    };
    let model = model.or_else(|| provider.model_id.clone());
    if model.is_none() {
        values.refuse_variable(
            BASE_URL,
            "a provider needs a model: set COPILOT_MODEL or COPILOT_PROVIDER_MODEL_ID",
            None,
        );
    }
    (Some(provider.into()), model)
}

#[cfg(test)]
mod tests;
