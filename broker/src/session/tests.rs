//! A session and its client in virtual time: what goes in and out, without a socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;

use forebay_wire::reason::ReasonCode;
use forebay_wire::types::PacketId;

use super::{
    Awaited, Cx, Delivery, Durability, Fate, Link, Outcome, Policy, QueueLimits, Received, Session, Settings, Urgency,
};
use crate::broker::by_hand;
use crate::codec::AckKind;
use crate::message::{Message, Parts, Time};
use crate::store::{
    DropReason, GroupId, NEVER_S, QueueEntry, QueueState, RecoveredSession, SessionNo, SessionRecord, Share,
    StoredSubscription,
};

mod fallen;
mod taken;

const NOW: Time = Time(5_000);

fn settings(policy: Policy, max_messages: u64) -> Settings {
    Settings {
        queue: QueueLimits {
            max_messages,
            max_bytes: 1 << 20,
            max_transient_bytes: 1 << 20,
            max_age_ms: None,
            policy,
            keep_last_by: crate::queue::KeyOf::Topic,
            queue_qos0: false,
            stall_ms: None,
            stall_transient_ms: None,
            dead_letters: crate::queue::Reasons::default(),
            memory_messages: 4,
            memory_bytes: 1 << 20,
        },
        outbound_buffer: 1 << 16,
        max_inflight: 0,
        receive_maximum: 10,
        outbound_topic_alias_maximum: 0,
    }
}

fn link(expiry_s: u32, receive_maximum: u16) -> Link {
    Link { receive_maximum, ..by_hand::link(expiry_s) }
}

fn message(payload: u8, qos: u8) -> Arc<Message> {
    let payload = [payload];
    let (topic, expires_at) = ("t", None);
    let parts = Parts { topic, properties: &[], payload: &payload, qos, retain: false, expires_at, accepted_at: NOW };
    Arc::new(Message::new(&parts, None))
}

fn deliver(session: &mut Session, payload: u8, qos: u8, cx: Cx<'_>) -> (Outcome, Arc<Message>) {
    deliver_as(session, payload, qos, Durability::Commit, cx)
}

fn deliver_as(
    session: &mut Session,
    payload: u8,
    qos: u8,
    durability: Durability,
    cx: Cx<'_>,
) -> (Outcome, Arc<Message>) {
    let shared = message(payload, qos);
    let delivery = Delivery {
        topic: b"t",
        properties: &[],
        payload: &[payload],
        qos,
        retain: false,
        shared: Some(Share::Group(GroupId::of("g", "t"))),
        subscription_ids: &[],
        expires_at: None,
        durability,
    };
    (session.deliver(&delivery, &mut || shared.clone(), cx), shared)
}

/// One commit, done.
fn commit(session: &mut Session, cx: Cx<'_>) {
    if let (Some(collected), _) = session.collect(Time(u64::MAX)) {
        session.committed(&collected, cx);
    }
}

fn first_bytes(session: &mut Session) -> Vec<u8> {
    let out = session.take_all_out();
    let mut rest = &out[..];
    let mut found = Vec::new();
    while let Some(frame) = forebay_wire::frame::peek(rest, u32::MAX).unwrap() {
        found.push(frame.first_byte);
        rest = &rest[frame.total()..];
    }
    found
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

fn connected(settings: &Settings, receive_maximum: u16) -> Session {
    let cx = Cx { now: NOW, settings };
    let mut session = Session::new(SessionNo(1), "c");
    session.connect(link(NEVER_S, receive_maximum), cx);
    commit(&mut session, cx);
    session
}

#[test]
fn qos2_is_sent_after_its_commit_and_released_after_that_of_its_pubrec() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 10);
    let (outcome, shared) = deliver(&mut session, 1, 2, cx);
    assert_eq!((outcome, shared.is_safe()), (Outcome::Waiting, false));
    assert_eq!(first_bytes(&mut session), [0u8; 0]);
    commit(&mut session, cx);
    assert!(shared.is_safe());
    assert_eq!(first_bytes(&mut session), [0x34]);
    session.receive_pubrec(id(1), ReasonCode::Success);
    assert_eq!(first_bytes(&mut session), [0u8; 0]);
    commit(&mut session, cx);
    assert_eq!(first_bytes(&mut session), [0x62]);
    assert!(session.receive_pubcomp(id(1)));
    let (ledger, queued) = session.ledger();
    assert_eq!((ledger.accepted, ledger.delivered, queued), (1, 1, 0));
}

#[test]
fn an_ack_before_the_commit_makes_the_write_needless() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 10);
    let (_, shared) = deliver(&mut session, 1, 1, cx);
    assert_eq!(first_bytes(&mut session), [0x32]);
    assert!(!shared.is_safe());
    assert!(session.receive_puback(id(1), ReasonCode::Success));
    assert!(shared.is_safe());
    let written = session.collect(Time(u64::MAX)).0.map_or(0, |collected| collected.delta.enqueued.len());
    assert_eq!(written, 0);
}

#[test]
fn a_qos0_message_does_not_overtake_what_was_queued_while_its_client_was_away() {
    let mut settings = settings(Policy::Reject, 100);
    settings.queue.queue_qos0 = true;
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 1);
    let epoch = session.epoch();
    assert!(session.disconnect(epoch, cx));
    for qos in [1, 1, 0] {
        deliver(&mut session, 1, qos, cx);
    }
    session.connect(link(NEVER_S, 1), cx);
    commit(&mut session, cx);
    session.pump(cx);
    assert_eq!(first_bytes(&mut session), [0x32]);
    deliver(&mut session, 2, 0, cx);
    assert!(!session.deliver_frames(&[0x30, 4, 0, 1, b't', 3], 1, cx));
    assert_eq!(first_bytes(&mut session), [0u8; 0]);
    for expected in [&[0x32][..], &[0x30, 0x30]] {
        let first = session.flights.first().map(|flight| super::flights::packet_id(flight.seq));
        assert!(session.receive_puback(first.unwrap(), ReasonCode::Success));
        session.pump(cx);
        assert_eq!(first_bytes(&mut session), expected);
    }
    deliver(&mut session, 4, 0, cx);
    assert_eq!(first_bytes(&mut session), [0x30], "nothing waits any more");
    assert!(session.deliver_frames(&[0x30, 4, 0, 1, b't', 3], 1, cx));
}

#[test]
fn receive_maximum_holds_and_a_resume_repeats_in_order_with_dup() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 2);
    for payload in 0..4 {
        deliver(&mut session, payload, 1, cx);
    }
    assert_eq!(first_bytes(&mut session), [0x32, 0x32]);
    commit(&mut session, cx);
    let epoch = session.epoch();
    assert!(session.disconnect(epoch, cx));
    assert!(!session.disconnect(epoch, cx), "only once");
    session.connect(link(NEVER_S, 2), cx);
    assert_eq!(first_bytes(&mut session), [0x3A, 0x3A]);
}

#[test]
fn an_inbound_qos2_identifier_is_taken_until_pubrel_and_its_acks_wait_for_commits() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 10);
    assert_eq!(session.receive_qos2(id(7), 10), Received::New);
    session.acknowledge(AckKind::Pubrec, id(7), ReasonCode::Success, None);
    assert_eq!(session.receive_qos2(id(7), 10), Received::Duplicate);
    assert_eq!(first_bytes(&mut session), [0u8; 0]);
    commit(&mut session, cx);
    assert_eq!(first_bytes(&mut session), [0x50]);
    session.receive_pubrel(id(7));
    assert_eq!(first_bytes(&mut session), [0u8; 0]);
    commit(&mut session, cx);
    assert_eq!(first_bytes(&mut session), [0x70]);
    assert_eq!(session.receive_qos2(id(7), 10), Received::New);
}

/// On disk the identifier is taken until the commit: whoever used it again before would send a duplicate, after a crash.
#[test]
fn a_pubrel_that_is_repeated_waits_for_the_commit_of_the_first() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 10);
    assert_eq!(session.receive_qos2(id(7), 10), Received::New);
    session.acknowledge(AckKind::Pubrec, id(7), ReasonCode::Success, None);
    commit(&mut session, cx);
    assert_eq!(first_bytes(&mut session), [0x50]);
    session.receive_pubrel(id(7));
    let epoch = session.epoch();
    session.disconnect(epoch, cx);
    session.connect(link(NEVER_S, 2), cx);
    session.receive_pubrel(id(7));
    assert_eq!(first_bytes(&mut session), [0u8; 0]);
    commit(&mut session, cx);
    assert_eq!(first_bytes(&mut session), [0x70]);
}

/// The publisher's own commit may come before the one that holds its message: that may wait for an ack of its subscriber.
#[test]
fn the_pubrec_of_a_repetition_waits_for_the_first_messages_safety() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 10);
    let routed = message(1, 2);
    routed.await_one();
    assert_eq!(session.receive_qos2(id(7), 10), Received::New);
    let awaited = Awaited { message: routed.clone(), refusable: true };
    session.acknowledge(AckKind::Pubrec, id(7), ReasonCode::Success, Some(awaited));
    for _ in 0..2 {
        session.connect(link(NEVER_S, 2), cx);
        assert_eq!(session.receive_qos2(id(7), 10), Received::Duplicate);
        session.acknowledge_repeated(id(7));
        commit(&mut session, cx);
        assert_eq!(first_bytes(&mut session), [0u8; 0], "acknowledged, and on no disk");
    }
    assert!(session.refuse_waiting(&routed, 1), "the queue may say that it has no room after all");
    assert_eq!(first_bytes(&mut session), [0u8; 0]);
    session.release_acks();
    assert_eq!((first_bytes(&mut session), session.has_received(id(7))), (vec![0x50], false));
}

/// What was routed for a connection that has been taken over is known when its client repeats it.
#[test]
fn what_a_connection_that_was_taken_over_has_routed_is_waited_for() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 10);
    let routed = message(1, 2);
    routed.await_one();
    assert_eq!(session.receive_qos2(id(7), 10), Received::New);
    session.begin_qos2(1);
    session.connect(link(NEVER_S, 2), cx);
    assert!(session.has_undecided());
    session.end_qos2(1);
    session.keep_qos2(id(7), Some(&Awaited { message: routed.clone(), refusable: true }));
    assert!(!session.has_undecided());
    session.acknowledge_repeated(id(7));
    commit(&mut session, cx);
    assert_eq!(first_bytes(&mut session), [0u8; 0]);
    routed.settle();
    session.release_acks();
    assert_eq!(first_bytes(&mut session), [0x50]);
}

/// One whose PUBREC waits for the commit is one, not two; and what waits for no message is none.
#[test]
fn each_unacknowledged_message_counts_once() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 10);
    for n in 1..=2 {
        assert_eq!(session.receive_qos2(id(n), 3), Received::New);
        session.acknowledge(AckKind::Pubrec, id(n), ReasonCode::Success, None);
    }
    session.owe_packet(&[0x90, 0]);
    assert_eq!((session.unacknowledged(), session.receive_qos1(3)), (2, Received::New));
    session.acknowledge(AckKind::Puback, id(3), ReasonCode::Success, None);
    assert_eq!((session.unacknowledged(), session.receive_qos1(3)), (3, Received::TooMany));
    session.receive_pubrel(id(1));
    assert_eq!(session.unacknowledged(), 3, "until PUBCOMP");
    commit(&mut session, cx);
    assert_eq!(first_bytes(&mut session), [0x50, 0x50, 0x90, 0x40, 0x70]);
    assert_eq!(session.unacknowledged(), 1);
}

/// A disk that is slow, or fails: what waits for it is bounded, in acks, in packets and in bytes.
#[test]
fn so_much_is_owed_and_no_more() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 10);
    let until_much = |session: &mut Session, owe: &mut dyn FnMut(&mut Session)| {
        let mut owed = 0;
        while !session.owes_much() {
            owe(session);
            owed += 1;
        }
        owed
    };
    // What nothing waits for waits for what is before it.
    session.owe_packet(&[0xB0, 0]);
    let unknown = until_much(&mut session, &mut |session| session.receive_pubrel(id(9)));
    assert_eq!(unknown, 8 * 1024 - 1);
    commit(&mut session, cx);
    let _ = session.take_all_out();
    assert!(!session.owes_much());
    assert_eq!(until_much(&mut session, &mut |session| session.owe_packet(&[0xB0, 0])), 64);
    commit(&mut session, cx);
    let _ = session.take_all_out();
    let (payload, expires_at) = (vec![0; 1 << 20], None);
    let parts =
        Parts { topic: "t", properties: &[], payload: &payload, qos: 1, retain: false, expires_at, accepted_at: NOW };
    let large = Arc::new(Message::new(&parts, None));
    large.await_one();
    let awaited = |refusable| Some(Awaited { message: large.clone(), refusable });
    let megabytes = until_much(&mut session, &mut |session| {
        session.acknowledge(AckKind::Puback, id(1), ReasonCode::Success, awaited(true));
    });
    assert_eq!(megabytes, 8);
    assert!(session.refuse_waiting(&large, 1));
    assert!(!session.owes_much(), "what is refused is not waited for");
    session.disconnect(session.epoch(), cx);
    assert!(!session.owes_much());
}

#[test]
fn drop_newest_counts_what_it_drops() {
    let settings = settings(Policy::DropNewest, 2);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 1);
    for payload in 0..3 {
        deliver(&mut session, payload, 1, cx);
    }
    let (ledger, queued) = session.ledger();
    assert_eq!((ledger.accepted, queued, ledger.dropped[DropReason::Newest as usize]), (3, 2, 1));
}

/// Over its limit, with a head that was sent before a restart and so must stay: what is behind it goes, and no page is asked
/// for again and again.
#[test]
fn an_absent_client_keeps_what_was_sent_and_asks_for_no_page_for_ever() {
    let settings = settings(Policy::DropOldest, 2);
    let cx = Cx { now: NOW, settings: &settings };
    let record = SessionRecord {
        client_id: "c".to_owned(),
        protocol: 5,
        expiry_s: NEVER_S,
        disconnected_at: Some(NOW),
        will: None,
    };
    let state = QueueState { next_seq: 4, sent: 1, queued: 4, queued_bytes: 8, ..QueueState::default() };
    let found = RecoveredSession { no: SessionNo(1), record: Some(record.clone()), subscriptions: Vec::new(), state };
    let mut session = Session::recover(&found, &record, NOW);
    let entry = |seq: u64| QueueEntry {
        seq,
        qos: 2,
        retain: false,
        shared: None,
        subscription_ids: smallvec::SmallVec::new(),
        message: message(0, 2),
    };
    let mut asked = 0;
    while let Some(page) = session.wants_page(cx) {
        asked += 1;
        assert!(asked < 10, "the same page is read for ever");
        session.page_in(page.from, Ok((page.from..4).map(entry).collect()), cx);
    }
    let (ledger, queued) = session.ledger();
    assert_eq!((queued, ledger.dropped[DropReason::Oldest as usize]), (2, 2));
    commit(&mut session, cx);
    session.connect(link(NEVER_S, 10), cx);
    commit(&mut session, cx);
    let page = session.wants_page(cx).unwrap();
    session.page_in(page.from, Ok((page.from..4).map(entry).collect()), cx);
    assert_eq!(first_bytes(&mut session), [0x3C, 0x34], "what was sent, and the newest");
}

/// Once each, however many there are; again after a commit that failed; not at all what the store never had.
#[test]
fn the_store_is_told_of_each_place_that_is_done_once() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 20);
    for payload in 0..8 {
        deliver(&mut session, payload, 1, cx);
    }
    commit(&mut session, cx);
    let told = |session: &mut Session| {
        let (collected, _) = session.collect(Time(u64::MAX));
        collected.map(|collected| (collected.delta.done.clone(), collected))
    };
    for acknowledged in [3, 6, 4] {
        assert!(session.receive_puback(id(acknowledged), ReasonCode::Success));
    }
    let (done, collected) = told(&mut session).unwrap();
    assert_eq!(done, [(2, 4), (5, 6)]);
    session.not_committed(collected);
    assert!(session.receive_puback(id(8), ReasonCode::Success));
    let (done, collected) = told(&mut session).unwrap();
    assert_eq!(done, [(2, 4), (5, 6), (7, 8)]);
    session.committed(&collected, cx);
    // Acknowledged before the store had it: there is nothing to tell.
    deliver(&mut session, 9, 1, cx);
    assert!(session.receive_puback(id(9), ReasonCode::Success));
    assert!(session.receive_puback(id(1), ReasonCode::Success));
    let (done, collected) = told(&mut session).unwrap();
    assert_eq!((done.as_slice(), collected.delta.state.as_ref().unwrap().floor), ([].as_slice(), 1));
    session.committed(&collected, cx);
    assert!(told(&mut session).is_none());
}

/// Its ack frees no place of the window, or more would be in flight than the client takes.
#[test]
fn an_ack_for_what_a_resume_has_not_sent_again_yet_opens_no_window() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 3);
    for payload in 0..3 {
        deliver(&mut session, payload, 1, cx);
    }
    commit(&mut session, cx);
    assert_eq!(first_bytes(&mut session).len(), 3);
    session.connect(link(NEVER_S, 1), cx);
    assert_eq!(first_bytes(&mut session), [0x3A]);
    assert!(session.receive_puback(id(2), ReasonCode::Success));
    session.pump(cx);
    assert_eq!(first_bytes(&mut session), [0u8; 0]);
    assert!(session.receive_puback(id(1), ReasonCode::Success));
    session.pump(cx);
    assert_eq!(first_bytes(&mut session), [0x3A]);
}

/// The window was once measured to the newest message: a client with a long backlog was sent one message at a time.
#[test]
fn a_backlog_longer_than_the_packet_identifiers_is_sent_a_window_at_a_time() {
    let mut settings = settings(Policy::Reject, 100_000);
    settings.queue.memory_messages = 100_000;
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 5);
    for _ in 0..70_000 {
        deliver(&mut session, 1, 1, cx);
    }
    assert_eq!(first_bytes(&mut session).len(), 5);
    for place in 0..5 {
        assert!(session.receive_puback(id(place + 1), ReasonCode::Success));
    }
    session.pump(cx);
    assert_eq!(first_bytes(&mut session), [0x32; 5], "the next five, not one");
}

/// It is deleted elsewhere in that commit.
#[test]
fn what_moves_here_is_in_the_next_commit_however_young() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 10);
    deliver(&mut session, 1, 1, cx);
    let (young, left) = session.collect(Time(0));
    assert!(young.is_none() && left, "its subscriber may yet make the write needless");
    deliver_as(&mut session, 2, 1, Durability::Moved, cx);
    deliver(&mut session, 3, 1, cx);
    let (collected, left) = session.collect(Time(0));
    let places: Vec<u64> = collected.unwrap().delta.enqueued.iter().map(|entry| entry.seq).collect();
    assert_eq!((places, left), (vec![0, 1], true));
}

#[test]
fn an_end_whose_commit_failed_is_in_the_next() {
    let mut session = connected(&settings(Policy::Reject, 100), 10);
    session.end();
    session.take_urgency();
    let ended = session.collect(Time(0)).0.unwrap();
    assert!(ended.delta.ended);
    assert!(session.collect(Time(0)).0.is_none(), "once");
    session.not_committed(ended);
    assert_eq!(session.take_urgency(), Urgency::Now, "the writer hears of it");
    assert!(session.collect(Time(0)).0.unwrap().delta.ended);
}

#[test]
fn a_queue_is_given_up_page_by_page_each_after_the_commit_of_the_one_before() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 2);
    session.subscribe(StoredSubscription {
        filter: "$share/g/t".to_owned(),
        qos: 1,
        no_local: false,
        retain_as_published: false,
        subscription_id: 0,
        retained_behind: None,
    });
    let mut stored = Vec::new();
    for payload in 0..6 {
        deliver(&mut session, payload, 1, cx);
    }
    let collected = session.collect(Time(u64::MAX)).0.unwrap();
    stored.extend(collected.delta.enqueued.iter().cloned());
    session.committed(&collected, cx);
    session.disconnect(session.epoch(), cx);
    assert_eq!(session.leave(cx).unwrap().len(), 2, "those in flight");
    for place in [2, 4] {
        assert_eq!(session.wants_page(cx), None, "the commit comes first");
        commit(&mut session, cx);
        assert_eq!(session.wants_page(cx).unwrap().from, place as u64);
        let page = session.leaving_page(place as u64, stored[place..place + 2].to_vec(), cx).unwrap();
        assert!(page.messages.iter().all(|(_, _, fate)| matches!(fate, Fate::Give(..))));
        assert_eq!(session.left(&page, 2), place == 4);
    }
    let (ledger, queued) = session.ledger();
    assert_eq!((ledger.dropped[DropReason::SessionEnded as usize], queued), (6, 0));
}

/// Its oldest messages are on disk only; the newest find room at once.
#[test]
fn drop_oldest_keeps_an_absent_client_within_its_limit() {
    let mut settings = settings(Policy::DropOldest, 12);
    settings.queue.memory_messages = 8;
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 10);
    session.disconnect(session.epoch(), cx);
    let mut disk: Vec<QueueEntry> = Vec::new();
    for payload in 0..100 {
        deliver(&mut session, payload, 1, cx);
        assert!(session.ledger().1 <= 12, "{payload}: {} are queued", session.ledger().1);
        let collected = session.collect(Time(u64::MAX)).0.unwrap();
        disk.extend(collected.delta.enqueued.iter().cloned());
        session.committed(&collected, cx);
        // The pager is two messages late.
        if payload % 3 == 2
            && let Some(page) = session.wants_page(cx)
        {
            let from = disk.partition_point(|entry| entry.seq < page.from);
            session.page_in(page.from, Ok(disk[from..].iter().take(5).cloned().collect()), cx);
        }
    }
    let (ledger, queued) = session.ledger();
    assert_eq!((queued, ledger.dropped[DropReason::Oldest as usize]), (12, 88));
    session.connect(link(NEVER_S, 20), cx);
    while let Some(page) = session.wants_page(cx) {
        let from = disk.partition_point(|entry| entry.seq < page.from);
        session.page_in(page.from, Ok(disk[from..].iter().take(5).cloned().collect()), cx);
    }
    assert_eq!(session.ledger().1, 12);
    assert_eq!(first_bytes(&mut session), [0x32; 12]);
}

/// Acks and PUBRELs wait for the number of a delta: a session that has been written to four thousand million times goes on.
#[test]
fn acks_leave_beyond_two_to_the_thirty_two_deltas() {
    let settings = settings(Policy::Reject, 10);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = Session::new(SessionNo(1), "device");
    session.connect(link(100, 10), cx);
    session.persist.as_mut().unwrap().open = u64::from(u32::MAX);
    for id in 1..4 {
        let id = PacketId::new(id).unwrap();
        session.take_qos2(id);
        session.acknowledge(AckKind::Pubrec, id, ReasonCode::Success, None);
        assert!(session.take_all_out().is_empty(), "before its commit");
        let (Some(collected), _) = session.collect(NOW) else { panic!("nothing to write") };
        session.committed(&collected, cx);
        assert_eq!(session.take_all_out(), [0x50, 2, 0, id.get() as u8]);
    }
    assert!(session.persist.as_ref().unwrap().open > u64::from(u32::MAX));
}
