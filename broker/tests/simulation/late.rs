//! Delayed messages that find no room hold up no others, however many they are.

use std::sync::Arc;

use forebay::broker::{Batch, Broker, Slot, Staged, Verdict};
use forebay::clock::Clock;
use forebay::router::RouteCache;
use forebay::session::{Durability, Link};
use forebay::store::NEVER_S;
use forebay::store::memory::MemoryStore;

use crate::board::{Board, link, subscription};

/// More than are held in memory, for one queue that has no room.
const MANY: usize = 5_000;
/// Topics that they are on.
const TOPICS: usize = 300;

fn publish(board: &Board, topic: &str) {
    let message = board.message(topic);
    let mut staged = [Staged::of(&message, false, Durability::Interval)];
    board.broker.fan_out(&mut RouteCache::default(), Batch::OWN, &mut staged);
    assert_eq!(staged[0].verdict, Verdict::Taken, "{topic}");
}

fn away(broker: &Arc<Broker>, name: &str, filter: &str) -> Arc<Slot> {
    let opened = broker.open(name, true, Link { expiry_s: NEVER_S, receive_maximum: 1, ..link() }, 0);
    broker.subscribe(&opened.slot, subscription(filter, 1));
    opened.slot
}

fn queued(slot: &Arc<Slot>) -> u64 {
    slot.look(|session| session.fill().0)
}

#[test]
fn what_finds_no_room_holds_up_nothing_on_other_topics() {
    let text = "[queue]\nmax_messages = 10\npolicy = \"reject\"\n";
    let mut board = Board::start(text, &MemoryStore::default(), Clock::by_hand(None));
    let broker = board.broker.clone();
    let (full, other) = (away(&broker, "full", "full/#"), away(&broker, "other", "other"));
    (0..10).for_each(|_| publish(&board, "full/0"));
    (0..MANY).for_each(|n| publish(&board, &format!("$delayed/1/full/{}", n % TOPICS)));
    (0..3).for_each(|_| publish(&board, "$delayed/2/other"));
    board.commit();
    broker.clock.advance(3_000);
    // Each look is bounded: there may be several.
    for _ in 0..5 {
        broker.settle_due();
        board.commit();
    }
    assert_eq!((queued(&full), queued(&other)), (10, 3));
    assert_eq!(broker.delayed.totals().messages, MANY as u64);
    // What waits goes when its queue has gone, each once.
    broker.unsubscribe(&full, "full/#");
    for _ in 0..5 {
        broker.settle_due();
        board.commit();
    }
    let totals = broker.delayed.totals();
    assert_eq!((totals.messages, totals.sent), (0, MANY as u64 + 3));
}
