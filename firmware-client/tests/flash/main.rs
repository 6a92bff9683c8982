//! The client with a store in flash, and power cuts at every write and erase, by seed. `FOREBAY_SEEDS=n` runs more of them,
//! `FOREBAY_SEED=s` one.
#![cfg(all(feature = "flash", feature = "v3", feature = "v5", feature = "qos2"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::wildcard_enum_match_arm, clippy::print_stdout, dead_code)]

#[path = "../simulation/broker.rs"]
mod broker;
mod device;
mod mock;
#[path = "../simulation/payload.rs"]
mod payload;
#[path = "../simulation/seed.rs"]
mod seed;

use device::{Device, Shape};
use forebay_firmware::{Class, DropReason, QoS};
use mock::Torn;
use payload::payload;
use seed::Seed;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn shape(v5: bool) -> Shape {
    Shape { v5, sectors: 4, outbox: 1_200, high: 600, low: 300, safe: [true, false, false, false], in_flight_max: 4 }
}

/// The fixed story: a backlog that overflows into flash, drained, with messages of every kind both ways, and a lost link.
fn story(v5: bool, cut: Option<(u64, Torn)>) -> Device {
    played(Device::new(shape(v5)), cut)
}

fn played(mut device: Device, cut: Option<(u64, Torn)>) -> Device {
    if let Some((at, torn)) = cut {
        device.flash().left = Some(at);
        device.flash().torn = torn;
    }
    for round in 0..18 {
        let qos = [QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtLeastOnce][round % 3];
        let class = [Class::Telemetry, Class::Alarm, Class::Telemetry, Class::Bulk][round % 4];
        device.publish(qos, class, 30 + round, 0);
        device.turn(4_096, false);
    }
    for round in 0..60u32 {
        device.turn(64, true);
        device.now += 100;
        if round % 7 == 3 {
            device.broker.send(5_000 + round, payload(5_000 + round, 20), QoS::ExactlyOnce);
        }
        if round % 5 == 1 {
            device.publish(QoS::ExactlyOnce, Class::State, 25, 0);
        }
        if round == 30 {
            device.cut(20);
        }
    }
    device.settle();
    device.verify(true);
    device
}

#[test]
fn without_a_cut_everything_arrives_and_flash_is_worn_evenly() {
    for v5 in [false, true] {
        let mut device = story(v5, None);
        assert_eq!(device.cuts, 0);
        assert!(device.sent.values().all(|sent| sent.acknowledged), "nothing is lost");
        assert_eq!(device.tier.as_ref().unwrap().unsafe_sent(), 0);
        // A thousand more.
        for number in 0..1_000 {
            device.publish(QoS::ExactlyOnce, Class::Telemetry, 40, 0);
            device.turn(4_096, number % 40 > 20);
            device.now += 200;
        }
        device.settle();
        device.verify(true);
        let messages = device.sent.len();
        let flash = device.flash();
        println!("{messages} messages, {} writes and erases; erases by sector: {:?}", flash.operations, flash.erases);
        let (ring, session) = flash.erases.split_at(4);
        for area in [ring, session] {
            let (least, most) = (area.iter().min().unwrap(), area.iter().max().unwrap());
            assert!(*least > 0 && most - least <= 2, "{:?}", flash.erases);
        }
    }
}

/// Every write and every erase of the story, each of them not done, half done, and done.
#[test]
fn the_power_may_be_cut_at_every_operation() {
    for v5 in [false, true] {
        let operations = story(v5, None).flash().operations;
        println!("{operations} operations");
        assert!(operations > 100);
        for at in 0..operations {
            for torn in [Torn::Nothing, Torn::Some, Torn::All] {
                // Flash that checks what it reads does not give a torn word, for good.
                for checked in [false, true].into_iter().take(if torn == Torn::Some { 2 } else { 1 }) {
                    let run = || {
                        let mut device = Device::new(shape(v5));
                        device.flash().checked = checked;
                        played(device, Some((at, torn)))
                    };
                    let device = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
                        eprintln!("failed with v5 {v5}, cut at operation {at}, {torn:?}, checked: {checked}");
                        std::panic::resume_unwind(panic)
                    });
                    assert_eq!(device.cuts, 1);
                }
            }
        }
    }
}

/// Any one place of flash cannot be read, from the beginning: whatever is stored lies elsewhere.
#[test]
fn a_place_that_cannot_be_read_is_not_used() {
    let places = 6 * mock::SECTOR / 4;
    for place in (0..places).filter(|place| place % 256 < 8 || place % 5 == 0) {
        let run = || {
            let mut device = Device::new(shape(place % 2 == 0));
            device.flash().worn.insert(place);
            // And when all is written anew.
            let mut device = played(device, None);
            device.power_cut();
            for _ in 0..60 {
                device.publish(QoS::ExactlyOnce, Class::Telemetry, 60, 0);
                device.turn(4_096, true);
                device.now += 200;
            }
            device.settle();
            device.verify(true);
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            eprintln!("failed with place {place}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Any one place becomes unreadable while messages lie in flash, and the device is off then: what lies elsewhere is sent, nothing
/// is erased that is not, and the device goes on.
#[test]
fn a_place_that_becomes_unreadable_costs_one_message() {
    let places = 6 * mock::SECTOR / 4;
    let mut lost_in_all = 0;
    for place in (0..places).filter(|place| place % 256 < 8 || place % 3 == 0) {
        let run = || {
            let mut device = Device::new(shape(place % 2 == 0));
            for number in 0..20 {
                let qos = [QoS::AtLeastOnce, QoS::ExactlyOnce][number % 2];
                device.publish(qos, Class::Alarm, 60, 0);
                device.turn(4_096, false);
            }
            let stored: Vec<u32> = device.sent.values().filter(|sent| sent.stored).map(|sent| sent.number).collect();
            assert!(stored.len() >= 15, "{stored:?}");
            device.flash().worn.insert(place);
            device.power_cut();
            device.settle();
            let lost = stored.iter().filter(|number| !device.has_arrived(**number)).count();
            assert!(lost <= 1, "{lost} are lost");
            for _ in 0..60 {
                device.publish(QoS::ExactlyOnce, Class::Alarm, 60, 0);
                device.turn(4_096, true);
                device.now += 200;
            }
            device.settle();
            let later = device.sent.values().filter(|sent| !sent.cut);
            assert!(later.filter(|sent| sent.acknowledged).count() == 60, "it does not go on");
            lost
        };
        lost_in_all += catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            eprintln!("failed with place {place}");
            std::panic::resume_unwind(panic)
        });
    }
    assert!(lost_in_all > 100, "{lost_in_all}");
}

#[test]
fn a_full_flash_makes_messages_wait_and_loses_none() {
    let mut device =
        Device::new(Shape { sectors: 2, outbox: 6_000, high: 900, low: 500, in_flight_max: 16, ..shape(true) });
    device.broker.mood.withhold = true;
    for number in 0..60 {
        device.publish(QoS::ExactlyOnce, Class::Telemetry, 60, 0);
        device.turn(4_096, number > 5);
        device.now += 10;
    }
    let stored = device.sent.values().filter(|sent| sent.stored).count();
    assert!((10..30).contains(&stored), "{stored}");
    device.broker.mood.withhold = false;
    device.broker.release();
    device.settle();
    device.verify(true);
    assert!(device.sent.len() == 60 && device.sent.values().all(|sent| sent.acknowledged));
}

/// What expires while the device is off does not arrive, and is counted; the rest arrives.
#[test]
fn what_expires_while_the_device_is_off_is_dropped() {
    for v5 in [false, true] {
        let mut device = Device::new(shape(v5));
        // Enough to be in flash: every second one lives for ten seconds, the others for ten minutes.
        for number in 0..16 {
            let ttl_ms = if number % 2 == 0 { 10_000 } else { 600_000 };
            device.publish(QoS::ExactlyOnce, Class::Alarm, 60, ttl_ms);
            device.turn(4_096, false);
        }
        let stored: Vec<u32> = device.sent.values().filter(|sent| sent.stored).map(|sent| sent.number).collect();
        assert!(stored.len() >= 10, "{stored:?}");
        device.off(0, 60_000);
        device.settle();
        for number in stored {
            // Numbers begin with 1.
            assert_eq!(device.has_arrived(number), number % 2 == 0, "{number}, v5 {v5}");
        }
        let expired = device.client.counters().dropped(DropReason::Expired);
        assert!(expired >= 5, "{expired}");
    }
}

/// The power is cut when any part of CONNECT has left, with messages of QoS 2 in flight before.
#[test]
fn the_power_may_be_cut_during_connect() {
    for v5 in [false, true] {
        let mut arrive = 0;
        loop {
            let mut device = Device::new(shape(v5));
            device.broker.mood.withhold = true;
            for _ in 0..6 {
                device.publish(QoS::ExactlyOnce, Class::Telemetry, 40, 0);
                device.turn(4_096, true);
                device.now += 100;
            }
            device.broker.mood.withhold = false;
            device.power_cut();
            let mut rounds = 0;
            while device.on_the_way() == 0 {
                // No byte of it moves yet.
                device.turn(0, true);
                device.now += 50;
                rounds += 1;
                assert!(rounds < 1_000, "it does not connect");
            }
            let len = device.on_the_way();
            device.off(arrive, 500);
            device.broker.release();
            device.settle();
            device.verify(true);
            if arrive >= len {
                break;
            }
            arrive += 1;
        }
        assert!(arrive > 10, "{arrive}");
    }
}

/// Wrong readings and failed ones, none of them twice: nothing is taken for damaged, nothing that is needed is erased.
#[test]
fn what_is_read_wrongly_once_is_not_lost() {
    let mut misread = 0;
    for number in 0..60 {
        for v5 in [false, true] {
            let run = || {
                let mut device = Device::new(shape(v5));
                device.flash().misreads = Some(Seed::new(number));
                let mut device = played(device, None);
                assert!(device.sent.values().all(|sent| sent.acknowledged), "nothing is lost");
                device.flash().misread
            };
            misread += catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
                eprintln!("failed with v5 {v5}, misreadings {number}");
                std::panic::resume_unwind(panic)
            });
        }
    }
    assert!(misread > 3_000, "{misread}");
}

/// Flash that does not work any more holds the device up for a minute. What it published while flash worked and what it publishes
/// from then on arrives, and what lies in flash does when that works again.
#[test]
fn flash_that_fails_for_good_is_done_without() {
    for (v5, back) in [(false, true), (true, true), (false, false), (true, false)] {
        let mut device = Device::new(shape(v5));
        device.unreadable = true;
        for round in 0..18 {
            device.publish([QoS::AtLeastOnce, QoS::ExactlyOnce][round % 2], Class::Telemetry, 60, 0);
            device.turn(4_096, false);
        }
        let away = device.client.counters().spilled;
        assert!(away > 0, "some are only in flash");
        device.flash().broken = true;
        device.publish(QoS::ExactlyOnce, Class::Alarm, 20, 0);
        let alarm = device.sent.len() as u32;
        let begun = device.now;
        while !device.has_arrived(alarm) {
            device.turn(4_096, true);
            device.now += 200;
            assert!(device.now - begun < 100_000, "v5 {v5}: the alarm does not arrive");
        }
        let failed = device.tier.as_ref().unwrap().has_failed();
        assert!(failed && device.now - begun >= 60_000, "v5 {v5}: it was sent without being stored");
        for _ in 0..40 {
            device.publish(QoS::ExactlyOnce, Class::State, 20, 0);
            for _ in 0..10 {
                device.turn(4_096, true);
                device.now += 200;
            }
        }
        let published = device.sent.len() as u32;
        assert!((alarm..=published).all(|number| device.has_arrived(number)), "v5 {v5}");
        assert_eq!(device.client.counters().spilled, away, "what is in flash is not given up");
        if back {
            device.flash().broken = false;
            for _ in 0..100 {
                device.turn(4_096, true);
                device.now += 200;
            }
            assert!(!device.tier.as_ref().unwrap().has_failed(), "v5 {v5}: it is used again");
            device.settle();
            device.verify(false);
            assert!(device.sent.values().all(|sent| sent.acknowledged), "v5 {v5}");
        }
    }
}

fn run(number: u64) {
    let mut seed = Seed::new(number);
    let shape = Shape {
        v5: seed.below(2) == 0,
        sectors: 3 + seed.below(4) as u32,
        outbox: 1_000 + seed.below(1_500),
        high: 400 + seed.below(400) as u32,
        low: 100 + seed.below(300) as u32,
        safe: [true, seed.below(2) == 0, false, false],
        in_flight_max: [1, 2, 8, 40][seed.below(4)],
    };
    let mut device = Device::new(shape);
    if number.is_multiple_of(2) {
        device.unreadable = true;
        device.flash().misreads = Some(Seed::new(number));
    }
    for _ in 0..400 {
        device.disturb(&mut seed);
        let reachable = seed.below(4) > 0;
        device.turn(1 + seed.below(300), reachable);
        device.now += 1 + seed.below(300) as u64;
        device.flash().torn = [Torn::Nothing, Torn::Some, Torn::All][seed.below(3)];
    }
    device.broker.mood = broker::Mood::default();
    device.flash().left = None;
    device.flash().outage = 0;
    device.settle();
    // What was refused for now may be overtaken by what was already on its way.
    device.verify(device.broker.no_room == 0);
    assert!(device.broker.is_subscribed("down/#"));
}

#[test]
fn anything_may_happen_and_what_is_stored_arrives() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let range = match number("FOREBAY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FOREBAY_SEEDS").unwrap_or(300),
    };
    for seed in range {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("failed with FOREBAY_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
