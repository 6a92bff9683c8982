//! Slow-loris: who sends its handshake a byte at a time is ended by the time-out as everybody is, and the others are served
//! meanwhile.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use forebay_tests::broker::{Broker, free_port};
use forebay_tests::link::Endpoint;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Came, Connect, Peer};
use forebay_tests::sys::figure;

use crate::{SYS, sys, tcp};

/// Sockets of each kind; those that are past a handshake of TLS cost the test more.
const SLOW: usize = 50;
const SLOW_BEHIND_TLS: usize = 5;
const PAUSE: Duration = Duration::from_millis(100);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(10);

/// Sends a byte; true when the broker has closed the connection.
type Step = Box<dyn FnMut(u8) -> bool + Send>;

struct Slow {
    what: &'static str,
    step: Step,
    /// What is still to be sent.
    rest: std::vec::IntoIter<u8>,
    begun: Instant,
    ended: Option<Duration>,
}

impl Slow {
    fn new(what: &'static str, step: Step, bytes: Vec<u8>) -> Self {
        Self { what, step, rest: bytes.into_iter(), begun: Instant::now(), ended: None }
    }

    fn go_on(&mut self) {
        let byte = self.rest.next().unwrap_or_else(|| panic!("{}: all of it was sent", self.what));
        if (self.step)(byte) {
            self.ended = Some(self.begun.elapsed());
        }
    }
}

fn by_socket(mut socket: TcpStream) -> Step {
    socket.set_nodelay(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    Box::new(move |byte| {
        let _ = socket.write(&[byte]);
        match socket.read(&mut [0; 256]) {
            Ok(count) => count == 0,
            Err(why) => why.kind() != ErrorKind::WouldBlock,
        }
    })
}

fn by_tls(mut peer: Peer) -> Step {
    Box::new(move |byte| {
        peer.send(&[byte]);
        peer.within(Duration::ZERO) == Some(Came::Closed)
    })
}

/// The head of a request for a WebSocket, without its end.
fn request() -> String {
    "GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n"
        .to_owned()
}

/// A socket that is past the opening handshake of a WebSocket.
fn upgraded(port: u16) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(SLACK)).unwrap();
    socket.write_all((request() + "\r\n").as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    socket
}

/// All kinds; each has more to send than the time is long for.
fn all_slow(broker: &Broker, web: u16) -> Vec<Slow> {
    let connect = Connect::clean(Version::V5, &"c".repeat(200)).packet();
    let socket = |port| TcpStream::connect(("127.0.0.1", port)).unwrap();
    // A record of 512 bytes that begins with a ClientHello of 508.
    let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3][..], &[7; 300]].concat();
    let head = format!("{}X-Filler: {}", request(), "x".repeat(300)).into_bytes();
    // A frame's head, its mask of zeros, and CONNECT.
    let frame = [&[0x82, 0xFE, 0, connect.len() as u8, 0, 0, 0, 0][..], &connect].concat();
    let mut all = Vec::new();
    for _ in 0..SLOW {
        all.push(Slow::new("CONNECT", by_socket(socket(broker.port())), connect.clone()));
        all.push(Slow::new("ClientHello", by_socket(socket(broker.tls_port())), hello.clone()));
        all.push(Slow::new("request for a WebSocket", by_socket(socket(web)), head.clone()));
        let begun = Slow::new("CONNECT in a WebSocket", by_socket(upgraded(web)), frame.clone());
        all.push(begun);
    }
    for _ in 0..SLOW_BEHIND_TLS {
        let begun = Instant::now();
        let peer = Peer::silent(&Endpoint::tls(broker.tls_port(), &broker.ca()), Version::V5).unwrap();
        all.push(Slow { begun, ..Slow::new("CONNECT over TLS", by_tls(peer), connect.clone()) });
    }
    all
}

/// A newcomer on each listener, and a message there and back: how long that takes at most.
fn served(broker: &Broker, web: u16, talker: &mut Peer, round: u16) -> Duration {
    let begun = Instant::now();
    assert_eq!(talker.publish(1 + round, "talk", b"").0, 0x10, "nobody subscribes");
    for endpoint in [tcp(broker), Endpoint::tls(broker.tls_port(), &broker.ca())] {
        let (newcomer, _) = Peer::open(&endpoint, &Connect::clean(Version::V5, &format!("newcomer{round}")));
        newcomer.leave();
    }
    drop(upgraded(web));
    begun.elapsed()
}

#[test]
fn who_sends_a_byte_at_a_time_is_ended_and_the_others_are_served() {
    let web = free_port();
    let broker = Broker::with_config(&format!(
        "{SYS}[limits]\nconnect_timeout = \"3s\"\nmax_handshakes = 1000\n\
         [[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\n[[listeners]]\nurl = \"mqtts://127.0.0.1:TLS_PORT\"\n\
         [[listeners]]\nurl = \"ws://127.0.0.1:{web}/mqtt\"\n"
    ));
    let mut sys = sys(&broker);
    let (mut talker, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "talker"));
    let mut slow = all_slow(&broker, web);
    let all_ended = AtomicBool::new(false);
    let (slow, worst) = std::thread::scope(|scope| {
        let trickle = scope.spawn(|| {
            while slow.iter().any(|slow| slow.ended.is_none()) {
                slow.iter_mut().filter(|slow| slow.ended.is_none()).for_each(Slow::go_on);
                std::thread::sleep(PAUSE);
            }
            all_ended.store(true, Ordering::Relaxed);
            slow
        });
        let mut worst = Duration::ZERO;
        for round in 0.. {
            worst = worst.max(served(&broker, web, &mut talker, round));
            if all_ended.load(Ordering::Relaxed) || trickle.is_finished() {
                break;
            }
        }
        (trickle.join().unwrap(), worst)
    });
    // Nobody has waited for a slow one to be ended.
    assert!(worst < CONNECT_TIMEOUT, "the others waited for {worst:?}");
    for Slow { what, ended, .. } in &slow {
        let ended = ended.unwrap();
        assert!(ended < CONNECT_TIMEOUT + SLACK, "{what}: ended after {ended:?}");
        assert!(ended + PAUSE >= CONNECT_TIMEOUT, "{what}: ended after {ended:?} already");
    }
    let figures = sys.until("all are counted", |f| figure(f, "counters/handshakes_timed_out") >= slow.len() as u64);
    assert_eq!(figure(&figures, "counters/handshakes_displaced"), 0);
}
