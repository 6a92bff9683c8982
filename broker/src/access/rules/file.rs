//! From TOML, or from the claims of a token, to [`Rules`].

use std::collections::BTreeMap;

use forebay_wire::topic;
use hashbrown::HashMap;
use serde::Deserialize;
use serde_json::Value;
use toml::Spanned;

use super::pattern::{of_tokens, unknown_field};
use super::{Actions, Conditions, LIST_MAX, Rule, Rules};
use crate::access::acl::BadLine;
use crate::certificate::Certificate;
use crate::network::Network;

/// Rules of one token.
const TOKEN_RULES_MAX: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    groups: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    rules: Vec<Spanned<RawRule>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawRule {
    allow: Vec<String>,
    deny: Vec<String>,
    topics: Vec<String>,
    users: Vec<String>,
    groups: Vec<String>,
    clients: Vec<String>,
    certificate: BTreeMap<String, String>,
    addresses: Vec<String>,
    listeners: Vec<String>,
    anonymous: Option<bool>,
    qos: Option<Vec<u8>>,
    retain: Option<bool>,
    wildcards: Option<bool>,
    shared: Option<bool>,
}

pub(super) fn parse(text: &str) -> Result<Rules, BadLine> {
    let raw: RawFile = toml::from_str(text).map_err(|error| {
        let line = line_of(text, error.span().map_or(0, |span| span.start));
        BadLine { line, why: error.message().to_owned().into() }
    })?;
    let mut rules = Rules::default();
    for (group, users) in raw.groups {
        for user in users {
            rules.groups.entry(user.into()).or_default().push(group.as_str().into());
        }
    }
    let mut lines = Lines { text, at: 0, line: 1 };
    for raw in raw.rules {
        let line = lines.of(raw.span().start);
        let raw = raw.into_inner();
        // Those with a `*` are looked at for everybody.
        let named = if raw.users.iter().any(|user| user.contains('*')) { Vec::new() } else { raw.users.clone() };
        let rule = rule(line, raw).map_err(|why| BadLine { line, why: why.into() })?;
        rules.push(rule, &named);
    }
    rules.shrink();
    Ok(rules)
}

fn rule(line: u32, raw: RawRule) -> Result<Rule, String> {
    let (allow, words) = match (raw.allow.is_empty(), raw.deny.is_empty()) {
        (false, true) => (true, &raw.allow),
        (true, false) => (false, &raw.deny),
        (true, true) => return Err("a rule needs `allow` or `deny`, with what it is about".to_owned()),
        (false, false) => return Err("a rule has either `allow` or `deny`: write two".to_owned()),
    };
    let mut actions = Actions::default();
    for word in words {
        let known = Actions::WORDS.iter().find(|(name, _)| name == word);
        actions.0 |=
            known.ok_or_else(|| format!("{word:?} is neither connect, publish, subscribe, receive nor will"))?.1;
    }
    let about_topics = actions.0 != Actions::CONNECT;
    if about_topics && raw.topics.is_empty() {
        return Err("names no topics".to_owned());
    }
    if !about_topics && !raw.topics.is_empty() {
        return Err("`topics` mean nothing to `connect`".to_owned());
    }
    let lists = [&raw.topics, &raw.users, &raw.groups, &raw.clients, &raw.addresses, &raw.listeners];
    if lists.iter().any(|list| list.len() > LIST_MAX) {
        return Err(format!("a list has more than {LIST_MAX} entries"));
    }
    for topic in &raw.topics {
        if topic::check_filter(topic, usize::MAX).is_err() || topic.starts_with("$share/") {
            return Err(format!("{topic:?} is not a topic filter"));
        }
        if unknown_field(topic) {
            return Err(format!("{topic:?}: %{{…}} is one of {}", Certificate::FIELDS.join(", ")));
        }
    }
    let topics = raw.topics.iter().map(|topic| topic.as_str().into()).collect();
    Ok(Rule { allow, actions, line, topics, conditions: conditions(raw)? })
}

fn conditions(raw: RawRule) -> Result<Option<Box<Conditions>>, String> {
    let boxed = |list: Vec<String>| list.into_iter().map(Into::into).collect::<Vec<Box<str>>>();
    let field = |(name, glob): (String, String)| {
        let known = Certificate::FIELDS.into_iter().find(|field| *field == name);
        let known =
            known.ok_or_else(|| format!("a certificate has no {name:?}, but {}", Certificate::FIELDS.join(", ")))?;
        Ok((known, glob.into()))
    };
    let network = |text: &String| {
        Network::parse(text)
            .ok_or_else(|| format!("{text:?} is neither an address nor a network such as \"10.0.0.0/8\""))
    };
    let bits = |list: Vec<u8>| {
        let known = !list.is_empty() && list.iter().all(|qos| *qos <= 2);
        known.then(|| list.iter().fold(0, |bits, qos| bits | (1 << qos))).ok_or("`qos` is a list of 0, 1 and 2")
    };
    let some_glob = raw.users.iter().any(|user| user.contains('*'));
    let conditions = Conditions {
        users: if some_glob { boxed(raw.users) } else { Vec::new() },
        groups: boxed(raw.groups),
        clients: boxed(raw.clients),
        certificates: raw.certificate.into_iter().map(field).collect::<Result<_, String>>()?,
        addresses: raw.addresses.iter().map(network).collect::<Result<_, String>>()?,
        listeners: boxed(raw.listeners),
        anonymous: raw.anonymous,
        qos: raw.qos.map(bits).transpose()?,
        retain: raw.retain,
        wildcards: raw.wildcards,
        shared: raw.shared,
    };
    Ok((conditions != Conditions::default()).then(|| Box::new(conditions)))
}

/// The lines of ascending places, without counting from the beginning each time.
struct Lines<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

impl Lines<'_> {
    fn of(&mut self, place: usize) -> u32 {
        let between = self.text.get(self.at..place).unwrap_or_default();
        self.line += u32::try_from(between.matches('\n').count()).unwrap_or(0);
        self.at = self.at.max(place);
        self.line
    }
}

fn line_of(text: &str, place: usize) -> u32 {
    Lines { text, at: 0, line: 1 }.of(place)
}

impl Rules {
    /// The ACL of a token or of an HTTP answer: a list of rules as EMQX has them
    /// (`{"permission": "allow", "action": "publish", "topic": "a/#"}`), or lists of topics (`{"pub": […], "sub": […], "all": […]}`).
    /// The rule's place, from 1, is its line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_claims(claims: &Value) -> Result<Self, String> {
        let mut rules = Self { groups: HashMap::new(), ..Self::default() };
        match claims {
            Value::Array(list) => {
                for claim in list {
                    rules.push_claim(claim)?;
                }
            }
            Value::Object(lists) => {
                for (name, topics) in lists {
                    let words = words(name).ok_or_else(|| format!("an ACL has no {name:?}"))?;
                    let topics = topics.as_array().ok_or_else(|| format!("{name:?} is not a list of topics"))?;
                    for topic in topics {
                        rules.push_allowed(words, topic)?;
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                return Err("the ACL is neither a list nor an object".to_owned());
            }
        }
        rules.shrink();
        Ok(rules)
    }

    fn push_allowed(&mut self, words: &[&str], topic: &Value) -> Result<(), String> {
        let topic = topic.as_str().ok_or("a topic is not a string")?;
        let allow = words.iter().map(|word| (*word).to_owned()).collect();
        self.push_raw(RawRule { allow, topics: vec![of_tokens(topic).into_owned()], ..RawRule::default() })
    }

    fn push_claim(&mut self, claim: &Value) -> Result<(), String> {
        let text = |name: &str| claim.get(name).and_then(Value::as_str);
        let action = text("action").unwrap_or("all");
        let words = words(action).ok_or_else(|| format!("{action:?} is no action"))?.iter().map(|w| (*w).to_owned());
        let topic = text("topic").ok_or("a rule has no topic")?;
        if topic.starts_with("eq ") {
            return Err("`eq` before a topic is not known here".to_owned());
        }
        let qos = match claim.get("qos") {
            None => None,
            Some(Value::Array(list)) => {
                Some(list.iter().map(small).collect::<Option<Vec<u8>>>().ok_or("a QoS is no number")?)
            }
            Some(one) => Some(vec![small(one).ok_or("a QoS is no number")?]),
        };
        let retain = match claim.get("retain") {
            Some(Value::Bool(retain)) => Some(*retain),
            _ => None,
        };
        let mut raw = RawRule { topics: vec![of_tokens(topic).into_owned()], qos, retain, ..RawRule::default() };
        match text("permission") {
            Some("allow") => raw.allow = words.collect(),
            Some("deny") => raw.deny = words.collect(),
            _ => return Err("a rule's permission is neither \"allow\" nor \"deny\"".to_owned()),
        }
        self.push_raw(raw)
    }

    fn push_raw(&mut self, raw: RawRule) -> Result<(), String> {
        if self.len() >= TOKEN_RULES_MAX {
            return Err(format!("the ACL has more than {TOKEN_RULES_MAX} rules"));
        }
        let line = u32::try_from(self.len() + 1).unwrap_or(u32::MAX);
        let rule = rule(line, raw)?;
        self.push(rule, &[]);
        Ok(())
    }
}

fn small(number: &Value) -> Option<u8> {
    number.as_u64().and_then(|number| u8::try_from(number).ok())
}

/// What an action of a token is in our words.
fn words(action: &str) -> Option<&'static [&'static str]> {
    Some(match action {
        "pub" | "publish" | "publ" => &["publish"],
        "sub" | "subscribe" | "subs" => &["subscribe"],
        "all" => &["publish", "subscribe"],
        _ => return None,
    })
}
