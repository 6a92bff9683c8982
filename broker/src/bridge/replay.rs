//! Dead letters go back into the bridge's queue, because somebody says so: those that match a filter, at a rate.

use std::sync::Arc;
use std::time::Duration;

use forebay_wire::topic;
use tokio::time::sleep;

use super::pace::Pace;
use crate::broker::{Broker, Replay, Taker};
use crate::dead_letter::Alive;
use crate::observe::OpenBridge;
use crate::session::Taken;
use crate::store::DropReason;

/// When the queue is full it is tried again after this.
const FULL: Duration = Duration::from_millis(250);
/// What lies on disk is on its way; it may have been purged meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// What a replay needs.
pub(super) struct Replays {
    pub(super) broker: Arc<Broker>,
    pub(super) name: Arc<str>,
    pub(super) queue: Arc<Taker>,
    pub(super) dead: Arc<Taker>,
    pub(super) open: Arc<OpenBridge>,
}

impl Replays {
    /// Waits for what an operator asks, and does it; what is asked later replaces what is under way.
    pub(super) async fn run(self) {
        let control = self.open.control();
        let mut what = control.replay_asked().await;
        loop {
            what = tokio::select! {
                other = control.replay_asked() => other,
                () = self.replay(what) => control.replay_asked().await,
            };
        }
    }

    async fn replay(&self, what: Replay) {
        // What a replay that was replaced had in its hand.
        self.dead.give_back();
        // What becomes a dead letter from now on is for another time.
        let end = self.dead.figures().next_place;
        let mut pace = Pace::new(what.per_s, None, self.now_ms());
        let mut sent = 0;
        while sent < what.messages_max {
            self.wait(&mut pace).await;
            let Some(taken) = self.next().await.filter(|taken| taken.place < end) else { break };
            if self.put_back(&taken, &what.filter) {
                sent += 1;
                pace.sent(1);
            }
        }
        self.dead.give_back();
        tracing::info!(bridge = &*self.name, messages = sent, "dead letters are back in the bridge's queue");
    }

    fn now_ms(&self) -> u64 {
        self.broker.clock.now().0
    }

    /// Until the rate and the queue allow one more.
    async fn wait(&self, pace: &mut Pace) {
        loop {
            let wait_ms = pace.wait_ms(1, self.now_ms());
            if wait_ms > 0 {
                sleep(Duration::from_millis(wait_ms)).await;
            } else if self.queue.slot().full() || self.broker.store_failing() {
                sleep(FULL).await;
            } else {
                return;
            }
        }
    }

    /// The next dead letter; `None`: there is none.
    async fn next(&self) -> Option<Taken> {
        loop {
            if let Some(taken) = self.dead.take(1, usize::MAX).pop() {
                return Some(taken);
            }
            if self.dead.figures().messages == 0 {
                return None;
            }
            tokio::select! {
                () = self.dead.ready() => {}
                () = sleep(LOOK) => {}
            }
        }
    }

    /// True: it is in the queue again. What does not match goes behind the other dead letters.
    fn put_back(&self, taken: &Taken, filter: &str) -> bool {
        let dead = &taken.entry.message;
        let Some(Alive { message, .. }) = Alive::again(dead, &self.name, self.broker.clock.now()) else {
            // Somebody else has published it here.
            self.dead.refuse(taken.place, DropReason::Damaged);
            return false;
        };
        let matches = topic::matches(filter, message.topic());
        let (to, message) = if matches { (&self.queue, &message) } else { (&self.dead, dead) };
        self.dead.move_to(taken.place, to, message);
        matches
    }
}
