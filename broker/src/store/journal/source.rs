//! Where the journal of a store comes from: it is opened, made, or set aside.

use super::super::medium::Medium;
use super::super::recover::stamp;
use super::super::redb::{OPEN_AGAIN, RedbStore, may_pass};
use super::super::rows::Mark;
use super::super::{Batch, Recovered};
use super::file::{BLOCK, FileJournal, HeadError, SIZE_MAX, SIZE_MIN, head};
use super::pending::Pending;
use super::{Journal, record};

use std::io;

/// The journal as it was found.
#[derive(Default)]
pub(in crate::store) struct Source {
    /// `None`: there is none.
    pub(super) journal: Option<FileJournal>,
    /// What it holds that redb does not.
    pub(super) pending: Pending,
    /// The last number that was given to a record.
    pub(super) last: u64,
    /// The last record that redb contains, or once did: those up to it are not for a store that has lost its mark.
    pub(super) folded: u64,
    /// The highest number of a session that any record has.
    pub(super) last_session: u64,
    /// What is wrong with it.
    pub(super) lost: Vec<String>,
    /// It must be set aside before another is made: at once, or when what could be read of it is in redb.
    pub(super) aside: bool,
}

impl Source {
    /// What a start finds: what redb has, with this over it. A number that any record has is not given to another session.
    pub(super) fn apply_to(&mut self, recovered: &mut Recovered) {
        self.pending.apply_to(recovered);
        recovered.last_session = recovered.last_session.max(self.last_session);
        recovered.lost.append(&mut self.lost);
    }

    /// There is a journal that cannot be used, and that will not be another at the next try.
    fn without(mut self, error: HeadError) -> io::Result<Self> {
        let what = match error {
            HeadError::Newer(_) => "use a newer forebay to have what it holds",
            HeadError::Damaged => "what it held is missing",
            HeadError::Io(ref error) if error.kind() == io::ErrorKind::IsADirectory => "it is a folder",
            // Nothing was read and found wrong.
            HeadError::Io(error) => return Err(error),
        };
        self.lost.push(format!("the journal cannot be used: {error}; {what}"));
        self.aside = true;
        Ok(self)
    }
}

/// Opens the journal that belongs to a store with this mark, and reads what the store has not; again when the device fails for a
/// moment only. Changes nothing.
///
/// # Errors
/// It cannot be read for now: what it holds is not known, and may be all right.
pub(in crate::store) fn read_patiently(medium: &dyn Medium, mark: &Mark) -> io::Result<Source> {
    for pause in OPEN_AGAIN {
        match read_pending(medium, mark) {
            Err(error) if may_pass(&error) => {
                tracing::error!("the journal could not be read: {error}; it is tried again");
                std::thread::sleep(pause);
            }
            read => return read,
        }
    }
    read_pending(medium, mark)
}

/// The same, once.
///
/// # Errors
/// As [`read_patiently`].
pub(in crate::store) fn read_pending(medium: &dyn Medium, mark: &Mark) -> io::Result<Source> {
    let mut source = Source { last: mark.folded, folded: mark.folded, ..Source::default() };
    let device = match medium.open_journal() {
        Ok(Some(device)) => device,
        Ok(None) => return Ok(source),
        Err(error) => return source.without(error.into()),
    };
    let mut journal = match FileJournal::open(device, mark.journal) {
        Ok(journal) => journal,
        Err(error) => return source.without(error),
    };
    if mark.journal != 0 && mark.journal != journal.id() {
        source.lost.push("the journal is of another store: nothing of it was taken".to_owned());
        source.aside = true;
        return Ok(source);
    }
    replay(&mut journal, mark, &mut source)?;
    if let Some(wrong) = journal.wrong() {
        source.lost.insert(
            0,
            format!("something is wrong with the journal: {wrong}; its records are taken as they are found"),
        );
        source.aside = true;
    }
    source.journal = Some(journal);
    Ok(source)
}

/// Reads the records that the store does not contain, one over the other. What is called damaged or missing was read twice.
///
/// # Errors
/// As [`read_patiently`].
pub(super) fn replay(journal: &mut dyn Journal, mark: &Mark, source: &mut Source) -> io::Result<()> {
    let mut found = Records::read(journal, mark)?;
    if !found.lost.is_empty() {
        found = Records::read(journal, mark)?;
    }
    let Records { read, lost, folded, last, last_session } = found;
    source.aside = !lost.is_empty();
    source.lost.extend(lost);
    source.last = source.last.max(last);
    source.last_session = source.last_session.max(last_session);
    source.folded = folded;
    for (number, batch, bytes) in read {
        source.pending.merge(number, &batch, bytes);
    }
    Ok(())
}

/// What a journal has.
struct Records {
    /// Number, content, and bytes of each that the store does not contain.
    read: Vec<(u64, Batch, usize)>,
    /// What it should have and has not, in words.
    lost: Vec<String>,
    folded: u64,
    /// The last number.
    last: u64,
    last_session: u64,
}

impl Records {
    fn read(journal: &mut dyn Journal, mark: &Mark) -> io::Result<Self> {
        let found = journal.after(mark.folded)?;
        let mut lost = found.lost;
        let last = found.records.last().map_or(0, |(number, _)| *number);
        let mut last_session = 0;
        let mut all = Vec::with_capacity(found.records.len());
        for (number, bytes) in found.records {
            match record::decode(&bytes) {
                Ok((before, batch)) => {
                    let numbers = batch.sessions.iter().map(|delta| delta.no.0);
                    last_session = numbers.fold(last_session, u64::max);
                    all.push((number, before, batch, bytes.len()));
                }
                Err(damage) => lost.push(format!("record {number} of the journal means nothing: {damage}")),
            }
        }
        // A store that has lost its mark has at least what it had when the last record was appended.
        let folded = match (mark.journal, all.last()) {
            (0, Some((_, before, ..))) => before.folded,
            _ => mark.folded,
        };
        let (mut seen, mut read) = (folded, Vec::with_capacity(all.len()));
        for (number, before, batch, bytes) in all.into_iter().filter(|(number, ..)| *number > folded) {
            if before.previous > seen {
                let (from, to) = (seen + 1, before.previous);
                lost.push(format!(
                    "records {from} to {to} of the journal are missing: what came behind them was taken, and what was in them is lost"
                ));
            }
            read.push((number, batch, bytes));
            seen = number;
        }
        Ok(Self { read, lost, folded, last, last_session })
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
    /// See [`Source::folded`].
    pub(super) folded: u64,
}

impl Begin {
    /// The journal is there and cannot be read: nothing is appended to it, and none is made in its place.
    pub(super) fn without_reading(mark: &Mark) -> Self {
        let Mark { journal: id, folded, .. } = *mark;
        Self { journal: None, missing: None, pending: Pending::default(), id, last: folded, folded }
    }
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
        FileJournal::open(device, id).map_err(|error| error.to_string())
    }
}

fn set_aside(medium: &dyn Medium, wall_ms: u64) -> Result<(), String> {
    let name = medium.set_journal_aside(&stamp(wall_ms));
    let name = name.map_err(|error| format!("what lies in its place cannot be set aside: {error}"))?;
    tracing::error!("the journal was set aside as {name}");
    Ok(())
}

/// Brings the journal into the shape that is asked for, and tells redb whose it is.
pub(super) fn prepare(redb: &mut RedbStore, source: Source, wanted: u64, wall_ms: u64) -> Begin {
    let begin = shaped(redb, source, wanted, wall_ms);
    // Records are told by the journal's number: it stands in the journal's first block only until redb has it.
    if begin.journal.is_some() && redb.mark().journal != begin.id && !redb.is_held() {
        let nothing = Batch { clock: redb.clock(), ..Batch::default() };
        if let Err(error) = redb.fold(&nothing, (begin.id, begin.folded), false) {
            tracing::warn!("{error}; the store is told of its journal later");
        }
    }
    begin
}

/// As large as is asked for, or away. What it holds is folded before, and one that is damaged is set aside then.
fn shaped(redb: &mut RedbStore, source: Source, wanted: u64, wall_ms: u64) -> Begin {
    let id = source.journal.as_ref().map_or(redb.mark().journal, FileJournal::id);
    let id = if id == 0 { fresh_id() } else { id };
    let block = BLOCK as u64;
    let wanted = if wanted == 0 { 0 } else { wanted.clamp(SIZE_MIN, SIZE_MAX) / block * block };
    let Source { journal, pending, last, folded: folded_to, aside, .. } = source;
    let mut begin = Begin { journal: None, missing: None, pending, id, last, folded: folded_to };
    if let Some(journal) = journal {
        let stays = journal.size() == wanted && !aside;
        if stays || !folded(redb, &mut begin) {
            begin.journal = Some(Box::new(journal));
            return begin;
        }
        if !aside && let Err(error) = redb.medium().remove_journal() {
            tracing::error!("the old journal cannot be removed: {error}");
        }
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

/// Folds what the journal holds, so that it is not needed any more. False: that failed, and it stays as it is.
fn folded(redb: &mut RedbStore, begin: &mut Begin) -> bool {
    if !begin.pending.is_empty()
        && let Err(error) = redb.fold(&begin.pending.batch(), (begin.id, begin.last), false)
    {
        tracing::error!("{error}; the journal stays as it is");
        return false;
    }
    begin.pending = Pending::default();
    true
}

/// A number that no other journal has.
fn fresh_id() -> u64 {
    use std::hash::BuildHasher;
    foldhash::quality::RandomState::default().hash_one(std::time::SystemTime::now()).max(1)
}
