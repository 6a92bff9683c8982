//! A disk that is full, and one that fails: what cannot be kept is refused, everything else goes on, and it is over when the
//! cause is gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]
#![allow(clippy::print_stderr, clippy::wildcard_enum_match_arm)]

mod caught;
mod damaged;
mod failing;
mod full;
mod starts;

use std::time::{Duration, Instant};

use forebay_tests::absence::panicking;
use forebay_tests::broker::Broker;
use forebay_tests::link::Endpoint;
use forebay_tests::packet::{Ack, Version};
use forebay_tests::peer::{Came, Connect, Peer, publish};
use forebay_tests::sys::{Sys, figure};
use libtest_mimic::{Arguments, Trial};

/// A name, why it cannot be run here, and what it does.
type Case = (&'static str, Option<String>, fn());

fn main() {
    let arguments = Arguments::from_args();
    let cases = [full::trials(), caught::trials(), failing::trials(), starts::trials(), damaged::trials()].concat();
    let trials: Vec<Trial> =
        cases.into_iter().map(|(name, absent, run)| panicking("disk", name, absent.as_deref(), run)).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// How long the broker may take to notice that there is room again.
const LIMIT: Duration = Duration::from_secs(60);
/// Long enough for an answer that should not come to be seen.
const MOMENT: Duration = Duration::from_millis(500);

fn tcp(broker: &Broker) -> Endpoint {
    Endpoint::tcp(broker.port())
}

/// Makes a session that is subscribed to `q` at QoS 1, and leaves.
fn absent(broker: &Broker) {
    let (mut subscriber, _) = Peer::open(&tcp(broker), &Connect::kept(Version::V5, "absent"));
    assert_eq!(subscriber.subscribe(&[("q", 1)]), [1]);
    subscriber.leave();
}

fn publisher(broker: &Broker, client: &str, version: Version) -> Peer {
    Peer::open(&tcp(broker), &Connect::clean(version, client)).0
}

/// Messages of 10 kB with a number in front.
fn payload(number: u32) -> Vec<u8> {
    let mut payload = vec![b'.'; 10_000];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    payload
}

fn number(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

fn send(peer: &mut Peer, version: Version, number: u32) {
    peer.send(&publish(version, 1, (number % 65_535) as u16 + 1, "q", &[], &payload(number)));
}

/// The reason code of a PUBACK, if it comes within this time.
fn code(peer: &mut Peer, number: u32, limit: Duration) -> Option<u8> {
    match peer.within(limit)? {
        Came::Ack(Ack::Puback, id, code, _) if id == (number % 65_535) as u16 + 1 => Some(code),
        other => panic!("instead of the PUBACK of {number}: {other:?}"),
    }
}

/// A device that has met the full disk.
struct Filled {
    device: Peer,
    /// What came before this number is acknowledged; the number itself was refused.
    acked: u32,
}

/// Publishes from `next` on until the disk is full: each is acknowledged, or refused with 0x97.
fn fill(broker: &Broker, next: u32) -> Filled {
    let mut filled = Filled { device: publisher(broker, "filler", Version::V5), acked: next };
    let mut refused = 0;
    let mut sys = Sys::open(&tcp(broker));
    // Room is looked at now and then: it is full when it is refused again a little later. A journal that is being folded makes
    // room when that is done, which may take a slow machine long; one that cannot be folded does not.
    while refused < 3 || (refused < 30 && figure(&sys.figures(), "store/journal pending bytes") > 0) {
        assert!(filled.acked < 100_000, "it is never full");
        let (code, properties) = filled.device.publish((filled.acked % 65_535) as u16 + 1, "q", &payload(filled.acked));
        if code == 0 {
            filled.acked += 1;
            refused = 0;
            continue;
        }
        assert_eq!((code, properties.retry_after_ms()), (0x97, Some(1000)));
        refused += 1;
        std::thread::sleep(MOMENT * 2);
    }
    filled
}

/// Tries the message again, as a device does, until it is accepted.
fn accepted_again(peer: &mut Peer, number: u32) {
    let begun = Instant::now();
    loop {
        let (code, _) = peer.publish((number % 65_535) as u16 + 1, "q", &payload(number));
        if code == 0 {
            return;
        }
        assert_eq!(code, 0x97);
        assert!(begun.elapsed() < LIMIT, "it is refused still");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The absent one comes and takes these numbers, in order; one may come again (QoS 1). It stays.
fn takes(broker: &Broker, numbers: std::ops::Range<u32>) -> Peer {
    let (mut subscriber, present) = Peer::open(&tcp(broker), &Connect::kept(Version::V5, "absent"));
    assert!(present, "the session is there");
    take(&mut subscriber, numbers);
    subscriber
}

fn take(subscriber: &mut Peer, numbers: std::ops::Range<u32>) {
    for n in numbers {
        let mut came = number(&subscriber.message().payload);
        while came + 1 == n {
            came = number(&subscriber.message().payload);
        }
        assert_eq!(came, n, "in order");
    }
}
