//! What a message says of itself on its way up, for upstreams that have headers: what its publisher said, and where it comes
//! from.

use std::sync::Arc;

use forebay_wire::property::{Place, Properties, Property};

use super::Outgoing;
use crate::bridge::outward::VIA;
use crate::message::Message;
use crate::origins::{self, EPOCH, ORIGIN, SEQ};

/// The header with the topic under which the message was published here.
pub const TOPIC: &str = "mqtt-topic";

/// Where the messages of a bridge come from.
#[derive(Clone, Debug)]
pub struct Marks {
    /// The gateway and the bridge.
    pub origin: Arc<str>,
    /// Made anew with the queue: numbers of another epoch are other messages.
    pub epoch: u64,
}

/// All that goes beside a payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// MQTT's content type.
    pub content_type: Option<String>,
    /// MQTT's response topic.
    pub response_topic: Option<String>,
    /// MQTT's correlation data.
    pub correlation: Option<Vec<u8>>,
    /// User properties, then [`TOPIC`], origin, epoch, sequence number and the gateways.
    pub all: Vec<(String, String)>,
    /// The same for each repetition of a message, and never another's: origin, epoch and number, with dots.
    pub id: String,
}

impl Marks {
    /// The headers of a message.
    #[must_use]
    pub fn headers(&self, out: &Outgoing) -> Headers {
        let mut headers = of_publisher(&out.message);
        headers.all.retain(|(name, _)| name != VIA);
        headers.all.push((TOPIC.to_owned(), out.message.topic().to_owned()));
        self.mark(out, &mut headers.all);
        headers.all.push((VIA.to_owned(), out.via.clone()));
        headers.id = [ORIGIN, EPOCH, SEQ].map(|name| headers.get(name).unwrap_or_default()).join(".");
        headers
    }

    /// Origin, epoch and number of a message at this place of the bridge's queue. What names itself in full, as the edge reads it,
    /// stays that publication all the way. A `seq` alone is a number of the publisher's, which another publisher has as well.
    #[must_use]
    pub fn name<'a>(&'a self, message: &'a Message, place: u64) -> (&'a str, u64, u64) {
        let named = origins::read("", message.properties()).ok().flatten();
        named.map_or((&*self.origin, self.epoch, place), |named| (named.origin, named.epoch, named.seq))
    }

    /// Says of a message which it is ([`Marks::name`]), in place of what its user properties say of that.
    pub fn mark(&self, out: &Outgoing, user: &mut Vec<(String, String)>) {
        let (origin, epoch, seq) = self.name(&out.message, out.place);
        user.retain(|(name, _)| ![ORIGIN, EPOCH, SEQ].contains(&name.as_str()));
        user.push((ORIGIN.to_owned(), origin.to_owned()));
        user.push((EPOCH.to_owned(), epoch.to_string()));
        user.push((SEQ.to_owned(), seq.to_string()));
    }
}

impl Headers {
    fn get(&self, wanted: &str) -> Option<&str> {
        self.all.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }
}

fn of_publisher(message: &Message) -> Headers {
    let mut headers = Headers::default();
    for spanned in Properties::new(message.properties(), Place::Publish).flatten() {
        #[allow(clippy::wildcard_enum_match_arm, reason = "the others are the connection's, or of no use without MQTT")]
        match spanned.property {
            Property::ContentType(text) => headers.content_type = Some(text.to_owned()),
            Property::ResponseTopic(text) => headers.response_topic = Some(text.to_owned()),
            Property::CorrelationData(data) => headers.correlation = Some(data.to_vec()),
            Property::UserProperty(name, value) => headers.all.push((name.to_owned(), value.to_owned())),
            _ => {}
        }
    }
    headers
}

/// Properties of a message that is part of a trace, for tests, and what they say.
#[cfg(test)]
pub(crate) fn traced() -> (Vec<u8>, [(&'static str, &'static str); 2]) {
    let said = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", "a=1,b=2")];
    let mut properties = Vec::new();
    said.iter().for_each(|(name, value)| crate::properties::put_user(&mut properties, name, value));
    (properties, said)
}

/// A message as the machine gives it, for tests.
#[cfg(test)]
pub(crate) fn outgoing(topic: &str, properties: &[u8]) -> Outgoing {
    let parts = crate::message::Parts {
        topic,
        properties,
        payload: b"x",
        qos: 1,
        retain: false,
        expires_at: None,
        accepted_at: crate::message::Time(0),
    };
    Outgoing {
        place: 7,
        repeated: false,
        topic: topic.to_owned(),
        key: None,
        partition: None,
        exchange: None,
        tag: None,
        delay_s: None,
        qos: 1,
        retain: false,
        expiry_s: None,
        via: "a,g".to_owned(),
        message: Arc::new(Message::new(&parts, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut encoded = Vec::new();
        for (name, value) in pairs {
            encoded.push(0x26);
            for text in [name, value] {
                encoded.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
                encoded.extend_from_slice(text.as_bytes());
            }
        }
        encoded
    }

    fn headers(properties: &[u8]) -> Headers {
        Marks { origin: "g.up".into(), epoch: 5 }.headers(&outgoing("t/1", properties))
    }

    #[test]
    fn a_message_says_where_it_comes_from() {
        let mut properties = b"\x03\x00\x01j".to_vec();
        properties.extend(user(&[("traceparent", "00-1"), ("via", "a")]));
        let headers = headers(&properties);
        let expected = [
            ("traceparent", "00-1"),
            ("mqtt-topic", "t/1"),
            ("origin", "g.up"),
            ("epoch", "5"),
            ("seq", "7"),
            ("via", "a,g"),
        ];
        assert_eq!(headers.all, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!((headers.id.as_str(), headers.content_type.as_deref()), ("g.up.5.7", Some("j")));
    }

    #[test]
    fn a_message_that_is_numbered_keeps_its_number() {
        let headers = headers(&user(&[("origin", "device"), ("epoch", "1"), ("seq", "42")]));
        assert_eq!(headers.id, "device.1.42");
        assert_eq!(headers.all.iter().filter(|(name, _)| name == "seq").count(), 1);
        let headers = headers_of(&[("origin", "device"), ("seq", "42")]);
        assert_eq!(headers.id, "device.0.42", "an epoch that is not said is 0, as at the edge");
    }

    #[test]
    fn a_number_without_an_origin_is_no_identity() {
        for said in [&[("seq", "5")][..], &[("epoch", "1"), ("seq", "5")], &[("origin", "d"), ("seq", "five")]] {
            let headers = headers_of(said);
            assert_eq!(headers.id, "g.up.5.7", "{said:?}");
            let seqs: Vec<_> = headers.all.iter().filter(|(name, _)| name == "seq").collect();
            assert_eq!(seqs, [&("seq".to_owned(), "7".to_owned())], "{said:?}");
        }
    }

    fn headers_of(said: &[(&str, &str)]) -> Headers {
        headers(&user(said))
    }
}
