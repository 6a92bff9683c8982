//! The blocking adapter on a transport that takes and gives bytes in pieces, with a server that is a few lines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::wildcard_enum_match_arm)]

use embedded_io::{ErrorKind, ErrorType, Read, ReadReady, Write};
use forebay_firmware::adapter::blocking::{Connection, Ended};
use forebay_firmware::{Client, Event, Input, Message, Options, QoS, Status};

/// What the server side of the transport does.
#[derive(Default)]
struct Server {
    /// What the client has written and flushed, as complete packets.
    packets: Vec<Vec<u8>>,
    written: Vec<u8>,
    flushed: bool,
    answers: Vec<u8>,
    /// Bytes at a time, each way.
    piece: usize,
    ended: bool,
    broken: bool,
}

impl Server {
    fn handle(&mut self) {
        while let [_, len, ..] = self.written[..] {
            let len = 2 + usize::from(len);
            if self.written.len() < len {
                return;
            }
            let packet: Vec<u8> = self.written.drain(..len).collect();
            match packet[0] >> 4 {
                1 => self.answers.extend([0x20, 3, 0, 0, 0]),
                3 => {
                    let at = 4 + usize::from(packet[3]);
                    self.answers.extend([0x40, 2, packet[at], packet[at + 1]]);
                }
                8 => self.answers.extend([0x90, 4, packet[2], packet[3], 0, 1]),
                _ => {}
            }
            self.packets.push(packet);
        }
    }
}

impl ErrorType for Server {
    type Error = ErrorKind;
}

impl ReadReady for Server {
    fn read_ready(&mut self) -> Result<bool, ErrorKind> {
        Ok(self.ended || !self.answers.is_empty())
    }
}

impl Read for Server {
    fn read(&mut self, to: &mut [u8]) -> Result<usize, ErrorKind> {
        assert!(self.ended || !self.answers.is_empty(), "a read that would wait for ever");
        let len = to.len().min(self.piece).min(self.answers.len());
        to[..len].copy_from_slice(&self.answers[..len]);
        self.answers.drain(..len);
        Ok(len)
    }
}

impl Write for Server {
    fn write(&mut self, from: &[u8]) -> Result<usize, ErrorKind> {
        if self.broken {
            return Err(ErrorKind::ConnectionReset);
        }
        let len = from.len().min(self.piece);
        self.written.extend(&from[..len]);
        self.flushed = false;
        Ok(len)
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        self.flushed = true;
        self.handle();
        Ok(())
    }
}

/// A client, and the connection that it is given.
fn with(piece: usize, run: impl FnOnce(&mut Client<'_>, &mut Input<'_>, &mut Connection<Server, 16>)) {
    let options = Options::new("device");
    let (mut outbox, mut receive) = ([0; 1024], [0; 128]);
    let mut client = Client::new(&options, &mut outbox);
    let mut input = Input::new(&mut receive);
    let server = Server { piece, ..Server::default() };
    let mut connection = Connection::open(server, 0, &mut client, &mut input);
    run(&mut client, &mut input, &mut connection);
}

/// Runs until nothing is left to do; what happened, in short.
fn settle(
    client: &mut Client<'_>,
    input: &mut Input<'_>,
    connection: &mut Connection<Server, 16>,
) -> Result<Vec<String>, Ended<ErrorKind>> {
    let mut events = Vec::new();
    while connection.run_once(1, client, input, |_, event| {
        events.push(match event {
            Event::Message(message) => format!("{} {}", message.topic, String::from_utf8_lossy(message.payload)),
            other => format!("{other:?}").split([' ', '(']).next().unwrap().to_owned(),
        });
    })? {}
    assert!(connection.transport().flushed, "what is written is flushed");
    Ok(events)
}

#[test]
fn it_connects_subscribes_publishes_and_receives_however_the_bytes_are_cut() {
    for piece in [1, 2, 3, 7, 1_000] {
        with(piece, |client, input, connection| {
            client.subscribe("set/#", QoS::AtLeastOnce).unwrap();
            let ticket = client.publish(0, &Message::new("temperature"), b"21.5 degrees, and long").unwrap();
            let mut events = settle(client, input, connection).unwrap();
            events.sort();
            assert_eq!(events, ["Acknowledged", "Connected", "Subscribed"]);
            assert_eq!(client.status(ticket), Status::Done);
            connection.transport().answers.extend(b"\x32\x0d\x00\x05set/a\x00\x07\x00on!");
            assert_eq!(settle(client, input, connection).unwrap(), ["set/a on!"]);
            assert_eq!(connection.transport().packets.last().unwrap()[..], [0x40, 2, 0, 7]);
        });
    }
}

#[test]
fn nothing_to_read_and_nothing_to_send_is_nothing_done() {
    with(100, |client, input, connection| {
        settle(client, input, connection).unwrap();
        assert_eq!(connection.run_once(2, client, input, |_, _| panic!("nothing happens")), Ok(false));
    });
}

#[test]
fn the_end_of_the_stream_ends_the_connection_and_the_client_wants_another() {
    with(100, |client, input, connection| {
        settle(client, input, connection).unwrap();
        assert_eq!(client.connect_at(), None);
        connection.transport().ended = true;
        assert_eq!(settle(client, input, connection), Err(Ended::EndOfStream));
        assert!(!client.is_connected() && client.connect_at().is_some());
    });
}

#[test]
fn a_transport_that_fails_loses_nothing() {
    with(100, |client, input, connection| {
        settle(client, input, connection).unwrap();
        let ticket = client.publish(1, &Message::new("t"), b"x").unwrap();
        connection.transport().broken = true;
        assert_eq!(settle(client, input, connection), Err(Ended::Transport(ErrorKind::ConnectionReset)));
        assert_ne!(client.status(ticket), Status::Done);
        let mut second = Connection::open(Server { piece: 9, ..Server::default() }, 2, client, input);
        settle(client, input, &mut second).unwrap();
        assert_eq!(client.status(ticket), Status::Done);
    });
}

/// Its last words are there to be read, though a write finds out first that it has hung up.
#[test]
fn what_a_server_said_before_it_hung_up_is_heard() {
    with(7, |client, input, connection| {
        settle(client, input, connection).unwrap();
        client.publish(1, &Message::new("t"), b"x").unwrap();
        let server = connection.transport();
        server.broken = true;
        let mut heard = Vec::new();
        // What comes first is what the write fails at; a message of a few pieces is behind it.
        server.answers.extend(b"\x32\x0d\x00\x05set/a\x00\x07\x00on!");
        server.answers.extend(b"\xe0\x1a\x89\x18\x26\x00\x0eretry-after-ms\x00\x0560000");
        let result = loop {
            match connection.run_once(1, client, input, |_, event| heard.push(format!("{event:?}"))) {
                Ok(_) => {}
                Err(why) => break why,
            }
        };
        assert_eq!(result, Ended::Transport(ErrorKind::ConnectionReset));
        assert!(heard.last().unwrap().contains("Some(60000)"), "{heard:?}");
        assert!(client.connect_at().unwrap() >= 60_000);
    });
}

#[test]
fn good_bye_is_said_before_the_connection_is_closed() {
    with(100, |client, input, connection| {
        settle(client, input, connection).unwrap();
        client.disconnect(1);
        assert_eq!(settle(client, input, connection), Err(Ended::Closed));
        assert_eq!(connection.transport().packets.last().unwrap()[..], [0xe0, 0]);
        assert_eq!(client.connect_at(), None);
    });
}
