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
/// Long enough for a handshake over a 2G modem that loses packets.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
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
/// Enough to keep a connection busy while the next page is read.
pub const MEMORY_MESSAGES: usize = 2_000;
/// A hundred sessions with full tails stay within 100 MB.
pub const MEMORY_BYTES: usize = MIB;
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
