//! One publisher: what it has sent, what of it may be unacknowledged, and when its next message is due.

use std::collections::VecDeque;

use super::check::Layout;
use super::plan::{Pacing, Plan};
use super::wire::Template;

/// Bytes of a publisher that may wait for its socket.
const OUTPUT_MAX: usize = 64 * 1024;
/// A packet identifier that is not in use.
const FREE: u64 = u64::MAX;

/// Packet identifiers, and when each message was published, or should have been.
#[derive(Debug, Default)]
struct Identifiers {
    free: VecDeque<u16>,
    /// By identifier, from 1.
    since_ns: Vec<u64>,
}

impl Identifiers {
    fn take(&mut self, ns: u64) -> u16 {
        match self.free.pop_front() {
            Some(id) => {
                if let Some(since) = self.since_ns.get_mut(usize::from(id) - 1) {
                    *since = ns;
                }
                id
            }
            // The window has at most 65,535 of them.
            None => {
                self.since_ns.push(ns);
                self.since_ns.len() as u16
            }
        }
    }

    fn release(&mut self, id: u16) -> Option<u64> {
        let since = self.since_ns.get_mut(usize::from(id).checked_sub(1)?).filter(|since| **since != FREE)?;
        self.free.push_back(id);
        Some(std::mem::replace(since, FREE))
    }
}

/// When the messages of an open loop are due.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    ns_each: f64,
    publishers: u64,
    start_ns: u64,
}

impl Schedule {
    /// From `start_ns` on.
    #[must_use]
    pub fn new(per_s: f64, publishers: usize, start_ns: u64) -> Self {
        Self { ns_each: 1e9 / per_s, publishers: publishers as u64, start_ns }
    }

    /// How many messages of all publishers are due.
    #[must_use]
    pub fn due(&self, now_ns: u64) -> u64 {
        (now_ns.saturating_sub(self.start_ns) as f64 / self.ns_each) as u64
    }

    /// When so many are due.
    #[must_use]
    pub fn time_of(&self, count: u64) -> u64 {
        self.start_ns + (count as f64 * self.ns_each) as u64
    }

    /// When a publisher's message is: they take turns.
    #[inline]
    fn of(&self, publisher: u64, number: u64) -> u64 {
        self.time_of(number * self.publishers + publisher + 1)
    }
}

/// One publisher.
#[derive(Debug)]
pub struct Publisher {
    number: u64,
    template: Template,
    identifiers: Option<Identifiers>,
    window: u64,
    /// How many it may publish in all.
    budget: u64,
    /// How many of those are due; with a closed loop, all.
    pub due: u64,
    /// How many it has published.
    pub sent: u64,
    /// How many of those need no more wait: acknowledged, refused, or at QoS 0 received.
    pub done: u64,
    /// QoS 0: by how many messages its receivers are further, all together.
    passed: u64,
    /// How many receivers each message has.
    fan: u64,
    /// The window is the server's.
    pub limited: Option<u64>,
    /// It may have something to do.
    pub marked: bool,
}

impl Publisher {
    /// Nothing is sent. `publishers` share the messages that the plan has.
    #[must_use]
    pub fn new(plan: &Plan, number: usize, fill: std::sync::Arc<[u8]>) -> Self {
        let template = Template::new(plan.version, &plan.topic(number), plan.qos, plan.run, number as u32, fill);
        let (window, due) = match plan.pacing {
            Pacing::Closed { window } => (window.unwrap_or(u64::MAX), u64::MAX),
            Pacing::Open { window, .. } => (window, 0),
        };
        let (all, publishers) = (plan.messages, plan.publishers as u64);
        let budget = all.map_or(u64::MAX, |all| all / publishers + u64::from((number as u64) < all % publishers));
        Self {
            number: number as u64,
            template,
            identifiers: (plan.qos > 0).then(Identifiers::default),
            window,
            budget,
            due,
            sent: 0,
            done: 0,
            passed: 0,
            fan: if plan.layout == Layout::All { plan.subscribers as u64 } else { 1 },
            limited: None,
            marked: false,
        }
    }

    /// The server takes no more at once than this.
    pub fn limit_window(&mut self, receive_maximum: u64) {
        if self.identifiers.is_some() && receive_maximum < self.window {
            self.window = receive_maximum;
            self.limited = Some(receive_maximum);
        }
    }

    /// It has published all that it may.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.sent >= self.budget
    }

    /// How many messages it may publish now.
    #[must_use]
    pub fn room(&self) -> u64 {
        // At QoS 0 an open loop waits for nothing.
        let waiting =
            if self.identifiers.is_none() && self.due != u64::MAX { 0 } else { self.sent.saturating_sub(self.done) };
        self.window.saturating_sub(waiting).min(self.due.min(self.budget).saturating_sub(self.sent))
    }

    /// Encodes what it may, as far as the output is not full; `late` is given how late each was. True: there is more.
    pub fn publish(
        &mut self,
        out: &mut Vec<u8>,
        now_ns: u64,
        schedule: Option<&Schedule>,
        mut late: impl FnMut(u64),
    ) -> bool {
        let mut room = self.room();
        while room > 0 && out.len() < OUTPUT_MAX {
            let ns = match schedule {
                None => now_ns,
                Some(schedule) => {
                    let ns = schedule.of(self.number, self.sent);
                    late(now_ns.saturating_sub(ns));
                    ns
                }
            };
            let id = self.identifiers.as_mut().map_or(0, |identifiers| identifiers.take(ns));
            self.template.write(out, id, self.sent, ns);
            self.sent += 1;
            room -= 1;
        }
        room > 0
    }

    /// QoS 0: a receiver is further by so many messages, one of all of them.
    #[inline]
    pub fn received(&mut self, further: u64) {
        self.passed += further;
        self.done = if self.fan == 1 { self.passed } else { self.passed / self.fan }.min(self.sent);
    }

    /// QoS 0: what has not come will not. `None`: it waits for nothing.
    pub fn write_off(&mut self) -> Option<()> {
        let waits = self.done < self.sent && self.room() == 0 && !self.finished();
        if waits {
            self.passed += self.fan * (self.sent - self.done);
            self.done = self.sent;
        }
        waits.then_some(())
    }

    /// Due and not published; in a closed loop, all that is left.
    #[must_use]
    pub fn overdue(&self) -> u64 {
        self.due.min(self.budget).saturating_sub(self.sent)
    }

    /// The last ack of a message; when it was published. `None`: there is no such message.
    pub fn acknowledged(&mut self, id: u16) -> Option<u64> {
        let since = self.identifiers.as_mut()?.release(id)?;
        self.done += 1;
        Some(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_used_again_once_they_are_free() {
        let mut identifiers = Identifiers::default();
        assert_eq!([10, 20, 30].map(|ns| identifiers.take(ns)), [1, 2, 3]);
        assert_eq!(identifiers.release(2), Some(20));
        assert_eq!(identifiers.release(2), None);
        assert_eq!(identifiers.release(0), None);
        assert_eq!(identifiers.release(4), None);
        assert_eq!(identifiers.take(40), 2);
        assert_eq!(identifiers.take(50), 4);
        assert_eq!(identifiers.release(2), Some(40));
    }

    #[test]
    fn a_schedule_takes_turns() {
        let schedule = Schedule::new(1000.0, 3, 500);
        assert_eq!((schedule.due(500), schedule.due(1_000_499), schedule.due(1_000_501)), (0, 0, 1));
        assert_eq!(schedule.of(0, 0), 1_000_500);
        assert_eq!(schedule.of(2, 0), 3_000_500);
        assert_eq!(schedule.of(0, 1), 4_000_500);
    }
}
