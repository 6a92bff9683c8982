//! `[[bridges]]`

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::{RawQueue, RawRate};
use crate::bridge::wrap::Wrapping;
use crate::config::checked::{Bridge, Compression, RefusedTopic, Sasl};
use crate::config::defaults;
use crate::config::key::{DAY, Key, SECOND, about};
use crate::config::table::{At, Reader, Shown, Table, Value, below, key_about, key_name, show_key, table};
use crate::config::units::Bytes;

/// Bytes of a day.
const MUCH: u64 = 1 << 40;

table!(
    /// `[[bridges]]`
    RawBridge {
        /// 1 to 64 letters, digits, - and _. In $SYS/broker/bridge/NAME/... and in the log.
        name: String = about().needed(),
        /// mqtt://, mqtts:// (TLS), ws:// or wss://; host and port.
        url: String,
        /// All addresses have the same sessions; they are tried in turn.
        urls: Vec<At<String>>,
        /// The MQTT version: "5" or "3.1.1". Only 5 carries properties, the origin of messages and the guard against loops.
        version: String = about().words(Bridge::VERSIONS).is("5"),
        /// The client identifier there. Default: made from the gateway's own name, drawn at its first start, and the bridge's.
        client_id: String,
        /// User name and the file of the password there. Default: none.
        username: String,
        /// Its last line break does not count. Without a user name it is a token, for MQTT 5, NATS and HTTP.
        password_file: String,
        /// NATS: the file with the user's JWT and the seed of its key, as nsc writes it; instead of a password. Default: none.
        credentials_file: String,
        /// The certificates that are trusted (PEM). Default: the platform's.
        ca_file: String,
        /// The certificate that this side shows (PEM), and its key. Default: none.
        certificate: String,
        /// The certificate's private key (PEM).
        key: String,
        /// How long the connection may be silent, at most 65535s; "0s" for ever.
        keep_alive: Duration = about().within(0..=65_535 * SECOND).whole_seconds().is(defaults::BRIDGE_KEEP_ALIVE),
        /// "at-least-once": a message leaves the queue when it is acknowledged there. "exactly-once": QoS 2, and an outbox on disk.
        delivery: String = about().words(Bridge::DELIVERIES).is("at-least-once"),
        /// Kafka: "none", "gzip", "snappy" or "lz4".
        compression: String = about().words(Compression::WORDS).is("none"),
        /// Kafka: how user name and password are shown: "plain", "scram-sha-256" or "scram-sha-512".
        sasl: String = about().words(Sasl::WORDS).is("scram-sha-512"),
        /// Kafka: a topic with one partition, whose offsets say how far the bridge has come. Only for exactly-once.
        progress_topic: String = about().is(defaults::BRIDGE_PROGRESS_TOPIC),
        /// Messages that are sent and not acknowledged, 1 to 1000.
        window: u64 = about().within(1..=1_000).is(defaults::BRIDGE_WINDOW),
        /// Without an acknowledgement for this long, while messages are in flight, the state is `blocked`. 1s to 24h.
        stalled_after: Duration = about().within(SECOND..=DAY).is(defaults::BRIDGE_STALLED_AFTER),
        /// How quickly it sends: messages_per_s, bytes_per_s or both. Default: as quickly as the upstream takes it.
        rate: RawRate = about().optional(),
        /// A backlog leaves at just the pace by which it is gone at this time of the day, never slower than what comes in. Default: as quickly as
        /// `rate` lets it.
        drain_by: String,
        /// Bytes that it may send in a day: topics, properties and payloads, repetitions too. When they are used up it waits for the next day.
        /// Default: as many as there are.
        bytes_per_day: Bytes = about().within(1..=MUCH),
        /// The offset from UTC of `drain_by` and of the midnight at which a day of `bytes_per_day` ends: "+02:00". It does not know summer
        /// time. Default: UTC.
        utc_offset: String,
        /// Limits of the queue; what is left out is as built in for [queue], here as there.
        queue: RawQueue = about().optional(),
        /// Messages that the upstream will never take: so many are kept in $dead/NAME/...; then the oldest make room.
        dead_letters: u64 = about().within(1..=1_000_000).is(defaults::BRIDGE_DEAD_LETTERS),
        /// MQTT 5, Kafka, RocketMQ, RabbitMQ, NATS, AMQP 1.0: what becomes of a message whose topic there is missing, or not allowed. "wait":
        /// until it is taken; the bridge is `blocked`. "dead-letter": dead letter, when that has lasted for 30 s.
        refused_topic: String = about().words(RefusedTopic::WORDS).is("wait"),
        /// What goes up: [[bridges.out]]. The first filter that matches holds.
        out: Vec<At<RawBridgeRule>>,
        /// What comes down, by a subscription there: [[bridges.in]].
        ins as "in": Vec<At<RawInwardRule>>,
    }
);

table!(
    /// `[[bridges.out]]`
    RawBridgeRule {
        /// What goes up. The first filter that matches holds.
        filter: String = about().needed(),
        /// Its topic there: {topic}, {topic/1} (a level), {topic/2..} (that level and the rest), {user.NAME}, {json.FIELD}, {bridge}.
        /// Default: the same.
        topic: String = about().is("{topic}"),
        /// Highest QoS, 0 to 2. Default: 1; 2 where the delivery is exactly-once.
        qos: u64 = about().within(0..=2).otherwise("1; 2 where the delivery is exactly-once"),
        /// RabbitMQ: the exchange, a template. Default: amq.topic.
        exchange: String,
        /// Kafka: messages of the same key stay in order, in one partition. RocketMQ: the message group. AMQP 1.0: the group.
        /// Default: none, spread over all.
        key: String,
        /// Kafka: the number of the partition. Default: made from the key.
        partition: String,
        /// RocketMQ: a tag, by which consumers choose. Default: none.
        tag: String,
        /// RocketMQ: whole seconds after which consumers see it, from when it is sent; not with a `key`. Default: at once.
        delay_s: String,
        /// "raw": the payload as it is. "json": in a JSON object, with topic, QoS, time, user properties, origin and number.
        /// "cloudevents": in a CloudEvent 1.0 (structured mode).
        payload: String = about().words(Wrapping::WORDS).is("raw"),
        /// The type of a CloudEvent, a template. Default: mqtt.message.
        event_type: String,
    }
);

table!(
    /// `[[bridges.in]]`
    RawInwardRule {
        /// What comes down: the topic filter of a subscription there.
        filter: String = about().needed(),
        /// Its topic here, as in [[bridges.out]]: {topic}, {topic/1}, {topic/2..}, {user.NAME}, {json.FIELD}, {bridge}. Default: the same.
        topic: String = about().is("{topic}"),
        /// Highest QoS, 0 to 2. Default: 1; 2 where the delivery is exactly-once.
        qos: u64 = about().within(0..=2).otherwise("1; 2 where the delivery is exactly-once"),
    }
);

impl From<RawInwardRule> for RawBridgeRule {
    fn from(RawInwardRule { filter, topic, qos }: RawInwardRule) -> Self {
        Self { filter, topic, qos, ..Self::default() }
    }
}
