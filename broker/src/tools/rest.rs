//! The command line of a tool, read only when that tool is asked for: the broker pays for what its own command holds.

use std::ffi::OsString;

use clap::{Args, Parser};

/// What stands behind a tool's name, not looked at yet.
#[derive(Clone, Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Rest {
    /// Its own --help says more
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    pub arguments: Vec<OsString>,
}

impl Rest {
    /// Reads it; whoever asked for help, or wrong, has been answered.
    #[must_use]
    pub fn parse<T: Parser>(&self, name: &str) -> T {
        T::parse_from(std::iter::once(OsString::from(name)).chain(self.arguments.iter().cloned()))
    }
}
