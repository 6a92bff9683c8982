//! A broker, a device, and a client that counts.

use std::collections::BTreeMap;
use std::time::Duration;

use forebay_client::{Client, Message, Options, QoS, Reconnect, Subscribe, Subscription, Ticket};
use forebay_tests::broker::{Broker, Kind};
use forebay_tests::line::Line;
use forebay_tests::machine::{Machine, Transport, account};
use forebay_tests::numbered::Seen;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::runtime::Runtime;

use crate::LIMIT;

/// What is tried.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub broker: Kind,
    pub transport: Transport,
    /// Of the protocol.
    pub version: u8,
    /// Readings; each is published with QoS 1 and with QoS 2.
    pub count: u32,
    pub every_ms: u32,
    pub size: u32,
}

impl Plan {
    /// 240 readings in 6 seconds: what comes in an outage of a second and a half fits into the outbox.
    pub const USUAL: Self =
        Self { broker: Kind::Forebay, transport: Transport::Tcp, version: 5, count: 240, every_ms: 25, size: 16 };
    /// 300 large ones in a second or two, in bursts that the mailbox takes.
    pub const FLOOD: Self = Self { count: 300, every_ms: 5, size: 120, ..Self::USUAL };
}

/// A file with a certificate that the device is to trust: this, or that of the authority of the broker.
pub fn trusted(broker: &Broker, certificate: Option<&[u8]>) -> String {
    let file = broker.data().join(if certificate.is_some() { "other.der" } else { "trusted.der" });
    let own = || CertificateDer::from_pem_file(broker.ca()).unwrap().to_vec();
    std::fs::write(&file, certificate.map_or_else(own, <[u8]>::to_vec)).unwrap();
    file.display().to_string()
}

/// All of it.
pub struct Bench {
    plan: Plan,
    runtime: Runtime,
    pub broker: Broker,
    /// Between the device and a broker that is not to be killed: mosquitto writes down nothing before it ends, and
    /// forgets sessions of MQTT 5 even then.
    line: Option<Line>,
    pub machine: Machine,
    client: Client,
    messages: Subscription,
    commands: Vec<Ticket>,
    /// The readings that have come.
    pub seen: Seen,
}

impl Bench {
    /// Starts the broker, subscribes, and switches the device on.
    pub fn start(plan: &Plan) -> Self {
        let broker = Broker::start_as(plan.broker);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let options = Options::new(&format!("mqtt://127.0.0.1:{}", broker.port())).unwrap();
        let reconnect = Reconnect { max: Duration::from_millis(500), ..Default::default() };
        let options = options.client_id("counts").session_expiry(Duration::from_secs(3_600)).reconnect(reconnect);
        let (client, messages) = runtime.block_on(async {
            let client = options.connect().await.unwrap();
            let topics = Subscribe::to("metal/1").and("metal/2").and("metal/report").qos(QoS::ExactlyOnce);
            let messages = client.subscribe(topics).await.unwrap();
            (client, messages)
        });
        let line = (plan.broker == Kind::Mosquitto).then(|| Line::start(broker.port()));
        let port = line.as_ref().map_or(broker.port(), Line::port);
        let mut task = vec![
            ("port", port.to_string()),
            ("version", plan.version.to_string()),
            ("count", plan.count.to_string()),
            ("every", plan.every_ms.to_string()),
            ("size", plan.size.to_string()),
        ];
        if plan.transport == Transport::Tls {
            task[0].1 = broker.tls_port().to_string();
            task.push(("ca", trusted(&broker, None)));
        }
        let machine = Machine::start(plan.transport, &task);
        let (commands, seen) = (Vec::new(), Seen::default());
        Self { plan: *plan, runtime, broker, line, machine, client, messages, commands, seen }
    }

    /// Waits for one message and notes it.
    pub fn receive(&mut self) {
        let (topic, text) = self.next();
        let number = text.trim_end_matches('.').parse().unwrap_or_else(|_| panic!("{topic}: {text}"));
        self.seen.note(&topic, number, topic == "metal/2");
    }

    fn next(&mut self) -> (String, String) {
        let next = self.runtime.block_on(async { tokio::time::timeout(LIMIT, self.messages.recv()).await });
        let message = next.unwrap_or_else(|_| panic!("nothing comes any more: {:?}", self.seen)).unwrap();
        (message.topic().to_string(), String::from_utf8_lossy(message.payload()).into_owned())
    }

    /// Publishes a command of this number with QoS 1 and with QoS 2.
    pub fn command(&mut self, number: u32) {
        for (topic, qos) in [("metal/command/1", QoS::AtLeastOnce), ("metal/command/2", QoS::ExactlyOnce)] {
            self.publish(topic, &number.to_string(), qos);
        }
    }

    fn publish(&mut self, topic: &str, text: &str, qos: QoS) {
        let message = Message::new(topic, text.to_owned()).qos(qos);
        self.commands.push(self.runtime.block_on(self.client.publish(message)).unwrap());
    }

    /// The broker is killed, or the line to it is cut, for so long.
    pub fn outage(&mut self, length: Duration) {
        match &self.line {
            None => self.broker.kill(),
            Some(line) => line.cut(),
        }
        std::thread::sleep(length);
        match &self.line {
            None => self.broker.run(),
            Some(line) => line.mend(),
        }
    }

    /// How many different readings have come.
    pub fn arrived(&self) -> u64 {
        self.seen.count()
    }

    /// Whether all have.
    pub fn all_have_arrived(&self) -> bool {
        self.arrived() == 2 * u64::from(self.plan.count) || self.last_have_arrived()
    }

    /// Whether the last of each QoS have.
    pub fn last_have_arrived(&self) -> bool {
        let last = u64::from(self.plan.count) - 1;
        self.seen.has_reached("metal/1", last) && self.seen.has_reached("metal/2", last)
    }

    /// What was published, for [`Seen::faults`].
    pub fn published(&self) -> BTreeMap<String, u64> {
        ["metal/1", "metal/2"].map(|topic| (topic.to_owned(), u64::from(self.plan.count))).into()
    }

    /// Tells the device that this is all, and waits for its account and its end.
    pub fn end(&mut self) -> BTreeMap<String, u64> {
        self.publish("metal/end", "", QoS::ExactlyOnce);
        for ticket in std::mem::take(&mut self.commands) {
            self.runtime.block_on(ticket).unwrap();
        }
        let report = loop {
            let (topic, text) = self.next();
            if topic == "metal/report" {
                break text;
            }
            // A late repetition.
            self.seen.note(&topic, text.trim_end_matches('.').parse().unwrap(), topic == "metal/2");
        };
        self.machine.succeeds(LIMIT);
        account(&report)
    }

    /// The commands 1 to `count` have reached the device, in order; with QoS 2, once.
    pub fn obeyed(&self, count: u32) {
        let wanted: Vec<String> = (1..=count).map(|number| number.to_string()).collect();
        assert_eq!(self.machine.printed("/command/2 "), wanted);
        let mut at_least_once = self.machine.printed("/command/1 ");
        at_least_once.dedup();
        assert_eq!(at_least_once, wanted);
    }
}
