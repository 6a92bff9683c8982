//! Which sessions are not a client's: the queues of the broker's own that the configuration names. They are opened at the start
//! only, so that one which is ended is not there until the next.

use crate::bridge::DEAD as DEAD_OF_BRIDGE;
use crate::broker::{DEAD_PREFIX, QUEUE_PREFIX, STREAM_PREFIX, TAKER_PREFIX};
use crate::config::{Config, Queue};

/// Why a session of this client identifier is not to be ended, and what to do in place of it. `None`: it may be.
pub(super) fn why_it_stays(config: &Config, client_id: &str) -> Option<String> {
    let name_of = |prefix: &str| client_id.strip_prefix(prefix);
    let empties = |command: String| format!("`forebay ctl {command}` empties it");
    let (what, instead) = if let Some(name) = name_of(TAKER_PREFIX) {
        let (bridge, dead) = name.strip_suffix(DEAD_OF_BRIDGE).map_or((name, ""), |bridge| (bridge, " --dead"));
        config.bridges.iter().find(|known| known.name == bridge)?;
        ("a bridge", empties(format!("bridges purge {bridge}{dead}")))
    } else if let Some(name) = name_of(QUEUE_PREFIX) {
        config.queues.iter().find(|queue| has_lane(queue, name))?;
        ("a declared queue", empties(format!("purge '{client_id}'")))
    } else if let Some(name) = name_of(DEAD_PREFIX) {
        let of_sessions = || config.dead_letters.iter().any(|rule| rule.name == name);
        (config.queues.iter().any(|queue| queue.name == name) || of_sessions()).then_some(())?;
        ("dead letters", empties(format!("dead purge {name}")))
    } else {
        let name = name_of(STREAM_PREFIX)?;
        config.streams.iter().find(|stream| stream.name == name)?;
        ("a stream", format!("`forebay ctl purge '{client_id}'` drops what it has not taken yet"))
    };
    Some(format!(
        "\"{client_id}\" is {what} of the configuration, and would take nothing more until the next start: {instead}; to end it, \
         take it out of the configuration and start the broker again"
    ))
}

/// Whether the queue has this name, or one of its levels of priority has: `NAME/1` and so on.
fn has_lane(queue: &Queue, name: &str) -> bool {
    let Some(rest) = name.strip_prefix(queue.name.as_str()) else { return false };
    let level = rest.strip_prefix('/').and_then(|level| level.parse::<u8>().ok());
    rest.is_empty() || level.is_some_and(|level| (1..queue.priorities.levels).contains(&level))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{self, Overrides};

    #[test]
    fn what_the_configuration_names_is_not_ended() {
        let text = "[[bridges]]\nname = 'up'\nurl = 'mqtt://127.0.0.1:1'\n[[bridges.out]]\nfilter = 't/#'\n\
                    [[queues]]\nname = 'jobs'\nfilter = 'jobs/#'\npriority_levels = 3\n\
                    [[dead_letters]]\nname = 'lost'\n[[streams]]\nname = 'log'\nfilter = 'log/#'\n";
        let config = config::parse(text, Path::new("test"), &Overrides::default());
        let config = config.unwrap_or_else(|error| unreachable!("{error}"));
        for (client_id, says) in [
            ("$bridge/up", "`forebay ctl bridges purge up`"),
            ("$bridge/up/dead", "`forebay ctl bridges purge up --dead`"),
            ("$queue/jobs", "`forebay ctl purge '$queue/jobs'`"),
            ("$queue/jobs/2", "`forebay ctl purge '$queue/jobs/2'`"),
            ("$dead/jobs", "`forebay ctl dead purge jobs`"),
            ("$dead/lost", "`forebay ctl dead purge lost`"),
            ("$stream/log", "`forebay ctl purge '$stream/log'`"),
        ] {
            let why = why_it_stays(&config, client_id).unwrap_or_default();
            assert!(why.contains(says), "{client_id}: {why}");
        }
        for client_id in
            ["up", "$bridge/down", "$bridge/down/dead", "$queue/jobs/3", "$queue/lost", "$dead/log", "$stream/jobs"]
        {
            assert_eq!(why_it_stays(&config, client_id), None, "{client_id}");
        }
    }
}
