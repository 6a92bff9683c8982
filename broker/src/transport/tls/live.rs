//! The TLS of a listener as it is now. Its files are watched; what is read anew is tried by a handshake with itself before it
//! is put in force.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ClientHello;
use rustls::server::danger::ClientCertVerifier;
use rustls::{Error, ServerConfig};

use super::{TlsError, build};
use crate::config::Listener;
use crate::file_stamp::{ReadFrom, Stamps, file_stamp};

/// What one reading of the files gave.
#[derive(Debug)]
pub(super) struct Current {
    /// For clients that name the listener's protocol in ALPN.
    pub(super) named: Arc<ServerConfig>,
    /// For clients that name none, or others.
    pub(super) unnamed: Arc<ServerConfig>,
    /// The protocol.
    pub(super) protocol: &'static [u8],
    /// What verifies clients, where they may show certificates.
    pub(super) verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// When the first certificate of the chains ends: seconds since 1970.
    pub(super) ends_s: i64,
}

/// What was read anew, and is not in force yet.
pub(crate) struct Prepared(Current, Stamps);

/// The TLS of one listener.
#[derive(Debug)]
pub struct LiveTls {
    listener: Listener,
    data_dir: PathBuf,
    current: RwLock<Arc<Current>>,
    /// Grows with each configuration that is put in force.
    version: AtomicU64,
    ends_s: AtomicI64,
    seen: Mutex<Seen>,
}

/// The files as they were.
#[derive(Debug)]
struct Seen {
    /// When they were read.
    read_from: ReadFrom,
    /// When they were looked at last.
    looked: Stamps,
}

impl LiveTls {
    /// Reads the files.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn load(listener: &Listener, data_dir: &Path) -> Result<Arc<Self>, TlsError> {
        let stamps = stamps(listener);
        let current = build(listener, data_dir)?;
        Ok(Arc::new(Self {
            listener: listener.clone(),
            data_dir: data_dir.to_owned(),
            version: AtomicU64::new(1),
            ends_s: AtomicI64::new(current.ends_s),
            current: RwLock::new(Arc::new(current)),
            seen: Mutex::new(Seen { read_from: ReadFrom::new(stamps.clone()), looked: stamps }),
        }))
    }

    /// The configuration for a client.
    pub(crate) fn for_client(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let current = self.current.read();
        let names_it = hello.alpn().is_some_and(|mut names| names.any(|name| name == current.protocol));
        if names_it { current.named.clone() } else { current.unnamed.clone() }
    }

    /// Grows when certificates of clients have to be looked at again.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether the certificates that a client showed would let it in now.
    pub(crate) fn still_lets_in(&self, chain: &[CertificateDer<'_>]) -> Result<(), Error> {
        let current = self.current.read().clone();
        match (&current.verifier, chain.split_first()) {
            (Some(verifier), Some((own, rest))) => verifier.verify_client_cert(own, rest, UnixTime::now()).map(drop),
            (None, _) | (_, None) => Ok(()),
        }
    }

    /// When the first certificate of the chains ends: seconds since 1970.
    #[must_use]
    pub fn ends_s(&self) -> i64 {
        self.ends_s.load(Ordering::Relaxed)
    }

    /// The listener's URL.
    pub(crate) fn url(&self) -> &str {
        &self.listener.url
    }

    /// Whether clients may show certificates.
    pub(crate) fn asks_clients(&self) -> bool {
        self.listener.tls_rules.clients.is_some()
    }

    /// Whether a file has changed since it was read, and has stopped changing.
    pub(crate) fn has_changed(&self) -> bool {
        let now = stamps(&self.listener);
        let mut seen = self.seen.lock();
        let settled = seen.looked == now;
        let changed = seen.read_from.is_not(&now);
        seen.looked = now;
        settled && changed
    }

    /// Reads the files again. What is wrong changes nothing.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        self.put_in_force(self.read_again()?);
        Ok(())
    }

    /// Reads the files again; nothing is in force yet.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub(crate) fn read_again(&self) -> Result<Prepared, TlsError> {
        let stamps = stamps(&self.listener);
        match build(&self.listener, &self.data_dir) {
            Ok(current) => Ok(Prepared(current, stamps)),
            Err(error) => {
                self.seen.lock().read_from.refuse(stamps);
                Err(error)
            }
        }
    }

    pub(crate) fn put_in_force(&self, Prepared(current, stamps): Prepared) {
        self.seen.lock().read_from = ReadFrom::new(stamps);
        self.ends_s.store(current.ends_s, Ordering::Relaxed);
        *self.current.write() = Arc::new(current);
        self.version.fetch_add(1, Ordering::AcqRel);
    }
}

fn stamps(listener: &Listener) -> Stamps {
    listener.tls_files().iter().map(|path| file_stamp(path)).collect()
}
