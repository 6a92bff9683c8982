//! The firmware client over `std`: with both brokers, both versions and all QoS, and 200 of them and one in QEMU that publish
//! ten times what the broker lets through. FOREBAY_PEAK_SECONDS says for how long (3 when it is not set: draining takes ten
//! times as long).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]
#![allow(clippy::wildcard_enum_match_arm)]

mod exchange;
mod log;
mod metal;
mod peak;
mod tap;

use forebay_tests::absence::{self, panicking};
use forebay_tests::broker::Kind;
use forebay_tests::machine;
use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let machine = machine::absent();
    let mosquitto = absence::of_program("mosquitto");
    let mut trials: Vec<Trial> = Vec::new();
    for (kind, name) in [(Kind::Forebay, "forebay"), (Kind::Mosquitto, "mosquitto")] {
        let absent = mosquitto.as_deref().filter(|_| kind == Kind::Mosquitto);
        for v5 in [false, true] {
            let version = if v5 { "v5" } else { "v3" };
            let mut add = |what: &str, run: fn(Kind, bool)| {
                let name = format!("{name}::{version}::{what}");
                trials.push(panicking("devices", &name, absent, move || run(kind, v5)));
            };
            add("every_qos", exchange::every_qos);
            add("resume_after_kill", exchange::resume_after_kill);
        }
        let trial = format!("{name}::peak_with_one_in_qemu");
        trials.push(panicking("devices", &trial, absent.or(machine.as_deref()), move || peak::peak(kind, true)));
        if machine.is_some() {
            trials.push(panicking("devices", &format!("{name}::peak"), absent, move || peak::peak(kind, false)));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}
