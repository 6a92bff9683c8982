//! The real mosquitto as a bridge to the broker, with its own defaults: it says that it is a bridge with a bit of the
//! protocol level, and relies on what that means.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use forebay_tests::absence::{self, panicking};
use forebay_tests::broker::{Broker, free_port};
use forebay_tests::link::Endpoint;
use forebay_tests::packet::Version;
use forebay_tests::packet::build::{self, Publish};
use forebay_tests::packet::property::Property;
use forebay_tests::peer::{Came, Connect, Peer};
use forebay_tests::raw::Raw;
use forebay_tests::scratch::Scratch;
use libtest_mimic::{Arguments, Trial};

/// How long the bridge may take to connect, again after a kill as well.
const LIMIT: Duration = Duration::from_secs(60);
/// Messages of one direction.
const COUNT: u8 = 50;

fn main() {
    let arguments = Arguments::from_args();
    let absent = absence::of_program("mosquitto");
    let mut trials: Vec<Trial> = Vec::new();
    for version in ["mqttv31", "mqttv311", "mqttv50"] {
        let all: [(&str, Case); 5] = [
            ("each_direction_alone", each_direction_alone),
            ("both_directions_without_an_echo", both_directions),
            ("retain_is_kept", retain_is_kept),
            ("the_broker_is_killed", broker_is_killed),
            ("mosquitto_is_killed", mosquitto_is_killed),
        ];
        for (name, run) in all {
            let run = move || run(version);
            trials.push(panicking("mosquitto_bridge", &format!("{name}::{version}"), absent.as_deref(), run));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// Of one version, as mosquitto's configuration names it.
type Case = fn(&str);

/// mosquitto, with a bridge to the broker.
struct Mosquitto {
    scratch: Scratch,
    port: u16,
    child: Option<Child>,
}

impl Mosquitto {
    fn start(broker: &Broker, version: &str, topics: &str) -> Self {
        let (scratch, port) = (Scratch::new("mosquitto"), free_port());
        let text = format!(
            "user root\nallow_anonymous true\nlistener {port} 127.0.0.1\nmax_queued_messages 100000\n\
             persistence true\npersistence_location {}/\n\
             connection forebay\naddress 127.0.0.1:{}\nbridge_protocol_version {version}\ncleansession false\n\
             restart_timeout 1\n{topics}\n",
            scratch.path().display(),
            broker.port(),
        );
        std::fs::write(scratch.path().join("mosquitto.conf"), text).unwrap();
        let mut mosquitto = Self { scratch, port, child: None };
        mosquitto.run();
        mosquitto
    }

    fn run(&mut self) {
        let log = std::fs::File::create(self.scratch.path().join("log")).unwrap();
        let mut command = Command::new("mosquitto");
        command.arg("-v").arg("-c").arg(self.scratch.path().join("mosquitto.conf"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begun.elapsed() < LIMIT, "mosquitto does not listen: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Has it write its sessions to its disk, as it does now and then.
    fn save(&self) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-USR1", &id]).status().unwrap().success());
        let begun = Instant::now();
        while !self.scratch.path().join("mosquitto.db").exists() {
            assert!(begun.elapsed() < LIMIT, "it saves nothing");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default()
    }

    /// Waits until what is published at the broker on `topic` arrives at mosquitto.
    fn until_bridged(&self, broker: &Broker, topic: &str) {
        let connect = Connect::clean(Version::V4, "is it bridged");
        let (mut there, _) = Peer::open(&Endpoint::tcp(self.port), &connect);
        assert_eq!(there.subscribe(&[(topic, 0)]), [0]);
        let (mut here, _) = Peer::open(&Endpoint::tcp(broker.port()), &connect);
        let begun = Instant::now();
        loop {
            here.publish(1, topic, b"ready");
            if let Some(Came::Publish(_)) = there.within(Duration::from_millis(200)) {
                return;
            }
            assert!(begun.elapsed() < LIMIT, "it is not bridged:\n{}\n{}", self.log(), broker.log());
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            println!("--- mosquitto's log:\n{}\n---", self.log());
        }
    }
}

/// A client of the broker or of mosquitto that is subscribed.
fn subscriber(port: u16, client: &str, filter: &str) -> Raw {
    let mut raw = Raw::clean(port, Version::V5, client);
    raw.subscribe(filter, 2);
    raw
}

fn publish_all(port: u16, topic: &str) {
    let mut publisher = Raw::clean(port, Version::V5, "publisher");
    for n in 0..COUNT {
        publisher.publish(topic, n % 3, &[n]);
    }
    publisher.leave();
}

/// What comes up to and with the message that ends it: how often each payload came.
fn taken(raw: &mut Raw, count: usize, topic: &str) -> BTreeMap<u8, usize> {
    let mut taken = BTreeMap::new();
    for _ in 0..count {
        let message = raw.take_any();
        assert_eq!(message.topic, topic);
        *taken.entry(message.payload[0]).or_insert(0) += 1;
    }
    taken
}

fn once_each() -> BTreeMap<u8, usize> {
    (0..COUNT).map(|n| (n, 1)).collect()
}

/// The broker let it in at its first try.
fn let_in_at_once(broker: &Broker) {
    let log = broker.log();
    assert!(log.contains("bridge=true"), "{log}");
    assert!(!log.contains("refused"), "{log}");
}

/// mosquitto does not set the bit in MQTT 5, which has words for what it means.
fn says_so(version: &str) -> bool {
    version != "mqttv50"
}

/// In MQTT 5 mosquitto 2.0 asks for a session that ends with its connection, whatever `cleansession` says.
fn keeps_its_session(version: &str) -> bool {
    version != "mqttv50"
}

fn each_direction_alone(version: &str) {
    let broker = Broker::start();
    let topics = "topic up/# out 2\ntopic down/# in 2\ntopic fence/# in 0";
    let mosquitto = Mosquitto::start(&broker, version, topics);
    mosquitto.until_bridged(&broker, "fence/1");
    if says_so(version) {
        let_in_at_once(&broker);
    }
    let mut up = subscriber(broker.port(), "up", "up/#");
    let mut down = subscriber(mosquitto.port, "down", "down/#");
    publish_all(mosquitto.port, "up/a");
    publish_all(broker.port(), "down/a");
    assert_eq!(taken(&mut up, COUNT.into(), "up/a"), once_each());
    assert_eq!(taken(&mut down, COUNT.into(), "down/a"), once_each());
    up.expect_nothing();
    down.expect_nothing();
}

fn both_directions(version: &str) {
    let broker = Broker::start();
    let mosquitto = Mosquitto::start(&broker, version, "topic # both 2");
    mosquitto.until_bridged(&broker, "fence/1");
    let mut here = subscriber(broker.port(), "here", "both/#");
    let mut there = subscriber(mosquitto.port, "there", "both/#");
    publish_all(mosquitto.port, "both/a");
    assert_eq!(taken(&mut here, COUNT.into(), "both/a"), once_each());
    assert_eq!(taken(&mut there, COUNT.into(), "both/a"), once_each());
    publish_all(broker.port(), "both/b");
    assert_eq!(taken(&mut here, COUNT.into(), "both/b"), once_each());
    assert_eq!(taken(&mut there, COUNT.into(), "both/b"), once_each());
    // An echo of the first ones would have come before the last ones.
    here.expect_nothing();
    there.expect_nothing();
}

fn retain_is_kept(version: &str) {
    let broker = Broker::start();
    let mosquitto = Mosquitto::start(&broker, version, "topic # both 1");
    mosquitto.until_bridged(&broker, "fence/1");
    let ports = [("here", broker.port()), ("there", mosquitto.port)];
    for (from, to) in [(0, 1), (1, 0)] {
        let topic = format!("kept/from/{}", ports[from].0);
        let mut watcher = subscriber(ports[to].1, "watcher", "kept/#");
        let mut publisher = Raw::clean(ports[from].1, Version::V4, "publisher");
        publisher.publish_packet(1, 9, &Publish::new(Version::V4, &topic, b"x").qos(1, 9).retain().packet());
        loop {
            let message = watcher.take_any();
            if message.topic == topic {
                break;
            }
        }
        // It is retained on the other side too.
        let mut late = Raw::clean(ports[to].1, Version::V4, "late");
        late.subscribe(&topic, 1);
        assert!(late.take_message(&topic, b"x").retain, "{topic}");
    }
}

/// A session that is kept, with its subscription.
fn lasting(client: &str) -> build::Connect {
    build::Connect::new(Version::V5, client).resume().with(Property::SessionExpiry(3600))
}

fn broker_is_killed(version: &str) {
    let mut broker = Broker::start();
    let mosquitto = Mosquitto::start(&broker, version, "topic # both 2");
    mosquitto.until_bridged(&broker, "fence/1");
    let (mut here, _, _) = Raw::open(broker.port(), &lasting("here"));
    here.subscribe("both/#", 2);
    let mut publisher = Raw::clean(mosquitto.port, Version::V5, "publisher");
    for n in 0..COUNT {
        publisher.publish("both/a", 2, &[n]);
        if n == COUNT / 2 {
            broker.kill();
        }
    }
    broker.run();
    mosquitto.until_bridged(&broker, "fence/2");
    let (mut here, present, _) = Raw::open(broker.port(), &lasting("here"));
    assert!(present);
    let mut came: BTreeMap<u8, usize> = BTreeMap::new();
    while came.len() < COUNT.into() {
        *came.entry(here.take_any().payload[0]).or_insert(0) += 1;
    }
    if keeps_its_session(version) {
        assert_eq!(came, once_each());
        here.expect_nothing();
    }
}

fn mosquitto_is_killed(version: &str) {
    let broker = Broker::start();
    let mut mosquitto = Mosquitto::start(&broker, version, "topic # both 2");
    mosquitto.until_bridged(&broker, "fence/1");
    let (mut there, _, _) = Raw::open(mosquitto.port, &lasting("there"));
    there.subscribe("both/#", 2);
    mosquitto.save();
    mosquitto.kill();
    let mut publisher = Raw::clean(broker.port(), Version::V5, "publisher");
    let mut publish = || (0..COUNT).for_each(|n| publisher.publish("both/a", 1 + n % 2, &[n]));
    if keeps_its_session(version) {
        publish();
    }
    mosquitto.run();
    if !keeps_its_session(version) {
        mosquitto.until_bridged(&broker, "fence/2");
        publish();
    }
    let (mut there, present, _) = Raw::open(mosquitto.port, &lasting("there"));
    assert!(present);
    assert_eq!(taken(&mut there, COUNT.into(), "both/a"), once_each());
    there.expect_nothing();
}
