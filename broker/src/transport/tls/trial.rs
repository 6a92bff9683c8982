//! A handshake of a configuration with itself, in memory: what is read from files is tried before clients meet it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, ServerConnection, SignatureScheme,
};

/// Flights of a handshake: there are never more.
const FLIGHTS_MAX: usize = 8;

/// Takes any certificate, but not without its key's signature.
#[derive(Debug)]
struct AnyName {
    provider: Arc<CryptoProvider>,
    signed: AtomicBool,
}

/// Until the server has proved that it has the key of its certificate. A certificate of its own, which the listener may
/// require, this client has not.
pub(super) fn with_itself(config: &Arc<ServerConfig>, name: Option<&str>) -> Result<(), Error> {
    let provider = config.crypto_provider().clone();
    let any = Arc::new(AnyName { provider: provider.clone(), signed: AtomicBool::new(false) });
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(any.clone())
        .with_no_client_auth();
    let name = ServerName::try_from(name.unwrap_or("localhost").to_owned());
    let name = name.map_err(|error| Error::General(error.to_string()))?;
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(config.clone())?;
    let broken = |error: std::io::Error| Error::General(error.to_string());
    for _ in 0..FLIGHTS_MAX {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).map_err(broken)?;
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).map_err(broken)?;
            server.process_new_packets()?;
        }
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).map_err(broken)?;
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).map_err(broken)?;
            client.process_new_packets()?;
        }
        if any.signed.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
    Err(Error::General("the handshake does not end".to_owned()))
}

impl AnyName {
    fn note(&self, valid: Result<HandshakeSignatureValid, Error>) -> Result<HandshakeSignatureValid, Error> {
        self.signed.store(valid.is_ok(), Ordering::Relaxed);
        valid
    }
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.note(verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.note(verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
