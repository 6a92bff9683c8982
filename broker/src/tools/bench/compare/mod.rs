//! `forebay bench compare`: brokers in turn, the same loads, what each message costs them.

pub mod brokers;
pub mod footprint;
pub mod loads;
pub mod svg;
pub mod table;

use serde::{Serialize, Serializer};

use super::cli::CompareArgs;
use super::plan::{self, Plan};
use super::progress::Progress;
use super::report::Report;
use super::run;
use crate::tools::exit::Failure;
use crate::tools::{say, stop};
use brokers::Program;
use footprint::Footprint;
use loads::Load;

/// All figures.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// `forebay bench compare`, and its version.
    pub tool: &'static str,
    /// In the order of the tables; figures are compared to the first.
    pub brokers: Vec<&'static str>,
    /// Asked for, and not on this machine.
    pub missing: Vec<String>,
    /// Measurements of which each figure is the median.
    pub rounds: u32,
    /// Of each measurement.
    pub seconds: f64,
    /// What connections cost, by broker.
    pub footprints: Vec<Connections>,
    /// What messages cost.
    pub rows: Vec<Row>,
}

/// What the connections of one broker cost.
#[derive(Debug, Serialize)]
pub struct Connections {
    /// The broker's name.
    pub broker: &'static str,
    /// Or why there are none.
    #[serde(serialize_with = "outcome")]
    pub figures: Result<Footprint, String>,
}

/// One load on one broker.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The load's name.
    pub load: &'static str,
    /// What it is.
    pub what: &'static str,
    /// The broker's name.
    pub broker: &'static str,
    /// Times the first broker's processor time for each message.
    pub times_first: Option<f64>,
    /// The round with the median of that time, or why there is none.
    #[serde(serialize_with = "outcome")]
    pub figures: Result<Report, String>,
}

/// The figures, or `{"failed": "why"}`.
fn outcome<T: Serialize, S: Serializer>(figures: &Result<T, String>, serializer: S) -> Result<S::Ok, S::Error> {
    match figures {
        Ok(figures) => figures.serialize(serializer),
        Err(why) => serializer.collect_map([("failed", why)]),
    }
}

/// Measures.
///
/// # Errors
/// The command line is wrong.
pub fn compare(args: &CompareArgs) -> Result<Comparison, Failure> {
    let (chosen, footprint) = loads::chosen(&args.scenarios)?;
    if !(args.seconds > 0.0 && args.seconds < 1e5) {
        return Err(Failure::usage(format!("--seconds {}: a number above 0", args.seconds)));
    }
    if let Some(config) = args.config.as_ref().filter(|config| !config.is_file()) {
        return Err(Failure::usage(format!("--config {}: no such file", config.display())));
    }
    let (programs, missing) = brokers::find(&args.with, args.config.as_deref())?;
    // The brokers inherit the limit that is raised here.
    plan::allow_files(if footprint { footprint::IDLE } else { 1000 })?;
    if !missing.is_empty() {
        say::line(format!("not on PATH, left out: {}", missing.join(", ")));
    }
    let mut footprints = Vec::new();
    for program in programs.iter().filter(|program| footprint && program.kind != brokers::Kind::Floor) {
        let mut progress = Progress::new(&format!("footprint of {}", program.name));
        let figures = footprint::measure(program, &mut progress).map_err(|failure| failure.what);
        footprints.push(Connections { broker: program.name, figures });
    }
    let mut rows = Vec::new();
    for load in chosen {
        rows.extend(rows_of(load, &programs, args)?);
    }
    Ok(Comparison {
        tool: concat!("forebay bench compare ", env!("CARGO_PKG_VERSION")),
        brokers: programs.iter().map(|program| program.name).collect(),
        missing,
        rounds: args.rounds,
        seconds: args.seconds,
        footprints,
        rows,
    })
}

/// The brokers take turns, so that what else the machine does meets all of them.
fn rows_of(load: &Load, programs: &[Program], args: &CompareArgs) -> Result<Vec<Row>, Failure> {
    let programs: Vec<&Program> = programs.iter().filter(|program| load.fits(program.kind)).collect();
    let mut reports: Vec<Vec<Result<Report, String>>> = programs.iter().map(|_| Vec::new()).collect();
    for round in 1..=args.rounds {
        for (program, reports) in programs.iter().zip(&mut reports) {
            stop::check()?;
            // One that cannot will not.
            if !reports.iter().any(Result::is_err) {
                let mut progress =
                    Progress::new(&format!("{} on {}, {round} of {}", load.name, program.name, args.rounds));
                reports.push(measure(load, program, args.seconds, &mut progress).map_err(|failure| failure.what));
            }
        }
    }
    let medians: Vec<Result<Report, String>> = reports.into_iter().map(median).collect();
    let first = medians.first().and_then(|report| cost(report.as_ref().ok()?));
    let rows = programs.iter().zip(medians).map(|(program, figures)| {
        let times_first = figures.as_ref().ok().and_then(cost).zip(first).map(|(cost, first)| cost / first);
        Row { load: load.name, what: load.what, broker: program.name, times_first, figures }
    });
    Ok(rows.collect())
}

/// One load on one broker, freshly started.
fn measure(load: &Load, program: &Program, seconds: f64, progress: &mut Progress) -> Result<Report, Failure> {
    let broker = program.start().map_err(Failure::failed)?;
    let plan = Plan::new(&loads::arguments(load.line, &broker, None, seconds)?)?;
    let mut report = run::run(&plan, progress)?;
    report.judge();
    Ok(report)
}

/// Processor time for each message, or each connection.
fn cost(report: &Report) -> Option<f64> {
    report.broker.as_ref()?.cpu_us_each
}

/// What is wrong in any round is wrong in the median.
fn median(reports: Vec<Result<Report, String>>) -> Result<Report, String> {
    let mut reports = reports.into_iter().collect::<Result<Vec<_>, _>>()?;
    reports.sort_by(|a, b| cost(a).unwrap_or(0.0).total_cmp(&cost(b).unwrap_or(0.0)));
    let problems: Vec<String> = reports.iter().flat_map(|report| report.problems.clone()).collect();
    let middle = reports.len() / 2;
    let mut report = reports.into_iter().nth(middle).ok_or("nothing was measured")?;
    report.problems = problems;
    Ok(report)
}
