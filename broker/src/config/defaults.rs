//! What holds when the configuration says nothing. Chosen for a single-board computer with 1 GiB of memory and an
//! SD card; each with the reason.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// 10,000 TLS connections at 16 KB are 160 MB: what a board with 1 GiB can spare.
pub const MAX_CONNECTIONS: usize = 10_000;
/// A P-256 handshake costs a board about a millisecond: 256 are a quarter of a second of one core.
pub const MAX_HANDSHAKES: usize = 256;
pub const MAX_LOG_INS: usize = 1024;
/// Long enough for a handshake over a 2G modem that loses packets.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A device sends as soon as it is connected; one lost packet on a slow modem is repeated within three seconds.
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(5);
/// 1 MiB over a modem with 64 kbit/s takes two minutes.
pub const PACKET_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// Some thousand filters such as `site/+/+/state`; a publication that meets all of them looks at each of these levels, which
/// takes 20 ns.
pub const MAX_WILDCARD_LEVELS_PER_CLIENT: usize = 20_000;
/// A sensor sends hundreds of bytes, a camera's still some hundred kilobytes; more belongs on another transport.
pub const MAX_PACKET_SIZE: u32 = 1024 * 1024;
/// Room for a UUID with a name before it; every session keeps it in memory and on disk.
pub const MAX_CLIENT_ID_LEN: usize = 256;
/// The trie is walked a level at a time; real topics have fewer than twenty.
pub const MAX_TOPIC_LEVELS: usize = 128;
/// A home automation server subscribes to thousands of topics by name.
pub const MAX_SUBSCRIPTIONS_PER_CLIENT: usize = 10_000;
/// One SUBSCRIBE holds its worker while the retained messages of its filters are collected.
pub const MAX_FILTERS_PER_PACKET: usize = 1_000;
/// Each is forwarded to every subscriber.
pub const MAX_USER_PROPERTIES: usize = 100;
/// With a sync of 10 ms this still lets one publisher send 100,000 messages a second.
pub const RECEIVE_MAXIMUM: u16 = 1_000;
/// With a round trip of 100 ms this still lets one subscriber take 10,000 messages a second.
pub const MAX_INFLIGHT: u16 = 1_000;
/// A device uses one topic for each of its sensors.
pub const TOPIC_ALIAS_MAXIMUM: u16 = 64;
/// Each is a topic kept in memory for that connection.
pub const OUTBOUND_TOPIC_ALIAS_MAXIMUM: u16 = 32;
/// A connection that died without a word is noticed after one and a half times this.
pub const MAX_KEEP_ALIVE: Duration = Duration::from_secs(60 * 60);
/// A device that was away for a month is not expected back.
pub const MAX_SESSION_EXPIRY: Duration = DAY.saturating_mul(30);
/// MQTT 3.1.1 cannot say how long; the same month, so that devices that are gone do not fill the disk.
pub const SESSION_EXPIRY_V3: Duration = DAY.saturating_mul(30);
/// A second of a slow uplink; beyond it a QoS 0 message is old news.
pub const OUTBOUND_BUFFER: usize = 256 * KIB;
/// All of them are in memory.
pub const MAX_RETAINED_MESSAGES: usize = 100_000;
/// All of them are in memory.
pub const MAX_RETAINED_BYTES: usize = 64 * MIB;
/// Each takes about 400 bytes of memory.
pub const MAX_ORIGINS: usize = 10_000;
/// Each is looked at four times a second.
pub const MAX_SCHEDULES: usize = 1_000;
/// They are on disk; a few hundred are in memory.
pub const MAX_DELAYED_MESSAGES: u64 = 1_000_000;
/// As one queue may hold.
pub const MAX_DELAYED_BYTES: u64 = 256 * MIB as u64;
/// Enough to keep a connection busy while the next page is read.
pub const MEMORY_MESSAGES: usize = 2_000;
/// A hundred sessions with full tails stay within 100 MB.
pub const MEMORY_BYTES: usize = MIB;
/// Ten times as many as may be connected: each keeps about a kilobyte.
pub const MAX_SESSIONS: usize = 100_000;
/// All of them are in memory; 10,000 devices with wills of some kilobytes.
pub const MAX_WILL_BYTES: usize = 64 * MIB;
/// At about 200 bytes each they are 200 MB.
pub const MAX_SUBSCRIPTIONS: usize = 1_000_000;
/// At about 100 bytes each they are 100 MB.
pub const MAX_FILTER_LEVELS: usize = 1_000_000;
/// At about 100 bytes each they are 100 MB; 100,000 topics of ten levels each.
pub const MAX_RETAINED_LEVELS: usize = 1_000_000;
/// A stranger who connects as fast as it goes writes 20 kB of log a second at most; 1 GB fills up in half a day, not in minutes.
pub const LOG_LINES_PER_S: u64 = 200;
/// Three weeks of one message a second.
pub const QUEUE_MAX_MESSAGES: u64 = 2_000_000;
/// One session cannot take more than this of an SD card.
pub const QUEUE_MAX_BYTES: u64 = 512 * MIB as u64;
/// The inner pages of a store of some gigabytes.
pub const STORE_CACHE_BYTES: usize = 8 * MIB;
/// The system needs some room for its logs while the broker waits for space.
pub const STORE_MIN_FREE_BYTES: u64 = 128 * MIB as u64;
/// Subscribers on the same network acknowledge within this, and what they acknowledge is never written; an SD card's sync
/// takes longer (docs/decisions/0001).
pub const STORE_COMMIT_WAIT: Duration = Duration::from_millis(5);
/// As mosquitto's.
pub const SYS_INTERVAL: Duration = Duration::from_secs(10);
/// Less than the 90 s after which systemd kills, more than the slowest sync.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// What `interval` means when no time is given: a second of data is what a power cut may cost.
pub const DURABILITY_INTERVAL: Duration = Duration::from_secs(1);
/// Plain MQTT, this machine only.
pub const LISTEN_TCP: &str = "mqtt://127.0.0.1:1883";
/// MQTT over TLS, this machine only.
pub const LISTEN_TLS: &str = "mqtts://127.0.0.1:8883";

/// One core is left to the store's writer and the system.
pub fn workers() -> std::num::NonZeroUsize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    std::num::NonZeroUsize::new(cores.saturating_sub(1)).unwrap_or(std::num::NonZeroUsize::MIN)
}

/// A dead link is noticed within 45 s, and costs two packets a minute.
pub const BRIDGE_KEEP_ALIVE: Duration = Duration::from_secs(30);
/// 200 ms to the upstream and back are 500 messages a second.
pub const BRIDGE_WINDOW: u16 = 100;
/// Longer than an upstream that elects a new leader is silent.
pub const BRIDGE_STALLED_AFTER: Duration = Duration::from_secs(30);
/// Says whose it is.
pub const BRIDGE_PROGRESS_TOPIC: &str = "forebay-progress";
/// Enough to see what is wrong.
pub const BRIDGE_DEAD_LETTERS: u64 = 1_000;
/// As RabbitMQ's: longer than any work that is not stuck.
pub const QUEUE_ACK_TIMEOUT: Duration = Duration::from_secs(1_800);
/// As RabbitMQ's quorum queues.
pub const QUEUE_MAX_DELIVERIES: u32 = 20;
/// A consumer that is overloaded for a moment is over it.
pub const QUEUE_BACKOFF: Duration = Duration::from_secs(1);
/// A consumer that is repaired does not wait long.
pub const QUEUE_BACKOFF_MAX: Duration = Duration::from_secs(300);
/// 10 members with a hundred each.
pub const QUEUE_WINDOW: u16 = 1_000;
/// Lower ones are never more than ten times slower than they would be alone.
pub const QUEUE_PRIORITY_SHARE: u64 = 10;
/// As many as the store's other limits allow.
pub const STREAM_MAX_MESSAGES: u64 = 10_000_000;
/// A part of a small card.
pub const STREAM_MAX_BYTES: u64 = 1 << 30;
/// A site's sensors.
pub const RULE_MAX_KEYS: usize = 1_000;
/// Much for a reading; JSON of so many bytes is read in a fraction of a millisecond.
pub const RULE_MAX_PAYLOAD: usize = 64 * 1024;
/// Enough to see what is wrong.
pub const QUEUE_DEAD_LETTERS: u64 = 10_000;
/// A part of a small card.
pub const DEAD_LETTER_BYTES: u64 = 64 * MIB as u64;
/// Long enough for a client that restarts or is moved; a publisher held up for longer loses more than the oldest messages.
pub const STALL_LIMIT: Duration = Duration::from_secs(600);
/// A client that has taken nothing for so long, and would lose its queue with its connection anyway.
pub const STALL_LIMIT_TRANSIENT: Duration = Duration::from_secs(5);
/// Wrong passwords from one address, after which it is banned.
pub(super) const MAX_FAILURES: u32 = 10;
/// How long a wrong password counts.
pub(super) const FAILURE_WINDOW: Duration = Duration::from_secs(300);
/// How long a ban lasts.
pub(super) const BAN: Duration = Duration::from_secs(600);
/// Passwords that are checked at once: each takes 9 MiB and a core meanwhile.
pub(super) const MAX_HASHING: usize = 1;
/// Some 7,000 things that clients did; nothing is taken before they do them.
pub(super) const RECENT_MEMORY: usize = MIB;
/// As the standard names the subject.
pub(super) const JWT_USER_CLAIM: &str = "sub";
/// As most issuers name them.
pub(super) const JWT_GROUPS_CLAIM: &str = "groups";
/// How far the clocks of this machine and of who issues tokens may be apart.
pub(super) const JWT_LEEWAY: Duration = Duration::from_secs(30);
/// How long a service that says who may connect may take.
pub(super) const HTTP_TIMEOUT: Duration = Duration::from_secs(5);
/// Questions to it at once.
pub(super) const HTTP_REQUESTS: usize = 64;
