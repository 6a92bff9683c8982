//! The layers of a configuration, one above the other: the file, the files that it includes, the environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

use super::key::{Form, Key};
use super::listener::fits;
use super::problem::{Problem, nearest, no_such};
use super::raw::RawConfig;
use super::sources::{Sources, TextSource};
use super::table::{At, Reader, Table, Way};

/// How each variable's name begins.
const PREFIX: &str = "FOREBAY_";
/// Files that one file includes.
const INCLUDED_MAX: usize = 256;

/// What was read, before it is checked.
#[derive(Debug, Default)]
pub(super) struct Layers {
    pub(super) sources: Sources,
    pub(super) raw: RawConfig,
    pub(super) problems: Vec<Problem>,
}

impl Layers {
    /// Reads the file whose text is given, what it includes, and the variables.
    pub(super) fn read(file: &Path, text: String, variables: Vec<(OsString, OsString)>) -> Self {
        let mut layers = Self::default();
        layers.file(file.to_owned(), text, Role::First);
        let include = layers.raw.include.as_ref().map(|list| list.value.clone()).unwrap_or_default();
        for path in layers.included(file, &include) {
            match std::fs::read_to_string(&path.value) {
                Ok(text) => layers.file(path.value, text, Role::Included),
                Err(error) => {
                    let message = format!("{}: cannot be read: {error}", path.value.display());
                    layers.problems.push(Problem { span: path.span, key: path.key, message });
                }
            }
        }
        for (name, value) in sorted(variables) {
            layers.variable(name, value);
        }
        layers
    }

    fn file(&mut self, path: PathBuf, text: String, role: Role) {
        let base = self.sources.add(TextSource::File(path), text);
        let (root, errors) = DeTable::parse_recoverable(self.sources.text(base));
        let mut reader = Reader { sources: &self.sources, problems: &mut self.problems, base, way: Way::File };
        for error in &errors {
            reader.wrong(error.span().unwrap_or(0..0), "", error.message().to_owned());
        }
        // What was recovered from a broken file is a guess: complaints about it would only confuse.
        if !errors.is_empty() {
            return;
        }
        let include = root.get_ref().iter().find(|(name, _)| name.get_ref() == "include");
        if let Some((name, _)) = include.filter(|_| role == Role::Included) {
            return reader.wrong(name.span(), "include", "only the first file includes others".to_owned());
        }
        reader.fill(&mut self.raw, "", root.get_ref());
    }

    /// The files that the patterns name, in the patterns' order; those of one pattern by name.
    fn included(&mut self, file: &Path, patterns: &[At<String>]) -> Vec<At<PathBuf>> {
        let folder = file.parent().unwrap_or(Path::new(""));
        let mut paths: Vec<At<PathBuf>> = Vec::new();
        for at in patterns {
            let mut wrong = |message: String| {
                self.problems.push(Problem { span: at.span.clone(), key: at.key.clone(), message });
            };
            match files_of(&folder.join(&at.value)) {
                Ok(found) if paths.len() + found.len() > INCLUDED_MAX => {
                    wrong(format!("there may be {INCLUDED_MAX} included files at most"));
                }
                Ok(found) => {
                    paths.extend(found.into_iter().map(|value| At {
                        value,
                        span: at.span.clone(),
                        key: at.key.clone(),
                    }));
                }
                Err(why) => wrong(format!("\"{}\" {why}", at.value)),
            }
        }
        paths
    }

    /// `FOREBAY_STORE__JOURNAL` is the key `store.journal`.
    fn variable(&mut self, name: String, value: Result<String, OsString>) {
        let Some(rest) = name.strip_prefix(PREFIX) else { return };
        let rest = rest.to_ascii_lowercase();
        let parts: Vec<&str> = rest.split("__").collect();
        let first = parts.first().copied().unwrap_or_default();
        let known = RawConfig::KEYS.contains(&first);
        // Others have such names as well: container platforms set FOREBAY_PORT for a service of this name.
        if !known && parts.len() == 1 && nearest(first, RawConfig::KEYS).is_none() {
            return;
        }
        let text = value.as_deref().unwrap_or_default().to_owned();
        let base = self.sources.add(TextSource::Variable(name), text);
        let mut reader = Reader { sources: &self.sources, problems: &mut self.problems, base, way: Way::Environment };
        let key = parts.join(".");
        if value.is_err() {
            return reader.wrong(0..0, &key, "is not UTF-8".to_owned());
        }
        let built = match first {
            "include" => Err("is for files only".to_owned()),
            _ => nested(&Form::Table(RawConfig::keys), &parts, self.sources.text(base)),
        };
        match built.map(Spanned::into_inner) {
            Ok(DeValue::Table(table)) => reader.fill(&mut self.raw, "", &table),
            Ok(_) => {}
            Err(message) => reader.wrong(0..0, &key, message),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    First,
    Included,
}

/// By name, so that the outcome does not hang on their order. An empty variable is as none.
fn sorted(variables: Vec<(OsString, OsString)>) -> Vec<(String, Result<String, OsString>)> {
    let named = variables.into_iter().filter(|(_, value)| !value.is_empty());
    let mut named: Vec<_> =
        named.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string()))).collect();
    named.sort();
    named
}

/// The files that a path names whose last part may have `*` for any text.
fn files_of(path: &Path) -> Result<Vec<PathBuf>, String> {
    let (Some(folder), Some(pattern)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err("names no file".to_owned());
    };
    if folder.to_string_lossy().contains('*') {
        return Err("has * in the name of a folder; it may be in the name of the file only".to_owned());
    }
    if !pattern.contains('*') {
        return Ok(vec![path.to_owned()]);
    }
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("cannot be looked up: {error}")),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    // As shells do: what is hidden is not meant.
    let mut names: Vec<String> = names.filter(|name| fits(pattern, name) && !name.starts_with('.')).collect();
    names.sort();
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// The value of a variable, within the tables that its name says.
fn nested<'t>(form: &Form, parts: &[&str], text: &'t str) -> Result<Spanned<DeValue<'t>>, String> {
    let Some((first, rest)) = parts.split_first() else {
        return leaf(form, text).map(|value| Spanned::new(0..0, value));
    };
    let (name, inner) = match form {
        Form::Table(keys) => {
            let keys: Vec<Key> = keys();
            let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
            let key = keys.iter().find(|key| key.name == *first).ok_or_else(|| no_such("key", first, &names))?;
            (key.name.to_owned(), key.form.clone())
        }
        Form::List(of) if matches!(**of, Form::Table(_)) => ((*first).to_owned(), (**of).clone()),
        Form::Flag | Form::Number | Form::Text | Form::Bytes | Form::Time | Form::Expiry | Form::List(_) => {
            return Err(format!("`{first}` is too much: there is nothing inside of this key"));
        }
    };
    let mut table = DeTable::new();
    table.insert(Spanned::new(0..0, DeString::Owned(name)), nested(&inner, rest, text)?);
    Ok(Spanned::new(0..0, DeValue::Table(table)))
}

/// Texts, sizes and durations as they are, without quotes; lists of them with commas between; all else as in a file.
fn leaf<'t>(form: &Form, text: &'t str) -> Result<DeValue<'t>, String> {
    match form {
        Form::Text | Form::Bytes | Form::Time | Form::Expiry => Ok(DeValue::String(text.into())),
        Form::List(of) if matches!(**of, Form::Text) && !text.trim_start().starts_with('[') => {
            let items = text.split(',').map(|item| Spanned::new(0..0, DeValue::String(item.trim().into())));
            let mut list = DeArray::new();
            items.for_each(|item| list.push(item));
            Ok(DeValue::Array(list))
        }
        Form::Flag | Form::Number | Form::List(_) | Form::Table(_) => DeValue::parse(text)
            .map(Spanned::into_inner)
            .map_err(|error| format!("\"{text}\" is not a value as in a file: {}", error.message())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::super::{Config, ConfigError, Overrides, Setting, checked};
    use super::*;

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<(Config, Vec<Setting>), ConfigError> {
        read_in(Path::new("/etc/forebay.toml"), text, variables)
    }

    fn read_in(file: &Path, text: &str, variables: &[(&str, &str)]) -> Result<(Config, Vec<Setting>), ConfigError> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        checked(text.to_owned(), file, variables, &Overrides::default())
    }

    fn line(settings: &[Setting], key: &str) -> String {
        let setting = settings.iter().find(|setting| setting.key == key).expect(key);
        format!("{} {}", setting.value.as_deref().unwrap_or("-"), setting.origin)
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let text = "log = 'warn'\n[store]\njournal = '1MiB'\n[[listeners]]\nurl = 'mqtt://127.0.0.1'\n\
                    [[queues]]\nname = 'line-1'\nfilter = 'a'";
        let (config, settings) = read(
            text,
            &[
                ("FOREBAY_STORE__JOURNAL", "16MiB"),
                ("FOREBAY_STORE__COMMIT_WAIT", "9ms"),
                ("FOREBAY_LIMITS__MAX_CONNECTIONS", "77"),
                ("FOREBAY_LISTENERS__1__VERSIONS", "3.1.1, 5"),
                ("FOREBAY_LISTENERS__2__URL", "mqtt://127.0.0.1:1999"),
                ("FOREBAY_QUEUES__LINE_1__WINDOW", "7"),
                ("FOREBAY_QUEUE__QUEUE_QOS0", "true"),
                ("FOREBAY_LOG", ""),
                ("FOREBAY_PORT", "tcp://10.0.0.1:1883"),
                ("PATH", "/bin"),
            ],
        )
        .unwrap();
        assert_eq!((config.store.journal_bytes, config.limits.max_connections), (16 << 20, 77));
        assert_eq!((config.listeners.len(), config.listeners[0].admission.versions.len()), (2, 2));
        assert_eq!((config.queues[0].window, config.queue.queue_qos0), (7, true));
        assert_eq!(line(&settings, "log"), "\"warn\" /etc/forebay.toml:1");
        assert_eq!(line(&settings, "store.journal"), "\"16MiB\" environment variable FOREBAY_STORE__JOURNAL");
        assert_eq!(line(&settings, "queues[1].filter"), "\"a\" /etc/forebay.toml:8");
        assert_eq!(line(&settings, "limits.max_sessions"), "100000 default");
        assert_eq!(line(&settings, "limits.memory"), "- default: half of what the machine, or the container, has");
    }

    #[test]
    fn a_wrong_variable_is_named() {
        for (name, value, complaint) in [
            ("FOREBAY_STORE__JORNAL", "1MiB", "store.jornal: no such key; did you mean `journal`?"),
            ("FOREBAY_STROE__JOURNAL", "1MiB", "stroe.journal: no such key; did you mean `store`?"),
            ("FOREBAY_WORKRES", "1", "workres: no such key; did you mean `workers`?"),
            ("FOREBAY_WORKERS", "0", "workers: must be at least 1, is 0"),
            ("FOREBAY_WORKERS__1", "0", "workers.1: `1` is too much: there is nothing inside of this key"),
            ("FOREBAY_STORE__JOURNAL", "1", "store.journal: \"1\" has no unit"),
            (
                "FOREBAY_QUEUES__X__WINDOW",
                "1",
                "queues: there is none of the name or number `x`; there are 0, and 1 is a new one",
            ),
            ("FOREBAY_INCLUDE", "a", "include: is for files only"),
            ("FOREBAY_QUEUE__QUEUE_QOS0", "yes please", "queue.queue_qos0: \"yes please\" is not a value as in a file"),
        ] {
            let error = read("", &[(name, value)]).expect_err(name).to_string();
            assert!(error.starts_with(&format!("environment variable {name}: {complaint}")), "{error}");
        }
    }

    #[test]
    fn files_include_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("forebay.toml");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("conf.d")).unwrap();
        std::fs::write(at("conf.d/20.toml"), "[store]\njournal = '1MiB'\n[admin]\ntoken_file = 't'").unwrap();
        std::fs::write(at("conf.d/10.toml"), "[[queues]]\nname = 'b'\nfilter = 'b'\n[store]\ncache_bytes = '2MiB'")
            .unwrap();
        std::fs::write(at("conf.d/.30.toml"), "hidden = true").unwrap();
        let text = "include = ['conf.d/*.toml', 'none/*.toml']\n[[queues]]\nname = 'a'\nfilter = 'a'\n";
        let (config, settings) = read_in(&file, text, &[]).unwrap();
        let names: Vec<&str> = config.queues.iter().map(|queue| &*queue.name).collect();
        assert_eq!((names, config.store.cache_bytes, config.store.journal_bytes), (vec!["a", "b"], 2 << 20, 1 << 20));
        assert_eq!(config.admin.token_file, Some(at("conf.d/t")), "relative to its own file");
        let place = format!("{}:5", at("conf.d/10.toml").display());
        assert_eq!(line(&settings, "store.cache_bytes"), format!("\"2MiB\" {place}"));

        let refused = |text: &str| read_in(&file, text, &[]).expect_err(text).to_string();
        let twice = refused(&format!("{text}[store]\njournal = '4MiB'"));
        let (first, second) = (format!("{}:6", file.display()), at("conf.d/20.toml"));
        let message =
            format!("{}:2:11: store.journal: is set in {first} already; one of the two must go", second.display());
        assert_eq!(twice, message);
        std::fs::write(at("conf.d/40.toml"), "[limits]\nmax_conections = 3").unwrap();
        let unknown = format!(
            "{}:2:1: limits.max_conections: no such key; did you mean `max_connections`?",
            at("conf.d/40.toml").display()
        );
        assert_eq!(refused(text), unknown);
        std::fs::write(at("conf.d/40.toml"), "include = ['x']").unwrap();
        assert!(refused(text).ends_with("40.toml:1:1: include: only the first file includes others"));
        assert!(
            refused("include = ['gone.toml']").contains(":1:12: include[1]: "),
            "{}",
            refused("include = ['gone.toml']")
        );
        assert!(refused("include = ['*/a.toml']").contains("has * in the name of a folder"));
    }
}
