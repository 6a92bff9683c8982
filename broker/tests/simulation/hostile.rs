//! Peers that obey no protocol, beside clients that do: what these were promised holds all the same, and they are served again
//! when the others have gone.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use crate::world::{Seed, World};
use crate::{everybody_is_there, run, seeds, settle, turn};

/// One of them, over all the connections that it makes.
struct Hostile {
    name: String,
    stream: Option<DuplexStream>,
    output: Vec<u8>,
    packets: u64,
    closed: u64,
}

impl Hostile {
    fn new(number: usize) -> Self {
        Self { name: format!("h{number}"), stream: None, output: Vec::new(), packets: 0, closed: 0 }
    }

    /// Does one thing that nobody should do, or that somebody may do and nobody does so often.
    fn act(&mut self, world: &mut World) {
        if self.stream.is_none() {
            let room = usize::try_from(16 + world.seed.below(500)).unwrap();
            self.stream = Some(world.dial(room));
            self.output = connect(&self.name, &mut world.seed);
            world.note(format!("{} connects", self.name));
        }
        if self.output.len() < 4096 {
            let packet = nonsense(&mut world.seed);
            world.note(format!("{} sends {packet:02X?}", self.name));
            self.output.extend(packet);
            self.packets += 1;
        }
        match world.seed.below(30) {
            // Gone without a word.
            0 => self.stream = None,
            1..=10 => self.read(world),
            _ => {}
        }
        self.write(world);
    }

    fn write(&mut self, world: &mut World) {
        let most = usize::try_from(1 + world.seed.below(300)).unwrap().min(self.output.len());
        let Some(stream) = &mut self.stream else { return };
        match Pin::new(stream).poll_write(&mut Context::from_waker(Waker::noop()), &self.output[..most]) {
            Poll::Ready(Ok(n)) => drop(self.output.drain(..n)),
            Poll::Ready(Err(_)) => self.was_closed(),
            Poll::Pending => {}
        }
    }

    /// Reads, and acknowledges nothing.
    fn read(&mut self, world: &mut World) {
        let mut bytes = vec![0; usize::try_from(1 + world.seed.below(300)).unwrap()];
        let mut buf = ReadBuf::new(&mut bytes);
        let Some(stream) = &mut self.stream else { return };
        match Pin::new(stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf) {
            Poll::Ready(Ok(())) if buf.filled().is_empty() => self.was_closed(),
            Poll::Ready(Err(_)) => self.was_closed(),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
    }

    fn was_closed(&mut self) {
        self.closed += 1;
        self.stream = None;
    }
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut len = body.len();
    while len >= 128 {
        packet.push(u8::try_from(len % 128).unwrap() | 128);
        len /= 128;
    }
    packet.push(u8::try_from(len).unwrap());
    packet.extend_from_slice(body);
    packet
}

fn string(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

/// MQTT 5 with a window of one, or 3.1.1; its session ends with the connection, or two seconds later.
fn connect(name: &str, seed: &mut Seed) -> Vec<u8> {
    if seed.one_in(20) {
        return bytes(seed, 40);
    }
    let v5 = seed.one_in(2);
    let mut body = [&[0, 4][..], b"MQTT", &[if v5 { 5 } else { 4 }, 2, 0, 0]].concat();
    if v5 {
        body.extend([8, 0x21, 0, 1, 0x11, 0, 0, 0, u8::from(seed.one_in(2)) * 2]);
    }
    body.extend(string(name));
    packet(0x10, &body)
}

fn bytes(seed: &mut Seed, most: u64) -> Vec<u8> {
    (0..1 + seed.below(most)).map(|_| seed.next().to_le_bytes()[0]).collect()
}

fn nonsense(seed: &mut Seed) -> Vec<u8> {
    let id = u8::try_from(1 + seed.below(9)).unwrap();
    match seed.below(16) {
        // Acks of messages that are in flight, and of others, of the right kind and of the wrong one, with and without a reason.
        0..=4 => {
            let first = [0x40, 0x50, 0x62, 0x70][usize::try_from(seed.below(4)).unwrap()];
            let reason = if seed.one_in(4) { vec![0x80] } else { Vec::new() };
            packet(first, &[&[0, id][..], &reason].concat())
        }
        // All that there is, which is not read or not acknowledged: its queue is full soon.
        5..=7 => {
            let options = u8::try_from(seed.below(3)).unwrap();
            let mut body = vec![0, id];
            for _ in 0..1 + seed.below(20) {
                body.extend(string("t/#"));
                body.push(options);
            }
            [packet(0x82, &body), packet(0x82, &[&[0, id, 0][..], &body[2..]].concat())][usize::from(seed.one_in(2))]
                .clone()
        }
        8 => packet(0xA2, &[&[0, id, 0][..], &string("t/#")].concat()),
        9 => packet(0xA2, &[&[0, id][..], &string("t/#")].concat()),
        // Publications of its own, the same identifier over and over.
        10 | 11 => {
            let flags = u8::try_from(seed.below(16)).unwrap();
            let id = if flags & 6 == 0 { Vec::new() } else { vec![0, id] };
            packet(0x30 | flags, &[string("n/x"), id, vec![0, 1, 2, 3, 4]].concat())
        }
        // A packet that does not end.
        12 => [&[0x32, 0xFF, 0x7F][..], &bytes(seed, 60)].concat(),
        13 => [0xC0, 0].repeat(usize::try_from(1 + seed.below(100)).unwrap()),
        14 => connect("h", seed),
        _ => bytes(seed, 20),
    }
}

fn play(world: &mut World) -> (u64, u64) {
    everybody_is_there(world);
    let mut hostile: Vec<Hostile> = (0..3).map(Hostile::new).collect();
    let (mut next, mut crashes) = (0, world.crashes);
    for _ in 0..400 {
        turn(world, &mut next);
        if world.crashes > crashes {
            crashes = world.crashes;
            hostile.iter_mut().for_each(|hostile| hostile.stream = None);
        }
        for one in &mut hostile {
            one.act(world);
        }
        // A queue of theirs that has been full for so long holds nobody up any more.
        if world.seed.one_in(20) {
            world.advance(6000);
            world.broker().end_stalls();
        }
    }
    world.note("they have gone");
    hostile.iter_mut().for_each(|hostile| hostile.stream = None);
    world.run(5);
    world.advance(3000);
    settle(world);
    hostile.iter().fold((0, 0), |(packets, closed), one| (packets + one.packets, closed + one.closed))
}

#[test]
fn peers_that_obey_no_protocol_harm_nobody() {
    let total = std::sync::Mutex::new((0, 0));
    for seed in seeds().step_by(25) {
        let mut world = World::new(seed);
        if seed % 50 == 0 {
            world = world.on_a_journal();
        }
        run(
            world,
            |world| {
                let (packets, closed) = play(world);
                let mut total = total.lock().unwrap();
                *total = (total.0 + packets, total.1 + closed);
            },
            seed,
        );
    }
    let (packets, closed) = *total.lock().unwrap();
    assert!(packets > 1000 && closed > 10, "{packets} packets were sent, {closed} connections closed by the broker");
}
