//! Answers about sessions, their subscriptions and their queues.

use std::sync::Arc;

use forebay_wire::reason::ReasonCode;
use forebay_wire::topic::{matches, without_share};
use forebay_wire::types::Version;

use super::answers::{
    DropList, QueueList, QueuePeek, QueuedMessage, SessionDetail, SessionDrops, SessionPage, SessionRow,
    SubscriptionPage, SubscriptionRow,
};
use super::declared::why_it_stays;
use super::handlers::{done, json, limit, page, payload};
use super::routes::{Ask, Error, Outcome};
use crate::broker::Slot;
use crate::message::Time;
use crate::observe::LedgerPart;
use crate::session::Session;
use crate::store::{NEVER_S, QueueEntry, StoredSubscription};

/// Bytes of a payload that a look into a queue shows.
const PEEK_PAYLOAD_BYTES: usize = 4096;
/// Bytes of messages that one page from disk may have for it.
const PEEK_PAGE_BYTES: usize = 4 << 20;
/// Places that are read to find the oldest message that still waits.
const PAGE_FOR_AGE: usize = 100;

fn slot(ask: &Ask<'_>) -> Result<Arc<Slot>, Error> {
    let client = &ask.name;
    let missing = || Error::Missing(format!("there is no session of \"{client}\""));
    ask.on.broker.slot_of(client).ok_or_else(missing)
}

/// A session in one row.
pub(super) fn row(slot: &Slot, now: Time) -> SessionRow {
    let full = slot.full();
    slot.look(|session| {
        let figures = session.queue_figures();
        let since = session.disconnected_at().filter(|_| !session.connected());
        let ends_at = since.filter(|_| session.expiry_s() != NEVER_S).map(|at| at.plus_s(session.expiry_s()));
        SessionRow {
            client_id: session.client_id().to_string(),
            connected: session.connected(),
            protocol: match session.version() {
                Version::V31 => "3.1",
                Version::V311 => "3.1.1",
                Version::V5 => "5",
            }
            .to_owned(),
            away_ms: since.map(|at| now.since(at)),
            ends_in_ms: ends_at.map(|at| at.since(now)),
            subscriptions: session.subscriptions().len() as u64,
            queued_messages: figures.messages,
            queued_bytes: figures.bytes,
            in_flight: figures.in_flight,
            oldest_ms: figures.oldest.map(|at| now.since(at)),
            full,
        }
    })
}

/// The same, with the age of a message that is on disk only: for few sessions, since the disk is read for each.
fn row_with_age(ask: &Ask<'_>, slot: &Slot, now: Time) -> SessionRow {
    let mut row = row(slot, now);
    let on_disk = slot.look(|session| session.queue_figures().on_disk);
    if let (None, Some((from, _))) = (row.oldest_ms, on_disk) {
        let read = ask.on.reader.page(slot.no(), from, PAGE_FOR_AGE, PEEK_PAGE_BYTES).unwrap_or_default();
        let first = slot.look(|session| read.into_iter().find(|entry| session.waits_on_disk(entry.seq)));
        row.oldest_ms = first.map(|entry| now.since(entry.message.accepted_at));
    }
    row
}

pub(super) fn list(ask: &Ask<'_>) -> Outcome {
    let query = &ask.query;
    let state = query.text("state");
    if state.is_some_and(|state| !matches!(state, "connected" | "away" | "full")) {
        return Err(Error::Wrong("state must be connected, away or full".to_owned()));
    }
    let away_ms = query.number("away_s").map_err(Error::Wrong)?.map(|s| s.saturating_mul(1000));
    let search = query.text("search").map(str::to_lowercase);
    let now = ask.on.broker.clock.now();
    let rows = ask.on.broker.all_slots().into_iter().map(|slot| row(&slot, now));
    let rows = rows.filter(|row| {
        let fits = match state {
            Some("connected") => row.connected,
            Some("away") => !row.connected,
            Some(_) => row.full,
            None => true,
        };
        fits && away_ms.is_none_or(|least| row.away_ms.is_some_and(|away| away >= least))
            && search.as_ref().is_none_or(|search| row.client_id.to_lowercase().contains(search))
    });
    let page = page(ask, rows.collect(), |row| row.client_id.clone())?;
    json(&SessionPage { total: page.total, sessions: page.items, next: page.next })
}

pub(super) fn show(ask: &Ask<'_>) -> Outcome {
    let slot = slot(ask)?;
    let session = row_with_age(ask, &slot, ask.on.broker.clock.now());
    let (subscriptions, ledger, waits) = slot.look(|session| {
        let client = session.client_id();
        let subscriptions = session.subscriptions().iter().map(|of| subscription(client, of)).collect();
        let (ledger, queued) = session.ledger();
        (subscriptions, LedgerPart::new(&ledger, queued), waits(session))
    });
    json(&SessionDetail { session, subscriptions, ledger, waits })
}

/// Why what is in the queue is not gone.
pub(super) fn waits(session: &Session) -> String {
    let figures = session.queue_figures();
    if figures.messages == 0 {
        return "nothing waits".to_owned();
    }
    if !session.connected() {
        return "its client is away".to_owned();
    }
    if session.out_len() > 0 {
        return format!("its socket takes no more now: {} bytes wait for it", session.out_len());
    }
    if figures.in_flight > 0 && figures.in_flight >= u64::from(figures.window) {
        return format!("its client has not acknowledged {} messages, and takes no more until then", figures.in_flight);
    }
    if figures.in_flight > 0 && figures.in_flight == figures.messages {
        return format!("its client has not acknowledged {} messages", figures.in_flight);
    }
    match figures.on_disk {
        Some(_) => "it is being read from disk".to_owned(),
        None => "it is on its way".to_owned(),
    }
}

fn subscription(client_id: &str, of: &StoredSubscription) -> SubscriptionRow {
    SubscriptionRow {
        client_id: client_id.to_owned(),
        filter: of.filter.clone(),
        qos: u64::from(of.qos),
        no_local: of.no_local,
        retain_as_published: of.retain_as_published,
        subscription_id: Some(u64::from(of.subscription_id)).filter(|id| *id > 0),
    }
}

pub(super) fn subscriptions(ask: &Ask<'_>) -> Outcome {
    let (topic, search) = (ask.query.text("topic"), ask.query.text("search"));
    let wanted = |of: &&StoredSubscription| {
        topic.is_none_or(|topic| matches(without_share(&of.filter), topic))
            && search.is_none_or(|search| of.filter.contains(search))
    };
    let mut rows = Vec::new();
    for slot in ask.on.broker.all_slots() {
        slot.look(|session| {
            let client = session.client_id();
            rows.extend(session.subscriptions().iter().filter(wanted).map(|of| subscription(client, of)));
        });
    }
    // A client identifier has no U+0000 in it: the order is by client first.
    let page = page(ask, rows, |row| format!("{}\0{}", row.client_id, row.filter))?;
    json(&SubscriptionPage { total: page.total, subscriptions: page.items, next: page.next })
}

pub(super) fn queues(ask: &Ask<'_>) -> Outcome {
    let limit = limit(ask)?;
    let now = ask.on.broker.clock.now();
    let figures = |slot: &Arc<Slot>| slot.look(|s| (s.queue_figures().messages, s.client_id().clone()));
    let slots = ask.on.broker.all_slots().into_iter().map(|slot| (figures(&slot), slot));
    let mut slots: Vec<_> = slots.filter(|((messages, _), _)| *messages > 0).collect();
    let total = slots.len() as u64;
    slots.sort_by(|((a, x), _), ((b, y), _)| b.cmp(a).then_with(|| x.cmp(y)));
    let queues = slots.iter().take(limit).map(|(_, slot)| row_with_age(ask, slot, now)).collect();
    json(&QueueList { total, queues })
}

pub(super) fn drops(ask: &Ask<'_>) -> Outcome {
    let limit = limit(ask)?;
    let (all, queued) = ask.on.broker.ledger();
    let mut sessions = Vec::new();
    for slot in ask.on.broker.all_slots() {
        let (client, (ledger, queued)) = slot.look(|session| (session.client_id().to_string(), session.ledger()));
        let lost = ledger.expired + ledger.dropped.iter().sum::<u64>();
        if lost > 0 {
            sessions.push((lost, SessionDrops { client_id: client, ledger: LedgerPart::new(&ledger, queued) }));
        }
    }
    sessions.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.client_id.cmp(&y.client_id)));
    let sessions = sessions.into_iter().take(limit).map(|(_, drops)| drops).collect();
    json(&DropList { all: LedgerPart::new(&all, queued), sessions })
}

pub(super) fn kick(ask: &Ask<'_>) -> Outcome {
    let slot = slot(ask)?;
    if !slot.online() {
        return Err(Error::Conflict(format!("\"{}\" is not connected", ask.name)));
    }
    tracing::info!(client = ask.name, "is disconnected through the API");
    slot.kick(ReasonCode::AdministrativeAction as u8);
    done(format!("{} is being disconnected", ask.name))
}

pub(super) fn purge(ask: &Ask<'_>) -> Outcome {
    let slot = slot(ask)?;
    let queue = ask.on.broker.purge_queue(&ask.name);
    let gone = queue.unwrap_or_else(|| slot.with(&ask.on.broker, Session::purge));
    tracing::info!(client = ask.name, messages = gone, "its queue is emptied through the API");
    done(format!("{gone} messages are dropped from the queue of {}", ask.name))
}

pub(super) fn end(ask: &Ask<'_>) -> Outcome {
    let slot = slot(ask)?;
    if let Some(why) = why_it_stays(&ask.on.broker.config, &ask.name) {
        return Err(Error::Conflict(why));
    }
    tracing::info!(client = ask.name, "its session is ended through the API");
    if slot.online() {
        slot.kick(ReasonCode::AdministrativeAction as u8);
    }
    ask.on.broker.end_session(&slot);
    done(format!("the session of {} has ended", ask.name))
}

pub(super) fn peek(ask: &Ask<'_>) -> Outcome {
    let limit = limit(ask)?;
    let slot = slot(ask)?;
    let (figures, mut entries) = slot.look(|session| (session.queue_figures(), session.first_in_memory(limit)));
    let mut from = figures.on_disk.map(|(from, _)| from);
    while let Some(next) = from.filter(|_| entries.len() < limit) {
        // Read without the session's lock: what was delivered meanwhile is left out below.
        let read = ask.on.reader.page(slot.no(), next, limit, PEEK_PAGE_BYTES);
        let read = read.map_err(|error| Error::Failed(error.to_string()))?;
        from = read.last().map(|entry| entry.seq + 1);
        slot.look(|session| entries.extend(read.into_iter().filter(|entry| session.waits_on_disk(entry.seq))));
    }
    if entries.len() < limit {
        entries.extend(slot.look(|session| session.last_in_memory(limit - entries.len())));
    }
    entries.sort_by_key(|entry| entry.seq);
    entries.dedup_by_key(|entry| entry.seq);
    entries.truncate(limit);
    let now = ask.on.broker.clock.now();
    let messages = entries.iter().map(|entry| queued(entry, now)).collect();
    json(&QueuePeek { total: figures.messages, messages })
}

fn queued(entry: &QueueEntry, now: Time) -> QueuedMessage {
    let message = &entry.message;
    let shown = message.payload();
    let mut end = shown.len().min(PEEK_PAYLOAD_BYTES);
    // A character is not cut in two.
    while end < shown.len() && end > PEEK_PAYLOAD_BYTES - 4 && shown.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
        end -= 1;
    }
    let (text, base64) = payload(shown.get(..end).unwrap_or_default());
    QueuedMessage {
        place: entry.seq,
        topic: message.topic().to_owned(),
        qos: u64::from(entry.qos),
        retain: entry.retain,
        age_ms: now.since(message.accepted_at),
        expires_in_ms: message.expires_at.map(|at| at.since(now)),
        bytes: message.size() as u64,
        text,
        base64,
    }
}
