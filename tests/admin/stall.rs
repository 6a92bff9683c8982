//! Nothing that is asked of the API, and nobody who asks, holds the broker up.

use std::io::Write;
use std::net::TcpStream;

use crate::{Site, until};

#[test]
fn requests_that_never_end_take_nothing_from_devices_or_from_the_socket() {
    let site = Site::start("", "");
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
        // Those that are over the limit are closed at once.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ");
        held.push(stream);
    }
    let mut subscriber = site.subscriber("s", "t");
    let mut publisher = site.publisher();
    publisher.publish(1, "t", b"x");
    assert_eq!(subscriber.message().payload, b"x");
    assert_eq!(site.socket().get("/readyz").status, 200, "the socket has places of its own");
    drop(held);
    // Until the broker has seen that they are gone, whoever comes is over the limit.
    let status = || site.http().try_ask("GET", "/readyz", &[], b"").map_or(0, |answer| answer.status);
    until("HTTP answers again", status, |status| *status == 200);
}

#[test]
fn nonsense_on_the_port_harms_nobody() {
    let site = Site::start("", "");
    for bytes in
        [&b"\x16\x03\x01\x02\x00"[..], b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", b"GET\r\n\r\n", &[0; 40_000]]
    {
        let mut stream = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
        let _ = stream.write_all(bytes);
    }
    let big = vec![b'x'; 2 << 20];
    let mut stream = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
    let _ = stream.write_all(b"PUT /api/retained/t HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2097152\r\n\r\n");
    let _ = stream.write_all(&big);
    assert_eq!(site.http().get("/healthz").status, 200);
}
