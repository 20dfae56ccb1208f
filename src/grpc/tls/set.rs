//! From the contents of all files to configurations that fit together, or to all that is wrong with them.
//!
//! A set is good as a whole or it is none: a new certificate is never used with an old key. At most TLS 1.3 and at least TLS 1.2 is
//! spoken, with the ciphers of rustls.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{
    certificate::Validity,
    files::{Clients, Contents, Files, Problem, Problems, Trust},
    verifier::Verifier,
};

/// From when on before its end a certificate is warned of: a weekend, and the days to get a new one.
const SOON: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What is spoken over TLS (RFC 7301).
const H2: &[u8] = b"h2";

/// The configurations that the files give, and the certificates in them.
#[derive(Debug)]
pub(super) struct Set {
    /// For clients; `None`: the port is plaintext.
    pub(super) server: Option<Arc<ServerConfig>>,
    /// For calls to other servers; `None`: there are none.
    pub(super) client: Option<Arc<ClientConfig>>,
    certificates: Vec<Watched>,
}

/// A certificate, and the file that it is from.
#[derive(Debug, Clone)]
struct Watched {
    file: String,
    validity: Validity,
}

impl Set {
    /// Makes a set.
    ///
    /// # Errors
    /// If a file cannot be read or has not what it should, if the key does not fit the certificate, or if the certificate does
    /// not hold now, or none of the CAs in a file does.
    pub(super) fn new(files: &Files, contents: &Contents, now: SystemTime) -> Result<Self, Problems> {
        let mut reader = Reader { contents, now, problems: Vec::new(), certificates: Vec::new() };
        let identity = files.serving.as_ref().and_then(|it| reader.identity(&it.certificate, &it.key));
        let clients = files.serving.as_ref().and_then(|serving| serving.clients.as_ref());
        let verifier = clients.and_then(|clients| reader.verifier(clients));
        let roots = files.peers.as_ref().and_then(|trust| reader.roots_of(trust));
        let Reader { problems, certificates, .. } = reader;
        if !problems.is_empty() {
            return Err(Problems(problems));
        }
        Ok(Self {
            server: identity.clone().map(|identity| server(identity, verifier)),
            client: roots.map(|roots| client(roots, identity)),
            certificates,
        })
    }

    /// The certificates that have expired, or soon will: the file, the subject, and when.
    pub(super) fn expiring(&self, now: SystemTime) -> impl Iterator<Item = (&str, &Validity)> {
        let due = move |it: &&Watched| it.validity.not_after < now + SOON;
        self.certificates.iter().filter(due).map(|it| (it.file.as_str(), &it.validity))
    }
}

/// What a client of servers is configured by: whom it trusts, and the certificate and key that it shows.
///
/// # Errors
/// As [`Set::new`].
pub(super) fn client_config(
    trust: &Trust,
    shown: Option<(&Path, &Path)>,
) -> Result<Arc<ClientConfig>, Problems> {
    let ca = match trust {
        Trust::System => None,
        Trust::File(path) => Some(path.as_path()),
    };
    let paths = ca.into_iter().chain(shown.into_iter().flat_map(|(certificate, key)| [certificate, key]));
    let contents = Contents::of(paths);
    let mut reader = Reader {
        contents: &contents,
        now: SystemTime::now(),
        problems: Vec::new(),
        certificates: Vec::new(),
    };
    let identity = shown.and_then(|(certificate, key)| reader.identity(certificate, key));
    let roots = reader.roots_of(trust);
    match (roots, reader.problems) {
        (Some(roots), problems) if problems.is_empty() => Ok(client(roots, identity)),
        (_, problems) => Err(Problems(problems)),
    }
}

/// Reads what is in the files, and notes all that is wrong.
struct Reader<'a> {
    contents: &'a Contents,
    now: SystemTime,
    problems: Vec<Problem>,
    certificates: Vec<Watched>,
}

impl Reader<'_> {
    fn note<T>(&mut self, file: &Path, read: Result<T, String>) -> Option<T> {
        read.map_err(|reason| self.problems.push(Problem { file: file.to_owned(), reason })).ok()
    }

    /// A certificate with its chain and its key.
    fn identity(&mut self, certificate: &Path, key: &Path) -> Option<Arc<CertifiedKey>> {
        let chain = self.certificates(certificate).and_then(|(chain, validities)| {
            let holds = holds(&validities[0], self.now);
            self.note(certificate, holds).map(|()| chain)
        });
        let read = self.contents.get(key).and_then(private_key);
        let read = self.note(key, read);
        let identity = CertifiedKey::from_der(chain?, read?, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("the key does not fit the certificate in {}", certificate.display())
            }
            error => format!("the key cannot be used: {error}"),
        });
        self.note(key, identity).map(Arc::new)
    }

    /// What checks clients.
    fn verifier(&mut self, clients: &Clients) -> Option<Arc<Verifier>> {
        let roots = self.roots(&clients.ca)?;
        let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider());
        let builder = if clients.is_required { builder } else { builder.allow_unauthenticated() };
        let built = builder.build().map_err(|error| error.to_string());
        let by_ca = self.note(&clients.ca, built)?;
        Some(Arc::new(Verifier { by_ca, allowed: clients.allowed.clone() }))
    }

    fn roots_of(&mut self, trust: &Trust) -> Option<RootCertStore> {
        match trust {
            Trust::File(path) => self.roots(path),
            Trust::System => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                Some(roots)
            }
        }
    }

    /// The CAs in a file that hold now: rustls does not look at when a CA ends.
    fn roots(&mut self, file: &Path) -> Option<RootCertStore> {
        let (certificates, validities) = self.certificates(file)?;
        let mut roots = RootCertStore::empty();
        let mut problem = None;
        for (certificate, validity) in certificates.into_iter().zip(&validities) {
            let added = holds(validity, self.now)
                .and_then(|()| roots.add(certificate).map_err(|error| format!("it has no CA: {error}")));
            problem = problem.or(added.err());
        }
        let outcome = match problem {
            Some(problem) if roots.is_empty() => Err(problem),
            _ => Ok(roots),
        };
        self.note(file, outcome)
    }

    /// The certificates in a file, of which there is one at least, and when they hold.
    fn certificates(&mut self, file: &Path) -> Option<(Vec<CertificateDer<'static>>, Vec<Validity>)> {
        let read = self.contents.get(file).and_then(certificates);
        let (certificates, validities) = self.note(file, read)?;
        let name = file.display().to_string();
        let watched = |validity: &Validity| Watched { file: name.clone(), validity: validity.clone() };
        self.certificates.extend(validities.iter().map(watched));
        Some((certificates, validities))
    }
}

fn certificates(pem: &[u8]) -> Result<(Vec<CertificateDer<'static>>, Vec<Validity>), String> {
    let (mut certificates, mut validities) = (Vec::new(), Vec::new());
    for (index, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let number = index + 1;
        let damaged = format!("certificate {number} in the file is cut or damaged");
        let certificate = certificate.map_err(|_| damaged.clone())?;
        validities.push(Validity::read(&certificate).map_err(|_| damaged)?);
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err("there is no certificate in the file (-----BEGIN CERTIFICATE-----)".into());
    }
    Ok((certificates, validities))
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    use rustls::pki_types::pem::Error;
    const ENCRYPTED: &[u8] = b"BEGIN ENCRYPTED PRIVATE KEY";
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        _ if pem.windows(ENCRYPTED.len()).any(|it| it == ENCRYPTED) => {
            "the key in the file is encrypted, which cannot be read: write it without a password (openssl pkey)".into()
        }
        Error::NoItemsFound => "there is no private key in the file (-----BEGIN PRIVATE KEY-----)".into(),
        _ => "the private key in the file is cut or damaged".into(),
    })
}

fn holds(validity: &Validity, now: SystemTime) -> Result<(), String> {
    let Validity { subject, not_before, not_after } = validity;
    if now < *not_before {
        let from = humantime::format_rfc3339_seconds(*not_before);
        return Err(format!("the certificate of {subject} is not valid before {from}"));
    }
    if now > *not_after {
        let until = humantime::format_rfc3339_seconds(*not_after);
        return Err(format!("the certificate of {subject} has expired at {until}"));
    }
    Ok(())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn server(identity: Arc<CertifiedKey>, verifier: Option<Arc<Verifier>>) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has ciphers of both versions");
    let is_verified = verifier.is_some();
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier as Arc<dyn ClientCertVerifier>),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    config.alpn_protocols = vec![H2.into()];
    if is_verified {
        // A session that is resumed brings a certificate that was verified once: it may have expired since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Arc::new(config)
}

fn client(roots: RootCertStore, identity: Option<Arc<CertifiedKey>>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has ciphers of both versions")
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![H2.into()];
    Arc::new(config)
}
