//! One device and one broker.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use forebay_firmware::adapter::std::{Driver, tcp};
use forebay_firmware::{Client, Event, Input, Message, Options, Protocol, QoS, Session};
use forebay_tests::broker::{Broker, Kind};

/// How long something may take before the test gives up on it.
pub const LIMIT: Duration = Duration::from_secs(120);

pub fn options(
    client_id: &'static str,
    v5: bool,
    change: impl FnOnce(&mut Options<'static>),
) -> &'static Options<'static> {
    let mut options = Options::new(client_id);
    options.protocol = if v5 { Protocol::V5 } else { Protocol::V311 };
    options.network.base_ms = 50;
    options.network.cap_ms = 500;
    change(&mut options);
    Box::leak(Box::new(options))
}

type Plain<C> = Driver<'static, C, TcpStream>;

fn driver(port: u16, options: &'static Options<'static>) -> Plain<impl FnMut() -> io::Result<TcpStream>> {
    let client = Client::new(options, vec![0; 128 * 1024].leak());
    Driver::new(client, Input::new(vec![0; 4 * 1024].leak()), tcp(("127.0.0.1", port), Duration::from_secs(30)))
}

/// What a device has seen.
#[derive(Default)]
struct Seen {
    sessions: Vec<Session>,
    /// How often each message came.
    came: BTreeMap<u32, u32>,
}

impl Seen {
    fn note(&mut self, event: &Event<'_>) {
        match event {
            Event::Connected { session, .. } => self.sessions.push(*session),
            Event::Message(message) => {
                let number = u32::from_be_bytes(message.payload[..4].try_into().unwrap());
                *self.came.entry(number).or_default() += 1;
            }
            _ => {}
        }
    }
}

fn until<C: FnMut() -> io::Result<TcpStream>>(
    driver: &mut Plain<C>,
    seen: &mut Seen,
    what: &str,
    mut done: impl FnMut(&mut Client<'static>, &Seen) -> bool,
) {
    let begun = Instant::now();
    while !done(driver.client(), seen) {
        assert!(begun.elapsed() < LIMIT, "{what}: {:?}", driver.client().counters());
        driver.turn(Duration::from_millis(20), |_, event| seen.note(&event));
    }
}

/// A device that publishes to itself: what it sent comes back, as often as its QoS says.
pub fn every_qos(kind: Kind, v5: bool) {
    let broker = Broker::start_as(kind);
    let options = options("device-1", v5, |_| {});
    let mut driver = driver(broker.port(), options);
    let mut seen = Seen::default();
    driver.client().subscribe("t/#", QoS::ExactlyOnce).unwrap();
    until(&mut driver, &mut seen, "subscribed", |client, _| client.subscriptions() == 1);
    let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    for number in 0..300u32 {
        let message = Message::new("t/1").qos(qos[number as usize % 3]);
        driver.publish(&message, &[&number.to_be_bytes()[..], &[7; 200]].concat()).unwrap();
    }
    until(&mut driver, &mut seen, "all came", |client, seen| seen.came.len() == 300 && client.is_drained());
    assert!(seen.came.values().all(|times| *times == 1), "{:?}", seen.came);
    let counters = *driver.client().counters();
    assert_eq!((counters.sent, counters.acknowledged, counters.dropped_with_ticket()), (100, 200, 0));
    assert_eq!(seen.sessions, [Session::New]);
    driver.leave(LIMIT);
    assert!(driver.transport().is_none());
}

/// The broker is killed while a device publishes to itself. With this repository's nothing is lost and nothing of QoS 2
/// comes twice; mosquitto loses the session, so nothing that the device sends is lost.
pub fn resume_after_kill(kind: Kind, v5: bool) {
    let mut broker = Broker::start_as(kind);
    let options = options("device-1", v5, |_| {});
    let mut driver = driver(broker.port(), options);
    let mut seen = Seen::default();
    driver.client().subscribe("t/#", QoS::ExactlyOnce).unwrap();
    until(&mut driver, &mut seen, "subscribed", |client, _| client.subscriptions() == 1);
    let mut number = 0u32;
    for round in 0..4 {
        for _ in 0..100 {
            let qos = if number.is_multiple_of(2) { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
            driver.publish(&Message::new("t/1").qos(qos), &number.to_be_bytes()).unwrap();
            number += 1;
        }
        // In the middle of it.
        let some = u32::try_from(seen.came.len()).unwrap() + 20;
        until(&mut driver, &mut seen, "some came", |_, seen| seen.came.len() as u32 >= some);
        broker.kill();
        driver.turn(Duration::from_millis(20), |_, event| seen.note(&event));
        broker.run();
        until(&mut driver, &mut seen, "it is back", |client, seen| {
            client.is_connected() && seen.sessions.len() >= round + 2
        });
    }
    if kind == Kind::Forebay {
        until(&mut driver, &mut seen, "all came", |client, seen| client.is_drained() && seen.came.len() == 400);
        let twice: Vec<_> = seen.came.iter().filter(|(number, times)| *number % 2 == 0 && **times != 1).collect();
        assert!(twice.is_empty(), "QoS 2: {twice:?}");
        assert!(seen.sessions[1..].iter().all(|session| *session == Session::Resumed), "{:?}", seen.sessions);
    } else {
        until(&mut driver, &mut seen, "all is acknowledged", |client, _| client.is_drained());
    }
    let counters = *driver.client().counters();
    assert_eq!((counters.acknowledged, counters.dropped_with_ticket()), (400, 0));
}
