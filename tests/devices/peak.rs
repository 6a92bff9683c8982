//! 200 devices that publish ten times what the broker lets through, and then stop.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use forebay_firmware::adapter::std::{Driver, tcp};
use forebay_firmware::{Class, Client, Counters, Event, Input, Message, Options, Policy, QoS};
use forebay_tests::broker::{Broker, Kind};
use forebay_tests::link::Endpoint;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Came, Connect, Peer, subscribe};
use forebay_tests::sys::{Figures, assert_balanced, dropped, figure};
use forebay_wire::types;

use crate::exchange::options;
use crate::tap::{Log, Tap, parse, payload};

const DEVICES: u32 = 200;
/// What the broker lets through, of each device.
const RATE: u32 = 2;
const TIMES: u32 = 10;

const CONFIG: &str = "sys_interval = \"1s\"\n[queue]\nmax_messages = 600\npolicy = \"reject\"\n\
    [[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\nrate = { messages_per_s = 2 }\n\
    [[listeners]]\nurl = \"mqtt://127.0.0.1:TLS_PORT\"\n";

fn seconds() -> u32 {
    std::env::var("FOREBAY_PEAK_SECONDS").ok().and_then(|value| value.parse().ok()).unwrap_or(3)
}

fn limit() -> Duration {
    Duration::from_secs(120) + Duration::from_secs(1) * TIMES * 3 * seconds()
}

struct Report {
    counters: Counters,
    refused: u32,
    repeated: u32,
}

fn qos(number: u32) -> QoS {
    if number.is_multiple_of(3) { QoS::ExactlyOnce } else { QoS::AtLeastOnce }
}

fn device(port: u16, device: u32) -> Report {
    let v5 = device % 4 != 3;
    let name: &'static str = format!("device-{device}").leak();
    let options: &'static Options<'static> = options(name, v5, |options| {
        options.seed = device;
        options.reserve = [2_000, 0, 0, 0];
        options.in_flight_max = 4;
        // It may be read late.
        options.response_timeout_ms = 60_000;
    });
    let log = Rc::new(RefCell::new(Log::default()));
    let mut open = tcp(("127.0.0.1", port));
    let version = if v5 { types::Version::V5 } else { types::Version::V311 };
    let connect = || Ok(Tap::new(open()?, version, Rc::clone(&log)));
    let total = RATE * TIMES * seconds();
    let outbox = vec![0; 4_000 + total as usize * 120].leak();
    let mut driver = Driver::new(Client::new(options, outbox), Input::new(vec![0; 512].leak()), connect);
    let begun = Instant::now();
    let topic = format!("devices/{device}");
    for number in 0..total {
        let at = Duration::from_secs(1) * number / (RATE * TIMES);
        while begun.elapsed() < at {
            driver.turn(at.saturating_sub(begun.elapsed()), |_, _| {});
        }
        let alarm = number % 10 == 9;
        let class = if alarm { Class::Alarm } else { Class::Telemetry };
        let message = Message::new(&topic).qos(qos(number)).class(class).policy(Policy::DropNewest);
        driver.publish(&message, &payload(device, number, alarm)).unwrap();
        if alarm {
            log.borrow_mut().alarms.insert(number);
        }
    }
    let begun = Instant::now();
    while !driver.client().is_drained() {
        assert!(begun.elapsed() < limit(), "{name}: {:?}", driver.client().counters());
        driver.turn(Duration::from_millis(200), |_, _| {});
    }
    let counters = *driver.client().counters();
    driver.leave(limit());
    let log = log.borrow();
    Report { counters, refused: log.refused, repeated: log.repeated }
}

/// Receives everything, after a while in which the queue fills; how often each message came, and in which order those of one
/// device did.
fn subscriber(kind: Kind, port: u16, ready: &AtomicUsize, total: usize) -> BTreeMap<(u32, u32), u32> {
    let options = options("subscriber", kind == Kind::Forebay, |options| options.receive_maximum = 24);
    let connect = || tcp(("127.0.0.1", port))();
    let client = Client::new(options, vec![0; 4_096].leak());
    let mut driver = Driver::new(client, Input::new(vec![0; 64 * 1_024].leak()), connect);
    // mosquitto 2.0.11 sends hundreds of QoS 2 at once, which is more than the client has places for.
    let qos = if kind == Kind::Forebay { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
    driver.client().subscribe("devices/#", qos).unwrap();
    let begun = Instant::now();
    while driver.client().subscriptions() == 0 {
        assert!(begun.elapsed() < limit());
        driver.turn(Duration::from_millis(50), |_, _| {});
    }
    if kind == Kind::Forebay {
        driver.leave(limit());
        ready.store(1, Ordering::SeqCst);
        // Long enough for the queue to fill at any rate.
        thread::sleep(Duration::from_secs(4));
        let now = driver.now();
        driver.client().connect(now);
    }
    // mosquitto 2.0.11 forgets Receive Maximum when a session is resumed, and has no limit that could be met.
    ready.store(1, Ordering::SeqCst);
    let mut came: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    let begun = Instant::now();
    while came.len() < total || !driver.client().is_drained() {
        assert!(begun.elapsed() < limit(), "{} of {total} came", came.len());
        driver.turn(Duration::from_millis(200), |_, event| {
            if let Event::Message(message) = event {
                let (device, number, _) = parse(message.payload);
                *came.entry((device, number)).or_default() += 1;
            }
        });
    }
    driver.leave(limit());
    came
}

pub fn peak(kind: Kind) {
    let mut broker = Broker::prepare_as(kind, None);
    let mut other = broker.port();
    if kind == Kind::Forebay {
        broker.configure(CONFIG);
        other = broker.tls_port();
    }
    broker.run();
    let port = broker.port();
    let total = RATE * TIMES * seconds() * DEVICES;
    let ready = AtomicUsize::new(0);
    let (reports, came) = thread::scope(|scope| {
        let subscriber = scope.spawn(|| subscriber(kind, other, &ready, total as usize));
        while ready.load(Ordering::SeqCst) == 0 && !subscriber.is_finished() {
            thread::sleep(Duration::from_millis(10));
        }
        let spawn = |number| {
            thread::Builder::new().stack_size(256 * 1_024).spawn_scoped(scope, move || device(port, number)).unwrap()
        };
        let devices: Vec<_> = (0..DEVICES).map(spawn).collect();
        let reports: Vec<Report> = devices.into_iter().map(|device| device.join().unwrap()).collect();
        (reports, subscriber.join().unwrap())
    });
    assert_eq!(came.len(), total as usize, "all arrive");
    let accepted: u32 = reports.iter().map(|report| report.counters.accepted).sum();
    let acknowledged: u32 = reports.iter().map(|report| report.counters.acknowledged).sum();
    let lost: u32 = reports.iter().map(|report| report.counters.dropped_with_ticket()).sum();
    assert_eq!((accepted, acknowledged, lost), (total, total, 0));
    let refused: u32 = reports.iter().map(|report| report.refused).sum();
    let repeated: u32 = reports.iter().map(|report| report.repeated).sum();
    println!("{total} messages, {refused} refused for a time and sent again, {repeated} sent again");
    let twice = came.iter().filter(|((_, number), times)| qos(*number) == QoS::ExactlyOnce && **times != 1).count();
    assert_eq!(twice, 0, "QoS 2");
    if kind == Kind::Forebay {
        assert!(refused > 0, "the queue was full");
        assert_eq!(repeated, refused, "nothing is sent again but what was refused");
        let figures = retained_figures(other);
        assert_balanced(&figures);
        let of = |name: &str| figure(&figures, &format!("ledger/{name}"));
        let all = u64::from(total);
        assert_eq!((of("accepted"), of("delivered"), dropped(&figures), of("expired")), (all, all, 0, 0));
        assert_eq!(of("queued"), 0);
        assert_eq!(figure(&figures, "counters/publish_refused"), u64::from(refused));
    }
}

/// The figures of the last publication, which nobody has received: receiving them is in the ledger too.
fn retained_figures(port: u16) -> Figures {
    // One publication begins and ends in it.
    thread::sleep(Duration::from_secs(3));
    let (mut peer, _) = Peer::open(&Endpoint::tcp(port), &Connect::clean(Version::V5, "reader"));
    peer.send(&subscribe(Version::V5, 1, &[("$SYS/broker/ledger/#", 0), ("$SYS/broker/counters/publish_refused", 0)]));
    let mut figures = Figures::new();
    while !(figures.contains_key("counters/publish_refused") && figures.contains_key("ledger/queued"))
        || figures.keys().filter(|name| name.starts_with("ledger/")).count() < 4
    {
        match peer.answer() {
            Came::Publish(message) if message.retain => {
                let name = message.topic.strip_prefix("$SYS/broker/").unwrap().to_owned();
                figures.insert(name, String::from_utf8(message.payload).unwrap().parse().unwrap());
            }
            Came::Publish(_) | Came::Suback(..) => {}
            other => panic!("{other:?}"),
        }
    }
    // Those for each reason of a drop are there only when there were some.
    while let Some(Came::Publish(message)) = peer.within(Duration::from_millis(200)) {
        if let (true, Some(name)) = (message.retain, message.topic.strip_prefix("$SYS/broker/")) {
            figures.insert(name.to_owned(), String::from_utf8(message.payload).unwrap().parse().unwrap());
        }
    }
    figures
}
