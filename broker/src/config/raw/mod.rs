//! The configuration as it stands in its files: every key may be missing, every value is only of the right form and within its
//! bounds. Here a key is defined: its text, its name, the type of its value, its default, its bounds. All else comes from it.

mod access;
mod bridges;
mod limits;
mod listener;
mod queues;
mod rules;

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

pub(super) use access::{RawAccess, RawHttp, RawJwt};
pub(super) use bridges::{RawBridge, RawBridgeRule};
pub(super) use limits::RawLimits;
pub(super) use listener::{RawListener, RawPair};
pub(super) use queues::{RawDeadLetters, RawPriority, RawQueue, RawQueues, RawStream};
pub(super) use rules::RawRules;

use super::checked::{LogFormat, LogLevel};
use super::defaults;
use super::key::{DAY, Key, SECOND, about};
use super::table::{At, Reader, Shown, Table, Value, below, key_about, key_name, show_key, table};
use super::units::Bytes;
use crate::store::journal::file::{SIZE_MAX, SIZE_MIN};
use crate::store::redb::JOURNAL_BYTES;

/// More than a machine has.
const MUCH: u64 = 1 << 40;

table!(
    /// The file.
    RawConfig {
        /// More files, relative to this one, read behind it in this order. In the name of a file * is any text; the files that it fits
        /// are read by name. Their lists of tables are added to those that are there; any other key may stand in one file only. Only
        /// this file includes others. Default: none.
        include: Vec<At<String>>,
        /// The folder of the store and of development certificates. Made when it is not there; only one broker can use it.
        /// Default: $XDG_DATA_HOME/forebay or ~/.local/share/forebay; /var/lib/forebay where there is no home.
        data_dir: String = about().otherwise("$XDG_DATA_HOME/forebay or ~/.local/share/forebay; /var/lib/forebay where there is no home"),
        /// Threads that own connections, 1 to 256. Default: one less than there are cores, for the store's writer; at least 1.
        workers: u64 = about().within(1..=256).otherwise("one less than there are cores; at least 1"),
        /// What is logged: error, warn, info, debug (every connection) or trace (every packet).
        log: String = about().reload().words(LogLevel::WORDS).is("info"),
        /// How a line of the log looks: text, json (an object a line: timestamp, level, target, message and what belongs to it), or
        /// journald (the priority in front, no time: the journal has its own). auto is journald where standard error is the journal of
        /// systemd, and text elsewhere.
        log_format: String = about().words(LogFormat::WORDS).is("auto"),
        /// Another broker, named to MQTT 5 clients when this one shuts down. Default: none.
        server_reference: String = about().reload(),
        /// Time between two publications of the $SYS topics, at least 1s; "0s" for none.
        sys_interval: Duration = about().reload().within(SECOND..=DAY).or_zero().is(defaults::SYS_INTERVAL),
        /// How long a shutdown waits for sockets to drain and for the last commit, at most 10min.
        shutdown_grace: Duration = about().reload().within(0..=600 * SECOND).is(defaults::SHUTDOWN_GRACE),
        /// Where to listen. Each [[listeners]] is one address. Without any: mqtt://127.0.0.1:1883 and mqtts://127.0.0.1:8883.
        listeners: Vec<At<RawListener>> = about().otherwise("mqtt://127.0.0.1:1883 and mqtts://127.0.0.1:8883"),
        /// Who may connect, and what they may do (docs/access.md). Files are read again when they change, and at SIGHUP.
        access: RawAccess,
        /// Limits, so that one client cannot take what the others need.
        limits: RawLimits,
        /// Every session's queue.
        queue: RawQueue,
        /// Durability by topic filter: the first that matches wins, and wins over the listener's. Default: none.
        durability: Vec<At<RawRule>>,
        /// The store on disk.
        store: RawStore,
        /// Declared queues: each [[queues]] exists without consumers and survives restarts (docs/queues.md). Default: none.
        queues: Vec<At<RawQueues>>,
        /// Dead letters of sessions: each [[dead_letters]] keeps what queues of sessions give up; the first that fits a message has it
        /// (docs/queues.md). Default: none.
        dead_letters: Vec<At<RawDeadLetters>>,
        /// Streams: each [[streams]] keeps the messages of a filter, to be read again from any place (docs/queues.md). Default: none.
        streams: Vec<At<RawStream>>,
        /// Rules: each [[rules]] makes another message of what a message says, at once or of a time together (docs/rules.md). Default: none.
        rules: Vec<At<RawRules>>,
        /// Ways upstream: each [[bridges]] is one, with a queue of its own on disk (docs/bridges.md). Default: none.
        bridges: Vec<At<RawBridge>>,
        /// For those who look after the broker: metrics, health, `forebay ctl`. Nothing is open unless it is set.
        admin: RawAdmin,
    }
);

table!(
    /// `rate` of a listener
    RawRate {
        /// PUBLISH packets a second.
        messages_per_s: u64 = about().within(1..=u64::MAX),
        /// Bytes a second.
        bytes_per_s: Bytes = about().within(1..=u64::MAX),
    }
);

table!(
    /// `[[durability]]`
    RawRule {
        /// A topic filter; not a shared subscription.
        filter: String = about().needed(),
        /// As a listener's durability.
        mode: String = about().needed(),
    }
);

table!(
    /// `[store]`
    RawStore {
        /// Memory for its pages, at least 1MiB.
        cache_bytes: Bytes = about().within(1 << 20..=MUCH).is(defaults::STORE_CACHE_BYTES),
        /// What its file may grow to, at least 16MiB; one so small may pass it by a sixteenth. Default: what the disk has.
        max_bytes: Bytes = about().within(16 << 20..=u64::MAX),
        /// What is left to others on the disk: with less, durable messages are refused until there is room again.
        min_free_bytes: Bytes = about().is(defaults::STORE_MIN_FREE_BYTES),
        /// How long a commit may wait for acknowledgements that make it needless, at most 1s. Longer saves more of an SD card's
        /// life and delays acks by as much.
        commit_wait: Duration = about().within(0..=SECOND).is(defaults::STORE_COMMIT_WAIT),
        /// How long each commit waits for company, at most 1s: all that comes meanwhile is one write. Every ack is delayed by as much,
        /// and the device is written less.
        commit_gather: Duration = about().within(0..=SECOND).is(Duration::ZERO),
        /// How much the device may be written, such as "20 GB/year" (day, month or year): for SD cards and flash. Held against what was written
        /// since the start, commits wait for company, at most 500ms, and `interval` durability up to a second, as long as needed; acks come later
        /// by that. What cannot be kept is said at the start and in the log, and is kept as far as it can be. Default: "unlimited".
        wear: String,
        /// Size of the journal, 64KiB to 256MiB: a commit is one write in sequence there, and the store's file is written now and
        /// then, with what has not been delivered by then. "0B": no journal, each commit goes to the store's file.
        journal: Bytes = about().within(SIZE_MIN..=SIZE_MAX).or_zero().is(JOURNAL_BYTES),
    }
);

table!(
    /// `[admin]`
    RawAdmin {
        /// ADDRESS:PORT for /metrics (Prometheus), /healthz, /readyz and the API. An address that others can reach needs token_file.
        /// Without a token, what is there can be looked at, but payloads are not shown and nothing is changed. Default: none.
        http: String,
        /// The same API for `forebay ctl`, on a Unix socket that only the broker's user and root can open. Default: none.
        socket: String,
        /// A file with the token that HTTP asks for (Authorization: Bearer TOKEN), at least 16 characters. It is read for each request. Default: none.
        token_file: String,
    }
);
