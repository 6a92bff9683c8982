//! Members of a shared subscription whose sessions end, with messages in memory, in flight and on disk: by DISCONNECT, by a
//! clean start, by their time. One of them stays, so whatever was acknowledged has somebody to go to.

use std::collections::BTreeMap;

use crate::client::{SHORT_EXPIRY_S, Taken};
use crate::world::World;
use crate::{DRAIN_TURNS, calm_turn, client, everybody_is_there, seeds, turn};

/// Ends the session of a member: of one that is there, or of one that is away.
pub(crate) fn end_one(world: &mut World, ends: &mut u64) {
    let mortal: Vec<usize> = (0..world.clients.len()).filter(|at| !world.clients[*at].plan.lasting).collect();
    let at = mortal[usize::try_from(world.seed.below(mortal.len() as u64)).unwrap()];
    let name = world.clients[at].plan.name.clone();
    match world.seed.below(3) {
        0 if world.clients[at].greeted => {
            world.note(format!("{name} ends its session"));
            world.clients[at].end();
            world.carry(at, 4096);
            *ends += window(world, at);
        }
        1 => {
            world.note("all but the first stay away for longer than their sessions last");
            for at in &mortal {
                world.clients[*at].cut();
                world.clients[*at].begin_anew();
                *ends += window(world, *at);
            }
            world.run(10);
            world.advance(u64::from(SHORT_EXPIRY_S) * 1000);
        }
        _ => {
            world.note(format!("{name} begins anew"));
            world.clients[at].begin_anew();
            world.connect(at);
            *ends += window(world, at);
        }
    }
}

/// Messages that may be in flight to the client.
fn window(world: &World, at: usize) -> u64 {
    let plan = &world.clients[at].plan;
    u64::from(plan.receive_maximum.min(world.config.limits.max_inflight))
}

pub(crate) fn publish_to_own(world: &World) {
    // For one member alone: it ends with its session, and is for nobody else.
    let broker = world.broker();
    for client in world.clients.iter().filter(|c| !c.plan.filters.is_empty()) {
        let topic = format!("own/{}", client.plan.name);
        let parts = forebay::message::Parts {
            topic: &topic,
            properties: &[],
            payload: &[0, 0, 0, 0],
            qos: 1,
            retain: false,
            expires_at: None,
            accepted_at: broker.clock.now(),
        };
        let message = std::sync::Arc::new(forebay::message::Message::new(&parts, None));
        broker.publish(&message, false, forebay::session::Durability::Interval, None);
    }
}

fn play(world: &mut World) {
    everybody_is_there(world);
    let (mut next, mut ends) = (0, 0);
    for _ in 0..500 {
        turn(world, &mut next);
        if world.seed.one_in(12) {
            end_one(world, &mut ends);
            world.check_ledger();
        }
        if world.seed.one_in(20) {
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
    for _ in 0..3 {
        calm_turn(world);
    }
    check(world, ends);
}

fn check(world: &World, ends: u64) {
    let mut times: BTreeMap<(&str, u32), u32> = BTreeMap::new();
    for client in &world.clients {
        for (topic, number, _) in &client.taken {
            let own = topic.strip_prefix("own/");
            assert!(own.is_none_or(|own| own == client.plan.name), "{} was given {topic}", client.plan.name);
            *times.entry((topic, *number)).or_default() += 1;
        }
    }
    let everywhere_qos2 = world.clients.iter().all(|c| c.plan.filters.iter().all(|(_, qos)| *qos == 2));
    let acknowledged: Vec<&Taken> = world.clients.iter().flat_map(|c| &c.acknowledged).collect();
    let mut cut_short = 0;
    for (topic, number, qos) in acknowledged {
        let times = times.get(&(topic.as_str(), *number)).copied().unwrap_or(0);
        // What was sent at QoS 2 when a session ended may have arrived or not, and goes to nobody else.
        cut_short += u64::from(times == 0 && *qos == 2);
        assert!(times > 0 || *qos == 2, "{topic} {number} of QoS {qos} is lost");
        let once = *qos == 2 && everywhere_qos2;
        assert!(times <= 1 || !once, "{topic} {number} came {times} times at QoS 2");
    }
    // After a crash as many more may have been promised to the one that ended as it may have in flight.
    let most = if world.crashes == 0 { ends } else { 2 * ends };
    assert!(cut_short <= most, "{cut_short} of QoS 2 are missing, {most} can have been in flight");
    nothing_is_left(world);
}

/// Neither a message that waits, nor a session that has ended.
pub(crate) fn nothing_is_left(world: &World) {
    assert_eq!(world.broker().ledger().1, 0, "something is queued still");
    let (found, reader) = world.disk.found();
    let sessions = found.sessions;
    for session in &sessions {
        let rows = reader.page(session.no, 0, usize::MAX, usize::MAX).unwrap();
        assert!(rows.is_empty(), "rows left in the store: {rows:?}");
    }
    let mut names = std::collections::BTreeSet::new();
    for record in sessions.iter().filter_map(|session| session.record.as_ref()) {
        let only = names.insert(record.client_id.as_str()) && record.expiry_s > 0;
        assert!(only, "a session that has ended is in the store still: {record:?}");
    }
}

#[test]
fn what_a_dead_member_had_goes_to_others_once() {
    // A third of them: each run is longer than the others'.
    for seed in seeds().step_by(3) {
        crate::run(World::with_group(seed), play, seed);
    }
}

#[test]
fn what_a_dead_member_had_goes_to_others_from_the_journal_and_redb() {
    for seed in seeds().step_by(30) {
        crate::run(World::with_group(seed).on_a_journal(), play, seed);
    }
}
