//! The outbox on disk, in redb: one thread commits what has gathered, and what waited for that is sent then.
//!
//! A publish is accepted when it is committed. A message is sent only after that, under an identifier that follows from its
//! number, so that a program that comes back repeats it under the same one. PUBREL is sent when it is on disk that PUBREC
//! came, and PUBREC when the packet identifier of the message is: so QoS 2 is exactly once over a crash of either side.
//!
//! A disk that takes no writes at the start is one that may be full: what the file has is read and sent, and it is opened with
//! the first commit that works. Until then publishing waits, as it does when a disk fills up later.

#[cfg(test)]
pub(crate) mod disk;
mod load;
pub(crate) mod place;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use redb::{Builder, Database, ReadableTable, TableDefinition};
use tokio::sync::Notify;

use load::{Fault, Found, contain};
use place::{Folder, Place};

use crate::codec::frame::Frame;
use crate::error::{ConnectError, PublishError};
use crate::options::Options;
use crate::session::Session;
use crate::session::journal::{Journal, Op, OpNumber};
use crate::shared::Shared;

/// Number of the message to [`row`].
const MESSAGES: TableDefinition<u64, &[u8]> = TableDefinition::new("messages");
/// Packet identifiers of QoS 2 messages of the server that the program has, with their marks.
const SEEN: TableDefinition<u16, u64> = TableDefinition::new("seen");
/// `format`, `client`, `level`, `mark`, `opened` (how often).
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

const FORMAT: u8 = 1;
/// A disk that cannot be written is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// How the committing thread is woken, and how it wakes those who wait for the disk.
pub(crate) struct Signal {
    thread: OnceLock<Thread>,
    noticed: AtomicBool,
    /// The thread has ended: nothing more will be committed.
    done: AtomicBool,
    committed: Notify,
}

impl Signal {
    /// Wakes the thread when there is something to commit, or nothing more will come.
    pub(crate) fn notice(&self, session: &Session) {
        if (session.has_ops() || session.ended().is_some())
            && !self.noticed.swap(true, Ordering::AcqRel)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Waits until an operation is on disk, however long that is full.
    pub(crate) async fn safe(&self, shared: &Shared, op: OpNumber) -> Result<(), PublishError> {
        loop {
            let committed = self.committed.notified();
            tokio::pin!(committed);
            committed.as_mut().enable();
            if shared.lock().session.is_safe(op) {
                return Ok(());
            }
            if self.done.load(Ordering::Acquire) {
                let why = shared.lock().session.ended().cloned();
                return Err(PublishError::Ended(why.unwrap_or(crate::EndReason::Dropped)));
            }
            committed.await;
        }
    }

    /// Waits until all that was accepted so far is on disk.
    pub(crate) async fn all_safe(&self, shared: &Shared) -> Result<(), PublishError> {
        let last = shared.lock().session.last_op();
        self.safe(shared, last).await
    }

    /// Waits until the file is closed: it may be opened again then.
    pub(crate) async fn closed(&self) {
        loop {
            let committed = self.committed.notified();
            tokio::pin!(committed);
            committed.as_mut().enable();
            if self.done.load(Ordering::Acquire) {
                return;
            }
            committed.await;
        }
    }
}

/// The file. redb refuses everything after an error of its file, for good: it is opened again then.
pub(crate) struct Store {
    place: Box<dyn Place>,
    database: Option<Database>,
    /// It could only be read so far: what is done at each start is done with the first commit.
    to_begin: Option<Options>,
    /// A commit has failed: what the system takes for written may not be.
    in_doubt: bool,
}

impl Store {
    pub(crate) fn open(place: Box<dyn Place>, options: &Options) -> Result<(Self, Found), Fault> {
        let (database, found) = load::open(place.as_ref(), options)?;
        tracing::debug!(messages = found.messages.len(), "the outbox was read");
        let to_begin = database.is_none().then(|| options.clone());
        Ok((Self { in_doubt: to_begin.is_some(), place, database, to_begin }, found))
    }

    pub(crate) fn commit(&mut self, ops: &[Op]) -> Result<(), Fault> {
        let committed = contain(|| {
            let database = match self.database.take() {
                Some(database) => database,
                None => self.reopen()?,
            };
            commit(&database, ops)?;
            self.database = Some(database);
            Ok(())
        });
        self.in_doubt = committed.is_err();
        committed
    }

    fn reopen(&mut self) -> Result<Database, Fault> {
        if self.in_doubt {
            self.place.open()?.write_again()?;
        }
        let Some(options) = &self.to_begin else {
            return Ok(Builder::new().create_with_backend(self.place.open()?)?);
        };
        let database = load::begin(self.place.as_ref(), options)?;
        self.to_begin = None;
        Ok(database)
    }

    fn close(mut self) {
        // What could be said of it was said of the last commit.
        let _ = contain(|| {
            drop(self.database.take());
            Ok(())
        });
    }
}

/// Opens the file that the options name, and gives the session what is in it.
pub(crate) fn open(options: &Arc<Options>) -> Result<(Session, Option<Store>), ConnectError> {
    let now = Instant::now();
    let Some(file) = &options.durable else {
        return Ok((Session::new(options.clone(), Journal::default(), now), None));
    };
    let mut session = Session::new(options.clone(), Journal::durable(), now);
    let (store, found) = Store::open(Box::new(Folder::of(file)), options)
        .map_err(|fault| ConnectError::Store(format!("{}: {fault}", file.display())))?;
    found.give_to(&mut session, now);
    Ok((session, Some(store)))
}

/// Starts the committing thread.
pub(crate) fn attach(mut shared: Shared, store: Option<Store>) -> Result<Arc<Shared>, ConnectError> {
    let Some(file) = store else { return Ok(Arc::new(shared)) };
    shared.store = Some(Signal {
        thread: OnceLock::new(),
        noticed: AtomicBool::new(false),
        done: AtomicBool::new(false),
        committed: Notify::new(),
    });
    let shared = Arc::new(shared);
    let of_thread = shared.clone();
    let thread = std::thread::Builder::new()
        .name("outbox".to_owned())
        .spawn(move || run(&of_thread, file))
        .map_err(|error| ConnectError::Store(format!("its thread cannot be started: {error}")))?;
    if let Some(store) = &shared.store {
        let _ = store.thread.set(thread.thread().clone());
        // What came before the thread was known.
        thread.thread().unpark();
    }
    Ok(shared)
}

fn run(shared: &Shared, mut file: Store) {
    let Some(signal) = &shared.store else { return };
    commit_until_the_end(shared, signal, &mut file);
    file.close();
    signal.done.store(true, Ordering::Release);
    signal.committed.notify_waiters();
}

fn commit_until_the_end(shared: &Shared, signal: &Signal, file: &mut Store) {
    let mut safe = 0;
    let mut complained = false;
    let mut ops = Vec::new();
    loop {
        signal.noticed.store(false, Ordering::Release);
        let (new, number, ended) = shared.with(|session| {
            let (ops, number) = session.take_ops();
            (ops, number, session.ended().is_some())
        });
        ops.extend(new);
        if ops.is_empty() {
            if ended {
                return;
            }
            std::thread::park();
            continue;
        }
        match file.commit(&ops) {
            Ok(()) => {
                ops.clear();
                complained = false;
                shared.with(|session| session.committed(safe, number));
                safe = number;
                signal.committed.notify_waiters();
            }
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::error!("the outbox cannot be written, publishing waits: {error}");
                }
                if ended {
                    return;
                }
                cancel_out(&mut ops);
                std::thread::sleep(RETRY);
            }
        }
    }
}

fn commit(database: &Database, ops: &[Op]) -> Result<(), Fault> {
    let write = database.begin_write()?;
    {
        let mut messages = write.open_table(MESSAGES)?;
        let mut seen = write.open_table(SEEN)?;
        for (at, op) in ops.iter().enumerate() {
            match op {
                // What is removed within the same commit is never written.
                Op::Put { number, .. } if ops.len() > 1 && removed_later(ops, at, *number) => {}
                Op::Put { number, frame, expires_unix_ms } => {
                    messages.insert(number, row(frame, *expires_unix_ms).as_slice())?;
                }
                Op::Release { number } => {
                    let released = messages.get(number)?.map(|bytes| bytes.value().to_vec());
                    if let Some(mut bytes) = released {
                        if let Some(flag) = bytes.first_mut() {
                            *flag = 1;
                        }
                        messages.insert(number, bytes.as_slice())?;
                    }
                }
                Op::Remove { number } => {
                    messages.remove(number)?;
                }
                Op::Seen { id, mark } => {
                    seen.insert(id.get(), mark)?;
                }
                Op::Forget { id } => {
                    seen.remove(id.get())?;
                }
                Op::ForgetAll => seen.retain(|_, _| false)?,
                Op::Mark { .. } => {}
            }
        }
    }
    // The last one holds for all.
    let mark = ops.iter().rev().find_map(|op| if let Op::Mark { mark } = op { Some(*mark) } else { None });
    if let Some(mark) = mark {
        write.open_table(META)?.insert("mark", mark.to_be_bytes().as_slice())?;
    }
    write.commit()?;
    Ok(())
}

/// While the disk is full the outbox goes on, and drops what it must: what is put and removed again meanwhile is not kept.
pub(crate) fn cancel_out(ops: &mut Vec<Op>) {
    let mut keep = vec![true; ops.len()];
    let mut removed = HashMap::new();
    let (mut forgotten, mut marked) = (false, false);
    for (at, op) in ops.iter().enumerate().rev() {
        let mut omit = |at: usize| {
            if let Some(keep) = keep.get_mut(at) {
                *keep = false;
            }
        };
        match op {
            Op::Remove { number } => omit(removed.insert(*number, at).unwrap_or(usize::MAX)),
            Op::Put { number, .. } => {
                if let Some(removal) = removed.remove(number) {
                    omit(at);
                    omit(removal);
                }
            }
            Op::Release { number } if removed.contains_key(number) => omit(at),
            Op::Seen { .. } | Op::Forget { .. } | Op::ForgetAll if forgotten => omit(at),
            Op::ForgetAll => forgotten = true,
            Op::Mark { .. } if marked => omit(at),
            Op::Mark { .. } => marked = true,
            Op::Release { .. } | Op::Seen { .. } | Op::Forget { .. } => {}
        }
    }
    let mut keep = keep.into_iter();
    ops.retain(|_| keep.next().unwrap_or(true));
}

/// A look at the next operations only: a message that is dropped at once is dropped soon.
fn removed_later(ops: &[Op], at: usize, number: u64) -> bool {
    let mut near = ops.iter().skip(at + 1).take(8);
    near.any(|op| matches!(op, Op::Remove { number: removed } if *removed == number))
}

/// Released or not, expiry in milliseconds of Unix time (0: none), and the frame.
fn row(frame: &Frame, expires_unix_ms: Option<u64>) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&expires_unix_ms.unwrap_or(0).to_be_bytes());
    frame.save(&mut bytes);
    bytes
}

fn of_row(bytes: &[u8]) -> Option<(bool, Option<u64>, Frame)> {
    let (released, rest) = bytes.split_first()?;
    let (expires, rest) = rest.split_first_chunk::<8>()?;
    let expires = u64::from_be_bytes(*expires);
    Some((*released == 1, (expires > 0).then_some(expires), Frame::load(rest)?))
}
