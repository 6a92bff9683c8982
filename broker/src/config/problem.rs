//! What is wrong with a configuration file, said so that it can be put right.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use super::sources::{Place, Sources, TextSource};

/// Something wrong, and where: bytes of all sources together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) span: Range<usize>,
    /// The key with its table (`limits.max_connections`); empty for an error of syntax.
    pub(super) key: String,
    pub(super) message: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}; check the path given to --config and its permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is wrong; all that was found, in the file's order.
    #[error("{}", Lines(.0))]
    Invalid(Vec<Complaint>),
    /// A configuration of mosquitto.
    #[error(
        "{}: is a configuration of mosquitto; this program's is TOML, where `listener 1883 127.0.0.1` is a table \
         [[listeners]] with url = \"mqtt://127.0.0.1:1883\"; config/gateway.toml has every key with its default",
        path.display()
    )]
    Mosquitto {
        /// The file.
        path: PathBuf,
    },
    /// The options of the command line do not go together.
    #[error("{0}")]
    Usage(String),
}

/// One thing wrong with a configuration. Displayed as `FILE:LINE:COLUMN: KEY: MESSAGE`; a variable has its name in place of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Where.
    pub place: Place,
    /// The key with its table; empty for an error of syntax.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place.source {
            TextSource::File(_) => write!(f, "{}:{}: ", self.place, self.place.column)?,
            TextSource::Variable(_) => write!(f, "{}: ", self.place)?,
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

struct Lines<'a>(&'a [Complaint]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, complaint) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            complaint.fmt(f)?;
        }
        Ok(())
    }
}

/// Gives each problem its place, in the order in which the sources were read.
pub(super) fn complaints(sources: &Sources, mut problems: Vec<Problem>) -> ConfigError {
    problems.sort_by_key(|problem| problem.span.start);
    let place = |problem: Problem| Complaint {
        place: sources.place(problem.span.start),
        key: problem.key,
        message: problem.message,
    };
    ConfigError::Invalid(problems.into_iter().map(place).collect())
}

/// `no such KIND`, with the nearest of `valid`, or all of them when none is near.
pub(super) fn no_such(kind: &str, found: &str, valid: &[&str]) -> String {
    match nearest(found, valid) {
        Some(near) => format!("no such {kind}; did you mean `{near}`?"),
        None => format!("no such {kind}; valid are {}", valid.join(", ")),
    }
}

/// The word of `valid` that the fewest edits make from `found`: at most a third of its characters, at least one.
pub(super) fn nearest<'a>(found: &str, valid: &[&'a str]) -> Option<&'a str> {
    let (distance, word) = valid.iter().map(|word| (edit_distance(found, word), *word)).min()?;
    (distance <= (word.chars().count() / 3).max(1)).then_some(word)
}

/// Insertions, deletions, replacements and swaps of neighbours that make `b` from `a` (optimal string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().map(|c| c.to_ascii_lowercase()).collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut previous: Option<char> = None;
    for (row, ca) in a.chars().map(|c| c.to_ascii_lowercase()).enumerate() {
        let mut current = vec![row + 1];
        for (column, cb) in b.iter().enumerate() {
            let at = |row: &[usize], n: usize| row.get(n).copied().unwrap_or(usize::MAX - 1);
            let mut best = (at(&last, column) + usize::from(ca != *cb)).min(at(&last, column + 1) + 1);
            best = best.min(at(&current, column) + 1);
            if column > 0 && previous == Some(*cb) && b.get(column - 1) == Some(&ca) {
                best = best.min(at(&before_last, column - 1) + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
        previous = Some(ca);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        for (a, b, edits) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("workers", "workers", 0),
            ("workres", "workers", 1),
            ("worker", "workers", 1),
            ("wokrer", "workers", 2),
            ("Workers", "workers", 0),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edit_distance(a, b), edits, "{a} {b}");
        }
    }

    #[test]
    fn suggests_only_what_is_near() {
        let valid = ["max_connections", "max_handshakes", "log"];
        assert_eq!(nearest("max_conections", &valid), Some("max_connections"));
        assert_eq!(nearest("lgo", &valid), Some("log"));
        assert_eq!(nearest("port", &valid), None);
        assert_eq!(no_such("key", "port", &valid), "no such key; valid are max_connections, max_handshakes, log");
    }
}
