//! A session, and what ties it to the connection that serves it and to the store's writer.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};

use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::sync::watch;

use crate::broker::parking::HeldUp;
use crate::broker::{Broker, RETRY_AFTER_MS, Woken};
use crate::message::{Message, Origin, Time};
use crate::queue::{Look, Priorities, Stall};
use crate::router::Subscriber;
use crate::session::{Authority, Collected, Fill, Session, Urgency};
use crate::store::SessionNo;

/// Seconds between two lines about one session's full queue.
const SAY_FULL_EVERY_S: u32 = 60;
/// A publisher that was refused is taken to wait for so long: nobody knows when it comes again.
const REFUSED_FOR_S: u32 = 60;

/// One session's place in the broker. Locks: at most one slot's session at a time, and nothing else below it but the
/// list of the woken.
pub struct Slot {
    no: SessionNo,
    client_id: Arc<str>,
    /// It takes messages of one level only.
    lane: OnceLock<Lane>,
    /// Its queue is told who published each message.
    names_publisher: AtomicBool,
    session: Mutex<Session>,
    /// Who serves it.
    served: Mutex<Option<Server>>,
    /// It is on the list of the woken.
    woken: AtomicBool,
    /// The session has something for the connection to look at.
    notified: AtomicBool,
    /// The highest urgency that the writer knows of, see [`Urgency`].
    pub(crate) dirty: AtomicU8,
    /// Not 0: the writer is to have of it what is there now, and whoever changes the session collects that before; up to this time
    /// and a millisecond.
    in_cut: AtomicU64,
    /// What was collected like that, until the writer comes for it.
    collected: Mutex<Option<Box<Part>>>,
    online: AtomicBool,
    /// How full the queue is, see [`Fill`]; only for the policy that refuses.
    fill: AtomicU8,
    /// The queue is full, and drops something for what comes next.
    drops: AtomicBool,
    /// Broker second in which a full queue was said last; 0 for never.
    said_full_s: AtomicU32,
    /// Since when the queue has refused without having drained.
    stall: Mutex<Option<Stall>>,
    /// Its client takes no more now, and messages wait for it.
    backed_up: AtomicBool,
    /// It is a member of a declared queue, or was.
    member: AtomicBool,
    /// One more than the broker second in which its full queue turned a message away last; 0 for never since it is full.
    turned_away_s: AtomicU32,
    /// Broker seconds of the last packet, and the keep alive in seconds: 0 for none.
    last_packet_s: AtomicU32,
    keep_alive_s: AtomicU16,
    /// Its socket is not read, for a reason of the broker's: nobody knows what its client says.
    unread: AtomicBool,
    /// One more than the broker second in which the packet began that is not complete yet; 0 for none.
    packet_began_s: AtomicU32,
    /// Set by whoever wants the connection gone: a reason code, 0 for none.
    kicked: AtomicU8,
    /// The session's epoch, for a connection to see without its lock that another serves the session.
    connection: AtomicU32,
    /// Who is told that a message which was published in its name is safe, beside its connection.
    safe: OnceLock<watch::Sender<()>>,
    /// It has an authority: most have none, and are not asked.
    guarded: AtomicBool,
    /// What the client of its last connection may do.
    authority: RwLock<Option<Arc<dyn Authority>>>,
}

/// What a session gives to a commit, and whether it has left something for the next.
pub(crate) type Part = (Option<Collected>, bool);

/// One level of a declared queue with priorities.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) priorities: Arc<Priorities>,
    pub(crate) level: u8,
}

/// Who is woken when the session has something to look at.
enum Server {
    /// A connection, polled by the worker of this list, in this place.
    Connection(Arc<Woken>, u32),
    /// Who takes the messages as values.
    Taker(Box<Waker>),
}

impl Server {
    fn wake(&self) {
        match self {
            Self::Connection(woken, place) => woken.add(*place),
            Self::Taker(waker) => waker.wake_by_ref(),
        }
    }
}

impl Slot {
    /// A slot for a session that no connection serves yet.
    #[must_use]
    pub fn new(session: Session) -> Arc<Self> {
        Arc::new(Self {
            no: session.no(),
            client_id: session.client_id().clone(),
            lane: OnceLock::new(),
            names_publisher: AtomicBool::new(false),
            connection: AtomicU32::new(session.epoch()),
            session: Mutex::new(session),
            served: Mutex::new(None),
            woken: AtomicBool::new(false),
            notified: AtomicBool::new(false),
            dirty: AtomicU8::new(0),
            in_cut: AtomicU64::new(0),
            collected: Mutex::new(None),
            online: AtomicBool::new(false),
            fill: AtomicU8::new(Fill::Roomy as u8),
            drops: AtomicBool::new(false),
            said_full_s: AtomicU32::new(0),
            stall: Mutex::new(None),
            backed_up: AtomicBool::new(false),
            member: AtomicBool::new(false),
            turned_away_s: AtomicU32::new(0),
            last_packet_s: AtomicU32::new(0),
            keep_alive_s: AtomicU16::new(0),
            unread: AtomicBool::new(false),
            packet_began_s: AtomicU32::new(0),
            kicked: AtomicU8::new(0),
            safe: OnceLock::new(),
            guarded: AtomicBool::new(false),
            authority: RwLock::new(None),
        })
    }

    /// The session's number.
    #[must_use]
    pub fn no(&self) -> SessionNo {
        self.no
    }

    /// The client identifier.
    #[must_use]
    pub fn client_id(&self) -> &Arc<str> {
        &self.client_id
    }

    /// From now on it takes messages of this level only.
    pub(crate) fn take_lane(&self, lane: Lane) {
        let _ = self.lane.set(lane);
    }

    /// Whether a message is for it. Most slots take whatever they have subscribed to.
    pub(crate) fn takes(&self, topic: &str, properties: &[u8]) -> bool {
        self.lane.get().is_none_or(|lane| lane.priorities.level(topic, properties) == lane.level)
    }

    /// From now on each message that comes to its queue says who published it, see [`crate::queue::PUBLISHER`].
    pub(crate) fn name_publisher(&self) {
        self.names_publisher.store(true, Ordering::Relaxed);
    }

    pub(crate) fn names_publisher(&self) -> bool {
        self.names_publisher.load(Ordering::Relaxed)
    }

    /// Does something with the session, then tells the writer what the session wants written, and those who wait for
    /// room that there is some.
    pub fn with<R>(self: &Arc<Self>, broker: &Broker, act: impl FnOnce(&mut Session) -> R) -> R {
        let mut session = self.lock_to_change();
        let result = act(&mut session);
        self.leave(session, broker);
        result
    }

    fn lock_to_change(&self) -> MutexGuard<'_, Session> {
        let mut session = self.session.lock();
        if self.in_cut.load(Ordering::Acquire) != 0 {
            let cutoff = self.in_cut.swap(0, Ordering::AcqRel).wrapping_sub(1);
            *self.collected.lock() = Some(Box::new(session.collect(Time(cutoff))));
        }
        session
    }

    /// The writer is to have what the session has to write now, though it comes for it later: [`Slot::collect`].
    pub(crate) fn cut(&self, cutoff: Time) {
        self.dirty.store(0, Ordering::Release);
        self.in_cut.store(cutoff.0.saturating_add(1), Ordering::Release);
    }

    /// What the session had to write at the last [`Slot::cut`].
    pub(crate) fn collect(&self, cutoff: Time) -> Part {
        let mut session = self.session.lock();
        self.in_cut.store(0, Ordering::Release);
        let before = self.collected.lock().take();
        before.map_or_else(|| session.collect(cutoff), |part| *part)
    }

    /// The session alone, for looking at it: nothing that the store knows of changes.
    pub fn look<R>(&self, act: impl FnOnce(&mut Session) -> R) -> R {
        act(&mut self.session.lock())
    }

    fn leave(self: &Arc<Self>, mut session: MutexGuard<'_, Session>, broker: &Broker) {
        let urgency = session.take_urgency();
        if session.has_overflowed() {
            let (client, limit) = (&**session.client_id(), broker.settings.outbound_buffer);
            tracing::warn!(
                client,
                "it does not read fast enough: QoS 0 messages for it are dropped and counted (ledger/dropped/qos0) from \
                 {limit} bytes on (limits.outbound_buffer), until it has taken what waits"
            );
        }
        if session.sheds() && session.shed_enough(broker.cx_settings()) {
            tracing::info!(
                client = &**session.client_id(),
                "the queue has drained by half, and refuses when it is full"
            );
        }
        let fill = session.room(broker.cx_settings());
        let full = (fill == Fill::Full).then(|| session.turnover());
        let backed_up = session.is_backed_up(broker.cx_settings());
        let drops = session.drops(broker.cx_settings());
        let connected = session.connected();
        let page = session.wants_page(broker.cx_settings());
        let lent = session.take_lent_news(broker.cx_settings());
        let fallen = session.has_fallen();
        // Under the lock: else what an earlier change made of them could come last, and stay.
        let came_or_went = change(&self.online, connected);
        change(&self.backed_up, backed_up);
        let drops_no_more = change(&self.drops, drops) && !drops;
        let fill_before = self.fill.load(Ordering::Relaxed);
        self.fill.store(fill as u8, Ordering::Relaxed);
        drop(session);
        if let Some(news) = lent {
            broker.queues.tell(self.no.0, news);
        }
        if came_or_went && self.member.load(Ordering::Relaxed) {
            broker.queues.came_or_went(self.no.0);
        }
        if drops_no_more {
            // Another member of its group may be what publishers wait for.
            broker.unpark();
        }
        if urgency != Urgency::None {
            broker.writer.mark(self, urgency);
        }
        if fallen {
            broker.keep_fallen(self);
        }
        if let Some(page) = page {
            broker.pager.ask(self, page);
        }
        if fill as u8 != fill_before {
            if let Some(turnover) = full {
                let mut stall = self.stall.lock();
                if stall.is_none() {
                    self.turned_away_s.store(0, Ordering::Relaxed);
                }
                Stall::fill(&mut stall, broker.now_s(), turnover);
            }
            if fill_before == Fill::Full as u8 {
                broker.unpark_behind(self.no);
            }
            if fill == Fill::Full {
                self.say_full(broker);
            }
        }
    }

    /// A queue at its limit may become full with each message: that is said once in a while.
    fn say_full(&self, broker: &Broker) {
        let (now_s, said_s) = (broker.now_s(), self.said_full_s.load(Ordering::Relaxed));
        if said_s == 0 || now_s.saturating_sub(said_s) >= SAY_FULL_EVERY_S {
            self.said_full_s.store(now_s.max(1), Ordering::Relaxed);
            let (client, fill) = self.look(|session| (session.client_id().clone(), session.fill()));
            let (client, messages, bytes) = (&*client, fill.0, fill.1);
            tracing::warn!(
                client,
                messages,
                bytes,
                "its queue is full: publishers are refused, or wait, until there is room"
            );
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

    /// Whether the queue is full, and drops something for what comes next.
    #[must_use]
    pub fn drops(&self) -> bool {
        self.drops.load(Ordering::Relaxed)
    }

    /// Whether its client takes no more now, while messages wait for it.
    #[must_use]
    pub fn backed_up(&self) -> bool {
        self.backed_up.load(Ordering::Relaxed)
    }

    /// A message finds its queue full.
    pub(super) fn turn_away(&self, now_s: u32) {
        self.turned_away_s.store(now_s.saturating_add(1), Ordering::Relaxed);
    }

    /// Whether somebody was refused for its full queue a short time ago.
    pub(super) fn has_turned_away(&self, now_s: u32) -> bool {
        let last = self.turned_away_s.load(Ordering::Relaxed);
        last > 0 && (now_s + 1).saturating_sub(last) < REFUSED_FOR_S
    }

    /// The same, at any time since it is full.
    pub(super) fn has_ever_turned_away(&self) -> bool {
        self.turned_away_s.load(Ordering::Relaxed) > 0
    }

    /// Seconds that the queue has held publishers up without having drained, if it is full now; `held_up`: somebody waits for it.
    pub(super) fn full_for_s(&self, now_s: u32, held_up: &HeldUp) -> Option<u32> {
        if self.stall.lock().is_none() {
            return None;
        }
        let turnover = self.look(|session| session.turnover());
        let (full, held_up) = (self.full(), held_up.by(self, now_s));
        Stall::look(&mut self.stall.lock(), now_s, Look { full, held_up, turnover })
    }

    /// It will not hold anybody up from now on.
    pub(crate) fn forget_stall(&self) {
        *self.stall.lock() = None;
    }

    pub(crate) fn set_member(&self) {
        self.member.store(true, Ordering::Relaxed);
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

    /// Changes whenever a message is safe that was published in its name.
    #[must_use]
    pub fn safe(&self) -> watch::Receiver<()> {
        self.safe.get_or_init(|| watch::Sender::new(())).subscribe()
    }

    fn poll_soon(&self) {
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Some(server) = &*self.served.lock()
        {
            server.wake();
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

    /// A connection serves it from now on, and is polled for the first time soon. The one before has been taken over: it
    /// looks, and goes.
    pub(crate) fn serve(&self, woken: Arc<Woken>, place: u32) {
        let before = self.served.lock().replace(Server::Connection(woken, place));
        self.woken.store(false, Ordering::Release);
        self.poll_soon();
        if let Some(before) = before {
            before.wake();
        }
    }

    /// Wakes this waker from now on, and counts all wake-ups until now as seen.
    pub(crate) fn serve_taker(&self, waker: &Waker) {
        {
            let mut served = self.served.lock();
            let known = matches!(&*served, Some(Server::Taker(known)) if known.will_wake(waker));
            if !known {
                *served = Some(Server::Taker(Box::new(waker.clone())));
            }
        }
        self.polled();
        self.looked();
    }

    /// The number of the connection that serves the session.
    pub(crate) fn connection(&self) -> u32 {
        self.connection.load(Ordering::Acquire)
    }

    pub(crate) fn set_connection(&self, epoch: u32) {
        self.connection.store(epoch, Ordering::Release);
    }

    /// What the client of its last connection may do; `None`: everything, or nobody has come since the start.
    #[must_use]
    pub fn authority(&self) -> Option<Arc<dyn Authority>> {
        if self.guarded.load(Ordering::Acquire) { self.authority.read().clone() } else { None }
    }

    /// True: routes that are known may be wrong now, since somebody with other rights has come.
    pub(crate) fn set_authority(&self, authority: Option<Arc<dyn Authority>>) -> bool {
        let guarded = authority.is_some();
        let before = std::mem::replace(&mut *self.authority.write(), authority);
        let was_guarded = self.guarded.swap(guarded, Ordering::AcqRel);
        match (before, self.authority()) {
            (Some(before), Some(now)) => before.depends_on() != now.depends_on(),
            (None, None) => false,
            (None, Some(_)) | (Some(_), None) => guarded || was_guarded,
        }
    }

    /// Whether a message with this topic may go to its client.
    #[must_use]
    pub fn may_receive(&self, topic: &str) -> bool {
        !self.guarded.load(Ordering::Acquire)
            || self.authority.read().as_ref().is_none_or(|authority| authority.may_receive(topic))
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
        self.packet_began_s.store(0, Ordering::Relaxed);
        self.heard(now_s);
    }

    /// Its client is there now, and is heard from now on.
    pub(crate) fn heard(&self, now_s: u32) {
        self.last_packet_s.store(now_s, Ordering::Relaxed);
        self.unread.store(false, Ordering::Release);
    }

    /// Its socket is not read until the next [`Slot::heard`], and its client not taken for silent.
    pub(crate) fn leave_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Acquire)
    }

    /// A packet has begun now, and is not complete.
    pub(crate) fn packet_began(&self, now_s: u32) {
        self.packet_began_s.store(now_s.saturating_add(1), Ordering::Relaxed);
    }

    /// No packet is incomplete.
    pub(crate) fn packet_ended(&self) {
        self.packet_began_s.store(0, Ordering::Relaxed);
    }

    /// Whether the packet that is not complete began longer ago than this: bytes that trickle in keep no connection.
    pub(crate) fn never_ends(&self, now_s: u32, limit_s: u32) -> bool {
        match self.packet_began_s.load(Ordering::Relaxed) {
            0 => false,
            began_s => (now_s + 1).saturating_sub(began_s) > limit_s,
        }
    }

    /// Whether one and a half times the keep alive has passed without a packet [MQTT-3.1.2-24], [MQTT5-3.1.2-22]. A client that
    /// the broker does not read may have sent one.
    pub(crate) fn silent(&self, now_s: u32) -> bool {
        let keep_alive = u32::from(self.keep_alive_s.load(Ordering::Relaxed));
        // Seconds are whole, so one more than the statement's time: never early.
        keep_alive > 0
            && !self.is_unread()
            && now_s.saturating_sub(self.last_packet_s.load(Ordering::Relaxed)) > keep_alive + keep_alive.div_ceil(2)
    }
}

/// Whether it was another value before.
fn change(value: &AtomicBool, to: bool) -> bool {
    let differs = value.load(Ordering::Relaxed) != to;
    if differs {
        value.store(to, Ordering::Relaxed);
    }
    differs
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
        if let Some(safe) = self.safe.get() {
            safe.send_replace(());
        }
    }

    fn message_refused(&self, message: &Message) -> bool {
        let refused = self.lock_to_change().refuse_waiting(message, RETRY_AFTER_MS);
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

    fn may_receive(&self, topic: &str) -> bool {
        Slot::may_receive(self, topic)
    }
}
