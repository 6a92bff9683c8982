//! What one client is to the broker: no socket, no store, no clock. Calls carry `now`; bytes to send, work for the
//! store and wake-ups come out as values.
//!
//! ```text
//!   PUBLISH in ──► inbound: QoS 2 identifiers, acks that wait ──► PUBACK PUBREC PUBCOMP
//!   router ──► outbound: in flight ◄─ queue (memory) ◄─ disk ◄─ pending (not yet committed)
//!   persist: what changed since the last commit
//! ```

mod alias;
mod inbound;
mod lazy;
mod outbound;
mod persist;
mod scan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use forebay_wire::types::Version;

pub use inbound::{Awaited, Received};
pub use outbound::{Delivery, Durability, Fate, Fill, LeavingPage, Orphan, Outcome, PageWanted, Refused};
pub use persist::Collected;

use crate::message::Time;
use crate::store::{Ledger, SessionNo, StoredSubscription, StoredWill};

/// What happens to a message for a queue that is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The publisher is told (0x97), or its ack is withheld until there is room.
    Reject,
    /// The oldest message that is not in flight makes room.
    DropOldest,
    /// The new one is dropped.
    DropNewest,
    /// One message for each topic: the newer replaces the older. When still full: as `DropOldest`.
    KeepLast,
}

/// The named limits that a session obeys.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Messages that a queue may hold.
    pub max_messages: u64,
    /// Bytes that a queue may hold.
    pub max_bytes: u64,
    /// Bytes that the queue of a session without a store (expiry 0) may hold in memory.
    pub max_transient_bytes: u64,
    /// Milliseconds that a message may wait.
    pub max_age_ms: Option<u64>,
    /// What happens when it is full.
    pub policy: Policy,
    /// QoS 0 messages are queued (as QoS 0) for a session that is away.
    pub queue_qos0: bool,
    /// Messages of one queue kept in memory; the rest is on disk only.
    pub memory_messages: usize,
    /// Bytes of one queue kept in memory.
    pub memory_bytes: usize,
    /// Encoded bytes that may wait for a slow socket.
    pub outbound_buffer: usize,
    /// QoS 1 and 2 messages in flight to one client, beside its own Receive Maximum.
    pub max_inflight: u16,
    /// Unacknowledged QoS 1 and 2 messages that one client may have towards us: our Receive Maximum.
    pub receive_maximum: u16,
    /// Topic aliases that we use towards a client that allows them.
    pub outbound_topic_alias_maximum: u16,
}

/// What a CONNECT settled for one network connection.
#[derive(Clone, Debug)]
pub struct Link {
    /// Protocol version.
    pub version: Version,
    /// Session expiry interval in seconds.
    pub expiry_s: u32,
    /// The client's Receive Maximum [MQTT5-3.1.2-25].
    pub receive_maximum: u16,
    /// The client's Maximum Packet Size; `u32::MAX` for none.
    pub maximum_packet_size: u32,
    /// Topic aliases that the client accepts.
    pub topic_alias_maximum: u16,
    /// Whether reason strings and user properties may be sent with any packet [MQTT5-3.1.2-29].
    pub problem_information: bool,
    /// The will.
    pub will: Option<StoredWill>,
}

/// A call's surroundings.
#[derive(Clone, Copy)]
pub struct Cx<'a> {
    /// The broker's clock.
    pub now: Time,
    /// The limits.
    pub settings: &'a Settings,
}

/// How soon the store should collect from a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nothing to write.
    None,
    /// Within the time that interval durability or a deletion may take: nobody waits.
    Lazy,
    /// An ack waits, but subscribers may yet make the write needless.
    Elidable,
    /// An ack or a PUBREL waits and nothing can make the write needless.
    Now,
}

/// One client's session.
pub struct Session {
    no: SessionNo,
    client_id: Arc<str>,
    version: Version,
    connected: bool,
    problem_information: bool,
    ended: bool,
    leaving: Option<outbound::Leaving>,
    /// It has outlived, or will outlive, a connection: its queue is in the store until it ends.
    kept: bool,
    /// Counts connections: a connection whose number is not this one has been taken over.
    epoch: u32,
    expiry_s: u32,
    out: outbound::Out,
    outbound: outbound::Outbound,
    inbound: lazy::Lazy<inbound::Inbound>,
    persist: Option<Box<persist::Persist>>,
    will: Option<Box<StoredWill>>,
    subscriptions: Vec<StoredSubscription>,
    aliases: Option<Box<alias::Aliases>>,
    disconnected_at: Option<Time>,
    urgency: Urgency,
}

impl Session {
    /// A session that has never been connected.
    #[must_use]
    pub fn new(no: SessionNo, client_id: impl Into<Arc<str>>) -> Self {
        Self {
            no,
            client_id: client_id.into(),
            version: Version::V311,
            connected: false,
            problem_information: true,
            ended: false,
            leaving: None,
            kept: false,
            epoch: 0,
            expiry_s: 0,
            out: outbound::Out::default(),
            outbound: outbound::Outbound::default(),
            inbound: lazy::Lazy::default(),
            persist: None,
            will: None,
            subscriptions: Vec::new(),
            aliases: None,
            disconnected_at: None,
            urgency: Urgency::None,
        }
    }

    /// Its number.
    #[must_use]
    pub fn no(&self) -> SessionNo {
        self.no
    }

    /// The client identifier.
    #[must_use]
    pub fn client_id(&self) -> &Arc<str> {
        &self.client_id
    }

    /// Whether a network connection serves it.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.connected
    }

    /// Whether it has ended; an ended session takes no messages.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// The number of the connection that serves it.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The protocol version of its last connection.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether it outlives its connection, and so is kept in the store.
    #[must_use]
    pub fn durable(&self) -> bool {
        self.persist.is_some() && self.kept
    }

    /// Seconds that it outlives its connection.
    #[must_use]
    pub fn expiry_s(&self) -> u32 {
        self.expiry_s
    }

    /// When its connection ended.
    #[must_use]
    pub fn disconnected_at(&self) -> Option<Time> {
        self.disconnected_at
    }

    /// Its subscriptions, sorted by filter.
    #[must_use]
    pub fn subscriptions(&self) -> &[StoredSubscription] {
        &self.subscriptions
    }

    /// Whether reason strings and user properties may be sent.
    #[must_use]
    pub fn problem_information(&self) -> bool {
        self.problem_information
    }

    /// The client's Maximum Packet Size.
    #[must_use]
    pub fn maximum_packet_size(&self) -> u32 {
        self.outbound.maximum_packet_size
    }

    /// Its ledger, and how many messages are queued.
    #[must_use]
    pub fn ledger(&self) -> (Ledger, u64) {
        (self.outbound.ledger, self.outbound.queued)
    }

    /// A connection takes the session over, or is its first. What was in flight is sent again [MQTT-4.4.0-1].
    pub fn connect(&mut self, link: Link, cx: Cx<'_>) {
        let was_durable = self.durable();
        self.detach();
        self.epoch = self.epoch.wrapping_add(1);
        self.connected = true;
        self.disconnected_at = None;
        self.version = link.version;
        self.expiry_s = link.expiry_s;
        self.problem_information = link.problem_information;
        self.will = link.will.map(Box::new);
        self.aliases = alias::Aliases::new(link.topic_alias_maximum.min(cx.settings.outbound_topic_alias_maximum));
        self.outbound.window = link.receive_maximum.min(match cx.settings.max_inflight {
            0 => u16::MAX,
            some => some,
        });
        self.outbound.maximum_packet_size = link.maximum_packet_size;
        self.record_changed(was_durable);
        self.outbound.resume();
        self.pump(cx);
    }

    /// The connection `epoch` is over. False when another has already taken the session over: nothing was done.
    /// What remains to be done about the will and the expiry is the caller's: see [`Session::will`].
    pub fn disconnect(&mut self, epoch: u32, cx: Cx<'_>) -> bool {
        if epoch != self.epoch || !self.connected {
            return false;
        }
        self.detach();
        self.connected = false;
        self.disconnected_at = Some(cx.now);
        let durable = self.durable();
        self.record_changed(durable);
        true
    }

    /// What a connection leaves behind: bytes that were not written, acks that wait, aliases.
    fn detach(&mut self) {
        let unsent = self.out.clear();
        self.outbound.lost_qos0(unsent);
        self.detach_inbound(self.kept || self.expiry_s > 0);
        self.aliases = None;
        if self.durable() {
            self.outbound.spill();
            if self.outbound.has_uncollected() {
                self.want(Urgency::Now);
            }
        }
    }

    /// Changes the session expiry interval on DISCONNECT [MQTT5-3.14.2.2.2].
    pub fn set_expiry(&mut self, expiry_s: u32) {
        let was = self.durable();
        self.expiry_s = expiry_s;
        self.record_changed(was);
    }

    /// The will of the connection.
    #[must_use]
    pub fn will(&self) -> Option<&StoredWill> {
        self.will.as_deref()
    }

    /// Takes the will: it is being published, or DISCONNECT discarded it [MQTT-3.14.4-3].
    pub fn take_will(&mut self) -> Option<StoredWill> {
        let will = self.will.take()?;
        let was = self.durable();
        self.record_changed(was);
        Some(*will)
    }

    /// Ends the session: its queue is dropped, and counted. Returns the messages that shared subscriptions gave it,
    /// which another member may take [MQTT5-4.8.2-5].
    pub fn end(&mut self) -> Vec<Orphan> {
        self.ended = true;
        self.connected = false;
        let orphans = self.outbound.end();
        self.detach_inbound(false);
        self.out.clear();
        if self.persist.is_some() {
            self.want(Urgency::Lazy);
        }
        orphans
    }

    /// Adds or replaces a subscription; true if it was there before.
    pub fn subscribe(&mut self, subscription: StoredSubscription) -> bool {
        if self.durable()
            && let Some(persist) = &mut self.persist
        {
            persist.subscribed.push(subscription.clone());
            self.want(Urgency::Now);
        }
        match self.subscriptions.binary_search_by(|s| s.filter.as_str().cmp(&subscription.filter)) {
            Ok(at) => {
                if let Some(slot) = self.subscriptions.get_mut(at) {
                    *slot = subscription;
                }
                true
            }
            Err(at) => {
                if self.subscriptions.is_empty() {
                    self.subscriptions.reserve_exact(1);
                }
                self.subscriptions.insert(at, subscription);
                false
            }
        }
    }

    /// Removes a subscription; true if it was there.
    pub fn unsubscribe(&mut self, filter: &str) -> bool {
        let Ok(at) = self.subscriptions.binary_search_by(|s| s.filter.as_str().cmp(filter)) else {
            return false;
        };
        self.subscriptions.remove(at);
        if self.durable()
            && let Some(persist) = &mut self.persist
        {
            persist.subscribed.retain(|s| s.filter != filter);
            persist.unsubscribed.push(filter.to_owned());
            self.want(Urgency::Now);
        }
        true
    }

    /// What the store should know of, and how soon; asking resets it.
    pub fn take_urgency(&mut self) -> Urgency {
        std::mem::replace(&mut self.urgency, Urgency::None)
    }

    fn want(&mut self, urgency: Urgency) {
        self.urgency = self.urgency.max(urgency);
    }

    /// Encoded bytes that wait for the socket.
    #[must_use]
    pub fn out_len(&self) -> usize {
        self.out.buf.len()
    }

    /// Appends a packet that is not a PUBLISH: it is never held back.
    pub fn control(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.out.buf);
    }

    /// Takes what waits for the socket, leaving `empty` in its place. QoS 0 messages in it count as delivered.
    pub fn take_out(&mut self, empty: Vec<u8>) -> Vec<u8> {
        let delivered = std::mem::take(&mut self.out.qos0);
        self.outbound.ledger.delivered += u64::from(delivered);
        self.outbound.queued -= u64::from(delivered);
        std::mem::replace(&mut self.out.buf, empty)
    }
}
