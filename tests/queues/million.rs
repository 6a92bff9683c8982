//! A backlog of a million messages takes the disk's room, not the memory's; and the room is used again.

use std::time::Instant;

use forebay_tests::broker::Broker;
use forebay_tests::bulk;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Connect, Peer};
use forebay_tests::sys::figure;

use crate::{settled, tcp};

const COUNT: u64 = 1_000_000;
const SIZE: usize = 200;
/// Kilobytes of resident memory that the backlog may add.
const GROWTH_KB: u64 = 32 * 1024;
/// Percent that the file may grow by when the same comes again: it does by up to a tenth where the drain and the next backlog
/// meet, and not over more rounds. If its space were not used again it would grow by a hundred.
const FILE_GROWTH: u64 = 25;

#[test]
fn a_million_messages_in_one_absent_session() {
    let broker = Broker::with_config("sys_interval = \"1s\"\n");
    let (mut subscriber, _) = Peer::open(&tcp(&broker), &Connect::kept(Version::V4, "absent"));
    assert_eq!(subscriber.subscribe(&[("million", 1)]), [1]);
    subscriber.leave();
    let file_mb = || broker.data().join("forebay.redb").metadata().unwrap().len() >> 20;
    let mut files = Vec::new();
    for round in 0..2 {
        let numbers = round * COUNT..(round + 1) * COUNT;
        let (before, begun) = (broker.resident_kb(), Instant::now());
        bulk::publish(broker.port(), "million", numbers.clone(), SIZE);
        let (after, queued) = (broker.resident_kb(), begun.elapsed());
        let grown = after.saturating_sub(before);
        settled(&broker, COUNT);
        files.push(file_mb());
        let begun = Instant::now();
        bulk::drain(broker.port(), "absent", numbers);
        println!(
            "round {round}: {before} KB + {grown} KB in memory, {} MB on disk; queued in {queued:?}, drained in {:?}",
            files[round as usize],
            begun.elapsed()
        );
        assert!(grown < GROWTH_KB, "a million messages of {SIZE} bytes: {grown} KB more in memory");
        let figures = settled(&broker, 0);
        assert_eq!(figure(&figures, "ledger/delivered"), figure(&figures, "ledger/accepted"));
    }
    let most = files[0] + files[0] * FILE_GROWTH / 100;
    assert!(files[1] <= most, "the file grew from {} MB to {} MB with the same content", files[0], files[1]);
}
