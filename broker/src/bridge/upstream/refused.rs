//! Topics that an upstream says it does not have, or does not let this bridge write to. An upstream that is starting says the same
//! before it knows its topics and its permissions: what is for such a topic waits, unless the configuration says otherwise.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Outcome;
use crate::config::RefusedTopic;
use crate::store::DropReason;

/// How long a topic must be refused before that is believed, where it is ever believed.
const BELIEVED_AFTER: Duration = Duration::from_secs(30);
/// How long a topic that is believed to be missing is not asked for again: asking may take seconds, and holds up what is behind.
const BELIEVED_FOR: Duration = Duration::from_secs(30);
/// How long what is behind a message that waits is held for it. It comes again earlier, unless it has left the queue.
const HELD_FOR: Duration = Duration::from_secs(60);
/// Topics that are remembered; beyond it all are forgotten.
const TOPICS_MAX: usize = 1_000;

/// What is known of an upstream's topics, through all connections to it.
#[derive(Debug)]
pub struct RefusedTopics {
    policy: RefusedTopic,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// A message was taken since the gateway's start: the topic is there, whatever is said later.
    there: HashSet<String>,
    refused: HashMap<String, Refusal>,
}

#[derive(Debug)]
struct Refusal {
    first: Instant,
    last: Instant,
    /// Of the message that was refused last.
    place: u64,
    why: String,
    is_believed: bool,
}

impl Refusal {
    fn outcome(&self) -> Outcome {
        match self.is_believed {
            true => Outcome::Refused(self.why.clone(), DropReason::Refused),
            false => Outcome::Retry(self.why.clone()),
        }
    }
}

impl RefusedTopics {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(policy: RefusedTopic) -> Self {
        Self { policy, seen: Mutex::default() }
    }

    /// Whether it matters what was taken.
    #[must_use]
    pub fn remembers(&self) -> bool {
        self.policy == RefusedTopic::DeadLetter
    }

    /// A message to this topic was taken.
    pub fn taken(&self, topic: &str) {
        let mut seen = self.seen.lock();
        seen.refused.remove(topic);
        if self.policy == RefusedTopic::DeadLetter && !seen.there.contains(topic) {
            if seen.there.len() >= TOPICS_MAX {
                seen.there.clear();
            }
            seen.there.insert(topic.to_owned());
        }
    }

    /// What becomes of the message at this place, whose topic the upstream has just refused.
    pub fn refused(&self, (topic, place): (&str, u64), why: String, now: Instant) -> Outcome {
        let mut seen = self.seen.lock();
        if seen.refused.len() >= TOPICS_MAX && !seen.refused.contains_key(topic) {
            seen.refused.clear();
        }
        let may_be_believed = self.policy == RefusedTopic::DeadLetter && !seen.there.contains(topic);
        let new = || Refusal { first: now, last: now, place, why: String::new(), is_believed: false };
        let refusal = seen.refused.entry(topic.to_owned()).or_insert_with(new);
        (refusal.last, refusal.place, refusal.why) = (now, place, why);
        refusal.is_believed = may_be_believed && now.saturating_duration_since(refusal.first) >= BELIEVED_AFTER;
        refusal.outcome()
    }

    /// What becomes of the message at this place without asking the upstream; `None`: it is to be asked. What is behind a message
    /// that waits must not overtake it.
    pub fn known(&self, (topic, place): (&str, u64), now: Instant) -> Option<Outcome> {
        let seen = self.seen.lock();
        let refusal = seen.refused.get(topic)?;
        let lasts = if refusal.is_believed { BELIEVED_FOR } else { HELD_FOR };
        let is_known = place > refusal.place && now.saturating_duration_since(refusal.last) < lasts;
        is_known.then(|| refusal.outcome())
    }

    /// Whether any topic is refused now.
    #[must_use]
    pub fn has_some(&self) -> bool {
        !self.seen.lock().refused.is_empty()
    }

    /// Whether this topic is refused now.
    #[must_use]
    pub fn has(&self, topic: &str) -> bool {
        self.seen.lock().refused.contains_key(topic)
    }

    /// The upstream was away: it may be starting, and what it said before is no proof.
    pub fn forget(&self) {
        self.seen.lock().refused.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REASON: &str = "no such topic";

    fn refuse(topics: &RefusedTopics, topic: &str, at: Instant) -> Outcome {
        topics.refused((topic, 7), REASON.to_owned(), at)
    }

    fn waits() -> Outcome {
        Outcome::Retry(REASON.to_owned())
    }

    fn is_dead() -> Outcome {
        Outcome::Refused(REASON.to_owned(), DropReason::Refused)
    }

    #[test]
    fn what_is_for_a_refused_topic_waits() {
        let (topics, start) = (RefusedTopics::new(RefusedTopic::Wait), Instant::now());
        for after in [Duration::ZERO, BELIEVED_AFTER, BELIEVED_AFTER * 1_000] {
            assert_eq!(refuse(&topics, "t", start + after), waits(), "{after:?}");
        }
    }

    #[test]
    fn a_topic_that_stays_refused_is_believed_to_be_where_that_is_wanted() {
        let (topics, start) = (RefusedTopics::new(RefusedTopic::DeadLetter), Instant::now());
        assert_eq!(refuse(&topics, "t", start), waits());
        assert_eq!(refuse(&topics, "t", start + BELIEVED_AFTER), is_dead());
        topics.forget();
        assert_eq!(refuse(&topics, "t", start + BELIEVED_AFTER), waits(), "the upstream is starting");
        topics.taken("u");
        assert_eq!(refuse(&topics, "u", start), waits());
        assert_eq!(refuse(&topics, "u", start + BELIEVED_AFTER * 100), waits(), "it was there: its server is away");
    }

    #[test]
    fn what_is_behind_a_message_that_waits_does_not_overtake_it() {
        let (topics, start) = (RefusedTopics::new(RefusedTopic::DeadLetter), Instant::now());
        assert_eq!(topics.known(("t", 7), start), None);
        refuse(&topics, "t", start);
        assert_eq!(topics.known(("t", 7), start), None, "it comes again, and is asked for");
        assert_eq!(topics.known(("t", 6), start), None);
        assert_eq!(topics.known(("t", 8), start), Some(waits()));
        assert_eq!(topics.known(("t", 8), start + HELD_FOR), None, "what was refused has left the queue");
        assert_eq!(topics.known(("u", 8), start), None);
        refuse(&topics, "t", start + BELIEVED_AFTER);
        assert_eq!(topics.known(("t", 8), start + BELIEVED_AFTER), Some(is_dead()));
        assert_eq!(topics.known(("t", 8), start + BELIEVED_AFTER + BELIEVED_FOR), None);
        topics.taken("t");
        assert_eq!(topics.known(("t", 8), start + BELIEVED_AFTER), None);
    }
}
