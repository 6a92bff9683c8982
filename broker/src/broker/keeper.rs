//! What happens by the clock: keep alives, wills, expiries, `$SYS`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_wire::reason::ReasonCode;
use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex};

use super::{Broker, Slot, sys};
use crate::message::Time;
use crate::session::Urgency;
use crate::store::Ledger;

/// How often the keeper looks: wills and expiries are in seconds, so a quarter of one is early enough.
const TICK: Duration = Duration::from_millis(250);
/// Retained messages are looked through for expired ones this often.
const RETAINED_TICKS: u32 = 240;

/// When to look at which session that is away. One time for each session.
#[derive(Default)]
pub(crate) struct Deadlines {
    by_time: BTreeMap<(Time, u64), Arc<Slot>>,
    of: HashMap<u64, Time>,
}

impl Deadlines {
    /// Looks at the session at this time, and not at the time that was planned before.
    pub(crate) fn plan(&mut self, at: Time, slot: &Arc<Slot>) {
        let no = slot.no().0;
        if let Some(before) = self.of.insert(no, at) {
            self.by_time.remove(&(before, no));
        }
        self.by_time.insert((at, no), slot.clone());
    }

    fn due(&mut self, now: Time) -> Option<Arc<Slot>> {
        let entry = self.by_time.first_entry()?;
        let (at, no) = *entry.key();
        if at > now {
            return None;
        }
        self.of.remove(&no);
        Some(entry.remove())
    }
}

/// Ends the keeper's thread.
#[derive(Default)]
pub struct Stop {
    stopped: Mutex<bool>,
    wake: Condvar,
}

impl Stop {
    /// Ends it.
    pub fn stop(&self) {
        *self.stopped.lock() = true;
        self.wake.notify_all();
    }

    fn wait(&self, time: Duration) -> bool {
        let mut stopped = self.stopped.lock();
        if !*stopped {
            self.wake.wait_for(&mut stopped, time);
        }
        *stopped
    }
}

impl Broker {
    /// The keeper's thread.
    pub fn keep(self: &Arc<Self>, stop: &Stop) {
        let mut ticks: u32 = 0;
        let mut sys = sys::Sys::new(self);
        while !stop.wait(TICK) {
            ticks = ticks.wrapping_add(1);
            if self.clock.watch() {
                self.record_clock();
            }
            self.settle_due();
            if ticks.is_multiple_of(4) {
                self.end_silent();
                self.make_room();
            }
            if ticks.is_multiple_of(RETAINED_TICKS) && self.retained.expire(self.clock.now()) > 0 {
                self.writer.mark_retained(Urgency::Lazy);
            }
            sys.tick(self);
        }
    }

    /// Wills and expiries that are due.
    pub fn settle_due(self: &Arc<Self>) {
        let now = self.clock.now();
        loop {
            let due = self.deadlines.lock().due(now);
            let Some(slot) = due else { return };
            self.settle_away(&slot);
        }
    }

    /// Has a commit made for the sake of its mark of the clock.
    fn record_clock(&self) {
        self.return_ended_ledger(Some(Ledger::default()));
        self.writer.mark_retained(Urgency::Lazy);
    }

    /// What has expired in queues that run out of room goes, though nobody comes for it.
    fn make_room(&self) {
        let cx = self.cx();
        for slot in self.all_slots() {
            if !slot.online() && slot.look(|session| session.may_have_expired(cx)) {
                slot.with(self, |session| session.look_for_expired(cx));
            }
        }
    }

    /// Connections that have said nothing for one and a half keep alives [MQTT-3.1.2-24], [MQTT5-3.1.2-22].
    fn end_silent(&self) {
        let now_s = self.now_s();
        for slot in self.all_slots() {
            if slot.online() && slot.silent(now_s) && slot.kicked().is_none() {
                self.counters.keep_alive_timeouts.add(1);
                slot.kick(ReasonCode::KeepAliveTimeout as u8);
            }
        }
    }
}
