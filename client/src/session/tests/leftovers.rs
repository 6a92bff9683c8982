//! A client without a file that starts into a session of an earlier run: what the server still holds under its packet
//! identifiers.

use super::peer::*;
use super::*;

/// Packet identifiers of all PUBRELs.
fn released(packets: &[Packet]) -> Vec<u16> {
    let each = |packet: &Packet| if let Packet::Ack(PUBREL, id, 0) = packet { Some(*id) } else { None };
    packets.iter().filter_map(each).collect()
}

fn complete(b: &mut Bench, ids: impl IntoIterator<Item = u16>, reason: u8) {
    for id in ids {
        let ack = if b.version().is_v5() { ack_with(PUBCOMP, id, reason, &[]) } else { ack(PUBCOMP, id) };
        b.receive(&ack);
    }
}

#[test]
fn an_identifier_is_released_before_it_is_used_for_qos_2_the_first_time() {
    for version in [V311, V5] {
        let mut b = Bench::new(options(version));
        b.connect(true);
        // QoS 0 and 1 need it not: the server does not look whether it has their identifiers.
        drop((b.publish(message("t", "0", Q0)), b.publish(message("t", "1", Q1))));
        assert_eq!(publishes(&b.flush()).len(), 2);
        let tickets = [b.publish(message("t", "2", Q2)), b.publish(message("t", "3", Q1))];
        assert!(b.flush().is_empty(), "an identifier of the same block is in use");
        b.receive(&ack(PUBACK, 3));
        let sent = b.flush();
        assert_eq!((released(&sent), sent.len()), ((1..64).collect(), 63), "the message waits");
        // What was left there is over, or there was nothing.
        complete(&mut b, 1..63, 0x92);
        assert!(b.flush().is_empty());
        complete(&mut b, [63], 0);
        let sent = b.flush();
        assert_eq!(publishes(&sent), [("2".to_owned(), 4, false), ("3".to_owned(), 5, false)]);
        b.receive(&ack(PUBREC, 4));
        assert_eq!(b.flush(), [Packet::Ack(PUBREL, 4, 0)]);
        b.receive(&[ack(PUBCOMP, 4), ack(PUBACK, 5)].concat());
        assert!(tickets.into_iter().all(|mut ticket| matches!(ticket.try_outcome(), Some(Ok(_)))));
        // Neighbours need it no more, and it is known on the next connection still.
        b.lose();
        b.connect(true);
        drop(b.publish(message("t", "4", Q2)));
        assert_eq!(publishes(&b.flush()), [("4".to_owned(), 6, false)]);
    }
}

#[test]
fn nothing_is_asked_in_a_session_that_is_new_or_known() {
    // New; and resumed by the run that began it.
    for present in [false, true] {
        let mut b = Bench::new(options(V5));
        b.connect(false);
        if present {
            b.lose();
            b.connect(true);
        }
        drop(b.publish(message("t", "x", Q2)));
        let sent = b.flush();
        assert!(released(&sent).is_empty() && publishes(&sent).len() == 1, "{sent:?}");
    }
    // One that is lost later holds nothing.
    let mut b = Bench::new(options(V5));
    b.connect(true);
    drop(b.publish(message("t", "x", Q2)));
    assert_eq!(released(&b.flush()).len(), 63);
    b.lose();
    b.connect(false);
    let sent = b.flush();
    assert!(released(&sent).is_empty() && publishes(&sent).len() == 1, "{sent:?}");
}

#[test]
fn every_identifier_is_released_once() {
    let mut b = Bench::new(options(V5));
    b.connect(true);
    let mut all = Vec::new();
    for n in 0..66_000u32 {
        drop(b.publish(message("t", n, Q2)));
        let mut sent = b.flush();
        let asked = released(&sent);
        if !asked.is_empty() {
            complete(&mut b, asked.iter().copied(), 0x92);
            all.extend(asked);
            sent = b.flush();
        }
        let [(_, id, false)] = publishes(&sent)[..] else { panic!("{n}: {sent:?}") };
        b.receive(&ack(PUBREC, id));
        b.flush();
        b.receive(&ack(PUBCOMP, id));
    }
    all.sort_unstable();
    assert_eq!(all, (1..=65_519).collect::<Vec<u16>>());
}

#[test]
fn what_was_not_answered_is_asked_on_the_next_connection_unless_the_server_cannot_be_asked() {
    let mut b = Bench::new(options(V5));
    b.connect(true);
    drop(b.publish(message("t", "x", Q2)));
    assert_eq!(released(&b.flush()).len(), 63);
    complete(&mut b, 1..10, 0x92);
    b.lose();
    b.connect(true);
    assert_eq!(released(&b.flush()).len(), 63, "it has begun to answer");
    // One that ends the connection for it, again and again, would get no message at all.
    b.lose();
    b.connect(true);
    let sent = b.flush();
    assert!(released(&sent).is_empty() && publishes(&sent).len() == 1, "{sent:?}");
}

/// mosquitto counts what it holds against Receive Maximum: full of an earlier run's messages, it refuses those of this one, QoS 1 too.
#[test]
fn a_server_that_is_full_of_them_is_emptied() {
    let mut b = Bench::new(options(V5));
    b.connect(true);
    let mut ticket = b.publish(message("t", "x", Q1));
    let [(_, id, false)] = publishes(&b.flush())[..] else { panic!("one message") };
    b.receive(&ack_with(PUBACK, id, 0x97, &[]));
    let mut all = Vec::new();
    for _ in 0..3 {
        let asked = released(&b.flush());
        complete(&mut b, asked.iter().copied(), 0);
        all.extend(asked);
    }
    assert_eq!(all, (1..192).collect::<Vec<u16>>(), "one block after the other");
    b.wait(S).unwrap();
    let sent = b.flush();
    let [(_, id, false)] = publishes(&sent)[..] else { panic!("{sent:?}") };
    let asked = released(&sent);
    b.receive(&ack(PUBACK, id));
    assert!(ticket.try_outcome().unwrap().is_ok());
    complete(&mut b, asked, 0x92);
    drop(b.publish(message("t", "y", Q1)));
    assert!(released(&b.flush()).is_empty(), "it has room");
}
