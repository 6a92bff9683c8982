use super::*;
extern crate std;
use std::vec::Vec;

/// What an arena should hold: ticket, state, topic and payload of each record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Model(Vec<(u32, State, Vec<u8>, Vec<u8>)>);

fn len_of((_, state, topic, payload): &(u32, State, Vec<u8>, Vec<u8>)) -> usize {
    if *state == State::Released { HEAD } else { record_len(topic.len() + payload.len()) }
}

impl Model {
    fn used(&self) -> usize {
        self.0.iter().map(len_of).sum()
    }
}

fn push(arena: &mut Arena<'_>, ticket: u32, topic: &[u8], payload_max: usize, payload: &[u8]) -> bool {
    let class = Class::from_bits(ticket as u8);
    let mut head = Head::message(ticket, QoS::AtLeastOnce, false, class);
    head.topic_len = topic.len() as u16;
    let Some(room) = arena.room(HEAD + topic.len() + payload_max) else { return false };
    room[HEAD..HEAD + topic.len()].copy_from_slice(topic);
    room[HEAD + topic.len()..][..payload.len()].copy_from_slice(payload);
    arena.commit(&mut head, payload.len());
    true
}

fn content(arena: &Arena<'_>) -> Model {
    let (mut at, mut found) = (0, Vec::new());
    while let Some((here, head)) = arena.find(at, LIVE) {
        let parts = arena.parts(here, &head);
        found.push((head.ticket, head.state, parts.topic.to_vec(), parts.payload.to_vec()));
        at = here + head.len;
    }
    Model(found)
}

fn check(arena: &Arena<'_>, model: &Model) {
    assert_eq!(&content(arena), model);
    assert_eq!(arena.used_total() as usize, model.used());
    for class in Class::ALL {
        let own = model.0.iter().filter(|record| record.0 & 3 == class as u32).map(len_of).sum::<usize>();
        assert_eq!(arena.used()[class as usize] as usize, own);
    }
    assert!(arena.tail <= arena.memory.len() && arena.dead <= arena.tail);
    for (ticket, ..) in &model.0 {
        assert!(arena.find_ticket(*ticket).is_some());
    }
}

/// The arena after one more step, or `None` when the step is none here.
fn step(arena: &mut Arena<'_>, model: &mut Model, choice: usize, ticket: u32) -> Option<()> {
    match choice {
        0..3 => {
            let (topic, max, payload): (&[u8], usize, &[u8]) =
                [(&b"t"[..], 0, &b""[..]), (b"to", 9, b"a"), (b"top", 5, b"abcde")][choice];
            let needed = (HEAD + topic.len() + max).max(record_len(topic.len() + payload.len()));
            let fits = model.used() + needed <= arena.memory.len();
            let taken = push(arena, ticket, topic, max, payload);
            assert!(taken || !fits, "there was room");
            if taken {
                model.0.push((ticket, State::Queued, topic.to_vec(), payload.to_vec()));
            }
        }
        // The first, the second and the last record: done, or stripped.
        3..9 => {
            let at = [0, 1, model.0.len().checked_sub(1)?][choice % 3];
            let record = model.0.get_mut(at)?;
            let (place, mut head) = arena.find_ticket(record.0)?;
            if choice < 6 {
                arena.kill(place, &head);
                model.0.remove(at);
            } else {
                head.state = State::Released;
                arena.strip(place, &mut head);
                (record.1, record.2, record.3) = (State::Released, Vec::new(), Vec::new());
            }
        }
        _ => arena.compact(),
    }
    Some(())
}

fn every(
    memory: &[u8],
    (tail, dead, used): (usize, usize, [u32; ACCOUNTS]),
    model: &Model,
    depth: u32,
    count: &mut u64,
) {
    check(&Arena { memory: &mut memory.to_vec(), tail, dead, used }, model);
    *count += 1;
    if depth == 0 {
        return;
    }
    for choice in 0..10 {
        let (mut memory, mut model) = (memory.to_vec(), model.clone());
        let mut arena = Arena { memory: &mut memory, tail, dead, used };
        if step(&mut arena, &mut model, choice, depth).is_some() {
            let state = (arena.tail, arena.dead, arena.used);
            every(&memory, state, &model, depth - 1, count);
        }
    }
}

/// Every sequence of ten operations, up to a depth of seven (three under Miri), in room for three records.
#[test]
fn every_sequence_of_operations_leaves_what_the_model_says() {
    let mut count = 0;
    let depth = if cfg!(miri) { 3 } else { 7 };
    every(&[0xee; 96], (0, 0, [0; ACCOUNTS]), &Model(Vec::new()), depth, &mut count);
    assert!(count > if cfg!(miri) { 200 } else { 500 }, "{count}");
}

#[test]
fn a_long_random_walk_leaves_what_the_model_says() {
    let mut memory = [0; 1_024];
    let mut arena = Arena::new(&mut memory);
    let mut model = Model(Vec::new());
    let mut chance = 0x1234_5678u32;
    for ticket in 1..if cfg!(miri) { 300 } else { 200_000 } {
        chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let _ = step(&mut arena, &mut model, (chance >> 16) as usize % 10, ticket);
        if ticket % 7 == 0 {
            check(&arena, &model);
        }
    }
}

#[test]
fn an_image_brings_everything_back_and_garbage_nothing() {
    let mut memory = [0; 256];
    let mut arena = Arena::new(&mut memory);
    for ticket in 1..5 {
        assert!(push(&mut arena, ticket, b"topic", 10, b"payload"));
    }
    let (at, head) = arena.find_ticket(2).unwrap();
    arena.kill(at, &head);
    let expected = content(&arena);
    let image = arena.image().to_vec();
    let mut other = [0xff; 200];
    let mut copy = Arena::new(&mut other);
    copy.load(&image).unwrap();
    check(&copy, &expected);

    let mut chance = 99u32;
    for _ in 0..if cfg!(miri) { 200 } else { 50_000 } {
        let mut bad = image.clone();
        for _ in 0..3 {
            chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (chance >> 8) as usize % bad.len();
            bad[at] = (chance >> 24) as u8;
        }
        let len = bad.len() - (chance >> 4) as usize % 3 * 4;
        if copy.load(&bad[..len]).is_some() {
            let model = content(&copy);
            assert_eq!(copy.used_total() as usize, len, "{model:?}");
            copy.compact();
        } else {
            assert_eq!(copy.used_total(), 0);
        }
    }
}

#[test]
fn a_record_goes_back_to_its_place() {
    let mut memory = [0; 256];
    let mut arena = Arena::new(&mut memory);
    for ticket in [3, 5, 9] {
        push(&mut arena, ticket, b"t", 4, b"1234");
    }
    let (at, head) = arena.find_ticket(5).unwrap();
    let raw = arena.raw(at, &head).to_vec();
    arena.kill(at, &head);
    let head = parse(&raw).unwrap();
    arena.insert(&head, &raw, State::Queued.bit());
    let tickets: Vec<u32> = content(&arena).0.iter().map(|record| record.0).collect();
    assert_eq!(tickets, [3, 5, 9]);
    assert_eq!(parse(&raw[..24]), None);
    assert_eq!(parse(&[0; 40]), None);
}

#[test]
fn memory_of_any_size_is_used_as_far_as_it_goes() {
    for len in 0..60 {
        let mut memory = std::vec![0; len];
        let mut arena = Arena::new(&mut memory);
        assert_eq!(push(&mut arena, 1, b"t", 0, b""), len >= 24, "{len}");
        assert!(arena.used_total() as usize <= len);
    }
}
