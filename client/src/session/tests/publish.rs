//! Messages of the program: QoS, replay, expiry, refusals, aliases.

use forebay_wire::reason::ReasonCode;

use super::peer::*;
use super::*;
use crate::Dropped;

fn ids(packets: &[Packet]) -> Vec<u16> {
    publishes(packets).into_iter().map(|(_, id, _)| id).collect()
}

#[test]
fn qos_0_is_written_and_done() {
    for version in [V311, V5] {
        let mut b = Bench::new(options(version));
        b.connect(false);
        let mut ticket = b.publish(message("t", "x", Q0).retain(true));
        let _unheard = b.publish(message("t", "y", Q0));
        assert!(ticket.try_outcome().is_none());
        let sent = b.flush();
        assert_eq!(publishes(&sent), [("x".into(), 0, false), ("y".into(), 0, false)]);
        assert!(matches!(&sent[0], Packet::Publish { qos: 0, retain: true, topic, .. } if topic == "t"));
        assert_eq!(ticket.try_outcome().unwrap().unwrap().reason, ReasonCode::Success);
        assert_eq!((b.session.stats().written, b.session.stats().outbox_messages), (2, 0));
    }
}

#[test]
fn qos_0_in_the_buffer_of_a_lost_connection_is_counted() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let mut ticket = b.publish(message("t", "x", Q0));
    drop(b.publish(message("t", "y", Q0)));
    let mut out = Vec::new();
    b.session.fill(b.now, &mut out, &mut b.unwritten);
    assert!(!b.session.is_drained(), "it is not written yet");
    b.lose();
    assert_eq!(ticket.try_outcome(), Some(Err(Dropped::ConnectionLost)));
    assert_eq!(b.session.stats().lost_unwritten, 2);
}

#[test]
fn qos_1_is_acknowledged() {
    for version in [V311, V5] {
        let mut b = Bench::new(options(version));
        b.connect(false);
        let mut ticket = b.publish(message("t", "x", Q1));
        let sent = b.flush();
        let [Packet::Publish { id, dup: false, qos: 1, .. }] = sent[..] else { panic!("{sent:?}") };
        assert!(ticket.try_outcome().is_none() && !b.session.is_drained());
        // What does not fit changes nothing.
        b.receive(&[ack(PUBCOMP, id), ack(PUBREC, id), ack(PUBACK, id + 1)].concat());
        assert!(ticket.try_outcome().is_none());
        b.receive(&ack(PUBACK, id));
        assert!(ticket.try_outcome().unwrap().is_ok());
        assert_eq!((b.session.stats().acked, b.session.is_drained()), (1, true));
    }
}

#[test]
fn qos_2_takes_four_packets() {
    for version in [V311, V5] {
        let mut b = Bench::new(options(version));
        b.connect(false);
        let mut ticket = b.publish(message("t", "x", Q2));
        let id = ids(&b.flush())[0];
        b.receive(&ack(PUBACK, id));
        assert!(ticket.try_outcome().is_none(), "a PUBACK is no answer to QoS 2");
        b.receive(&ack(PUBREC, id));
        assert_eq!(b.flush(), [Packet::Ack(PUBREL, id, 0)]);
        b.receive(&ack(PUBREC, id));
        assert_eq!(b.flush(), [Packet::Ack(PUBREL, id, 0)], "a repeated PUBREC is answered again");
        assert!(ticket.try_outcome().is_none());
        b.receive(&ack(PUBCOMP, id));
        assert!(ticket.try_outcome().unwrap().is_ok());
        assert!(b.session.is_drained());
    }
}

#[test]
fn pubcomp_that_finds_no_identifier_is_an_arrival() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let mut ticket = b.publish(message("t", "x", Q2));
    let id = ids(&b.flush())[0];
    b.receive(&ack(PUBREC, id));
    b.flush();
    b.receive(&ack_with(PUBCOMP, id, 0x92, &[]));
    assert!(ticket.try_outcome().unwrap().is_ok());
}

#[test]
fn the_reason_of_an_ack_reaches_the_ticket() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let mut fine = b.publish(message("t", "x", Q1));
    let mut refused = b.publish(message("t", "y", Q1));
    let mut refused2 = b.publish(message("t", "z", Q2));
    let ids = ids(&b.flush());
    b.receive(&ack_with(PUBACK, ids[0], 0x10, &[]));
    b.receive(&ack_with(PUBACK, ids[1], 0x87, &[]));
    b.receive(&ack_with(PUBREC, ids[2], 0x83, &[]));
    assert_eq!(fine.try_outcome().unwrap().unwrap().reason, ReasonCode::NoMatchingSubscribers);
    assert_eq!(refused.try_outcome(), Some(Err(Dropped::Refused(ReasonCode::NotAuthorized))));
    assert_eq!(refused2.try_outcome(), Some(Err(Dropped::Refused(ReasonCode::ImplementationSpecificError))));
    assert_eq!((b.session.stats().refused, b.flush()), (2, vec![]));
    b.check();
}

#[test]
fn a_resumed_session_repeats_in_order_with_dup_and_within_the_new_receive_maximum() {
    for version in [V311, V5] {
        let mut b = Bench::new(options(version));
        b.connect(false);
        for n in 0..6 {
            drop(b.publish(message("t", n, if n % 2 == 0 { Q1 } else { Q2 })));
        }
        let ids = ids(&b.flush());
        b.receive(&ack(PUBREC, ids[1]));
        b.receive(&ack(PUBACK, ids[2]));
        assert_eq!(b.flush(), [Packet::Ack(PUBREL, ids[1], 0)]);
        drop(b.publish(message("t", "later", Q1)));
        assert!(ids.len() == 6 && publishes(&b.flush()).len() == 1);
        assert!(publishes(&b.flush()).is_empty(), "never again on a live connection");
        b.lose();
        b.now += S * 3600;
        drop(b.publish(message("t", "offline", Q1)));
        // Three at a time now, where there is a Receive Maximum.
        b.connect_with(true, if version.is_v5() { &[0x21, 0, 3] } else { &[] });
        let sent = b.flush();
        assert_eq!(sent[1], Packet::Ack(PUBREL, ids[1], 0), "what was PUBREC'd goes on with PUBREL");
        let p = |n: &str, at: usize| (n.to_owned(), ids[at], true);
        if version.is_v5() {
            assert_eq!(publishes(&sent), [p("0", 0), p("3", 3)]);
            b.receive(&ack(PUBCOMP, ids[1]));
            assert_eq!(publishes(&b.flush()), [p("4", 4)]);
            b.receive(&[ack(PUBACK, ids[0]), ack(PUBREC, ids[3])].concat());
            assert_eq!(publishes(&b.flush()), [p("5", 5)]);
            b.receive(&ack(PUBACK, ids[4]));
            let last = publishes(&b.flush());
            assert!(last.len() == 1 && last[0].0 == "later" && last[0].2, "{last:?}");
            b.receive(&ack(PUBCOMP, ids[3]));
            let last = publishes(&b.flush());
            assert!(last.len() == 1 && last[0].0 == "offline" && !last[0].2, "it was never sent: {last:?}");
        } else {
            let payloads: Vec<_> = publishes(&sent).into_iter().map(|(payload, _, dup)| (payload, dup)).collect();
            let expected = ["0", "3", "4", "5", "later"].map(|payload| (payload.to_owned(), true));
            assert_eq!(payloads[..5], expected);
            assert_eq!(payloads[5..], [("offline".to_owned(), false)]);
        }
    }
}

#[test]
fn before_mqtt_5_few_of_qos_2_are_sent_at_once() {
    for (version, at_once) in [(V311, 19), (V5, 50)] {
        let mut b = Bench::new(options(version));
        b.connect(false);
        for n in 0..50 {
            drop(b.publish(message("t", n, Q2)));
        }
        let first = ids(&b.flush());
        assert_eq!(first.len(), at_once);
        b.lose();
        b.connect(true);
        assert_eq!(ids(&b.flush()), first);
        b.receive(&ack(PUBREC, first[0]));
        assert_eq!(b.flush(), [Packet::Ack(PUBREL, first[0], 0)]);
        b.receive(&ack(PUBCOMP, first[0]));
        assert_eq!(publishes(&b.flush()).len(), usize::from(at_once < 50));
    }
}

#[test]
fn a_lost_session_is_sent_anew_and_what_was_pubrecd_is_done() {
    for version in [V311, V5] {
        let mut b = Bench::new(options(version));
        b.connect(false);
        drop(b.publish(message("t", "0", Q1)));
        let mut taken_over = b.publish(message("t", "1", Q2));
        drop(b.publish(message("t", "2", Q2)));
        let first = ids(&b.flush());
        b.receive(&ack(PUBREC, first[1]));
        b.flush();
        b.lose();
        drop(b.publish(message("t", "3", Q1)));
        b.connect(false);
        assert!(taken_over.try_outcome().unwrap().is_ok());
        let anew: Vec<_> = publishes(&b.flush()).into_iter().map(|(payload, _, dup)| (payload, dup)).collect();
        assert_eq!(anew, ["0", "2", "3"].map(|payload| (payload.to_owned(), false)));
        b.check();
    }
}

#[test]
fn expiry_runs_while_offline_and_what_remains_is_sent() {
    for version in [V311, V5] {
        let mut b = Bench::new(options(version));
        let mut short = b.publish(message("t", "short", Q1).expires_after(S * 10));
        let mut zero = b.publish(message("t", "short", Q0).expires_after(S * 10));
        drop(b.publish(message("t", "long", Q1).expires_after(S * 100)));
        b.wait(S * 9).unwrap();
        assert!(short.try_outcome().is_none());
        assert_eq!(b.session.deadline(), Some(b.now + S));
        b.wait(S).unwrap();
        assert_eq!(short.try_outcome(), Some(Err(Dropped::Expired)));
        assert_eq!(zero.try_outcome(), Some(Err(Dropped::Expired)));
        b.now += S * 5 / 2;
        b.connect(false);
        let sent = b.flush();
        let [Packet::Publish { payload, properties, .. }] = &sent[..] else { panic!("{sent:?}") };
        let remaining = if version.is_v5() { vec![2, 0, 0, 0, 88] } else { vec![] };
        assert_eq!((payload.as_str(), properties), ("long", &remaining));
        // What is in flight is the server's, and is repeated whatever the time.
        b.lose();
        b.wait(S * 200).unwrap();
        b.connect(true);
        let sent = b.flush();
        let [Packet::Publish { dup: true, properties, .. }] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!(properties, &if version.is_v5() { vec![2, 0, 0, 0, 1] } else { vec![] });
    }
}

#[test]
fn what_comes_back_from_a_lost_session_expires_in_the_queue() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let mut ticket = b.publish(message("t", "x", Q1).expires_after(S * 10));
    b.flush();
    b.wait(S * 5).unwrap();
    b.lose();
    b.connect_with(false, &[0x21, 0, 1]);
    b.lose();
    b.wait(S * 6).unwrap();
    assert_eq!(ticket.try_outcome(), Some(Err(Dropped::Expired)));
}

#[test]
fn what_the_server_does_not_take_is_dropped_with_the_reason() {
    let mut b = Bench::new(options(V5));
    let mut large = b.publish(message("t", "x".repeat(100), Q1));
    let mut qos = b.publish(message("t", "x", Q2));
    let mut retained = b.publish(message("t", "x", Q1).retain(true));
    let mut fine = b.publish(message("t", "x", Q1));
    // Maximum Packet Size 100, Maximum QoS 1, Retain Available 0.
    b.connect_with(false, &[0x27, 0, 0, 0, 100, 0x24, 1, 0x25, 0]);
    let sent = b.flush();
    assert_eq!(sent.len(), 1);
    assert_eq!(large.try_outcome(), Some(Err(Dropped::NotTaken(ReasonCode::PacketTooLarge))));
    assert_eq!(qos.try_outcome(), Some(Err(Dropped::NotTaken(ReasonCode::QoSNotSupported))));
    assert_eq!(retained.try_outcome(), Some(Err(Dropped::NotTaken(ReasonCode::RetainNotSupported))));
    b.receive(&ack(PUBACK, ids(&sent)[0]));
    assert!(fine.try_outcome().unwrap().is_ok());
    // The limit is of the whole packet, to the byte.
    let mut exact = b.publish(message("t", "x".repeat(100 - 2 - 3 - 2 - 1), Q1));
    let mut over = b.publish(message("t", "x".repeat(100 - 2 - 3 - 2), Q1));
    assert_eq!(b.flush_bytes().len(), 100);
    assert!(exact.try_outcome().is_none() && over.try_outcome().is_some());
}

#[test]
fn topics_that_repeat_become_aliases_which_end_with_the_connection() {
    let mut b = Bench::new(options(V5));
    b.connect_with(false, &[0x22, 0, 1]);
    let topic = "a/long/topic";
    let sent = |b: &mut Bench| {
        for _ in 0..3 {
            drop(b.publish(message(topic, "x", Q1)));
        }
        let sent = b.flush();
        let of = |packet: &Packet| match packet {
            Packet::Publish { topic, properties, .. } => (topic.clone(), properties.clone()),
            other => panic!("{other:?}"),
        };
        sent.iter().map(of).collect::<Vec<_>>()
    };
    let alias = vec![0x23, 0, 1];
    let expected = [(topic.to_owned(), vec![]), (topic.to_owned(), alias.clone()), (String::new(), alias.clone())];
    assert_eq!(sent(&mut b), expected);
    b.lose();
    b.connect_with(true, &[0x22, 0, 1]);
    let again = b.flush();
    assert!(matches!(&again[0], Packet::Publish { topic: first, dup: true, .. } if first == topic));
    // A server that takes none gets none.
    b.lose();
    b.connect(true);
    assert_eq!(publishes(&b.flush()).len(), 3);
    assert!(sent(&mut b).iter().all(|(name, properties)| name == topic && properties.is_empty()));
}

#[test]
fn a_pause_that_is_over_while_the_socket_is_full_is_not_due_for_ever() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    drop(b.publish(message("t", "0", Q1)));
    let id = ids(&b.flush())[0];
    b.receive(&ack_with(PUBACK, id, 0x97, &user("retry-after-ms", "10")));
    // The driver cannot fill, and looks at the clock.
    b.wait(S).unwrap();
    assert_eq!(publishes(&b.flush()).len(), 1);
}

#[test]
fn a_server_without_room_is_obeyed_and_the_order_is_kept() {
    let mut b = Bench::new(options(V5).window(1));
    b.connect(false);
    for n in 0..3 {
        drop(b.publish(message("t", n, Q1)));
    }
    drop(b.publish(message("t", "3", Q0)));
    let id = ids(&b.flush())[0];
    b.receive(&ack_with(PUBACK, id, 0x97, &user("retry-after-ms", "1500")));
    assert!(b.flush().is_empty());
    assert_eq!((b.session.stats().refused_for_now, b.session.deadline()), (1, Some(b.now + S * 3 / 2)));
    b.wait(S * 3 / 2).unwrap();
    assert_eq!(publishes(&b.flush()), [("0".into(), id, false)], "it is a new PUBLISH of the same message");
    // Without a time: 1 s, then twice as long each time.
    for wait in [2, 4, 8, 16, 30, 30] {
        b.receive(&ack_with(PUBACK, id, 0x97, &[]));
        b.flush();
        assert_eq!(b.session.deadline(), Some(b.now + S * wait));
        b.wait(S * wait).unwrap();
        assert_eq!(publishes(&b.flush()).len(), 1);
    }
    b.receive(&ack(PUBACK, id));
    for n in ["1", "2"] {
        let sent = publishes(&b.flush());
        assert_eq!(sent[0].0, n);
        b.receive(&ack(PUBACK, sent[0].1));
        // QoS 0 waits for its turn, and for no window.
        assert_eq!(sent.get(1), (n == "2").then_some(&("3".into(), 0, false)));
    }
}

#[test]
fn several_refusals_come_back_in_their_order() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    for n in 0..5 {
        drop(b.publish(message("t", n, if n == 3 { Q2 } else { Q1 })));
    }
    let ids = ids(&b.flush());
    for at in [4, 3, 1] {
        let kind = if at == 3 { PUBREC } else { PUBACK };
        b.receive(&ack_with(kind, ids[at], 0x97, &user("retry-after-ms", "10")));
    }
    drop(b.publish(message("t", "5", Q1)));
    b.wait(S).unwrap();
    let again: Vec<_> = publishes(&b.flush()).into_iter().map(|(payload, ..)| payload).collect();
    assert_eq!(again, ["1", "3", "4", "5"]);
    for id in [ids[0], ids[1], ids[2], ids[4]] {
        b.receive(&ack(PUBACK, id));
    }
    b.receive(&[ack(PUBREC, ids[3]), ack(PUBCOMP, ids[3])].concat());
    assert_eq!(b.session.stats().acked, 5);
}

#[test]
fn an_identifier_is_not_used_twice_while_its_message_is_unacknowledged() {
    let big = crate::Outbox { max_messages: 200_000, ..crate::Outbox::default() };
    let mut b = Bench::new(options(V5).outbox(big));
    b.connect(false);
    drop(b.publish(message("t", "stuck", Q1)));
    let stuck = ids(&b.flush())[0];
    let mut sent = 1;
    // All the others are acknowledged at once; the window is never full.
    for _ in 0..70 {
        for _ in 0..1_000 {
            drop(b.publish(message("t", "x", Q1)));
        }
        let flushed = b.flush();
        sent += publishes(&flushed).len();
        for id in ids(&flushed) {
            assert_ne!(id, stuck);
            b.receive(&ack(PUBACK, id));
        }
    }
    assert_eq!(sent, 65_519, "the next one would have its identifier");
    let before = b.session.stats();
    assert_eq!((before.in_flight, before.outbox_messages), (1, 70_001 - 65_519 + 1));
    b.receive(&ack(PUBACK, stuck));
    for id in ids(&b.flush()) {
        b.receive(&ack(PUBACK, id));
    }
    while !b.session.is_drained() {
        for id in ids(&b.flush()) {
            assert!((1..=65_519).contains(&id));
            b.receive(&ack(PUBACK, id));
        }
    }
    assert_eq!(b.session.stats().acked, 70_001);
}

#[cfg(feature = "durable")]
#[test]
fn what_a_durable_outbox_gave_back_shares_no_identifier() {
    let mut b = Bench::with_journal(options(V5), Journal::durable());
    let frame = crate::codec::frame::Frame::new(V5, &message("t", "x", Q1));
    // The first was never acknowledged; all between it and the others were.
    for number in [1, 65_519, 65_520, 65_521] {
        b.session.restore(number, frame.clone(), None, false);
    }
    b.connect(true);
    assert_eq!(ids(&b.flush()), [2, 1]);
    b.receive(&ack(PUBACK, 1));
    assert!(b.flush().is_empty());
    b.receive(&ack(PUBACK, 2));
    assert_eq!(ids(&b.flush()), [2, 3]);
}

/// mosquitto counts the QoS 2 messages that it holds against Receive Maximum when a session is resumed, and refuses what goes beyond.
#[cfg(feature = "durable")]
#[test]
fn what_the_server_may_hold_is_repeated_before_all_that_it_does_not() {
    let commit = |b: &mut Bench| {
        let (_, number) = b.session.take_ops();
        b.session.committed(number, crate::session::journal::Committed::All);
    };
    let mut b = Bench::with_journal(options(V5), Journal::durable());
    b.connect_with(false, &[0x21, 0, 3]);
    for n in 0..6 {
        drop(b.publish(message("t", n, if n < 3 { Q1 } else { Q2 })));
    }
    commit(&mut b);
    assert_eq!(ids(&b.flush()), [2, 3, 4]);
    b.receive(&[ack(PUBACK, 2), ack(PUBACK, 3)].concat());
    // Killed now, the next run would repeat all: the two that are done, and the third.
    assert!(b.flush().is_empty(), "the server would hold a message that is beyond the first window");
    b.receive(&ack(PUBACK, 4));
    assert!(b.flush().is_empty());
    commit(&mut b);
    assert_eq!(ids(&b.flush()), [5, 6, 7]);
}

#[test]
fn an_alias_never_makes_a_packet_too_large() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let topic = "a/long/topic";
    for _ in 0..4 {
        drop(b.publish(message(topic, "x".repeat(20), Q1)));
    }
    let len = b.flush_bytes().len() / 4;
    b.lose();
    // They fit, and with an alias beside the topic they would not.
    b.connect_with(true, &[&[0x22, 0, 9, 0x27, 0, 0, 0][..], &[len as u8]].concat());
    let bytes = b.flush_bytes();
    assert_eq!(publishes(&packets(V5, &bytes)).len(), 4);
    let mut at = 0;
    while let Some(remaining) = bytes.get(at + 1) {
        let total = 2 + usize::from(*remaining);
        assert!(total <= len, "a packet of {total} bytes");
        at += total;
    }
}

#[test]
fn what_a_resumed_server_no_longer_takes_is_not_repeated() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let mut large = b.publish(message("t", "x".repeat(100), Q1));
    drop(b.publish(message("t", "y", Q1)));
    b.flush();
    b.lose();
    b.connect_with(true, &[0x27, 0, 0, 0, 64]);
    let sent = publishes(&b.flush());
    assert_eq!((sent.len(), sent[0].0.as_str(), sent[0].2), (1, "y", true));
    assert_eq!(large.try_outcome(), Some(Err(Dropped::NotTaken(ReasonCode::PacketTooLarge))));
}

#[test]
fn an_alias_that_was_not_sent_is_not_used() {
    let mut b = Bench::new(options(V5));
    b.connect_with(false, &[0x22, 0, 9, 0x27, 0, 0, 0, 64]);
    for len in [40, 40, 1, 1] {
        drop(b.publish(message("a/long/topic", "x".repeat(len), Q0)));
    }
    let mut set = false;
    for packet in b.flush() {
        let Packet::Publish { topic, properties, .. } = packet else { panic!("{packet:?}") };
        assert!(!topic.is_empty() || set, "an alias that the server does not know");
        set |= !properties.is_empty();
    }
}

/// In MQTT 3.1.1 a server ends the connection for what it does not take, and says nothing.
#[test]
fn a_message_that_ends_every_connection_is_set_aside() {
    for (version, qos) in [(V311, Q1), (V311, Q2), (V5, Q1)] {
        let mut b = Bench::new(options(version));
        b.connect(false);
        let mut before = b.publish(message("t", "before", qos));
        let mut never = b.publish(message("big", "never", qos));
        let mut after = b.publish(message("t", "after", Q1));
        let mut connections = 0;
        let mut outcome = None;
        while outcome.is_none() {
            let sent = b.flush();
            let fatal = publishes(&sent).iter().position(|(payload, _, _)| payload == "never");
            // What comes before it is acknowledged, and not always: the acks may be lost with the connection.
            if connections > 1 {
                assert!(sent.len() <= 1, "one at a time: {sent:?}");
            }
            if fatal.is_none() {
                assert!(!sent.is_empty(), "nothing is sent any more");
                for packet in sent {
                    let (kind, id) = match packet {
                        Packet::Publish { id, qos: 2, .. } => (PUBREC, id),
                        Packet::Publish { id, .. } => (PUBACK, id),
                        Packet::Ack(PUBREL, id, _) => (PUBCOMP, id),
                        other => panic!("{other:?}"),
                    };
                    b.receive(&ack(kind, id));
                }
                continue;
            }
            b.lose_by(EndedBy::Server);
            connections += 1;
            assert!(connections < 20, "it is tried for ever");
            outcome = never.try_outcome();
            if outcome.is_none() {
                b.connect(true);
            }
        }
        assert!(matches!(outcome, Some(Err(Dropped::SetAside { connections: 5 }))), "{outcome:?}");
        assert!(before.try_outcome().is_some_and(|outcome| outcome.is_ok()), "{version:?}");
        let told = b.events().into_iter().find_map(|event| match event {
            Event::SetAside { topic, payload, connections } => Some((topic, payload, connections)),
            _ => None,
        });
        assert_eq!(told, Some(("big".to_owned(), bytes::Bytes::from("never"), 5)));
        assert_eq!(b.session.stats().set_aside, 1);
        b.connect(true);
        let id = ids(&b.flush())[0];
        b.receive(&ack(PUBACK, id));
        assert!(after.try_outcome().is_some_and(|outcome| outcome.is_ok()));
        assert!(b.session.is_drained());
    }
}

#[test]
fn a_message_is_not_set_aside_for_what_is_not_its_doing() {
    let mut b = Bench::new(options(V311));
    b.connect(false);
    let mut ticket = b.publish(message("t", "x", Q1));
    for _ in 0..20 {
        b.flush();
        // A line that fails is no answer of the server.
        b.lose_by(EndedBy::Other);
        b.connect(true);
    }
    // Nor is a server that ends connections and takes messages.
    for n in 0..20 {
        drop(b.publish(message("t", n, Q1)));
    }
    for _ in 0..20 {
        let id = ids(&b.flush())[0];
        b.receive(&ack(PUBACK, id));
        b.lose_by(EndedBy::Server);
        b.connect(true);
    }
    assert!(ticket.try_outcome().is_some_and(|outcome| outcome.is_ok()));
    assert_eq!((b.session.stats().set_aside, b.session.stats().acked), (0, 20));
    let mut never = options(V311);
    never.outbox.max_losses = None;
    let mut b = Bench::new(never);
    b.connect(false);
    let mut ticket = b.publish(message("t", "x", Q1));
    for _ in 0..50 {
        b.flush();
        b.lose_by(EndedBy::Server);
        b.connect(true);
    }
    assert!(ticket.try_outcome().is_none());
}

#[test]
fn a_packet_over_the_limit_of_this_side_is_not_sent() {
    let mut b = Bench::new(options(V311).largest_packet_sent(20));
    b.connect(false);
    let mut large = b.publish(message("t", "x".repeat(14), Q1));
    let mut fits = b.publish(message("t", "x".repeat(13), Q1));
    let sent = b.flush();
    assert_eq!(sent.len(), 1);
    assert_eq!(large.try_outcome(), Some(Err(Dropped::NotTaken(ReasonCode::PacketTooLarge))));
    b.receive(&ack(PUBACK, ids(&sent)[0]));
    assert!(fits.try_outcome().is_some_and(|outcome| outcome.is_ok()));
}

#[test]
fn a_message_over_the_limit_is_read_past_in_3_1_1() {
    for cut in 1..60 {
        let mut b = Bench::new(options(V311).maximum_packet_size(64));
        b.connect(false);
        let key = b.subscribed("in");
        let bytes = [
            publish(V311, "in", "one", Q1, 1, false),
            publish(V311, "in", &"x".repeat(64), Q1, 2, false),
            publish(V311, "in", &"y".repeat(200), Q2, 3, false),
            publish(V311, "in", &"z".repeat(200), Q0, 0, false),
            publish(V311, "in", "two", Q1, 4, false),
        ]
        .concat();
        let mut tail = Vec::new();
        for chunk in bytes.chunks(cut) {
            tail.extend_from_slice(chunk);
            let taken = b.session.receive(b.now, &tail).unwrap();
            tail.drain(..taken);
            assert!(tail.len() < 64, "what is too large is kept");
        }
        assert_eq!(b.payloads(key), ["one", "two"]);
        // Acknowledged, so that the server does not send it again.
        let acks: Vec<_> = b.flush();
        let wanted = [
            Packet::Ack(PUBACK, 1, 0),
            Packet::Ack(PUBACK, 2, 0),
            Packet::Ack(PUBREC, 3, 0),
            Packet::Ack(PUBACK, 4, 0),
        ];
        assert_eq!(acks, wanted);
        assert_eq!(b.session.stats().too_large, 3);
        let told = |event: &Event| matches!(event, Event::TooLarge { topic, .. } if topic == "in");
        assert_eq!(b.events().iter().filter(|event| told(event)).count(), 3);
    }
}

/// A message that was refused for want of room waits among those that were not sent; when the session is lost as well, all of
/// them are in the order in which they were accepted again.
#[test]
fn the_order_holds_after_a_refusal_and_a_lost_session() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    for n in 0..6 {
        drop(b.publish(message("t", n, Q1)));
    }
    let sent = ids(&b.flush());
    b.receive(&ack(PUBACK, sent[0]));
    b.receive(&ack_with(PUBACK, sent[3], 0x97, &[]));
    b.receive(&ack_with(PUBACK, sent[1], 0x97, &[]));
    drop(b.publish(message("t", 6, Q1)));
    b.lose();
    b.now += S * 60;
    b.connect(false);
    let again: Vec<_> = publishes(&b.flush()).into_iter().map(|(payload, _, dup)| (payload, dup)).collect();
    let wanted: Vec<_> = (1..=6).map(|n: i32| (n.to_string(), false)).collect();
    assert_eq!(again, wanted);
}
