//! TLS for listeners: rustls with ring, TLS 1.2 and 1.3.

mod clients;
mod explain;
mod files;
mod live;
mod resolver;
mod trial;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::VerifierBuilderError;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedCipherSuite};

use crate::certs;
use crate::config::{Listener, Tls, TlsFiles};

use live::Current;
use resolver::Resolver;

pub(crate) use explain::explain;
pub use live::LiveTls;

/// Sessions that clients may resume without a whole handshake, TLS 1.2; TLS 1.3 uses tickets.
const RESUMABLE_SESSIONS: usize = 1024;

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file cannot be read.
    #[error("{path} cannot be read: {source}; set `{key}` to a file that the broker may read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The key of the configuration that names it.
        key: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// The file holds no such thing.
    #[error("{path} holds no {what} in PEM form; set `{key}` to a file that does")]
    Empty {
        /// The file.
        path: PathBuf,
        /// The key of the configuration that names it.
        key: &'static str,
        /// Certificate or private key.
        what: &'static str,
    },
    /// The file is not PEM.
    #[error("{path} is not PEM: {detail}; set `{key}` to a file that is")]
    NotPem {
        /// The file.
        path: PathBuf,
        /// The key of the configuration that names it.
        key: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// The PEM is there, and what it holds is no certificate.
    #[error("{path}: certificate {number} in it is damaged; set `certificate` to a file that is whole")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which one, from 1.
        number: usize,
    },
    /// A version that TLS clients refuse.
    #[error(
        "{path} is an X.509 certificate of version 1, which TLS clients refuse; have it issued as version 3 (with \
         extensions such as subjectAltName)"
    )]
    Version1 {
        /// The file.
        path: PathBuf,
    },
    /// The key cannot be used without a pass phrase.
    #[error(
        "{path} is an encrypted private key, and nobody is there to type its pass phrase; write it without one \
         (`openssl pkey -in {path} -out plain.key`) and make the file readable by the broker alone"
    )]
    Encrypted {
        /// The file.
        path: PathBuf,
    },
    /// The two do not go together, or the key's kind is not known.
    #[error(
        "{key} is not the key of {certificate}, or of a kind that is not supported ({source}); set `certificate` and \
         `key` to a pair that was made together"
    )]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// The PEM is there, and what it holds is no revocation list.
    #[error("{path}: revocation list {number} in it is damaged; set `crl` to a file that is whole")]
    DamagedList {
        /// The file.
        path: PathBuf,
        /// Which one, from 1.
        number: usize,
    },
    /// The CAs of clients, or what they have revoked.
    #[error("{path} cannot be used to verify the certificates of clients: {source}")]
    Clients {
        /// The file.
        path: PathBuf,
        /// What rustls says.
        source: VerifierBuilderError,
    },
    /// No suite for a version.
    #[error(
        "the cipher suites do not go with the versions of TLS ({source}); `cipher_suites` needs one for each version"
    )]
    Suites {
        /// What rustls says.
        source: rustls::Error,
    },
    /// It does not work.
    #[error(
        "a handshake with this certificate and key fails: {source}; set `certificate` and `key` to a pair that works"
    )]
    Trial {
        /// What rustls says.
        source: rustls::Error,
    },
    /// The development certificates cannot be made.
    #[error(transparent)]
    Development(#[from] certs::CertsError),
}

/// Reads everything that a TLS listener needs, and tries it.
fn build(listener: &Listener, data_dir: &Path) -> Result<Current, TlsError> {
    let rules = &listener.tls_rules;
    let provider = Arc::new(provider(&rules.cipher_suites));
    let own = match &listener.tls {
        Some(Tls::Files(files)) => files.clone(),
        Some(Tls::Development) | None => certs::development(data_dir)?,
    };
    let mut keys = Vec::new();
    let mut ends = None;
    for files in std::iter::once(&own).chain(&rules.more) {
        let (key, end) = certified(files, &provider)?;
        keys.push(Arc::new(key));
        ends = Some(ends.map_or(end, |first: time::OffsetDateTime| first.min(end)));
    }
    let resolver = Arc::new(Resolver::new(keys));
    let verifier = rules.clients.as_ref().map(|clients| clients::verifier(clients, &provider)).transpose()?;
    let versions: &[_] = if rules.only_tls13 { &[&TLS13] } else { &[&TLS13, &TLS12] };
    let suites = |source| TlsError::Suites { source };
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).map_err(suites)?;
    let builder = match &verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(resolver.clone());
    // New with each reading: a session that began before is not resumed past a certificate that has been revoked since.
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(RESUMABLE_SESSIONS);
    // Its key is another one every six hours; what was encrypted with the last is taken for as long again.
    if let Ok(ticketer) = rustls::crypto::ring::Ticketer::new() {
        config.ticketer = ticketer;
    }
    // Two tickets as rustls sends by default are two writes that a constrained device must read; one is enough.
    config.send_tls13_tickets = 1;
    config.max_fragment_size = listener.max_fragment_size;
    let mut named = config.clone();
    let protocol: &[u8] = if listener.websocket.is_some() { b"http/1.1" } else { b"mqtt" };
    named.alpn_protocols = vec![protocol.to_vec()];
    let unnamed = Arc::new(config);
    for name in resolver.names() {
        trial::with_itself(&unnamed, name).map_err(|source| TlsError::Trial { source })?;
    }
    let ends_s = ends.map_or(0, time::OffsetDateTime::unix_timestamp);
    Ok(Current { named: Arc::new(named), unnamed, protocol, verifier, ends_s })
}

/// Whether everything that a TLS listener needs can be used; nothing is made.
///
/// # Errors
/// See [`TlsError`].
pub fn check(listener: &Listener) -> Result<(), TlsError> {
    if matches!(listener.tls, Some(Tls::Files(_))) {
        return build(listener, Path::new("")).map(drop);
    }
    let rules = &listener.tls_rules;
    let provider = Arc::new(provider(&rules.cipher_suites));
    rules.more.iter().try_for_each(|files| certified(files, &provider).map(drop))?;
    rules.clients.as_ref().map_or(Ok(()), |from| clients::verifier(from, &provider).map(drop))
}

/// A certificate with its key, and when it ends.
fn certified(files: &TlsFiles, provider: &CryptoProvider) -> Result<(CertifiedKey, time::OffsetDateTime), TlsError> {
    let chain = files::certificates(&files.certificate, "certificate")?;
    let ends = files::look_at(&chain, &files.certificate)?;
    let key = files::private_key(&files.key)?;
    let mismatch =
        |source| TlsError::Mismatch { key: files.key.clone(), certificate: files.certificate.clone(), source };
    let certified = CertifiedKey::from_der(chain, key, provider).map_err(mismatch)?;
    files::warn_of_readers(&files.key);
    Ok((certified, ends))
}

/// ring, with these cipher suites; all that it has when none is named.
fn provider(suites: &[String]) -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    if !suites.is_empty() {
        provider.cipher_suites.retain(|suite| suites.iter().any(|name| *name == suite_name(suite)));
    }
    provider
}

fn suite_name(suite: &SupportedCipherSuite) -> String {
    format!("{:?}", suite.suite())
}

/// The names of the cipher suites that there are.
#[must_use]
pub fn cipher_suites() -> Vec<String> {
    rustls::crypto::ring::default_provider().cipher_suites.iter().map(suite_name).collect()
}

/// The certificate of the CA of a listener that makes its own, for messages.
#[must_use]
pub fn ca_of(from: &Tls, data_dir: &Path) -> Option<PathBuf> {
    match from {
        Tls::Files(_) => None,
        Tls::Development => Some(certs::ca_path(data_dir)),
    }
}
