//! `forebay import`: what it says.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use forebay::cli::ImportCommand;
use forebay::contain::contain_quietly;
use forebay::import::{Plan, Report, mosquitto};

use crate::{BAD_CONFIG, FAILED};

pub fn run(command: &ImportCommand, data_dir: Option<&Path>) -> ExitCode {
    let ImportCommand::Mosquitto { from, to, database } = command;
    contain_quietly();
    let plan =
        Plan { from: from.clone(), to: to.clone(), data_dir: data_dir.map(Path::to_owned), database: database.clone() };
    match mosquitto(&plan) {
        Ok(report) => {
            let printed = crate::print(&said(&report));
            if report.refused.is_some() { ExitCode::from(BAD_CONFIG) } else { printed }
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "forebay: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn said(report: &Report) -> String {
    let mut lines = Vec::new();
    if let Some((dir, counts)) = &report.store {
        lines.push(format!("store          {}: {counts}", dir.display()));
    }
    if let Some(config) = &report.config {
        lines.push(format!("configuration  {}", config.display()));
    }
    if !report.left.is_empty() {
        lines.push("not taken, or different:".to_owned());
        lines.extend(report.left.iter().map(|line| format!("  {line}")));
    }
    if let Some(why) = &report.refused {
        lines.push(format!("the configuration is not accepted as it is; mend it by hand:\n{why}"));
    }
    lines.push(String::new());
    lines.join("\n")
}
