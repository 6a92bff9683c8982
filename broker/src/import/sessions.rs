//! What mosquitto's store held, as the lines of an export: docs/storage.md says what each is.

use std::collections::HashMap;
use std::io::{self, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use forebay_wire::topic;
use serde_json::{Value, json};

use super::database::{Database, Message, Progress, Session, Subscription, Waiting};

/// Packet identifiers go round after so many.
const ROUND: u64 = 65_535;
/// What mosquitto has in flight lies close together; a step farther than this is no order that a place could keep.
const STEP_MAX: u64 = 20_000;
const NEVER_S: u32 = u32::MAX;

/// The lines, one after the other, as a file that is read.
pub(super) struct Lines<'a> {
    lines: Box<dyn Iterator<Item = String> + 'a>,
    line: Vec<u8>,
    at: usize,
}

impl Read for Lines<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.line.len() {
            let Some(next) = self.lines.next() else { return Ok(0) };
            self.line = next.into_bytes();
            self.line.push(b'\n');
            self.at = 0;
        }
        let rest = self.line.get(self.at..).unwrap_or_default();
        let length = rest.len().min(into.len());
        if let (Some(into), Some(rest)) = (into.get_mut(..length), rest.get(..length)) {
            into.copy_from_slice(rest);
        }
        self.at += length;
        Ok(length)
    }
}

impl<'a> Lines<'a> {
    /// `now_ms`: the wall clock. The new broker's own clock begins with it.
    pub(super) fn new(found: &'a Database<'a>, now_ms: u64, left: &mut Vec<String>) -> Self {
        let clock = Clock { now_ms };
        let retained = retained(found, clock, left);
        let late = late(found);
        let plans: Vec<Plan<'a>> = found
            .sessions
            .iter()
            .zip(late)
            .map(|(session, late)| Plan::new(found, session, &late, clock, left))
            .collect();
        let counts = json!({"end": {
            "sessions": plans.len(),
            "subscriptions": plans.iter().map(|plan| plan.subscriptions.len()).sum::<usize>(),
            "queued": plans.iter().map(|plan| plan.queue.len()).sum::<usize>(),
            "retained": retained.len(),
        }});
        let head = [
            json!({"export": {"version": 1}}),
            json!({"store": {"time_ms": now_ms, "wall_ms": now_ms, "last_session": plans.len(), "ended": ledger(0)}}),
        ];
        let retained = retained.into_iter().map(move |message| json!({"retained": clock.message(message)}).to_string());
        let numbered = (1_u64..).zip(plans);
        let sessions = numbered.flat_map(move |(no, plan)| plan.lines(no, clock));
        let head = head.into_iter().map(|line| line.to_string());
        let lines = Box::new(head.chain(retained).chain(sessions).chain([counts.to_string()]));
        Self { lines, line: Vec::new(), at: 0 }
    }
}

#[derive(Clone, Copy)]
struct Clock {
    now_ms: u64,
}

impl Clock {
    fn is_over(self, message: &Message<'_>) -> bool {
        message.expires_s != 0 && message.expires_s.saturating_mul(1_000) <= self.now_ms
    }

    fn message(self, message: &Message<'_>) -> Value {
        let text = std::str::from_utf8(message.payload).ok();
        let expires_at_ms = Some(message.expires_s.saturating_mul(1_000)).filter(|at| *at > 0);
        json!({
            "topic": message.topic,
            "qos": message.qos,
            "retain": message.retain,
            "accepted_at_ms": self.now_ms,
            "expires_at_ms": expires_at_ms,
            "properties": STANDARD.encode(message.properties),
            "payload": text,
            "payload_base64": text.is_none().then(|| STANDARD.encode(message.payload)),
        })
    }
}

fn ledger(accepted: usize) -> Value {
    json!({"accepted": accepted, "delivered": 0, "expired": 0})
}

fn is_good(message: &Message<'_>) -> bool {
    topic::check_name(message.topic, usize::MAX).is_ok()
}

fn retained<'a>(found: &'a Database<'a>, clock: Clock, left: &mut Vec<String>) -> Vec<&'a Message<'a>> {
    let mut by_topic = HashMap::new();
    let (mut lost, mut over) = (0, 0);
    for message in &found.retained {
        match found.messages.get(message) {
            Some(message) if message.payload.is_empty() => {}
            Some(message) if clock.is_over(message) => over += 1,
            // The broker's own topics are made anew.
            Some(message) if message.topic.starts_with("$SYS/") => {}
            Some(message) if is_good(message) => drop(by_topic.insert(message.topic, message)),
            _ => lost += 1,
        }
    }
    if lost > 0 {
        left.push(format!("store: {lost} retained messages that are not in the file, or whose topic is none"));
    }
    if over > 0 {
        left.push(format!("store: {over} retained messages have expired"));
    }
    let mut retained: Vec<_> = by_topic.into_values().collect();
    retained.sort_by_key(|message| message.topic);
    retained
}

/// For each session what it gets of messages that mosquitto has acknowledged at QoS 2 and not published yet. Here a message is
/// published when it comes, so this is made up for.
fn late(found: &Database<'_>) -> Vec<Vec<Waiting>> {
    let mut late: Vec<Vec<Waiting>> = found.sessions.iter().map(|_| Vec::new()).collect();
    for (publisher, (_, key)) in found.sessions.iter().flat_map(|s| s.unreleased.iter().map(move |u| (s, u))) {
        let Some(message) = found.messages.get(key) else { continue };
        for (session, late) in found.sessions.iter().zip(&mut late) {
            let own = session.client_id == publisher.client_id;
            let wanted = |sub: &&Subscription<'_>| {
                !(own && sub.no_local)
                    && topic::split_share(sub.filter).is_none()
                    && topic::matches(sub.filter, message.topic)
            };
            let Some(best) = session.subscriptions.iter().filter(wanted).max_by_key(|sub| sub.qos) else { continue };
            late.push(Waiting {
                message: *key,
                packet_id: 0,
                qos: best.qos.min(message.qos),
                retain: best.retain_as_published && message.retain,
                progress: Progress::Queued,
                subscription_id: best.id,
            });
        }
    }
    late
}

/// A session as it will be.
struct Plan<'a> {
    session: &'a Session<'a>,
    subscriptions: Vec<&'a Subscription<'a>>,
    /// With their places, ascending.
    queue: Vec<(u64, Waiting, &'a Message<'a>)>,
    /// Places below may have been sent.
    sent: u64,
    next: u64,
    /// Since when it is away, by the wall clock.
    away_since_ms: u64,
}

impl<'a> Plan<'a> {
    fn new(
        found: &'a Database<'a>,
        session: &'a Session<'a>,
        late: &[Waiting],
        clock: Clock,
        left: &mut Vec<String>,
    ) -> Self {
        let id = session.client_id;
        let mut by_filter = HashMap::new();
        for sub in &session.subscriptions {
            match topic::check_filter(sub.filter, usize::MAX) {
                Ok(()) => drop(by_filter.insert(sub.filter, sub)),
                Err(error) => {
                    left.push(format!("store: a subscription of {id:?} to {:?}: {}", sub.filter, error.detail))
                }
            }
        }
        let mut subscriptions: Vec<_> = by_filter.into_values().collect();
        subscriptions.sort_by_key(|sub| sub.filter);
        let Places { placed: queue, sent, lost, over } =
            places(found, session.queue.iter().chain(late).copied(), clock);
        if over > 0 {
            left.push(format!("store: {over} messages to {id:?} have expired"));
        }
        if lost > 0 {
            left.push(format!("store: {lost} messages to {id:?} that are not in the file, or whose topic is none"));
        }
        if id.starts_with("local.") && !queue.is_empty() {
            let count = queue.len();
            left.push(format!(
                "store: {count} messages wait for the bridge of mosquitto's that was {id:?}; they are in the session of that \
                 name, and the new bridge does not take them: `forebay sub --id {id} --keep` does"
            ));
        }
        let span_ms = u64::from(session.expiry_s) * 1_000;
        let since = session.ends_s.saturating_mul(1_000).checked_sub(span_ms).filter(|_| session.ends_s > 0);
        let next = queue.last().map_or(0, |(place, ..)| place + 1);
        let away_since_ms = since.unwrap_or(clock.now_ms).min(clock.now_ms);
        Self { session, subscriptions, queue, sent, next, away_since_ms }
    }

    fn lines(self, no: u64, clock: Clock) -> impl Iterator<Item = String> + 'a {
        let session = self.session;
        // Which version the client speaks it says when it comes again; only MQTT 5 has a time that it chose.
        let protocol = if session.expiry_s == NEVER_S { 4 } else { 5 };
        let record = json!({"session": {
            "no": no,
            "client_id": session.client_id,
            "protocol": protocol,
            "expiry_s": session.expiry_s,
            "disconnected_at_ms": self.away_since_ms,
        }});
        let subscriptions = self.subscriptions.into_iter().map(move |sub| {
            json!({"subscription": {
                "session": no,
                "filter": sub.filter,
                "qos": sub.qos,
                "no_local": sub.no_local,
                "retain_as_published": sub.retain_as_published,
                "subscription_id": sub.id,
            }})
        });
        let released = self.queue.iter().filter(|(_, waiting, _)| waiting.progress == Progress::Received);
        let released: Vec<u64> = released.map(|(place, ..)| *place).collect();
        let bytes: usize = self.queue.iter().map(|(.., message)| size(message)).sum();
        let mut inbound: Vec<u16> = session.unreleased.iter().map(|(packet_id, _)| *packet_id).collect();
        inbound.sort_unstable();
        let state = json!({"state": {
            "session": no,
            "next_seq": self.next,
            "floor": self.queue.first().map_or(self.next, |(place, ..)| *place),
            "sent": self.sent,
            "released": released,
            "inbound": inbound,
            "queued": self.queue.len(),
            "queued_bytes": bytes,
            "ledger": ledger(self.queue.len()),
        }});
        let queue = self.queue.into_iter().map(move |(place, waiting, message)| {
            let ids: Vec<u32> = Some(waiting.subscription_id).filter(|id| *id > 0).into_iter().collect();
            json!({"queued": {
                "session": no,
                "seq": place,
                "qos": waiting.qos,
                "retain": waiting.retain,
                "subscription_ids": ids,
                "message": clock.message(message),
            }})
        });
        [record].into_iter().chain(subscriptions).chain([state]).chain(queue).map(|line| line.to_string())
    }
}

/// As the ledger counts a message.
fn size(message: &Message<'_>) -> usize {
    message.topic.len() + message.properties.len() + message.payload.len()
}

/// A queue with its places.
#[derive(Default)]
struct Places<'a> {
    placed: Vec<(u64, Waiting, &'a Message<'a>)>,
    /// The first place that has not been sent.
    sent: u64,
    /// Messages that are not in the file, or whose topic is none.
    lost: u64,
    /// Messages that have expired.
    over: u64,
}

/// Gives each message its place. Packet identifiers are made from places, so what is in flight gets the places whose identifiers
/// mosquitto has used: the client knows a message of QoS 2 that comes again by its own.
fn places<'a>(found: &'a Database<'a>, queue: impl Iterator<Item = Waiting>, clock: Clock) -> Places<'a> {
    let mut places = Places::default();
    let mut next = 0_u64;
    for waiting in queue {
        let message = match found.messages.get(&waiting.message) {
            Some(message) if is_good(message) => message,
            _ => {
                places.lost += 1;
                continue;
            }
        };
        // What the client has received is owed its PUBREL, whatever its age.
        if waiting.progress != Progress::Received && clock.is_over(message) {
            places.over += 1;
            continue;
        }
        if waiting.progress != Progress::Queued && waiting.packet_id > 0 {
            let wanted = u64::from(waiting.packet_id) - 1;
            let step = (wanted + ROUND - next % ROUND) % ROUND;
            if places.placed.is_empty() || step <= STEP_MAX {
                next += step;
            }
            places.sent = next + 1;
        }
        places.placed.push((next, waiting, message));
        next += 1;
    }
    places
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::database;
    use super::*;

    fn queued(packet_id: u16, progress: Progress) -> Waiting {
        Waiting { message: 1, packet_id, qos: 2, retain: false, progress, subscription_id: 0 }
    }

    #[test]
    fn what_is_in_flight_keeps_its_packet_identifier() {
        let message = Message { topic: "a", payload: b"", properties: b"", qos: 2, retain: false, expires_s: 0 };
        let found = Database { messages: HashMap::from([(1, message)]), ..Database::default() };
        let queue = [
            queued(65_534, Progress::Received),
            queued(65_535, Progress::Sent),
            queued(3, Progress::Sent),
            queued(4, Progress::Queued),
        ];
        let places = places(&found, queue.into_iter(), Clock { now_ms: 0 });
        let ids: Vec<u64> = places.placed.iter().map(|(place, ..)| place % ROUND + 1).collect();
        assert_eq!(ids, [65_534, 65_535, 3, 4]);
        assert!(places.placed.is_sorted_by_key(|(place, ..)| *place));
        assert_eq!(places.sent, places.placed[2].0 + 1);
    }

    /// A store of mosquitto 2.0.11: a client of MQTT 3.1.1 and one of 5, a message with an expiry, one that is retained.
    #[test]
    fn what_has_expired_is_said() {
        let mut left = Vec::new();
        let found = database::read(database::tests::STORE, &mut left).unwrap();
        let mut text = String::new();
        Lines::new(&found, 1_795_932_500_000, &mut left).read_to_string(&mut text).unwrap();
        assert_eq!(left, Vec::<String>::new());
        assert_eq!(text.lines().filter(|line| line.starts_with("{\"queued\"")).count(), 4, "{text}");
        let mut later = String::new();
        Lines::new(&found, 1_895_932_500_000, &mut left).read_to_string(&mut later).unwrap();
        assert_eq!(later.lines().filter(|line| line.starts_with("{\"queued\"")).count(), 2, "{later}");
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
