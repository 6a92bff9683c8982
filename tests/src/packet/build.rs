//! Builders for the packets of a client, right or wrong: nothing is checked, so that a test can break a rule.

use super::property::{self, Property};
use super::{Ack, Version, binary, frame, string};

/// A will, as CONNECT carries it.
#[derive(Debug, Clone, Default)]
pub struct Will {
    topic: String,
    payload: Vec<u8>,
    qos: u8,
    retain: bool,
    properties: Vec<Property>,
}

impl Will {
    /// A will at QoS 0 that is not retained.
    pub fn new(topic: &str, payload: &[u8]) -> Self {
        Self { topic: topic.to_owned(), payload: payload.to_vec(), ..Self::default() }
    }

    /// With this QoS.
    pub fn qos(mut self, qos: u8) -> Self {
        self.qos = qos;
        self
    }

    /// Retained.
    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    /// With one more property.
    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }
}

/// A CONNECT. It starts clean and without keep alive, unless said otherwise.
#[derive(Debug, Clone)]
pub struct Connect {
    version: Version,
    client: String,
    resume: bool,
    keep_alive_s: u16,
    properties: Vec<Property>,
    will: Option<Will>,
    user: Option<String>,
    password: Option<Vec<u8>>,
}

impl Connect {
    /// For this client identifier.
    pub fn new(version: Version, client: &str) -> Self {
        let client = client.to_owned();
        let (properties, will, user, password) = (Vec::new(), None, None, None);
        Self { version, client, resume: false, keep_alive_s: 0, properties, will, user, password }
    }

    /// Clean start (clean session) 0.
    pub fn resume(mut self) -> Self {
        self.resume = true;
        self
    }

    /// With this keep alive in seconds.
    pub fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive_s = seconds;
        self
    }

    /// With one more property.
    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    /// With this will.
    pub fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    /// With a user name.
    pub fn user(mut self, name: &str) -> Self {
        self.user = Some(name.to_owned());
        self
    }

    /// With a password.
    pub fn password(mut self, password: &[u8]) -> Self {
        self.password = Some(password.to_vec());
        self
    }

    /// The protocol version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The packet.
    pub fn packet(&self) -> Vec<u8> {
        let mut flags = u8::from(!self.resume) << 1;
        if let Some(will) = &self.will {
            flags |= 4 | (will.qos << 3) | (u8::from(will.retain) << 5);
        }
        flags |= (u8::from(self.password.is_some()) << 6) | (u8::from(self.user.is_some()) << 7);
        let mut body = string(if self.version == Version::V31 { "MQIsdp" } else { "MQTT" });
        body.extend([self.version as u8, flags]);
        body.extend(self.keep_alive_s.to_be_bytes());
        body.extend(properties(self.version, &self.properties));
        body.extend(string(&self.client));
        if let Some(will) = &self.will {
            body.extend(properties(self.version, &will.properties));
            body.extend(string(&will.topic));
            body.extend(binary(&will.payload));
        }
        if let Some(user) = &self.user {
            body.extend(string(user));
        }
        if let Some(password) = &self.password {
            body.extend(binary(password));
        }
        frame(0x10, body)
    }
}

/// A PUBLISH; it begins as QoS 0.
#[derive(Debug, Clone)]
pub struct Publish {
    version: Version,
    flags: u8,
    topic: String,
    id: u16,
    properties: Vec<Property>,
    payload: Vec<u8>,
}

impl Publish {
    /// To this topic.
    pub fn new(version: Version, topic: &str, payload: &[u8]) -> Self {
        let (topic, payload) = (topic.to_owned(), payload.to_vec());
        Self { version, flags: 0, topic, id: 0, properties: Vec::new(), payload }
    }

    /// With this QoS, and a packet identifier where it is not 0.
    pub fn qos(mut self, qos: u8, id: u16) -> Self {
        self.flags = (self.flags & 9) | (qos << 1);
        self.id = id;
        self
    }

    /// With the RETAIN flag.
    pub fn retain(mut self) -> Self {
        self.flags |= 1;
        self
    }

    /// With the DUP flag.
    pub fn dup(mut self) -> Self {
        self.flags |= 8;
        self
    }

    /// With one more property.
    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    /// The packet.
    pub fn packet(&self) -> Vec<u8> {
        let mut body = string(&self.topic);
        if self.flags & 6 != 0 {
            body.extend(self.id.to_be_bytes());
        }
        body.extend(properties(self.version, &self.properties));
        body.extend(&self.payload);
        frame(0x30 | self.flags, body)
    }
}

/// Subscription options beside the QoS: No Local.
pub const NO_LOCAL: u8 = 4;
/// Subscription options beside the QoS: Retain As Published.
pub const RETAIN_AS_PUBLISHED: u8 = 8;
/// Subscription options beside the QoS: retained messages only for a new subscription.
pub const RETAIN_IF_NEW: u8 = 0x10;
/// Subscription options beside the QoS: no retained messages.
pub const RETAIN_NEVER: u8 = 0x20;

/// A SUBSCRIBE, or with [`Subscribe::undo`] an UNSUBSCRIBE.
#[derive(Debug, Clone)]
pub struct Subscribe {
    version: Version,
    id: u16,
    properties: Vec<Property>,
    filters: Vec<(String, u8)>,
}

impl Subscribe {
    /// Without a filter yet.
    pub fn new(version: Version, id: u16) -> Self {
        Self { version, id, properties: Vec::new(), filters: Vec::new() }
    }

    /// With one more topic filter; `options` is the QoS and, in 5.0, the other options.
    pub fn filter(mut self, filter: &str, options: u8) -> Self {
        self.filters.push((filter.to_owned(), options));
        self
    }

    /// With one more property.
    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    /// The packet.
    pub fn packet(&self) -> Vec<u8> {
        self.build(0x82)
    }

    /// The UNSUBSCRIBE from the same filters.
    pub fn undo(&self) -> Vec<u8> {
        self.build(0xA2)
    }

    fn build(&self, first: u8) -> Vec<u8> {
        let mut body = self.id.to_be_bytes().to_vec();
        body.extend(properties(self.version, &self.properties));
        for (filter, options) in &self.filters {
            body.extend(string(filter));
            if first == 0x82 {
                body.push(*options);
            }
        }
        frame(first, body)
    }
}

/// An acknowledgement of 5.0 with a reason code and properties.
pub fn ack(kind: Ack, id: u16, reason: u8, properties: &[Property]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.push(reason);
    body.extend(property::write(properties));
    frame(kind.first_byte(), body)
}

/// A DISCONNECT of 5.0.
pub fn disconnect(reason: u8, properties: &[Property]) -> Vec<u8> {
    frame(0xE0, [vec![reason], property::write(properties)].concat())
}

/// An AUTH.
pub fn auth(reason: u8, properties: &[Property]) -> Vec<u8> {
    frame(0xF0, [vec![reason], property::write(properties)].concat())
}

fn properties(version: Version, properties: &[Property]) -> Vec<u8> {
    if version == Version::V5 { property::write(properties) } else { Vec::new() }
}
