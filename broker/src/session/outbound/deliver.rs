//! Messages on their way in: is there room, what the policy says, where they wait.

use std::sync::Arc;

use super::{Delivery, Durability, Entry, Fill, InFlight, Outbound, Outcome, SPAN_MAX, State};
use crate::message::Message;
use crate::session::scan::expires;
use crate::session::{Cx, Policy, Session, Urgency};
use crate::store::{DropReason, QueueEntry};

/// More messages than one read can bring: with less room than this they are taken one by one.
const TIGHT_MESSAGES: u64 = 10_000;
/// More bytes than one read can bring.
const TIGHT_BYTES: u64 = 128 * 1024;

impl Session {
    /// How much room there is (policy `reject`; the others always have some).
    #[must_use]
    pub fn room(&self, cx: Cx<'_>) -> Fill {
        if cx.settings.policy != Policy::Reject || self.leaving() {
            return Fill::Roomy;
        }
        let o = &self.outbound;
        if o.full(cx, self.durable()) {
            Fill::Full
        } else if o.queued + TIGHT_MESSAGES >= cx.settings.max_messages
            || o.queued_bytes + TIGHT_BYTES >= o.bytes_max(cx, self.durable())
        {
            Fill::Tight
        } else {
            Fill::Roomy
        }
    }

    /// Messages and bytes in the queue.
    #[must_use]
    pub fn fill(&self) -> (u64, u64) {
        (self.outbound.queued, self.outbound.queued_bytes)
    }

    /// Takes a message for the client; `shared` gives the one that all queues share.
    pub fn deliver(&mut self, d: &Delivery<'_>, shared: &mut dyn FnMut() -> Arc<Message>, cx: Cx<'_>) -> Outcome {
        if self.ended {
            return Outcome::Dropped;
        }
        if d.qos == 0 && (self.connected || !cx.settings.queue_qos0) {
            return self.deliver_qos0(d, cx);
        }
        let size = d.topic.len() + d.properties.len() + d.payload.len();
        let durable = self.durable();
        if !self.connected && !durable {
            return Outcome::Dropped;
        }
        if self.outbound.full(cx, durable) && !self.make_room(cx) {
            return Outcome::Dropped;
        }
        let seq = self.outbound.flow.next_seq;
        self.outbound.flow.next_seq += 1;
        self.outbound.take(size);
        if cx.settings.policy == Policy::KeepLast {
            self.outbound.replace(d.topic, seq, size);
        }
        // What another member of a shared subscription may have to take is kept until it is acknowledged.
        if !durable && !d.shared && self.idle_window(cx) && d.qos > 0 {
            self.send_now(d, seq, size, cx);
            return Outcome::Taken;
        }
        self.enqueue(d, seq, shared(), durable, cx)
    }

    /// Copies QoS 0 frames that are already as this client must see them. False: they must go one by one.
    pub fn deliver_frames(&mut self, frames: &[u8], count: u32, cx: Cx<'_>) -> bool {
        if !self.connected
            || self.aliases.is_some()
            || self.outbound.maximum_packet_size != u32::MAX
            || self.out.buf.len() + frames.len() > cx.settings.outbound_buffer
        {
            return false;
        }
        self.out.buf.extend_from_slice(frames);
        self.out.qos0 += count;
        self.outbound.ledger.accepted += u64::from(count);
        self.outbound.queued += u64::from(count);
        true
    }

    fn deliver_qos0(&mut self, d: &Delivery<'_>, cx: Cx<'_>) -> Outcome {
        self.outbound.ledger.accepted += 1;
        if !self.connected || self.out.buf.len() + d.payload.len() > cx.settings.outbound_buffer {
            self.outbound.dropped(DropReason::Qos0, 1);
            return Outcome::Dropped;
        }
        self.outbound.queued += 1;
        if self.write_publish(d, false, None, cx.now) {
            self.out.qos0 += 1;
        } else {
            self.outbound.queued -= 1;
            self.outbound.dropped(DropReason::TooLarge, 1);
        }
        Outcome::Taken
    }

    /// The queue is full: what the policy says. False: the new message was dropped.
    fn make_room(&mut self, cx: Cx<'_>) -> bool {
        match cx.settings.policy {
            // The publisher was asked to wait before; what comes all the same (a race) is not refused.
            Policy::Reject => true,
            Policy::DropNewest => {
                self.outbound.ledger.accepted += 1;
                self.outbound.dropped(DropReason::Newest, 1);
                false
            }
            Policy::DropOldest | Policy::KeepLast => {
                while self.outbound.full(cx, self.durable()) {
                    if !self.outbound.drop_oldest(cx.now) {
                        break;
                    }
                }
                true
            }
        }
    }

    /// Whether a message may go straight to the socket's buffer.
    fn idle_window(&self, cx: Cx<'_>) -> bool {
        let o = &self.outbound;
        self.connected
            && o.flow.queue.is_empty()
            && !o.on_disk()
            && o.flow.pending.is_empty()
            && o.flow.resend_from.is_none()
            && self.window_open(cx)
    }

    pub(super) fn window_open(&self, cx: Cx<'_>) -> bool {
        let o = &self.outbound;
        o.flow.unacked < o.window
            && self.out.buf.len() < cx.settings.outbound_buffer
            // The next to be sent, not the newest: a backlog is longer than the span.
            && o.flow.inflight.front().is_none_or(|f| o.oldest_waiting().saturating_sub(f.seq) < SPAN_MAX)
    }

    /// A session that cannot resume keeps nothing of a message that it has sent.
    fn send_now(&mut self, d: &Delivery<'_>, seq: u64, size: usize, cx: Cx<'_>) {
        if !self.write_publish(d, false, Some(Outbound::packet_id(seq)), cx.now) {
            self.outbound.gone(size);
            self.outbound.dropped(DropReason::TooLarge, 1);
            return;
        }
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        self.fly(InFlight { seq, state: State::Sent, awaiting: false, qos: d.qos, size, item: None });
    }

    pub(super) fn fly(&mut self, flight: InFlight) {
        self.outbound.flow.unacked += 1;
        self.outbound.flow.inflight.push_back(flight);
    }

    fn enqueue(&mut self, d: &Delivery<'_>, seq: u64, message: Arc<Message>, durable: bool, cx: Cx<'_>) -> Outcome {
        let expires = expires(&message, cx);
        let awaiting = durable && d.durability == Durability::Commit && d.qos > 0;
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
        let entry = Entry { item, awaiting, dup: false, released: false };
        let o = &mut self.outbound;
        let in_memory = self.connected && !o.on_disk() && o.flow.pending.is_empty() && !o.memory_full(cx);
        if in_memory || !durable {
            o.flow.queue_bytes += entry.item.message.size();
            o.flow.queue.push_back(entry);
        } else {
            o.flow.pending.push_back(entry);
        }
        if d.durability == Durability::Moved {
            o.flow.moved_to = seq + 1;
        }
        if durable {
            o.flow.scan.note(expires);
            self.want(match d.durability {
                // QoS 2 is sent only once it is committed: nothing can make that write needless.
                Durability::Commit if d.qos == 2 || !in_memory => Urgency::Now,
                Durability::Commit => Urgency::Elidable,
                Durability::Interval | Durability::Moved => Urgency::Lazy,
                Durability::Memory if in_memory => Urgency::None,
                Durability::Memory => Urgency::Lazy,
            });
        }
        self.pump(cx);
        if awaiting { Outcome::Waiting } else { Outcome::Taken }
    }
}
