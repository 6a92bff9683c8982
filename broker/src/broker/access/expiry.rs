//! Connections that end when what their clients logged in with does.

use std::sync::Arc;
use std::time::SystemTime;

use forebay_wire::reason::ReasonCode;

use crate::broker::{Broker, Slot};

impl Broker {
    /// A client is there whose rights end.
    pub(crate) fn expires_at(&self, at: SystemTime) {
        if let Some(access) = self.access() {
            access.expiry().at_most(at);
        }
    }

    /// Ends the connections whose time has come.
    pub(super) fn end_expired(self: &Arc<Self>, now: SystemTime) {
        let Some(access) = self.access() else { return };
        if !access.expiry().take_due(now) {
            return;
        }
        for slot in self.all_slots() {
            let Some(at) = slot.authority().and_then(|authority| authority.expires()) else { continue };
            if !slot.online() {
                continue;
            }
            if at > now {
                access.expiry().at_most(at);
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
