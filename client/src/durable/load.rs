//! Opens the outbox, whatever state its file is in, and reads what is in it.

use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use forebay_wire::types::PacketId;
use redb::backends::InMemoryBackend;
use redb::{Builder, Database, ReadableTable, StorageBackend, WriteTransaction};

use super::place::{Backend, Place, is_eio, is_full};
use super::salvage::{self, Salvaged};
use super::{FORMAT, MESSAGES, META, RELEASED, SEEN, of_row};
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
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The disk, or a quota, is full: what needs no more room may be written.
    NoRoom(String),
    /// The device: it may be over in a moment.
    Device(String),
    /// What is in the file is not what was written.
    Damaged(String),
    /// It is whole, and not for this program now.
    Refused(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::NoRoom(why) | Self::Device(why) | Self::Damaged(why) | Self::Refused(why)) = self;
        f.write_str(why)
    }
}

impl From<io::Error> for Fault {
    #[allow(clippy::wildcard_enum_match_arm, reason = "the kinds of errors are non-exhaustive")]
    fn from(error: io::Error) -> Self {
        match error.kind() {
            _ if is_full(&error) => Self::NoRoom(error.to_string()),
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
    /// Where the message with a number is: they are in order.
    fn place(&self, number: u64) -> Option<usize> {
        self.messages.binary_search_by_key(&number, |kept| kept.number).ok()
    }

    /// Gives a session what it knew.
    pub(crate) fn give_to(self, session: &mut Session, now: Instant) {
        let wall = wall_time();
        for Kept { number, released, expires_unix_ms, frame } in self.messages {
            let expires = expires_unix_ms.and_then(|at| instant_of(at, now, wall));
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
    let mut tried = persistently(place, options);
    let mut lost = 0;
    if let Err(fault @ (Fault::Damaged(_) | Fault::Device(_) | Fault::NoRoom(_))) = &tried
        && let Some(salvaged) = salvage(place, had, fault)?
    {
        let found = rebuild(InMemoryBackend::new(), options, had, &salvaged)?;
        lost = salvaged.lost;
        let said = format!("{fault}: {lost} of its messages are lost, {} are sent", found.messages.len());
        match replace(place, options, had, &salvaged) {
            Ok(aside) => {
                unreadable_files += 1;
                tracing::error!("the outbox {name} cannot be read to its end, {said}; it was set aside as {aside}");
                tried = persistently(place, options);
            }
            Err(why) => {
                tracing::error!(
                    "the outbox {name} cannot be read to its end, {said}; publishing waits until a new one can be made: {why}"
                );
                return Ok((None, Found { unreadable_files, unreadable_messages: lost, ..found }));
            }
        }
    }
    let tried = match tried {
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
        Err(Fault::Device(why) | Fault::NoRoom(why)) => {
            let found = as_it_is(place, options).map_err(|fault| match fault {
                Fault::Refused(_) => fault,
                Fault::NoRoom(_) | Fault::Device(_) | Fault::Damaged(_) => Fault::Device(why.clone()),
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
    found.unreadable_messages += lost;
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
    let (bytes, _) = there.in_memory()?;
    let copy = InMemoryBackend::new();
    copy.set_len(bytes.len() as u64)?;
    copy.write(0, &bytes)?;
    contain(|| read(&Builder::new().create_with_backend(copy)?.begin_write()?, options, Damage::IsLeftOut))
}

/// Opens one to write that could only be read so far, or whose commit has failed, and does what is done at each start. What is
/// in it is known. `of_commit`: what has failed when it was opened the last time.
pub(super) fn begin(place: &dyn Place, options: &Options, of_commit: Option<Fault>) -> Result<Database, Fault> {
    // What is left of the attempts to make it.
    not_there(place, None)?;
    let open = || contain(|| once_more(place, options));
    let has_failed_before = of_commit.is_some();
    let tried = of_commit.map_or_else(open, Err);
    let is_damaged = match &tried {
        Err(Fault::Damaged(_)) => true,
        Err(Fault::Device(_)) => place.failures().take_of_reading(),
        Err(Fault::NoRoom(_) | Fault::Refused(_)) | Ok(_) => false,
    };
    let (database, found) = match tried {
        Err(fault) if is_damaged => {
            let had = place.mark();
            let Some(salvaged) = salvage(place, had, &fault)? else { return open().map(|(database, _)| database) };
            let aside = replace(place, options, had, &salvaged)?;
            tracing::error!(
                "the outbox {} could not be read any more and was set aside as {aside}: {fault}",
                place.name()
            );
            open()?
        }
        Err(_) if has_failed_before => open()?,
        tried => tried?,
    };
    note(place, &found);
    Ok(database)
}

/// After a failed write or sync the system may take for written what is not. A full disk is no such thing: what is on it stays
/// as it was, and to write all of it with each try would wear it out.
pub(super) fn write_again_if_needed(place: &dyn Place) -> Result<(), Fault> {
    if place.failures().of_writing() {
        place.open()?.write_again()?;
    }
    Ok(())
}

/// What can be read of an outbox that redb gives up on. `None`: nothing, or the device fails at other things than reading.
fn salvage(place: &dyn Place, had: Option<u64>, fault: &Fault) -> Result<Option<Salvaged>, Fault> {
    let there = if place.exists() { place.open_to_read()? } else { return Ok(None) };
    let Some((bytes, unreadable)) = there.in_memory().ok().filter(|_| !there.is_in_use()) else { return Ok(None) };
    if unreadable == 0 && !matches!(fault, Fault::Damaged(_)) {
        return Ok(None);
    }
    // Another's file is not touched.
    Ok(salvage::salvage(&bytes).filter(|salvaged| had.is_some() || salvaged.meta.contains_key("format")))
}

/// Writes what was salvaged to a new file, and puts it in the place of the old one. Gives the new name of that.
fn replace(place: &dyn Place, options: &Options, had: Option<u64>, salvaged: &Salvaged) -> Result<String, Fault> {
    rebuild(place.fresh()?, options, had, salvaged)?;
    Ok(place.put_fresh_in_place()?)
}

/// Makes an outbox of what was salvaged.
fn rebuild(
    backend: impl StorageBackend,
    options: &Options,
    had: Option<u64>,
    salvaged: &Salvaged,
) -> Result<Found, Fault> {
    contain(|| {
        let database = Builder::new().create_with_backend(backend)?;
        let write = database.begin_write()?;
        {
            let (mut messages, mut seen) = (write.open_table(MESSAGES)?, write.open_table(SEEN)?);
            for (number, row) in &salvaged.messages {
                messages.insert(number, row.as_slice())?;
            }
            let mut released = write.open_table(RELEASED)?;
            for number in &salvaged.released {
                released.insert(number, ())?;
            }
            for (id, mark) in &salvaged.seen {
                seen.insert(id, mark)?;
            }
            let mut meta = write.open_table(META)?;
            // What it says of itself may be what could not be read.
            meta.insert("format", [FORMAT].as_slice())?;
            meta.insert("opened", had.unwrap_or_default().to_be_bytes().as_slice())?;
            for (key, value) in &salvaged.meta {
                meta.insert(key.as_str(), value.as_slice())?;
            }
        }
        let found = read(&write, options, Damage::IsLeftOut)?;
        write.commit()?;
        Ok(found)
    })
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
    match backend.read(0, there) {
        // It is there, and not to be made anew.
        Err(error) if is_eio(&error) => return Ok(false),
        read => read?,
    }
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
            Err(fault @ (Fault::Device(_) | Fault::NoRoom(_))) => match pauses.next() {
                Some(pause) => {
                    std::thread::sleep(pause);
                    // What cannot be done yet is tried with the rest.
                    let _ = write_again_if_needed(place);
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

/// The same for an outbox whose messages are known.
fn once_more(place: &dyn Place, options: &Options) -> Result<(Database, Found), Fault> {
    let database = Builder::new().create_with_backend(place.open()?)?;
    let write = database.begin_write()?;
    let mut found = Found::default();
    read_messages(&write, Damage::IsLeftOut, drop)?;
    read_meta(&write, options, &mut found)?;
    write.commit()?;
    Ok((database, found))
}

/// Shows each message; how many are not what was written.
fn read_messages(write: &WriteTransaction, damage: Damage, mut show: impl FnMut(Kept)) -> Result<u64, Fault> {
    let mut bad = Vec::new();
    let mut messages = write.open_table(MESSAGES)?;
    for item in messages.iter()? {
        let (number, bytes) = item?;
        let number = number.value();
        match of_row(bytes.value()) {
            Some((released, expires_unix_ms, frame)) => show(Kept { number, released, expires_unix_ms, frame }),
            None if damage == Damage::Fails => return Err(Fault::Damaged(format!("message {number} is damaged"))),
            None => bad.push(number),
        }
    }
    for number in &bad {
        messages.remove(number)?;
    }
    Ok(bad.len() as u64)
}

fn read(write: &WriteTransaction, options: &Options, damage: Damage) -> Result<Found, Fault> {
    let mut found = Found::default();
    found.unreadable_messages = read_messages(write, damage, |kept| found.messages.push(kept))?;
    let mut released = write.open_table(RELEASED)?;
    // Those of messages that are lost are of no use.
    released.retain(|number, ()| found.place(number).is_some())?;
    for item in released.iter()? {
        let place = found.place(item?.0.value());
        if let Some(kept) = place.and_then(|at| found.messages.get_mut(at)) {
            kept.released = true;
        }
    }
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
    if said("format")?.is_some_and(|format| !matches!(format[..], [1..=FORMAT])) {
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
