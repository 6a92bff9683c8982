//! The index against a model: a disk that commits, fails and crashes by seed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::message::{Message, Parts, Time};

fn message(payload: usize) -> Arc<Message> {
    let payload = vec![7; payload];
    let parts = Parts {
        topic: "t",
        properties: &[],
        payload: &payload,
        qos: 1,
        retain: false,
        expires_at: None,
        accepted_at: Time(0),
    };
    Arc::new(Message::new(&parts, None))
}

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

const LIMITS: Limits = Limits { max_messages: 10_000, max_bytes: 64 << 20 };

/// The disk, and what must still be sent.
#[derive(Default)]
struct Disk {
    rows: BTreeMap<Key, Arc<Message>>,
    totals: Totals,
}

impl Disk {
    fn write(&mut self, collected: &Collected) {
        for key in &collected.removed {
            self.rows.remove(key);
        }
        self.rows.extend(collected.set.iter().cloned());
        self.totals = collected.totals;
    }

    fn page(&self, from: Key, most: usize) -> Vec<(Key, Arc<Message>)> {
        self.rows.range(from..).take(most).map(|(key, message)| (*key, message.clone())).collect()
    }
}

fn refill(index: &mut Index, disk: &Disk, seed: &mut Seed) {
    for line in Line::ALL {
        if let Some(from) = index.refill(line) {
            let page = (seed.below(8) > 0).then(|| disk.page(from, 1 + usize::try_from(seed.below(40)).unwrap()));
            index.refilled(line, from, page);
            index.check();
        }
    }
}

fn commit(index: &mut Index, disk: &mut Disk, seed: &mut Seed) {
    let collected = index.collect();
    // A page that is read while the commit is under way.
    let line = Line::ALL[usize::try_from(seed.below(2)).unwrap()];
    let reading = index.refill(line).map(|from| (from, disk.page(from, 8)));
    if seed.below(10) == 0 {
        if seed.below(2) == 0 {
            disk.write(&collected);
        }
        index.not_committed(collected, |_| false);
    } else {
        disk.write(&collected);
        index.committed(collected);
    }
    if let Some((from, page)) = reading {
        index.refilled(line, from, Some(page));
    }
    index.check();
}

fn send(index: &mut Index, now_ms: u64, sent: &mut Vec<Key>) {
    for line in Line::ALL {
        for (key, message) in index.due(line, now_ms, None, 50) {
            assert!(index.remove(key, message.size(), Gone::Sent), "{key:?} is due twice");
            sent.push(key);
        }
    }
    index.check();
}

/// Everything that was accepted and committed is sent once, after its time and in order, whatever fails on the way.
#[test]
fn every_message_is_sent_once_and_in_order() {
    for number in 0..150 {
        let mut seed = Seed(number);
        let mut disk = Disk::default();
        let mut index = Index::new(LIMITS, Totals::default());
        let (mut accepted, mut sent, mut now_ms) = (Vec::new(), Vec::new(), 0);
        for _ in 0..400 {
            match seed.below(10) {
                0..5 => {
                    for _ in 0..seed.below(12) {
                        let line = Line::ALL[usize::try_from(seed.below(2)).unwrap()];
                        let payload = usize::try_from(seed.below(3) * 3000).unwrap();
                        accepted.push(index.insert(line, now_ms + seed.below(400), message(payload), true));
                    }
                }
                5 | 6 => commit(&mut index, &mut disk, &mut seed),
                7 => now_ms += seed.below(30),
                8 => refill(&mut index, &disk, &mut seed),
                _ => send(&mut index, now_ms, &mut sent),
            }
            if seed.below(120) == 0 {
                // A crash: what was not committed is gone, what was sent without a commit is there again.
                accepted.retain(|key| disk.rows.contains_key(key) || sent.contains(key));
                sent.retain(|key| !disk.rows.contains_key(key));
                index = Index::new(LIMITS, disk.totals);
            }
            assert!(sent.iter().all(|key| key.due_ms <= now_ms), "sent too early");
        }
        now_ms += 100_000;
        let before = sent.len();
        for _ in 0..4000 {
            commit(&mut index, &mut disk, &mut seed);
            refill(&mut index, &disk, &mut seed);
            send(&mut index, now_ms, &mut sent);
        }
        let late = |line| sent[before..].iter().filter(move |key| key.line == line);
        assert!(Line::ALL.into_iter().all(|line| late(line).is_sorted()), "seed {number}: out of order");
        sent.sort_unstable();
        accepted.sort_unstable();
        assert_eq!(sent, accepted, "seed {number}");
        assert_eq!((index.totals().messages, index.totals().bytes), (0, 0), "seed {number}");
        assert!(disk.rows.is_empty(), "seed {number}: rows are left over");
    }
}

#[test]
fn many_are_on_disk_and_few_in_memory() {
    let mut disk = Disk::default();
    let mut index = Index::new(Limits { max_messages: 100_000, max_bytes: 1 << 40 }, Totals::default());
    let shared = message(100);
    for at in 0..100_000u64 {
        assert!(index.has_room(100));
        index.insert(Line::Own, at * 7919 % 100_000, shared.clone(), false);
        if at % 1000 == 999 {
            let collected = index.collect();
            disk.write(&collected);
            index.committed(collected);
            index.check();
        }
    }
    assert!(!index.has_room(100));
    assert!(Arc::strong_count(&shared) < 100_000 + 1100, "{}", Arc::strong_count(&shared));
    let (mut sent, mut seed) = (Vec::new(), Seed(1));
    while sent.len() < 100_000 {
        send(&mut index, u64::MAX, &mut sent);
        commit(&mut index, &mut disk, &mut seed);
        refill(&mut index, &disk, &mut seed);
    }
    assert!(sent.is_sorted(), "out of order");
}

/// While a page is read, a message that is in it is cancelled, and so is one that has been committed meanwhile.
#[test]
fn what_is_removed_while_a_page_is_read_stays_away() {
    let write = |index: &mut Index, disk: &mut Disk| {
        let collected = index.collect();
        disk.write(&collected);
        index.committed(collected);
    };
    for commits in 0..2 {
        let mut disk = Disk::default();
        let mut before = Index::new(LIMITS, Totals::default());
        let old = before.insert(Line::Own, 1, message(1), false);
        write(&mut before, &mut disk);
        let mut index = Index::new(LIMITS, disk.totals);
        let from = index.refill(Line::Own).unwrap();
        let page = disk.page(from, 8);
        let new = index.insert(Line::Own, 2, message(1), false);
        write(&mut index, &mut disk);
        for key in [old, new] {
            assert!(index.remove(key, message(1).size(), Gone::Cancelled));
        }
        (0..commits).for_each(|_| write(&mut index, &mut disk));
        index.refilled(Line::Own, from, Some(page));
        index.check();
        assert!(index.due(Line::Own, 9, None, 8).is_empty(), "after {commits} commits");
    }
}

#[test]
fn another_time_is_one_message_still() {
    let mut disk = Disk::default();
    let mut index = Index::new(LIMITS, Totals::default());
    let key = index.insert(Line::Own, 500, message(1), false);
    assert!(index.reschedule(key, Line::Own, 9, message(1)).is_none(), "it is not committed");
    let collected = index.collect();
    disk.write(&collected);
    index.committed(collected);
    let moved = index.reschedule(key, Line::Wall, 9, message(1)).unwrap();
    assert!(index.due(Line::Own, 1000, None, 9).is_empty());
    let collected = index.collect();
    disk.write(&collected);
    index.committed(collected);
    assert_eq!(disk.rows.keys().copied().collect::<Vec<_>>(), [moved]);
    assert_eq!(index.due(Line::Wall, 9, None, 9).len(), 1);
    assert_eq!(index.totals().messages, 1);
}
