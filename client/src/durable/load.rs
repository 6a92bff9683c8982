//! Opens the outbox, whatever state its file is in, and reads what is in it.

use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use forebay_wire::types::PacketId;
use redb::{Builder, Database, ReadableTable, StorageBackend, WriteTransaction};

use super::place::{Backend, Place};
use super::{FORMAT, MESSAGES, META, SEEN, of_row};
use crate::codec::frame::Frame;
use crate::options::Options;
use crate::session::{Session, instant_of};
use crate::shared::wall_time;

/// An outbox that the device fails to open is opened again after each of these.
const OPEN_AGAIN: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(500)];
/// A new file of redb is smaller than this.
const NEW_FILE_BYTES: u64 = 128 * 1024;
/// What a file of redb begins with.
const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";

/// Why the file cannot be used.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The device: it may be over in a moment.
    Device(String),
    /// What is in the file is not what was written.
    Damaged(String),
    /// It is whole, and not for this program now.
    Refused(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Device(why) | Self::Damaged(why) | Self::Refused(why)) = self;
        f.write_str(why)
    }
}

impl From<io::Error> for Fault {
    #[allow(clippy::wildcard_enum_match_arm, reason = "the kinds of errors are non-exhaustive")]
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => Self::Damaged(error.to_string()),
            // What somebody has to change.
            ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::IsADirectory | ErrorKind::NotADirectory => {
                Self::Refused(error.to_string())
            }
            _ => Self::Device(error.to_string()),
        }
    }
}

impl From<redb::Error> for Fault {
    #[allow(clippy::wildcard_enum_match_arm, reason = "redb's errors are non-exhaustive")]
    fn from(error: redb::Error) -> Self {
        use redb::Error as E;
        match error {
            E::Io(error) => error.into(),
            error @ (E::Corrupted(_)
            | E::LockPoisoned(_)
            | E::TableTypeMismatch { .. }
            | E::TableIsMultimap(_)
            | E::TypeDefinitionChanged { .. }) => Self::Damaged(error.to_string()),
            error @ (E::UpgradeRequired(_) | E::DatabaseAlreadyOpen | E::LockProtocolMismatch) => {
                Self::Refused(error.to_string())
            }
            error => Self::Device(error.to_string()),
        }
    }
}

macro_rules! fault_from_redb {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for Fault {
            fn from(error: redb::$error) -> Self {
                redb::Error::from(error).into()
            }
        }
    )*};
}

fault_from_redb!(DatabaseError, StorageError, TableError, TransactionError, CommitError);

/// Calls redb. A file that something else has changed can make it panic: that ends here, as damage.
pub(super) fn contain<T>(f: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| Err(Fault::Damaged("it is damaged".to_owned())))
}

/// A message as it lies in the file.
pub(crate) struct Kept {
    pub(super) number: u64,
    pub(super) released: bool,
    pub(super) expires_unix_ms: Option<u64>,
    pub(super) frame: Frame,
}

/// What was found.
#[derive(Default)]
pub(crate) struct Found {
    /// The file is not a new one.
    pub(super) known: bool,
    pub(crate) messages: Vec<Kept>,
    pub(crate) seen: Vec<(PacketId, u64)>,
    pub(super) mark: Option<u64>,
    /// Files that had been an outbox and are of no use now.
    pub(crate) unreadable_files: u64,
    /// Rows that were not what was written.
    pub(crate) unreadable_messages: u64,
    /// It is an older copy.
    pub(super) older: bool,
    opened: u64,
}

impl Found {
    /// Gives a session what it knew.
    pub(crate) fn give_to(self, session: &mut Session, now: Instant) {
        let wall = wall_time();
        for Kept { number, released, expires_unix_ms, frame } in self.messages {
            let expires = expires_unix_ms.map(|at| instant_of(at, now, wall));
            session.restore(number, frame, expires, released);
        }
        for (id, mark) in self.seen {
            session.restore_seen(id, mark);
        }
        if self.known {
            session.restored();
        }
        if let Some(mark) = self.mark {
            session.restore_mark(mark);
        }
        session.unreadable(self.unreadable_files, self.unreadable_messages);
    }
}

/// Opens the outbox, and sets aside what had been one and cannot be used any more. Without a database: it could be read and not
/// written.
pub(super) fn open(place: &dyn Place, options: &Options) -> Result<(Option<Database>, Found), Fault> {
    let had = place.mark();
    let mut unreadable_files = 0;
    let name = place.name();
    if let Some(what) = not_there(place, had)? {
        unreadable_files += 1;
        let aside =
            if place.exists() { format!("; it was set aside as {}", place.set_aside()?) } else { String::new() };
        tracing::error!("the outbox {name} {what}, and what was in it is lost{aside}");
    }
    let tried = match persistently(place, options) {
        Err(Fault::Damaged(why)) if had.is_some() => {
            unreadable_files += 1;
            let aside = place.set_aside()?;
            tracing::error!(
                "the outbox {name} cannot be read ({why}), and what was in it is lost; it was set aside as {aside}"
            );
            persistently(place, options)
        }
        tried => tried,
    };
    let (database, mut found) = match tried {
        Ok((database, found)) => (Some(database), found),
        Err(Fault::Device(why)) => {
            let found = as_it_is(place, options).map_err(|fault| match fault {
                Fault::Refused(_) => fault,
                Fault::Device(_) | Fault::Damaged(_) => Fault::Device(why.clone()),
            })?;
            tracing::error!(
                "the outbox {name} cannot be written, publishing waits until it can: {why}; its {} messages are sent",
                found.messages.len()
            );
            (None, found)
        }
        Err(fault) => return Err(fault),
    };
    found.unreadable_files = unreadable_files;
    if found.unreadable_messages > 0 {
        tracing::error!("{} messages in the outbox {name} are damaged, and lost", found.unreadable_messages);
    }
    found.older = unreadable_files == 0 && had.is_some_and(|had| found.opened <= had);
    if found.older {
        tracing::error!(
            "the outbox {name} is older than it was: what it had later is lost, and what was sent since is sent again"
        );
    }
    if database.is_some() {
        note(place, &found);
    }
    Ok((database, found))
}

fn note(place: &dyn Place, found: &Found) {
    if let Err(error) = place.set_mark(found.opened) {
        tracing::warn!("it cannot be noted beside the outbox {} that it is one: {error}", place.name());
    }
}

/// What is in an outbox that cannot be written. There may be none yet: it is made when that is possible.
fn as_it_is(place: &dyn Place, options: &Options) -> Result<Found, Fault> {
    let there = if place.exists() { place.open_to_read()? } else { return Ok(Found::default()) };
    if there.is_in_use() {
        return Err(Fault::Refused("another program has it open".to_owned()));
    }
    if is_blank(&there)? {
        return Ok(Found::default());
    }
    let copy = there.in_memory()?;
    contain(|| read(&Builder::new().create_with_backend(copy)?.begin_write()?, options, Damage::IsLeftOut))
}

/// Opens one to write that could only be read at the start, and does what is done at each start. What is in it is known.
pub(super) fn begin(place: &dyn Place, options: &Options) -> Result<Database, Fault> {
    // What is left of the attempts to make it.
    not_there(place, None)?;
    let (database, found) = once(place, options, Damage::IsLeftOut)?;
    note(place, &found);
    Ok(database)
}

/// What is wrong with a place at which there has been an outbox and nothing is any more. A file that was never one is emptied:
/// it is what a power cut leaves of one that was being made.
fn not_there(place: &dyn Place, had: Option<u64>) -> Result<Option<&'static str>, Fault> {
    if !place.exists() {
        return Ok(had.map(|_| "is gone"));
    }
    let backend = place.open()?;
    if !is_blank(&backend)? || backend.is_in_use() {
        return Ok(None);
    }
    if had.is_some() {
        return Ok(Some("has nothing in it any more"));
    }
    if backend.len()? > 0 {
        backend.set_len(0)?;
        backend.sync_data()?;
    }
    Ok(None)
}

/// redb writes what its file begins with last, when it makes one; whoever fails before that leaves zeros there.
fn is_blank(backend: &Backend) -> io::Result<bool> {
    let len = backend.len()?;
    let mut head = [0; MAGIC.len()];
    let size = usize::try_from(len).map_or(MAGIC.len(), |len| len.min(MAGIC.len()));
    let Some(there) = head.get_mut(..size) else { return Ok(false) };
    backend.read(0, there)?;
    let begun = there.len() < MAGIC.len() && MAGIC.starts_with(there);
    Ok(len <= NEW_FILE_BYTES && (begun || there.iter().all(|byte| *byte == 0)))
}

/// A device that fails is given time, and what is damaged must be so when it is read again; then single messages are left out.
fn persistently(place: &dyn Place, options: &Options) -> Result<(Database, Found), Fault> {
    let mut pauses = OPEN_AGAIN.into_iter();
    let mut damage = Damage::Fails;
    loop {
        match contain(|| once(place, options, damage)) {
            Err(Fault::Damaged(why)) if damage == Damage::Fails => {
                tracing::debug!("the outbox is read again: {why}");
                damage = Damage::IsLeftOut;
            }
            Err(fault @ Fault::Device(_)) => match pauses.next() {
                Some(pause) => {
                    std::thread::sleep(pause);
                    // Without this it would be taken for written; what cannot be done yet is tried with the rest.
                    let _ = place.open().and_then(|backend| backend.write_again());
                    not_there(place, place.mark())?;
                }
                None => return Err(fault),
            },
            tried => return tried,
        }
    }
}

/// What becomes of rows that are not what was written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Damage {
    Fails,
    IsLeftOut,
}

fn once(place: &dyn Place, options: &Options, damage: Damage) -> Result<(Database, Found), Fault> {
    let database = Builder::new().create_with_backend(place.open()?)?;
    let write = database.begin_write()?;
    let found = read(&write, options, damage)?;
    write.commit()?;
    Ok((database, found))
}

fn read(write: &WriteTransaction, options: &Options, damage: Damage) -> Result<Found, Fault> {
    let mut found = Found::default();
    let mut bad = Vec::new();
    let mut messages = write.open_table(MESSAGES)?;
    for item in messages.iter()? {
        let (number, bytes) = item?;
        let number = number.value();
        match of_row(bytes.value()) {
            Some((released, expires_unix_ms, frame)) => {
                found.messages.push(Kept { number, released, expires_unix_ms, frame });
            }
            None if damage == Damage::Fails => return Err(Fault::Damaged(format!("message {number} is damaged"))),
            None => bad.push(number),
        }
    }
    for number in &bad {
        messages.remove(number)?;
    }
    found.unreadable_messages = bad.len() as u64;
    let seen = write.open_table(SEEN)?;
    for item in seen.iter()? {
        let (id, mark) = item?;
        found.seen.extend(PacketId::new(id.value()).map(|id| (id, mark.value())));
    }
    read_meta(write, options, &mut found)?;
    Ok(found)
}

fn read_meta(write: &WriteTransaction, options: &Options, found: &mut Found) -> Result<(), Fault> {
    let mut meta = write.open_table(META)?;
    let level = options.version.level();
    let said = |key: &str| -> Result<Option<Vec<u8>>, Fault> { Ok(meta.get(key)?.map(|value| value.value().to_vec())) };
    let number = |key: &str| -> Result<Option<u64>, Fault> {
        Ok(said(key)?.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes))
    };
    let refused = |why: &str| Err(Fault::Refused(why.to_owned()));
    found.known = said("format")?.is_some();
    if said("format")?.is_some_and(|format| format != [FORMAT]) {
        return refused("the outbox was written by a newer version");
    }
    if said("client")?.is_some_and(|client| client != options.client_id.as_bytes()) {
        return refused("the outbox belongs to another client identifier");
    }
    if !found.messages.is_empty() && said("level")?.is_some_and(|known| known != [level]) {
        return refused("the outbox holds messages of another protocol version: send them with that one first");
    }
    found.mark = number("mark")?;
    found.opened = number("opened")?.unwrap_or_default() + 1;
    let opened = found.opened.to_be_bytes();
    let client = options.client_id.as_bytes();
    for (key, value) in [("format", &[FORMAT][..]), ("client", client), ("level", &[level]), ("opened", &opened)] {
        meta.insert(key, value)?;
    }
    Ok(())
}
