//! What was published and what came, over all lives of a device, and what was promised for each message.

use crate::broker::Broker;
use crate::payload::number_of;
use forebay_firmware::adapter::task::Handle;
use forebay_firmware::{Class, Message, Policy, QoS, Ticket};
use std::collections::{BTreeMap, BTreeSet};

/// Those of this class are stored before they are sent.
pub const SAFE: [bool; 4] = [true, false, false, false];

#[derive(Clone, Copy, Debug)]
struct Sent {
    number: u32,
    ticket: Ticket,
    /// It is known to be in flash, or was.
    stored: bool,
    /// The power was cut since it was published.
    cut: bool,
}

#[derive(Default)]
pub struct Book {
    sent: Vec<Sent>,
    /// What came, in order.
    pub received: Vec<u32>,
    /// How many of those that came in this life were handled.
    handled: usize,
    first: usize,
    /// Those that were handled and of which flash knows so.
    sealed: BTreeSet<u32>,
    /// How many of what the broker took was looked at.
    checked: usize,
}

pub fn qos(number: u32) -> QoS {
    [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtLeastOnce, QoS::AtMostOnce][number as usize % 4]
}

fn class(number: u32) -> Class {
    [Class::Telemetry, Class::Alarm, Class::Telemetry, Class::Bulk, Class::State][number as usize % 5]
}

/// Down, those with even numbers.
pub fn is_once(number: u32) -> bool {
    number.is_multiple_of(2)
}

/// It waits for room instead of making some.
pub fn message(number: u32) -> Message<'static> {
    Message::new("up/0").qos(qos(number)).class(class(number)).policy(Policy::DropNewest)
}

impl Book {
    pub fn published(&self) -> u32 {
        self.sent.len() as u32
    }

    pub fn publish(&mut self, ticket: Ticket) {
        self.sent.push(Sent { number: self.published(), ticket, stored: false, cut: false });
    }

    pub fn receive(&mut self, payload: &[u8]) {
        let number = number_of(payload);
        assert!(!is_once(number) || !self.sealed.contains(&number), "{number} came again after it was handled");
        self.received.push(number);
    }

    /// The next one is asked for: the others count as handled.
    pub fn asks(&mut self) {
        self.handled = self.received.len();
    }

    pub fn handled(&self) -> Vec<u32> {
        self.received[self.first.min(self.handled)..self.handled].to_vec()
    }

    pub fn seal(&mut self, handled: Vec<u32>) {
        self.sealed.extend(handled);
    }

    pub fn power_cut(&mut self) {
        self.first = self.received.len();
        self.sent.iter_mut().for_each(|sent| sent.cut = true);
    }

    /// Marks what is safe now.
    pub fn look<M: embassy_sync::blocking_mutex::raw::RawMutex, T: forebay_firmware::adapter::task::Time>(
        &mut self,
        handle: Handle<'_, '_, M, T>,
    ) {
        for sent in self.sent.iter_mut().filter(|sent| !sent.stored && !sent.cut) {
            sent.stored = qos(sent.number) != QoS::AtMostOnce && handle.is_stored(sent.ticket);
        }
    }

    /// What must be stored before it is sent was.
    pub fn check_taken(&mut self, broker: &Broker) {
        for taken in &broker.taken[self.checked..] {
            let sent = self.sent[number_of(&taken.payload) as usize];
            let safe =
                taken.qos == QoS::ExactlyOnce || taken.qos == QoS::AtLeastOnce && SAFE[class(sent.number) as usize];
            assert!(!safe || sent.stored || sent.cut, "{sent:?} was not stored");
        }
        self.checked = broker.taken.len();
    }

    pub fn verify(&self, broker: &Broker, down: u32) {
        let mut arrived: BTreeMap<u32, u32> = BTreeMap::new();
        let mut last: BTreeMap<Class, u32> = BTreeMap::new();
        for taken in &broker.taken {
            let number = number_of(&taken.payload);
            let times = arrived.entry(number).or_default();
            *times += 1;
            if *times == 1 && qos(number) != QoS::AtMostOnce {
                let before = last.insert(class(number), number);
                assert!(before < Some(number), "{number} came after {before:?}");
            }
        }
        for sent in &self.sent {
            let times = arrived.get(&sent.number).copied().unwrap_or_default();
            let safe = sent.stored || !sent.cut;
            match qos(sent.number) {
                QoS::AtMostOnce => assert!(times <= 1, "{sent:?} came {times} times"),
                QoS::AtLeastOnce => assert!(!safe || times >= 1, "{sent:?} is lost"),
                QoS::ExactlyOnce => {
                    assert!(times <= 1, "{sent:?} came {times} times");
                    assert!(!safe || times == 1, "{sent:?} is lost");
                }
            }
        }
        assert_eq!(broker.forgotten, BTreeSet::new(), "the session is never lost");
        for number in 0..down {
            assert!(self.received.contains(&number), "{number} did not come");
        }
    }
}
