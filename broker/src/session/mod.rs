//! What one client is to the broker: no socket, no store, no clock. Calls carry `now`; bytes to send, work for the
//! store and wake-ups come out as values.
//!
//! ```text
//!   PUBLISH in ──► inbound: QoS 2 identifiers, acks that wait ──► PUBACK PUBREC PUBCOMP
//!   router ──► queue (a module of its own) ──► flights: QoS 1 and 2 ──► PUBLISH PUBREL
//!   persist: what changed since the last commit
//! ```

mod acks;
mod alias;
mod backlog;
mod deliver;
mod delivery;
mod encoded;
mod flights;
mod inbound;
mod leave;
mod lent;
mod persist;
mod retained;
mod send;
mod take;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use forebay_wire::types::Version;

pub use delivery::{Delivery, Durability, Outcome};
pub use encoded::{Encoded, SHARED_PAYLOAD_BYTES};
pub use inbound::{Awaited, Received};
pub use lent::{Lending, LentNews, Settled};
pub use persist::Collected;
pub use retained::RetainedCursor;
pub use take::Taken;

pub use crate::queue::{
    Fallen, Fate, Fill, LeavingPage, Orphan, PageWanted, Policy, QueueFigures, QueueLimits, Refused,
};

use crate::lazy::Lazy;
use crate::message::Time;
use crate::queue::{Queue, Rules};
use crate::router;
use crate::store::{SessionNo, StoredSubscription, StoredWill};

/// The named limits that a session obeys.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of its queue, unless the queue has limits of its own.
    pub queue: QueueLimits,
    /// Encoded bytes that may wait for a slow socket.
    pub outbound_buffer: usize,
    /// QoS 1 and 2 messages in flight to one client, beside its own Receive Maximum.
    pub max_inflight: u16,
    /// Unacknowledged QoS 1 and 2 messages that one client may have towards us: our Receive Maximum.
    pub receive_maximum: u16,
    /// Topic aliases that we use towards a client that allows them.
    pub outbound_topic_alias_maximum: u16,
}

/// What a session's client may do, as the policy says now.
pub trait Authority: std::fmt::Debug + Send + Sync {
    /// Its user name.
    fn user(&self) -> Option<&str>;
    /// Whether a message with this topic may go to it.
    fn may_receive(&self, topic: &str) -> bool;
    /// Whether its will may be published.
    fn may_leave_will(&self, will: &crate::message::Message) -> bool;
    /// Whether it may keep this subscription.
    fn may_keep(&self, filter: &str) -> bool;
    /// These are its subscriptions: adds them to what is kept of what clients did lately.
    fn note_standing(&self, filters: &[String]) {
        let _ = filters;
    }
    /// Whether it could log in again with what it logged in with.
    fn is_valid(&self) -> bool;
    /// When what it logged in with ends.
    fn expires(&self) -> Option<std::time::SystemTime>;
    /// Whatever its answers depend on beside the policy: two with the same answer the same.
    fn depends_on(&self) -> u64;
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
    /// What the client may do; `None`: everything.
    pub authority: Option<Arc<dyn Authority>>,
    /// What its listener says of what is sent to it; `None`: nothing.
    pub egress: Option<Box<Egress>>,
}

/// What a listener says of what is sent to its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress {
    /// Bytes of each topic that are left out at its beginning: the listener's mount point.
    pub mount_len: usize,
    /// Encoded bytes that may wait for the socket.
    pub bytes_max: usize,
    /// Messages that may wait for the socket.
    pub messages_max: usize,
}

impl Default for Egress {
    fn default() -> Self {
        Self { mount_len: 0, bytes_max: usize::MAX, messages_max: usize::MAX }
    }
}

/// A call's surroundings.
#[derive(Clone, Copy)]
pub struct Cx<'a> {
    /// The broker's clock.
    pub now: Time,
    /// The limits.
    pub settings: &'a Settings,
}

impl<'a> Cx<'a> {
    /// What the queue must know.
    pub(crate) fn rules(self) -> Rules<'a> {
        Rules { now: self.now, limits: &self.settings.queue }
    }
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
    /// The client has been connected before, perhaps before a restart.
    resumed: bool,
    problem_information: bool,
    ended: bool,
    leaving: Option<leave::Leaving>,
    /// It has outlived, or will outlive, a connection: its queue is in the store until it ends.
    kept: bool,
    /// Counts connections: a connection whose number is not this one has been taken over.
    epoch: u32,
    expiry_s: u32,
    out: encoded::Out,
    queue: Queue,
    flights: Lazy<flights::Flights>,
    /// Messages that may be in flight at once.
    window: u16,
    maximum_packet_size: u32,
    /// Messages that are taken as values are taken after their commit only.
    committed_only: bool,
    inbound: Lazy<inbound::Inbound>,
    persist: Option<Box<persist::Persist>>,
    will: Option<Box<StoredWill>>,
    subscriptions: Vec<StoredSubscription>,
    /// Retained messages that its subscriptions have not been given yet.
    retained: Option<Box<retained::Wanted>>,
    /// What its subscriptions can cost a publication, see [`router::branching`].
    wildcard_levels: usize,
    aliases: Option<Box<alias::Aliases>>,
    disconnected_at: Option<Time>,
    /// What declared queues have lent to its client. Most have none.
    lent: Option<Box<lent::Lent>>,
    urgency: Urgency,
    /// With `queue_qos0`: while something before this place waits, QoS 0 messages wait behind it. It came while the client was away,
    /// or behind that.
    qos0_behind: u64,
    /// Of its last connection.
    authority: Option<Arc<dyn Authority>>,
    egress: Option<Box<Egress>>,
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
            resumed: false,
            problem_information: true,
            ended: false,
            leaving: None,
            kept: false,
            epoch: 0,
            expiry_s: 0,
            out: encoded::Out::default(),
            queue: Queue::default(),
            flights: Lazy::default(),
            qos0_behind: 0,
            window: 0,
            maximum_packet_size: 0,
            committed_only: false,
            inbound: Lazy::default(),
            persist: None,
            will: None,
            subscriptions: Vec::new(),
            retained: None,
            wildcard_levels: 0,
            aliases: None,
            disconnected_at: None,
            lent: None,
            urgency: Urgency::None,
            authority: None,
            egress: None,
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

    /// The levels of its filters from the first `+` on, all together.
    #[must_use]
    pub fn wildcard_levels(&self) -> usize {
        self.wildcard_levels
    }

    /// Whether it is subscribed with this filter.
    #[must_use]
    pub fn is_subscribed(&self, filter: &str) -> bool {
        self.subscriptions.binary_search_by(|s| s.filter.as_str().cmp(filter)).is_ok()
    }

    /// Whether reason strings and user properties may be sent.
    #[must_use]
    pub fn problem_information(&self) -> bool {
        self.problem_information
    }

    /// The client's Maximum Packet Size.
    #[must_use]
    pub fn maximum_packet_size(&self) -> u32 {
        self.maximum_packet_size
    }

    /// A connection takes the session over, or is its first. What was in flight is sent again [MQTT-4.4.0-1].
    pub fn connect(&mut self, link: Link, cx: Cx<'_>) {
        let was_durable = self.durable();
        self.detach();
        self.resumed = self.epoch > 0 || self.disconnected_at.is_some();
        self.epoch = self.epoch.wrapping_add(1);
        self.connected = true;
        self.disconnected_at = None;
        self.version = link.version;
        self.expiry_s = link.expiry_s;
        self.problem_information = link.problem_information;
        self.will = link.will.map(Box::new);
        self.qos0_behind = self.queue.next_place();
        self.authority = link.authority;
        self.egress = link.egress;
        self.aliases = alias::Aliases::new(link.topic_alias_maximum.min(cx.settings.outbound_topic_alias_maximum));
        self.window = link.receive_maximum.min(match cx.settings.max_inflight {
            0 => u16::MAX,
            some => some,
        });
        self.maximum_packet_size = link.maximum_packet_size;
        self.queue.keep_fallen(cx.settings.queue.dead_letters);
        self.record_changed(was_durable);
        if let Some(persist) = self.persist.as_ref().filter(|_| self.queue.is_made()) {
            self.flights.connected_mark = persist.open;
        }
        self.resume();
        self.pump(cx);
    }

    /// Everything in flight is to be sent, or taken, again.
    fn resume(&mut self) {
        self.queue.attend();
        if self.flights.is_made() {
            self.flights.resume();
        }
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
        self.out.clear();
        self.queue.lose_passing();
        self.return_lent();
        self.detach_inbound(self.kept || self.expiry_s > 0);
        self.aliases = None;
        if self.durable() {
            self.queue.spill();
            if self.flights.is_made() {
                self.flights.rest();
            }
            let collected = self.queue.collected_to();
            let in_flight = self.flights.last().is_some_and(|flight| flight.live() && flight.seq >= collected);
            if in_flight || self.queue.has_uncollected() {
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
                self.wildcard_levels += router::branching(&subscription.filter);
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
        self.forget_retained(filter);
        self.wildcard_levels = self.wildcard_levels.saturating_sub(router::branching(filter));
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
        self.out.len()
    }

    /// Whether as much waits for the socket as may.
    fn out_is_full(&self, cx: Cx<'_>) -> bool {
        let waits = self.out.len();
        waits >= cx.settings.outbound_buffer
            || self
                .egress
                .as_ref()
                .is_some_and(|egress| waits >= egress.bytes_max || self.out.messages() >= egress.messages_max)
    }

    /// True once, when QoS 0 messages for a client that does not take them have begun to be dropped; again after it has taken
    /// everything.
    pub fn has_overflowed(&mut self) -> bool {
        let new = self.out.overflow == encoded::Overflow::New;
        if new {
            self.out.overflow = encoded::Overflow::Said;
        }
        new
    }

    /// The socket has taken all that there was for it.
    pub fn drained(&mut self) {
        self.out.overflow = encoded::Overflow::No;
    }

    /// Appends a packet that is not a PUBLISH: it is never held back.
    pub fn control(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.out.buf);
    }

    /// Takes the first of what waits for the socket; empty when there is no more. QoS 0 messages in it count as delivered.
    pub fn take_out(&mut self) -> Encoded {
        let (piece, passed) = self.out.take();
        self.queue.passed(passed);
        piece
    }

    /// Takes all that waits for the socket, as one buffer.
    pub fn take_all_out(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while self.out_len() > 0 {
            let piece = self.take_out();
            all.extend_from_slice(&piece.bytes);
            all.extend_from_slice(piece.payload());
        }
        all
    }
}
