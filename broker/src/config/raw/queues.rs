//! `[queue]`, `[[queues]]`, `[[dead_letters]]`, `[[streams]]`

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::config::checked::{NEVER, Queue, QueuePolicy};
use crate::config::defaults;
use crate::config::key::{DAY, Key, NEVER_MS, SECOND, about};
use crate::config::table::{At, Reader, Shown, Table, Value, below, key_about, key_name, show_key, table};
use crate::config::units::Bytes;
use crate::config::value::Expiry;
use crate::queue::{LEVELS_MAX, PRIORITY_MAX, Why};

table!(
    /// `[queue]`
    RawQueue {
        /// Messages waiting for one session.
        max_messages: u64 = about().within(1..=u64::MAX).is(defaults::QUEUE_MAX_MESSAGES),
        /// Their size together (topics, properties, payloads).
        max_bytes: Bytes = about().within(1..=u64::MAX).is(defaults::QUEUE_MAX_BYTES),
        /// How long a message may wait whatever its publisher says, at least 1s. Default: "never" too long.
        max_age: Expiry = about().within(SECOND..=NEVER_MS).is(NEVER),
        /// What a full queue does: "reject" (MQTT 5 publishers are refused with 0x97, others wait for their ack until there is
        /// room), "drop-oldest", "drop-newest" (both counted), "keep-last" (one message for each topic, always; when it is
        /// full as drop-oldest).
        policy: String = about().words(QueuePolicy::WORDS).is("reject"),
        /// How long a full queue may hold publishers up (policy "reject"): one client that was forgotten must not stop all devices
        /// for ever, nor one that takes a message now and then: the time ends when all that waited at its beginning has been taken, or
        /// half of the queue is empty. After that the queue of a session that outlives its connection drops its oldest messages, counted, named in the
        /// log and in $SYS/broker/stalled, until half of it is empty. "never" where a standstill is better than a loss.
        stall_limit: Expiry = about().within(SECOND..=NEVER_MS).is(defaults::STALL_LIMIT),
        /// The same for a session that ends with its connection, and would lose its queue with it: it is disconnected with 0x97.
        stall_limit_transient: Expiry = about().within(SECOND..=NEVER_MS).is(defaults::STALL_LIMIT_TRANSIENT),
        /// Whether QoS 0 messages are queued for a session that is away, and behind these until they are out.
        queue_qos0: bool = about().is(false),
    }
);

table!(
    /// `[[queues]]`
    RawQueues {
        /// 1 to 64 letters, digits, - and _. Consumers subscribe to $queue/NAME.
        name: String = about().needed(),
        /// The topics whose messages it keeps. Every message is stored once and goes to one consumer.
        filter: String = about().needed(),
        /// Limits and policy as in [queue]; a full queue with the policy "reject" holds publishers up for as long as it is full.
        max_messages: u64 = about().within(1..=u64::MAX).is(defaults::QUEUE_MAX_MESSAGES),
        /// Their size together.
        max_bytes: Bytes = about().within(1..=u64::MAX).is(defaults::QUEUE_MAX_BYTES),
        /// How long a message may wait. Default: "never" too long.
        max_age: Expiry = about().within(SECOND..=NEVER_MS).is(NEVER),
        /// "reject", "drop-oldest", "drop-newest" or "keep-last".
        policy: String = about().words(QueuePolicy::WORDS).is("reject"),
        /// A newer message replaces an older one that waits, where both have the same: "topic", "client" (the client identifier of the
        /// publisher), "key" (the user property key) or "property:NAME". Default: none does.
        keep_last_by: String,
        /// Messages that have this in common are consumed in order, one of them at a time: "topic", "client", "key" or
        /// "property:NAME". Default: no order is kept between consumers.
        order_by: String,
        /// "shared": consumers share the messages. "exclusive": the first one that is there has them all, the next stands by.
        access: String = about().words(Queue::ACCESS).is("shared"),
        /// How they share: "round-robin" or "least-in-flight".
        share: String = about().words(Queue::SHARES).is("round-robin"),
        /// A message that a consumer has not acknowledged for this long is taken from it; "never" for ever.
        ack_timeout: Expiry = about().within(SECOND..=NEVER_MS).is(defaults::QUEUE_ACK_TIMEOUT),
        /// How often a message is given to a consumer before it is a dead letter.
        max_deliveries: u64 = about().within(1..=1_000_000).is(defaults::QUEUE_MAX_DELIVERIES),
        /// How long a message that a consumer has refused (PUBACK of 0x80 or more) is set aside: doubled each time, up to backoff_max.
        /// A user property retry-after-ms of the PUBACK says another time.
        backoff: Duration = about().within(1..=3_600 * SECOND).is(defaults::QUEUE_BACKOFF),
        /// The longest such time.
        backoff_max: Duration = about().within(1..=DAY).is(defaults::QUEUE_BACKOFF_MAX),
        /// Messages that are with consumers or set aside, 1 to 10000. Those behind them wait.
        window: u64 = about().within(1..=10_000).is(defaults::QUEUE_WINDOW),
        /// Levels of priority, 1 to 8: what is of a higher one is given first. A priority is 0 to 31: the user property priority of the message,
        /// or that of the first of [[queues.priorities]] that fits, or 0. With 4 levels 0 to 7 are one of them, 8 to 15 another. Each has
        /// max_messages, max_bytes, memory and window of its own.
        priority_levels: u64 = about().within(1..=u64::from(LEVELS_MAX)).is(1_u64),
        /// Of a hundred messages so many are of lower levels, in turn, as long as there are any; 0 for none while there is one of a higher.
        priority_share: u64 = about().within(0..=50).is(defaults::QUEUE_PRIORITY_SHARE),
        /// Priorities by topic, for publishers that say none: [[queues.priorities]]. The first filter that matches holds.
        priorities: Vec<At<RawPriority>>,
        /// What becomes a dead letter in $dead/NAME/TOPIC: "refused", "too-often", "too-large", "expired", "full" (the policy dropped it),
        /// "not-allowed" (no consumer that is there may read it). The rest is dropped, counted.
        dead_letters: Vec<At<String>> = about().words(&Why::OF_QUEUES.map(|why| (why.name(), why))).otherwise("refused, too-often, too-large, not-allowed"),
        /// So many are kept; then the oldest make room.
        max_dead_letters: u64 = about().within(1..=u64::MAX).is(defaults::QUEUE_DEAD_LETTERS),
    }
);

table!(
    /// `[[queues.priorities]]`
    RawPriority {
        /// A topic filter.
        filter: String = about().needed(),
        /// 0 to 31.
        priority: u64 = about().within(0..=u64::from(PRIORITY_MAX)).needed(),
    }
);

table!(
    /// `[[dead_letters]]`
    RawDeadLetters {
        /// 1 to 64 letters, digits, - and _. What is kept lies on $dead/NAME/TOPIC.
        name: String = about().needed(),
        /// The topics whose messages are kept.
        filter: String = about().is("#"),
        /// Of which clients' sessions, by client identifier; * is any text. For "undeliverable" and "rule": of which publishers.
        clients: String = about().is("*"),
        /// What is kept, of QoS 1 and 2: "refused" (PUBACK or PUBREC of 0x80 or more), "too-large" (for the client's Maximum Packet
        /// Size), "expired", "full" (the queue's policy dropped it), "revoked" (the client may not read it any more), "undeliverable" (nobody
        /// subscribes to its topic; retained messages are not), "rule" (a rule of [[rules]] cannot be applied to it; of QoS 0 as well). The rest is
        /// dropped, counted.
        reasons: Vec<At<String>> = about().words(&Why::OF_SESSIONS.map(|why| (why.name(), why))).otherwise("refused, too-large, expired, full, revoked, rule"),
        /// So many are kept; then the oldest make room.
        max_messages: u64 = about().within(1..=u64::MAX).is(defaults::QUEUE_DEAD_LETTERS),
        /// Their size together.
        max_bytes: Bytes = about().within(1..=u64::MAX).is(defaults::DEAD_LETTER_BYTES),
        /// How long one is kept. Default: "never" too long.
        max_age: Expiry = about().within(SECOND..=NEVER_MS).is(NEVER),
    }
);

table!(
    /// `[[streams]]`
    RawStream {
        /// 1 to 64 letters, digits, - and _. Readers subscribe to $stream/NAME/@earliest and others.
        name: String = about().needed(),
        /// The topics whose messages it keeps.
        filter: String = about().needed(),
        /// Messages that it keeps; then the oldest go.
        max_messages: u64 = about().within(1..=u64::MAX).is(defaults::STREAM_MAX_MESSAGES),
        /// Their size together (topics, properties, payloads).
        max_bytes: Bytes = about().within(1..=u64::MAX).is(defaults::STREAM_MAX_BYTES),
        /// How long it keeps a message. Default: "never" too long.
        max_age: Expiry = about().within(SECOND..=NEVER_MS).is(NEVER),
    }
);
