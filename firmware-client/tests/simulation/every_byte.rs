//! The connection ends after each byte there is.

use crate::payload::payload;
use crate::world::{World, options};
use crate::{broker::Mood, protocol};
use forebay_firmware::{Class, Policy, QoS};

/// The same small story, with the link cut after `cut` bytes. How many bytes passed, and how many sessions there were.
fn story(v5: bool, cut: Option<usize>, chunk: usize, receive: usize) -> usize {
    let options = options(|options| {
        options.protocol = protocol(v5);
        options.in_flight_max = 3;
        options.topic_aliases = &["up/1", "up/2"];
    });
    let mut world = World::new(v5, options, 2_048, receive);
    world.broker.mood = Mood { topic_aliases: 2, ..Mood::default() };
    world.budget = cut;
    world.chunk = chunk;
    world.client.subscribe("down/#", QoS::ExactlyOnce).unwrap();
    let mut numbers = Vec::new();
    for round in 0..60u32 {
        if round < 12 {
            let qos = [QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtMostOnce][round as usize % 3];
            world.publish(qos, Class::Telemetry, Policy::DropNewest, 0, 10);
        }
        if round > 2 && round % 3 == 0 {
            let qos = [QoS::ExactlyOnce, QoS::AtLeastOnce][round as usize / 3 % 2];
            let len = if round % 4 == 1 { 150 } else { 8 };
            if world.broker.send(1_000 + round, payload(1_000 + round, len), qos) {
                numbers.push((1_000 + round, qos));
            }
        }
        world.turn(chunk);
        world.now += 20;
    }
    world.settle();
    world.verify(true, true);
    world.verify_received(&numbers, true);
    assert!(numbers.len() > 3 && world.faults.is_empty(), "{} {:?}", numbers.len(), world.faults);
    world.passed
}

fn every_byte(v5: bool) {
    for (chunk, receive) in [(4096, 512), (7, 64), (50, 100)] {
        let total = story(v5, None, chunk, receive);
        assert!(total > 500);
        for cut in 1..=total {
            story(v5, Some(cut), chunk, receive);
        }
    }
}

#[test]
fn the_link_is_cut_after_each_byte_v5() {
    every_byte(true);
}

#[test]
fn the_link_is_cut_after_each_byte_v3() {
    every_byte(false);
}
