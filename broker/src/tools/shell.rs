//! `forebay completions` and `forebay man`: what shells and manual readers want to know of the command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;

use super::exit::{Exit, Failure};

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

/// Prints a completion script for this command line.
#[must_use]
pub fn completions(args: &Completions, mut whole: Command) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut whole, "forebay", &mut script);
    let written = std::io::Write::write_all(&mut std::io::stdout().lock(), &script);
    let done = written.map(|()| Exit::Done).map_err(|error| Failure::failed(error.to_string()));
    super::exit::of("forebay completions", done)
}

/// Writes the manual pages of this command line.
#[must_use]
pub fn man(args: &Man, whole: Command) -> ExitCode {
    super::exit::of("forebay man", write_pages(&args.dir, whole).map(|()| Exit::Done))
}

fn write_pages(dir: &Path, whole: Command) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("{}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(whole.disable_help_subcommand(true), dir).map_err(failed)
}
