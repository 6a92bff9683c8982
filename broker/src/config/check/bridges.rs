//! `[[bridges]]`.

use super::super::checked::{Bridge, Compression, QueueLimits, RefusedTopic, Sasl};
use super::super::listener::TlsFiles;
use super::super::problem::no_such;
use super::super::raw::{RawBridge, RawBridgeRule, RawQueue};
use super::super::table::At;
use super::{Checker, defaults, duration, number, topic_filter};
use crate::bridge::calendar::{self, Calendar};
use crate::bridge::template::{Rule, Template};
use crate::bridge::upstream::{KINDS, Kind, Topics};
use crate::bridge::wrap::Wrapping;

/// Characters of a name.
const NAME_MAX: usize = 64;

impl Checker<'_> {
    pub(super) fn bridges(&mut self, raw: Vec<At<RawBridge>>) -> Vec<Bridge> {
        let mut bridges: Vec<Bridge> = Vec::with_capacity(raw.len());
        for at in raw {
            let name = at.value.name.clone();
            let Some(bridge) = self.bridge(at) else { continue };
            if let Some(name) = name.filter(|_| bridges.iter().any(|other| other.name == bridge.name)) {
                self.wrong(&name, format!("there is a bridge \"{}\" already", bridge.name));
            }
            bridges.push(bridge);
        }
        bridges
    }

    fn bridge(&mut self, at: At<RawBridge>) -> Option<Bridge> {
        let place = at.place();
        if KINDS.is_empty() {
            self.wrong(&place, "this program was built without bridges (cargo features such as `bridge-mqtt`)");
            return None;
        }
        let raw = at.value;
        let name = self.name(&place, raw.name.clone())?;
        let (urls, tls) = self.urls(&place, raw.url.clone(), raw.urls.clone())?;
        let kind = Kind::of(urls.first()?)?;
        self.only_known(&raw, kind);
        let mqtt5 = self.word(raw.version.clone(), "version", Bridge::VERSIONS, true);
        self.account(&raw, kind, mqtt5);
        let exactly_once = self.word(raw.delivery, "delivery", Bridge::DELIVERIES, false);
        self.only_with_tls(tls, [&raw.ca_file, &raw.certificate, &raw.key]);
        let identity = self.identity(raw.certificate, raw.key);
        let carries = raw.out.as_ref().is_some_and(|rules| !rules.value.is_empty())
            || raw.ins.as_ref().is_some_and(|rules| !rules.value.is_empty());
        let outs = raw.out.map(|at| self.bridge_rules(at, exactly_once)).unwrap_or_default();
        let ins = raw.ins.map(|at| self.bridge_rules(at, exactly_once)).unwrap_or_default();
        let own = format!("$dead/{name}/");
        if let Some(rule) = outs.iter().find(|rule| rule.filter.starts_with(&own)) {
            let why = "what this bridge gave up does not come into its own queue; let another bridge carry it";
            self.wrong(&place, format!("has the filter \"{}\": {why}", rule.filter));
        }
        let drain_by_ms = raw.drain_by.as_ref().and_then(|at| self.parsed(at, calendar::time_of_day));
        let calendar = raw.utc_offset.as_ref().and_then(|at| self.parsed(at, Calendar::parse)).unwrap_or_default();
        if let Some(at) = raw.utc_offset.as_ref().filter(|_| raw.drain_by.is_none() && raw.bytes_per_day.is_none()) {
            self.wrong(at, "is of `drain_by` and `bytes_per_day`; set one of them, or leave it out");
        }
        if !carries {
            self.wrong(&place, "carries nothing: it needs [[bridges.out]], [[bridges.in]] or both");
        }
        Some(Bridge {
            name,
            urls,
            mqtt5,
            client_id: raw.client_id.and_then(|at| self.not_empty(at)),
            username: raw.username.map(|at| at.value),
            password_file: self.path(raw.password_file),
            credentials_file: self.path(raw.credentials_file),
            ca_file: self.path(raw.ca_file),
            identity,
            keep_alive: duration(raw.keep_alive, defaults::BRIDGE_KEEP_ALIVE),
            exactly_once,
            compression: self.word(raw.compression, "compression", Compression::WORDS, Compression::None),
            sasl: self.word(raw.sasl, "mechanism", Sasl::WORDS, Sasl::default()),
            progress_topic: raw
                .progress_topic
                .and_then(|at| self.not_empty(at))
                .unwrap_or_else(|| defaults::BRIDGE_PROGRESS_TOPIC.to_owned()),
            window: number(raw.window, defaults::BRIDGE_WINDOW),
            stalled_after: duration(raw.stalled_after, defaults::BRIDGE_STALLED_AFTER),
            rate: raw.rate.and_then(|at| self.rate(at)),
            drain_by_ms,
            bytes_per_day: raw.bytes_per_day.map(|at| at.value.0),
            calendar,
            queue: self.bridge_queue(raw.queue.map(|at| at.value)),
            dead_letters: number(raw.dead_letters, defaults::BRIDGE_DEAD_LETTERS),
            refused_topic: self.word(raw.refused_topic, "policy", RefusedTopic::WORDS, RefusedTopic::Wait),
            outs,
            ins,
        })
    }

    fn bridge_queue(&mut self, raw: Option<RawQueue>) -> QueueLimits {
        let raw = raw.unwrap_or_default();
        // An upstream that is away for long is what a bridge's queue is for: it drops nothing unless it is told to.
        let holds = raw.stall_limit.is_none();
        let mut queue = self.queue(raw);
        if holds {
            queue.stall_limit = None;
        }
        queue
    }

    pub(super) fn name(&mut self, place: &At<()>, name: Option<At<String>>) -> Option<String> {
        let Some(name) = name else {
            self.wrong(place, "needs `name`");
            return None;
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.value.is_empty() || name.value.len() > NAME_MAX || !name.value.chars().all(fits) {
            self.wrong(&name, format!("\"{}\" is not 1 to {NAME_MAX} letters, digits, - and _", name.value));
            return None;
        }
        Some(name.value)
    }

    fn parsed<T>(&mut self, at: &At<String>, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        parse(&at.value).map_err(|why| self.wrong(at, why)).ok()
    }

    fn not_empty(&mut self, at: At<String>) -> Option<String> {
        if at.value.is_empty() {
            self.wrong(&at, "must not be empty");
        }
        Some(at.value)
    }

    /// The addresses, and whether one of them has TLS.
    fn urls(
        &mut self,
        place: &At<()>,
        url: Option<At<String>>,
        urls: Option<At<Vec<At<String>>>>,
    ) -> Option<(Vec<String>, bool)> {
        let all = self.all_urls(place, url, urls)?;
        let mut known: Vec<(&Kind, bool)> = Vec::with_capacity(all.len());
        for url in &all {
            match upstream_url(&url.value) {
                Ok(kind) => known.push(kind),
                Err(why) => {
                    self.wrong(url, why);
                    return None;
                }
            }
        }
        let (first, tls) = *known.first()?;
        for (url, (kind, with_tls)) in all.iter().zip(&known) {
            if kind.schemes != first.schemes {
                self.wrong(url, "is of another kind than the first address; a bridge has one kind of upstream");
            } else if *with_tls != tls && kind.has("sasl") {
                // Kafka's servers are learnt from each other, with the addresses of one kind of listener.
                self.wrong(
                    url,
                    "has TLS and the first address has none, or the reverse; a cluster is reached in one way",
                );
            }
        }
        let some_tls = known.iter().any(|(_, with_tls)| *with_tls);
        Some((all.into_iter().map(|at| at.value).collect(), some_tls))
    }

    fn all_urls(
        &mut self,
        place: &At<()>,
        url: Option<At<String>>,
        urls: Option<At<Vec<At<String>>>>,
    ) -> Option<Vec<At<String>>> {
        match (url, urls) {
            (Some(url), None) => return Some(vec![url]),
            (None, Some(urls)) if urls.value.is_empty() => self.wrong(&urls, "must have one address at least"),
            (None, Some(urls)) => return Some(urls.value),
            (Some(_), Some(urls)) => self.wrong(&urls, "there is `url` already; write all addresses here"),
            (None, None) => {
                self.wrong(place, "needs `url`, such as \"mqtts://central.example:8883\", or `urls`");
            }
        }
        None
    }

    /// Who this side is: said once, and in full.
    fn account(&mut self, raw: &RawBridge, kind: &Kind, mqtt5: bool) {
        match (&raw.username, &raw.password_file) {
            (None, Some(file)) if !mqtt5 => {
                self.wrong(file, "MQTT 3.1.1 has a password only with a user name: set `username`");
            }
            (None, Some(file)) if kind.has("username") && !kind.has("token") => {
                self.wrong(file, "is the password of nobody: set `username`");
            }
            _ => {}
        }
        if let Some(file) = &raw.credentials_file
            && (raw.username.is_some() || raw.password_file.is_some())
        {
            self.wrong(file, "says who this side is; leave `username` and `password_file` out");
        }
    }

    /// What an upstream whose topics are names would refuse for each message, or would make slow for all.
    fn named_topic(&mut self, rule: &At<RawBridgeRule>, kind: &Kind) {
        let RawBridgeRule { topic, key, partition, delay_s, .. } = &rule.value;
        if topic.is_none() {
            self.wrong(&rule.place(), "needs `topic`, the name of a topic there, which has no `/`");
        }
        let is_constant = |at: &&At<String>| Template::parse(&at.value).is_ok_and(|template| template.is_constant());
        if let Some(key) = key.as_ref().filter(is_constant)
            && partition.is_none()
        {
            let or = if kind.has("partition") { ", or set `partition`" } else { "" };
            let why =
                "is the same for all messages, which all go to one partition; write a placeholder, such as {topic/2}";
            self.wrong(key, format!("\"{}\" {why}{or}", key.value));
        }
        if let (Some(_), Some(delay)) = (key, delay_s) {
            self.wrong(delay, "a message with a `key` is of a group and cannot be delayed; leave one of the two out");
        }
        let number = |at: &At<String>| at.value.parse::<u32>().is_ok();
        if let Some(delay) = delay_s.as_ref().filter(is_constant).filter(|at| !number(at)) {
            self.wrong(delay, format!("\"{}\" is no number of seconds", delay.value));
        }
    }

    /// Keys that mean nothing to this kind of upstream are refused: whoever wrote one expects it to do something.
    fn only_known(&mut self, raw: &RawBridge, kind: &Kind) {
        let scheme = kind.schemes.first().map_or("", |(scheme, _)| scheme);
        let mut refuse = |at: Option<At<()>>, key: &str| {
            if let Some(at) = at.filter(|_| !kind.has(key)) {
                self.wrong(&at, format!("means nothing to an upstream of the kind {scheme}://; leave it out"));
            }
        };
        refuse(raw.version.as_ref().map(At::place), "version");
        refuse(raw.client_id.as_ref().map(At::place), "client_id");
        refuse(raw.keep_alive.as_ref().map(At::place), "keep_alive");
        refuse(raw.username.as_ref().map(At::place), "username");
        refuse(raw.password_file.as_ref().map(At::place), "username");
        refuse(raw.credentials_file.as_ref().map(At::place), "credentials_file");
        refuse(raw.compression.as_ref().map(At::place), "compression");
        refuse(raw.sasl.as_ref().map(At::place), "sasl");
        refuse(raw.progress_topic.as_ref().map(At::place), "progress_topic");
        refuse(raw.refused_topic.as_ref().map(At::place), "refused_topic");
        refuse(raw.delivery.as_ref().filter(|at| at.value == "exactly-once").map(At::place), "exactly-once");
        refuse(raw.ins.as_ref().filter(|at| !at.value.is_empty()).map(At::place), "in");
        for rule in raw.out.iter().flat_map(|rules| &rules.value) {
            refuse(rule.value.exchange.as_ref().map(At::place), "exchange");
            refuse(rule.value.key.as_ref().map(At::place), "message_key");
            refuse(rule.value.partition.as_ref().map(At::place), "partition");
            refuse(rule.value.tag.as_ref().map(At::place), "tag");
            refuse(rule.value.delay_s.as_ref().map(At::place), "delay_s");
        }
        for rule in raw.out.iter().flat_map(|rules| &rules.value).filter(|_| kind.topics == Topics::Names) {
            self.named_topic(rule, kind);
        }
    }

    fn only_with_tls(&mut self, tls: bool, files: [&Option<At<String>>; 3]) {
        for at in files.into_iter().flatten().filter(|_| !tls) {
            self.wrong(
                at,
                "no address of this bridge is encrypted; write one with TLS, such as mqtts://, or leave the key out",
            );
        }
    }

    fn identity(&mut self, certificate: Option<At<String>>, key: Option<At<String>>) -> Option<TlsFiles> {
        match (certificate, key) {
            (Some(certificate), Some(key)) => {
                let (certificate, key) = (self.path(Some(certificate))?, self.path(Some(key))?);
                Some(TlsFiles { certificate, key })
            }
            (Some(certificate), None) => {
                self.wrong(&certificate, "needs its private key: set `key`");
                None
            }
            (None, Some(key)) => {
                self.wrong(&key, "needs its certificate: set `certificate`");
                None
            }
            (None, None) => None,
        }
    }

    fn bridge_rules(&mut self, raw: At<Vec<At<impl Into<RawBridgeRule>>>>, exactly_once: bool) -> Vec<Rule> {
        let mut rules: Vec<Rule> = Vec::with_capacity(raw.value.len());
        for at in raw.value {
            let place = at.place();
            let RawBridgeRule { filter, topic, qos, exchange, key, partition, tag, delay_s, payload, event_type } =
                at.value.into();
            let Some(filter) = filter else {
                self.wrong(&place, "needs `filter`");
                continue;
            };
            if let Err(why) = topic_filter(&filter.value) {
                self.wrong(&filter, format!("\"{}\" {why}", filter.value));
            }
            if rules.iter().any(|rule| rule.filter == filter.value) {
                self.wrong(&filter, format!("\"{}\" has a rule already; the first one holds", filter.value));
            }
            let parsed = match topic {
                Some(topic) => self.template(&topic),
                None => Template::parse("{topic}").ok(),
            };
            if let Some(at) = qos.as_ref().filter(|at| exactly_once && at.value < 2) {
                self.wrong(at, format!("must be 2 where the delivery is exactly-once, is {}", at.value));
            }
            let qos = number(qos, if exactly_once { 2 } else { 1 });
            let wrapping = self.word(payload, "payload", Wrapping::WORDS, Wrapping::Raw);
            if let Some(at) = event_type.as_ref().filter(|_| wrapping != Wrapping::CloudEvents) {
                self.wrong(at, "is of CloudEvents: set `payload = \"cloudevents\"`, or leave it out");
            }
            let mut optional = |at: Option<At<String>>| at.and_then(|at| self.template(&at));
            let (key, partition) = (optional(key), optional(partition));
            let (tag, delay_s, event_type) = (optional(tag), optional(delay_s), optional(event_type));
            // The exchange without a name is one.
            let exchange = match exchange {
                Some(at) if at.value.is_empty() => Some(Template::default()),
                other => optional(other),
            };
            let Some(topic) = parsed else { continue };
            let filter = filter.value;
            rules.push(Rule { filter, topic, qos, key, partition, exchange, tag, delay_s, wrapping, event_type });
        }
        rules
    }

    pub(super) fn template(&mut self, at: &At<String>) -> Option<Template> {
        let parsed = Template::parse(&at.value);
        if let Err(why) = &parsed {
            self.wrong(at, format!("\"{}\" {why}", at.value));
        }
        parsed.ok()
    }
}

/// The kind of an address, and whether it has TLS.
fn upstream_url(url: &str) -> Result<(&'static Kind, bool), String> {
    // Addresses are shown and logged. This one is not: what is in it may be a password.
    if url.contains('@') {
        return Err(
            "has a user name or a password in it; leave them out, and set `username` and `password_file`".into()
        );
    }
    let (scheme, _) = url.split_once("://").ok_or_else(|| {
        format!("\"{url}\" is not an address to connect to, such as \"mqtts://central.example:8883\"")
    })?;
    let schemes: Vec<&(&str, bool)> = KINDS.iter().flat_map(|kind| kind.schemes).collect();
    let valid: Vec<&str> = schemes.iter().map(|(known, _)| *known).collect();
    let (kind, (_, tls)) = Kind::of(url)
        .zip(schemes.iter().find(|(known, _)| *known == scheme))
        .ok_or_else(|| format!("\"{scheme}\": {}", no_such("kind of upstream", scheme, &valid)))?;
    (kind.check_url)(url)?;
    Ok((kind, *tls))
}
