//! The device in QEMU among those of the peak, and a listener on its line.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use forebay_tests::line::{Line, Way};
use forebay_tests::machine::{Console, Machine, Transport, account};
use forebay_wire::publish::Publish;
use forebay_wire::types::Version;

use crate::log::{Came, Log, Naming};

/// Each reading is published with QoS 1 and with QoS 2; of the readings, each tenth is an alarm.
const ALARM: u32 = 10;
const WINDOW: usize = 4;

/// The number of a message on this topic, with this payload; `None`: it is no reading.
pub fn number(topic: &str, payload: &[u8]) -> Option<u32> {
    let second = topic.strip_prefix("metal/")?.parse::<u32>().ok()? - 1;
    let reading: u32 = std::str::from_utf8(payload).ok()?.trim_end_matches('.').parse().ok()?;
    Some(reading * 2 + second)
}

pub fn is_second(number: u32) -> bool {
    number % 2 == 1
}

const NAMING: Naming = Naming {
    number: |publish: &Publish<'_>| number(publish.topic, publish.payload),
    is_alarm: |number| number / 2 % ALARM == ALARM - 1,
};

pub struct Metal {
    machine: Machine,
    _line: Line,
    ear: Arc<Mutex<Ear>>,
    messages: u32,
}

impl Metal {
    /// Switches it on: it publishes so many messages, so many in a second.
    pub fn start(port: u16, messages: u32, per_second: u32, life: Duration) -> Self {
        let ear = Arc::new(Mutex::new(Ear::new()));
        let own = Arc::clone(&ear);
        let line = Line::listened(port, Arc::new(move |way, bytes| own.lock().unwrap().hear(way, bytes)));
        let task = [
            ("port", line.port().to_string()),
            ("count", (messages / 2).to_string()),
            ("every", (2_000 / per_second).to_string()),
            ("alarm", ALARM.to_string()),
            ("window", WINDOW.to_string()),
            ("outbox", "28672".to_owned()),
            // It may be read late.
            ("patience", "60000".to_owned()),
            ("life", life.as_millis().to_string()),
        ];
        let machine = Machine::start(Transport::Tcp, &task);
        ear.lock().unwrap().console = Some(machine.console());
        Self { machine, _line: line, ear, messages }
    }

    /// Waits for its end, and compares what it says of itself with what was heard. How many were refused for a time.
    pub fn end(mut self, report: &str, overloaded: bool, limit: Duration) -> u32 {
        self.machine.succeeds(limit);
        let report = account(report);
        let ear = self.ear.lock().unwrap();
        let log = &ear.log;
        println!(
            "in QEMU: {} messages, {} refused for a time, {} alarms overtook; {} were through when the last was taken",
            self.messages, log.refused, log.overtook, ear.through
        );
        assert_eq!(log.faults, Vec::<String>::new());
        let messages = u64::from(self.messages);
        assert_eq!((report["accepted"], report["acknowledged"]), (messages, messages), "{report:?}");
        assert_eq!((report["dropped"], report["full"], report["mailbox"]), (0, 0, 0), "{report:?}");
        assert_eq!(report["connections"], 1, "{report:?}");
        assert_eq!(log.repeated, log.refused, "nothing is sent again but what was refused");
        // And its account of itself.
        assert_eq!(log.published as u32, self.messages + log.repeated + 1);
        if overloaded {
            assert!(log.overtook > 0, "no alarm had anything to overtake");
            assert!(ear.through * 2 <= self.messages as usize, "it was not overloaded");
        }
        log.refused
    }
}

/// Hears what goes over the line, and knows what the device had to choose from.
///
/// The device prints how many alarms its outbox was given. An answer is passed on after that was read; so whoever has heard
/// that answer has these alarms. Telemetry is only sent while fewer than `WINDOW - 1` messages wait for their answers: from
/// how many were sent follows which answer the device must have heard before it chose this one.
struct Ear {
    log: Log,
    console: Option<Console>,
    /// How many readings had become alarms in the outbox when each answer was passed on.
    alarms: Vec<u32>,
    /// How many messages were answered when the last reading was taken.
    through: usize,
}

impl Ear {
    fn new() -> Self {
        Self { log: Log::new(Version::V5, NAMING), console: None, alarms: Vec::new(), through: 0 }
    }

    fn hear(&mut self, way: Way, bytes: &[u8]) {
        let Self { log, console, alarms, through } = self;
        log.heard(way, bytes, |log, came| match came {
            Came::Answer => {
                let text = console.as_ref().map(Console::text).unwrap_or_default();
                let last = text.lines().rev().find_map(|line| line.strip_prefix("alarms ")?.parse().ok());
                alarms.push(last.unwrap_or(0));
                if !text.contains("all taken") {
                    *through = log.answered;
                }
            }
            Came::Publish(publish) => {
                let is_telemetry = (NAMING.number)(publish).is_some_and(|number| !(NAMING.is_alarm)(number));
                // So many answers at least, of which it has the last.
                let answers = (log.published + 2).saturating_sub(WINDOW);
                if !is_telemetry || answers == 0 {
                    return;
                }
                match alarms.get(answers - 1) {
                    Some(count) => known(log, *count),
                    None => log.faults.push(format!("more than {WINDOW} wait for an answer")),
                }
            }
        });
    }
}

fn known(log: &mut Log, alarms: u32) {
    for number in (0..alarms).flat_map(|alarm| [0, 1].map(|second| ((alarm + 1) * ALARM - 1) * 2 + second)) {
        log.has_alarm(number);
    }
}
