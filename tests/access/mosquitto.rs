//! The same ACL files in mosquitto and here: random rules, users, client identifiers and topics, a hundred thousand answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use forebay::access::Principal;
use forebay::access::acl::{Acl, Action};
use forebay_tests::broker::free_port;
use forebay_tests::packet::build::{Connect, Publish};
use forebay_tests::packet::{self, Version};
use forebay_tests::raw::Raw;
use forebay_tests::rng::Rng;
use forebay_tests::scratch::Scratch;

const FILES: u64 = 100;
/// Each is asked about for each client, to be published and to be read.
const TOPICS: usize = 84;
/// Messages that mosquitto takes from a client before it has acknowledged one.
const WINDOW: usize = 20;
const LEVELS: [&str; 6] = ["a", "b", "u1", "c1", "xc1", ""];
const CLIENTS: [(&str, &str); 5] = [("u1", "c1"), ("u2", "c1"), ("u1", "a"), ("a", "b/a"), ("u+", "c2")];

/// A running mosquitto.
pub struct Mosquitto(Child);

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(scratch: &Scratch, port: u16) -> Mosquitto {
    let config = scratch.path().join("mosquitto.conf");
    let acl = scratch.path().join("acl");
    // Many topics are published at once, and none of them may be dropped.
    let text = format!(
        "user root\nallow_anonymous true\nmax_queued_messages 20000\nset_tcp_nodelay true\nlistener {port} 127.0.0.1\n\
         acl_file {}\n",
        acl.display()
    );
    fs::write(&config, text).unwrap();
    run(&config, port)
}

/// mosquitto with this configuration, once it listens.
pub fn run(config: &Path, port: u16) -> Mosquitto {
    let mut command = Command::new("mosquitto");
    let child = command.arg("-c").arg(config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Mosquitto(child);
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "mosquitto does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    started
}

fn pick<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from[rng.below(from.len() as u64) as usize]
}

fn levels(rng: &mut Rng, from: &[&str]) -> String {
    let count = 1 + rng.below(3);
    (0..count).map(|_| pick(rng, from).to_owned()).collect::<Vec<_>>().join("/")
}

fn rules(rng: &mut Rng) -> String {
    let mut text = String::new();
    for _ in 0..4 + rng.below(12) {
        if rng.below(4) == 0 {
            text.push_str(&format!("user {}\n", pick(rng, &["u1", "u2", "a", "u+"])));
        }
        let pattern = rng.below(3) == 0;
        let known: &[&str] = &["a", "b", "u1", "c1", "", "+", "+", "%u", "%c", "x%c"];
        let mut filter = levels(rng, if pattern { known } else { &known[..7] });
        if rng.below(4) == 0 {
            filter = format!("$d/{filter}");
        }
        if rng.below(3) == 0 {
            filter.push_str("/#");
        }
        if filter.is_empty() {
            filter.push('#');
        }
        let rights = pick(rng, &["", "read ", "write ", "readwrite ", "deny "]);
        text.push_str(&format!("{} {rights}{filter}\n", if pattern { "pattern" } else { "topic" }));
    }
    // What the others may read is measured by what this one publishes.
    text + "user admin\ntopic readwrite #\ntopic write $d/#\n"
}

fn topics(rng: &mut Rng) -> Vec<String> {
    let mut topics = BTreeSet::new();
    while topics.len() < TOPICS {
        let topic = levels(rng, &LEVELS);
        let topic = if rng.below(5) == 0 { format!("$d/{topic}") } else { topic };
        if !topic.is_empty() {
            topics.insert(topic);
        }
    }
    topics.into_iter().collect()
}

/// What mosquitto lets the client publish, as it says in PUBACK.
fn may_write(raw: &mut Raw, topics: &[String]) -> Vec<bool> {
    let mut answers = BTreeMap::new();
    for (at, some) in (0u16..).zip(topics.chunks(WINDOW)) {
        let ids = at * WINDOW as u16 + 1..;
        let packets = some.iter().zip(ids).map(|(topic, id)| Publish::new(Version::V5, topic, b"").qos(1, id).packet());
        raw.send(&packets.flatten().collect::<Vec<u8>>());
        let wanted = answers.len() + some.len();
        while answers.len() < wanted {
            let bytes = raw.receive_bytes().expect("an answer");
            if bytes[0] == 0x40 {
                // 0x10: nobody has subscribed.
                answers.insert([bytes[2], bytes[3]], !matches!(bytes.get(4), Some(0x87)));
            }
        }
    }
    answers.into_values().collect()
}

/// The topics that come to a client who asks for all, of those that the admin publishes.
fn may_read(raw: &mut Raw, admin: &mut Raw, topics: &[String]) -> Vec<bool> {
    raw.subscribe("#", 0);
    raw.subscribe("$d/#", 0);
    let packets = topics.iter().map(|topic| Publish::new(Version::V5, topic, b"read").packet());
    admin.send(&packets.flatten().collect::<Vec<u8>>());
    // QoS 0 is delivered before the answer to what comes behind it.
    admin.send(&[0xC0, 0]);
    while admin.receive_bytes().expect("an answer")[0] != 0xD0 {}
    raw.send(&[0xC0, 0]);
    let mut came = BTreeSet::new();
    loop {
        let bytes = raw.receive_bytes().expect("a message");
        let Some(packet::Packet::Publish(message)) = packet::parse(Version::V5, &bytes) else { break };
        came.insert(message.topic);
    }
    topics.iter().map(|topic| came.contains(topic)).collect()
}

/// Answers to one kind of question, all of them the same on both sides.
#[derive(Default)]
struct Answers {
    yes: u32,
    no: u32,
}

impl Answers {
    fn count(&mut self, allowed: bool) {
        *(if allowed { &mut self.yes } else { &mut self.no }) += 1;
    }

    /// Neither answer is so rare that agreeing would say little.
    fn both_are_common(&self) -> bool {
        self.yes.min(self.no) * 10 >= self.yes + self.no
    }
}

pub fn answers_are_mosquittos() {
    let seed = 14;
    let mut rng = Rng::new(seed);
    let (mut writes, mut reads) = (Answers::default(), Answers::default());
    for file in 0..FILES {
        let scratch = Scratch::new("acl");
        let text = rules(&mut rng);
        fs::write(scratch.path().join("acl"), &text).unwrap();
        let acl = Acl::parse(&text).unwrap();
        let port = free_port();
        let _mosquitto = start(&scratch, port);
        let topics = topics(&mut rng);
        let mut admin = Raw::open(port, &Connect::new(Version::V5, "admin").user("admin")).0;
        let named = CLIENTS.iter().map(|(user, client)| (Some(*user), *client));
        for (user, client) in named.chain([(None, "c1")]) {
            let connect = Connect::new(Version::V5, client);
            let connect = user.map_or(connect.clone(), |user| connect.user(user));
            let mut raw = Raw::open(port, &connect).0;
            let who = Principal { user: user.map(Into::into), client_id: client.into(), ..Principal::default() };
            let write = may_write(&mut raw, &topics);
            let read = may_read(&mut raw, &mut admin, &topics);
            for ((topic, write), read) in topics.iter().zip(write).zip(read) {
                for (action, theirs, answers) in [(Action::Write, write, &mut writes), (Action::Read, read, &mut reads)]
                {
                    let ours = acl.check(&who, action, topic);
                    assert_eq!(
                        ours.allowed, theirs,
                        "seed {seed}, file {file}: {who:?} {action:?} {topic:?} {ours:?}\n{text}"
                    );
                    answers.count(theirs);
                }
            }
        }
    }
    for (kind, answers) in [("publish", &writes), ("receive", &reads)] {
        println!("{kind}: {} times yes and {} times no, on both sides", answers.yes, answers.no);
        assert!(answers.both_are_common(), "{kind}: {} times yes, {} times no", answers.yes, answers.no);
    }
    let asked = writes.yes + writes.no + reads.yes + reads.no;
    assert!(asked >= 100_000, "{asked} answers");
}
