//! Messages of the server: QoS, manual acks, redelivery, aliases, limits.

use forebay_wire::reason::ReasonCode;

use super::peer::*;
use super::*;
use crate::{Inbox, LostReason};

fn token(received: &Received) -> u64 {
    received.token.unwrap()
}

fn lost(over: Over) -> ReasonCode {
    match over {
        Over::Lost(LostReason::Protocol(error), _) => error.reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_qos_is_acknowledged_as_it_is_read() {
    for version in [V311, V5] {
        let mut b = Bench::new(options(version));
        b.connect(false);
        let key = b.subscribed(Subscribe::to("t/#").qos(Q2));
        b.receive(&publish(version, "t/0", "zero", Q0, 0, false));
        b.receive(&publish(version, "t/1", "one", Q1, 7, false));
        b.receive(&publish(version, "t/2", "two", Q2, 8, false));
        assert!(b.flush().is_empty(), "nothing is acknowledged before it is read");
        assert_eq!((b.take(key).unwrap().topic(), b.flush()), ("t/0", vec![]));
        let one = b.take(key).unwrap();
        assert_eq!((one.payload(), one.qos(), one.dup()), (&b"one"[..], Q1, false));
        assert_eq!(b.flush(), [Packet::Ack(PUBACK, 7, 0)]);
        assert!(b.take(key).is_some() && b.take(key).is_none());
        assert_eq!(b.flush(), [Packet::Ack(PUBREC, 8, 0)]);
        b.receive(&publish(version, "t/2", "two", Q2, 8, true));
        assert_eq!(b.flush(), [Packet::Ack(PUBREC, 8, 0)], "the PUBREC was lost");
        b.receive(&ack(PUBREL, 8));
        assert_eq!(b.flush(), [Packet::Ack(PUBCOMP, 8, 0)]);
        b.receive(&ack(PUBREL, 8));
        let reason = if version.is_v5() { 0x92 } else { 0 };
        assert_eq!(b.flush(), [Packet::Ack(PUBCOMP, 8, reason)]);
        assert!(b.take(key).is_none(), "it came twice");
        assert_eq!(b.session.stats().received, 3);
    }
}

#[test]
fn acks_by_hand_leave_in_the_order_of_the_messages() {
    for version in [V311, V5] {
        let mut b = Bench::new(options(version));
        b.connect(false);
        let key = b.subscribed(Subscribe::to("t").qos(Q2).manual_ack());
        for (id, qos) in [(1, Q1), (2, Q2), (3, Q1), (4, Q1)] {
            b.receive(&publish(version, "t", "x", qos, id, false));
        }
        let all: Vec<_> = std::iter::from_fn(|| b.take(key)).collect();
        assert!(b.flush().is_empty());
        for at in [3, 1, 0] {
            assert!(b.session.ack(token(&all[at]), ReasonCode::Success));
        }
        assert_eq!(b.flush(), [Packet::Ack(PUBACK, 1, 0), Packet::Ack(PUBREC, 2, 0)]);
        b.session.ack(token(&all[2]), ReasonCode::ImplementationSpecificError);
        let reason = if version.is_v5() { 0x83 } else { 0 };
        assert_eq!(b.flush(), [Packet::Ack(PUBACK, 3, reason), Packet::Ack(PUBACK, 4, 0)]);
        assert!(!b.session.ack(token(&all[0]), ReasonCode::Success), "it is acknowledged already");
        assert!(b.flush().is_empty());
    }
}

#[test]
fn a_qos_2_message_that_is_refused_frees_its_identifier() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let key = b.subscribed(Subscribe::to("t").qos(Q2).manual_ack());
    b.receive(&publish(V5, "t", "x", Q2, 9, false));
    let refused = b.take(key).unwrap();
    b.session.ack(token(&refused), ReasonCode::QuotaExceeded);
    assert_eq!(b.flush(), [Packet::Ack(PUBREC, 9, 0x97)]);
    b.receive(&publish(V5, "t", "y", Q2, 9, false));
    assert_eq!(b.take(key).unwrap().payload(), b"y");
}

#[test]
fn what_the_program_still_holds_is_not_given_twice() {
    for version in [V311, V5] {
        let mut b = Bench::new(options(version));
        b.connect(false);
        let key = b.subscribed(Subscribe::to("t").qos(Q2).manual_ack());
        b.receive(&publish(version, "t", "held", Q1, 1, false));
        b.receive(&publish(version, "t", "done", Q2, 2, false));
        b.receive(&publish(version, "t", "unread", Q1, 3, false));
        let (held, done) = (b.take(key).unwrap(), b.take(key).unwrap());
        b.lose();
        assert!(b.session.ack(token(&done), ReasonCode::Success), "it is known, and acknowledged later");
        b.connect(true);
        assert!(b.flush().is_empty());
        for (payload, qos, id) in [("held", Q1, 1), ("done", Q2, 2), ("unread", Q1, 3)] {
            b.receive(&publish(version, "t", payload, qos, id, true));
        }
        assert!(b.flush().is_empty());
        assert_eq!(b.take(key).map(|m| m.payload().to_vec()), Some(b"unread".to_vec()));
        assert!(b.take(key).is_none());
        b.session.ack(token(&held), ReasonCode::Success);
        assert_eq!(b.flush(), [Packet::Ack(PUBACK, 1, 0), Packet::Ack(PUBREC, 2, 0)]);
    }
}

#[test]
fn a_new_message_under_the_identifier_of_one_that_was_never_repeated_is_new() {
    // It expired at the server while the client was away, for example.
    for version in [V311, V5] {
        let mut b = Bench::new(options(version));
        b.connect(false);
        let key = b.subscribed(Subscribe::to("t").qos(Q2).manual_ack());
        b.receive(&publish(version, "t", "old", Q1, 1, false));
        let old = b.take(key).unwrap();
        b.lose();
        b.connect(true);
        b.receive(&publish(version, "t", "new", Q1, 1, false));
        let new = b.take(key).expect("a message was lost");
        assert_eq!(new.payload(), b"new");
        assert!(!b.session.ack(token(&old), ReasonCode::Success));
        assert!(b.flush().is_empty());
        b.session.ack(token(&new), ReasonCode::Success);
        assert_eq!(b.flush(), [Packet::Ack(PUBACK, 1, 0)]);
    }
}

#[test]
fn a_server_that_forgets_that_it_has_sent_a_message_does_not_double_it() {
    // It came back from a crash: without DUP.
    for version in [V311, V5] {
        let mut b = Bench::new(options(version));
        b.connect(false);
        let key = b.subscribed(Subscribe::to("t").qos(Q2).manual_ack());
        b.receive(&publish(version, "t", "done", Q2, 1, false));
        b.receive(&publish(version, "t", "held", Q2, 2, false));
        let (done, _held) = (b.take(key).unwrap(), b.take(key).unwrap());
        b.session.ack(token(&done), ReasonCode::Success);
        b.flush();
        b.lose();
        b.connect(true);
        b.receive(&publish(version, "t", "done", Q2, 1, false));
        b.receive(&publish(version, "t", "held", Q2, 2, false));
        assert!(b.take(key).is_none());
        assert_eq!(b.flush(), [Packet::Ack(PUBREC, 1, 0)]);
        // Another message under such an identifier is another message, with DUP as well.
        b.lose();
        b.connect(true);
        b.receive(&publish(version, "t", "new", Q2, 1, true));
        assert_eq!(b.payloads(key), ["new"]);
    }
}

#[test]
fn a_message_of_an_ended_session_is_not_acknowledged_in_the_next() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let key = b.subscribed(Subscribe::to("t").qos(Q2).manual_ack());
    b.receive(&publish(V5, "t", "old", Q2, 1, false));
    let old = b.take(key).unwrap();
    b.lose();
    b.connect(false);
    assert!(!b.session.ack(token(&old), ReasonCode::Success));
    b.flush();
    b.receive(&publish(V5, "t", "new", Q2, 1, false));
    assert_eq!(b.take(key).unwrap().payload(), b"new");
}

#[test]
fn the_client_holds_the_server_to_its_receive_maximum() {
    let mut b = Bench::new(options(V5).receive_maximum(2));
    b.connect(false);
    let key = b.subscribed(Subscribe::to("t").qos(Q2).manual_ack());
    b.receive(&publish(V5, "t", "x", Q1, 1, false));
    b.receive(&publish(V5, "t", "x", Q2, 2, false));
    b.receive(&publish(V5, "t", "x", Q0, 0, false));
    let first = b.take(key).unwrap();
    b.session.ack(token(&first), ReasonCode::Success);
    b.receive(&publish(V5, "t", "x", Q2, 3, false));
    let over = b.refused(&publish(V5, "t", "x", Q1, 4, false));
    assert_eq!(lost(over), ReasonCode::ReceiveMaximumExceeded);
    assert_eq!(b.flush_last_words(), [Packet::Ack(PUBACK, 1, 0), Packet::Disconnect(vec![0x93])]);
}

#[test]
fn what_was_released_before_does_not_count_against_the_receive_maximum_of_a_new_connection() {
    let mut b = Bench::new(options(V5).receive_maximum(1));
    b.connect(false);
    let key = b.subscribed(Subscribe::to("t").qos(Q2));
    b.receive(&publish(V5, "t", "x", Q2, 1, false));
    b.take(key).unwrap();
    b.flush();
    b.lose();
    b.connect(true);
    // The server's quota begins anew [MQTT5-4.9.0-1]; its PUBREL is on the way.
    b.receive(&publish(V5, "t", "y", Q2, 2, false));
    b.receive(&ack(PUBREL, 1));
    assert_eq!(b.payloads(key), ["y"]);
    assert_eq!(b.flush(), [Packet::Ack(PUBCOMP, 1, 0), Packet::Ack(PUBREC, 2, 0)]);
}

#[test]
fn a_full_inbox_says_so_until_it_is_read() {
    let mut b = Bench::new(options(V5).inbox(Inbox { max_bytes: 1_000, ..Inbox::default() }));
    b.connect(false);
    let key = b.subscribed(Subscribe::to("t"));
    b.receive(&publish(V5, "t", &"x".repeat(990), Q0, 0, false));
    assert!(b.session.inbox_is_full());
    b.take(key).unwrap();
    assert!(!b.session.inbox_is_full());
}

#[test]
fn aliases_of_the_server_are_resolved_and_checked() {
    let mut b = Bench::new(options(V5).topic_alias_maximum(2));
    b.connect(false);
    let key = b.subscribed(Subscribe::to("a/#"));
    let with = |topic: &str, alias: u8| publish_with(V5, topic, "x", Q0, 0, false, &[0x23, 0, alias]);
    b.receive(&[with("a/1", 1), with("a/2", 2), with("", 1), with("a/3", 1), with("", 1)].concat());
    let topics: Vec<_> = std::iter::from_fn(|| b.take(key)).map(|m| m.topic().to_owned()).collect();
    assert_eq!(topics, ["a/1", "a/2", "a/1", "a/3", "a/3"]);
    assert_eq!(lost(b.refused(&with("a/4", 3))), ReasonCode::TopicAliasInvalid);
    b.lose();
    b.connect(true);
    assert_eq!(lost(b.refused(&with("", 1))), ReasonCode::ProtocolError, "they end with the connection");
}

#[test]
fn properties_reach_the_program() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let key = b.subscribed("t");
    let properties =
        [vec![1, 1, 2, 0, 0, 0, 9, 8], text("answer/here"), vec![9], text("id"), vec![3], text("text/plain")];
    let properties = [properties.concat(), user("k", "v")].concat();
    b.receive(&publish_with(V5, "t", "x", Q0, 0, false, &properties));
    let received = b.take(key).unwrap();
    let found = received.properties();
    assert_eq!((found.payload_is_utf8, received.expiry_s()), (true, Some(9)));
    assert_eq!(found.response_topic.as_deref(), Some("answer/here"));
    assert_eq!((found.content_type.as_deref(), received.correlation_data()), (Some("text/plain"), Some(&b"id"[..])));
    assert_eq!(found.user, [("k".to_owned(), "v".to_owned())]);
}

/// A server that does not look would send it again with every connection, if it were refused.
#[test]
fn what_only_its_sender_answers_for_is_delivered() {
    let levels = "l/".repeat(1_500);
    let users = user("k", "v").repeat(1_500);
    // Payload format indicator 1, and a byte that is in no character.
    let mut not_utf8 = publish_with(V5, "t/bytes", "?", Q1, 1, false, &[0x01, 1]);
    *not_utf8.last_mut().unwrap() = 0xff;
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let key = b.subscribed(Subscribe::to("#").qos(Q1));
    b.receive(&not_utf8);
    b.receive(&publish(V5, &levels, "deep", Q1, 2, false));
    b.receive(&publish_with(V5, "t/users", "many", Q1, 3, false, &users));
    let bytes = b.take(key).unwrap();
    assert_eq!((bytes.payload(), bytes.properties().payload_is_utf8), (&[0xff][..], true));
    assert_eq!(b.take(key).unwrap().topic(), levels);
    assert_eq!(b.take(key).unwrap().properties().user.len(), 1_500);
    let acks: Vec<Packet> = (1..=3).map(|id| Packet::Ack(PUBACK, id, 0)).collect();
    assert_eq!(b.flush(), acks);
}

#[test]
fn messages_that_nobody_claims_wait_for_who_subscribes() {
    let inbox = Inbox { max_unclaimed: 3, ..Inbox::default() };
    let mut b = Bench::new(options(V5).inbox(inbox));
    b.connect(true);
    for n in 1..=5 {
        b.receive(&publish(V5, if n == 4 { "u" } else { "t" }, &n.to_string(), Q1, n, false));
    }
    b.receive(&publish(V5, "t", "zero", Q0, 0, false));
    // The oldest two make room, and are acknowledged.
    assert_eq!(b.flush(), [Packet::Ack(PUBACK, 1, 0), Packet::Ack(PUBACK, 2, 0)]);
    assert_eq!(b.session.stats().unclaimed, 3);
    let key = b.subscribed(Subscribe::to("t").qos(Q1));
    assert_eq!(b.payloads(key), ["3", "5"]);
    assert_eq!(b.flush(), [Packet::Ack(PUBACK, 3, 0)], "4 is not read, 5 waits for it");
    let key = b.subscribed(Subscribe::to("u").qos(Q1));
    assert_eq!(b.payloads(key), ["4"]);
    assert_eq!(b.flush(), [Packet::Ack(PUBACK, 4, 0), Packet::Ack(PUBACK, 5, 0)]);
}

#[test]
fn messages_that_nobody_claims_are_bounded_in_bytes() {
    let inbox = Inbox { max_bytes: 10_000, ..Inbox::default() };
    let mut b = Bench::new(options(V5).inbox(inbox));
    b.connect(true);
    for n in 1..=50 {
        b.receive(&publish(V5, "t", &"x".repeat(1_000), Q1, n, false));
    }
    assert!(b.session.stats().unclaimed > 40, "{:?}", b.session.stats());
    assert!(!b.session.inbox_is_full(), "nobody could make room");
}

#[test]
fn messages_that_nobody_claimed_outlive_the_session() {
    let mut b = Bench::new(options(V5));
    b.connect(true);
    b.receive(&publish(V5, "t", "x", Q1, 1, false));
    b.lose();
    b.connect(false);
    let key = b.subscribed(Subscribe::to("t").qos(Q1));
    assert_eq!(b.payloads(key), ["x"]);
    assert!(b.flush().is_empty());
}

#[test]
fn a_message_that_nobody_claims_does_not_hold_back_the_others_for_ever() {
    for version in [V311, V5] {
        let mut b = Bench::new(options(version));
        b.connect(true);
        let key = b.subscribed(Subscribe::to("t").qos(Q1));
        b.receive(&publish(version, "left/over", "x", Q1, 1, false));
        b.receive(&publish(version, "t", "x", Q1, 2, false));
        b.take(key).unwrap();
        b.wait(S * 9).unwrap();
        assert!(b.flush().is_empty());
        assert_eq!(b.session.deadline(), Some(b.now + S));
        b.wait(S).unwrap();
        assert_eq!(b.flush(), [Packet::Ack(PUBACK, 1, 0), Packet::Ack(PUBACK, 2, 0)]);
        assert_eq!(b.session.stats().unclaimed, 1);
    }
}

#[cfg(feature = "durable")]
mod durable {
    use super::*;
    use crate::session::inbound::mark;
    use crate::session::instant_of;
    use crate::session::journal::{Committed, Op};

    fn commit(b: &mut Bench) -> Vec<Op> {
        let (ops, number) = b.session.take_ops();
        b.session.committed(number, Committed::All);
        ops
    }

    fn id(id: u16) -> forebay_wire::types::PacketId {
        forebay_wire::types::PacketId::new(id).unwrap()
    }

    #[test]
    fn an_identifier_is_on_disk_before_pubrec_and_off_it_before_pubcomp() {
        let mut b = Bench::with_journal(options(V5), Journal::durable());
        b.connect(false);
        assert_eq!(commit(&mut b), [Op::ForgetAll]);
        let key = b.subscribed(Subscribe::to("t").qos(Q2));
        b.receive(&publish(V5, "t", "x", Q2, 5, false));
        b.take(key).unwrap();
        assert!(b.flush().is_empty());
        assert_eq!(commit(&mut b), [Op::Seen { id: id(5), mark: mark("t", b"x") }]);
        assert_eq!(b.flush(), [Packet::Ack(PUBREC, 5, 0)]);
        b.receive(&ack(PUBREL, 5));
        // A program that ended now would take the next message under this identifier for this one.
        assert!(b.flush().is_empty());
        assert_eq!(commit(&mut b), [Op::Forget { id: id(5) }]);
        assert_eq!(b.flush(), [Packet::Ack(PUBCOMP, 5, 0)]);
    }

    #[test]
    fn publish_and_pubrel_wait_for_the_disk() {
        let mut b = Bench::with_journal(options(V5), Journal::durable());
        b.connect(false);
        assert_eq!(commit(&mut b), [Op::ForgetAll]);
        drop(b.publish(message("t", "x", Q2)));
        assert!(b.flush().is_empty());
        assert!(matches!(commit(&mut b)[..], [Op::Put { number: 1, .. }]));
        let sent = publishes(&b.flush());
        b.receive(&ack(PUBREC, sent[0].1));
        assert!(b.flush().is_empty());
        assert_eq!(commit(&mut b), [Op::Release { number: 1 }]);
        assert_eq!(b.flush(), [Packet::Ack(PUBREL, sent[0].1, 0)]);
        b.receive(&ack(PUBCOMP, sent[0].1));
        assert_eq!(commit(&mut b), [Op::Remove { number: 1 }]);
    }

    #[test]
    fn a_pubrel_whose_commit_comes_after_the_connection_is_sent_once() {
        let mut b = Bench::with_journal(options(V5), Journal::durable());
        b.connect(false);
        assert_eq!(commit(&mut b), [Op::ForgetAll]);
        drop(b.publish(message("t", "x", Q2)));
        commit(&mut b);
        let sent = publishes(&b.flush());
        b.receive(&ack(PUBREC, sent[0].1));
        b.lose();
        b.connect(true);
        assert!(b.flush().is_empty());
        commit(&mut b);
        assert_eq!(b.flush(), [Packet::Ack(PUBREL, sent[0].1, 0)]);
    }

    #[test]
    fn a_program_that_comes_back_goes_on_where_it_was() {
        let mut b = Bench::with_journal(options(V5), Journal::durable());
        let frame = crate::codec::frame::Frame::new(V5, &message("t", "x", Q2));
        b.session.restore(10, frame.clone(), None, true);
        b.session.restore(11, frame, None, false);
        b.session.restore_seen(id(4), mark("t", b"again"));
        let Packet::Connect { clean, .. } = b.connect(true) else { panic!() };
        assert!(!clean);
        let sent = b.flush();
        assert!(matches!(&sent[..], [Packet::Ack(PUBREL, 11, 0), Packet::Publish { id: 12, dup: true, .. }]));
        b.receive(&publish(V5, "t", "again", Q2, 4, true));
        assert_eq!(b.flush(), [Packet::Ack(PUBREC, 4, 0)]);
        assert_eq!(b.session.stats().received, 0);
    }

    /// QoS 2 is brought to its end: the server may hold it.
    #[test]
    fn what_expired_while_no_program_ran_is_not_sent() {
        for present in [true, false] {
            let mut b = Bench::with_journal(options(V5), Journal::durable());
            let frame = |qos| crate::codec::frame::Frame::new(V5, &message("t", "x", qos).expires_after(S * 60));
            b.session.restore(10, frame(Q1), Some(b.now), false);
            b.session.restore(11, frame(Q2), Some(b.now), false);
            b.session.restore(12, frame(Q1), Some(b.now + S * 9), false);
            b.session.restore(13, frame(Q1), None, false);
            b.connect(present);
            let sent: Vec<u16> = publishes(&b.flush()).into_iter().map(|(_, id, _)| id).collect();
            assert_eq!(sent, if present { vec![12, 13, 14] } else { vec![13, 14] });
            let expired = b.session.stats().expired;
            assert_eq!(expired, if present { 1 } else { 2 });
            assert!(commit(&mut b).contains(&Op::Remove { number: 10 }));
            // What this run has sent is the server's.
            b.lose();
            b.now += S * 10;
            b.connect(true);
            assert_eq!(publishes(&b.flush()).len(), sent.len());
        }
    }

    #[test]
    fn a_clock_that_is_not_set_says_nothing_of_an_expiry() {
        let (now, day) = (std::time::Instant::now(), Duration::from_secs(86_400));
        let at = |unix_s: u64, wall_s| instant_of(unix_s * 1_000, now, WallTime(Duration::from_secs(wall_s)));
        assert_eq!(at(1_700_000_000, 1_700_000_000 - 86_400), Some(now + day));
        assert_eq!(at(1_700_000_000, 1_700_000_001), Some(now));
        assert_eq!((at(86_400, 1_700_000_000), at(1_700_000_000, 60), at(86_400, 60)), (None, None, None));
    }
}
