//! Many small messages quickly: a publisher with a wide window, and a subscriber that reads as fast as it can.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::time::Duration;

use crate::link;
use crate::packet::{self, Ack, Packet, Version};

/// Messages in one write, and in one batch of acks.
const BATCH: u64 = 5_000;
/// How long nothing may come until the test gives up.
const LIMIT: Duration = Duration::from_secs(60);

fn connect(port: u16, client: &str) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.set_write_timeout(Some(LIMIT)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.write_all(&packet::connect(Version::V4, client)).unwrap();
    let mut connack = [0; 4];
    socket.read_exact(&mut connack).unwrap();
    assert_eq!((connack[0], connack[3]), (0x20, 0), "{client}: CONNACK");
    socket
}

/// The payload of a message: its number, and as many bytes as it should have.
fn payload(number: u64, size: usize) -> Vec<u8> {
    let mut payload = vec![b'.'; size];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload
}

/// Publishes numbered messages of `size` bytes at QoS 1 (3.1.1) and waits until all are acknowledged, in order.
pub fn publish(port: u16, topic: &str, numbers: Range<u64>, size: usize) {
    let mut socket = connect(port, "bulk-publisher");
    let id = |number: u64| (number % 65_535) as u16 + 1;
    let mut acks = Vec::new();
    for first in numbers.clone().step_by(BATCH as usize) {
        let batch = first..(first + BATCH).min(numbers.end);
        let bytes = batch.clone().flat_map(|n| packet::publish(Version::V4, false, 1, id(n), topic, &payload(n, size)));
        socket.write_all(&bytes.collect::<Vec<u8>>()).unwrap();
        acks.resize(4 * (batch.end - batch.start) as usize, 0);
        socket.read_exact(&mut acks).unwrap();
        for (number, ack) in batch.zip(acks.chunks(4)) {
            assert_eq!(ack, packet::ack(Ack::Puback, id(number)), "the PUBACK of message {number}");
        }
    }
}

/// Takes the session `client` up and reads until the message before `numbers.end` has come; all of them in order, once.
pub fn drain(port: u16, client: &str, numbers: Range<u64>) {
    let mut socket = connect(port, client);
    let mut input = Input { bytes: Vec::new(), from: 0 };
    let mut next = numbers.start;
    let mut acks = Vec::new();
    while next < numbers.end {
        input.read(&mut socket).unwrap_or_else(|why| panic!("after message {next}: {why}"));
        while let Some((id, number)) = input.message() {
            assert_eq!(number, next, "in order");
            next += 1;
            acks.extend(packet::ack(Ack::Puback, id));
        }
        socket.write_all(&acks).unwrap();
        acks.clear();
    }
    socket.write_all(&packet::DISCONNECT).unwrap();
    assert_eq!(link::read(&mut socket, &mut [0; 16]).unwrap(), 0, "nothing comes after the last");
}

/// Bytes that have come; those before `from` are done with.
struct Input {
    bytes: Vec<u8>,
    from: usize,
}

impl Input {
    fn read(&mut self, socket: &mut TcpStream) -> io::Result<()> {
        self.bytes.drain(..self.from);
        self.from = 0;
        let mut chunk = [0; 128 * 1024];
        match link::read(socket, &mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.bytes.extend(&chunk[..n]);
                Ok(())
            }
        }
    }

    /// Packet identifier and number of the next whole message.
    fn message(&mut self) -> Option<(u16, u64)> {
        let rest = &self.bytes[self.from..];
        let length = packet::length(rest).unwrap()?;
        let mut one = rest.get(..length)?.to_vec();
        self.from += length;
        match packet::take(Version::V4, &mut one).unwrap() {
            Some(Packet::Publish(message)) if message.qos == 1 => {
                Some((message.id, u64::from_be_bytes(message.payload[..8].try_into().unwrap())))
            }
            other => panic!("among messages: {other:?}"),
        }
    }
}
