//! `forebay completions` and `forebay man`: what shells and manual readers want to know of the command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

use super::bench::cli::BenchCli;
use super::demo::DemoCli;
use super::exit::{Exit, Failure};
use super::publish::PubCli;
use super::subscribe::SubCli;
use crate::cli::Cli;

/// Which shell.
#[derive(Clone, Debug, Args)]
pub struct Completions {
    /// The shell: `forebay completions bash > /etc/bash_completion.d/forebay`
    #[arg(value_enum)]
    shell: Shell,
}

/// Where to.
#[derive(Clone, Debug, Args)]
pub struct Man {
    /// Writes forebay.1, forebay-pub.1 and so on into this folder
    dir: PathBuf,
}

/// The whole command line, with those of the tools, which are else read only when they are asked for.
fn whole() -> Command {
    Cli::command()
        .mut_subcommand("pub", |_| PubCli::command().name("pub"))
        .mut_subcommand("sub", |_| SubCli::command().name("sub"))
        .mut_subcommand("demo", |_| DemoCli::command().name("demo"))
        .mut_subcommand("bench", |_| BenchCli::command().name("bench"))
}

/// Prints a completion script.
#[must_use]
pub fn completions(args: &Completions) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut whole(), "forebay", &mut script);
    let written = std::io::Write::write_all(&mut std::io::stdout().lock(), &script);
    let done = written.map(|()| Exit::Done).map_err(|error| Failure::failed(error.to_string()));
    super::exit::of("forebay completions", done)
}

/// Writes the manual pages.
#[must_use]
pub fn man(args: &Man) -> ExitCode {
    super::exit::of("forebay man", write_pages(&args.dir).map(|()| Exit::Done))
}

fn write_pages(dir: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("{}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(whole().disable_help_subcommand(true), dir).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_command_line_is_well_formed() {
        whole().debug_assert();
    }
}
