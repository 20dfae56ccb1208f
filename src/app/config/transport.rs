//! The settings of the ports: where clients come in, over what, and what they have to show. A port that others can reach is safe, or
//! the operator has said that it need not be.
//!
//! The files are read at the start, not here.

use std::{net::SocketAddr, path::PathBuf};

use super::text::{any, list, listen_address, truth};
use crate::{
    app::settings::Values,
    grpc::tls::{AllowedNames, Clients, Files, Serving, Trust},
};

/// Where clients come in.
#[derive(Clone, Debug)]
pub struct TransportSettings {
    /// The address to listen on. Loopback, or safe, or `allow_insecure`.
    pub listen: SocketAddr,
    /// Whether `listen` may be an address where others can do harm.
    pub allow_insecure: bool,
    /// The Unix socket beside it.
    pub unix: Option<UnixSettings>,
    /// A plaintext port that serves nothing but health.
    pub probes: Option<SocketAddr>,
    /// Certificates, and who is trusted.
    pub tls: Files,
    /// Whether callers have to show who they are, by more than a certificate of the operator's CA.
    pub asks_who: bool,
}

/// A Unix socket to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixSettings {
    /// Its path.
    pub path: PathBuf,
    /// Who may connect, by user id; `None`: this process's user, and root.
    pub users: Option<Vec<u32>>,
}

/// What is missing on a port that other machines can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exposure {
    /// Encryption, and with it all else.
    Plaintext,
    /// Encryption, though callers show who they are.
    Readable,
    /// Callers do not show who they are.
    Unidentified,
}

const LISTEN: &str = "listen";
const CERT_FILE: &str = "tls_cert_file";
const KEY_FILE: &str = "tls_key_file";
const CA_FILE: &str = "tls_client_ca_file";
const CLIENT_AUTH: &str = "tls_client_auth";
const ALLOWED_NAMES: &str = "tls_allowed_names";
const UNIX: &str = "listen_unix";
const USERS: &str = "listen_unix_users";
const CLUSTER_CA_FILE: &str = "cluster_ca_file";
const STORE_URL: &str = "store_url";

impl TransportSettings {
    /// Whether every client has to show a certificate of the operator's CA.
    pub fn is_mutual(&self) -> bool {
        self.tls.serving.as_ref().is_some_and(is_mutual)
    }

    /// What an operator risks who listens here, in words; `None`: nothing that the settings could mend.
    pub fn risk(&self) -> Option<&'static str> {
        let exposure =
            exposure(self.tls.serving.as_ref(), self.asks_who).filter(|_| !is_loopback(self.listen))?;
        Some(match exposure {
            Exposure::Plaintext => {
                "this port is open to other machines without TLS, and callers do not show who they are: whoever reaches it can \
                 drive the agent, run its tools and read all sessions, and whoever is on the way can read and change what is sent"
            }
            Exposure::Readable => {
                "this port is open to other machines without TLS: whoever is on the way can read and change what is sent, and take \
                 callers' credentials"
            }
            Exposure::Unidentified => {
                "this port is open to other machines, and callers do not show who they are: whoever reaches it can drive the \
                 agent, run its tools and read all sessions"
            }
        })
    }
}

fn is_mutual(serving: &Serving) -> bool {
    serving.clients.as_ref().is_some_and(|clients| clients.is_required)
}

fn exposure(serving: Option<&Serving>, asks_who: bool) -> Option<Exposure> {
    match serving {
        None if asks_who => Some(Exposure::Readable),
        None => Some(Exposure::Plaintext),
        Some(serving) if !asks_who && !is_mutual(serving) => Some(Exposure::Unidentified),
        Some(_) => None,
    }
}

impl Exposure {
    /// Why the port is refused, and what to do.
    fn refusal(self) -> &'static str {
        match self {
            Self::Plaintext => {
                "other machines could drive the agent here without TLS or authentication: listen on a loopback address, set \
                 tls_cert_file, tls_key_file and tls_client_ca_file, or set allow_insecure_listen = true \
                 (--allow-insecure-listen)"
            }
            Self::Readable => {
                "callers' credentials and all that is said could be read on the way here: listen on a loopback address, set \
                 tls_cert_file and tls_key_file, or set allow_insecure_listen = true (--allow-insecure-listen)"
            }
            Self::Unidentified => {
                "other machines could drive the agent here, because callers need not show who they are: listen on a loopback \
                 address, set token_file, set tls_client_ca_file with tls_client_auth = required, or set allow_insecure_listen = true \
                 (--allow-insecure-listen)"
            }
        }
    }
}

/// Whether only this machine can reach an address. Canonical, because ::ffff:127.0.0.1 is the loopback too.
pub(super) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Where clients come in. `asks_who`: callers have to show who they are.
pub(super) fn transport(values: &mut Values<'_>, asks_who: bool) -> Option<TransportSettings> {
    let allow_insecure = values.read("allow_insecure_listen", truth);
    let serving = serving(values);
    // If what would make the address safe is itself wrong, the address does not get a mistake on top of that.
    let exposure = serving.as_ref().and_then(|serving| exposure(serving.as_ref(), asks_who));
    let exposure = exposure.filter(|_| allow_insecure == Some(false));
    let listen = values.read(LISTEN, |text| {
        let address = listen_address(text)?;
        match exposure {
            Some(exposure) if !is_loopback(address) => Err(exposure.refusal().into()),
            _ => Ok(address),
        }
    });
    let unix = unix(values);
    let probes = values.read("probe_listen", listen_address);
    let peers = peers(values);
    Some(TransportSettings {
        listen: listen?,
        allow_insecure: allow_insecure?,
        unix,
        probes,
        tls: Files { serving: serving?, peers },
        asks_who,
    })
}

/// What clients are shown and asked for: `Some(None)` is a plaintext port, and `None` a mistake, which has been noted.
fn serving(values: &mut Values<'_>) -> Option<Option<Serving>> {
    let given = |values: &Values<'_>, key| values.origin(key).is_some();
    let (has_cert, has_key) = (given(values, CERT_FILE), given(values, KEY_FILE));
    let (certificate, key) = (values.path(CERT_FILE), values.path(KEY_FILE));
    let mut is_wrong = has_cert != certificate.is_some() || has_key != key.is_some();
    let mut refuse = |values: &mut Values<'_>, key, problem: String| {
        values.refuse(key, problem);
        is_wrong = true;
    };
    if has_cert != has_key {
        let (one, other) = if has_cert { (CERT_FILE, KEY_FILE) } else { (KEY_FILE, CERT_FILE) };
        refuse(values, one, format!("a certificate and its key go together: set {other} too"));
    }
    let has_ca = given(values, CA_FILE);
    if has_ca && !has_cert && !has_key {
        refuse(
            values,
            CA_FILE,
            format!("clients show certificates over TLS only: set {CERT_FILE} and {KEY_FILE} too"),
        );
    }
    for key in [CLIENT_AUTH, ALLOWED_NAMES] {
        if given(values, key) && !has_ca {
            refuse(values, key, format!("it is about the certificates of clients: set {CA_FILE} too"));
        }
    }
    let ca = values.path(CA_FILE);
    let is_required = match given(values, CLIENT_AUTH) {
        true => values.read(CLIENT_AUTH, client_auth),
        false => Some(true),
    };
    let allowed = match given(values, ALLOWED_NAMES) {
        true => values.read(ALLOWED_NAMES, |text| AllowedNames::parse(&list(text, any)?)),
        false => Some(AllowedNames::default()),
    };
    let (is_required, allowed) = (is_required?, allowed?);
    if is_wrong || has_ca != ca.is_some() {
        return None;
    }
    let clients = ca.map(|ca| Clients { ca, is_required, allowed });
    Some(certificate.zip(key).map(|(certificate, key)| Serving { certificate, key, clients }))
}

fn client_auth(text: &str) -> Result<bool, String> {
    match text {
        "required" => Ok(true),
        "optional" => Ok(false),
        _ => Err("write required or optional".into()),
    }
}

fn unix(values: &mut Values<'_>) -> Option<UnixSettings> {
    let is_given = values.origin(UNIX).is_some();
    if !is_given && values.origin(USERS).is_some() {
        values.refuse(USERS, format!("it says who may connect to a Unix socket: set {UNIX} too"));
    }
    let path = values.path(UNIX);
    let users = values.read(USERS, users);
    Some(UnixSettings { path: path?, users })
}

fn users(text: &str) -> Result<Vec<u32>, String> {
    let number =
        |user: String| user.parse().map_err(|_| "write user ids, such as 1000, with commas between them");
    let users = list(text, any)?.into_iter().map(number).collect::<Result<Vec<_>, _>>()?;
    if users.is_empty() {
        Err("nobody could connect: write user ids, or leave this out".into())
    } else {
        Ok(users)
    }
}

/// What the other servers' certificates are checked by; `None` if there are no others.
fn peers(values: &mut Values<'_>) -> Option<Trust> {
    let is_shared = values.origin(STORE_URL).is_some();
    if values.origin(CLUSTER_CA_FILE).is_some() && !is_shared {
        values.refuse(CLUSTER_CA_FILE, format!("it is for servers that share a store: set {STORE_URL} too"));
    }
    let file = values.path(CLUSTER_CA_FILE);
    is_shared.then(|| file.map_or(Trust::System, Trust::File))
}
