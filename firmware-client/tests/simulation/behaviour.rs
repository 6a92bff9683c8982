//! The outbox, message by message.

use crate::payload::{number_of, payload};
use crate::protocol;
use crate::world::{World, options};
use forebay_firmware::{
    Class, Client, DropReason, Input, Message, Options, Policy, PublishError, PublishProperty, QoS, Status, Ticket,
};

fn world(v5: bool, outbox: usize, change: impl FnOnce(&mut Options<'static>)) -> World {
    let options = options(|options| {
        options.protocol = protocol(v5);
        change(options);
    });
    World::new(v5, options, outbox, 512)
}

fn taken(world: &World) -> Vec<u32> {
    world.broker.taken.iter().map(|taken| number_of(&taken.payload)).collect()
}

/// Bytes of a message of [`World::publish`] with a payload of 8.
const RECORD: usize = 32;

#[test]
fn telemetry_never_evicts_alarms_and_has_its_own_share() {
    let mut world = world(true, 20 * RECORD, |options| {
        let share = RECORD as u32;
        options.reserve = [4 * share, 0, 2 * share, 0];
    });
    // Telemetry takes all but the share of alarms, and goes on with the newest.
    for _ in 0..50 {
        assert!(world.publish(QoS::AtLeastOnce, Class::Telemetry, Policy::DropOldest, 0, 8));
    }
    assert_eq!(world.client.pending(), 16);
    for _ in 0..4 {
        assert!(world.publish(QoS::AtLeastOnce, Class::Alarm, Policy::DropNewest, 0, 8));
    }
    assert!(!world.publish(QoS::AtLeastOnce, Class::Alarm, Policy::DropOldest, 0, 200), "alarms do not evict others");
    for _ in 0..50 {
        assert!(world.publish(QoS::AtLeastOnce, Class::Telemetry, Policy::DropOldest, 0, 8));
    }
    assert!(!world.publish(QoS::AtLeastOnce, Class::Bulk, Policy::DropOldest, 0, 8), "nothing is left for it");
    assert_eq!(world.client.counters().dropped(DropReason::Full), 2);
    assert_eq!(world.client.counters().dropped(DropReason::Evicted), 84);
    world.settle();
    let expected: Vec<u32> = (51..=54).chain(90..=105).filter(|number| *number != 55).collect();
    assert_eq!(taken(&world), expected, "alarms first, then the newest telemetry in order");
}

#[test]
fn a_message_that_can_never_fit_evicts_nobody() {
    let mut world = world(true, 10 * RECORD, |options| options.reserve = [RECORD as u32, 0, 0, 0]);
    for _ in 0..5 {
        world.publish(QoS::AtLeastOnce, Class::Telemetry, Policy::DropOldest, 0, 8);
    }
    let message = Message::new("up/0");
    assert_eq!(world.client.publish(0, &message, &[0; 300]), Err(PublishError::TooLarge));
    assert_eq!(world.client.pending(), 5);
    for bad in ["", "a/+", "#"] {
        assert_eq!(world.client.publish(0, &Message::new(bad), b""), Err(PublishError::Topic));
    }
    assert_eq!(world.client.subscribe("a#", QoS::AtMostOnce), Err(PublishError::Topic));
}

#[test]
fn policies() {
    let mut world = world(true, 4 * RECORD, |_| {});
    // Numbers 1 to 4 fill it; topics are up/1 to up/4.
    for _ in 0..4 {
        assert!(world.publish(QoS::AtLeastOnce, Class::Telemetry, Policy::DropNewest, 0, 8));
    }
    assert!(!world.publish(QoS::AtLeastOnce, Class::Telemetry, Policy::DropNewest, 0, 8));
    // 6 has the topic of 1.
    assert!(world.publish(QoS::AtLeastOnce, Class::Telemetry, Policy::KeepLast, 0, 8));
    assert_eq!(world.sent[&1].dropped, Some(DropReason::Superseded));
    // 7 is of another class: it has nobody to replace, and no room.
    assert!(!world.publish(QoS::AtLeastOnce, Class::Bulk, Policy::KeepLast, 0, 8));
    assert!(world.publish(QoS::AtLeastOnce, Class::Telemetry, Policy::DropOldest, 0, 8));
    assert_eq!(world.sent[&2].dropped, Some(DropReason::Evicted));
    // A last value that does not fit leaves the one before where it is.
    let message = Message::new("up/3").policy(Policy::KeepLast);
    assert_eq!(world.client.publish(0, &message, &[0; 99]), Err(PublishError::Full));
    world.settle();
    assert_eq!(taken(&world), [3, 4, 6, 8]);
}

#[test]
fn what_is_being_sent_is_not_evicted() {
    let mut world = world(true, 4 * RECORD, |options| options.in_flight_max = 3);
    world.broker.mood.withhold = true;
    world.turn(4096);
    world.turn(4096);
    for _ in 0..4 {
        world.publish(QoS::ExactlyOnce, Class::Telemetry, Policy::DropOldest, 0, 8);
        world.turn(4096);
    }
    for _ in 0..4 {
        assert!(world.publish(QoS::ExactlyOnce, Class::Telemetry, Policy::DropOldest, 0, 8));
        world.turn(4096);
    }
    world.broker.mood.withhold = false;
    world.broker.release();
    world.settle();
    assert_eq!(taken(&world), [1, 2, 7, 8], "the last place of the window is for alarms");
    world.verify(true, true);
}

#[test]
fn messages_expire_offline_and_the_server_is_told_what_is_left() {
    let mut world = world(true, 2_048, |_| {});
    for ttl_ms in [0, 1_000, 60_000] {
        world.publish(QoS::AtLeastOnce, Class::Telemetry, Policy::DropNewest, ttl_ms, 8);
    }
    assert!((1_000..=1_064).contains(&world.client.next_timeout().unwrap()));
    world.now = 900;
    let mut nothing = [0; 8];
    assert_eq!(world.client.poll_transmit(900, &mut nothing), 0);
    assert_eq!(world.client.pending(), 3);
    world.now = 1_100;
    assert_eq!(world.client.poll_transmit(1_100, &mut nothing), 0);
    world.note_drops();
    assert_eq!(world.sent[&2].dropped, Some(DropReason::Expired));
    world.now = 20_000;
    world.settle();
    let left: Vec<_> = world.broker.taken.iter().map(|taken| taken.expiry_s).collect();
    assert_eq!(left, [None, Some(40)]);
}

#[test]
fn tickets_tell_what_becomes_of_a_message() {
    let mut world = world(true, 2_048, |_| {});
    let publish = |world: &mut World, qos, ttl_ms| {
        let number = world.next;
        world.publish(qos, Class::Telemetry, Policy::DropNewest, ttl_ms, 8);
        let (ticket, _) = world.by_ticket.iter().find(|(_, other)| **other == number).unwrap();
        *ticket
    };
    let one = publish(&mut world, QoS::AtLeastOnce, 0);
    let two = publish(&mut world, QoS::ExactlyOnce, 0);
    let zero = publish(&mut world, QoS::AtMostOnce, 0);
    let late = publish(&mut world, QoS::AtLeastOnce, 500);
    let back = publish(&mut world, QoS::AtLeastOnce, 0);
    assert_eq!(world.client.status(one), Status::Queued);
    assert!(world.client.cancel(back) && !world.client.cancel(back));
    assert_eq!(world.client.status(back), Status::Dropped(DropReason::Cancelled));
    world.now = 1_000;
    world.broker.mood.withhold = true;
    world.turn(4096);
    world.turn(4096);
    assert_eq!(world.client.status(late), Status::Dropped(DropReason::Expired));
    assert_eq!((world.client.status(one), world.client.status(two)), (Status::Sent, Status::Sent));
    assert_eq!(world.client.status(zero), Status::Done);
    assert!(!world.client.cancel(one) && !world.client.is_drained());
    world.broker.mood.withhold = false;
    world.broker.release();
    world.settle();
    assert_eq!((world.client.status(one), world.client.status(two)), (Status::Done, Status::Done));
}

#[test]
fn a_topic_alias_takes_the_place_of_a_topic() {
    for (aliases, aliased) in [(0, 0), (1, 3), (9, 6)] {
        let mut world = world(true, 4_096, |options| options.topic_aliases = &["up/4", "up/1"]);
        world.broker.mood.topic_aliases = aliases;
        world.settle();
        for _ in 0..20 {
            world.publish(QoS::AtMostOnce, Class::Telemetry, Policy::DropNewest, 0, 8);
        }
        world.settle();
        // A cut forgets the aliases; the model would refuse one that was not told.
        world.cut();
        world.publish(QoS::AtLeastOnce, Class::Telemetry, Policy::DropNewest, 0, 8);
        world.settle();
        assert!(world.broker.taken.iter().all(|taken| taken.topic == format!("up/{}", number_of(&taken.payload) % 5)));
        assert_eq!(world.broker.aliased, aliased);
    }
}

#[test]
fn the_next_message_that_gets_through_says_how_many_were_lost() {
    let mut world = world(true, 4 * RECORD, |options| options.tell_lost = true);
    for _ in 0..10 {
        world.publish(QoS::AtLeastOnce, Class::Telemetry, Policy::DropOldest, 0, 8);
    }
    world.settle();
    world.publish(QoS::AtLeastOnce, Class::Telemetry, Policy::DropOldest, 0, 8);
    world.settle();
    let told: Vec<_> = world.broker.taken.iter().map(|taken| taken.lost).collect();
    assert_eq!(told, [Some(6), None, None, None, None]);
}

#[test]
fn what_this_server_cannot_take_is_dropped_and_said() {
    let mut world = world(true, 4_096, |options| options.tell_lost = true);
    // Maximum Packet Size 60, Maximum QoS 1, no retained messages.
    world.broker.mood.properties = vec![0x27, 0, 0, 0, 60, 0x24, 1, 0x25, 0];
    world.publish(QoS::AtLeastOnce, Class::Telemetry, Policy::DropNewest, 0, 49);
    world.publish(QoS::AtLeastOnce, Class::Telemetry, Policy::DropNewest, 0, 50);
    world.publish(QoS::ExactlyOnce, Class::Telemetry, Policy::DropNewest, 0, 8);
    world.settle();
    assert_eq!(taken(&world), [1]);
    assert_eq!(world.sent[&2].dropped, Some(DropReason::TooLarge));
    assert_eq!(world.sent[&3].dropped, Some(DropReason::NotSupported));
    let retained = Message::new("up/0").retain(true);
    world.client.publish(world.now, &retained, &payload(0, 8)).unwrap();
    let mut out = [0; 64];
    assert_eq!(world.client.poll_transmit(world.now, &mut out), 0);
    assert_eq!(world.client.counters().dropped(DropReason::NotSupported), 2);
}

#[test]
fn properties_arrive_as_they_were_given() {
    let mut world = world(true, 1_024, |_| {});
    let properties = [
        PublishProperty::Utf8,
        PublishProperty::ContentType("text"),
        PublishProperty::ResponseTopic("answer/here"),
        PublishProperty::CorrelationData(&[1, 2, 3]),
        PublishProperty::User("lost", "17"),
    ];
    let message = Message { properties: &properties, ..Message::new("up/3") };
    world.settle();
    world.client.publish(0, &message, b"payload").unwrap();
    let mut out = [0; 128];
    let len = world.client.poll_transmit(0, &mut out);
    let mut expected = b"\x00\x04up/3\x00\x01".to_vec();
    let section = b"\x01\x01\x03\x00\x04text\x08\x00\x0banswer/here\x09\x00\x03\x01\x02\x03\x26\x00\x04lost\x00\x0217";
    expected.push(section.len() as u8);
    expected.extend(section);
    expected.extend(b"payload");
    assert_eq!(out[..len], crate::broker::packet(0x32, &expected));
}

#[test]
fn the_payload_is_written_in_place_and_what_is_not_used_is_given_back() {
    let options = options(|_| {});
    let mut outbox = [0; 128];
    let mut client = Client::new(options, &mut outbox);
    let message = Message::new("t");
    let ticket = client
        .try_publish(0, &message, 64, |room| {
            assert_eq!(room.len(), 64);
            room[..3].copy_from_slice(b"abc");
            3
        })
        .unwrap();
    assert_eq!(client.fill().0, 24);
    assert_eq!(client.status(ticket), Status::Queued);
    let more = client.try_publish(0, &message, 200, |_| panic!("there is no room to write to"));
    assert_eq!(more, Err(PublishError::TooLarge));
    let greedy = client.try_publish(0, &message, 8, |_| usize::MAX).unwrap();
    assert_eq!(client.fill().0, 56);
    assert!(greedy.number() > ticket.number());
}

#[test]
fn messages_go_to_another_store_and_come_back_to_their_place() {
    let mut world = world(true, 20 * RECORD, |_| {});
    for number in 0..6 {
        let ttl_ms = if number == 2 { 10_000 } else { 0 };
        world.publish(QoS::AtLeastOnce, Class::Telemetry, Policy::DropNewest, ttl_ms, 8);
    }
    let mut store: Vec<Vec<u8>> = Vec::new();
    let mut after: Option<Ticket> = world.client.waiting(None).map(|waiting| waiting.ticket);
    while let Some(waiting) = world.client.waiting(after).filter(|_| store.len() < 4) {
        let mut raw = vec![0; waiting.len];
        assert_eq!(world.client.copy_out(0, waiting.ticket, &mut raw), Some(waiting.len));
        assert!(world.client.remove_spilled(waiting.ticket));
        store.push(raw);
        after = Some(waiting.ticket);
    }
    assert_eq!((world.client.pending(), world.client.counters().spilled), (2, 4));
    // Numbers 2 and 4 come back in any order, 3 too late for its time.
    world.now = 12_000;
    for (at, away_ms) in [(2, 12_000), (0, 12_000), (1, 12_000)] {
        world.client.restore(12_000, away_ms, &store[at]).unwrap();
    }
    world.settle();
    assert_eq!(taken(&world), [1, 2, 4, 6]);
    assert_eq!(world.sent[&3].dropped, Some(DropReason::Expired));
    assert_eq!(world.client.counters().spilled, 1);
    assert_eq!(world.client.restore(0, 0, &store[3][..20]), Err(PublishError::NotSupported));
    // After a reboot nobody remembers it; its ticket is not given again.
    let fresh_options = options(|_| {});
    let mut outbox = [0; 256];
    let mut fresh = Client::new(fresh_options, &mut outbox);
    let ticket = fresh.restore(0, 0, &store[3]).unwrap();
    assert_eq!(fresh.counters().accepted, 1);
    assert!(fresh.publish(0, &Message::new("t"), b"").unwrap() > ticket);
}

#[test]
fn subscriptions_end_and_are_made_again() {
    let mut world = world(false, 1_024, |_| {});
    world.client.subscribe("down/#", QoS::AtLeastOnce).unwrap();
    world.client.subscribe("other/+", QoS::AtMostOnce).unwrap();
    world.settle();
    assert!(world.broker.is_subscribed("other/+") && world.client.subscriptions() == 2);
    world.client.subscribe("other/+", QoS::AtLeastOnce).unwrap();
    world.settle();
    assert_eq!(world.client.subscriptions(), 2, "the same filter is one subscription");
    world.client.unsubscribe("other/+").unwrap();
    world.settle();
    assert!(!world.broker.is_subscribed("other/+") && world.client.subscriptions() == 1);
    world.broker.mood.forget = true;
    world.cut();
    world.settle();
    assert!(world.broker.is_subscribed("down/#") && !world.broker.is_subscribed("other/+"));
    let used = world.client.fill().0;
    for _ in 0..50 {
        world.client.subscribe("down/#", QoS::AtLeastOnce).unwrap();
        world.settle();
    }
    assert_eq!(world.client.fill().0, used);
}

#[test]
fn a_device_says_good_bye() {
    for v5 in [false, true] {
        let mut world = world(v5, 1_024, |_| {});
        world.settle();
        world.publish(QoS::AtLeastOnce, Class::Telemetry, Policy::DropNewest, 0, 8);
        let now = world.now;
        world.broker.disconnects.clear();
        world.client.disconnect(now);
        world.turn(4096);
        assert_eq!(world.broker.disconnects, [0]);
        assert!(world.link.is_none() && world.client.connect_at().is_none());
        assert_eq!(world.client.pending(), 1);
        world.client.connect(now);
        world.settle();
        assert_eq!(taken(&world), [1]);
        world.client.disconnect_with_will(now);
        world.turn(4096);
        assert!(world.link.is_none());
        assert_eq!(world.broker.disconnects, if v5 { &[0, 4][..] } else { &[0] });
    }
}

#[test]
fn a_session_that_was_damaged_in_its_sleep_is_not_taken_over() {
    let mut world = world(true, 1_024, |_| {});
    for _ in 0..5 {
        world.publish(QoS::ExactlyOnce, Class::Telemetry, Policy::DropNewest, 0, 8);
    }
    let mut image = [0; 512];
    let len = world.client.export(0, &mut image).unwrap();
    let fresh_options = options(|_| {});
    for at in 0..len {
        let mut bad = image;
        bad[at] ^= 0x10;
        let mut outbox = [0; 512];
        let mut client = Client::new(fresh_options, &mut outbox);
        assert!(client.import(0, 0, &bad[..len]).is_err(), "{at}");
        assert!(client.import(0, 0, &image[..at]).is_err(), "{at}");
        assert_eq!((client.pending(), client.fill().0), (0, 0));
        client.import(0, 0, &image[..len]).unwrap();
        assert_eq!(client.pending(), 5);
    }
    let mut small = [0; 64];
    let mut client = Client::new(fresh_options, &mut small);
    assert_eq!(client.import(0, 0, &image[..len]), Err(forebay_firmware::ImportError::NoRoom));
}

#[test]
fn a_will_and_credentials_are_in_connect() {
    let will = forebay_firmware::Will { topic: "w", payload: b"gone", qos: QoS::AtLeastOnce, retain: true, delay_s: 7 };
    for v5 in [false, true] {
        let options = options(|options| {
            options.protocol = protocol(v5);
            options.user_name = Some("user");
            options.password = Some(b"\x00\xff");
            options.will = Some(will);
            options.session_expiry_s = 0;
            options.maximum_packet_size = 1_000;
        });
        let mut outbox = [0; 16];
        let mut client = Client::new(options, &mut outbox);
        let mut whole = Vec::new();
        client.connected(0);
        // Byte by byte, since a transport may take no more.
        loop {
            let mut out = [0; 1];
            if client.poll_transmit(0, &mut out) == 0 {
                break;
            }
            whole.extend(out);
        }
        let mut body = b"\x00\x04MQTT".to_vec();
        body.extend([if v5 { 5 } else { 4 }, 0xee, 0, 60]);
        if v5 {
            body.extend([13, 0x11, 0, 0, 0, 0, 0x21, 0, 8, 0x27, 0, 0, 0x03, 0xe8]);
        }
        body.extend(b"\x00\x06device");
        if v5 {
            body.extend([5, 0x18, 0, 0, 0, 7]);
        }
        body.extend(b"\x00\x01w\x00\x04gone\x00\x04user\x00\x02\x00\xff");
        assert_eq!(whole, crate::broker::packet(0x10, &body));
        let mut receive = [0; 16];
        assert!(client.poll_event(0, &mut Input::new(&mut receive)).is_none());
    }
}

/// What a device has in its outbox grows older while it is off, by what it knows of that time.
#[test]
fn messages_expire_while_the_device_is_off() {
    for (off_ms, taken_after) in [(30_000, vec![1, 2]), (70_000, vec![2])] {
        let mut world = world(true, 1_024, |_| {});
        world.publish(QoS::AtLeastOnce, Class::Telemetry, Policy::DropNewest, 60_000, 8);
        world.publish(QoS::AtLeastOnce, Class::Telemetry, Policy::DropNewest, 0, 8);
        world.sleep(off_ms);
        world.settle();
        assert_eq!(taken(&world), taken_after, "off for {off_ms} ms");
        let expired = world.client.counters().dropped(DropReason::Expired);
        assert_eq!(expired as usize, 2 - taken_after.len());
        // The server is told what is left of it.
        let told = world.broker.taken[0].expiry_s;
        assert_eq!(told, if off_ms < 60_000 { Some(30) } else { None });
    }
}

/// The power fails after any byte of CONNECT, or before CONNACK has come: what was published is sent once, and the server has
/// the subscription that the device believes in.
#[test]
fn the_power_fails_during_connect() {
    for v5 in [false, true] {
        for after in 0..60 {
            let mut world = world(v5, 1_024, |_| {});
            world.client.subscribe("down/#", QoS::AtLeastOnce).unwrap();
            world.settle();
            // The server loses the session with the connection that the device does not live to see.
            world.cut();
            world.publish(QoS::ExactlyOnce, Class::Telemetry, Policy::DropNewest, 0, 8);
            world.broker.mood.forget = true;
            world.now += 300_000;
            world.try_connect(true);
            world.serve_client();
            world.carry_up(after);
            world.sleep(300_000);
            world.broker.mood.forget = false;
            world.settle();
            world.verify(true, true);
            assert_eq!(taken(&world), [1], "v5: {v5}, after {after} bytes");
            assert!(world.broker.is_subscribed("down/#"), "v5: {v5}, after {after} bytes");
        }
    }
}
