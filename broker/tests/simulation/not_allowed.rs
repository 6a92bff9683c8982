//! A declared queue goes on past messages that none of its members may read.

use std::sync::Arc;

use forebay::broker::{Broker, Slot};
use forebay::clock::Clock;
use forebay::session::{Durability, Link};
use forebay::store::memory::MemoryStore;

use crate::board::{Board, Reads, link, subscription};

const WINDOW: usize = 8;

/// It may read everything but what begins with `secret/`.
fn member(broker: &Arc<Broker>) -> Arc<Slot> {
    let nothing_secret = Reads(|topic: &str| !topic.starts_with("secret/"));
    let link = Link { authority: Some(Arc::new(nothing_secret)), ..link() };
    let slot = broker.open("member", true, link, 0).slot;
    broker.join_queues(&slot, &subscription("$queue/work", 0));
    slot
}

fn play(order: &str) {
    let text = format!("[[queues]]\nname = \"work\"\nfilter = \"#\"\nwindow = {WINDOW}\n{order}");
    let mut board = Board::start(&text, &MemoryStore::default(), Clock::by_hand(None));
    let broker = board.broker.clone();
    let slot = member(&broker);
    let publish = |topic: &str| broker.publish(&board.message(topic), false, Durability::Interval, None);
    // More than the window has room for.
    (0..3 * WINDOW).for_each(|_| publish("secret/1"));
    (0..5).for_each(|_| publish("open/1"));
    let mut came = 0;
    let mut serve = || {
        board.turn();
        broker.serve_queues();
        came += board.take(&slot);
        broker.serve_queues();
        came
    };
    assert_eq!((0..5).map(|_| serve()).max(), Some(5), "{order}");
    let [work, dead] = broker.queue_figures().try_into().unwrap();
    assert!((1..=WINDOW / 2).contains(&work.not_allowed) || !order.is_empty(), "{work:?}");
    assert_eq!(work.messages + dead.messages, 3 * WINDOW as u64, "those that nobody may read are not lost");
    broker.clock.advance(300_000);
    (0..3 * WINDOW).for_each(|_| {
        serve();
        broker.clock.advance(300_000);
    });
    let [work, dead] = broker.queue_figures().try_into().unwrap();
    assert_eq!((work.messages, dead.messages, work.not_allowed), (0, 3 * WINDOW as u64, 0), "{order}");
    broker.close_queues();
}

#[test]
fn what_no_member_may_read_does_not_stop_the_others() {
    play("");
    play("order_by = \"topic\"\n");
}
