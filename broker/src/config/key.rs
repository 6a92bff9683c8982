//! What is known of a key: name, form, default, bounds, text, and whether it can change while the broker runs. Stated once, in
//! the tables of raw/; the checks, docs/configuration.md, the JSON Schema and `forebay config show` come from it.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::checked::NEVER;
use super::units::{show_bytes, show_duration};

/// Milliseconds, as the bounds of durations are.
pub(super) const SECOND: u64 = 1_000;
pub(super) const DAY: u64 = 24 * 3_600 * SECOND;
/// [`NEVER`] in milliseconds.
pub(super) const NEVER_MS: u64 = u32::MAX as u64 * SECOND;

/// One key of a table.
pub(super) struct Key {
    pub(super) name: &'static str,
    /// What it is for; plain text.
    pub(super) text: String,
    pub(super) form: Form,
    pub(super) about: About,
}

/// What a value looks like in the file.
#[derive(Clone)]
pub(super) enum Form {
    Flag,
    Number,
    Text,
    /// A size such as `"1MiB"`; bounds are bytes.
    Bytes,
    /// A duration such as `"10s"`; bounds are milliseconds.
    Time,
    /// The same, or `"never"`.
    Expiry,
    List(Box<Self>),
    /// The keys of the table.
    Table(fn() -> Vec<Key>),
}

/// When a changed value is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// With the next start.
    Restart,
    /// With a reload.
    Reload,
}

/// What holds when the key is left out.
#[derive(Clone, Copy)]
pub(super) enum LeftOut {
    Nothing,
    Value(Plain),
    /// It depends; in words.
    Words(&'static str),
}

/// A default before it is written in the form of its key.
#[derive(Clone, Copy)]
pub(super) enum Plain {
    Flag(bool),
    Number(u64),
    Text(&'static str),
    Time(Duration),
}

/// All that a table says of a key behind its type.
pub(super) struct About {
    pub(super) bounds: RangeInclusive<u64>,
    /// Zero is right as well, whatever the bounds are.
    pub(super) or_zero: bool,
    pub(super) whole_seconds: bool,
    /// The only texts that are right; empty for any.
    pub(super) words: Vec<&'static str>,
    pub(super) default: LeftOut,
    pub(super) needed: bool,
    /// A table that changes something by being there.
    pub(super) optional: bool,
    pub(super) change: Change,
}

/// Nothing more is known of it.
pub(super) fn about() -> About {
    About {
        bounds: 0..=u64::MAX,
        or_zero: false,
        whole_seconds: false,
        words: Vec::new(),
        default: LeftOut::Nothing,
        needed: false,
        optional: false,
        change: Change::Restart,
    }
}

impl About {
    pub(super) fn within(self, bounds: RangeInclusive<u64>) -> Self {
        Self { bounds, ..self }
    }

    pub(super) fn or_zero(self) -> Self {
        Self { or_zero: true, ..self }
    }

    pub(super) fn whole_seconds(self) -> Self {
        Self { whole_seconds: true, ..self }
    }

    pub(super) fn words<T>(self, words: &[(&'static str, T)]) -> Self {
        Self { words: words.iter().map(|(word, _)| *word).collect(), ..self }
    }

    /// Its default.
    pub(super) fn is(self, default: impl Into<Plain>) -> Self {
        Self { default: LeftOut::Value(default.into()), ..self }
    }

    /// Its default, in words.
    pub(super) fn otherwise(self, default: &'static str) -> Self {
        Self { default: LeftOut::Words(default), ..self }
    }

    pub(super) fn needed(self) -> Self {
        Self { needed: true, ..self }
    }

    pub(super) fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    pub(super) fn reload(self) -> Self {
        Self { change: Change::Reload, ..self }
    }

    /// What is wrong with an amount; `None`: it is right.
    pub(super) fn complaint(&self, form: &Form, amount: u64) -> Option<String> {
        let is = form.show(amount);
        let (least, most) = (*self.bounds.start(), *self.bounds.end());
        if self.or_zero && amount == 0 {
            None
        } else if amount < least {
            Some(format!("must be at least {}, is {is}", form.show(least)))
        } else if amount > most {
            Some(format!("must be at most {}, is {is}", form.show(most)))
        } else if self.whole_seconds && !amount.is_multiple_of(SECOND) {
            Some(format!("must be whole seconds, is {is}"))
        } else {
            None
        }
    }
}

impl Form {
    /// An amount as people write it, without quotes.
    pub(super) fn show(&self, amount: u64) -> String {
        match self {
            Self::Bytes => show_bytes(amount),
            Self::Expiry if amount == NEVER_MS => "never".to_owned(),
            Self::Time | Self::Expiry => show_duration(Duration::from_millis(amount)),
            Self::Flag | Self::Number | Self::Text | Self::List(_) | Self::Table(_) => amount.to_string(),
        }
    }

    /// A default as it stands in a file.
    pub(super) fn write(&self, plain: Plain) -> String {
        match (self, plain) {
            (_, Plain::Flag(flag)) => flag.to_string(),
            (Self::Number, Plain::Number(n)) => n.to_string(),
            (_, Plain::Number(n)) => quoted(&self.show(n)),
            (_, Plain::Text(text)) => quoted(text),
            (_, Plain::Time(NEVER)) => quoted("never"),
            (_, Plain::Time(time)) => quoted(&show_duration(time)),
        }
    }
}

/// A string of TOML.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl From<bool> for Plain {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<&'static str> for Plain {
    fn from(text: &'static str) -> Self {
        Self::Text(text)
    }
}

impl From<Duration> for Plain {
    fn from(time: Duration) -> Self {
        Self::Time(time)
    }
}

macro_rules! numbers {
    ($($number:ty)*) => {
        $(impl From<$number> for Plain {
            fn from(n: $number) -> Self {
                Self::Number(u64::try_from(n).unwrap_or(u64::MAX))
            }
        })*
    };
}

numbers!(u16 u32 u64 usize);
