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

fn options() -> Options {
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
