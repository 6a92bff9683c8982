//! The broker, its disk, the network and the clients, moved by hand: one thread, no clock but ours.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::task::{Context, Poll, Waker};

use forebay::access::auth::Mechanisms;
use forebay::broker::{Broker, Pager, Request};
use forebay::clock::Clock;
use forebay::config::{Config, QueuePolicy};
use forebay::connection::{Shared, drive, forget_routes, serve_stream};
use forebay::message::Time;
use forebay::store::memory::Failure;
use forebay::store::{Ledger, Recovered};
use forebay_wire::types::Version;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::runtime::Runtime;

use crate::client::{Client, Plan, Taken};
use crate::kept::Kept;

/// A generator of choices (splitmix64): the same seed is the same run.
pub struct Seed(pub u64);

impl Seed {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// One life of the broker, from a start to a crash.
struct Life {
    runtime: Runtime,
    broker: Arc<Broker>,
    shared: Arc<Shared>,
    requests: Receiver<Request>,
}

pub struct World {
    pub seed: Seed,
    pub policy: QueuePolicy,
    pub disk: Kept,
    life: Option<Life>,
    /// Drops that were counted in memory and not committed when the broker crashed.
    pub forgotten: u64,
    /// Messages that were refused with 0x97 in lives that are over.
    pub refused: u64,
    pub config: Arc<Config>,
    pub crashes: u32,
    pub clients: Vec<Client>,
    /// What clients have taken, in the order in which it came to them, by the broker's lives.
    pub arrivals: Vec<Vec<(usize, Taken)>>,
    pub log: Vec<String>,
}

fn config(seed: &mut Seed, policy: QueuePolicy) -> Config {
    let mut config = Config::built_in(std::path::PathBuf::from("simulated"));
    config.queue.policy = policy;
    config.queue.max_messages = if policy == QueuePolicy::Reject { 12 + seed.below(200) } else { 8 + seed.below(12) };
    config.limits.memory_messages = usize::try_from(2 + seed.below(6)).unwrap();
    config.limits.max_inflight = u16::try_from(1 + seed.below(6)).unwrap();
    config
}

impl World {
    pub fn new(number: u64) -> Self {
        let mut seed = Seed(number);
        let policy = match seed.below(6) {
            0 => QueuePolicy::DropOldest,
            1 => QueuePolicy::DropNewest,
            2 => QueuePolicy::KeepLast,
            _ => QueuePolicy::Reject,
        };
        let mut world = Self::empty(seed, policy);
        for subscriber in 0..1 + world.seed.below(3) {
            let filters = vec![("t/#".to_owned(), u8::try_from(1 + world.seed.below(2)).unwrap())];
            world.client(format!("s{subscriber}"), filters, true);
        }
        for publisher in 0..1 + world.seed.below(2) {
            world.client(format!("p{publisher}"), Vec::new(), true);
        }
        world.start();
        world
    }

    /// So many retained messages find room; there are no clients.
    pub fn retaining(number: u64, retained_max: usize) -> Self {
        let mut world = Self::empty(Seed(number), QueuePolicy::Reject);
        let mut config = (*world.config).clone();
        config.limits.max_retained_messages = retained_max;
        // No window holds a subscriber up: what it is sent is in the order in which it was routed, at whatever QoS.
        config.limits.max_inflight = 0;
        world.config = Arc::new(config);
        world.start();
        world
    }

    /// A shared subscription; the sessions of its members end now and then, but for the first member's.
    pub fn with_group(number: u64) -> Self {
        let mut world = Self::empty(Seed(number), QueuePolicy::Reject);
        for member in 0..2 + world.seed.below(3) {
            let name = format!("m{member}");
            let qos = u8::try_from(1 + world.seed.below(2)).unwrap();
            let filters = vec![("$share/g/t/#".to_owned(), qos), (format!("own/{name}"), qos)];
            world.client(name, filters, member == 0);
        }
        for publisher in 0..1 + world.seed.below(2) {
            world.client(format!("p{publisher}"), Vec::new(), true);
        }
        world.start();
        world
    }

    /// Two shared subscriptions to the same topics; every member but the first may be in one or in both, and its session ends now
    /// and then. Their queues are small: now and then none has room.
    pub fn with_two_groups(number: u64) -> Self {
        let mut world = Self::empty(Seed(number), QueuePolicy::Reject);
        let mut config = (*world.config).clone();
        config.queue.max_messages = 6 + world.seed.below(20);
        world.config = Arc::new(config);
        let exactly_once = world.seed.one_in(2);
        for member in 0..2 + world.seed.below(3) {
            let qos = if exactly_once { 2 } else { u8::try_from(1 + world.seed.below(2)).unwrap() };
            let of = if member == 0 { 2 } else { world.seed.below(4) };
            let groups: &[&str] = match of {
                0 => &["$share/g/t/#"],
                1 => &["$share/h/t/#"],
                _ => &["$share/g/t/#", "$share/h/t/#"],
            };
            world.clients.push(Client::new(Plan {
                name: format!("m{member}"),
                version: Version::V5,
                receive_maximum: u16::try_from(1 + world.seed.below(5)).unwrap(),
                filters: groups.iter().map(|filter| ((*filter).to_owned(), qos)).collect(),
                lasting: member == 0,
                numbered: true,
            }));
        }
        for publisher in 0..1 + world.seed.below(2) {
            world.client(format!("p{publisher}"), Vec::new(), true);
        }
        world.start();
        world
    }

    /// A declared queue and a stream; members of the queue, and one reader of the stream.
    pub fn with_queues(number: u64) -> Self {
        let mut world = Self::empty(Seed(number), QueuePolicy::Reject);
        let declared = crate::declared::declared();
        world.config =
            Arc::new(Config { queues: declared.queues, streams: declared.streams, ..(*world.config).clone() });
        for member in 0..1 + world.seed.below(3) {
            let name = format!("m{member}");
            let filters = vec![("$queue/work".to_owned(), 1), (format!("own/{name}"), 2)];
            world.client(name, filters, true);
        }
        world.client("reader".to_owned(), vec![("$stream/log/@earliest".to_owned(), 1)], true);
        for publisher in 0..1 + world.seed.below(2) {
            world.client(format!("p{publisher}"), Vec::new(), true);
        }
        world.start();
        world
    }

    /// A declared queue that is full and a subscriber whose queue drops, with dead letters of both, and of what nobody wants.
    pub fn with_dead_letters(number: u64) -> Self {
        let mut seed = Seed(number);
        let policy = if seed.one_in(2) { QueuePolicy::DropOldest } else { QueuePolicy::DropNewest };
        let mut world = Self::empty(seed, policy);
        let configured = crate::dead::configured();
        world.config = Arc::new(Config {
            queues: configured.queues,
            dead_letters: configured.dead_letters,
            ..(*world.config).clone()
        });
        world.client("s0".to_owned(), vec![("t/#".to_owned(), 2)], true);
        for publisher in 0..1 + world.seed.below(2) {
            world.client(format!("p{publisher}"), Vec::new(), true);
        }
        world.start();
        world
    }

    /// A subscriber for what schedules publish; beside it, clients as in any world.
    pub fn with_schedules(number: u64) -> Self {
        let mut world = Self::empty(Seed(number), QueuePolicy::Reject);
        let (name, filters) = ("watcher".to_owned(), vec![("s".to_owned(), 2)]);
        world.clients.push(Client::new(Plan {
            name,
            version: Version::V5,
            receive_maximum: 3,
            filters,
            lasting: true,
            numbered: false,
        }));
        world.client("p".to_owned(), Vec::new(), true);
        world.start();
        world
    }

    fn empty(mut seed: Seed, policy: QueuePolicy) -> Self {
        let config = Arc::new(config(&mut seed, policy));
        Self {
            seed,
            policy,
            disk: Kept::default(),
            life: None,
            forgotten: 0,
            refused: 0,
            config,
            crashes: 0,
            clients: Vec::new(),
            arrivals: vec![Vec::new()],
            log: Vec::new(),
        }
    }

    /// The same world, in which nothing has happened yet, on the store that the program has.
    pub fn on_a_journal(mut self) -> Self {
        self.end_life();
        self.disk = Kept::journaled(&mut self.seed);
        self.start();
        self
    }

    fn client(&mut self, name: String, filters: Vec<(String, u8)>, lasting: bool) {
        // A clean session of 3.1.1 takes with it, in a crash, what was acknowledged.
        let version = if !lasting || self.seed.one_in(2) { Version::V5 } else { Version::V311 };
        let receive_maximum = u16::try_from(1 + self.seed.below(5)).unwrap();
        self.clients.push(Client::new(Plan { name, version, receive_maximum, filters, lasting, numbered: false }));
    }

    /// What was not committed is gone, and every connection with it.
    pub fn crash(&mut self) {
        self.note("crash");
        self.crashes += 1;
        let (ledger, _) = self.broker().ledger();
        self.refused += self.broker().counters.publish_refused.get();
        self.end_life();
        for client in &mut self.clients {
            client.cut();
        }
        self.arrivals.push(Vec::new());
        let recovered = self.disk.restart(&mut self.seed);
        let stored = recovered.sessions.iter().map(|s| dropped(&s.state.ledger)).sum::<u64>();
        self.forgotten += dropped(&ledger).saturating_sub(stored);
        self.live(recovered);
    }

    fn end_life(&mut self) {
        if let Some(life) = self.life.take() {
            drop(life.runtime);
            life.broker.close_queues();
        }
    }

    fn start(&mut self) {
        let recovered = self.disk.restart(&mut self.seed);
        self.live(recovered);
    }

    fn live(&mut self, recovered: Recovered) {
        forget_routes();
        let (pager, requests) = Pager::new();
        let clock = Clock::by_hand(recovered.clock);
        let broker = Broker::with_clock(self.config.clone(), recovered, pager, Mechanisms::default(), None, clock);
        broker.read_keyed_from(self.disk.reader());
        broker.open_queues();
        let shared = Shared::new(&broker, self.config.listeners[0].clone(), None);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.spawn(drive());
        // As a start does before it lets anybody in.
        broker.settle_due();
        self.life = Some(Life { runtime, broker, shared, requests });
    }

    pub fn note(&mut self, what: impl Into<String>) {
        self.log.push(what.into());
    }

    fn life(&self) -> &Life {
        self.life.as_ref().unwrap()
    }

    pub fn broker(&self) -> Arc<Broker> {
        self.life().broker.clone()
    }

    /// A new connection of a client; one that it has is left half open now and then, so that it is taken over.
    pub fn connect(&mut self, at: usize) {
        let room = usize::try_from(32 + self.seed.below(2000)).unwrap();
        self.note(format!("{} connects", self.clients[at].plan.name));
        let near = self.dial(room);
        self.clients[at].connect(near);
    }

    /// A network connection that holds so many bytes in each direction.
    pub fn dial(&self, room: usize) -> DuplexStream {
        let (near, far) = tokio::io::duplex(room);
        let shared = self.life().shared.clone();
        self.life().runtime.spawn(async move { serve_stream(far, &shared).await });
        near
    }

    /// One more task beside the broker's connections.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.life().runtime.spawn(task);
    }

    /// Lets the broker's connections run a little.
    pub fn run(&mut self, turns: u64) {
        self.life().runtime.block_on(async {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        });
        self.broker().serve_queues();
    }

    /// One commit, which may fail: then false. Where the power goes meanwhile the broker is started again, and there is nothing
    /// that failed.
    pub fn commit(&mut self, may_fail: bool) -> bool {
        if may_fail && self.seed.one_in(20) {
            let how = self.disk.disturb(&mut self.seed);
            self.note(how);
        }
        let wait = self.seed.below(20);
        let done = self.round(may_fail.then_some(wait));
        if !self.disk.calm() {
            self.lose_power();
            return true;
        }
        if !done {
            let now = self.broker().clock.now();
            self.disk.store().refresh(now);
        }
        assert!(!self.disk.store().outdated(), "what is in memory can be had of the file");
        done
    }

    /// Others may have heard of what was done before.
    fn lose_power(&mut self) {
        self.note("the power went");
        if self.seed.one_in(2) {
            for at in 0..self.clients.len() {
                self.run(2);
                self.carry(at, 4096);
            }
        }
        self.crash();
    }

    /// One commit that fails as it is told to. With `wait`, messages that are not so many milliseconds old may be left for
    /// the next.
    pub fn commit_of(&mut self, wait: Option<u64>, failure: Failure) -> bool {
        if failure != Failure::None {
            self.note(format!("commit fails: {failure:?}"));
            self.disk.fail(failure);
        }
        let done = self.round(wait);
        self.disk.fail(Failure::None);
        done
    }

    fn round(&mut self, wait: Option<u64>) -> bool {
        let broker = self.broker();
        let cutoff = wait.map_or(u64::MAX, |wait| broker.clock.now().0.saturating_sub(wait));
        let done = broker.writer.round(&broker, self.disk.store(), Time(cutoff));
        self.note("commit");
        done
    }

    /// What is in the journal, if there is one, goes to redb; the power may go.
    pub fn fold(&mut self) {
        if self.seed.one_in(4) {
            let how = self.disk.disturb(&mut self.seed);
            self.note(how);
        }
        self.note("fold");
        self.disk.fold();
        if !self.disk.calm() {
            self.lose_power();
        }
    }

    /// Serves the pages that were asked for until now.
    pub fn page(&mut self) {
        let broker = self.broker();
        let requests: Vec<Request> = self.life().requests.try_iter().collect();
        for (slot, page) in requests {
            Pager::serve(&broker, self.disk.reader().as_ref(), &slot, page);
        }
    }

    pub fn advance(&mut self, ms: u64) {
        self.life().broker.clock.advance(ms);
        self.life().broker.settle_due();
    }

    /// Moves bytes between a client and its connection, `most` of them in each direction.
    pub fn carry(&mut self, at: usize, most: usize) {
        let client = &mut self.clients[at];
        let Some(stream) = &mut client.stream else { return };
        let mut cx = Context::from_waker(Waker::noop());
        let some = client.output.len().min(most);
        if some > 0 {
            match Pin::new(&mut *stream).poll_write(&mut cx, &client.output[..some]) {
                Poll::Ready(Ok(n)) => drop(client.output.drain(..n)),
                Poll::Ready(Err(_)) => return client.cut(),
                Poll::Pending => {}
            }
        }
        let mut bytes = vec![0; most];
        let mut buf = ReadBuf::new(&mut bytes);
        match Pin::new(stream).poll_read(&mut cx, &mut buf) {
            Poll::Ready(Ok(())) if buf.filled().is_empty() => return client.cut(),
            Poll::Ready(Ok(())) => client.input.extend_from_slice(buf.filled()),
            Poll::Ready(Err(_)) => return client.cut(),
            Poll::Pending => {}
        }
        let before = client.taken.len();
        client.handle();
        let came = client.taken.iter().skip(before).map(|taken| (at, taken.clone()));
        self.arrivals.last_mut().unwrap().extend(came);
        self.log.append(&mut client.log);
    }

    /// The ledger's sum, of every session and of all together, and what every session must be after every step.
    pub fn check_ledger(&self) {
        for slot in self.broker().all_slots() {
            let (ledger, queued) = slot.look(|session| session.ledger());
            let checked = slot.look(|session| session.check().map_err(|what| (session.client_id().clone(), what)));
            assert_eq!(checked, Ok(()));
            assert_sum(&ledger, queued);
        }
        let (ledger, queued) = self.broker().ledger();
        assert_sum(&ledger, queued);
    }
}

fn dropped(ledger: &Ledger) -> u64 {
    ledger.dropped.iter().sum::<u64>() + ledger.expired
}

fn assert_sum(ledger: &Ledger, queued: u64) {
    let dropped: u64 = ledger.dropped.iter().sum();
    assert_eq!(ledger.accepted, ledger.delivered + queued + ledger.expired + dropped, "{ledger:?}, {queued} queued");
}
