//! CONNECT, CONNACK, keep alive, AUTH, DISCONNECT, and what no server sends.

use std::sync::Mutex;

use forebay_wire::reason::ReasonCode;

use super::peer::*;
use super::*;
use crate::session::Hint;
use crate::{Authenticator, ConnectError, EndReason, LostReason, Will};

fn open(b: &mut Bench) -> Packet {
    b.session.open(b.now).unwrap();
    b.flush().remove(0)
}

#[test]
fn the_first_connection_is_clean_unless_there_is_something_to_resume() {
    let plain = || Options::new("mqtt://h").unwrap().client_id("c");
    for (options, first, second) in [
        (plain(), true, false),
        (plain().version(V311), true, true),
        (plain().session_expiry(S), false, false),
        (plain().session_expiry(S).version(V311), false, false),
        (plain().session_expiry(S).clean_start(true), true, false),
        (plain().session_expiry(Duration::ZERO), true, false),
    ] {
        let mut b = Bench::new(options);
        let clean = |packet| matches!(packet, Packet::Connect { clean: true, .. });
        assert_eq!(clean(b.connect(false)), first, "{:?}", b.session.options);
        b.lose();
        assert_eq!(clean(b.connect(false)), second, "{:?}", b.session.options);
    }
}

#[test]
fn connect_says_what_the_options_say() {
    let will = Will::new(message("w", "gone", Q1).retain(true)).delay(S * 5);
    let options = Options::new("mqtt://me:secret@h").unwrap().client_id("c").will(will).keep_alive(S * 7);
    let options = options.session_expiry(S * 9).receive_maximum(10).maximum_packet_size(1_000).topic_alias_maximum(3);
    let mut b = Bench::new(options);
    b.session.open(b.now).unwrap();
    let expected = [
        &[0x10, 63, 0, 4][..],
        b"MQTT",
        &[5, 0xee, 0, 7],
        // Session expiry, Receive Maximum, Maximum Packet Size, Topic Alias Maximum.
        &[16, 0x11, 0, 0, 0, 9, 0x21, 0, 10, 0x27, 0, 0, 3, 0xe8, 0x22, 0, 3],
        &[0, 1, b'c', 5, 0x18, 0, 0, 0, 5, 0, 1, b'w', 0, 4],
        b"gone\0\x02me\0\x06secret",
    ];
    let expected = expected.concat();
    // Not clean, since there is a session expiry.
    let mut expected = expected;
    expected[9] = 0xec;
    expected[1] = expected.len() as u8 - 2;
    assert_eq!(b.flush_bytes(), expected);
}

#[test]
fn mqtt_3_without_a_client_identifier_makes_one_that_stays() {
    for version in [Version::V31, V311] {
        let mut b = Bench::new(Options::new("mqtt://h").unwrap().version(version).session_expiry(S));
        b.session.open(b.now).unwrap();
        b.flush_bytes();
        let id = b.session.client_id().to_owned();
        assert!((1..=23).contains(&id.len()) && id.bytes().all(|c| c.is_ascii_alphanumeric()), "{id:?}");
        let other = Bench::new(Options::new("mqtt://h").unwrap().version(version));
        assert_ne!(other.session.client_id(), id);
    }
}

#[test]
fn the_identifier_that_the_server_gives_is_kept() {
    let mut b = Bench::new(Options::new("mqtt://h").unwrap());
    let Packet::Connect { client_id, .. } = b.connect_with(false, &[&[0x12][..], &text("given")].concat()) else {
        panic!()
    };
    assert_eq!((client_id.as_str(), b.session.client_id()), ("", "given"));
    b.lose();
    let Packet::Connect { client_id, clean, .. } = b.connect(true) else { panic!() };
    assert_eq!((client_id.as_str(), clean), ("given", false));
}

#[test]
fn a_refusal_says_why_and_when_to_come_back() {
    let mut b = Bench::new(options(V5));
    open(&mut b);
    let properties = [vec![0x1f], text("full"), vec![0x1c], text("other:1"), user("retry-after-ms", "700")].concat();
    let over = b.refused(&connack(V5, false, 0x89, &properties));
    let Over::NotConnected(ConnectError::Refused { reason, reason_string, server_reference }, hint) = over else {
        panic!("{over:?}")
    };
    assert_eq!((reason, reason_string.as_deref()), (ReasonCode::ServerBusy, Some("full")));
    let expected = Hint { retry_after: Some(Duration::from_millis(700)), server_reference: Some("other:1".to_owned()) };
    assert_eq!((server_reference, hint), (expected.server_reference.clone(), expected));
    for (version, code, reason) in [
        (V311, 5, ReasonCode::NotAuthorized),
        (V311, 1, ReasonCode::UnsupportedProtocolVersion),
        (V5, 0x84, ReasonCode::UnsupportedProtocolVersion),
    ] {
        let mut b = Bench::new(options(version));
        open(&mut b);
        let over = b.refused(&connack(version, false, code, &[]));
        assert!(matches!(over, Over::NotConnected(ConnectError::Refused { reason: r, .. }, _) if r == reason));
    }
    // A server of 3.1.1 that does not know 5.
    let mut b = Bench::new(options(V5));
    open(&mut b);
    assert!(matches!(b.refused(&[0x20, 2, 0, 1]), Over::NotConnected(ConnectError::Refused { .. }, _)));
}

#[test]
fn what_is_not_mqtt_is_told_at_its_first_bytes() {
    for bytes in
        [&b"HTTP/1.1"[..], b"SSH-2.0", b"220 ", b"<html>", &[0x16, 3], &[0x15, 3], &[0x40, 2], &[0x30, 0xff, 0x7f]]
    {
        for version in [V311, V5] {
            let mut b = Bench::new(options(version));
            open(&mut b);
            let over = b.refused(bytes);
            assert!(matches!(over, Over::NotConnected(ConnectError::Protocol(_), _)), "{bytes:?}: {over:?}");
        }
    }
}

#[test]
fn a_connack_that_makes_no_sense_is_refused() {
    for bytes in [
        connack(V5, false, 0x10, &[]),
        connack(V5, false, 0x01, &[0x21, 0, 5]),
        connack(V5, true, 0x87, &[]),
        connack(V5, false, 0, &[0x21, 0, 0]),
        connack(V5, false, 0, &[0x27, 0, 0, 0, 0]),
        vec![0x20, 2, 0, 0],
        vec![0x20, 3, 2, 0, 0],
    ] {
        let mut b = Bench::new(options(V5));
        open(&mut b);
        let over = b.refused(&bytes);
        assert!(matches!(over, Over::NotConnected(ConnectError::Protocol(_), _)), "{bytes:?}: {over:?}");
        assert!(!b.session.is_online());
    }
    // A session of a client that asked for a new one.
    let mut b = Bench::new(options(V5).clean_start(true));
    open(&mut b);
    assert!(matches!(b.refused(&connack(V5, true, 0, &[])), Over::NotConnected(ConnectError::Protocol(_), _)));
}

#[test]
fn what_no_server_sends_ends_the_connection_with_a_reason() {
    let cases = [
        (vec![0x10, 0], 0x82),
        (connack(V5, false, 0, &[]), 0x82),
        (vec![0x82, 0], 0x82),
        (vec![0xc0, 0], 0x82),
        (vec![0xd0, 1, 0], 0x82),
        (vec![0x40, 2, 0, 0], 0x81),
        (vec![0x00, 0], 0x81),
        (vec![0x36, 0], 0x81),
        (vec![0x40, 3, 0, 1, 0x7f], 0x81),
        (with_reason(0xf0, 0x18, &[]), 0x82),
    ];
    for (bytes, reason) in cases {
        let mut b = Bench::new(options(V5));
        b.connect(false);
        let over = b.refused(&bytes);
        assert!(matches!(over, Over::Lost(LostReason::Protocol(_), _)), "{bytes:?}: {over:?}");
        assert_eq!(b.flush_last_words(), [Packet::Disconnect(vec![reason])], "{bytes:?}");
    }
    // MQTT 3.1.1 has no word for it.
    let mut b = Bench::new(options(V311));
    b.connect(false);
    b.refused(&[0x82, 0]);
    assert!(b.flush_last_words().is_empty());
}

#[test]
fn a_packet_larger_than_allowed_is_refused_before_it_is_there() {
    let mut b = Bench::new(options(V5).maximum_packet_size(100));
    b.connect(false);
    assert!(matches!(b.refused(&[0x30, 99]), Over::Lost(LostReason::Protocol(_), _)));
    assert_eq!(b.flush_last_words(), [Packet::Disconnect(vec![0x95])]);
}

#[test]
fn nothing_new_is_given_to_a_connection_that_is_over() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let mut ticket = b.publish(message("t", "x", Q0));
    let over = b.refused(&with_reason(0xe0, 0x8b, &user("retry-after-ms", "5")));
    let Over::Lost(LostReason::Server { reason, .. }, hint) = over else { panic!("{over:?}") };
    assert_eq!((reason, hint.retry_after), (ReasonCode::ServerShuttingDown, Some(Duration::from_millis(5))));
    assert!(b.flush_last_words().is_empty());
    b.lose();
    assert_eq!(ticket.try_outcome(), None);
    b.connect(false);
    assert_eq!(publishes(&b.flush()).len(), 1);
}

#[test]
fn a_silent_connection_is_asked_and_then_given_up() {
    for version in [V311, V5] {
        let mut b = Bench::new(options(version).keep_alive(S * 10));
        b.connect(false);
        assert_eq!(b.session.deadline(), Some(b.now + S * 10));
        b.wait(S * 9).unwrap();
        assert!(b.flush().is_empty());
        b.wait(S).unwrap();
        assert_eq!(b.flush(), [Packet::Ping]);
        b.wait(S * 4).unwrap();
        b.receive(&[0xd0, 0]);
        b.wait(S * 9).unwrap();
        // It is 10 s since the PINGREQ, whatever came since.
        assert_eq!(b.flush(), [Packet::Ping]);
        b.wait(S * 4).unwrap();
        let over = loop {
            if let Err(over) = b.wait(S) {
                break over;
            }
        };
        assert!(matches!(over, Over::Lost(LostReason::KeepAlive, _)));
    }
}

#[test]
fn a_client_that_only_sends_finds_out_as_well() {
    let mut b = Bench::new(options(V5).keep_alive(S * 10));
    b.connect(false);
    let mut pings = 0;
    let over = (0..100).find_map(|_| {
        drop(b.publish(message("t", "x", Q0)));
        pings += b.flush().iter().filter(|packet| **packet == Packet::Ping).count();
        b.wait(S).err()
    });
    assert!(matches!(over, Some(Over::Lost(LostReason::KeepAlive, _))));
    assert_eq!((pings, b.session.stats().written), (1, 15));
}

#[test]
fn a_client_that_only_receives_keeps_the_connection() {
    let mut b = Bench::new(options(V5).keep_alive(S * 10));
    b.connect(false);
    let mut pings = 0;
    for _ in 0..100 {
        b.receive(&publish(V5, "t", "x", Q0, 0, false));
        b.wait(S).unwrap();
        let sent = b.flush();
        pings += sent.len();
        if !sent.is_empty() {
            b.receive(&[0xd0, 0]);
        }
    }
    assert_eq!(pings, 10, "the server wants to hear something every 10 s");
}

#[test]
fn a_program_that_does_not_read_does_not_make_the_server_look_dead() {
    let mut b = Bench::new(options(V5).keep_alive(S * 10).inbox(crate::Inbox { max_bytes: 100, ..Default::default() }));
    b.connect(false);
    let key = b.subscribed("t");
    b.receive(&publish(V5, "t", &"x".repeat(100), Q0, 0, false));
    assert!(b.session.inbox_is_full(), "the driver reads nothing now, PINGRESP neither");
    let mut pings = 0;
    for _ in 0..100 {
        b.wait(S).unwrap();
        pings += b.flush().len();
    }
    assert!((9..=10).contains(&pings), "{pings}: the server must hear of this client");
    b.take(key).unwrap();
    b.wait(S * 4).unwrap();
    b.receive(&[0xd0, 0]);
    b.wait(S).unwrap();
}

#[test]
fn the_keep_alive_of_the_server_counts() {
    let mut b = Bench::new(options(V5).keep_alive(S * 60));
    b.connect_with(false, &[0x13, 0, 5]);
    assert_eq!(b.session.deadline(), Some(b.now + S * 5));
    b.lose();
    b.connect_with(false, &[0x13, 0, 0]);
    assert_eq!(b.session.deadline(), None);
    b.lose();
    let Packet::Connect { keep_alive, .. } = b.connect(false) else { panic!() };
    assert_eq!((keep_alive, b.session.deadline()), (60, Some(b.now + S * 60)));
}

#[test]
fn disconnect_says_so_and_gives_up_the_session_that_nobody_comes_back_to() {
    let plain = |version| Options::new("mqtt://h").unwrap().client_id("c").version(version);
    for (options, reason, expected) in [
        (plain(V5), ReasonCode::Success, Some(vec![0, 5, 0x11, 0, 0, 0, 0])),
        (options(V5), ReasonCode::Success, Some(vec![])),
        (options(V5), ReasonCode::DisconnectWithWill, Some(vec![4])),
        (options(V311), ReasonCode::Success, Some(vec![])),
        // There DISCONNECT means that the will is not published [MQTT-3.14.4-3].
        (options(V311), ReasonCode::DisconnectWithWill, None),
    ] {
        let mut b = Bench::new(options);
        b.connect(false);
        b.session.end(EndReason::Disconnected, Some(reason));
        let expected: Vec<_> = expected.into_iter().map(Packet::Disconnect).collect();
        assert_eq!(b.flush_last_words(), expected);
    }
}

#[test]
fn events_tell_the_story() {
    let mut b = Bench::new(options(V5));
    b.connect_with(false, &[0x21, 0, 9, 0x13, 0, 5]);
    b.lose();
    b.connect(true);
    let events = b.events();
    let [Event::Connected(first), Event::Connected(second)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((first.resumed, first.receive_maximum, first.server_keep_alive_s), (false, 9, Some(5)));
    assert_eq!((second.resumed, second.receive_maximum, second.client_id.as_str()), (true, 65_535, "c"));
    assert_eq!(b.session.stats().connections, 2);
}

#[derive(Default)]
struct Scripted {
    log: Mutex<Vec<String>>,
}

impl Authenticator for Scripted {
    fn method(&self) -> &str {
        "M"
    }

    fn start(&self) -> Result<Vec<u8>, String> {
        self.log.lock().unwrap().push("start".into());
        Ok(b"first".to_vec())
    }

    fn answer(&self, data: &[u8]) -> Result<Vec<u8>, String> {
        self.log.lock().unwrap().push(format!("answer {}", String::from_utf8_lossy(data)));
        if data == b"bad" { Err("bad data".into()) } else { Ok(b"second".to_vec()) }
    }

    fn finish(&self, data: &[u8]) -> Result<(), String> {
        self.log.lock().unwrap().push(format!("finish {}", String::from_utf8_lossy(data)));
        if data == b"fake" { Err("a fake server".into()) } else { Ok(()) }
    }
}

fn auth(reason: u8, method: &str, data: &str) -> Vec<u8> {
    with_reason(0xf0, reason, &[vec![0x15], text(method), vec![0x16], text(data)].concat())
}

fn own(reason: u8, data: &str) -> Packet {
    Packet::Auth(reason, [vec![0x15], text("M"), vec![0x16], text(data)].concat())
}

#[test]
fn enhanced_authentication_takes_its_steps_and_again_later() {
    let scripted = Arc::new(Scripted::default());
    let mut b = Bench::new(options(V5).authenticator(scripted.clone()));
    let Packet::Connect { properties, .. } = open(&mut b) else { panic!() };
    let expected = [vec![0x15], text("M"), vec![0x16], text("first")].concat();
    assert!(properties.ends_with(&expected));
    b.receive(&auth(0x18, "M", "challenge"));
    assert_eq!(b.flush(), [own(0x18, "second")]);
    b.receive(&connack(V5, false, 0, &[vec![0x15], text("M"), vec![0x16], text("proof")].concat()));
    assert!(b.session.is_online());
    assert_eq!(b.session.reauthenticate(), Ok(true));
    assert_eq!(b.flush(), [own(0x19, "first")]);
    b.receive(&auth(0x18, "M", "again"));
    assert_eq!(b.flush(), [own(0x18, "second")]);
    b.receive(&auth(0, "M", "proof2"));
    let log = scripted.log.lock().unwrap().join(", ");
    assert_eq!(log, "start, answer challenge, finish proof, start, answer again, finish proof2");
    drop(log);
    b.lose();
    assert_eq!(b.session.reauthenticate(), Ok(false));
}

#[test]
fn authentication_data_that_the_server_does_not_take_is_not_sent() {
    let mut b = Bench::new(options(V5).authenticator(Arc::new(Scripted::default())));
    open(&mut b);
    // With "first" the packet has 16 bytes, with "second" one more.
    b.receive(&connack(V5, false, 0, &[0x27, 0, 0, 0, 16]));
    assert_eq!(b.session.reauthenticate(), Ok(true));
    assert_eq!(b.flush_bytes().len(), 16);
    let over = b.refused(&auth(0x18, "M", "again"));
    assert!(matches!(over, Over::Lost(LostReason::Authentication(_), _)), "{over:?}");
    assert!(b.flush_last_words().is_empty());
    b.lose();
    open(&mut b);
    b.receive(&connack(V5, true, 0, &[0x27, 0, 0, 0, 15]));
    assert!(b.session.reauthenticate().unwrap_err().contains("5 bytes"));
    assert!(b.flush().is_empty());
}

#[test]
fn authentication_that_fails_on_this_side_ends_the_connection() {
    let bench = || Bench::new(options(V5).authenticator(Arc::new(Scripted::default())));
    let failed = |over: &Over| matches!(over, Over::NotConnected(ConnectError::Authentication(_), _));
    let mut b = bench();
    open(&mut b);
    assert!(failed(&b.refused(&auth(0x18, "M", "bad"))));
    let mut b = bench();
    open(&mut b);
    let properties = [vec![0x15], text("M"), vec![0x16], text("fake")].concat();
    assert!(failed(&b.refused(&connack(V5, false, 0, &properties))));
    assert!(!b.session.is_online());
    // The server chose another method, or is satisfied before it said so in CONNACK.
    for bytes in [auth(0x18, "N", "x"), auth(0, "M", "x")] {
        let mut b = bench();
        open(&mut b);
        assert!(matches!(b.refused(&bytes), Over::NotConnected(ConnectError::Protocol(_), _)));
    }
    // During a connection it is a connection that is lost, not one that was not made.
    let mut b = bench();
    b.connect(false);
    b.session.reauthenticate().unwrap();
    b.flush();
    let over = b.refused(&auth(0x18, "M", "bad"));
    assert!(matches!(over, Over::Lost(LostReason::Authentication(_), _)), "{over:?}");
}

#[test]
fn problem_information_is_waived_where_the_program_says_so() {
    for (options, waived) in [(options(V5), false), (options(V5).without_problem_information(), true)] {
        let mut b = Bench::new(options);
        let Packet::Connect { properties, .. } = b.connect(false) else { panic!() };
        assert_eq!(properties.windows(2).any(|pair| pair == [0x17, 0]), waived, "{properties:02x?}");
    }
}

/// A program that is killed does not come back to a session whose identifier nobody knows: the server keeps none.
#[test]
fn without_a_client_identifier_no_session_is_kept() {
    let plain = || Options::new("mqtt://h").unwrap();
    for (options, expiry_s) in [
        (plain(), 0),
        (plain().client_id("c"), 3600),
        (plain().session_expiry(S * 9), 9),
        (plain().client_id("c").session_expiry(Duration::ZERO), 0),
    ] {
        assert_eq!(options.session_expiry_s(), expiry_s);
    }
}

/// What is asked for within a keep alive is asked for once, and a line that answers is not given up.
#[test]
fn keep_alive_has_an_upper_bound_as_well() {
    let mut b = Bench::new(options(V5).keep_alive(S * 10));
    b.connect(false);
    for _ in 0..10 {
        b.wait(Duration::from_millis(9_900)).unwrap();
        assert_eq!(b.flush(), [], "asked too early");
        b.wait(Duration::from_millis(100)).unwrap();
        assert_eq!(b.flush(), [Packet::Ping], "not asked at the keep alive");
        b.receive(&[0xd0, 0]);
    }
    b.wait(S * 10).unwrap();
    assert_eq!(b.flush(), [Packet::Ping]);
    // No answer: given up within one and a half times the keep alive, and not before.
    b.wait(Duration::from_millis(4_900)).unwrap();
    assert!(matches!(b.wait(Duration::from_millis(100)), Err(Over::Lost(LostReason::KeepAlive, _))));
}

/// What an authenticator says has two bytes for its length: more would make a malformed packet.
#[test]
fn an_answer_of_an_authenticator_that_is_too_long_is_an_error() {
    struct TooLong(usize);
    impl crate::Authenticator for TooLong {
        fn method(&self) -> &str {
            "M"
        }
        fn start(&self) -> Result<Vec<u8>, String> {
            Ok(vec![0; self.0])
        }
        fn answer(&self, _: &[u8]) -> Result<Vec<u8>, String> {
            Ok(vec![0; 65_536])
        }
        fn finish(&self, _: &[u8]) -> Result<(), String> {
            Ok(())
        }
    }
    let mut b = Bench::new(options(V5).authenticator(Arc::new(TooLong(65_536))));
    let refused = b.session.open(b.now);
    assert!(matches!(refused, Err(ConnectError::Authentication(_))), "{refused:?}");
    let mut b = Bench::new(options(V5).authenticator(Arc::new(TooLong(65_535))));
    b.session.open(b.now).unwrap();
    b.flush();
    let over = b.refused(&[0xf0, 6, 0x18, 4, 0x15, 0, 1, b'M']);
    assert!(matches!(over, Over::NotConnected(ConnectError::Authentication(_), _)), "{over:?}");
    // The errors lead to what is beneath them.
    let error = ConnectError::Protocol(forebay_wire::WireError::protocol("x", "y"));
    assert!(std::error::Error::source(&error).is_some());
}
