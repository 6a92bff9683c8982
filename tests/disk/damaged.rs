//! A store that is damaged: where there is no room to recover it, and while the broker runs; and one that may not grow.

use std::collections::BTreeSet;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use forebay_tests::absence;
use forebay_tests::broker::Broker;
use forebay_tests::http::Api;
use forebay_tests::packet::{self, Ack, Version};
use forebay_tests::peer::{Came, Connect, Peer};
use forebay_tests::scratch::Scratch;
use forebay_tests::sys::{Sys, assert_balanced, figure};

use crate::full::{Disk, retain, start};
use crate::{Case, LIMIT, MOMENT, absent, accepted_again, code, fill, number, publisher, send, takes, tcp};

pub(crate) fn trials() -> Vec<Case> {
    let absent = Disk::mount(1).is_none().then(|| "no right to mount a tmpfs".to_owned());
    vec![
        ("damaged_with_no_room_to_recover_it", absent, on_a_full_disk),
        ("damaged_while_it_runs_begins_anew_by_itself", None, while_it_runs),
        ("damaged_while_a_copy_is_made_waits_for_that_to_end", absence::of_program("strace"), while_a_copy_is_made),
        ("damaged_while_it_runs_with_a_journal_loses_nothing_that_is_acknowledged_then", None, with_a_journal),
        ("a_store_is_not_larger_than_max_bytes", None, bounded),
    ]
}

const MESSAGES: u32 = 200;

/// Whoever has published so many.
fn published(broker: &Broker, messages: u32) -> Peer {
    let mut device = publisher(broker, "device", Version::V5);
    for next in 0..messages {
        send(&mut device, Version::V5, next);
        assert_eq!(code(&mut device, next, LIMIT), Some(0));
    }
    device
}

fn store_in(dir: &Path) -> PathBuf {
    dir.join("forebay.redb")
}

fn zero(file: &Path, at: u64, len: usize) {
    let mut file = std::fs::File::options().write(true).open(file).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&vec![0; len]).unwrap();
}

/// Until it has begun anew, which ends connections: the next message is accepted.
fn accepted_by_one_anew(broker: &Broker, number: u32) {
    let begun = Instant::now();
    loop {
        let device = Peer::silent(&tcp(broker), Version::V5).ok();
        let connected = device.and_then(|mut device| {
            device.send(&Connect::clean(Version::V5, "again").packet());
            matches!(device.answer(), Came::Connack(..)).then_some(device)
        });
        if let Some(mut device) = connected {
            send(&mut device, Version::V5, number);
            if let Came::Ack(Ack::Puback, _, 0, _) = device.answer() {
                return;
            }
        }
        assert!(begun.elapsed() < LIMIT, "it is refused still");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// It is recovered into memory and served; when there is room it becomes a file by itself.
fn on_a_full_disk() {
    let (mut broker, disk) = start("0B");
    absent(&broker);
    drop(published(&broker, MESSAGES));
    broker.kill();
    let data = disk.path().join("data");
    zero(&store_in(&data), 0, 4096);
    let other = disk.path().join("other");
    let _ = std::fs::write(&other, vec![0; 40 << 20]);
    broker.run();
    let mut device = publisher(&broker, "device", Version::V5);
    send(&mut device, Version::V5, MESSAGES);
    assert_eq!(code(&mut device, MESSAGES, LIMIT), Some(0x97), "what must be durable is refused");
    drop(takes(&broker, 0..MESSAGES));
    std::fs::remove_file(other).unwrap();
    accepted_by_one_anew(&broker, MESSAGES);
    assert!(broker.is_running());
    let names = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with("forebay-damaged-")).count(), 1, "the damaged file is kept");
    assert!(broker.log().contains("set aside"), "{}", broker.log());
}

/// Pages of a queue are zeroed under the broker: nothing more is acknowledged into that file, and the broker goes on with what
/// can be had of it.
fn while_it_runs() {
    let scratch = Scratch::new("damaged");
    let data = scratch.path().join("data");
    let mut broker = Broker::prepare(Some(&data));
    broker.configure("[store]\ncache_bytes = \"1MiB\"\njournal = \"0B\"\n[limits]\nmemory_messages = 50\n");
    broker.run();
    absent(&broker);
    drop(published(&broker, MESSAGES));
    let file = store_in(&data);
    let len = std::fs::metadata(&file).unwrap().len();
    zero(&file, len / 2 / 4096 * 4096, (len / 4) as usize);
    let mut came = taken_until_it_begins_anew(&broker);
    accepted_by_one_anew(&broker, MESSAGES);
    let mut subscriber = comes(&broker).unwrap();
    while !came.contains(&MESSAGES) {
        came.insert(number(&subscriber.message().payload));
    }
    let figures = Sys::open(&tcp(&broker)).figures();
    let missing = u64::from(MESSAGES) + 1 - came.len() as u64;
    assert_balanced(&figures);
    assert_eq!(figure(&figures, "ledger/dropped/damaged"), missing, "{}", broker.log());
    assert!(missing < u64::from(MESSAGES) / 2, "{missing} are lost of a quarter that was damaged");
    assert!(broker.is_running());
}

/// An operator's copy still reads the store when the broker begins anew: the folder is not let go before that has ended.
fn while_a_copy_is_made() {
    let scratch = Scratch::new("damaged");
    let (data, copy) = (scratch.path().join("data"), scratch.path().join("copy"));
    std::fs::create_dir_all(&copy).unwrap();
    let (copy, socket) = (copy.join("forebay.redb"), data.join("admin.sock"));
    let partial = copy.with_extension("redb.partial");
    let mut broker = Broker::prepare(Some(&data));
    broker.configure(&format!(
        "[store]\ncache_bytes = \"1MiB\"\njournal = \"0B\"\n[limits]\nmemory_messages = 50\n[admin]\nsocket = \"{}\"\n",
        socket.display()
    ));
    // Each of its first writes to the copy takes a second.
    let (slow, only) = ("inject=pwrite64:delay_enter=1000000:when=1..5", partial.to_str().unwrap());
    broker.set_wrapper(&[
        "strace",
        "-D",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-P",
        only,
        "-e",
        "trace=pwrite64",
        "-e",
        slow,
    ]);
    broker.run();
    absent(&broker);
    drop(published(&broker, MESSAGES));
    let copying = std::thread::spawn({
        let target = format!("/api/store/backup?to={}", copy.display());
        // Its connection ends when the broker begins anew.
        move || std::panic::catch_unwind(|| Api::socket(&socket).ask("POST", &target, &[], b""))
    });
    let begun = Instant::now();
    while !partial.exists() {
        assert!(begun.elapsed() < LIMIT, "the copy does not begin: {}", broker.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    let file = store_in(&data);
    let len = std::fs::metadata(&file).unwrap().len();
    zero(&file, len / 2 / 4096 * 4096, (len / 4) as usize);
    drop(taken_until_it_begins_anew(&broker));
    accepted_by_one_anew(&broker, MESSAGES);
    assert!(broker.is_running());
    assert!(broker.log().contains("still being read"), "the copy had ended before: {}", broker.log());
    let _ = copying.join();
}

/// The absent one comes, unless the broker is about to begin anew.
fn comes(broker: &Broker) -> Option<Peer> {
    let mut peer = Peer::silent(&tcp(broker), Version::V5).ok()?;
    peer.send(&Connect::kept(Version::V5, "absent").packet());
    match peer.within(LIMIT) {
        Some(Came::Connack(present, 0, _)) => {
            assert!(present, "the session is there: {}", broker.log());
            Some(peer)
        }
        _ => None,
    }
}

/// What the absent one takes until its reader meets the damage.
fn taken_until_it_begins_anew(broker: &Broker) -> BTreeSet<u32> {
    let (mut subscriber, mut came) = (comes(broker), BTreeSet::new());
    let begun = Instant::now();
    while !broker.log().contains("begins anew") {
        assert!(begun.elapsed() < LIMIT, "it goes on with a damaged file: {}", broker.log());
        let Some(peer) = &mut subscriber else { continue };
        match peer.within(MOMENT) {
            Some(Came::Publish(message)) => {
                peer.send(&packet::ack(Ack::Puback, message.id));
                came.insert(number(&message.payload));
            }
            Some(Came::Closed) => subscriber = None,
            _ => {}
        }
    }
    came
}

/// What is acknowledged after the file was damaged is in the journal. Both tables that say whose the sessions are lie where
/// the file is damaged, and so does what is retained: the broker knows them.
fn with_a_journal() {
    const FOLDED: u32 = 600;
    let scratch = Scratch::new("damaged");
    let data = scratch.path().join("data");
    let mut broker = Broker::prepare(Some(&data));
    broker.configure("sys_interval = \"1s\"\n[store]\ncache_bytes = \"1MiB\"\n[limits]\nmemory_messages = 50\n");
    broker.run();
    absent(&broker);
    retain(&broker);
    let mut device = published(&broker, FOLDED);
    // And none is under way.
    let (mut sys, mut folds) = (Sys::open(&tcp(&broker)), 0);
    while folds == 0 || folds != figure(&sys.figures(), "store/folds") {
        folds = figure(&sys.figures(), "store/folds");
    }
    zero(&store_in(&data), 4096, 60 << 10);
    zero(&store_in(&data), 1 << 20, 2 << 20);
    let mut all = FOLDED;
    while all < FOLDED + MESSAGES / 4 {
        send(&mut device, Version::V5, all);
        match device.within(LIMIT) {
            Some(Came::Ack(Ack::Puback, _, 0, _)) => all += 1,
            // A fold has met it.
            _ => break,
        }
    }
    assert!(all > FOLDED, "nothing is acknowledged any more: {}", broker.log());
    let mut came = taken_until_it_begins_anew(&broker);
    accepted_by_one_anew(&broker, all);
    let mut subscriber = comes(&broker).unwrap();
    while !came.contains(&all) {
        came.insert(number(&subscriber.message().payload));
    }
    let lost: Vec<u32> = (FOLDED..all).filter(|number| !came.contains(number)).collect();
    assert!(lost.is_empty(), "{lost:?} were acknowledged when the file was damaged already");
    let (mut online, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "online"));
    assert_eq!(online.subscribe(&[("state", 1)]), [1]);
    assert_eq!(online.message().payload, b"kept");
    let figures = Sys::open(&tcp(&broker)).figures();
    assert_balanced(&figures);
    let missing = u64::from(all) + 1 - came.len() as u64;
    assert!(missing > 0, "nothing was damaged: {}", broker.log());
    assert_eq!(figure(&figures, "ledger/dropped/damaged"), missing, "{}", broker.log());
    let said = |line: &str| line.contains("ERROR") && line.contains("is damaged: ");
    assert!(broker.log().lines().any(said), "{}", broker.log());
}

/// 16 MiB, of messages of 10 kB.
fn bounded() {
    const MAX: u64 = 16 << 20;
    let scratch = Scratch::new("bounded");
    let data = scratch.path().join("data");
    let mut broker = Broker::prepare(Some(&data));
    broker.configure(&format!("sys_interval = \"1s\"\n[store]\nmax_bytes = \"{MAX}B\"\nmin_free_bytes = \"0B\"\n"));
    broker.run();
    absent(&broker);
    let taken_by = |broker: &Broker, numbers| {
        let mut subscriber = takes(broker, numbers);
        subscriber.drain(Duration::from_millis(500));
        subscriber.leave();
    };
    let mut next = 0;
    for _ in 0..3 {
        let filled = fill(&broker, next);
        assert!(filled.acked - next > 150, "full with {} messages", filled.acked - next);
        taken_by(&broker, next..filled.acked);
        next = filled.acked;
        let size = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(store_in(&data)).unwrap()) * 512;
        // Rows of 10 kB need pages that lie together: where a file so small has none, a fold makes it a little larger.
        assert!(size <= MAX + MAX / 16, "{size} bytes");
    }
    accepted_again(&mut publisher(&broker, "again", Version::V5), next);
    drop(takes(&broker, next..next + 1));
}
