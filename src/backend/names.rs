//! Names of the DNS that lead to CLIs, looked up by hickory-resolver: the system's own lookup knows no SRV records and does not
//! say how long an answer holds.
//!
//! Nothing is remembered between lookups, and the system's configuration is read for each: an old answer would be followed
//! for longer than it holds. What becomes of an answer is `pool::addresses`' to decide.
//!
//! Tests: `tests/integration/names.rs`.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    lookup::Lookup,
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{RData, RecordType, rdata::SRV},
};
use tokio::{task::spawn_blocking, time::timeout};

/// What stands for a target's name in the home of CLIs that SRV records lead to.
pub const CLI_NAME: &str = "{name}";

/// How long a lookup may take, with all its retries.
const LIMIT: Duration = Duration::from_secs(10);

/// How often a name is looked up at most: the name server of a cluster gives answers that hold for 5 s (CoreDNS, plugin
/// "kubernetes", `ttl`).
const SHORTEST_PAUSE: Duration = Duration::from_secs(5);

/// How names are looked up: as the system is configured, by default.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Names {
    /// The name server that is asked, and nothing else; `None`: those of the system.
    server: Option<SocketAddr>,
    pub(super) shortest_pause: Duration,
}

impl Default for Names {
    fn default() -> Self {
        Self { server: None, shortest_pause: SHORTEST_PAUSE }
    }
}

/// A CLI that a name leads to. Displayed as `host:port`, an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// A host name or IP address, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// How the host is looked up for each connection; `None`: as the system does.
    pub names: Option<Names>,
}

impl Target {
    /// The home of this CLI, by the home of all of its group, in which [`CLI_NAME`] stands for the first label of its host.
    pub(super) fn home(&self, homes: &Path) -> PathBuf {
        let name = self.host.split('.').next().unwrap_or_default();
        homes.to_string_lossy().replace(CLI_NAME, name).into()
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port(), names: None }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// An answer of the DNS, and how long it holds.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) found: BTreeSet<T>,
    pub(super) holds_for: Duration,
}

impl Names {
    /// Names as one server of the test's choice has them, looked up again after `shortest_pause` if the answer holds no longer.
    pub fn served_by(server: SocketAddr, shortest_pause: Duration) -> Self {
        Self { server: Some(server), shortest_pause }
    }

    /// The IPv4 addresses of a host, or its IPv6 ones if it has no others: in a dual-stack cluster each pod has one of each, and
    /// is one CLI. If the server fails to tell the ones, the others do not stand in for them: they would be other CLIs.
    ///
    /// # Errors
    /// Fails as well if there are none.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect but that nobody gets the answer.
    pub(super) async fn addresses(&self, host: &str) -> io::Result<Answer<IpAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(Answer { found: [address].into(), holds_for: Duration::ZERO });
        }
        let answer = self.ask(host, &[RecordType::A, RecordType::AAAA]).await?;
        Ok(read(&answer, |data| match data {
            RData::A(address) => Some(address.0.into()),
            RData::AAAA(address) => Some(address.0.into()),
            _ => None,
        }))
    }

    /// The hosts and ports of a name's SRV records. All priorities and weights are alike here: each is a CLI.
    ///
    /// # Errors
    /// Fails as well if there are no records.
    ///
    /// # Cancel safety
    /// As [`addresses`](Self::addresses).
    pub(super) async fn targets(&self, name: &str) -> io::Result<Answer<Target>> {
        let answer = self.ask(name, &[RecordType::SRV]).await?;
        Ok(read(&answer, |data| match data {
            RData::SRV(record) => self.target(record),
            _ => None,
        }))
    }

    /// `None`: the record says that there is no such service (RFC 2782, "Target"), or names no host.
    fn target(&self, record: &SRV) -> Option<Target> {
        let host = record.target.to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let is_host = !host.is_empty() && host.chars().all(is_letter) && record.port > 0;
        is_host.then(|| Target { host, port: record.port, names: Some(self.clone()) })
    }

    /// Asks for records of the first kind that there are any of.
    async fn ask(&self, name: &str, kinds: &[RecordType]) -> io::Result<Lookup> {
        let server = self.server;
        let ask = async {
            // It reads files.
            let resolver = spawn_blocking(move || resolver(server)).await?.map_err(io::Error::other)?;
            let mut kinds = kinds.iter().peekable();
            while let Some(kind) = kinds.next() {
                match resolver.lookup(name, *kind).await {
                    Err(error) if error.is_no_records_found() && kinds.peek().is_some() => {}
                    answer => return answer.map_err(io::Error::other),
                }
            }
            Err(io::ErrorKind::NotFound.into())
        };
        timeout(LIMIT, ask).await?
    }
}

fn read<T: Ord>(answer: &Lookup, wanted: impl Fn(&RData) -> Option<T>) -> Answer<T> {
    let records = answer.answers();
    let holds_for = records.iter().map(|record| record.ttl).min().unwrap_or_default();
    let found = records.iter().filter_map(|record| wanted(&record.data)).collect();
    Answer { found, holds_for: Duration::from_secs(holds_for.into()) }
}

fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio()?,
        Some(server) => {
            let mut udp = ConnectionConfig::udp();
            udp.port = server.port();
            let server = NameServerConfig::new(server.ip(), true, vec![udp]);
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            builder
        }
    };
    builder.options_mut().cache_size = 0;
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host: &str) -> Target {
        Target { host: host.into(), port: 1, names: None }
    }

    #[test]
    fn a_target_is_shown_as_an_address() {
        assert_eq!(target("cli-0.cli").to_string(), "cli-0.cli:1");
        assert_eq!(Target::from("[::1]:1".parse::<SocketAddr>().unwrap()).to_string(), "[::1]:1");
    }

    #[test]
    fn a_target_has_the_home_of_its_first_label() {
        let home = |host: &str| target(host).home(Path::new("/homes/{name}/copilot"));
        assert_eq!(home("cli-0.cli.default.svc"), Path::new("/homes/cli-0/copilot"));
        assert_eq!(home("cli"), Path::new("/homes/cli/copilot"));
    }
}
