//! Whose a session is, a second time: in a table of its own, so that another page holds it. One page that cannot be read
//! any more must not make the messages of all the sessions in it messages for nobody.
//!
//! A row is written when its session is made, and when the client comes back with another protocol or session expiry
//! interval: not with each connection.

use ::redb::{Database, ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};

use super::apply::{SESSION, Writer};
use super::recover::Found;
use super::redb::Fault;
use super::{Batch, SessionRecord, rows};

pub(super) const OWNER: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("owner");

impl Writer<'_> {
    /// Writes what a batch changes of it.
    pub(super) fn owners(&mut self, txn: &WriteTransaction, batch: &Batch) -> Result<(), Fault> {
        let is_told = |delta: &&super::SessionDelta| delta.ended || delta.record.is_some();
        let mut told = batch.sessions.iter().filter(is_told).peekable();
        if told.peek().is_none() {
            return Ok(());
        }
        let mut table = txn.open_table(OWNER)?;
        for delta in told {
            let no = delta.no.0;
            let Some(record) = delta.record.as_ref().filter(|_| !delta.ended) else {
                table.remove(no)?;
                continue;
            };
            let row = rows::owner(no, record);
            // Looking costs nothing; a row that is written is a page that is copied.
            if table.get(no)?.is_none_or(|old| old.value() != row) {
                table.insert(no, row.as_slice())?;
                self.wrote(row.len());
            }
        }
        Ok(())
    }
}

/// What is known of it, for each session.
pub(super) fn load(txn: &ReadTransaction, found: &mut Found) -> Result<(), Fault> {
    let table = match txn.open_table(OWNER) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        table => table?,
    };
    for row in table.iter()? {
        let (no, row) = row?;
        let no = no.value();
        // One that is damaged is written again.
        if let Ok(owner) = rows::read_owner(no, row.value()) {
            found.owners.insert(no, owner);
        }
    }
    Ok(())
}

/// Gives sessions without a record one of what is known of their owners, and makes this table agree with the records: a store
/// that was written before there was one has none.
pub(super) fn recall(database: &Database, found: &mut Found, lost: &mut Vec<String>) -> Result<(), Fault> {
    let owners = std::mem::take(&mut found.owners);
    let now = found.mark.unwrap_or_default().clock.time;
    let mut records = Vec::new();
    for (no, owner) in &owners {
        if found.has_ended(*no) || found.sessions.get(no).is_some_and(|session| session.record.is_some()) {
            continue;
        }
        let client_id = &owner.client_id;
        lost.push(format!(
            "session {no} has lost its record: it belongs to client {client_id:?}, and is taken for one that left just now, without a will"
        ));
        let record = SessionRecord { disconnected_at: Some(now), ..owner.clone() };
        records.push((*no, rows::session(*no, &record)));
        found.session(*no).record = Some(record);
    }
    let mut changed = Vec::new();
    for (no, session) in &found.sessions {
        let Some(record) = &session.record else { continue };
        let row = rows::owner(*no, record);
        if owners.get(no).is_none_or(|owner| rows::owner(*no, owner) != row) {
            changed.push((*no, row));
        }
    }
    let gone: Vec<u64> = owners.into_keys().filter(|no| !found.sessions.contains_key(no)).collect();
    if records.is_empty() && changed.is_empty() && gone.is_empty() {
        return Ok(());
    }
    let txn = database.begin_write()?;
    {
        let mut sessions = txn.open_table(SESSION)?;
        for (no, row) in &records {
            sessions.insert(no, row.as_slice())?;
        }
        let mut table = txn.open_table(OWNER)?;
        for (no, row) in &changed {
            table.insert(no, row.as_slice())?;
        }
        for no in gone {
            table.remove(no)?;
        }
    }
    txn.commit()?;
    Ok(())
}
