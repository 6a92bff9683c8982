//! Topic aliases of one connection, both ways [MQTT5-3.3.2.3.4].

use std::sync::Arc;

use hashbrown::HashMap;

/// Bytes of all topics behind the aliases of one connection, each way: 64 topics of a thousand characters.
const TOPIC_BYTES_MAX: usize = 64 * 1024;

/// Both tables. They live as long as the network connection.
pub(crate) struct Aliases {
    inbound: Vec<Option<Arc<str>>>,
    outbound: HashMap<Box<[u8]>, u16>,
    outbound_max: u16,
    inbound_bytes: usize,
    outbound_bytes: usize,
}

/// How a topic is written towards the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alias {
    /// The whole name, no alias.
    None,
    /// The whole name, and the alias that stands for it from now on.
    New(u16),
    /// The alias alone.
    Known(u16),
}

impl Aliases {
    /// Tables for a client that takes up to `outbound_max` aliases; `None` when there is nothing to keep yet.
    pub(crate) fn new(outbound_max: u16) -> Option<Box<Self>> {
        (outbound_max > 0).then(|| Box::new(Self { outbound_max, ..*Self::inbound_only() }))
    }

    /// An inbound table alone.
    pub(crate) fn inbound_only() -> Box<Self> {
        Box::new(Self {
            inbound: Vec::new(),
            outbound: HashMap::new(),
            outbound_max: 0,
            inbound_bytes: 0,
            outbound_bytes: 0,
        })
    }

    /// The client binds an alias, checked against our maximum by the caller. False: too many bytes.
    pub(crate) fn bind(&mut self, alias: u16, topic: &str) -> bool {
        let at = usize::from(alias);
        if self.inbound.len() <= at {
            self.inbound.resize(at + 1, None);
        }
        if let Some(slot) = self.inbound.get_mut(at)
            && slot.as_deref() != Some(topic)
        {
            let bytes = self.inbound_bytes - slot.as_deref().map_or(0, str::len) + topic.len();
            if bytes > TOPIC_BYTES_MAX {
                return false;
            }
            self.inbound_bytes = bytes;
            *slot = Some(topic.into());
        }
        true
    }

    /// The topic behind an alias.
    pub(crate) fn resolve(&self, alias: u16) -> Option<Arc<str>> {
        self.inbound.get(usize::from(alias))?.clone()
    }

    /// Towards the client: the first topics that are sent get an alias, as many as it takes. They are not moved to
    /// other topics later: a device that hears of few topics gains, one that hears of many loses nothing.
    pub(crate) fn outgoing(&mut self, topic: &[u8]) -> Alias {
        if let Some(alias) = self.outbound.get(topic) {
            return Alias::Known(*alias);
        }
        let next = self.outbound.len() + 1;
        match u16::try_from(next) {
            Ok(alias) if alias <= self.outbound_max && self.outbound_bytes + topic.len() <= TOPIC_BYTES_MAX => {
                self.outbound_bytes += topic.len();
                self.outbound.insert(topic.into(), alias);
                Alias::New(alias)
            }
            Ok(_) | Err(_) => Alias::None,
        }
    }

    /// The packet that would have given the topic its alias, the newest, is not sent.
    pub(crate) fn take_back(&mut self, topic: &[u8]) {
        if self.outbound.remove(topic).is_some() {
            self.outbound_bytes -= topic.len();
        }
    }
}
