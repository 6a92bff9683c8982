//! MQTT 3.1.1 and 5.0 by hand, for load: nothing is allocated for a message.

use std::sync::Arc;

use forebay_wire::types::Version;
use forebay_wire::varint;

/// What every payload begins with: run, publisher, number, time.
pub const STAMP: usize = 24;

/// The longest: a load that is busy elsewhere is not to be ended for it. None at all is refused by some servers (rumqttd).
const KEEP_ALIVE_S: u16 = u16::MAX;
/// PINGREQ.
pub const PING: [u8; 2] = [0xc0, 0];

/// What CONNECT says.
#[derive(Clone, Debug)]
pub struct Connect<'a> {
    /// 3.1.1 or 5.0.
    pub version: Version,
    /// The client identifier.
    pub client_id: &'a str,
    /// No session from before.
    pub clean: bool,
    /// The session outlives its connection by this; in 3.1.1 it does if it is not clean.
    pub expiry_s: u32,
    /// The user name.
    pub username: Option<&'a str>,
    /// The password.
    pub password: Option<&'a str>,
}

/// CONNECT.
pub fn connect(out: &mut Vec<u8>, c: &Connect<'_>) {
    let mut body = b"\0\x04MQTT".to_vec();
    body.push(c.version.level());
    let login = u8::from(c.username.is_some()) << 7 | u8::from(c.password.is_some()) << 6;
    // Keep alive 0: a load that is busy elsewhere is not to be ended for it.
    body.extend_from_slice(&[login | u8::from(c.clean) << 1]);
    body.extend_from_slice(&KEEP_ALIVE_S.to_be_bytes());
    if c.version.is_v5() {
        if c.expiry_s > 0 {
            body.extend_from_slice(&[5, 0x11]);
            body.extend_from_slice(&c.expiry_s.to_be_bytes());
        } else {
            body.push(0);
        }
    }
    string(&mut body, c.client_id);
    c.username.into_iter().chain(c.password).for_each(|text| string(&mut body, text));
    frame(out, 0x10, &body);
}

/// SUBSCRIBE to one filter.
pub fn subscribe(out: &mut Vec<u8>, version: Version, filter: &str, qos: u8) {
    let mut body = vec![0, 1];
    if version.is_v5() {
        body.push(0);
    }
    string(&mut body, filter);
    body.push(qos);
    frame(out, 0x82, &body);
}

/// DISCONNECT; in MQTT 5 it can end the session as well.
pub fn disconnect(out: &mut Vec<u8>, version: Version, end_session: bool) {
    if version.is_v5() && end_session {
        frame(out, 0xe0, &[0, 5, 0x11, 0, 0, 0, 0]);
    } else {
        frame(out, 0xe0, &[]);
    }
}

/// An ack: PUBACK 0x40, PUBREC 0x50, PUBREL 0x62, PUBCOMP 0x70.
#[inline]
pub fn ack(out: &mut Vec<u8>, first: u8, id: u16) {
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[first, 2, high, low]);
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn frame(out: &mut Vec<u8>, first: u8, body: &[u8]) {
    out.push(first);
    let (len, count) = varint::encode(body.len() as u32);
    out.extend_from_slice(len.get(..count).unwrap_or_default());
    out.extend_from_slice(body);
}

/// One publisher's PUBLISH, encoded once: identifier, number and time are written into each copy.
#[derive(Debug)]
pub struct Template {
    head: Vec<u8>,
    id_at: Option<usize>,
    fill: Arc<[u8]>,
}

impl Template {
    /// A payload is the stamp and then `fill`, which all publishers share.
    #[must_use]
    pub fn new(version: Version, topic: &str, qos: u8, run: u32, publisher: u32, fill: Arc<[u8]>) -> Self {
        let mut body = Vec::new();
        string(&mut body, topic);
        let id_at = (qos > 0).then_some(body.len());
        if qos > 0 {
            body.extend_from_slice(&[0, 0]);
        }
        if version.is_v5() {
            body.push(0);
        }
        body.extend_from_slice(&run.to_be_bytes());
        body.extend_from_slice(&publisher.to_be_bytes());
        body.extend_from_slice(&[0; 16]);
        let (len, count) = varint::encode((body.len() + fill.len()) as u32);
        let mut head = vec![0x30 | qos << 1];
        head.extend_from_slice(len.get(..count).unwrap_or_default());
        let id_at = id_at.map(|at| at + head.len());
        head.extend_from_slice(&body);
        Self { head, id_at, fill }
    }

    /// Appends one.
    #[inline]
    pub fn write(&mut self, out: &mut Vec<u8>, id: u16, number: u64, ns: u64) {
        let end = self.head.len();
        if let Some(bytes) = self.id_at.and_then(|at| self.head.get_mut(at..at + 2)) {
            bytes.copy_from_slice(&id.to_be_bytes());
        }
        if let Some(bytes) = self.head.get_mut(end - 16..) {
            bytes.copy_from_slice(&(u128::from(number) << 64 | u128::from(ns)).to_be_bytes());
        }
        out.extend_from_slice(&self.head);
        out.extend_from_slice(&self.fill);
    }
}

/// A complete packet at the beginning of some bytes.
#[derive(Debug)]
pub struct Packet<'a> {
    /// Its first byte.
    pub first: u8,
    /// What follows the remaining length.
    pub body: &'a [u8],
    /// Its whole length.
    pub len: usize,
}

/// The bytes are no MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The packet that the bytes begin with; `None`: not complete.
///
/// # Errors
/// The remaining length has more than four bytes.
#[inline]
pub fn packet(bytes: &[u8]) -> Result<Option<Packet<'_>>, Malformed> {
    let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
    let (mut len, mut at) = (0usize, 0usize);
    loop {
        let Some(byte) = rest.get(at) else { return Ok(None) };
        len |= usize::from(byte & 0x7f) << (7 * at);
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if at == 4 {
            return Err(Malformed);
        }
    }
    Ok(rest.get(at..at + len).map(|body| Packet { first: *first, body, len: 1 + at + len }))
}

/// What a PUBLISH brings.
#[derive(Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its packet identifier, 0 at QoS 0.
    pub id: u16,
    /// Its stamp, if its payload is long enough to have one.
    pub stamp: Option<Stamp>,
}

/// What the payload says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which run of the program.
    pub run: u32,
    /// Which publisher of it.
    pub publisher: u32,
    /// Its how manyeth message, from 0.
    pub number: u64,
    /// When it was published, or should have been.
    pub ns: u64,
}

/// Reads a PUBLISH's body; `None` if it is none.
#[inline]
#[must_use]
pub fn delivery(version: Version, first: u8, body: &[u8]) -> Option<Delivery> {
    let (topic, mut rest) = body.split_first_chunk::<2>()?;
    rest = rest.get(usize::from(u16::from_be_bytes(*topic))..)?;
    let mut id = 0;
    if first & 0x06 != 0 {
        let (bytes, after) = rest.split_first_chunk::<2>()?;
        (id, rest) = (u16::from_be_bytes(*bytes), after);
    }
    if version.is_v5() {
        rest = after_properties(rest)?;
    }
    let stamp = rest.first_chunk::<STAMP>().map(|bytes| {
        let [head, middle, tail] = [0, 8, 16].map(|at| {
            let part = bytes.get(at..at + 8).and_then(|part| part.try_into().ok());
            u64::from_be_bytes(part.unwrap_or_default())
        });
        Stamp { run: (head >> 32) as u32, publisher: head as u32, number: middle, ns: tail }
    });
    Some(Delivery { id, stamp })
}

fn after_properties(rest: &[u8]) -> Option<&[u8]> {
    let (mut len, mut at) = (0usize, 0usize);
    loop {
        let byte = rest.get(at)?;
        len |= usize::from(byte & 0x7f) << (7 * at);
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if at == 4 {
            return None;
        }
    }
    rest.get(at + len..)
}

/// Identifier and reason code of PUBACK, PUBREC, PUBREL, PUBCOMP.
#[inline]
#[must_use]
pub fn acked(body: &[u8]) -> Option<(u16, u8)> {
    let (id, rest) = body.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*id), rest.first().copied().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_read_back() {
        for (version, qos) in [(Version::V311, 0), (Version::V311, 1), (Version::V5, 0), (Version::V5, 2)] {
            for fill in [0, 40, 127, 20_000] {
                let mut template = Template::new(version, "a/b", qos, 7, 9, vec![b'x'; fill].into());
                let mut out = Vec::new();
                template.write(&mut out, 513, 1 << 40, 1 << 50);
                template.write(&mut out, 514, 1, 2);
                let first = packet(&out).unwrap().unwrap();
                let second = packet(&out[first.len..]).unwrap().unwrap();
                assert_eq!(first.len + second.len, out.len());
                let read = delivery(version, first.first, first.body).unwrap();
                assert_eq!(read.id, if qos > 0 { 513 } else { 0 });
                assert_eq!(read.stamp, Some(Stamp { run: 7, publisher: 9, number: 1 << 40, ns: 1 << 50 }));
                let read = delivery(version, second.first, second.body).unwrap();
                assert_eq!(read.stamp, Some(Stamp { run: 7, publisher: 9, number: 1, ns: 2 }));
                for cut in 0..first.len {
                    assert!(packet(&out[..cut]).unwrap().is_none());
                }
            }
        }
    }

    #[test]
    fn what_is_not_mqtt_is_seen() {
        assert_eq!(packet(b"\x20\xff\xff\xff\xff\x01").unwrap_err(), Malformed);
        assert_eq!(delivery(Version::V5, 0x30, b"\0\x09ab"), None);
        assert_eq!(delivery(Version::V311, 0x30, b"\0\x01ashort").unwrap().stamp, None);
    }
}
