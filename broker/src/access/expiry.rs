//! Connections that end when what their clients logged in with does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use forebay_wire::reason::ReasonCode;

use crate::broker::{Broker, Slot};

/// When the next connection ends, in milliseconds since 1970. It may have ended or been renewed since: then the look finds nothing.
pub(super) struct Expiry(AtomicU64);

impl Default for Expiry {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl Expiry {
    fn at_most(&self, at: SystemTime) {
        self.0.fetch_min(since_1970(at), Ordering::AcqRel);
    }
}

fn since_1970(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Broker {
    /// A client is there whose rights end.
    pub(crate) fn expires_at(&self, at: SystemTime) {
        if let Some(access) = self.access() {
            access.expiry.at_most(at);
        }
    }

    /// Ends the connections whose time has come.
    pub(super) fn end_expired(self: &Arc<Self>, now: SystemTime) {
        let Some(access) = self.access() else { return };
        if access.expiry.0.load(Ordering::Acquire) > since_1970(now) {
            return;
        }
        // Those that come meanwhile say so themselves.
        access.expiry.0.store(u64::MAX, Ordering::Release);
        for slot in self.all_slots() {
            let Some(at) = slot.authority().and_then(|authority| authority.expires()) else { continue };
            if !slot.online() {
                continue;
            }
            if at > now {
                access.expiry.at_most(at);
            } else {
                self.end_connection(&slot);
            }
        }
    }

    fn end_connection(&self, slot: &Slot) {
        self.counters.connections_expired.add(1);
        let client = slot.look(|session| session.client_id().clone());
        tracing::info!(client = &*client, "disconnected: what it logged in with has expired");
        slot.kick(ReasonCode::MaximumConnectTime as u8);
    }
}
