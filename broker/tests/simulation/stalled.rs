//! A queue that nobody takes from must not hold publishers up for ever: `queue.stall_limit`.

use std::sync::Arc;

use forebay::broker::{Batch, Broker, Ending, Slot, Staged, Verdict};
use forebay::message::{Message, Parts};
use forebay::router::RouteCache;
use forebay::session::{Durability, Link, Session};
use forebay::store::{DropReason, NEVER_S, StoredSubscription};
use forebay_wire::reason::ReasonCode;
use forebay_wire::types::PacketId;

use crate::board::link;
use crate::world::World;

fn subscriber(broker: &Arc<Broker>, name: &str, expiry_s: u32, filter: &str) -> (Arc<Slot>, u32) {
    let link = Link { expiry_s, receive_maximum: 2, ..link() };
    let opened = broker.open(name, true, link, 0);
    let filter = filter.to_owned();
    let (qos, no_local, retain_as_published, subscription_id) = (1, false, false, 0);
    broker.subscribe(
        &opened.slot,
        StoredSubscription { filter, qos, no_local, retain_as_published, subscription_id, retained_behind: None },
    );
    (opened.slot, opened.epoch)
}

fn publish(broker: &Arc<Broker>) -> Verdict {
    let accepted_at = broker.clock.now();
    let parts =
        Parts { topic: "t", properties: &[], payload: &[1], qos: 1, retain: false, expires_at: None, accepted_at };
    let message = Arc::new(Message::new(&parts, None));
    let mut staged = [Staged::of(&message, false, Durability::Interval)];
    broker.fan_out(&mut RouteCache::default(), Batch::OWN, &mut staged);
    staged[0].verdict
}

/// Publishes until the queue refuses; commits meanwhile, so that an absent client's messages lie on disk.
fn fill(world: &mut World) {
    let broker = world.broker();
    for _ in 0..2 * world.config.queue.max_messages {
        if publish(&broker) == Verdict::Full {
            return;
        }
        world.commit(false);
        world.page();
    }
    panic!("the queue never refuses");
}

/// So many seconds later nobody has published anything.
fn idle(world: &World, s: u64) {
    for _ in 0..s {
        world.broker().clock.advance(1000);
        world.broker().end_stalls();
    }
}

/// So many seconds later, in which a publisher has tried again each half minute.
fn later(world: &World, s: u64) {
    let steps = std::iter::once(s % 30).filter(|first| *first > 0).chain((0..s / 30).map(|_| 30));
    for step in steps {
        assert_eq!(publish(&world.broker()), Verdict::Full);
        world.broker().clock.advance(step * 1000);
        world.broker().end_stalls();
    }
}

#[test]
fn a_forgotten_session_drops_its_oldest_until_it_has_drained_by_half() {
    // A seed whose policy is the one that refuses.
    let mut world = World::new(3);
    let broker = world.broker();
    let (slot, epoch) = subscriber(&broker, "forgotten", NEVER_S, "t");
    broker.close(&slot, epoch, Ending { with_will: false, expiry_s: None });
    fill(&mut world);
    later(&world, 599);
    assert_eq!(publish(&broker), Verdict::Full, "not yet");
    later(&world, 2);
    assert!(slot.look(|session| session.sheds()));
    assert_eq!(broker.counters.queues_shed.get(), 1);
    for _ in 0..50 {
        assert_eq!(publish(&broker), Verdict::Taken);
        world.commit(false);
        world.page();
        world.check_ledger();
    }
    let (ledger, queued) = slot.look(|session| session.ledger());
    assert_eq!(ledger.dropped[DropReason::Oldest as usize], 50);
    assert_eq!(queued, world.config.queue.max_messages);
    slot.with(&broker, Session::purge);
    assert!(!slot.look(|session| session.sheds()), "it has drained");
    fill(&mut world);
    later(&world, 3);
    assert_eq!(publish(&broker), Verdict::Full, "the time begins anew");
}

/// Its publishers are idle for an hour: it has held nobody up, but for the minute for which the last is taken to wait.
#[test]
fn a_full_queue_to_which_nobody_publishes_loses_nothing() {
    let mut world = World::new(3);
    let broker = world.broker();
    let (slot, epoch) = subscriber(&broker, "away", NEVER_S, "t");
    broker.close(&slot, epoch, Ending { with_will: false, expiry_s: None });
    fill(&mut world);
    idle(&world, 3600);
    assert!(!slot.look(|session| session.sheds()));
    assert_eq!(publish(&broker), Verdict::Full);
    assert_eq!(slot.look(|session| session.ledger()).0.dropped[DropReason::Oldest as usize], 0);
    later(&world, 570);
    assert_eq!(broker.counters.queues_shed.get(), 1, "it does hold one up");
}

#[test]
fn a_reader_that_takes_nothing_and_has_nothing_to_keep_is_disconnected() {
    let mut world = World::new(3);
    let broker = world.broker();
    let (slot, _) = subscriber(&broker, "stuck", 0, "t");
    fill(&mut world);
    later(&world, 4);
    assert_eq!(broker.counters.sessions_stalled.get(), 0, "not yet");
    later(&world, 2);
    later(&world, 2);
    assert_eq!(broker.counters.sessions_stalled.get(), 1, "once");
    assert!(!slot.look(|session| session.sheds()));
}

/// It acknowledges a message each second, and the next publisher takes the place: the others wait as if it took none.
#[test]
fn a_reader_that_takes_a_message_now_and_then_holds_up_no_longer_than_one_that_takes_none() {
    let mut world = World::new(3);
    let broker = world.broker();
    let (slot, _) = subscriber(&broker, "trickle", 0, "t");
    fill(&mut world);
    assert!(world.config.queue.max_messages > 6);
    // Packet identifiers are made from places: the first is 1.
    for id in 1..=5 {
        assert_eq!(broker.counters.sessions_stalled.get(), 0, "{id}");
        let id = PacketId::new(id).unwrap();
        assert!(slot.with(&broker, |session| session.receive_puback(id, ReasonCode::Success)));
        slot.with(&broker, |session| session.pump(broker.cx()));
        assert_eq!(publish(&broker), Verdict::Taken, "there is room for one");
        assert_eq!(publish(&broker), Verdict::Full);
        later(&world, 1);
    }
    assert_eq!(broker.counters.sessions_stalled.get(), 1);
}

/// The others of its group have room: nothing is dropped for what they can take. Where one of them refuses for a while, it is
/// waited for.
#[test]
fn a_stuck_member_drops_nothing_that_another_of_its_group_can_take() {
    let mut world = World::new(3);
    let broker = world.broker();
    let (stuck, _) = subscriber(&broker, "stuck", NEVER_S, "$share/g/t");
    fill(&mut world);
    later(&world, 601);
    assert!(stuck.look(|session| session.sheds()));
    let (other, _) = subscriber(&broker, "other", NEVER_S, "$share/g/t");
    let queued = |slot: &Arc<Slot>| slot.look(|session| session.ledger().1);
    let dropped = || stuck.look(|session| session.ledger()).0.dropped[DropReason::Oldest as usize];
    let full = world.config.queue.max_messages;
    for count in 1..=full {
        assert_eq!(publish(&broker), Verdict::Taken);
        assert_eq!((queued(&stuck), queued(&other), dropped()), (full, count, 0));
    }
    assert_eq!(publish(&broker), Verdict::Full, "the other may have room soon");
    other.with(&broker, Session::purge);
    assert_eq!(publish(&broker), Verdict::Taken);
    fill(&mut world);
    later(&world, 601);
    assert_eq!(publish(&broker), Verdict::Taken, "both have stood still for too long");
    assert_eq!(dropped() + other.look(|session| session.ledger()).0.dropped[DropReason::Oldest as usize], 1);
}

/// Its window is full and messages wait behind it: those that come from here on are the other's.
#[test]
fn a_stuck_member_of_a_shared_subscription_is_passed_over() {
    let world = World::new(3);
    let broker = world.broker();
    let (stuck, _) = subscriber(&broker, "stuck", NEVER_S, "$share/g/t");
    for _ in 0..3 {
        assert_eq!(publish(&broker), Verdict::Taken);
    }
    let (other, _) = subscriber(&broker, "other", NEVER_S, "$share/g/t");
    for _ in 0..2 {
        assert_eq!(publish(&broker), Verdict::Taken);
    }
    let queued = |slot: &Arc<Slot>| slot.look(|session| session.ledger().1);
    assert_eq!((queued(&stuck), queued(&other)), (3, 2));
}
