//! The log's reader goes away, or stops reading: nobody notices but the counter of lost lines.

use std::io::Read;
use std::net::TcpStream;

use forebay_tests::broker::Broker;
use forebay_tests::link::Endpoint;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Came, Connect, Peer};
use forebay_tests::sys::{Sys, figure};

use crate::Case;

/// More lines than a pipe and the queue behind it hold.
const MANY: usize = 3000;

pub(crate) fn trials() -> Vec<Case> {
    vec![
        ("the_reader_of_the_log_is_gone", None, reader_gone),
        ("the_reader_of_the_log_hangs", None, reader_hangs),
        ("a_flood_of_log_lines_is_cut", None, flood),
    ]
}

/// Something that is logged: bytes that are no CONNECT.
fn garbage(broker: &Broker) {
    let mut socket = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
    std::io::Write::write_all(&mut socket, &[0, 0]).unwrap();
    let _ = socket.read(&mut [0; 8]);
}

/// Who was there is served, and so is who comes.
fn serves(broker: &mut Broker, there: &mut Peer) {
    assert!(there.publish(1, "a/1", b"x").0 < 0x80);
    let (mut late, _) = Peer::open(&Endpoint::tcp(broker.port()), &Connect::clean(Version::V5, "late"));
    // What ends an established connection is logged by the thread that serves it.
    late.send(&[0xF7, 0]);
    assert!(matches!(late.answer(), Came::Disconnect(..)));
    assert!(there.publish(2, "a/2", b"x").0 < 0x80);
    assert!(broker.is_running());
}

fn reader_gone() {
    let mut broker = Broker::prepare(None);
    broker.configure("sys_interval = \"1s\"\n");
    let (reader, writer) = std::io::pipe().unwrap();
    broker.run_with_log_to(writer);
    let (mut there, _) = Peer::open(&Endpoint::tcp(broker.port()), &Connect::clean(Version::V5, "there"));
    let mut sys = Sys::open(&Endpoint::tcp(broker.port()));
    drop(reader);
    garbage(&broker);
    sys.until("lines are lost and counted", |f| figure(f, "log/lines lost") > 0);
    serves(&mut broker, &mut there);
    assert_eq!(broker.terminate(), Some(0));
}

fn reader_hangs() {
    let mut broker = Broker::prepare(None);
    broker.configure("sys_interval = \"1s\"\n[limits]\nlog_lines_per_s = 1000000\n");
    let (reader, writer) = std::io::pipe().unwrap();
    broker.run_with_log_to(writer);
    let (mut there, _) = Peer::open(&Endpoint::tcp(broker.port()), &Connect::clean(Version::V5, "there"));
    let mut sys = Sys::open(&Endpoint::tcp(broker.port()));
    for _ in 0..MANY {
        garbage(&broker);
    }
    sys.until("lines are lost and counted", |f| figure(f, "log/lines lost") > 0);
    serves(&mut broker, &mut there);
    assert_eq!(broker.terminate(), Some(0));
    drop(reader);
}

fn flood() {
    let mut broker = Broker::with_config("sys_interval = \"1s\"\n[limits]\nlog_lines_per_s = 5\n");
    let mut sys = Sys::open(&Endpoint::tcp(broker.port()));
    for _ in 0..200 {
        garbage(&broker);
    }
    sys.until("lines are left out and counted", |f| figure(f, "log/lines left out") > 0);
    assert_eq!(broker.terminate(), Some(0));
    let log = broker.log();
    assert!(log.contains("lines of the log were left out, see limits.log_lines_per_s"), "{log}");
}
