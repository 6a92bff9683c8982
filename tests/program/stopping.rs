//! SIGTERM and SIGINT: everyone is told, nothing is lost, exit code 0.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use forebay_tests::broker::Broker;
use forebay_tests::device::Wire;
use forebay_tests::link::Endpoint;
use forebay_tests::packet::{self, Packet, Version};

use crate::Case;

pub(crate) fn trials() -> Vec<Case> {
    vec![
        ("sigterm_tells_clients_where_to_go", None, with_reference),
        ("sigterm_without_a_server_reference", None, without_reference),
        ("sigterm_keeps_sessions_and_what_is_queued", None, sessions_survive),
        ("sigint_is_a_clean_end_as_well", None, interrupt),
    ]
}

/// A connection whose every byte can be looked at; CONNACK is read already.
fn connected(broker: &Broker, version: Version, client: &str) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket.write_all(&packet::connect(version, client)).unwrap();
    let mut head = [0; 2];
    socket.read_exact(&mut head).unwrap();
    assert_eq!(head[0], 0x20);
    let mut rest = vec![0; usize::from(head[1])];
    socket.read_exact(&mut rest).unwrap();
    assert_eq!(rest[1], 0, "accepted");
    socket
}

fn to_the_end(mut socket: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    bytes
}

fn with_reference() {
    let reference = "mqtts://standby.example:8883";
    let mut broker = Broker::with_config(&format!("server_reference = \"{reference}\"\n"));
    let (v5, v4) = (connected(&broker, Version::V5, "five"), connected(&broker, Version::V4, "four"));
    assert_eq!(broker.terminate(), Some(0), "{}", broker.log());
    // DISCONNECT, 0x8B, one property: 0x1C Server Reference [MQTT5-3.14.2.2.5].
    let mut wanted = vec![0xE0, 0, 0x8B, 0, 0x1C];
    wanted.extend((reference.len() as u16).to_be_bytes());
    wanted.extend(reference.as_bytes());
    (wanted[1], wanted[3]) = (wanted.len() as u8 - 2, wanted.len() as u8 - 4);
    assert_eq!(to_the_end(v5), wanted);
    assert_eq!(to_the_end(v4), Vec::<u8>::new(), "3.1.1 has no DISCONNECT from the server [MQTT-3.14.4]");
}

fn without_reference() {
    let mut broker = Broker::start();
    let v5 = connected(&broker, Version::V5, "five");
    assert_eq!(broker.terminate(), Some(0), "{}", broker.log());
    let bytes = to_the_end(v5);
    assert_eq!(bytes[2], 0x8B, "{bytes:x?}");
    assert!(!bytes.contains(&0x1C), "no Server Reference: {bytes:x?}");
}

fn sessions_survive() {
    let mut broker = Broker::start();
    let endpoint = Endpoint::tcp(broker.port());
    for version in [Version::V4, Version::V5] {
        let (mut wire, present) = Wire::open(&endpoint, version, &format!("{version:?}")).unwrap();
        assert!(!present);
        wire.send(&packet::subscribe(version, 1, "kept/#", 1)).unwrap();
        assert!(matches!(wire.answer().unwrap(), Packet::Suback(1, ..)));
    }
    let (mut publisher, _) = Wire::open(&endpoint, Version::V5, "publisher").unwrap();
    publisher.send(&packet::publish(Version::V5, false, 1, 9, "kept/a", b"while away")).unwrap();
    assert_eq!(publisher.answer().unwrap(), Packet::Ack(packet::Ack::Puback, 9, 0, Vec::new()));
    // One client is connected when it ends, two are not.
    let _online = Wire::open(&endpoint, Version::V5, "V5").unwrap();
    assert_eq!(broker.terminate(), Some(0), "{}", broker.log());
    broker.run();
    for version in [Version::V4, Version::V5] {
        let (mut wire, present) = Wire::open(&endpoint, version, &format!("{version:?}")).unwrap();
        assert!(present, "{version:?}: the session is there");
        match wire.answer().unwrap() {
            Packet::Publish(packet::Message { topic, payload, .. }) => {
                assert_eq!((topic.as_str(), payload.as_slice()), ("kept/a", &b"while away"[..]));
            }
            other => panic!("{version:?}: {other:?}"),
        }
    }
}

fn interrupt() {
    let mut broker = Broker::start();
    let client = connected(&broker, Version::V5, "five");
    let pid = broker.pid().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(to_the_end(client)[2], 0x8B);
    assert_eq!(broker.ended(), Some(0), "{}", broker.log());
}
