//! What is in force, key by key, and where each value comes from.

use std::fmt;

use super::Overrides;
use super::key::{Change, Form, Key, quoted};
use super::layers::Layers;
use super::raw::RawConfig;
use super::sources::Place;
use super::table::{Showing, Table};

/// One key of the configuration that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// With its tables, such as `listeners[1].url`.
    pub key: String,
    /// As it would stand in a file; `None` where the default depends on something else.
    pub value: Option<String>,
    /// Who says so.
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody says anything.
    Default,
    /// The default, in words.
    DefaultIs(&'static str),
    /// A file or a variable.
    Said(Place),
    /// An option of the command line.
    Option(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::DefaultIs(words) => write!(f, "default: {words}"),
            Self::Said(place) => place.fmt(f),
            Self::Option(name) => f.write_str(name),
        }
    }
}

pub(super) fn settings(layers: &Layers, overrides: &Overrides) -> Vec<Setting> {
    let mut shown = Vec::new();
    layers.raw.show_keys("", &mut shown);
    let mut settings: Vec<Setting> = Vec::with_capacity(shown.len());
    for shown in shown {
        let (value, origin) = match shown.value {
            Showing::Value(value, None) => (Some(value), Origin::Default),
            Showing::Value(value, Some(span)) => (Some(value), Origin::Said(layers.sources.place(span.start))),
            Showing::Words(words) => (None, Origin::DefaultIs(words)),
        };
        settings.push(Setting { key: shown.key, value, origin });
    }
    let mut say = |key: String, value: String, option| {
        let setting = Setting { key, value: Some(quoted(&value)), origin: Origin::Option(option) };
        match settings.iter_mut().find(|other| other.key == setting.key) {
            Some(other) => *other = setting,
            None => settings.push(setting),
        }
    };
    if let Some(dir) = &overrides.data_dir {
        say("data_dir".to_owned(), dir.display().to_string(), "--data-dir");
    }
    if let Some(level) = overrides.log {
        say("log".to_owned(), level.word().to_owned(), "--log");
    }
    if !overrides.listen.is_empty() {
        settings.retain(|setting| !setting.key.starts_with("listeners"));
        for (n, url) in overrides.listen.iter().enumerate() {
            let (key, value) = (format!("listeners[{}].url", n + 1), Some(quoted(&url.url)));
            settings.push(Setting { key, value, origin: Origin::Option("--listen") });
        }
    }
    settings
}

/// A line for each key, for people.
#[must_use]
pub fn listing(settings: &[Setting]) -> String {
    let line = |setting: &Setting| match &setting.value {
        Some(value) => format!("{} = {value}", setting.key),
        None => setting.key.clone(),
    };
    let lines: Vec<String> = settings.iter().map(line).collect();
    let width = lines.iter().map(|line| line.chars().count()).filter(|width| *width <= 60).max().unwrap_or_default();
    let lines = lines.iter().zip(settings).map(|(line, setting)| format!("{line:width$}  # {}\n", setting.origin));
    lines.collect()
}

/// A key that holds another value than before. Displayed as `KEY: OLD -> NEW`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// With its tables.
    pub key: String,
    /// What held; `None` for nothing, or a default that depends on something else.
    pub old: Option<String>,
    /// What holds now.
    pub new: Option<String>,
    /// When the new value is in force.
    pub change: Change,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
        write!(f, "{}: {} -> {}", self.key, show(&self.old), show(&self.new))
    }
}

/// What is other in `new`, in its order; what is only in `old` comes last.
#[must_use]
pub fn differences(old: &[Setting], new: &[Setting]) -> Vec<Difference> {
    let value_in = |settings: &[Setting], key: &str| {
        settings.iter().find(|setting| setting.key == key).and_then(|setting| setting.value.clone())
    };
    let gone = old.iter().filter(|setting| !new.iter().any(|other| other.key == setting.key));
    let keys = new.iter().chain(gone).map(|setting| setting.key.as_str());
    let differences = keys.map(|key| Difference {
        key: key.to_owned(),
        old: value_in(old, key),
        new: value_in(new, key),
        change: change_of(key),
    });
    differences.filter(|difference| difference.old != difference.new).collect()
}

/// When a change of the key is in force; the key as a [`Setting`] has it.
fn change_of(key: &str) -> Change {
    let (mut keys, mut change) = (RawConfig::keys(), Change::Restart);
    for part in key.split('.') {
        let name = part.split_once('[').map_or(part, |(name, _)| name);
        let Some(found) = keys.into_iter().find(|key| key.name == name) else { return Change::Restart };
        change = found.about.change;
        keys = keys_of(&found.form);
    }
    change
}

/// The keys of a table, or of each table of a list.
pub(super) fn keys_of(form: &Form) -> Vec<Key> {
    match form {
        Form::Table(keys) => keys(),
        Form::List(of) => keys_of(of),
        Form::Flag | Form::Number | Form::Text | Form::Bytes | Form::Time | Form::Expiry => Vec::new(),
    }
}
