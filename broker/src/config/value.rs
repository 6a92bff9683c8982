//! The forms of values: how each is read, and shown.
//!
//! The tree that `toml` makes is read by hand and not through serde's derive: serde ends at the first error, and a
//! person who wrote three wants to see three, each at its own place.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::checked::NEVER;
use super::key::{Form, NEVER_MS, quoted};
use super::table::{At, Reader, Showing, Shown, Table, Value, Way};
use super::units::{self, Bytes};

/// A duration that may be `"never"`: then it is [`NEVER`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry(pub(super) Duration);

fn wrong_type(wanted: &str, value: &Spanned<DeValue<'_>>) -> String {
    match value.get_ref() {
        DeValue::Table(_) | DeValue::Array(_) => format!("must be {wanted}, is {}", article(value.get_ref())),
        DeValue::Integer(n) => format!("must be {wanted}, is {n}"),
        DeValue::Float(n) => format!("must be {wanted}, is {n}"),
        DeValue::Boolean(b) => format!("must be {wanted}, is {b}"),
        DeValue::Datetime(at) => format!("must be {wanted}, is {at}"),
        DeValue::String(text) => format!("must be {wanted}, is \"{text}\""),
    }
}

fn article(value: &DeValue<'_>) -> &'static str {
    if value.is_array() { "an array" } else { "a table" }
}

fn push(to: &mut Vec<Shown>, path: &str, span: &Range<usize>, value: String) {
    to.push(Shown { key: path.to_owned(), value: Showing::Value(value, Some(span.clone())) });
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Value for u64 {
    fn form() -> Form {
        Form::Number
    }

    fn read(_: &str, value: &Spanned<DeValue<'_>>, _: &mut Reader<'_>) -> Result<Self, String> {
        let wrong = || wrong_type("a whole number, not negative", value);
        let DeValue::Integer(integer) = value.get_ref() else { return Err(wrong()) };
        Self::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| wrong())
    }

    fn amount(&self) -> Option<u64> {
        Some(*self)
    }

    fn show(&self, path: &str, span: &Range<usize>, to: &mut Vec<Shown>) {
        push(to, path, span, self.to_string());
    }
}

impl Value for bool {
    fn form() -> Form {
        Form::Flag
    }

    fn read(_: &str, value: &Spanned<DeValue<'_>>, _: &mut Reader<'_>) -> Result<Self, String> {
        value.get_ref().as_bool().ok_or_else(|| wrong_type("true or false", value))
    }

    fn show(&self, path: &str, span: &Range<usize>, to: &mut Vec<Shown>) {
        push(to, path, span, self.to_string());
    }
}

impl Value for String {
    const LIST: &'static str = "a list of strings";

    fn form() -> Form {
        Form::Text
    }

    fn read(_: &str, value: &Spanned<DeValue<'_>>, _: &mut Reader<'_>) -> Result<Self, String> {
        value.get_ref().as_str().map(str::to_owned).ok_or_else(|| wrong_type("a string", value))
    }

    fn as_text(&self) -> Option<&str> {
        Some(self)
    }

    fn show(&self, path: &str, span: &Range<usize>, to: &mut Vec<Shown>) {
        push(to, path, span, quoted(&without_password(self)));
    }
}

/// A URL may have a password: what is shown is copied into reports.
fn without_password(text: &str) -> String {
    let masked = || {
        let (scheme, rest) = text.split_once("://")?;
        let (who, host) = rest.rsplit_once('@')?;
        let (user, _) = who.split_once(':')?;
        Some(format!("{scheme}://{user}:***@{host}"))
    };
    masked().unwrap_or_else(|| text.to_owned())
}

impl Value for Bytes {
    fn form() -> Form {
        Form::Bytes
    }

    fn read(_: &str, value: &Spanned<DeValue<'_>>, _: &mut Reader<'_>) -> Result<Self, String> {
        match value.get_ref().as_str() {
            Some(text) => units::bytes(text),
            None => Err(wrong_type("a size in quotes, such as \"1MiB\"", value)),
        }
    }

    fn amount(&self) -> Option<u64> {
        Some(self.0)
    }

    fn show(&self, path: &str, span: &Range<usize>, to: &mut Vec<Shown>) {
        push(to, path, span, quoted(&Form::Bytes.show(self.0)));
    }
}

impl Value for Duration {
    fn form() -> Form {
        Form::Time
    }

    fn read(_: &str, value: &Spanned<DeValue<'_>>, _: &mut Reader<'_>) -> Result<Self, String> {
        match value.get_ref().as_str() {
            Some(text) => units::duration(text),
            None => Err(wrong_type("a duration in quotes, such as \"10s\"", value)),
        }
    }

    fn amount(&self) -> Option<u64> {
        Some(millis(*self))
    }

    fn show(&self, path: &str, span: &Range<usize>, to: &mut Vec<Shown>) {
        push(to, path, span, quoted(&Form::Time.show(millis(*self))));
    }
}

impl Value for Expiry {
    fn form() -> Form {
        Form::Expiry
    }

    fn read(_: &str, value: &Spanned<DeValue<'_>>, _: &mut Reader<'_>) -> Result<Self, String> {
        match value.get_ref().as_str() {
            Some("never") => Ok(Self(NEVER)),
            Some(text) => units::duration(text).map(Self),
            None => Err(wrong_type("a duration in quotes, such as \"30d\" or \"never\"", value)),
        }
    }

    fn amount(&self) -> Option<u64> {
        Some(if self.0 == NEVER { NEVER_MS } else { millis(self.0) })
    }

    fn show(&self, path: &str, span: &Range<usize>, to: &mut Vec<Shown>) {
        push(to, path, span, quoted(&Form::Expiry.show(self.amount().unwrap_or_default())));
    }
}

impl<T: Value> Value for Vec<At<T>> {
    fn form() -> Form {
        Form::List(Box::new(T::form()))
    }

    fn read(path: &str, value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Result<Self, String> {
        let mut list = Self::new();
        match value.get_ref() {
            DeValue::Array(array) => append(&mut list, path, array.iter(), reader),
            // Variables name one of the list.
            DeValue::Table(table) if reader.way == Way::Environment => {
                for (place, value) in table {
                    one_of(&mut list, path, place.get_ref(), value, reader)?;
                }
            }
            DeValue::Table(_)
            | DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => return Err(wrong_type(T::LIST, value)),
        }
        Ok(list)
    }

    fn add(&mut self, path: &str, value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Result<bool, String> {
        let tables = matches!(T::form(), Form::Table(_));
        match (value.get_ref(), reader.way) {
            (DeValue::Array(array), Way::File) if tables => append(self, path, array.iter(), reader),
            (DeValue::Table(table), Way::Environment) if tables => {
                for (place, value) in table {
                    one_of(self, path, place.get_ref(), value, reader)?;
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn show(&self, path: &str, span: &Range<usize>, to: &mut Vec<Shown>) {
        if matches!(T::form(), Form::Table(_)) {
            for (n, at) in self.iter().enumerate() {
                at.value.show(&format!("{path}[{}]", n + 1), &at.span, to);
            }
            return;
        }
        let mut items = Vec::new();
        self.iter().for_each(|at| at.value.show("", &at.span, &mut items));
        let items: Vec<String> = items
            .into_iter()
            .filter_map(|item| match item.value {
                Showing::Value(value, _) => Some(value),
                Showing::Words(_) => None,
            })
            .collect();
        push(to, path, span, format!("[{}]", items.join(", ")));
    }
}

/// Counted from 1: the first listener of the file is `listeners[1]`.
fn append<'v, T: Value>(
    list: &mut Vec<At<T>>,
    path: &str,
    items: impl Iterator<Item = &'v Spanned<DeValue<'v>>>,
    reader: &mut Reader<'_>,
) {
    let before = list.len();
    list.extend(items.enumerate().filter_map(|(n, item)| reader.read(format!("{path}[{}]", before + n + 1), item)));
}

/// The table of a list that a variable means: by its number, counted from 1, or by its name. The number after the last is a
/// new one.
fn one_of<T: Value>(
    list: &mut Vec<At<T>>,
    path: &str,
    place: &str,
    value: &Spanned<DeValue<'_>>,
    reader: &mut Reader<'_>,
) -> Result<(), String> {
    let same = |name: &str| name.replace('-', "_").eq_ignore_ascii_case(place);
    let by_name = list.iter().position(|at| at.value.name().is_some_and(same));
    let found = by_name.or_else(|| place.parse::<usize>().ok()?.checked_sub(1));
    let count = list.len();
    match found {
        Some(n) if n < count => {
            let key = format!("{path}[{}]", n + 1);
            match list.get_mut(n) {
                Some(at) => at.value.add(&key, value, reader).map(drop),
                None => Ok(()),
            }
        }
        Some(n) if n == count => {
            list.extend(reader.read(format!("{path}[{}]", n + 1), value));
            Ok(())
        }
        _ => Err(format!(
            "there is none of the name or number `{place}`; there are {count}, and {} is a new one",
            count + 1
        )),
    }
}

impl<T: Table> Value for T {
    fn form() -> Form {
        Form::Table(T::keys)
    }

    fn read(path: &str, value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Result<Self, String> {
        let DeValue::Table(table) = value.get_ref() else { return Err(wrong_type("a table", value)) };
        let mut filled = T::default();
        reader.fill(&mut filled, path, table);
        Ok(filled)
    }

    fn add(&mut self, path: &str, value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Result<bool, String> {
        let DeValue::Table(table) = value.get_ref() else { return Err(wrong_type("a table", value)) };
        reader.fill(self, path, table);
        Ok(true)
    }

    fn name(&self) -> Option<&str> {
        self.text_of("name")
    }

    fn show(&self, path: &str, _: &Range<usize>, to: &mut Vec<Shown>) {
        self.show_keys(path, to);
    }
}
