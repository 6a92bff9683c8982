//! `forebay ctl bridges`.

use clap::Subcommand;
use serde_json::Value;

use super::show::{count, number, rows, some_time, text};
use super::table::{size, table};
use super::{Request, change, get};
use crate::admin::encode;

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
    },
}

pub(super) fn request(command: Option<&BridgesCommand>) -> Request {
    let of = |bridge: &str, what: &str| change("POST", format!("/api/bridges/{}/{what}", encode(bridge)));
    match command {
        None => get("/api/bridges", show),
        Some(BridgesCommand::Pause { bridge }) => of(bridge, "pause"),
        Some(BridgesCommand::Resume { bridge }) => of(bridge, "resume"),
        Some(BridgesCommand::Purge { bridge }) => of(bridge, "purge"),
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
