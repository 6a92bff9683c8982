use std::collections::BTreeMap;

use super::naive::{Random, beginnings, matches};
use crate::router::{Full, Go, Limits, Place, Retained};

const ROOMY: Limits = Limits { messages_max: usize::MAX, bytes_max: usize::MAX, nodes_max: usize::MAX };

fn found(retained: &Retained<u64>, filter: &str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    retained.matching(filter, &mut |topic, message| {
        assert!(found.insert(topic.to_owned(), *message).is_none(), "{topic:?} twice for {filter:?}");
    });
    found
}

#[test]
fn the_standards_examples() {
    for (filter, topic, expected) in super::routes::EXAMPLES {
        let mut retained = Retained::new(ROOMY);
        retained.set(topic, 7, 1).unwrap();
        let expected = if *expected { BTreeMap::from([((*topic).to_owned(), 7)]) } else { BTreeMap::new() };
        assert_eq!(found(&retained, filter), expected, "{filter} {topic}");
    }
}

#[test]
fn a_topic_has_one_message() {
    let mut retained = Retained::new(ROOMY);
    assert_eq!(retained.set("a/b", 1, 10), Ok(None));
    assert_eq!(retained.set("a/b", 2, 30), Ok(Some(1)));
    assert_eq!((retained.get("a/b"), retained.get("a"), retained.get("a/b/c")), (Some(&2), None, None));
    assert_eq!((retained.len(), retained.bytes(), retained.nodes()), (1, 30, 2));
    assert_eq!(retained.remove("a"), None);
    assert_eq!(retained.remove("a/b/c"), None);
    assert_eq!(retained.remove("a/b"), Some(2));
    assert_eq!(retained.remove("a/b"), None);
    assert_eq!((retained.len(), retained.bytes(), retained.nodes()), (0, 0, 0));
    assert!(retained.is_empty());
}

#[test]
fn limits_refuse_and_keep_what_is_there() {
    let mut retained = Retained::new(Limits { messages_max: 2, bytes_max: 100, nodes_max: usize::MAX });
    retained.set("a", 1, 40).unwrap();
    assert_eq!(retained.set("b/c", 2, 61), Err(Full::Bytes));
    assert_eq!((retained.len(), retained.bytes(), retained.nodes()), (1, 40, 1), "nothing is left of a refusal");
    retained.set("b", 2, 60).unwrap();
    assert_eq!(retained.set("c", 3, 0), Err(Full::Messages));
    assert_eq!(retained.set("a", 4, 41), Err(Full::Bytes));
    assert_eq!(retained.get("a"), Some(&1));
    assert_eq!(retained.set("a", 4, 40), Ok(Some(1)), "a message may take the place of its predecessor");
    assert_eq!(retained.set("a", 5, usize::MAX), Err(Full::Bytes));
    assert_eq!(retained.remove("b"), Some(2));
    assert_eq!(retained.set("c", 3, 60), Ok(None));
    assert_eq!((retained.len(), retained.bytes()), (2, 100));
}

#[test]
fn a_topic_as_deep_as_can_be_needs_no_stack() {
    let deep = "/".repeat(65_535);
    let mut retained = Retained::new(ROOMY);
    retained.set(&deep, 1, 1).unwrap();
    for filter in ["#", "/#", "+/#", &deep] {
        assert_eq!(found(&retained, filter).len(), 1, "{}", filter.len());
    }
    assert_eq!(retained.remove(&deep), Some(1));
    assert_eq!(retained.nodes(), 0);
    retained.set(&deep, 1, 1).unwrap();
    drop(retained);
}

#[test]
fn retained_messages_agree_with_the_naive_matcher() {
    for seed in 100..124 {
        let mut random = Random(seed);
        let wide = seed % 2 == 1;
        let limits = Limits { messages_max: 300, bytes_max: 20_000, nodes_max: usize::MAX };
        let mut retained = Retained::new(limits);
        let mut model: BTreeMap<String, (u64, usize)> = BTreeMap::new();
        for round in 0..2_000 {
            let bytes: usize = model.values().map(|(_, size)| size).sum();
            if random.one_in(4) != (round < 1_200) {
                let (topic, message, size) = (random.topic(wide), random.next(), random.below(200) as usize);
                let before = model.get(&topic).copied();
                let expected = if before.is_none() && model.len() == limits.messages_max {
                    Err(Full::Messages)
                } else if bytes - before.map_or(0, |(_, size)| size) + size > limits.bytes_max {
                    Err(Full::Bytes)
                } else {
                    Ok(before.map(|(message, _)| message))
                };
                assert_eq!(retained.set(&topic, message, size), expected, "seed {seed}, set {topic:?}");
                if expected.is_ok() {
                    model.insert(topic, (message, size));
                }
            } else {
                let at = random.below(model.len() as u64 + 2) as usize;
                let topic = model.keys().nth(at).cloned().unwrap_or_else(|| random.topic(wide));
                let expected = model.remove(&topic).map(|(message, _)| message);
                assert_eq!(retained.remove(&topic), expected, "seed {seed}, remove {topic:?}");
            }
            if round % 20 == 0 {
                check(&retained, &model, &mut random, wide, seed);
            }
        }
        for (topic, (message, _)) in &model {
            assert_eq!(retained.remove(topic), Some(*message), "seed {seed}, {topic:?}");
        }
        assert_eq!((retained.len(), retained.bytes(), retained.nodes()), (0, 0, 0), "seed {seed}");
    }
}

fn check(retained: &Retained<u64>, model: &BTreeMap<String, (u64, usize)>, random: &mut Random, wide: bool, seed: u64) {
    let bytes: usize = model.values().map(|(_, size)| size).sum();
    assert_eq!((retained.len(), retained.bytes()), (model.len(), bytes), "seed {seed}");
    assert_eq!(retained.nodes(), beginnings(model.keys().map(String::as_str)), "seed {seed}");
    for _ in 0..6 {
        let filter = random.filter(wide);
        let expected = model.iter().filter(|(topic, _)| matches(&filter, topic));
        let expected: BTreeMap<String, u64> = expected.map(|(topic, (message, _))| (topic.clone(), *message)).collect();
        assert_eq!(found(retained, &filter), expected, "seed {seed}, {filter:?}");
        let topic = random.topic(wide);
        assert_eq!(retained.get(&topic), model.get(&topic).map(|(message, _)| message), "seed {seed}, {topic:?}");
    }
}

/// A look in pieces, with something changed before each of them.
fn in_pieces(
    retained: &mut Retained<u64>,
    filter: &str,
    random: &mut Random,
    mut change: impl FnMut(&mut Retained<u64>, &mut Random),
) -> Vec<String> {
    let (mut place, mut topics) = (Place::default(), Vec::new());
    loop {
        let (levels_max, mut wanted) = (1 + random.below(5) as usize, 1 + random.below(3));
        let looked = retained.look(filter, &mut place, levels_max, &mut |topic, _| {
            topics.push(topic.to_owned());
            wanted -= 1;
            if wanted == 0 { Go::Stop } else { Go::On }
        });
        assert!(looked.levels <= levels_max);
        if looked.end {
            return topics;
        }
        change(retained, random);
    }
}

#[test]
fn a_look_in_pieces_shows_what_is_there_all_the_time_once() {
    for seed in 200..260 {
        let mut random = Random(seed);
        let wide = seed % 2 == 1;
        let mut retained = Retained::new(ROOMY);
        let mut staying = Vec::new();
        for _ in 0..random.below(400) {
            let topic = random.topic(wide);
            if retained.set(&topic, 1, 1).unwrap().is_none() {
                staying.push(topic);
            }
        }
        let stays = staying.clone();
        let change = |retained: &mut Retained<u64>, random: &mut Random| {
            for _ in 0..random.below(4) {
                let topic = random.topic(wide);
                if stays.contains(&topic) {
                    continue;
                }
                if random.one_in(2) {
                    retained.set(&topic, 2, 1).unwrap();
                } else {
                    retained.remove(&topic);
                }
            }
        };
        let filter = random.filter(wide);
        let mut shown = in_pieces(&mut retained, &filter, &mut random, change);
        let missing = staying.iter().find(|topic| matches(&filter, topic) && !shown.contains(topic));
        assert_eq!(missing, None, "seed {seed}, {filter:?}");
        assert!(shown.iter().all(|topic| matches(&filter, topic)), "seed {seed}, {filter:?}");
        let count = shown.len();
        shown.sort_unstable();
        shown.dedup();
        assert_eq!(shown.len(), count, "seed {seed}, {filter:?}: nothing twice");
    }
}

#[test]
fn a_place_behind_a_message_goes_on_after_it() {
    let mut retained = Retained::new(ROOMY);
    for topic in ["", "/", "/a", "a", "a/", "a/b", "a/b/c", "b", "$x/a"] {
        retained.set(topic, 1, 1).unwrap();
    }
    for (filter, behind, rest) in [
        ("#", "", vec!["/", "/a", "a", "a/", "a/b", "a/b/c", "b"]),
        ("#", "a/b", vec!["a/b/c", "b"]),
        // It has gone, and so has all below it.
        ("#", "a/a/x", vec!["a/b", "a/b/c", "b"]),
        ("a/#", "a", vec!["a/", "a/b", "a/b/c"]),
        ("+/b", "a/b", vec![]),
        ("+", "a", vec!["b"]),
        ("a", "a", vec![]),
        ("$x/#", "$x", vec!["$x/a"]),
    ] {
        let mut shown = Vec::new();
        let looked = retained.look(filter, &mut Place::behind(behind), usize::MAX, &mut |topic, _| {
            shown.push(topic.to_owned());
            Go::On
        });
        assert!(looked.end);
        assert_eq!(shown, rest, "{filter} behind {behind:?}");
    }
}

#[test]
fn levels_are_bounded() {
    let mut retained = Retained::new(Limits { messages_max: 100, bytes_max: 100, nodes_max: 5 });
    assert_eq!(retained.set("a/b/c", 1, 1), Ok(None));
    assert_eq!(retained.set("x/y/z", 2, 1), Err(Full::Levels));
    assert_eq!((retained.len(), retained.bytes(), retained.nodes()), (1, 1, 3));
    // What is there counts once.
    assert_eq!(retained.set("a/b/d", 3, 1), Ok(None));
    assert_eq!(retained.set("a/e", 4, 1), Ok(None));
    assert_eq!(retained.set("a/b", 5, 1), Ok(None));
    assert_eq!(retained.set("a/f", 6, 1), Err(Full::Levels));
    assert_eq!(retained.set("a/e", 7, 1), Ok(Some(4)));
    assert_eq!(retained.remove("a/b/d"), Some(3));
    assert_eq!(retained.set("a/f", 8, 1), Ok(None));
}
