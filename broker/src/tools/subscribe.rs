//! `forebay sub`: prints what comes.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use forebay_client::{QoS, Received, RetainHandling, Subscribe, SubscribeError};

use super::exit::{self, Exit, Failure};
use super::format::{Format, Show};
use super::properties::{Properties, PropertyArgs};
use super::rest::Rest;
use super::server::{Server, qos};

/// Subscribes, and prints what comes.
///
/// Examples:
///   forebay sub -t 'site/+/temperature' -v
///   forebay sub -t '#' --json | jq .topic
///   forebay sub -t firmware -q 2 -C 1 -N > image.bin
///   forebay sub -t 'alarm/#' -F '%I %t %p'
#[derive(Debug, Parser)]
#[command(name = "forebay sub", bin_name = "forebay sub", about, after_help = exit::HELP, disable_help_flag = true)]
#[command(verbatim_doc_comment)]
pub struct SubCli {
    /// Topic filter, with + and #; may be given several times
    #[arg(long = "topic", short = 't', value_name = "FILTER", required = true)]
    topics: Vec<String>,
    /// Leave out what this filter matches; may be given several times
    #[arg(long, short = 'T', value_name = "FILTER")]
    filter_out: Vec<String>,
    /// Highest QoS with which messages come: 0, 1 or 2
    #[arg(long, short = 'q', value_name = "QOS", default_value = "0", value_parser = qos)]
    qos: QoS,
    /// End after this many messages
    #[arg(long, short = 'C', value_name = "MESSAGES", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this many seconds; with -C the exit code is 8 when not all came
    #[arg(long, short = 'W', value_name = "SECONDS")]
    timeout: Option<u64>,
    /// End when the server has answered the subscription
    #[arg(long, short = 'E')]
    exit_after_subscribe: bool,
    /// Leave out retained messages
    #[arg(long, short = 'R')]
    no_retained: bool,
    /// Only retained messages; end with the first that is not
    #[arg(long, conflicts_with = "no_retained")]
    retained_only: bool,
    /// Delete the retained messages that come
    #[arg(long, conflicts_with = "no_retained")]
    remove_retained: bool,
    /// Not what this client publishes itself (MQTT 5)
    #[arg(long)]
    no_local: bool,
    /// The retained flag comes as it was published (MQTT 5)
    #[arg(long)]
    retain_as_published: bool,
    /// When retained messages are sent (MQTT 5)
    #[arg(long, value_enum, value_name = "WHEN")]
    retain_handling: Option<Handling>,

    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    properties: PropertyArgs,
    #[command(flatten)]
    server: Server,
}

/// When retained messages are sent.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Handling {
    /// Each time
    Always,
    /// When the subscription is new to the server
    New,
    /// Not at all
    Never,
}

/// Runs it.
#[must_use]
pub fn main(rest: &Rest) -> ExitCode {
    let cli: SubCli = rest.parse("forebay sub");
    super::exit::of("forebay sub", super::block_on(run(cli)))
}

async fn run(cli: SubCli) -> Result<Exit, Failure> {
    let properties = Properties::read(&cli.properties)?;
    let what = cli.what(&properties)?;
    let format = Format::new(&cli.show)?;
    let options = cli.server.options(&properties)?;
    let timeout = cli.timeout.map(Duration::from_secs);
    match timeout {
        None => receive(&cli, what, format, options).await,
        Some(limit) => match tokio::time::timeout(limit, receive(&cli, what, format, options)).await {
            Ok(done) => done,
            Err(_) if cli.count.is_some() => Ok(Exit::TimedOut),
            Err(_) => Ok(Exit::Done),
        },
    }
}

async fn receive(
    cli: &SubCli,
    what: Subscribe,
    format: Format,
    options: forebay_client::Options,
) -> Result<Exit, Failure> {
    let client = options.connect().await?;
    super::tell_events(&client, cli.server.debug());
    let mut messages = client.subscribe(what).await.map_err(|error| Failure::new(Exit::Refused, error.to_string()))?;
    for (filter, reason) in cli.topics.iter().zip(messages.granted()) {
        if !reason.is_success() {
            eprintln!("forebay sub: the server refused {filter}: {}", reason.name());
        } else if cli.server.debug() {
            eprintln!("subscribed to {filter}: QoS {} granted", *reason as u8);
        }
    }
    if cli.exit_after_subscribe {
        client.disconnect().await;
        return Ok(Exit::Done);
    }
    let mut left = cli.count;
    while left != Some(0) {
        let Some(received) = messages.recv().await else {
            return Err(match messages.ended() {
                Some(SubscribeError::Ended(_)) | None => Failure::failed("the connection is lost"),
                Some(why) => Failure::new(Exit::Refused, why.to_string()),
            });
        };
        if cli.retained_only && !received.retain() {
            break;
        }
        if !cli.wants(&received) {
            continue;
        }
        if !print(&format, &received) {
            // Whoever read this output has gone: as a pipe's writer, this ends without a word.
            break;
        }
        if cli.remove_retained && received.retain() {
            let delete = forebay_client::Message::new(received.topic(), "").retain(true).qos(received.qos());
            let _ticket = client.publish(delete).await.map_err(|error| Failure::failed(error.to_string()))?;
        }
        left = left.map(|left| left - 1);
    }
    client.drained().await;
    client.disconnect().await;
    Ok(Exit::Done)
}

fn print(format: &Format, received: &Received) -> bool {
    let mut line = Vec::new();
    format.put(received, &mut line);
    let mut out = std::io::stdout().lock();
    out.write_all(&line).and_then(|()| out.flush()).is_ok()
}

impl SubCli {
    fn what(&self, properties: &Properties) -> Result<Subscribe, Failure> {
        let (first, others) = self.topics.split_first().ok_or_else(|| Failure::usage("no -t FILTER"))?;
        let mut what = Subscribe::to(first);
        for filter in others {
            what = what.and(filter);
        }
        what = what.qos(self.qos);
        if self.no_local {
            what = what.no_local();
        }
        if self.retain_as_published {
            what = what.retain_as_published();
        }
        if let Some(handling) = self.retain_handling {
            what = what.retain_handling(match handling {
                Handling::Always => RetainHandling::OnSubscribe,
                Handling::New => RetainHandling::OnNewSubscribe,
                Handling::Never => RetainHandling::Never,
            });
        }
        for (name, value) in &properties.subscribe {
            what = what.user_property(name, value);
        }
        for filter in self.topics.iter().chain(&self.filter_out) {
            let checked = forebay_wire::topic::check_filter(filter, usize::MAX);
            checked.map_err(|error| Failure::usage(format!("\"{filter}\" is no topic filter: {}", error.detail)))?;
        }
        Ok(what)
    }

    fn wants(&self, received: &Received) -> bool {
        let left_out = |filter: &String| forebay_wire::topic::matches(filter, received.topic());
        !(self.no_retained && received.retain() || self.filter_out.iter().any(left_out))
    }
}
