//! 3.14, 3.15, 4.12 and 4.13: DISCONNECT, AUTH, errors; 3.1.2.10: keep alive.

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(nothing_follows_a_disconnect, "MQTT5-3.14.4-1", "MQTT5-3.14.4-2", "MQTT5-4.13.2-1"),
        case!(a_reason_that_a_client_may_not_give_is_an_error, "MQTT5-3.14.2-1"),
        case!(the_session_expiry_may_be_changed),
        case!(a_session_that_had_none_gets_no_expiry),
        case!(the_broker_gives_no_session_expiry, "MQTT5-3.14.2-2"),
        case!(words_are_left_out_where_they_do_not_fit, "MQTT5-3.14.2-3"),
        case!(auth_without_a_method_is_a_protocol_error),
        case!(auth_is_checked, "MQTT5-3.15.2-1"),
        case!(a_silent_client_is_gone_after_one_and_a_half_keep_alives, "MQTT5-3.1.2-22"),
        case!(any_packet_keeps_alive, "MQTT5-3.1.2-22"),
        case!(a_broker_that_stops_says_so),
        case!(an_error_costs_nobody_else_anything, "MQTT5-4.13.1-1"),
        case!(what_was_earned_before_an_error_is_said),
    ]
}

fn nothing_follows_a_disconnect(target: &Target) {
    let me = "nothing_follows_a_disconnect";
    let mut watcher = clean(target, &format!("{me}-watcher"));
    watcher.subscribe(me, 0);
    // The client's: what it sends behind it is not done. The broker's: the connection is closed behind it.
    let mut client = clean(target, me);
    client.send(&[packet::DISCONNECT.to_vec(), publish(me, b"x").packet(), packet::PINGREQ.to_vec()].concat());
    client.expect_closed();
    let mut client = clean(target, me);
    client.send(&[vec![0xD0, 0], publish(me, b"x").packet(), packet::PINGREQ.to_vec()].concat());
    client.expect_disconnect(0x82);
    watcher.expect_nothing();
}

fn a_reason_that_a_client_may_not_give_is_an_error(target: &Target) {
    let me = "a_reason_that_a_client";
    for (reason, end) in [(0x8E, 0x82), (0x8B, 0x82), (0x9D, 0x82), (0x10, 0x82), (0x42, 0x81)] {
        let mut client = clean(target, me);
        client.send(&build::disconnect(reason, &[]));
        client.expect_disconnect(end);
    }
    for reason in [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99] {
        let mut client = clean(target, me);
        client.send(&build::disconnect(reason, &[Property::ReasonString("why".into()), Property::user("k", "v")]));
        client.expect_closed();
    }
}

fn the_session_expiry_may_be_changed(target: &Target) {
    let me = "the_session_expiry_may";
    for (given, kept) in [(0, false), (3600, true), (60, true)] {
        let mut client = open(target, &lasting(me));
        client.send(&build::disconnect(0, &[Property::SessionExpiry(given)]));
        client.expect_closed();
        let (client, present, _) = Raw::open(target.port, &lasting(me));
        assert_eq!(present, kept, "expiry {given}");
        client.leave();
    }
}

fn a_session_that_had_none_gets_no_expiry(target: &Target) {
    let me = "a_session_that_had_none";
    let mut client = clean(target, me);
    client.send(&build::disconnect(0, &[Property::SessionExpiry(10)]));
    client.expect_disconnect(0x82);
    assert!(!Raw::open(target.port, &connect(me).resume()).1);
    let mut client = clean(target, me);
    client.send(&build::disconnect(0, &[Property::SessionExpiry(0)]));
    client.expect_closed();
}

fn the_broker_gives_no_session_expiry(target: &Target) {
    let me = "the_broker_gives_no";
    let mut client = open(target, &lasting(me));
    client.send_hex("d0 00");
    let properties = client.expect_disconnect(0x82);
    assert!(!properties.iter().any(|p| matches!(p, Property::SessionExpiry(_))));
    assert!(matches!(&properties[..], [Property::ReasonString(_)]), "{properties:?}");
}

fn words_are_left_out_where_they_do_not_fit(target: &Target) {
    let me = "words_are_left_out";
    let mut client = open(target, &connect(me).with(Property::MaximumPacketSize(40)));
    client.send_hex("d0 00");
    assert_eq!(client.expect_disconnect(0x82), []);
    // And where the client does not want them.
    let mut client = open(target, &connect(me).with(Property::RequestProblemInformation(0)));
    client.send_hex("d0 00");
    assert_eq!(client.expect_disconnect(0x82), []);
}

fn auth_without_a_method_is_a_protocol_error(target: &Target) {
    let me = "auth_without_a_method";
    let method = Property::AuthMethod("m".into());
    for packet in [build::auth(0x19, std::slice::from_ref(&method)), build::auth(0x18, &[method])] {
        let mut client = clean(target, me);
        client.send(&packet);
        client.expect_disconnect(0x82);
    }
}

fn auth_is_checked(target: &Target) {
    let me = "auth_is_checked";
    for (packet, end) in [
        (build::auth(0x55, &[]), 0x81),
        (build::auth(0x87, &[]), 0x82),
        (build::auth(0x19, &[Property::SessionExpiry(1)]), 0x82),
        (packet::frame(0xF0, vec![0x19, 9]), 0x81),
    ] {
        let mut client = clean(target, me);
        client.send(&packet);
        client.expect_disconnect(end);
    }
}

fn a_silent_client_is_gone_after_one_and_a_half_keep_alives(target: &Target) {
    let me = "a_silent_client";
    let mut watcher = clean(target, &format!("{me}-watcher"));
    watcher.subscribe(me, 0);
    let begun = std::time::Instant::now();
    let mut client = open(target, &connect(me).keep_alive(2).will(Will::new(me, b"gone")));
    let mut forever = clean(target, &format!("{me}-forever"));
    client.expect_disconnect(0x8D);
    assert!(begun.elapsed().as_millis() >= 3000, "{:?}", begun.elapsed());
    watcher.expect_message(me, b"gone");
    forever.expect_nothing();
}

fn any_packet_keeps_alive(target: &Target) {
    let me = "any_packet_keeps_alive";
    let mut client = open(target, &connect(me).keep_alive(5));
    let packets = [packet::PINGREQ.to_vec(), publish(me, b"").packet(), subscribe(1).filter(me, 0).packet()];
    // Longer in all than it may be silent.
    for n in 0..11 {
        client.send(&packets[n % 3]);
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    assert!(client.receive_all().iter().all(|p| matches!(p, Packet::Suback(..) | Packet::Publish(_))));
}

fn a_broker_that_stops_says_so(_: &Target) {
    let config = "server_reference = \"mqtts://standby.example:8883\"\n";
    let mut own = forebay_tests::broker::Broker::with_config(config);
    let mut client = Raw::clean(own.port(), V5, "a_broker_that_stops");
    assert_eq!(own.terminate(), Some(0));
    let reference = Property::ServerReference("mqtts://standby.example:8883".into());
    assert_eq!(client.expect_disconnect(0x8B), [reference]);
}

fn an_error_costs_nobody_else_anything(target: &Target) {
    let me = "an_error_costs_nobody";
    let (mut subscriber, mut publisher) = pair(target, me, me, 1);
    for n in 0..20_u8 {
        let mut wrong = clean(target, &format!("{me}-{n}"));
        wrong.subscribe(me, 1);
        wrong.send(&[publish(me, b"right").qos(1, 1).packet(), vec![0x36, 0]].concat());
        subscriber.take_message(me, b"right");
        publisher.publish(me, 1, &[n]);
        subscriber.take_message(me, &[n]);
    }
}

/// Both in one read, as a rule: the ping is answered, then the connection ends.
fn what_was_earned_before_an_error_is_said(target: &Target) {
    let mut client = clean(target, "what_was_earned_before_an_error_is_said");
    client.send(&[&packet::PINGREQ[..], &[0x36, 0]].concat());
    assert_eq!(client.receive(), Packet::Pingresp);
    client.expect_disconnect(0x81);
}
