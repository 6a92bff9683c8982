//! What the broker keeps on disk, as a small trait. One writer thread owns a [`Store`] and gives it batches; anyone
//! may read pages of a queue through its [`Reader`].
//!
//! A batch is made of what each touched session says has changed since the last commit. What was delivered and
//! acknowledged before the batch was collected is not in it: it is never written.

mod apply;
pub mod medium;
pub mod memory;
mod page;
mod rebuild;
mod recover;
pub mod redb;
mod rows;
mod salvage;
pub mod space;
pub mod tool;
mod unsynced;

use std::sync::Arc;

use crate::message::{Message, Time};

/// A session's number, given once and never again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionNo(pub u64);

/// The session expiry interval that means never [MQTT5-3.1.2.11.2].
pub const NEVER_S: u32 = u32::MAX;

/// What is kept of a session beside its queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// The client identifier.
    pub client_id: String,
    /// Protocol level: 3, 4 or 5.
    pub protocol: u8,
    /// Seconds that the session outlives its connection; [`NEVER_S`] for ever; 0 when only the will is kept.
    pub expiry_s: u32,
    /// When its connection ended; `None` while it is connected.
    pub disconnected_at: Option<Time>,
    /// The will of the connection, until it is published or discarded.
    pub will: Option<StoredWill>,
}

/// A will and when it is due.
#[derive(Clone, Debug)]
pub struct StoredWill {
    /// The message that will be published; its expiry counts from then.
    pub message: Arc<Message>,
    /// Message expiry interval in seconds, counted from the publication.
    pub expiry_s: Option<u32>,
    /// Will Delay Interval in seconds.
    pub delay_s: u32,
}

impl PartialEq for StoredWill {
    fn eq(&self, other: &Self) -> bool {
        self.expiry_s == other.expiry_s
            && self.delay_s == other.delay_s
            && self.message.qos == other.message.qos
            && self.message.retain == other.message.retain
            && self.message.topic_bytes() == other.message.topic_bytes()
            && self.message.properties() == other.message.properties()
            && self.message.payload() == other.message.payload()
    }
}

impl Eq for StoredWill {}

/// A subscription as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSubscription {
    /// The topic filter, `$share/…` included.
    pub filter: String,
    /// Maximum QoS.
    pub qos: u8,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Subscription identifier, 0 for none.
    pub subscription_id: u32,
}

/// One message in one session's queue.
#[derive(Clone, Debug)]
pub struct QueueEntry {
    /// Place in the session's queue: ascending, never used twice. The packet identifier is made from it.
    pub seq: u64,
    /// QoS of this delivery, 0 to 2.
    pub qos: u8,
    /// RETAIN flag of this delivery.
    pub retain: bool,
    /// It came through a shared subscription.
    pub shared: bool,
    /// Subscription identifiers of this delivery.
    pub subscription_ids: smallvec::SmallVec<[u32; 1]>,
    /// The message.
    pub message: Arc<Message>,
}

/// Why a message left a queue undelivered. The order is the on-disk order of [`Ledger::dropped`]; append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum DropReason {
    /// `drop-oldest` made room.
    Oldest = 0,
    /// `drop-newest` refused it.
    Newest,
    /// `keep-last` replaced it by a newer one of its topic.
    Replaced,
    /// Larger than the client's Maximum Packet Size [MQTT5-3.1.2-25].
    TooLarge,
    /// The session ended with the message in its queue.
    SessionEnded,
    /// QoS 0 and the client is slow or away.
    Qos0,
    /// The client refused it with a reason code of 0x80 or more.
    Refused,
    /// The stored message could not be read.
    Damaged,
    /// Purged by an operator.
    Purged,
}

impl DropReason {
    /// All of them, in the order of [`Ledger::dropped`].
    pub const ALL: [Self; DROP_REASONS] = [
        Self::Oldest,
        Self::Newest,
        Self::Replaced,
        Self::TooLarge,
        Self::SessionEnded,
        Self::Qos0,
        Self::Refused,
        Self::Damaged,
        Self::Purged,
    ];

    /// As it is called in counters and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Oldest => "oldest",
            Self::Newest => "newest",
            Self::Replaced => "replaced",
            Self::TooLarge => "too_large",
            Self::SessionEnded => "session_ended",
            Self::Qos0 => "qos0",
            Self::Refused => "refused",
            Self::Damaged => "damaged",
            Self::Purged => "purged",
        }
    }
}

/// How many drop reasons there are.
pub const DROP_REASONS: usize = 9;

/// What became of the messages of one queue: accepted = delivered + queued + expired + the sum of dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Messages that entered the queue (or were refused by `drop-newest`).
    pub accepted: u64,
    /// Acknowledged by the client; for QoS 0 written to its socket.
    pub delivered: u64,
    /// Expired in the queue, by their own interval or the queue's age.
    pub expired: u64,
    /// Dropped, by [`DropReason`].
    pub dropped: [u64; DROP_REASONS],
}

impl Ledger {
    /// Adds another queue's.
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.delivered += other.delivered;
        self.expired += other.expired;
        for (sum, part) in self.dropped.iter_mut().zip(other.dropped) {
            *sum += part;
        }
    }
}

/// The changing part of a session, small and rewritten whole by each commit that touches the session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// The next place in the queue.
    pub next_seq: u64,
    /// Every place below is done.
    pub floor: u64,
    /// Places at or above `floor` that are done as well: ascending, disjoint, `start..end`.
    pub done: Vec<(u64, u64)>,
    /// Places up to which a PUBLISH may have been sent: repeated with DUP after a restart [MQTT-3.3.1-1].
    pub sent: u64,
    /// QoS 2 places whose PUBREC has come: PUBREL is owed, PUBLISH never again.
    pub released: Vec<u64>,
    /// QoS 2 packet identifiers received from the client and not yet released by it.
    pub inbound: Vec<u16>,
    /// Messages in the queue, delivered ones apart, and their bytes.
    pub queued: u64,
    /// Bytes of those messages (topic, properties, payload).
    pub queued_bytes: u64,
    /// What became of its messages.
    pub ledger: Ledger,
}

/// What one session wants written.
#[derive(Clone, Debug, Default)]
pub struct SessionDelta {
    /// Whose.
    pub no: SessionNo,
    /// The session ended: everything of it goes, the other fields are ignored.
    pub ended: bool,
    /// The record, if it changed.
    pub record: Option<SessionRecord>,
    /// Subscriptions made or replaced.
    pub subscribed: Vec<StoredSubscription>,
    /// Filters unsubscribed.
    pub unsubscribed: Vec<String>,
    /// New queue entries, ascending, above everything stored before.
    pub enqueued: Vec<QueueEntry>,
    /// The state; rows of the queue that lie wholly below its floor, or wholly in `done`, are deleted.
    pub state: Option<QueueState>,
}

/// A retained message set (or removed, with `None`).
#[derive(Clone, Debug)]
pub struct RetainedChange {
    /// The topic name.
    pub topic: String,
    /// The message, or `None` when it is removed.
    pub message: Option<Arc<Message>>,
}

/// The broker's clock and the wall clock at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockMark {
    /// The broker's clock.
    pub time: Time,
    /// The wall clock, milliseconds since 1970; may be wrong.
    pub wall_ms: u64,
}

/// All that one commit writes.
#[derive(Debug, Default)]
pub struct Batch {
    /// Sessions that changed.
    pub sessions: Vec<SessionDelta>,
    /// Retained messages that changed.
    pub retained: Vec<RetainedChange>,
    /// The clock, written with every commit.
    pub clock: ClockMark,
    /// Queues that have ended: their ledgers summed up, so that the sum over all holds for ever.
    pub ended_ledger: Option<Ledger>,
}

/// What a commit did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Rows inserted or replaced.
    pub rows: u64,
    /// Payload, topic and property bytes of the messages written.
    pub message_bytes: u64,
}

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No room on the disk, or less than the configured reserve; try again when there is.
    #[error("no room in {path}: {free} bytes free, {needed} bytes kept in reserve")]
    Full {
        /// The store's folder.
        path: String,
        /// Free bytes.
        free: u64,
        /// The reserve.
        needed: u64,
    },
    /// The device failed; the commit did not happen. Trying again reopens the file.
    #[error("the store {path} cannot be written: {source}")]
    Io {
        /// The store's file.
        path: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What was read is not what was written.
    #[error("the store {path} is damaged: {detail}")]
    Damaged {
        /// The store's file.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// Another broker has it open.
    #[error("the store {path} is in use by another broker; stop it, or choose another --data-dir")]
    InUse {
        /// The store's file.
        path: String,
    },
    /// A newer program wrote it.
    #[error("the store {path} has format {found}, this program reads up to {known}; use a newer forebay")]
    Newer {
        /// The store's file.
        path: String,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
}

/// Owned by the writer thread.
pub trait Store: Send {
    /// Writes the batch, durably, all of it or nothing. After an error the same batch may be given again (merged with
    /// what came since): applying it must not depend on whether the failed try reached the disk.
    ///
    /// # Errors
    /// [`StoreError::Full`] and [`StoreError::Io`] leave the store as it was.
    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError>;

    /// After commits that failed: whether it is known that nothing of them is in the store, so that nobody will find it
    /// there after a crash either.
    fn left_nothing(&self) -> bool;

    /// Looks how much room there is; for when nothing is committed because there is none.
    fn refresh(&mut self, _now: Time) {}

    /// A handle for reading pages, usable from any thread while commits go on.
    fn reader(&self) -> Arc<dyn Reader>;
}

/// Reads queues.
pub trait Reader: Send + Sync {
    /// Committed entries of a session with `seq >= from`, ascending, until `max_messages` or `max_bytes` is reached
    /// (at least one if there is one). Entries that are done are not known here: the caller skips them.
    ///
    /// # Errors
    /// [`StoreError::Io`], or [`StoreError::Damaged`] with what could not be read.
    fn page(
        &self,
        session: SessionNo,
        from: u64,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<QueueEntry>, StoreError>;
}

/// A session as it was found at start.
#[derive(Clone, Debug, Default)]
pub struct RecoveredSession {
    /// Its number.
    pub no: SessionNo,
    /// Its record; `None` cannot be served and was reported as lost.
    pub record: Option<SessionRecord>,
    /// Its subscriptions.
    pub subscriptions: Vec<StoredSubscription>,
    /// Its queue's state.
    pub state: QueueState,
}

/// Everything found at start. Queues stay on disk.
#[derive(Debug, Default)]
pub struct Recovered {
    /// All sessions.
    pub sessions: Vec<RecoveredSession>,
    /// All retained messages.
    pub retained: Vec<Arc<Message>>,
    /// The clock at the last commit; `None` for a new store.
    pub clock: Option<ClockMark>,
    /// The sum of the ledgers of queues that have ended.
    pub ended_ledger: Ledger,
    /// The highest session number ever given.
    pub last_session: u64,
    /// What was lost and why, one line each, for the log. Empty when all is well.
    pub lost: Vec<String>,
}
