//! What full queues drop, and what nobody wants, is a dead letter: clients that come and go, a broker that crashes, commits
//! that fail. Each acknowledged message is where it was to go, or among the dead letters, and those hold it once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use forebay::config;

use crate::world::World;
use crate::{DRAIN_TURNS, calm_turn, client, everybody_is_there, seeds, turn};

/// What the broker is configured with: nobody takes from the queue, so that it is full.
pub(crate) fn configured() -> config::Config {
    let text = "[[queues]]\nname = \"work\"\nfilter = \"t/#\"\nmax_messages = 7\npolicy = \"drop-oldest\"\n\
                dead_letters = [\"full\"]\n\
                [[dead_letters]]\nname = \"kept\"\nclients = \"s*\"\n\
                [[dead_letters]]\nname = \"lost\"\nreasons = [\"undeliverable\"]\n";
    config::parse(text, std::path::Path::new("simulated"), &config::Overrides::default()).unwrap()
}

fn play(world: &mut World) {
    everybody_is_there(world);
    let mut next = 0;
    for _ in 0..400 {
        turn(world, &mut next);
        if world.seed.one_in(10) {
            publish_to_nobody(world, &mut next);
        }
    }
    world.note("calm from here on");
    let mut still = 0;
    for _ in 0..DRAIN_TURNS {
        calm_turn(world);
        let idle = world.clients.iter().all(client::Client::idle);
        still = if idle { still + 1 } else { 0 };
        if still > 40 {
            break;
        }
    }
    world.crash();
    calm_turn(world);
    for (found, more) in FOUND.iter().zip(check(world)) {
        found.fetch_add(more, Ordering::Relaxed);
    }
}

/// Dead letters that all worlds had.
static FOUND: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];

fn publish_to_nobody(world: &mut World, next: &mut u32) {
    let publishers: Vec<usize> =
        (0..world.clients.len()).filter(|at| world.clients[*at].plan.filters.is_empty()).collect();
    let at = publishers[usize::try_from(world.seed.below(publishers.len() as u64)).unwrap()];
    if world.clients[at].outbox.len() <= 20 {
        let qos = 1 + u8::try_from(world.seed.below(2)).unwrap();
        *next += 1;
        world.clients[at].publish(&format!("nobody/{qos}"), *next, qos);
    }
}

/// What a queue of the broker's own has on disk: how often each number is there.
fn stored(world: &World, client_id: &str) -> BTreeMap<u32, u32> {
    let (found, reader) = world.disk.found();
    let is_it = |record: &forebay::store::SessionRecord| record.client_id == client_id;
    let session = found.sessions.iter().find(|session| session.record.as_ref().is_some_and(is_it)).unwrap();
    let mut numbers: BTreeMap<u32, u32> = BTreeMap::new();
    let state = &session.state;
    let over = |seq: u64| seq < state.floor || state.done.iter().any(|(from, to)| (*from..*to).contains(&seq));
    let rows = reader.page(session.no, 0, usize::MAX, usize::MAX).unwrap();
    for entry in rows.into_iter().filter(|entry| !over(entry.seq)) {
        *numbers.entry(u32::from_be_bytes(entry.message.payload().try_into().unwrap())).or_default() += 1;
    }
    assert_eq!(
        u64::from(numbers.values().sum::<u32>()),
        session.state.queued,
        "{client_id}: what is stored is counted"
    );
    numbers
}

/// Returns how many dead letters there are of each kind.
fn check(world: &World) -> [usize; 3] {
    let repeated: BTreeSet<u32> = world.clients.iter().flat_map(|client| client.repeated.iter().copied()).collect();
    let [work, dead_of_work, kept, lost] =
        ["$queue/work", "$dead/work", "$dead/kept", "$dead/lost"].map(|client_id| stored(world, client_id));
    for (name, all) in [("work", &dead_of_work), ("kept", &kept), ("lost", &lost)] {
        let twice = all.iter().find(|(number, times)| **times > 1 && !repeated.contains(number));
        assert_eq!(twice, None, "a dead letter of {name} is there more than once");
    }
    let both = work.keys().find(|number| dead_of_work.contains_key(number) && !repeated.contains(number));
    assert_eq!(both, None, "a message is in the queue, and among its dead letters");
    let subscriber = world.clients.iter().find(|client| client.plan.name == "s0").unwrap();
    let taken: BTreeMap<u32, u8> = subscriber.taken.iter().map(|(_, number, qos)| (*number, *qos)).collect();
    for (topic, number, qos) in world.clients.iter().flat_map(|client| &client.acknowledged) {
        if topic.starts_with("nobody/") {
            assert!(lost.contains_key(number), "{topic} {number} of QoS {qos} is lost");
            continue;
        }
        let in_work = work.contains_key(number) || dead_of_work.contains_key(number);
        assert!(in_work, "{topic} {number} of QoS {qos} is lost to the queue");
        let died = kept.contains_key(number);
        assert!(died || taken.contains_key(number), "{topic} {number} of QoS {qos} is lost to its subscriber");
        // What is exactly once is not there a second time as a dead letter.
        let twice = died && taken.get(number) == Some(&2) && !repeated.contains(number);
        assert!(!twice, "{topic} {number} of QoS 2 has come, and is a dead letter");
    }
    [&dead_of_work, &kept, &lost].map(BTreeMap::len)
}

#[test]
fn what_is_dropped_is_a_dead_letter_once() {
    for seed in seeds().step_by(3) {
        crate::run(World::with_dead_letters(seed), play, seed);
    }
    assert!(FOUND.iter().all(|found| found.load(Ordering::Relaxed) > 0), "too little has happened: {FOUND:?}");
}
