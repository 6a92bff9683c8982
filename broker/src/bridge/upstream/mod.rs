//! Where a bridge's messages go: one module for each kind of cluster, behind one trait. A new kind is a file and a line of
//! [`KINDS`]; docs/bridges.md says how.

#[cfg(feature = "amqp1")]
pub mod amqp1;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod marks;
#[cfg(feature = "bridge-mqtt")]
pub mod mqtt;
#[cfg(feature = "nats")]
pub mod nats;
pub mod piped;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
pub mod refused;
pub mod remote;
#[cfg(feature = "rocketmq")]
pub mod rocketmq;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};

use super::identity::Epoch;
use super::template::{Fill, Missing, Template};
use crate::broker::{Broker, Taker};
use crate::config::Bridge;
use crate::message::Message;
use crate::store::DropReason;

/// The kinds that this program has.
pub const KINDS: &[Kind] = &[
    #[cfg(feature = "bridge-mqtt")]
    mqtt::KIND,
    #[cfg(feature = "rabbitmq")]
    rabbitmq::KIND,
    #[cfg(feature = "nats")]
    nats::KIND,
    #[cfg(feature = "kafka")]
    kafka::KIND,
    #[cfg(feature = "amqp1")]
    amqp1::KIND,
    #[cfg(feature = "rocketmq")]
    rocketmq::KIND,
    #[cfg(feature = "http")]
    http::KIND,
];

/// A kind of upstream, for the configuration.
pub struct Kind {
    /// The schemes of its addresses, and whether they are encrypted.
    pub schemes: &'static [(&'static str, bool)],
    /// The keys of `[[bridges]]` and its rules that only some kinds know, and this one does. See [`OWN_KEYS`].
    pub keys: &'static [&'static str],
    /// What a topic of it looks like.
    pub topics: Topics,
    /// What is wrong with an address, if something is.
    pub check_url: fn(&str) -> Result<(), String>,
    /// Makes one that is not connected.
    pub open: fn(Setup<'_>) -> Box<dyn Upstream>,
}

impl Kind {
    /// The kind of this address.
    #[must_use]
    pub fn of(url: &str) -> Option<&'static Self> {
        let scheme = url.split_once("://")?.0;
        KINDS.iter().find(|kind| kind.schemes.iter().any(|(known, _)| *known == scheme))
    }

    /// Whether it knows a key of [`OWN_KEYS`].
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.keys.contains(&key)
    }
}

/// What the topics of a kind of upstream look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topics {
    /// They may have levels: a topic of MQTT can be written as one.
    Levels,
    /// They are names of few characters: each rule must say which one it means.
    Names,
}

/// Keys that only some kinds of upstream know.
pub const OWN_KEYS: &[&str] = &[
    "version",
    "client_id",
    "keep_alive",
    "exactly-once",
    "compression",
    "sasl",
    "progress_topic",
    "in",
    "exchange",
    "message_key",
    "partition",
    "username",
    // A `password_file` without a user name.
    "token",
    "credentials_file",
    "tag",
    "delay_s",
    "refused_topic",
];

/// What an upstream is made from.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    /// The bridge's configuration.
    pub bridge: &'a Bridge,
    /// This gateway's name.
    pub gateway: &'a Arc<str>,
    /// The life of the bridge's queue.
    pub epoch: Epoch,
    /// The broker, for a way down.
    pub broker: &'a Arc<Broker>,
    /// The bridge's queue: what a way down brings is published in its name.
    pub taker: &'a Arc<Taker>,
    /// For a way down.
    pub figures: &'a Arc<InFigures>,
}

impl Setup<'_> {
    /// What messages say of where they come from.
    #[must_use]
    pub fn origin(&self) -> marks::Marks {
        marks::Marks { origin: format!("{}.{}", self.gateway, self.bridge.name).into(), epoch: self.epoch.number }
    }
}

/// What has come down since the start.
#[derive(Debug, Default)]
pub struct InFigures {
    /// Messages that came, and were published here.
    pub received: AtomicU64,
    /// Messages that had come through this gateway, or through too many.
    pub looped: AtomicU64,
    /// Messages that could not be published here: what their topic is made from is missing, or it is no topic.
    pub unfit: AtomicU64,
}

/// A message on its way to the upstream.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Its place in the bridge's queue: ascending, never another message's, the same after a restart.
    pub place: u64,
    /// It may have been sent before.
    pub repeated: bool,
    /// Where it goes there, as the upstream names it.
    pub topic: String,
    /// Messages of the same key stay in order, where the upstream divides a topic.
    pub key: Option<String>,
    /// The part of the topic, where the upstream divides one.
    pub partition: Option<String>,
    /// The exchange, where the upstream has such.
    pub exchange: Option<String>,
    /// What consumers choose by, where the upstream has such.
    pub tag: Option<String>,
    /// After how many seconds it is to be seen, where the upstream can wait.
    pub delay_s: Option<String>,
    /// 0 to 2.
    pub qos: u8,
    /// The RETAIN flag.
    pub retain: bool,
    /// Whole seconds that are left of its expiry, when it is sent.
    pub expiry_s: Option<u32>,
    /// Gateways that it came through, this one the last.
    pub via: String,
    /// The message itself.
    pub message: Arc<Message>,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream's module has it on disk, and delivers it over a crash without being given it again. A second outcome
    /// follows.
    Stored,
    /// The upstream confirmed it.
    Delivered,
    /// Its time was over before it was sent.
    Expired,
    /// It was not taken now, for this reason, and may be later. It is sent again.
    Retry(String),
    /// It will never be taken, for this reason.
    Refused(String, DropReason),
}

/// What an upstream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It answers.
    Connected,
    /// It cannot be reached now. The module connects again by itself, and keeps what it was given.
    Offline(String),
    /// The connection is gone, with all that was not settled. The supervisor connects again.
    Lost(String),
    /// The server has ended the connection, with messages in flight that it has said nothing of: the first of them may be why.
    /// [`Event::Lost`] follows.
    Ended,
    /// It asks not to be sent anything, for this reason; `None`: it takes messages again.
    Blocked(Option<String>),
    /// This is what became of the message at this place.
    Settled(u64, Outcome),
    /// A message that was [`Outcome::Stored`] before a restart will never be taken.
    Dead(Box<LeftBehind>),
}

/// A message that no queue has any more: the upstream's module had it on disk at a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftBehind {
    /// Where it was to go there: where it came from is not known any more.
    pub topic: String,
    /// Its properties, as they are forwarded to subscribers.
    pub properties: Vec<u8>,
    /// Its payload.
    pub payload: Vec<u8>,
    /// 0 to 2.
    pub qos: u8,
    /// Why it is not taken, in the upstream's words.
    pub reason: String,
    /// The same, for the counters.
    pub why: DropReason,
}

/// A kind of upstream.
pub trait Upstream: Send {
    /// Begins to connect; [`Event::Connected`] or [`Event::Lost`] follows. `attempt` counts from 0, so that one of several
    /// addresses can be chosen.
    fn connect(&mut self, attempt: u32);

    /// All messages up to this place were [`Outcome::Stored`] before a restart: they are not sent again. Asked when it is
    /// connected.
    fn stored_up_to(&self) -> Option<u64> {
        None
    }

    /// Where a message goes, in the upstream's own names.
    ///
    /// # Errors
    /// The message lacks what the template wants.
    fn destination(&self, template: &Template, from: Fill<'_>) -> Result<String, Missing> {
        template.fill(from)
    }

    /// Sends without waiting. What is sent is settled in any order.
    ///
    /// # Errors
    /// There is no room now: the message, to be given again later.
    fn send(&mut self, message: Outgoing) -> Result<(), Box<Outgoing>>;

    /// The next thing that happened.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event>;

    /// Gives the connection up.
    fn close(&mut self);

    /// Ready when nothing is left of the connections that were given up.
    fn poll_closed(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

impl Upstream for Box<dyn Upstream> {
    fn connect(&mut self, attempt: u32) {
        (**self).connect(attempt);
    }

    fn stored_up_to(&self) -> Option<u64> {
        (**self).stored_up_to()
    }

    fn destination(&self, template: &Template, from: Fill<'_>) -> Result<String, Missing> {
        (**self).destination(template, from)
    }

    fn send(&mut self, message: Outgoing) -> Result<(), Box<Outgoing>> {
        (**self).send(message)
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        (**self).poll_event(cx)
    }

    fn close(&mut self) {
        (**self).close();
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_closed(cx)
    }
}

/// A topic as a name whose words are its levels: `/` and `.` change places, as RabbitMQ's own MQTT has it, so that the topic can
/// be had back.
pub fn swap_dots(value: &str, name: &mut String) {
    name.extend(value.chars().map(|c| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    }));
}

/// The address of an attempt: all are tried in turn.
#[must_use]
pub fn address(urls: &[String], attempt: u32) -> &str {
    let count = u32::try_from(urls.len()).unwrap_or(u32::MAX).max(1);
    urls.get((attempt % count) as usize).map_or("", String::as_str)
}

/// The password, without its last line break.
///
/// # Errors
/// The file cannot be read, or is not UTF-8.
pub fn password(file: Option<&std::path::Path>) -> Result<Option<String>, String> {
    let Some(file) = file else { return Ok(None) };
    let read = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(Some(read.trim_ascii_end().to_owned()))
}
