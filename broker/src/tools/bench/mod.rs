//! `forebay bench`: load for any MQTT broker, and brokers compared.

pub mod alarm;
pub mod check;
pub mod cli;
pub mod clients;
pub mod compare;
pub mod floor;
pub mod latency;
pub mod load;
pub mod meter;
pub mod peer;
pub mod plan;
pub mod progress;
pub mod publisher;
pub mod report;
pub mod run;
pub mod storm;
pub mod target;
pub mod wire;
pub mod words;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use cli::{BenchCli, Command, CompareArgs, RunArgs};
use plan::Plan;
use progress::Progress;

use super::exit::{self, Exit, Failure};
use super::rest::Rest;
use super::{say, stop};

/// Does what the command line says.
#[must_use]
pub fn main(rest: &Rest) -> ExitCode {
    let cli: BenchCli = rest.parse("forebay bench");
    if let Err(failure) = stop::listen_beside() {
        return exit::of("forebay bench", Err(failure));
    }
    let done = match cli.command {
        None => one(&cli.run),
        Some(Command::Run(args)) => one(&args),
        Some(Command::Compare(args)) => all(&args),
        Some(Command::Floor { port }) => {
            floor::run(port).map(|()| Exit::Done).map_err(|why| Failure::failed(format!("floor: {why}")))
        }
    };
    exit::of("forebay bench", done)
}

fn one(args: &RunArgs) -> Result<Exit, Failure> {
    let plan = Plan::new(args)?;
    let json = args.json.as_deref().map(Json::open).transpose()?;
    let mut progress = Progress::new(&plan::name(plan.scenario));
    let report = run::run(&plan, &mut progress);
    drop(progress);
    let mut report = report?;
    let exit = report.judge();
    match json {
        None => print(&report.text()),
        Some(Json::File(..)) => {
            print(&report.text());
            json.map_or(Ok(()), |json| json.write(&report))?;
        }
        Some(Json::Out) => {
            say::put(report.text());
            Json::Out.write(&report)?;
        }
    }
    Ok(exit)
}

fn all(args: &CompareArgs) -> Result<Exit, Failure> {
    if args.scenarios.iter().any(|name| name == "help") {
        print(&compare::loads::help());
        return Ok(Exit::Done);
    }
    let unwritable = |path: &Path, why| Failure::usage(format!("--svg {} cannot be written: {why}", path.display()));
    let json = args.json.as_deref().map(Json::open).transpose()?;
    let svg =
        args.svg.as_deref().map(|path| File::create(path).map_err(|why| unwritable(path, why)).map(|f| (path, f)));
    let svg = svg.transpose()?;
    let comparison = compare::compare(args)?;
    let text = compare::table::text(&comparison);
    if matches!(json, Some(Json::Out)) {
        say::put(text);
    } else {
        print(&text);
    }
    json.map_or(Ok(()), |json| json.write(&comparison))?;
    if let Some((path, mut file)) = svg {
        let chart = compare::svg::chart(&comparison)
            .ok_or_else(|| Failure::failed("nothing was measured that a chart could show"))?;
        file.write_all(chart.as_bytes()).map_err(|why| unwritable(path, why))?;
    }
    let failed =
        comparison.rows.iter().any(|row| row.figures.as_ref().map_or(true, |report| !report.problems.is_empty()));
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

/// Whoever started it may not read what it says: that is no reason to fail.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Where JSON goes; opened before the run, so that an hour's figures are not lost to a wrong path.
enum Json {
    File(File, String),
    Out,
}

impl Json {
    fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::Out);
        }
        let shown = path.display().to_string();
        match File::create(path) {
            Ok(file) => Ok(Self::File(file, shown)),
            Err(why) => Err(Failure::usage(format!("--json {shown} cannot be written: {why}"))),
        }
    }

    fn write(self, value: &impl serde::Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(|why| Failure::failed(format!("JSON: {why}")))?;
        match self {
            Self::Out => print(&format!("{text}\n")),
            Self::File(mut file, shown) => writeln!(file, "{text}")
                .map_err(|why| Failure::failed(format!("--json {shown} cannot be written: {why}")))?,
        }
        Ok(())
    }
}
