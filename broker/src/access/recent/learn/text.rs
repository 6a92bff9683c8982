//! What was learned, written down.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::{Allowed, Format, OfUser};
use crate::access::rules::LIST_MAX;

/// The rules of all users, in their order; clients without a name first.
type All<'a> = BTreeMap<Option<&'a str>, OfUser>;

/// Whether a level stands for one of the client's names.
pub(super) fn is_name(level: &str) -> bool {
    level == "%u" || level == "%c"
}

/// Whether the level cannot be written as it is.
pub(super) fn unsayable_level(level: &str, format: Format) -> bool {
    let is_pattern = ["%u", "%c", "%g", "%{"].iter().any(|name| level.contains(name));
    is_pattern || (format == Format::Mosquitto && is_no_word(level))
}

/// Why a user's rules cannot be written.
pub(super) fn unsayable_user(user: &str, format: Format) -> Option<String> {
    match format {
        Format::Mosquitto if user.is_empty() || is_no_word(user) => {
            Some("a name that is empty, or has spaces around it or control characters in it, cannot be written in mosquitto's syntax".to_owned())
        }
        Format::Toml if user.contains('*') => Some("a * in a name stands for any characters in TOML".to_owned()),
        Format::Mosquitto | Format::Toml => None,
    }
}

/// It would be another one when it is read, or a line of its own.
fn is_no_word(text: &str) -> bool {
    text.trim() != text || text.contains(char::is_control)
}

fn comment(out: &mut String, text: &str) {
    let _ = writeln!(out, "# {text}");
}

fn name_of(user: Option<&str>) -> String {
    user.map_or_else(|| "clients without a user name".to_owned(), |user| format!("user {user:?}"))
}

fn left_out(out: &mut String, user: Option<&str>, rules: &OfUser) {
    for why in &rules.left_out {
        comment(out, &format!("Not here, of {}: {why}", name_of(user)));
    }
}

/// In mosquitto's syntax: lines of each user, then what everybody may.
pub(super) fn mosquitto(all: &All<'_>, out: &mut String) {
    let mut patterns: BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> = BTreeMap::new();
    for (user, rules) in all {
        let mut lines = String::new();
        for (word, allowed) in [("write", &rules.publish), ("read", &rules.subscribe)] {
            for Allowed { filter, notes } in allowed {
                if filter.split('/').any(is_name) {
                    let (users, of) = patterns.entry(format!("pattern {word} {filter}")).or_default();
                    users.insert(name_of(*user));
                    of.extend(notes.iter().cloned());
                    continue;
                }
                notes.iter().for_each(|note| comment(&mut lines, note));
                let _ = writeln!(lines, "topic {word} {filter}");
            }
        }
        for topic in &rules.withheld {
            let _ = writeln!(lines, "topic deny {topic}");
        }
        if lines.is_empty() && rules.left_out.is_empty() {
            continue;
        }
        out.push('\n');
        left_out(out, *user, rules);
        if let Some(user) = user.filter(|_| !lines.is_empty()) {
            let _ = writeln!(out, "user {user}");
        }
        out.push_str(&lines);
    }
    if !patterns.is_empty() {
        out.push('\n');
        comment(out, "Patterns are for everybody, %u is the user name, %c the client identifier.");
    }
    for (pattern, (users, notes)) in patterns {
        let named = users.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        let more = users.len().saturating_sub(3);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        comment(out, &format!("seen of {named}{more}"));
        notes.iter().for_each(|note| comment(out, note));
        let _ = writeln!(out, "{pattern}");
    }
}

/// Whom a rule of the TOML file is for, beside their names, and what it says.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    /// Denials first.
    allows: bool,
    action: &'static str,
    is_anonymous: bool,
    topics: Vec<String>,
    never_retained: bool,
}

/// In TOML. Users with the same rule share it.
pub(super) fn toml(all: &All<'_>, out: &mut String) {
    let mut rules: BTreeMap<Rule, (Vec<&str>, BTreeSet<String>)> = BTreeMap::new();
    for (user, of) in all {
        left_out(out, *user, of);
        let mut add = |allows: bool, action: &'static str, topics: Vec<String>, notes: BTreeSet<String>| {
            let never_retained = action == "publish" && !of.retains;
            for topics in topics.chunks(LIST_MAX) {
                let (topics, is_anonymous) = (topics.to_vec(), user.is_none());
                let rule = Rule { allows, action, is_anonymous, topics, never_retained };
                let (users, known) = rules.entry(rule).or_default();
                users.extend(*user);
                known.extend(notes.iter().cloned());
            }
        };
        add(false, "receive", of.withheld.iter().cloned().collect(), BTreeSet::new());
        for (action, allowed) in [("publish", &of.publish), ("subscribe", &of.subscribe)] {
            let notes = allowed.iter().flat_map(|one| one.notes.iter().cloned()).collect();
            add(true, action, allowed.iter().map(|one| one.filter.clone()).collect(), notes);
        }
    }
    for (rule, (users, notes)) in rules {
        let chunks: Vec<&[&str]> = if users.is_empty() { vec![&[]] } else { users.chunks(LIST_MAX).collect() };
        for users in chunks {
            out.push('\n');
            notes.iter().for_each(|note| comment(out, note));
            write_rule(out, &rule, users);
        }
    }
}

fn write_rule(out: &mut String, rule: &Rule, users: &[&str]) {
    let list = |names: &mut dyn Iterator<Item = &str>| {
        let quoted: Vec<String> = names.map(|name| toml::Value::String(name.to_owned()).to_string()).collect();
        quoted.join(", ")
    };
    let word = if rule.allows { "allow" } else { "deny" };
    let _ = writeln!(out, "[[rules]]\n{word} = [\"{}\"]", rule.action);
    let _ = match rule.is_anonymous {
        true => writeln!(out, "anonymous = true"),
        false => writeln!(out, "users = [{}]", list(&mut users.iter().copied())),
    };
    let _ = writeln!(out, "topics = [{}]", list(&mut rule.topics.iter().map(String::as_str)));
    if rule.never_retained {
        out.push_str("retain = false\n");
    }
}
