//! Loss, repetition, disorder and damage are found, each as what it is, to the message.

use crate::relay::{Fault, start};
use crate::{Case, Ended, bench, number};

/// Messages of each run: no fault falls on the last one.
const SENT: u64 = 1010;
/// Every so manyeth is faulty.
const EVERY: u64 = 100;
/// So many are.
const FAULTY: u64 = SENT / EVERY;

pub(crate) fn trials() -> Vec<Case> {
    vec![
        ("no_fault_is_found_where_there_is_none", None, none),
        ("every_loss_is_found", None, lose),
        ("the_last_message_lost_is_found", None, lose_the_last),
        ("every_repetition_is_found", None, repeat),
        ("every_disorder_is_found", None, swap),
        ("damage_is_neither_loss_alone_nor_receipt", None, damage),
        ("one_subscriber_of_many_that_loses_is_found", None, one_of_many),
        ("an_ack_that_does_not_come_is_found", None, no_ack),
        ("an_ack_too_many_is_found", None, two_acks),
        ("a_server_that_hangs_up_is_an_error", None, hang_up),
        ("a_rate_finds_the_same", None, open_loop),
    ]
}

fn run(fault: Fault, more: &str) -> Ended {
    let port = start(fault);
    bench(&format!("{more} -n {SENT} --patience 1 --url mqtt://127.0.0.1:{port} --json -"))
}

/// lost, repeated, out of order, impossible.
fn found(ended: &Ended) -> [u64; 4] {
    let json = ended.json();
    assert_eq!(number(&json, "/messages/published"), SENT);
    assert_eq!(number(&json, "/exit_code"), ended.code.unwrap() as u64);
    let received = number(&json, "/messages/received");
    assert_eq!(received, number(&json, "/messages/delivered") + number(&json, "/messages/duplicates"));
    ["lost", "duplicates", "reordered", "impossible"].map(|what| number(&json, &format!("/messages/{what}")))
}

/// The same faults at each QoS, and the exit codes that they have there.
fn at_each_qos(fault: Fault, expected: [u64; 4], codes: [i32; 3]) {
    for (qos, code) in codes.into_iter().enumerate() {
        let ended = run(fault, &format!("one-to-one -q {qos}"));
        assert_eq!((found(&ended), ended.code), (expected, Some(code)), "QoS {qos}: {}", ended.err);
    }
}

fn none() {
    at_each_qos(Fault::None, [0; 4], [0, 0, 0]);
}

fn lose() {
    at_each_qos(Fault::Lose(EVERY), [FAULTY, 0, 0, 0], [0, 1, 1]);
}

fn lose_the_last() {
    at_each_qos(Fault::Lose(SENT), [1, 0, 0, 0], [0, 1, 1]);
}

fn repeat() {
    at_each_qos(Fault::Repeat(EVERY), [0, FAULTY, 0, 0], [0, 0, 1]);
}

fn swap() {
    at_each_qos(Fault::Swap(EVERY), [0, 0, FAULTY, 0], [0, 1, 1]);
}

fn damage() {
    at_each_qos(Fault::Damage(EVERY), [FAULTY, 0, 0, FAULTY], [1, 1, 1]);
}

fn one_of_many() {
    for qos in 0..3 {
        let ended = run(Fault::Lose(EVERY), &format!("fan-out --subscribers 5 -q {qos}"));
        assert_eq!(found(&ended), [FAULTY, 0, 0, 0]);
        assert_eq!(number(&ended.json(), "/messages/expected"), 5 * SENT);
        assert_eq!(ended.code, Some(i32::from(qos > 0)));
    }
}

fn no_ack() {
    for qos in 1..3 {
        let ended = run(Fault::NoAck(EVERY), &format!("one-to-one -q {qos} -w 100"));
        assert_eq!((found(&ended), ended.code), ([0; 4], Some(1)));
        assert_eq!(number(&ended.json(), "/messages/unacknowledged"), FAULTY);
        assert!(ended.err.contains("10 never acknowledged"), "{}", ended.err);
    }
}

fn two_acks() {
    let ended = run(Fault::TwoAcks(EVERY), "one-to-one -q 1");
    assert_eq!((found(&ended), ended.code), ([0; 4], Some(1)));
    assert_eq!(number(&ended.json(), "/messages/unexpected_acks"), FAULTY);
}

fn hang_up() {
    let ended = run(Fault::HangUp(EVERY), "one-to-one -q 1");
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""));
    assert!(ended.err.contains("has ended the connection of publisher 0"), "{}", ended.err);
}

fn open_loop() {
    let ended = run(Fault::Lose(EVERY), "one-to-one -q 1 --rate 2000");
    assert_eq!((found(&ended), ended.code), ([FAULTY, 0, 0, 0], Some(1)));
    assert!(ended.json()["measured"]["corrected_for_coordinated_omission"] == true);
}
