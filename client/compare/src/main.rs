//! CPU time of the client's process for each message, side by side: this client, rumqttc and mqtt5.
//!
//!     client-compare PORT [SECONDS] [ROUNDS]      all clients, all scenarios, against the broker on this port
//!     client-compare idle PORT [CLIENTS]          memory of the process for each idle connection
//!     client-compare latency PORT RATE            this client's latency with and without coalesced reads
//!
//! Each measurement is a process of its own with one thread for everything, 64-byte payloads, MQTT 5, and 100 messages that
//! are not acknowledged yet. The subscriber's load comes from another process.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const CLIENTS: [&str; 3] = ["forebay", "rumqttc", "mqtt5"];
const SCENARIOS: [&str; 4] = ["publish-0", "publish-1", "receive-0", "receive-1"];
const UNACKNOWLEDGED: usize = 100;
const PAYLOAD: [u8; 64] = [b'x'; 64];
const TOPIC: &str = "compare/client/topic/of/32/bytes";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| arguments.get(at).map_or(default, |text| text.parse().expect("a number"));
    if arguments.first().is_some_and(|first| first == "idle") {
        let (port, clients) = (number(1, 1883), number(2, 1000));
        for client in CLIENTS {
            println!("{client:<12}{:>8} bytes for each of {clients} idle connections", idle(client, port, clients));
        }
        return;
    }
    if arguments.first().is_some_and(|first| first == "latency") {
        return latency::table(number(1, 1883) as u16, number(2, 5_000));
    }
    if arguments.first().is_some_and(|first| first == "one-idle") {
        let (client, port, clients) = (&arguments[1], number(2, 1883) as u16, number(3, 1000));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        println!("{}", runtime.block_on(one_idle(client, port, clients)));
        return;
    }
    if arguments.first().is_some_and(|first| first == "one") {
        let (client, scenario) = (&arguments[1], &arguments[2]);
        let (port, seconds) = (number(3, 1883) as u16, number(4, 2));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let count = runtime.block_on(one(client, scenario, port, Duration::from_secs(seconds)));
        println!("{count}");
        return;
    }
    let (port, seconds, rounds) = (number(0, 1883), number(1, 2), number(2, 3));
    println!(
        "{:<12}{:>14}{:>14}{:>14}   µs of CPU a message (messages a second)",
        "", CLIENTS[0], CLIENTS[1], CLIENTS[2]
    );
    for scenario in SCENARIOS {
        let mut line = format!("{scenario:<12}");
        let mut rates = String::new();
        let mut best = [f64::MAX; 3];
        for _ in 0..rounds {
            for (client, best) in CLIENTS.iter().zip(&mut best) {
                let (cost, rate) = measured(client, scenario, port, seconds);
                *best = best.min(cost);
                rates += &format!(" {rate:.0}");
            }
        }
        for cost in best {
            line += &format!("{cost:>14.2}");
        }
        println!("{line}   rumqttc {:.1}x, mqtt5 {:.1}x  ({})", best[1] / best[0], best[2] / best[0], rates.trim());
    }
}

/// Microseconds of CPU time for each message, and messages a second.
fn measured(client: &str, scenario: &str, port: u64, seconds: u64) -> (f64, f64) {
    let me = std::env::current_exe().unwrap();
    let run = |client: &str, scenario: &str, seconds: u64| {
        let (port, seconds) = (port.to_string(), seconds.to_string());
        let mut command = Command::new(&me);
        command.args(["one", client, scenario, &port, &seconds]).stdout(Stdio::piped()).spawn().unwrap()
    };
    let load = scenario.strip_prefix("receive-").map(|qos| run("forebay", &format!("publish-{qos}"), seconds + 2));
    if load.is_some() {
        std::thread::sleep(Duration::from_millis(300));
    }
    let child = run(client, scenario, seconds);
    let pid = child.id();
    let mut cpu = 0.0;
    // The last reading before it ends.
    let out = std::thread::spawn(move || child.wait_with_output().unwrap());
    while !out.is_finished() {
        if let Some(now) = cpu_us(pid) {
            cpu = now;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let text = String::from_utf8(out.join().unwrap().stdout).unwrap();
    if let Some(mut load) = load {
        let _ = load.kill();
        let _ = load.wait();
    }
    let count: f64 = text.trim().parse().unwrap_or_else(|_| panic!("{client} {scenario}: {text}"));
    (cpu / count, count / seconds as f64)
}

/// CPU time of the process's threads, in microseconds.
fn cpu_us(pid: u32) -> Option<f64> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut ns = 0u64;
    for task in tasks.flatten() {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        ns += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    (ns > 0).then_some(ns as f64 / 1000.0)
}

fn idle(client: &str, port: u64, clients: u64) -> i64 {
    let (port, clients) = (port.to_string(), clients.to_string());
    let output =
        Command::new(std::env::current_exe().unwrap()).args(["one-idle", client, &port, &clients]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<i64>().unwrap() * 1024
}

/// The first ten clients pay for what all share.
async fn one_idle(client: &str, port: u16, clients: u64) -> i64 {
    let mut before = 0;
    let mut kept: Vec<Box<dyn std::any::Any>> = Vec::new();
    for n in 0..clients + 10 {
        if n == 10 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            before = resident();
        }
        kept.push(match client {
            "forebay" => Box::new(ours::client(port).await),
            "rumqttc" => Box::new(rumqtt::idle(port, n).await),
            _ => Box::new(labs::named(port, n).await),
        });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    (resident() - before) / clients as i64
}

async fn one(client: &str, scenario: &str, port: u16, time: Duration) -> u64 {
    let until = Instant::now() + time;
    match (client, scenario) {
        ("forebay", "publish-0") => ours::publish(port, forebay_client::QoS::AtMostOnce, until).await,
        ("forebay", "publish-1") => ours::publish(port, forebay_client::QoS::AtLeastOnce, until).await,
        ("forebay", "receive-0") => ours::receive(port, forebay_client::QoS::AtMostOnce, until).await,
        ("forebay", "receive-1") => ours::receive(port, forebay_client::QoS::AtLeastOnce, until).await,
        ("rumqttc", "publish-0") => rumqtt::publish(port, rumqttc::v5::mqttbytes::QoS::AtMostOnce, until).await,
        ("rumqttc", "publish-1") => rumqtt::publish(port, rumqttc::v5::mqttbytes::QoS::AtLeastOnce, until).await,
        ("rumqttc", "receive-0") => rumqtt::receive(port, rumqttc::v5::mqttbytes::QoS::AtMostOnce, until).await,
        ("rumqttc", "receive-1") => rumqtt::receive(port, rumqttc::v5::mqttbytes::QoS::AtLeastOnce, until).await,
        ("mqtt5", "publish-0") => labs::publish(port, mqtt5::QoS::AtMostOnce, until).await,
        ("mqtt5", "publish-1") => labs::publish(port, mqtt5::QoS::AtLeastOnce, until).await,
        ("mqtt5", "receive-0") => labs::receive(port, mqtt5::QoS::AtMostOnce, until).await,
        ("mqtt5", "receive-1") => labs::receive(port, mqtt5::QoS::AtLeastOnce, until).await,
        _ => panic!("{client} {scenario}"),
    }
}

/// One message to each write, at an even rate, from a thread to this client; each carries the time when it was written.
mod latency {
    use super::*;
    use forebay_client::Options;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    const TIME: Duration = Duration::from_secs(3);

    pub fn table(port: u16, rate: u64) {
        for round in 1..=3 {
            for coalesce in [false, true] {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let cpu = cpu_of_this_thread();
                let mut ns = runtime.block_on(receive(port, rate, coalesce));
                let cpu = (cpu_of_this_thread() - cpu) / ns.len() as f64;
                ns.sort_unstable();
                let at = |share: f64| ns[(ns.len() as f64 * share) as usize] / 1_000;
                println!(
                    "round {round}  coalesced {coalesce:<5}  {:>6} a second  p50 {:>5} µs  p99 {:>5} µs  {cpu:.2} µs of CPU a message",
                    ns.len() as u64 / TIME.as_secs(),
                    at(0.5),
                    at(0.99)
                );
            }
        }
    }

    async fn receive(port: u16, rate: u64, coalesce: bool) -> Vec<u64> {
        let options = Options::new(&format!("mqtt://127.0.0.1:{port}")).unwrap().coalesce(coalesce);
        let client = options.connect().await.unwrap();
        let mut messages = client.subscribe(TOPIC).await.unwrap();
        let epoch = Instant::now();
        let sender = std::thread::spawn(move || send(port, rate, epoch));
        let (mut ns, until) = (Vec::new(), epoch + TIME);
        while Instant::now() < until {
            let message = messages.recv().await.unwrap();
            let sent = u64::from_be_bytes(message.payload()[..8].try_into().unwrap());
            ns.push(epoch.elapsed().as_nanos() as u64 - sent);
        }
        drop(client);
        sender.join().unwrap();
        ns
    }

    fn send(port: u16, rate: u64, epoch: Instant) {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(b"\x10\x10\0\x04MQTT\x04\x02\0\0\0\x04pace").unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        for n in 0.. {
            let due = Duration::from_nanos(n * 1_000_000_000 / rate);
            if due > TIME + Duration::from_millis(200) {
                break;
            }
            if let Some(early) = due.checked_sub(epoch.elapsed()) {
                std::thread::sleep(early);
            }
            let mut packet = vec![0x30, 0, 0, TOPIC.len() as u8];
            packet.extend_from_slice(TOPIC.as_bytes());
            packet.extend_from_slice(&(epoch.elapsed().as_nanos() as u64).to_be_bytes());
            packet.extend_from_slice(&PAYLOAD[8..]);
            packet[1] = packet.len() as u8 - 2;
            stream.write_all(&packet).unwrap();
        }
    }

    fn cpu_of_this_thread() -> f64 {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        text.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1_000.0
    }
}

mod ours {
    use super::*;
    use forebay_client::{Client, Message, Options, Outbox, QoS, Subscribe};

    pub async fn client(port: u16) -> Client {
        let outbox = Outbox { max_messages: 1_000, ..Outbox::default() };
        let options = Options::new(&format!("mqtt://127.0.0.1:{port}")).unwrap().window(UNACKNOWLEDGED as u16);
        options.outbox(outbox).topic_aliases(false).connect().await.unwrap()
    }

    pub async fn publish(port: u16, qos: QoS, until: Instant) -> u64 {
        let client = client(port).await;
        let (topic, payload): (Arc<str>, _) = (TOPIC.into(), bytes::Bytes::from_static(&PAYLOAD));
        while Instant::now() < until {
            for _ in 0..50 {
                let _ticket = client.publish(Message::new(topic.clone(), payload.clone()).qos(qos)).await.unwrap();
            }
        }
        let stats = client.stats();
        if qos == QoS::AtMostOnce { stats.sent } else { stats.acked }
    }

    pub async fn receive(port: u16, qos: QoS, until: Instant) -> u64 {
        let client = client(port).await;
        let mut messages = client.subscribe(Subscribe::to(TOPIC).qos(qos)).await.unwrap();
        let mut count = 0;
        while count % 64 != 0 || Instant::now() < until {
            let _message = messages.recv().await.unwrap();
            count += 1;
        }
        // Its session would be there for an hour, and get what the next ones are sent.
        client.disconnect().await;
        count
    }
}

mod rumqtt {
    use super::*;
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::Packet;
    use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};

    fn client(port: u16) -> (AsyncClient, EventLoop) {
        let mut options = MqttOptions::new(format!("rumqttc-{}", std::process::id()), "127.0.0.1", port);
        options.set_outgoing_inflight_upper_limit(UNACKNOWLEDGED as u16);
        AsyncClient::new(options, 1_000)
    }

    pub async fn idle(port: u16, n: u64) -> tokio::task::JoinHandle<()> {
        let mut options = MqttOptions::new(format!("idle-{n}"), "127.0.0.1", port);
        options.set_outgoing_inflight_upper_limit(UNACKNOWLEDGED as u16);
        let (client, mut events) = AsyncClient::new(options, 10);
        while !matches!(events.poll().await.unwrap(), Event::Incoming(Packet::ConnAck(_))) {}
        tokio::spawn(async move {
            let _client = client;
            while events.poll().await.is_ok() {}
        })
    }

    pub async fn publish(port: u16, qos: QoS, until: Instant) -> u64 {
        let (client, mut events) = client(port);
        let sending = tokio::spawn(async move {
            let payload = bytes::Bytes::from_static(&PAYLOAD);
            loop {
                client.publish_bytes(TOPIC, qos, false, payload.clone()).await.unwrap();
            }
        });
        let mut count = 0;
        while count % 64 != 0 || Instant::now() < until {
            match events.poll().await.unwrap() {
                Event::Incoming(Packet::PubAck(_)) if qos == QoS::AtLeastOnce => count += 1,
                Event::Outgoing(rumqttc::Outgoing::Publish(_)) if qos == QoS::AtMostOnce => count += 1,
                _ => {}
            }
        }
        sending.abort();
        count
    }

    pub async fn receive(port: u16, qos: QoS, until: Instant) -> u64 {
        let (client, mut events) = client(port);
        client.subscribe(TOPIC, qos).await.unwrap();
        let mut count = 0;
        while count % 64 != 0 || Instant::now() < until {
            if let Event::Incoming(Packet::Publish(_)) = events.poll().await.unwrap() {
                count += 1;
            }
        }
        count
    }
}

mod labs {
    use super::*;
    use mqtt5::{MqttClient, PublishOptions, QoS, SubscribeOptions};

    async fn client(port: u16) -> MqttClient {
        named(port, u64::from(std::process::id())).await
    }

    pub async fn named(port: u16, n: u64) -> MqttClient {
        let client = MqttClient::new(format!("mqtt5-{n}"));
        client.connect(&format!("mqtt://127.0.0.1:{port}")).await.unwrap();
        client
    }

    pub async fn publish(port: u16, qos: QoS, until: Instant) -> u64 {
        let client = client(port).await;
        let count = Arc::new(AtomicU64::new(0));
        // It waits for the ack of each message: as many tasks as there may be unacknowledged messages.
        let tasks = if qos == QoS::AtMostOnce { 1 } else { UNACKNOWLEDGED };
        let mut running = Vec::new();
        for _ in 0..tasks {
            let (client, count) = (client.clone(), count.clone());
            running.push(tokio::spawn(async move {
                while Instant::now() < until {
                    let options = PublishOptions { qos, ..Default::default() };
                    client.publish_with_options(TOPIC, PAYLOAD.to_vec(), options).await.unwrap();
                    count.fetch_add(1, Relaxed);
                }
            }));
        }
        for task in running {
            task.await.unwrap();
        }
        count.load(Relaxed)
    }

    pub async fn receive(port: u16, qos: QoS, until: Instant) -> u64 {
        let client = client(port).await;
        let count = Arc::new(AtomicU64::new(0));
        let of_callback = count.clone();
        let options = SubscribeOptions { qos, ..Default::default() };
        let subscribed = client.subscribe_with_options(TOPIC, options, move |_| {
            of_callback.fetch_add(1, Relaxed);
        });
        subscribed.await.unwrap();
        tokio::time::sleep_until(until.into()).await;
        count.load(Relaxed)
    }
}
