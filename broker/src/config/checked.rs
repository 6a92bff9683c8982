//! The configuration after all checks: the only one that the rest of the broker sees.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::address::Place;
use super::defaults;
use super::listener::{Listener, Tls, TlsFiles};
use crate::bridge::calendar::Calendar;
use crate::bridge::template::Rule;
use crate::queue::KeyOf;
use crate::queue::members::Share;
use crate::queue::{Priorities, Reasons, Why};
use crate::store::redb::StoreOptions;

/// An expiry that never comes: `0xFFFFFFFF` seconds on the wire [MQTT5-3.1.2.11.2]. No checked duration is longer.
pub const NEVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Everything that the broker was told, complete and consistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The folder of the store and of development certificates.
    pub data_dir: PathBuf,
    /// Where to listen; at least one, no two on one address.
    pub listeners: Vec<Listener>,
    /// Who may connect, and what they may do.
    pub access: AccessConfig,
    /// Worker threads that own connections.
    pub workers: NonZeroUsize,
    /// What goes to the log.
    pub log: LogLevel,
    /// How a line of the log looks.
    pub log_format: LogFormat,
    /// Limits of connections, packets, sessions and memory.
    pub limits: Limits,
    /// Limits of each session's queue.
    pub queue: QueueLimits,
    /// Durability by topic filter; the first that matches wins, and wins over the listener's.
    pub durability: Vec<DurabilityRule>,
    /// The store.
    pub store: StoreConfig,
    /// Queues that exist without subscribers; no two of one name, and none of a bridge's.
    pub queues: Vec<Queue>,
    /// What is kept of the messages that sessions' queues give up; no two of one name, and none of a queue's or bridge's.
    pub dead_letters: Vec<DeadLetterRule>,
    /// Streams; no two of one name.
    pub streams: Vec<Stream>,
    /// What becomes of messages beside what their publishers want; no two of one name.
    pub rules: Vec<crate::rules::Rule>,
    /// Ways upstream; no two of one name.
    pub bridges: Vec<Bridge>,
    /// How operators reach the broker.
    pub admin: AdminConfig,
    /// Another broker, named to MQTT 5 clients when this one shuts down [MQTT5-4.13].
    pub server_reference: Option<String>,
    /// Time between two publications of `$SYS` topics; zero for none.
    pub sys_interval: Duration,
    /// How long a shutdown waits for what was sent to leave the sockets and for the last commit.
    pub shutdown_grace: Duration,
}

/// Who may connect, and what they may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessConfig {
    /// Who says who a client is, in this order. Without any, user names are believed.
    pub sources: Vec<Source>,
    /// Tokens.
    pub jwt: Option<JwtConfig>,
    /// A service that is asked.
    pub http: Option<HttpConfig>,
    /// Users, groups and roles may be made while the broker runs.
    pub dynamic_security: bool,
    /// A file of mosquitto's dynamic security, taken over when the store has none of it.
    pub dynamic_security_import: Option<PathBuf>,
    /// The ACLs of listeners that have their own.
    pub listener_acl_files: Vec<PathBuf>,
    /// Users and the hashes of their passwords.
    pub password_file: Option<PathBuf>,
    /// What users may do: in TOML where the name ends with `.toml`, else in mosquitto's syntax; everything without one.
    pub acl_file: Option<PathBuf>,
    /// What an MQTT 3.1.1 client gets for a PUBLISH that it may not make; an MQTT 5 client is told.
    pub denied_publish: DeniedPublish,
    /// Wrong passwords from one address within the window, after which it is banned.
    pub max_failures: u32,
    /// How long a wrong password counts.
    pub failure_window: Duration,
    /// How long a ban lasts.
    pub ban: Duration,
    /// Passwords that are checked at once.
    pub max_hashing: usize,
    /// Bytes for what clients did lately; 0 for none.
    pub recent_memory: usize,
    /// It is kept of clients without rules as well.
    pub learn: bool,
}

/// Who says who a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The password file.
    Password,
    /// A token as password, or by enhanced authentication.
    Jwt,
    /// Users that are made while the broker runs.
    Dynamic,
    /// A service that is asked over HTTP.
    Http,
}

/// Which tokens count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtConfig {
    /// Public keys: PEM or JWKS. At least one of the two files is set.
    pub key_file: Option<PathBuf>,
    /// A shared secret for HS256.
    pub secret_file: Option<PathBuf>,
    /// Who must have issued them.
    pub issuer: Option<String>,
    /// Whom they must be for.
    pub audience: Option<String>,
    /// The claim that is the user name.
    pub user_claim: String,
    /// The claim that must be the client identifier.
    pub client_id_claim: Option<String>,
    /// The claim that lists groups.
    pub groups_claim: String,
    /// How far the clocks may be apart.
    pub leeway: Duration,
    /// Tokens without an expiry do not count.
    pub require_expiry: bool,
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            key_file: None,
            secret_file: None,
            issuer: None,
            audience: None,
            user_claim: defaults::JWT_USER_CLAIM.to_owned(),
            client_id_claim: None,
            groups_claim: defaults::JWT_GROUPS_CLAIM.to_owned(),
            leeway: defaults::JWT_LEEWAY,
            require_expiry: true,
        }
    }
}

/// A service that says over HTTP who may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// `http://` or `https://`, a host, perhaps a port, a path.
    pub url: String,
    /// How it is asked.
    pub format: HttpFormat,
    /// Whom to trust for `https`.
    pub ca_file: Option<PathBuf>,
    /// A token that the service asks for, sent as `Authorization: Bearer`.
    pub token_file: Option<PathBuf>,
    /// How long one answer may take.
    pub timeout: Duration,
    /// Questions at once.
    pub max_requests: usize,
    /// How old an answer may be that is taken when the service fails; zero for none.
    pub last_answer: Duration,
}

/// How the service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpFormat {
    /// JSON.
    Json,
    /// As a form of a web page.
    Form,
}

/// What becomes of a PUBLISH that its MQTT 3.1.1 client may not make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedPublish {
    /// It is acknowledged and not delivered.
    Discard,
    /// The connection is closed.
    Disconnect,
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            jwt: None,
            http: None,
            dynamic_security: false,
            dynamic_security_import: None,
            listener_acl_files: Vec::new(),
            password_file: None,
            acl_file: None,
            denied_publish: DeniedPublish::Discard,
            max_failures: defaults::MAX_FAILURES,
            failure_window: defaults::FAILURE_WINDOW,
            ban: defaults::BAN,
            max_hashing: defaults::MAX_HASHING,
            recent_memory: defaults::RECENT_MEMORY,
            learn: false,
        }
    }
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

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// As the journal of systemd takes it where that is what reads it, else text.
    Auto,
    /// For people.
    Text,
    /// An object a line.
    Json,
    /// The priority in front, without the time.
    Journald,
}

impl LogFormat {
    /// As they are written in a configuration.
    pub const WORDS: &[(&str, Self)] =
        &[("auto", Self::Auto), ("text", Self::Text), ("json", Self::Json), ("journald", Self::Journald)];
}

/// Limits that keep one client from costing the others. None is zero unless its text says what zero means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, all listeners together.
    pub max_connections: usize,
    /// Connections at once on each listener that have not finished TLS handshake and CONNECT.
    pub max_handshakes: usize,
    /// The same with one address; at most [`Limits::max_handshakes`].
    pub max_handshakes_per_address: usize,
    /// Log-ins at once, all listeners together.
    pub max_log_ins: usize,
    /// From accept until a complete CONNECT, TLS handshake included.
    pub connect_timeout: Duration,
    /// From accept until the first byte; at most [`Limits::connect_timeout`].
    pub first_byte_timeout: Duration,
    /// From the first byte of a packet until its last.
    pub packet_timeout: Duration,
    /// Levels of one session's filters from their first `+` on, all together: what they cost each publication at most.
    pub max_wildcard_levels_per_client: usize,
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
    /// Origins whose publications are told apart from repetitions; beyond, the one that was silent longest is forgotten.
    pub max_origins: usize,
    /// Schedules.
    pub max_schedules: usize,
    /// Messages that wait for their time.
    pub max_delayed_messages: u64,
    /// Bytes of all messages that wait for their time (topic, properties, payload).
    pub max_delayed_bytes: u64,
    /// Messages of one session kept in memory before its tail is only on disk.
    pub memory_messages: usize,
    /// Bytes of one session's messages kept in memory before its tail is only on disk.
    pub memory_bytes: usize,
    /// Lines of the log in one second; those of level `error` do not count. What is more is left out, and counted.
    pub log_lines_per_s: u64,
    /// Bytes that the whole program may take; `None` for half of what the machine has.
    pub memory: Option<usize>,
    /// Sessions, connected or not.
    pub max_sessions: usize,
    /// Bytes of all wills (topic, properties, payload).
    pub max_will_bytes: usize,
    /// Subscriptions of all sessions.
    pub max_subscriptions: usize,
    /// Distinct beginnings of all filters: what the tree of subscriptions takes.
    pub max_filter_levels: usize,
    /// Distinct beginnings of the topics of all retained messages: what their tree takes.
    pub max_retained_levels: usize,
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
    /// How long the full queue of a session that outlives its connection may hold publishers up; `None` for ever.
    pub stall_limit: Option<Duration>,
    /// The same for a session that ends with its connection.
    pub stall_limit_transient: Option<Duration>,
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
    /// How long a commit waits for more to come, whoever waits for it; zero for not at all.
    pub commit_gather: Duration,
    /// Bytes that the device may be written in a year; `None` for as many as it takes.
    pub wear: Option<u64>,
    /// Bytes of the journal; 0 for none.
    pub journal_bytes: u64,
}

impl StoreConfig {
    /// What the store is opened with.
    #[must_use]
    pub fn options(&self) -> StoreOptions {
        StoreOptions {
            cache_bytes: self.cache_bytes,
            min_free_bytes: self.min_free_bytes,
            max_bytes: self.max_bytes.unwrap_or(u64::MAX),
            journal_bytes: self.journal_bytes,
        }
    }
}

/// How operators reach the broker: metrics, health, the API. Nothing is open unless it is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminConfig {
    /// Where HTTP is served; beyond this machine only with a token.
    pub http: Option<SocketAddr>,
    /// Where the API is served to `forebay ctl`, for the broker's own user.
    pub socket: Option<PathBuf>,
    /// The file of the token that HTTP asks for.
    pub token_file: Option<PathBuf>,
}

/// A stream: messages that are kept and read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Letters, digits, `-` and `_`.
    pub name: String,
    /// The topics whose messages it keeps.
    pub filter: String,
    /// Messages that it keeps.
    pub max_messages: u64,
    /// Bytes of them.
    pub max_bytes: u64,
    /// How long it keeps one; `None` for as long as there is room.
    pub max_age: Option<Duration>,
}

/// A declared queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Letters, digits, `-` and `_`.
    pub name: String,
    /// The topics whose messages it keeps.
    pub filter: String,
    /// Its limits and its policy.
    pub limits: QueueLimits,
    /// A newer message replaces an older one with which it has this in common; `None`: none does.
    pub keep_last_by: Option<KeyOf>,
    /// Messages that have this in common are in order, one of them with a member at a time; `None`: there is no order.
    pub order_by: Option<KeyOf>,
    /// One member has all; the others stand by.
    pub exclusive: bool,
    /// How members take their share.
    pub share: Share,
    /// How long a member may hold a message; `None` for ever.
    pub ack_timeout: Option<Duration>,
    /// How often a message is given to a member.
    pub max_deliveries: u32,
    /// How long a message is set aside when it is refused for the first time; doubled each time.
    pub backoff: Duration,
    /// The longest such time.
    pub backoff_max: Duration,
    /// Messages that are with members or set aside, at most.
    pub window: u16,
    /// Which messages are given first.
    pub priorities: Priorities,
    /// Each so-manieth message is of a lower level; `None`: none while there is one of a higher.
    pub lower_each: Option<u64>,
    /// What becomes a dead letter; the rest is dropped and counted.
    pub dead_letters: Reasons,
    /// Dead letters that are kept.
    pub max_dead_letters: u64,
}

/// What is kept of the messages that sessions' queues give up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterRule {
    /// Letters, digits, `-` and `_`.
    pub name: String,
    /// The topics whose messages are kept.
    pub filter: String,
    /// Of whose sessions: a client identifier in which `*` is any text.
    pub clients: String,
    /// Which of them.
    pub reasons: Reasons,
    /// Messages that are kept.
    pub max_messages: u64,
    /// Bytes of them.
    pub max_bytes: u64,
    /// How long one is kept; `None` for as long as there is room.
    pub max_age: Option<Duration>,
}

impl Queue {
    /// Dead letters that their readers may hold at once.
    pub const DEAD_WINDOW: u16 = defaults::QUEUE_WINDOW;
}

impl DeadLetterRule {
    /// Whether it is for a session of this client, and a message with this topic that was given up for this reason.
    #[must_use]
    pub fn keeps(&self, client_id: &str, topic: &str, why: Why) -> bool {
        self.reasons.has(why)
            && super::listener::fits(&self.clients, client_id)
            && forebay_wire::topic::matches(&self.filter, topic)
    }
}

/// A way to an upstream broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Letters, digits, `-` and `_`.
    pub name: String,
    /// Addresses with the same sessions; at least one.
    pub urls: Vec<String>,
    /// MQTT 5; otherwise 3.1.1.
    pub mqtt5: bool,
    /// `None`: made from the gateway's own name and the bridge's.
    pub client_id: Option<String>,
    /// User name.
    pub username: Option<String>,
    /// The file of the password.
    pub password_file: Option<PathBuf>,
    /// NATS: the file of the user's JWT and of the seed of its key.
    pub credentials_file: Option<PathBuf>,
    /// Whom to trust; `None` for the platform's roots.
    pub ca_file: Option<PathBuf>,
    /// The certificate that this side shows.
    pub identity: Option<TlsFiles>,
    /// How long the connection may be silent.
    pub keep_alive: Duration,
    /// QoS 2 messages arrive once, whoever is killed. Every rule has QoS 2.
    pub exactly_once: bool,
    /// How batches are compressed, where the upstream has such.
    pub compression: Compression,
    /// Kafka: how the user name and the password are shown.
    pub sasl: Sasl,
    /// Kafka: the topic whose offsets say how far it has come, where the delivery is exactly-once.
    pub progress_topic: String,
    /// Messages in flight, 1 to 1,000.
    pub window: u16,
    /// Without a confirmation for this long the bridge counts as blocked.
    pub stalled_after: Duration,
    /// How quickly it sends; `None` for as quickly as the upstream takes it.
    pub rate: Option<Rate>,
    /// The time of the day at which a backlog is to be gone, in milliseconds since midnight.
    pub drain_by_ms: Option<u64>,
    /// Bytes that it may send in a day.
    pub bytes_per_day: Option<u64>,
    /// When days begin, and what time it is.
    pub calendar: Calendar,
    /// Limits of its queue.
    pub queue: QueueLimits,
    /// Dead letters that are kept.
    pub dead_letters: u64,
    /// What becomes of messages whose topic there is missing, or not allowed.
    pub refused_topic: RefusedTopic,
    /// What goes up. At least one of `outs` and `ins` is not empty.
    pub outs: Vec<Rule>,
    /// What comes down.
    pub ins: Vec<Rule>,
}

/// What becomes of a message whose topic the upstream says it does not have, or does not let the bridge write to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RefusedTopic {
    /// It waits, and so does what is behind it.
    #[default]
    Wait,
    /// It becomes a dead letter when that has lasted.
    DeadLetter,
}

/// How an upstream's batches are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Small, and costs the most.
    Gzip,
    /// Quick.
    Snappy,
    /// Quick.
    Lz4,
}

impl RefusedTopic {
    /// As they are written in a configuration.
    pub const WORDS: &[(&str, Self)] = &[("wait", Self::Wait), ("dead-letter", Self::DeadLetter)];
}

impl Compression {
    /// As they are written in a configuration.
    pub const WORDS: &[(&str, Self)] =
        &[("none", Self::None), ("gzip", Self::Gzip), ("snappy", Self::Snappy), ("lz4", Self::Lz4)];
}

/// How Kafka is shown a user name and a password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sasl {
    /// The password itself.
    Plain,
    /// That the password is known, by SHA-256.
    ScramSha256,
    /// That the password is known, by SHA-512.
    #[default]
    ScramSha512,
}

impl Sasl {
    /// As they are written in a configuration.
    pub const WORDS: &[(&str, Self)] =
        &[("plain", Self::Plain), ("scram-sha-256", Self::ScramSha256), ("scram-sha-512", Self::ScramSha512)];
}

impl Queue {
    /// Who may consume, as it is written; whether one has all.
    pub(super) const ACCESS: &[(&str, bool)] = &[("shared", false), ("exclusive", true)];
    /// How members take their share, as it is written.
    pub(super) const SHARES: &[(&str, Share)] =
        &[("round-robin", Share::RoundRobin), ("least-in-flight", Share::LeastInFlight)];
}

impl Bridge {
    /// Versions of MQTT, as they are written; whether it is MQTT 5.
    pub(super) const VERSIONS: &[(&str, bool)] = &[("5", true), ("3.1.1", false)];
    /// Deliveries, as they are written; whether it is exactly-once.
    pub(super) const DELIVERIES: &[(&str, bool)] = &[("at-least-once", false), ("exactly-once", true)];
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
            access: AccessConfig::default(),
            workers: defaults::workers(),
            log: LogLevel::Info,
            log_format: LogFormat::Auto,
            limits,
            queue: QueueLimits::default(),
            durability: Vec::new(),
            store: StoreConfig::default(),
            queues: Vec::new(),
            dead_letters: Vec::new(),
            streams: Vec::new(),
            rules: Vec::new(),
            bridges: Vec::new(),
            admin: AdminConfig::default(),
            server_reference: None,
            sys_interval: defaults::SYS_INTERVAL,
            shutdown_grace: defaults::SHUTDOWN_GRACE,
        }
    }

    pub(super) fn built_in_listeners(limits: &Limits) -> Vec<Listener> {
        let listener = |url: &str, port: u16, tls: Option<Tls>| {
            let place = Place::Addr(SocketAddr::from(([127, 0, 0, 1], port)));
            Listener { tls, ..Listener::new(url, place, limits.max_connections) }
        };
        vec![listener(defaults::LISTEN_TCP, 1883, None), listener(defaults::LISTEN_TLS, 8883, Some(Tls::Development))]
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: defaults::MAX_CONNECTIONS,
            max_handshakes: defaults::MAX_HANDSHAKES,
            max_handshakes_per_address: defaults::MAX_HANDSHAKES,
            max_log_ins: defaults::MAX_LOG_INS,
            connect_timeout: defaults::CONNECT_TIMEOUT,
            first_byte_timeout: defaults::FIRST_BYTE_TIMEOUT,
            packet_timeout: defaults::PACKET_TIMEOUT,
            max_wildcard_levels_per_client: defaults::MAX_WILDCARD_LEVELS_PER_CLIENT,
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
            max_origins: defaults::MAX_ORIGINS,
            max_schedules: defaults::MAX_SCHEDULES,
            max_delayed_messages: defaults::MAX_DELAYED_MESSAGES,
            max_delayed_bytes: defaults::MAX_DELAYED_BYTES,
            memory_messages: defaults::MEMORY_MESSAGES,
            memory_bytes: defaults::MEMORY_BYTES,
            log_lines_per_s: defaults::LOG_LINES_PER_S,
            memory: None,
            max_sessions: defaults::MAX_SESSIONS,
            max_will_bytes: defaults::MAX_WILL_BYTES,
            max_subscriptions: defaults::MAX_SUBSCRIPTIONS,
            max_filter_levels: defaults::MAX_FILTER_LEVELS,
            max_retained_levels: defaults::MAX_RETAINED_LEVELS,
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
            stall_limit: Some(defaults::STALL_LIMIT),
            stall_limit_transient: Some(defaults::STALL_LIMIT_TRANSIENT),
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
            commit_gather: Duration::ZERO,
            wear: None,
            journal_bytes: crate::store::redb::JOURNAL_BYTES,
        }
    }
}
