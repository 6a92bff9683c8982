//! The outbox: full in four ways, and what the counters say.

use super::peer::*;
use super::*;
use crate::options::WhenFull;
use crate::{Dropped, Outbox};

fn bench(max_messages: usize, max_bytes: usize, when_full: WhenFull) -> Bench {
    Bench::new(options(V5).outbox(Outbox { max_messages, max_bytes, when_full, ..Outbox::default() }))
}

fn payloads(b: &mut Bench) -> Vec<String> {
    publishes(&b.flush()).into_iter().map(|(payload, ..)| payload).collect()
}

#[test]
fn wait_and_reject_give_the_message_back() {
    for when_full in [WhenFull::Wait, WhenFull::Reject] {
        let mut b = bench(2, 1_000, when_full);
        drop((b.publish(message("t", 0, Q1)), b.publish(message("t", 1, Q0))));
        assert!(matches!(b.try_publish(message("t", 2, Q1)).unwrap_err(), NoRoom::Full(_)));
        assert_eq!(b.session.stats().accepted, 2);
        b.connect(false);
        assert_eq!(payloads(&mut b), ["0", "1"]);
        assert!(b.try_publish(message("t", 3, Q1)).is_ok(), "QoS 0 is gone when it is written");
        assert!(b.try_publish(message("t", 4, Q1)).is_err(), "QoS 1 stays until it is acknowledged");
    }
}

#[test]
fn bytes_are_counted_and_given_back() {
    let mut b = bench(100, 100, WhenFull::Reject);
    assert_eq!(b.try_publish(message("t", "x".repeat(100), Q1)).unwrap_err(), NoRoom::TooLarge);
    drop(b.publish(message("t", "x".repeat(60), Q1)));
    assert!(matches!(b.try_publish(message("t", "x".repeat(60), Q1)).unwrap_err(), NoRoom::Full(_)));
    b.connect(false);
    let sent = publishes(&b.flush());
    b.receive(&ack(PUBACK, sent[0].1));
    assert_eq!(b.session.stats().outbox_bytes, 0);
    drop(b.publish(message("t", "x".repeat(60), Q0)));
    b.flush();
    assert_eq!(b.session.stats().outbox_bytes, 0);
}

#[test]
fn drop_oldest_drops_what_was_not_sent() {
    let mut b = bench(3, 1_000, WhenFull::DropOldest);
    b.connect_with(false, &[0x21, 0, 1]);
    drop(b.publish(message("t", 0, Q1)));
    b.flush();
    let mut second = b.publish(message("t", 1, Q1));
    for n in 2..6 {
        drop(b.publish(message("t", n, Q1)));
    }
    assert_eq!(second.try_outcome(), Some(Err(Dropped::Evicted)));
    assert_eq!(b.session.stats().evicted, 3);
    b.lose();
    b.connect(true);
    assert_eq!(payloads(&mut b), ["0", "4", "5"]);
}

#[test]
fn keep_last_keeps_one_unsent_message_of_each_topic() {
    let mut b = bench(3, 1_000, WhenFull::KeepLast);
    let mut first = b.publish(message("a", 0, Q1));
    drop(b.publish(message("b", 1, Q1)));
    drop(b.publish(message("a", 2, Q1)));
    assert_eq!(first.try_outcome(), Some(Err(Dropped::Replaced)));
    drop(b.publish(message("c", 3, Q1)));
    assert!(matches!(b.try_publish(message("d", 4, Q1)).unwrap_err(), NoRoom::Full(_)));
    drop(b.publish(message("b", 5, Q0)));
    assert_eq!(b.session.stats().replaced, 2);
    b.connect(false);
    let mut sent = payloads(&mut b);
    // What is sent is not replaced.
    drop(b.publish(message("a", 6, Q1)));
    sent.extend(payloads(&mut b));
    sent.sort();
    assert_eq!(sent, ["2", "3", "5", "6"]);
}

#[test]
fn a_million_messages_offline_take_no_longer_each_than_a_thousand() {
    // With the quadratic way of doing it this takes hours.
    for when_full in [WhenFull::DropOldest, WhenFull::KeepLast] {
        let mut b = bench(100_000, 1 << 30, when_full);
        for n in 0..400_000u32 {
            // In an order in which the ends of the queue are of no use.
            let topic = (n % 100_000).reverse_bits().to_string();
            let (teller, _) = pair();
            assert!(b.session.publish(b.now, WALL, message(&topic, n, Q1), teller).is_ok());
        }
        b.check();
        assert_eq!((b.session.stats().outbox_messages, b.session.stats().dropped()), (100_000, 300_000));
    }
}

#[test]
fn the_end_tells_everybody_and_counts() {
    let mut b = bench(10, 1_000, WhenFull::Wait);
    b.connect(false);
    let mut flying = b.publish(message("t", 0, Q1));
    b.flush();
    b.lose();
    let mut waiting = b.publish(message("t", 1, Q0));
    b.session.end(crate::EndReason::Disconnected, None);
    b.check();
    for ticket in [&mut flying, &mut waiting] {
        assert_eq!(ticket.try_outcome(), Some(Err(Dropped::Ended(crate::EndReason::Disconnected))));
    }
    assert_eq!(b.session.stats().ended, 2);
}

#[test]
fn a_topic_that_changes_all_the_time_keeps_its_place() {
    let mut b = bench(100, 10_000, WhenFull::KeepLast);
    b.connect_with(false, &[0x21, 0, 1]);
    for topic in ["x", "a", "b", "c"] {
        drop(b.publish(message(topic, format!("{topic}0"), Q1)));
    }
    let mut order = Vec::new();
    for n in 1..4 {
        let sent = publishes(&b.flush());
        drop(b.publish(message("a", format!("a{n}"), Q1)));
        order.push(sent[0].0.clone());
        b.receive(&ack(PUBACK, sent[0].1));
    }
    assert_eq!(order, ["x0", "a1", "b0"], "otherwise it would never be sent");
}

#[test]
fn drop_oldest_drops_nothing_for_a_message_that_does_not_fit_then_either() {
    let mut b = bench(100, 100, WhenFull::DropOldest);
    b.connect_with(false, &[0x21, 0, 1]);
    drop(b.publish(message("t", "x".repeat(50), Q1)));
    b.flush();
    let mut waits = b.publish(message("t", "x".repeat(20), Q1));
    assert!(matches!(b.try_publish(message("t", "x".repeat(60), Q1)).unwrap_err(), NoRoom::Full(_)));
    assert_eq!(waits.try_outcome(), None);
}

#[test]
fn keep_last_keeps_the_old_one_when_the_new_one_does_not_fit() {
    let mut b = bench(100, 100, WhenFull::KeepLast);
    let mut old = b.publish(message("a", "old", Q1));
    drop(b.publish(message("b", "x".repeat(60), Q1)));
    assert!(matches!(b.try_publish(message("a", "y".repeat(60), Q1)).unwrap_err(), NoRoom::Full(_)));
    assert_eq!(old.try_outcome(), None);
}
