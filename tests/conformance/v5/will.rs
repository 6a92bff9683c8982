//! 3.1.2.5 and 3.1.3.2: wills.

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_lost_connection_publishes_the_will, "MQTT5-3.1.2-7", "MQTT5-3.1.2-8", "MQTT5-3.1.2-14"),
        case!(disconnect_discards_the_will, "MQTT5-3.1.2-10", "MQTT5-3.14.4-3"),
        case!(disconnect_with_will_publishes_it),
        case!(a_protocol_error_publishes_the_will),
        case!(a_will_is_published_once, "MQTT5-3.1.2-10"),
        case!(a_will_may_be_retained, "MQTT5-3.1.2-15"),
        case!(a_will_has_its_qos_and_properties, "MQTT5-3.1.3-10"),
        case!(a_will_waits_for_its_delay),
        case!(a_reconnect_within_the_delay_cancels_the_will, "MQTT5-3.1.3-9"),
        case!(the_end_of_the_session_ends_the_delay),
        case!(a_clean_start_ends_the_delay),
        case!(a_take_over_publishes_a_will_without_delay),
        case!(a_will_survives_a_restart),
    ]
}

fn watcher(target: &Target, me: &str) -> Raw {
    let mut watcher = clean(target, &format!("{me}-watcher"));
    watcher.subscribe(me, 2);
    watcher
}

fn a_lost_connection_publishes_the_will(target: &Target) {
    let me = "a_lost_connection";
    let mut watcher = watcher(target, me);
    let client = open(target, &connect(me).will(Will::new(me, b"gone")));
    watcher.expect_nothing();
    client.drop_connection();
    let message = watcher.take_message(me, b"gone");
    assert!(!message.retain && message.qos == 0);
    // Not retained: a subscriber that comes later gets nothing.
    let mut late = clean(target, &format!("{me}-late"));
    late.subscribe(me, 0);
    late.expect_nothing();
}

fn disconnect_discards_the_will(target: &Target) {
    let me = "disconnect_discards";
    let mut watcher = watcher(target, me);
    open(target, &connect(me).will(Will::new(me, b"gone"))).leave();
    watcher.expect_nothing();
    let mut client = open(target, &lasting(me).will(Will::new(me, b"gone").with(Property::WillDelay(1))));
    client.send(&build::disconnect(0, &[Property::SessionExpiry(1)]));
    client.expect_closed();
    // Delay and session are over then.
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(!Raw::open(target.port, &connect(me).resume()).1);
    watcher.expect_nothing();
}

fn disconnect_with_will_publishes_it(target: &Target) {
    let me = "disconnect_with_will";
    let mut watcher = watcher(target, me);
    for reason in [0x04, 0x80, 0x98] {
        let mut client = open(target, &connect(me).will(Will::new(me, b"gone")));
        client.send(&build::disconnect(reason, &[]));
        client.expect_closed();
        watcher.take_message(me, b"gone");
    }
}

fn a_protocol_error_publishes_the_will(target: &Target) {
    let me = "a_protocol_error_publishes";
    let mut watcher = watcher(target, me);
    let mut client = open(target, &connect(me).will(Will::new(me, b"gone")));
    client.send_hex("d0 00");
    client.expect_disconnect(0x82);
    watcher.take_message(me, b"gone");
}

fn a_will_is_published_once(target: &Target) {
    let me = "a_will_is_published_once";
    let mut watcher = watcher(target, me);
    open(target, &lasting(me).will(Will::new(me, b"gone"))).drop_connection();
    watcher.take_message(me, b"gone");
    // The resumed session has none left.
    open(target, &lasting(me)).drop_connection();
    open(target, &connect(me)).leave();
    watcher.expect_nothing();
}

fn a_will_may_be_retained(target: &Target) {
    let me = "a_will_may_be_retained";
    let mut watcher = watcher(target, me);
    open(target, &connect(me).will(Will::new(me, b"gone").retain().qos(1))).drop_connection();
    assert!(!watcher.take_message(me, b"gone").retain, "to a subscription that was there");
    let mut late = clean(target, &format!("{me}-late"));
    late.subscribe(me, 1);
    assert!(late.take_message(me, b"gone").retain);
    late.publish_packet(1, 1, &publish(me, b"").qos(1, 1).retain().packet());
}

fn a_will_has_its_qos_and_properties(target: &Target) {
    let me = "a_will_has_its_qos";
    let mut watcher = watcher(target, me);
    let sent = [
        Property::user("b", "2"),
        Property::PayloadFormat(1),
        Property::user("a", "1"),
        Property::ContentType("text/plain".into()),
        Property::ResponseTopic("answers".into()),
        Property::CorrelationData(vec![0, 255]),
        Property::user("b", "2"),
    ];
    for qos in 0..3 {
        let mut will = Will::new(me, "gone: ü".as_bytes()).qos(qos).with(Property::WillDelay(0));
        for property in &sent {
            will = will.with(property.clone());
        }
        open(target, &connect(me).will(will.with(Property::MessageExpiry(100)))).drop_connection();
        let message = watcher.take_message(me, "gone: ü".as_bytes());
        assert_eq!(message.qos, qos);
        let (expiry, rest): (Vec<_>, Vec<_>) =
            message.properties.into_iter().partition(|p| matches!(p, Property::MessageExpiry(_)));
        assert_eq!(rest, sent);
        assert!(matches!(expiry[..], [Property::MessageExpiry(1..=100)]), "{expiry:?}");
    }
}

fn a_will_waits_for_its_delay(target: &Target) {
    let me = "a_will_waits";
    let mut watcher = watcher(target, me);
    let will = Will::new(me, b"gone").with(Property::WillDelay(1));
    let client = open(target, &lasting(me).will(will));
    let lost = std::time::Instant::now();
    client.drop_connection();
    watcher.take_message(me, b"gone");
    assert!(lost.elapsed().as_millis() >= 1000, "{:?}", lost.elapsed());
}

fn a_reconnect_within_the_delay_cancels_the_will(target: &Target) {
    let me = "a_reconnect_within";
    let mut watcher = watcher(target, me);
    let will = Will::new(me, b"gone").with(Property::WillDelay(4));
    open(target, &lasting(me).will(will)).drop_connection();
    let (client, present, _) = Raw::open(target.port, &lasting(me));
    assert!(present);
    client.leave();
    std::thread::sleep(std::time::Duration::from_secs(5));
    watcher.expect_nothing();
}

fn the_end_of_the_session_ends_the_delay(target: &Target) {
    let me = "the_end_of_the_session";
    let mut watcher = watcher(target, me);
    let will = || Will::new(me, b"gone").with(Property::WillDelay(3600));
    // A session that ends with its connection, and one that lasts a second.
    open(target, &connect(me).will(will())).drop_connection();
    watcher.take_message(me, b"gone");
    open(target, &connect(me).with(Property::SessionExpiry(1)).will(will())).drop_connection();
    watcher.take_message(me, b"gone");
}

fn a_clean_start_ends_the_delay(target: &Target) {
    let me = "a_clean_start_ends";
    let mut watcher = watcher(target, me);
    let will = Will::new(me, b"gone").with(Property::WillDelay(3600));
    open(target, &lasting(me).will(will)).drop_connection();
    let _new = open(target, &connect(me));
    watcher.take_message(me, b"gone");
}

fn a_take_over_publishes_a_will_without_delay(target: &Target) {
    let me = "a_take_over_publishes";
    let mut watcher = watcher(target, me);
    let mut first = open(target, &lasting(me).will(Will::new(me, b"first")));
    let delayed = Will::new(me, b"second").with(Property::WillDelay(3600));
    let mut second = open(target, &lasting(me).will(delayed));
    first.expect_disconnect(0x8E);
    watcher.take_message(me, b"first");
    let third = open(target, &lasting(me));
    second.expect_disconnect(0x8E);
    third.leave();
    watcher.expect_nothing();
}

fn a_will_survives_a_restart(_: &Target) {
    let me = "a_will_survives";
    let mut own = forebay_tests::broker::Broker::start();
    let will = Will::new(me, b"gone").with(Property::WillDelay(3600)).with(Property::MessageExpiry(1000));
    let connect = lasting(me).will(will.qos(1).with(Property::user("k", "v")));
    let (mut client, ..) = Raw::open(own.port(), &connect);
    // SUBACK says that the session is on disk.
    client.subscribe("anything", 1);
    own.kill();
    own.run();
    let mut watcher = Raw::clean(own.port(), V5, "a_will_survives-watcher");
    watcher.subscribe(me, 1);
    watcher.expect_nothing();
    // The session ends, and with it the delay.
    Raw::clean(own.port(), V5, me).leave();
    let message = watcher.take_message(me, b"gone");
    assert_eq!(message.qos, 1);
    assert!(message.properties.contains(&Property::user("k", "v")), "{message:?}");
}
