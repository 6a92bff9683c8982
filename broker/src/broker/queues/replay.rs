//! Dead letters go back into the queue that they came from, because somebody says so: those that match a filter, at a rate.

use std::sync::Arc;

use forebay_wire::property::{Place, Properties, Property};
use forebay_wire::topic;

use super::DEAD_PREFIX;
use super::serve::Work;
use crate::bridge::pace::Pace;
use crate::broker::Broker;
use crate::dead_letter;
use crate::message::{Message, Parts};
use crate::session::Taken;
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
        let figures = work.taker.figures();
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
        // The queue stands before its dead letters.
        let back = at.checked_sub(1).and_then(|queue| all.get(queue)).map(|work| work.taker.slot().clone());
        let (Some(back), Some(work)) = (back, all.get_mut(at)) else { return Step::Done };
        let Some(running) = &mut work.replay else { return Step::Done };
        if running.sent >= running.what.messages_max {
            return Step::Done;
        }
        let wait_ms = running.pace.wait_ms(1, now_ms);
        if wait_ms > 0 {
            return Step::Wait(now_ms + wait_ms);
        }
        if back.full() || self.store_failing() {
            return Step::Wait(now_ms + FULL_MS);
        }
        let Some((place, taken)) = work.members.withdraw() else {
            // What lies on disk is on its way, unless nothing is there but what readers have.
            let (in_flight, aside) = work.members.held_and_aside();
            let rest = work.taker.figures().messages > (in_flight + aside) as u64;
            return if rest { Step::Wait(now_ms + 1) } else { Step::Done };
        };
        if place >= running.end {
            work.members.put(place, None, taken);
            return Step::Done;
        }
        let Some((was, message)) = alive_again(&taken, &work.name) else {
            // Nobody else writes here: the store is damaged.
            work.taker.refuse(place, DropReason::Damaged);
            return Step::On;
        };
        let matches = topic::matches(&running.what.filter, &was);
        if matches {
            running.sent += 1;
            running.pace.sent(1);
        }
        work.bytes = work.bytes.saturating_sub(taken.entry.message.size());
        let _one_commit = self.writer.gate();
        // What does not match goes behind the others.
        let (to, message) = if matches { (&back, &message) } else { (work.taker.slot(), &taken.entry.message) };
        self.put_into(&to.clone(), message);
        work.taker.confirm(&[place]);
        Step::On
    }
}

/// The message as it was before it was dead, and its topic.
fn alive_again(taken: &Taken, name: &str) -> Option<(String, Arc<Message>)> {
    let dead = &taken.entry.message;
    let topic = dead.topic().strip_prefix(DEAD_PREFIX)?.strip_prefix(name)?.strip_prefix('/')?;
    let mut properties = Vec::with_capacity(dead.properties().len());
    for spanned in Properties::new(dead.properties(), Place::Publish).flatten() {
        let ours = matches!(spanned.property, Property::UserProperty(name, _) if name.starts_with(dead_letter::OWN));
        if !ours {
            properties.extend_from_slice(spanned.bytes);
        }
    }
    let parts = Parts {
        topic,
        properties: &properties,
        payload: dead.payload(),
        qos: dead.qos,
        retain: false,
        expires_at: None,
        accepted_at: dead.accepted_at,
    };
    Some((topic.to_owned(), Arc::new(Message::new(&parts, None))))
}
