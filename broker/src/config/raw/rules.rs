//! `[[rules]]`

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::config::defaults;
use crate::config::key::{DAY, Key, SECOND, about};
use crate::config::table::{At, Reader, Shown, Table, Value, below, key_about, key_name, show_key, table};
use crate::config::units::Bytes;

table!(
    /// `[[rules]]`
    RawRules {
        /// 1 to 64 letters, digits, - and _. What is published has it as the user property rule.
        name: String = about().needed(),
        /// The topics whose messages it looks at.
        filter: String = about().needed(),
        /// Which of them: an expression that is true or false (docs/rules.md). Default: all.
        where_ as "where": String,
        /// The topic of what is published: {topic}, {topic/1} (a level), {topic/2..} (that level and the rest), {user.NAME}, {json.FIELD}.
        topic: String = about().needed(),
        /// What is published: an expression, whose value is written as JSON. With a window it is made of aggregates: count(), min(x), max(x),
        /// mean(x), last(x). Default: the payload as it is; a window needs one.
        payload: String,
        /// The QoS of what is published, 0 to 2. Default: that of the message; with a window 1.
        qos: u64 = about().within(0..=2),
        /// Whether what is published is retained.
        retain: bool = about().is(false),
        /// Messages of this time together, 1s to 24h: one is published for each topic that comes of them, and for each value of `by`, when the
        /// time is over. What is in an open window is in memory only. Default: each message by itself.
        window: Duration = about().within(SECOND..=DAY),
        /// With a window: an expression; messages for which it is the same are counted together.
        by: String,
        /// With a window: figures of so many topics and values of `by`; a message for one more is a dead letter.
        max_keys: u64 = about().within(1..=100_000).is(defaults::RULE_MAX_KEYS),
        /// What it looks at of a payload: a message with a larger one is a dead letter.
        max_payload: Bytes = about().within(1..=1 << 20).is(defaults::RULE_MAX_PAYLOAD),
    }
);
