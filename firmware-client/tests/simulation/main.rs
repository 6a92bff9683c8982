//! The client and a model broker in virtual time, by seed. `FOREBAY_SEEDS=n` runs more of them, `FOREBAY_SEED=s` one.
#![cfg(all(feature = "v3", feature = "v5", feature = "qos2"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::wildcard_enum_match_arm)]

mod behaviour;
mod broker;
mod every_byte;
mod hostile;
mod pace;
mod payload;
mod seed;
mod world;

use forebay_firmware::{Options, Order, Protocol, QoS};
use payload::payload;
use seed::Seed;
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::{World, options};

fn protocol(v5: bool) -> Protocol {
    if v5 { Protocol::V5 } else { Protocol::V311 }
}

fn random_options(seed: &mut Seed, v5: bool) -> &'static Options<'static> {
    options(|options| {
        options.protocol = protocol(v5);
        options.in_flight_max = [1, 2, 8, 40][seed.below(4)];
        options.receive_maximum = [1, 4, 24][seed.below(3)];
        options.rate_per_s = [0, 0, 50][seed.below(3)];
        options.burst = 1 + seed.below(10) as u16;
        options.reserve = [[0; 4], [400, 0, 0, 0], [300, 200, 200, 100]][seed.below(3)];
        options.subscription_reserve = 64;
        options.seed = seed.next() as u32;
        options.tell_lost = seed.below(2) == 0;
        options.topic_aliases = &["up/0", "up/3", "up/1"];
    })
}

/// What the broker was made to send.
type Numbers = Vec<(u32, QoS)>;

fn disturb(world: &mut World, seed: &mut Seed, numbers: &mut Numbers, clocks: bool) {
    match seed.below(60) {
        0..=2 => {
            // Some of what is on its way still arrives.
            let most = seed.below(40);
            world.carry_up(most);
            world.cut();
        }
        3 => {
            if let Some(link) = world.link.as_mut() {
                link.dead = true;
            }
        }
        4 => world.broker.mood.forget = true,
        5 => world.broker.mood.refuse = Some((0x89, Some(100 + seed.below(20_000) as u32))),
        6 => world.broker.mood.refuse = Some((if world.broker.v5 { 0x86 } else { 4 }, None)),
        7..=9 => world.broker.mood.refuse = None,
        10 => {
            let far = world.now + 100 + seed.below(5_000) as u64;
            world.broker.mood.full_until = far;
        }
        11 => world.broker.mood.withhold = true,
        12..=14 => {
            world.broker.mood.withhold = false;
            world.broker.release();
        }
        15 if world.link.is_none() => world.broker.mood.receive_maximum = [1, 3, 65_535][seed.below(3)],
        16 if world.link.is_none() => world.broker.mood.topic_aliases = [0, 2, 10][seed.below(3)],
        17 => world.broker.dismiss(0x8b, None),
        53 if clocks => world.sleep(seed.below(20_000) as u64),
        18 if clocks => {
            let jumped = (world.device_now() + seed.below(100_000) as u64).saturating_sub(seed.below(100_000) as u64);
            world.skew = jumped.wrapping_sub(world.now);
        }
        19..=26 => {
            let number = 1_000_000 + numbers.len() as u32;
            let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][seed.below(3)];
            let len = if seed.below(6) == 0 { 400 + seed.below(3_000) } else { seed.below(60) };
            if world.broker.send(number, payload(number, len), qos) {
                numbers.push((number, qos));
            }
        }
        27..=40 => world.sprinkle(seed),
        _ => {}
    }
}

fn run(number: u64, v5: bool, clocks: bool) {
    let mut seed = Seed::new(number);
    let options = random_options(&mut seed, v5);
    let outbox = 1_000 + seed.below(3_000);
    let receive = 64 + seed.below(256);
    let mut world = World::new(v5, options, outbox, receive);
    world.chunk = 1 + seed.below(100);
    world.broker.wrong_clock = clocks;
    world.client.subscribe("down/#", QoS::ExactlyOnce).unwrap();
    let mut numbers = Numbers::new();
    for _ in 0..600 {
        disturb(&mut world, &mut seed, &mut numbers, clocks);
        world.try_connect(seed.below(4) > 0);
        world.serve_client();
        world.carry_up(1 + seed.below(300));
        let most = 1 + seed.below(300);
        world.carry_down(most);
        world.turn(seed.below(20));
        let step = if seed.below(20) == 0 { 30_000 } else { 1 + seed.below(200) };
        world.now += step as u64;
    }
    world.broker.mood = broker::Mood::default();
    world.broker.release();
    world.settle();
    let kept = world.broker.sessions_lost == 0;
    // What was refused may be overtaken by what was already on its way.
    world.verify(kept, options.order == Order::Published && world.broker.no_room == 0);
    world.verify_received(&numbers, kept);
    assert!(world.broker.is_subscribed("down/#"));
}

/// Runs a range of seeds; prints the one that fails.
fn seeds(default: u64, one: impl Fn(u64)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let range = match number("FOREBAY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FOREBAY_SEEDS").unwrap_or(default),
    };
    for seed in range {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| one(seed))) {
            eprintln!("failed with FOREBAY_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn anything_may_happen_and_every_message_is_accounted_for_v5() {
    seeds(600, |seed| run(seed, true, false));
}

#[test]
fn anything_may_happen_and_every_message_is_accounted_for_v3() {
    seeds(600, |seed| run(seed, false, false));
}

#[test]
fn clocks_may_jump_and_devices_sleep_as_well() {
    seeds(300, |seed| run(seed, seed % 2 == 0, true));
}
