//! What leaves a session's queue and is to be a dead letter.

use super::*;
use crate::queue::{Reasons, Why};
use crate::session::Authority;

/// Its client may read nothing.
#[derive(Debug)]
struct Nothing;

impl Authority for Nothing {
    fn user(&self) -> Option<&str> {
        None
    }
    fn may_receive(&self, _: &str) -> bool {
        false
    }
    fn may_leave_will(&self, _: &Message) -> bool {
        false
    }
    fn may_keep(&self, _: &str) -> bool {
        true
    }
    fn is_valid(&self) -> bool {
        true
    }
    fn expires(&self) -> Option<std::time::SystemTime> {
        None
    }
    fn depends_on(&self) -> u64 {
        0
    }
}

fn keeping(policy: Policy, max_messages: u64) -> Settings {
    let mut settings = settings(policy, max_messages);
    settings.queue.dead_letters = Reasons::from_iter(Why::ALL);
    settings
}

fn fallen(session: &mut Session) -> Vec<(u8, Why, bool)> {
    let all = session.take_fallen();
    let said = |fallen: &crate::queue::Fallen| (fallen.message.payload()[0], fallen.why, fallen.sent);
    let said = all.iter().map(said).collect();
    all.iter().filter(|fallen| fallen.awaited).for_each(|fallen| fallen.message.settle());
    said
}

#[test]
fn the_store_does_not_hear_of_it_before_it_is_a_dead_letter_and_the_publisher_waits() {
    let settings = keeping(Policy::DropOldest, 2);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 1);
    session.disconnect(session.epoch(), cx);
    commit(&mut session, cx);
    let (outcome, oldest) = deliver(&mut session, 1, 1, cx);
    assert_eq!(outcome, Outcome::Waiting);
    deliver(&mut session, 2, 1, cx);
    deliver(&mut session, 3, 1, cx);
    assert!(session.has_fallen() && !oldest.is_safe(), "it is nowhere on disk");
    let (collected, left) = session.collect(Time(u64::MAX));
    assert!(collected.is_none() && left);
    assert_eq!(fallen(&mut session), [(1, Why::Full, false)]);
    assert!(oldest.is_safe());
    let (collected, _) = session.collect(Time(u64::MAX));
    assert_eq!(collected.map(|found| found.delta.enqueued.len()), Some(2));
    assert_eq!(session.check(), Ok(()));
}

#[test]
fn what_is_new_to_a_full_queue_falls() {
    let settings = keeping(Policy::DropNewest, 1);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 1);
    deliver(&mut session, 1, 1, cx);
    let (outcome, newest) = deliver(&mut session, 2, 1, cx);
    assert!(outcome == Outcome::Waiting && !newest.is_safe());
    deliver(&mut session, 3, 0, cx);
    assert_eq!(fallen(&mut session), [(2, Why::Full, false)]);
    assert!(newest.is_safe());
}

#[test]
fn what_its_client_may_not_read_any_more_falls() {
    let settings = keeping(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 1);
    for number in 1..=3 {
        deliver(&mut session, number, 1, cx);
    }
    commit(&mut session, cx);
    session.disconnect(session.epoch(), cx);
    session.connect(Link { authority: Some(Arc::new(Nothing)), ..link(NEVER_S, 10) }, cx);
    let mut all = fallen(&mut session);
    while let Some(page) = session.wants_page(cx) {
        let entry = |number: u8| QueueEntry {
            seq: u64::from(number) - 1,
            qos: 1,
            retain: false,
            shared: None,
            subscription_ids: smallvec::SmallVec::new(),
            message: message(number, 1),
        };
        session.page_in(page.from, Ok((1..=3).filter(|n| u64::from(*n) > page.from).map(entry).collect()), cx);
        all.extend(fallen(&mut session));
    }
    // The first one was sent.
    assert_eq!(all, [(1, Why::Revoked, true), (2, Why::Revoked, false), (3, Why::Revoked, false)]);
    assert_eq!(session.ledger().0.dropped[DropReason::Revoked as usize], 3);
    assert_eq!(session.check(), Ok(()));
}

#[test]
fn what_is_refused_and_what_is_too_large_falls() {
    let settings = keeping(Policy::Reject, 100);
    let cx = Cx { now: NOW, settings: &settings };
    let mut session = connected(&settings, 10);
    deliver(&mut session, 1, 1, cx);
    assert!(session.receive_puback(id(1), ReasonCode::QuotaExceeded));
    assert_eq!(fallen(&mut session), [(1, Why::Refused, true)]);
    session.connect(Link { maximum_packet_size: 3, ..link(NEVER_S, 10) }, cx);
    deliver(&mut session, 2, 1, cx);
    assert_eq!(fallen(&mut session), [(2, Why::TooLarge, false)]);
    // Nobody wants those of QoS 0.
    deliver(&mut session, 3, 0, cx);
    assert!(!session.has_fallen());
}
