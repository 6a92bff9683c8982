//! 2.2.2 and 3.3.2.3: what the properties of a PUBLISH are to those who get it.

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(
            properties_are_forwarded_unaltered_and_in_order,
            "MQTT5-3.3.2-4",
            "MQTT5-3.3.2-15",
            "MQTT5-3.3.2-16",
            "MQTT5-3.3.2-17",
            "MQTT5-3.3.2-18",
            "MQTT5-3.3.2-20"
        ),
        case!(properties_last_in_a_queue_and_when_retained, "MQTT5-3.3.2-17", "MQTT5-3.3.2-18"),
        case!(strings_among_the_properties_are_checked, "MQTT5-3.3.2-13", "MQTT5-3.3.2-19"),
        case!(a_response_topic_has_no_wildcard, "MQTT5-3.3.2-14"),
        case!(a_payload_is_what_its_format_says),
        case!(every_property_that_may_stand_is_taken),
        case!(a_property_that_stands_twice_is_a_protocol_error),
        case!(a_property_in_the_wrong_packet_is_a_protocol_error),
        case!(more_user_properties_than_the_limit_end_the_connection),
    ]
}

fn all() -> Vec<Property> {
    vec![
        Property::user("z", "last comes first"),
        Property::CorrelationData(vec![0, 1, 254, 255]),
        Property::user("a", ""),
        Property::ContentType("text/plain; charset=utf-8".into()),
        Property::PayloadFormat(1),
        Property::user("z", "twice"),
        Property::ResponseTopic("answers/ü".into()),
        Property::user("", "ü€😀"),
        Property::user("z", "last comes first"),
    ]
}

fn with_all(topic: &str, qos: u8, id: u16) -> Publish {
    all().into_iter().fold(publish(topic, "ü".as_bytes()).qos(qos, id), Publish::with)
}

fn properties_are_forwarded_unaltered_and_in_order(target: &Target) {
    let me = "properties_are_forwarded";
    let (mut subscriber, mut publisher) = pair(target, me, me, 2);
    for qos in 0..3 {
        publisher.publish_packet(qos, 9, &with_all(me, qos, 9).packet());
        assert_eq!(subscriber.take_message(me, "ü".as_bytes()).properties, all(), "QoS {qos}");
        // Beside those that are the connection's own or change on the way.
        let more = with_all(me, qos, 9).with(Property::TopicAlias(1)).with(Property::MessageExpiry(1000));
        publisher.publish_packet(qos, 9, &more.packet());
        let mut properties = subscriber.take_message(me, "ü".as_bytes()).properties;
        let before = properties.len();
        properties.retain(|p| !matches!(p, Property::MessageExpiry(_)));
        assert_eq!((&properties, before), (&all(), all().len() + 1), "QoS {qos}");
    }
}

fn properties_last_in_a_queue_and_when_retained(target: &Target) {
    let me = "properties_last_in_a_queue";
    let mut subscriber = open(target, &lasting(me));
    subscriber.subscribe(me, 2);
    subscriber.leave();
    let mut publisher = clean(target, &format!("{me}-publisher"));
    publisher.publish_packet(2, 3, &with_all(me, 2, 3).retain().packet());
    let mut subscriber = open(target, &lasting(me));
    assert_eq!(subscriber.take_message(me, "ü".as_bytes()).properties, all());
    let mut late = clean(target, &format!("{me}-late"));
    late.subscribe(me, 0);
    assert_eq!(late.take_message(me, "ü".as_bytes()).properties, all());
    publisher.publish_packet(1, 1, &publish(me, b"").qos(1, 1).retain().packet());
}

fn refused(target: &Target, me: &str, packet: &[u8], reason: u8) {
    let mut client = clean(target, me);
    client.send(packet);
    client.expect_disconnect(reason);
}

fn strings_among_the_properties_are_checked(target: &Target) {
    let me = "strings_among_the_properties";
    for identifier in [0x03, 0x08] {
        for wrong in [&b"\0\x01\xff"[..], b"\0\x01\0", b"\0\x09a"] {
            let section = [&[identifier][..], wrong].concat();
            let body = [b"\0\x01t".to_vec(), vec![section.len() as u8], section].concat();
            refused(target, me, &packet::frame(0x30, body), 0x81);
        }
    }
}

fn a_response_topic_has_no_wildcard(target: &Target) {
    let me = "a_response_topic";
    for topic in ["a/#", "+", "a/+/b"] {
        refused(target, me, &publish("t", b"").with(Property::ResponseTopic(topic.into())).packet(), 0x82);
        let will = Will::new("t", b"").with(Property::ResponseTopic(topic.into()));
        Raw::begin(target.port, &connect(me).will(will)).expect_refused(0x82);
    }
}

fn a_payload_is_what_its_format_says(target: &Target) {
    let me = "a_payload_is_what";
    let (mut subscriber, mut publisher) = pair(target, me, me, 0);
    publisher.publish_packet(0, 0, &publish(me, b"\xff").with(Property::PayloadFormat(0)).packet());
    assert_eq!(subscriber.expect_message(me, b"\xff").properties, [Property::PayloadFormat(0)]);
    refused(target, me, &publish(me, b"\xff").with(Property::PayloadFormat(1)).packet(), 0x99);
    refused(target, me, &publish(me, b"x").with(Property::PayloadFormat(2)).packet(), 0x82);
}

fn every_property_that_may_stand_is_taken(target: &Target) {
    let me = "every_property_that_may";
    let users = [Property::user("k", "v"), Property::user("k", "v")];
    let reason = [Property::ReasonString("why".into()), Property::user("k", "v"), Property::user("k", "w")];
    let asked = [
        Property::SessionExpiry(60),
        Property::ReceiveMaximum(10),
        Property::MaximumPacketSize(100_000),
        Property::TopicAliasMaximum(5),
        Property::RequestResponseInformation(1),
        Property::RequestProblemInformation(1),
    ];
    let mut client = open(target, &asked.into_iter().chain(users.clone()).fold(connect(me), Connect::with));
    let subscription = users.iter().cloned().fold(subscribe(1).filter(me, 2), Subscribe::with);
    client.send(&subscription.clone().with(Property::SubscriptionId(1)).packet());
    client.expect_suback(1, &[2]);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    publisher.publish(me, 1, b"1");
    let message = client.expect_message(me, b"1");
    client.send(&build::ack(Ack::Puback, message.id, 0, &reason));
    publisher.publish(me, 2, b"2");
    let message = client.expect_message("", b"2");
    client.send(&build::ack(Ack::Pubrec, message.id, 0, &reason));
    client.expect_ack(Ack::Pubrel, message.id, 0);
    client.send(&build::ack(Ack::Pubcomp, message.id, 0, &reason));
    client.send(&publish(me, b"3").qos(2, 3).packet());
    client.expect_ack(Ack::Pubrec, 3, 0);
    client.send(&build::ack(Ack::Pubrel, 3, 0, &reason));
    assert!(matches!(client.receive_answer(), Packet::Ack(Ack::Pubcomp, 3, 0, _)));
    client.send(&subscription.undo());
    assert!(matches!(client.receive_answer(), Packet::Unsuback(1, codes, _) if codes == [0]));
    client.expect_message("", b"3");
    client.send(&build::disconnect(0, &[&[Property::SessionExpiry(0)], &reason[..]].concat()));
    client.expect_closed();
}

fn a_property_that_stands_twice_is_a_protocol_error(target: &Target) {
    let me = "a_property_that_stands_twice";
    for property in [
        Property::PayloadFormat(0),
        Property::MessageExpiry(1),
        Property::ContentType("a".into()),
        Property::ResponseTopic("a".into()),
        Property::CorrelationData(vec![1]),
        Property::TopicAlias(1),
    ] {
        refused(target, me, &publish("t", b"").with(property.clone()).with(property).packet(), 0x82);
    }
    let twice = subscribe(1).filter("a", 0).with(Property::SubscriptionId(1)).with(Property::SubscriptionId(1));
    refused(target, me, &twice.packet(), 0x82);
    let reason = Property::ReasonString("a".into());
    refused(target, me, &build::ack(Ack::Puback, 1, 0, &[reason.clone(), reason.clone()]), 0x82);
    refused(target, me, &build::disconnect(0, &[reason.clone(), reason]), 0x82);
}

fn a_property_in_the_wrong_packet_is_a_protocol_error(target: &Target) {
    let me = "a_property_in_the_wrong";
    for property in [Property::SessionExpiry(1), Property::ReceiveMaximum(1), Property::ReasonString("a".into())] {
        refused(target, me, &publish("t", b"").with(property).packet(), 0x82);
    }
    refused(target, me, &subscribe(1).filter("a", 0).with(Property::TopicAlias(1)).packet(), 0x82);
    refused(target, me, &subscribe(1).filter("a", 0).with(Property::SubscriptionId(1)).undo(), 0x82);
    refused(target, me, &build::ack(Ack::Puback, 1, 0, &[Property::ContentType("a".into())]), 0x82);
    refused(target, me, &build::disconnect(0, &[Property::ServerReference("a".into())]), 0x82);
    // One that does not exist.
    refused(target, me, &packet::frame(0x30, b"\0\x01t\x02\x7e\0".to_vec()), 0x81);
}

fn more_user_properties_than_the_limit_end_the_connection(target: &Target) {
    let me = "more_user_properties";
    let (mut subscriber, mut publisher) = pair(target, me, me, 0);
    let with = |n: usize| (0..n).fold(publish(me, b""), |p, _| p.with(Property::user("k", "v")));
    publisher.publish_packet(0, 0, &with(100).packet());
    assert_eq!(subscriber.expect_message(me, b"").properties.len(), 100);
    publisher.send(&with(101).packet());
    publisher.expect_disconnect(0x97);
}
