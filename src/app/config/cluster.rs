//! The settings of a node among those that share a store: its name, its address, its lease, and the token that they know each other by.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use zeroize::Zeroizing;

use super::{
    text::{DURATION, within},
    transport::{self, TransportSettings},
};
use crate::{app::settings::Values, copilot::Secret};

/// What a node is among those that share a store.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// Its name; `None`: the id of its state directory.
    pub node_name: Option<String>,
    /// Where other nodes reach it, as `host:port`, or `https://host:port` where TLS is spoken there whatever this server itself
    /// speaks; `None`: where it listens, if that is an address.
    pub advertise: Option<String>,
    /// For how long it counts as alive after a renewal of its lease.
    pub lease: Duration,
    /// By which the nodes know each other.
    pub token: Option<Secret>,
}

/// A shorter lease than a second would end with each hiccup of the store; with more than ten minutes a session whose node is dead
/// would wait for longer than its callers.
const LEASES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

/// The longest name of a node, in characters.
const MAX_NAME: usize = 64;

/// The shortest token of a cluster, in characters: 16 random bytes in base64 have 24.
const MIN_TOKEN: usize = 16;

/// How an address begins where TLS is spoken.
const TLS: &str = "https://";

const ADVERTISE: &str = "advertise";
const TOKEN_FILE: &str = "cluster_token_file";
const STORE_URL: &str = "store_url";

/// What a node is. `transport` is where it listens; `None` if that is wrong, which has been noted.
pub(super) fn cluster(
    values: &mut Values<'_>,
    transport: Option<&TransportSettings>,
) -> Option<ClusterSettings> {
    let node_name = values.read("node_name", node_name);
    let advertise = values.read(ADVERTISE, address);
    let lease = values.read("lease", within(LEASES, DURATION));
    let token = token(values);
    let is_shared = values.origin(STORE_URL).is_some();
    for key in [ADVERTISE, TOKEN_FILE] {
        if values.origin(key).is_some() && !is_shared {
            values.refuse(key, format!("it is for servers that share a store: set {STORE_URL} too"));
        }
    }
    let is_reached_from_elsewhere = match &advertise {
        Some(address) => !is_loopback(address),
        None => {
            transport.is_some_and(|it| !transport::is_loopback(it.listen) && !it.listen.ip().is_unspecified())
        }
    };
    let is_mutual = transport.is_none_or(TransportSettings::is_mutual);
    if is_shared && is_reached_from_elsewhere && !is_mutual && values.origin(TOKEN_FILE).is_none() {
        let problem = "servers that share a store off loopback need a token to know each other by: write one into a file \
                       (openssl rand -base64 32), the same for all; or have all clients show certificates \
                       (tls_client_ca_file)";
        values.refuse(TOKEN_FILE, problem);
    } else if is_shared && transport.is_some_and(|it| it.asks_who) && values.origin(TOKEN_FILE).is_none() {
        let problem = "servers that ask callers who they are take each other's word for it: they need a token to know each other \
                       by, so write one into a file (openssl rand -base64 32), the same for all";
        values.refuse(TOKEN_FILE, problem);
    }
    Some(ClusterSettings { node_name, advertise, lease: lease?, token })
}

fn node_name(text: &str) -> Result<String, String> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > MAX_NAME || !text.chars().all(is_good) {
        return Err(format!("write 1 to {MAX_NAME} letters, digits, and - _ ."));
    }
    Ok(text.into())
}

/// An address that other machines can use.
fn address(text: &str) -> Result<String, String> {
    const FORM: &str = "write host:port, such as 10.0.0.7:50051, as other servers reach this one";
    let rest = text.strip_prefix("http://").unwrap_or(text);
    let (scheme, rest) = match rest.strip_prefix(TLS) {
        Some(rest) => (TLS, rest),
        None => ("", rest),
    };
    let uri: http::Uri = format!("http://{rest}").parse().map_err(|_| FORM.to_owned())?;
    let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else { return Err(FORM.into()) };
    if port == 0 || uri.path_and_query().is_some_and(|path| path.as_str() != "/") || rest.contains('@') {
        return Err(FORM.into());
    }
    if host_ip(host).is_some_and(|ip| ip.is_unspecified()) {
        return Err(format!("{host} is no address that others can use: {FORM}"));
    }
    Ok(format!("{scheme}{}", rest.trim_end_matches('/')))
}

fn is_loopback(address: &str) -> bool {
    let address = address.strip_prefix(TLS).unwrap_or(address);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host == "localhost" || host_ip(host).is_some_and(|ip| ip.is_loopback())
}

fn host_ip(host: &str) -> Option<IpAddr> {
    host.trim_matches(['[', ']']).parse().ok()
}

fn token(values: &mut Values<'_>) -> Option<Secret> {
    values.origin(TOKEN_FILE)?;
    let path = values.path(TOKEN_FILE)?;
    // The path is not shown: somebody may have taken the setting for the token itself.
    match values.env().read(&path).map(Zeroizing::new) {
        Ok(text) if text.trim().len() < MIN_TOKEN => {
            let problem = format!(
                "the token in the file is shorter than {MIN_TOKEN} characters: make one with `openssl rand -base64 32`"
            );
            values.refuse(TOKEN_FILE, problem);
        }
        Ok(text) if !text.trim().bytes().all(|byte| byte.is_ascii_graphic()) => {
            values.refuse(TOKEN_FILE, "the file must have one line, of letters, digits and signs of ASCII");
        }
        Ok(text) => return Some(Secret::new(text.trim())),
        Err(error) => values.refuse(TOKEN_FILE, format!("the file cannot be read: {error}")),
    }
    None
}
