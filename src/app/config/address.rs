//! The addresses of external CLIs.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

/// The address of a CLI, or a name that leads to several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CliAddress {
    /// One CLI. Displayed as `host:port`, an IPv6 address in brackets.
    One {
        /// A host name or IP address, without brackets.
        host: String,
        /// The TCP port; never 0.
        port: u16,
    },
    /// A name each of whose addresses is a CLI. Displayed as `dns:///host:port`.
    Addresses {
        /// The name, which is no IP address.
        host: String,
        /// The TCP port; never 0.
        port: u16,
    },
    /// A name each of whose SRV records leads to a CLI with a name of its own. Displayed as `srv:///name`.
    Targets {
        /// The name of the records.
        name: String,
    },
}

impl fmt::Display for CliAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::One { host, port } => write!(f, "{host}:{port}"),
            Self::Addresses { host, port } => write!(f, "{ADDRESSES}{host}:{port}"),
            Self::Targets { name } => write!(f, "{TARGETS}{name}"),
        }
    }
}

/// The beginning of a name whose addresses are CLIs, as in gRPC's own naming.
const ADDRESSES: &str = "dns:///";
/// The beginning of a name whose SRV records lead to CLIs.
const TARGETS: &str = "srv:///";

impl FromStr for CliAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix(ADDRESSES) {
            addresses(name)
                .ok_or_else(|| "write dns:///NAME:PORT, such as dns:///cli.default.svc:4321".to_owned())
        } else if let Some(name) = text.strip_prefix(TARGETS) {
            targets(name).ok_or_else(|| {
                "write srv:///NAME without a port, which the records have, such as \
                 srv:///_copilot._tcp.cli.default.svc"
                    .to_owned()
            })
        } else {
            one(text)
        }
    }
}

fn one(text: &str) -> Result<CliAddress, String> {
    const FORM: &str = "write HOST:PORT, such as 127.0.0.1:4321 or [::1]:4321";
    let address = match text.split_once("://") {
        // A URL without a path means the root.
        Some(("http", rest)) => rest.strip_suffix('/').unwrap_or(rest),
        Some(("https", _)) => return Err(format!("the CLI speaks plain TCP, there is no https: {FORM}")),
        Some(_) => return Err(format!("the CLI speaks plain TCP: {FORM}")),
        None => text,
    };
    if address.contains('/') {
        return Err(format!("an address has no path: {FORM}"));
    }
    let (host, port) = address.rsplit_once(':').ok_or_else(|| format!("the port is missing: {FORM}"))?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match bare {
        Some(host) => host.parse::<Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    match (is_host, number(port)) {
        (true, Some(port)) => Ok(CliAddress::One { host: bare.unwrap_or(host).into(), port }),
        (true, None) => Err(format!("the port is not a number from 1 to 65535: {FORM}")),
        (false, _) => Err(format!("this names no host: {FORM}")),
    }
}

fn addresses(name: &str) -> Option<CliAddress> {
    let (host, port) = name.rsplit_once(':')?;
    let is_name = is_name(host) && host.parse::<IpAddr>().is_err();
    Some(CliAddress::Addresses { host: host.into(), port: number(port).filter(|_| is_name)? })
}

fn targets(name: &str) -> Option<CliAddress> {
    let is_name = is_name(name) && name.parse::<IpAddr>().is_err();
    is_name.then(|| CliAddress::Targets { name: name.into() })
}

fn is_name(host: &str) -> bool {
    !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

fn number(port: &str) -> Option<u16> {
    port.parse().ok().filter(|port| *port > 0)
}
