//! In place of expressions, where the program was built without the feature `rules`: none can be read.

use super::{Aggregates, Facts, Failed};

/// There is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {}

impl Expression {
    /// Refuses it.
    ///
    /// # Errors
    /// Always.
    pub fn read(_: &str, _: &[&str]) -> Result<Self, String> {
        Err("is an expression, and this program was built without rules".to_owned())
    }

    /// Refuses it.
    ///
    /// # Errors
    /// Always.
    pub fn read_aggregates(source: &str, of_message: &[&str], _: &[&str]) -> Result<(Self, Aggregates), String> {
        Self::read(source, of_message).map(|none| (none, Vec::new()))
    }

    /// There is none.
    ///
    /// # Errors
    /// None.
    pub fn is_true(&self, _: &dyn Facts) -> Result<bool, Failed> {
        match *self {}
    }

    /// There is none.
    ///
    /// # Errors
    /// None.
    pub fn json(&self, _: &dyn Facts, _: usize) -> Result<Vec<u8>, Failed> {
        match *self {}
    }
}

pub(super) fn aggregate_name(at: usize) -> String {
    at.to_string()
}
