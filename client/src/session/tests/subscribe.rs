//! Subscriptions: asked, granted, refused, made anew, left, and who gets what.

use forebay_wire::reason::ReasonCode;

use super::peer::*;
use super::*;
use crate::{EndReason, SubscribeError};

/// Filters and packet identifiers of all SUBSCRIBEs and UNSUBSCRIBEs: `+` or `-` before each filter.
fn asked(packets: &[Packet]) -> Vec<String> {
    let each = |packet: &Packet| match packet {
        Packet::Subscribe { filters, .. } => filters.iter().map(|(filter, _)| format!("+{filter}")).collect(),
        Packet::Unsubscribe { filters, .. } => filters.iter().map(|filter| format!("-{filter}")).collect(),
        _ => Vec::new(),
    };
    packets.iter().flat_map(each).collect()
}

fn answer(b: &mut Bench, packets: &[Packet]) {
    for packet in packets {
        match packet {
            Packet::Subscribe { id, filters, .. } => {
                let codes = vec![1; filters.len()];
                b.receive(&suback(b.version(), *id, &codes));
            }
            Packet::Unsubscribe { id, .. } => b.receive(&unsuback(b.version(), *id)),
            _ => {}
        }
    }
}

/// A PUBLISH that carries subscription identifiers.
fn for_ids(topic: &str, payload: &str, ids: &[u8]) -> Vec<u8> {
    let properties: Vec<u8> = ids.iter().flat_map(|id| [0x0b, *id]).collect();
    publish_with(V5, topic, payload, Q0, 0, false, &properties)
}

#[test]
fn a_subscription_is_asked_for_and_granted() {
    for version in [V311, V5] {
        let mut b = Bench::new(options(version));
        let what = Subscribe::to("a/+").qos(Q1).and("b/#").no_local().retain_as_published();
        let what = what.retain_handling(crate::RetainHandling::Never).user_property("k", "v");
        let (_, told) = b.subscribe(what);
        assert!(!b.session.has_output());
        b.connect(false);
        let sent = b.flush();
        let [Packet::Subscribe { id, filters, properties }] = &sent[..] else { panic!("{sent:?}") };
        assert!(*id > 65_519, "its identifier is none of a PUBLISH");
        let options = if version.is_v5() { 0x01 | 0x04 | 0x08 | 0x20 } else { 1 };
        assert_eq!(filters[..], [("a/+".to_owned(), options), ("b/#".to_owned(), options)]);
        let expected = if version.is_v5() { user("k", "v") } else { vec![] };
        assert_eq!(properties, &expected);
        b.receive(&suback(version, *id, &[1, 0x80]));
        let granted = told.try_take().unwrap().unwrap();
        assert_eq!(granted, [ReasonCode::GrantedQoS1, ReasonCode::UnspecifiedError]);
        assert!(b.flush().is_empty());
    }
}

#[test]
fn a_refusal_of_all_filters_ends_the_subscription() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let (key, told) = b.subscribe(Subscribe::to("a").and("b"));
    let sent = b.flush();
    let [Packet::Subscribe { id, .. }] = sent[..] else { panic!() };
    b.receive(&suback(V5, id, &[0x87, 0x8f]));
    let Err(SubscribeError::Refused { reasons, .. }) = told.try_take().unwrap() else { panic!() };
    assert_eq!(reasons, [ReasonCode::NotAuthorized, ReasonCode::TopicFilterInvalid]);
    assert!(b.take(key).is_none());
    b.lose();
    b.connect(false);
    assert!(b.flush().is_empty(), "it is not asked for again");
}

#[test]
fn a_suback_with_too_few_reason_codes_is_a_broken_promise() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let (_, told) = b.subscribe(Subscribe::to("a").and("b"));
    let sent = b.flush();
    let [Packet::Subscribe { id, .. }] = sent[..] else { panic!() };
    assert!(matches!(b.refused(&suback(V5, id, &[0])), Over::Lost(crate::LostReason::Protocol(_), _)));
    b.lose();
    assert!(told.try_take().is_none(), "it is asked again");
    b.connect(true);
    assert_eq!(asked(&b.flush()), ["+a", "+b"]);
}

#[test]
fn what_was_not_answered_is_asked_again_and_what_was_is_not() {
    for version in [V311, V5] {
        let mut b = Bench::new(options(version));
        b.connect(false);
        b.subscribed("held");
        let (_, told) = b.subscribe("asked");
        assert_eq!(asked(&b.flush()), ["+asked"]);
        b.lose();
        b.connect(true);
        let sent = b.flush();
        assert_eq!(asked(&sent), ["+asked"]);
        answer(&mut b, &sent);
        assert!(told.try_take().unwrap().is_ok());
        b.lose();
        b.connect(true);
        assert!(b.flush().is_empty());
        b.lose();
        b.connect(false);
        let sent = b.flush();
        assert_eq!(asked(&sent), ["+held", "+asked"], "the server has forgotten them");
        answer(&mut b, &sent);
        assert!(b.flush().is_empty());
    }
}

#[test]
fn a_session_of_which_only_the_server_knows_that_it_is_new_gets_its_subscriptions() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    b.subscribed("t");
    b.lose();
    // The server has lost the session, makes a new one, and its CONNACK gets lost.
    b.session.open(b.now).unwrap();
    b.flush();
    b.lose();
    b.connect(true);
    let sent = b.flush();
    assert_eq!(asked(&sent), ["+t"]);
    answer(&mut b, &sent);
    b.lose();
    b.connect(true);
    assert!(b.flush().is_empty());
}

#[test]
fn unsubscribing_resolves_with_the_answer_or_with_the_session() {
    for (version, answered) in [(V311, true), (V5, true), (V5, false)] {
        let mut b = Bench::new(options(version));
        b.connect(false);
        let key = b.subscribed("t");
        b.receive(&publish(version, "t", "unread", Q1, 1, false));
        let (teller, told) = pair();
        b.session.unsubscribe(key, Some(teller));
        let sent = b.flush();
        assert!(sent.contains(&Packet::Ack(PUBACK, 1, 0)), "{sent:?}");
        assert_eq!(asked(&sent), ["-t"]);
        assert!(told.try_take().is_none());
        if answered {
            answer(&mut b, &sent);
        } else {
            b.lose();
            b.connect(false);
        }
        assert!(told.try_take().is_some());
        assert!(b.flush().is_empty());
        // What was on the way meanwhile is nobody's.
        b.receive(&publish(version, "t", "late", Q0, 0, false));
        assert_eq!(b.session.stats().unclaimed, 1);
    }
}

#[test]
fn more_requests_than_identifiers_wait_for_their_turn() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let told: Vec<_> = (0..50).map(|n| b.subscribe(format!("f/{n}")).1).collect();
    let mut all = Vec::new();
    for expected in [16, 16, 16, 2] {
        let sent = b.flush();
        assert_eq!(sent.len(), expected);
        all.extend(asked(&sent));
        answer(&mut b, &sent);
    }
    let expected: Vec<_> = (0..50).map(|n| format!("+f/{n}")).collect();
    assert_eq!(all, expected);
    assert!(told.iter().all(|told| told.try_take().is_some_and(|granted| granted.is_ok())));
}

#[test]
fn a_message_goes_to_every_subscription_that_it_matches_and_is_acknowledged_when_all_are_done() {
    for version in [V311, V5] {
        let mut b = Bench::new(options(version));
        b.connect(false);
        let (wide, narrow, other) = (b.subscribed("a/#"), b.subscribed("a/b"), b.subscribed("c"));
        b.receive(&publish(version, "a/b", "x", Q1, 3, false));
        assert_eq!(b.payloads(wide), ["x"]);
        assert!(b.flush().is_empty());
        assert_eq!((b.payloads(narrow), b.payloads(other)), (vec!["x".to_owned()], vec![]));
        assert_eq!(b.flush(), [Packet::Ack(PUBACK, 3, 0)]);
    }
}

#[test]
fn the_subscription_identifier_says_whose_a_message_is() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    // Only a shared subscription has one.
    let plain = b.subscribed("a/#");
    let (shared, _) = b.subscribe("$share/g/a/b");
    let sent = b.flush();
    let [Packet::Subscribe { properties, .. }] = &sent[..] else { panic!() };
    assert_eq!(properties, &[0x0b, 2]);
    answer(&mut b, &sent);
    // The server sends a copy to each.
    b.receive(&[for_ids("a/b", "plain", &[]), for_ids("a/b", "shared", &[2])].concat());
    assert_eq!((b.payloads(plain), b.payloads(shared)), (vec!["plain".to_owned()], vec!["shared".to_owned()]));
    // One of an earlier run of the program: the topic decides.
    b.receive(&[for_ids("a/b", "3", &[77]), for_ids("a/c", "4", &[2])].concat());
    assert_eq!((b.payloads(plain), b.payloads(shared)), (vec!["3".to_owned(), "4".to_owned()], vec![]));
}

#[test]
fn subscriptions_that_overlap_get_identifiers_and_each_message_once() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let other = b.subscribed("c/+");
    let wide = b.subscribed("a/#");
    let (narrow, told) = b.subscribe("a/b");
    // The first that has none yet is asked for again; what is retained does not come again.
    let sent = b.flush();
    let asked = |packet: &Packet| match packet {
        Packet::Subscribe { filters, properties, .. } => (filters[0].clone(), properties.clone()),
        other => panic!("{other:?}"),
    };
    let expected = [(("a/#".to_owned(), 0x20), vec![0x0b, 2]), (("a/b".to_owned(), 0), vec![0x0b, 3])];
    assert_eq!(sent.iter().map(asked).collect::<Vec<_>>(), expected);
    answer(&mut b, &sent);
    assert!(told.try_take().is_some() && b.flush().is_empty());
    // A copy for each, or one for both.
    b.receive(&[for_ids("a/b", "1", &[2]), for_ids("a/b", "1", &[3]), for_ids("a/b", "2", &[2, 3])].concat());
    b.receive(&for_ids("c/x", "3", &[]));
    assert_eq!(
        (b.payloads(wide), b.payloads(narrow)),
        (vec!["1".to_owned(), "2".to_owned()], vec!["1".to_owned(), "2".to_owned()])
    );
    assert_eq!(b.payloads(other), ["3"]);
    // Anew, with what each was asked for.
    b.lose();
    b.connect(false);
    let sent = b.flush();
    assert_eq!(sent.iter().map(asked).collect::<Vec<_>>()[1], (("a/#".to_owned(), 0), vec![0x0b, 2]));
    answer(&mut b, &sent);
    assert!(b.flush().is_empty());
}

#[test]
fn one_that_overlaps_while_it_is_asked_for_is_asked_for_again() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let (_, first) = b.subscribe("a/#");
    let sent = b.flush();
    let (_, second) = b.subscribe("a/+");
    let more = b.flush();
    answer(&mut b, &sent);
    answer(&mut b, &more);
    let again = b.flush();
    assert_eq!(asked(&again), ["+a/#"]);
    answer(&mut b, &again);
    assert!(first.try_take().is_some() && second.try_take().is_some() && b.flush().is_empty());
}

#[test]
fn two_subscriptions_with_one_filter_both_get_its_messages() {
    for version in [V311, V5] {
        let mut b = Bench::new(options(version));
        b.connect(false);
        let (first, second) = (b.subscribed("t/+"), b.subscribed("t/+"));
        b.receive(&publish(version, "t/x", "m", Q0, 0, false));
        assert_eq!((b.payloads(first), b.payloads(second)), (vec!["m".to_owned()], vec!["m".to_owned()]));
    }
}

#[test]
fn leaving_one_of_two_subscriptions_with_one_filter_keeps_the_other() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let (first, second) = (b.subscribed(Subscribe::to("t").and("u")), b.subscribed("t"));
    b.session.unsubscribe(first, None);
    let sent = b.flush();
    assert_eq!(asked(&sent), ["-u"]);
    answer(&mut b, &sent);
    b.receive(&publish(V5, "t", "x", Q0, 0, false));
    assert_eq!(b.payloads(second), ["x"]);
    b.session.unsubscribe(second, None);
    let sent = b.flush();
    assert_eq!(asked(&sent), ["-t"]);
    answer(&mut b, &sent);
    assert!(b.flush().is_empty());
}

#[test]
fn a_subscription_whose_every_filter_is_shared_leaves_without_a_word() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let (first, _second) = (b.subscribed("t"), b.subscribed("t"));
    let (teller, told) = pair();
    b.session.unsubscribe(first, Some(teller));
    assert!(b.flush().is_empty());
    assert!(told.try_take().is_some());
}

#[test]
fn subscribing_again_while_leaving_leaves_a_subscription() {
    let mut b = Bench::new(options(V5));
    // A hole below: the new one is asked for first.
    b.connect(false);
    let (hole, old) = (b.subscribed("x"), b.subscribed("t"));
    b.session.unsubscribe(hole, None);
    let sent = b.flush();
    answer(&mut b, &sent);
    b.session.unsubscribe(old, None);
    b.subscribe("t");
    let sent = asked(&b.flush());
    assert!(sent.last().is_some_and(|last| last == "+t") || sent == ["+t"], "{sent:?}");
}

#[test]
fn a_refused_subscription_that_is_dropped_late_takes_no_other_with_it() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let (refused, _told) = b.subscribe("a");
    let sent = b.flush();
    let [Packet::Subscribe { id, .. }] = sent[..] else { panic!() };
    b.receive(&suback(V5, id, &[0x87]));
    let next = b.subscribed("b");
    // The program gives up the first only now.
    b.session.unsubscribe(refused, None);
    assert!(b.flush().is_empty());
    b.receive(&publish(V5, "b", "x", Q0, 0, false));
    assert_eq!(b.payloads(next), ["x"]);
}

#[test]
fn what_a_detached_subscription_did_not_read_comes_once_more_to_nobody_else() {
    for version in [V311, V5] {
        let mut b = Bench::new(options(version));
        b.connect(false);
        let (wide, narrow) = (b.subscribed("a/#"), b.subscribed("a/b"));
        b.receive(&publish(version, "a/b", "both", Q1, 1, false));
        b.receive(&publish(version, "a/c", "wide", Q1, 2, false));
        b.session.detach(b.now, wide);
        assert_eq!(b.payloads(narrow), ["both"]);
        assert_eq!(b.flush(), [Packet::Ack(PUBACK, 1, 0)]);
        let again = b.subscribed("a/#");
        assert_eq!(b.payloads(again), ["wide"]);
        assert_eq!(b.flush(), [Packet::Ack(PUBACK, 2, 0)]);
    }
}

#[test]
fn a_cancelled_subscription_is_taken_back() {
    for after_suback in [false, true] {
        let mut b = Bench::new(options(V5));
        b.connect(false);
        let (key, told) = b.subscribe("t");
        let sent = b.flush();
        if after_suback {
            answer(&mut b, &sent);
        }
        drop(told);
        b.session.unsubscribe(key, None);
        if !after_suback {
            answer(&mut b, &sent);
        }
        let sent = b.flush();
        assert_eq!(asked(&sent), ["-t"]);
        answer(&mut b, &sent);
        b.lose();
        b.connect(false);
        assert!(b.flush().is_empty());
    }
}

#[test]
fn the_end_ends_streams_when_they_are_read() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let key = b.subscribed("t");
    b.receive(&publish(V5, "t", "x", Q0, 0, false));
    let (_, told) = b.subscribe("u");
    b.session.end(EndReason::Disconnected, Some(ReasonCode::Success));
    assert!(matches!(told.try_take(), Some(Err(SubscribeError::Ended(EndReason::Disconnected)))));
    assert_eq!(b.payloads(key), ["x"]);
}

/// The messages of a queue and of a stream keep the topics that they were published to.
#[test]
fn messages_of_queues_and_streams_come_to_who_subscribed_to_them() {
    for version in [V311, V5] {
        for filter in ["$queue/jobs", "$stream/history/@earliest", "$q/job/#", "$share/g/job/#"] {
            let mut b = Bench::new(options(version));
            b.connect(false);
            let (of_it, plain) = (b.subscribed(filter), b.subscribed("t"));
            b.receive(
                &[publish(version, "job/1", "x", Q1, 1, false), publish(version, "t", "y", Q1, 2, false)].concat(),
            );
            assert_eq!(
                (b.payloads(of_it), b.payloads(plain)),
                (vec!["x".to_owned()], vec!["y".to_owned()]),
                "{filter}"
            );
        }
    }
}

/// It may be for another member of the group or of the queue.
#[test]
fn what_was_not_read_of_a_shared_subscription_is_not_taken_for_read() {
    for (filter, reason) in [("$queue/jobs", 0x80), ("$share/g/job/#", 0x80), ("job/#", 0)] {
        let mut b = Bench::new(options(V5));
        b.connect(false);
        let key = b.subscribed(filter);
        b.receive(&publish(V5, "job/1", "x", Q1, 1, false));
        b.session.unsubscribe(key, None);
        let acks = b.flush().into_iter().filter(|packet| matches!(packet, Packet::Ack(..))).collect::<Vec<_>>();
        assert_eq!(acks, [Packet::Ack(PUBACK, 1, reason)], "{filter}");
    }
}
