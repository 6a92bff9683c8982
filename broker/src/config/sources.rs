//! What a configuration is read from: files and environment variables. All their texts lie one behind the other, so that a
//! range of bytes says which source it is of, and where in it.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a text comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextSource {
    /// A file.
    File(PathBuf),
    /// The name of an environment variable.
    Variable(String),
}

/// A place in a source. Displayed as `FILE:LINE`, or as the variable's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The source.
    pub source: TextSource,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            TextSource::File(file) => write!(f, "{}:{}", file.display(), self.line),
            TextSource::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

#[derive(Debug)]
struct Text {
    base: usize,
    source: TextSource,
    text: String,
}

/// All sources, in the order in which they were read.
#[derive(Debug, Default)]
pub(super) struct Sources(Vec<Text>);

impl Sources {
    /// Adds a source; says where it begins.
    pub(super) fn add(&mut self, source: TextSource, text: String) -> usize {
        let base = self.0.last().map_or(0, |last| last.base + last.text.len() + 1);
        self.0.push(Text { base, source, text });
        base
    }

    fn find(&self, at: usize) -> Option<&Text> {
        self.0.iter().rev().find(|text| text.base <= at)
    }

    /// The text of the source that begins at `base`.
    pub(super) fn text(&self, base: usize) -> &str {
        self.find(base).map_or("", |text| &text.text)
    }

    pub(super) fn place(&self, at: usize) -> Place {
        let Some(text) = self.find(at) else {
            return Place { source: TextSource::File(PathBuf::new()), line: 1, column: 1 };
        };
        let before = text.text.get(..at - text.base).unwrap_or(&text.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Place {
            source: text.source.clone(),
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
        }
    }

    /// Where relative paths start: the folder of the file; for variables the working directory.
    pub(super) fn folder(&self, at: usize) -> &Path {
        let file = match self.find(at).map(|text| &text.source) {
            Some(TextSource::File(file)) => file.parent(),
            Some(TextSource::Variable(_)) | None => None,
        };
        file.unwrap_or(Path::new(""))
    }
}
