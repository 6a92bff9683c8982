//! A PUBLISH, encoded once when it is accepted; what differs from one sending to the next (packet identifier, DUP, what
//! remains of its expiry, topic alias) is put in when it is copied to the socket's buffer.

use forebay_wire::property::id;
use forebay_wire::types::{PacketId, QoS, Version};
use forebay_wire::varint;

use crate::message::{Message, Properties};

/// An encoded PUBLISH. Its layout is `body`: topic with its length, packet identifier (QoS 1 and 2), property length and
/// properties (MQTT 5), payload. The fixed header is made when it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    body: Box<[u8]>,
    /// PUBLISH, QoS and RETAIN.
    first_byte: u8,
    topic_len: u16,
    /// Where the properties begin, after their length; 0 before MQTT 5.
    properties_at: u32,
    properties_len: u32,
    /// Where the message expiry interval's four bytes are, within `body`; 0 for none.
    expiry_at: u32,
}

/// How a topic goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alias {
    /// As it is.
    None,
    /// The topic, and an alias for it from now on.
    Set(u16),
    /// The alias alone.
    Use(u16),
}

impl Frame {
    pub(crate) fn new(version: Version, message: &Message) -> Self {
        let qos = message.qos;
        let id_len = if qos == QoS::AtMostOnce { 0 } else { 2 };
        let v5 = version.is_v5();
        let properties_len = if v5 { message.properties_len() } else { 0 };
        let length = varint::encode(properties_len as u32);
        let head = 2 + message.topic.len() + id_len;
        let properties_at = if v5 { head + length.1 } else { 0 };
        let mut body = Vec::with_capacity(head + length.1 + properties_len + message.payload.len());
        put_string(&mut body, &message.topic);
        body.resize(head, 0);
        let mut expiry_at = 0;
        if v5 {
            body.extend_from_slice(length.0.get(..length.1).unwrap_or_default());
            if message.expiry.is_some() {
                expiry_at = body.len() as u32 + 1;
            }
            message.put_properties(&mut body);
        }
        body.extend_from_slice(&message.payload);
        Self {
            body: body.into_boxed_slice(),
            first_byte: 0x30 | (qos as u8) << 1 | u8::from(message.retain),
            topic_len: message.topic.len() as u16,
            properties_at: properties_at as u32,
            properties_len: properties_len as u32,
            expiry_at,
        }
    }

    pub(crate) fn qos(&self) -> QoS {
        QoS::try_from(self.first_byte >> 1 & 3).unwrap_or(QoS::AtMostOnce)
    }

    pub(crate) fn retain(&self) -> bool {
        self.first_byte & 1 != 0
    }

    pub(crate) fn topic(&self) -> &[u8] {
        self.body.get(2..2 + usize::from(self.topic_len)).unwrap_or_default()
    }

    /// Its payload.
    pub(crate) fn payload(&self) -> bytes::Bytes {
        let id_len = if self.qos() == QoS::AtMostOnce { 0 } else { 2 };
        let head = 2 + usize::from(self.topic_len) + id_len;
        let at = head.max(self.properties_at as usize + self.properties_len as usize);
        bytes::Bytes::copy_from_slice(self.body.get(at..).unwrap_or_default())
    }

    /// The message that it was made from, without its expiry.
    pub(crate) fn message(&self) -> Message {
        let topic = String::from_utf8_lossy(self.topic());
        let message = Message::new(topic.as_ref(), self.payload()).qos(self.qos()).retain(self.retain());
        let (at, len) = (self.properties_at as usize, self.properties_len as usize);
        let properties = Properties::decode(self.body.get(at..at + len).filter(|_| at > 0).unwrap_or_default());
        if properties == Properties::default() { message } else { message.properties(properties) }
    }

    /// What it counts against a limit in bytes.
    pub(crate) fn size(&self) -> usize {
        self.body.len()
    }

    /// Bytes of the whole packet without an alias.
    pub(crate) fn packet_len(&self) -> usize {
        1 + varint::size(self.body.len() as u32) + self.body.len()
    }

    /// Appends the packet. `expiry_s` replaces the message expiry interval of a message that has one.
    #[inline]
    pub(crate) fn put(&self, out: &mut Vec<u8>, id: Option<PacketId>, dup: bool, expiry_s: Option<u32>, alias: Alias) {
        out.push(self.first_byte | if dup { 0x08 } else { 0 });
        let properties_at = match alias {
            Alias::None => {
                put_varint(out, self.body.len());
                let at = out.len();
                out.extend_from_slice(&self.body);
                patch(out, at + 2 + usize::from(self.topic_len), id.map(|id| id.get().to_be_bytes()));
                at + self.properties_at as usize
            }
            Alias::Set(alias) => self.put_with_alias(out, self.topic(), id, alias),
            Alias::Use(alias) => self.put_with_alias(out, &[], id, alias),
        };
        if self.expiry_at != 0 {
            let at = properties_at + (self.expiry_at - self.properties_at) as usize;
            patch(out, at, expiry_s.map(u32::to_be_bytes));
        }
    }

    /// Returns where the message's own properties begin.
    fn put_with_alias(&self, out: &mut Vec<u8>, topic: &[u8], id: Option<PacketId>, alias: u16) -> usize {
        let own = self.body.get(self.properties_at as usize..).unwrap_or_default();
        let (length, length_len) = varint::encode(self.properties_len + ALIAS_LEN);
        let id_len = if id.is_some() { 2 } else { 0 };
        put_varint(out, 2 + topic.len() + id_len + length_len + ALIAS_LEN as usize + own.len());
        out.extend_from_slice(&(topic.len() as u16).to_be_bytes());
        out.extend_from_slice(topic);
        if let Some(id) = id {
            out.extend_from_slice(&id.get().to_be_bytes());
        }
        out.extend_from_slice(length.get(..length_len).unwrap_or_default());
        out.push(id::TOPIC_ALIAS);
        out.extend_from_slice(&alias.to_be_bytes());
        let at = out.len();
        out.extend_from_slice(own);
        at
    }

    /// What a store keeps.
    #[cfg(feature = "durable")]
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        out.push(self.first_byte);
        out.extend_from_slice(&self.topic_len.to_be_bytes());
        for field in [self.properties_at, self.properties_len, self.expiry_at] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        out.extend_from_slice(&self.body);
    }

    /// What [`Frame::save`] wrote; `None` when it is not that.
    #[cfg(feature = "durable")]
    pub(crate) fn load(bytes: &[u8]) -> Option<Self> {
        let mut r = forebay_wire::read::Reader::new(bytes);
        let first_byte = r.u8().ok()?;
        let topic_len = r.u16().ok()?;
        let [properties_at, properties_len, expiry_at] = [r.u32().ok()?, r.u32().ok()?, r.u32().ok()?];
        let body: Box<[u8]> = r.rest().into();
        let (len, end) = (body.len(), properties_at as usize + properties_len as usize);
        let fits = 2 + usize::from(topic_len) <= len && end <= len;
        let expires = expiry_at == 0 || expiry_at >= properties_at && expiry_at as usize + 4 <= end;
        // QoS 1 or 2, and the topic as it says.
        let is_publish = first_byte & 0xf8 == 0x30 && matches!(first_byte >> 1 & 3, 1 | 2);
        let topic = len >= 4 + usize::from(topic_len) && body.first_chunk() == Some(&topic_len.to_be_bytes());
        (fits && expires && is_publish && topic).then_some(Self {
            body,
            first_byte,
            topic_len,
            properties_at,
            properties_len,
            expiry_at,
        })
    }
}

/// Bytes of the property.
const ALIAS_LEN: u32 = 3;

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// A length of at most [`varint::MAX`]: what is larger was refused when it was accepted.
pub(crate) fn put_varint(out: &mut Vec<u8>, value: usize) {
    let (bytes, len) = varint::encode(value as u32);
    out.extend_from_slice(bytes.get(..len).unwrap_or_default());
}

fn patch<const N: usize>(out: &mut [u8], at: usize, bytes: Option<[u8; N]>) {
    if let Some(bytes) = bytes
        && let Some(place) = out.get_mut(at..at + N)
    {
        place.copy_from_slice(&bytes);
    }
}
