//! A publisher before MQTT 5 whose messages find no room now and then, by seed: whatever makes room wakes it, and its messages
//! arrive in its order, at whatever QoS.

use forebay::codec::encode;
use forebay_wire::types::{PacketId, Version};

use crate::seeds;
use crate::turns::{Hello, Raw, number};
use crate::world::World;

const RETAINED_MAX: usize = 3;
const TOPICS: u64 = 4;
const EVENTS: u32 = 150;

struct Play {
    world: World,
    publisher: Raw,
    /// It is always subscribed, and reads everything.
    watcher: Raw,
    /// It subscribes and unsubscribes, and never acknowledges: its queue becomes full.
    stuck: Raw,
    /// It takes the places of retained messages, and gives them back.
    other: Raw,
    sent: u16,
    acks_due: u32,
    acks: u32,
    came: Vec<u16>,
}

fn publish(
    qos: u8,
    retain: bool,
    id: u16,
    topic: &[u8],
    version: Version,
    expiry_s: Option<u32>,
    payload: &[u8],
) -> Vec<u8> {
    let mut out = Vec::new();
    let id = PacketId::new(id).filter(|_| qos > 0);
    encode::publish(&mut out, version, false, qos, retain, topic, id, None, &[], expiry_s, &[], payload);
    out
}

/// A SUBSCRIBE or UNSUBSCRIBE of MQTT 5 with the filter `p/#`.
fn about_filter(first: u8, id: u8, qos: Option<u8>) -> Vec<u8> {
    let mut body = vec![0, id, 0, 0, 3, b'p', b'/', b'#'];
    body.extend(qos);
    [&[first, u8::try_from(body.len()).unwrap()][..], &body].concat()
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut world = World::retaining(seed, RETAINED_MAX);
        let publisher = Raw::connect(&mut world, Version::V311, b'p');
        let [mut watcher, stuck, other] = [b'w', b's', b'o'].map(|name| Raw::connect(&mut world, Version::V5, name));
        watcher.send(&about_filter(0x82, 1, Some(2)));
        while watcher.packets().is_empty() {
            world.run(1);
            world.commit(false);
        }
        Self { world, publisher, watcher, stuck, other, sent: 0, acks_due: 0, acks: 0, came: Vec::new() }
    }

    /// Everybody reads and answers what is to be answered; only the stuck one does not acknowledge.
    fn turn(&mut self) {
        self.world.run(2);
        self.world.commit(false);
        self.world.page();
        for (first, body) in self.publisher.packets() {
            match first >> 4 {
                4 => self.acks += 1,
                5 => self.publisher.send(&[0x62, 2, body[0], body[1]]),
                7 => self.acks += 1,
                other => panic!("packet type {other} for the publisher"),
            }
        }
        for (first, body) in self.watcher.packets() {
            match first >> 4 {
                3 => {
                    self.came.extend(number(first, &body));
                    // The topic has three bytes.
                    match (first >> 1) & 3 {
                        0 => {}
                        qos => self.watcher.send(&[0x30 + (qos << 4), 2, body[5], body[6]]),
                    }
                }
                6 => self.watcher.send(&[0x70, 2, body[0], body[1]]),
                other => panic!("packet type {other} for the watcher"),
            }
        }
        self.stuck.packets();
        self.other.packets();
        self.world.check_ledger();
    }

    fn event(&mut self) {
        let topic = format!("r/{}", self.world.seed.below(TOPICS));
        match self.world.seed.below(12) {
            0..=5 => self.publish(),
            6 => self.other.send(&publish(0, true, 0, topic.as_bytes(), Version::V5, None, b"x")),
            7 => self.other.send(&publish(0, true, 0, topic.as_bytes(), Version::V5, Some(1), b"for a second")),
            8 => {
                let topic = if self.world.seed.one_in(2) { topic.replace('r', "p") } else { topic };
                self.clear(&topic);
            }
            9 => self.stuck.send(&about_filter(0x82, 2, Some(1))),
            10 => self.stuck.send(&about_filter(0xA2, 3, None)),
            _ => {
                self.world.advance(700);
                self.world.broker().expire_retained();
            }
        }
    }

    /// Deletes a retained message.
    fn clear(&mut self, topic: &str) {
        self.other.send(&publish(0, true, 0, topic.as_bytes(), Version::V5, None, b""));
    }

    fn publish(&mut self) {
        for _ in 0..1 + self.world.seed.below(4) {
            self.sent += 1;
            let qos = u8::try_from(self.world.seed.below(3)).unwrap();
            let retain = self.world.seed.one_in(3);
            self.acks_due += u32::from(qos > 0);
            let payload = self.sent.to_be_bytes();
            let topic = format!("p/{}", self.world.seed.below(TOPICS));
            self.publisher.send(&publish(qos, retain, self.sent, topic.as_bytes(), Version::V311, None, &payload));
        }
    }
}

fn play(seed: u64) -> u64 {
    let mut play = Play::new(seed);
    for _ in 0..EVENTS {
        play.event();
        if play.world.seed.one_in(2) {
            play.turn();
        }
    }
    // There is room at last.
    play.stuck.send(&about_filter(0xA2, 4, None));
    for _ in 0..2000 {
        if play.acks == play.acks_due && play.came.len() >= usize::from(play.sent) {
            break;
        }
        for n in 0..TOPICS {
            play.clear(&format!("p/{n}"));
            play.clear(&format!("r/{n}"));
        }
        play.turn();
    }
    assert_eq!(play.acks, play.acks_due, "seed {seed}: a publisher that waits was not woken");
    assert!(play.came.iter().copied().eq(1..=play.sent), "seed {seed}: in order {:?}", play.came);
    play.world.broker().counters.publish_parked.get()
}

#[test]
fn whoever_waits_for_room_is_woken_and_keeps_its_order() {
    let parked: u64 = seeds().take(300).map(play).sum();
    assert!(parked > 100, "hardly anybody had to wait: {parked}");
}

/// The keeper looks after so many seconds.
fn later(world: &mut World, s: u64) {
    world.advance(s * 1000);
    world.broker().end_silent();
    world.run(4);
}

/// Its keep alive runs out while it is not read, though it has sent all that it has to send; and again when it is read.
#[test]
fn a_publisher_that_is_not_read_for_want_of_room_is_not_taken_for_silent() {
    let mut play = Play::new(3);
    play.stuck.send(&about_filter(0x82, 2, Some(1)));
    play.turn();
    let world = &mut play.world;
    let mut publisher = Hello { keep_alive_s: 10, ..Hello::of(Version::V311, b'q') }.connect(world);
    let broker = world.broker();
    let most = u64::from(broker.settings.receive_maximum) + broker.settings.queue.max_messages;
    for id in 1..=u16::try_from(most).unwrap() {
        publisher.send(&publish(1, false, id, b"p/0", Version::V311, None, &id.to_be_bytes()));
        world.run(2);
    }
    publisher.send(&[0xC0, 0]);
    world.run(4);
    assert!(broker.counters.publish_parked.get() > 0);
    let heard = |publisher: &mut Raw| publisher.packets().iter().any(|(first, _)| *first == 0xD0);
    assert!(!heard(&mut publisher), "it is read, the test shows nothing");
    later(world, 60);
    assert!(!heard(&mut publisher));
    play.stuck.send(&about_filter(0xA2, 4, None));
    let mut found = false;
    for _ in 0..500 {
        play.turn();
        found |= heard(&mut publisher);
    }
    assert!(found, "there is room for all of it");
    later(&mut play.world, 14);
    assert_eq!(broker.counters.keep_alive_timeouts.get(), 0);
    later(&mut play.world, 3);
    assert_eq!(broker.counters.keep_alive_timeouts.get(), 1, "now it is silent");
}

/// What it is sent fills its socket: then it is not read either, and that keeps no connection open.
#[test]
fn who_takes_nothing_and_says_nothing_is_silent() {
    let mut world = World::retaining(3, RETAINED_MAX);
    let mut reader = Hello { keep_alive_s: 10, room: 4096, ..Hello::of(Version::V5, b'r') }.connect(&mut world);
    reader.send(&about_filter(0x82, 1, Some(0)));
    world.run(4);
    reader.packets();
    let mut publisher = Raw::connect(&mut world, Version::V5, b'p');
    let large = publish(0, false, 0, b"p/0", Version::V5, None, &[1; 4096]);
    for _ in 0..4 * world.config.limits.outbound_buffer / large.len() {
        publisher.send(&large);
        world.run(2);
    }
    later(&mut world, 14);
    assert_eq!(world.broker().counters.keep_alive_timeouts.get(), 0);
    later(&mut world, 3);
    assert_eq!(world.broker().counters.keep_alive_timeouts.get(), 1);
}
