//! A session, and what ties it to the connection that serves it and to the store's writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, Ordering};
use std::task::Wake;

use parking_lot::{Mutex, MutexGuard};

use crate::broker::{Broker, RETRY_AFTER_MS, Woken};
use crate::message::{Message, Origin};
use crate::router::Subscriber;
use crate::session::{Fill, Session, Urgency};
use crate::store::SessionNo;

/// One session's place in the broker. Locks: at most one slot's session at a time, and nothing else below it but the
/// list of the woken.
pub struct Slot {
    no: SessionNo,
    session: Mutex<Session>,
    /// Where the connection that serves it is polled.
    served: Mutex<Option<(Arc<Woken>, u32)>>,
    /// It is on the list of the woken.
    woken: AtomicBool,
    /// The session has something for the connection to look at.
    notified: AtomicBool,
    /// The highest urgency that the writer knows of, see [`Urgency`].
    pub(crate) dirty: AtomicU8,
    online: AtomicBool,
    /// How full the queue is, see [`Fill`]; only for the policy that refuses.
    fill: AtomicU8,
    /// It is on the list of those who wait for room.
    parked: AtomicBool,
    /// Broker seconds of the last packet, and the keep alive in seconds: 0 for none.
    last_packet_s: AtomicU32,
    keep_alive_s: AtomicU16,
    /// Set by whoever wants the connection gone: a reason code, 0 for none.
    kicked: AtomicU8,
    /// The session's epoch, for a connection to see without its lock that another serves the session.
    connection: AtomicU32,
}

impl Slot {
    /// A slot for a session that no connection serves yet.
    #[must_use]
    pub fn new(session: Session) -> Arc<Self> {
        Arc::new(Self {
            no: session.no(),
            connection: AtomicU32::new(session.epoch()),
            session: Mutex::new(session),
            served: Mutex::new(None),
            woken: AtomicBool::new(false),
            notified: AtomicBool::new(false),
            dirty: AtomicU8::new(0),
            online: AtomicBool::new(false),
            fill: AtomicU8::new(Fill::Roomy as u8),
            parked: AtomicBool::new(false),
            last_packet_s: AtomicU32::new(0),
            keep_alive_s: AtomicU16::new(0),
            kicked: AtomicU8::new(0),
        })
    }

    /// The session's number.
    #[must_use]
    pub fn no(&self) -> SessionNo {
        self.no
    }

    /// Does something with the session, then tells the writer what the session wants written, and those who wait for
    /// room that there is some.
    pub fn with<R>(self: &Arc<Self>, broker: &Broker, act: impl FnOnce(&mut Session) -> R) -> R {
        let mut session = self.session.lock();
        let result = act(&mut session);
        self.leave(session, broker);
        result
    }

    /// The session alone, for looking at it.
    pub fn look<R>(&self, act: impl FnOnce(&mut Session) -> R) -> R {
        act(&mut self.session.lock())
    }

    fn leave(self: &Arc<Self>, mut session: MutexGuard<'_, Session>, broker: &Broker) {
        let urgency = session.take_urgency();
        let fill = session.room(broker.cx_settings());
        let connected = session.connected();
        let page = session.wants_page(broker.cx_settings());
        drop(session);
        if connected != self.online() {
            self.set_online(connected);
        }
        if urgency != Urgency::None {
            broker.writer.mark(self, urgency);
        }
        if let Some(page) = page {
            broker.pager.ask(self, page);
        }
        if fill as u8 != self.fill.load(Ordering::Relaxed) {
            let before = self.fill.swap(fill as u8, Ordering::Relaxed);
            if before == Fill::Full as u8 {
                broker.unpark();
            }
        }
    }

    /// Whether a connection serves it.
    #[must_use]
    pub fn online(&self) -> bool {
        self.online.load(Ordering::Relaxed)
    }

    /// How much room the queue has, where it refuses when there is none.
    #[must_use]
    pub fn fill(&self) -> Fill {
        match self.fill.load(Ordering::Relaxed) {
            0 => Fill::Roomy,
            1 => Fill::Tight,
            _ => Fill::Full,
        }
    }

    /// Whether the queue refuses more.
    #[must_use]
    pub fn full(&self) -> bool {
        self.fill() == Fill::Full
    }

    pub(crate) fn set_online(&self, online: bool) {
        self.online.store(online, Ordering::Relaxed);
    }

    /// Wakes the connection, once until it has looked.
    pub fn wake(&self) {
        if !self.notified.swap(true, Ordering::AcqRel) {
            self.poll_soon();
        }
    }

    fn poll_soon(&self) {
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Some((woken, place)) = &*self.served.lock()
        {
            woken.add(*place);
        }
    }

    /// The connection is about to be polled: what wakes it from here on is another time.
    pub(crate) fn polled(&self) {
        self.woken.store(false, Ordering::Release);
    }

    /// The connection looks: later wake-ups count again. False: nobody has woken it.
    pub(crate) fn looked(&self) -> bool {
        self.notified.swap(false, Ordering::AcqRel)
    }

    /// Returns what it was.
    pub(crate) fn set_parked(&self, parked: bool) -> bool {
        self.parked.swap(parked, Ordering::AcqRel)
    }

    /// A connection serves it from now on, and is polled for the first time soon. The one before has been taken over: it
    /// looks, and goes.
    pub(crate) fn serve(&self, woken: Arc<Woken>, place: u32) {
        let before = self.served.lock().replace((woken, place));
        self.woken.store(false, Ordering::Release);
        self.poll_soon();
        if let Some((woken, place)) = before {
            woken.add(place);
        }
    }

    /// The number of the connection that serves the session.
    pub(crate) fn connection(&self) -> u32 {
        self.connection.load(Ordering::Acquire)
    }

    pub(crate) fn set_connection(&self, epoch: u32) {
        self.connection.store(epoch, Ordering::Release);
    }

    /// Asks the connection to end with a reason code.
    pub fn kick(&self, reason: u8) {
        self.kicked.store(reason, Ordering::Release);
        self.notified.store(false, Ordering::Release);
        self.wake();
    }

    pub(crate) fn kicked(&self) -> Option<u8> {
        match self.kicked.load(Ordering::Acquire) {
            0 => None,
            reason => Some(reason),
        }
    }

    pub(crate) fn clear_kick(&self) {
        self.kicked.store(0, Ordering::Release);
    }

    pub(crate) fn set_keep_alive(&self, keep_alive_s: u16, now_s: u32) {
        self.keep_alive_s.store(keep_alive_s, Ordering::Relaxed);
        self.last_packet_s.store(now_s, Ordering::Relaxed);
    }

    pub(crate) fn heard(&self, now_s: u32) {
        self.last_packet_s.store(now_s, Ordering::Relaxed);
    }

    /// Whether one and a half times the keep alive has passed without a packet [MQTT-3.1.2-24], [MQTT5-3.1.2-22].
    pub(crate) fn silent(&self, now_s: u32) -> bool {
        let keep_alive = u32::from(self.keep_alive_s.load(Ordering::Relaxed));
        // Seconds are whole, so one more than the statement's time: never early.
        keep_alive > 0
            && now_s.saturating_sub(self.last_packet_s.load(Ordering::Relaxed)) > keep_alive + keep_alive.div_ceil(2)
    }
}

/// The socket of its connection is ready.
impl Wake for Slot {
    fn wake(self: Arc<Self>) {
        self.poll_soon();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.poll_soon();
    }
}

impl Origin for Slot {
    fn message_safe(&self) {
        self.wake();
    }

    fn message_refused(&self, message: &Message) -> bool {
        let refused = self.look(|session| session.refuse_waiting(message, RETRY_AFTER_MS));
        if refused {
            self.wake();
        }
        refused
    }
}

impl Subscriber for Arc<Slot> {
    fn key(&self) -> u64 {
        self.no.0
    }
}
