//! What a broker knows whose file has become unreadable while it ran: a file that is made of what can be read gets it back.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::redb::Database;

use super::apply::Tables;
use super::recover::Found;
use super::redb::Fault;
use super::{Message, RecoveredSession, rows};

/// Whose the sessions are, what they are subscribed to, and what is retained. Queues are not in it: they lie on the disk.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Sessions that outlive their connections, without states.
    pub sessions: Vec<RecoveredSession>,
    /// All retained messages.
    pub retained: Vec<Arc<Message>>,
}

/// Rows that are missing.
#[derive(Default)]
struct Missing {
    sessions: Vec<(u64, Vec<u8>)>,
    subscriptions: Vec<(u64, String, Vec<u8>)>,
    retained: Vec<(String, Vec<u8>)>,
}

/// Puts back what the file does not have.
pub(super) fn put_back(
    database: &Database,
    found: &mut Found,
    known: &Known,
    lost: &mut Vec<String>,
) -> Result<(), Fault> {
    let mut missing = Missing::default();
    for session in &known.sessions {
        sessions(found, session, &mut missing);
    }
    retained(found, &known.retained, &mut missing);
    let Missing { sessions, subscriptions, retained } = missing;
    if sessions.is_empty() && subscriptions.is_empty() && retained.is_empty() {
        return Ok(());
    }
    lost.push(format!(
        "{} sessions, {} subscriptions and {} retained messages are as the broker knew them before it began anew",
        sessions.len(),
        subscriptions.len(),
        retained.len()
    ));
    let txn = database.begin_write()?;
    {
        let mut tables = Tables::open(&txn)?;
        let mut mark = found.mark.unwrap_or_default();
        mark.last_session = sessions.iter().map(|(no, _)| *no).fold(mark.last_session, u64::max);
        tables.meta.insert(rows::MARK, rows::mark(&mark).as_slice())?;
        found.mark = Some(mark);
        for (no, row) in &sessions {
            tables.session.insert(no, row.as_slice())?;
        }
        for (no, filter, row) in &subscriptions {
            tables.subscription.insert((*no, filter.as_str()), row.as_slice())?;
        }
        for (topic, row) in &retained {
            tables.retained.insert(topic.as_str(), row.as_slice())?;
        }
    }
    txn.commit()?;
    Ok(())
}

fn sessions(found: &mut Found, known: &RecoveredSession, missing: &mut Missing) {
    let no = known.no.0;
    let Some(record) = known.record.as_ref().filter(|_| !found.has_ended(no)) else { return };
    // A broker that could not read the file had to begin with the first number: here it is somebody else's.
    let no = if found.is_of_another(no, &record.client_id) { found.next_number() } else { no };
    let session = found.session(no);
    if session.record.is_none() {
        missing.sessions.push((no, rows::session(no, record)));
        session.record = Some(record.clone());
    }
    for subscription in &known.subscriptions {
        if let Err(at) = session.subscriptions.binary_search_by(|s| s.filter.cmp(&subscription.filter)) {
            session.subscriptions.insert(at, subscription.clone());
            let row = rows::subscription(no, subscription);
            missing.subscriptions.push((no, subscription.filter.clone(), row));
        }
    }
}

/// Of two messages of one topic the newer one counts.
fn retained(found: &mut Found, known: &[Arc<Message>], missing: &mut Missing) {
    let mut by_topic: BTreeMap<String, Arc<Message>> =
        std::mem::take(&mut found.retained).into_iter().map(|message| (message.topic().to_owned(), message)).collect();
    for message in known {
        let topic = message.topic();
        if by_topic.get(topic).is_none_or(|found| found.accepted_at < message.accepted_at) {
            let row = rows::retained(topic, message);
            // Without the publisher that it had.
            by_topic.extend(rows::read_retained(topic, &row).ok().map(|message| (topic.to_owned(), message)));
            missing.retained.push((topic.to_owned(), row));
        }
    }
    found.retained = by_topic.into_values().collect();
}
