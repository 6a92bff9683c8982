//! `kill -9` for the program that publishes, at random moments, and for the broker.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use forebay_client::{Message, QoS, Subscribe, Subscription};
use forebay_tests::broker::Broker;
use forebay_tests::rng::Rng;
use forebay_tests::scratch::Scratch;

use crate::{Case, block_on, durable, options, soon};

/// Tells this program that it is the one that is killed: port, run, file.
pub(crate) const CHILD: &str = "FOREBAY_OUTBOX_CHILD";
/// Messages that are accepted before the last of them is awaited.
const BURST: u32 = 20;

pub(crate) fn trials() -> Vec<Case> {
    vec![
        ("nothing_accepted_is_lost_by_a_kill_of_the_program", None, || block_on(killed(false))),
        ("nothing_accepted_is_lost_by_kills_of_both", None, || block_on(killed(true))),
    ]
}

/// Publishes numbers of QoS 1 and 2 in turn until it is killed, and says which are accepted. Run 0 publishes nothing, and
/// ends when all is sent.
pub(crate) fn child(plan: &str) {
    let [port, run, file] = plan.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{plan}") };
    let (port, run): (u16, u32) = (port.parse().unwrap(), run.parse().unwrap());
    block_on(async {
        let client = durable(port, Path::new(file)).start().unwrap();
        if run == 0 {
            client.drained().await;
            return client.disconnect().await;
        }
        for first in (0..).step_by(BURST as usize) {
            for n in first..first + BURST {
                let qos = if n % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
                let message = Message::new(format!("kill/{}", qos as u8), format!("{run} {n}")).qos(qos);
                // With the last of a burst all before it are on disk.
                if n + 1 < first + BURST {
                    while client.try_publish(message.clone()).is_err() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                } else {
                    drop(client.publish(message).await.unwrap());
                }
            }
            println!("{}", first + BURST);
            std::io::stdout().flush().unwrap();
        }
    });
}

fn start(port: u16, run: u32, file: &Path) -> Child {
    let plan = format!("{port} {run} {}", file.display());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(CHILD, plan).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Kills it after a while; how many messages it had accepted.
fn kill(mut child: Child, after: Duration) -> u32 {
    std::thread::sleep(after);
    child.kill().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let last = lines.map_while(Result::ok).filter_map(|line| line.parse().ok()).last();
    child.wait().unwrap();
    last.unwrap_or(0)
}

async fn killed(broker_too: bool) {
    let seed = Rng::seed_from_environment();
    let kills: u32 = std::env::var("FOREBAY_KILLS").map_or(20, |n| n.parse().expect("FOREBAY_KILLS is a number"));
    println!("{kills} kills, FOREBAY_SEED={seed}");
    let mut rng = Rng::new(seed);
    let scratch = Scratch::new("outbox");
    let file = scratch.path().join("outbox.redb");
    let mut broker = Broker::start();
    let subscriber = soon(options(broker.port(), "subscriber").connect()).await.unwrap();
    let messages = soon(subscriber.subscribe(Subscribe::to("kill/#").qos(QoS::ExactlyOnce))).await.unwrap();
    let collecting = tokio::spawn(collect(messages));
    let mut accepted = BTreeMap::new();
    for run in 1..=kills {
        let child = start(broker.port(), run, &file);
        let (first, second) = (Duration::from_millis(rng.below(300)), Duration::from_millis(rng.below(300)));
        let killing = tokio::task::spawn_blocking(move || kill(child, first + second));
        if broker_too {
            tokio::time::sleep(first).await;
            broker.kill();
            broker.run();
        }
        accepted.insert(run, killing.await.unwrap());
    }
    let mut last = start(broker.port(), 0, &file);
    let status = soon(tokio::task::spawn_blocking(move || last.wait().unwrap())).await.unwrap();
    assert!(status.success());
    // After all that the outbox held.
    let fence = soon(options(broker.port(), "fence").connect()).await.unwrap();
    soon(soon(fence.publish(Message::new("kill/end", "").qos(QoS::ExactlyOnce))).await.unwrap()).await.unwrap();
    verify(&soon(collecting).await.unwrap(), &accepted);
}

/// QoS with which it was published, run and number of all that comes, until the end.
async fn collect(mut messages: Subscription) -> Vec<(u8, u32, u32)> {
    let mut came = Vec::new();
    loop {
        let message = messages.recv().await.unwrap();
        if message.topic() == "kill/end" {
            return came;
        }
        let text = String::from_utf8_lossy(message.payload()).into_owned();
        let (run, n) = text.split_once(' ').unwrap();
        came.push((if message.topic() == "kill/1" { 1 } else { 2 }, run.parse().unwrap(), n.parse().unwrap()));
    }
}

fn verify(came: &[(u8, u32, u32)], accepted: &BTreeMap<u32, u32>) {
    let total: u32 = accepted.values().sum();
    println!("{total} accepted for certain, {} came", came.len());
    assert!(total > 500, "{accepted:?}");
    let mut seen = BTreeSet::new();
    for qos in [1, 2] {
        let mut last = (0, 0);
        for (_, run, n) in came.iter().filter(|(of, ..)| *of == qos) {
            let new = seen.insert((*run, *n));
            assert!(new || qos == 1, "{run} {n} of QoS 2 came twice");
            assert!(!new || (*run, *n) >= last, "{run} {n} came after {last:?}");
            last = last.max((*run, *n));
        }
    }
    for (run, accepted) in accepted {
        let lost = (0..*accepted).find(|n| !seen.contains(&(*run, *n)));
        assert_eq!(lost, None, "of run {run}, {accepted} were accepted");
    }
}
