//! From the raw configuration to the checked one.

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::address::{ListenUrl, overlap};
use super::checked::{
    Config, Durability, DurabilityRule, Limits, Listener, LogLevel, NEVER, QueueLimits, QueuePolicy, Rate, StoreConfig,
    Tls, TlsFiles,
};
use super::problem::{Problem, no_such};
use super::raw::{At, Expiry, RawConfig, RawLimits, RawListener, RawQueue, RawRate, RawRule, RawStore};
use super::units::{self, Bytes, show_bytes, show_duration};
use super::{Overrides, default_data_dir, defaults};

/// What is written for the certificate that the program makes itself.
const DEVELOPMENT: &str = "development";

/// Checks one file. Paths in it are relative to `folder`.
pub(super) fn check(raw: RawConfig, overrides: &Overrides, folder: &Path, problems: &mut Vec<Problem>) -> Config {
    let mut checker = Checker { folder, problems };
    let limits = checker.limits(raw.limits.map(|at| at.value).unwrap_or_default());
    let listeners = checker.listeners(raw.listeners, &limits);
    let data_dir = overrides.data_dir.clone().or_else(|| checker.path(raw.data_dir));
    let workers = checker.number(raw.workers, 1, 256, defaults::workers().get());
    Config {
        data_dir: data_dir.unwrap_or_else(default_data_dir),
        workers: NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN),
        log: overrides.log.unwrap_or_else(|| checker.word(raw.log, "log level", LogLevel::WORDS, LogLevel::Info)),
        queue: checker.queue(raw.queue.map(|at| at.value).unwrap_or_default()),
        durability: raw.durability.map(|at| checker.rules(at.value)).unwrap_or_default(),
        store: checker.store(raw.store.map(|at| at.value).unwrap_or_default()),
        server_reference: checker.server_reference(raw.server_reference),
        sys_interval: checker.sys_interval(raw.sys_interval),
        shutdown_grace: checker.duration(raw.shutdown_grace, 0, 600_000, defaults::SHUTDOWN_GRACE),
        listeners: listeners.unwrap_or_else(|| Config::built_in_listeners(&limits)),
        limits,
    }
}

struct Checker<'a> {
    folder: &'a Path,
    problems: &'a mut Vec<Problem>,
}

impl Checker<'_> {
    fn wrong<T>(&mut self, at: &At<T>, message: impl Into<String>) {
        self.problems.push(Problem { span: at.span.clone(), key: at.key.clone(), message: message.into() });
    }

    /// The value when it lies within the bounds; otherwise a complaint and `default`.
    fn within<T: PartialOrd + Copy>(
        &mut self,
        at: Option<At<T>>,
        (least, most): (T, T),
        default: T,
        show: impl Fn(T) -> String,
    ) -> T {
        let Some(at) = at else { return default };
        if at.value < least {
            self.wrong(&at, format!("must be at least {}, is {}", show(least), show(at.value)));
        } else if at.value > most {
            self.wrong(&at, format!("must be at most {}, is {}", show(most), show(at.value)));
        } else {
            return at.value;
        }
        default
    }

    fn number<T>(&mut self, at: Option<At<u64>>, least: u64, most: u64, default: T) -> T
    where
        T: TryFrom<u64> + Copy,
    {
        let Some(at) = at else { return default };
        T::try_from(self.within(Some(at), (least, most), least, |n| n.to_string())).unwrap_or(default)
    }

    fn bytes<T>(&mut self, at: Option<At<Bytes>>, least: u64, most: u64, default: T) -> T
    where
        T: TryFrom<u64> + Copy,
    {
        let Some(at) = at.map(|at| at.map(|Bytes(n)| n)) else { return default };
        T::try_from(self.within(Some(at), (least, most), least, show_bytes)).unwrap_or(default)
    }

    fn duration(&mut self, at: Option<At<Duration>>, least_ms: u64, most_ms: u64, default: Duration) -> Duration {
        let bounds = (Duration::from_millis(least_ms), Duration::from_millis(most_ms));
        self.within(at, bounds, default, show_duration)
    }

    /// Whole seconds, since the wire knows nothing shorter.
    fn seconds(&mut self, at: Option<At<Duration>>, most: Duration, default: Duration) -> Duration {
        if let Some(at) = &at
            && at.value.subsec_nanos() > 0
        {
            self.wrong(at, format!("must be whole seconds, is {}", show_duration(at.value)));
        }
        self.within(at, (Duration::ZERO, most), default, show_duration)
    }

    fn expiry(&mut self, at: Option<At<Expiry>>, default: Duration) -> Duration {
        self.seconds(at.map(|at| at.map(|Expiry(time)| time)), NEVER, default)
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
        Some(self.folder.join(at.value))
    }

    fn server_reference(&mut self, at: Option<At<String>>) -> Option<String> {
        let at = at?;
        if at.value.is_empty() || at.value.len() > usize::from(u16::MAX) {
            self.wrong(&at, "must have 1 to 65535 bytes");
        }
        Some(at.value)
    }

    fn sys_interval(&mut self, at: Option<At<Duration>>) -> Duration {
        let least = if at.as_ref().is_some_and(|at| at.value.is_zero()) { 0 } else { 1_000 };
        self.duration(at, least, 24 * 3_600_000, defaults::SYS_INTERVAL)
    }

    fn limits(&mut self, raw: RawLimits) -> Limits {
        const MANY: u64 = u32::MAX as u64;
        const MUCH: u64 = 1 << 40;
        let d = Limits::default();
        let alias_most = u64::from(u16::MAX);
        self.no_more_than(raw.max_handshakes.as_ref(), raw.max_connections.as_ref());
        let v3 = raw.session_expiry_v3.as_ref().map(|at| at.place().map(|()| at.value.0));
        let most = raw.max_session_expiry.as_ref().map(|at| at.place().map(|()| at.value.0));
        self.no_longer_than(v3.as_ref(), most.as_ref());
        let max_connections = self.number(raw.max_connections, 1, 10_000_000, d.max_connections);
        let max_session_expiry = self.expiry(raw.max_session_expiry, d.max_session_expiry);
        Limits {
            max_connections,
            max_handshakes: self.number(raw.max_handshakes, 1, 10_000_000, d.max_handshakes.min(max_connections)),
            connect_timeout: self.duration(raw.connect_timeout, 100, 3_600_000, d.connect_timeout),
            max_packet_size: self.bytes(raw.max_packet_size, 128, 268_435_460, d.max_packet_size),
            max_client_id_len: self.number(raw.max_client_id_len, 23, 65_535, d.max_client_id_len),
            max_topic_levels: self.number(raw.max_topic_levels, 1, 65_535, d.max_topic_levels),
            max_subscriptions_per_client: self.number(
                raw.max_subscriptions_per_client,
                1,
                MANY,
                d.max_subscriptions_per_client,
            ),
            max_filters_per_packet: self.number(raw.max_filters_per_packet, 1, MANY, d.max_filters_per_packet),
            max_user_properties: self.number(raw.max_user_properties, 1, MANY, d.max_user_properties),
            receive_maximum: self.number(raw.receive_maximum, 1, 65_535, d.receive_maximum),
            max_inflight: self.number(raw.max_inflight, 0, 65_535, d.max_inflight),
            topic_alias_maximum: self.number(raw.topic_alias_maximum, 0, alias_most, d.topic_alias_maximum),
            outbound_topic_alias_maximum: self.number(
                raw.outbound_topic_alias_maximum,
                0,
                alias_most,
                d.outbound_topic_alias_maximum,
            ),
            max_keep_alive: self.seconds(raw.max_keep_alive, Duration::from_secs(65_535), d.max_keep_alive),
            max_session_expiry,
            session_expiry_v3: self.expiry(raw.session_expiry_v3, d.session_expiry_v3.min(max_session_expiry)),
            outbound_buffer: self.bytes(raw.outbound_buffer, 1 << 10, 1 << 30, d.outbound_buffer),
            max_retained_messages: self.number(raw.max_retained_messages, 1, MANY, d.max_retained_messages),
            max_retained_bytes: self.bytes(raw.max_retained_bytes, 1 << 10, MUCH, d.max_retained_bytes),
            memory_messages: self.number(raw.memory_messages, 1, MANY, d.memory_messages),
            memory_bytes: self.bytes(raw.memory_bytes, 1 << 10, MUCH, d.memory_bytes),
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
        let max_age = raw.max_age.map(|at| at.map(|Expiry(time)| time)).filter(|at| at.value != NEVER);
        QueueLimits {
            max_messages: self.number(raw.max_messages, 1, u64::MAX, d.max_messages),
            max_bytes: self.bytes(raw.max_bytes, 1, u64::MAX, d.max_bytes),
            max_age: max_age.map(|at| {
                let least = Duration::from_secs(1);
                self.within(Some(at), (least, NEVER), least, show_duration)
            }),
            policy: self.word(raw.policy, "policy", QueuePolicy::WORDS, d.policy),
            queue_qos0: raw.queue_qos0.map_or(d.queue_qos0, |at| at.value),
        }
    }

    fn store(&mut self, raw: RawStore) -> StoreConfig {
        let d = StoreConfig::default();
        StoreConfig {
            cache_bytes: self.bytes(raw.cache_bytes, 1 << 20, 1 << 40, d.cache_bytes),
            max_bytes: raw.max_bytes.map(|at| self.bytes(Some(at), 16 << 20, u64::MAX, 16 << 20)),
            min_free_bytes: self.bytes(raw.min_free_bytes, 0, u64::MAX, d.min_free_bytes),
            commit_wait: self.duration(raw.commit_wait, 0, 1_000, d.commit_wait),
        }
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

    fn listeners(&mut self, raw: Option<At<Vec<At<RawListener>>>>, limits: &Limits) -> Option<Vec<Listener>> {
        let raw = raw?;
        if raw.value.is_empty() {
            self.wrong(&raw, "there must be at least one; leave the key out for the built-in ones");
        }
        let mut listeners: Vec<Listener> = Vec::with_capacity(raw.value.len());
        for at in raw.value {
            let place = at.value.url.as_ref().map_or_else(|| at.place(), At::place);
            let Some(listener) = self.listener(at, limits) else { continue };
            if let Some(other) = listeners.iter().find(|other| overlap(other.addr, listener.addr)) {
                self.wrong(&place, format!("{} is taken by {} already", listener.addr, other.url));
            }
            listeners.push(listener);
        }
        Some(listeners)
    }

    fn listener(&mut self, at: At<RawListener>, limits: &Limits) -> Option<Listener> {
        let place = at.place();
        let RawListener { url, certificate, key, durability, max_connections, rate } = at.value;
        let durability = self.durability(durability);
        let most = u64::try_from(limits.max_connections).unwrap_or(u64::MAX);
        let max_connections = match max_connections {
            Some(at) if at.value > most => {
                let is = at.value;
                self.wrong(&at, format!("must be at most limits.max_connections ({most}), is {is}"));
                limits.max_connections
            }
            other => self.number(other, 1, most, limits.max_connections),
        };
        let rate = rate.and_then(|at| self.rate(at));
        let Some(url) = url else {
            self.wrong(&place, "needs `url`, such as \"mqtt://127.0.0.1:1883\"");
            return None;
        };
        let parsed = match url.value.parse::<ListenUrl>() {
            Ok(parsed) => parsed,
            Err(why) => {
                self.wrong(&url, why);
                return None;
            }
        };
        let tls = self.tls(&url, &parsed, certificate, key);
        Some(Listener { url: parsed.url, addr: parsed.addr, tls, durability, max_connections, rate })
    }

    fn tls(
        &mut self,
        url: &At<String>,
        parsed: &ListenUrl,
        certificate: Option<At<String>>,
        key: Option<At<String>>,
    ) -> Option<Tls> {
        if !parsed.tls {
            for at in [certificate, key].iter().flatten() {
                self.wrong(at, format!("{} is not encrypted; write mqtts:// or leave the key out", url.value));
            }
            return None;
        }
        match (certificate, key) {
            (Some(certificate), None) if certificate.value == DEVELOPMENT => {}
            (Some(certificate), Some(key)) if certificate.value == DEVELOPMENT => {
                self.wrong(&key, "a development certificate has a key of its own; leave this one out");
            }
            (Some(certificate), Some(key)) => {
                let files = (self.path(Some(certificate)), self.path(Some(key)));
                if let (Some(certificate), Some(key)) = files {
                    return Some(Tls::Files(TlsFiles { certificate, key }));
                }
            }
            (Some(certificate), None) => self.wrong(&certificate, "needs its private key: set `key`"),
            (None, Some(key)) => self.wrong(&key, "needs its certificate: set `certificate`"),
            (None, None) if parsed.addr.ip().is_loopback() => {}
            (None, None) => self.wrong(
                url,
                "others can reach this address: set `certificate` and `key`, or certificate = \"development\"",
            ),
        }
        Some(Tls::Development)
    }

    fn rate(&mut self, at: At<RawRate>) -> Option<Rate> {
        let place = at.place();
        let RawRate { messages_per_s, bytes_per_s } = at.value;
        if messages_per_s.is_none() && bytes_per_s.is_none() {
            self.wrong(&place, "needs `messages_per_s`, `bytes_per_s` or both");
            return None;
        }
        Some(Rate {
            messages_per_s: messages_per_s.map(|at| self.number(Some(at), 1, u64::MAX, 1)),
            bytes_per_s: bytes_per_s.map(|at| self.bytes(Some(at), 1, u64::MAX, 1)),
        })
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
    const WORDS: &[(&str, Self)] = &[
        ("reject", Self::Reject),
        ("drop-oldest", Self::DropOldest),
        ("drop-newest", Self::DropNewest),
        ("keep-last", Self::KeepLast),
    ];
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
