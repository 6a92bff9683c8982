//! `forebay ctl`: the API of a running broker, for people and for scripts.

mod bridges;
#[cfg(unix)]
mod client;
mod recent;
mod show;
mod table;
mod users;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::admin::encode;
use crate::cli::{AclAction, AclCommand};
use crate::config;

/// Where the socket is when nobody says where.
const SOCKET: &str = "/run/forebay/admin.sock";
/// Rows of one request; there are more until the last page.
const PAGE: usize = 1000;

/// Look at a running broker, and change it
#[derive(Clone, Debug, Args)]
pub struct CtlArgs {
    /// The broker's `admin.socket`; without it what --config says, or /run/forebay/admin.sock
    #[arg(long, value_name = "PATH", env = "FOREBAY_SOCKET", global = true)]
    pub socket: Option<PathBuf>,
    /// Print what the API answers, as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Ask again and again, every so many seconds (2 when none are given)
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", global = true)]
    pub watch: Option<u64>,
    /// What to do
    #[command(subcommand)]
    pub command: CtlCommand,
}

/// What is done with the running broker.
#[derive(Clone, Debug, Subcommand)]
pub enum CtlCommand {
    /// The broker as a whole
    Status,
    /// Sessions, connected or not
    Sessions {
        /// Only those: connected, away or full
        #[arg(long)]
        state: Option<String>,
        /// Only those whose client has been away for at least as long, such as 30d
        #[arg(long, value_name = "TIME", value_parser = config::duration_of)]
        away: Option<Duration>,
        /// Only those whose client identifier has this in it
        #[arg(long)]
        search: Option<String>,
        /// At most so many; without it all
        #[arg(long, value_parser = at_least_one)]
        limit: Option<usize>,
    },
    /// One session: subscriptions, ledger, and why its queue waits
    Show {
        /// The client identifier
        client: String,
    },
    /// Disconnect a client; its session stays
    Kick {
        /// The client identifier
        client: String,
    },
    /// End a session: its client is disconnected, its queue is dropped and counted
    End {
        /// The client identifier
        client: String,
    },
    /// Subscriptions
    Subscriptions {
        /// Only those that match this topic name
        #[arg(long)]
        topic: Option<String>,
        /// Only those whose filter has this in it
        #[arg(long)]
        search: Option<String>,
        /// At most so many; without it all
        #[arg(long, value_parser = at_least_one)]
        limit: Option<usize>,
    },
    /// Retained messages
    #[command(subcommand)]
    Retained(RetainedCommand),
    /// The longest queues
    Queues {
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Bridges: how each is, and what waits for it
    Bridges {
        /// What to do with one
        #[command(subcommand)]
        command: Option<bridges::BridgesCommand>,
    },
    /// Declared queues: what is in them, and who consumes
    Declared,
    /// Dead letters of declared queues and sessions
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Messages that wait for their time
    #[command(subcommand)]
    Delayed(DelayedCommand),
    /// The first messages of a session's queue; they stay where they are
    Peek {
        /// The client identifier
        client: String,
        /// At most so many
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Drop what waits in a session's queue and was never sent
    Purge {
        /// The client identifier
        client: String,
    },
    /// What became of all messages
    Ledger,
    /// Sessions that messages were dropped from
    Drops {
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// The store; its journal, a copy of it, its room given back
    Store {
        /// What to do with it
        #[command(subcommand)]
        command: Option<StoreCommand>,
    },
    /// Users and rules: how many there are
    Access,
    /// Addresses that are banned for wrong passwords
    Bans {
        /// What to do with them
        #[command(subcommand)]
        command: Option<BansCommand>,
    },
    /// Read the configuration, the files of `[access]` and the certificates again, as SIGHUP does: all or nothing
    Reload,
    /// Users made while the broker runs (access.dynamic_security)
    #[command(subcommand)]
    Users(users::UsersCommand),
    /// How much goes to the log; with a level, so much from now on
    ///
    /// `--client` puts the packets of one client there for a while, whatever the level is: what they are and of which topic,
    /// never their payloads.
    Log {
        /// error, warn, info, debug or trace
        #[arg(conflicts_with = "client")]
        level: Option<String>,
        /// Whose packets
        #[arg(long, value_name = "ID")]
        client: Option<String>,
        /// For how long: "5m", "1h"; at most a day [default: 5min]
        #[arg(long = "for", value_name = "TIME", value_parser = time_of, requires = "client")]
        time: Option<Duration>,
        /// No client's packets any more
        #[arg(long, conflicts_with_all = ["client", "level"])]
        stop: bool,
    },
    /// End the broker as SIGTERM does
    Shutdown,
}

/// What is done with bans.
#[derive(Clone, Debug, Subcommand)]
pub enum BansCommand {
    /// Forgive an address; all of them without one
    Clear {
        /// The address
        address: Option<std::net::IpAddr>,
    },
}

/// What is done with the store of a running broker.
#[derive(Clone, Debug, Subcommand)]
pub enum StoreCommand {
    /// What is in the journal, and how much of that the store's file has
    Journal,
    /// Move what is in the journal into the store's file now
    Fold,
    /// Give room that the store's file does not need any more back to the file system, while the broker goes on
    Compact,
    /// Write a copy into a new file while the broker goes on; as forebay.redb in a data directory it is a store
    Backup {
        /// The file; the broker writes it, so it must be the broker's to write
        file: PathBuf,
    },
}

/// What is done with messages that wait for their time.
#[derive(Clone, Debug, Subcommand)]
pub enum DelayedCommand {
    /// Which there are, in the order in which they are sent
    List {
        /// At most so many; without it all
        #[arg(long, value_parser = at_least_one)]
        limit: Option<usize>,
    },
    /// Send it never
    Cancel {
        /// Its key, as the list has it
        key: String,
    },
    /// Send it at another time
    Move {
        /// Its key, as the list has it
        key: String,
        /// In so many seconds
        #[arg(long, value_name = "SECONDS", required_unless_present = "at", conflicts_with = "at")]
        delay: Option<u64>,
        /// At this time, such as 2027-01-01T06:00:00Z
        #[arg(long, value_name = "DATE")]
        at: Option<String>,
    },
}

/// What is done with dead letters.
#[derive(Clone, Debug, Subcommand)]
pub enum DeadCommand {
    /// The oldest of a queue's dead letters; they stay where they are
    List {
        /// The queue's name
        queue: String,
        /// At most so many
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Put them back into their queue
    Replay {
        /// The queue's name
        queue: String,
        /// Which of them
        #[command(flatten)]
        which: Which,
    },
    /// Drop them
    Purge {
        /// The queue's name
        queue: String,
    },
}

/// Which dead letters go back, and how quickly.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// Only those whose topic, as it was, matches this filter
    #[arg(long)]
    pub filter: Option<String>,
    /// At most so many; without it all
    #[arg(long, value_parser = at_least_one)]
    pub limit: Option<usize>,
    /// So many in a second, such as 10 or 10/s; without it as quickly as it goes
    #[arg(long, value_parser = in_a_second)]
    pub rate: Option<usize>,
}

impl Which {
    /// The path with what is asked for behind it.
    fn of(&self, path: &str) -> String {
        let number = |number: Option<usize>| number.map(|number| number.to_string());
        let query = [("filter", self.filter.clone()), ("limit", number(self.limit)), ("rate", number(self.rate))];
        with_query(path, &query)
    }
}

/// What is done with retained messages.
#[derive(Clone, Debug, Subcommand)]
pub enum RetainedCommand {
    /// Their topics
    List {
        /// Only topics that match this filter
        #[arg(default_value = "#")]
        filter: String,
        /// At most so many; without it all
        #[arg(long, value_parser = at_least_one)]
        limit: Option<usize>,
    },
    /// One message's payload
    Get {
        /// The topic name
        topic: String,
    },
    /// Publish a message with the RETAIN flag
    Set {
        /// The topic name
        topic: String,
        /// The payload
        payload: String,
        /// Its quality of service
        #[arg(long, default_value_t = 1)]
        qos: u8,
    },
    /// Remove the message of a topic
    Clear {
        /// The topic name
        topic: String,
    },
}

/// Why a message on a topic reaches a client, or does not
#[derive(Clone, Debug, Args)]
pub struct WhyArgs {
    /// The broker's `admin.socket`; without it what --config says, or /run/forebay/admin.sock
    #[arg(long, value_name = "PATH", env = "FOREBAY_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Print what the API answers, as JSON
    #[arg(long)]
    pub json: bool,
    /// The client identifier
    pub client: String,
    /// The topic name
    pub topic: String,
}

fn in_a_second(text: &str) -> Result<usize, String> {
    at_least_one(text.strip_suffix("/s").unwrap_or(text))
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|limit| *limit > 0).ok_or_else(|| "must be a whole number, at least 1".to_owned())
}

/// One request, and how its answer is shown.
struct Request {
    method: &'static str,
    path: String,
    body: Vec<u8>,
    /// The field whose rows go on on further pages, and how many rows are wanted.
    rows: Option<(&'static str, usize)>,
    show: fn(&Value) -> String,
}

/// `forebay ctl`.
#[must_use]
pub fn main(args: &CtlArgs, config: Option<&Path>) -> ExitCode {
    match request(&args.command) {
        Ok(request) => run(args.socket.as_deref(), config, args.json, args.watch, &request),
        Err(why) => say(&mut std::io::stderr(), &format!("forebay ctl: {why}\n"), ExitCode::FAILURE),
    }
}

/// `forebay why`.
#[must_use]
pub fn why(args: &WhyArgs, config: Option<&Path>) -> ExitCode {
    let path = format!("/api/why?client={}&topic={}", encode(&args.client), encode(&args.topic));
    run(args.socket.as_deref(), config, args.json, None, &get(path, show::why))
}

/// `forebay acl`, as far as it asks the running broker. `test` fails when the client may not.
#[must_use]
pub fn acl(command: &AclCommand, config: Option<&Path>) -> ExitCode {
    let (user, client, group, address, listener, qos, retain, action, topic, socket) = match command {
        AclCommand::Replay { recent, json, file } => return recent::replay(recent, *json, file.as_deref(), config),
        AclCommand::Learn { recent, format, alike } => return recent::learn(recent, *format, *alike, config),
        AclCommand::Test { user, client, group, address, listener, qos, retain, action, topic, socket, .. } => {
            (user, client, group, address, listener, qos, retain, action, topic, socket)
        }
    };
    let action = match action {
        AclAction::Connect => "connect",
        AclAction::Publish => "publish",
        AclAction::Subscribe => "subscribe",
        AclAction::Receive => "receive",
    };
    let query = [
        ("action", Some(action.to_owned())),
        ("topic", topic.clone()),
        ("user", user.clone()),
        ("client", Some(client.clone())),
        ("groups", Some(group.join(",")).filter(|groups| !groups.is_empty())),
        ("address", address.map(|address| address.to_string())),
        ("listener", listener.clone()),
        ("qos", Some(qos.to_string())),
        ("retain", retain.then(|| "1".to_owned())),
    ];
    let request = get(with_query("/api/access/test", &query), show::acl);
    match socket_path(socket.as_deref(), config).and_then(|socket| ask(&socket, &request)) {
        Ok(answer) => {
            let allowed = answer.get("allowed").and_then(Value::as_bool) == Some(true);
            let code = if allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            say(&mut std::io::stdout(), &(request.show)(&answer), code)
        }
        Err(why) => say(&mut std::io::stderr(), &format!("forebay: {why}\n"), ExitCode::FAILURE),
    }
}

fn run(socket: Option<&Path>, config: Option<&Path>, json: bool, watch: Option<u64>, request: &Request) -> ExitCode {
    loop {
        let text = socket_path(socket, config)
            .and_then(|socket| ask(&socket, request))
            .map(|answer| if json { format!("{answer:#}\n") } else { (request.show)(&answer) });
        let Some(seconds) = watch else {
            return match text {
                Ok(text) => say(&mut std::io::stdout(), &text, ExitCode::SUCCESS),
                Err(why) => say(&mut std::io::stderr(), &format!("forebay ctl: {why}\n"), ExitCode::FAILURE),
            };
        };
        // The broker may be starting: whoever watches wants to see it come back.
        let text = text.unwrap_or_else(|why| format!("{why}\n"));
        let clear = if json { "" } else { "\x1b[H\x1b[2J" };
        let done = say(&mut std::io::stdout(), &format!("{clear}{text}"), ExitCode::SUCCESS);
        if done != ExitCode::SUCCESS {
            return done;
        }
        std::thread::sleep(Duration::from_secs(seconds.max(1)));
    }
}

/// Whoever reads it may have gone away, as `head` does.
fn say(out: &mut dyn std::io::Write, text: &str, code: ExitCode) -> ExitCode {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn socket_path(given: Option<&Path>, config: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let Some(file) = config else { return Ok(SOCKET.into()) };
    let config = config::load(Some(file), &config::Overrides::default()).map_err(|error| error.to_string())?;
    config.admin.socket.ok_or_else(|| format!("{} has no admin.socket; set it, or give --socket", file.display()))
}

#[cfg(unix)]
fn ask(socket: &Path, request: &Request) -> Result<Value, String> {
    let Some((field, wanted)) = request.rows else {
        return client::ask(socket, request.method, &request.path, &request.body);
    };
    let mut all: Vec<Value> = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let limit = PAGE.min(wanted.saturating_sub(all.len()));
        let mark = if request.path.contains('?') { '&' } else { '?' };
        let mut path = format!("{}{mark}limit={limit}", request.path);
        if let Some(after) = &after {
            path.push_str(&format!("&after={}", encode(after)));
        }
        let mut page = client::ask(socket, request.method, &path, &request.body)?;
        after = page.get("next").and_then(Value::as_str).map(str::to_owned);
        if let Some(rows) = page.get_mut(field).and_then(Value::as_array_mut) {
            all.append(rows);
            if after.is_none() || all.len() >= wanted {
                *rows = all;
                return Ok(page);
            }
        } else {
            return Err(format!("the broker's answer has no {field}"));
        }
    }
}

#[cfg(not(unix))]
fn ask(_: &Path, _: &Request) -> Result<Value, String> {
    Err("there are no Unix sockets on this system; use the API over HTTP (admin.http)".to_owned())
}

fn get(path: impl Into<String>, show: fn(&Value) -> String) -> Request {
    Request { method: "GET", path: path.into(), body: Vec::new(), rows: None, show }
}

fn change(method: &'static str, path: String) -> Request {
    Request { method, path, body: Vec::new(), rows: None, show: show::done }
}

fn pages(mut request: Request, field: &'static str, limit: Option<usize>) -> Request {
    request.rows = Some((field, limit.unwrap_or(usize::MAX)));
    request
}

/// A path with a query of what is there.
fn with_query(path: &str, pairs: &[(&str, Option<String>)]) -> String {
    let there = pairs.iter().filter_map(|(name, value)| Some(format!("{name}={}", encode(value.as_deref()?))));
    let query = there.collect::<Vec<_>>().join("&");
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// A duration as in a configuration, and with `m` for minutes as other tools have it.
pub(crate) fn time_of(text: &str) -> Result<Duration, String> {
    let minutes = text.strip_suffix('m').filter(|number| number.ends_with(|last: char| last.is_ascii_digit()));
    config::duration_of(&minutes.map_or_else(|| text.to_owned(), |number| format!("{number}min")))
}

fn log(level: Option<&String>, client: Option<&String>, time: Option<Duration>, stop: bool) -> Request {
    let (method, path) = match (level, client) {
        _ if stop => ("DELETE", "/api/log/client".to_owned()),
        (_, Some(client)) => {
            let seconds = time.map(|time| time.as_secs().to_string());
            ("PUT", with_query("/api/log/client", &[("client", Some(client.clone())), ("for_s", seconds)]))
        }
        (Some(level), None) => ("PUT", with_query("/api/log", &[("level", Some(level.clone()))])),
        (None, None) => return get("/api/log", show::log),
    };
    Request { show: show::log, ..change(method, path) }
}

fn request(command: &CtlCommand) -> Result<Request, String> {
    let session = |client: &str, what: &str| format!("/api/sessions/{}{what}", encode(client));
    Ok(match command {
        CtlCommand::Status => get("/api/status", show::status),
        CtlCommand::Sessions { state, away, search, limit } => {
            let away = away.map(|time| time.as_secs().to_string());
            let query = [("state", state.clone()), ("away_s", away), ("search", search.clone())];
            pages(get(with_query("/api/sessions", &query), show::sessions), "sessions", *limit)
        }
        CtlCommand::Show { client } => get(session(client, ""), show::session),
        CtlCommand::Kick { client } => change("POST", session(client, "/kick")),
        CtlCommand::End { client } => change("DELETE", session(client, "")),
        CtlCommand::Purge { client } => change("POST", session(client, "/purge")),
        CtlCommand::Subscriptions { topic, search, limit } => {
            let query = [("topic", topic.clone()), ("search", search.clone())];
            pages(get(with_query("/api/subscriptions", &query), show::subscriptions), "subscriptions", *limit)
        }
        CtlCommand::Retained(command) => retained(command),
        CtlCommand::Queues { limit } => get(format!("/api/queues?limit={limit}"), show::queues),
        CtlCommand::Bridges { command } => bridges::request(command.as_ref()),
        CtlCommand::Declared => get("/api/queues/declared", show::declared),
        CtlCommand::Dead(command) => dead(command),
        CtlCommand::Delayed(command) => delayed(command),
        CtlCommand::Peek { client, limit } => get(session(client, &format!("/queue?limit={limit}")), show::peek),
        CtlCommand::Ledger => get("/api/ledger", show::ledger),
        CtlCommand::Drops { limit } => get(format!("/api/drops?limit={limit}"), show::drops),
        CtlCommand::Store { command: None } => get("/api/store", show::store),
        CtlCommand::Store { command: Some(command) } => store(command),
        CtlCommand::Log { level, client, time, stop } => log(level.as_ref(), client.as_ref(), *time, *stop),
        CtlCommand::Shutdown => change("POST", "/api/shutdown".to_owned()),
        CtlCommand::Access => get("/api/access", show::access),
        CtlCommand::Bans { command: None } => get("/api/access/bans", show::bans),
        CtlCommand::Bans { command: Some(BansCommand::Clear { address: None }) } => {
            change("DELETE", "/api/access/bans".to_owned())
        }
        CtlCommand::Bans { command: Some(BansCommand::Clear { address: Some(address) }) } => {
            change("DELETE", format!("/api/access/bans/{}", encode(&address.to_string())))
        }
        CtlCommand::Reload => Request { show: show::changes, ..change("POST", "/api/reload".to_owned()) },
        CtlCommand::Users(command) => users::request(command)?,
    })
}

fn dead(command: &DeadCommand) -> Request {
    let of = |queue: &str, what: &str| format!("/api/sessions/{}{what}", encode(&format!("$dead/{queue}")));
    match command {
        DeadCommand::List { queue, limit } => get(of(queue, &format!("/queue?limit={limit}")), show::peek),
        DeadCommand::Replay { queue, which } => {
            change("POST", which.of(&format!("/api/queues/{}/replay", encode(queue))))
        }
        DeadCommand::Purge { queue } => change("POST", of(queue, "/purge")),
    }
}

fn delayed(command: &DelayedCommand) -> Request {
    let one = |key: &str, what: &str| format!("/api/delayed/{}{what}", encode(key));
    match command {
        DelayedCommand::List { limit } => pages(get("/api/delayed", show::delayed), "delayed", *limit),
        DelayedCommand::Cancel { key } => change("DELETE", one(key, "")),
        DelayedCommand::Move { key, delay, at } => {
            let query = [("after_s", delay.map(|seconds| seconds.to_string())), ("at", at.clone())];
            change("POST", with_query(&one(key, "/move"), &query))
        }
    }
}

fn store(command: &StoreCommand) -> Request {
    match command {
        StoreCommand::Journal => get("/api/store/journal", show::journal),
        StoreCommand::Fold => Request { show: show::fold, ..change("POST", "/api/store/fold".to_owned()) },
        StoreCommand::Compact => Request { show: show::compact, ..change("POST", "/api/store/compact".to_owned()) },
        StoreCommand::Backup { file } => {
            let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            let path = with_query("/api/store/backup", &[("to", Some(file.display().to_string()))]);
            Request { show: show::backup, ..change("POST", path) }
        }
    }
}

fn retained(command: &RetainedCommand) -> Request {
    let of = |topic: &str| format!("/api/retained/{}", encode(topic));
    match command {
        RetainedCommand::List { filter, limit } => {
            let path = with_query("/api/retained", &[("filter", Some(filter.clone()))]);
            pages(get(path, show::retained), "retained", *limit)
        }
        RetainedCommand::Get { topic } => get(of(topic), show::payload),
        RetainedCommand::Set { topic, payload, qos } => {
            let request = change("PUT", format!("{}?qos={qos}", of(topic)));
            Request { body: payload.clone().into_bytes(), ..request }
        }
        RetainedCommand::Clear { topic } => change("DELETE", of(topic)),
    }
}
