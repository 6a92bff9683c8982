//! `forebay ctl bridges`.

use clap::Subcommand;
use serde_json::Value;

use super::show::{count, number, peek, rows, some_time, text};
use super::table::{size, table};
use super::{Request, Which, change, get};
use crate::admin::encode;
use crate::broker::TAKER_PREFIX;

/// What is done with a bridge.
#[derive(Clone, Debug, Subcommand)]
pub enum BridgesCommand {
    /// Send nothing more to its upstream, over restarts too; its queue fills
    Pause {
        /// The bridge's name
        bridge: String,
    },
    /// Send again
    Resume {
        /// The bridge's name
        bridge: String,
    },
    /// Drop what waits for it and is not in flight
    Purge {
        /// The bridge's name
        bridge: String,
        /// Drop its dead letters instead
        #[arg(long)]
        dead: bool,
    },
    /// The oldest of its dead letters; they stay where they are
    Dead {
        /// The bridge's name
        bridge: String,
        /// At most so many
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Put its dead letters back into its queue
    Replay {
        /// The bridge's name
        bridge: String,
        /// Which of them
        #[command(flatten)]
        which: Which,
    },
}

pub(super) fn request(command: Option<&BridgesCommand>) -> Request {
    let of = |bridge: &str, what: &str| change("POST", format!("/api/bridges/{}/{what}", encode(bridge)));
    match command {
        None => get("/api/bridges", show),
        Some(BridgesCommand::Pause { bridge }) => of(bridge, "pause"),
        Some(BridgesCommand::Resume { bridge }) => of(bridge, "resume"),
        Some(BridgesCommand::Purge { bridge, dead: false }) => of(bridge, "purge"),
        Some(BridgesCommand::Purge { bridge, dead: true }) => of(bridge, "dead/purge"),
        Some(BridgesCommand::Dead { bridge, limit }) => {
            let queue = encode(&format!("{TAKER_PREFIX}{bridge}/dead"));
            get(format!("/api/sessions/{queue}/queue?limit={limit}"), peek)
        }
        Some(BridgesCommand::Replay { bridge, which }) => of(bridge, &which.of("dead/replay")),
    }
}

fn show(answer: &Value) -> String {
    let titles =
        ["bridge", ">queued", ">bytes", ">oldest", ">in flight", ">delivered", ">dead letters", ">dropped", "state"];
    let row = |row: &Value| {
        vec![
            text(row, "/name"),
            count(row, "/queued"),
            size(number(row, "/queued_bytes")),
            some_time(row, "/oldest_ms"),
            count(row, "/in_flight"),
            count(row, "/delivered"),
            count(row, "/dead_letters"),
            count(row, "/dropped"),
            text(row, "/state"),
        ]
    };
    table(&titles, &rows(answer, "/bridges").map(row).collect::<Vec<_>>())
}
