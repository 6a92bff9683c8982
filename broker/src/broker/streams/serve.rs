//! Serving the streams: what their queues bring is appended, readers are lent what is next for them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use hashbrown::HashMap;

use super::readers::{Read, StreamReader, with_place};
use super::{FIRST, Streams, wanted_by};
use crate::broker::queues::{Bell, Event};
use crate::broker::{Broker, Slot, Taker};
use crate::config;
use crate::queue::members::{Given, Outcome};
use crate::session::{Lending, Settled, Urgency};
use crate::store::{Keyed, Reader};
use crate::streams::{Log, Now};

/// Messages that may be on their way from the queue into the stream.
pub(super) const WINDOW: u16 = 1_000;
/// Messages that one commit moves, and their bytes.
const BATCH: usize = 1_000;
const BATCH_BYTES: usize = 1 << 20;
/// Messages that are read for one reader at once, and their bytes.
const PAGE: usize = 256;
const PAGE_BYTES: usize = 64 * 1024;
/// Segments that are read at once at the start.
const LOAD_ROWS: usize = 1_024;
/// Milliseconds between two looks for what is too old, and until a store that could not be read is tried again.
const LOOK_MS: u64 = 1_000;

/// One stream at work.
pub(super) struct Work {
    taker: Arc<Taker>,
    readers: HashMap<u64, StreamReader>,
    /// By the number of what is lent: whose it is, and its offset.
    lent: HashMap<u64, (u64, u64)>,
    next_number: u64,
    /// Places of readers that the store has, by client identifier.
    places: HashMap<Box<str>, u64>,
    name: Box<str>,
    ages: bool,
    loaded: bool,
    touched: bool,
    look_ms: u64,
    bell: Option<(Arc<Bell>, Waker)>,
}

impl Work {
    pub(super) fn new(taker: Arc<Taker>, declared: &config::Stream) -> Self {
        Self {
            taker,
            readers: HashMap::new(),
            lent: HashMap::new(),
            next_number: 0,
            places: HashMap::new(),
            name: declared.name.as_str().into(),
            ages: declared.max_age.is_some(),
            loaded: false,
            touched: true,
            look_ms: 0,
            bell: None,
        }
    }

    /// Reads what the store has of the stream. False: it could not be read.
    fn load(&mut self, log: &mut Log, reader: &dyn Reader, now: Now) -> bool {
        let mut from = log.first_key();
        let mut of_segments = true;
        loop {
            let rows = match reader.keyed(Keyed::Streams, &from, LOAD_ROWS, BATCH_BYTES) {
                Ok(rows) => rows,
                Err(error) => {
                    tracing::error!(stream = &*self.name, "it cannot be read; it is tried again: {error}");
                    return false;
                }
            };
            let Some((last, _)) = rows.last() else { return true };
            from = [last.as_slice(), &[0]].concat();
            for row in &rows {
                if of_segments && log.recover(row, now) {
                    continue;
                }
                if std::mem::take(&mut of_segments) {
                    // Messages come next; they are read when they are wanted.
                    from = log.places_key();
                    break;
                }
                let Some((client_id, place)) = log.place_of(row) else { return true };
                self.places.insert(client_id, place);
            }
        }
    }

    fn has_something(&self) -> bool {
        let Some((bell, waker)) = &self.bell else { return true };
        bell.rung.store(false, Ordering::Release);
        self.taker.poll_ready(&mut Context::from_waker(waker)).is_ready()
    }

    fn join(&mut self, slot: Arc<Slot>, filter: &str, (qos, subscription_id): (u8, u32), log: &mut Log, now_ms: u64) {
        let no = slot.no().0;
        if let Some(known) = self.readers.get_mut(&no).filter(|known| *known.filter == *filter) {
            (known.qos, known.subscription_id) = (qos, subscription_id);
            return;
        }
        let (client_id, durable) = slot.look(|session| (session.client_id().clone(), session.durable()));
        let wanted = wanted_by(filter);
        // A session that was there before goes on where it was.
        let place = self.places.remove(&*client_id).map(|place| (place, 0));
        let (next, since_ms) = place
            .unwrap_or_else(|| log.begin(wanted.map_or(crate::streams::Start::Latest, |wanted| wanted.start), now_ms));
        if durable {
            log.keep_place(&client_id, Some(next));
        }
        let reader = StreamReader {
            slot,
            client_id,
            filter: filter.into(),
            qos,
            subscription_id,
            next,
            since_ms,
            until: wanted.and_then(|wanted| wanted.until),
            flights: std::collections::BTreeSet::new(),
            page: VecDeque::new(),
            busy: false,
            missed: 0,
        };
        self.readers.insert(no, reader);
    }

    /// What became of something lent. True: the reader's place is another.
    fn settle(&mut self, settled: Settled, log: &mut Log) -> bool {
        let Some((no, offset)) = self.lent.remove(&settled.number) else { return false };
        let Some(reader) = self.readers.get_mut(&no) else { return false };
        reader.busy = false;
        if settled.outcome == Outcome::Returned {
            reader.begin_again();
            return false;
        }
        // A reader that refuses a message has read it.
        if !reader.flights.remove(&offset) {
            return false;
        }
        let durable = reader.slot.look(|session| session.durable());
        if durable {
            log.keep_place(&reader.client_id, Some(reader.place()));
        }
        durable
    }

    /// Lends one reader what is next for it. True: there may be more. To be called without the lock of the logs: what changes a
    /// session may wait for the writer's gate ([`Slot::with`]), and the writer waits for the logs while it has the gate closed.
    fn lend(&mut self, no: u64, at: usize, broker: &Broker) -> bool {
        let Some(reader) = self.readers.get_mut(&no) else { return false };
        if reader.busy || !reader.slot.online() {
            return false;
        }
        let Some((first, end)) = broker.streams.logs.lock().get(at).map(Log::range) else { return false };
        if reader.front().is_none() {
            if reader.next >= end {
                return false;
            }
            let Some(page) = broker.streams.read_page(at, reader.next.max(first), end) else { return false };
            reader.page = page;
            if reader.page.is_empty() {
                // What should be here is gone.
                reader.missed += end - reader.next;
                reader.next = end;
            }
            reader.front();
        }
        let mut over = false;
        while let Some(read) = reader.front().cloned() {
            if reader.is_over(&read) {
                // The page stays, so that it is not read again.
                over = true;
                break;
            }
            if !reader.slot.may_receive(read.2.topic()) {
                reader.next += 1;
                continue;
            }
            let message = with_place(&read, reader.missed);
            let (queue, number, qos) = (FIRST + at, self.next_number, reader.qos.min(1));
            let lending = Lending { queue, number, message: &message, qos, subscription_id: reader.subscription_id };
            match reader.slot.with(broker, |session| session.lend(&lending, broker.cx())) {
                Given::Taken => {
                    self.next_number += 1;
                    self.lent.insert(number, (no, read.0));
                    reader.flights.insert(read.0);
                    broker.counters.stream_missed.add(std::mem::take(&mut reader.missed));
                }
                Given::Busy => {
                    reader.busy = true;
                    break;
                }
                // No reader has it: it is larger than its packets may be.
                Given::TooLarge | Given::NotAllowed | Given::Expired => reader.missed += 1,
            }
            reader.next = read.0 + 1;
        }
        reader.slot.wake();
        !reader.busy && !over && reader.next < end
    }
}

impl Streams {
    /// What the store has of a stream from an offset on, below `end`. `None`: it cannot be read now.
    fn read_page(&self, at: usize, from: u64, end: u64) -> Option<VecDeque<Read>> {
        let key = self.logs.lock().get(at)?.message_key(from);
        let rows = self.reader.get()?.keyed(Keyed::Streams, &key, PAGE, PAGE_BYTES).ok()?;
        let logs = self.logs.lock();
        let log = logs.get(at)?;
        Some(rows.iter().map_while(|row| log.message_of(row)).filter(|(offset, ..)| *offset < end).collect())
    }
}

impl Broker {
    /// Does what there is to do for streams; returns when there is more by the clock, if anything.
    pub(in crate::broker) fn serve_streams(self: &Arc<Self>) -> (bool, Option<u64>) {
        let mut all = self.streams.work.lock();
        let now_ms = self.clock.now().0;
        let (mut some, mut due_at) = (false, None);
        for (at, work) in all.iter_mut().enumerate() {
            if std::mem::take(&mut work.touched) || work.look_ms <= now_ms {
                some |= self.stream_turn(work, at);
                work.look_ms = if work.ages || !work.loaded { now_ms + LOOK_MS } else { u64::MAX };
            }
            due_at = due_at.into_iter().chain([work.look_ms]).min();
        }
        (some, due_at.filter(|at| *at < u64::MAX))
    }

    /// True: it is to be called again at once.
    fn stream_turn(self: &Arc<Self>, work: &mut Work, at: usize) -> bool {
        if work.bell.is_none() {
            let bell = Bell { inbox: self.queues.inbox().clone(), queue: FIRST + at, rung: AtomicBool::new(false) };
            let bell = Arc::new(bell);
            work.bell = Some((bell.clone(), bell.into()));
        }
        if !work.loaded {
            let (mut logs, reader) = (self.streams.logs.lock(), self.streams.reader.get());
            let (Some(log), Some(reader)) = (logs.get_mut(at), reader) else { return false };
            work.loaded = work.load(log, &**reader, self.stream_now());
            if !work.loaded {
                return false;
            }
        }
        while work.has_something() {
            let _one_commit = self.writer.gate();
            let taken = work.taker.take(BATCH, BATCH_BYTES);
            if taken.is_empty() {
                break;
            }
            self.counters.stream_appended.add(taken.len() as u64);
            let places: Vec<u64> = taken.iter().map(|taken| taken.place).collect();
            self.append(at, taken.into_iter().map(|taken| taken.entry.message).collect());
            work.taker.confirm(&places);
        }
        let mut logs = self.streams.logs.lock();
        let Some(log) = logs.get_mut(at) else { return false };
        // What one commit has no room for is looked at again when it is done.
        if log.retire(self.clock.now().0) {
            self.writer.mark_retained(Urgency::Lazy);
        }
        drop(logs);
        let readers: Vec<u64> = work.readers.keys().copied().collect();
        let mut more = false;
        for no in readers {
            more |= work.lend(no, at, self);
        }
        work.touched |= more;
        more
    }

    /// An event of a stream.
    pub(in crate::broker) fn hear_stream(&self, event: Event) {
        let mut all = self.streams.work.lock();
        let mut logs = self.streams.logs.lock();
        let of = |queue: usize| queue.wrapping_sub(FIRST);
        match event {
            Event::Joined { queue, slot, qos, subscription_id, filter } => {
                let (Some(work), Some(log)) = (all.get_mut(of(queue)), logs.get_mut(of(queue))) else { return };
                work.touched = true;
                if !work.loaded
                    && let Some(reader) = self.streams.reader.get()
                {
                    work.loaded = work.load(log, &**reader, self.stream_now());
                }
                work.join(slot, &filter, (qos, subscription_id), log, self.clock.wall_ms());
                self.writer.mark_retained(Urgency::Lazy);
            }
            Event::Left { queue, no } => {
                let (Some(work), Some(log)) = (all.get_mut(of(queue)), logs.get_mut(of(queue))) else { return };
                if let Some(reader) = work.readers.remove(&no) {
                    log.keep_place(&reader.client_id, None);
                    self.writer.mark_retained(Urgency::Lazy);
                }
            }
            Event::Settled(settled) => {
                let at = of(settled.queue);
                let (Some(work), Some(log)) = (all.get_mut(at), logs.get_mut(at)) else { return };
                work.touched = true;
                if work.settle(settled, log) {
                    self.writer.mark_retained(Urgency::Lazy);
                }
            }
            Event::Room(no) | Event::Presence(no) => {
                for work in all.iter_mut() {
                    let Some(reader) = work.readers.get_mut(&no) else { continue };
                    reader.busy = false;
                    if !reader.slot.online() {
                        reader.page.clear();
                    }
                    work.touched = true;
                }
            }
            Event::Ready(queue) => {
                if let Some(work) = all.get_mut(of(queue)) {
                    work.touched = true;
                }
            }
        }
    }
}
