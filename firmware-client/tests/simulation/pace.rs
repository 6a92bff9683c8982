//! How the client slows down: refusals, full queues, rates, silence.

use crate::broker::Mood;
use crate::payload::number_of;
use crate::protocol;
use crate::world::{World, options};
use forebay_firmware::{Class, Options, Order, Policy, Pressure, QoS, ReasonCode, Session};

fn world(v5: bool, change: impl FnOnce(&mut Options<'static>)) -> World {
    let options = options(|options| {
        options.protocol = protocol(v5);
        change(options);
    });
    World::new(v5, options, 4_096, 512)
}

fn run_until(world: &mut World, end: u64) {
    while world.now < end {
        for _ in 0..8 {
            world.turn(4096);
        }
        world.now = world.next_time().unwrap_or(end).clamp(world.now + 1, end);
    }
}

fn telemetry(world: &mut World) {
    assert!(world.publish(QoS::AtLeastOnce, Class::Telemetry, Policy::DropNewest, 0, 8));
}

fn taken(world: &World) -> Vec<u32> {
    world.broker.taken.iter().map(|taken| number_of(&taken.payload)).collect()
}

#[test]
fn a_busy_server_is_left_alone_for_as_long_as_it_says_and_not_much_longer() {
    let mut waits = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let mut world = world(true, |options| options.seed = seed);
        world.broker.mood.refuse = Some((0x89, Some(8_000)));
        run_until(&mut world, 1);
        world.broker.mood.refuse = None;
        run_until(&mut world, 20_000);
        let wait = world.broker.connects[1].0 - world.broker.connects[0].0;
        assert!((8_000..=10_001).contains(&wait), "{wait}");
        waits.insert(wait);
    }
    assert!(waits.len() > 30, "devices come back one after the other: {waits:?}");
}

#[test]
fn a_server_that_hangs_up_busy_is_left_alone_too() {
    let mut world = world(true, |_| {});
    run_until(&mut world, 100);
    world.broker.dismiss(0x89, Some(30_000));
    run_until(&mut world, 60_000);
    let wait = world.broker.connects[1].0 - 100;
    assert!((30_000..=37_501).contains(&wait), "{wait}");
}

/// How long it took until the fifth attempt.
fn fifth_attempt(v5: bool, refuse: Option<(u8, Option<u32>)>) -> u64 {
    let mut world = world(v5, |_| {});
    world.broker.mood.refuse = refuse;
    if refuse.is_none() {
        let mut attempts = 0;
        while attempts < 5 {
            let before = world.client.connect_at();
            world.try_connect(false);
            attempts += u64::from(world.client.connect_at() != before);
            world.now = world.client.connect_at().unwrap().max(world.now);
        }
        return world.now;
    }
    while world.broker.connects.len() < 5 {
        let next = world.now + 600_000;
        run_until(&mut world, next);
    }
    world.broker.connects[4].0
}

#[test]
fn refused_credentials_are_tried_much_more_rarely_than_a_network_that_is_away() {
    for (v5, credentials, busy) in [(true, 0x86, 0x88), (false, 4, 3), (false, 5, 3), (true, 0x87, 0x9f)] {
        let network = fifth_attempt(v5, None);
        let busy = fifth_attempt(v5, Some((busy, None)));
        let refused = fifth_attempt(v5, Some((credentials, None)));
        assert!(network >= 2_000 && network < busy && busy < refused, "{network} {busy} {refused}");
        assert!(busy >= 20_000 && refused >= 120_000);
    }
}

#[test]
fn only_a_connection_that_holds_starts_the_waits_again() {
    let mut world = world(true, |options| options.network.base_ms = 1_000);
    let mut longest = 0;
    for _ in 0..40 {
        let at = world.client.connect_at().unwrap();
        longest = longest.max(at - world.now);
        world.now = at;
        world.turn(4096);
        world.turn(4096);
        world.now += 5_000;
        world.cut();
    }
    assert!(longest > 50_000, "a connection that breaks at once again and again is tried less and less: {longest}");
    world.now = world.client.connect_at().unwrap();
    let end = world.now + 70_000;
    run_until(&mut world, end);
    world.cut();
    assert!(world.client.connect_at().unwrap() - world.now <= 3_000);
}

#[test]
fn a_full_queue_is_waited_for_and_order_is_kept() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut world = world(true, |options| options.in_flight_max = 4);
        run_until(&mut world, 50);
        world.broker.mood.full_until = 5_000;
        for _ in 0..10 {
            world.publish(qos, Class::Telemetry, Policy::DropNewest, 0, 8);
        }
        run_until(&mut world, 4_999);
        assert!(world.postponed >= 1 && taken(&world).is_empty());
        assert!(
            world.broker.no_room <= 3,
            "what was on its way is refused, and then nothing is sent: {}",
            world.broker.no_room
        );
        run_until(&mut world, 20_000);
        assert_eq!(taken(&world), (1..=10).collect::<Vec<_>>());
        assert!(world.broker.taken.iter().all(|taken| taken.at >= 5_000));
        world.verify(true, true);
    }
}

#[test]
fn one_class_waits_and_the_others_go_on() {
    let mut world = world(true, |_| {});
    run_until(&mut world, 50);
    world.broker.mood.full_until = 5_000;
    telemetry(&mut world);
    run_until(&mut world, 100);
    world.broker.mood.full_until = 0;
    telemetry(&mut world);
    world.publish(QoS::AtLeastOnce, Class::Alarm, Policy::DropNewest, 0, 8);
    run_until(&mut world, 4_000);
    assert_eq!(taken(&world), [3]);
    run_until(&mut world, 10_000);
    assert_eq!(taken(&world), [3, 1, 2]);
}

#[test]
fn the_rate_is_kept_and_a_pause_is_worth_a_burst() {
    let mut world = world(true, |options| {
        options.rate_per_s = 10;
        options.burst = 5;
    });
    run_until(&mut world, 10_000);
    for _ in 0..30 {
        telemetry(&mut world);
    }
    run_until(&mut world, 20_000);
    let times: Vec<u64> = world.broker.taken.iter().map(|taken| taken.at - 10_000).collect();
    assert_eq!(times.len(), 30);
    assert!(times[4] <= 5 && times[5] >= 95, "{times:?}");
    for (at, time) in times.iter().enumerate().skip(5) {
        let expected = (at as u64 - 4) * 100;
        assert!((expected - 5..expected + 20).contains(time), "{at}: {time}");
    }
}

#[test]
fn the_window_is_kept_and_its_last_place_is_for_alarms() {
    let mut world = world(true, |options| options.in_flight_max = 4);
    world.broker.mood.withhold = true;
    run_until(&mut world, 50);
    for _ in 0..10 {
        telemetry(&mut world);
    }
    run_until(&mut world, 1_000);
    assert_eq!(taken(&world), [1, 2, 3]);
    world.publish(QoS::AtLeastOnce, Class::Alarm, Policy::DropNewest, 0, 8);
    world.publish(QoS::AtLeastOnce, Class::Alarm, Policy::DropNewest, 0, 8);
    run_until(&mut world, 2_000);
    assert_eq!(taken(&world), [1, 2, 3, 11]);
    world.broker.mood.withhold = false;
    world.broker.release();
    run_until(&mut world, 3_000);
    assert_eq!(taken(&world), [1, 2, 3, 11, 12, 4, 5, 6, 7, 8, 9, 10]);
}

#[test]
fn live_goes_before_the_backlog_when_asked_to() {
    for order in [Order::Published, Order::LiveFirst] {
        let mut world = world(true, |options| {
            options.order = order;
            options.rate_per_s = 10;
        });
        for _ in 0..5 {
            telemetry(&mut world);
        }
        run_until(&mut world, 150);
        let before = taken(&world).len() as u32;
        telemetry(&mut world);
        telemetry(&mut world);
        run_until(&mut world, 5_000);
        let arrived = taken(&world);
        assert_eq!(arrived.len(), 7);
        let expected: Vec<u32> = match order {
            Order::Published => (1..=7).collect(),
            Order::LiveFirst => (1..=before).chain([6, 7]).chain(before + 1..=5).collect(),
        };
        assert_eq!(arrived, expected);
    }
}

#[test]
fn a_silent_server_is_asked_and_then_left() {
    for v5 in [false, true] {
        let mut world = world(v5, |options| options.response_timeout_ms = 5_000);
        run_until(&mut world, 1_000);
        assert!(world.client.is_connected());
        // Nothing arrives any more, and nobody says so.
        world.link.as_mut().unwrap().dead = true;
        telemetry(&mut world);
        run_until(&mut world, 10_900);
        assert!(world.link.is_some());
        run_until(&mut world, 11_200);
        assert_eq!(world.faults, [ReasonCode::KeepAliveTimeout]);
        run_until(&mut world, 20_000);
        assert_eq!(taken(&world), [1], "and it arrives on the next connection");
    }
}

#[test]
fn a_server_that_never_answers_connect_is_left() {
    let mut world = world(true, |options| options.response_timeout_ms = 5_000);
    world.broker.mood.silent = true;
    run_until(&mut world, 4_900);
    assert!(world.link.is_some());
    run_until(&mut world, 5_100);
    assert_eq!(world.faults, [ReasonCode::KeepAliveTimeout]);
}

#[test]
fn an_idle_connection_is_kept_alive_and_so_is_one_that_only_sends() {
    for (v5, server_says) in [(false, None), (true, None), (true, Some(10u16))] {
        let mut world = world(v5, |options| options.keep_alive_s = 20);
        if let Some(seconds) = server_says {
            let seconds = seconds.to_be_bytes();
            world.broker.mood.properties = vec![0x13, seconds[0], seconds[1]];
        }
        let keep_alive = u64::from(server_says.unwrap_or(20)) * 1_000;
        run_until(&mut world, 10 * keep_alive);
        let idle = world.broker.pings;
        assert!((11..=14).contains(&idle), "{idle}");
        // QoS 0 is answered by nobody, so the server is asked as often as it would hear from an idle device.
        let end = world.now + 10 * keep_alive;
        while world.now < end {
            world.publish(QoS::AtMostOnce, Class::Telemetry, Policy::DropOldest, 0, 8);
            let next = world.now + 500;
            run_until(&mut world, next);
        }
        let sending = world.broker.pings - idle;
        assert!((9..=12).contains(&sending), "{sending}");
        assert!(world.faults.is_empty());
    }
}

/// A link that takes ten bytes in 100 ms, and a server that has no client any more after one and a half keep alives.
fn crawl(world: &mut World, end: u64) {
    while world.now < end {
        world.turn(10);
        world.now += 100;
        let silent = world.now - world.broker.heard_at;
        assert!(silent <= u64::from(world.broker.keep_alive_s) * 1_500, "silent for {silent} ms");
    }
}

/// A world in which a message of 300 seconds is on its way.
fn slow(v5: bool, change: impl FnOnce(&mut Options<'static>)) -> World {
    slow_into(world(v5, change))
}

fn slow_into(mut world: World) -> World {
    world.client.subscribe("down/#", QoS::AtLeastOnce).unwrap();
    world.settle();
    assert!(world.broker.send(1, crate::payload::payload(1, 30_000), QoS::AtLeastOnce));
    world
}

/// The answers to what asks for one lie behind the message.
#[test]
fn a_message_that_takes_minutes_to_come_is_not_the_end_of_its_connection() {
    for v5 in [false, true] {
        let mut world = slow(v5, |_| {});
        let end = world.now + 320_000;
        crawl(&mut world, end);
        assert_eq!((&world.received[..], world.sessions.len()), (&[(1, QoS::AtLeastOnce)][..], 1));
        assert!(world.faults.is_empty() && world.client.is_drained());
        assert!((5..=8).contains(&world.broker.pings), "{}", world.broker.pings);
    }
}

/// The buffer has room for all of it, so nothing is told before it is complete; meanwhile the server owes an answer.
#[test]
fn a_message_that_takes_minutes_to_come_in_one_piece_is_a_sign_of_life() {
    let mut world = slow_into(World::new(true, options(|_| {}), 4_096, 40_000));
    telemetry(&mut world);
    let end = world.now + 320_000;
    crawl(&mut world, end);
    assert_eq!((&world.received[..], world.sessions.len()), (&[(1, QoS::AtLeastOnce)][..], 1));
    assert!(world.faults.is_empty() && world.client.is_drained());
}

#[test]
fn a_server_that_dies_while_a_message_comes_is_left() {
    let mut world = slow(true, |_| {});
    let end = world.now + 130_000;
    crawl(&mut world, end);
    world.link.as_mut().unwrap().dead = true;
    run_until(&mut world, end + 9_000);
    assert!(world.faults.is_empty());
    run_until(&mut world, end + 11_000);
    assert_eq!(world.faults, [ReasonCode::KeepAliveTimeout]);
}

/// However often it is asked, its time begins with the first question.
#[test]
fn a_server_that_is_asked_again_has_no_more_time_to_answer() {
    let mut world = world(true, |options| (options.keep_alive_s, options.response_timeout_ms) = (20, 60_000));
    run_until(&mut world, 1_000);
    world.link.as_mut().unwrap().dead = true;
    run_until(&mut world, 74_000);
    assert!(world.faults.is_empty());
    run_until(&mut world, 77_000);
    assert_eq!(world.faults, [ReasonCode::KeepAliveTimeout]);
}

#[test]
fn a_withheld_acknowledgement_is_no_dead_server() {
    let mut world = world(false, |options| options.response_timeout_ms = 2_000);
    run_until(&mut world, 100);
    world.broker.mood.withhold = true;
    telemetry(&mut world);
    run_until(&mut world, 300_000);
    assert!(world.faults.is_empty() && world.broker.pings > 0);
    assert_eq!(taken(&world), [1], "and nothing is sent again on a live connection");
    world.broker.mood.withhold = false;
    world.broker.release();
    run_until(&mut world, 300_100);
    assert!(world.client.is_drained());
}

#[test]
fn pressure_follows_the_outbox_and_the_server() {
    let mut world = world(true, |_| {});
    assert_eq!(world.client.pressure(), Pressure::Normal);
    let mut seen = vec![Pressure::Normal];
    while world.publish(QoS::AtLeastOnce, Class::Telemetry, Policy::DropNewest, 0, 40) {
        if seen.last() != Some(&world.client.pressure()) {
            seen.push(world.client.pressure());
            let (used, capacity) = world.client.fill();
            let share = [0, 5, 7][seen.len() - 1] * capacity / 8;
            assert!(used >= share && used < share + 100);
        }
    }
    assert_eq!(seen, [Pressure::Normal, Pressure::High, Pressure::Critical]);
    world.settle();
    assert_eq!(world.client.pressure(), Pressure::Normal);

    let mut body = Vec::new();
    crate::broker::field(&mut body, b"$SYS/broker/pressure");
    body.push(0);
    let link = world.link.as_mut().unwrap();
    link.down.extend(crate::broker::packet(0x31, &[&body[..], b"critical"].concat()));
    world.sessions.clear();
    world.turn(4096);
    assert_eq!(world.client.pressure(), Pressure::Critical);
    telemetry(&mut world);
    world.publish(QoS::AtLeastOnce, Class::Alarm, Policy::DropNewest, 0, 8);
    let (before, end) = (world.broker.taken.len(), world.now + 20_000);
    run_until(&mut world, end);
    assert_eq!(world.broker.taken.len(), before + 1, "alarms only");
    world.link.as_mut().unwrap().down.extend(crate::broker::packet(0x31, &[&body[..], b"normal"].concat()));
    world.settle();
    assert_eq!(world.broker.taken.len(), before + 2);
}

#[test]
fn a_session_of_3_1_1_begins_with_a_clean_one() {
    let mut world = world(false, |_| {});
    world.settle();
    let connects: Vec<bool> = world.broker.connects.iter().map(|(_, clean)| *clean).collect();
    assert_eq!(connects, [true, false]);
    assert_eq!(world.broker.connects[0].0, world.broker.connects[1].0, "without a wait");
    assert_eq!(world.sessions, [Session::New]);
    world.broker.mood = Mood { forget: true, ..Mood::default() };
    world.cut();
    world.settle();
    assert_eq!(world.sessions, [Session::New, Session::Lost]);
    world.cut();
    world.settle();
    assert_eq!(world.sessions, [Session::New, Session::Lost, Session::Resumed]);
}
