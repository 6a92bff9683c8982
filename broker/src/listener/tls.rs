//! TLS for listeners: rustls with ring, TLS 1.2 and 1.3.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::certs;
use crate::config::{Tls, TlsFiles};

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
    /// The development certificates cannot be made.
    #[error(transparent)]
    Development(#[from] certs::CertsError),
}

/// The configuration of a TLS listener.
///
/// # Errors
/// See [`TlsError`].
pub fn server_config(from: &Tls, data_dir: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let files = match from {
        Tls::Files(files) => files.clone(),
        Tls::Development => certs::development(data_dir)?,
    };
    let chain = certificates(&files.certificate)?;
    let key = private_key(&files.key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mismatch =
        |source| TlsError::Mismatch { key: files.key.clone(), certificate: files.certificate.clone(), source };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(mismatch)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(mismatch)?;
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(RESUMABLE_SESSIONS);
    if let Ok(ticketer) = rustls::crypto::ring::Ticketer::new() {
        config.ticketer = ticketer;
    }
    // Two tickets as rustls sends by default are two writes that a constrained device must read; one is enough.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let key = "certificate";
    let bytes = read(path, key)?;
    let chain: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    let chain = chain.map_err(|error| not_pem(path, key, &error))?;
    if chain.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned(), key, what: "certificate" });
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let key = "key";
    PrivateKeyDer::from_pem_slice(&read(path, key)?).map_err(|error| {
        if matches!(error, pem::Error::NoItemsFound) {
            TlsError::Empty { path: path.to_owned(), key, what: "private key" }
        } else {
            not_pem(path, key, &error)
        }
    })
}

fn not_pem(path: &Path, key: &'static str, error: &pem::Error) -> TlsError {
    TlsError::NotPem { path: path.to_owned(), key, detail: error.to_string() }
}

fn read(path: &Path, key: &'static str) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), key, source })
}

/// The files of a listener, for messages.
#[must_use]
pub fn ca_of(from: &Tls, data_dir: &Path) -> Option<PathBuf> {
    match from {
        Tls::Files(TlsFiles { .. }) => None,
        Tls::Development => Some(certs::ca_path(data_dir)),
    }
}
