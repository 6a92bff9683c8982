//! `forebay rule`: what a rule of a configuration makes of sample messages. No broker is asked, and nothing is published.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};

use super::exit::{self, Exit, Failure};
use crate::config::Config;
use crate::message::Time;
use crate::rules::{Derived, Failed, Judged, Message, Rule, Subject, Window};

/// Bytes of one sample.
const LINE_MAX: u64 = 1 << 20;

/// What is tried.
#[derive(Clone, Debug, Subcommand)]
pub enum RuleCommand {
    /// Give messages to a rule of the configuration, and print what comes of each; exit code 1 when the rule fails on one
    Test(RuleTest),
}

/// `forebay rule test`.
#[derive(Clone, Debug, Args)]
pub struct RuleTest {
    /// The rule's name
    rule: String,
    /// The messages, one a line: a topic, a blank, and the payload. Without a file the standard input
    samples: Option<PathBuf>,
    /// Who publishes them
    #[arg(long, value_name = "ID", default_value = "")]
    client: String,
    /// The user name of who publishes them
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Their QoS
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// They are retained
    #[arg(long)]
    retain: bool,
}

/// Runs it.
#[must_use]
pub fn main(command: &RuleCommand, config: &Config, file: Option<&Path>) -> ExitCode {
    let RuleCommand::Test(test) = command;
    let done = named(config, file, &test.rule).and_then(|rule| test.run(rule, config));
    exit::of("forebay rule", done)
}

fn named<'c>(config: &'c Config, file: Option<&Path>, name: &str) -> Result<&'c Rule, Failure> {
    let Some(file) = file else {
        return Err(Failure::usage("which configuration? Give it with --config FILE"));
    };
    config.rule(name).ok_or_else(|| {
        let names: Vec<_> = config.rules.iter().map(|rule| rule.name.as_str()).collect();
        let known = if names.is_empty() { "no rules".to_owned() } else { names.join(", ") };
        Failure::usage(format!("{} has no rule \"{name}\"; it has {known}", file.display()))
    })
}

impl RuleTest {
    fn run(&self, rule: &Rule, config: &Config) -> Result<Exit, Failure> {
        match &self.samples {
            None => self.all(rule, config, &mut io::stdin().lock(), &mut io::stdout().lock()),
            Some(path) => {
                let cannot = |error| Failure::usage(format!("{} cannot be read: {error}", path.display()));
                let file = File::open(path).map_err(cannot)?;
                self.all(rule, config, &mut BufReader::new(file), &mut io::stdout().lock())
            }
        }
    }

    fn all(
        &self,
        rule: &Rule,
        config: &Config,
        samples: &mut impl BufRead,
        out: &mut impl Write,
    ) -> Result<Exit, Failure> {
        let mut window = Window::default();
        let mut exit = Exit::Done;
        while let Some(line) = next_line(samples)? {
            let (topic, payload) = split(&line);
            let topic = std::str::from_utf8(topic).map_err(|_| Failure::failed("a topic is no text in UTF-8"))?;
            if topic.is_empty() {
                continue;
            }
            let said = match self.judge(rule, config, topic, payload, &mut window) {
                Ok(said) => said,
                Err(failed) => {
                    exit = Exit::Failed;
                    format!("failed   {topic}: {failed}; it would be a dead letter")
                }
            };
            say(out, &said)?;
        }
        for result in window.close().into_iter().flat_map(|closed| closed.results(rule, now_ms())) {
            let said = match result {
                Ok(derived) => published(&derived, b""),
                Err(failed) => {
                    exit = Exit::Failed;
                    format!("failed   {failed}")
                }
            };
            say(out, &said)?;
        }
        Ok(exit)
    }

    fn judge(
        &self,
        rule: &Rule,
        config: &Config,
        topic: &str,
        payload: &[u8],
        window: &mut Window,
    ) -> Result<String, Failed> {
        if !rule.is_for(topic) {
            return Ok(format!("nothing  {topic}: its filter is {}", rule.filter));
        }
        let subject = Subject {
            topic,
            payload,
            properties: &[],
            qos: self.qos,
            retain: self.retain,
            client: &self.client,
            user: self.user.as_deref(),
            now_ms: now_ms(),
        };
        match rule.judge(&Message::new(subject), config.limits.max_topic_levels)? {
            Judged::No => Ok(format!("nothing  {topic}: `where` is false")),
            Judged::Publish(derived) => Ok(published(&derived, payload)),
            Judged::Collect(entry) => {
                let said = format!("collect  {topic}: for {}", entry.topic);
                if let Some(of) = &rule.window {
                    // All samples are of one window.
                    window.add(of, entry, Time(0), now_ms())?;
                }
                Ok(said)
            }
        }
    }
}

fn published(derived: &Derived, of_cause: &[u8]) -> String {
    let payload = derived.payload.as_deref().unwrap_or(of_cause);
    format!("publish  {} {}", derived.topic, String::from_utf8_lossy(payload))
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

/// `None`: there are no more.
fn next_line(from: &mut impl BufRead) -> Result<Option<Vec<u8>>, Failure> {
    let mut line = Vec::new();
    let cannot = |error| Failure::failed(format!("the samples cannot be read: {error}"));
    let read = io::Read::take(&mut *from, LINE_MAX).read_until(b'\n', &mut line).map_err(cannot)?;
    if line.last() != Some(&b'\n') && line.len() as u64 >= LINE_MAX {
        return Err(Failure::failed(format!("a sample has more than {LINE_MAX} bytes")));
    }
    while line.pop_if(|last| matches!(last, b'\n' | b'\r')).is_some() {}
    Ok((read > 0).then_some(line))
}

fn split(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|byte| *byte == b' ') {
        Some(at) => (line.get(..at).unwrap_or_default(), line.get(at + 1..).unwrap_or_default()),
        None => (line, &[]),
    }
}

fn say(out: &mut impl Write, line: &str) -> Result<(), Failure> {
    let written = writeln!(out, "{line}").and_then(|()| out.flush());
    written.map_err(|error| Failure::failed(format!("the standard output cannot be written: {error}")))
}
