//! Subscriptions that were granted once: refused later, or too large for a packet of this server.

use forebay_wire::reason::ReasonCode;

use super::peer::*;
use super::*;
use crate::SubscribeError;

/// Filters of each SUBSCRIBE, in order.
fn subscribes(packets: &[Packet]) -> Vec<(u16, Vec<String>)> {
    let each = |packet: &Packet| match packet {
        Packet::Subscribe { id, filters, .. } => {
            Some((*id, filters.iter().map(|(filter, _)| filter.clone()).collect()))
        }
        _ => None,
    };
    packets.iter().filter_map(each).collect()
}

/// Filters of each UNSUBSCRIBE, in order.
fn unsubscribes(packets: &[Packet]) -> Vec<(u16, Vec<String>)> {
    let each = |packet: &Packet| match packet {
        Packet::Unsubscribe { id, filters } => Some((*id, filters.clone())),
        _ => None,
    };
    packets.iter().filter_map(each).collect()
}

/// Answers all requests until there is none; each SUBACK says what `code` says of the filter. What was asked.
fn answer_all(b: &mut Bench, code: impl Fn(&str) -> u8) -> Vec<Packet> {
    let mut all = Vec::new();
    loop {
        let sent = b.flush();
        if sent.is_empty() {
            return all;
        }
        for (id, filters) in subscribes(&sent) {
            let codes: Vec<u8> = filters.iter().map(|filter| code(filter)).collect();
            b.receive(&suback(b.version(), id, &codes));
        }
        for (id, _) in unsubscribes(&sent) {
            b.receive(&unsuback(b.version(), id));
        }
        all.extend(sent);
    }
}

/// Maximum Packet Size in CONNACK.
fn maximum(bytes: u8) -> [u8; 5] {
    [0x27, 0, 0, 0, bytes]
}

fn lens(version: Version, packets: &[Packet]) -> Vec<usize> {
    let len = |packet: &Packet| {
        let properties = usize::from(version.is_v5());
        match packet {
            Packet::Subscribe { filters, properties: some, .. } => {
                4 + properties + some.len() + filters.iter().map(|(filter, _)| filter.len() + 3).sum::<usize>()
            }
            Packet::Unsubscribe { filters, .. } => {
                4 + properties + filters.iter().map(|filter| filter.len() + 2).sum::<usize>()
            }
            _ => 0,
        }
    };
    packets.iter().map(len).collect()
}

#[test]
fn a_stream_whose_filter_is_refused_after_a_lost_session_ends_and_says_why() {
    for (version, code, reason) in [(V5, 0x87, ReasonCode::NotAuthorized), (V311, 0x80, ReasonCode::UnspecifiedError)] {
        let mut b = Bench::new(options(version));
        b.connect(false);
        let (key, other) = (b.subscribed("site/+"), b.subscribed("other"));
        b.receive(&publish(version, "site/7", "before", Q1, 1, false));
        b.lose();
        b.connect(false);
        let asked = answer_all(&mut b, |filter| if filter == "site/+" { code } else { 1 });
        assert_eq!(subscribes(&asked).len(), 2);
        let why = SubscribeError::Revoked { refused: vec![("site/+".to_owned(), reason)], reason_string: None };
        assert_eq!(b.session.subscriptions().ended(key), Some(why.clone()));
        let ended = |event: &Event| match event {
            Event::SubscriptionEnded { filters, why } => Some((filters.clone(), why.clone())),
            _ => None,
        };
        let events = b.events();
        assert_eq!(events.iter().filter_map(ended).collect::<Vec<_>>(), [(vec!["site/+".to_owned()], why.clone())]);
        let text = why.to_string();
        assert!(text.contains("site/+") && text.contains(&format!("0x{code:02x}")), "{text}");
        // What it has is still read, and nothing comes after it.
        assert!(b.session.subscriptions().is_at_its_end(key));
        assert_eq!(b.payloads(key), ["before"]);
        b.receive(&publish(version, "site/7", "after", Q0, 0, false));
        assert!(b.payloads(key).is_empty());
        // The other goes on, and is the only one that is asked for again.
        b.receive(&publish(version, "other", "x", Q0, 0, false));
        assert_eq!((b.payloads(other), b.session.subscriptions().is_at_its_end(other)), (vec!["x".to_owned()], false));
        b.lose();
        b.connect(false);
        assert_eq!(subscribes(&answer_all(&mut b, |_| 1)).len(), 1);
    }
}

#[test]
fn one_refused_filter_of_several_ends_the_stream_and_leaves_the_others() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let key = b.subscribed(Subscribe::to("a").and("b").and("c"));
    let c = b.subscribed("c");
    b.lose();
    b.connect(false);
    let asked = answer_all(&mut b, |filter| if filter == "b" { 0x97 } else { 1 });
    // Another subscription of the program stands on c.
    assert_eq!(unsubscribes(&asked).into_iter().map(|(_, filters)| filters).collect::<Vec<_>>(), [["a", "b"]]);
    let refused = vec![("b".to_owned(), ReasonCode::QuotaExceeded)];
    let Some(SubscribeError::Revoked { refused: said, .. }) = b.session.subscriptions().ended(key) else { panic!() };
    assert_eq!(said, refused);
    b.receive(&publish(V5, "c", "x", Q0, 0, false));
    assert_eq!(b.payloads(c), ["x"]);
}

#[test]
fn a_filter_that_was_never_granted_is_no_news() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let (key, told) = b.subscribe(Subscribe::to("a").and("b"));
    answer_all(&mut b, |filter| if filter == "b" { 0x87 } else { 1 });
    assert!(told.try_take().unwrap().is_ok());
    b.lose();
    b.connect(false);
    answer_all(&mut b, |filter| if filter == "b" { 0x87 } else { 1 });
    assert!(!b.session.subscriptions().is_at_its_end(key));
    assert!(!b.events().iter().any(|event| matches!(event, Event::SubscriptionEnded { .. })));
    // Once it is granted, it is.
    b.lose();
    b.connect(false);
    answer_all(&mut b, |_| 1);
    b.lose();
    b.connect(false);
    answer_all(&mut b, |filter| if filter == "b" { 0x87 } else { 1 });
    assert!(b.session.subscriptions().is_at_its_end(key));
}

#[test]
fn unread_messages_of_a_stream_that_ended_are_acknowledged_when_it_is_dropped() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let key = b.subscribed("t");
    b.lose();
    b.connect(false);
    let sent = b.flush();
    b.receive(&publish(V5, "t", "unread", Q1, 5, false));
    let (id, _) = subscribes(&sent).remove(0);
    b.receive(&suback(V5, id, &[0x87]));
    let sent = answer_all(&mut b, |_| 1);
    assert!(!sent.contains(&Packet::Ack(PUBACK, 5, 0)), "nobody has read it");
    let (teller, told) = pair();
    b.session.unsubscribe(key, Some(teller));
    assert!(told.try_take().is_some(), "there is nothing to wait for");
    assert_eq!(b.flush(), [Packet::Ack(PUBACK, 5, 0)]);
    assert_eq!(b.session.subscriptions().bytes(), 0);
}

#[test]
fn a_filter_too_large_for_the_server_is_refused_before_anything_is_sent() {
    let filter = "f".repeat(40);
    let mut b = Bench::new(options(V5));
    b.connect_with(false, &maximum(47));
    let (_, told) = b.subscribe(Subscribe::to("ok").and(filter.as_str()));
    assert!(b.flush().is_empty());
    let expected = SubscribeError::TooLarge { filter: filter.clone(), size: 48, max: 47 };
    assert_eq!(told.try_take().unwrap().unwrap_err(), expected);
    // User properties count.
    let (_, told) = b.subscribe(Subscribe::to("t").user_property("name", "v".repeat(40)));
    assert!(b.flush().is_empty());
    assert!(matches!(told.try_take(), Some(Err(SubscribeError::TooLarge { .. }))));
    b.lose();
    b.connect_with(false, &maximum(48));
    assert!(b.flush().is_empty(), "it is not asked for again");
    let (_, told) = b.subscribe(filter.as_str());
    let sent = answer_all(&mut b, |_| 0);
    assert_eq!(lens(V5, &sent), [48], "what fits to the byte is sent");
    assert!(told.try_take().unwrap().is_ok());
}

#[test]
fn many_filters_are_asked_for_and_left_in_as_many_packets_as_it_takes() {
    let mut b = Bench::new(options(V5));
    b.connect_with(false, &maximum(30));
    let mut what = Subscribe::to("f/0").user_property("k", "v");
    for n in 1..9 {
        what = what.and(format!("f/{n}"));
    }
    let (key, told) = b.subscribe(what);
    let mut packets = Vec::new();
    for n in 0.. {
        let sent = b.flush();
        let Some((id, filters)) = subscribes(&sent).pop() else { break };
        assert_eq!(subscribes(&sent).len(), 1, "the next waits for the answer");
        packets.extend(sent);
        assert!(told.try_take().is_none());
        // The last filter is refused, and the connection is lost once between two packets.
        if n == 1 {
            b.lose();
            b.connect_with(true, &maximum(30));
            continue;
        }
        let codes: Vec<u8> = filters.iter().map(|filter| if filter == "f/8" { 0x87 } else { 2 }).collect();
        b.receive(&suback(V5, id, &codes));
    }
    assert!(lens(V5, &packets).iter().all(|len| *len <= 30), "{packets:?}");
    let asked: Vec<String> = subscribes(&packets).into_iter().flat_map(|(_, filters)| filters).collect();
    let again = asked.iter().filter(|filter| *filter == "f/3").count();
    assert_eq!((asked.len(), again), (12, 2), "what was answered is not asked again: {asked:?}");
    let granted = told.try_take().unwrap().unwrap();
    assert_eq!((granted.len(), granted[7], granted[8]), (9, ReasonCode::GrantedQoS2, ReasonCode::NotAuthorized));
    b.receive(&publish(V5, "f/7", "x", Q0, 0, false));
    assert_eq!(b.payloads(key), ["x"]);
    let (teller, left) = pair();
    b.session.unsubscribe(key, Some(teller));
    let sent = answer_all(&mut b, |_| 0);
    assert!(left.try_take().is_some());
    assert!(lens(V5, &sent).iter().all(|len| *len <= 30), "{sent:?}");
    let left: Vec<String> = unsubscribes(&sent).into_iter().flat_map(|(_, filters)| filters).collect();
    assert_eq!(left, (0..9).map(|n| format!("f/{n}")).collect::<Vec<_>>());
    assert!(unsubscribes(&sent).len() > 1);
}

#[test]
fn a_lost_session_is_made_anew_in_packets_that_the_server_takes() {
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let (many, one) = (b.subscribed(Subscribe::to("a/1").and("a/2").and("a/3").and("a/4")), b.subscribed("b"));
    b.lose();
    b.connect_with(false, &maximum(20));
    let sent = answer_all(&mut b, |_| 1);
    assert!(lens(V5, &sent).iter().all(|len| *len <= 20), "{sent:?}");
    let asked: Vec<String> = subscribes(&sent).into_iter().flat_map(|(_, filters)| filters).collect();
    assert_eq!(asked.len(), 5);
    assert!(![many, one].iter().any(|key| b.session.subscriptions().is_at_its_end(*key)));
}

#[test]
fn a_stream_ends_when_the_server_takes_less_than_it_did() {
    let filter = "f".repeat(60);
    let mut b = Bench::new(options(V5));
    b.connect(false);
    let (key, other) = (b.subscribed(Subscribe::to("t").and(filter.as_str())), b.subscribed("other"));
    b.lose();
    b.connect_with(false, &maximum(40));
    let sent = answer_all(&mut b, |_| 1);
    assert_eq!(subscribes(&sent).into_iter().map(|(_, filters)| filters).collect::<Vec<_>>(), [["other"]]);
    assert!(lens(V5, &sent).iter().all(|len| *len <= 40), "{sent:?}");
    let why = b.session.subscriptions().ended(key);
    assert!(matches!(&why, Some(SubscribeError::TooLarge { max: 40, filter: said, .. }) if *said == filter), "{why:?}");
    assert!(!b.session.subscriptions().is_at_its_end(other));
    assert!(b.events().iter().any(|event| matches!(event, Event::SubscriptionEnded { .. })));
}
