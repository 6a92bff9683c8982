//! The configuration as it stands in the file: every key may be missing, every value is only of the right form.
//!
//! The tree that `toml` makes is read by hand and not through serde's derive: serde ends at the first error, and a
//! person who wrote three wants to see three, each at its own place.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::checked::NEVER;
use super::problem::{Problem, no_such};
use super::units::{self, Bytes};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
    pub(super) key: String,
}

/// A duration that may be `"never"`: then it is [`NEVER`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry(pub(super) Duration);

/// A table of the file: a field for each key, and the keys' names.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(super) struct $name { $(pub(super) $field: Option<At<$type>>,)* }

        impl Table for $name {
            const KEYS: &'static [&'static str] = &[$(stringify!($field)),*];

            fn set(&mut self, name: &str, key: String, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> bool {
                match name {
                    $(stringify!($field) => self.$field = read(key, value, problems),)*
                    _ => return false,
                }
                true
            }
        }

        impl FromToml for $name {
            fn from_toml(key: &str, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Result<Self, String> {
                let DeValue::Table(table) = value.get_ref() else { return Err(wrong_type("a table", value)) };
                Ok(fill(key, table, problems))
            }
        }
    };
}

table!(
    /// The file.
    RawConfig {
        data_dir: String,
        workers: u64,
        log: String,
        server_reference: String,
        sys_interval: Duration,
        shutdown_grace: Duration,
        listeners: Vec<At<RawListener>>,
        limits: RawLimits,
        queue: RawQueue,
        durability: Vec<At<RawRule>>,
        store: RawStore,
    }
);

table!(
    /// `[[listeners]]`
    RawListener {
        url: String,
        certificate: String,
        key: String,
        durability: String,
        max_connections: u64,
        rate: RawRate,
    }
);

table!(
    /// `rate` of a listener
    RawRate {
        messages_per_s: u64,
        bytes_per_s: Bytes,
    }
);

table!(
    /// `[limits]`
    RawLimits {
        max_connections: u64,
        max_handshakes: u64,
        connect_timeout: Duration,
        max_packet_size: Bytes,
        max_client_id_len: u64,
        max_topic_levels: u64,
        max_subscriptions_per_client: u64,
        max_filters_per_packet: u64,
        max_user_properties: u64,
        receive_maximum: u64,
        max_inflight: u64,
        topic_alias_maximum: u64,
        outbound_topic_alias_maximum: u64,
        max_keep_alive: Duration,
        max_session_expiry: Expiry,
        session_expiry_v3: Expiry,
        outbound_buffer: Bytes,
        max_retained_messages: u64,
        max_retained_bytes: Bytes,
        memory_messages: u64,
        memory_bytes: Bytes,
    }
);

table!(
    /// `[queue]`
    RawQueue {
        max_messages: u64,
        max_bytes: Bytes,
        max_age: Expiry,
        policy: String,
        queue_qos0: bool,
    }
);

table!(
    /// `[[durability]]`
    RawRule {
        filter: String,
        mode: String,
    }
);

table!(
    /// `[store]`
    RawStore {
        cache_bytes: Bytes,
        max_bytes: Bytes,
        min_free_bytes: Bytes,
        commit_wait: Duration,
    }
);

/// Reads a whole file; what is wrong goes to `problems`.
pub(super) fn parse(text: &str, problems: &mut Vec<Problem>) -> RawConfig {
    let (root, errors) = DeTable::parse_recoverable(text);
    problems.extend(errors.into_iter().map(|error| Problem {
        span: error.span().unwrap_or(0..0),
        key: String::new(),
        message: error.message().to_owned(),
    }));
    // What was recovered from a broken file is a guess: complaints about it would only confuse.
    if problems.is_empty() { fill("", root.get_ref(), problems) } else { RawConfig::default() }
}

/// A table whose keys are known.
pub(super) trait Table: Default {
    /// The names of its keys.
    const KEYS: &'static [&'static str];

    /// Reads the value of the key `name`; false when there is no such key.
    fn set(&mut self, name: &str, key: String, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> bool;
}

/// A value of the file.
trait FromToml: Sized {
    /// Pushes the problems of what is inside of it; returns what is wrong with itself.
    fn from_toml(key: &str, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Result<Self, String>;
}

fn fill<T: Table>(key: &str, table: &DeTable<'_>, problems: &mut Vec<Problem>) -> T {
    let mut filled = T::default();
    for (name, value) in table {
        let path = if key.is_empty() { name.get_ref().to_string() } else { format!("{key}.{}", name.get_ref()) };
        if !filled.set(name.get_ref(), path.clone(), value, problems) {
            let message = no_such("key", name.get_ref(), T::KEYS);
            problems.push(Problem { span: name.span(), key: path, message });
        }
    }
    filled
}

fn read<T: FromToml>(key: String, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<At<T>> {
    match T::from_toml(&key, value, problems) {
        Ok(read) => Some(At { value: read, span: value.span(), key }),
        Err(message) => {
            problems.push(Problem { span: value.span(), key, message });
            None
        }
    }
}

fn wrong_type(wanted: &str, value: &Spanned<DeValue<'_>>) -> String {
    match value.get_ref() {
        DeValue::Table(_) | DeValue::Array(_) => format!("must be {wanted}, is {}", article(value.get_ref())),
        DeValue::Integer(n) => format!("must be {wanted}, is {n}"),
        DeValue::Float(n) => format!("must be {wanted}, is {n}"),
        DeValue::Boolean(b) => format!("must be {wanted}, is {b}"),
        DeValue::Datetime(at) => format!("must be {wanted}, is {at}"),
        DeValue::String(text) => format!("must be {wanted}, is \"{text}\""),
    }
}

fn article(value: &DeValue<'_>) -> &'static str {
    if value.is_array() { "an array" } else { "a table" }
}

impl FromToml for u64 {
    fn from_toml(_: &str, value: &Spanned<DeValue<'_>>, _: &mut Vec<Problem>) -> Result<Self, String> {
        let wrong = || wrong_type("a whole number, not negative", value);
        let DeValue::Integer(integer) = value.get_ref() else { return Err(wrong()) };
        Self::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| wrong())
    }
}

impl FromToml for bool {
    fn from_toml(_: &str, value: &Spanned<DeValue<'_>>, _: &mut Vec<Problem>) -> Result<Self, String> {
        value.get_ref().as_bool().ok_or_else(|| wrong_type("true or false", value))
    }
}

impl FromToml for String {
    fn from_toml(_: &str, value: &Spanned<DeValue<'_>>, _: &mut Vec<Problem>) -> Result<Self, String> {
        value.get_ref().as_str().map(str::to_owned).ok_or_else(|| wrong_type("a string", value))
    }
}

impl FromToml for Bytes {
    fn from_toml(_: &str, value: &Spanned<DeValue<'_>>, _: &mut Vec<Problem>) -> Result<Self, String> {
        match value.get_ref().as_str() {
            Some(text) => units::bytes(text),
            None => Err(wrong_type("a size in quotes, such as \"1MiB\"", value)),
        }
    }
}

impl FromToml for Duration {
    fn from_toml(_: &str, value: &Spanned<DeValue<'_>>, _: &mut Vec<Problem>) -> Result<Self, String> {
        match value.get_ref().as_str() {
            Some(text) => units::duration(text),
            None => Err(wrong_type("a duration in quotes, such as \"10s\"", value)),
        }
    }
}

impl FromToml for Expiry {
    fn from_toml(_: &str, value: &Spanned<DeValue<'_>>, _: &mut Vec<Problem>) -> Result<Self, String> {
        match value.get_ref().as_str() {
            Some("never") => Ok(Self(NEVER)),
            Some(text) => units::duration(text).map(Self),
            None => Err(wrong_type("a duration in quotes, such as \"30d\" or \"never\"", value)),
        }
    }
}

impl<T: FromToml> FromToml for Vec<At<T>> {
    fn from_toml(key: &str, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Result<Self, String> {
        let DeValue::Array(array) = value.get_ref() else { return Err(wrong_type("a list of tables", value)) };
        // Counted from 1: the first listener of the file is `listeners[1]`.
        let items = array.iter().enumerate();
        Ok(items.filter_map(|(n, item)| read(format!("{key}[{}]", n + 1), item, problems)).collect())
    }
}
