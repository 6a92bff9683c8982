//! mosquitto.db, as mosquitto 1.6 (version 5) and 2.x (version 6) write it.
//!
//! ```text
//!   15 bytes of magic | u32 0 | u32 version         big-endian, as all numbers but those marked *
//!   then chunks: u32 kind | u32 length | so many bytes
//!     2 message       u64* number | i64* expires | u32 payload | u16 packet id | u16 source id | u16 source user
//!                     | u16 topic | u16 port | u8 QoS | u8 retain | id, user, topic, payload | properties
//!     3 of a client   u64* message | u16 packet id | u16 id | u8 QoS | u8 state | u8 retain, dup | u8 direction
//!                     | client identifier | properties
//!     4 retained      u64* message
//!     5 subscription  u32 identifier | u16 id | u16 filter | u8 QoS | u8 options | 2 | client identifier, filter
//!     6 client        i64* expires | u32 expiry interval | u16 last packet id | u16 id
//!                     (6: | u32 port | u16 user | 2) | client identifier, user
//!   * in the order of the machine that wrote it; times are seconds since 1970
//! ```

use std::collections::HashMap;
use std::io::Read;

use forebay_wire::property::{Place, Properties, Property};
use forebay_wire::read::Reader;

const MAGIC: &[u8] = b"\x00\xb5\x00mosquitto db";
/// What the store of mosquitto 2.1 begins with if it is the plug-in's.
const SQLITE: &[u8] = b"SQLite format 3\0";
/// Versions that are read.
const VERSIONS: std::ops::RangeInclusive<u32> = 5..=6;
/// Seconds since 1970 that no clock shows: such a number is one of the other byte order.
const SECONDS_MAX: u64 = 1 << 40;

/// A message.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) topic: &'a str,
    pub(super) payload: &'a [u8],
    /// Without their length.
    pub(super) properties: &'a [u8],
    pub(super) qos: u8,
    pub(super) retain: bool,
    /// Seconds since 1970; 0 for never.
    pub(super) expires_s: u64,
}

/// A message in the queue of a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) message: u64,
    pub(super) packet_id: u16,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) progress: Progress,
    /// 0 for none.
    pub(super) subscription_id: u32,
}

/// How far a message to a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has not been sent.
    Queued,
    /// It was sent, and may have arrived.
    Sent,
    /// Its PUBREC has come: only PUBREL is owed.
    Received,
}

#[derive(Debug)]
pub(super) struct Subscription<'a> {
    pub(super) filter: &'a str,
    pub(super) id: u32,
    pub(super) qos: u8,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
}

/// The session of a client.
#[derive(Debug, Default)]
pub(super) struct Session<'a> {
    pub(super) client_id: &'a str,
    /// Seconds; 4294967295 for never.
    pub(super) expiry_s: u32,
    /// When it ends, in seconds since 1970; 0 where it does not.
    pub(super) ends_s: u64,
    pub(super) subscriptions: Vec<Subscription<'a>>,
    pub(super) queue: Vec<Waiting>,
    /// What it published at QoS 2 and has not released: its packet identifier and the message. mosquitto publishes it when it does.
    pub(super) unreleased: Vec<(u16, u64)>,
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Database<'a> {
    pub(super) messages: HashMap<u64, Message<'a>>,
    pub(super) retained: Vec<u64>,
    /// In the order of the file.
    pub(super) sessions: Vec<Session<'a>>,
}

/// Whether a file begins as a store of mosquitto's does.
pub(super) fn is_one(file: impl Read) -> bool {
    let mut start = Vec::new();
    let _ = file.take(16).read_to_end(&mut start);
    start.starts_with(MAGIC) || start == SQLITE
}

/// Reads a file.
///
/// # Errors
/// It is none, of a version that is not known, or cut off. What of it has no counterpart goes to `left`.
pub(super) fn read<'a>(bytes: &'a [u8], left: &mut Vec<String>) -> Result<Database<'a>, String> {
    if bytes.starts_with(SQLITE) {
        return Err(
            "this is the SQLite store of mosquitto 2.1's plug-in, which is not read; start mosquitto once with \
                    `persistence true` and without the plug-in's line, with its clients connected, or import the \
                    configuration alone"
                .to_owned(),
        );
    }
    let Some(rest) = bytes.strip_prefix(MAGIC) else { return Err("this is no store of mosquitto's".to_owned()) };
    let mut reader = Reader::new(rest);
    let version = reader.u32().and_then(|_| reader.u32()).map_err(|_| CUT_OFF)?;
    if !VERSIONS.contains(&version) {
        return Err(format!(
            "its version is {version}; those of mosquitto 1.6 and 2 are read ({} and {}): start mosquitto 2 on it once, and \
             stop it",
            VERSIONS.start(),
            VERSIONS.end()
        ));
    }
    let mut found = Reading { version, ..Reading::default() };
    while !reader.is_empty() {
        let at = bytes.len() - reader.rest().len();
        let chunk = chunk(&mut reader).ok_or_else(|| format!("{CUT_OFF}, at byte {at}"))?;
        found.chunk(chunk.0, chunk.1).ok_or_else(|| format!("the chunk at byte {at} is not what it should be"))?;
    }
    Ok(found.finish(left))
}

const CUT_OFF: &str = "it is cut off: mosquitto was killed while it wrote it";

fn chunk<'a>(reader: &mut Reader<'a>) -> Option<(u32, &'a [u8])> {
    let kind = reader.u32().ok()?;
    let length = usize::try_from(reader.u32().ok()?).ok()?;
    Some((kind, reader.bytes(length).ok()?))
}

/// What was read so far: a client's chunks may come before that of the client.
#[derive(Default)]
struct Reading<'a> {
    version: u32,
    found: Database<'a>,
    by_client: HashMap<&'a str, usize>,
    /// Whether the client's own chunk has come.
    known: Vec<bool>,
    unknown_chunks: u64,
    bad_properties: u64,
}

impl<'a> Reading<'a> {
    fn chunk(&mut self, kind: u32, body: &'a [u8]) -> Option<()> {
        let mut reader = Reader::new(body);
        match kind {
            1 => Some(()),
            2 => self.message(&mut reader),
            3 => self.waiting(&mut reader),
            4 => {
                self.found.retained.push(number(&mut reader)?);
                Some(())
            }
            5 => self.subscription(&mut reader),
            6 => self.client(&mut reader),
            _ => {
                self.unknown_chunks += 1;
                Some(())
            }
        }
    }

    fn message(&mut self, reader: &mut Reader<'a>) -> Option<()> {
        let key = number(reader)?;
        let expires_s = seconds(number(reader)?);
        let payload_len = usize::try_from(reader.u32().ok()?).ok()?;
        reader.u16().ok()?;
        let [id_len, user_len, topic_len, _port] = [(); 4].map(|()| reader.u16().map(usize::from));
        let (qos, retain) = (reader.u8().ok()?, reader.u8().ok()? != 0);
        reader.bytes(id_len.ok()?).ok()?;
        reader.bytes(user_len.ok()?).ok()?;
        let topic = text(reader, topic_len.ok()?)?;
        let payload = reader.bytes(payload_len).ok()?;
        let properties = self.properties(reader);
        let message = Message { topic, payload, properties, qos: qos.min(2), retain, expires_s };
        self.found.messages.insert(key, message);
        Some(())
    }

    /// The properties of a message, if they are such as a PUBLISH may have.
    fn properties(&mut self, reader: &mut Reader<'a>) -> &'a [u8] {
        if reader.is_empty() {
            return &[];
        }
        let section = reader.varint().and_then(|len| reader.bytes(len as usize)).unwrap_or_default();
        let sound = Properties::new(section, Place::Publish).all(|property| {
            // What is of one connection or one delivery only is no part of a message.
            property.is_ok_and(|property| {
                !matches!(
                    property.property,
                    Property::TopicAlias(_) | Property::MessageExpiryInterval(_) | Property::SubscriptionIdentifier(_)
                )
            })
        });
        if !sound {
            self.bad_properties += 1;
            return &[];
        }
        section
    }

    fn waiting(&mut self, reader: &mut Reader<'a>) -> Option<()> {
        let message = number(reader)?;
        let packet_id = reader.u16().ok()?;
        let id_len = usize::from(reader.u16().ok()?);
        let (qos, state) = (reader.u8().ok()?.min(2), reader.u8().ok()?);
        let (flags, direction) = (reader.u8().ok()?, reader.u8().ok()?);
        let client = text(reader, id_len)?;
        let subscription_id = subscription_id(reader);
        let session = self.session(client)?;
        if direction == 0 {
            session.unreleased.push((packet_id, message));
            return Some(());
        }
        let progress = match state {
            // It waits for PUBACK, or for PUBREC.
            3 | 5 => Progress::Sent,
            // PUBREL is to be sent again, or PUBCOMP is waited for.
            6 | 9 => Progress::Received,
            _ => Progress::Queued,
        };
        session.queue.push(Waiting { message, packet_id, qos, retain: flags & 0xf0 != 0, progress, subscription_id });
        Some(())
    }

    fn subscription(&mut self, reader: &mut Reader<'a>) -> Option<()> {
        let id = reader.u32().ok()?;
        let (id_len, filter_len) = (usize::from(reader.u16().ok()?), usize::from(reader.u16().ok()?));
        let (qos, options) = (reader.u8().ok()?.min(2), reader.u8().ok()?);
        reader.bytes(2).ok()?;
        let client = text(reader, id_len)?;
        let filter = text(reader, filter_len)?;
        let (no_local, retain_as_published) = (options & 4 != 0, options & 8 != 0);
        self.session(client)?.subscriptions.push(Subscription { filter, id, qos, no_local, retain_as_published });
        Some(())
    }

    fn client(&mut self, reader: &mut Reader<'a>) -> Option<()> {
        let ends_s = seconds(number(reader)?);
        let expiry_s = reader.u32().ok()?;
        reader.u16().ok()?;
        let id_len = usize::from(reader.u16().ok()?);
        if self.version >= 6 {
            reader.bytes(8).ok()?;
        }
        let client = text(reader, id_len)?;
        let session = self.session(client)?;
        (session.ends_s, session.expiry_s) = (ends_s, expiry_s);
        let at = self.by_client.get(client)?;
        *self.known.get_mut(*at)? = true;
        Some(())
    }

    fn session(&mut self, client_id: &'a str) -> Option<&mut Session<'a>> {
        let at = *self.by_client.entry(client_id).or_insert(self.found.sessions.len());
        if at == self.found.sessions.len() {
            self.found.sessions.push(Session { client_id, ..Session::default() });
            self.known.push(false);
        }
        self.found.sessions.get_mut(at)
    }

    fn finish(mut self, left: &mut Vec<String>) -> Database<'a> {
        let mut known = self.known.iter();
        self.found.sessions.retain(|session| {
            let known = known.next().is_some_and(|known| *known);
            if !known {
                let (queue, filters) = (session.queue.len(), session.subscriptions.len());
                let id = session.client_id;
                left.push(format!(
                    "store: {queue} messages and {filters} subscriptions of {id:?}, which has no session"
                ));
            }
            known
        });
        for (count, what) in [
            (self.unknown_chunks, "chunks of an unknown kind"),
            (self.bad_properties, "messages have properties that a PUBLISH may not have: taken without any"),
        ] {
            if count > 0 {
                left.push(format!("store: {count} {what}"));
            }
        }
        self.found
    }
}

/// A number in the order of the machine that wrote it. As a name of a message either order does.
fn number(reader: &mut Reader<'_>) -> Option<u64> {
    reader.bytes(8).ok()?.try_into().ok().map(u64::from_le_bytes)
}

/// A time that was written in either order.
fn seconds(number: u64) -> u64 {
    if number > SECONDS_MAX { number.swap_bytes() } else { number }
}

fn text<'a>(reader: &mut Reader<'a>, length: usize) -> Option<&'a str> {
    std::str::from_utf8(reader.bytes(length).ok()?).ok()
}

/// The subscription identifier of a message in a queue.
fn subscription_id(reader: &mut Reader<'_>) -> u32 {
    let section = reader.varint().and_then(|len| reader.bytes(len as usize)).unwrap_or_default();
    let ids = Properties::new(section, Place::Publish).flatten().filter_map(|item| {
        let Property::SubscriptionIdentifier(id) = item.property else { return None };
        Some(id)
    });
    ids.last().map_or(0, u32::from)
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    /// As mosquitto 2.0.11 has written it.
    pub(in crate::import) const STORE: &[u8] = include_bytes!("../../tests/formats/mosquitto-2.0.db");

    #[test]
    fn a_store_of_mosquittos_is_read() {
        let mut left = Vec::new();
        let found = read(STORE, &mut left).unwrap();
        assert!(left.is_empty() && found.messages.len() == 2 && found.retained.len() == 1, "{found:?}");
        let five = found.sessions.iter().find(|session| session.client_id == "c5").unwrap();
        assert_eq!((five.expiry_s, five.queue.len(), five.queue[0].subscription_id), (3_600, 2, 7));
        assert_eq!(five.subscriptions[0].filter, "a/#");
        let one = found.messages.values().find(|message| message.payload == b"one").unwrap();
        assert_eq!(one.properties, b"\x26\x00\x01k\x00\x01v");
    }

    #[test]
    fn wherever_it_is_cut_off_it_is_an_error_or_whole_chunks() {
        let whole = (0..STORE.len()).filter(|end| read(&STORE[..*end], &mut Vec::new()).is_ok()).count();
        // After the head, and after each chunk but the last.
        assert_eq!(whole, 12);
    }

    #[test]
    fn what_is_none_is_refused_with_what_to_do() {
        for (bytes, says) in [
            (&b"SQLite format 3\0 and more"[..], "SQLite"),
            (b"\x00\xb5\x00mosquitto db\0\0\0\0\0\0\0\x04", "start mosquitto 2 on it once"),
            (b"{}", "no store of mosquitto's"),
        ] {
            let why = read(bytes, &mut Vec::new()).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
    }
}
