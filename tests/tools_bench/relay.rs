//! A relay that loses, repeats or swaps every so manyeth message on its way to a subscriber.

use std::collections::HashMap;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use forebay_tests::link;

/// What it does to every so manyeth message of the first subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    Lose(u64),
    Repeat(u64),
    /// It comes after the next one.
    Swap(u64),
    /// One byte of its number is another.
    Damage(u64),
    /// The publisher is not told that it has come.
    NoAck(u64),
    /// The publisher is told twice.
    TwoAcks(u64),
    /// The connection ends.
    HangUp(u64),
}

struct Target {
    socket: TcpStream,
    fault: Fault,
    count: u64,
    held: Vec<u8>,
    next_id: u16,
}

type Topics = Arc<Mutex<HashMap<Vec<u8>, Vec<Target>>>>;

/// Listens until the test's end; the answer is its port.
pub(crate) fn start(fault: Fault) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let topics = Topics::default();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let topics = topics.clone();
            std::thread::spawn(move || serve(socket.unwrap(), &topics, fault));
        }
    });
    port
}

/// Length of the packet that the bytes begin with, and where its body begins.
fn packet(bytes: &[u8]) -> Option<(usize, usize)> {
    let (mut len, mut at) = (0usize, 1usize);
    loop {
        let byte = *bytes.get(at)?;
        len |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            return (bytes.len() >= at + len).then_some((at + len, at));
        }
    }
}

fn serve(mut socket: TcpStream, topics: &Topics, fault: Fault) {
    let (mut input, mut buffer, mut published) = (Vec::new(), vec![0; 65_536], 0);
    loop {
        match link::read(&mut socket, &mut buffer) {
            Ok(n) if n > 0 => input.extend_from_slice(&buffer[..n]),
            _ => return,
        }
        let (mut at, mut answer) = (0, Vec::new());
        while let Some((len, start)) = packet(&input[at..]) {
            let frame = &input[at..at + len];
            let body = &frame[start..];
            match frame[0] >> 4 {
                1 => answer.extend_from_slice(&[0x20, 2, 0, 0]),
                3 => {
                    published += 1;
                    let every = |n: u64| u64::is_multiple_of(published, n);
                    let acks = match fault {
                        Fault::HangUp(n) if every(n) => return,
                        Fault::NoAck(n) if every(n) => 0,
                        Fault::TwoAcks(n) if every(n) => 2,
                        _ => 1,
                    };
                    let qos = frame[0] >> 1 & 3;
                    let topic = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                    for _ in 0..if qos > 0 { acks } else { 0 } {
                        answer.extend_from_slice(&[
                            if qos == 1 { 0x40 } else { 0x50 },
                            2,
                            body[topic],
                            body[topic + 1],
                        ]);
                    }
                    if let Some(targets) = topics.lock().unwrap().get_mut(&body[2..topic]) {
                        targets.iter_mut().for_each(|target| target.give(frame, start + topic, qos));
                    }
                }
                5 => answer.extend_from_slice(&[0x62, 2, body[0], body[1]]),
                6 => answer.extend_from_slice(&[0x70, 2, body[0], body[1]]),
                8 => {
                    let (filter, qos) = (body[4..body.len() - 1].to_vec(), body[body.len() - 1]);
                    let mut topics = topics.lock().unwrap();
                    let targets = topics.entry(filter).or_default();
                    let fault = if targets.is_empty() { fault } else { Fault::None };
                    let socket = socket.try_clone().unwrap();
                    targets.push(Target { socket, fault, count: 0, held: Vec::new(), next_id: 0 });
                    answer.extend_from_slice(&[0x90, 3, body[0], body[1], qos]);
                }
                14 => return,
                _ => {}
            }
            at += len;
        }
        input.drain(..at);
        if socket.write_all(&answer).is_err() {
            return;
        }
    }
}

impl Target {
    fn give(&mut self, frame: &[u8], id_at: usize, qos: u8) {
        self.count += 1;
        let mut frame = frame.to_vec();
        let mut out = Vec::new();
        let times = match self.fault {
            Fault::Lose(n) if self.count.is_multiple_of(n) => 0,
            Fault::Repeat(n) if self.count.is_multiple_of(n) => 2,
            _ => 1,
        };
        if matches!(self.fault, Fault::Damage(n) if self.count.is_multiple_of(n)) {
            // The first byte of the number: run and publisher stand before it.
            frame[id_at + 2 * usize::from(qos > 0) + 8] ^= 0x40;
        }
        for _ in 0..times {
            if qos > 0 {
                self.next_id = self.next_id % 60_000 + 1;
                frame[id_at..id_at + 2].copy_from_slice(&self.next_id.to_be_bytes());
            }
            out.extend_from_slice(&frame);
        }
        if matches!(self.fault, Fault::Swap(n) if self.count.is_multiple_of(n)) {
            self.held = out;
            return;
        }
        out.append(&mut self.held);
        let _ = self.socket.write_all(&out);
    }
}
