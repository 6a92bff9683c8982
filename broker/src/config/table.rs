//! A table of the file: a field for each key, and what is known of the key. From the same lines it is read, shown and described.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::key::{About, Form, Key, LeftOut};
use super::problem::{Problem, no_such};
use super::sources::Sources;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    /// In all [`Sources`] together.
    pub(super) span: Range<usize>,
    pub(super) key: String,
}

/// The name of a key: the field's, unless it is given because Rust has that word for itself.
macro_rules! key_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $name:literal) => {
        $name
    };
}

/// What is known of a key; nothing unless something is said.
macro_rules! key_about {
    () => {
        $crate::config::key::about()
    };
    ($about:expr) => {
        $about
    };
}

/// A table of the file. Of each key: its text, its name, the type of its value, and what else is known of it.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident {
        $($(#[doc = $text:literal])+ $field:ident $(as $key:literal)?: $type:ty $(= $about:expr)?,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(in crate::config) struct $name { $(pub(in crate::config) $field: Option<At<$type>>,)* }

        impl Table for $name {
            const KEYS: &'static [&'static str] = &[$(key_name!($field $($key)?)),*];

            fn keys() -> Vec<Key> {
                vec![$(Key {
                    name: key_name!($field $($key)?),
                    text: [$($text),+].map(str::trim).join("\n"),
                    form: <$type as Value>::form(),
                    about: key_about!($($about)?),
                }),*]
            }

            fn set(&mut self, name: &str, path: String, value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> bool {
                match name {
                    $(key_name!($field $($key)?) => {
                        let about = key_about!($($about)?);
                        reader.read_into(&mut self.$field, path, value, &about);
                    })*
                    _ => return false,
                }
                true
            }

            fn show_keys(&self, path: &str, to: &mut Vec<Shown>) {
                $(show_key(self.$field.as_ref(), &below(path, key_name!($field $($key)?)), &key_about!($($about)?), to);)*
            }

            fn text_of(&self, name: &str) -> Option<&str> {
                match name {
                    $(key_name!($field $($key)?) => self.$field.as_ref()?.value.as_text(),)*
                    _ => None,
                }
            }
        }
    };
}

pub(super) use {key_about, key_name, table};

/// A table whose keys are known.
pub(super) trait Table: Default {
    /// The names of its keys.
    const KEYS: &'static [&'static str];

    /// Its keys, with all that is known of them.
    fn keys() -> Vec<Key>;

    /// Reads the value of the key `name`; false when there is no such key.
    fn set(&mut self, name: &str, path: String, value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> bool;

    /// Every key, with its value and where that stands.
    fn show_keys(&self, path: &str, to: &mut Vec<Shown>);

    /// The value of a key whose values are texts.
    fn text_of(&self, name: &str) -> Option<&str>;
}

/// A value of the file.
pub(super) trait Value: Sized {
    /// What a list of such values is called.
    const LIST: &'static str = "a list of tables";

    fn form() -> Form;

    /// Pushes the problems of what is inside of it; returns what is wrong with itself.
    fn read(path: &str, value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Result<Self, String>;

    /// Adds what stands elsewhere. `Ok(false)`: a value of this type cannot stand in two places.
    fn add(&mut self, path: &str, value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Result<bool, String> {
        let _ = (path, value, reader);
        Ok(false)
    }

    /// What bounds hold against.
    fn amount(&self) -> Option<u64> {
        None
    }

    fn as_text(&self) -> Option<&str> {
        None
    }

    /// The name of a table that has one.
    fn name(&self) -> Option<&str> {
        None
    }

    /// As it stands in a file; of tables each key.
    fn show(&self, path: &str, span: &Range<usize>, to: &mut Vec<Shown>);
}

/// A key and what holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) key: String,
    pub(super) value: Showing,
}

/// What is shown of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Showing {
    /// As it would be written; where it is, unless it is the default.
    Value(String, Option<Range<usize>>),
    /// The default, in words.
    Words(&'static str),
}

pub(super) fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

pub(super) fn show_key<T: Value>(at: Option<&At<T>>, path: &str, about: &About, to: &mut Vec<Shown>) {
    if let Some(at) = at {
        return at.value.show(path, &at.span, to);
    }
    show_left_out(&T::form(), path, about, to);
}

/// The default of a key; of a table the defaults of its keys, unless its being there changes something.
fn show_left_out(form: &Form, path: &str, about: &About, to: &mut Vec<Shown>) {
    match (about.default, form) {
        (LeftOut::Value(plain), _) => {
            to.push(Shown { key: path.to_owned(), value: Showing::Value(form.write(plain), None) });
        }
        (LeftOut::Words(words), _) => to.push(Shown { key: path.to_owned(), value: Showing::Words(words) }),
        (LeftOut::Nothing, Form::Table(keys)) if !about.optional => {
            for key in keys() {
                show_left_out(&key.form, &below(path, key.name), &key.about, to);
            }
        }
        (LeftOut::Nothing, _) => {}
    }
}

/// How often a value may be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A file: once, in all files together.
    File,
    /// The environment: it wins over the files.
    Environment,
}

/// Reads one source after the other into the same tables.
pub(super) struct Reader<'a> {
    pub(super) sources: &'a Sources,
    pub(super) problems: &'a mut Vec<Problem>,
    /// Where the source begins.
    pub(super) base: usize,
    pub(super) way: Way,
}

impl Reader<'_> {
    /// A part of the source that is read, among all sources.
    pub(super) fn span(&self, span: Range<usize>) -> Range<usize> {
        match self.way {
            Way::File => span.start + self.base..span.end + self.base,
            Way::Environment => self.base..self.base,
        }
    }

    pub(super) fn wrong(&mut self, span: Range<usize>, key: &str, message: String) {
        let span = self.span(span);
        self.problems.push(Problem { span, key: key.to_owned(), message });
    }

    pub(super) fn fill<T: Table>(&mut self, into: &mut T, path: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let key = below(path, name.get_ref());
            if !into.set(name.get_ref(), key.clone(), value, self) {
                self.wrong(name.span(), &key, no_such("key", name.get_ref(), T::KEYS));
            }
        }
    }

    pub(super) fn read_into<T: Value>(
        &mut self,
        slot: &mut Option<At<T>>,
        path: String,
        value: &Spanned<DeValue<'_>>,
        about: &About,
    ) {
        if let Some(at) = slot {
            match at.value.add(&path, value, self) {
                Ok(true) => return,
                Ok(false) if self.way == Way::File => {
                    let first = self.sources.place(at.span.start);
                    return self.wrong(
                        value.span(),
                        &path,
                        format!("is set in {first} already; one of the two must go"),
                    );
                }
                Ok(false) => {}
                Err(message) => return self.wrong(value.span(), &path, message),
            }
        }
        if let Some(at) = self.read::<T>(path, value) {
            let complaint = at.value.amount().and_then(|amount| about.complaint(&T::form(), amount));
            match complaint {
                Some(message) => self.wrong(value.span(), &at.key, message),
                None => *slot = Some(at),
            }
        }
    }

    pub(super) fn read<T: Value>(&mut self, path: String, value: &Spanned<DeValue<'_>>) -> Option<At<T>> {
        match T::read(&path, value, self) {
            Ok(read) => Some(At { value: read, span: self.span(value.span()), key: path }),
            Err(message) => {
                self.wrong(value.span(), &path, message);
                None
            }
        }
    }
}
