//! Two shared subscriptions to the same topics, with members in both, whose sessions end: by DISCONNECT, by a clean start, by
//! their time; with messages in memory, in flight, on disk and on their way to another member; while no member has room; with
//! crashes at any moment. One member stays in both, so whatever was acknowledged has somebody to go to in each of them.

use std::collections::BTreeMap;

use forebay::store::StoredSubscription;

use crate::client::Taken;
use crate::shared::{end_one, nothing_is_left};
use crate::world::World;
use crate::{DRAIN_TURNS, calm_turn, client, everybody_is_there, seeds, turn};

/// The groups, by the subscription identifier of the clients that are in both.
const GROUPS: [&str; 2] = ["$share/g/t/#", "$share/h/t/#"];

/// A member leaves a group and comes back, while messages of it are in its queue.
fn leave_and_join(world: &World, at: usize) {
    let (broker, plan) = (world.broker(), &world.clients[at].plan);
    let Some(slot) = broker.all_slots().into_iter().find(|slot| slot.look(|s| **s.client_id() == *plan.name)) else {
        return;
    };
    let there: Vec<StoredSubscription> = slot.look(|session| session.subscriptions().to_vec());
    for subscription in there {
        broker.unsubscribe(&slot, &subscription.filter);
        broker.subscribe(&slot, subscription);
    }
}

fn play(world: &mut World) {
    everybody_is_there(world);
    let (mut next, mut ends) = (0, 0);
    for _ in 0..500 {
        turn(world, &mut next);
        if world.seed.one_in(12) && world.clients.iter().any(|c| c.plan.numbered && !c.plan.lasting) {
            end_one(world, &mut ends);
            world.check_ledger();
        }
        if world.seed.one_in(20) {
            let at = usize::try_from(world.seed.below(world.clients.len() as u64)).unwrap();
            leave_and_join(world, at);
        }
    }
    world.note("calm from here on");
    for _ in 0..DRAIN_TURNS {
        calm_turn(world);
        if world.clients.iter().all(client::Client::idle) && world.broker().ledger().1 == 0 {
            break;
        }
    }
    for _ in 0..3 {
        calm_turn(world);
    }
    for client in &world.clients {
        assert!(client.idle(), "{}: an ack has never left: {client:?}", client.plan.name);
    }
    check(world, ends);
    nothing_is_left(world);
}

/// What each group was given: how often each message.
fn times(world: &World) -> [BTreeMap<(&str, u32), u32>; 2] {
    let mut times = [BTreeMap::new(), BTreeMap::new()];
    for client in &world.clients {
        for ((topic, number, _), through) in client.taken.iter().zip(&client.through) {
            let filter = &client.plan.filters[usize::try_from(through.unwrap() - 1).unwrap()].0;
            let group = GROUPS.iter().position(|group| group == filter).unwrap();
            *times[group].entry((topic.as_str(), *number)).or_default() += 1;
        }
    }
    times
}

fn check(world: &World, ends: u64) {
    let exactly_once = world.clients.iter().all(|c| c.plan.filters.iter().all(|(_, qos)| *qos == 2));
    let acknowledged: Vec<&Taken> = world.clients.iter().flat_map(|c| &c.acknowledged).collect();
    let mut cut_short = 0;
    for (times, group) in times(world).iter().zip(GROUPS) {
        for (topic, number, qos) in &acknowledged {
            let times = times.get(&(topic.as_str(), *number)).copied().unwrap_or(0);
            // What was sent at QoS 2 when a session ended may have arrived or not, and goes to nobody else.
            cut_short += u64::from(times == 0 && *qos == 2);
            assert!(times > 0 || *qos == 2, "{group}: {topic} {number} of QoS {qos} is lost");
            let once = *qos == 2 && exactly_once;
            assert!(times <= 1 || !once, "{group}: {topic} {number} came {times} times at QoS 2");
        }
    }
    // After a crash as many more may have been promised to the one that ended as it may have in flight.
    let most = if world.crashes == 0 { ends } else { 2 * ends };
    assert!(cut_short <= most, "{cut_short} of QoS 2 are missing, {most} can have been in flight");
}

#[test]
fn what_a_dead_member_had_of_two_groups_goes_to_each_once() {
    for seed in seeds().step_by(3) {
        crate::run(World::with_two_groups(seed), play, seed);
    }
}

#[test]
fn what_a_dead_member_had_of_two_groups_goes_to_each_from_the_journal_and_redb() {
    for seed in seeds().step_by(30) {
        crate::run(World::with_two_groups(seed).on_a_journal(), play, seed);
    }
}
