//! What the ACL lets through, and what happens when it changes.

use forebay_tests::packet::build::{Connect, Publish};
use forebay_tests::packet::property::Property;
use forebay_tests::packet::{Ack, Version};
use forebay_tests::raw::Raw;

use crate::Site;

pub const TESTS: &[(&str, fn())] = &[
    ("a_publish_that_is_not_allowed_is_told_and_goes_nowhere", a_publish_that_is_not_allowed_is_told_and_goes_nowhere),
    ("a_setting_disconnects_an_older_client", a_setting_disconnects_an_older_client),
    ("a_wide_subscription_brings_what_may_be_read", a_wide_subscription_brings_what_may_be_read),
    ("a_change_reaches_who_is_connected", a_change_reaches_who_is_connected),
    ("what_is_queued_is_dropped_as_revoked", what_is_queued_is_dropped_as_revoked),
    ("a_session_that_another_user_takes_gives_nothing_away", a_session_that_another_user_takes_gives_nothing_away),
];

const USERS: &[(&str, &str)] = &[("admin", "a"), ("pump", "p")];
const ADMIN: &str = "user admin\ntopic #\ntopic read $SYS/#\n";

fn connect(version: Version, client: &str, user: &str) -> Connect {
    Connect::new(version, client).user(user).password(&user.as_bytes()[..1])
}

fn open(site: &Site, version: Version, client: &str, user: &str) -> Raw {
    Raw::open(site.port(), &connect(version, client, user)).0
}

fn site(rules: &str, extra: &str) -> Site {
    Site::start(USERS, Some(&format!("{ADMIN}{rules}")), extra)
}

/// Nothing more has come than what has been looked at.
fn nothing_came(raw: &mut Raw) {
    raw.send(&[0xC0, 0]);
    raw.expect(&[0xD0, 0]);
}

fn a_publish_that_is_not_allowed_is_told_and_goes_nowhere() {
    let site = site("user pump\ntopic write up\ntopic read down\n", "");
    let mut admin = open(&site, Version::V5, "admin", "admin");
    admin.subscribe("#", 2);
    let mut v5 = open(&site, Version::V5, "v5", "pump");
    for (topic, reason) in [("down", 0x87), ("up", 0), ("$delayed/1/down", 0x87), ("$once/o/1.1/down", 0x87)] {
        v5.send(&Publish::new(Version::V5, topic, b"1").qos(1, 7).packet());
        v5.expect_ack(Ack::Puback, 7, reason);
    }
    v5.send(&Publish::new(Version::V5, "other", b"0").packet());
    v5.send(&Publish::new(Version::V5, "other", b"0").retain().with(Property::TopicAlias(1)).packet());
    v5.send(&Publish::new(Version::V5, "", b"2").qos(2, 8).with(Property::TopicAlias(1)).packet());
    v5.expect_ack(Ack::Pubrec, 8, 0x87);
    let mut v4 = open(&site, Version::V4, "v4", "pump");
    v4.send(&Publish::new(Version::V4, "down", b"3").qos(1, 1).packet());
    v4.expect_ack(Ack::Puback, 1, 0);
    v4.publish("up", 1, b"last");
    assert_eq!(admin.take_any().payload, b"1");
    assert_eq!(admin.take_any().payload, b"last", "nothing that is denied is delivered");
    nothing_came(&mut admin);
    let denied = |filter: &str, version: Version, code: u8| {
        let mut raw = open(&site, version, "sub", "pump");
        raw.send(
            &forebay_tests::packet::build::Subscribe::new(version, 1).filter("down", 1).filter(filter, 1).packet(),
        );
        raw.expect_suback(1, &[1, code]);
    };
    for filter in ["up", "other/#", "$SYS/#", "$share/g/$SYS/#", "$share/g/up"] {
        denied(filter, Version::V5, 0x87);
        denied(filter, Version::V4, 0x80);
    }
    site.until_logged("PUBLISH denied by the ACL");
}

fn a_setting_disconnects_an_older_client() {
    let site = site("user pump\ntopic write up\n", "denied_publish = \"disconnect\"\n");
    let mut v4 = open(&site, Version::V4, "v4", "pump");
    v4.send(&Publish::new(Version::V4, "up", b"").qos(1, 1).packet());
    v4.expect_ack(Ack::Puback, 1, 0);
    v4.send(&Publish::new(Version::V4, "down", b"").qos(1, 2).packet());
    v4.expect_closed();
    let mut v5 = open(&site, Version::V5, "v5", "pump");
    v5.send(&Publish::new(Version::V5, "down", b"").qos(1, 2).packet());
    v5.expect_ack(Ack::Puback, 2, 0x87);
    nothing_came(&mut v5);
}

/// `#`, `+/#`, a shared subscription; live, retained, and as the same bytes for QoS 0.
fn a_wide_subscription_brings_what_may_be_read() {
    let site = site("user pump\ntopic read open/#\ntopic deny open/secret\n", "");
    let mut admin = open(&site, Version::V5, "admin", "admin");
    for topic in ["open/r", "open/secret", "closed/r"] {
        admin.send(&Publish::new(Version::V5, topic, b"retained").qos(1, 1).retain().packet());
        admin.receive_answer();
    }
    for filter in ["#", "+/#", "+/+", "open/#", "$share/g/#"] {
        let mut pump = open(&site, Version::V5, "pump", "pump");
        pump.subscribe(filter, 2);
        if !filter.starts_with("$share") {
            pump.take_message("open/r", b"retained");
        }
        for qos in 0..3 {
            for topic in ["open/secret", "closed/x", "open/x"] {
                admin.publish(topic, qos, b"live");
            }
            pump.take_message("open/x", b"live");
        }
        nothing_came(&mut pump);
        pump.leave();
    }
}

fn a_change_reaches_who_is_connected() {
    let site = site("user pump\ntopic read a/#\ntopic read b/#\ntopic write up\n", "");
    let mut admin = open(&site, Version::V5, "admin", "admin");
    let mut pump = open(&site, Version::V5, "pump", "pump");
    pump.subscribe("a/#", 1);
    pump.subscribe("+/x", 1);
    pump.subscribe("b/#", 1);
    admin.publish("a/x", 1, b"before");
    pump.take_any();
    pump.publish("up", 1, b"");
    site.change_acl(&format!("{ADMIN}user pump\ntopic read b/#\n"));
    admin.publish("a/x", 0, b"after");
    admin.publish("a/x", 1, b"after");
    admin.publish("b/x", 1, b"still");
    assert_eq!(pump.take_any().topic, "b/x");
    nothing_came(&mut pump);
    pump.send(&Publish::new(Version::V5, "up", b"").qos(1, 9).packet());
    pump.expect_ack(Ack::Puback, 9, 0x87);
    let log = site.until_logged("subscription removed");
    assert!(log.contains("a/#") && !log.contains("filter=\"b/#\""), "{log}");
}

fn kept(version: Version, client: &str, user: &str) -> Connect {
    connect(version, client, user).resume().with(Property::SessionExpiry(3600))
}

/// In memory and on disk, over a restart, and what was in flight.
fn what_is_queued_is_dropped_as_revoked() {
    let mut site = site("user pump\ntopic read a/#\ntopic read b/#\n", "");
    let mut pump = Raw::open(site.port(), &kept(Version::V5, "pump", "pump").with(Property::ReceiveMaximum(1))).0;
    pump.subscribe("a/#", 1);
    pump.subscribe("b/#", 1);
    let mut admin = open(&site, Version::V5, "admin", "admin");
    for topic in ["a/1", "a/2", "b/3"] {
        admin.publish(topic, 1, b"x");
    }
    assert_eq!(pump.receive_bytes().map(|bytes| bytes[0] & 0xF6), Some(0x32), "one is in flight");
    pump.drop_connection();
    site.broker.kill();
    let rules = format!("{ADMIN}user pump\ntopic read b/#\n");
    std::fs::write(site.folder.path().join("acl"), rules).unwrap();
    site.broker.run();
    let mut pump = Raw::open(site.port(), &kept(Version::V5, "pump", "pump")).0;
    assert_eq!(pump.take_any().topic, "b/3");
    nothing_came(&mut pump);
    let mut admin = open(&site, Version::V5, "admin", "admin");
    admin.subscribe("$SYS/broker/ledger/#", 0);
    let begun = std::time::Instant::now();
    loop {
        let message = admin.take_any();
        if message.topic.ends_with("revoked") && message.payload == b"2" {
            break;
        }
        assert!(begun.elapsed().as_secs() < 20, "{}: {:?}", message.topic, message.payload);
    }
}

fn a_session_that_another_user_takes_gives_nothing_away() {
    let site = site("user pump\ntopic read b/#\n", "");
    let mut first = Raw::open(site.port(), &kept(Version::V5, "same", "admin")).0;
    first.subscribe("#", 1);
    first.drop_connection();
    let mut admin = open(&site, Version::V5, "admin", "admin");
    admin.publish("a/1", 1, b"x");
    admin.publish("b/1", 1, b"x");
    let mut second = Raw::open(site.port(), &kept(Version::V5, "same", "pump")).0;
    assert_eq!(second.take_any().topic, "b/1");
    for qos in [0, 1] {
        admin.publish("a/2", qos, b"x");
        admin.publish("b/2", qos, b"x");
        assert_eq!(second.take_any().topic, "b/2");
    }
    nothing_came(&mut second);
}
