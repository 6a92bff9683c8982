//! A server that sends anything: random bytes, and valid packets with some bytes changed. FOREBAY_SEED=N repeats one run.

use super::peer::*;
use super::simulation::{Rng, number_from};
use super::*;
use crate::session::hostile::drive;

/// Packets of a server that may be right at some time.
fn packet(rng: &mut Rng, version: Version) -> Vec<u8> {
    let id = 1 + rng.below(12) as u16;
    let high = 65_520 + rng.below(16) as u16;
    let alias = [0x23, 0, 1 + rng.below(6) as u8];
    let v5 = version.is_v5();
    let kind = [PUBACK, PUBREC, PUBREL, PUBCOMP][rng.below(4) as usize];
    match rng.below(12) {
        0 => connack(version, rng.one_in(2), if rng.one_in(4) { 0x87 } else { 0 }, &[]),
        1 => suback(version, high, &[0, 1, 0x80][..1 + rng.below(3) as usize]),
        2 => unsuback(version, high),
        3 => vec![0xd0, 0],
        4 if v5 => with_reason(0xe0, 0x8b, &user("retry-after-ms", "99999999999")),
        5 if v5 => with_reason(0xf0, 0x18, &[]),
        6 if v5 => ack_with(kind, id, 0x97, &user("retry-after-ms", "1")),
        7 if v5 => publish_with(version, if rng.one_in(2) { "" } else { "t" }, "x", rng.qos(), id, false, &alias),
        8 if v5 => publish_with(version, "t", "x", rng.qos(), id, false, &[0x0b, rng.below(40) as u8]),
        9 | 10 => publish(version, "t", &"x".repeat(rng.below(200) as usize), rng.qos(), id, rng.one_in(3)),
        _ => ack(kind, id),
    }
}

fn input(seed: u64) -> Vec<u8> {
    let mut rng = Rng(seed);
    let first = rng.below(256) as u8;
    let version = if first & 1 != 0 { V5 } else { V311 };
    let mut data = vec![first | 8];
    for _ in 0..rng.below(120) {
        if rng.one_in(3) {
            data.push(160 + rng.below(96) as u8);
            continue;
        }
        let mut bytes = packet(&mut rng, version);
        if rng.one_in(10) {
            bytes = (0..rng.below(100)).map(|_| rng.below(256) as u8).collect();
        } else if rng.one_in(4) {
            for _ in 0..=rng.below(3) {
                let at = rng.below(bytes.len() as u64) as usize;
                bytes[at] = rng.below(256) as u8;
            }
        }
        if rng.one_in(10) {
            bytes.truncate(rng.below(bytes.len() as u64 + 1) as usize);
        }
        for part in bytes.chunks(159) {
            data.push(part.len() as u8);
            data.extend_from_slice(part);
        }
    }
    data
}

#[test]
fn no_server_panics_the_client_or_fills_its_memory() {
    if let Some(seed) = number_from("FOREBAY_SEED") {
        return drive(&input(seed));
    }
    for seed in 0..20_000 {
        let said = super::simulation::Said(seed, "malicious");
        drive(&input(seed));
        drop(said);
    }
}
