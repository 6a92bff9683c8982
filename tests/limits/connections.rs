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
fn handshakes_in_progress_are_bounded_and_the_oldest_makes_room() {
    let times = "connect_timeout = \"1h\"\nfirst_byte_timeout = \"1h\"\n";
    let broker = Broker::with_config(&format!("{SYS}[limits]\nmax_handshakes = 3\n{times}"));
    let mut sys = sys(&broker);
    let mut held: Vec<TcpStream> = (0..3).map(|_| socket(broker.port())).collect();
    Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "late"));
    closed(held.remove(0), "the oldest");
    // Its place is free again: nobody else has to go.
    Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "later"));
    let figures = sys.until("it is counted", |f| figure(f, "counters/handshakes_displaced") > 0);
    assert_eq!(figure(&figures, "counters/handshakes_displaced"), 1);
    for mut held in held {
        held.write_all(&Connect::clean(Version::V4, "held").packet()).unwrap();
        let mut connack = [0; 4];
        held.read_exact(&mut connack).unwrap();
        assert_eq!(connack, [0x20, 2, 0, 0]);
    }
}

/// A third of the listener's permits for one address: when it has them all, its newest is closed, and then its oldest.
#[test]
fn an_address_has_its_own_limit_of_handshakes() {
    let limits = "max_handshakes = 30\nmax_handshakes_per_address = 10\nconnect_timeout = \"1h\"\n";
    let broker = Broker::with_config(&format!("{SYS}[limits]\n{limits}first_byte_timeout = \"1h\"\n"));
    let mut sys = sys(&broker);
    let held: Vec<TcpStream> = (0..30).map(|_| socket(broker.port())).collect();
    sys.until("the others are closed", |f| figure(f, "counters/handshakes_refused") > 0);
    // Whoever comes when they are a second old takes the place of one.
    loop {
        let peer = Peer::silent(&tcp(&broker), Version::V5);
        let Ok(mut peer) = peer else { continue };
        peer.send(&Connect::clean(Version::V5, "late").packet());
        if let Came::Connack(false, 0, _) = peer.answer() {
            break;
        }
    }
    let figures = sys.figures();
    assert!(figure(&figures, "counters/handshakes_displaced") <= 10, "{figures:?}");
    drop(held);
}

/// The built-in limits: sockets that say nothing keep nobody out, on their own listener or on another one.
#[test]
fn half_open_sockets_keep_nobody_out() {
    let broker = Broker::start();
    let tls = Endpoint::tls(broker.tls_port(), &broker.ca());
    let held: Vec<TcpStream> = (0..600).map(|n| socket([broker.port(), broker.tls_port()][n % 2])).collect();
    for round in 0..20 {
        for endpoint in [&tls, &tcp(&broker)] {
            Peer::open(endpoint, &Connect::clean(Version::V5, &format!("client{round}")));
        }
    }
    drop(held);
}

#[test]
fn a_socket_that_says_nothing_is_closed_before_one_that_began() {
    let limits = "[limits]\nfirst_byte_timeout = \"200ms\"\nconnect_timeout = \"1h\"\n";
    let broker = Broker::with_config(&format!("{SYS}{limits}"));
    let mut begun = socket(broker.port());
    let connect = Connect::clean(Version::V4, "begun").packet();
    begun.write_all(&connect[..9]).unwrap();
    for port in [broker.port(), broker.tls_port()] {
        closed(socket(port), "nothing sent");
    }
    begun.write_all(&connect[9..]).unwrap();
    let mut connack = [0; 4];
    begun.read_exact(&mut connack).unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
}

/// Who has begun has had its second too, and is the oldest: those that say nothing go before it.
#[test]
fn those_that_say_nothing_make_room_for_others() {
    let broker =
        Broker::with_config("[limits]\nmax_handshakes = 4\nfirst_byte_timeout = \"1h\"\nconnect_timeout = \"1h\"\n");
    let mut begun = socket(broker.port());
    let connect = Connect::clean(Version::V4, "begun").packet();
    begun.write_all(&connect[..9]).unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    let silent: Vec<TcpStream> = (0..40).map(|_| socket(broker.port())).collect();
    Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "newcomer"));
    begun.write_all(&connect[9..]).unwrap();
    let mut connack = [0; 4];
    begun.read_exact(&mut connack).unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    drop(silent);
}

/// Each has a second, and no more when others wait: all of those that were let in together go together.
#[test]
fn those_that_begin_and_do_not_go_on_make_room_together() {
    let broker =
        Broker::with_config("[limits]\nmax_handshakes = 32\nfirst_byte_timeout = \"1h\"\nconnect_timeout = \"1h\"\n");
    let begun = (0..96).map(|_| {
        let mut socket = socket(broker.port());
        socket.write_all(&[0x10]).unwrap();
        socket
    });
    let begun: Vec<TcpStream> = begun.collect();
    // One a second were more than a minute, which is longer than an answer may take here.
    Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "newcomer"));
    drop(begun);
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
    // A client that is there already takes its own place over.
    let (again, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "one"));
    sys.until("it has", |f| figure(f, "counters/sessions_taken_over") == 1);
    drop(one);
    again.leave();
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
