//! 200 devices, and one in QEMU, that publish ten times what the broker lets through, and then stop.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use forebay_firmware::adapter::std::{Driver, tcp};
use forebay_firmware::{Class, Client, Counters, Event, Input, Message, Options, Policy, QoS, Received};
use forebay_tests::broker::{Broker, Kind, free_port};
use forebay_tests::http::Api;
use forebay_tests::link::Endpoint;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Came, Connect, Peer, subscribe};
use forebay_tests::sys::{Figures, assert_balanced, dropped, figure};
use forebay_wire::types;

use crate::exchange::options;
use crate::log::{Log, Naming};
use crate::metal::{self, Metal};
use crate::tap::Tap;

const DEVICES: u32 = 200;
/// What the broker lets through, of each device.
const RATE: u32 = 2;
const TIMES: u32 = 10;

const CONFIG: &str = "sys_interval = \"1s\"\n[admin]\nhttp = \"127.0.0.1:ADMIN\"\n[queue]\nmax_messages = 600\npolicy = \"reject\"\n\
    [[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\nrate = { messages_per_s = 2 }\n\
    [[listeners]]\nurl = \"mqtt://127.0.0.1:TLS_PORT\"\n";

fn seconds() -> u32 {
    std::env::var("FOREBAY_PEAK_SECONDS").ok().and_then(|value| value.parse().ok()).unwrap_or(3)
}

fn limit() -> Duration {
    Duration::from_secs(120) + Duration::from_secs(1) * TIMES * 3 * seconds()
}

/// What each device publishes.
fn messages() -> u32 {
    RATE * TIMES * seconds()
}

struct Report {
    counters: Counters,
    refused: u32,
    repeated: u32,
    overtook: u32,
}

fn qos(number: u32) -> QoS {
    if number.is_multiple_of(3) { QoS::ExactlyOnce } else { QoS::AtLeastOnce }
}

fn is_alarm(number: u32) -> bool {
    number % 10 == 9
}

/// What a payload says: the device, and the number of the message.
fn payload(device: u32, number: u32) -> Vec<u8> {
    let mut payload = [device.to_be_bytes(), number.to_be_bytes()].concat();
    payload.resize(60, b'.');
    payload
}

fn parse(payload: &[u8]) -> (u32, u32) {
    let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
    (number(0), number(4))
}

const NAMING: Naming = Naming { number: |publish| Some(parse(publish.payload).1), is_alarm };

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
    let version = if v5 { types::Version::V5 } else { types::Version::V311 };
    let log = Rc::new(RefCell::new(Log::new(version, NAMING)));
    let mut open = tcp(("127.0.0.1", port), Duration::from_secs(30));
    let connect = || Ok(Tap::new(open()?, Rc::clone(&log)));
    let outbox = vec![0; 4_000 + messages() as usize * 120].leak();
    let mut driver = Driver::new(Client::new(options, outbox), Input::new(vec![0; 512].leak()), connect);
    let begun = Instant::now();
    let topic = format!("devices/{device}");
    for number in 0..messages() {
        let at = Duration::from_secs(1) * number / (RATE * TIMES);
        while begun.elapsed() < at {
            driver.turn(at.saturating_sub(begun.elapsed()), |_, _| {});
        }
        let class = if is_alarm(number) { Class::Alarm } else { Class::Telemetry };
        let message = Message::new(&topic).qos(qos(number)).class(class).policy(Policy::DropNewest);
        driver.publish(&message, &payload(device, number)).unwrap();
        if is_alarm(number) {
            log.borrow_mut().has_alarm(number);
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
    assert_eq!(log.faults, Vec::<String>::new(), "{name}");
    Report { counters, refused: log.refused, repeated: log.repeated, overtook: log.overtook }
}

/// What came to the subscriber: how often each message of each device did, and the account of the one in QEMU.
#[derive(Default)]
struct Arrived {
    times: BTreeMap<(u32, u32), u32>,
    report: Option<String>,
}

impl Arrived {
    fn note(&mut self, message: &Received<'_>) {
        let id = match message.topic {
            "metal/report" => {
                self.report = Some(String::from_utf8_lossy(message.payload).into_owned());
                return;
            }
            topic if topic.starts_with("metal/") => (DEVICES, metal::number(topic, message.payload).unwrap()),
            _ => parse(message.payload),
        };
        *self.times.entry(id).or_default() += 1;
    }
}

/// Waits until the queue is so full that a device was refused, however quickly they publish. The figure is read over HTTP: a
/// subscriber to `$SYS` would be in the ledger.
fn until_refused(admin: u16) {
    let (api, begun) = (Api::http(admin), Instant::now());
    let refused = |metrics: &str| {
        let mut values = metrics.lines().filter_map(|line| line.strip_prefix("forebay_publish_refused_total "));
        values.next().is_some_and(|value| value.trim().parse::<u64>().unwrap() > 0)
    };
    while !refused(&api.get("/metrics").body) {
        assert!(begun.elapsed() < limit(), "the queue never fills");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Whether the broker has nothing more to be delivered: the QoS 2 exchange of the last message has ended too, which the
/// subscriber's client does not say.
fn is_delivered(admin: u16) -> bool {
    Api::http(admin).get("/metrics").body.lines().any(|line| line == "forebay_ledger_queued 0")
}

/// Receives everything, after a while in which the queue fills. Then it tells the one in QEMU, if there is one, that this is
/// all, and waits for its account.
fn subscriber(kind: Kind, (port, admin): (u16, u16), ready: &AtomicUsize, total: usize, with_metal: bool) -> Arrived {
    let options = options("subscriber", kind == Kind::Forebay, |options| options.receive_maximum = 24);
    let connect = || tcp(("127.0.0.1", port), Duration::from_secs(30))();
    let client = Client::new(options, vec![0; 4_096].leak());
    let mut driver = Driver::new(client, Input::new(vec![0; 64 * 1_024].leak()), connect);
    // mosquitto 2.0.11 sends hundreds of QoS 2 at once, which is more than the client has places for.
    let qos = if kind == Kind::Forebay { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
    let filters = ["devices/+", "metal/1", "metal/2", "metal/report"];
    for filter in filters {
        driver.client().subscribe(filter, qos).unwrap();
    }
    let begun = Instant::now();
    while driver.client().subscriptions() < filters.len() {
        assert!(begun.elapsed() < limit());
        driver.turn(Duration::from_millis(50), |_, _| {});
    }
    if kind == Kind::Forebay {
        driver.leave(limit());
        ready.store(1, Ordering::SeqCst);
        until_refused(admin);
        let now = driver.now();
        driver.client().connect(now);
    }
    // mosquitto 2.0.11 forgets Receive Maximum when a session is resumed, and has no limit that could be met.
    ready.store(1, Ordering::SeqCst);
    let mut arrived = Arrived::default();
    let begun = Instant::now();
    let mut told = !with_metal;
    while arrived.times.len() < total || !driver.client().is_drained() || with_metal && arrived.report.is_none() {
        assert!(begun.elapsed() < limit(), "{} of {total} came", arrived.times.len());
        driver.turn(Duration::from_millis(200), |_, event| {
            if let Event::Message(message) = event {
                arrived.note(&message);
            }
        });
        if !told && arrived.times.len() == total {
            told = true;
            driver.publish(&Message::new("metal/end").qos(QoS::ExactlyOnce), b"").unwrap();
        }
    }
    while kind == Kind::Forebay && !is_delivered(admin) {
        assert!(begun.elapsed() < limit(), "the last message is never delivered");
        driver.turn(Duration::from_millis(200), |_, _| {});
    }
    driver.leave(limit());
    arrived
}

/// All of it, with one more in QEMU or without.
pub fn peak(kind: Kind, with_metal: bool) {
    let mut broker = Broker::prepare_as(kind, None);
    let mut other = broker.port();
    let admin = free_port();
    if kind == Kind::Forebay {
        broker.configure(&CONFIG.replace("ADMIN", &admin.to_string()));
        other = broker.tls_port();
    }
    broker.run();
    let port = broker.port();
    let devices = DEVICES + u32::from(with_metal);
    let total = messages() * devices;
    let ready = AtomicUsize::new(0);
    let (reports, arrived, metal) = thread::scope(|scope| {
        let subscriber = scope.spawn(|| subscriber(kind, (other, admin), &ready, total as usize, with_metal));
        while ready.load(Ordering::SeqCst) == 0 && !subscriber.is_finished() {
            thread::sleep(Duration::from_millis(10));
        }
        let metal = with_metal.then(|| Metal::start(port, messages(), RATE * TIMES, limit()));
        let spawn = |number| {
            thread::Builder::new().stack_size(256 * 1_024).spawn_scoped(scope, move || device(port, number)).unwrap()
        };
        let devices: Vec<_> = (0..DEVICES).map(spawn).collect();
        let reports: Vec<Report> = devices.into_iter().map(|device| device.join().unwrap()).collect();
        (reports, subscriber.join().unwrap(), metal)
    });
    assert_eq!(arrived.times.len(), total as usize, "all arrive");
    let sum = |of: fn(&Report) -> u32| reports.iter().map(of).sum::<u32>();
    let published = messages() * DEVICES;
    let counted = (sum(|report| report.counters.accepted), sum(|report| report.counters.acknowledged));
    assert_eq!((counted, sum(|report| report.counters.dropped_with_ticket())), ((published, published), 0));
    let (mut refused, repeated) = (sum(|report| report.refused), sum(|report| report.repeated));
    let overtook = sum(|report| report.overtook);
    println!(
        "{published} messages, {refused} refused for a time and sent again, {repeated} sent again, {overtook} alarms overtook"
    );
    let once =
        |device, number| if device == DEVICES { metal::is_second(number) } else { qos(number) == QoS::ExactlyOnce };
    let twice = arrived.times.iter().filter(|((device, number), times)| once(*device, *number) && **times != 1).count();
    assert_eq!(twice, 0, "QoS 2");
    assert_eq!(repeated, refused, "nothing is sent again but what was refused");
    if let Some(metal) = metal {
        refused += metal.end(&arrived.report.unwrap(), kind == Kind::Forebay, limit());
    }
    if kind == Kind::Forebay {
        assert!(refused > 0, "the queue was full");
        assert!(overtook > 0, "no alarm had anything to overtake");
        // To the one in QEMU that this is all, and from it its account.
        agrees(other, u64::from(total) + if with_metal { 2 } else { 0 }, u64::from(refused));
    }
}

/// The broker has counted the same.
fn agrees(port: u16, messages: u64, refused: u64) {
    let figures = retained_figures(port);
    assert_balanced(&figures);
    let of = |name: &str| figure(&figures, &format!("ledger/{name}"));
    let counted = (of("accepted"), of("delivered"), dropped(&figures), of("expired"), of("queued"));
    assert_eq!(counted, (messages, messages, 0, 0, 0));
    assert_eq!(figure(&figures, "counters/publish_refused"), refused);
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
