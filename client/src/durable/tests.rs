//! The outbox on a disk that fails, and on files that are not what they were.

use forebay_wire::types::PacketId;

use super::disk::{Disk, Fail};
use super::*;
use crate::{Message, QoS, Version};

fn frame(payload: &str) -> Frame {
    Frame::new(Version::V5, &Message::new("t", payload.to_owned()).qos(QoS::AtLeastOnce))
}

fn put_op(number: u64) -> Op {
    Op::Put { number, frame: frame(&number.to_string()), expires_unix_ms: None }
}

pub(super) fn options() -> Options {
    Options::new("mqtt://127.0.0.1").unwrap().client_id("device")
}

fn open(disk: &Disk) -> Result<(Store, Found), Fault> {
    Store::open(Box::new(disk.clone()), &options())
}

fn numbers(found: &Found) -> Vec<u64> {
    found.messages.iter().map(|kept| kept.number).collect()
}

/// An outbox with messages 1 to 20, closed.
fn filled() -> Disk {
    let disk = Disk::default();
    let (mut store, found) = open(&disk).unwrap();
    assert!(!found.known && numbers(&found).is_empty());
    store.commit(&(1..=20).map(put_op).collect::<Vec<_>>()).unwrap();
    store.close();
    disk
}

#[test]
fn a_file_that_has_come_to_nothing_is_set_aside_and_said() {
    let nothing: [(&str, &[u8]); 4] = [("empty", b""), ("one byte", b"r"), ("zeros", &[0; 69_632]), ("text", b"hello")];
    for (what, bytes) in nothing {
        let disk = filled();
        disk.set_bytes(bytes);
        let (store, found) = open(&disk).unwrap_or_else(|fault| panic!("{what}: {fault}"));
        assert_eq!((found.unreadable_files, disk.set_aside_count(), found.known), (1, 1, false), "{what}");
        store.close();
        let (_store, found) = open(&disk).unwrap();
        assert_eq!((found.unreadable_files, disk.set_aside_count(), found.known), (0, 1, true), "{what}: said again");
    }
    let disk = filled();
    disk.remove();
    let (_store, found) = open(&disk).unwrap();
    assert_eq!((found.unreadable_files, disk.set_aside_count()), (1, 0), "gone");
}

#[test]
fn a_file_that_was_never_an_outbox_is_new_or_refused() {
    for bytes in [&b""[..], &[0; 4096], &[0; 8192], b"redb"] {
        let disk = Disk::default();
        disk.set_bytes(bytes);
        let (_store, found) = open(&disk).unwrap();
        assert_eq!((found.unreadable_files, disk.set_aside_count()), (0, 0), "{} bytes", bytes.len());
    }
    let disk = Disk::default();
    disk.set_bytes(b"something of somebody else");
    assert!(matches!(open(&disk), Err(Fault::Damaged(_))));
    assert_eq!(disk.bytes(), b"something of somebody else");
}

#[test]
fn a_truncated_file_is_set_aside_and_a_whole_one_never() {
    let whole = filled().bytes();
    let mut aside = 0;
    for eighth in 0..8 {
        let disk = filled();
        disk.set_bytes(&whole[..whole.len() * eighth / 8]);
        let (_store, found) = open(&disk).unwrap_or_else(|fault| panic!("{eighth}: {fault}"));
        assert!(found.unreadable_files == 1 || numbers(&found).len() == 20, "{eighth}");
        aside += found.unreadable_files;
    }
    assert!(aside >= 4, "{aside}");
}

#[test]
fn a_damaged_message_costs_that_message() {
    let disk = filled();
    let (store, _) = open(&disk).unwrap();
    let write = store.database.as_ref().unwrap().begin_write().unwrap();
    write.open_table(MESSAGES).unwrap().insert(7, &[0, 1][..]).unwrap();
    write.commit().unwrap();
    store.close();
    let (store, found) = open(&disk).unwrap();
    assert_eq!((found.unreadable_messages, found.unreadable_files, numbers(&found).len()), (1, 0, 19));
    store.close();
    assert_eq!(open(&disk).unwrap().1.unreadable_messages, 0, "it is said once");
}

fn long_frame(number: u64) -> Frame {
    frame(&format!("{number} {}", "x".repeat(80 + number as usize % 7)))
}

/// An outbox with these messages, of different lengths, closed.
pub(super) fn filled_with(numbers: std::ops::RangeInclusive<u64>, options: &Options) -> Disk {
    let disk = Disk::default();
    let (mut store, _) = Store::open(Box::new(disk.clone()), options).unwrap();
    let put = |number| Op::Put { number, frame: long_frame(number), expires_unix_ms: None };
    for some in numbers.collect::<Vec<_>>().chunks(50) {
        store.commit(&some.iter().copied().map(put).collect::<Vec<_>>()).unwrap();
    }
    store.close();
    disk
}

/// Pages of a file that hold the message of a number, now or before.
fn pages_with(disk: &Disk, number: u64) -> Vec<usize> {
    let text = format!("{number} xxxx").into_bytes();
    let holds = |page: &[u8]| page.windows(text.len()).any(|bytes| bytes == text);
    disk.bytes().chunks(4096).enumerate().filter(|(_, page)| holds(page)).map(|(page, _)| page).collect()
}

/// Each page of the file is zeroed, and cannot be read for good, on its own: what is on it is lost, and said, and nothing else.
#[test]
fn one_bad_page_costs_what_is_on_it() {
    let whole = &filled_with(1..=200, &options()).bytes();
    // At the same time: each of them waits for the device.
    let costs = std::thread::scope(|scope| {
        let pages = (0..whole.len()).step_by(4096).flat_map(|at| [(at, false), (at, true)]);
        let runs: Vec<_> = pages.map(|(at, unreadable)| scope.spawn(move || cost_of(whole, at, unreadable))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect::<Vec<_>>()
    });
    let with_messages = costs.iter().filter(|cost| **cost > 0).count();
    assert!(with_messages >= 8 && with_messages + 4 <= costs.len(), "{costs:?}");
}

/// How many messages are lost with a page.
fn cost_of(whole: &[u8], at: usize, unreadable: bool) -> u64 {
    let disk = Disk::default();
    let mut bytes = whole.to_vec();
    if !unreadable {
        bytes[at..][..4096].fill(0);
    }
    disk.set_bytes(&bytes);
    disk.set_mark(1).unwrap();
    if unreadable {
        disk.break_page(at as u64);
    }
    let why = format!("the page at {at}, unreadable: {unreadable}");
    let (mut store, found) = open(&disk).unwrap_or_else(|fault| panic!("{why}: {fault}"));
    let kept = numbers(&found);
    assert_eq!(kept.len() as u64 + found.unreadable_messages, 200, "{why}");
    assert!(kept.len() >= 150, "{why}: {} are left", kept.len());
    assert!(found.messages.iter().all(|kept| kept.frame == long_frame(kept.number)), "{why}");
    let aside = disk.set_aside_count();
    assert_eq!(found.unreadable_files as usize, aside, "{why}");
    assert!(aside == 1 || kept.len() == 200, "{why}");
    store.commit(&[put_op(201)]).unwrap_or_else(|fault| panic!("{why}: {fault}"));
    store.close();
    let again = open(&disk).unwrap_or_else(|fault| panic!("{why}: {fault}")).1;
    assert_eq!(numbers(&again), kept.into_iter().chain([201]).collect::<Vec<_>>(), "{why}");
    assert_eq!(again.unreadable_messages, 0, "{why}: it is said once");
    // It may be one that is not read at each start.
    assert!(aside as u64 + again.unreadable_files <= 1, "{why}: it is said once");
    found.unreadable_messages
}

/// As above, and the disk takes no writes: what can be read is sent, and what is published waits until there is a new file.
#[test]
fn a_bad_page_on_a_disk_that_takes_no_writes_costs_what_is_on_it() {
    let whole = filled_with(1..=200, &options());
    let page = pages_with(&whole, 100).into_iter().find(|page| {
        let disk = filled_with(1..=200, &options());
        disk.break_page(*page as u64 * 4096);
        open(&disk).unwrap().1.unreadable_messages > 0
    });
    whole.break_page(page.unwrap() as u64 * 4096);
    whole.fail(Fail::Write, 0, u64::MAX);
    let (mut store, found) = open(&whole).unwrap();
    let kept = numbers(&found);
    assert!(kept.len() >= 150 && kept.len() as u64 + found.unreadable_messages == 200);
    assert!(store.commit(&[put_op(201)]).is_err());
    whole.heal();
    let first = kept[0];
    store.commit(&[put_op(201), Op::Remove { number: first }]).unwrap();
    store.close();
    let found = open(&whole).unwrap().1;
    assert_eq!(numbers(&found), kept.into_iter().skip(1).chain([201]).collect::<Vec<_>>());
    assert_eq!((whole.set_aside_count(), found.unreadable_messages), (1, 0));
}

/// A page that becomes bad while the program runs does not make publishing wait for ever.
#[test]
fn a_page_that_becomes_bad_does_not_stop_the_outbox() {
    let whole = &filled_with(1..=200, &options()).bytes();
    let set_aside = |at| {
        let disk = Disk::default();
        disk.set_bytes(whole);
        let (mut store, _) = open(&disk).unwrap();
        // What redb has read it holds, until it is opened again.
        store.database = None;
        disk.break_page(at as u64);
        let ops: Vec<Op> = (201..=220).map(put_op).collect();
        assert!((0..3).any(|_| store.commit(&ops).is_ok()), "the page at {at}");
        store.close();
        let kept = numbers(&open(&disk).unwrap().1);
        assert!(kept.len() >= 170 && kept.ends_with(&(201..=220).collect::<Vec<_>>()), "the page at {at}: {kept:?}");
        disk.set_aside_count()
    };
    let set_aside = std::thread::scope(|scope| {
        let pages = (0..whole.len()).step_by(4096);
        let runs: Vec<_> = pages.map(|at| scope.spawn(move || set_aside(at))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).sum::<usize>()
    });
    assert!(set_aside > 4, "{set_aside}");
}

/// Message 1 is done with, PUBREC of 2 has come, 3 expires; one of the server's at QoS 2, the program's mark.
fn golden_ops() -> [Op; 7] {
    [
        put_op(1),
        put_op(2),
        Op::Put { number: 3, frame: frame("3"), expires_unix_ms: Some(EXPIRES) },
        Op::Mark { mark: 77 },
        Op::Release { number: 2 },
        Op::Remove { number: 1 },
        Op::Seen { id: PacketId::new(9).unwrap(), mark: SEEN_MARK },
    ]
}

const EXPIRES: u64 = 4_000_000_000_000;
const SEEN_MARK: u64 = 5;

/// `FOREBAY_WRITE_GOLDEN=FILE cargo test -p forebay-client --all-features write_golden` makes the file of today's format.
#[test]
fn write_golden() {
    let Ok(file) = std::env::var("FOREBAY_WRITE_GOLDEN") else { return };
    let disk = Disk::default();
    let (mut store, _) = open(&disk).unwrap();
    store.commit(&golden_ops()).unwrap();
    store.close();
    std::fs::write(file, disk.bytes()).unwrap();
}

/// An outbox of each format that was ever written is in tests/formats: this program reads it, and goes on with it.
#[test]
fn an_outbox_of_each_format_is_read() {
    for format in 1..=FORMAT {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/formats/{format}.redb"));
        let disk = Disk::default();
        disk.set_bytes(&std::fs::read(file).unwrap());
        let (mut store, found) = open(&disk).unwrap();
        assert!(found.known && found.unreadable_files + found.unreadable_messages == 0, "format {format}");
        let kept: Vec<_> = found.messages.iter().map(|m| (m.number, m.released, m.expires_unix_ms)).collect();
        assert_eq!(kept, [(2, true, None), (3, false, Some(EXPIRES))]);
        assert!(found.messages[1].frame == frame("3"), "format {format}");
        assert_eq!((found.seen, found.mark), (vec![(PacketId::new(9).unwrap(), SEEN_MARK)], Some(77)));
        store.commit(&[put_op(4)]).unwrap();
        store.close();
        assert_eq!(numbers(&open(&disk).unwrap().1), [2, 3, 4], "format {format}");
    }
}

/// Any one operation of the start fails, once: the start does not, and nothing is lost.
#[test]
fn a_start_stands_an_error_of_each_operation() {
    for what in [Fail::Read, Fail::Write, Fail::Sync] {
        let mut after = 0;
        loop {
            let disk = filled();
            disk.fail(what, after, 1);
            let (_store, found) = open(&disk).unwrap_or_else(|fault| panic!("{what:?} {after}: {fault}"));
            assert_eq!((numbers(&found).len(), found.unreadable_files), (20, 0), "{what:?} {after}");
            if disk.failed() == 0 {
                break;
            }
            after += 1;
        }
        assert!(after > 0, "{what:?} never failed");
    }
}

/// A device that cannot be read at all is no reason to throw away what is on it.
#[test]
fn what_cannot_be_read_is_left_as_it_is() {
    let disk = filled();
    let before = disk.bytes();
    disk.fail(Fail::Read, 0, u64::MAX);
    assert!(matches!(open(&disk), Err(Fault::Device(_))));
    disk.heal();
    assert!(disk.set_aside_count() == 0 && disk.bytes() == before);
    assert_eq!(numbers(&open(&disk).unwrap().1).len(), 20);
}

/// A disk that takes no writes: what is in the outbox is known, and sent; what is published waits for the disk. It is then as if
/// it had been opened as always.
#[test]
fn what_cannot_be_written_is_read() {
    for what in [Fail::Write, Fail::Sync] {
        let disk = filled();
        disk.fail(what, 0, u64::MAX);
        let (mut store, found) = open(&disk).unwrap_or_else(|fault| panic!("{what:?}: {fault}"));
        assert_eq!((numbers(&found), found.known), ((1..=20).collect(), true), "{what:?}");
        let ops = [Op::Remove { number: 1 }, put_op(21)];
        assert!(store.commit(&ops).is_err(), "{what:?}");
        disk.heal();
        store.commit(&ops).unwrap();
        store.close();
        let (_store, found) = open(&disk).unwrap();
        assert_eq!(numbers(&found), (2..=21).collect::<Vec<_>>(), "{what:?}");
        assert!(!found.older && found.unreadable_files + found.unreadable_messages == 0, "{what:?}");
    }
}

/// And one that is not there yet is made when that is possible.
#[test]
fn what_cannot_be_made_is_made_later() {
    for what in [Fail::Write, Fail::Sync] {
        let disk = Disk::default();
        disk.fail(what, 0, u64::MAX);
        let (mut store, found) = open(&disk).unwrap_or_else(|fault| panic!("{what:?}: {fault}"));
        assert!(!found.known && numbers(&found).is_empty(), "{what:?}");
        assert!(store.commit(&[put_op(1)]).is_err(), "{what:?}");
        disk.heal();
        store.commit(&[put_op(1)]).unwrap();
        store.close();
        let (_store, found) = open(&disk).unwrap();
        assert_eq!((numbers(&found), found.known), (vec![1], true), "{what:?}");
    }
}

/// Any one operation of a commit fails: it is made again, and after a power cut all of it is there.
#[test]
fn a_commit_that_failed_is_whole_when_it_is_made_again() {
    for what in [Fail::Read, Fail::Write, Fail::Sync] {
        let mut after = 0;
        loop {
            let disk = filled();
            let (mut store, _) = open(&disk).unwrap();
            disk.fail(what, after, 1);
            let ops: Vec<Op> = (21..=40).map(put_op).chain([Op::Remove { number: 3 }]).collect();
            if store.commit(&ops).is_err() {
                store.commit(&ops).unwrap_or_else(|fault| panic!("{what:?} {after}: {fault}"));
            }
            disk.program_ends();
            drop(store);
            disk.power_cut();
            let found = open(&disk).unwrap().1;
            let wanted: Vec<u64> = (1..=40).filter(|number| *number != 3).collect();
            assert_eq!((numbers(&found), found.unreadable_files), (wanted, 0), "{what:?} {after}");
            if disk.failed() == 0 {
                break;
            }
            after += 1;
        }
    }
}

/// A large message of QoS 2.
fn large_op(number: u64) -> Op {
    let message = Message::new("t", "x".repeat(LARGE)).qos(QoS::ExactlyOnce);
    Op::Put { number, frame: Frame::new(Version::V5, &message), expires_unix_ms: None }
}

const LARGE: usize = 100_000;

/// Messages 1 to 50 on a disk that is full then.
fn full() -> (Disk, Store) {
    let disk = Disk::default();
    let (mut store, _) = open(&disk).unwrap();
    for number in 1..=50 {
        store.commit(&[large_op(number)]).unwrap();
    }
    disk.fills_after(LARGE as u64);
    (disk, store)
}

/// PUBREC of a message writes a few pages, however large that is.
#[test]
fn a_release_does_not_write_the_message_again() {
    let (disk, mut store) = full();
    disk.heal();
    let len = disk.bytes().len();
    for number in 1..=50 {
        disk.carried();
        store.commit(&[Op::Release { number }]).unwrap();
        let (_, written) = disk.carried();
        assert!(written < LARGE as u64, "{written} bytes were written for one of {LARGE}");
    }
    assert_eq!(disk.bytes().len(), len, "the file has grown");
    store.close();
    let found = open(&disk).unwrap().1;
    assert!(found.messages.len() == 50 && found.messages.iter().all(|kept| kept.released));
}

/// While one message waits for room the others come to their end.
#[test]
fn a_disk_without_room_for_a_message_has_room_for_acks() {
    let (disk, mut store) = full();
    let mut backlog = Backlog::default();
    backlog.extend(vec![large_op(51), Op::Mark { mark: 51 }]);
    assert!(matches!(backlog.commit(&mut store), Err(Fault::NoRoom(_))));
    assert_eq!(backlog.commit_acks(&mut store).unwrap(), None);
    for number in 1..=50 {
        backlog.extend(vec![Op::Release { number }, Op::Seen { id: PacketId::new(number as u16).unwrap(), mark: 1 }]);
        assert_eq!(backlog.commit_acks(&mut store).unwrap(), Some(Freed::Nothing), "{number}");
    }
    // It is there after a power cut, and the message that waits is not, nor its mark.
    disk.program_ends();
    drop(store);
    disk.power_cut();
    let (mut store, found) = open(&disk).unwrap();
    assert!(found.messages.len() == 50 && found.messages.iter().all(|kept| kept.released));
    assert_eq!((found.seen.len(), found.mark), (50, None));
    for number in 1..=50 {
        backlog.extend(vec![Op::Remove { number }]);
        assert_eq!(backlog.commit_acks(&mut store).unwrap(), Some(Freed::Room), "{number}");
    }
    // What has ended has made room.
    backlog.commit(&mut store).unwrap();
    assert!(backlog.is_empty());
    store.close();
    let found = open(&disk).unwrap().1;
    assert_eq!((numbers(&found), found.mark), (vec![51], Some(51)));
    assert!(!found.messages[0].released);
}

/// However the file came to be as it is, and though each try to write a new message takes what room there is.
#[test]
fn a_disk_that_is_full_brings_all_to_an_end() {
    for size in [1_000, 10_000, LARGE] {
        let disk = Disk::default();
        let (mut store, _) = open(&disk).unwrap();
        disk.fills_after(3_000_000);
        let message = Message::new("t", "x".repeat(size)).qos(QoS::ExactlyOnce);
        let frame = Frame::new(Version::V5, &message);
        let (mut backlog, mut last) = (Backlog::default(), 0);
        while backlog.is_empty() {
            last += 1;
            let new = |number| Op::Put { number, frame: frame.clone(), expires_unix_ms: None };
            backlog.extend((last * 10..last * 10 + 10).map(new).collect());
            let _ = backlog.commit(&mut store);
        }
        assert!(last > 1, "{size}");
        for end in [|number| Op::Release { number }, |number| Op::Remove { number }] {
            for number in 10..last * 10 {
                backlog.extend(vec![end(number)]);
                let committed = backlog.commit_acks(&mut store);
                assert!(committed.is_ok(), "{size}: message {number} of {last}0: {committed:?}");
                if number % 64 == 0 {
                    let _ = backlog.commit(&mut store);
                }
            }
        }
        backlog.commit(&mut store).unwrap();
        store.close();
        assert_eq!(numbers(&open(&disk).unwrap().1), (last * 10..last * 10 + 10).collect::<Vec<_>>(), "{size}");
    }
}

/// A full disk that is tried again and again is not worn out by that, nor is the outbox read into memory.
#[test]
fn a_try_on_a_full_disk_carries_little() {
    let (disk, mut store) = full();
    let len = disk.bytes().len() as u64;
    let mut backlog = Backlog::default();
    backlog.extend(vec![large_op(51)]);
    for _ in 0..5 {
        disk.carried();
        assert!(matches!(backlog.commit(&mut store), Err(Fault::NoRoom(_))));
        let (read, written) = disk.carried();
        assert!(written < 4 * LARGE as u64 && read < len * 5 / 4, "{read} read, {written} written, of {len}");
    }
    disk.heal();
    backlog.commit(&mut store).unwrap();
    store.close();
    assert_eq!(open(&disk).unwrap().1.messages.len(), 51);
}

/// Each pause is longer, until something could be written.
#[test]
fn a_disk_in_trouble_is_left_alone_for_longer_each_time() {
    let (now, mut trouble) = (Instant::now(), Trouble::default());
    let mut pauses = Vec::new();
    for _ in 0..9 {
        trouble.begins(&Fault::NoRoom(String::new()), now);
        pauses.push(trouble.until.unwrap().duration_since(now).as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    assert!(!trouble.may_try(now) && trouble.may_try(now + RETRY_MAX));
    trouble.eased(Freed::Nothing, now);
    assert!(!trouble.may_try(now + RETRY));
    trouble.eased(Freed::Room, now);
    assert!(!trouble.may_try(now) && trouble.may_try(now + RETRY));
}

/// What a message replaces is there until that one is.
#[test]
fn a_message_that_waits_for_room_keeps_what_it_replaces() {
    let disk = filled();
    let (mut store, _) = open(&disk).unwrap();
    let mut backlog = Backlog::default();
    backlog.extend(vec![Op::Remove { number: 7 }, large_op(7), Op::Remove { number: 8 }, large_op(21)]);
    assert_eq!(backlog.commit_acks(&mut store).unwrap(), Some(Freed::Room));
    store.close();
    let (mut store, found) = open(&disk).unwrap();
    let wanted = (1..=20).filter(|number| *number != 8).collect::<Vec<_>>();
    assert_eq!(numbers(&found), wanted);
    // Those that end before they were written leave nothing to do.
    backlog.extend(vec![Op::Remove { number: 21 }]);
    assert_eq!(backlog.commit_acks(&mut store).unwrap(), None);
    backlog.commit(&mut store).unwrap();
    store.close();
    assert_eq!(numbers(&open(&disk).unwrap().1), wanted);
}

/// However often a message is put and replaced while nothing can be written, little of it waits.
#[test]
fn what_waits_is_bounded() {
    let mut backlog = Backlog::default();
    for _ in 0..1_000 {
        backlog.extend(vec![Op::Remove { number: 1 }, put_op(1), put_op(2), Op::Remove { number: 2 }]);
        assert!(backlog.len() < 100);
    }
}

#[test]
fn an_older_copy_is_served() {
    let disk = filled();
    let copy = disk.bytes();
    let (mut store, _) = open(&disk).unwrap();
    store.commit(&[Op::Remove { number: 1 }]).unwrap();
    store.close();
    disk.set_bytes(&copy);
    let found = open(&disk).unwrap().1;
    assert_eq!((numbers(&found).len(), found.older), (20, true));
    assert!(!open(&disk).unwrap().1.older, "it is said once");
}

#[test]
fn what_cancels_out_leaves_nothing() {
    let frame = Frame::new(Version::V5, &Message::new("t", "x").qos(QoS::AtLeastOnce));
    let put = |number| Op::Put { number, frame: frame.clone(), expires_unix_ms: None };
    let remove = |number| Op::Remove { number };
    let seen = |id| Op::Seen { id: PacketId::new(id).unwrap(), mark: 0 };
    let mut ops = vec![
        remove(1),
        put(2),
        put(1),
        Op::Release { number: 2 },
        seen(7),
        remove(2),
        put(3),
        Op::ForgetAll,
        seen(8),
        Op::ForgetAll,
        seen(9),
        Op::Release { number: 3 },
    ];
    cancel_out(&mut ops);
    let left = [remove(1), put(1), put(3), Op::ForgetAll, seen(9), Op::Release { number: 3 }];
    assert_eq!(ops, left);
    // The last mark holds.
    let mut ops = vec![Op::Mark { mark: 1 }, put(1), Op::Mark { mark: 2 }, remove(1)];
    cancel_out(&mut ops);
    assert_eq!(ops, [Op::Mark { mark: 2 }]);
    // A topic of keep-last, again and again.
    let mut ops = vec![put(1)];
    for _ in 0..1_000 {
        ops.extend([remove(1), put(1), put(5), remove(5)]);
        cancel_out(&mut ops);
    }
    assert!(ops.len() <= 3, "{}", ops.len());
    assert_eq!(ops.last(), Some(&put(1)));
}
