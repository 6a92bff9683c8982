//! The outbox on disk, in redb: one thread commits what has gathered, and what waited for that is sent then.
//!
//! A publish is accepted when it is committed. A message is sent only after that, under an identifier that follows from its
//! number, so that a program that comes back repeats it under the same one. PUBREL is sent when it is on disk that PUBREC
//! came, and PUBREC when the packet identifier of the message is: so QoS 2 is exactly once over a crash of either side.
//!
//! A disk that takes no writes at the start is one that may be full: what the file has is read and sent, and it is opened with
//! the first commit that works. Until then publishing waits, as it does when a disk fills up later. Only new messages wait for
//! room: what becomes of those that are there is written without them, so that they come to their end, and make room.

pub(crate) mod backlog;
#[cfg(test)]
pub(crate) mod disk;
mod load;
pub(crate) mod place;
mod salvage;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use redb::{Database, TableDefinition};
use tokio::sync::Notify;

use backlog::{Backlog, Freed};
use load::{Fault, Found, contain};
use place::{Folder, Place};

use crate::codec::frame::Frame;
use crate::error::{ConnectError, PublishError};
use crate::options::Options;
use crate::session::Session;
use crate::session::journal::{Committed, Journal, Op, OpNumber};
use crate::shared::Shared;

/// Number of the message to [`row`].
const MESSAGES: TableDefinition<u64, &[u8]> = TableDefinition::new("messages");
/// Numbers of messages whose PUBREC has come. Apart from the messages: a disk that is full has room for this.
const RELEASED: TableDefinition<u64, ()> = TableDefinition::new("released");
/// Packet identifiers of QoS 2 messages of the server that the program has, with their marks.
const SEEN: TableDefinition<u16, u64> = TableDefinition::new("seen");
/// `format`, `client`, `level`, `mark`, `opened` (how often).
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// In format 1 each row of a message said whether it was released.
const FORMAT: u8 = 2;
/// A disk that cannot be written is tried again after this, and then after twice as long each time.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A reserve that was given up, or for which there was no room, is made again after this.
const RESERVE_AGAIN: Duration = Duration::from_secs(60);
/// While it cannot be written, what comes in so much time is looked at together.
const GATHER: Duration = Duration::from_millis(10);

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
    /// `None`: it could only be read so far, or a commit has failed. What is done at each start is done with the next commit.
    database: Option<Database>,
    options: Options,
    /// Why the last commit has failed, though the file had just been opened for it.
    fault: Option<Fault>,
    /// When there was no room for the reserve, or it was given up.
    without_reserve: Option<Instant>,
}

impl Store {
    pub(crate) fn open(place: Box<dyn Place>, options: &Options) -> Result<(Self, Found), Fault> {
        let (database, found) = load::open(place.as_ref(), options)?;
        tracing::debug!(messages = found.messages.len(), "the outbox was read");
        let mut store = Self { place, database, options: options.clone(), fault: None, without_reserve: None };
        store.keep_reserve();
        Ok((store, found))
    }

    /// Commits what must not wait until there is room for messages. They may have taken all that there was.
    pub(crate) fn commit_small(&mut self, ops: &[Op]) -> Result<(), Fault> {
        match self.commit(ops) {
            Err(Fault::NoRoom(_)) if self.place.give_up_reserve() => {
                self.without_reserve = Some(Instant::now());
                self.commit(ops)
            }
            committed => committed,
        }
    }

    fn keep_reserve(&mut self) {
        if let Err(error) = self.place.keep_reserve() {
            tracing::debug!("there is no room for a reserve beside the outbox: {error}");
            self.without_reserve = Some(Instant::now());
        } else {
            self.without_reserve = None;
        }
    }

    pub(crate) fn commit(&mut self, ops: &[Op]) -> Result<(), Fault> {
        contain(|| {
            let (database, is_new) = match self.database.take() {
                Some(database) => (database, false),
                None => (self.reopen()?, true),
            };
            if let Err(fault) = contain(|| commit(&database, ops)) {
                self.fault = is_new.then(|| fault.clone());
                return Err(fault);
            }
            self.database = Some(database);
            Ok(())
        })?;
        if self.without_reserve.is_some_and(|since| since.elapsed() >= RESERVE_AGAIN) {
            self.keep_reserve();
        }
        Ok(())
    }

    fn reopen(&mut self) -> Result<Database, Fault> {
        load::write_again_if_needed(self.place.as_ref())?;
        load::begin(self.place.as_ref(), &self.options, self.fault.take())
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
    let (mut backlog, mut trouble) = (Backlog::default(), Trouble::default());
    loop {
        signal.noticed.store(false, Ordering::Release);
        let (new, number, ended) = shared.with(|session| {
            let (ops, number) = session.take_ops();
            (ops, number, session.ended().is_some())
        });
        let tell = |what| {
            shared.with(|session| session.committed(number, what));
            signal.committed.notify_waiters();
        };
        backlog.extend(new);
        let idle = backlog.is_empty();
        if idle {
            // What was put and removed again is as good as written.
            tell(Committed::All);
        } else if ended || trouble.may_try(Instant::now()) {
            match backlog.commit(file) {
                Ok(()) => {
                    trouble = Trouble::default();
                    tell(Committed::All);
                }
                Err(fault) => trouble.begins(&fault, Instant::now()),
            }
        }
        if trouble.stuck == Stuck::Messages {
            match backlog.commit_acks(file) {
                Ok(Some(freed)) => {
                    tell(Committed::Acks);
                    trouble.eased(freed, Instant::now());
                }
                Ok(None) => {}
                Err(_) => trouble.stuck = Stuck::All,
            }
        }
        if ended && (idle || trouble.stuck != Stuck::Nothing) {
            return;
        }
        if !ended {
            trouble.wait(backlog.is_empty());
        }
    }
}

/// What the disk does not take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stuck {
    #[default]
    Nothing,
    /// It has no room for new messages, and perhaps for all else.
    Messages,
    All,
}

/// A disk that cannot be written.
#[derive(Default)]
struct Trouble {
    stuck: Stuck,
    /// It is tried again then.
    until: Option<Instant>,
    /// How often it was tried.
    tries: u32,
}

impl Trouble {
    fn may_try(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// A commit of everything has failed.
    fn begins(&mut self, fault: &Fault, now: Instant) {
        if self.stuck == Stuck::Nothing {
            tracing::error!("the outbox cannot be written, publishing waits: {fault}");
        }
        self.stuck = if matches!(fault, Fault::NoRoom(_)) { Stuck::Messages } else { Stuck::All };
        self.until = Some(now + RETRY.saturating_mul(1 << self.tries.min(6)).min(RETRY_MAX));
        self.tries = self.tries.saturating_add(1);
    }

    /// Everything but new messages was written.
    fn eased(&mut self, freed: Freed, now: Instant) {
        if freed == Freed::Room {
            self.until = self.until.min(Some(now + RETRY));
        }
    }

    /// Waits until there is something to do.
    fn wait(&self, idle: bool) {
        if self.stuck != Stuck::Nothing {
            std::thread::sleep(GATHER);
        }
        match self.until.filter(|_| !idle) {
            Some(until) => std::thread::park_timeout(until.saturating_duration_since(Instant::now())),
            None => std::thread::park(),
        }
    }
}

fn commit(database: &Database, ops: &[Op]) -> Result<(), Fault> {
    let write = database.begin_write()?;
    {
        let mut messages = write.open_table(MESSAGES)?;
        let mut released = write.open_table(RELEASED)?;
        let mut seen = write.open_table(SEEN)?;
        for (at, op) in ops.iter().enumerate() {
            match op {
                // What is removed within the same commit is never written.
                Op::Put { number, .. } if ops.len() > 1 && removed_later(ops, at, *number) => {}
                Op::Put { number, frame, expires_unix_ms } => {
                    messages.insert(number, row(frame, *expires_unix_ms).as_slice())?;
                }
                Op::Release { number } => {
                    released.insert(number, ())?;
                }
                Op::Remove { number } => {
                    messages.remove(number)?;
                    released.remove(number)?;
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

/// A zero, expiry in milliseconds of Unix time (0: none), and the frame.
fn row(frame: &Frame, expires_unix_ms: Option<u64>) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&expires_unix_ms.unwrap_or(0).to_be_bytes());
    frame.save(&mut bytes);
    bytes
}

/// In rows of format 1 the first byte says whether the message is released.
fn of_row(bytes: &[u8]) -> Option<(bool, Option<u64>, Frame)> {
    let (released, rest) = bytes.split_first()?;
    let (expires, rest) = rest.split_first_chunk::<8>()?;
    let expires = u64::from_be_bytes(*expires);
    Some((*released == 1, (expires > 0).then_some(expires), Frame::load(rest)?))
}
