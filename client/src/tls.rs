//! TLS by rustls.

use std::io;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use crate::error::InvalidOptions;

/// A PEM file is not larger than this.
const PEM_BYTES_MAX: u64 = 16 << 20;

/// How TLS is done: whom to trust, and who this client is. Without any setting: the platform's roots, no certificate.
#[derive(Clone, Default)]
pub struct Tls {
    roots: Option<Arc<RootCertStore>>,
    identity: Option<Arc<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>>,
    alpn: Option<Vec<Vec<u8>>>,
    server_name: Option<String>,
    without_verification: bool,
    /// Made at the first connection: sessions are resumed after it. One for each protocol that is offered, MQTT and HTTP.
    config: Arc<[OnceLock<Arc<ClientConfig>>; 2]>,
}

impl Tls {
    /// The platform's roots.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the certificates in this PEM file, and no others.
    ///
    /// # Errors
    /// The file cannot be read, or holds no certificate.
    pub fn ca_file(mut self, file: impl AsRef<Path>) -> Result<Self, InvalidOptions> {
        let file = file.as_ref();
        let mut roots = RootCertStore::empty();
        for certificate in certificates(file)? {
            let added = roots.add(certificate);
            added.map_err(|error| InvalidOptions(format!("{}: not a CA certificate: {error}", file.display())))?;
        }
        self.roots = Some(Arc::new(roots));
        Ok(self.changed())
    }

    /// This client's certificate chain and private key, PEM.
    ///
    /// # Errors
    /// A file cannot be read, or does not hold what it should, or the key is not the certificate's.
    pub fn identity(mut self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, InvalidOptions> {
        let (chain_file, key_file) = (chain.as_ref(), key.as_ref());
        let chain = certificates(chain_file)?;
        let key = PrivateKeyDer::from_pem_slice(&pem(key_file)?);
        let key =
            key.map_err(|_| InvalidOptions(format!("{} holds no private key in PEM form", key_file.display())))?;
        rustls::sign::CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider()).map_err(|error| {
            let (chain, key) = (chain_file.display(), key_file.display());
            InvalidOptions(format!("{key} is not the key of the certificate in {chain}: {error}"))
        })?;
        self.identity = Some(Arc::new((chain, key)));
        Ok(self)
    }

    /// Application protocols to offer instead of `mqtt`.
    #[must_use]
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = Some(protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect());
        self.changed()
    }

    /// Does TLS as this configuration of rustls says, in place of all that the other calls set but the server name: another
    /// crypto provider, keys in hardware, pinned certificates, versions. Its ALPN protocols are used as they are.
    #[must_use]
    pub fn with_config(mut self, config: Arc<ClientConfig>) -> Self {
        self = self.changed();
        for place in &*self.config {
            // It was made a line above, and is empty.
            let _ = place.set(config.clone());
        }
        self
    }

    /// The name that the server's certificate must have, when that is not the host of the URL.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Trusts any certificate: whoever is in between can read and change everything. For tests only.
    #[must_use]
    pub fn without_verification(mut self) -> Self {
        self.without_verification = true;
        self.changed()
    }

    /// What was made for others that this was cloned from is not for this one.
    fn changed(mut self) -> Self {
        self.config = Arc::default();
        self
    }

    /// The rustls configuration that these settings make, for programs that own their sockets.
    ///
    /// # Errors
    /// The platform has no root certificates.
    pub fn client_config(&self) -> Result<ClientConfig, InvalidOptions> {
        self.build().map_err(InvalidOptions)
    }

    pub(crate) fn connector(&self, alpn: &[&[u8]]) -> Result<TlsConnector, String> {
        let [of_mqtt, of_http] = &*self.config;
        let place = if alpn == [b"mqtt"] { of_mqtt } else { of_http };
        if let Some(config) = place.get() {
            return Ok(TlsConnector::from(config.clone()));
        }
        let mut config = self.build()?;
        let default = || alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.alpn_protocols = self.alpn.clone().unwrap_or_else(default);
        Ok(TlsConnector::from(place.get_or_init(|| Arc::new(config)).clone()))
    }

    fn build(&self) -> Result<ClientConfig, String> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = if self.without_verification {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate))
        } else {
            builder.with_root_certificates(self.trusted()?)
        };
        match &self.identity {
            None => Ok(builder.with_no_client_auth()),
            Some(identity) => builder
                .with_client_auth_cert(identity.0.clone(), identity.1.clone_key())
                .map_err(|error| format!("the client certificate cannot be used: {error}")),
        }
    }

    fn trusted(&self) -> Result<Arc<RootCertStore>, String> {
        if let Some(roots) = &self.roots {
            return Ok(roots.clone());
        }
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let why = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
            return Err(format!("this system has no root certificates{why}: name a CA file"));
        }
        Ok(Arc::new(roots))
    }

    pub(crate) fn server_name_of(&self, host: &str) -> Result<ServerName<'static>, String> {
        let name = self.server_name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_owned()).map_err(|_| format!("{name} is neither a DNS name nor an address"))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, InvalidOptions> {
    let bytes = pem(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| InvalidOptions(format!("{} holds no certificate in PEM form", file.display())))
}

/// Read with a limit: a device or an endless pipe is no certificate.
fn pem(file: &Path) -> Result<Vec<u8>, InvalidOptions> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(file).and_then(|open| open.take(PEM_BYTES_MAX).read_to_end(&mut bytes));
    read.map_err(|error| InvalidOptions(format!("{} cannot be read: {error}", file.display())))?;
    Ok(bytes)
}

/// What rustls says, with what can be done about it.
pub(crate) fn explain(error: &io::Error) -> String {
    let detail = error.to_string();
    let advice = if detail.contains("UnknownIssuer") {
        "; the server's CA is not trusted: name its certificate as CA file"
    } else if detail.contains("not valid for name") {
        "; the server's certificate is for another name"
    } else if detail.contains("Expired") {
        "; the server's certificate has expired, or this clock is wrong"
    } else if detail.contains("CertificateRequired") {
        "; the server wants a client certificate"
    } else if detail.contains("InvalidContentType") || detail.contains("InvalidMessage") {
        "; the server does not speak TLS on this port"
    } else {
        ""
    };
    format!("{detail}{advice}")
}

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_after_a_connection_counts() {
        let first = Tls::new().without_verification();
        first.connector(&[b"mqtt"]).unwrap();
        let changed = first.clone().alpn(&["x"]);
        let alpn = |tls: &Tls, of: &[u8]| tls.connector(&[of]).unwrap().config().alpn_protocols.clone();
        assert_eq!(alpn(&changed, b"mqtt"), [b"x".to_vec()]);
        assert_eq!(alpn(&first, b"mqtt"), [b"mqtt".to_vec()]);
        assert_eq!(alpn(&first, b"http/1.1"), [b"http/1.1".to_vec()]);
    }
}
