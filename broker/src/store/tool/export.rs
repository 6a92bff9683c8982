//! Everything in a store as JSON lines.

use std::io::Write;
use std::path::Path;

use ::redb::Database;

use super::lines::{
    EXPORT_VERSION, End, Head, KeyedLine, Line, MessageLine, QueuedLine, SessionLine, StateLine, StoreLine,
    SubscriptionLine,
};
use super::{Counts, Looked, ToolError, error, lock, open_untouched};
use crate::store::page::{Limit, keyed_of, page_of};
use crate::store::recover::{Found, load};
use crate::store::redb::{Fault, Inner, contain};
use crate::store::rows::Damage;
use crate::store::{Keyed, QueueEntry, QueueState, RecoveredSession};

/// Entries that are read at once.
pub(super) const PAGE: Limit = Limit { messages: 4096, bytes: 1 << 20 };

/// Writes the store of the folder; changes nothing in it. The same store gives the same bytes.
///
/// # Errors
/// There is no store, a broker holds it, it is damaged, or `out` cannot be written.
pub fn export(dir: &Path, out: &mut dyn Write) -> Result<Counts, ToolError> {
    let inner = lock(dir)?;
    let Looked { database, wrong, .. } = open_untouched(&inner).map_err(|fault| error(&inner, fault))?;
    if let Some(detail) = wrong.into_iter().next() {
        return Err(ToolError::Damaged { path: inner.medium.name(), detail });
    }
    let exported = export_all(&inner, &database, out);
    // redb works on its pages once more when it is closed, in memory here, and panics over a damaged one. Every row that was
    // exported has been checked by itself: `verify` is for the rest.
    let _ = contain(|| {
        drop(database);
        Ok(())
    });
    exported
}

fn export_all(inner: &Inner, database: &Database, out: &mut dyn Write) -> Result<Counts, ToolError> {
    let found = contain(|| load(database)).map_err(|fault| error(inner, fault))?;
    if let Some(row) = found.damaged.first() {
        let detail = format!("row {} of table {}: {}", row.key, row.table, row.damage);
        return Err(ToolError::Damaged { path: inner.medium.name(), detail });
    }
    if let Some(no) = found.stateless.first() {
        return Err(ToolError::Damaged { path: inner.medium.name(), detail: format!("session {no} has no state") });
    }
    let mut export = Exporter { out, inner, database, counts: Counts::default() };
    export.everything(&found)?;
    export.out.flush()?;
    Ok(export.counts)
}

struct Exporter<'a> {
    out: &'a mut dyn Write,
    inner: &'a Inner,
    database: &'a Database,
    counts: Counts,
}

impl Exporter<'_> {
    fn line(&mut self, line: &Line) -> Result<(), ToolError> {
        serde_json::to_writer(&mut *self.out, line).map_err(std::io::Error::from)?;
        Ok(self.out.write_all(b"\n")?)
    }

    fn everything(&mut self, found: &Found) -> Result<(), ToolError> {
        let mark = found.mark.unwrap_or_default();
        self.line(&Line::Export(Head { version: EXPORT_VERSION }))?;
        self.line(&Line::Store(StoreLine::new(mark.clock, mark.last_session, &found.ended)))?;
        for message in &found.retained {
            self.line(&Line::Retained(MessageLine::new(message)))?;
            self.counts.retained += 1;
        }
        for session in found.sessions.values() {
            self.session(session)?;
        }
        for of in Keyed::ALL {
            self.keyed(of)?;
        }
        let Counts { sessions, subscriptions, queued, retained, keyed, .. } = self.counts;
        self.line(&Line::End(End { sessions, subscriptions, queued, retained, keyed }))
    }

    fn keyed(&mut self, of: Keyed) -> Result<(), ToolError> {
        let mut from = Vec::new();
        loop {
            let read = contain(|| {
                let page = keyed_of(self.database, (of as u8, &from), PAGE)?;
                match page.damaged.first() {
                    Some((_, damage)) => Err(Fault::Row(*damage)),
                    None => Ok(page.rows),
                }
            });
            let rows = read.map_err(|fault| error(self.inner, fault))?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            // The next key there can be.
            from = [last.as_slice(), &[0]].concat();
            for row in &rows {
                self.line(&Line::Keyed(KeyedLine::new(of, row)))?;
                self.counts.keyed += 1;
            }
        }
    }

    fn session(&mut self, session: &RecoveredSession) -> Result<(), ToolError> {
        let no = session.no;
        if let Some(record) = &session.record {
            self.line(&Line::Session(SessionLine::new(no, record)))?;
        }
        self.counts.sessions += 1;
        for subscription in &session.subscriptions {
            self.line(&Line::Subscription(SubscriptionLine::new(no, subscription)))?;
            self.counts.subscriptions += 1;
        }
        self.line(&Line::State(StateLine::new(no, &session.state)))?;
        let mut from = 0;
        while let Some((entries, next)) = self.page(session, from)? {
            from = next;
            for entry in entries.iter().filter(|entry| is_queued(&session.state, entry)) {
                self.line(&Line::Queued(QueuedLine::new(no, entry)))?;
                self.counts.queued += 1;
                self.counts.queued_bytes += entry.message.size() as u64;
            }
        }
        Ok(())
    }

    fn page(&self, session: &RecoveredSession, from: u64) -> Result<Option<(Vec<QueueEntry>, u64)>, ToolError> {
        let read = contain(|| {
            let page = page_of(self.database, (session.no.0, from), PAGE)?;
            match page.damaged.first() {
                Some((_, damage)) => Err(Fault::Row(*damage)),
                None => Ok(page.entries),
            }
        });
        let entries = read.map_err(|fault| error(self.inner, fault))?;
        let Some(last) = entries.last().map(|entry| entry.seq) else { return Ok(None) };
        let next = last.checked_add(1).ok_or(Damage("place too large"));
        let next = next.map_err(|damage| error(self.inner, damage.into()))?;
        Ok(Some((entries, next)))
    }
}

/// Whether the entry is still wanted: those that are done stay in their row until all of it is.
pub(super) fn is_queued(state: &QueueState, entry: &QueueEntry) -> bool {
    !state.is_done(entry.seq)
}
