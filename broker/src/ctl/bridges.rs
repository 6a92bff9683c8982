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
    // Where no bridge has a budget, or a plan, there is no column for it.
    let some = |field: &str| rows(answer, "/bridges").any(|row| number(row, field) > 0);
    let (has_budget, has_plan) = (some("/budget_bytes"), some("/planned_per_hour"));
    let mut titles =
        vec!["bridge", ">queued", ">bytes", ">oldest", ">in flight", ">delivered", ">dead letters", ">dropped"];
    titles.extend(has_budget.then_some(">sent today"));
    titles.extend(has_plan.then_some(">planned/h"));
    titles.push("state");
    let row = |row: &Value| {
        let mut cells = vec![
            text(row, "/name"),
            count(row, "/queued"),
            size(number(row, "/queued_bytes")),
            some_time(row, "/oldest_ms"),
            count(row, "/in_flight"),
            count(row, "/delivered"),
            count(row, "/dead_letters"),
            count(row, "/dropped"),
        ];
        let budget = match number(row, "/budget_bytes") {
            0 => String::new(),
            bytes => format!("{} of {}", size(number(row, "/budget_used_bytes")), size(bytes)),
        };
        cells.extend(has_budget.then_some(budget));
        let plan = match number(row, "/planned_per_hour") {
            0 => String::new(),
            per_hour => per_hour.to_string(),
        };
        cells.extend(has_plan.then_some(plan));
        cells.push(text(row, "/state"));
        cells
    };
    table(&titles, &rows(answer, "/bridges").map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_budget_and_a_plan_are_shown_where_there_are_some() {
        let bridge = |budget: u64, planned: u64| json!({"name": "up", "state": "connected", "budget_bytes": budget, "budget_used_bytes": 7_000, "planned_per_hour": planned});
        let table = show(&json!({"bridges": [bridge(0, 0)]}));
        assert!(!table.contains("today") && !table.contains("planned"), "{table}");
        let table = show(&json!({"bridges": [bridge(0, 0), bridge(200_000_000, 3_600)]}));
        let line = table.lines().last().unwrap();
        assert!(
            line.contains(&format!("{} of {}", size(7_000), size(200_000_000))) && line.contains("3600"),
            "{table}"
        );
        assert!(table.lines().next().unwrap().contains("sent today  planned/h  state"), "{table}");
    }
}
