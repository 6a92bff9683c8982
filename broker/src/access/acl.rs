//! An ACL file in mosquitto's syntax, with mosquitto's answers:
//!
//! ```text
//!   topic [read|write|readwrite|deny] FILTER      before any `user`: for clients without a user name
//!   user NAME                                     the `topic` lines below are this user's
//!   pattern [read|write|readwrite|deny] FILTER    for everybody, with %u and %c
//! ```
//!
//! A user's lines are asked first, then the patterns; in each the denials first. What no line allows is denied.
//! mosquitto lets everybody subscribe to anything and holds back what may not be read. Here a SUBSCRIBE that can never
//! bring a message is refused as well.

use std::borrow::Cow;

use forebay_wire::topic;
use hashbrown::HashMap;

use super::Principal;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To get a message with this topic.
    Read,
    /// To publish on this topic.
    Write,
}

/// An answer, and the line of the file that gave it; none when no line did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Counted from 1.
    pub line: Option<u32>,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct BadLine {
    /// Counted from 1.
    pub line: u32,
    /// What is wrong.
    pub why: Cow<'static, str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rights {
    read: bool,
    write: bool,
}

impl Rights {
    const DENY: Self = Self { read: false, write: false };

    fn named(word: &str) -> Option<Self> {
        Some(match word {
            "read" => Self { read: true, write: false },
            "write" => Self { read: false, write: true },
            "readwrite" => Self { read: true, write: true },
            "deny" => Self::DENY,
            _ => return None,
        })
    }

    fn allow(self, action: Action) -> bool {
        match action {
            Action::Read => self.read,
            Action::Write => self.write,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    filter: Box<str>,
    rights: Rights,
    line: u32,
}

/// Denials before the others, as they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rules {
    denials: Vec<Rule>,
    others: Vec<Rule>,
}

impl Rules {
    fn add(&mut self, rule: Rule) {
        if rule.rights == Rights::DENY { self.denials.push(rule) } else { self.others.push(rule) }
    }

    fn all(&self) -> impl Iterator<Item = &Rule> {
        // The denial that was written last is asked first.
        self.denials.iter().rev().chain(&self.others)
    }

    fn shrink(&mut self) {
        self.denials.shrink_to_fit();
        self.others.shrink_to_fit();
    }
}

/// The rules of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acl {
    users: HashMap<Box<str>, Rules>,
    nameless: Rules,
    patterns: Rules,
}

impl Acl {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn parse(text: &str) -> Result<Self, BadLine> {
        let mut acl = Self::default();
        let mut user: Option<Box<str>> = None;
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim_end();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let bad = |why: &'static str| BadLine { line, why: why.into() };
            let (word, rest) = text.trim_start_matches(' ').split_once(' ').unwrap_or((text, ""));
            let rest = rest.trim();
            match word {
                "user" if rest.is_empty() => return Err(bad("`user` without a name")),
                "user" => user = Some(rest.into()),
                "topic" => {
                    let rules = match &user {
                        Some(user) => acl.users.entry(user.clone()).or_default(),
                        None => &mut acl.nameless,
                    };
                    rules.add(rule(line, rest)?);
                }
                "pattern" => acl.patterns.add(rule(line, rest)?),
                _ => return Err(bad("begins neither with `user`, `topic` nor `pattern`")),
            }
        }
        acl.users.values_mut().for_each(Rules::shrink);
        acl.users.shrink_to_fit();
        acl.nameless.shrink();
        acl.patterns.shrink();
        Ok(acl)
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.values().chain([&self.nameless, &self.patterns]).map(|rules| rules.all().count()).sum()
    }

    /// Whether there are none: then nobody may do anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn own(&self, who: &Principal) -> Option<&Rules> {
        match &who.user {
            Some(user) => self.users.get(&**user),
            None => Some(&self.nameless),
        }
    }

    /// Whether a client may publish on a topic, or get a message with it.
    #[must_use]
    pub fn check(&self, who: &Principal, action: Action, topic: &str) -> Answer {
        for rule in self.own(who).into_iter().flat_map(Rules::all) {
            if let Some(answer) = decide(rule, &rule.filter, action, topic) {
                return answer;
            }
        }
        if !may_use_patterns(who) {
            return Answer { allowed: false, line: None };
        }
        for rule in self.patterns.all() {
            if let Some(filter) = filled(&rule.filter, who)
                && let Some(answer) = decide(rule, &filter, action, topic)
            {
                return answer;
            }
        }
        Answer { allowed: false, line: None }
    }

    /// Whether a subscription to a filter (without `$share/NAME/`) can bring anything.
    #[must_use]
    pub fn check_filter(&self, who: &Principal, filter: &str) -> Answer {
        let own = self.own(who);
        let mut denials: Vec<(u32, String)> = Vec::new();
        let mut allows: Vec<(u32, String)> = Vec::new();
        let patterns = may_use_patterns(who).then_some(&self.patterns);
        for (rules, pattern) in [(own, false), (patterns, true)] {
            let Some(rules) = rules else { continue };
            for rule in rules.all() {
                let text = if pattern { filled(&rule.filter, who) } else { Some(rule.filter.to_string()) };
                let Some(text) = text else { continue };
                if rule.rights == Rights::DENY {
                    if covers(&text, filter) {
                        return first_allowed(&allows, &denials, filter)
                            .unwrap_or(Answer { allowed: false, line: Some(rule.line) });
                    }
                    denials.push((rule.line, text));
                } else if rule.rights.read {
                    allows.push((rule.line, text));
                }
            }
            if let Some(answer) = first_allowed(&allows, &denials, filter) {
                return answer;
            }
        }
        Answer { allowed: false, line: None }
    }
}

/// The first rule that lets some of the filter's topics through.
fn first_allowed(allows: &[(u32, String)], denials: &[(u32, String)], filter: &str) -> Option<Answer> {
    let open = |text: &str| overlap(text, filter) && !denials.iter().any(|(_, denied)| covers(denied, text));
    allows.iter().find(|(_, text)| open(text)).map(|(line, _)| Answer { allowed: true, line: Some(*line) })
}

fn rule(line: u32, rest: &str) -> Result<Rule, BadLine> {
    let bad = |why: &'static str| BadLine { line, why: why.into() };
    if rest.is_empty() {
        return Err(bad("names no topic"));
    }
    let (rights, filter) = match rest.split_once(' ') {
        None => (Rights { read: true, write: true }, rest),
        Some((word, filter)) => {
            let rights =
                Rights::named(word).ok_or_else(|| bad("the access is neither read, write, readwrite nor deny"))?;
            (rights, filter.trim())
        }
    };
    // `$share/…` is the name of no topic, but harms nothing: mosquitto takes it, too.
    if filter.is_empty() || topic::check_filter(filter, usize::MAX).is_err() {
        return Err(bad("the topic is not a topic filter"));
    }
    Ok(Rule { filter: filter.into(), rights, line })
}

fn decide(rule: &Rule, filter: &str, action: Action, topic: &str) -> Option<Answer> {
    if !topic::matches(filter, topic) {
        return None;
    }
    let allowed = rule.rights.allow(action);
    (allowed || rule.rights == Rights::DENY).then_some(Answer { allowed, line: Some(rule.line) })
}

/// A name with a wildcard in it would open more than its owner's place.
fn may_use_patterns(who: &Principal) -> bool {
    let wild = |name: &str| name.contains(['+', '#']);
    !wild(&who.client_id) && !who.user.as_deref().is_some_and(wild)
}

/// The pattern for this client; `None` if it asks for a user name and there is none.
fn filled(pattern: &str, who: &Principal) -> Option<String> {
    let mut filled = String::with_capacity(pattern.len() + 32);
    let mut rest = pattern;
    while let Some((before, behind)) = rest.split_once('%') {
        filled.push_str(before);
        rest = match (behind.strip_prefix('u'), behind.strip_prefix('c')) {
            (Some(behind), _) => {
                filled.push_str(who.user.as_deref()?);
                behind
            }
            (_, Some(behind)) => {
                filled.push_str(&who.client_id);
                behind
            }
            (None, None) => {
                filled.push('%');
                behind
            }
        };
    }
    filled.push_str(rest);
    Some(filled)
}

/// `None` in both: neither filter begins with a wildcard where the other begins with `$`.
fn dollar_apart(a: &str, b: &str) -> bool {
    let wild = |filter: &str| filter.starts_with(['+', '#']);
    (wild(a) && b.starts_with('$')) || (wild(b) && a.starts_with('$'))
}

/// Whether some topic matches both filters.
fn overlap(a: &str, b: &str) -> bool {
    if dollar_apart(a, b) {
        return false;
    }
    let (mut a, mut b) = (a.split('/'), b.split('/'));
    loop {
        match (a.next(), b.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(x), Some(y)) if x == y || x == "+" || y == "+" => {}
            (Some(_), Some(_)) | (Some(_), None) | (None, Some(_)) => return false,
        }
    }
}

/// Whether every topic that matches `inner` matches `outer`.
pub(super) fn covers(outer: &str, inner: &str) -> bool {
    if dollar_apart(outer, inner) {
        return false;
    }
    let (mut outer, mut inner) = (outer.split('/'), inner.split('/'));
    loop {
        match (outer.next(), inner.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some(_) | None, Some("#")) => return false,
            (Some("+"), Some(_)) => {}
            (Some(x), Some(y)) if x == y => {}
            (Some(_), Some(_)) | (Some(_), None) | (None, Some(_)) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::access::principal::who;

    fn allowed(text: &str, who: &Principal, action: Action, topic: &str) -> (bool, Option<u32>) {
        let answer = Acl::parse(text).unwrap().check(who, action, topic);
        (answer.allowed, answer.line)
    }

    const FILE: &str = "# a comment\n\
        topic read public/#\n\
        \n\
        user pump 1\n\
        topic read commands/pump\n\
        topic write data/#\n\
        topic deny data/secret\n\
        user other\n\
        topic all/of/it\n\
        pattern write devices/%c/up\n\
        pattern readwrite users/%u/#\n\
        pattern deny users/+/locked\n";

    #[test]
    fn answers_with_the_line() {
        use Action::{Read, Write};
        let pump = who(Some("pump 1"), "c1");
        for (topic, read, write) in [
            ("commands/pump", (true, Some(5)), (false, None)),
            ("data", (false, None), (true, Some(6))),
            ("data/x", (false, None), (true, Some(6))),
            ("data/secret", (false, Some(7)), (false, Some(7))),
            ("devices/c1/up", (false, None), (true, Some(10))),
            ("devices/c2/up", (false, None), (false, None)),
            ("users/pump 1/a", (true, Some(11)), (true, Some(11))),
            ("users/pump 1/locked", (false, Some(12)), (false, Some(12))),
            ("public/x", (false, None), (false, None)),
            ("all/of/it", (false, None), (false, None)),
        ] {
            assert_eq!(allowed(FILE, &pump, Read, topic), read, "read {topic}");
            assert_eq!(allowed(FILE, &pump, Write, topic), write, "write {topic}");
        }
        let nobody = who(None, "c1");
        assert_eq!(allowed(FILE, &nobody, Read, "public/x"), (true, Some(2)));
        assert_eq!(allowed(FILE, &nobody, Write, "devices/c1/up"), (true, Some(10)));
        assert_eq!(allowed(FILE, &nobody, Read, "users//a"), (false, None), "a pattern with %u is for users");
        assert_eq!(allowed(FILE, &who(Some("other"), "c"), Write, "all/of/it"), (true, Some(9)));
    }

    /// A client that calls itself `#` gets nothing by a pattern.
    #[test]
    fn wildcards_in_names_open_nothing() {
        let text = "pattern readwrite devices/%c/up\nuser #\ntopic own";
        for name in ["+", "#", "a+b"] {
            assert_eq!(allowed(text, &who(None, name), Action::Write, "devices/c1/up"), (false, None));
            assert_eq!(allowed(text, &who(Some(name), "c1"), Action::Write, "devices/c1/up"), (false, None));
        }
        assert!(allowed(text, &who(Some("#"), "c"), Action::Write, "own").0);
    }

    #[test]
    fn an_empty_file_denies_and_dollar_is_not_in_a_wildcard() {
        assert_eq!(allowed("", &who(None, "c"), Action::Read, "a"), (false, None));
        let all = "topic #\ntopic read $SYS/broker/#";
        assert!(allowed(all, &who(None, "c"), Action::Write, "a/b").0);
        assert!(allowed(all, &who(None, "c"), Action::Read, "$SYS/broker/x").0);
        assert!(!allowed(all, &who(None, "c"), Action::Write, "$SYS/broker/x").0);
        assert!(!allowed(all, &who(None, "c"), Action::Write, "$CONTROL/x").0);
    }

    #[test]
    fn names_the_line_that_is_wrong() {
        for (text, line, why) in [
            ("topic a\nusr x", 2, "begins"),
            ("user", 1, "without a name"),
            ("topic", 1, "no topic"),
            ("topic reed a", 1, "neither"),
            ("topic read a/#/b", 1, "not a topic filter"),
            ("pattern write a+", 1, "not a topic filter"),
        ] {
            let error = Acl::parse(text).unwrap_err();
            assert!(error.line == line && error.why.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_subscription_that_can_bring_nothing_is_refused() {
        let text =
            "user u\ntopic read a/#\ntopic deny a/secret/#\ntopic write w\npattern read p/%c\ntopic read $SYS/up";
        let acl = Acl::parse(text).unwrap();
        let user = who(Some("u"), "c");
        for (filter, expected) in [
            ("a/b", true),
            ("#", true),
            ("+/#", true),
            ("+/x", true),
            ("a/secret/#", false),
            ("a/secret/x", false),
            ("a/+/x", true),
            ("w", false),
            ("b/#", false),
            ("p/c", true),
            ("p/d", false),
            ("p/+", true),
            ("$SYS/up", true),
            ("$SYS/#", true),
            ("$SYS/down", false),
            ("+/up", true),
        ] {
            assert_eq!(acl.check_filter(&user, filter).allowed, expected, "{filter}");
        }
        let all = Acl::parse("topic read #").unwrap();
        assert!(!all.check_filter(&who(None, "c"), "$SYS/#").allowed);
        assert!(!all.check_filter(&who(Some("u"), "c"), "a").allowed);
    }

    /// What may be read can be subscribed to: over all small filters and topics.
    #[test]
    fn a_topic_that_may_be_read_is_never_shut_out() {
        let levels = ["a", "b", "+", "#"];
        let mut filters = vec!["#".to_owned(), "a".into(), "b".into(), "+".into()];
        for first in ["a", "b", "+"] {
            filters.extend(levels.iter().map(|second| format!("{first}/{second}")));
        }
        let topics = ["a", "b", "a/a", "a/b", "b/a", "b/b"];
        for allow in &filters {
            for deny in &filters {
                let acl = Acl::parse(&format!("topic read {allow}\ntopic deny {deny}")).unwrap();
                let user = who(None, "c");
                for filter in &filters {
                    let readable =
                        topics.iter().any(|t| topic::matches(filter, t) && acl.check(&user, Action::Read, t).allowed);
                    if readable {
                        assert!(acl.check_filter(&user, filter).allowed, "{allow} but {deny}: {filter}");
                    }
                }
            }
        }
    }

    /// 10,000 users and 50,000 rules.
    #[test]
    fn many_rules_are_small() {
        let mut text = String::new();
        for user in 0..10_000 {
            text.push_str(&format!("user device-{user}\n"));
            for rule in 0..5 {
                text.push_str(&format!("topic readwrite site/{user}/sensor/{rule}/#\n"));
            }
        }
        let acl = Acl::parse(&text).unwrap();
        assert_eq!(acl.len(), 50_000);
        let list = |rules: &Vec<Rule>| {
            rules.capacity() * size_of::<Rule>() + rules.iter().map(|r| r.filter.len() + 16).sum::<usize>()
        };
        let each = |name: &str, rules: &Rules| {
            name.len() + 16 + size_of::<(Box<str>, Rules)>() + 1 + list(&rules.denials) + list(&rules.others)
        };
        let bytes: usize = acl.users.iter().map(|(name, rules)| each(name, rules)).sum();
        assert!(bytes * 8 / 7 / 50_000 < 200, "{bytes}");
    }
}
