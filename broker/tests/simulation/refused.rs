//! A retained message whose commit fails after a new subscription has been given it.

use forebay::codec::encode;
use forebay::store::memory::Failure;
use forebay_wire::types::{PacketId, Version};

use crate::turns::{Raw, number};
use crate::world::World;

const QUOTA_EXCEEDED: u8 = 0x97;
const FIRST: &[u8] = b"r/1";
const SECOND: &[u8] = b"r/2";

struct Play {
    world: World,
    publisher: Raw,
    subscriber: Raw,
    /// Packets that the publisher has got: first byte, identifier and reason code.
    answers: Vec<(u8, u8, u8)>,
    /// What the subscriber has got: RETAIN, identifier, number.
    came: Vec<(bool, u8, u16)>,
}

impl Play {
    /// `1` is retained on one topic and on the other, and committed. The subscriber's session is kept or not; one
    /// message of QoS 1 or 2 may be in flight to it.
    fn new(kept: bool) -> Self {
        let mut world = World::retaining(3, 10);
        let publisher = Raw::connect(&mut world, Version::V5, b'p');
        let subscriber = Raw::connect_for(&mut world, b's', if kept { u32::MAX } else { 0 }, 1);
        let mut play = Self { world, publisher, subscriber, answers: Vec::new(), came: Vec::new() };
        for (id, topic) in [(1, FIRST), (2, SECOND)] {
            play.retain(id, topic, 1, 1);
        }
        play.commit(Failure::None);
        assert_eq!(std::mem::take(&mut play.answers), [(0x40, 1, 0), (0x40, 2, 0)]);
        play
    }

    fn retain(&mut self, id: u8, topic: &[u8], qos: u8, number: u16) {
        let (mut out, packet_id) = (Vec::new(), PacketId::new(id.into()));
        let payload = number.to_be_bytes();
        encode::publish(&mut out, Version::V5, false, qos, true, topic, packet_id, None, &[], None, &[], &payload);
        self.publisher.send(&out);
        self.run();
    }

    fn subscribe(&mut self, qos: u8) {
        self.subscriber.send(&[0x82, 9, 0, 1, 0, 0, 3, b'r', b'/', b'+', qos]);
        self.run();
    }

    /// The subscriber's answer to a message.
    fn answer(&mut self, first: u8, id: u8) {
        self.subscriber.send(&[first, 2, 0, id]);
        self.run();
    }

    fn commit(&mut self, failure: Failure) {
        self.world.commit_of(None, failure);
        self.run();
    }

    fn run(&mut self) {
        self.world.run(20);
        self.world.page();
        self.world.run(20);
        self.world.check_ledger();
        let answers = self.publisher.packets().into_iter();
        self.answers.extend(answers.map(|(first, body)| (first, body[1], body.get(2).copied().unwrap_or(0))));
        for (first, body) in self.subscriber.packets() {
            if first >> 4 == 3 {
                // Behind the topic, which has three bytes.
                self.came.push((first & 1 == 1, body[6], number(first, &body).unwrap()));
            }
        }
    }

    /// Messages that the subscriber's session has accepted and delivered, and those that are in its queue.
    fn ledger(&self) -> (u64, u64, u64) {
        let slots = self.world.broker().all_slots();
        let slot = slots.iter().find(|slot| slot.look(|session| &**session.client_id() == "s")).unwrap();
        let (ledger, queued) = slot.look(|session| session.ledger());
        (ledger.accepted, ledger.delivered, queued)
    }
}

/// It waits in the queue, behind another that is in flight. The publisher sends it again: twice is at least once. Without
/// it the subscriber would have nothing of this topic.
#[test]
fn at_qos_1_it_is_refused_and_whose_queue_has_it_gets_it() {
    for failure in [Failure::Lost, Failure::Full, Failure::Unknown] {
        let mut play = Play::new(true);
        play.retain(3, SECOND, 1, 2);
        play.subscribe(1);
        play.commit(failure);
        assert_eq!(play.answers, [(0x40, 3, QUOTA_EXCEEDED)], "{failure:?}");
        assert_eq!(play.ledger(), (2, 0, 2), "{failure:?}");
        play.commit(Failure::None);
        play.answer(0x40, play.came[0].1);
        play.answer(0x40, play.came[1].1);
        assert_eq!(play.came.iter().map(|came| came.2).collect::<Vec<_>>(), [1, 2], "{failure:?}");
        play.commit(Failure::None);
        assert_eq!(play.ledger(), (2, 2, 0), "{failure:?}");
        let stored = play.world.disk.found().0.retained;
        assert!(stored.iter().all(|message| message.payload() == [0, 1]), "what was retained before it is again");
    }
}

/// To exactly one who has it, or will, the publisher's second try would be another message: its ack waits.
#[test]
fn at_qos_2_it_is_not_refused_any_more() {
    for (kept, failure) in
        [(false, Failure::Lost), (false, Failure::Full), (true, Failure::Lost), (true, Failure::Full)]
    {
        let what = format!("kept: {kept}, {failure:?}");
        let mut play = Play::new(kept);
        play.retain(3, SECOND, 2, 2);
        play.subscribe(2);
        play.commit(failure);
        assert_eq!(play.answers, [], "{what}");
        play.commit(Failure::None);
        assert_eq!(play.answers, [(0x50, 3, 0)], "{what}");
        play.answer(0x40, play.came[0].1);
        play.answer(0x50, play.came[1].1);
        play.commit(Failure::None);
        play.answer(0x70, play.came[1].1);
        let came: Vec<_> = play.came.iter().map(|(retain, _, number)| (*retain, *number)).collect();
        assert_eq!(came, [(true, 1), (true, 2)], "{what}");
        assert_eq!(play.ledger(), (2, 2, 0), "{what}");
    }
}

/// Nobody has been given it: it may be refused, and the subscriber is given what is retained again.
#[test]
fn before_a_subscription_is_given_it_it_is_refused_at_qos_2_too() {
    let mut play = Play::new(true);
    play.retain(3, SECOND, 2, 2);
    play.commit(Failure::Full);
    assert_eq!(play.answers, [(0x50, 3, QUOTA_EXCEEDED)]);
    play.commit(Failure::None);
    play.subscribe(2);
    play.commit(Failure::None);
    play.answer(0x40, play.came[0].1);
    assert_eq!(play.came.iter().map(|came| came.2).collect::<Vec<_>>(), [1, 1]);
}
