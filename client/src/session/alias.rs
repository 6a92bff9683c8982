//! Topic aliases [MQTT5-3.3.2.3.4]: those that this client gives to topics that repeat, and those that the server gives.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use forebay_wire::reason::ReasonCode;
use forebay_wire::{WireError, publish::Publish};

use crate::codec::frame::Alias;

/// Topics at most this long are cheaper as they are than with an alias that is to be set.
const TOPIC_LEN_MIN: usize = 6;
/// More would be memory for nothing: who repeats more topics than this seldom repeats one soon.
const ALIASES_MAX: u16 = 256;

/// Towards the server. Each topic that repeats gets an alias while there are some; then the one that was used longest ago
/// is given to the next.
pub(crate) struct Outgoing {
    maximum: u16,
    by_topic: HashMap<Box<[u8]>, u16, RandomState>,
    /// Topic and last use of alias `index + 1`.
    given: Vec<(Box<[u8]>, u64)>,
    /// Hashes of topics that were seen once: an alias is only given the second time.
    seen: Box<[u32]>,
    clock: u64,
}

impl Outgoing {
    /// For one connection: aliases end with it.
    pub(crate) fn new(topic_alias_maximum: u16) -> Self {
        let maximum = topic_alias_maximum.min(ALIASES_MAX);
        let seen = vec![0; usize::from(maximum) * 4].into_boxed_slice();
        Self { maximum, by_topic: HashMap::default(), given: Vec::new(), seen, clock: 0 }
    }

    /// How this topic goes out now.
    pub(crate) fn of(&mut self, topic: &[u8]) -> Alias {
        if self.maximum == 0 || topic.len() < TOPIC_LEN_MIN {
            return Alias::None;
        }
        self.clock += 1;
        if let Some(alias) = self.by_topic.get(topic) {
            if let Some((_, used)) = self.given.get_mut(usize::from(*alias) - 1) {
                *used = self.clock;
            }
            return Alias::Use(*alias);
        }
        if !self.repeats(topic) {
            return Alias::None;
        }
        let alias = self.free();
        self.by_topic.insert(topic.into(), alias);
        if let Some(place) = self.given.get_mut(usize::from(alias) - 1) {
            *place = (topic.into(), self.clock);
        }
        Alias::Set(alias)
    }

    fn repeats(&mut self, topic: &[u8]) -> bool {
        let hash = self.by_topic.hasher().hash_one(topic);
        let (at, mark) = (hash as usize % self.seen.len().max(1), (hash >> 32) as u32 | 1);
        self.seen.get_mut(at).is_some_and(|place| std::mem::replace(place, mark) == mark)
    }

    fn free(&mut self) -> u16 {
        if self.given.len() < usize::from(self.maximum) {
            self.given.push((Box::default(), 0));
            return self.given.len() as u16;
        }
        let oldest = self.given.iter().enumerate().min_by_key(|(_, (_, used))| *used).map_or(0, |(at, _)| at);
        if let Some((topic, _)) = self.given.get(oldest) {
            self.by_topic.remove(topic);
        }
        oldest as u16 + 1
    }
}

/// From the server.
pub(crate) struct Incoming {
    maximum: u16,
    topics: Vec<Option<Arc<str>>>,
}

impl Incoming {
    pub(crate) fn new(topic_alias_maximum: u16) -> Self {
        Self { maximum: topic_alias_maximum, topics: Vec::new() }
    }

    /// The topic that the alias stands for; `None`: the packet's own.
    pub(crate) fn resolve(&mut self, publish: &Publish<'_>) -> Result<Option<Arc<str>>, WireError> {
        let Some(alias) = publish.topic_alias else { return Ok(None) };
        if alias > self.maximum {
            let detail = "a topic alias above the Topic Alias Maximum of this client";
            return Err(WireError::new(ReasonCode::TopicAliasInvalid, "MQTT5-3.1.2-26", detail));
        }
        let at = usize::from(alias) - 1;
        if publish.topic.is_empty() {
            let known = self.topics.get(at).cloned().flatten();
            return known.map(Some).ok_or(WireError::protocol("MQTT5-3.3.2-12", "a topic alias that was not set"));
        }
        if self.topics.len() <= at {
            self.topics.resize(at + 1, None);
        }
        if let Some(place) = self.topics.get_mut(at) {
            *place = Some(publish.topic.into());
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_gets_its_alias_when_it_repeats() {
        let mut aliases = Outgoing::new(2);
        assert_eq!(aliases.of(b"site/1/t"), Alias::None);
        assert_eq!(aliases.of(b"site/1/t"), Alias::Set(1));
        assert_eq!(aliases.of(b"site/1/t"), Alias::Use(1));
        assert_eq!(aliases.of(b"t"), Alias::None);
        assert_eq!(Outgoing::new(0).of(b"site/1/t"), Alias::None);
    }

    #[test]
    fn the_alias_used_longest_ago_is_given_anew() {
        let mut aliases = Outgoing::new(2);
        let mut twice = |topic: &str| {
            aliases.of(topic.as_bytes());
            aliases.of(topic.as_bytes())
        };
        assert_eq!(twice("topic/a"), Alias::Set(1));
        assert_eq!(twice("topic/b"), Alias::Set(2));
        assert_eq!(twice("topic/a"), Alias::Use(1));
        assert_eq!(twice("topic/c"), Alias::Set(2));
        assert_eq!(twice("topic/a"), Alias::Use(1));
    }
}
