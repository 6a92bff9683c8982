//! `forebay pub`: publishes what is on the command line, in a file or on the standard input.

use std::io::{BufRead, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser};
use forebay_client::{Client, Dropped, Message, Outbox, QoS, Ticket};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::WIDTH;
use super::exit::{self, Exit, Failure};
use super::properties::{Properties, PropertyArgs};
use super::rest::Rest;
use super::say;
use super::server::{Server, qos};
use super::stop::Stop;

/// Publish messages to an MQTT server, and wait until it has them.
///
/// Without -c or -x the server keeps no session when this program ends, or loses
/// its connection: a message of QoS 2 that was under way then may arrive twice.
///
/// Examples:
///   forebay pub -t site/7/temperature -m 21.5 -q 1
///   forebay pub -t site/7/log -l < lines.txt
///   forebay pub -L mqtts://user@broker.example -t firmware -f image.bin -q 2 -r
#[derive(Debug, Parser)]
#[command(name = "forebay pub", bin_name = "forebay pub", after_help = exit::HELP, disable_help_flag = true)]
#[command(verbatim_doc_comment, max_term_width = WIDTH)]
#[command(override_usage = "forebay pub -t TOPIC <-m TEXT | -f FILE | -s | -l | -n> [OPTIONS]")]
pub struct PubCli {
    /// Topic
    #[arg(long, short = 't', value_name = "TOPIC", allow_hyphen_values = true)]
    topic: Option<String>,
    #[command(flatten)]
    source: Source,
    /// Quality of service: 0, 1 or 2
    #[arg(long, short = 'q', value_name = "QOS", default_value = "0", value_parser = qos)]
    qos: QoS,
    /// The server keeps the message for those who subscribe later
    #[arg(long, short = 'r')]
    retain: bool,
    /// Publish it this many times
    #[arg(long, value_name = "TIMES", default_value_t = 1)]
    repeat: u64,
    /// Seconds between them
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    repeat_delay: Option<Duration>,
    /// At most so many messages a second
    #[arg(long, value_name = "MESSAGES", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Seconds after which the message is not worth delivering (MQTT 5)
    #[arg(long, short = 'e', value_name = "SECONDS")]
    expiry: Option<u32>,
    /// Seconds after which the broker delivers it (Forebay)
    #[arg(long, value_name = "SECONDS", help_heading = "Queues of Forebay", conflicts_with = "at")]
    delay: Option<u32>,
    /// When the broker delivers it, such as 2027-01-01T06:00:00Z (Forebay)
    #[arg(long, value_name = "DATE", help_heading = "Queues of Forebay")]
    at: Option<String>,
    /// Who numbers the messages: each number is taken once (Forebay)
    #[arg(long, value_name = "NAME", help_heading = "Queues of Forebay", requires = "seq")]
    origin: Option<String>,
    /// Which beginning of the numbers it is
    #[arg(long, value_name = "N", help_heading = "Queues of Forebay", default_value_t = 0, requires = "origin")]
    epoch: u64,
    /// The number of the first message; the next ones follow
    #[arg(long, value_name = "N", help_heading = "Queues of Forebay", requires = "origin")]
    seq: Option<u64>,
    /// Key of the message, for order and last values (user property, MQTT 5)
    #[arg(long, value_name = "KEY", allow_hyphen_values = true, help_heading = "Queues of Forebay")]
    order_key: Option<String>,
    /// MIME type of the payload
    #[arg(long, value_name = "TYPE", allow_hyphen_values = true, help_heading = "Properties (MQTT 5)")]
    content_type: Option<String>,
    /// Where an answer is wanted
    #[arg(long, value_name = "TOPIC", allow_hyphen_values = true, help_heading = "Properties (MQTT 5)")]
    response_topic: Option<String>,
    /// What an answer must carry
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Properties (MQTT 5)")]
    correlation_data: Option<String>,
    #[command(flatten)]
    properties: PropertyArgs,
    #[command(flatten)]
    server: Server,
}

/// Where the payload comes from.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// Payload
    #[arg(long, short = 'm', value_name = "TEXT", allow_hyphen_values = true)]
    message: Option<String>,
    /// No payload: with -r, the retained message of the topic is deleted
    #[arg(long, short = 'n')]
    null_message: bool,
    /// Payload: all of this file; - for the standard input
    #[arg(long, short = 'f', value_name = "FILE")]
    file: Option<PathBuf>,
    /// Payload: all of the standard input
    #[arg(long, short = 's')]
    stdin_file: bool,
    /// A message for each line of the standard input
    #[arg(long, short = 'l')]
    stdin_line: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text} is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text} is not a number of seconds"))
}

/// Runs it.
#[must_use]
pub fn main(rest: &Rest) -> ExitCode {
    let cli: PubCli = rest.parse("forebay pub");
    super::exit::of("forebay pub", super::block_on(run(cli)))
}

async fn run(cli: PubCli) -> Result<Exit, Failure> {
    let properties = cli.all_properties()?;
    let template = cli.template(&properties)?;
    let options = cli.server.options(&properties)?;
    // A file that cannot be read is said before a connection is opened.
    let payload = cli.source.payload()?;
    let mut stop = Stop::listen()?;
    let outbox = Outbox { max_messages: 1_000, ..Outbox::default() };
    cli.server.say(|server| format!("connecting to {server}"));
    let client = tokio::select! {
        connected = options.outbox(outbox).connect() => connected?,
        () = stop.wanted() => return Err(Failure::failed("stopped by a signal before there was a connection")),
    };
    cli.server.say(|_| format!("connected as \"{}\"", client.client_id()));
    super::tell_events(&client, cli.server.debug());
    let mut sender = Sender::start(cli.server.debug());
    let sending = async {
        match payload {
            Some(payload) => cli.repeated(&template.with_payload(payload), &client, &mut sender).await,
            None => cli.lines(&template, &client, &mut sender).await,
        }
    };
    let stopped = tokio::select! {
        sent = sending => sent.map(|()| false),
        () = stop.wanted() => Ok(true),
    };
    let done = tokio::select! {
        failed = delivered(&client, sender) => stopped.and_then(|stopped| cli.judge(stopped, failed)),
        () = stop.wanted(), if stopped != Ok(true) => Err(Failure::failed("stopped by a signal before all was acknowledged")),
    };
    client.disconnect().await;
    cli.server.say(|_| "disconnected".to_owned());
    done
}

/// Waits until nothing is under way any more; how many messages did not arrive.
async fn delivered(client: &Client, sender: Sender) -> u64 {
    let failed = sender.finish().await;
    client.drained().await;
    failed
}

impl PubCli {
    /// How it ends. A reader of lines has no end of its own: a signal is how it is told to.
    fn judge(&self, stopped: bool, failed: u64) -> Result<Exit, Failure> {
        if stopped && !self.source.stdin_line {
            return Err(Failure::failed("stopped by a signal before all was published"));
        }
        Ok(if failed == 0 { Exit::Done } else { Exit::Failed })
    }

    fn topic(&self) -> Result<String, Failure> {
        let mut topics: Vec<String> = self.topic.iter().cloned().chain(self.server.url_topics()).collect();
        match (topics.pop(), topics.is_empty()) {
            (Some(topic), true) => Ok(topic),
            (None, _) => Err(Failure::usage("no topic: add --topic TOPIC (-t)")),
            (Some(_), false) => Err(Failure::usage("more than one topic: give one, with -t or in the URL")),
        }
    }

    fn all_properties(&self) -> Result<Properties, Failure> {
        let mut all = Properties::read(&self.properties)?;
        let publish = &mut all.publish;
        publish.content_type = self.content_type.clone().or(publish.content_type.take());
        publish.response_topic = self.response_topic.clone().or(publish.response_topic.take());
        let correlation = self.correlation_data.clone().map(Into::into);
        publish.correlation_data = correlation.or(publish.correlation_data.take());
        publish.user.extend(self.order_key.clone().map(|key| ("key".to_owned(), key)));
        all.expiry_s = self.expiry.or(all.expiry_s);
        Ok(all)
    }

    /// The message without its payload, checked.
    fn template(&self, properties: &Properties) -> Result<Message, Failure> {
        let topic = self.topic()?;
        let mut message = Message::new(topic.as_str(), "").qos(self.qos).retain(self.retain);
        if let Some(expiry_s) = properties.expiry_s {
            message = message.expires_after(Duration::from_secs(expiry_s.into()));
        }
        if properties.publish != forebay_client::Properties::default() {
            message = message.properties(properties.publish.clone());
        }
        if let Some(delay) = self.delay {
            message = message.deliver_after(Duration::from_secs(delay.into()));
        }
        if let Some(date) = &self.at {
            message = message.deliver_at(date);
        }
        match self.numbered(message.clone(), 0).check() {
            Ok(()) => Ok(message),
            Err(error) => Err(Failure::usage(format!("the message for \"{topic}\": {}", error.detail))),
        }
    }

    /// The same with its number, where messages are numbered. `before`: how many went before it.
    fn numbered(&self, message: Message, before: u64) -> Message {
        match (&self.origin, self.seq) {
            (Some(origin), Some(seq)) => message.once(origin, self.epoch, seq.saturating_add(before)),
            (None, _) | (_, None) => message,
        }
    }

    /// The time between two messages.
    fn pause(&self) -> Option<Duration> {
        let of_rate = self.rate.map(|rate| Duration::from_secs(1) / rate);
        self.repeat_delay.max(of_rate)
    }

    async fn repeated(&self, message: &Message, client: &Client, sender: &mut Sender) -> Result<(), Failure> {
        let mut pace = Pace::new(self.pause());
        for before in 0..self.repeat {
            pace.wait().await;
            sender.send(client, self.numbered(message.clone(), before)).await?;
        }
        Ok(())
    }

    async fn lines(&self, template: &Message, client: &Client, sender: &mut Sender) -> Result<(), Failure> {
        let mut pace = Pace::new(self.pause());
        let mut lines = stdin_lines();
        let mut before = 0;
        while let Some(line) = lines.recv().await {
            let line = line.map_err(|error| Failure::failed(format!("the standard input cannot be read: {error}")))?;
            for _ in 0..self.repeat {
                pace.wait().await;
                let message = template.clone().with_payload(line.clone());
                sender.send(client, self.numbered(message, before)).await?;
                before += 1;
            }
        }
        Ok(())
    }
}

impl Source {
    /// `None`: a line at a time.
    fn payload(&self) -> Result<Option<Vec<u8>>, Failure> {
        if self.stdin_line {
            return Ok(None);
        }
        if let Some(text) = &self.message {
            return Ok(Some(text.clone().into_bytes()));
        }
        let from_stdin = self.stdin_file || self.file.as_ref().is_some_and(|file| file.as_os_str() == "-");
        let mut bytes = Vec::new();
        if from_stdin {
            let read = std::io::stdin().lock().read_to_end(&mut bytes);
            read.map_err(|error| Failure::failed(format!("the standard input cannot be read: {error}")))?;
        } else if let Some(file) = &self.file {
            let read = std::fs::read(file);
            bytes = read.map_err(|error| Failure::failed(format!("{} cannot be read: {error}", file.display())))?;
        }
        Ok(Some(bytes))
    }
}

/// Keeps a rate: late messages are not made up for.
struct Pace {
    interval: Option<tokio::time::Interval>,
}

impl Pace {
    fn new(pause: Option<Duration>) -> Self {
        let mut interval = pause.filter(|pause| !pause.is_zero()).map(tokio::time::interval);
        if let Some(interval) = &mut interval {
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        Self { interval }
    }

    async fn wait(&mut self) {
        if let Some(interval) = &mut self.interval {
            interval.tick().await;
        }
    }
}

/// Lines of the standard input, without their ends. Reading blocks: a thread does it.
fn stdin_lines() -> mpsc::Receiver<std::io::Result<Vec<u8>>> {
    let (to, lines) = mpsc::channel(1_000);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().split(b'\n') {
            let line = line.map(|mut line| {
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                line
            });
            let failed = line.is_err();
            if to.blocking_send(line).is_err() || failed {
                break;
            }
        }
    });
    lines
}

/// Publishes, and says what did not arrive.
struct Sender {
    tickets: mpsc::UnboundedSender<Ticket>,
    told: tokio::task::JoinHandle<u64>,
}

impl Sender {
    fn start(debug: bool) -> Self {
        let (tickets, mut waiting) = mpsc::unbounded_channel::<Ticket>();
        let told = tokio::spawn(async move {
            let (mut failed, mut number) = (0, 0);
            while let Some(ticket) = waiting.recv().await {
                number += 1;
                match ticket.await {
                    Ok(_) if debug => say::line(format!("message {number} has arrived")),
                    Ok(_) => {}
                    Err(why) => {
                        failed += 1;
                        say_dropped(&why, failed);
                    }
                }
            }
            failed
        });
        Self { tickets, told }
    }

    async fn send(&mut self, client: &Client, message: Message) -> Result<(), Failure> {
        let ticket = client.publish(message).await.map_err(|error| Failure::failed(error.to_string()))?;
        // The task ends only after this end is dropped.
        let _ = self.tickets.send(ticket);
        Ok(())
    }

    /// How many messages did not arrive.
    async fn finish(self) -> u64 {
        drop(self.tickets);
        self.told.await.unwrap_or(1)
    }
}

fn say_dropped(why: &Dropped, count: u64) {
    // A thousand lines say no more than ten.
    if count <= 10 {
        say::line(format!("forebay pub: a message did not arrive: {why}"));
    }
}
