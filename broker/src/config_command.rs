//! `forebay config`.

use std::process::ExitCode;

use forebay::cli::{Cli, ConfigCommand};
use forebay::config;

use super::{print, refuse};

pub(super) fn run(command: &ConfigCommand, cli: &Cli) -> ExitCode {
    match command {
        ConfigCommand::Schema => print(&format!("{:#}\n", config::schema())),
        ConfigCommand::Show => match config::load_with_settings(cli.config.as_deref(), &cli.overrides()) {
            Ok((_, settings)) => print(&config::listing(&settings)),
            Err(error) => refuse(&error),
        },
    }
}
