//! What messages have in common: by it they are kept in order, or replace each other.

use std::hash::BuildHasher;
use std::sync::LazyLock;

use crate::properties::{last_user_property, user_property};

/// Seeded by chance: nobody can choose a key that is taken for another's.
static HASH: LazyLock<foldhash::quality::RandomState> = LazyLock::new(foldhash::quality::RandomState::default);

/// The user property in which a queue that asks for it is told who published a message.
pub const PUBLISHER: &str = "publisher";

/// Where the key of a message stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyOf {
    /// Its topic.
    #[default]
    Topic,
    /// The first user property of this name (MQTT 5). A message without it has no key.
    Property(Box<str>),
    /// The client identifier of its publisher. What the broker publishes by itself has none.
    Client,
}

impl KeyOf {
    /// The key of a message; `None`: it has none.
    fn of<'a>(&self, topic: &'a [u8], properties: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Self::Topic => Some(topic),
            Self::Property(name) => user_property(properties, name).map(str::as_bytes),
            // A publisher may have said one as well; the broker's own is behind it.
            Self::Client => last_user_property(properties, PUBLISHER).map(str::as_bytes),
        }
    }

    /// The key's hash, which differs from run to run.
    #[must_use]
    pub fn hash_of(&self, topic: &[u8], properties: &[u8]) -> Option<u64> {
        self.of(topic, properties).map(|key| HASH.hash_one(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::put_user;

    #[test]
    fn nobody_says_who_published_but_the_broker() {
        let mut properties = Vec::new();
        put_user(&mut properties, PUBLISHER, "feigned");
        put_user(&mut properties, PUBLISHER, "true");
        assert_eq!(KeyOf::Client.of(b"t", &properties), Some(&b"true"[..]));
        assert_eq!(KeyOf::Client.of(b"t", &[]), None);
        assert_eq!(KeyOf::Property(PUBLISHER.into()).of(b"t", &properties), Some(&b"feigned"[..]));
    }
}
