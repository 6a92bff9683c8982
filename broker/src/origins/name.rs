//! How a publication says which it is: in the topic (`$once/<origin>/<epoch>.<seq>/<topic>`), which every client can, or in the
//! user properties `origin`, `epoch` and `seq` of MQTT 5.

use forebay_wire::property::{Place, Properties, Property, Spanned};

/// What topics of such publications begin with.
pub const PREFIX: &str = "$once/";
/// The user property with the origin's name.
pub const ORIGIN: &str = "origin";
/// The user property with the epoch.
pub const EPOCH: &str = "epoch";
/// The user property with the sequence number.
pub const SEQ: &str = "seq";
/// Bytes of an origin's name.
pub const ORIGIN_MAX: usize = 128;

/// What a publication says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<'a> {
    /// Its origin.
    pub origin: &'a str,
    /// The origin's epoch.
    pub epoch: u64,
    /// Its number.
    pub seq: u64,
    /// The topic that it is for.
    pub topic: &'a str,
    /// It was said in the topic: the properties do not say it.
    pub in_topic: bool,
}

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Not `$once/<origin>/<epoch>.<seq>/<topic>`.
    #[error("it is $once/<origin>/<epoch>.<seq>/<topic>")]
    Form,
    /// Not two numbers.
    #[error("epoch and sequence number are whole numbers below 2^64")]
    Number,
    /// An empty or overlong name.
    #[error("an origin's name has 1 to 128 bytes, and none of / + # in it")]
    Origin,
    /// A topic that cannot be published to.
    #[error("the topic behind it is empty, or the broker's own")]
    Topic,
}

/// What a publication says of itself: `None` if nothing, or not all of it.
///
/// # Errors
/// It says it in a form that cannot be understood.
pub fn read<'a>(topic: &'a str, properties: &'a [u8]) -> Result<Option<Named<'a>>, Wrong> {
    if let Some(rest) = topic.strip_prefix(PREFIX) {
        let (origin, rest) = rest.split_once('/').ok_or(Wrong::Form)?;
        let (id, topic) = rest.split_once('/').ok_or(Wrong::Form)?;
        let (epoch, seq) = id.split_once('.').ok_or(Wrong::Form)?;
        // A delayed message may be repeated as well.
        let own = topic.starts_with('$') && !topic.starts_with(crate::delayed::PREFIX);
        if topic.is_empty() || own {
            return Err(Wrong::Topic);
        }
        let (epoch, seq) = (number(epoch)?, number(seq)?);
        return Ok(Some(Named { origin: name(origin)?, epoch, seq, topic, in_topic: true }));
    }
    let (mut origin, mut epoch, mut seq) = (None, None, None);
    for Spanned { property, .. } in Properties::new(properties, Place::Publish).flatten() {
        let Property::UserProperty(key, value) = property else { continue };
        let slot = match key {
            ORIGIN => &mut origin,
            EPOCH => &mut epoch,
            SEQ => &mut seq,
            _ => continue,
        };
        *slot = Some(value);
    }
    let (Some(origin), Some(seq)) = (origin, seq) else { return Ok(None) };
    let (epoch, seq) = (epoch.map_or(Ok(0), number)?, number(seq)?);
    Ok(Some(Named { origin: name(origin)?, epoch, seq, topic, in_topic: false }))
}

fn number(text: &str) -> Result<u64, Wrong> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or(Wrong::Number)
}

fn name(origin: &str) -> Result<&str, Wrong> {
    let fits = !origin.is_empty() && origin.len() <= ORIGIN_MAX && !origin.contains(['/', '+', '#', '\0']);
    if fits { Ok(origin) } else { Err(Wrong::Origin) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::put_user;

    fn said(topic: &str) -> Result<(String, u64, u64, String), Wrong> {
        let named = read(topic, &[])?.unwrap();
        Ok((named.origin.to_owned(), named.epoch, named.seq, named.topic.to_owned()))
    }

    #[test]
    fn the_topic_says_it() {
        assert_eq!(said("$once/pump-7/3.18446744073709551615/a/b"), Ok(("pump-7".into(), 3, u64::MAX, "a/b".into())));
        assert_eq!(said("$once/p/0.0/$delayed/5/a"), Ok(("p".into(), 0, 0, "$delayed/5/a".into())));
        for (topic, wrong) in [
            ("$once/p", Wrong::Form),
            ("$once/p/1.2", Wrong::Form),
            ("$once/p/1/a", Wrong::Form),
            ("$once/p/1.x/a", Wrong::Number),
            ("$once/p/1.-2/a", Wrong::Number),
            ("$once/p/1.18446744073709551616/a", Wrong::Number),
            ("$once//1.2/a", Wrong::Origin),
            ("$once/p/1.2/", Wrong::Topic),
            ("$once/p/1.2/$SYS/a", Wrong::Topic),
        ] {
            assert_eq!(said(topic), Err(wrong), "{topic}");
        }
        assert_eq!(read("a/b", &[]), Ok(None));
    }

    #[test]
    fn properties_say_it() {
        let mut properties = Vec::new();
        put_user(&mut properties, "x", "y");
        put_user(&mut properties, ORIGIN, "pump");
        put_user(&mut properties, SEQ, "12");
        let named = read("t", &properties).unwrap().unwrap();
        assert_eq!((named.origin, named.epoch, named.seq, named.topic, named.in_topic), ("pump", 0, 12, "t", false));
        put_user(&mut properties, EPOCH, "4");
        assert_eq!(read("t", &properties).unwrap().unwrap().epoch, 4);
        put_user(&mut properties, SEQ, "?");
        assert_eq!(read("t", &properties), Err(Wrong::Number));
        let mut other = Vec::new();
        put_user(&mut other, SEQ, "a number of somebody else's");
        assert_eq!(read("t", &other), Ok(None), "without an origin it means nothing to us");
    }
}
