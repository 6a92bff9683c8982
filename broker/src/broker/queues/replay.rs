//! Dead letters go back to where they came from, a queue or a session, because somebody says so: those that match a filter, at a rate.

use std::sync::Arc;

use forebay_wire::topic;

use super::serve::Work;
use crate::bridge::pace::Pace;
use crate::broker::fanout::{Staged, Verdict};
use crate::broker::{Broker, Slot};
use crate::dead_letter::Alive;
use crate::message::{Message, Time};
use crate::queue::Why;
use crate::session::{Delivery, Durability, Session};
use crate::store::DropReason;

/// Dead letters that are looked at in one go.
const BATCH: usize = 256;
/// Milliseconds until it is tried again when the queue is full.
const FULL_MS: u64 = 250;

/// What is to go back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Only messages whose topic, as it was, matches this filter.
    pub filter: String,
    /// So many at most.
    pub messages_max: u64,
    /// So many in a second; `None` for as quickly as it goes.
    pub per_s: Option<u64>,
}

/// A replay under way.
pub(super) struct Running {
    what: Replay,
    pace: Pace,
    /// What became a dead letter from this place on is for another time.
    end: u64,
    sent: u64,
    pub(super) next_ms: u64,
}

/// What came of a step.
enum Step {
    /// One was looked at.
    On,
    /// Nothing can be done before this time.
    Wait(u64),
    /// It is over.
    Done,
}

impl Broker {
    /// Begins to put dead letters of this queue back into it; a replay that is under way is replaced. Returns how many there
    /// are to look at; `None`: there is no such queue.
    pub fn replay_dead(&self, name: &str, what: Replay) -> Option<u64> {
        let mut all = self.queues.work.lock();
        let named = self.queues.names.iter().position(|named| named.dead && *named.name == *name)?;
        let work = all.get_mut(named)?;
        let figures = work.taker()?.figures();
        let now_ms = self.clock.now().0;
        let pace = Pace::new(what.per_s, None, now_ms);
        work.replay = Some(Running { what, pace, end: figures.next_place, sent: 0, next_ms: now_ms });
        work.touched = true;
        drop(all);
        self.queues.inbox.post([super::Event::Ready(named)]);
        Some(figures.messages)
    }

    /// Goes on with a replay as far as it can go now.
    pub(super) fn replay_on(&self, all: &mut [Work], at: usize) {
        for _ in 0..BATCH {
            match self.replay_one(all, at) {
                Step::On => {}
                Step::Wait(until_ms) => {
                    if let Some(running) = all.get_mut(at).and_then(|work| work.replay.as_mut()) {
                        running.next_ms = until_ms;
                    }
                    return;
                }
                Step::Done => {
                    if let Some(work) = all.get_mut(at)
                        && let Some(done) = work.replay.take()
                    {
                        tracing::info!(
                            queue = &*work.name,
                            messages = done.sent,
                            "dead letters are back in their queue"
                        );
                    }
                    return;
                }
            }
        }
    }

    fn replay_one(&self, all: &mut [Work], at: usize) -> Step {
        let now_ms = self.clock.now().0;
        let queue = all.get(at).and_then(|work| self.queues.names.queue_of(&work.name));
        let queue = queue.and_then(|queue| all.get(queue)).map(Work::slots);
        let Some(work) = all.get_mut(at) else { return Step::Done };
        let messages = work.taker().map_or(0, |taker| taker.figures().messages);
        let Some(running) = &mut work.replay else { return Step::Done };
        if running.sent >= running.what.messages_max {
            return Step::Done;
        }
        let wait_ms = running.pace.wait_ms(1, now_ms);
        if wait_ms > 0 {
            return Step::Wait(now_ms + wait_ms);
        }
        if self.store_failing() {
            return Step::Wait(now_ms + FULL_MS);
        }
        let Some((place, taken)) = work.members.withdraw() else {
            // What lies on disk is on its way, unless nothing is there but what readers have.
            let (in_flight, aside) = work.members.held_and_aside();
            let rest = messages > (in_flight + aside) as u64;
            return if rest { Step::Wait(now_ms + 1) } else { Step::Done };
        };
        if place >= running.end {
            work.members.put(place, None, taken);
            return Step::Done;
        }
        let size = taken.entry.message.size();
        let Some(alive) = Alive::again(&taken.entry.message, &work.name, Time(now_ms)) else {
            // Nobody else writes here: the store is damaged.
            work.end_at(place, size, |taker, place| taker.refuse(place, DropReason::Damaged));
            return Step::On;
        };
        let _one_commit = self.writer.gate();
        let back = match topic::matches(&running.what.filter, alive.message.topic()) {
            true => self.put_back(queue.as_deref(), &alive),
            false => Back::Stays,
        };
        match back {
            Back::Waits => {
                work.members.put(place, None, taken);
                return Step::Wait(now_ms + FULL_MS);
            }
            Back::Done => {
                running.sent += 1;
                running.pace.sent(1);
            }
            // It goes behind the others.
            Back::Stays => {
                let slot = work.taker().map(|taker| taker.slot().clone());
                // First, so that a full queue has room for what comes back into it.
                work.end_at(place, size, |taker, place| taker.confirm(&[place]) > 0);
                if let Some(slot) = slot {
                    self.put_into(&slot, &taken.entry.message, Durability::Moved);
                }
                return Step::On;
            }
        }
        work.end_at(place, size, |taker, place| taker.confirm(&[place]) > 0);
        Step::On
    }

    /// Back into its queue, into the session that gave it up, or to whoever has subscribed to it by now.
    fn put_back(&self, queue: Option<&[Arc<Slot>]>, alive: &Alive) -> Back {
        let message = &alive.message;
        if let Some(lanes) = queue {
            let Some(lane) = lanes.iter().find(|lane| lane.takes(message.topic(), message.properties())) else {
                return Back::Stays;
            };
            if lane.full() {
                return Back::Waits;
            }
            self.put_into(lane, message, Durability::Moved);
            return Back::Done;
        }
        if alive.why == Why::Undeliverable.name() {
            return self.publish_again(message);
        }
        if alive.why == Why::Rule.name() {
            return self.judge_again(alive);
        }
        self.put_into_session(alive)
    }

    fn put_into_session(&self, alive: &Alive) -> Back {
        let message = &alive.message;
        let Some(slot) = self.slot_of(&alive.from) else { return Back::Stays };
        if slot.full() {
            return Back::Waits;
        }
        let found = slot.look(|session| session.durable().then(|| terms(session, message.topic())));
        let Some(Some((qos, subscription_ids))) = found else { return Back::Stays };
        let delivery = Delivery {
            topic: message.topic_bytes(),
            properties: message.properties(),
            payload: message.payload(),
            qos: message.qos.min(qos),
            retain: false,
            shared: None,
            subscription_ids: &subscription_ids,
            expires_at: None,
            durability: Durability::Moved,
        };
        slot.with(self, |session| session.deliver(&delivery, &mut || message.clone(), self.cx()));
        slot.wake();
        Back::Done
    }

    fn publish_again(&self, message: &Arc<Message>) -> Back {
        let mut staged = Staged::of(message, false, Durability::Moved);
        if self.router.route(message.topic()).is_nobody() {
            return Back::Stays;
        }
        self.publish_again_if_room(&mut staged);
        if staged.verdict == Verdict::Full { Back::Waits } else { Back::Done }
    }

    /// Others have had the message: only the rule is asked again.
    fn judge_again(&self, alive: &Alive) -> Back {
        match self.made_again(&alive.from, &alive.message) {
            Some(Verdict::Full) => Back::Waits,
            Some(_) => Back::Done,
            None => Back::Stays,
        }
    }
}

/// What came of the try to put one back.
enum Back {
    /// It is there.
    Done,
    /// There is no room for it now.
    Waits,
    /// There is nobody for it any more.
    Stays,
}

/// On which terms a session takes a message with this topic; `None`: no subscription of its own is for it.
fn terms(session: &Session, topic: &str) -> Option<(u8, Vec<u32>)> {
    let own = |filter: &str| topic::matches(topic::without_share(filter), topic);
    let fits: Vec<_> = session.subscriptions().iter().filter(|known| own(&known.filter)).collect();
    let ids = fits.iter().map(|known| known.subscription_id).filter(|id| *id != 0).collect();
    fits.iter().map(|known| known.qos).max().filter(|qos| *qos > 0).map(|qos| (qos, ids))
}
