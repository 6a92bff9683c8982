//! What a message that was given up becomes: a dead letter, which says why in user properties of its own.

use std::sync::Arc;

use crate::broker::DEAD_PREFIX;
use crate::message::{Message, Parts, Time};
use crate::properties::put_user;

/// All user properties of a dead letter that are not its publisher's begin so, and are left out when it goes back.
pub const OWN: &str = "dead-";
/// Bytes of an upstream's words in a dead letter.
const DETAIL_MAX: usize = 1_000;

/// Why a message is a dead letter.
#[derive(Clone, Copy, Debug)]
pub struct Cause<'a> {
    /// The queue or the bridge: `dead-from`.
    pub from: &'a str,
    /// `dead-reason`: `refused`, `too-often`, `too-large` or `expired`.
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
pub fn dead_letter(message: &Message, cause: &Cause<'_>, accepted_at: Time) -> Arc<Message> {
    let topic = format!("{DEAD_PREFIX}{}/{}", cause.from, message.topic());
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
    let parts = Parts {
        topic: &topic,
        properties: &properties,
        payload: message.payload(),
        qos: message.qos.max(1),
        retain: false,
        expires_at: None,
        accepted_at,
    };
    Arc::new(Message::new(&parts, None))
}

/// As much of it as a dead letter carries.
fn truncate(text: &str) -> &str {
    let end = (0..=text.len().min(DETAIL_MAX)).rfind(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_are_cut_at_a_character() {
        assert_eq!(truncate("no"), "no");
        assert_eq!(truncate(&format!("x{}", "é".repeat(DETAIL_MAX))).len(), DETAIL_MAX - 1);
    }
}
