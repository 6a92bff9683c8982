//! From the raw configuration to the checked one.

mod access;
mod bridges;
mod listeners;
mod queues;
mod rules;

use std::ffi::OsString;
use std::fmt::Display;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use listeners::why_no_mount_point;

use super::checked::{
    AdminConfig, Config, Durability, DurabilityRule, Limits, LogFormat, LogLevel, NEVER, QueueLimits, QueuePolicy,
    Rate, StoreConfig,
};
use super::problem::{Problem, no_such};
use super::raw::{RawAdmin, RawConfig, RawLimits, RawQueue, RawRate, RawRule, RawStore};
use super::sources::Sources;
use super::table::At;
use super::units::{self, Bytes, show_duration};
use super::value::Expiry;
use super::{Overrides, default_data_dir, defaults};

/// Checks what the sources say. A path is relative to the folder of the file that it is in.
pub(super) fn check(raw: RawConfig, overrides: &Overrides, sources: &Sources, problems: &mut Vec<Problem>) -> Config {
    let mut checker = Checker { sources, problems };
    let limits = checker.limits(raw.limits.map(|at| at.value).unwrap_or_default());
    let mut access = checker.access(raw.access.map(|at| at.value).unwrap_or_default());
    let listeners = checker.listeners(raw.listeners, &limits, &access);
    access.listener_acl_files =
        access::listener_acl_files(listeners.as_deref().unwrap_or_default(), access.acl_file.as_ref());
    let data_dir = overrides.data_dir.clone().or_else(|| checker.path(raw.data_dir));
    let bridges = raw.bridges.map(|at| checker.bridges(at.value)).unwrap_or_default();
    let queues = raw.queues.map(|at| checker.queues(at.value, &bridges)).unwrap_or_default();
    let dead_letters = raw.dead_letters.map(|at| checker.dead_letters(at.value, &queues, &bridges)).unwrap_or_default();
    let workers = number(raw.workers, defaults::workers().get());
    Config {
        data_dir: data_dir.unwrap_or_else(default_data_dir),
        workers: NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN),
        log_format: checker.word(raw.log_format, "log format", LogFormat::WORDS, LogFormat::Auto),
        log: overrides.log.unwrap_or_else(|| checker.word(raw.log, "log level", LogLevel::WORDS, LogLevel::Info)),
        queue: checker.queue(raw.queue.map(|at| at.value).unwrap_or_default()),
        durability: raw.durability.map(|at| checker.rules(at.value)).unwrap_or_default(),
        store: checker.store(raw.store.map(|at| at.value).unwrap_or_default()),
        admin: checker.admin(raw.admin.map(|at| at.value).unwrap_or_default()),
        server_reference: checker.server_reference(raw.server_reference),
        sys_interval: duration(raw.sys_interval, defaults::SYS_INTERVAL),
        shutdown_grace: duration(raw.shutdown_grace, defaults::SHUTDOWN_GRACE),
        bridges,
        queues,
        dead_letters,
        rules: raw.rules.map(|at| checker.message_rules(at.value)).unwrap_or_default(),
        streams: raw.streams.map(|at| checker.streams(at.value)).unwrap_or_default(),
        listeners: listeners.unwrap_or_else(|| {
            let mut listeners = Config::built_in_listeners(&limits);
            listeners.iter_mut().for_each(|listener| listener.anonymous = access.sources.is_empty());
            listeners
        }),
        access,
        limits,
    }
}

struct Checker<'a> {
    sources: &'a Sources,
    problems: &'a mut Vec<Problem>,
}

impl Checker<'_> {
    fn wrong<T>(&mut self, at: &At<T>, message: impl Into<String>) {
        self.problems.push(Problem { span: at.span.clone(), key: at.key.clone(), message: message.into() });
    }

    fn word<T: Copy>(&mut self, at: Option<At<String>>, kind: &str, words: &[(&str, T)], default: T) -> T {
        let Some(at) = at else { return default };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == at.value) {
            return *value;
        }
        let valid: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.wrong(&at, format!("\"{}\": {}", at.value, no_such(kind, &at.value, &valid)));
        default
    }

    fn path(&mut self, at: Option<At<String>>) -> Option<PathBuf> {
        let at = at?;
        if at.value.is_empty() {
            self.wrong(&at, "must not be empty");
        }
        if Path::new(&at.value).starts_with("~") {
            self.wrong(&at, "`~` is not expanded here; write the whole path");
        }
        if let Some(name) = at.value.strip_prefix("credential:") {
            return self.credential(&at, name, std::env::var_os("CREDENTIALS_DIRECTORY"));
        }
        Some(self.sources.folder(at.span.start).join(at.value))
    }

    /// What systemd hands over, `LoadCredential=`.
    fn credential(&mut self, at: &At<String>, name: &str, folder: Option<OsString>) -> Option<PathBuf> {
        if name.is_empty() || name.contains('/') {
            self.wrong(at, format!("\"{}\" is not credential: and the name of one", at.value));
        }
        let folder = folder.filter(|folder| !folder.is_empty());
        if folder.is_none() {
            let why =
                "there are no credentials ($CREDENTIALS_DIRECTORY): start the broker by systemd, with LoadCredential=";
            self.wrong(at, why);
        }
        Some(Path::new(&folder?).join(name))
    }

    fn server_reference(&mut self, at: Option<At<String>>) -> Option<String> {
        let at = at?;
        if at.value.is_empty() || at.value.len() > usize::from(u16::MAX) {
            self.wrong(&at, "must have 1 to 65535 bytes");
        }
        Some(at.value)
    }

    fn limits(&mut self, raw: RawLimits) -> Limits {
        let d = Limits::default();
        self.no_more_than(raw.max_handshakes.as_ref(), raw.max_connections.as_ref());
        self.no_more_than(raw.max_handshakes_per_address.as_ref(), raw.max_handshakes.as_ref());
        let v3 = raw.session_expiry_v3.as_ref().map(|at| at.place().map(|()| at.value.0));
        let most = raw.max_session_expiry.as_ref().map(|at| at.place().map(|()| at.value.0));
        self.no_longer_than(v3.as_ref(), most.as_ref());
        let max_connections = number(raw.max_connections, d.max_connections);
        let max_handshakes = number(raw.max_handshakes, d.max_handshakes.min(max_connections));
        let per_address = number(raw.max_handshakes_per_address, max_handshakes);
        let connect_timeout = duration(raw.connect_timeout, d.connect_timeout);
        let first_byte = d.first_byte_timeout.min(connect_timeout);
        let max_session_expiry = expiry(raw.max_session_expiry, d.max_session_expiry);
        Limits {
            max_connections,
            max_handshakes,
            max_handshakes_per_address: per_address.min(max_handshakes),
            max_log_ins: number(raw.max_log_ins, d.max_log_ins),
            connect_timeout,
            packet_timeout: duration(raw.packet_timeout, d.packet_timeout),
            max_wildcard_levels_per_client: number(
                raw.max_wildcard_levels_per_client,
                d.max_wildcard_levels_per_client,
            ),
            first_byte_timeout: duration(raw.first_byte_timeout, first_byte).min(connect_timeout),
            max_packet_size: packet_size(bytes(raw.max_packet_size, d.max_packet_size)),
            max_client_id_len: number(raw.max_client_id_len, d.max_client_id_len),
            max_topic_levels: number(raw.max_topic_levels, d.max_topic_levels),
            max_subscriptions_per_client: number(raw.max_subscriptions_per_client, d.max_subscriptions_per_client),
            max_filters_per_packet: number(raw.max_filters_per_packet, d.max_filters_per_packet),
            max_user_properties: number(raw.max_user_properties, d.max_user_properties),
            receive_maximum: number(raw.receive_maximum, d.receive_maximum),
            max_inflight: number(raw.max_inflight, d.max_inflight),
            topic_alias_maximum: number(raw.topic_alias_maximum, d.topic_alias_maximum),
            outbound_topic_alias_maximum: number(raw.outbound_topic_alias_maximum, d.outbound_topic_alias_maximum),
            max_keep_alive: duration(raw.max_keep_alive, d.max_keep_alive),
            max_session_expiry,
            session_expiry_v3: expiry(raw.session_expiry_v3, d.session_expiry_v3.min(max_session_expiry)),
            outbound_buffer: bytes(raw.outbound_buffer, d.outbound_buffer),
            max_retained_messages: number(raw.max_retained_messages, d.max_retained_messages),
            max_retained_bytes: bytes(raw.max_retained_bytes, d.max_retained_bytes),
            max_origins: number(raw.max_origins, d.max_origins),
            max_schedules: number(raw.max_schedules, d.max_schedules),
            max_delayed_messages: number(raw.max_delayed_messages, d.max_delayed_messages),
            max_delayed_bytes: bytes(raw.max_delayed_bytes, d.max_delayed_bytes),
            memory_messages: number(raw.memory_messages, d.memory_messages),
            memory_bytes: bytes(raw.memory_bytes, d.memory_bytes),
            memory: raw.memory.map(|at| bytes(Some(at), 16 << 20)),
            max_sessions: number(raw.max_sessions, d.max_sessions),
            max_will_bytes: bytes(raw.max_will_bytes, d.max_will_bytes),
            max_subscriptions: number(raw.max_subscriptions, d.max_subscriptions),
            max_filter_levels: number(raw.max_filter_levels, d.max_filter_levels),
            max_retained_levels: number(raw.max_retained_levels, d.max_retained_levels),
            log_lines_per_s: number(raw.log_lines_per_s, d.log_lines_per_s),
        }
    }

    fn no_more_than(&mut self, part: Option<&At<u64>>, whole: Option<&At<u64>>) {
        if let (Some(part), Some(whole)) = (part, whole)
            && part.value > whole.value
        {
            self.wrong(part, format!("must be at most {} ({}), is {}", whole.key, whole.value, part.value));
        }
    }

    fn no_longer_than(&mut self, part: Option<&At<Duration>>, whole: Option<&At<Duration>>) {
        if let (Some(part), Some(whole)) = (part, whole)
            && part.value > whole.value
        {
            let (most, is) = (show_duration(whole.value), show_duration(part.value));
            self.wrong(part, format!("must be at most {} ({most}), is {is}", whole.key));
        }
    }

    fn queue(&mut self, raw: RawQueue) -> QueueLimits {
        let d = QueueLimits::default();
        QueueLimits {
            max_messages: number(raw.max_messages, d.max_messages),
            max_bytes: bytes(raw.max_bytes, d.max_bytes),
            max_age: or_never(raw.max_age, d.max_age),
            policy: self.word(raw.policy, "policy", QueuePolicy::WORDS, d.policy),
            stall_limit: or_never(raw.stall_limit, d.stall_limit),
            stall_limit_transient: or_never(raw.stall_limit_transient, d.stall_limit_transient),
            queue_qos0: raw.queue_qos0.map_or(d.queue_qos0, |at| at.value),
        }
    }

    fn store(&mut self, raw: RawStore) -> StoreConfig {
        let d = StoreConfig::default();
        StoreConfig {
            cache_bytes: bytes(raw.cache_bytes, d.cache_bytes),
            max_bytes: raw.max_bytes.map(|at| bytes(Some(at), 16 << 20)),
            min_free_bytes: bytes(raw.min_free_bytes, d.min_free_bytes),
            commit_wait: duration(raw.commit_wait, d.commit_wait),
            commit_gather: duration(raw.commit_gather, d.commit_gather),
            wear: raw.wear.and_then(|at| units::wear(&at.value).map_err(|why| self.wrong(&at, why)).ok()).flatten(),
            journal_bytes: bytes(raw.journal, d.journal_bytes),
        }
    }

    fn admin(&mut self, raw: RawAdmin) -> AdminConfig {
        let RawAdmin { http, socket, token_file } = raw;
        let socket = self.path(socket);
        let token_file = self.path(token_file);
        let Some(at) = http else { return AdminConfig { http: None, socket, token_file } };
        let http = match at.value.parse::<std::net::SocketAddr>() {
            Ok(addr) => Some(addr),
            Err(_) => {
                let is = at.value.clone();
                self.wrong(&at, format!("must be an address and a port, such as \"127.0.0.1:9883\", is \"{is}\""));
                None
            }
        };
        if http.is_some_and(|addr| !addr.ip().is_loopback()) && token_file.is_none() {
            self.wrong(&at, "others can reach this address: set `token_file`, or write 127.0.0.1");
        }
        AdminConfig { http, socket, token_file }
    }

    fn rules(&mut self, raw: Vec<At<RawRule>>) -> Vec<DurabilityRule> {
        let mut rules: Vec<DurabilityRule> = Vec::with_capacity(raw.len());
        for at in raw {
            let place = at.place();
            let RawRule { filter, mode } = at.value;
            let (Some(filter), Some(mode)) = (filter, mode) else {
                self.wrong(&place, "needs `filter` and `mode`");
                continue;
            };
            if let Err(why) = topic_filter(&filter.value) {
                self.wrong(&filter, format!("\"{}\" {why}", filter.value));
            }
            if rules.iter().any(|rule| rule.filter == filter.value) {
                self.wrong(&filter, format!("\"{}\" has a rule already; the first one holds", filter.value));
            }
            rules.push(DurabilityRule { filter: filter.value.clone(), durability: self.durability(Some(mode)) });
        }
        rules
    }

    fn durability(&mut self, at: Option<At<String>>) -> Durability {
        let Some(at) = at else { return Durability::Commit };
        let (word, time) = at.value.split_once(' ').unwrap_or((&at.value, ""));
        let outcome = match (word, time) {
            ("commit", "") => Ok(Durability::Commit),
            ("memory", "") => Ok(Durability::Memory),
            ("interval", "") => Ok(Durability::Interval(defaults::DURABILITY_INTERVAL)),
            ("interval", time) => units::duration(time).and_then(|time| {
                let fits = (Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&time);
                fits.then_some(Durability::Interval(time)).ok_or_else(|| "the interval must be 1ms to 1h".to_owned())
            }),
            _ => Err(format!("\"{}\": {}", at.value, no_such("durability", word, &["commit", "interval", "memory"]))),
        };
        outcome.unwrap_or_else(|why| {
            self.wrong(&at, why);
            Durability::Commit
        })
    }

    fn rate(&mut self, at: At<RawRate>) -> Option<Rate> {
        let place = at.place();
        let RawRate { messages_per_s, bytes_per_s } = at.value;
        if messages_per_s.is_none() && bytes_per_s.is_none() {
            self.wrong(&place, "needs `messages_per_s`, `bytes_per_s` or both");
            return None;
        }
        Some(Rate { messages_per_s: messages_per_s.map(|at| at.value), bytes_per_s: bytes_per_s.map(|at| at.value.0) })
    }
}

impl<T> At<T> {
    fn map<U>(self, f: impl FnOnce(T) -> U) -> At<U> {
        At { value: f(self.value), span: self.span, key: self.key }
    }

    /// The place without the value.
    fn place(&self) -> At<()> {
        At { value: (), span: self.span.clone(), key: self.key.clone() }
    }
}

impl LogLevel {
    /// As it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, level)| *level == self).map_or("", |(word, _)| word)
    }

    /// As they are written.
    pub const WORDS: &[(&str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl QueuePolicy {
    /// As they are written.
    pub(super) const WORDS: &[(&str, Self)] = &[
        ("reject", Self::Reject),
        ("drop-oldest", Self::DropOldest),
        ("drop-newest", Self::DropNewest),
        ("keep-last", Self::KeepLast),
    ];
}

fn number<T: TryFrom<u64>>(at: Option<At<u64>>, default: T) -> T {
    at.and_then(|at| T::try_from(at.value).ok()).unwrap_or(default)
}

fn bytes<T: TryFrom<u64>>(at: Option<At<Bytes>>, default: T) -> T {
    number(at.map(|at| at.map(|Bytes(n)| n)), default)
}

fn duration(at: Option<At<Duration>>, default: Duration) -> Duration {
    at.map_or(default, |at| at.value)
}

fn expiry(at: Option<At<Expiry>>, default: Duration) -> Duration {
    at.map_or(default, |at| at.value.0)
}

/// `None` for never.
fn or_never(at: Option<At<Expiry>>, default: Option<Duration>) -> Option<Duration> {
    Some(expiry(at, default.unwrap_or(NEVER))).filter(|time| *time != NEVER)
}

/// Clients know no Maximum Packet Size above the largest remaining length: from there on there is no limit but MQTT's.
fn packet_size(size: u32) -> u32 {
    if size > forebay_wire::varint::MAX { 268_435_460 } else { size }
}

/// What a topic filter must be [MQTT5-4.7.1-1, MQTT5-4.7.1-2, MQTT5-4.7.3-1, MQTT5-4.7.3-2].
fn topic_filter(filter: &str) -> Result<(), impl Display> {
    if filter.is_empty() || filter.len() > usize::from(u16::MAX) || filter.contains('\0') {
        return Err("is not a topic filter");
    }
    if filter.starts_with("$share/") {
        return Err("is a shared subscription; write the filter behind the share's name");
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        match level {
            "#" if levels.peek().is_some() => return Err("has `#` before its last level"),
            "#" | "+" => {}
            _ if level.contains(['#', '+']) => return Err("has a wildcard that is not a whole level"),
            _ => {}
        }
    }
    Ok(())
}
