//! `[limits]`

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::config::defaults;
use crate::config::key::{DAY, Key, NEVER_MS, SECOND, about};
use crate::config::table::{At, Reader, Shown, Table, Value, below, key_about, key_name, show_key, table};
use crate::config::units::Bytes;
use crate::config::value::Expiry;

const TEN_MILLION: u64 = 10_000_000;
const MANY: u64 = u32::MAX as u64;
/// More than a machine has.
const MUCH: u64 = 1 << 40;

table!(
    /// `[limits]`
    RawLimits {
        /// Connections at once, all listeners together. One with TLS needs about 16 KB.
        max_connections: u64 = about().within(1..=TEN_MILLION).is(defaults::MAX_CONNECTIONS),
        /// Connections at once on each listener that have not finished TLS handshake and CONNECT; at most max_connections. When
        /// there is no room, the oldest of the address that has the most of them is closed.
        max_handshakes: u64 = about().within(1..=TEN_MILLION).is(defaults::MAX_HANDSHAKES),
        /// The same with one address (a /64 of IPv6); at most max_handshakes, which is the default: many devices may come through one
        /// router. One that has them all makes room among its own; what comes faster than one a second for each is closed.
        max_handshakes_per_address: u64 = about().within(1..=TEN_MILLION).otherwise("limits.max_handshakes"),
        /// Log-ins at once, all listeners together, that wait for a password's check or a service's answer. Those beyond wait as
        /// handshakes, and may have to make room for others as these have.
        max_log_ins: u64 = about().within(1..=TEN_MILLION).is(defaults::MAX_LOG_INS),
        /// From accept until a complete CONNECT, TLS handshake included; 100ms to 1h.
        connect_timeout: Duration = about().within(100..=3_600 * SECOND).is(defaults::CONNECT_TIMEOUT),
        /// From accept until the first byte, TLS included; 100ms to 1h. A socket that says nothing is not kept for longer.
        first_byte_timeout: Duration = about().within(100..=3_600 * SECOND).is(defaults::FIRST_BYTE_TIMEOUT),
        /// From the first byte of a packet until its last, 1s to 1d: bytes that trickle in keep no connection open. While the broker
        /// itself does not read (a rate, no room) the time does not run, and no more does that of a keep alive.
        packet_timeout: Duration = about().within(SECOND..=DAY).is(defaults::PACKET_TIMEOUT),
        /// Levels of one session's filters from their first "+" on, counted together (a/+/c/d has 3): what its subscriptions can
        /// cost each publication.
        max_wildcard_levels_per_client: u64 = about().within(1..=MANY).is(defaults::MAX_WILDCARD_LEVELS_PER_CLIENT),
        /// The largest packet accepted, 128B to 256 MiB; MQTT 5 clients are told.
        max_packet_size: Bytes = about().within(128..=268_435_460).is(defaults::MAX_PACKET_SIZE),
        /// Bytes of a client identifier, 23 to 65535.
        max_client_id_len: u64 = about().within(23..=65_535).is(defaults::MAX_CLIENT_ID_LEN),
        /// Levels of a topic name or filter (a/b/c has 3).
        max_topic_levels: u64 = about().within(1..=65_535).is(defaults::MAX_TOPIC_LEVELS),
        /// Subscriptions of one session.
        max_subscriptions_per_client: u64 = about().within(1..=MANY).is(defaults::MAX_SUBSCRIPTIONS_PER_CLIENT),
        /// Topic filters in one SUBSCRIBE or UNSUBSCRIBE.
        max_filters_per_packet: u64 = about().within(1..=MANY).is(defaults::MAX_FILTERS_PER_PACKET),
        /// User properties in one packet.
        max_user_properties: u64 = about().within(1..=MANY).is(defaults::MAX_USER_PROPERTIES),
        /// QoS 1 and 2 messages that one client may have unacknowledged towards the broker, 1 to 65535; MQTT 5 clients are told.
        receive_maximum: u64 = about().within(1..=65_535).is(defaults::RECEIVE_MAXIMUM),
        /// QoS 1 and 2 messages that the broker has unacknowledged towards one client, up to 65535; 0 for as many as the client
        /// itself allows.
        max_inflight: u64 = about().within(0..=65_535).is(defaults::MAX_INFLIGHT),
        /// Topic aliases that one client may use towards the broker; 0 for none.
        topic_alias_maximum: u64 = about().within(0..=65_535).is(defaults::TOPIC_ALIAS_MAXIMUM),
        /// Topic aliases that the broker uses towards one client, within what the client allows; 0 for none.
        outbound_topic_alias_maximum: u64 = about().within(0..=65_535).is(defaults::OUTBOUND_TOPIC_ALIAS_MAXIMUM),
        /// The longest keep alive of an MQTT 5 client; one that asks for more, or for none, is told to use this. In whole
        /// seconds, at most 65535s; "0s" leaves it to the client. MQTT 3.1.1 cannot be told: there the system probes a connection
        /// that has been silent for so long (TCP keepalive), and ends it when nobody answers.
        max_keep_alive: Duration = about().within(0..=65_535 * SECOND).whole_seconds().is(defaults::MAX_KEEP_ALIVE),
        /// How long the session of an MQTT 5 client outlives its connection at most, in whole seconds, or "never" for no limit;
        /// a client that asks for more is told.
        max_session_expiry: Expiry = about().within(0..=NEVER_MS).whole_seconds().is(defaults::MAX_SESSION_EXPIRY),
        /// The same for MQTT 3.1 and 3.1.1 clients that connect with clean session 0, which cannot say it themselves. At most
        /// max_session_expiry.
        session_expiry_v3: Expiry = about().within(0..=NEVER_MS).whole_seconds().is(defaults::SESSION_EXPIRY_V3),
        /// Data waiting for one slow socket before QoS 0 messages to it are dropped (and counted; one WARN until it has taken
        /// everything), 1KiB to 1GiB. A message is let in whenever less was waiting before it, however large it is. Retained messages
        /// of a new subscription are not dropped: they come as there is room.
        outbound_buffer: Bytes = about().within(1 << 10..=1 << 30).is(defaults::OUTBOUND_BUFFER),
        /// Retained messages; all are in memory. The broker's own (`$SYS`) do not count.
        max_retained_messages: u64 = about().within(1..=MANY).is(defaults::MAX_RETAINED_MESSAGES),
        /// Their size together (topics, properties, payloads).
        max_retained_bytes: Bytes = about().within(1 << 10..=MUCH).is(defaults::MAX_RETAINED_BYTES),
        /// Origins (devices that number what they publish: `$once/<origin>/<epoch>.<seq>/<topic>`) whose repetitions are known as
        /// such. Each takes about 400 bytes of memory; beyond this, the one that was silent longest is forgotten.
        max_origins: u64 = about().within(1..=MANY).is(defaults::MAX_ORIGINS),
        /// Schedules (retained messages on `$schedule/<name>`). Each is looked at four times a second.
        max_schedules: u64 = about().within(1..=10_000).is(defaults::MAX_SCHEDULES),
        /// Messages that wait for their time (`$delayed/<seconds>/<topic>`), all together; 0 for none. They are on disk.
        max_delayed_messages: u64 = about().within(0..=MANY).is(defaults::MAX_DELAYED_MESSAGES),
        /// Their size together (topics, properties, payloads).
        max_delayed_bytes: Bytes = about().within(0..=MUCH).is(defaults::MAX_DELAYED_BYTES),
        /// Messages of one session that are kept in memory; the rest of its queue is on disk only.
        memory_messages: u64 = about().within(1..=MANY).is(defaults::MEMORY_MESSAGES),
        /// Their size together.
        memory_bytes: Bytes = about().within(1 << 10..=MUCH).is(defaults::MEMORY_BYTES),
        /// Lines of the log in one second, errors apart: what is more is left out, and how much is said. A stranger who connects
        /// as fast as it goes does not fill the disk with the log. Refused log-ins have as many of their own, for fail2ban.
        log_lines_per_s: u64 = about().within(1..=MANY).is(defaults::LOG_LINES_PER_S),
        /// What the whole program may take, at least 16MiB: queues in memory, buffers, sessions, subscriptions, retained messages,
        /// everything. From 80 % of it on the pressure is "high"; from 95 % on what would add to it is refused (new clients 0x89,
        /// messages that would wait, subscriptions and retained messages 0x97), and what exists goes on. Default: half of what the
        /// machine, or the container, has.
        memory: Bytes = about().within(16 << 20..=MUCH).otherwise("half of what the machine, or the container, has"),
        /// Sessions, connected or not.
        max_sessions: u64 = about().reload().within(1..=MANY).is(defaults::MAX_SESSIONS),
        /// Wills of all sessions together (topics, properties, payloads).
        max_will_bytes: Bytes = about().reload().within(1 << 10..=MUCH).is(defaults::MAX_WILL_BYTES),
        /// Subscriptions of all sessions together.
        max_subscriptions: u64 = about().reload().within(1..=MANY).is(defaults::MAX_SUBSCRIPTIONS),
        /// Distinct beginnings of all filters (a/b and a/c have three: a, a/b, a/c): what their tree takes.
        max_filter_levels: u64 = about().reload().within(1..=MANY).is(defaults::MAX_FILTER_LEVELS),
        /// The same of the topics of retained messages.
        max_retained_levels: u64 = about().within(1..=MANY).is(defaults::MAX_RETAINED_LEVELS),
    }
);
