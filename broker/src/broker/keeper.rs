//! What happens by the clock: keep alives, wills, expiries, `$SYS`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_wire::reason::ReasonCode;
use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex};

use super::room::Watch;
use super::{Broker, Slot, sys};
use crate::access::AccessSeen;
use crate::message::Time;
use crate::session::{Session, Urgency};
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
        let mut memory = Watch::default();
        let mut wear = self.begin_wear();
        let mut access_seen = AccessSeen::default();
        while !stop.wait(TICK) {
            ticks = ticks.wrapping_add(1);
            self.observed.beat(self.clock.uptime_ms(), self.connections.load(Ordering::Relaxed));
            if self.clock.watch() {
                self.have_committed();
            }
            self.settle_due();
            if ticks.is_multiple_of(2) {
                self.watch_access(&mut access_seen);
                self.reload_certificates();
            }
            if ticks.is_multiple_of(4) {
                self.end_silent();
                self.end_stalls();
                self.make_room();
                self.count_wills();
                self.watch_memory(&mut memory);
                self.watch_store();
                self.watch_shortages();
                if let Some(wear) = &mut wear {
                    self.keep_wear(wear);
                }
            }
            let now = self.clock.now();
            if ticks.is_multiple_of(RETAINED_TICKS) || ticks.is_multiple_of(4) && self.retained.wants_room(now) {
                self.expire_retained();
            }
            sys.tick(self);
        }
    }

    /// Wills, expiries, windows of rules, delayed messages and schedules that are due.
    pub fn settle_due(self: &Arc<Self>) {
        let now = self.clock.now();
        loop {
            let due = self.deadlines.lock().due(now);
            let Some(slot) = due else { break };
            self.settle_away(&slot);
        }
        self.close_windows();
        self.send_delayed();
        self.run_schedules();
    }

    /// Has a commit made though nothing has changed: for its mark of the clock, or for the look at the store that it takes.
    pub(crate) fn have_committed(&self) {
        self.return_ended_ledger(Some(Ledger::default()));
        self.writer.mark_retained(Urgency::Lazy);
    }

    /// Queues that have refused for as long as they may: one that outlives its connection drops its oldest messages from
    /// now on, the client of another is disconnected.
    pub fn end_stalls(self: &Arc<Self>) {
        let (now_s, held_up) = (self.now_s(), self.held_up());
        // For whoever might have been missed.
        held_up.queues().iter().for_each(|no| self.unpark_next(*no));
        for slot in self.all_slots() {
            let Some(full_s) = slot.full_for_s(now_s, &held_up) else { continue };
            let (durable, limit_ms) = slot.look(|session| (session.durable(), session.stall_limit_ms(self.cx())));
            if limit_ms.is_none_or(|limit| u64::from(full_s) * 1000 < limit) || slot.kicked().is_some() {
                continue;
            }
            let client = slot.look(|session| session.client_id().clone());
            if durable {
                self.counters.queues_shed.add(1);
                tracing::error!(
                    client = &*client,
                    "its full queue has held publishers up for {full_s} s: from now on its oldest messages are \
                     dropped, until it has drained by half (queue.stall_limit)"
                );
                slot.with(self, Session::shed);
                slot.forget_stall();
            } else {
                self.counters.sessions_stalled.add(1);
                tracing::warn!(
                    client = &*client,
                    "disconnected: it has taken next to nothing for {full_s} s and held publishers up \
                     (queue.stall_limit_transient)"
                );
                slot.kick(ReasonCode::QuotaExceeded as u8);
            }
        }
    }

    /// What has expired in queues that run out of room goes, though nobody comes for it, or who has come does not read.
    pub fn make_room(&self) {
        let cx = self.cx();
        for slot in self.all_slots() {
            if slot.online() && slot.full() {
                slot.with(self, |session| session.discard_expired(cx));
            } else if !slot.online() && slot.look(|session| session.may_have_expired(cx)) {
                slot.with(self, |session| session.look_for_expired(cx));
            }
        }
    }

    /// Retained messages that have expired go.
    pub fn expire_retained(&self) {
        if self.retained.expire(self.clock.now()) > 0 {
            self.writer.mark_retained(Urgency::Lazy);
            self.unpark();
        }
    }

    /// Connections that have said nothing for one and a half keep alives [MQTT-3.1.2-24], [MQTT5-3.1.2-22], and those that
    /// never end what they have begun to say.
    pub fn end_silent(&self) {
        let now_s = self.now_s();
        let packet_s = u32::try_from(self.config.limits.packet_timeout.as_secs()).unwrap_or(u32::MAX);
        for slot in self.all_slots() {
            let (silent, unfinished) = (slot.silent(now_s), slot.never_ends(now_s, packet_s));
            if slot.online() && (silent || unfinished) && slot.kicked().is_none() {
                if silent {
                    self.counters.keep_alive_timeouts.add(1);
                } else {
                    self.counters.packets_unfinished.add(1);
                }
                slot.kick(ReasonCode::KeepAliveTimeout as u8);
            }
        }
    }
}
