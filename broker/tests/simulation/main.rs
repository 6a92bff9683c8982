//! Sessions, connections, router and store together in virtual time, one thread, by seed. `FOREBAY_SEEDS=n` runs more of
//! them, `FOREBAY_SEED=s` one; `FOREBAY_EVENTS=n` prints more of the last events.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod board;
mod client;
mod dead;
mod declared;
#[path = "../power_cut/disk.rs"]
mod disk;
mod hand_over;
mod hostile;
mod kept;
mod late;
mod model;
mod not_allowed;
mod parked;
mod refused;
#[path = "../remote/mod.rs"]
mod remote;
mod scheduled;
mod shared;
mod stalled;
mod state;
mod streams;
mod taken_over;
mod taker;
mod turns;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::{Seed, World};

/// Events that a failure prints.
const LAST_EVENTS: usize = 60;
/// Turns after the last disturbance in which everything must have arrived.
const DRAIN_TURNS: u32 = 6000;

fn everybody_is_there(world: &mut World) {
    for _ in 0..DRAIN_TURNS {
        if world.clients.iter().all(|c| c.greeted && (c.subscribed || c.plan.filters.is_empty())) {
            return;
        }
        calm_turn(world);
    }
    panic!("not everybody is connected and subscribed");
}

/// A turn in which nothing goes wrong.
fn calm_turn(world: &mut World) {
    for at in 0..world.clients.len() {
        if world.clients[at].stream.is_none() {
            world.connect(at);
        }
        world.clients[at].try_again();
        world.carry(at, 4096);
    }
    world.run(3);
    world.advance(1);
    assert!(world.commit(false), "the store is well");
    world.page();
    world.check_ledger();
}

/// A turn in which anything may.
fn turn(world: &mut World, next: &mut u32) {
    let at = usize::try_from(world.seed.below(world.clients.len() as u64)).unwrap();
    match world.seed.below(40) {
        0 => world.crash(),
        1..=3 => {
            let name = world.clients[at].plan.name.clone();
            world.note(format!("{name} is cut off"));
            world.clients[at].cut();
        }
        // A take-over, where there was a connection.
        4..=6 => world.connect(at),
        7..=8 => world.clients[at].asleep = 30,
        9..=16 => publish(world, at, next),
        17..=21 => {
            // What those were told who waited for it must be true after a crash.
            if !world.commit(true) && world.seed.one_in(2) {
                for at in 0..world.clients.len() {
                    world.run(2);
                    world.carry(at, 4096);
                }
                world.crash();
            }
        }
        22..=24 => world.page(),
        25 => world.advance(200),
        26..=29 => world.run(2),
        _ if world.clients[at].asleep > 0 => world.clients[at].asleep -= 1,
        _ => {
            let most = usize::try_from(1 + world.seed.below(200)).unwrap();
            world.carry(at, most);
        }
    }
    if world.disk.is_journaled() && world.seed.one_in(15) {
        world.fold();
    }
    if world.seed.one_in(2) {
        world.run(1);
    }
    if world.clients[at].stream.is_none() && world.seed.one_in(3) {
        world.connect(at);
    }
    world.advance(1);
    world.check_ledger();
}

fn publish(world: &mut World, at: usize, next: &mut u32) {
    let client = &mut world.clients[at];
    client.try_again();
    if !client.plan.filters.is_empty() || client.outbox.len() > 20 {
        return;
    }
    for _ in 0..3 {
        // QoS and topic go together: order is promised within a topic and a QoS.
        let qos = 1 + u8::try_from(world.seed.below(2)).unwrap();
        let topic = format!("t/{}/{qos}", client.plan.name);
        *next += 1;
        client.publish(&topic, *next, qos);
    }
}

fn play(world: &mut World) {
    everybody_is_there(world);
    let mut next = 0;
    for _ in 0..400 {
        turn(world, &mut next);
    }
    settle(world);
}

/// Nothing goes wrong any more: everything arrives.
fn settle(world: &mut World) {
    world.note("calm from here on");
    for _ in 0..DRAIN_TURNS {
        calm_turn(world);
        let idle = world.clients.iter().all(client::Client::idle);
        if idle && world.broker().ledger().1 == 0 {
            break;
        }
    }
    for _ in 0..3 {
        calm_turn(world);
    }
    for client in &world.clients {
        assert!(client.idle(), "{}: something is under way still: {client:?}", client.plan.name);
    }
    world.refused += world.broker().counters.publish_refused.get();
    model::check(world);
}

/// Plays a world of this seed; when it fails it says how to see it again.
fn run(mut world: World, play: impl Fn(&mut World), seed: u64) {
    let passed = catch_unwind(AssertUnwindSafe(|| play(&mut world))).is_ok();
    say_unless(passed, &world, seed);
}

fn say_unless(passed: bool, world: &World, seed: u64) {
    if !passed {
        let from = world
            .log
            .len()
            .saturating_sub(variable("FOREBAY_EVENTS").map_or(LAST_EVENTS, |n| usize::try_from(n).unwrap()));
        for event in &world.log[from..] {
            eprintln!("  {event}");
        }
        eprintln!("policy {:?}", world.policy);
        eprintln!("again: FOREBAY_SEED={seed} cargo test -p forebay --test simulation");
    }
    assert!(passed, "seed {seed}");
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

fn seeds() -> std::ops::Range<u64> {
    match variable("FOREBAY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("FOREBAY_SEEDS").unwrap_or(1500),
    }
}

#[test]
fn what_is_acknowledged_arrives_in_order_and_is_counted() {
    for seed in seeds() {
        run(World::new(seed), play, seed);
    }
}

/// The same on the store that the program has: the power goes at any write of a commit or a fold, the device fails, the program is
/// killed.
#[test]
fn what_is_acknowledged_arrives_from_the_journal_and_redb() {
    for seed in seeds().step_by(10) {
        run(World::new(seed).on_a_journal(), play, seed);
    }
}
