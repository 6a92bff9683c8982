//! Texts that are made from a message: `up/{topic}`.
//!
//! Placeholders only, no loops and no conditions: what a template costs is known when it is read, and everything that is
//! wrong with it is found then. That, and one brace as in the topics of other brokers' bridges, is why this is no engine of
//! others.

pub mod fields;

use fields::{Fields, Path};

use crate::message::Message;
use crate::properties::user_property;

/// What may stand in braces, for messages.
const PLACEHOLDERS: &str = "{topic}, {topic/1}, {topic/2..}, {user.NAME}, {json.FIELD}, {json/FIELD} and {bridge}";

/// A template, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The whole topic.
    Topic,
    /// One level of it, counted from 1.
    Level(usize),
    /// This level and all behind it.
    Rest(usize),
    /// The first user property of this name.
    User(String),
    /// A field of a JSON payload.
    Json(Path),
    /// The bridge's name.
    Bridge,
}

/// What a template is filled from.
#[derive(Clone, Copy, Debug)]
pub struct Fill<'a> {
    /// The bridge's name.
    pub bridge: &'a str,
    /// Topic name.
    pub topic: &'a str,
    /// Encoded properties of MQTT 5.
    pub properties: &'a [u8],
    /// What its payload has of what the templates want: [`Fields::read`] of [`Template::wanted`].
    pub fields: &'a Fields<'a>,
}

impl<'a> Fill<'a> {
    /// From a message of a queue.
    #[must_use]
    pub fn of(bridge: &'a str, message: &'a Message, fields: &'a Fields<'a>) -> Self {
        Self { bridge, topic: message.topic(), properties: message.properties(), fields }
    }
}

/// A message does not have what its template wants.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message has no {0}")]
pub struct Missing(String);

impl Missing {
    /// Its payload has no such field.
    #[must_use]
    pub(super) fn field(path: &str, why: &str) -> Self {
        Self(format!("field {path} in a JSON payload{why}"))
    }
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            literal.push_str(before);
            if let Some(after) = from.strip_prefix("{{").or_else(|| from.strip_prefix("}}")) {
                literal.push_str(from.get(..1).unwrap_or_default());
                rest = after;
                continue;
            }
            let Some(inner) = from.strip_prefix('{') else {
                return Err("has a } without its {; write }} for the character".to_owned());
            };
            let (name, after) = inner.split_once('}').ok_or("has a { without its }; write {{ for the character")?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(placeholder(name)?);
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        if parts.is_empty() {
            return Err("is empty".to_owned());
        }
        Ok(Self { parts })
    }

    /// The text for a message.
    ///
    /// # Errors
    /// The message lacks something.
    pub fn fill(&self, from: Fill<'_>) -> Result<String, Missing> {
        self.fill_with(from, |value, text| text.push_str(value))
    }

    /// The text for a message, where what comes from the message is written by `write`. What the template itself says stays.
    ///
    /// # Errors
    /// The message lacks something.
    pub fn fill_with(&self, from: Fill<'_>, write: impl Fn(&str, &mut String)) -> Result<String, Missing> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Topic => write(from.topic, &mut text),
                Part::Bridge => text.push_str(from.bridge),
                Part::Level(n) => {
                    let level = from.topic.split('/').nth(n - 1);
                    write(level.ok_or_else(|| Missing(format!("topic level {n}")))?, &mut text);
                }
                Part::Rest(n) => {
                    let skipped = from.topic.splitn(*n, '/').nth(n - 1);
                    write(skipped.ok_or_else(|| Missing(format!("topic level {n}")))?, &mut text);
                }
                Part::User(name) => {
                    let value = user_property(from.properties, name);
                    write(value.ok_or_else(|| Missing(format!("user property {name}")))?, &mut text);
                }
                Part::Json(path) => write(from.fields.get(path)?, &mut text),
            }
        }
        Ok(text)
    }

    /// The fields of a payload that it wants.
    pub fn wanted(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().filter_map(|part| match part {
            Part::Json(path) => Some(path),
            Part::Text(_) | Part::Topic | Part::Level(_) | Part::Rest(_) | Part::User(_) | Part::Bridge => None,
        })
    }

    /// It is the same for all messages.
    #[must_use]
    pub fn is_constant(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_) | Part::Bridge))
    }

    /// Whether it wants the bridge's name.
    #[must_use]
    pub fn names_bridge(&self) -> bool {
        self.parts.contains(&Part::Bridge)
    }

    /// How it begins, whatever the message is.
    #[must_use]
    pub fn beginning(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(literal)) => literal,
            Some(_) | None => "",
        }
    }
}

fn placeholder(name: &str) -> Result<Part, String> {
    let unknown = || format!("has {{{name}}}, which is not known: there are {PLACEHOLDERS}");
    if let Some(level) = name.strip_prefix("topic/") {
        let (digits, rest) = level.strip_suffix("..").map_or((level, false), |digits| (digits, true));
        let n: usize = digits.parse().ok().filter(|n| (1..=1_000).contains(n)).ok_or_else(unknown)?;
        return Ok(if rest { Part::Rest(n) } else { Part::Level(n) });
    }
    if let Some(path) = name.strip_prefix("json.") {
        return Path::dotted(path).map(Part::Json).ok_or_else(unknown);
    }
    if let Some(path) = name.strip_prefix("json/") {
        return Path::pointer(path).map(Part::Json).ok_or_else(unknown);
    }
    match (name, name.strip_prefix("user.")) {
        ("topic", _) => Ok(Part::Topic),
        ("bridge", _) => Ok(Part::Bridge),
        (_, Some(user)) if !user.is_empty() => Ok(Part::User(user.to_owned())),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(template: &str, payload: &str) -> Result<String, String> {
        // A user property `site` with the value `7`.
        let properties = b"\x26\x00\x04site\x00\x017";
        let template = Template::parse(template).unwrap();
        let fields = Fields::read(payload.as_bytes(), template.wanted());
        let from = Fill { bridge: "b", topic: "a/bé//d", properties, fields: &fields };
        template.fill(from).map_err(|missing| missing.to_string())
    }

    #[test]
    fn fills_every_placeholder() {
        for (template, text) in [
            ("up/{topic}", "up/a/bé//d"),
            ("{topic/1}", "a"),
            ("x{topic/2}y", "xbéy"),
            ("{topic/3}", ""),
            ("{topic/2..}", "bé//d"),
            ("{topic/1..}", "a/bé//d"),
            ("{topic/4..}", "d"),
            ("{bridge}/{user.site}", "b/7"),
            ("{{topic}}", "{topic}"),
            ("{json.a.b}-{json.list.1}-{json.on}", "1.50-y-true"),
            ("{json/a/b}-{json/list/1}-{json/a~1.b}", "1.50-y-z"),
        ] {
            assert_eq!(
                fill(template, r#"{"a":{"b":1.50},"list":["x","y"],"on":true,"a/.b":"z"}"#).as_deref(),
                Ok(text),
                "{template}"
            );
        }
    }

    #[test]
    fn says_what_a_message_lacks() {
        for (template, payload, lacks) in [
            ("{topic/5}", "", "topic level 5"),
            ("{topic/5..}", "", "topic level 5"),
            ("{user.line}", "", "user property line"),
            ("{json.a}", "no JSON", "field a in a JSON payload: the payload is not JSON, see line 1, column 2"),
            ("{json.a.b}", r#"{"a":[1]}"#, "field a.b in a JSON payload"),
        ] {
            assert_eq!(fill(template, payload), Err(format!("the message has no {lacks}")), "{template}");
        }
    }

    #[test]
    fn refuses_what_is_no_template() {
        for (text, why) in [
            ("", "is empty"),
            ("a}", "has a } without its {"),
            ("{topic", "has a { without its }"),
            ("{topik}", "has {topik}, which is not known: there are {topic}, {topic/1}"),
            ("{topic/0}", "has {topic/0}, which is not known"),
            ("{topic/x..}", "has {topic/x..}, which is not known"),
            ("{user.}", "has {user.}, which is not known"),
            ("{json.a..b}", "has {json.a..b}, which is not known"),
            ("{json/a~2}", "has {json/a~2}, which is not known"),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.starts_with(why), "{text}: {error}");
        }
    }
}
