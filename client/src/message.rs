//! Messages, outgoing and received.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_wire::property::{Place, Properties as WireProperties, Property, id};
use forebay_wire::types::QoS;
use forebay_wire::{WireError, topic, varint};

use crate::ticket::Ticket;

/// Topic levels that a message or filter may have.
pub(crate) const LEVELS_MAX: usize = 1_000;

/// A message to publish.
///
/// ```
/// use forebay_client::{Message, QoS};
/// let reading = Message::new("site/7/temperature", "21.5").qos(QoS::AtLeastOnce).retain(true);
/// assert_eq!(reading.topic(), "site/7/temperature");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) expiry: Option<Duration>,
    pub(crate) properties: Option<Box<Properties>>,
}

/// A message that an earlier run of the program left in the durable outbox; see [`Client::restored`](crate::Client::restored).
#[derive(Debug)]
#[non_exhaustive]
pub struct Restored {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its payload.
    pub payload: Bytes,
    /// Its quality of service.
    pub qos: QoS,
    /// Whether the server is to keep it for those who subscribe later.
    pub retain: bool,
    /// Its properties, without its expiry.
    pub properties: Properties,
    /// Resolves when it is acknowledged or dropped.
    pub ticket: Ticket,
}

impl Restored {
    pub(crate) fn new(message: Message, ticket: Ticket) -> Self {
        let Message { topic, payload, qos, retain, properties, .. } = message;
        Self {
            topic,
            payload,
            qos,
            retain,
            properties: properties.map_or_else(Properties::default, |all| *all),
            ticket,
        }
    }
}

/// Properties of a message that only MQTT 5 has; MQTT 3.1.1 leaves them out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// The payload is UTF-8.
    pub payload_is_utf8: bool,
    /// MIME type of the payload.
    pub content_type: Option<String>,
    /// Where an answer is wanted.
    pub response_topic: Option<String>,
    /// What an answer must carry.
    pub correlation_data: Option<Bytes>,
    /// Names with values; a name may stand several times.
    pub user: Vec<(String, String)>,
}

/// What makes a topic one that is taken once, if it is, and the rest of it.
fn behind_once(topic: &str) -> (&str, &str) {
    let Some(rest) = topic.strip_prefix("$once/") else { return ("", topic) };
    let behind = rest.splitn(3, '/').nth(2).unwrap_or_default();
    topic.split_at_checked(topic.len() - behind.len()).unwrap_or(("", topic))
}

impl Message {
    /// A message of QoS 0, not retained. The topic is checked when it is published.
    pub fn new(topic: impl Into<Arc<str>>, payload: impl Into<Bytes>) -> Self {
        let (topic, payload) = (topic.into(), payload.into());
        Self { topic, payload, qos: QoS::AtMostOnce, retain: false, expiry: None, properties: None }
    }

    /// Quality of service.
    #[must_use]
    pub fn qos(mut self, qos: QoS) -> Self {
        self.qos = qos;
        self
    }

    /// Whether the server keeps it for those who subscribe later.
    #[must_use]
    pub fn retain(mut self, retain: bool) -> Self {
        self.retain = retain;
        self
    }

    /// How long it is worth delivering. The time runs while it waits here, in MQTT 3.1.1 as well; MQTT 5 tells the server
    /// what remains, in whole seconds.
    ///
    /// In a durable outbox it runs on by the system's clock while no program does. What is over then is not sent, unless it
    /// is of QoS 2: an earlier run may have sent that, and what the server holds of it is brought to its end. Where the
    /// clock was not set, then or now (it is before 2020), the message is sent with the time that it began with.
    #[must_use]
    pub fn expires_after(mut self, expiry: Duration) -> Self {
        self.expiry = Some(expiry);
        self
    }

    /// Properties of MQTT 5.
    #[must_use]
    pub fn properties(mut self, properties: Properties) -> Self {
        self.properties = Some(Box::new(properties));
        self
    }

    /// The broker delivers it after so many whole seconds (Forebay's `$delayed/…`, in the topic: MQTT 3.1.1 can as well).
    #[must_use]
    pub fn deliver_after(mut self, delay: Duration) -> Self {
        let (once, topic) = behind_once(&self.topic);
        self.topic = format!("{once}$delayed/{}/{topic}", delay.as_secs()).into();
        self
    }

    /// The broker delivers it at this time by its wall clock, a date as RFC 3339 has it; `Z` for an offset of zero, since a
    /// topic cannot hold `+`.
    #[must_use]
    pub fn deliver_at(mut self, date: &str) -> Self {
        let (once, topic) = behind_once(&self.topic);
        self.topic = format!("{once}$delayed/@{date}/{topic}").into();
        self
    }

    /// The broker takes it once, however often it is sent: it is number `seq` of this origin's epoch (Forebay's `$once/…`). An
    /// origin has no `/`, `+` and `#`, and at most 128 bytes.
    #[must_use]
    pub fn once(mut self, origin: &str, epoch: u64, seq: u64) -> Self {
        self.topic = format!("$once/{origin}/{epoch}.{seq}/{}", behind_once(&self.topic).1).into();
        self
    }

    /// A key by which queues keep it in order, or keep the last of each: the user property `key` (MQTT 5).
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.properties.get_or_insert_default().user.push(("key".to_owned(), key.into()));
        self
    }

    /// Topic name.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Payload.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The same with another payload.
    #[must_use]
    pub fn with_payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Whether it can be sent at all; `publish` looks at this itself.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), WireError> {
        const TOO_LONG: WireError = WireError::malformed("MQTT-1.5.3", "a string is longer than 65,535 bytes");
        if self.topic.len() > usize::from(u16::MAX) {
            return Err(TOO_LONG);
        }
        topic::check_name(&self.topic, LEVELS_MAX)?;
        if let Some(properties) = &self.properties {
            properties.check(&self.payload)?;
        }
        let total = self.topic.len() + self.properties_len() + self.payload.len() + 16;
        if total > varint::MAX as usize {
            let reason = forebay_wire::ReasonCode::PacketTooLarge;
            return Err(WireError::new(reason, "MQTT-2.2.3", "the packet is larger than MQTT allows (256 MB)"));
        }
        Ok(())
    }

    pub(crate) fn properties_len(&self) -> usize {
        let expiry = if self.expiry.is_some() { 5 } else { 0 };
        expiry + self.properties.as_ref().map_or(0, |properties| properties.len())
    }

    /// The message expiry interval comes first.
    pub(crate) fn put_properties(&self, out: &mut Vec<u8>) {
        if let Some(expiry) = self.expiry {
            out.push(id::MESSAGE_EXPIRY_INTERVAL);
            out.extend_from_slice(&whole_seconds(expiry).to_be_bytes());
        }
        if let Some(properties) = &self.properties {
            properties.put(out);
        }
    }
}

/// Rounded up: a message that still lives has a second at least.
pub(crate) fn whole_seconds(time: Duration) -> u32 {
    let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    u32::try_from(seconds.max(1)).unwrap_or(u32::MAX)
}

impl Properties {
    /// From the properties of a PUBLISH as they are in the packet, without their length in front (MQTT 5.0, 3.3.2.3). The
    /// connection's own (topic alias, subscription identifiers, message expiry interval) are left out, and so is all from the
    /// first that is malformed.
    #[must_use]
    pub fn decode(encoded: &[u8]) -> Self {
        let mut found = Self::default();
        for spanned in WireProperties::new(encoded, Place::Publish).map_while(Result::ok) {
            #[allow(clippy::wildcard_enum_match_arm, reason = "the others are the connection's")]
            match spanned.property {
                Property::PayloadFormatIndicator(format) => found.payload_is_utf8 = format == 1,
                Property::ContentType(text) => found.content_type = Some(text.to_owned()),
                Property::ResponseTopic(text) => found.response_topic = Some(text.to_owned()),
                Property::CorrelationData(data) => found.correlation_data = Some(Bytes::copy_from_slice(data)),
                Property::UserProperty(name, value) => found.user.push((name.to_owned(), value.to_owned())),
                _ => {}
            }
        }
        found
    }

    pub(crate) fn check(&self, payload: &[u8]) -> Result<(), WireError> {
        let strings = self.content_type.iter().chain(&self.response_topic);
        let strings = strings.chain(self.user.iter().flat_map(|(name, value)| [name, value]));
        for text in strings {
            check_string(text)?;
        }
        if self.correlation_data.as_ref().is_some_and(|data| data.len() > usize::from(u16::MAX)) {
            return Err(WireError::malformed("MQTT5-1.5.6", "correlation data is longer than 65,535 bytes"));
        }
        if let Some(topic) = &self.response_topic {
            topic::check_name(topic, LEVELS_MAX)?;
        }
        if self.payload_is_utf8 && std::str::from_utf8(payload).is_err() {
            let reason = forebay_wire::ReasonCode::PayloadFormatInvalid;
            return Err(WireError::new(reason, "MQTT5-3.3.2.3.2", "the payload is said to be UTF-8 and is not"));
        }
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, |text| 3 + text.len());
        let user: usize = self.user.iter().map(|(name, value)| 5 + name.len() + value.len()).sum();
        let flag = if self.payload_is_utf8 { 2 } else { 0 };
        let correlation = self.correlation_data.as_ref().map_or(0, |data| 3 + data.len());
        flag + text(&self.content_type) + text(&self.response_topic) + correlation + user
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        if self.payload_is_utf8 {
            out.extend_from_slice(&[id::PAYLOAD_FORMAT_INDICATOR, 1]);
        }
        if let Some(text) = &self.content_type {
            put_binary(out, id::CONTENT_TYPE, text.as_bytes());
        }
        if let Some(text) = &self.response_topic {
            put_binary(out, id::RESPONSE_TOPIC, text.as_bytes());
        }
        if let Some(data) = &self.correlation_data {
            put_binary(out, id::CORRELATION_DATA, data);
        }
        for (name, value) in &self.user {
            put_binary(out, id::USER_PROPERTY, name.as_bytes());
            out.extend_from_slice(&(value.len() as u16).to_be_bytes());
            out.extend_from_slice(value.as_bytes());
        }
    }
}

/// A string that MQTT can carry [MQTT-1.5.3-2].
pub(crate) fn check_string(text: &str) -> Result<(), WireError> {
    if text.len() > usize::from(u16::MAX) {
        return Err(WireError::malformed("MQTT-1.5.3", "a string is longer than 65,535 bytes"));
    }
    forebay_wire::read::string(text.as_bytes()).map(|_| ())
}

/// A property that is a string or binary data.
pub(crate) fn put_binary(out: &mut Vec<u8>, id: u8, data: &[u8]) {
    out.push(id);
    out.extend_from_slice(&(data.len() as u16).to_be_bytes());
    out.extend_from_slice(data);
}

/// A message that a subscription got. It owns one allocation, whatever it holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Received {
    /// Topic, properties and payload, one after the other.
    pub(crate) body: Bytes,
    pub(crate) topic_len: u32,
    pub(crate) properties_len: u32,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    /// Its place among what is to be acknowledged; `None` for QoS 0.
    pub(crate) token: Option<u64>,
}

impl Received {
    /// Topic name.
    #[must_use]
    pub fn topic(&self) -> &str {
        // What made it checked that it is UTF-8.
        std::str::from_utf8(self.body.get(..self.topic_len as usize).unwrap_or_default()).unwrap_or_default()
    }

    /// Payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.body.get(self.payload_at()..).unwrap_or_default()
    }

    /// The payload, shared.
    #[must_use]
    pub fn payload_bytes(&self) -> Bytes {
        self.body.slice(self.payload_at()..)
    }

    /// Quality of service with which it came.
    #[must_use]
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// Whether it was kept by the server before the subscription was made.
    #[must_use]
    pub fn retain(&self) -> bool {
        self.retain
    }

    /// The server says that it may have sent it before.
    #[must_use]
    pub fn dup(&self) -> bool {
        self.dup
    }

    /// Message expiry interval that is left, in seconds.
    #[must_use]
    pub fn expiry_s(&self) -> Option<u32> {
        self.each().find_map(|p| if let Property::MessageExpiryInterval(s) = p { Some(s) } else { None })
    }

    /// Subscription identifiers.
    pub fn subscription_ids(&self) -> impl Iterator<Item = u32> {
        self.each().filter_map(|p| if let Property::SubscriptionIdentifier(id) = p { Some(id) } else { None })
    }

    /// Properties of MQTT 5; empty in MQTT 3.1.1.
    #[must_use]
    pub fn properties(&self) -> Properties {
        Properties::decode(self.encoded())
    }

    /// The correlation data, without making the other properties.
    #[must_use]
    pub fn correlation_data(&self) -> Option<&[u8]> {
        self.each().find_map(|p| if let Property::CorrelationData(data) = p { Some(data) } else { None })
    }

    fn each(&self) -> impl Iterator<Item = Property<'_>> {
        WireProperties::new(self.encoded(), Place::Publish).flatten().map(|spanned| spanned.property)
    }

    fn encoded(&self) -> &[u8] {
        self.body.get(self.topic_len as usize..self.payload_at()).unwrap_or_default()
    }

    fn payload_at(&self) -> usize {
        self.topic_len as usize + self.properties_len as usize
    }

    /// What it counts against a limit in bytes.
    pub(crate) fn size(&self) -> usize {
        self.body.len() + size_of::<Self>()
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Received");
        out.field("topic", &self.topic()).field("qos", &self.qos).field("retain", &self.retain);
        out.field("payload", &self.payload_bytes()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_says_when_and_which() {
        let message = Message::new("a/b", "x").deliver_after(Duration::from_secs(90));
        assert_eq!(message.topic(), "$delayed/90/a/b");
        assert_eq!(message.once("pump", 3, 41).topic(), "$once/pump/3.41/$delayed/90/a/b");
        let message = Message::new("a/b", "x").once("pump", 3, 41).deliver_at("2027-01-01T00:00:00Z");
        assert_eq!(message.topic(), "$once/pump/3.41/$delayed/@2027-01-01T00:00:00Z/a/b");
        assert_eq!(message.once("pump", 3, 42).topic(), "$once/pump/3.42/$delayed/@2027-01-01T00:00:00Z/a/b");
        let message = Message::new("a", "x").key("k");
        assert_eq!(message.properties.unwrap().user, [("key".to_owned(), "k".to_owned())]);
    }

    #[test]
    fn properties_are_decoded() {
        let mut encoded = vec![0x01, 1];
        for (id, text) in [(0x03, "text/plain"), (0x08, "answers/7"), (0x09, "\u{1}x")] {
            encoded.push(id);
            encoded.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
            encoded.extend_from_slice(text.as_bytes());
        }
        encoded.extend_from_slice(b"\x26\x00\x01a\x00\x01b\x26\x00\x01a\x00\x01c");
        let read = Properties::decode(&encoded);
        assert!(read.payload_is_utf8);
        assert_eq!(read.content_type.as_deref(), Some("text/plain"));
        assert_eq!(read.response_topic.as_deref(), Some("answers/7"));
        assert_eq!(read.correlation_data.as_deref(), Some(&b"\x01x"[..]));
        assert_eq!(read.user, [("a".to_owned(), "b".to_owned()), ("a".to_owned(), "c".to_owned())]);
    }
}
