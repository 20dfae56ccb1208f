//! Who may come in: clients whose certificate is from the CA, holds now, and has one of the allowed names.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{certificate, names::AllowedNames};

/// Checks clients' certificates, by another verifier and then for their names.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) by_ca: Arc<dyn ClientCertVerifier>,
    pub(super) allowed: AllowedNames,
}

impl ClientCertVerifier for Verifier {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.by_ca.verify_client_cert(end_entity, intermediates, now)?;
        let names = certificate::names(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        if self.allowed.allow(&names) {
            return Ok(verified);
        }
        tracing::debug!(?names, "a client's certificate has no allowed name (tls_allowed_names)");
        // The client is told "access denied".
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn client_auth_mandatory(&self) -> bool {
        self.by_ca.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.by_ca.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_ca.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_ca.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_ca.supported_verify_schemes()
    }
}
