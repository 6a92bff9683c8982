//! A full disk: a tmpfs of some megabytes.

use std::path::Path;
use std::process::Command;

use forebay_tests::broker::Broker;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Came, Connect, Peer, publish};
use forebay_tests::scratch::Scratch;
use forebay_tests::sys::Sys;

use crate::{Case, LIMIT, MOMENT, absent, accepted_again, code, fill, publisher, send, take, takes, tcp};

pub(crate) fn trials() -> Vec<Case> {
    let absent = Disk::mount(1).is_none().then(|| "no right to mount a tmpfs".to_owned());
    vec![
        ("full_to_the_reserve_and_drained", absent.clone(), || drained("4MiB")),
        ("full_to_the_last_byte_and_drained", absent.clone(), || drained("0B")),
        ("full_to_the_reserve_and_made_room", absent.clone(), || made_room("4MiB")),
        ("full_to_the_last_byte_and_made_room", absent.clone(), || made_room("0B")),
        ("full_to_the_reserve_and_killed", absent.clone(), || killed("4MiB")),
        ("full_to_the_last_byte_and_killed", absent, || killed("0B")),
    ]
}

const SIZE_MB: u32 = 40;

/// A small disk, gone when this is dropped.
pub(crate) struct Disk(Scratch);

impl Disk {
    pub(crate) fn mount(size_mb: u32) -> Option<Self> {
        let scratch = Scratch::new("disk");
        let size = format!("size={size_mb}m");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(scratch.path()).output();
        status.is_ok_and(|output| output.status.success()).then_some(Self(scratch))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// A broker whose data is on the disk. It is dropped before the disk.
pub(crate) fn start(reserve: &str) -> (Broker, Disk) {
    start_with(&format!("min_free_bytes = \"{reserve}\"\n"))
}

/// The same, with these lines of `[store]`.
pub(crate) fn start_with(store: &str) -> (Broker, Disk) {
    let disk = Disk::mount(SIZE_MB).unwrap();
    let mut broker = Broker::prepare(Some(&disk.path().join("data")));
    broker.configure(&format!("sys_interval = \"1s\"\n[store]\n{store}"));
    broker.run();
    (broker, disk)
}

/// All that does not need the disk goes on while it is full.
fn everything_else_goes_on(broker: &mut Broker) {
    let (mut online, _) = Peer::open(&tcp(broker), &Connect::clean(Version::V4, "online"));
    assert_eq!(online.subscribe(&[("live/#", 1), ("state", 1)]), [1, 1]);
    let retained = online.message();
    assert_eq!((retained.retain, retained.payload.as_slice()), (true, &b"kept"[..]));
    let mut device = publisher(broker, "device", Version::V5);
    device.send(&publish(Version::V5, 0, 0, "live/0", &[], b"qos 0"));
    assert_eq!(online.message().payload, b"qos 0");
    assert_eq!(device.publish(1, "live/1", b"qos 1").0, 0, "for nobody whose session is kept");
    assert_eq!(online.message().payload, b"qos 1");
    Sys::open(&tcp(broker)).until_pressure("critical");
    assert!(broker.is_running());
}

/// A retained message that is there before the disk is full.
pub(crate) fn retain(broker: &Broker) {
    let mut bytes = publish(Version::V5, 1, 1, "state", &[], b"kept");
    bytes[0] |= 1;
    let mut device = publisher(broker, "retainer", Version::V5);
    device.send(&bytes);
    assert!(matches!(device.answer(), Came::Ack(_, 1, 0, _)));
}

fn drained(reserve: &str) {
    let (mut broker, _disk) = start(reserve);
    absent(&broker);
    retain(&broker);
    let mut filled = fill(&broker, 0);
    assert!(filled.acked > 100, "only {} messages of 10 kB on {SIZE_MB} MB", filled.acked);
    everything_else_goes_on(&mut broker);
    // 3.1.1: its ack is withheld, and comes when there is room.
    let (mut old, next) = (publisher(&broker, "old", Version::V4), filled.acked);
    send(&mut old, Version::V4, next);
    assert_eq!(code(&mut old, next, MOMENT), None, "the ack is withheld");
    let mut subscriber = takes(&broker, 0..next + 1);
    assert_eq!(code(&mut old, next, LIMIT), Some(0));
    accepted_again(&mut filled.device, next + 1);
    take(&mut subscriber, next + 1..next + 2);
}

/// Another program's file is what fills it.
fn made_room(reserve: &str) {
    let (mut broker, disk) = start(reserve);
    absent(&broker);
    retain(&broker);
    let other = disk.path().join("other");
    // As much as there is: the system writes until it is full.
    let _ = std::fs::write(&other, vec![0; (SIZE_MB as usize) << 20]);
    let mut filled = fill(&broker, 0);
    everything_else_goes_on(&mut broker);
    std::fs::remove_file(other).unwrap();
    let next = filled.acked;
    accepted_again(&mut filled.device, next);
    takes(&broker, 0..next + 1);
}

/// And the plug is pulled while it is full.
fn killed(reserve: &str) {
    let (mut broker, _disk) = start(reserve);
    absent(&broker);
    retain(&broker);
    let mut filled = fill(&broker, 0);
    for _ in 0..2 {
        broker.kill();
        broker.run();
        // A little may fit by now. What was not acknowledged is sent again.
        filled = fill(&broker, filled.acked);
    }
    everything_else_goes_on(&mut broker);
    let next = filled.acked;
    let mut subscriber = takes(&broker, 0..next);
    let mut device = publisher(&broker, "another", Version::V5);
    accepted_again(&mut device, next);
    take(&mut subscriber, next..next + 1);
}
