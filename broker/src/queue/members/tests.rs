#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use super::*;

const TERMS: Terms = Terms {
    share: Share::RoundRobin,
    exclusive: false,
    ack_timeout_ms: None,
    max_deliveries: 3,
    backoff_ms: (100, 1_000),
};

fn with(members: u64, terms: Terms) -> Members<u64> {
    let mut all = Members::new(terms);
    (0..members).for_each(|no| all.join(no, true));
    all
}

/// Deals to whoever is asked; returns member, number of the lending and message.
fn deal(members: &mut Members<u64>, now_ms: u64) -> Vec<(u64, u64, u64)> {
    let mut dealt = Vec::new();
    members.deal(now_ms, |no, lending, item| {
        dealt.push((no, lending, *item));
        Given::Taken
    });
    members.check();
    dealt
}

fn who_has(dealt: &[(u64, u64, u64)]) -> Vec<(u64, u64)> {
    dealt.iter().map(|(no, _, item)| (*no, *item)).collect()
}

#[test]
fn members_take_turns_and_who_is_busy_or_away_is_passed_over() {
    let mut members = with(3, TERMS);
    (0..4).for_each(|place| members.put(place, None, place));
    assert_eq!(who_has(&deal(&mut members, 0)), [(0, 0), (1, 1), (2, 2), (0, 3)]);
    members.set_online(1, false);
    (4..7).for_each(|place| members.put(place, None, place));
    members.deal(0, |no, _, _| if no == 2 { Given::Busy } else { Given::Taken });
    assert_eq!(members.members.iter().map(|m| (m.no, m.held)).collect::<Vec<_>>(), [(0, 5), (2, 1), (1, 1)]);
    members.put(7, None, 7);
    members.room(2);
    assert_eq!(who_has(&deal(&mut members, 0)), [(2, 7)]);
}

#[test]
fn the_fewest_in_flight_is_next() {
    let mut members = with(2, Terms { share: Share::LeastInFlight, ..TERMS });
    (0..4).for_each(|place| members.put(place, None, place));
    let dealt = deal(&mut members, 0);
    for (_, lending, _) in dealt.iter().filter(|(no, ..)| *no == 1) {
        members.settle(*lending, Outcome::Confirmed, 0);
    }
    (4..6).for_each(|place| members.put(place, None, place));
    assert_eq!(who_has(&deal(&mut members, 0)), [(1, 4), (1, 5)]);
}

#[test]
fn a_key_has_one_message_in_flight() {
    let mut members = with(2, TERMS);
    members.put(0, Some(7), 0);
    members.put(1, Some(7), 1);
    members.put(2, Some(8), 2);
    let dealt = deal(&mut members, 0);
    assert_eq!(who_has(&dealt), [(0, 0), (1, 2)]);
    // Refused: those behind it wait with it.
    members.settle(dealt[0].1, Outcome::Refused { after_ms: None }, 10);
    assert!(deal(&mut members, 109).is_empty());
    assert_eq!(members.due_ms(), Some(110));
    let again = deal(&mut members, 110);
    assert_eq!(again.iter().map(|(_, _, item)| *item).collect::<Vec<_>>(), [0]);
    members.settle(again[0].1, Outcome::Confirmed, 110);
    assert_eq!(deal(&mut members, 110).len(), 1);
}

#[test]
fn one_member_has_an_exclusive_queue_and_the_next_stands_by() {
    let mut members = with(2, Terms { exclusive: true, ..TERMS });
    (0..3).for_each(|place| members.put(place, None, place));
    let dealt = deal(&mut members, 0);
    assert_eq!(who_has(&dealt), [(0, 0), (0, 1), (0, 2)]);
    members.set_online(0, false);
    for (_, lending, _) in dealt.iter().rev() {
        members.settle(*lending, Outcome::Returned, 0);
    }
    assert_eq!(who_has(&deal(&mut members, 0)), [(1, 0), (1, 1), (1, 2)]);
    // Who comes back stands by.
    members.set_online(0, true);
    members.put(3, None, 3);
    assert_eq!(who_has(&deal(&mut members, 0)), [(1, 3)]);
}

#[test]
fn what_is_refused_comes_later_each_time_and_then_no_more() {
    let mut members = with(1, TERMS);
    members.put(0, None, 0);
    let mut now = 0;
    for after in [100, 200] {
        let dealt = deal(&mut members, now);
        members.settle(dealt[0].1, Outcome::Refused { after_ms: None }, now);
        assert_eq!(members.due_ms(), Some(now + after));
        now += after;
    }
    let dealt = deal(&mut members, now);
    members.settle(dealt[0].1, Outcome::Refused { after_ms: Some(5) }, now);
    let fates = members.take_fates();
    assert!(matches!(fates[..], [Fate::Over { place: 0, why: Why::Refused, deliveries: 3, .. }]), "{fates:?}");
    assert!(members.is_empty());
}

#[test]
fn what_is_held_for_too_long_is_taken_back_and_a_late_word_of_it_is_nothing() {
    let mut members = with(1, Terms { ack_timeout_ms: Some(50), ..TERMS });
    members.put(0, None, 0);
    let late = deal(&mut members, 0)[0].1;
    assert_eq!(members.due_ms(), Some(50));
    assert!(deal(&mut members, 50).is_empty());
    let again = deal(&mut members, 150)[0].1;
    members.settle(late, Outcome::Confirmed, 160);
    assert!(members.take_fates().is_empty());
    members.settle(again, Outcome::Confirmed, 170);
    assert!(matches!(members.take_fates()[..], [Fate::Confirmed(0, _)]));
}

#[test]
fn too_large_for_every_member_is_over_and_not_allowed_waits() {
    let mut members = with(2, TERMS);
    members.put(0, None, 0);
    members.put(1, None, 1);
    members.deal(0, |_, _, item| if *item == 0 { Given::TooLarge } else { Given::NotAllowed });
    assert!(matches!(members.take_fates()[..], [Fate::Over { place: 0, why: Why::TooLarge, .. }]));
    assert_eq!(members.len(), 1);
}

/// A generator of choices (splitmix64).
struct Seed(u64);

impl Seed {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end
    }
}

/// Members that come, go, refuse, are silent: each message is confirmed once or over, and in order within its key.
#[test]
fn every_message_ends_once_and_in_order() {
    for number in 0..2_000 {
        let mut seed = Seed(number);
        let terms = Terms {
            share: if seed.below(2) == 0 { Share::RoundRobin } else { Share::LeastInFlight },
            exclusive: seed.below(4) == 0,
            ack_timeout_ms: (seed.below(2) == 0).then_some(20),
            ..TERMS
        };
        let mut members = with(1 + seed.below(4), terms);
        let mut held: Vec<(u64, u64, u64)> = Vec::new();
        let mut ended: Vec<u64> = Vec::new();
        let mut put = 0;
        for now in 0..600_u64 {
            let calm = now > 300;
            match seed.below(8) {
                0 if put < 40 => {
                    members.put(put, Some(put % 3), put);
                    put += 1;
                }
                1 if !calm => {
                    let no = seed.below(4);
                    members.set_online(no, false);
                    for (_, lending, _) in held.extract_if(.., |(of, ..)| *of == no) {
                        members.settle(lending, Outcome::Returned, now);
                    }
                }
                2 => members.set_online(seed.below(4), true),
                3 if calm => (0..4).for_each(|no| members.set_online(no, true)),
                4 | 5 if !held.is_empty() => {
                    let at = usize::try_from(seed.below(held.len() as u64)).unwrap();
                    let (_, lending, _) = held.swap_remove(at);
                    let refused = !calm && seed.below(3) == 0;
                    let outcome = if refused { Outcome::Refused { after_ms: Some(5) } } else { Outcome::Confirmed };
                    members.settle(lending, outcome, now);
                }
                _ => {
                    members.deal(now, |no, lending, item| {
                        if seed.below(4) == 0 {
                            return Given::Busy;
                        }
                        held.push((no, lending, *item));
                        Given::Taken
                    });
                    (0..4).for_each(|no| members.room(no));
                }
            }
            members.check();
            for fate in members.take_fates() {
                match fate {
                    Fate::Confirmed(place, _) | Fate::Over { place, .. } => ended.push(place),
                }
            }
        }
        for now in 1_000..3_000 {
            (0..4).for_each(|no| members.set_online(no, true));
            held.extend(deal(&mut members, now));
            for (_, lending, _) in held.drain(..) {
                members.settle(lending, Outcome::Confirmed, now);
            }
            ended.extend(members.take_fates().iter().map(|fate| match fate {
                Fate::Confirmed(place, _) | Fate::Over { place, .. } => *place,
            }));
        }
        assert!(members.is_empty(), "seed {number}: {members:?}");
        for key in 0..3 {
            let of_key: Vec<u64> = ended.iter().copied().filter(|place| place % 3 == key).collect();
            assert!(of_key.is_sorted(), "seed {number}: key {key} ended as {of_key:?}");
        }
        ended.sort_unstable();
        assert_eq!(ended, (0..put).collect::<Vec<_>>(), "seed {number}");
    }
}
