//! What handles and driver share: the session behind one lock, and who is to be woken.

use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast, watch};

use crate::error::{ConnectError, EndReason};
use crate::event::Event;
use crate::options::Options;
use crate::session::{EndedBy, Session, WallTime};

/// Events that somebody who listens may be behind.
const EVENTS: usize = 64;

/// What the wall clock says.
pub(crate) fn wall_time() -> WallTime {
    WallTime(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// What the client is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// No attempt has come to an end.
    Starting,
    Offline,
    Online,
    Ended,
}

pub(crate) struct Shared {
    pub(crate) options: Arc<Options>,
    locked: Mutex<Locked>,
    /// The outbox has room again.
    pub(crate) room: Notify,
    /// Something was acknowledged, written or dropped: for those who wait until nothing is left.
    pub(crate) drained: Notify,
    /// Made when somebody listens for the first time: its buffer is larger than all the rest.
    events: OnceLock<broadcast::Sender<Event>>,
    pub(crate) status: watch::Sender<Status>,
    /// Why the first attempt failed, for who waits for it.
    pub(crate) first_error: Mutex<Option<ConnectError>>,
    #[cfg(feature = "durable")]
    pub(crate) store: Option<crate::durable::Signal>,
}

pub(crate) struct Locked {
    pub(crate) session: Session,
    /// The driver, while it sleeps and output would be of use to it.
    driver: Option<Waker>,
    /// The driver does not read, since too much is unread.
    pub(crate) paused: bool,
    /// The socket takes nothing more: output is of no use to the driver.
    blocked: bool,
    /// Bytes of the smallest message for which somebody waits for room.
    room_wanted: Option<usize>,
    drain_wanted: bool,
}

impl Shared {
    pub(crate) fn new(options: Arc<Options>, session: Session) -> Self {
        let locked =
            Locked { session, driver: None, paused: false, blocked: false, room_wanted: None, drain_wanted: false };
        Self {
            options,
            locked: Mutex::new(locked),
            room: Notify::new(),
            drained: Notify::new(),
            events: OnceLock::new(),
            first_error: Mutex::new(None),
            status: watch::Sender::new(Status::Starting),
            #[cfg(feature = "durable")]
            store: None,
        }
    }

    /// Works on the session, then wakes whom that concerns.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Session) -> R) -> R {
        let mut locked = self.locked.lock();
        let result = work(&mut locked.session);
        let driver = self.settle(&mut locked);
        drop(locked);
        if let Some(driver) = driver {
            driver.wake();
        }
        result
    }

    /// The driver's turn: it is awake, and will look at the session itself before it sleeps.
    pub(crate) fn with_driver<R>(&self, work: impl FnOnce(&mut Locked) -> R) -> R {
        let mut locked = self.locked.lock();
        let result = work(&mut locked);
        let _awake = self.settle(&mut locked);
        result
    }

    /// Tells those who listen.
    pub(crate) fn tell(&self, event: Event) {
        if let Some(events) = self.events.get() {
            // Nobody has to listen.
            let _ = events.send(event);
        }
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Event> {
        self.events.get_or_init(|| broadcast::Sender::new(EVENTS)).subscribe()
    }

    fn settle(&self, locked: &mut Locked) -> Option<Waker> {
        while let Some(event) = locked.session.next_event() {
            if matches!(event, Event::Connected(_)) {
                self.status.send_replace(Status::Online);
            }
            self.tell(event);
        }
        if locked.room_wanted.is_some_and(|size| locked.session.outbox_is_roomy_for(size)) {
            locked.room_wanted = None;
            self.room.notify_waiters();
        }
        if locked.drain_wanted && (locked.session.is_drained() || locked.session.ended().is_some()) {
            locked.drain_wanted = false;
            self.drained.notify_waiters();
        }
        #[cfg(feature = "durable")]
        if let Some(store) = &self.store {
            store.notice(&locked.session);
        }
        if locked.has_work() || locked.session.ended().is_some() { locked.driver.take() } else { None }
    }

    pub(crate) fn lock(&self) -> parking_lot::MutexGuard<'_, Locked> {
        self.locked.lock()
    }

    /// Ends the client.
    pub(crate) fn end(&self, why: EndReason, disconnect: Option<forebay_wire::ReasonCode>) {
        self.with(|session| session.end(why, disconnect));
        self.room.notify_waiters();
        self.drained.notify_waiters();
    }
}

impl Locked {
    /// The driver goes to sleep; false when there is something for it to do first. While the socket is `blocked` it is
    /// woken by the end of the client, or when it may read again.
    pub(crate) fn sleep(&mut self, waker: &Waker, blocked: bool) -> bool {
        self.blocked = blocked;
        if self.has_work() || self.session.ended().is_some() && !blocked {
            return false;
        }
        match &mut self.driver {
            Some(known) => known.clone_from(waker),
            None => self.driver = Some(waker.clone()),
        }
        true
    }

    fn has_work(&self) -> bool {
        self.session.has_output() && !self.blocked || self.paused && !self.session.inbox_is_full()
    }

    /// The connection is over.
    pub(crate) fn closed(&mut self, by: EndedBy) {
        self.session.closed(by);
        (self.paused, self.blocked) = (false, false);
    }

    /// Somebody waits for room for so many bytes.
    pub(crate) fn want_room(&mut self, size: usize) {
        self.room_wanted = Some(self.room_wanted.map_or(size, |other| other.min(size)));
    }

    /// Somebody waits until nothing is left.
    pub(crate) fn want_drain(&mut self) {
        self.drain_wanted = true;
    }
}
