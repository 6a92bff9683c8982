//! A schedule beside a broker that crashes, commits that fail, and a subscriber that comes and goes: each due time comes once.

use std::sync::Arc;

use forebay::message::{Message, Parts};
use forebay::session::Durability;

use crate::world::World;
use crate::{DRAIN_TURNS, calm_turn, everybody_is_there, seeds, turn};

/// Due each second; the payload has the four bytes of a number.
const EACH_SECOND: &[u8] = br#"{"cron":"* * * * * *","topic":"s","payload":"tick","qos":2}"#;

fn describe(world: &World, payload: &[u8]) {
    let broker = world.broker();
    let parts = Parts {
        topic: "$schedule/tick",
        properties: &[],
        payload,
        qos: 1,
        retain: true,
        expires_at: None,
        accepted_at: broker.clock.now(),
    };
    broker.publish(&Arc::new(Message::new(&parts, None)), true, Durability::Commit, None);
}

fn drained(world: &mut World) {
    for _ in 0..DRAIN_TURNS {
        calm_turn(world);
        if world.clients.iter().all(crate::client::Client::idle) && world.broker().ledger().1 == 0 {
            return;
        }
    }
    panic!("the queue is not drained");
}

fn play(world: &mut World) {
    everybody_is_there(world);
    describe(world, EACH_SECOND);
    while !world.commit(false) {}
    let mut next = 0;
    for _ in 0..300 {
        turn(world, &mut next);
        if world.seed.one_in(4) {
            let ms = world.seed.below(1_500);
            world.advance(ms);
        }
        if world.seed.one_in(40) {
            describe(world, EACH_SECOND);
        }
    }
    world.note("calm from here on");
    let missed = world.broker().counters.schedule_missed.get();
    everybody_is_there(world);
    drained(world);
    for _ in 0..5 {
        world.advance(1_000);
        drained(world);
    }
    describe(world, b"");
    drained(world);
    let due = world.clients[0].due.clone();
    assert!(due.iter().all(|at| at % 1_000 == 0), "{due:?}");
    assert!(due.is_sorted_by(|before, after| before < after), "a due time came twice, or late: {due:?}");
    let last: Vec<u64> = due.iter().rev().take(5).rev().copied().collect();
    assert!(last.windows(2).all(|two| two[1] - two[0] == 1_000), "with nothing in the way each comes: {last:?}");
    if world.crashes == 0 {
        let passed = (due[due.len() - 1] - due[0]) / 1_000 + 1;
        let sent = due.len() as u64;
        let before = sent + missed - passed;
        assert!(sent + missed >= passed && before <= missed, "{sent} came and {missed} were missed of {passed}");
    }
    world.advance(5_000);
    calm_turn(world);
    assert_eq!(world.clients[0].due, due, "it was cancelled");
}

#[test]
fn each_due_time_comes_once() {
    for seed in seeds().step_by(10) {
        crate::run(World::with_schedules(seed), play, seed);
    }
}

#[test]
fn each_due_time_comes_once_from_the_journal_and_redb() {
    for seed in seeds().step_by(60) {
        crate::run(World::with_schedules(seed).on_a_journal(), play, seed);
    }
}
