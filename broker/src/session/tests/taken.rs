//! A queue whose messages are taken as values.

use super::*;
use crate::session::Taken;
use crate::session::flights::SPAN_MAX;

const ALL: usize = usize::MAX;

fn opened(settings: &Settings, limits: &QueueLimits, window: u16) -> Session {
    let cx = Cx { now: NOW, settings };
    let mut session = Session::new(SessionNo(1), "$bridge/b");
    session.open_for_taking(limits.clone(), window, cx);
    commit(&mut session, cx);
    session
}

fn places(taken: &[Taken]) -> Vec<(u64, bool)> {
    taken.iter().map(|taken| (taken.place, taken.repeated)).collect()
}

fn stored(session: &mut Session) -> usize {
    session.collect(Time(u64::MAX)).0.map_or(0, |collected| collected.delta.enqueued.len())
}

#[test]
fn what_is_confirmed_in_time_is_never_written_and_its_publisher_has_its_ack() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = opened(&settings, &settings.queue, 10);
    assert!(!session.has_something_to_take());
    let shared: Vec<_> = (0..3).map(|payload| deliver(&mut session, payload, 1, cx).1).collect();
    assert!(session.has_something_to_take());
    assert_eq!(places(&session.take(2, ALL, cx)), [(0, false), (1, false)]);
    assert_eq!(places(&session.take(ALL, ALL, cx)), [(2, false)]);
    assert!(!session.has_something_to_take());
    assert!(session.confirm(1) && session.confirm(2), "in any order");
    assert!(!session.confirm(1), "once");
    assert!(!session.confirm(7), "never taken");
    assert_eq!([false, true, true], [0, 1, 2].map(|at: usize| shared[at].is_safe()));
    assert_eq!(stored(&mut session), 1);
    assert!(session.confirm(0));
    let (ledger, queued) = session.ledger();
    assert_eq!((ledger.accepted, ledger.delivered, queued, session.in_flight()), (3, 3, 0, 0));
    assert_eq!(session.out_len(), 0, "nothing is encoded");
}

#[test]
fn one_that_is_never_settled_bounds_what_is_settled_behind_it() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = opened(&settings, &settings.queue, 2);
    deliver(&mut session, 0, 1, cx);
    let stuck = places(&session.take(1, ALL, cx));
    let mut taken = 0u64;
    while taken < 2 * SPAN_MAX {
        deliver(&mut session, 0, 1, cx);
        let Some(next) = session.take(1, ALL, cx).pop() else { break };
        assert!(session.confirm(next.place));
        taken += 1;
    }
    assert_eq!(taken + 1, SPAN_MAX);
    assert!(!session.has_something_to_take());
    assert!(session.confirm(stuck[0].0));
    assert_eq!(session.take(ALL, ALL, cx).len(), 1);
}

#[test]
fn what_is_given_back_comes_again_first_and_in_order() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = opened(&settings, &settings.queue, 3);
    for payload in 0..5 {
        deliver(&mut session, payload, 1, cx);
    }
    assert_eq!(session.take(ALL, ALL, cx).len(), 3, "the window");
    assert!(!session.has_something_to_take());
    assert!(session.confirm(1));
    commit(&mut session, cx);
    session.give_back(cx);
    assert!(session.has_something_to_take());
    assert_eq!(places(&session.take(1, ALL, cx)), [(0, true)]);
    assert!(session.confirm(2), "a confirmation that was late");
    let page = session.wants_page(cx).map(|page| page.from);
    assert_eq!(page, Some(3), "what was not in flight is on disk");
    let entry = |seq: u64| QueueEntry {
        seq,
        qos: 1,
        retain: false,
        shared: None,
        subscription_ids: smallvec::SmallVec::new(),
        message: message(0, 1),
    };
    session.page_in(3, Ok(vec![entry(3), entry(4)]), cx);
    assert_eq!(places(&session.take(ALL, ALL, cx)), [(3, false), (4, false)]);
    assert!([0, 3, 4].into_iter().all(|place| session.confirm(place)));
    assert_eq!((session.ledger().0.delivered, session.ledger().1), (5, 0));
}

#[test]
fn a_batch_is_bounded_in_bytes_but_for_one_message() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = opened(&settings, &settings.queue, 10);
    for payload in 0..5 {
        deliver(&mut session, payload, 1, cx);
    }
    assert_eq!(session.take(ALL, 1, cx).len(), 1, "each has two bytes");
    assert_eq!(session.take(ALL, 5, cx).len(), 2);
    assert_eq!(session.take(0, ALL, cx).len(), 0);
}

#[test]
fn qos2_is_taken_after_its_commit_and_qos0_as_the_others() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = opened(&settings, &settings.queue, 10);
    assert!(session.take(ALL, ALL, cx).is_empty());
    deliver(&mut session, 0, 0, cx);
    deliver(&mut session, 1, 2, cx);
    let taken = session.take(ALL, ALL, cx);
    assert_eq!((places(&taken), taken[0].entry.qos), (vec![(0, false)], 0));
    assert!(!session.has_something_to_take());
    commit(&mut session, cx);
    assert!(session.has_something_to_take());
    assert_eq!(places(&session.take(ALL, ALL, cx)), [(1, false)]);
    session.give_back(cx);
    deliver(&mut session, 2, 0, cx);
    assert_eq!(session.ledger().0.dropped[DropReason::Qos0 as usize], 1, "nobody is there, and it is not to be kept");
}

/// An upstream that knows messages by their places would take a new one for an old one, and drop it.
#[test]
fn a_place_that_was_handed_out_is_never_another_messages() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut fresh = Session::new(SessionNo(1), "$bridge/b");
    fresh.open_for_taking(settings.queue.clone(), 10, cx);
    deliver(&mut fresh, 0, 1, cx);
    assert!(fresh.take(ALL, ALL, cx).is_empty(), "a crash would make the queue anew");
    commit(&mut fresh, cx);
    assert_eq!(places(&fresh.take(ALL, ALL, cx)), [(0, false)]);
    let stored = fresh.collect(Time(u64::MAX)).0.map(|collected| collected.delta.state.unwrap());
    // Places 1 to 3 are taken and confirmed, and the store never hears of them.
    for payload in 1..4 {
        deliver(&mut fresh, payload, 1, cx);
    }
    assert_eq!(fresh.take(ALL, ALL, cx).len(), 3);
    let record = SessionRecord {
        client_id: "$bridge/b".to_owned(),
        protocol: 4,
        expiry_s: NEVER_S,
        disconnected_at: None,
        will: None,
    };
    let state = stored.unwrap_or(QueueState { next_seq: 1, queued: 1, queued_bytes: 2, ..QueueState::default() });
    // The store may know of the queue, and of no place in it.
    for state in [state, QueueState::default()] {
        let found = RecoveredSession { no: SessionNo(1), record: Some(record.clone()), subscriptions: vec![], state };
        let mut again = Session::recover(&found, &record, NOW);
        again.open_for_taking(settings.queue.clone(), 10, cx);
        deliver(&mut again, 9, 1, cx);
        let taken = again.take(ALL, ALL, cx);
        assert!(taken.is_empty(), "not before the store knows where it goes on: {taken:?}");
        assert!(again.next_place() > 1 << 20, "the next is {}", again.next_place());
    }
}

/// What is in flight may have arrived: it is nobody's to drop.
#[test]
fn its_own_policy_and_a_purge_leave_what_is_in_flight() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let limits = QueueLimits { policy: Policy::DropOldest, max_messages: 4, ..settings.queue.clone() };
    let mut session = opened(&settings, &limits, 2);
    for payload in 0..8 {
        deliver(&mut session, payload, 1, cx);
        if payload == 1 {
            assert_eq!(session.take(ALL, ALL, cx).len(), 2);
        }
    }
    let (ledger, queued) = session.ledger();
    assert_eq!((queued, ledger.dropped[DropReason::Oldest as usize]), (4, 4));
    assert_eq!(session.purge(), 2);
    assert!(session.refuse_taken(0, DropReason::Refused) && session.confirm(1));
    let (ledger, queued) = session.ledger();
    let dropped = |reason: DropReason| ledger.dropped[reason as usize];
    assert_eq!((queued, ledger.delivered, dropped(DropReason::Purged), dropped(DropReason::Refused)), (0, 1, 2, 1));
    assert_eq!((session.fill(), session.oldest_at()), ((0, 0), None));
    deliver(&mut session, 9, 1, cx);
    assert_eq!(places(&session.take(ALL, ALL, cx)), [(8, false)]);
}

#[test]
fn a_purge_takes_what_lies_on_disk() {
    let settings = settings(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = opened(&settings, &settings.queue, 2);
    for payload in 0..9 {
        deliver(&mut session, payload, 1, cx);
    }
    session.take(2, ALL, cx);
    commit(&mut session, cx);
    session.give_back(cx);
    assert_eq!(session.oldest_at(), Some(NOW));
    assert_eq!((session.purge(), session.ledger().1), (7, 2));
    let delta = session.collect(Time(u64::MAX)).0.unwrap().delta;
    let state = delta.state.unwrap();
    assert_eq!((state.floor, delta.done, state.next_seq, state.queued), (0, vec![(2, 9)], 9, 2));
}

/// A bridge whose upstream is away for a day does not send what was of use for a minute.
#[test]
fn what_expires_while_it_is_given_back_is_not_taken_again() {
    let mut settings = settings(Policy::Reject, 100);
    settings.queue.max_age_ms = Some(60_000);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = opened(&settings, &settings.queue, 10);
    for payload in 0..3 {
        deliver(&mut session, payload, 1, cx);
    }
    assert_eq!(session.take(ALL, ALL, cx).len(), 3);
    assert!(session.confirm(1));
    session.give_back(cx);
    let later = Cx { now: NOW.plus_ms(30_000), ..cx };
    assert_eq!(places(&session.take(ALL, ALL, later)), [(0, true), (2, true)]);
    assert!(!session.outlived(&message(0, 1), later));
    session.give_back(later);
    let later = Cx { now: NOW.plus_ms(60_000), ..cx };
    deliver(&mut session, 3, 1, later);
    commit(&mut session, later);
    assert!(session.take(1, ALL, later).is_empty() || session.in_flight() == 1);
    assert_eq!((session.ledger().0.expired, session.ledger().0.delivered), (2, 1));
    assert!(session.outlived(&message(0, 1), later));
}
