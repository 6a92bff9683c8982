//! How long a connection may take to begin, and how many there may be.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use forebay_tests::broker::Broker;
use forebay_tests::link::Endpoint;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Came, Connect, Peer};
use forebay_tests::sys::figure;

use crate::{SYS, sys, tcp};

/// Long enough for an answer that should not come to be seen.
const MOMENT: Duration = Duration::from_millis(500);

fn socket(port: u16) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket
}

/// The broker closes it, without a word.
fn closed(mut socket: TcpStream, what: &str) {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap_or_else(|why| panic!("{what}: it is not closed: {why}"));
    assert!(bytes.is_empty(), "{what}: {bytes:?}");
}

#[test]
fn a_device_that_does_not_finish_tls_or_connect_is_dropped_and_counted() {
    let broker = Broker::with_config(&format!("{SYS}[limits]\nconnect_timeout = \"2s\"\n"));
    let mut sys = sys(&broker);
    let nothing = socket(broker.port());
    let mut half = socket(broker.port());
    half.write_all(&Connect::clean(Version::V5, "half").packet()[..9]).unwrap();
    let no_tls = socket(broker.tls_port());
    let mut half_tls = socket(broker.tls_port());
    half_tls.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
    let mut no_connect = Peer::silent(&Endpoint::tls(broker.tls_port(), &broker.ca()), Version::V5).unwrap();

    closed(nothing, "nothing sent");
    closed(half, "half a CONNECT");
    closed(no_tls, "nothing sent to the TLS port");
    closed(half_tls, "half a ClientHello");
    assert_eq!(no_connect.answer(), Came::Closed, "TLS and no CONNECT");
    let figures = sys.until("all are counted", |f| figure(f, "counters/handshakes_timed_out") == 5);
    // Whoever has finished in time may stay as long as it likes.
    assert_eq!(figure(&figures, "clients/connected"), 1);
}

#[test]
fn handshakes_in_progress_are_bounded() {
    let broker = Broker::with_config("[limits]\nmax_handshakes = 3\nconnect_timeout = \"1h\"\n");
    let mut held: Vec<TcpStream> = (0..3).map(|_| socket(broker.port())).collect();
    std::thread::sleep(MOMENT);
    let mut late = Peer::silent(&tcp(&broker), Version::V5).unwrap();
    late.send(&Connect::clean(Version::V5, "late").packet());
    assert_eq!(late.within(MOMENT), None, "three handshakes are under way, a fourth must wait");
    held.pop();
    assert!(matches!(late.answer(), Came::Connack(false, 0, _)), "there is room for it now");
}

#[test]
fn one_handshake_at_a_time_is_enough_for_every_listener() {
    let broker = Broker::with_config("[limits]\nmax_handshakes = 1\n");
    let tls = Endpoint::tls(broker.tls_port(), &broker.ca());
    for round in 0..3 {
        for endpoint in [&tls, &tcp(&broker)] {
            Peer::open(endpoint, &Connect::clean(Version::V5, &format!("client{round}")));
        }
    }
}

/// Refused with Server busy and a time to wait [MQTT5-3.2.2-7]; 3.1.1 has return code 3.
fn refused(endpoint: &Endpoint) {
    match Peer::connect(endpoint, &Connect::clean(Version::V5, "one more")) {
        (mut peer, Came::Connack(false, 0x89, properties)) => {
            assert_eq!(properties.retry_after_ms(), Some(1000));
            assert_eq!(peer.answer(), Came::Closed);
        }
        (_, other) => panic!("{other:?}"),
    }
    let (mut peer, came) = Peer::connect(endpoint, &Connect::clean(Version::V4, "one more"));
    assert!(matches!(came, Came::Connack(false, 3, _)), "{came:?}");
    assert_eq!(peer.answer(), Came::Closed);
}

#[test]
fn the_broker_has_a_limit_of_connections() {
    let broker = Broker::with_config(&format!("{SYS}[limits]\nmax_connections = 3\n"));
    let mut sys = sys(&broker);
    let (one, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "one"));
    let (_two, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "two"));
    refused(&tcp(&broker));
    refused(&Endpoint::tls(broker.tls_port(), &broker.ca()));
    sys.until("refusals are counted", |f| figure(f, "counters/connects_refused") == 4);
    one.leave();
    sys.until("it is gone", |f| figure(f, "clients/connected") == 2);
    Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "another"));
}

#[test]
fn a_listener_has_a_limit_of_connections_of_its_own() {
    let broker = Broker::with_config(
        "[[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\nmax_connections = 2\n\
         [[listeners]]\nurl = \"mqtts://127.0.0.1:TLS_PORT\"\n",
    );
    let (one, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "one"));
    let (_two, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "two"));
    refused(&tcp(&broker));
    let tls = Endpoint::tls(broker.tls_port(), &broker.ca());
    Peer::open(&tls, &Connect::clean(Version::V5, "through the other"));
    one.leave();
    Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "another"));
}
