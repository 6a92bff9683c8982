//! Certificates that clients show.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::{TlsError, files};
use crate::certificate::Certificate;
use crate::config::ClientCertificates;

thread_local! {
    /// Whose certificate this thread refused last. The library tells why, but not whose; a handshake that fails asks in the
    /// same call.
    static REFUSED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Whose certificate was refused in the call that has just returned, on this thread.
pub(super) fn take_refused() -> Option<String> {
    REFUSED.take()
}

/// rustls's own verifier, which leaves behind whom it refused.
#[derive(Debug)]
struct Verifier(Arc<dyn ClientCertVerifier>);

/// What verifies the certificates of clients.
pub(super) fn verifier(
    from: &ClientCertificates,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = Arc::new(files::roots(&from.ca)?);
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
    if let Some(path) = &from.crl {
        // A CA's own certificate is trusted because it is in the file; what it has revoked are its clients.
        builder = builder.with_crls(files::revocations(path)?).only_check_end_entity_revocation();
        if from.refuse_after_crl {
            builder = builder.enforce_revocation_expiration();
        }
    }
    if !from.required {
        builder = builder.allow_unauthenticated();
    }
    let unusable = |source| TlsError::Clients { path: from.crl.clone().unwrap_or_else(|| from.ca.clone()), source };
    Ok(Arc::new(Verifier(builder.build().map_err(unusable)?)))
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now);
        if verified.is_err() {
            let owner = Certificate::read(end_entity).unwrap_or_default();
            REFUSED.set(Some(format!("{:?}, serial {}", owner.subject, owner.serial)));
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
