//! 3.2: CONNACK and what it settles.

use forebay_tests::broker::Broker;

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(
            the_flags_are_session_present_alone,
            "MQTT5-3.2.2-1",
            "MQTT5-3.2.2-2",
            "MQTT5-3.2.2-3",
            "MQTT5-3.1.2-6",
            "MQTT5-3.1.4-4"
        ),
        case!(an_empty_client_identifier_is_given_one, "MQTT5-3.1.3-6", "MQTT5-3.1.3-7", "MQTT5-3.2.2-16"),
        case!(what_the_broker_can_is_what_it_says),
        case!(response_information_is_not_sent, "MQTT5-3.1.2-28"),
        case!(the_server_sets_a_keep_alive_where_it_must, "MQTT5-3.2.2-22"),
        case!(connack_fits_the_maximum_packet_size, "MQTT5-3.2.2-19", "MQTT5-3.2.2-20", "MQTT5-3.1.2-24"),
        case!(no_authentication_method_comes_unasked, "MQTT5-4.12.0-6"),
        case!(the_session_expiry_that_is_granted_is_said),
        case!(a_full_broker_says_when_to_come_back),
    ]
}

fn the_flags_are_session_present_alone(target: &Target) {
    let me = "the_flags_are_session_present";
    // The harness takes no CONNACK with another bit in the first byte.
    for (asked, found) in [
        (lasting(me), false),
        (lasting(me), true),
        (connect(me).with(Property::SessionExpiry(3600)), false),
        (lasting(me), true),
        (connect(me).resume(), true),
        (lasting(me), false),
    ] {
        let (client, present, _) = Raw::open(target.port, &asked);
        assert_eq!(present, found, "{asked:?}");
        client.leave();
    }
}

fn assigned(properties: &[Property]) -> String {
    let found = properties.iter().find_map(|p| if let Property::AssignedClientId(id) = p { Some(id) } else { None });
    found.expect("an assigned client identifier").clone()
}

fn an_empty_client_identifier_is_given_one(target: &Target) {
    let (_first, present, properties) = Raw::open(target.port, &connect(""));
    let one = assigned(&properties);
    assert!(!present && !one.is_empty());
    let (mut second, _, properties) = Raw::open(target.port, &lasting(""));
    let two = assigned(&properties);
    assert_ne!(one, two);
    // It is the session's name as if the client had chosen it.
    second.subscribe("an_empty_client_identifier", 1);
    second.leave();
    let (_again, present, properties) = Raw::open(target.port, &lasting(&two));
    assert!(present && !properties.iter().any(|p| matches!(p, Property::AssignedClientId(_))));
}

fn what_the_broker_can_is_what_it_says(target: &Target) {
    let me = "what_the_broker_can";
    let (mut client, _, properties) = Raw::open(target.port, &connect(me));
    // Left out means: everything is there.
    for property in &properties {
        let limits = matches!(
            property,
            Property::ReceiveMaximum(_)
                | Property::MaximumPacketSize(_)
                | Property::TopicAliasMaximum(_)
                | Property::ServerKeepAlive(_)
        );
        assert!(limits, "{property:?}");
    }
    client.send(&subscribe(1).filter(me, 2).filter("$share/g/what", 1).with(Property::SubscriptionId(7)).packet());
    client.expect_suback(1, &[2, 1]);
    client.publish_packet(2, 5, &publish(me, b"x").qos(2, 5).retain().packet());
    client.take_message(me, b"x");
    client.publish_packet(1, 6, &publish(me, b"").qos(1, 6).retain().packet());
    open(target, &connect("what_the_broker_can-will").will(Will::new("w", b"").qos(2).retain())).leave();
}

fn response_information_is_not_sent(target: &Target) {
    for asked in [None, Some(0), Some(1)] {
        let mut packet = connect("response_information");
        if let Some(n) = asked {
            packet = packet.with(Property::RequestResponseInformation(n));
        }
        let (_client, _, properties) = Raw::open(target.port, &packet);
        assert!(!properties.iter().any(|p| matches!(p, Property::ResponseInformation(_))));
    }
}

fn server_keep_alive(port: u16, seconds: u16) -> Option<u16> {
    let (client, _, properties) = Raw::open(port, &connect("server_keep_alive").keep_alive(seconds));
    client.leave();
    properties.into_iter().find_map(|p| if let Property::ServerKeepAlive(s) = p { Some(s) } else { None })
}

fn the_server_sets_a_keep_alive_where_it_must(target: &Target) {
    assert_eq!(server_keep_alive(target.port, 60), None, "the client's own is used");
    let own = Broker::with_config("[limits]\nmax_keep_alive = \"30s\"\n");
    for (asked, told) in [(10, None), (30, None), (31, Some(30)), (0, Some(30))] {
        assert_eq!(server_keep_alive(own.port(), asked), told, "{asked} was asked");
    }
    let own = Broker::with_config("[limits]\nmax_keep_alive = \"0s\"\n");
    assert_eq!(server_keep_alive(own.port(), 0), None);
}

fn connack_fits_the_maximum_packet_size(target: &Target) {
    let me = "connack_fits";
    let small = |max: u32| connect(me).with(Property::MaximumPacketSize(max));
    // A refusal has words when they fit, and is as short as can be when they do not.
    let refused = |max: u32| small(max).with(Property::AuthMethod("nobody's".into()));
    assert!(!Raw::begin(target.port, &refused(200)).expect_refused(0x8C).is_empty());
    assert_eq!(Raw::begin(target.port, &refused(20)).expect_refused(0x8C), []);
    // What must be said does not fit: no packet at all is better than one that is too large.
    Raw::begin(target.port, &small(4)).expect_closed();
}

fn no_authentication_method_comes_unasked(target: &Target) {
    let (mut client, _, properties) = Raw::open(target.port, &connect("no_authentication_method"));
    assert!(!properties.iter().any(|p| matches!(p, Property::AuthMethod(_) | Property::AuthData(_))));
    client.expect_nothing();
}

fn the_session_expiry_that_is_granted_is_said(_: &Target) {
    let own = Broker::with_config("[limits]\nmax_session_expiry = \"60s\"\nsession_expiry_v3 = \"60s\"\n");
    for (asked, told) in [(60, None), (61, Some(60)), (u32::MAX, Some(60)), (0, None)] {
        let packet = connect("the_session_expiry").with(Property::SessionExpiry(asked));
        let (client, _, properties) = Raw::open(own.port(), &packet);
        let found = properties.iter().find_map(|p| if let Property::SessionExpiry(s) = p { Some(*s) } else { None });
        assert_eq!(found, told, "{asked} was asked");
        client.leave();
    }
}

fn a_full_broker_says_when_to_come_back(_: &Target) {
    let own = Broker::with_config("[limits]\nmax_connections = 1\nmax_handshakes = 1\n");
    // The harness's own look at the ports may still be counted.
    let first = loop {
        let mut client = Raw::begin(own.port(), &connect("a_full_broker-1"));
        if matches!(client.receive(), Packet::Connack(_, 0, _)) {
            break client;
        }
    };
    let properties = Raw::begin(own.port(), &connect("a_full_broker-2")).expect_refused(0x89);
    let told =
        |p: &Property| matches!(p, Property::User(name, ms) if name == "retry-after-ms" && ms.parse::<u32>().is_ok());
    assert!(properties.iter().any(told), "{properties:?}");
    drop(first);
}
