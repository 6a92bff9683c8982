//! A declared queue with an order and priorities, and a stream with a reader, beside sessions of their own: members that come and go, a
//! broker that crashes, commits that fail.

use std::collections::{BTreeMap, BTreeSet};

use forebay::config;

use crate::client::Taken;
use crate::shared::publish_to_own;
use crate::world::World;
use crate::{DRAIN_TURNS, calm_turn, client, everybody_is_there, seeds, turn};

/// What the broker is configured with.
pub(crate) fn declared() -> config::Config {
    let text = "[[queues]]\nname = \"work\"\nfilter = \"t/#\"\norder_by = \"topic\"\nwindow = 8\nack_timeout = \"1s\"\n\
                priority_levels = 3\n[[queues.priorities]]\nfilter = \"t/+/2\"\npriority = 31\n\
                [[streams]]\nname = \"log\"\nfilter = \"t/#\"\n";
    config::parse(text, std::path::Path::new("simulated"), &config::Overrides::default()).unwrap()
}

fn play(world: &mut World) {
    everybody_is_there(world);
    let mut next = 0;
    for _ in 0..400 {
        turn(world, &mut next);
        if world.seed.one_in(15) {
            publish_to_own(world);
        }
    }
    world.note("calm from here on");
    for _ in 0..DRAIN_TURNS {
        calm_turn(world);
        if world.clients.iter().all(client::Client::idle) && world.broker().ledger().1 == 0 {
            break;
        }
    }
    // What a reader has not read yet is in nobody's queue.
    let read = |world: &World| world.clients.iter().map(|client| client.taken.len()).sum::<usize>();
    let (mut before, mut still) = (read(world), 0);
    while still < 40 {
        calm_turn(world);
        let now = read(world);
        still = if now == before { still + 1 } else { 0 };
        before = now;
    }
    check(world);
}

fn check(world: &World) {
    assert_eq!(world.broker().ledger().1, 0, "something is queued still");
    let acknowledged: Vec<&Taken> = world.clients.iter().flat_map(|client| &client.acknowledged).collect();
    let (readers, members): (Vec<_>, Vec<_>) =
        world.clients.iter().filter(|client| !client.plan.filters.is_empty()).partition(|c| c.plan.name == "reader");
    let of = |client: &client::Client| -> Vec<(String, u32)> {
        let own = format!("own/{}", client.plan.name);
        let others = client.taken.iter().filter(|(topic, ..)| *topic != own);
        others.map(|(topic, number, _)| (topic.clone(), *number)).collect()
    };
    let consumed: BTreeSet<(String, u32)> = members.iter().flat_map(|client| of(client)).collect();
    let read = of(readers[0]);
    let known: BTreeSet<&(String, u32)> = read.iter().collect();
    for (topic, number, qos) in acknowledged {
        let message = (topic.clone(), *number);
        assert!(consumed.contains(&message), "{topic} {number} of QoS {qos} is lost to the queue");
        assert!(known.contains(&message), "{topic} {number} of QoS {qos} is lost to the stream");
    }
    check_keys(world);
    // A reader may read something again, but what it reads for the first time is in order.
    let repeated: BTreeSet<u32> = world.clients.iter().flat_map(|client| client.repeated.iter().copied()).collect();
    let mut last: BTreeMap<&str, u32> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (topic, number) in read.iter().filter(|(_, number)| !repeated.contains(number)) {
        if seen.insert((topic, number)) {
            let before = last.insert(topic, *number);
            assert!(before.is_none_or(|before| before < *number), "{topic} {number} is read behind {before:?}");
        }
    }
}

/// A message of a key is lent when the one before it is acknowledged, and not before: so within one life of the broker nothing
/// comes behind a later message of its topic, whoever the members are, whatever they did not acknowledge, and whether it was in
/// memory or read from disk. A crash may show something again, with all that is behind it.
fn check_keys(world: &World) {
    let repeated: BTreeSet<u32> = world.clients.iter().flat_map(|client| client.repeated.iter().copied()).collect();
    let is_member = |at: usize| world.clients[at].plan.filters.iter().any(|(filter, _)| filter == "$queue/work");
    for (life, arrivals) in world.arrivals.iter().enumerate() {
        let mut last: BTreeMap<&str, u32> = BTreeMap::new();
        for (at, (topic, number, _)) in
            arrivals.iter().filter(|(at, (topic, ..))| is_member(*at) && topic.starts_with("t/"))
        {
            // A publisher that was refused publishes the message again, behind later ones.
            if repeated.contains(number) {
                continue;
            }
            let before = last.insert(topic, *number);
            let name = &world.clients[*at].plan.name;
            assert!(
                before.is_none_or(|before| before <= *number),
                "life {life}: {topic} {number} comes to {name} behind {before:?}, though its key was in flight"
            );
        }
    }
}

#[test]
fn what_is_acknowledged_is_consumed_and_read() {
    for seed in seeds().step_by(3) {
        crate::run(World::with_queues(seed), play, seed);
    }
}

#[test]
fn what_is_acknowledged_is_consumed_and_read_from_the_journal_and_redb() {
    for seed in seeds().step_by(30) {
        crate::run(World::with_queues(seed).on_a_journal(), play, seed);
    }
}
