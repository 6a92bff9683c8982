//! Rules: what a message says becomes another message, at once or with others of its time. No store, no clock, no session:
//! broker/rules.rs ties them to those.
//!
//! A rule is bounded in all it does: how much of a payload it looks at, how long and how deep its expressions are, what they may
//! do (`expression`), how large a result is, and of how many keys a window has figures.

mod aggregate;
#[cfg(feature = "rules")]
mod expression;
#[cfg(not(feature = "rules"))]
#[path = "without.rs"]
mod expression;
#[cfg(test)]
mod tests;
mod window;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use aggregate::Kind;
pub use expression::Expression;
use forebay_wire::topic;
use serde_json::Value as Json;
pub use window::{Closed, Entry, Window};

use crate::properties::user_property;
use crate::template::fields::Fields;
use crate::template::{Fill, Template};

/// Rules of one broker: the filter of each is held against the topic of each message.
pub const RULES_MAX: usize = 64;
/// Bytes of an expression.
pub const SOURCE_MAX: usize = 1_000;
/// Bytes of what is published.
pub const RESULT_MAX: usize = 256 * 1024;
/// Aggregates of a window.
pub const AGGREGATES_MAX: usize = 16;
/// Bytes of what a window keeps: a value of `last(x)`, a key, a topic.
pub const KEPT_MAX: usize = 1_024;

/// What the expressions of a message know.
pub const OF_MESSAGE: [&str; 10] =
    ["topic", "levels", "payload", "text", "qos", "retain", "client", "user", "properties", "now"];
/// What surrounds the aggregates of a window.
pub const OF_WINDOW: [&str; 4] = ["key", "start", "end", "now"];

/// One rule, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Letters, digits, `-` and `_`.
    pub name: String,
    /// The topics of its messages.
    pub filter: String,
    /// Which of them.
    pub condition: Option<Expression>,
    /// Where to.
    pub topic: Template,
    /// What; `None`: the payload as it is.
    pub payload: Option<Expression>,
    /// `None`: that of the message, or 1 for a window's.
    pub qos: Option<u8>,
    /// The RETAIN flag of what is published.
    pub retain: bool,
    /// Bytes of a payload that it looks at.
    pub max_payload: usize,
    /// Messages of a time together.
    pub window: Option<WindowRule>,
}

/// What of a rule is about its window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowRule {
    /// How long it is.
    pub length: Duration,
    /// What messages have in common that are counted together, beside the topic that comes of them.
    pub by: Option<Expression>,
    /// What is made of the messages.
    pub aggregates: Aggregates,
    /// Figures of so many keys at once.
    pub max_keys: usize,
}

/// What is made of the messages of a window: of all values that an expression has of them, or of none.
pub type Aggregates = Vec<(Kind, Option<Expression>)>;

/// What a rule says of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It is none of its messages.
    No,
    /// It becomes another one.
    Publish(Derived),
    /// It goes into the window.
    Collect(Entry),
}

/// What is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derived {
    /// Its topic.
    pub topic: String,
    /// Its payload; `None`: that of its cause.
    pub payload: Option<Vec<u8>>,
}

/// A rule cannot be applied to a message, because of what the message is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failed(pub String);

impl Failed {
    /// Which of the rule's expressions it was.
    fn of(self, key: &str) -> Self {
        Self(format!("`{key}`: {}", self.0))
    }
}

/// What an expression knows.
pub trait Facts: Send + Sync {
    /// A variable, or a field of one: `payload.a.b`.
    fn find(&self, name: &str) -> Option<Fact<'_>>;

    /// Why a variable that was asked for could not be had.
    fn trouble(&self) -> Option<String>;
}

/// One thing that an expression knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fact<'a> {
    /// Nothing.
    Null,
    /// True or false.
    Flag(bool),
    /// A number.
    Number(i64),
    /// A text.
    Text(&'a str),
    /// What JSON says.
    Json(&'a Json),
    /// The levels of this topic, as a list.
    Levels(&'a str),
    /// The user properties among these encoded ones, as a map.
    Properties(&'a [u8]),
}

/// A message, as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Payload.
    pub payload: &'a [u8],
    /// Encoded properties.
    pub properties: &'a [u8],
    /// QoS of the publication.
    pub qos: u8,
    /// RETAIN flag of the publication.
    pub retain: bool,
    /// The publisher's client identifier; empty for the broker.
    pub client: &'a str,
    /// The publisher's user name.
    pub user: Option<&'a str>,
    /// Milliseconds since 1970.
    pub now_ms: u64,
}

/// The same with what was found out on the way: JSON is read once for all rules, and only if one asks.
pub struct Message<'a> {
    subject: Subject<'a>,
    json: OnceLock<Option<Json>>,
}

impl<'a> Message<'a> {
    /// Of which nothing is known yet.
    #[must_use]
    pub fn new(subject: Subject<'a>) -> Self {
        Self { subject, json: OnceLock::new() }
    }

    fn json(&self) -> Option<&Json> {
        self.json.get_or_init(|| serde_json::from_slice(self.subject.payload).ok()).as_ref()
    }
}

/// What the expressions of one rule may know of a message.
struct View<'m> {
    message: &'m Message<'m>,
    max_payload: usize,
    trouble: OnceLock<String>,
}

impl View<'_> {
    /// The payload, if it is not too much.
    fn looks(&self) -> bool {
        let (is, most) = (self.message.subject.payload.len(), self.max_payload);
        if is > most {
            let _ = self.trouble.set(format!("the payload has {is} bytes; the rule looks at {most} (max_payload)"));
        }
        is <= most
    }

    fn json(&self) -> Option<&Json> {
        let json = self.looks().then(|| self.message.json());
        if json == Some(None) {
            let _ = self.trouble.set("the payload is no JSON".to_owned());
        }
        json.flatten()
    }

    fn text(&self) -> Option<&str> {
        let text = self.looks().then(|| std::str::from_utf8(self.message.subject.payload))?;
        if text.is_err() {
            let _ = self.trouble.set("the payload is no text in UTF-8".to_owned());
        }
        text.ok()
    }
}

impl Facts for View<'_> {
    fn find(&self, name: &str) -> Option<Fact<'_>> {
        let subject = &self.message.subject;
        if let Some((of, path)) = name.split_once('.') {
            return match of {
                "payload" => path.split('.').try_fold(self.json()?, |json, field| json.get(field)).map(Fact::Json),
                "properties" => user_property(subject.properties, path).map(Fact::Text),
                _ => None,
            };
        }
        Some(match name {
            "topic" => Fact::Text(subject.topic),
            "levels" => Fact::Levels(subject.topic),
            "payload" => Fact::Json(self.json()?),
            "text" => Fact::Text(self.text()?),
            "qos" => Fact::Number(i64::from(subject.qos)),
            "retain" => Fact::Flag(subject.retain),
            "client" => Fact::Text(subject.client),
            "user" => subject.user.map_or(Fact::Null, Fact::Text),
            "properties" => Fact::Properties(subject.properties),
            "now" => Fact::Number(millis(subject.now_ms)),
            _ => return None,
        })
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.get().cloned()
    }
}

fn millis(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

impl Rule {
    /// Whether messages with this topic may be its.
    #[must_use]
    pub fn is_for(&self, topic: &str) -> bool {
        topic::matches(&self.filter, topic)
    }

    /// What becomes of a message that is for it.
    ///
    /// # Errors
    /// The message is not as the rule wants it.
    pub fn judge(&self, message: &Message<'_>, levels_max: usize) -> Result<Judged, Failed> {
        let view = View { message, max_payload: self.max_payload, trouble: OnceLock::new() };
        if let Some(condition) = &self.condition
            && !condition.is_true(&view).map_err(|failed| failed.of("where"))?
        {
            return Ok(Judged::No);
        }
        let topic = self.topic_of(message, levels_max).map_err(|failed| failed.of("topic"))?;
        if let Some(window) = &self.window {
            if topic.len() > KEPT_MAX {
                let is = topic.len();
                return Err(Failed(format!("`topic`: has {is} bytes; that of a window has {KEPT_MAX} at most")));
            }
            return Ok(Judged::Collect(window.entry(topic, &view)?));
        }
        let payload = match &self.payload {
            Some(expression) => Some(expression.json(&view, RESULT_MAX).map_err(|failed| failed.of("payload"))?),
            None => None,
        };
        Ok(Judged::Publish(Derived { topic, payload }))
    }

    fn topic_of(&self, message: &Message<'_>, levels_max: usize) -> Result<String, Failed> {
        let Subject { topic, properties, payload, .. } = message.subject;
        let payload = payload.get(..self.max_payload).unwrap_or(payload);
        let fields = Fields::read(payload, self.topic.wanted());
        let fill = Fill { bridge: "", topic, properties, fields: &fields };
        let topic = self.topic.fill(fill).map_err(|missing| Failed(missing.to_string()))?;
        topic::check_name(&topic, levels_max).map_err(|why| Failed(format!("\"{topic}\": {why}")))?;
        if topic.starts_with('$') {
            return Err(Failed(format!("\"{topic}\" begins with $: such topics are the broker's own")));
        }
        if topic.len() > usize::from(u16::MAX) {
            return Err(Failed(format!("has {} bytes; a topic has 65535 at most", topic.len())));
        }
        Ok(topic)
    }
}

impl WindowRule {
    fn entry(&self, topic: String, view: &View<'_>) -> Result<Entry, Failed> {
        let value = |key: &str, expression: &Option<Expression>| match expression {
            Some(expression) => {
                let json = expression.json(view, KEPT_MAX).map_err(|failed| failed.of(key))?;
                Ok(serde_json::from_slice(&json).unwrap_or_default())
            }
            None => Ok(Json::Null),
        };
        let key = value("by", &self.by)?;
        let mut values = Vec::with_capacity(self.aggregates.len());
        for (kind, argument) in &self.aggregates {
            let value = value("payload", argument)?;
            if kind.is_of_numbers() && !value.is_number() {
                return Err(Failed(format!("`payload`: {}() is of numbers, and this is {value}", kind.name())));
            }
            values.push(value);
        }
        Ok(Entry { topic, key, values })
    }
}

/// The rules of a broker.
#[derive(Debug, Default)]
pub struct RuleSet {
    rules: Vec<Arc<Rule>>,
}

impl RuleSet {
    /// These, in their order.
    #[must_use]
    pub fn new(rules: &[Rule]) -> Self {
        Self { rules: rules.iter().cloned().map(Arc::new).collect() }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The places of those that are for messages with this topic.
    pub fn matching(&self, topic: &str) -> impl Iterator<Item = usize> {
        self.rules.iter().enumerate().filter(move |(_, rule)| rule.is_for(topic)).map(|(at, _)| at)
    }
}
