//! The sensor: an interrupt that takes a reading now and then and puts it into a mailbox, whatever the main loop is
//! doing.

use crate::clock;
use crate::task::{SIZE_MAX, Task};
use crate::text::{Text, Topic};
use core::cell::RefCell;
use core::fmt::Write as _;
use critical_section::Mutex;
use forebay_firmware::mailbox::Sender;
use forebay_firmware::{Class, Message, QoS};

/// Readings, numbered from 0.
pub struct Sensor {
    mail: Sender<'static>,
    task: Task,
    topics: [Topic; 2],
    next: u32,
    due_ms: u32,
}

static SENSOR: Mutex<RefCell<Option<Sensor>>> = Mutex::new(RefCell::new(None));

/// Gives it to the interrupt.
pub fn install(mail: Sender<'static>, task: Task) {
    let topics = [Topic::join(task.id, "1"), Topic::join(task.id, "2")];
    let sensor = Sensor { mail, task, topics, next: 0, due_ms: 0 };
    critical_section::with(|token| SENSOR.borrow_ref_mut(token).replace(sensor));
}

/// How many readings it has taken.
pub fn taken() -> u32 {
    critical_section::with(|token| SENSOR.borrow_ref(token).as_ref().map_or(0, |sensor| sensor.next))
}

impl Sensor {
    fn read(&mut self, now_ms: u32) {
        if self.next == self.task.count || now_ms < self.due_ms {
            return;
        }
        self.due_ms = now_ms + self.task.every_ms;
        let mut payload = Text::<SIZE_MAX>::new();
        let _ = write!(payload, "{}", self.next);
        payload.pad(b'.', self.task.size);
        let class = if self.task.is_alarm(self.next) { Class::Alarm } else { Class::Telemetry };
        self.next += 1;
        for (topic, qos) in self.topics.iter().zip([QoS::AtLeastOnce, QoS::ExactlyOnce]) {
            // A full mailbox counts what it cannot take.
            let _ = self.mail.publish(&Message::new(topic.as_str()).qos(qos).class(class), payload.as_str().as_bytes());
        }
    }
}

#[cortex_m_rt::exception]
fn SysTick() {
    let now_ms = clock::tick();
    critical_section::with(|token| {
        if let Some(sensor) = SENSOR.borrow_ref_mut(token).as_mut() {
            sensor.read(now_ms);
        }
    });
}
