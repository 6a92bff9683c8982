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
/// How often the same comes.
const ROUNDS: u64 = 5;
/// Percent that the file may have grown by after all of them. It may once, by up to a tenth, where the drain of one backlog and
/// the next one meet; space that is not used again would add up: 4 % a round are found.
const FILE_GROWTH: u64 = 15;

#[test]
fn a_million_messages_in_one_absent_session() {
    let broker = Broker::with_config("sys_interval = \"1s\"\n");
    let (mut subscriber, _) = Peer::open(&tcp(&broker), &Connect::kept(Version::V4, "absent"));
    assert_eq!(subscriber.subscribe(&[("million", 1)]), [1]);
    subscriber.leave();
    let file_mb = || broker.data().join("forebay.redb").metadata().unwrap().len() >> 20;
    let mut files = Vec::new();
    for round in 0..ROUNDS {
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
    assert!(files.iter().all(|file| *file <= most), "the file grew with the same content, in MB: {files:?}");
}
