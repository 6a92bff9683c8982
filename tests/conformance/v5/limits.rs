//! What the broker does at its own limits, and how it says so.

use forebay_tests::broker::Broker;

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_full_queue_refuses_and_says_when_to_try_again),
        case!(a_refusal_is_short_where_it_must_be, "MQTT5-3.4.2-3", "MQTT5-3.5.2-3", "MQTT5-3.1.2-29"),
        case!(a_full_queue_that_drops_refuses_nothing),
        case!(a_full_store_of_retained_messages_refuses),
        case!(more_subscriptions_than_the_limit_are_refused),
        case!(more_filters_in_a_packet_than_the_limit_end_the_connection),
    ]
}

/// A broker with an absent subscriber to `t` whose queue holds two messages and is full.
fn full() -> (Broker, Raw) {
    let own = Broker::with_config("[queue]\nmax_messages = 2\n");
    let (mut absent, ..) = Raw::open(own.port(), &lasting("absent"));
    absent.subscribe("t", 2);
    absent.leave();
    let mut publisher = Raw::clean(own.port(), V5, "publisher");
    publisher.publish("t", 1, b"1");
    publisher.publish("t", 2, b"2");
    (own, publisher)
}

fn retry_after(properties: &[Property]) -> bool {
    matches!(properties, [Property::User(name, ms)] if name == "retry-after-ms" && ms.parse::<u32>().is_ok_and(|ms| ms > 0))
}

fn a_full_queue_refuses_and_says_when_to_try_again(_: &Target) {
    let (own, mut publisher) = full();
    publisher.send(&publish("t", b"3").qos(1, 3).packet());
    assert!(retry_after(&publisher.expect_ack(Ack::Puback, 3, 0x97)));
    publisher.send(&publish("t", b"4").qos(2, 4).packet());
    assert!(retry_after(&publisher.expect_ack(Ack::Pubrec, 4, 0x97)));
    // The refused one has gone nowhere, its identifier is free, and there is room later.
    publisher.send(&packet::ack(Ack::Pubrel, 4));
    publisher.expect_ack(Ack::Pubcomp, 4, 0x92);
    let (mut absent, ..) = Raw::open(own.port(), &lasting("absent"));
    absent.take_message("t", b"1");
    absent.take_message("t", b"2");
    absent.expect_nothing();
    publisher.publish("t", 2, b"again");
    absent.take_message("t", b"again");
}

fn a_refusal_is_short_where_it_must_be(_: &Target) {
    let (own, _) = full();
    for (asked, told) in [
        (connect("p").with(Property::RequestProblemInformation(0)), false),
        (connect("p").with(Property::RequestProblemInformation(1)), true),
        (connect("p").with(Property::MaximumPacketSize(20)), false),
        (connect("p").with(Property::MaximumPacketSize(100)), true),
    ] {
        let (mut publisher, ..) = Raw::open(own.port(), &asked);
        for (qos, kind) in [(1, Ack::Puback), (2, Ack::Pubrec)] {
            publisher.send(&publish("t", b"3").qos(qos, 3).packet());
            let properties = publisher.expect_ack(kind, 3, 0x97);
            assert_eq!(retry_after(&properties), told, "{asked:?}: {properties:?}");
            assert!(told || properties.is_empty());
        }
        publisher.leave();
    }
}

fn a_full_queue_that_drops_refuses_nothing(_: &Target) {
    for (policy, left) in [("drop-oldest", &[b"2", b"3"][..]), ("drop-newest", &[b"1", b"2"]), ("keep-last", &[b"3"])] {
        let own = Broker::with_config(&format!("[queue]\nmax_messages = 3\npolicy = \"{policy}\"\n"));
        let packet = connect("slow").with(Property::ReceiveMaximum(1));
        let (mut slow, ..) = Raw::open(own.port(), &packet);
        slow.subscribe("t", 1);
        let mut publisher = Raw::clean(own.port(), V5, "publisher");
        // One is in flight and stays, two wait, the last finds the queue full.
        for payload in [b"0", b"1", b"2", b"3"] {
            publisher.publish("t", 1, payload);
        }
        slow.take_message("t", b"0");
        for payload in left {
            slow.take_message("t", *payload);
        }
        slow.expect_nothing();
    }
}

fn a_full_store_of_retained_messages_refuses(_: &Target) {
    let own = Broker::with_config("[limits]\nmax_retained_messages = 5\n");
    let mut client = Raw::clean(own.port(), V5, "client");
    client.subscribe("+", 1);
    // The broker's own topics take none of the five. One that is refused is not delivered either.
    let mut keep = |topic: &str| {
        client.send(&publish(topic, b"x").qos(1, 1).retain().packet());
        let Packet::Ack(Ack::Puback, 1, reason, _) = client.receive_answer() else { panic!("not a PUBACK") };
        if reason == 0 {
            client.take_message(topic, b"x");
        }
        client.expect_nothing();
        reason
    };
    assert_eq!([0, 1, 2, 3, 4, 5].map(|n| keep(&n.to_string())), [0, 0, 0, 0, 0, 0x97]);
    assert_eq!(keep("0"), 0, "what replaces another needs no room");
}

fn more_subscriptions_than_the_limit_are_refused(_: &Target) {
    let own = Broker::with_config("[limits]\nmax_subscriptions_per_client = 2\n");
    let mut client = Raw::clean(own.port(), V5, "client");
    client.send(&subscribe(1).filter("a", 0).filter("b", 1).filter("c", 2).filter("a", 2).packet());
    client.expect_suback(1, &[0, 1, 0x97, 2]);
    client.send(&subscribe(2).filter("b", 0).undo());
    client.expect_unsuback(2, &[0]);
    client.send(&subscribe(3).filter("c", 2).packet());
    client.expect_suback(3, &[2]);
}

fn more_filters_in_a_packet_than_the_limit_end_the_connection(_: &Target) {
    let own = Broker::with_config("[limits]\nmax_filters_per_packet = 2\n");
    let three = subscribe(1).filter("a", 0).filter("b", 1).filter("c", 2);
    for packet in [three.packet(), three.undo()] {
        let mut client = Raw::clean(own.port(), V5, "client");
        client.send(&packet);
        client.expect_disconnect(0x97);
    }
}
