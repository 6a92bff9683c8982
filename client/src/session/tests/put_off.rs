//! What the server refuses and the program wants to be taken all the same.

use forebay_wire::reason::ReasonCode;

use super::peer::*;
use super::*;
use crate::{Dropped, PutOff, WhenRefused};

/// What is not allowed waits.
fn patient() -> Options {
    options(V5).when_refused(|_, reason| match reason {
        ReasonCode::NotAuthorized => WhenRefused::PutOff,
        _ => WhenRefused::Drop,
    })
}

fn payloads(b: &mut Bench) -> Vec<String> {
    publishes(&b.flush()).into_iter().map(|(payload, ..)| payload).collect()
}

/// Refuses the messages that were sent: PUBACK or PUBREC.
fn refuse(b: &mut Bench, sent: &[Packet], reason: u8) {
    for packet in sent {
        let Packet::Publish { qos: qos @ 1.., id, .. } = packet else { continue };
        b.receive(&ack_with(if *qos == 1 { PUBACK } else { PUBREC }, *id, reason, &[]));
    }
}

fn put_off(topic: &str) -> Option<PutOff> {
    Some(PutOff { topic: topic.to_owned(), reason: ReasonCode::NotAuthorized })
}

/// What was told since.
fn told(b: &mut Bench) -> Vec<Option<PutOff>> {
    let events = b.events().into_iter();
    events
        .filter_map(|event| match event {
            Event::PutOff(what) => Some(Some(what)),
            Event::GoesOn => Some(None),
            _ => None,
        })
        .collect()
}

#[test]
fn all_wait_for_a_message_that_is_tried_alone_until_it_is_taken() {
    let mut b = Bench::new(patient());
    b.connect(false);
    let mut first = b.publish(message("a", 0, Q1));
    for (n, qos) in [(1, Q2), (2, Q1), (3, Q0)] {
        drop(b.publish(message("a", n, qos)));
    }
    let sent = b.flush();
    refuse(&mut b, &sent, 0x87);
    drop(b.publish(message("b", 4, Q2)));
    assert_eq!((told(&mut b), b.session.put_off()), (vec![put_off("a")], put_off("a")));
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        assert!(b.flush().is_empty(), "those behind it wait");
        b.wait(S * seconds - S / 10).unwrap();
        assert!(b.flush().is_empty());
        b.wait(S / 10).unwrap();
        let sent = b.flush();
        assert_eq!(publishes(&sent).len(), 1, "one is tried: {sent:?}");
        refuse(&mut b, &sent, 0x87);
    }
    assert!(told(&mut b).is_empty(), "nothing new");
    assert!(first.try_outcome().is_none());
    b.wait(S * 30).unwrap();
    let [(payload, id, false)] = &publishes(&b.flush())[..] else { panic!("one message, and it is no repetition") };
    assert_eq!(payload, "0");
    b.receive(&ack(PUBACK, *id));
    assert!(first.try_outcome().unwrap().is_ok());
    assert_eq!(told(&mut b), [None]);
    assert_eq!(payloads(&mut b), ["1", "2", "4"], "the others in their order; QoS 0 went before");
    assert_eq!(b.session.stats().put_off, 10);
}

#[test]
fn a_new_connection_tries_at_once() {
    for present in [true, false] {
        let mut b = Bench::new(patient());
        b.connect(false);
        for n in 0..3 {
            drop(b.publish(message("a", n, Q2)));
        }
        let sent = b.flush();
        refuse(&mut b, &sent, 0x87);
        b.wait(S).unwrap();
        // Lost while it is tried.
        assert_eq!(payloads(&mut b), ["0"]);
        b.lose();
        b.connect(present);
        let sent = b.flush();
        let [Packet::Publish { id, .. }] = sent[..] else { panic!("{sent:?}") };
        refuse(&mut b, &sent, 0x87);
        assert!(b.flush().is_empty());
        b.wait(S * 30).unwrap();
        assert_eq!(payloads(&mut b), ["0"]);
        b.receive(&ack(PUBREC, id));
        assert_eq!(b.flush(), [Packet::Ack(PUBREL, id, 0)]);
        b.receive(&ack(PUBCOMP, id));
        assert_eq!(payloads(&mut b), ["1", "2"]);
    }
}

#[test]
fn what_is_put_off_expires_and_is_dropped_as_anything_else() {
    let mut b = Bench::new(patient());
    b.connect(false);
    let mut short = b.publish(message("a", 0, Q1).expires_after(S * 5));
    let mut wrong = b.publish(message("a", 1, Q1));
    drop(b.publish(message("a", 2, Q1)));
    let sent = b.flush();
    refuse(&mut b, &sent, 0x87);
    b.wait(S * 6).unwrap();
    assert_eq!(short.try_outcome(), Some(Err(Dropped::Expired)));
    let sent = b.flush();
    assert_eq!(publishes(&sent).len(), 1);
    // For another reason it is not waited.
    refuse(&mut b, &sent, 0x90);
    assert_eq!(wrong.try_outcome(), Some(Err(Dropped::Refused(ReasonCode::TopicNameInvalid))));
    assert_eq!(told(&mut b), [put_off("a"), None]);
    assert_eq!(payloads(&mut b), ["2"]);
}

#[cfg(feature = "durable")]
#[test]
fn what_an_earlier_run_left_has_tickets() {
    let mut b = Bench::with_journal(options(V5), Journal::durable());
    let properties = crate::Properties { user: vec![("a".into(), "b".into())], ..crate::Properties::default() };
    let left = [message("t", "x", Q2).retain(true).expires_after(S), message("u", "y", Q1).properties(properties)];
    for (number, message) in left.iter().enumerate() {
        b.session.restore(1 + number as u64, crate::codec::frame::Frame::new(V5, message), None, false);
    }
    let mut adopted = b.session.adopt();
    let messages: Vec<Message> = adopted.iter().map(|(frame, _)| frame.message()).collect();
    assert_eq!((messages[0].topic.as_ref(), &messages[0].payload[..], messages[0].retain), ("t", &b"x"[..], true));
    assert_eq!((messages[0].qos, messages[1].qos), (Q2, Q1));
    assert_eq!(messages[1].properties, left[1].properties);
    assert!(b.session.adopt().is_empty(), "once");
    b.connect(true);
    let sent = b.flush();
    refuse(&mut b, &sent, 0x90);
    for (_, told) in adopted.drain(..) {
        assert_eq!(told.try_take(), Some(Err(Dropped::Refused(ReasonCode::TopicNameInvalid))));
    }
}
