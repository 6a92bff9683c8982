//! `forebay sub`: prints what comes.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use forebay_client::{Client, QoS, Received, RetainHandling, Subscribe, SubscribeError, Subscription};

use super::WIDTH;
use super::exit::{self, Exit, Failure};
use super::format::{Format, Show};
use super::printer::Printer;
use super::properties::{Properties, PropertyArgs};
use super::rest::Rest;
use super::say;
use super::server::{Server, qos};
use super::stop::Stop;

/// Messages that wait for the output; those behind them wait in the client, and with the server.
const BEING_WRITTEN_MAX: usize = 64;

/// Subscribe to topics of an MQTT server, and print what comes.
///
/// A message of QoS 1 or 2 is acknowledged when it is written to the output.
/// Without -c or -x the server keeps no session when this program ends.
///
/// Examples:
///   forebay sub -t 'site/+/temperature' -v
///   forebay sub -t '#' --json | jq .topic
///   forebay sub -t firmware -q 2 -C 1 -N > image.bin
///   forebay sub -t 'alarm/#' -F '%I %t %p'
#[derive(Debug, Parser)]
#[command(name = "forebay sub", bin_name = "forebay sub", after_help = exit::HELP, disable_help_flag = true)]
#[command(verbatim_doc_comment, max_term_width = WIDTH, override_usage = "forebay sub -t FILTER [OPTIONS]")]
pub struct SubCli {
    /// Topic filter, with + and #; may be given several times
    #[arg(long = "topic", short = 't', value_name = "FILTER", allow_hyphen_values = true)]
    topics: Vec<String>,
    /// Leave out what this filter matches; may be given several times
    #[arg(long, short = 'T', value_name = "FILTER", allow_hyphen_values = true)]
    filter_out: Vec<String>,
    /// Highest QoS with which messages come: 0, 1 or 2
    #[arg(long, short = 'q', value_name = "QOS", default_value = "0", value_parser = qos)]
    qos: QoS,
    /// End after this many messages
    #[arg(long, short = 'C', value_name = "MESSAGES", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this many seconds, as Ctrl-C does; with -C the exit code is 8 when not all came
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
    let topics = cli.topics()?;
    let what = cli.what(&topics, &properties)?;
    let format = Format::new(&cli.show)?;
    let options = cli.server.options(&properties)?;
    let early = ended_early(cli.timeout.map(Duration::from_secs), Stop::listen()?);
    tokio::pin!(early);
    cli.server.say(|server| format!("connecting to {server}"));
    let client = tokio::select! {
        connected = options.connect() => connected?,
        () = &mut early => return Ok(cli.ended_early()),
    };
    cli.server.say(|_| format!("connected as \"{}\"", client.client_id()));
    super::tell_events(&client, cli.server.debug());
    // It ends after the connection: what has come and was not read is not acknowledged then.
    let mut messages = None;
    let done = tokio::select! {
        done = receive(&cli, &topics, &client, what, &mut messages, &format) => done,
        () = &mut early => Ok(cli.ended_early()),
    };
    // Whatever ended it: the acks leave, and the server is told.
    client.disconnect().await;
    cli.server.say(|_| "disconnected".to_owned());
    done
}

/// Resolves when the time is over, or with a signal.
async fn ended_early(limit: Option<Duration>, mut stop: Stop) {
    match limit {
        None => stop.wanted().await,
        // An error means that it is the time that has come.
        Some(limit) => drop(tokio::time::timeout(limit, stop.wanted()).await),
    }
}

async fn receive(
    cli: &SubCli,
    topics: &[String],
    client: &Client,
    what: Subscribe,
    messages: &mut Option<Subscription>,
    format: &Format,
) -> Result<Exit, Failure> {
    let granted = client.subscribe(what).await.map_err(|error| Failure::new(Exit::Refused, error.to_string()))?;
    let messages = messages.insert(granted);
    for (filter, reason) in topics.iter().zip(messages.granted()) {
        if reason.is_success() {
            cli.server.say(|_| format!("subscribed to {filter}: QoS {} granted", *reason as u8));
        } else {
            say::line(format!("forebay sub: the server refused {filter}: {}", reason.name()));
        }
    }
    if cli.exit_after_subscribe {
        return Ok(Exit::Done);
    }
    let mut printer = Printer::start()?;
    let mut being_written = VecDeque::new();
    let mut left = cli.count;
    let mut more = true;
    while more && left != Some(0) || !being_written.is_empty() {
        let is_room = being_written.len() < BEING_WRITTEN_MAX;
        tokio::select! {
            biased;
            outcome = printer.written(), if !being_written.is_empty() => {
                outcome.map_err(|error| {
                    Failure::failed(format!("the output cannot be written: {error}; this message is not acknowledged"))
                })?;
                if let Some(received) = being_written.pop_front() {
                    written(cli, client, &received).await?;
                }
            }
            received = messages.recv(), if more && left != Some(0) && is_room => match received {
                // Not printed, so not acknowledged: a session that is kept gets it again.
                Some(received) if cli.retained_only && !received.retain() => left = Some(0),
                Some(received) if !cli.wants(&received) => {
                    client.ack(&received);
                }
                Some(received) => {
                    let mut line = Vec::new();
                    format.put(&received, &mut line);
                    printer.print(line);
                    being_written.push_back(received);
                    left = left.map(|left| left - 1);
                }
                None => more = false,
            }
        }
    }
    if !more {
        return Err(match messages.ended() {
            Some(SubscribeError::Ended(_)) | None => Failure::failed("the connection is lost"),
            Some(why) => Failure::new(Exit::Refused, why.to_string()),
        });
    }
    client.drained().await;
    Ok(Exit::Done)
}

/// A message is on the output. Only now it is acknowledged: the server must keep what was not written.
async fn written(cli: &SubCli, client: &Client, received: &Received) -> Result<(), Failure> {
    client.ack(received);
    let (qos, size) = (received.qos() as u8, received.payload().len());
    cli.server.say(|_| format!("received {}: QoS {qos}, {size} bytes", received.topic()));
    if cli.remove_retained && received.retain() {
        let delete = forebay_client::Message::new(received.topic(), "").retain(true).qos(received.qos());
        let _ticket = client.publish(delete).await.map_err(|error| Failure::failed(error.to_string()))?;
    }
    Ok(())
}

impl SubCli {
    /// Before all had come that was asked for.
    fn ended_early(&self) -> Exit {
        if self.count.is_some() { Exit::TimedOut } else { Exit::Done }
    }

    /// Those of -t, and the one of the URL.
    fn topics(&self) -> Result<Vec<String>, Failure> {
        let topics: Vec<String> = self.topics.iter().cloned().chain(self.server.url_topics()).collect();
        if topics.is_empty() {
            return Err(Failure::usage("nothing to subscribe to: add --topic FILTER (-t)"));
        }
        Ok(topics)
    }

    fn what(&self, topics: &[String], properties: &Properties) -> Result<Subscribe, Failure> {
        self.server.needs_v5("--no-local", self.no_local)?;
        self.server.needs_v5("--retain-as-published", self.retain_as_published)?;
        self.server.needs_v5("--retain-handling", self.retain_handling.is_some())?;
        let (first, others) = topics.split_first().ok_or_else(|| Failure::usage("no -t FILTER"))?;
        let mut what = Subscribe::to(first);
        for filter in others {
            what = what.and(filter);
        }
        what = what.qos(self.qos).manual_ack();
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
        for filter in topics.iter().chain(&self.filter_out) {
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
