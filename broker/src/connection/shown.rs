//! The certificate that a client showed: it is held against each new configuration of its listener's TLS.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use crate::broker::{Broker, Slot};
use crate::certificate::Certificate;
use crate::transport::{LiveTls, TlsError};

#[derive(Clone)]
/// A client's certificate, for as long as its connection lasts.
pub(super) struct Shown {
    pub(super) owner: Arc<Certificate>,
    chain: Vec<CertificateDer<'static>>,
    tls: Arc<LiveTls>,
    /// The version of the configuration that let it in last.
    version: u64,
}

impl Shown {
    /// After a handshake; `version` was read before it.
    pub(super) fn new(chain: &[CertificateDer<'static>], tls: &Arc<LiveTls>, version: u64) -> Option<Self> {
        let owner = Certificate::read(chain.first()?)?;
        Some(Self { owner: Arc::new(owner), chain: chain.to_vec(), tls: tls.clone(), version })
    }

    /// False: it would not be let in any more.
    pub(super) fn still_good(&mut self, slot: &Slot) -> bool {
        let version = self.tls.version();
        if version == self.version {
            return true;
        }
        self.version = version;
        let Err(error) = self.tls.still_lets_in(&self.chain) else { return true };
        let client = slot.look(|session| session.client_id().clone());
        let (subject, serial) = (&self.owner.subject, &self.owner.serial);
        tracing::info!(
            client = &*client,
            subject,
            serial,
            "disconnected: its certificate is not let in any more: {error}"
        );
        false
    }
}

impl Broker {
    /// Reads certificates, keys, CAs and revocation lists again that have changed, and have stopped changing. What is wrong
    /// changes nothing, and is said.
    pub fn reload_certificates(&self) {
        for tls in self.observed.tls() {
            if !tls.has_changed() {
                continue;
            }
            match tls.reload() {
                Ok(()) => self.say_reloaded(&tls),
                Err(error) => self.say_not_reloaded(&tls, &error),
            }
        }
    }

    /// New certificates are in force.
    pub(crate) fn say_reloaded(&self, tls: &LiveTls) {
        tracing::info!(listener = tls.url(), "the certificates have been read anew, and are in force");
        self.counters.tls_reloads.add(1);
        if tls.asks_clients() {
            // Each looks whether its client would be let in now.
            self.all_slots().iter().for_each(|slot| slot.wake());
        }
    }

    pub(crate) fn say_not_reloaded(&self, tls: &LiveTls, error: &TlsError) {
        self.counters.tls_reloads_failed.add(1);
        tracing::error!(
            listener = tls.url(),
            "the certificates have not been read anew, the old ones stay in force: {error}"
        );
    }
}
