//! What stands in a certificate: its names, and from when to when it holds. Nothing here decides whether it is to be trusted.

use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use x509_cert::{
    Certificate,
    der::{
        Decode as _, Error,
        asn1::{PrintableStringRef, TeletexStringRef, Utf8StringRef},
        oid::db::rfc4519::CN,
    },
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use crate::grpc::transport::ClientCertificate;

/// From when to when a certificate holds, and whose it is, for logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) subject: String,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Validity {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn read(der: &[u8]) -> Result<Self, Error> {
        let certificate = Certificate::from_der(der)?.tbs_certificate;
        Ok(Self {
            subject: certificate.subject.to_string(),
            not_before: certificate.validity.not_before.to_system_time(),
            not_after: certificate.validity.not_after.to_system_time(),
        })
    }
}

/// Reads the names of a certificate in DER. Names of other kinds than [`ClientCertificate`] has are left out.
///
/// # Errors
/// If it is none.
pub(super) fn names(der: &[u8]) -> Result<ClientCertificate, Error> {
    let certificate = Certificate::from_der(der)?.tbs_certificate;
    let mut names = ClientCertificate { fingerprint: fingerprint(der), ..ClientCertificate::default() };
    if let Some((_, SubjectAltName(alternatives))) = certificate.get::<SubjectAltName>()? {
        for name in alternatives {
            match name {
                GeneralName::DnsName(name) => names.dns_names.push(name.to_string()),
                GeneralName::UniformResourceIdentifier(uri) => names.uris.push(uri.to_string()),
                GeneralName::Rfc822Name(email) => names.emails.push(email.to_string()),
                _ => {}
            }
        }
    }
    let parts = certificate.subject.0.iter().flat_map(|part| part.0.iter());
    let mut common_names = parts.filter(|part| part.oid == CN).filter_map(|part| text(&part.value));
    names.common_name = common_names.next_back();
    Ok(names)
}

/// A text in one of the forms that are in use.
fn text(value: &x509_cert::der::Any) -> Option<String> {
    let utf8 = value.decode_as::<Utf8StringRef<'_>>().map(|text| text.to_string());
    let printable = || value.decode_as::<PrintableStringRef<'_>>().map(|text| text.to_string());
    let teletex = || value.decode_as::<TeletexStringRef<'_>>().map(|text| text.to_string());
    utf8.or_else(|_| printable()).or_else(|_| teletex()).ok()
}

fn fingerprint(der: &[u8]) -> String {
    Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn the_names_of_a_certificate_and_its_time_are_read() {
        let mut params = CertificateParams::new(vec!["web.example.org".into()]).unwrap();
        params.subject_alt_names.push(SanType::URI("spiffe://example.org/web".try_into().unwrap()));
        params.subject_alt_names.push(SanType::Rfc822Name("me@example.org".try_into().unwrap()));
        params.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()));
        params.distinguished_name.push(DnType::CommonName, "web, the first");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let names = names(certificate.der()).unwrap();
        assert_eq!(names.dns_names, ["web.example.org"]);
        assert_eq!(names.uris, ["spiffe://example.org/web"]);
        assert_eq!(names.emails, ["me@example.org"]);
        assert_eq!(names.common_name.as_deref(), Some("web, the first"));
        assert_eq!(names.fingerprint.len(), 64);
        let validity = Validity::read(certificate.der()).unwrap();
        let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let expected = |time: i64| Duration::from_secs(time.try_into().unwrap());
        assert_eq!(seconds(validity.not_before), expected(params.not_before.unix_timestamp()));
        assert_eq!(seconds(validity.not_after), expected(params.not_after.unix_timestamp()));
    }

    #[test]
    fn a_certificate_that_was_cut_is_none() {
        let params = CertificateParams::new(vec!["web.example.org".into()]).unwrap();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let der = certificate.der();
        for length in 0..der.len() {
            assert!(names(&der[..length]).is_err(), "{length}");
            assert!(Validity::read(&der[..length]).is_err(), "{length}");
        }
    }
}
