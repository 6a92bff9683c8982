//! What messages have in common: by it they are kept in order, or replace each other.

use std::hash::BuildHasher;
use std::sync::LazyLock;

use crate::properties::user_property;

/// Seeded by chance: nobody can choose a key that is taken for another's.
static HASH: LazyLock<foldhash::quality::RandomState> = LazyLock::new(foldhash::quality::RandomState::default);

/// Where the key of a message stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyOf {
    /// Its topic.
    #[default]
    Topic,
    /// The first user property of this name (MQTT 5). A message without it has no key.
    Property(Box<str>),
}

impl KeyOf {
    /// The key of a message; `None`: it has none.
    fn of<'a>(&self, topic: &'a [u8], properties: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Self::Topic => Some(topic),
            Self::Property(name) => user_property(properties, name).map(str::as_bytes),
        }
    }

    /// The key's hash, which differs from run to run.
    #[must_use]
    pub fn hash_of(&self, topic: &[u8], properties: &[u8]) -> Option<u64> {
        self.of(topic, properties).map(|key| HASH.hash_one(key))
    }
}
