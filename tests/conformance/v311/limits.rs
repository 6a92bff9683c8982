//! 3.1.1 has no words for "not now": a publisher's ack is withheld until there is room.

use std::time::Duration;

use forebay_tests::broker::Broker;

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_full_queue_withholds_the_ack),
        case!(others_are_served_while_an_ack_is_withheld),
        case!(a_withheld_message_of_a_lost_connection_may_be_sent_again),
    ]
}

/// A broker with an absent subscriber to `t` whose queue holds two messages and is full, and a publisher.
fn full() -> (Broker, Raw) {
    let own = Broker::with_config("[queue]\nmax_messages = 2\npolicy = \"reject\"\n");
    let (mut absent, ..) = Raw::open(own.port(), &lasting("absent"));
    absent.subscribe("t", 2);
    absent.leave();
    let mut publisher = Raw::clean(own.port(), V4, "publisher");
    publisher.publish("t", 1, b"1");
    publisher.publish("t", 2, b"2");
    (own, publisher)
}

/// No ack comes for a while that is long beside a commit; the connection lives.
fn withheld(publisher: &mut Raw) {
    publisher.expect_nothing();
    std::thread::sleep(Duration::from_millis(300));
    publisher.expect_nothing();
}

fn a_full_queue_withholds_the_ack(_: &Target) {
    let (own, mut publisher) = full();
    publisher.send(&publish("t", b"3").qos(1, 3).packet());
    publisher.send(&publish("t", b"4").qos(2, 4).packet());
    withheld(&mut publisher);
    let (mut absent, ..) = Raw::open(own.port(), &lasting("absent"));
    for payload in [b"1", b"2", b"3", b"4"] {
        absent.take_message("t", payload);
    }
    publisher.expect_ack(Ack::Puback, 3, 0);
    publisher.expect_ack(Ack::Pubrec, 4, 0);
    publisher.send(&packet::ack(Ack::Pubrel, 4));
    publisher.expect_ack(Ack::Pubcomp, 4, 0);
    absent.expect_nothing();
}

fn others_are_served_while_an_ack_is_withheld(_: &Target) {
    let (own, mut publisher) = full();
    publisher.send(&publish("t", b"3").qos(1, 3).packet());
    withheld(&mut publisher);
    let mut other = Raw::clean(own.port(), V4, "other");
    other.subscribe("else", 1);
    other.publish("else", 1, b"p");
    other.take_message("else", b"p");
    // The publisher's own packets go on, but nothing that it publishes overtakes what waits [MQTT-4.6.0-6].
    publisher.send(&publish("else", b"q").packet());
    publisher.expect_nothing();
    other.expect_nothing();
    let (mut absent, ..) = Raw::open(own.port(), &lasting("absent"));
    for payload in [b"1", b"2", b"3"] {
        absent.take_message("t", payload);
    }
    publisher.expect_ack(Ack::Puback, 3, 0);
    other.take_message("else", b"q");
}

fn a_withheld_message_of_a_lost_connection_may_be_sent_again(_: &Target) {
    let (own, mut publisher) = full();
    publisher.send(&publish("t", b"3").qos(2, 3).packet());
    withheld(&mut publisher);
    publisher.drop_connection();
    let (mut absent, ..) = Raw::open(own.port(), &lasting("absent"));
    absent.take_message("t", b"1");
    absent.take_message("t", b"2");
    absent.expect_nothing();
    let mut publisher = Raw::clean(own.port(), V4, "publisher");
    publisher.publish_packet(2, 3, &publish("t", b"3").qos(2, 3).dup().packet());
    absent.take_message("t", b"3");
    absent.expect_nothing();
}
