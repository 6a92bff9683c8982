//! What a message that was given up becomes: a dead letter, which says why in user properties of its own.

use std::sync::Arc;

use forebay_wire::property::{Place, Properties, Property};

use crate::message::{Message, Origin, Parts, Time, cut_topic};
use crate::properties::put_user;

/// How the topics of dead letters begin.
pub const DEAD_PREFIX: &str = "$dead/";
/// All user properties of a dead letter that are not its publisher's begin so, and are left out when it goes back.
pub const OWN: &str = "dead-";
/// Behind [`OWN`]: the message's topic, where `$dead/NAME/` before it leaves too little room for it.
const TOPIC: &str = "topic";
/// Bytes of an upstream's words in a dead letter.
const DETAIL_MAX: usize = 1_000;

/// Why a message is a dead letter.
#[derive(Clone, Copy, Debug)]
pub struct Cause<'a> {
    /// What keeps them: a queue, a bridge, or what `[[dead_letters]]` names. It is in the topic.
    pub name: &'a str,
    /// Who gave it up, the queue, the bridge or the session's client, or who published what nobody wants: `dead-from`.
    pub from: &'a str,
    /// `dead-reason`, see [`crate::queue::Why`].
    pub why: &'a str,
    /// Why, in the words of whoever refused it: `dead-detail`, of at most 1,000 bytes.
    pub detail: Option<&'a str>,
    /// How often it was lent: `dead-count`.
    pub count: Option<u32>,
    /// When, in milliseconds since 1970: `dead-first-at`.
    pub wall_ms: u64,
}

/// The message as it lies among dead letters, on `$dead/FROM/TOPIC`: what its publisher said stays, and comes first.
#[must_use]
pub fn dead_letter(
    message: &Message,
    cause: &Cause<'_>,
    accepted_at: Time,
    heir: Option<Arc<dyn Origin>>,
) -> Arc<Message> {
    let topic = format!("{DEAD_PREFIX}{}/{}", cause.name, message.topic());
    let mut properties = message.properties().to_vec();
    let mut say = |name: &str, value: &str| put_user(&mut properties, &format!("{OWN}{name}"), value);
    say("reason", cause.why);
    if let Some(detail) = cause.detail {
        say("detail", truncate(detail));
    }
    say("from", cause.from);
    if let Some(count) = cause.count {
        say("count", &count.to_string());
    }
    say("first-at", &cause.wall_ms.to_string());
    if cut_topic(&topic).len() < topic.len() {
        say(TOPIC, message.topic());
    }
    let parts = Parts {
        topic: &topic,
        properties: &properties,
        payload: message.payload(),
        qos: message.qos.max(1),
        retain: false,
        expires_at: None,
        accepted_at,
    };
    Arc::new(Message::new(&parts, heir))
}

/// The publisher of a message that is a dead letter now waits for that one.
pub struct Heir {
    message: Arc<Message>,
    /// Nobody else has the message: with its dead letter it is refused.
    only: bool,
}

impl Heir {
    /// Of a message that others may have as well. It is awaited once more than others know of: [`Message::await_one`].
    #[must_use]
    pub fn of(message: &Arc<Message>) -> Arc<dyn Origin> {
        Arc::new(Self { message: message.clone(), only: false })
    }

    /// Of a message that nobody else has.
    #[must_use]
    pub fn of_only(message: &Arc<Message>) -> Arc<dyn Origin> {
        Arc::new(Self { message: message.clone(), only: true })
    }
}

impl Origin for Heir {
    fn message_safe(&self) {
        self.message.settle();
    }

    fn message_refused(&self, _letter: &Message) -> bool {
        // Its own entry, or another of this commit, may have been asked before.
        self.only && (self.message.was_refused() || self.message.refuse())
    }
}

/// A dead letter as it was before it was dead.
pub struct Alive {
    /// The message, on its own topic.
    pub message: Arc<Message>,
    /// `dead-reason`.
    pub why: String,
    /// `dead-from`.
    pub from: String,
}

impl Alive {
    /// From now on it counts as new: however long it was dead, no limit of age ends it at once. `None`: it is no dead letter of this
    /// name.
    #[must_use]
    pub fn again(dead: &Message, name: &str, now: Time) -> Option<Self> {
        let topic = dead.topic().strip_prefix(DEAD_PREFIX)?.strip_prefix(name)?.strip_prefix('/')?;
        let mut properties = Vec::with_capacity(dead.properties().len());
        let (mut why, mut from, mut whole) = (String::new(), String::new(), None);
        for spanned in Properties::new(dead.properties(), Place::Publish).flatten() {
            let Property::UserProperty(name, value) = spanned.property else {
                properties.extend_from_slice(spanned.bytes);
                continue;
            };
            // The broker's own come behind those of the publisher.
            match name.strip_prefix(OWN) {
                Some("reason") => value.clone_into(&mut why),
                Some("from") => value.clone_into(&mut from),
                Some(TOPIC) => whole = Some(value),
                Some(_) => {}
                None => properties.extend_from_slice(spanned.bytes),
            }
        }
        // One that was not cut says nothing of it: then what is said is the publisher's.
        let may_be_cut = dead.topic().len() + char::MAX.len_utf8() > usize::from(u16::MAX);
        let topic = whole.filter(|whole| may_be_cut && whole.starts_with(topic)).unwrap_or(topic);
        let parts = Parts {
            topic,
            properties: &properties,
            payload: dead.payload(),
            qos: dead.qos,
            retain: false,
            expires_at: None,
            accepted_at: now,
        };
        Some(Self { message: Arc::new(Message::new(&parts, None)), why, from })
    }
}

/// As much of it as a dead letter carries.
fn truncate(text: &str) -> &str {
    let end = (0..=text.len().min(DETAIL_MAX)).rfind(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::user_property;

    fn message(topic: &str, properties: &[u8]) -> Message {
        let (retain, expires_at, accepted_at) = (false, None, Time(7));
        Message::new(&Parts { topic, properties, payload: b"x", qos: 1, retain, expires_at, accepted_at }, None)
    }

    fn buried(message: &Message, at: Time) -> Arc<Message> {
        let cause = Cause { name: "up", from: "up", why: "refused", detail: None, count: None, wall_ms: 1 };
        dead_letter(message, &cause, at, None)
    }

    #[test]
    fn its_age_begins_with_the_burial_and_again_with_the_replay() {
        let dead = buried(&message("t", &[]), Time(1_000));
        assert_eq!((dead.topic(), dead.accepted_at), ("$dead/up/t", Time(1_000)));
        let alive = Alive::again(&dead, "up", Time(9_000)).unwrap().message;
        assert_eq!((alive.topic(), alive.accepted_at), ("t", Time(9_000)));
    }

    #[test]
    fn a_topic_without_room_for_where_it_lies_is_cut_and_comes_back_whole() {
        let mut properties = Vec::new();
        put_user(&mut properties, "unit", "K");
        for topic in [format!("é{}", "x".repeat(65_533)), "é".repeat(32_767)] {
            let dead = buried(&message(&topic, &properties), Time(0));
            assert!(dead.topic().starts_with("$dead/up/é") && dead.topic().len() > 65_530, "{}", dead.topic().len());
            assert_eq!(user_property(dead.properties(), "unit"), Some("K"));
            assert_eq!((user_property(dead.properties(), "dead-reason"), dead.payload()), (Some("refused"), &b"x"[..]));
            let alive = Alive::again(&dead, "up", Time(0)).unwrap().message;
            assert_eq!(alive.topic(), topic);
            assert_eq!((alive.properties(), alive.payload()), (&properties[..], &b"x"[..]));
        }
    }

    #[test]
    fn a_publisher_cannot_say_where_its_letter_goes() {
        let mut properties = Vec::new();
        put_user(&mut properties, "dead-topic", "t/other");
        let alive = Alive::again(&buried(&message("t", &properties), Time(0)), "up", Time(0)).unwrap().message;
        assert_eq!(alive.topic(), "t");
    }

    #[test]
    fn long_words_are_cut_at_a_character() {
        assert_eq!(truncate("no"), "no");
        assert_eq!(truncate(&format!("x{}", "é".repeat(DETAIL_MAX))).len(), DETAIL_MAX - 1);
    }
}
