//! Where the journal of a store comes from: it is opened, made, or set aside.

use super::super::medium::Medium;
use super::super::recover::stamp;
use super::super::redb::RedbStore;
use super::super::rows::Mark;
use super::file::{BLOCK, FileJournal, HeadError, SIZE_MAX, SIZE_MIN, head};
use super::pending::Pending;
use super::{Journal, record};

/// The journal as it was found.
#[derive(Default)]
pub(in crate::store) struct Source {
    /// `None`: there is none.
    pub(super) journal: Option<FileJournal>,
    /// What it holds that redb does not.
    pub(super) pending: Pending,
    /// The last number that was given to a record.
    pub(super) last: u64,
    /// What is wrong with it.
    pub(super) lost: Vec<String>,
    /// It must be set aside before another is made.
    pub(super) aside: bool,
}

/// Opens the journal that belongs to a store with this mark, and reads what the store has not. Changes nothing.
pub(in crate::store) fn read_pending(medium: &dyn Medium, mark: &Mark) -> Source {
    let mut source = Source { last: mark.folded, ..Source::default() };
    let device = match medium.open_journal() {
        Ok(Some(device)) => device,
        Ok(None) => return source,
        Err(error) => {
            source.lost.push(format!("the journal cannot be read: {error}; what it held is missing"));
            source.aside = true;
            return source;
        }
    };
    let mut journal = match FileJournal::open(device) {
        Ok(journal) => journal,
        Err(error) => {
            let what = match &error {
                HeadError::Newer(_) => "use a newer forebay to have what it holds",
                HeadError::Io(_) | HeadError::Damaged => "what it held is missing",
            };
            source.lost.push(format!("the journal cannot be used: {error}; {what}"));
            source.aside = true;
            return source;
        }
    };
    if mark.journal != 0 && mark.journal != journal.id() {
        source.lost.push("the journal is of another store: nothing of it was taken".to_owned());
        source.aside = true;
        return source;
    }
    replay(&mut journal, mark, &mut source);
    source.journal = Some(journal);
    source
}

/// Reads the records that the store does not contain, one over the other.
pub(super) fn replay(journal: &mut dyn Journal, mark: &Mark, source: &mut Source) {
    let found = match journal.after(mark.folded) {
        Ok(found) => found,
        Err(error) => {
            source.lost.push(format!("the journal cannot be read: {error}; what it held is missing"));
            return;
        }
    };
    source.lost.extend(found.lost);
    source.last = source.last.max(found.records.last().map_or(0, |(number, _)| *number));
    let mut read = Vec::with_capacity(found.records.len());
    for (number, bytes) in found.records {
        match record::decode(&bytes) {
            Ok((before, batch)) => read.push((number, before, batch, bytes.len())),
            Err(damage) => source.lost.push(format!("record {number} of the journal means nothing: {damage}")),
        }
    }
    // A store that has lost its mark has at least what it had when the last record was appended.
    let folded = match (mark.journal, read.last()) {
        (0, Some((_, before, ..))) => before.folded,
        _ => mark.folded,
    };
    let mut seen = folded;
    for (number, before, batch, bytes) in read.into_iter().filter(|(number, ..)| *number > folded) {
        if before.previous > seen {
            let (from, to) = (seen + 1, before.previous);
            source.lost.push(format!(
                "records {from} to {to} of the journal are missing: what came behind them was taken, and what was in them is lost"
            ));
        }
        source.pending.merge(number, &batch, bytes);
        seen = number;
    }
}

/// With what a store begins.
pub(super) struct Begin {
    pub(super) journal: Option<Box<dyn Journal>>,
    /// There is none, and there should be.
    pub(super) missing: Option<Missing>,
    pub(super) pending: Pending,
    /// The journal's number, which one that is made later has as well.
    pub(super) id: u64,
    /// The last number that was given to a record.
    pub(super) last: u64,
}

/// A journal that is to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Missing {
    pub(super) bytes: u64,
    /// What lies in its place must be set aside before.
    aside: bool,
    wall_ms: u64,
}

impl Missing {
    /// Makes it.
    ///
    /// # Errors
    /// Why not, for people.
    pub(super) fn make(&mut self, medium: &dyn Medium, id: u64) -> Result<FileJournal, String> {
        if self.aside {
            set_aside(medium, self.wall_ms)?;
            self.aside = false;
        }
        let device = match medium.make_journal(self.bytes, &head(id, self.bytes)) {
            Ok(Some(device)) => device,
            Ok(None) => return Err("there is no place for it".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        FileJournal::open(device).map_err(|error| error.to_string())
    }
}

fn set_aside(medium: &dyn Medium, wall_ms: u64) -> Result<(), String> {
    let name = medium.set_journal_aside(&stamp(wall_ms));
    let name = name.map_err(|error| format!("what lies in its place cannot be set aside: {error}"))?;
    tracing::error!("the journal was set aside as {name}");
    Ok(())
}

/// Brings the journal into the shape that is asked for: as large, or away. What it holds is folded before.
pub(super) fn prepare(redb: &mut RedbStore, source: Source, wanted: u64, wall_ms: u64) -> Begin {
    let id = source.journal.as_ref().map_or(redb.mark().journal, FileJournal::id);
    let id = if id == 0 { fresh_id() } else { id };
    let block = BLOCK as u64;
    let wanted = if wanted == 0 { 0 } else { wanted.clamp(SIZE_MIN, SIZE_MAX) / block * block };
    let Source { journal, pending, last, aside, .. } = source;
    let mut begin = Begin { journal: None, missing: None, pending, id, last };
    if let Some(journal) = journal
        && (journal.size() == wanted || !removed(redb, &mut begin))
    {
        begin.journal = Some(Box::new(journal));
        return begin;
    }
    if wanted == 0 {
        if aside && let Err(why) = set_aside(redb.medium(), wall_ms) {
            tracing::error!("there is a journal, and {why}");
        }
        return begin;
    }
    let mut missing = Missing { bytes: wanted, aside, wall_ms };
    if redb.is_held() {
        begin.missing = Some(missing);
        return begin;
    }
    match missing.make(redb.medium(), id) {
        Ok(journal) => begin.journal = Some(Box::new(journal)),
        Err(why) => {
            tracing::warn!("there is no journal ({why}): commits go to the store's file until there is");
            begin.missing = Some(missing);
        }
    }
    begin
}

/// Folds what the journal holds, and removes its file. False: that failed, and it stays as it is.
fn removed(redb: &mut RedbStore, begin: &mut Begin) -> bool {
    if !begin.pending.is_empty()
        && let Err(error) = redb.fold(&begin.pending.batch(), (begin.id, begin.last), false)
    {
        tracing::error!("{error}; the journal stays as it is");
        return false;
    }
    begin.pending = Pending::default();
    if let Err(error) = redb.medium().remove_journal() {
        tracing::error!("the old journal cannot be removed: {error}");
    }
    true
}

/// A number that no other journal has.
fn fresh_id() -> u64 {
    use std::hash::BuildHasher;
    foldhash::quality::RandomState::default().hash_one(std::time::SystemTime::now()).max(1)
}
