//! Our own ACL: TOML, first match wins, deny otherwise.
//!
//! ```text
//!   a question ──► rules of the user, and rules for everybody, in the file's order ──► the first that matches
//!                  (a rule that names users is only looked at for them)
//! ```
//!
//! A rule with `subscribe` matches SUBSCRIBE and the messages that come of it, one with `receive` only the messages. A rule with
//! `publish` matches a will as well. So one line is enough for the usual, and the narrower word, written before it, makes exceptions.

mod file;
mod pattern;
#[cfg(test)]
mod tests;

use forebay_wire::topic;
use hashbrown::HashMap;

use super::Principal;
use super::acl::{Answer, BadLine, covers};
use crate::network::Network;

pub(super) use pattern::fill;

/// Topics of one rule; users, groups and so on as well.
pub(super) const LIST_MAX: usize = 1024;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask<'a> {
    /// To log in.
    Connect,
    /// To publish.
    Publish {
        /// The topic that the message will have.
        topic: &'a str,
        /// Its QoS.
        qos: u8,
        /// Whether it is retained.
        retain: bool,
    },
    /// To leave a will.
    Will {
        /// Its topic.
        topic: &'a str,
        /// Its QoS.
        qos: u8,
        /// Whether it is retained.
        retain: bool,
    },
    /// To subscribe.
    Subscribe {
        /// The filter, without `$share/NAME/`.
        filter: &'a str,
        /// Whether it had that.
        shared: bool,
    },
    /// To get a message.
    Receive {
        /// Its topic.
        topic: &'a str,
    },
}

impl<'a> Ask<'a> {
    /// To subscribe to a filter as the client gives it, with `$share/NAME/`.
    #[must_use]
    pub fn subscribe(filter: &'a str) -> Self {
        let plain = topic::without_share(filter);
        Self::Subscribe { filter: plain, shared: plain.len() < filter.len() }
    }
}

/// Actions, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Actions(u8);

impl Actions {
    const CONNECT: u8 = 1;
    const PUBLISH: u8 = 2;
    const SUBSCRIBE: u8 = 4;
    const RECEIVE: u8 = 8;
    const WILL: u8 = 16;
    const WORDS: [(&'static str, u8); 5] = [
        ("connect", Self::CONNECT),
        ("publish", Self::PUBLISH),
        ("subscribe", Self::SUBSCRIBE),
        ("receive", Self::RECEIVE),
        ("will", Self::WILL),
    ];

    fn has(self, bits: u8) -> bool {
        self.0 & bits != 0
    }
}

/// What else must be so. Each list is met by one of its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Conditions {
    /// With a `*` in them; those without are in [`Rules::by_user`], unless some have one.
    users: Vec<Box<str>>,
    groups: Vec<Box<str>>,
    clients: Vec<Box<str>>,
    certificates: Vec<(&'static str, Box<str>)>,
    addresses: Vec<Network>,
    listeners: Vec<Box<str>>,
    /// Without a user name, or with one.
    anonymous: Option<bool>,
    /// A bit for each QoS.
    qos: Option<u8>,
    retain: Option<bool>,
    wildcards: Option<bool>,
    shared: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    actions: Actions,
    line: u32,
    topics: Box<[Box<str>]>,
    conditions: Option<Box<Conditions>>,
}

/// The rules of one file, or of one token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    rules: Vec<Rule>,
    /// Rules that are for users of these names only, by their place.
    by_user: HashMap<Box<str>, Vec<u32>>,
    /// The others.
    for_all: Vec<u32>,
    groups: HashMap<Box<str>, Vec<Box<str>>>,
    /// Some rule is about `connect`: then who matches none may not.
    asks_connect: bool,
}

impl Rules {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// The first rule that is wrong.
    pub fn parse(text: &str) -> Result<Self, BadLine> {
        file::parse(text)
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none: then nobody may do anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What the rules say.
    #[must_use]
    pub fn check(&self, who: &Principal, ask: Ask<'_>) -> Answer {
        let own = who.user.as_deref().and_then(|user| self.by_user.get(user)).map_or(&[][..], Vec::as_slice);
        let groups = who.user.as_deref().and_then(|user| self.groups.get(user)).map_or(&[][..], Vec::as_slice);
        let (mut own, mut all) = (own.iter().peekable(), self.for_all.iter().peekable());
        loop {
            let next = match (own.peek(), all.peek()) {
                (Some(a), Some(b)) if a < b => own.next(),
                (Some(_), None) => own.next(),
                (_, _) => all.next(),
            };
            let Some(place) = next else { break };
            if let Some(rule) = self.rules.get(*place as usize)
                && rule.matches(who, groups, ask)
            {
                return Answer { allowed: rule.allow, line: Some(rule.line) };
            }
        }
        let allowed = ask == Ask::Connect && !self.asks_connect;
        Answer { allowed, line: None }
    }

    /// Adds a rule behind those that are there.
    fn push(&mut self, rule: Rule, users: &[String]) {
        let place = u32::try_from(self.rules.len()).unwrap_or(u32::MAX);
        if users.is_empty() {
            self.for_all.push(place);
        }
        for user in users {
            let of = self.by_user.entry(user.as_str().into()).or_default();
            if of.last() != Some(&place) {
                of.push(place);
            }
        }
        self.asks_connect |= rule.actions.has(Actions::CONNECT);
        self.rules.push(rule);
    }

    fn shrink(&mut self) {
        self.rules.shrink_to_fit();
        self.for_all.shrink_to_fit();
        self.by_user.shrink_to_fit();
        self.by_user.values_mut().for_each(Vec::shrink_to_fit);
    }

    /// Bytes that the rules take, about: with 16 for each piece of memory of its own.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        let text = |text: &str| text.len() + 16;
        let rule = |rule: &Rule| {
            let lists = rule.topics.iter().map(|topic| 16 + text(topic)).sum::<usize>();
            size_of::<Rule>() + 16 + lists + rule.conditions.as_ref().map_or(0, |_| size_of::<Conditions>() + 16)
        };
        let users = self
            .by_user
            .iter()
            .map(|(name, of)| (size_of::<(Box<str>, Vec<u32>)>() + 1) * 8 / 7 + text(name) + 16 + 4 * of.capacity());
        self.rules.iter().map(rule).sum::<usize>() + users.sum::<usize>() + 4 * self.for_all.capacity()
    }
}

impl Rule {
    fn matches(&self, who: &Principal, groups: &[Box<str>], ask: Ask<'_>) -> bool {
        self.is_about(ask) && self.fits(who, groups, ask) && self.has_topic(who, groups, ask)
    }

    fn is_about(&self, ask: Ask<'_>) -> bool {
        self.actions.has(match ask {
            Ask::Connect => Actions::CONNECT,
            Ask::Publish { .. } => Actions::PUBLISH,
            Ask::Will { .. } => Actions::PUBLISH | Actions::WILL,
            Ask::Subscribe { .. } => Actions::SUBSCRIBE,
            Ask::Receive { .. } => Actions::SUBSCRIBE | Actions::RECEIVE,
        })
    }

    fn fits(&self, who: &Principal, groups: &[Box<str>], ask: Ask<'_>) -> bool {
        let Some(conditions) = &self.conditions else { return true };
        conditions.know(who, groups)
            && match ask {
                Ask::Publish { qos, retain, .. } | Ask::Will { qos, retain, .. } => {
                    conditions.qos.is_none_or(|wanted| wanted & (1 << qos) != 0)
                        && conditions.retain.is_none_or(|wanted| wanted == retain)
                }
                Ask::Subscribe { filter, shared } => {
                    conditions.wildcards.is_none_or(|wanted| wanted == filter.contains(['+', '#']))
                        && conditions.shared.is_none_or(|wanted| wanted == shared)
                }
                // What a subscription was is not known when its messages come: a denial of some subscriptions says nothing of
                // messages, a permission of some lets their messages through.
                Ask::Receive { .. } => self.allow || (conditions.wildcards.is_none() && conditions.shared.is_none()),
                Ask::Connect => true,
            }
    }

    fn has_topic(&self, who: &Principal, groups: &[Box<str>], ask: Ask<'_>) -> bool {
        let wanted = match ask {
            Ask::Connect => return true,
            Ask::Publish { topic, .. } | Ask::Will { topic, .. } | Ask::Receive { topic } => topic,
            Ask::Subscribe { filter, .. } => filter,
        };
        let matches = |filter: &str| match ask {
            Ask::Subscribe { .. } => covers(filter, wanted),
            Ask::Connect | Ask::Publish { .. } | Ask::Will { .. } | Ask::Receive { .. } => {
                topic::matches(filter, wanted)
            }
        };
        self.topics.iter().any(|topic| fill(topic, who, groups, &mut |filter| matches(filter)))
    }
}

impl Conditions {
    fn know(&self, who: &Principal, groups: &[Box<str>]) -> bool {
        let one = |list: &[Box<str>], name: Option<&str>| {
            list.is_empty() || name.is_some_and(|name| list.iter().any(|glob| pattern::glob(glob, name)))
        };
        self.anonymous.is_none_or(|anonymous| anonymous == who.user.is_none())
            && one(&self.users, who.user.as_deref())
            && one(&self.clients, Some(&who.client_id))
            && one(&self.listeners, Some(&who.listener))
            && (self.groups.is_empty()
                || self.groups.iter().any(|group| groups.contains(group) || who.groups.iter().any(|g| **g == **group)))
            && (self.certificates.is_empty()
                || who.certificate.as_ref().is_some_and(|certificate| {
                    let has = |(field, glob): &(&str, Box<str>)| {
                        certificate.field(field).is_some_and(|value| pattern::glob(glob, value))
                    };
                    self.certificates.iter().all(has)
                }))
            && (self.addresses.is_empty()
                || who.addr.is_some_and(|addr| self.addresses.iter().any(|net| net.has(addr))))
    }
}
