//! docs/configuration.md, and config/gateway.toml held against the keys.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::checked::NEVER;
use super::key::{Change, Form, Key, LeftOut, Plain};
use super::raw::RawConfig;
use super::settings::keys_of;
use super::table::Table;
use super::{Overrides, parse};
use crate::broker::reload::with_reloaded;

const BEGIN: &str = "<!-- keys: made by the test config::reference, with FOREBAY_WRITE_DOCS=1 -->\n";
const END: &str = "<!-- end of keys -->";

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Each table with its heading: the file itself first.
fn tables() -> Vec<(String, Key)> {
    fn collect(path: &str, keys: Vec<Key>, to: &mut Vec<(String, Key)>) {
        for key in keys {
            let name = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
            match &key.form {
                Form::Table(inner) => {
                    let inner = inner();
                    to.push((format!("[{name}]"), key));
                    collect(&name, inner, to);
                }
                Form::List(of) => {
                    if let Form::Table(inner) = &**of {
                        let inner = inner();
                        to.push((format!("[[{name}]]"), key));
                        collect(&name, inner, to);
                    }
                }
                Form::Flag | Form::Number | Form::Text | Form::Bytes | Form::Time | Form::Expiry => {}
            }
        }
    }
    let mut tables = Vec::new();
    collect("", RawConfig::keys(), &mut tables);
    tables
}

fn document() -> String {
    let mut text = String::from("\n## The file itself\n\n");
    text.push_str(&rows(&RawConfig::keys()));
    for (heading, key) in tables() {
        write!(text, "\n## `{heading}`\n\n{}\n\n{}", key.text, rows(&keys_of(&key.form))).unwrap();
    }
    text.push('\n');
    text
}

fn rows(keys: &[Key]) -> String {
    let mut text = String::from("| key | value | default | in force with | what it says |\n|---|---|---|---|---|\n");
    for key in keys.iter().filter(|key| keys_of(&key.form).is_empty()) {
        let default = match key.about.default {
            LeftOut::Value(plain) => format!("`{}`", key.form.write(plain)),
            LeftOut::Words(words) => cell(words),
            LeftOut::Nothing if key.about.needed => "must be there".to_owned(),
            LeftOut::Nothing => "none".to_owned(),
        };
        let change = match key.about.change {
            Change::Restart => "restart",
            Change::Reload => "reload",
        };
        let (value, says) = (cell(&value(key)), cell(&key.text.replace('\n', " ")));
        writeln!(text, "| `{}` | {value} | {default} | {change} | {says} |", key.name).unwrap();
    }
    text
}

fn cell(text: &str) -> String {
    let parts = text.split('`').enumerate();
    // Between backticks a text stands as it is.
    let escaped = parts.map(|(n, part)| match n % 2 {
        0 => part.replace('<', "&lt;").replace('*', "\\*"),
        _ => part.to_owned(),
    });
    escaped.collect::<Vec<_>>().join("`").replace('|', "\\|")
}

/// The form of a value, and its bounds.
fn value(key: &Key) -> String {
    let form = match &key.form {
        Form::Flag => "true or false",
        Form::Number => "number",
        Form::Text => "text",
        Form::Bytes => "size",
        Form::Time => "duration",
        Form::Expiry => "duration or \"never\"",
        Form::List(_) => "list of texts",
        Form::Table(_) => "table",
    };
    if !key.about.words.is_empty() {
        let words: Vec<String> = key.about.words.iter().map(|word| format!("`{word}`")).collect();
        let list = if matches!(key.form, Form::List(_)) { "list of " } else { "" };
        return format!("{list}{}", words.join(", "));
    }
    let (least, most) = (*key.about.bounds.start(), *key.about.bounds.end());
    let zero = if key.about.or_zero { ", or 0" } else { "" };
    let bounds = match (least, most) {
        (0, u64::MAX) => String::new(),
        (_, u64::MAX) => format!(", at least {}", key.form.show(least)),
        _ => format!(", {} to {}", key.form.show(least), key.form.show(most)),
    };
    format!("{form}{bounds}{zero}")
}

#[test]
fn the_document_has_every_key() {
    let path = in_repository("docs/configuration.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    if std::env::var_os("FOREBAY_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", document())).unwrap();
        return;
    }
    assert!(written == document(), "docs/configuration.md is old: run this test with FOREBAY_WRITE_DOCS=1");
}

/// The comment above each key and each heading of an example, where it stands first; by table and key.
fn comments(text: &str) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    let (mut table, mut block) = (String::new(), Vec::new());
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix('#') {
            block.push(comment.trim().trim_start_matches("---- ").to_owned());
            continue;
        }
        let place = match line.split_once(" = ") {
            Some((key, _)) => Some((table.clone(), key.to_owned())),
            None if line.starts_with('[') => {
                table = line.trim_matches(['[', ']']).to_owned();
                Some((table.clone(), String::new()))
            }
            None => None,
        };
        if let Some(place) = place {
            found.entry(place).or_insert_with(|| plain(&block.join(" ")));
        }
        // A heading of a section stands above its first table.
        if !line.is_empty() || !block.first().is_some_and(|_| text.contains(&format!("---- {}", block.join("\n# ")))) {
            block.clear();
        }
    }
    found
}

fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The values of a key at every place where the example has it.
fn values<'t>(root: &'t toml::Value, path: &[&str]) -> Vec<&'t toml::Value> {
    match (path.split_first(), root) {
        (_, toml::Value::Array(items)) if items.iter().all(toml::Value::is_table) && !items.is_empty() => {
            items.iter().flat_map(|item| values(item, path)).collect()
        }
        (None, _) => vec![root],
        (Some((first, rest)), _) => root.get(first).map(|inner| values(inner, rest)).unwrap_or_default(),
    }
}

#[test]
fn the_gateway_example_agrees_with_the_keys() {
    let text = std::fs::read_to_string(in_repository("config/gateway.toml")).unwrap();
    let root = toml::Value::Table(text.parse().unwrap());
    let comments = comments(&text);
    let mut wrong = Vec::new();
    let file =
        tables().into_iter().map(|(heading, key)| (heading.trim_matches(['[', ']']).to_owned(), keys_of(&key.form)));
    for (table, keys) in file.chain([(String::new(), RawConfig::keys())]) {
        for key in keys.iter().filter(|key| keys_of(&key.form).is_empty()) {
            let path: Vec<&str> = table.split('.').filter(|part| !part.is_empty()).chain([key.name]).collect();
            // A bridge has few rules of each direction, and few limits of its queue: what they can be stands elsewhere.
            let (elsewhere, found) = (["bridges.in", "bridges.queue"].contains(&&*table), values(&root, &path));
            let name = path.join(".");
            if found.is_empty() && !elsewhere {
                wrong.push(format!("{name} is missing"));
            }
            let says_default = key.text.contains("Default:");
            if let LeftOut::Value(default) = key.about.default {
                let default = key.form.write(default);
                if !says_default && !elsewhere && !found.iter().any(|value| value.to_string() == default) {
                    wrong
                        .push(format!("{name} is not {default} anywhere, and its text does not say so (Default: ...)"));
                }
            }
            if let Some(comment) = comments.get(&(table.clone(), key.name.to_owned()))
                && *comment != plain(&key.text)
                && !elsewhere
            {
                wrong.push(format!("the comment of {name} is\n    {comment}\nand not\n    {}", plain(&key.text)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A default is stated beside the key for people, and used where the value is checked.
#[test]
fn the_stated_defaults_are_those_that_hold() {
    fn say(keys: Vec<Key>, path: &str, text: &mut String) {
        for key in &keys {
            if let LeftOut::Value(default) = key.about.default {
                writeln!(text, "{path}{} = {}", key.name, key.form.write(default)).unwrap();
            }
        }
        for key in keys.into_iter().filter(|key| !key.about.optional) {
            if let Form::Table(inner) = key.form {
                say(inner(), &format!("{path}{}.", key.name), text);
            }
        }
    }
    let mut text = String::new();
    say(RawConfig::keys(), "", &mut text);
    // What makes a table be there, in all its defaults.
    let rest = [
        ("access.jwt", "secret_file = 's'"),
        ("access.http", "url = 'http://h'"),
        ("queues", "name = 'q'\nfilter = 'f'"),
        ("dead_letters", "name = 'd'"),
        ("streams", "name = 's'\nfilter = 'f'"),
        ("rules", "name = 'r'\nfilter = 'f'\ntopic = 't'"),
        ("listeners", "url = 'mqtt://127.0.0.1'"),
        #[cfg(feature = "bridge-mqtt")]
        ("bridges", "name = 'b'\nurl = 'mqtt://h'\nout = [{ filter = 'f' }]"),
    ];
    let (mut said, mut left_out) = (text, String::new());
    for (table, needed) in rest {
        let (heading, key) =
            tables().into_iter().find(|(heading, _)| heading.trim_matches(['[', ']']) == table).unwrap();
        let kafka = ["compression", "sasl", "progress_topic", "refused_topic"];
        let refused = [&["client_certificates", "crl_expired", "min_tls", "mode"], &kafka[..]].concat();
        for text in [&mut said, &mut left_out] {
            writeln!(text, "{heading}\n{needed}").unwrap();
        }
        for key in keys_of(&key.form).iter().filter(|key| !refused.contains(&key.name)) {
            if let LeftOut::Value(default) = key.about.default {
                writeln!(said, "{} = {}", key.name, key.form.write(default)).unwrap();
            }
        }
    }
    let parse = |text: &str| match parse(text, Path::new("/etc/f.toml"), &Overrides::default()) {
        Ok(config) => config,
        Err(error) => panic!("{error}\n{text}"),
    };
    assert_eq!(parse(&said), parse(&left_out));
}

/// A value of the key that is right and not its default; `None` where none can be made up.
fn other_value(key: &Key) -> Option<String> {
    let LeftOut::Value(default) = key.about.default else { return None };
    if let Some(word) = key.about.words.iter().find(|word| key.form.write((**word).into()) != key.form.write(default)) {
        return Some(key.form.write((*word).into()));
    }
    Some(match default {
        Plain::Flag(flag) => (!flag).to_string(),
        Plain::Number(n) if n < *key.about.bounds.end() => key.form.write(Plain::Number(n + 1)),
        Plain::Number(n) => key.form.write(Plain::Number(n - 1)),
        Plain::Time(time) if time == Duration::from_secs(3600) => "\"30min\"".to_owned(),
        Plain::Time(NEVER) => "\"1h\"".to_owned(),
        // Shorter ones stay below what others are held against.
        Plain::Time(time) if time < Duration::from_secs(1) => format!("\"{}ms\"", time.as_millis() + 1),
        Plain::Time(time) => format!("\"{}s\"", (time.as_secs() - 1).max(1)),
        Plain::Text(_) => return None,
    })
}

/// The tables say which keys can change while the broker runs, and those are what a reload puts in force.
#[test]
fn a_reload_changes_what_the_tables_say() {
    fn look(path: &str, keys: Vec<Key>, wrong: &mut Vec<String>) {
        let parse = |text: &str| parse(text, Path::new("/etc/f.toml"), &Overrides::default()).unwrap();
        for key in keys {
            let name = format!("{path}{}", key.name);
            match (&key.form, other_value(&key)) {
                (Form::Table(inner), _) if !key.about.optional => look(&format!("{name}."), inner(), wrong),
                (_, Some(value)) => {
                    let (old, new) = (parse(""), parse(&format!("{name} = {value}")));
                    assert!(old != new, "{name} = {value} says nothing");
                    let changes = with_reloaded(&old, &new) != old;
                    if changes != (key.about.change == Change::Reload) {
                        wrong.push(name);
                    }
                }
                _ => {}
            }
        }
    }
    let mut wrong = Vec::new();
    look("", RawConfig::keys(), &mut wrong);
    assert_eq!(wrong, Vec::<String>::new());
}
