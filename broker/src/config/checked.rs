//! The configuration after all checks: the only one that the rest of the broker sees.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::defaults;

/// An expiry that never comes: `0xFFFFFFFF` seconds on the wire [MQTT5-3.1.2.11.2]. No checked duration is longer.
pub const NEVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Everything that the broker was told, complete and consistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The folder of the store and of development certificates.
    pub data_dir: PathBuf,
    /// Where to listen; at least one, no two on one address.
    pub listeners: Vec<Listener>,
    /// Worker threads that own connections.
    pub workers: NonZeroUsize,
    /// What goes to the log.
    pub log: LogLevel,
    /// Limits of connections, packets, sessions and memory.
    pub limits: Limits,
    /// Limits of each session's queue.
    pub queue: QueueLimits,
    /// Durability by topic filter; the first that matches wins, and wins over the listener's.
    pub durability: Vec<DurabilityRule>,
    /// The store.
    pub store: StoreConfig,
    /// Another broker, named to MQTT 5 clients when this one shuts down [MQTT5-4.13].
    pub server_reference: Option<String>,
    /// Time between two publications of `$SYS` topics; zero for none.
    pub sys_interval: Duration,
    /// How long a shutdown waits for what was sent to leave the sockets and for the last commit.
    pub shutdown_grace: Duration,
}

/// One address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// As it was written, for messages: `mqtts://0.0.0.0:8883`.
    pub url: String,
    /// The address.
    pub addr: SocketAddr,
    /// Present for `mqtts`.
    pub tls: Option<Tls>,
    /// When a publish on this listener is acknowledged, unless a [`DurabilityRule`] matches its topic.
    pub durability: Durability,
    /// Connections at once on this listener; at most [`Limits::max_connections`].
    pub max_connections: usize,
    /// Rate of each of its connections; `None` for no limit. Past it the socket is read later.
    pub rate: Option<Rate>,
}

/// Where a TLS listener's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// The user's files.
    Files(TlsFiles),
    /// Made by the program under the data directory, for this machine only.
    Development,
}

/// A user's certificate and key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, the server's own first.
    pub certificate: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// The rate of one connection, inbound. At least one of the two is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// PUBLISH packets a second, at least 1.
    pub messages_per_s: Option<u64>,
    /// Bytes a second, at least 1.
    pub bytes_per_s: Option<u64>,
}

/// When a publish counts as safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Acknowledged after the commit, or after all its targets acknowledged it.
    Commit,
    /// Acknowledged at once; committed at least this often. A power cut loses at most this much time.
    Interval(Duration),
    /// Acknowledged at once and never written. A restart loses it.
    Memory,
}

/// Durability of the topics that match a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurabilityRule {
    /// A valid topic filter, not a shared subscription.
    pub filter: String,
    /// What holds for it.
    pub durability: Durability,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What the operator must act on.
    Error,
    /// What the operator should know.
    Warn,
    /// Start, stop and what happens rarely.
    Info,
    /// Every connection.
    Debug,
    /// Every packet.
    Trace,
}

/// Limits that keep one client from costing the others. None is zero unless its text says what zero means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, all listeners together.
    pub max_connections: usize,
    /// Connections at once that have not finished TLS handshake and CONNECT.
    pub max_handshakes: usize,
    /// From accept until a complete CONNECT, TLS handshake included.
    pub connect_timeout: Duration,
    /// Bytes of the largest packet accepted, fixed header included; announced to MQTT 5 clients [MQTT5-3.2.2.3.6].
    pub max_packet_size: u32,
    /// Bytes of a client identifier; at least 23 [MQTT5-3.1.3-5].
    pub max_client_id_len: usize,
    /// Levels of a topic name or filter.
    pub max_topic_levels: usize,
    /// Subscriptions of one session.
    pub max_subscriptions_per_client: usize,
    /// Filters in one SUBSCRIBE or UNSUBSCRIBE.
    pub max_filters_per_packet: usize,
    /// User properties in one packet.
    pub max_user_properties: usize,
    /// QoS 1 and 2 messages that a client may have unacknowledged towards the broker; announced [MQTT5-3.2.2.3.3].
    pub receive_maximum: u16,
    /// QoS 1 and 2 messages that the broker has unacknowledged towards one client; 0 for the client's own Receive
    /// Maximum only.
    pub max_inflight: u16,
    /// Topic aliases that a client may use towards the broker; 0 for none [MQTT5-3.2.2.3.8].
    pub topic_alias_maximum: u16,
    /// Topic aliases that the broker uses towards one client, within what the client allows; 0 for none.
    pub outbound_topic_alias_maximum: u16,
    /// The longest keep alive of an MQTT 5 client; a longer one (or none) is answered with this as Server Keep
    /// Alive [MQTT5-3.2.2-21]. Zero lets the client choose. At most 65,535 s.
    pub max_keep_alive: Duration,
    /// The longest session expiry interval; a longer one is answered with this [MQTT5-3.2.2.3.2]. [`NEVER`] for no
    /// limit; zero keeps no session over a disconnection.
    pub max_session_expiry: Duration,
    /// Session expiry of MQTT 3.1 and 3.1.1 clients that connect with clean session 0. [`NEVER`] for none.
    pub session_expiry_v3: Duration,
    /// Bytes encoded for one slow socket before QoS 0 messages to it are dropped (and counted).
    pub outbound_buffer: usize,
    /// Retained messages.
    pub max_retained_messages: usize,
    /// Bytes of all retained messages (topic, properties, payload).
    pub max_retained_bytes: usize,
    /// Messages of one session kept in memory before its tail is only on disk.
    pub memory_messages: usize,
    /// Bytes of one session's messages kept in memory before its tail is only on disk.
    pub memory_bytes: usize,
}

/// Limits of each session's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Messages waiting; at least 1.
    pub max_messages: u64,
    /// Bytes of them (topic, properties, payload); at least 1.
    pub max_bytes: u64,
    /// How long a message may wait whatever its own expiry; `None` for as long as it takes.
    pub max_age: Option<Duration>,
    /// What happens when the queue is full.
    pub policy: QueuePolicy,
    /// Whether QoS 0 messages are queued for a session that is away. They are counted as dropped otherwise.
    pub queue_qos0: bool,
}

/// What a full queue does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueuePolicy {
    /// The publisher is refused with 0x97 (MQTT 5), or its ack is withheld until there is room.
    Reject,
    /// The oldest messages make room.
    DropOldest,
    /// The new message is dropped and counted.
    DropNewest,
    /// One message is kept for each topic, always, also when the queue is not full; then as `DropOldest`.
    KeepLast,
}

/// The store's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Bytes of the store's page cache.
    pub cache_bytes: usize,
    /// Bytes that the store's file may grow to; `None` for what the disk has.
    pub max_bytes: Option<u64>,
    /// Free bytes that are left to others on the disk; with less, durable messages are refused.
    pub min_free_bytes: u64,
    /// How long a commit may wait for acks that make it needless; zero for not at all.
    pub commit_wait: Duration,
}

impl Config {
    /// What holds without a configuration file: MQTT on 127.0.0.1:1883, TLS on 127.0.0.1:8883 with a development
    /// certificate, and the default limits.
    #[must_use]
    pub fn built_in(data_dir: PathBuf) -> Self {
        let limits = Limits::default();
        Self {
            data_dir,
            listeners: Self::built_in_listeners(&limits),
            workers: defaults::workers(),
            log: LogLevel::Info,
            limits,
            queue: QueueLimits::default(),
            durability: Vec::new(),
            store: StoreConfig::default(),
            server_reference: None,
            sys_interval: defaults::SYS_INTERVAL,
            shutdown_grace: defaults::SHUTDOWN_GRACE,
        }
    }

    pub(super) fn built_in_listeners(limits: &Limits) -> Vec<Listener> {
        let listener = |url: &str, port: u16, tls: Option<Tls>| Listener {
            url: url.to_owned(),
            addr: SocketAddr::from(([127, 0, 0, 1], port)),
            tls,
            durability: Durability::Commit,
            max_connections: limits.max_connections,
            rate: None,
        };
        vec![listener(defaults::LISTEN_TCP, 1883, None), listener(defaults::LISTEN_TLS, 8883, Some(Tls::Development))]
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: defaults::MAX_CONNECTIONS,
            max_handshakes: defaults::MAX_HANDSHAKES,
            connect_timeout: defaults::CONNECT_TIMEOUT,
            max_packet_size: defaults::MAX_PACKET_SIZE,
            max_client_id_len: defaults::MAX_CLIENT_ID_LEN,
            max_topic_levels: defaults::MAX_TOPIC_LEVELS,
            max_subscriptions_per_client: defaults::MAX_SUBSCRIPTIONS_PER_CLIENT,
            max_filters_per_packet: defaults::MAX_FILTERS_PER_PACKET,
            max_user_properties: defaults::MAX_USER_PROPERTIES,
            receive_maximum: defaults::RECEIVE_MAXIMUM,
            max_inflight: defaults::MAX_INFLIGHT,
            topic_alias_maximum: defaults::TOPIC_ALIAS_MAXIMUM,
            outbound_topic_alias_maximum: defaults::OUTBOUND_TOPIC_ALIAS_MAXIMUM,
            max_keep_alive: defaults::MAX_KEEP_ALIVE,
            max_session_expiry: defaults::MAX_SESSION_EXPIRY,
            session_expiry_v3: defaults::SESSION_EXPIRY_V3,
            outbound_buffer: defaults::OUTBOUND_BUFFER,
            max_retained_messages: defaults::MAX_RETAINED_MESSAGES,
            max_retained_bytes: defaults::MAX_RETAINED_BYTES,
            memory_messages: defaults::MEMORY_MESSAGES,
            memory_bytes: defaults::MEMORY_BYTES,
        }
    }
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            max_messages: defaults::QUEUE_MAX_MESSAGES,
            max_bytes: defaults::QUEUE_MAX_BYTES,
            max_age: None,
            policy: QueuePolicy::Reject,
            queue_qos0: false,
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            cache_bytes: defaults::STORE_CACHE_BYTES,
            max_bytes: None,
            min_free_bytes: defaults::STORE_MIN_FREE_BYTES,
            commit_wait: defaults::STORE_COMMIT_WAIT,
        }
    }
}
