#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use super::*;

const TERMS: Terms = Terms {
    share: Share::RoundRobin,
    exclusive: false,
    ack_timeout_ms: None,
    max_deliveries: 3,
    backoff_ms: (100, 1_000),
    not_allowed_ms: Some(300_000),
    levels: 1,
    lower_each: None,
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
fn lower_levels_wait_for_what_comes_of_a_higher_one_but_for_their_share() {
    let terms = Terms { levels: 2, lower_each: Some(3), ..TERMS };
    let mut members = with(1, terms);
    let low = |n: u64| 1 << LEVEL_SHIFT | n;
    (0..4).for_each(|n| members.put(low(n), None, low(n)));
    let places = |dealt: Vec<(u64, u64, u64)>| dealt.into_iter().map(|(.., place)| place).collect::<Vec<_>>();
    members.set_coming(0, true);
    assert_eq!(places(deal(&mut members, 0)), [0u64; 0]);
    (0..3).for_each(|n| members.put(n, None, n));
    assert_eq!(places(deal(&mut members, 0)), [0, 1, low(0), 2]);
    members.set_coming(0, false);
    assert_eq!(places(deal(&mut members, 0)), [low(1), low(2), low(3)]);
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

/// A place of a level.
fn of(level: u64, place: u64) -> u64 {
    level << LEVEL_SHIFT | place
}

#[test]
fn a_higher_level_goes_first_and_lower_ones_have_a_share() {
    let mut members = with(1, Terms { levels: 3, lower_each: Some(4), ..TERMS });
    for place in 0..6 {
        for level in [2, 0, 1] {
            members.put(of(level, place), None, of(level, place));
        }
    }
    let levels: Vec<u64> = deal(&mut members, 0).iter().map(|(.., item)| item >> LEVEL_SHIFT).collect();
    assert_eq!(levels, [0, 0, 0, 1, 0, 0, 0, 2, 1, 1, 1, 2, 1, 1, 2, 2, 2, 2], "each fourth, in turn");
    let mut strict = with(1, Terms { levels: 2, lower_each: None, ..TERMS });
    for place in 0..3 {
        strict.put(of(1, place), None, of(1, place));
        strict.put(of(0, place), None, of(0, place));
    }
    let order: Vec<u64> = deal(&mut strict, 0).iter().map(|(.., item)| *item).collect();
    assert_eq!(order, [of(0, 0), of(0, 1), of(0, 2), of(1, 0), of(1, 1), of(1, 2)]);
}

/// A member that may have odd messages only.
fn deal_odd(members: &mut Members<u64>, now_ms: u64) -> Vec<u64> {
    let mut dealt = Vec::new();
    members.deal(now_ms, |_, _, item| {
        if item % 2 == 0 {
            return Given::NotAllowed;
        }
        dealt.push(*item);
        Given::Taken
    });
    members.check();
    dealt
}

fn given_up(members: &mut Members<u64>) -> Vec<(u64, Why)> {
    let over = |fate| match fate {
        Fate::Over { place, why, .. } => Some((place, why)),
        Fate::Confirmed(..) => None,
    };
    let over = members.take_fates().into_iter().filter_map(over).collect();
    members.check();
    over
}

#[test]
fn what_nobody_may_have_is_offered_again_and_given_up_after_a_time() {
    let mut members = with(2, TERMS);
    (0..3).for_each(|place| members.put(place, None, place));
    assert_eq!(deal_odd(&mut members, 0), [1]);
    assert_eq!((members.not_allowed(), members.due_ms()), (2, Some(1_000)));
    // Rights change, or somebody else comes.
    members.deal(1_000, |_, _, item| if *item == 0 { Given::Taken } else { Given::NotAllowed });
    members.check();
    assert_eq!(members.not_allowed(), 1);
    assert!(deal_odd(&mut members, 299_999).is_empty());
    assert!(given_up(&mut members).is_empty());
    assert!(deal_odd(&mut members, 301_000).is_empty());
    assert_eq!(given_up(&mut members), [(2, Why::NotAllowed)]);
    assert_eq!(members.not_allowed(), 0);
    // Who is busy may have it later.
    members.put(4, None, 4);
    members.deal(301_000, |no, _, _| if no == 0 { Given::Busy } else { Given::NotAllowed });
    members.check();
    assert_eq!((members.not_allowed(), members.due_ms()), (0, None));
}

#[test]
fn what_nobody_may_have_makes_room_when_it_is_half_of_what_is_here() {
    let mut members = with(1, TERMS);
    (0..5).for_each(|place| members.put(place, None, place));
    deal_odd(&mut members, 0);
    members.make_room(0, 7);
    assert!(given_up(&mut members).is_empty(), "less than half");
    members.make_room(0, 6);
    assert_eq!(given_up(&mut members), [(0, Why::NotAllowed), (2, Why::NotAllowed)], "the older half");
    // What waits behind it with its key stands still with it.
    (6..20).for_each(|place| members.put(place, Some(1), place));
    deal_odd(&mut members, 0);
    members.make_room(0, 16);
    assert_eq!(given_up(&mut members), [(4, Why::NotAllowed)]);
    members.make_room(0, 15);
    assert_eq!(given_up(&mut members), [(6, Why::NotAllowed)]);
    assert_eq!(deal_odd(&mut members, 0), [7]);
    // Of dead letters nothing is given up.
    let mut members = with(1, Terms { not_allowed_ms: None, ..TERMS });
    members.put(0, None, 0);
    deal_odd(&mut members, 0);
    members.make_room(0, 1);
    assert!(deal_odd(&mut members, 10_000_000).is_empty());
    assert!(given_up(&mut members).is_empty());
    // But they can be withdrawn.
    assert_eq!(members.withdraw(), Some((0, 0)));
    members.check();
}

#[test]
fn what_is_too_large_for_the_one_member_of_an_exclusive_queue_is_over() {
    let mut members = with(2, Terms { exclusive: true, ..TERMS });
    members.put(0, None, 0);
    members.deal(0, |_, _, _| Given::TooLarge);
    assert_eq!(given_up(&mut members), [(0, Why::TooLarge)]);
    members.put(1, None, 1);
    members.deal(0, |_, _, _| Given::NotAllowed);
    members.check();
    assert_eq!(members.not_allowed(), 1);
}
