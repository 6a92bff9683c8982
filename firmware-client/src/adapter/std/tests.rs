use super::*;
use crate::{Options, QoS, Status};
use std::rc::Rc;
use std::{cell::RefCell, vec};

/// A server that takes a few bytes at a time, and nothing every second time.
#[derive(Default)]
struct Server {
    taken: Vec<u8>,
    incoming: Vec<u8>,
    calls: u32,
    flushed: bool,
    connections: u32,
    payloads: Vec<Vec<u8>>,
    /// It hangs up when so many bytes were taken.
    hang_up_at: Option<usize>,
    /// What it says then.
    last_words: Vec<u8>,
    over: bool,
}

impl Server {
    fn answer(&mut self) {
        while let [first, len, ..] = self.taken[..] {
            let end = 2 + usize::from(len);
            if self.taken.len() < end {
                return;
            }
            let packet: Vec<u8> = self.taken.drain(..end).collect();
            let body = &packet[2..];
            match first >> 4 {
                1 if body[6] == 5 => self.incoming.extend([0x20, 3, 1 - (body[7] >> 1 & 1), 0, 0]),
                1 => self.incoming.extend([0x20, 2, 1 - (body[7] >> 1 & 1), 0]),
                3 => {
                    let at = 2 + usize::from(body[1]);
                    self.payloads.push(body[at + 3..].to_vec());
                    self.incoming.extend([0x40, 2, body[at], body[at + 1]]);
                }
                _ => {}
            }
        }
    }
}

#[derive(Clone, Default)]
struct Socket(Rc<RefCell<Server>>);

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut server = self.0.borrow_mut();
        if server.over {
            let len = server.last_words.len().min(buf.len()).min(3);
            buf[..len].copy_from_slice(&server.last_words[..len]);
            server.last_words.drain(..len);
            return Ok(len);
        }
        server.calls += 1;
        let len = server.incoming.len().min(buf.len()).min(3);
        if len == 0 || server.calls.is_multiple_of(2) {
            return Err(ErrorKind::WouldBlock.into());
        }
        buf[..len].copy_from_slice(&server.incoming[..len]);
        server.incoming.drain(..len);
        Ok(len)
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut server = self.0.borrow_mut();
        server.calls += 1;
        if server.calls.is_multiple_of(2) {
            return Err(ErrorKind::TimedOut.into());
        }
        let len = buf.len().min(5).min(server.hang_up_at.unwrap_or(usize::MAX));
        if len == 0 {
            server.over = true;
            // What it has not said by then, it never says.
            server.incoming.clear();
            return Err(ErrorKind::BrokenPipe.into());
        }
        server.hang_up_at = server.hang_up_at.map(|left| left - len);
        server.flushed = false;
        server.taken.extend(&buf[..len]);
        server.answer();
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.borrow_mut().flushed = true;
        Ok(())
    }
}

fn run(hang_up_at: Option<usize>) -> Socket {
    let mut options = Options::new("d");
    options.network.base_ms = 1;
    options.network.cap_ms = 2;
    let (mut outbox, mut receive) = (vec![0; 1_024], vec![0; 128]);
    let socket = Socket::default();
    socket.0.borrow_mut().hang_up_at = hang_up_at;
    let server = socket.clone();
    let connect = || {
        let mut state = server.0.borrow_mut();
        let first = state.connections == 0;
        state.connections += 1;
        state.taken.clear();
        state.incoming.clear();
        state.over = false;
        if !first {
            state.hang_up_at = None;
        }
        drop(state);
        Ok(Impatient(server.clone()))
    };
    let mut driver = Driver::new(Client::new(&options, &mut outbox), Input::new(&mut receive), connect);
    let mut last = None;
    for number in 0..20u8 {
        last = Some(driver.publish(&Message::new("t").qos(QoS::AtLeastOnce), &[number; 9]).unwrap());
    }
    for _ in 0..100_000 {
        driver.turn(SHORTEST, |_, _| {});
        if driver.client().is_drained() {
            break;
        }
    }
    assert_eq!(driver.client().status(last.unwrap()), Status::Done);
    driver.leave(Duration::from_secs(20));
    assert!(driver.transport().is_none());
    drop(driver);
    socket
}

#[test]
fn a_transport_may_take_and_give_what_it_likes() {
    let socket = run(None);
    let server = socket.0.borrow();
    assert_eq!(server.payloads.len(), 20);
    assert!(server.payloads.iter().enumerate().all(|(number, payload)| payload[..] == [number as u8; 9]));
    assert!(server.flushed, "after each batch");
    assert_eq!(server.connections, 1);
}

/// Wherever the connection breaks, the next one sends what is missing, in order.
#[test]
fn a_transport_may_break_anywhere() {
    for at in 0..400 {
        let socket = run(Some(at));
        let server = socket.0.borrow();
        let mut numbers: Vec<u8> = server.payloads.iter().map(|payload| payload[0]).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers, (0..20).collect::<Vec<u8>>(), "broken after {at} bytes");
    }
}

/// Its last words are there to be read, though a write finds out first that it has hung up.
#[test]
fn what_a_server_said_before_it_hung_up_is_heard() {
    let options = Options::new("d");
    let (mut outbox, mut receive) = (vec![0; 1_024], vec![0; 128]);
    let socket = Socket::default();
    socket.0.borrow_mut().hang_up_at = Some(40);
    socket.0.borrow_mut().last_words = b"\xe0\x1a\x89\x18\x26\x00\x0eretry-after-ms\x00\x0560000".to_vec();
    let server = socket.clone();
    let connect = || Ok(Impatient(server.clone()));
    let mut driver = Driver::new(Client::new(&options, &mut outbox), Input::new(&mut receive), connect);
    driver.publish(&Message::new("t").qos(QoS::AtLeastOnce), &[0; 100]).unwrap();
    let mut heard = Vec::new();
    while driver.turn(SHORTEST, |_, event| heard.push(std::format!("{event:?}"))) {}
    assert!(heard.last().unwrap().contains("Some(60000)"), "{heard:?}");
    assert!(driver.client().connect_at().unwrap() >= 60_000);
}
