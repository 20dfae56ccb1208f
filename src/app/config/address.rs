//! The addresses of external CLIs.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

/// The address of a CLI, or a name whose addresses are CLIs. Displayed as `host:port`, an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliAddress {
    /// A host name or IP address, without brackets.
    pub host: String,
    /// The TCP port; never 0.
    pub port: u16,
    /// Whether the host is a name, each of whose addresses is a CLI.
    pub each: bool,
}

impl fmt::Display for CliAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, each } = self;
        if *each {
            f.write_str(EACH)?;
        }
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// The beginning of a name whose addresses are CLIs, as in gRPC's own naming.
const EACH: &str = "dns:///";

impl FromStr for CliAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write HOST:PORT, such as 127.0.0.1:4321 or [::1]:4321";
        if let Some(name) = text.strip_prefix(EACH) {
            const FORM: &str = "write dns:///NAME:PORT, such as dns:///cli.default.svc:4321";
            let named = Self::from_str(name).ok().filter(|named| !named.each && !name.contains("://"));
            let named = named.filter(|named| named.host.parse::<IpAddr>().is_err());
            return named.map(|named| Self { each: true, ..named }).ok_or_else(|| FORM.into());
        }
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
            None => {
                !host.is_empty()
                    && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
            }
        };
        let port = port.parse().ok().filter(|port| *port > 0);
        match (is_host, port) {
            (true, Some(port)) => Ok(Self { host: bare.unwrap_or(host).into(), port, each: false }),
            (true, None) => Err(format!("the port is not a number from 1 to 65535: {FORM}")),
            (false, _) => Err(format!("this names no host: {FORM}")),
        }
    }
}
