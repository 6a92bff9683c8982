//! What the broker keeps on disk, as a small trait. One writer thread owns a [`Store`] and gives it batches; anyone
//! may read pages of a queue through its [`Reader`].
//!
//! A batch is made of what each touched session says has changed since the last commit. What was delivered and
//! acknowledged before the batch was collected is not in it: it is never written.

mod apply;
mod backup;
mod clean;
mod gauge;
mod generation;
mod held;
pub mod journal;
mod known;
mod leaves;
pub mod medium;
pub mod memory;
mod orphans;
mod owner;
mod page;
mod places;
mod rebuild;
mod recover;
pub mod redb;
mod rows;
mod salvage;
mod shared;
pub mod shared_memory;
pub mod space;
pub mod tool;
mod unsynced;
pub mod upkeep;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use gauge::Gauge;
pub use known::Known;

use crate::message::{Message, Time};
use upkeep::Upkeep;

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
    /// On its way to and from the store: it is to be given the retained messages behind this topic still, or all of them
    /// where it is empty. `None`: it has been given what it asked for. In memory the session knows it.
    pub retained_behind: Option<Box<str>>,
}

/// A group of a shared subscription, as the rows of a queue name it. It is made of the share name and the topic filter: the same
/// in every session and after a restart, and for somebody who unsubscribes and subscribes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

impl GroupId {
    /// Of `$share/NAME/FILTER`. Two groups that match one topic have the same one by a chance of one in four thousand million;
    /// what a member leaves of them may then go to the wrong one.
    #[must_use]
    pub fn of(name: &str, filter: &str) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        for part in [name, "/", filter] {
            hasher.update(part.as_bytes());
        }
        Self(hasher.finalize())
    }
}

/// The shared subscription that gave a message to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Of this group.
    Group(GroupId),
    /// Of some group: a store of format 4 or before did not say of which.
    Unknown,
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
    /// The shared subscription that it came through, if it did.
    pub shared: Option<Share>,
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
    /// Its receiver may not have it any more.
    Revoked,
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
        Self::Revoked,
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
            Self::Revoked => "revoked",
        }
    }
}

/// How many drop reasons there are.
pub const DROP_REASONS: usize = 10;

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
    /// As found at start: places at or above `floor` that are done as well and may still be in the store, ascending,
    /// disjoint, `start..end`. A commit is told of new ones by [`SessionDelta::done`], and leaves this empty.
    pub done: Vec<(u64, u64)>,
    /// Places up to which a PUBLISH may have been sent: repeated with DUP after a restart [MQTT-3.3.1-1].
    pub sent: u64,
    /// Of what came through shared subscriptions, places below may have been sent at QoS 2, and are for nobody else
    /// [MQTT5-4.8.2-5]. Nothing of it is sent at QoS 2 before a commit has its place below this.
    pub promised: u64,
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

impl QueueState {
    /// Whether the place is done, as far as is known here. A logarithm in the number of ranges.
    #[must_use]
    pub fn is_done(&self, seq: u64) -> bool {
        let at = self.done.partition_point(|(_, end)| *end <= seq);
        seq < self.floor || self.done.get(at).is_some_and(|(start, _)| *start <= seq)
    }
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
    /// Places that are done since the commit before, not below the state's floor and below its `next_seq`: ascending,
    /// disjoint, `start..end`. Each is told once; what a failed commit told is told again.
    pub done: Vec<(u64, u64)>,
    /// The state; rows of the queue are deleted when all of their entries are below its floor or done, a bounded number
    /// in each commit ([`Committed::more`]).
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

/// What keyed rows are for. The numbers are on the disk: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Keyed {
    /// Messages that are due later, by due time and arrival.
    Delayed = 1,
    /// Which publications of an origin have come, by its name.
    Origins = 2,
    /// Streams: their messages, by name and offset, and what is known of them.
    Streams = 3,
    /// Users, groups and roles that were made while the broker ran: a letter and the name.
    Dynamic = 4,
    /// Up to when schedules have been seen to, by their topics.
    Schedules = 5,
}

impl Keyed {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Delayed, Self::Origins, Self::Streams, Self::Dynamic, Self::Schedules];

    /// As it is called in an export.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Delayed => "delayed",
            Self::Origins => "origins",
            Self::Streams => "streams",
            Self::Dynamic => "dynamic",
            Self::Schedules => "schedules",
        }
    }
}

/// A row that is found by its key: set, or removed with `None`. For what belongs neither to one session nor to a
/// retained topic; keys sort by their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedChange {
    /// What it is for.
    pub of: Keyed,
    /// Its key: at most [`KEY_MAX`] bytes.
    pub key: Vec<u8>,
    /// Its value, or `None` when it is removed.
    pub value: Option<Vec<u8>>,
}

/// Bytes of a keyed row's key.
pub const KEY_MAX: usize = 1024;

/// A keyed row as it is read: key and value.
pub type KeyedRow = (Vec<u8>, Vec<u8>);

/// A message as the value of a keyed row.
#[must_use]
pub fn message_value(message: &Message) -> Vec<u8> {
    let mut value = Vec::with_capacity(message.size() + 24);
    rows::put_message(&mut value, message);
    value
}

/// The message of a keyed row's value; `None` if there is none in it.
#[must_use]
pub fn message_of(value: &[u8]) -> Option<Arc<Message>> {
    rows::read_message(value).ok()
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
    /// Keyed rows that changed; of two changes with one key the later holds.
    pub keyed: Vec<KeyedChange>,
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
    /// Bytes of those rows.
    pub bytes: u64,
    /// Payload, topic and property bytes of the messages written.
    pub message_bytes: u64,
    /// Rows that were looked at because something of them is done, or that were deleted.
    pub cleaned: u64,
    /// Rows that nobody needs remain: another commit, an empty one too, goes on deleting them.
    pub more: bool,
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

impl StoreError {
    /// The same once more, for whoever meets it next.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Full { path, free, needed } => Self::Full { path: path.clone(), free: *free, needed: *needed },
            Self::Io { path, source } => Self::Io { path: path.clone(), source: source.to_string().into() },
            Self::Damaged { path, detail } => Self::Damaged { path: path.clone(), detail: detail.clone() },
            Self::InUse { path } => Self::InUse { path: path.clone() },
            Self::Newer { path, found, known } => Self::Newer { path: path.clone(), found: *found, known: *known },
        }
    }
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

    /// The broker must begin anew with the store: what it has in memory and what can be had of the file are not the same
    /// any more. Until then commits fail.
    fn outdated(&self) -> bool {
        false
    }

    /// Looks how much room there is; for when nothing is committed because there is none.
    fn refresh(&mut self, _now: Time) {}

    /// A handle for reading pages, usable from any thread while commits go on.
    fn reader(&self) -> Arc<dyn Reader>;

    /// What operators may do with it; `None`: there is nothing to be done with this kind.
    fn upkeep(&self) -> Option<Arc<dyn Upkeep>> {
        None
    }
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

    /// Committed keyed rows whose keys are not below `from`, ascending, until `max_rows` or `max_bytes` is reached (at
    /// least one if there is one). A damaged row is left out, and noted.
    ///
    /// # Errors
    /// [`StoreError::Io`], or [`StoreError::Damaged`] with what could not be read.
    fn keyed(&self, of: Keyed, from: &[u8], max_rows: usize, max_bytes: usize) -> Result<Vec<KeyedRow>, StoreError>;

    /// Writes a copy of all that is committed into a new store file, which `forebay` can be started on, while commits go on;
    /// There is nothing at `to` until the copy is whole and on the disk.
    ///
    /// # Errors
    /// See [`BackupError`].
    fn backup(&self, to: &Path) -> Result<Copied, BackupError>;
}

/// A copy of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Its length.
    pub bytes: u64,
    /// Rows that are not what was written, one line each. The copy has them as they are: a start on it removes them.
    pub damaged: Vec<String>,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// Something is there already.
    #[error("{} is there already; choose another file", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The copy cannot be written.
    #[error("{} cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The store cannot be read, or the copy not be made.
    #[error("no copy in {}: {detail}", path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// The cause.
        detail: String,
    },
    /// This kind of store has none.
    #[error("a store in memory has no copy")]
    InMemory,
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
