//! The firmware client on an emulated Cortex-M3 with its own TCP/IP stack, against real brokers that die under it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]
#![allow(clippy::print_stderr, clippy::wildcard_enum_match_arm)]

mod bench;

use std::time::Duration;

use bench::{Bench, Plan, trusted};
use forebay_tests::absence::{of_program, panicking};
use forebay_tests::broker::{Broker, Kind};
use forebay_tests::machine::{self, Machine, Transport};
use libtest_mimic::Arguments;

/// How long anything may take before the test is given up.
const LIMIT: Duration = Duration::from_secs(120);

fn main() {
    let arguments = Arguments::from_args();
    let machine = machine::absent();
    let mosquitto = machine.clone().or_else(|| of_program("mosquitto"));
    let trials = vec![
        panicking("metal", "a_broker_killed_twice_gets_everything_over_tcp", machine.as_deref(), || {
            survives(&Plan { version: 5, ..Plan::USUAL });
            survives(&Plan { version: 3, ..Plan::USUAL });
        }),
        panicking("metal", "a_broker_killed_twice_gets_everything_over_tls", machine.as_deref(), || {
            survives(&Plan { version: 5, transport: Transport::Tls, ..Plan::USUAL });
            survives(&Plan { version: 3, transport: Transport::Tls, ..Plan::USUAL });
        }),
        panicking("metal", "only_the_trusted_server_is_talked_to", machine.as_deref(), distrusts),
        panicking("metal", "an_outbox_that_overflows_counts_what_it_drops", machine.as_deref(), || {
            overflows(&Plan { version: 5, ..Plan::FLOOD });
            overflows(&Plan { version: 3, ..Plan::FLOOD });
        }),
        panicking("metal", "mosquitto_behind_a_line_cut_twice_gets_everything", mosquitto.as_deref(), || {
            survives(&Plan { version: 5, broker: Kind::Mosquitto, ..Plan::USUAL });
            survives(&Plan { version: 3, broker: Kind::Mosquitto, ..Plan::USUAL });
        }),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

/// The broker is away twice while the device publishes and is commanded. Nothing is lost, at QoS 2 nothing comes twice,
/// all is in order, and the device agrees.
fn survives(plan: &Plan) {
    let mut bench = Bench::start(plan);
    let (mut outages, mut commands) = (0, 0);
    while !bench.all_have_arrived() {
        bench.receive();
        if outages < 2 && bench.arrived() >= u64::from(plan.count) * (2 * outages + 1) / 2 {
            outages += 1;
            commands += 1;
            bench.command(commands);
            bench.outage(Duration::from_millis(700));
            commands += 1;
            bench.command(commands);
        }
    }
    let report = bench.end();
    assert_eq!(bench.seen.faults(&bench.published()), Vec::<String>::new(), "{report:?}");
    let both = 2 * u64::from(plan.count);
    assert_eq!((report["taken"], report["accepted"], report["acknowledged"]), (both / 2, both, both));
    assert_eq!((report["dropped"], report["mailbox"]), (0, 0));
    assert!(report["connections"] >= 3, "it did not notice: {report:?}");
    bench.obeyed(commands);
}

/// Everything is measured while the broker is away, which is far more than the outbox holds. What is missing is what
/// the device says that it has dropped, to the message, and it is the oldest.
fn overflows(plan: &Plan) {
    let mut bench = Bench::start(plan);
    while bench.arrived() < 10 {
        bench.receive();
    }
    bench.broker.kill();
    bench.machine.wait_for("all taken", LIMIT);
    bench.broker.run();
    while !bench.last_have_arrived() {
        bench.receive();
    }
    let report = bench.end();
    assert_eq!(bench.seen.disorder(), Vec::<String>::new());
    let both = 2 * u64::from(plan.count);
    assert!(report["evicted"] > 50, "it never overflowed: {report:?}");
    assert_eq!(report["accepted"] + report["mailbox"] + report["full"], both, "{report:?}");
    assert_eq!(report["acknowledged"] + report["dropped"], report["accepted"], "{report:?}");
    assert_eq!(bench.seen.count(), report["acknowledged"], "{report:?}");
    assert_eq!(report["dropped"], report["evicted"], "{report:?}");
}

/// A broker whose certificate another authority has signed, and one that has another name.
fn distrusts() {
    let broker = Broker::start();
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let ours = trusted(&broker, None);
    let theirs = trusted(&broker, Some(stranger.cert.der()));
    for (ca, name) in [(&theirs, "localhost"), (&ours, "elsewhere")] {
        let task = [("port", broker.tls_port().to_string()), ("ca", ca.clone()), ("name", name.to_owned())];
        let mut machine = Machine::start(Transport::Tls, &task);
        machine.wait_for("no TLS: InvalidCertificate", LIMIT);
        assert!(machine.printed("connected").is_empty(), "{name}, {ca}");
    }
}
