//! Numbered messages to a cluster that is stopped, started, frozen and killed, from a gateway that is killed: what arrived is
//! read back from the cluster and counted.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay_client::{Message, QoS, Subscription};
use forebay_tests::numbered::Seen;
use forebay_tests::rng::Rng;
use forebay_tests::server::Program;

use crate::numbered::{YARDSTICK, publish};
use crate::{bridge_to, client, gateway, soon, state, subscribed};

/// Messages of each of two devices, one at QoS 1 and one at QoS 2.
const MESSAGES: u32 = 10_000;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(1);
/// How long nothing may come before what is missing counts as lost.
const PATIENCE: Duration = Duration::from_secs(90);
/// Kills of the gateway.
const KILLS: u32 = 5;

/// What came: the topic under which it was published, its number, and its origin, epoch and sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) topic: String,
    pub(crate) number: u64,
    pub(crate) mark: String,
}

impl Arrived {
    /// From its headers and its payload.
    pub(crate) fn new(payload: &[u8], header: impl Fn(&str) -> Option<String>) -> Self {
        let header = |name: &str| header(name).unwrap_or_else(|| panic!("it has a header {name}"));
        let mark = ["origin", "epoch", "seq"].map(header).join(".");
        let number = std::str::from_utf8(payload).unwrap().parse().unwrap();
        Self { topic: header("mqtt-topic"), number, mark }
    }
}

/// Reads the cluster from the beginning: the next that came, `None` when nothing has come for this long.
pub(crate) type Reader = Box<dyn FnMut(Duration) -> Option<Arrived>>;

/// A run of a gateway with this configuration, and of its cluster.
pub(crate) type Run = fn(&mut Program, &str, fn(&Program) -> Reader, Arrival);

/// How often a message may arrive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Repetitions have the same mark.
    AtLeastOnce,
    /// What was published at QoS 2 comes once.
    Once,
}

/// The gateway with this configuration, both sides ended in every way; then everything is read.
pub(crate) fn through_everything(server: &mut Program, config: &str, reader: fn(&Program) -> Reader, arrival: Arrival) {
    let seed = Rng::seed_from_environment();
    println!("FOREBAY_SEED={seed}");
    let mut rng = Rng::new(seed);
    let mut broker = gateway(config);
    broker.run();
    let publishers: Vec<_> =
        [1, 2].map(|qos| publish(broker.port(), format!("n/q{qos}"), qos, PAUSE, |next| next < MESSAGES)).into();
    let mut pause = |most: u64| std::thread::sleep(Duration::from_millis(100 + rng.below(most)));
    for round in 0..KILLS {
        pause(900);
        match round {
            0 => {
                server.terminate();
                pause(1_000);
                server.run();
            }
            1 | 3 => {
                server.freeze();
                pause(2_000);
                server.thaw();
            }
            2 => {
                server.kill();
                pause(500);
                server.run();
            }
            _ => {}
        }
        pause(900);
        broker.kill();
        pause(200);
        broker.run();
    }
    let counts: BTreeMap<String, u64> = publishers.into_iter().map(|thread| thread.join().unwrap()).collect();
    let seen = read_back(&counts, reader(server), arrival);
    println!("{counts:?}, {} came twice where they may", seen.repeated());
    assert_eq!(seen.faults(&counts), Vec::<String>::new());
}

/// QoS 2, 30 messages a second, numbered, the cluster killed and away for 5 s: what arrived is counted.
pub(crate) fn yardstick(server: &mut Program, config: &str, reader: fn(&Program) -> Reader, arrival: Arrival) {
    let (rate, away) = YARDSTICK;
    let mut broker = gateway(config);
    broker.run();
    let more = Arc::new(AtomicBool::new(true));
    let flag = more.clone();
    let pause = Duration::from_secs(1) / u32::try_from(rate).unwrap();
    let publisher = publish(broker.port(), "n/q2".to_owned(), 2, pause, move |_| flag.load(Ordering::Relaxed));
    std::thread::sleep(Duration::from_secs(2));
    server.kill();
    std::thread::sleep(away);
    server.run();
    std::thread::sleep(Duration::from_secs(2));
    more.store(false, Ordering::Relaxed);
    let counts = BTreeMap::from([publisher.join().unwrap()]);
    let seen = read_back(&counts, reader(server), arrival);
    println!("{} of {} arrived, {} of them again", seen.count(), counts.values().sum::<u64>(), seen.repeated());
    assert_eq!(seen.faults(&counts), Vec::<String>::new());
}

/// Reads until all has come and nothing more comes, or nothing comes any more.
fn read_back(counts: &BTreeMap<String, u64>, mut next: Reader, arrival: Arrival) -> Seen {
    let mut seen = Seen::default();
    let mut marks: HashMap<(String, u64), String> = HashMap::new();
    let reached = |seen: &Seen| counts.iter().all(|(topic, n)| seen.has_reached(topic, n - 1));
    loop {
        let is_complete = seen.count() >= counts.values().sum() && reached(&seen);
        let patience = if is_complete { Duration::from_secs(1) } else { PATIENCE };
        let Some(Arrived { topic, number, mark }) = next(patience) else { return seen };
        seen.note(&topic, number, arrival == Arrival::Once && topic.ends_with("q2"));
        let first = marks.entry((topic.clone(), number)).or_insert_with(|| mark.clone());
        // A device that repeats a QoS 1 message after a kill of the gateway makes it another one.
        assert!(topic.ends_with("q1") || *first == mark, "{topic} {number} is {first}, and {mark}");
    }
}

/// The dead letters of the bridge `up`.
pub(crate) async fn dead_letters(port: u16) -> Subscription {
    subscribed(&client(port, "dead").await, "$dead/up/#").await
}

/// The next dead letter, as its topic and what the upstream said.
pub(crate) async fn dead_letter(letters: &mut Subscription) -> (String, String) {
    let letter = tokio::time::timeout(2 * PATIENCE, letters.recv()).await.expect("it takes for ever");
    let letter = letter.expect("a dead letter");
    let properties = letter.properties();
    let value = |wanted| properties.user.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    assert!(matches!(value("dead-reason"), Some("refused" | "too-large")), "{properties:?}");
    assert_eq!(value("dead-from"), Some("up"));
    assert!(value("dead-first-at").and_then(|at| at.parse::<u64>().ok()).is_some(), "{properties:?}");
    (letter.topic().to_owned(), value("dead-detail").expect("the upstream's words").to_owned())
}

/// What no server behind [`cutting`] gets.
pub(crate) const POISON: &str = "the server ends here";

/// A way to this port of this machine on which a connection ends as soon as [`POISON`] comes.
pub(crate) fn cutting(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let way = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let (near, far) = (connection.unwrap(), TcpStream::connect(("127.0.0.1", port)).unwrap());
            let (back, forth) = ((far.try_clone().unwrap(), near.try_clone().unwrap()), (near, far));
            std::thread::spawn(move || pass_on(back.0, back.1));
            std::thread::spawn(move || pass_on(forth.0, forth.1));
        }
    });
    way
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    let (mut part, mut seen) = ([0; 4096], Vec::new());
    while let Ok(length @ 1..) = from.read(&mut part) {
        let keep = seen.len().min(POISON.len() - 1);
        seen.drain(..seen.len() - keep);
        seen.extend_from_slice(&part[..length]);
        let is_over = seen.windows(POISON.len()).any(|window| window == POISON.as_bytes());
        if is_over || to.write_all(&part[..length]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// A gateway whose server ends each connection on which one of its messages comes: that one is a dead letter, and the others arrive.
pub(crate) async fn goes_on_without_what_ends_connections(
    url: &str,
    rules: &str,
    mut next: impl AsyncFnMut() -> Vec<u8>,
) {
    let mut broker = gateway(&bridge_to(url, "", rules));
    broker.run();
    assert_eq!(state(broker.port(), "connected").await, "connected");
    let mut letters = dead_letters(broker.port()).await;
    let here = client(broker.port(), "here").await;
    let mut tickets = Vec::new();
    for payload in ["before", POISON, "behind", "last"] {
        let message = Message::new("n/cut", payload).qos(QoS::AtLeastOnce);
        tickets.push(soon(here.publish(message)).await.unwrap());
    }
    for ticket in tickets {
        soon(ticket).await.unwrap();
    }
    // Half a minute of such ends, and the longest wait between two connections.
    let letter = tokio::time::timeout(3 * PATIENCE, dead_letter(&mut letters));
    let (topic, why) = letter.await.expect("it stands still");
    assert!(topic == "$dead/up/n/cut" && why.contains("connections in a row"), "{topic}: {why}");
    let mut came = vec![next().await];
    while came.last().unwrap() != b"last" {
        came.push(next().await);
    }
    came.dedup();
    assert_eq!(came, [&b"before"[..], b"behind", b"last"]);
}
