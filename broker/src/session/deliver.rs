//! Messages on their way in: they go straight to the socket's buffer, into the queue, or nowhere.

use std::sync::Arc;

use super::delivery::{Delivery, Durability, Outcome};
use super::encoded::Overflow;
use super::flights::{InFlight, SPAN_MAX, State, packet_id};
use super::{Cx, Fill, Session, Urgency};
use crate::message::Message;
use crate::queue::{Arrival, Ending, Line, Why};
use crate::store::{DropReason, QueueEntry};

impl Session {
    /// Whether it would send if its client took more: another member of a shared subscription goes first.
    #[must_use]
    pub fn is_backed_up(&self, cx: Cx<'_>) -> bool {
        self.connected && self.queue.has_next() && !self.window_open(cx)
    }

    /// Takes a message for the client; `shared` gives the one that all queues share.
    pub fn deliver(&mut self, d: &Delivery<'_>, shared: &mut dyn FnMut() -> Arc<Message>, cx: Cx<'_>) -> Outcome {
        if self.ended {
            return Outcome::Gone;
        }
        let rules = cx.rules();
        let as_value = self.queue.by_value() && self.connected;
        if d.qos == 0 && !as_value && !self.queues_qos0(cx) {
            return self.deliver_qos0(d, shared, cx);
        }
        let durable = self.durable();
        if !self.connected && !durable {
            return Outcome::Gone;
        }
        if !self.queue.make_room(rules, self.queue_kept()) {
            return self.turned_away(d, shared, durable);
        }
        let seq = self.queue.admit(d.topic, d.properties, d.size(), rules);
        // What another member of a shared subscription may have to take is kept until it is acknowledged.
        if !durable && d.shared.is_none() && self.idle_window(cx) && d.qos > 0 && !self.has_lent(packet_id(seq)) {
            self.send_now(d, shared, seq, cx);
            return Outcome::Taken;
        }
        self.enqueue(d, seq, shared(), durable, cx)
    }

    /// A full queue that drops what is new has no place for it: it may be a dead letter.
    fn turned_away(&mut self, d: &Delivery<'_>, shared: &mut dyn FnMut() -> Arc<Message>, durable: bool) -> Outcome {
        if d.qos == 0 || !self.queue.keeps(Why::Full) {
            return Outcome::Dropped;
        }
        let message = shared();
        let awaiting = durable && d.durability == Durability::Commit;
        if awaiting {
            message.await_one();
        }
        self.queue.keep(message.clone(), Why::Full, false);
        if awaiting {
            message.settle();
            return Outcome::Waiting;
        }
        Outcome::Dropped
    }

    /// Copies QoS 0 frames that are already as this client must see them. False: they must go one by one.
    pub fn deliver_frames(&mut self, frames: &[u8], count: u32, cx: Cx<'_>) -> bool {
        if !self.connected
            || self.queues_qos0(cx)
            || self.queue.by_value()
            || self.aliases.is_some()
            || self.egress.is_some()
            || self.maximum_packet_size != u32::MAX
            || self.out.len() + frames.len() > cx.settings.outbound_buffer
        {
            return false;
        }
        self.out.buf.extend_from_slice(frames);
        self.out.qos0 += count;
        self.queue.pass(count);
        true
    }

    /// Whether a QoS 0 message goes into the queue: for a client that is away, or behind what still waits from that time. Into a full
    /// queue it does not go then.
    fn queues_qos0(&self, cx: Cx<'_>) -> bool {
        self.queue.limits(cx.rules()).queue_qos0
            && (!self.connected || self.queue.oldest_waiting() < self.qos0_behind && self.room(cx) != Fill::Full)
    }

    fn deliver_qos0(&mut self, d: &Delivery<'_>, shared: &mut dyn FnMut() -> Arc<Message>, cx: Cx<'_>) -> Outcome {
        // One that is larger than the whole buffer is let in as well, if there was room before it.
        if !self.takes_qos0(cx) {
            self.queue.turn_away(DropReason::Qos0);
            if self.connected && self.out.overflow == Overflow::No {
                self.out.overflow = Overflow::New;
            }
            return Outcome::Dropped;
        }
        if self.write_publish(d, shared, false, None, cx.now) {
            self.out.count_qos0();
            self.queue.pass(1);
        } else {
            self.queue.turn_away(DropReason::TooLarge);
        }
        Outcome::Taken
    }

    /// Whether a message may go straight to the socket's buffer.
    fn idle_window(&self, cx: Cx<'_>) -> bool {
        self.connected && self.queue.nothing_waits() && self.flights.resend_from.is_none() && self.window_open(cx)
    }

    pub(crate) fn window_open(&self, cx: Cx<'_>) -> bool {
        self.window_open_for_resend(cx)
            // The next to be sent, not the newest: a backlog is longer than the span.
            && self.flights.first().is_none_or(|f| self.queue.oldest_waiting().saturating_sub(f.seq) < SPAN_MAX)
    }

    /// A session that cannot resume keeps nothing of a message that it has sent.
    fn send_now(&mut self, d: &Delivery<'_>, shared: &mut dyn FnMut() -> Arc<Message>, seq: u64, cx: Cx<'_>) {
        let size = d.size();
        if !self.write_publish(d, shared, false, Some(packet_id(seq)), cx.now) {
            self.queue.finish(seq, size, Ending::Dropped(DropReason::TooLarge));
            if self.queue.keeps(Why::TooLarge) {
                self.queue.keep(shared(), Why::TooLarge, false);
            }
            return;
        }
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        self.flights.start(InFlight { seq, state: State::Sent, awaiting: false, qos: d.qos, size, item: None });
    }

    fn enqueue(&mut self, d: &Delivery<'_>, seq: u64, message: Arc<Message>, durable: bool, cx: Cx<'_>) -> Outcome {
        let waits = matches!(d.durability, Durability::Commit | Durability::MovedAwaited);
        let awaiting = durable && waits && d.qos > 0;
        if awaiting {
            message.await_one();
        }
        let item = QueueEntry {
            seq,
            qos: d.qos,
            retain: d.retain,
            shared: d.shared,
            subscription_ids: smallvec::SmallVec::from_slice(d.subscription_ids),
            message,
        };
        if d.qos == 0 {
            self.qos0_behind = seq + 1;
        }
        let moved = matches!(d.durability, Durability::Moved | Durability::MovedAwaited);
        let arrival = Arrival { item, awaiting, moved };
        let line = self.queue.put(arrival, self.queue_kept(), self.presence(), cx.rules());
        if durable {
            self.want(match d.durability {
                // Nobody waits for it.
                _ if d.qos == 0 && self.queue.by_value() => Urgency::Lazy,
                // QoS 2 is sent only once it is committed: nothing can make that write needless.
                Durability::Commit if d.qos == 2 || line == Line::Pending => Urgency::Now,
                Durability::Commit => Urgency::Elidable,
                Durability::MovedAwaited => Urgency::Now,
                Durability::Memory if line == Line::Next => Urgency::None,
                Durability::Interval | Durability::Moved | Durability::Memory => Urgency::Lazy,
            });
        }
        self.pump(cx);
        if awaiting { Outcome::Waiting } else { Outcome::Taken }
    }
}
