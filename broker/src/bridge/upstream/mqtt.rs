//! Brokers and clusters that speak MQTT, by this repository's own client. It connects again by itself, resumes its session
//! and repeats under the same packet identifiers, so a lost connection loses and doubles nothing.
//!
//! Exactly once: messages move into the client's durable outbox, each marked with its place in the same commit, and leave the
//! queue when they are on disk there. After a kill of either side each message is in one of the two, and goes on under its
//! packet identifier.
//!
//! What the upstream does not allow stays in the client's outbox, and all behind it, as `refused_topic` says ([`RefusedTopics`]).

use std::collections::VecDeque;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_client::{
    Client, ConnectError, Dropped, Event as ClientEvent, InvalidOptions, Message, Options, Outbox, Properties,
    PublishError, PutOff, QoS, ReasonCode, Reconnect, Restored, Ticket, Tls, Version, WhenRefused,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::marks::Marks;
use super::refused::RefusedTopics;
use super::remote::not_allowed;
use super::{Event, Kind, LeftBehind, Outcome, Outgoing, Setup, Topics, Upstream};
use crate::bridge::identity;
use crate::bridge::inward::{Inward, encode};
use crate::bridge::outward::VIA;
use crate::store::DropReason;

/// Events of the client that may wait to be looked at.
const EVENTS: usize = 64;
/// Shortest and longest wait before connecting again.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));
/// Bytes of messages that are in flight, or in the durable outbox.
const OUTBOX_BYTES: usize = 256 << 20;
/// Commands for a gateway that is off are kept for as long as the upstream can.
const NEVER: Duration = Duration::from_secs(u32::MAX as u64);

/// See [`super::KINDS`].
pub const KIND: Kind = Kind {
    schemes: &[("mqtt", false), ("mqtts", true), ("ws", false), ("wss", true)],
    keys: &["username", "token", "version", "client_id", "keep_alive", "exactly-once", "in", "refused_topic"],
    topics: Topics::Levels,
    check_url: |url| Options::new(url).map(drop).map_err(|error| error.to_string()),
    open: |setup| Box::new(open(setup)),
};

fn open(setup: Setup<'_>) -> Mqtt {
    let bridge = setup.bridge;
    let inward = Arc::new(Inward {
        broker: setup.broker.clone(),
        name: bridge.name.as_str().into(),
        gateway: setup.gateway.clone(),
        slot: setup.taker.slot().clone(),
        figures: setup.figures.clone(),
    });
    let rules = bridge.ins.clone();
    let on_client = Box::new(move |client: &Client| {
        for rule in &rules {
            tokio::spawn(inward.clone().run(client.clone(), rule.clone()));
        }
    });
    Mqtt::new(mqtt_options(setup), on_client)
}

fn mqtt_options(setup: Setup<'_>) -> MqttOptions {
    let Setup { bridge, gateway, epoch, broker, .. } = setup;
    let data_dir = &broker.config.data_dir;
    let client_id = bridge.client_id.clone().unwrap_or_else(|| format!("forebay-{gateway}-{}", bridge.name));
    MqttOptions {
        urls: bridge.urls.clone(),
        version: if bridge.mqtt5 { Version::V5 } else { Version::V311 },
        client_id,
        username: bridge.username.clone(),
        password_file: bridge.password_file.clone(),
        ca_file: bridge.ca_file.clone(),
        identity: bridge.identity.as_ref().map(|files| (files.certificate.clone(), files.key.clone())),
        keep_alive: bridge.keep_alive,
        subscribes: !bridge.ins.is_empty(),
        exactly_once: bridge.exactly_once,
        window: bridge.window,
        outbox: identity::outbox(data_dir, &bridge.name),
        origin: setup.origin().origin,
        epoch: epoch.number,
        unsettled: epoch.unsettled,
        name: bridge.name.clone(),
        data_dir: data_dir.clone(),
        refused: Arc::new(RefusedTopics::new(bridge.refused_topic)),
    }
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct MqttOptions {
    /// Addresses with the same sessions, tried in turn.
    pub urls: Vec<String>,
    /// Protocol version.
    pub version: Version,
    /// Client identifier.
    pub client_id: String,
    /// User name.
    pub username: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// Whom to trust; `None` for the platform's roots.
    pub ca_file: Option<PathBuf>,
    /// Certificate chain and private key of this side.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// How long the connection may be silent.
    pub keep_alive: Duration,
    /// Whether the upstream keeps what comes while this side is away.
    pub subscribes: bool,
    /// A message leaves the queue when it is in the durable outbox. Otherwise when the upstream has acknowledged it: then what
    /// was sent and not acknowledged when the gateway is killed comes again.
    pub exactly_once: bool,
    /// Messages in flight.
    pub window: u16,
    /// The durable outbox.
    pub outbox: PathBuf,
    /// What messages say of themselves: their origin, and its epoch.
    pub origin: Arc<str>,
    /// Made anew with the queue: places of another epoch are other messages.
    pub epoch: u64,
    /// The mark of the outbox is an earlier queue's.
    pub unsettled: bool,
    /// The bridge's name and the data directory, for [`identity::settle`].
    pub name: String,
    /// See `name`.
    pub data_dir: PathBuf,
    /// Topics that the upstream does not allow.
    pub refused: Arc<RefusedTopics>,
}

/// Is told the client when it is made: the way down is a task of its own.
pub type OnClient = Box<dyn FnMut(&Client) + Send>;

/// A message that the client has.
struct Given {
    place: u64,
    /// Where it goes there, if that is to be remembered.
    topic: Option<String>,
    ticket: Ticket,
}

type Storing = Pin<Box<dyn Future<Output = Result<(), PublishError>> + Send>>;

/// The upstream.
pub struct Mqtt {
    options: MqttOptions,
    on_client: OnClient,
    client: Option<Client>,
    /// As it was when the client was made: the place behind the last that the outbox has got.
    mark: u64,
    from_client: Option<mpsc::Receiver<ClientEvent>>,
    events: VecDeque<Event>,
    /// What was said last of what the upstream does not allow.
    put_off: Option<PutOff>,
    /// By QoS: acks of one QoS come in order.
    tickets: [VecDeque<Given>; 3],
    /// The same of an earlier run.
    left: [VecDeque<Restored>; 3],
    /// Places that are being committed, and those that came since.
    storing: Option<(Storing, Vec<u64>)>,
    unstored: Vec<u64>,
    /// The mark is being taken back: nothing is said before that is on disk.
    resetting: Option<Storing>,
    closing: Option<JoinHandle<()>>,
}

impl Mqtt {
    /// Not connected yet.
    #[must_use]
    pub fn new(options: MqttOptions, on_client: OnClient) -> Self {
        Self {
            options,
            on_client,
            client: None,
            mark: 0,
            from_client: None,
            events: VecDeque::new(),
            put_off: None,
            tickets: Default::default(),
            left: Default::default(),
            storing: None,
            unstored: Vec::new(),
            resetting: None,
            closing: None,
        }
    }

    fn start(&mut self) -> Result<(), String> {
        let options = client_options(&self.options)?;
        let client = match options.start() {
            // Nothing was moved into it in this epoch: it was killed while it was made, or is an earlier queue's.
            Err(ConnectError::Store(why)) if self.options.unsettled => {
                let (file, aside) = (&self.options.outbox, self.options.outbox.with_extension("outbox.damaged"));
                tracing::warn!("{why}; the file is set aside as {}", aside.display());
                std::fs::rename(file, aside).map_err(|error| format!("{}: {error}", file.display()))?;
                client_options(&self.options)?.start()
            }
            started => started,
        };
        let client = client.map_err(|error| error.to_string())?;
        if self.options.unsettled && self.options.exactly_once {
            client.set_mark(0);
            self.resetting = Some(Box::pin(client.stored()));
        }
        self.mark = client.mark().unwrap_or(0);
        for restored in client.restored() {
            if let Some(left) = self.left.get_mut(restored.qos as usize) {
                left.push_back(restored);
            }
        }
        let mut events = client.events();
        let (to, from_client) = mpsc::channel(EVENTS);
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if to.send(event).await.is_err() {
                    return;
                }
            }
        });
        self.from_client = Some(from_client);
        (self.on_client)(&client);
        self.client = Some(client);
        Ok(())
    }

    fn message(&self, out: &Outgoing) -> Message {
        let mut properties = Properties::decode(out.message.properties());
        if self.options.version.is_v5() {
            let marks = Marks { origin: self.options.origin.clone(), epoch: self.options.epoch };
            marks.mark(out, &mut properties.user);
            properties.user.retain(|(name, _)| name != VIA);
            properties.user.push((VIA.to_owned(), out.via.clone()));
        }
        let payload = Bytes::copy_from_slice(out.message.payload());
        let message = Message::new(out.topic.as_str(), payload).qos(qos(out.qos)).retain(out.retain);
        let message = match out.expiry_s {
            Some(left) => message.expires_after(Duration::from_secs(u64::from(left))),
            None => message,
        };
        if properties == Properties::default() { message } else { message.properties(properties) }
    }

    fn poll_tickets(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        for tickets in &mut self.tickets {
            let Some(given) = tickets.front_mut() else { continue };
            let Poll::Ready(outcome) = Pin::new(&mut given.ticket).poll(cx) else { continue };
            let Some(given) = tickets.pop_front() else { continue };
            if let Some(outcome) = settled(outcome.err()) {
                if let Some(topic) = given.topic.filter(|_| outcome == Outcome::Delivered) {
                    self.options.refused.taken(&topic);
                }
                return Poll::Ready(Event::Settled(given.place, outcome));
            }
            // The client has ended, and says so by itself.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// What an earlier run left behind has no place in the queue any more. What becomes of it is nobody's concern, unless it is lost.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        for left in &mut self.left {
            while let Some(first) = left.front_mut() {
                let Poll::Ready(outcome) = Pin::new(&mut first.ticket).poll(cx) else { break };
                let Some(restored) = left.pop_front() else { break };
                if let Some(Outcome::Refused(reason, why)) = settled(outcome.err()) {
                    return Poll::Ready(Event::Dead(Box::new(left_behind(restored, reason, why))));
                }
            }
        }
        Poll::Pending
    }

    fn poll_stored(&mut self, cx: &mut Context<'_>) {
        if self.storing.is_none()
            && !self.unstored.is_empty()
            && let Some(client) = &self.client
        {
            self.storing = Some((Box::pin(client.stored()), std::mem::take(&mut self.unstored)));
        }
        let Some((storing, _)) = &mut self.storing else { return };
        if let Poll::Ready(stored) = storing.as_mut().poll(cx)
            && let Some((_, places)) = self.storing.take()
        {
            // What came meanwhile is next.
            cx.waker().wake_by_ref();
            if stored.is_ok() {
                self.events.extend(places.into_iter().map(|place| Event::Settled(place, Outcome::Stored)));
            }
        }
    }

    /// Ready: there is nothing to reset (any more).
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        let Some(resetting) = &mut self.resetting else { return Poll::Ready(Ok(())) };
        let Poll::Ready(reset) = resetting.as_mut().poll(cx) else { return Poll::Pending };
        self.resetting = None;
        let options = &self.options;
        let settle = || identity::settle(&options.data_dir, &options.name, options.epoch);
        let settled = reset.map_err(|why| why.to_string()).and_then(|()| settle().map_err(|why| why.to_string()));
        self.options.unsettled = settled.is_err();
        Poll::Ready(settled)
    }

    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        while let Some(events) = &mut self.from_client {
            let Poll::Ready(event) = events.poll_recv(cx) else { return Poll::Pending };
            self.look_at_put_off();
            match event {
                Some(ClientEvent::Connected(_)) => return Poll::Ready(Event::Connected),
                Some(ClientEvent::Lost(why)) => return Poll::Ready(self.offline(&why)),
                Some(ClientEvent::Failed(why)) => return Poll::Ready(self.offline(&why)),
                Some(ClientEvent::Ended(why)) => return Poll::Ready(Event::Lost(why.to_string())),
                Some(_) => {}
                None => self.from_client = None,
            }
        }
        Poll::Pending
    }
}

impl Mqtt {
    fn offline(&mut self, why: &impl ToString) -> Event {
        // What an upstream that was away said before is no proof.
        self.options.refused.forget();
        Event::Offline(why.to_string())
    }

    /// Events may be missed; how it is now is not.
    fn look_at_put_off(&mut self) {
        let now = self.client.as_ref().and_then(Client::put_off);
        if now != self.put_off {
            self.events.push_back(Event::Blocked(now.as_ref().map(why_put_off)));
            self.put_off = now;
        }
    }
}

fn why_put_off(put_off: &PutOff) -> String {
    let PutOff { topic, reason, .. } = put_off;
    format!("not taken for now: {}", not_allowed(&format!("{topic}: {} (0x{:02x})", reason.name(), *reason as u8)))
}

/// What becomes of a message that the upstream refuses.
fn judge(refused: &RefusedTopics, topic: &str, reason: ReasonCode) -> WhenRefused {
    if reason != ReasonCode::NotAuthorized {
        return WhenRefused::Drop;
    }
    match refused.refused((topic, 0), String::new(), Instant::now()) {
        Outcome::Retry(_) => WhenRefused::PutOff,
        Outcome::Refused(..) | Outcome::Stored | Outcome::Delivered | Outcome::Expired => WhenRefused::Drop,
    }
}

fn left_behind(restored: Restored, reason: String, why: DropReason) -> LeftBehind {
    let Restored { topic, payload, qos, mut properties, .. } = restored;
    // It would have come through this gateway twice, if it is sent again.
    properties.user.retain(|(name, _)| name != VIA);
    let properties = encode(&properties);
    LeftBehind { topic: topic.to_string(), properties, payload: payload.to_vec(), qos: qos as u8, reason, why }
}

impl Upstream for Mqtt {
    fn connect(&mut self, _attempt: u32) {
        if let Err(reason) = self.start() {
            self.events.push_back(Event::Lost(reason));
        }
    }

    fn stored_up_to(&self) -> Option<u64> {
        self.mark.checked_sub(1)
    }

    fn send(&mut self, out: Outgoing) -> Result<(), Box<Outgoing>> {
        let Some(client) = &self.client else { return Err(Box::new(out)) };
        let stores = self.options.exactly_once;
        let message = self.message(&out);
        let taken =
            if stores { client.try_publish_marked(message, out.place + 1) } else { client.try_publish(message) };
        let refused = match taken {
            Ok(ticket) => {
                if stores && out.qos > 0 {
                    self.unstored.push(out.place);
                }
                if let Some(tickets) = self.tickets.get_mut(usize::from(out.qos)) {
                    let topic = self.options.refused.remembers().then_some(out.topic);
                    tickets.push_back(Given { place: out.place, topic, ticket });
                }
                return Ok(());
            }
            Err(PublishError::Invalid(why)) => Outcome::Refused(why.to_string(), DropReason::Refused),
            Err(why @ PublishError::TooLarge { .. }) => Outcome::Refused(why.to_string(), DropReason::TooLarge),
            Err(_) => return Err(Box::new(out)),
        };
        self.events.push_back(Event::Settled(out.place, refused));
        Ok(())
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        match self.poll_reset(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(why)) => return Poll::Ready(Event::Lost(why)),
            Poll::Pending => return Poll::Pending,
        }
        if let Poll::Ready(event) = self.poll_client(cx) {
            return Poll::Ready(event);
        }
        self.poll_stored(cx);
        match self.events.pop_front() {
            Some(event) => Poll::Ready(event),
            None => match self.poll_tickets(cx) {
                Poll::Pending => self.poll_left(cx),
                ready => ready,
            },
        }
    }

    fn close(&mut self) {
        self.from_client = None;
        self.events.clear();
        (self.tickets, self.left, self.put_off) = Default::default();
        (self.storing, self.unstored, self.resetting) = (None, Vec::new(), None);
        if let Some(client) = self.client.take() {
            self.closing = Some(tokio::spawn(async move { client.close().await }));
        }
    }

    /// Ready when the last client is gone, and its file with it.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.closing {
            Some(closing) => Pin::new(closing).poll(cx).map(|_| self.closing = None),
            None => Poll::Ready(()),
        }
    }
}

/// `None`: nothing is known, the client has ended.
fn settled(dropped: Option<Dropped>) -> Option<Outcome> {
    let Some(dropped) = dropped else { return Some(Outcome::Delivered) };
    #[allow(clippy::wildcard_enum_match_arm, reason = "whatever comes new is a refusal until it is looked at")]
    let why = match &dropped {
        Dropped::Ended(_) => return None,
        Dropped::Expired => return Some(Outcome::Expired),
        Dropped::NotTaken(forebay_wire::ReasonCode::PacketTooLarge) => DropReason::TooLarge,
        Dropped::ConnectionLost => DropReason::Qos0,
        _ => DropReason::Refused,
    };
    Some(Outcome::Refused(dropped.to_string(), why))
}

fn qos(n: u8) -> QoS {
    match n {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

fn client_options(from: &MqttOptions) -> Result<Options, String> {
    let text = |error: InvalidOptions| error.to_string();
    let (first, others) = from.urls.split_first().ok_or("it has no address")?;
    let mut options = Options::new(first).map_err(text)?;
    for url in others {
        options = options.also(url).map_err(text)?;
    }
    let (min, max) = RECONNECT;
    let window = usize::from(from.window);
    options = options
        .version(from.version)
        .client_id(from.client_id.as_str())
        .clean_start(false)
        .keep_alive(from.keep_alive)
        .window(from.window)
        .outbox(Outbox { max_messages: window * 2, max_bytes: OUTBOX_BYTES, ..Outbox::default() })
        .reconnect(Reconnect { min, max, ..Reconnect::default() })
        .when_refused({
            let refused = from.refused.clone();
            move |topic, reason| judge(&refused, topic, reason)
        })
        .tls(tls(from)?);
    if from.subscribes {
        options = options.session_expiry(NEVER);
    }
    // What an earlier run left in it goes on, whatever holds now.
    if from.exactly_once || from.outbox.exists() {
        options = options.durable(&from.outbox);
    }
    if let Some(name) = &from.username {
        options = options.username(name.as_str());
    }
    if let Some(file) = &from.password_file {
        let read = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        options = options.password(read.trim_ascii_end().to_vec());
    }
    Ok(options)
}

fn tls(from: &MqttOptions) -> Result<Tls, String> {
    let text = |error: InvalidOptions| error.to_string();
    let mut tls = Tls::new();
    if let Some(file) = &from.ca_file {
        tls = tls.ca_file(file).map_err(text)?;
    }
    if let Some((chain, key)) = &from.identity {
        tls = tls.identity(chain, key).map_err(text)?;
    }
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_allowed_waits_unless_the_configuration_says_otherwise() {
        use crate::config::RefusedTopic;
        for policy in [RefusedTopic::Wait, RefusedTopic::DeadLetter] {
            let refused = RefusedTopics::new(policy);
            // A dead letter when that has lasted: see the tests of RefusedTopics.
            assert_eq!(judge(&refused, "t", ReasonCode::NotAuthorized), WhenRefused::PutOff);
            assert_eq!(judge(&refused, "t", ReasonCode::TopicNameInvalid), WhenRefused::Drop);
        }
    }

    #[test]
    fn what_the_client_says_is_classed() {
        let refused = |why| Some(Outcome::Refused(String::new(), why));
        let class = |dropped| match settled(Some(dropped)) {
            Some(Outcome::Refused(_, why)) => refused(why),
            other => other,
        };
        assert_eq!(settled(None), Some(Outcome::Delivered));
        assert_eq!(class(Dropped::Expired), Some(Outcome::Expired));
        assert_eq!(class(Dropped::Ended(forebay_client::EndReason::Dropped)), None);
        assert_eq!(class(Dropped::ConnectionLost), refused(DropReason::Qos0));
        assert_eq!(class(Dropped::NotTaken(forebay_wire::ReasonCode::PacketTooLarge)), refused(DropReason::TooLarge));
        assert_eq!(class(Dropped::Refused(forebay_wire::ReasonCode::NotAuthorized)), refused(DropReason::Refused));
        assert_eq!(class(Dropped::SetAside { connections: 5 }), refused(DropReason::Refused));
    }
}
