//! What only the inside can set up.

use super::*;
extern crate std;
use crate::{Input, Message, QoS};
use std::vec::Vec;

/// A connection that is up, without a broker.
fn up(client: &mut Client<'_>, input: &mut Input<'_>) {
    let mut out = [0; 512];
    client.connected(0);
    assert!(client.poll_transmit(0, &mut out) > 0);
    input.clear();
    #[cfg(feature = "v5")]
    input.fill(&[0x20, 3, 0, 0, 0]);
    #[cfg(not(feature = "v5"))]
    input.fill(&[0x20, 2, 0, 0]);
    while client.poll_event(0, input).is_some() {}
}

/// What is sent next, as packet identifiers of PUBLISH with QoS 1 to the topic `t`.
fn sent(client: &mut Client<'_>) -> Vec<u16> {
    let mut out = [0; 512];
    let len = client.poll_transmit(0, &mut out);
    let mut ids = Vec::new();
    let mut rest = &out[..len];
    while let [first, size, body @ ..] = rest {
        if first >> 4 == 3 {
            ids.push(u16::from_be_bytes([body[3], body[4]]));
        }
        rest = &body[usize::from(*size)..];
    }
    ids
}

fn every(depth: u32, sequence: &mut Vec<usize>, run: &mut impl FnMut(&[usize])) {
    run(sequence);
    if depth > 0 {
        for choice in 0..4 {
            sequence.push(choice);
            every(depth - 1, sequence, run);
            sequence.pop();
        }
    }
}

/// Every sequence of publishing, and of acknowledging the first, second or last message in flight, up to a depth of six
/// (three under Miri), over the place where identifiers wrap.
#[test]
fn packet_identifiers_are_never_zero_never_twice_and_in_order() {
    let mut options = Options::new("d");
    options.in_flight_max = 4;
    let depth = if cfg!(miri) { 3 } else { 6 };
    every(depth, &mut Vec::new(), &mut |sequence| {
        let (mut outbox, mut receive) = ([0; 1_024], [0; 64]);
        let mut client = Client::new(&options, &mut outbox);
        let mut input = Input::new(&mut receive);
        client.memory = Memory::Clean;
        up(&mut client, &mut input);
        client.next_id = 65_533;
        let mut in_flight: Vec<u16> = Vec::new();
        let mut last = 65_532u16;
        for choice in sequence {
            if *choice == 0 {
                client.publish(0, &Message::new("t"), b"x").unwrap();
            } else if let Some(newest) = in_flight.len().checked_sub(1) {
                let id = in_flight.remove((*choice - 1).min(newest)).to_be_bytes();
                input.fill(&[0x40, 2, id[0], id[1]]);
                while client.poll_event(0, &mut input).is_some() {}
            }
            for id in sent(&mut client) {
                assert!(id != 0 && !in_flight.contains(&id));
                assert!(id.wrapping_sub(last) <= 2, "in order, and only 0 is left out");
                last = id;
                in_flight.push(id);
            }
            assert!(in_flight.len() <= 3);
        }
    });
}

#[test]
fn no_identifier_passes_one_that_is_still_in_use() {
    let mut options = Options::new("d");
    options.in_flight_max = 4;
    let (mut outbox, mut receive) = ([0; 1_024], [0; 64]);
    let mut client = Client::new(&options, &mut outbox);
    let mut input = Input::new(&mut receive);
    client.memory = Memory::Clean;
    up(&mut client, &mut input);
    client.next_id = 7;
    client.publish(0, &Message::new("t"), b"x").unwrap();
    assert_eq!(sent(&mut client), [7]);
    // 65,534 messages later.
    client.next_id = 7;
    client.publish(0, &Message::new("t"), b"x").unwrap();
    client.subscribe("f", QoS::AtMostOnce).unwrap();
    assert_eq!(sent(&mut client), []);
    assert_ne!(client.next_timeout(), Some(0), "and nobody spins meanwhile");
    input.fill(&[0x40, 2, 0, 7]);
    while client.poll_event(0, &mut input).is_some() {}
    assert_eq!(sent(&mut client), [8], "7 is the subscription's");
}

#[test]
fn the_core_is_small() {
    let size = size_of::<Client<'_>>();
    assert!(size <= super::SIZE_MAX, "{size}");
}

/// The server ends the connection whenever the first message comes, with these words. What becomes of the message.
#[cfg(feature = "undeliverable")]
fn ended_each_time(losses_max: u8, words: &[u8]) -> crate::Status {
    let mut options = Options::new("d");
    options.losses_max = losses_max;
    let (mut outbox, mut receive) = ([0; 1_024], [0; 64]);
    let mut client = Client::new(&options, &mut outbox);
    let mut input = Input::new(&mut receive);
    client.memory = Memory::Kept;
    let mut tickets = Vec::new();
    for payload in [b"never", b"after"] {
        tickets.push(client.publish(0, &Message::new("t").qos(QoS::AtLeastOnce), payload).unwrap());
    }
    let mut dropped = false;
    for connection in 1..=20 {
        resumed(&mut client, &mut input);
        let ids = sent(&mut client);
        dropped = client.status(tickets[0]) == crate::Status::Dropped(crate::DropReason::Undeliverable);
        if dropped {
            assert_eq!(connection, 5, "after four connections");
            // What was behind it goes on.
            let [high, low] = ids[0].to_be_bytes();
            input.fill(&[0x40, 2, high, low]);
            while client.poll_event(0, &mut input).is_some() {}
            assert_eq!(client.status(tickets[1]), crate::Status::Done);
            break;
        }
        input.fill(words);
        while client.poll_event(0, &mut input).is_some() {}
        client.disconnected(0);
    }
    assert_eq!(
        (client.counters().dropped(crate::DropReason::Undeliverable), client.is_drained()),
        (dropped.into(), dropped)
    );
    client.status(tickets[0])
}

#[cfg(feature = "undeliverable")]
#[test]
fn a_message_that_ends_every_connection_is_dropped() {
    use crate::{DropReason::Undeliverable, Status};
    assert_eq!(ended_each_time(4, &[]), Status::Dropped(Undeliverable));
    assert_eq!(ended_each_time(0, &[]), Status::Sent, "unless that is not wanted");
}

/// MQTT 5: with a reason that may be about the message it is as if the server had said nothing.
#[cfg(all(feature = "undeliverable", feature = "v5"))]
#[test]
fn a_message_at_which_the_server_says_good_bye_is_dropped_if_it_may_be_about_that() {
    use crate::{DropReason::Undeliverable, Status};
    for reason in [0x80, 0x81, 0x82, 0x83, 0x87, 0x90, 0x94, 0x95, 0x99, 0x9a, 0x9b] {
        let ended = ended_each_time(4, &[0xe0, 1, reason]);
        assert_eq!(ended, Status::Dropped(Undeliverable), "{reason:#x}");
        assert_eq!(ended_each_time(0, &[0xe0, 1, reason]), Status::Sent, "{reason:#x}");
    }
    // What a server says of itself, of the device, or of the connection is about no message.
    for reason in [0, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x93, 0x96, 0x97, 0x98, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2] {
        assert_eq!(ended_each_time(4, &[0xe0, 1, reason]), Status::Sent, "{reason:#x}");
    }
}

/// The server has read how large it is, and ends the connection before it has come.
#[cfg(all(feature = "undeliverable", feature = "v5"))]
#[test]
fn a_message_may_be_given_up_while_it_is_being_sent() {
    let mut options = Options::new("d");
    options.losses_max = 2;
    let (mut outbox, mut receive) = ([0; 1_024], [0; 64]);
    let mut client = Client::new(&options, &mut outbox);
    let mut input = Input::new(&mut receive);
    client.memory = Memory::Kept;
    let ticket = client.publish(0, &Message::new("t").qos(QoS::AtLeastOnce), &[0; 200]).unwrap();
    for _ in 0..2 {
        resumed(&mut client, &mut input);
        assert_eq!(client.poll_transmit(0, &mut [0; 16]), 16);
        input.fill(&[0xe0, 1, 0x95]);
        assert!(client.poll_event(0, &mut input).is_some());
        client.poll_transmit(0, &mut [0; 512]);
        assert!(client.should_close());
        client.disconnected(0);
    }
    assert_eq!(client.status(ticket), crate::Status::Dropped(crate::DropReason::Undeliverable));
    assert!(client.is_drained());
}

/// From the third connection on one message at a time is sent.
#[cfg(feature = "undeliverable")]
#[test]
fn what_ends_connections_is_tried_alone() {
    for (losses_max, alone_from) in [(4, 3), (0, 99)] {
        let mut options = Options::new("d");
        options.losses_max = losses_max;
        let (mut outbox, mut receive) = ([0; 1_024], [0; 64]);
        let mut client = Client::new(&options, &mut outbox);
        let mut input = Input::new(&mut receive);
        client.memory = Memory::Kept;
        for _ in 0..2 {
            client.publish(0, &Message::new("t").qos(QoS::AtLeastOnce), b"x").unwrap();
        }
        for connection in 1..=4 {
            resumed(&mut client, &mut input);
            assert_eq!(
                sent(&mut client).len(),
                if connection >= alone_from { 1 } else { 2 },
                "connection {connection}"
            );
            client.disconnected(0);
        }
    }
}

/// A client with a subscription and a message, whose server ends the connection when a packet of this type comes (8: SUBSCRIBE,
/// 3: PUBLISH), and answers messages otherwise. What has become of the message after some connections.
#[cfg(feature = "undeliverable")]
fn ended_at(packet_type: u8) -> crate::Status {
    let mut options = Options::new("d");
    options.losses_max = 2;
    let (mut outbox, mut receive) = ([0; 1_024], [0; 64]);
    let mut client = Client::new(&options, &mut outbox);
    let mut input = Input::new(&mut receive);
    client.memory = Memory::Kept;
    client.subscribe("s", QoS::AtLeastOnce).unwrap();
    let ticket = client.publish(0, &Message::new("t").qos(QoS::AtLeastOnce), b"x").unwrap();
    for _ in 0..10 {
        resumed(&mut client, &mut input);
        let mut out = [0; 512];
        let mut over = false;
        while !over {
            let len = client.poll_transmit(0, &mut out);
            let (mut rest, mut ids) = (&out[..len], Vec::new());
            while let [first, size, body @ ..] = rest {
                over |= first >> 4 == packet_type;
                if first >> 4 == 3 {
                    ids.push([body[3], body[4]]);
                }
                rest = &body[usize::from(*size)..];
            }
            if len == 0 {
                break;
            }
            for [high, low] in ids.into_iter().filter(|_| !over) {
                input.fill(&[0x40, 2, high, low]);
                while client.poll_event(0, &mut input).is_some() {}
            }
        }
        client.disconnected(0);
    }
    client.status(ticket)
}

#[cfg(feature = "undeliverable")]
#[test]
fn a_subscription_that_ends_every_connection_costs_no_message() {
    assert_eq!(ended_at(8), crate::Status::Done);
}

#[cfg(feature = "undeliverable")]
#[test]
fn a_message_that_ends_every_connection_is_found_beside_a_subscription() {
    assert_eq!(ended_at(3), crate::Status::Dropped(crate::DropReason::Undeliverable));
}

#[cfg(feature = "undeliverable")]
#[test]
fn a_packet_over_the_limit_of_this_side_is_not_sent() {
    let mut options = Options::new("d");
    options.largest_packet_sent = 20;
    let (mut outbox, mut receive) = ([0; 1_024], [0; 64]);
    let mut client = Client::new(&options, &mut outbox);
    let mut input = Input::new(&mut receive);
    client.memory = Memory::Kept;
    let large = client.publish(0, &Message::new("t").qos(QoS::AtLeastOnce), &[0; 15]).unwrap();
    let fits = client.publish(0, &Message::new("t").qos(QoS::AtLeastOnce), &[0; 12]).unwrap();
    resumed(&mut client, &mut input);
    assert_eq!(sent(&mut client).len(), 1);
    assert_eq!(client.status(large), crate::Status::Dropped(crate::DropReason::TooLarge));
    assert_eq!(client.status(fits), crate::Status::Sent);
}

/// A connection with the session that was there before.
#[cfg(feature = "undeliverable")]
fn resumed(client: &mut Client<'_>, input: &mut Input<'_>) {
    let mut out = [0; 512];
    client.connected(0);
    assert!(client.poll_transmit(0, &mut out) > 0);
    input.clear();
    #[cfg(feature = "v5")]
    input.fill(&[0x20, 3, 1, 0, 0]);
    #[cfg(not(feature = "v5"))]
    input.fill(&[0x20, 2, 1, 0]);
    while client.poll_event(0, input).is_some() {}
}
