//! How a client connects, and what it keeps.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_wire::reason::ReasonCode;
use forebay_wire::topic;
use forebay_wire::types::Version;

use crate::error::InvalidOptions;
use crate::message::{LEVELS_MAX, Message, Properties, check_string};
use crate::transport::Connector;
use crate::url::Address;
use crate::{Authenticator, QoS};

/// Bounds of [`Reconnect::min`] and [`Reconnect::max`].
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 24 * 3600);

/// All that a client is told before it starts. Every setting has a default; the URL has none.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use forebay_client::{Message, Options, QoS};
/// let client = Options::new("mqtt://127.0.0.1:1883")?.client_id("sensor-7").connect().await?;
/// let ticket = client.publish(Message::new("site/7", "21.5").qos(QoS::AtLeastOnce)).await?;
/// ticket.await?; // the server has it
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Options {
    pub(crate) addresses: Vec<Address>,
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) clean_start: Option<bool>,
    pub(crate) session_expiry: Option<Duration>,
    pub(crate) keep_alive: Duration,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Bytes>,
    pub(crate) will: Option<Will>,
    pub(crate) user_properties: Vec<(String, String)>,
    pub(crate) request_response_information: bool,
    pub(crate) without_problem_information: bool,
    pub(crate) receive_maximum: u16,
    pub(crate) maximum_packet_size: u32,
    pub(crate) largest_sent: u32,
    pub(crate) topic_alias_maximum: u16,
    pub(crate) topic_aliases: bool,
    pub(crate) window: u16,
    pub(crate) coalesce: bool,
    pub(crate) outbox: Outbox,
    pub(crate) inbox: Inbox,
    pub(crate) reconnect: Reconnect,
    pub(crate) connect_timeout: Duration,
    pub(crate) authenticator: Option<Arc<dyn Authenticator>>,
    pub(crate) connector: Option<Arc<dyn Connector>>,
    pub(crate) when_refused: Option<Judge>,
    #[cfg(feature = "websocket")]
    pub(crate) websocket_headers: Vec<crate::transport::Header>,
    #[cfg(feature = "tls")]
    pub(crate) tls: crate::tls::Tls,
    #[cfg(feature = "durable")]
    pub(crate) durable: Option<std::path::PathBuf>,
}

/// What becomes of a message that the server refuses; see [`Options::when_refused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenRefused {
    /// It is dropped.
    Drop,
    /// It stays, and so does all behind it, until the server takes it or it expires:
    /// [`Event::PutOff`](crate::Event::PutOff), [`Client::put_off`](crate::Client::put_off).
    PutOff,
}

/// See [`Options::when_refused`].
#[derive(Clone)]
pub(crate) struct Judge(pub(crate) Arc<OnRefusal>);

type OnRefusal = dyn Fn(&str, ReasonCode) -> WhenRefused + Send + Sync;

/// A message that the server publishes when the connection ends without DISCONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    pub(crate) message: Message,
    pub(crate) delay: Duration,
}

impl Will {
    /// At once.
    #[must_use]
    pub fn new(message: Message) -> Self {
        Self { message, delay: Duration::ZERO }
    }

    /// Only when the client has not come back after this time; MQTT 5, whole seconds.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

/// What waits for the server: messages that are accepted and not acknowledged yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbox {
    /// Messages that it holds at most; 10,000 by default.
    pub max_messages: usize,
    /// Bytes of topics, properties and payloads that it holds at most; 16 MiB by default.
    pub max_bytes: usize,
    /// What becomes of one message more; by default `publish` waits.
    pub when_full: WhenFull,
    /// Connections in a row that the server may end, with nothing acknowledged, while the same message is the first on the
    /// way, before it is taken for one that the server will never take: it is dropped, its ticket, a counter and
    /// [`Event::SetAside`](crate::Event::SetAside) say so, and those behind it go on. (MQTT 3.1.1 has no other answer to a
    /// message that is too large.) From the second on, one message at a time is sent, so that it is the right one, and it is
    /// not dropped before it was alone twice. `None`: never, and everything behind it waits. 5 by default.
    pub max_losses: Option<NonZeroU32>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { max_messages: 10_000, max_bytes: 16 << 20, when_full: WhenFull::Wait, max_losses: NonZeroU32::new(5) }
    }
}

/// What becomes of a message for which the outbox has no room. Messages that were sent and are not acknowledged are never
/// dropped to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// `publish` waits; `try_publish` gives the message back.
    Wait,
    /// `publish` gives the message back.
    Reject,
    /// The oldest messages that were not sent yet are dropped. When there would be no room then either, nothing is, and the
    /// message is given back.
    DropOldest,
    /// An unsent message of the same topic is replaced, in its place, at any time, full or not; when there is none and no
    /// room either, the message is given back.
    KeepLast,
}

/// What waits for the program: messages that subscriptions have and the program has not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbox {
    /// Bytes after which the client reads no more from the server until the program has read some; twice as many while the
    /// server owes an ack, or the answer to SUBSCRIBE or UNSUBSCRIBE. A program that waits for such a one and reads its
    /// subscriptions in one task must not let them fill. 16 MiB by default.
    pub max_bytes: usize,
    /// QoS 1 and 2 messages that no subscription of this program matches (left over from an earlier one) which are kept
    /// for a subscription that is made later, and at most `max_bytes` of them. What is over is acknowledged, dropped,
    /// counted and logged. 65,535 by default.
    pub max_unclaimed: usize,
    /// How long they are kept. Acks leave in the order of the messages: until these are claimed, or this time is over, the
    /// server waits for the acks of all that came after them. 10 s by default.
    pub unclaimed_for: Duration,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { max_bytes: 16 << 20, max_unclaimed: usize::from(u16::MAX), unclaimed_for: Duration::from_secs(10) }
    }
}

/// When to try again. Times are drawn by decorrelated jitter: each between `min` and three times the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// Shortest time; 1 ms at least, 250 ms by default.
    pub min: Duration,
    /// Longest time; 30 days at most, 60 s by default.
    pub max: Duration,
    /// How long a connection must last before the next time is the shortest again; 20 s by default.
    pub stable_after: Duration,
    /// Attempts in a row that fail before the client gives up; `None`, the default: never.
    pub max_attempts: Option<u32>,
    /// Whether a refusal that trying again will not change (credentials, client identifier, protocol version) ends the
    /// client; otherwise, and by default, it goes on at the longest time.
    pub give_up_when_refused: bool,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            min: Duration::from_millis(250),
            max: Duration::from_secs(60),
            stable_after: Duration::from_secs(20),
            max_attempts: None,
            give_up_when_refused: false,
        }
    }
}

impl Reconnect {
    /// The first connection that fails or ends is the last.
    #[must_use]
    pub fn never() -> Self {
        Self { max_attempts: Some(0), give_up_when_refused: true, ..Self::default() }
    }
}

impl Options {
    /// Options with one server: `mqtt://`, `mqtts://`, `ws://`, `wss://` or `unix://`, then optionally `user:password@`,
    /// host and port, for example `mqtts://user@broker.example:8883`. MQTT 5 unless [`Options::version`] says otherwise.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn new(url: &str) -> Result<Self, InvalidOptions> {
        let parsed = crate::url::parse(url)?;
        Ok(Self {
            addresses: vec![parsed.address],
            version: Version::V5,
            client_id: String::new(),
            clean_start: None,
            session_expiry: None,
            keep_alive: Duration::from_secs(60),
            username: parsed.username,
            password: parsed.password.map(Bytes::from),
            will: None,
            user_properties: Vec::new(),
            request_response_information: false,
            without_problem_information: false,
            receive_maximum: 1_000,
            maximum_packet_size: 16 << 20,
            largest_sent: u32::MAX,
            topic_alias_maximum: 0,
            topic_aliases: true,
            window: 1_000,
            coalesce: true,
            outbox: Outbox::default(),
            inbox: Inbox::default(),
            reconnect: Reconnect::default(),
            connect_timeout: Duration::from_secs(20),
            authenticator: None,
            connector: None,
            when_refused: None,
            #[cfg(feature = "websocket")]
            websocket_headers: Vec::new(),
            #[cfg(feature = "tls")]
            tls: crate::tls::Tls::default(),
            #[cfg(feature = "durable")]
            durable: None,
        })
    }

    /// Another server with the same sessions, tried in turn: at once when one cannot be reached, and after a wait when a
    /// connection is lost. One that asked for patience (`retry-after-ms`) is passed over until then.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn also(mut self, url: &str) -> Result<Self, InvalidOptions> {
        self.addresses.push(crate::url::parse(url)?.address);
        Ok(self)
    }

    /// Protocol version; MQTT 5 by default.
    #[must_use]
    pub fn version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// Client identifier; without one the server gives one in MQTT 5, and 3.1.1 gets a random one.
    #[must_use]
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.client_id = id.into();
        self
    }

    /// Whether the first connection starts a new session. Without this call it does unless there is something to resume:
    /// a session expiry or a durable outbox.
    ///
    /// A program that comes back to its session without a durable outbox knows nothing of it. To the letter of MQTT 5 it
    /// would have to give the session up [MQTT5-3.2.2-4], and all messages that wait in it. This client keeps it, and gets
    /// those; what the program that ended had in its outbox is lost, and a QoS 2 message that it had read may come once more.
    /// The server may hold QoS 2 messages of it half way: before a packet identifier is used for QoS 2 the first time, it
    /// is released (PUBREL), so that no new message is taken for one of those and lost.
    #[must_use]
    pub fn clean_start(mut self, clean: bool) -> Self {
        self.clean_start = Some(clean);
        self
    }

    /// How long the server keeps the session after the connection has ended; in MQTT 3.1.1 anything above zero is for
    /// ever. Without this call: for an hour in MQTT 5 when there is a client identifier, and the client ends it with its
    /// DISCONNECT; not at all when there is none, since nobody could come back to the session of a program that was killed,
    /// and the server would fill a queue for it.
    #[must_use]
    pub fn session_expiry(mut self, expiry: Duration) -> Self {
        self.session_expiry = Some(expiry);
        self
    }

    /// How long the connection may be silent; zero for ever; 60 s by default. A server of MQTT 5 may ask for another.
    ///
    /// A dead connection is noticed within one and a half times this. It takes longer while data is under way: the answer to
    /// a PINGREQ comes only when the socket's buffer before it is through, and a slow line is not a dead one. So one second is
    /// added for each 2 KiB that were written since the PINGREQ before: 32 s for the 64 KiB after which another is sent, and
    /// as much as a single larger message takes, 15 minutes at most. The same connection is given up earlier when TCP does.
    #[must_use]
    pub fn keep_alive(mut self, keep_alive: Duration) -> Self {
        self.keep_alive = keep_alive;
        self
    }

    /// User name.
    #[must_use]
    pub fn username(mut self, name: impl Into<String>) -> Self {
        self.username = Some(name.into());
        self
    }

    /// Password: any bytes.
    #[must_use]
    pub fn password(mut self, password: impl Into<Bytes>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Will.
    #[must_use]
    pub fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    /// A user property of CONNECT.
    #[must_use]
    pub fn user_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.user_properties.push((name.into(), value.into()));
        self
    }

    /// Asks the server where answers to requests should go.
    #[must_use]
    pub fn request_response_information(mut self) -> Self {
        self.request_response_information = true;
        self
    }

    /// Asks the server to say less: no reason strings and no user properties where it refuses something [MQTT5-3.1.2-28]. A
    /// broker cannot say then when to try again, either.
    #[must_use]
    pub fn without_problem_information(mut self) -> Self {
        self.without_problem_information = true;
        self
    }

    /// QoS 1 and 2 messages that the server may send before the program has acknowledged them; 1 to 65,535, 1,000 by default.
    #[must_use]
    pub fn receive_maximum(mut self, maximum: u16) -> Self {
        self.receive_maximum = maximum;
        self
    }

    /// Bytes of the largest packet that is sent, header included, where the server does not say less. For MQTT 3.1.1, which
    /// has no word for it: a message that is larger is dropped ([`Dropped::NotTaken`](crate::Dropped::NotTaken)) before the
    /// server ends the connection for it. No limit by default.
    #[must_use]
    pub fn largest_packet_sent(mut self, bytes: u32) -> Self {
        self.largest_sent = bytes;
        self
    }

    /// Bytes of the largest packet that is taken from the server; 16 MiB by default. In MQTT 3.1.1, where it cannot be told, a
    /// larger message is skipped, acknowledged and said ([`Event::TooLarge`](crate::Event::TooLarge)).
    #[must_use]
    pub fn maximum_packet_size(mut self, bytes: u32) -> Self {
        self.maximum_packet_size = bytes;
        self
    }

    /// Topic aliases that the server may use towards this client; none by default.
    #[must_use]
    pub fn topic_alias_maximum(mut self, maximum: u16) -> Self {
        self.topic_alias_maximum = maximum;
        self
    }

    /// Whether topics that repeat are sent as aliases where the server takes them. On by default.
    #[must_use]
    pub fn topic_aliases(mut self, on: bool) -> Self {
        self.topic_aliases = on;
        self
    }

    /// QoS 1 and 2 messages that are sent before the first of them is acknowledged; the server's Receive Maximum bounds it
    /// as well. Before MQTT 5, which knows no Receive Maximum, at most 20 of QoS 2: some servers end a connection with more. 1,000 by default.
    #[must_use]
    pub fn window(mut self, messages: u16) -> Self {
        self.window = messages;
        self
    }

    /// Whether messages and acks that come one by one, at more than about 20,000 a second, are read every 0.2 ms in place of
    /// each by itself: two to four times less processor time for up to 0.2 ms. On by default; it does nothing where there is
    /// no Linux.
    #[must_use]
    pub fn coalesce(mut self, on: bool) -> Self {
        self.coalesce = on;
        self
    }

    /// What waits for the server.
    #[must_use]
    pub fn outbox(mut self, outbox: Outbox) -> Self {
        self.outbox = outbox;
        self
    }

    /// What waits for the program.
    #[must_use]
    pub fn inbox(mut self, inbox: Inbox) -> Self {
        self.inbox = inbox;
        self
    }

    /// When to try again.
    #[must_use]
    pub fn reconnect(mut self, reconnect: Reconnect) -> Self {
        self.reconnect = reconnect;
        self
    }

    /// How long name resolution, TCP, TLS, WebSocket and CONNACK may take together; 20 s by default.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Enhanced authentication of MQTT 5.
    #[must_use]
    pub fn authenticator(mut self, authenticator: Arc<dyn Authenticator>) -> Self {
        self.authenticator = Some(authenticator);
        self
    }

    /// What becomes of a message of QoS 1 or 2 that the server refuses for another reason than want of room: `judge` is asked with its
    /// topic and the server's reason code. Without it such a message is dropped, and its ticket is told
    /// [`Dropped::Refused`](crate::Dropped::Refused). MQTT 3.1.1 has no reason codes: there nothing is ever refused.
    ///
    /// ```
    /// use forebay_client::{Options, ReasonCode, WhenRefused};
    /// # fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = Options::new("mqtt://127.0.0.1:1883")?.when_refused(|_topic, reason| match reason {
    ///     // Somebody will change the server's rules.
    ///     ReasonCode::NotAuthorized => WhenRefused::PutOff,
    ///     _ => WhenRefused::Drop,
    /// });
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn when_refused(mut self, judge: impl Fn(&str, ReasonCode) -> WhenRefused + Send + Sync + 'static) -> Self {
        self.when_refused = Some(Judge(Arc::new(judge)));
        self
    }

    /// What opens the byte stream to the server in place of a plain TCP connection: a proxy's, or a test's. A Unix socket is
    /// not opened by it.
    #[must_use]
    pub fn connector(mut self, connector: Arc<dyn Connector>) -> Self {
        self.connector = Some(connector);
        self
    }

    /// A header of the request that opens a WebSocket, for gateways that want a token or a cookie.
    ///
    /// # Errors
    /// It is no header, or one that WebSocket itself sends.
    #[cfg(feature = "websocket")]
    pub fn websocket_header(mut self, name: &str, value: &str) -> Result<Self, InvalidOptions> {
        self.websocket_headers.push(crate::transport::header(name, value).map_err(InvalidOptions)?);
        Ok(self)
    }

    /// How TLS is done.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: crate::tls::Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Keeps the outbox, and what of QoS 2 must outlive the program, in this file, which belongs to one client at a time:
    /// [`Client::disconnect`](crate::Client::disconnect) gives it back. A message is accepted when it is on
    /// disk, and while the disk is full or fails `publish` waits. Needs a client identifier; the session does not end unless
    /// [`Options::session_expiry`] says when.
    ///
    /// When the disk is full, messages that are in the outbox are sent and come to their end all the same: for that a file of
    /// 256 KiB with `.reserve` behind the name keeps room, which is given up then.
    ///
    /// Another file with `.mark` behind the name says that this one has been an outbox. If it is gone then, empty or damaged
    /// at the start, that is logged and counted ([`Stats::unreadable_files`](crate::Stats::unreadable_files)), and it is moved
    /// aside, to a name with `.damaged-1` (or the next number that is free) behind it, before a new one is made. Where only a part
    /// of it is damaged or cannot be read, the new one has the rest, and what is lost is counted
    /// ([`Stats::unreadable_messages`](crate::Stats::unreadable_messages)); where that part said which messages have been
    /// acknowledged, some of those are sent once more.
    #[cfg(feature = "durable")]
    #[must_use]
    pub fn durable(mut self, file: impl Into<std::path::PathBuf>) -> Self {
        self.durable = Some(file.into());
        self
    }

    /// Seconds in CONNECT.
    pub(crate) fn session_expiry_s(&self) -> u32 {
        let expiry = self.session_expiry.unwrap_or(self.default_expiry());
        if expiry.is_zero() { 0 } else { crate::message::whole_seconds(expiry) }
    }

    /// A durable outbox belongs to a session that does not end.
    fn default_expiry(&self) -> Duration {
        #[cfg(feature = "durable")]
        if self.durable.is_some() {
            return Duration::MAX;
        }
        if self.client_id.is_empty() { Duration::ZERO } else { Duration::from_secs(3600) }
    }

    /// Whether the first CONNECT asks for a new session.
    pub(crate) fn first_is_clean(&self) -> bool {
        self.clean_start.unwrap_or_else(|| {
            #[cfg(feature = "durable")]
            if self.durable.is_some() {
                return false;
            }
            self.session_expiry.is_none_or(|expiry| expiry.is_zero())
        })
    }

    /// Everything that can be known to be wrong before a connection is made.
    ///
    /// # Errors
    /// What is wrong and what would be right.
    pub fn check(&self) -> Result<(), InvalidOptions> {
        let invalid = |what: String| Err(InvalidOptions(what));
        for (what, text) in [("client identifier", Some(&self.client_id)), ("user name", self.username.as_ref())] {
            if let Some(error) = text.and_then(|text| check_string(text).err()) {
                return invalid(format!("the {what} cannot be sent: {}", error.detail));
            }
        }
        if self.password.as_ref().is_some_and(|password| password.len() > usize::from(u16::MAX)) {
            return invalid("the password is longer than 65,535 bytes".to_owned());
        }
        if !self.version.is_v5() && self.password.is_some() && self.username.is_none() {
            return invalid("MQTT 3.1.1 allows a password only with a user name".to_owned());
        }
        if self.version == Version::V31 && self.client_id.len() > 23 {
            return invalid("MQTT 3.1 allows client identifiers of at most 23 bytes".to_owned());
        }
        if let Some(will) = &self.will {
            will.message.check().map_err(|error| InvalidOptions(format!("the will: {error}")))?;
            if will.message.payload.len() > usize::from(u16::MAX) {
                return invalid("the will's payload is longer than 65,535 bytes".to_owned());
            }
        }
        let pairs = self.user_properties.iter().flat_map(|(name, value)| [name, value]);
        if let Some(error) = pairs.filter_map(|text| check_string(text).err()).next() {
            return invalid(format!("a user property cannot be sent: {}", error.detail));
        }
        if self.keep_alive > Duration::from_secs(u64::from(u16::MAX)) {
            return invalid("the keep alive is longer than 65,535 s".to_owned());
        }
        for (what, value) in [("Receive Maximum", self.receive_maximum), ("window", self.window)] {
            if value == 0 {
                return invalid(format!("the {what} is 0: it must be 1 at least"));
            }
        }
        let reconnect = &self.reconnect;
        if reconnect.min < SHORTEST_WAIT || reconnect.min > reconnect.max || reconnect.max > LONGEST_WAIT {
            return invalid(format!(
                "the reconnect times {:?} and {:?}: the shortest must be 1 ms at least, the longest not below it, and 30 days at most",
                reconnect.min, reconnect.max
            ));
        }
        if self.maximum_packet_size < 64 {
            return invalid("the maximum packet size is below 64 bytes".to_owned());
        }
        if self.authenticator.is_some() && !self.version.is_v5() {
            return invalid("enhanced authentication needs MQTT 5".to_owned());
        }
        #[cfg(feature = "durable")]
        if self.durable.is_some() && self.client_id.is_empty() {
            return invalid("a durable outbox needs a client identifier: the session belongs to it".to_owned());
        }
        Ok(())
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the password nor a key.
        let mut out = f.debug_struct("Options");
        out.field("addresses", &self.addresses).field("version", &self.version).field("client_id", &self.client_id);
        out.field("username", &self.username).field("outbox", &self.outbox).finish_non_exhaustive()
    }
}

/// When retained messages are sent to a new subscription; MQTT 5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetainHandling {
    /// Each time it is made.
    #[default]
    OnSubscribe,
    /// When it was not there before.
    OnNewSubscribe,
    /// Not at all.
    Never,
}

/// One filter of a [`Subscribe`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubscribeFilter {
    pub(crate) filter: String,
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) retain_handling: RetainHandling,
}

/// What to subscribe to, and how.
///
/// ```
/// use forebay_client::{QoS, Subscribe};
/// let alarms = Subscribe::to("site/+/alarm").and("site/+/fault").qos(QoS::ExactlyOnce).manual_ack();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    pub(crate) filters: Vec<SubscribeFilter>,
    pub(crate) manual: bool,
    pub(crate) user_properties: Vec<(String, String)>,
}

impl Subscribe {
    /// A topic filter, `$share/NAME/FILTER` as well, with QoS 0.
    pub fn to(filter: impl Into<String>) -> Self {
        Self { filters: Vec::new(), manual: false, user_properties: Vec::new() }.and(filter)
    }

    /// A further filter, with the options of the one before. One stream gets what any of them matches.
    #[must_use]
    pub fn and(mut self, filter: impl Into<String>) -> Self {
        let filter = filter.into();
        let next = match self.filters.last() {
            Some(last) => SubscribeFilter { filter, ..last.clone() },
            None => SubscribeFilter {
                filter,
                qos: QoS::AtMostOnce,
                no_local: false,
                retain_as_published: false,
                retain_handling: RetainHandling::OnSubscribe,
            },
        };
        self.filters.push(next);
        self
    }

    /// Highest QoS with which messages come; of all filters so far.
    #[must_use]
    pub fn qos(self, qos: QoS) -> Self {
        self.each(|filter| filter.qos = qos)
    }

    /// Without what this client publishes; MQTT 5, of all filters so far.
    #[must_use]
    pub fn no_local(self) -> Self {
        self.each(|filter| filter.no_local = true)
    }

    /// RETAIN comes as it was published; MQTT 5, of all filters so far.
    #[must_use]
    pub fn retain_as_published(self) -> Self {
        self.each(|filter| filter.retain_as_published = true)
    }

    /// When retained messages are sent; MQTT 5, of all filters so far.
    #[must_use]
    pub fn retain_handling(self, handling: RetainHandling) -> Self {
        self.each(|filter| filter.retain_handling = handling)
    }

    /// A message is acknowledged to the server by [`Client::ack`](crate::Client::ack), not when it is read.
    #[must_use]
    pub fn manual_ack(mut self) -> Self {
        self.manual = true;
        self
    }

    /// A user property of SUBSCRIBE; MQTT 5.
    #[must_use]
    pub fn user_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.user_properties.push((name.into(), value.into()));
        self
    }

    fn each(mut self, change: impl Fn(&mut SubscribeFilter)) -> Self {
        self.filters.iter_mut().for_each(change);
        self
    }

    pub(crate) fn check(&self) -> Result<(), forebay_wire::WireError> {
        for filter in &self.filters {
            check_string(&filter.filter)?;
            topic::check_filter(&filter.filter, LEVELS_MAX)?;
            if filter.no_local && topic::split_share(&filter.filter).is_some() {
                let detail = "No Local on a shared subscription";
                return Err(forebay_wire::WireError::protocol("MQTT5-3.8.3-4", detail));
            }
        }
        let user = Properties { user: self.user_properties.clone(), ..Properties::default() };
        user.check(&[])
    }
}

impl<T: Into<String>> From<T> for Subscribe {
    fn from(filter: T) -> Self {
        Self::to(filter)
    }
}
