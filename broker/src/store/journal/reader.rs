//! Reads queues and keyed rows where they are at the moment: in redb, with what is pending over it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::super::{BackupError, Copied, Keyed, KeyedRow, QueueEntry, Reader, SessionNo, StoreError};
use super::fold::Core;

/// Sees redb with what is pending over it.
pub(super) struct JournaledReader(pub(super) Arc<Core>);

impl Reader for JournaledReader {
    fn page(
        &self,
        session: SessionNo,
        from: u64,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<QueueEntry>, StoreError> {
        // What is pending is looked at first: what leaves it meanwhile is in redb then.
        let max = max_messages.max(1);
        let mut over = {
            let view = self.0.view.read();
            let mut over = view.frozen.as_ref().map(|frozen| frozen.entries(session, from, max)).unwrap_or_default();
            over.extend(view.fresh.entries(session, from, max));
            over
        };
        let mut page = self.0.reader.page(session, from, max_messages, max_bytes)?;
        if let Some(last) = page.last().map(|entry| entry.seq)
            && over.last().is_some_and(|entry| entry.seq > last)
            && let Some(next) = self.0.reader.page(session, last.saturating_add(1), 1, 1)?.first()
        {
            // There is more in redb, before what is pending.
            over.retain(|entry| entry.seq < next.seq);
        }
        let known: hashbrown::HashSet<u64> = page.iter().map(|entry| entry.seq).collect();
        over.retain(|entry| !known.contains(&entry.seq));
        if over.is_empty() {
            return Ok(page);
        }
        page.append(&mut over);
        page.sort_by_key(|entry| entry.seq);
        let mut bytes = 0;
        let fits = page.iter().position(|entry| {
            let full = bytes >= max_bytes;
            bytes += entry.message.size();
            full
        });
        page.truncate(fits.unwrap_or(page.len()).min(max).max(1));
        Ok(page)
    }

    fn keyed(&self, of: Keyed, from: &[u8], max_rows: usize, max_bytes: usize) -> Result<Vec<KeyedRow>, StoreError> {
        let mut from = from.to_vec();
        loop {
            let over: BTreeMap<Vec<u8>, Option<Vec<u8>>> = {
                let view = self.0.view.read();
                let mut over = BTreeMap::new();
                for pending in view.frozen.as_deref().into_iter().chain([&view.fresh]) {
                    over.extend(pending.keyed(of, &from).map(|(key, value)| (key.clone(), value.cloned())));
                }
                over
            };
            let page = self.0.reader.keyed(of, &from, max_rows, max_bytes)?;
            let bytes: usize = page.iter().map(|(key, value)| key.len() + value.len()).sum();
            let full = !page.is_empty() && (page.len() >= max_rows || bytes >= max_bytes);
            let end = page.last().map(|(key, _)| key.clone()).filter(|_| full);
            let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = page.into_iter().collect();
            for (key, value) in over.into_iter().filter(|(key, _)| end.as_ref().is_none_or(|end| key <= end)) {
                match value {
                    Some(value) => rows.insert(key, value),
                    None => rows.remove(&key),
                };
            }
            match end {
                // All of them were removed since: there may be more.
                Some(end) if rows.is_empty() => from = [end.as_slice(), &[0]].concat(),
                _ => return Ok(limited(rows, max_rows, max_bytes)),
            }
        }
    }

    fn backup(&self, to: &Path) -> Result<Copied, BackupError> {
        // A copy is redb's alone: what is pending goes there first.
        self.0.fold_all().map_err(|error| BackupError::Store { path: to.to_owned(), detail: error.to_string() })?;
        self.0.reader.backup(to)
    }
}

fn limited(rows: BTreeMap<Vec<u8>, Vec<u8>>, max_rows: usize, max_bytes: usize) -> Vec<KeyedRow> {
    let (mut page, mut bytes) = (Vec::new(), 0);
    for (key, value) in rows {
        if !page.is_empty() && (page.len() >= max_rows || bytes >= max_bytes) {
            break;
        }
        bytes += key.len() + value.len();
        page.push((key, value));
    }
    page
}
