//! What a message's payload becomes upstream: as it is, or with what MQTT says of it, as JSON or as a CloudEvent.
//!
//! The same message makes the same bytes each time, so that a repetition is one.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use forebay_wire::property::{Place, Properties, Property, id};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::outward::VIA;
use super::upstream::marks::Marks;
use crate::message::{Message, Parts};
use crate::origins::{EPOCH, ORIGIN, SEQ};

/// The user properties of W3C Trace Context.
pub const TRACE: [&str; 2] = ["traceparent", "tracestate"];
/// The type of a CloudEvent, unless the rule says another.
pub const EVENT_TYPE: &str = "mqtt.message";
/// Nested deeper, JSON is carried as text: receivers give up at some depth.
const DEPTH_MAX: usize = 64;

/// How payloads travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wrapping {
    /// As they are.
    #[default]
    Raw,
    /// In a JSON object.
    Json,
    /// In a CloudEvent 1.0, in its structured mode.
    CloudEvents,
}

impl Wrapping {
    /// As they are written in a configuration.
    pub const WORDS: &[(&str, Self)] = &[("raw", Self::Raw), ("json", Self::Json), ("cloudevents", Self::CloudEvents)];
}

/// A message that is to be wrapped, and what it does not say itself.
#[derive(Clone, Copy, Debug)]
pub struct Wrap<'a> {
    /// The message.
    pub message: &'a Message,
    /// Its place in the bridge's queue.
    pub place: u64,
    /// Whether it travels with RETAIN.
    pub retain: bool,
    /// When it was published, in milliseconds since 1970, if that is known.
    pub wall_ms: Option<u64>,
    /// Where it comes from.
    pub marks: &'a Marks,
    /// The type of a CloudEvent.
    pub event_type: &'a str,
}

impl Wrap<'_> {
    /// The message that travels. The removal of a retained message is one everywhere: it stays empty.
    #[must_use]
    pub fn into(self, wrapping: Wrapping) -> Option<Arc<Message>> {
        if self.retain && self.message.payload().is_empty() {
            return None;
        }
        match wrapping {
            Wrapping::Raw => None,
            Wrapping::Json => Some(self.with(&self.json(), "application/json")),
            Wrapping::CloudEvents => {
                Some(self.with(&self.cloud_event(), "application/cloudevents+json; charset=UTF-8"))
            }
        }
    }

    fn with(&self, payload: &[u8], content_type: &str) -> Arc<Message> {
        let Message { qos, retain, expires_at, accepted_at, .. } = *self.message;
        let properties = properties(self.message.properties(), content_type);
        let topic = self.message.topic();
        let parts = Parts { topic, properties: &properties, payload, qos, retain, expires_at, accepted_at };
        Arc::new(Message::new(&parts, None))
    }

    fn json(&self) -> Vec<u8> {
        let said = Said::of(self.message.properties());
        let (origin, epoch, seq) = self.marks.name(self.message, self.place);
        let payload = self.message.payload();
        let (payload, payload_is) = match (json(payload), std::str::from_utf8(payload)) {
            (Some(json), _) => (Body::Json(json), "json"),
            (None, Ok(text)) => (Body::Text(text.into()), "text"),
            (None, Err(_)) => (Body::Text(BASE64_STANDARD.encode(payload).into()), "base64"),
        };
        let wrapped = Wrapped {
            topic: self.message.topic(),
            payload,
            payload_is,
            qos: self.message.qos,
            retain: self.retain,
            time: self.wall_ms.and_then(date),
            content_type: said.content_type,
            response_topic: said.response_topic,
            correlation_data: said.correlation.map(|data| BASE64_STANDARD.encode(data)),
            user_properties: said.user,
            origin,
            epoch,
            seq,
        };
        written(&wrapped)
    }

    fn cloud_event(&self) -> Vec<u8> {
        let said = Said::of(self.message.properties());
        let (origin, epoch, seq) = self.marks.name(self.message, self.place);
        let payload = self.message.payload();
        let declared = said.content_type.filter(|text| is_media_type(text));
        let data = match (declared, std::str::from_utf8(payload)) {
            (None, Ok(text)) => match json(payload) {
                Some(json) => Data::of(Body::Json(json), Some("application/json")),
                None => Data::of(Body::Text(text.into()), Some("text/plain; charset=UTF-8")),
            },
            // What says that it is JSON is a value, or, if it is none, bytes: a string would be taken for JSON's.
            (Some(declared), Ok(text)) => match (is_json(declared), json(payload)) {
                (true, Some(json)) => Data::of(Body::Json(json), Some(declared)),
                (true, None) => Data::bytes(payload, Some(declared)),
                (false, _) => Data::of(Body::Text(text.into()), Some(declared)),
            },
            (declared, Err(_)) => Data::bytes(payload, declared),
        };
        let [traceparent, tracestate] = TRACE.map(|name| said.first(name));
        let event = CloudEvent {
            specversion: "1.0",
            id: format!("{origin}.{epoch}.{seq}"),
            source: format!("/forebay/{}", percent(origin)),
            kind: self.event_type,
            subject: self.message.topic(),
            time: self.wall_ms.and_then(date),
            sequence: seq.to_string(),
            mqttqos: self.message.qos,
            mqttretain: self.retain,
            traceparent,
            tracestate,
            datacontenttype: data.content_type,
            data: data.value,
            data_base64: data.base64,
        };
        written(&event)
    }
}

#[derive(Serialize)]
struct Wrapped<'a> {
    topic: &'a str,
    payload: Body<'a>,
    payload_is: &'static str,
    qos: u8,
    retain: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_data: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "by_name")]
    user_properties: Vec<(&'a str, Vec<&'a str>)>,
    origin: &'a str,
    epoch: u64,
    seq: u64,
}

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    source: String,
    #[serde(rename = "type")]
    kind: &'a str,
    subject: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    sequence: String,
    mqttqos: u8,
    mqttretain: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracestate: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Body<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Json(&'a RawValue),
    Text(Cow<'a, str>),
}

struct Data<'a> {
    value: Option<Body<'a>>,
    base64: Option<String>,
    content_type: Option<&'a str>,
}

impl<'a> Data<'a> {
    fn of(value: Body<'a>, content_type: Option<&'a str>) -> Self {
        Self { value: Some(value), base64: None, content_type }
    }

    fn bytes(payload: &[u8], content_type: Option<&'a str>) -> Self {
        let content_type = content_type.or(Some("application/octet-stream"));
        Self { value: None, base64: Some(BASE64_STANDARD.encode(payload)), content_type }
    }
}

/// What the publisher said beside the payload.
#[derive(Default)]
struct Said<'a> {
    content_type: Option<&'a str>,
    response_topic: Option<&'a str>,
    correlation: Option<&'a [u8]>,
    /// By name, in the order in which names came first; without those that say which message it is.
    user: Vec<(&'a str, Vec<&'a str>)>,
}

impl<'a> Said<'a> {
    fn of(properties: &'a [u8]) -> Self {
        let mut said = Self::default();
        for spanned in Properties::new(properties, Place::Publish).flatten() {
            #[allow(
                clippy::wildcard_enum_match_arm,
                reason = "the others are the connection's, or are said by the payload"
            )]
            match spanned.property {
                Property::ContentType(text) => said.content_type = Some(text),
                Property::ResponseTopic(text) => said.response_topic = Some(text),
                Property::CorrelationData(data) => said.correlation = Some(data),
                Property::UserProperty(name, value) if ![ORIGIN, EPOCH, SEQ, VIA].contains(&name) => {
                    match said.user.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, values)) => values.push(value),
                        None => said.user.push((name, vec![value])),
                    }
                }
                _ => {}
            }
        }
        said
    }

    fn first(&self, name: &str) -> Option<&'a str> {
        self.user.iter().find(|(known, _)| *known == name).and_then(|(_, values)| values.first().copied())
    }
}

/// Texts, numbers and JSON that was read before: there is nothing in an envelope that cannot be written.
fn written(envelope: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(envelope).unwrap_or_default()
}

fn by_name<S: Serializer>(all: &[(&str, Vec<&str>)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(all.iter().map(|(name, values)| (name, values)))
}

/// The publisher's, with another content type; what travels is UTF-8.
fn properties(from: &[u8], content_type: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(from.len() + content_type.len() + 5);
    for spanned in Properties::new(from, Place::Publish).flatten() {
        if !matches!(spanned.property, Property::ContentType(_) | Property::PayloadFormatIndicator(_)) {
            out.extend_from_slice(spanned.bytes);
        }
    }
    out.extend_from_slice(&[id::PAYLOAD_FORMAT_INDICATOR, 1, id::CONTENT_TYPE]);
    out.extend_from_slice(&u16::try_from(content_type.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(content_type.as_bytes());
    out
}

fn date(wall_ms: u64) -> Option<String> {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(wall_ms) * 1_000_000).ok()?;
    at.format(&Rfc3339).ok()
}

/// `type/subtype`, with or without parameters (RFC 2046).
fn is_media_type(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or_default().trim();
    let is_token = |part: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
        !part.is_empty() && part.bytes().all(fits)
    };
    essence.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
}

fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.split_once('/').is_some_and(|(_, subtype)| subtype == "json" || subtype.ends_with("+json"))
}

/// An origin as a part of a URI.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// The payload, if it is JSON that every receiver can read: then it stands in what is around it as it is.
fn json(payload: &[u8]) -> Option<&RawValue> {
    let text = std::str::from_utf8(payload).ok()?;
    let mut json = serde_json::Deserializer::from_str(text);
    Readable { depth: 0 }.deserialize(&mut json).ok()?;
    json.end().ok()?;
    serde_json::from_str(text).ok()
}

/// A value that is nowhere too deep, whose strings are whole and whose numbers are numbers elsewhere. Nothing of it is kept.
#[derive(Clone, Copy)]
struct Readable {
    depth: usize,
}

impl Readable {
    fn inner<E: Error>(self) -> Result<Self, E> {
        let depth = self.depth + 1;
        if depth > DEPTH_MAX { Err(E::custom("too deep")) } else { Ok(Self { depth }) }
    }
}

impl<'de> DeserializeSeed<'de> for Readable {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        while map.next_key_seed(inner)?.is_some() {
            map.next_value_seed(inner)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        while list.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::message::Time;
    use crate::properties::{put_user, user_property};

    fn marks() -> Marks {
        Marks { origin: "g.up".into(), epoch: 5 }
    }

    fn wrapped(wrapping: Wrapping, properties: &[u8], payload: &[u8]) -> Arc<Message> {
        let parts = Parts {
            topic: "plant/7",
            properties,
            payload,
            qos: 1,
            retain: false,
            expires_at: Some(Time(9)),
            accepted_at: Time(3),
        };
        let message = Message::new(&parts, None);
        let (wall_ms, marks) = (Some(1_800_000_000_500), marks());
        let wrap = Wrap { message: &message, place: 7, retain: false, wall_ms, marks: &marks, event_type: EVENT_TYPE };
        let wrapped = wrap.into(wrapping).unwrap();
        assert_eq!(wrap.into(wrapping).unwrap().payload(), wrapped.payload(), "it is the same each time");
        assert_eq!((wrapped.topic(), wrapped.expires_at, wrapped.accepted_at), ("plant/7", Some(Time(9)), Time(3)));
        wrapped
    }

    fn value(wrapping: Wrapping, properties: &[u8], payload: &[u8]) -> Value {
        serde_json::from_slice(wrapped(wrapping, properties, payload).payload()).unwrap()
    }

    fn content_type(text: &str) -> Vec<u8> {
        properties(&[], text)
    }

    #[test]
    fn json_has_all_that_mqtt_says() {
        let mut said = content_type("text/x");
        said.extend_from_slice(b"\x08\x00\x01r\x09\x00\x02\xff\x00");
        for (name, value) in [("site", "7"), ("origin", "d"), ("site", "8"), ("via", "g"), ("seq", "42")] {
            put_user(&mut said, name, value);
        }
        let message = wrapped(Wrapping::Json, &said, br#" {"temp": 21.50} "#);
        assert_eq!(
            std::str::from_utf8(message.payload()).unwrap(),
            r#"{"topic":"plant/7","payload":{"temp": 21.50},"payload_is":"json","qos":1,"retain":false,"#.to_owned()
                + r#""time":"2027-01-15T08:00:00.5Z","content_type":"text/x","response_topic":"r","correlation_data":"/wA=","#
                + r#""user_properties":{"site":["7","8"]},"origin":"d","epoch":0,"seq":42}"#
        );
        assert_eq!(user_property(message.properties(), "site"), Some("7"), "they travel beside it as well");
        let again = Said::of(message.properties());
        assert_eq!((again.content_type, again.response_topic), (Some("application/json"), Some("r")));
    }

    #[test]
    fn json_says_what_its_payload_is() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        let (in_bounds, too_deep) = (deep(DEPTH_MAX), deep(DEPTH_MAX + 1));
        for (payload, is, carried) in [
            (&b"21.5"[..], "json", json!(21.5)),
            (b"\"a\"", "json", json!("a")),
            (b"null", "json", json!(null)),
            (b"a", "text", json!("a")),
            (b"", "text", json!("")),
            (b"{\"a\":1", "text", json!("{\"a\":1")),
            // What some receivers cannot read.
            (br#"{"a":"\ud800"}"#, "text", json!(r#"{"a":"\ud800"}"#)),
            (b"1e999", "text", json!("1e999")),
            (too_deep.as_bytes(), "text", json!(too_deep)),
            (in_bounds.as_bytes(), "json", serde_json::from_str(&in_bounds).unwrap()),
            (b"\xff\x00", "base64", json!("/wA=")),
        ] {
            let made = value(Wrapping::Json, &[], payload);
            assert_eq!((&made["payload_is"], &made["payload"]), (&json!(is), &carried));
            assert_eq!((&made["origin"], &made["epoch"], &made["seq"]), (&json!("g.up"), &json!(5), &json!(7)));
            assert_eq!(made.get("user_properties"), None);
        }
    }

    #[test]
    fn a_cloud_event_is_one() {
        let mut said = Vec::new();
        put_user(&mut said, "traceparent", "00-1");
        let event = value(Wrapping::CloudEvents, &said, br#"{"a":1}"#);
        let expected = json!({
            "specversion": "1.0", "id": "g.up.5.7", "source": "/forebay/g.up", "type": "mqtt.message", "subject": "plant/7",
            "time": "2027-01-15T08:00:00.5Z", "sequence": "7", "mqttqos": 1, "mqttretain": false, "traceparent": "00-1",
            "datacontenttype": "application/json", "data": {"a": 1},
        });
        assert_eq!(event, expected);
        let message = wrapped(Wrapping::CloudEvents, &said, b"x");
        let media_type = Said::of(message.properties()).content_type;
        assert_eq!(media_type, Some("application/cloudevents+json; charset=UTF-8"));
        let mut named = Vec::new();
        for (name, value) in [("origin", "é 1"), ("epoch", "2"), ("seq", "3")] {
            put_user(&mut named, name, value);
        }
        let event = value(Wrapping::CloudEvents, &named, b"x");
        assert_eq!((&event["id"], &event["source"]), (&json!("é 1.2.3"), &json!("/forebay/%C3%A9%201")));
        assert_eq!(event.get("traceparent"), None, "none is made up");
    }

    #[test]
    fn the_data_of_a_cloud_event_is_what_its_content_type_says() {
        for (declared, payload, data, base64, of) in [
            (None, &b"21.5"[..], json!(21.5), None, "application/json"),
            (None, b"warm", json!("warm"), None, "text/plain; charset=UTF-8"),
            (None, b"\xff", Value::Null, Some("/w=="), "application/octet-stream"),
            (Some("text/plain"), b"21.5", json!("21.5"), None, "text/plain"),
            (Some("Application/X+JSON; v=1"), b"[1]", json!([1]), None, "Application/X+JSON; v=1"),
            (Some("application/json"), b"no JSON", Value::Null, Some("bm8gSlNPTg=="), "application/json"),
            (Some("image/png"), b"\xff", Value::Null, Some("/w=="), "image/png"),
            (Some("no media type"), b"1", json!(1), None, "application/json"),
        ] {
            let event = value(Wrapping::CloudEvents, &declared.map(content_type).unwrap_or_default(), payload);
            assert_eq!((&event["data"], event["data_base64"].as_str()), (&data, base64), "{declared:?} {payload:?}");
            assert_eq!(event["datacontenttype"], of, "{declared:?} {payload:?}");
        }
    }

    #[test]
    fn a_removal_stays_one_and_raw_is_raw() {
        let marks = marks();
        let into = |payload: &[u8], retain, wrapping| {
            let (topic, properties, accepted_at) = ("t", &[][..], Time(0));
            let parts = Parts { topic, properties, payload, qos: 1, retain, expires_at: None, accepted_at };
            let message = Message::new(&parts, None);
            let wrap =
                Wrap { message: &message, place: 0, retain, wall_ms: None, marks: &marks, event_type: EVENT_TYPE };
            wrap.into(wrapping).is_some()
        };
        assert!(!into(b"", true, Wrapping::Json) && !into(b"x", false, Wrapping::Raw));
        assert!(into(b"", false, Wrapping::Json) && into(b"x", true, Wrapping::CloudEvents));
    }
}
