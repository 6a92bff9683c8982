//! What can be asked for: one table, from which requests are answered and the API is described.

use serde_json::Value;

use super::Surroundings;
use super::answers::{
    AccessAnswer, AclAnswer, BackupAnswer, BanList, BridgeList, Changes, CompactAnswer, DeclaredList, DelayedPage,
    Done, DropList, Failure, FoldAnswer, JournalAnswer, LogAnswer, QueueList, QueuePeek, RecentPage, RetainedMessage,
    RetainedPage, SessionDetail, SessionPage, StoreAnswer, SubscriptionPage, Why,
};
use super::query::Query;
use super::{access, bridges, delayed, handlers, queues, sessions, store, why};
use crate::observe::schema::Schema;
use crate::observe::{LedgerPart, Snapshot};

/// What one must be allowed, to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing: health, and the description of the API.
    Nothing,
    /// To look at figures, names and topics.
    Look,
    /// To read what devices have sent.
    Payload,
    /// To change something.
    Change,
}

/// One request.
pub(super) struct Ask<'a> {
    pub(super) on: &'a Surroundings,
    /// What stands in the place of `{…}` in the path, decoded.
    pub(super) name: String,
    pub(super) query: Query,
    pub(super) body: &'a [u8],
}

/// Why it was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Error {
    /// The request is wrong.
    Wrong(String),
    /// There is no such thing.
    Missing(String),
    /// There is no room, or the broker is in no state for it.
    Conflict(String),
    /// This machine is in the way.
    Failed(String),
}

pub(super) type Outcome = Result<Value, Error>;

/// A parameter of a query.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) number: bool,
}

const fn text(name: &'static str, help: &'static str) -> Parameter {
    Parameter { name, help, number: false }
}

const fn number(name: &'static str, help: &'static str) -> Parameter {
    Parameter { name, help, number: true }
}

/// One thing that can be asked for.
pub(super) struct Route {
    pub(super) method: &'static str,
    /// With `{name}` where a name stands.
    pub(super) path: &'static str,
    pub(super) needs: Needs,
    pub(super) help: &'static str,
    pub(super) parameters: &'static [Parameter],
    /// What the body is, when there is one.
    pub(super) body: Option<&'static str>,
    pub(super) schema: fn() -> Value,
    pub(super) run: fn(&Ask<'_>) -> Outcome,
}

const AFTER: Parameter = text("after", "`next` of the page before.");
const LIMIT: Parameter = number("limit", "How many at most, 1 to 1000; 100 when it is left out.");

/// Of dead letters.
const REPLAY: &[Parameter] = &[
    text("filter", "Only those whose topic, as it was, matches this filter; `#` when it is left out."),
    number("limit", "So many at most; all when it is left out."),
    number("rate", "So many in a second; as quickly as it goes when it is left out."),
];

/// All of them.
pub(super) const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/api/status",
        needs: Needs::Look,
        help: "Everything that can be known of the broker as a whole.",
        parameters: &[],
        body: None,
        schema: Snapshot::schema,
        run: handlers::status,
    },
    Route {
        method: "GET",
        path: "/api/sessions",
        needs: Needs::Look,
        help: "Sessions, sorted by client identifier.",
        parameters: &[
            text("state", "Only those: `connected`, `away` or `full`."),
            number("away_s", "Only those whose client has been away for at least so many seconds."),
            text("search", "Only those whose client identifier has this in it, whatever its case."),
            AFTER,
            LIMIT,
        ],
        body: None,
        schema: SessionPage::schema,
        run: sessions::list,
    },
    Route {
        method: "GET",
        path: "/api/sessions/{client}",
        needs: Needs::Look,
        help: "One session: subscriptions, ledger, and why its queue waits.",
        parameters: &[],
        body: None,
        schema: SessionDetail::schema,
        run: sessions::show,
    },
    Route {
        method: "DELETE",
        path: "/api/sessions/{client}",
        needs: Needs::Change,
        help: "Ends a session: its client is disconnected, its queue is dropped and counted. Bridges, queues and streams that the \
               configuration names are not ended.",
        parameters: &[],
        body: None,
        schema: Done::schema,
        run: sessions::end,
    },
    Route {
        method: "POST",
        path: "/api/sessions/{client}/kick",
        needs: Needs::Change,
        help: "Disconnects a client (reason 0x98); its session stays, if it outlives its connection.",
        parameters: &[],
        body: None,
        schema: Done::schema,
        run: sessions::kick,
    },
    Route {
        method: "POST",
        path: "/api/sessions/{client}/purge",
        needs: Needs::Change,
        help: "Drops what waits in a session's queue and was never sent; it is counted as purged.",
        parameters: &[],
        body: None,
        schema: Done::schema,
        run: sessions::purge,
    },
    Route {
        method: "GET",
        path: "/api/sessions/{client}/queue",
        needs: Needs::Payload,
        help: "The first messages in a session's queue. They stay where they are.",
        parameters: &[LIMIT],
        body: None,
        schema: QueuePeek::schema,
        run: sessions::peek,
    },
    Route {
        method: "GET",
        path: "/api/subscriptions",
        needs: Needs::Look,
        help: "Subscriptions, sorted by client identifier and filter.",
        parameters: &[
            text("topic", "Only those that match this topic name."),
            text("search", "Only those whose filter has this in it."),
            AFTER,
            LIMIT,
        ],
        body: None,
        schema: SubscriptionPage::schema,
        run: sessions::subscriptions,
    },
    Route {
        method: "GET",
        path: "/api/queues",
        needs: Needs::Look,
        help: "The queues with the most messages.",
        parameters: &[LIMIT],
        body: None,
        schema: QueueList::schema,
        run: sessions::queues,
    },
    Route {
        method: "GET",
        path: "/api/queues/declared",
        needs: Needs::Look,
        help: "Declared queues and their dead letters: how much is in them, and who consumes.",
        parameters: &[],
        body: None,
        schema: DeclaredList::schema,
        run: queues::declared,
    },
    Route {
        method: "POST",
        path: "/api/queues/{queue}/replay",
        needs: Needs::Change,
        help: "Puts dead letters back into the declared queue that they came from.",
        parameters: REPLAY,
        body: None,
        schema: Done::schema,
        run: queues::replay,
    },
    Route {
        method: "GET",
        path: "/api/delayed",
        needs: Needs::Look,
        help: "Messages that wait for their time. One that came a moment ago is there when it is on disk.",
        parameters: &[AFTER, LIMIT],
        body: None,
        schema: DelayedPage::schema,
        run: delayed::list,
    },
    Route {
        method: "DELETE",
        path: "/api/delayed/{key}",
        needs: Needs::Change,
        help: "Cancels a delayed message; it is counted.",
        parameters: &[],
        body: None,
        schema: Done::schema,
        run: delayed::cancel,
    },
    Route {
        method: "POST",
        path: "/api/delayed/{key}/move",
        needs: Needs::Change,
        help: "Gives a delayed message another time; it has another key then.",
        parameters: &[
            number("after_s", "In so many seconds by the broker's own clock."),
            text("at", "At this time by the wall clock, such as 2027-01-01T06:00:00Z."),
        ],
        body: None,
        schema: Done::schema,
        run: delayed::move_to,
    },
    Route {
        method: "GET",
        path: "/api/bridges",
        needs: Needs::Look,
        help: "Bridges: how each is, what waits for it, and what it has done.",
        parameters: &[],
        body: None,
        schema: BridgeList::schema,
        run: bridges::list,
    },
    Route {
        method: "POST",
        path: "/api/bridges/{bridge}/pause",
        needs: Needs::Change,
        help: "Sends nothing more to a bridge's upstream, over restarts too; its queue fills within its limits.",
        parameters: &[],
        body: None,
        schema: Done::schema,
        run: bridges::pause,
    },
    Route {
        method: "POST",
        path: "/api/bridges/{bridge}/resume",
        needs: Needs::Change,
        help: "Sends again after a pause, at the bridge's rate.",
        parameters: &[],
        body: None,
        schema: Done::schema,
        run: bridges::resume,
    },
    Route {
        method: "POST",
        path: "/api/bridges/{bridge}/purge",
        needs: Needs::Change,
        help: "Drops what waits for a bridge and is not in flight; it is counted as purged.",
        parameters: &[],
        body: None,
        schema: Done::schema,
        run: bridges::purge,
    },
    Route {
        method: "POST",
        path: "/api/bridges/{bridge}/dead/replay",
        needs: Needs::Change,
        help: "Puts dead letters back into the queue of the bridge that they came from.",
        parameters: REPLAY,
        body: None,
        schema: Done::schema,
        run: bridges::replay,
    },
    Route {
        method: "POST",
        path: "/api/bridges/{bridge}/dead/purge",
        needs: Needs::Change,
        help: "Drops a bridge's dead letters; they are counted as purged.",
        parameters: &[],
        body: None,
        schema: Done::schema,
        run: bridges::purge_dead,
    },
    Route {
        method: "GET",
        path: "/api/retained",
        needs: Needs::Look,
        help: "Retained messages without their payloads, sorted by topic.",
        parameters: &[
            text("filter", "Only topics that match this topic filter; `#` when it is left out."),
            AFTER,
            LIMIT,
        ],
        body: None,
        schema: RetainedPage::schema,
        run: handlers::retained,
    },
    Route {
        method: "GET",
        path: "/api/retained/{topic}",
        needs: Needs::Payload,
        help: "The retained message of a topic.",
        parameters: &[],
        body: None,
        schema: RetainedMessage::schema,
        run: handlers::retained_get,
    },
    Route {
        method: "PUT",
        path: "/api/retained/{topic}",
        needs: Needs::Change,
        help: "Publishes a message with the RETAIN flag.",
        parameters: &[number("qos", "Its quality of service, 0 to 2; 1 when it is left out.")],
        body: Some("The payload, as it is."),
        schema: Done::schema,
        run: handlers::retained_set,
    },
    Route {
        method: "DELETE",
        path: "/api/retained/{topic}",
        needs: Needs::Change,
        help: "Removes the retained message of a topic, by publishing an empty one.",
        parameters: &[],
        body: None,
        schema: Done::schema,
        run: handlers::retained_clear,
    },
    Route {
        method: "GET",
        path: "/api/ledger",
        needs: Needs::Look,
        help: "What became of all messages since the store was made.",
        parameters: &[],
        body: None,
        schema: LedgerPart::schema,
        run: handlers::ledger,
    },
    Route {
        method: "GET",
        path: "/api/drops",
        needs: Needs::Look,
        help: "Sessions that messages were dropped from, or expired in.",
        parameters: &[LIMIT],
        body: None,
        schema: DropList::schema,
        run: sessions::drops,
    },
    Route {
        method: "GET",
        path: "/api/store",
        needs: Needs::Look,
        help: "The store.",
        parameters: &[],
        body: None,
        schema: StoreAnswer::schema,
        run: store::show,
    },
    Route {
        method: "GET",
        path: "/api/store/journal",
        needs: Needs::Look,
        help: "The journal: what is in it, and how much of that the store's file has.",
        parameters: &[],
        body: None,
        schema: JournalAnswer::schema,
        run: store::journal,
    },
    Route {
        method: "POST",
        path: "/api/store/fold",
        needs: Needs::Change,
        help: "Moves what is in the journal into the store's file now.",
        parameters: &[],
        body: None,
        schema: FoldAnswer::schema,
        run: store::fold,
    },
    Route {
        method: "POST",
        path: "/api/store/compact",
        needs: Needs::Change,
        help: "Gives room that the store's file does not need any more back to the file system; refused while it holds much.",
        parameters: &[],
        body: None,
        schema: CompactAnswer::schema,
        run: store::compact,
    },
    Route {
        method: "POST",
        path: "/api/store/backup",
        needs: Needs::Change,
        help: "Writes a copy of the store into a new file of the broker's machine, while the broker goes on.",
        parameters: &[text("to", "The file, with its whole path; there must be none yet.")],
        body: None,
        schema: BackupAnswer::schema,
        run: store::backup,
    },
    Route {
        method: "GET",
        path: "/api/why",
        needs: Needs::Look,
        help: "Why a message on a topic reaches a client, or does not.",
        parameters: &[text("client", "The client identifier."), text("topic", "The topic name.")],
        body: None,
        schema: Why::schema,
        run: why::why,
    },
    Route {
        method: "GET",
        path: "/api/access",
        needs: Needs::Look,
        help: "How many users and rules there are, and how many addresses are banned.",
        parameters: &[],
        body: None,
        schema: AccessAnswer::schema,
        run: access::show,
    },
    Route {
        method: "GET",
        path: "/api/access/test",
        needs: Needs::Look,
        help: "Whether a client may do something by the rules that are in force, and which rule says so. What a token or an HTTP service \
               says of one connection is not asked.",
        parameters: &[
            text("action", "`connect`, `publish`, `subscribe` or `receive`."),
            text("topic", "The topic name, or the topic filter; none for `connect`."),
            text("user", "Its user name; a client without one when it is left out."),
            text("client", "Its client identifier."),
            text("groups", "Groups that it is in beside those of the rules, with commas between them."),
            text("address", "Where it comes from."),
            text("listener", "The `url` of the listener that it comes by."),
            number("qos", "The QoS that it publishes with; 0 when it is left out."),
            number("retain", "1: what it publishes is retained."),
        ],
        body: None,
        schema: AclAnswer::schema,
        run: access::test,
    },
    Route {
        method: "GET",
        path: "/api/access/recent",
        needs: Needs::Look,
        help: "What clients did lately, and whether they might: who, what, which topic, how often; no payloads. Subscriptions that stand \
               are in it, however old they are.",
        parameters: &[
            number("since_s", "Only what was done in the last so many seconds; all that is kept when it is left out."),
            AFTER,
            LIMIT,
        ],
        body: None,
        schema: RecentPage::schema,
        run: access::recent,
    },
    Route {
        method: "GET",
        path: "/api/access/bans",
        needs: Needs::Look,
        help: "Addresses that are banned for wrong passwords.",
        parameters: &[],
        body: None,
        schema: BanList::schema,
        run: access::bans,
    },
    Route {
        method: "DELETE",
        path: "/api/access/bans",
        needs: Needs::Change,
        help: "Forgives every address.",
        parameters: &[],
        body: None,
        schema: Done::schema,
        run: access::forgive_all,
    },
    Route {
        method: "DELETE",
        path: "/api/access/bans/{address}",
        needs: Needs::Change,
        help: "Forgives an address: it is not banned any more, and its failures are forgotten.",
        parameters: &[],
        body: None,
        schema: Done::schema,
        run: access::forgive,
    },
    Route {
        method: "POST",
        path: "/api/reload",
        needs: Needs::Change,
        help: "Reads the configuration, the files of `[access]` and the certificates again, as SIGHUP does: all or nothing. Says what \
               is other, and what of it needs a restart.",
        parameters: &[],
        body: None,
        schema: Changes::schema,
        run: access::reload,
    },
    Route {
        method: "POST",
        path: "/api/access/dynamic",
        needs: Needs::Change,
        help: "Does commands of dynamic security, those that mosquitto's plug-in has; answered after the commit.",
        parameters: &[],
        body: Some("`{\"commands\": [...]}`, as it is published to `$CONTROL/dynamic-security/v1`."),
        schema: access::dynamic_schema,
        run: access::dynamic,
    },
    Route {
        method: "GET",
        path: "/api/log",
        needs: Needs::Look,
        help: "How much goes to the log, and what of it was lost.",
        parameters: &[],
        body: None,
        schema: LogAnswer::schema,
        run: handlers::log,
    },
    Route {
        method: "PUT",
        path: "/api/log",
        needs: Needs::Change,
        help: "Changes how much goes to the log, until the broker is started anew.",
        parameters: &[text("level", "`error`, `warn`, `info`, `debug` or `trace`.")],
        body: None,
        schema: LogAnswer::schema,
        run: handlers::log_set,
    },
    Route {
        method: "PUT",
        path: "/api/log/client",
        needs: Needs::Change,
        help: "Puts the packets of one client into the log for a while, at level `info`: what they are and of which topic, never \
               their payloads. The client before it is not watched any more.",
        parameters: &[
            text("client", "Client identifier."),
            number("for_s", "For how many seconds; 300 without it, 86,400 at most."),
        ],
        body: None,
        schema: LogAnswer::schema,
        run: handlers::log_watch,
    },
    Route {
        method: "DELETE",
        path: "/api/log/client",
        needs: Needs::Change,
        help: "No client's packets go into the log any more.",
        parameters: &[],
        body: None,
        schema: LogAnswer::schema,
        run: handlers::log_unwatch,
    },
    Route {
        method: "POST",
        path: "/api/shutdown",
        needs: Needs::Change,
        help: "Ends the broker as SIGTERM does.",
        parameters: &[],
        body: None,
        schema: Done::schema,
        run: handlers::shutdown,
    },
];

/// The schema of every answer that is no success.
pub(super) fn failure() -> Value {
    Failure::schema()
}

/// What a request's method and path lead to.
pub(super) enum Found {
    Route(&'static Route, String),
    /// The path is there; these are its methods.
    OtherMethod(String),
    Nothing,
}

/// Looks a request up. `path` is still encoded: a name may have a `/` in it.
pub(super) fn find(method: &str, path: &str) -> Found {
    let mut others = Vec::new();
    for route in ROUTES {
        let Some(name) = matches(route.path, path) else { continue };
        if route.method == method {
            return Found::Route(route, name.to_owned());
        }
        others.push(route.method);
    }
    if others.is_empty() { Found::Nothing } else { Found::OtherMethod(others.join(", ")) }
}

/// What stands in the place of `{…}`; empty when there is none.
fn matches<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    let Some((before, rest)) = pattern.split_once('{') else { return (pattern == path).then_some("") };
    let after = rest.split_once('}').map_or("", |(_, after)| after);
    let name = path.strip_prefix(before)?.strip_suffix(after)?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;

    #[test]
    fn a_name_is_one_segment() {
        assert_eq!(matches("/api/sessions/{client}", "/api/sessions/a%2Fb"), Some("a%2Fb"));
        assert_eq!(matches("/api/sessions/{client}", "/api/sessions/"), None);
        assert_eq!(matches("/api/sessions/{client}", "/api/sessions/a/kick"), None);
        assert_eq!(matches("/api/sessions/{client}/kick", "/api/sessions/a/kick"), Some("a"));
        assert_eq!(matches("/api/sessions", "/api/sessions"), Some(""));
        assert_eq!(matches("/api/sessions", "/api/sessions/"), None);
    }

    #[test]
    fn no_route_is_hidden_by_another() {
        for route in ROUTES {
            let path = route
                .path
                .replace("{client}", "x")
                .replace("{topic}", "x")
                .replace("{queue}", "x")
                .replace("{key}", "x");
            match find(route.method, &path) {
                Found::Route(found, _) => assert_eq!((found.path, found.method), (route.path, route.method)),
                Found::OtherMethod(_) | Found::Nothing => panic!("{path}"),
            }
        }
        assert!(matches!(find("PATCH", "/api/status"), Found::OtherMethod(methods) if methods == "GET"));
        assert!(matches!(find("GET", "/api/none"), Found::Nothing));
    }

    #[test]
    fn nothing_is_changed_by_get() {
        for route in ROUTES {
            assert_eq!(route.method == "GET", route.needs != Needs::Change, "{} {}", route.method, route.path);
        }
    }
}
