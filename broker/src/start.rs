//! The broker's threads: workers, the store's writer, the pager, the keeper.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use forebay_wire::reason::ReasonCode;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use crate::access::Access;
use crate::access::auth::Mechanisms;
use crate::bridge::Bridges;
use crate::broker::{Broker, Pager, Stop};
use crate::config::{Config, Place};
use crate::connection::{self, Shared, handshake, worker};
use crate::store::{Recovered, Store};
use crate::transport::{Acceptor, BoundListener, Handshakes, Opened, Peer, Permit, Portable, Turnstile};

/// Between two looks for routes that an idle worker still holds.
const TIDY: Duration = Duration::from_secs(10);
/// Polls of tasks between two looks at the sockets: one task is all connections.
const LOOK_AT_SOCKETS: u32 = 1;
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a broker is made of.
pub struct RunArgs {
    /// The configuration.
    pub config: Arc<Config>,
    /// The open addresses.
    pub listeners: Vec<BoundListener>,
    /// The store.
    pub store: Box<dyn Store>,
    /// How full the store is, where it can tell.
    pub gauge: Option<Arc<crate::store::Gauge>>,
    /// What the store had.
    pub recovered: Recovered,
    /// Enhanced authentication.
    pub mechanisms: Mechanisms,
    /// Who may do what; `None`: everybody everything.
    pub access: Option<Arc<Access>>,
}

/// A running broker.
pub struct Running {
    broker: Arc<Broker>,
    reader: Arc<dyn crate::store::Reader>,
    upkeep: Option<Arc<dyn crate::store::upkeep::Upkeep>>,
    stop_workers: watch::Sender<bool>,
    stop_keeper: Arc<Stop>,
    workers: Vec<JoinHandle<()>>,
    writer: JoinHandle<()>,
    others: Vec<JoinHandle<()>>,
    bridges: Option<Bridges>,
    queues: Option<JoinHandle<()>>,
}

struct Accepted {
    socket: Portable,
    peer: Peer,
    on: Arc<Shared>,
    permit: Permit,
}

/// Starts all threads.
///
/// # Errors
/// A thread or a runtime cannot be made, or a listener cannot be given to it.
pub fn start(args: RunArgs) -> std::io::Result<Running> {
    let (pager, requests) = Pager::new();
    let broker = Broker::new(args.config.clone(), args.recovered, pager, args.mechanisms, args.gauge);
    broker.set_access(args.access);
    let mut store = args.store;
    let (reader, upkeep) = (store.reader(), store.upkeep());
    broker.read_keyed_from(reader.clone());
    let writer = spawn("writer", {
        let broker = broker.clone();
        move || broker.writer.run(&broker, &mut *store)
    })?;
    let mut others = vec![spawn("pager", {
        let (broker, reader) = (broker.clone(), reader.clone());
        move || Pager::run(&broker, &*reader, &requests)
    })?];
    broker.load_dynamic(&*reader)?;
    if broker.has_dynamic() {
        let broker = broker.clone();
        others.push(spawn("access", move || broker.serve_dynamic())?);
    }
    let (stop_workers, stopped) = watch::channel(false);
    broker.open_queues();
    let queues = match broker.queues.is_empty() && broker.streams.is_empty() {
        true => None,
        false => Some(spawn("queues", {
            let broker = broker.clone();
            move || broker.run_queues()
        })?),
    };
    let bridges = Bridges::start(&broker)?;
    // Before anybody is let in: what is due of sessions that have ended must not come after what their clients do next.
    broker.settle_due();
    // What it sends is for queues and bridges too, which must be open.
    let stop_keeper = Arc::new(Stop::default());
    others.push(spawn("keeper", {
        let (broker, stop) = (broker.clone(), stop_keeper.clone());
        move || broker.keep(&stop)
    })?);
    let workers = start_workers(&broker, args.listeners, &stopped)?;
    Ok(Running { bridges, queues, broker, reader, upkeep, stop_workers, stop_keeper, workers, writer, others })
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

fn start_workers(
    broker: &Arc<Broker>,
    listeners: Vec<BoundListener>,
    stopped: &watch::Receiver<bool>,
) -> std::io::Result<Vec<JoinHandle<()>>> {
    let count = broker.config.workers.get();
    let mut inboxes = Vec::with_capacity(count);
    let mut outboxes = Vec::with_capacity(count);
    for _ in 0..count {
        // Bounded by the handshake permits that travel with what it holds.
        let (send, receive) = mpsc::unbounded_channel();
        outboxes.push(send);
        inboxes.push(receive);
    }
    // Here and not where they are accepted: who finds the API open finds every listener in its figures.
    let listeners = listeners.into_iter().map(|bound| (Shared::new(broker, bound.config, bound.tls), bound.sockets));
    let mut acceptors = Some(Acceptors { listeners: listeners.collect(), outboxes });
    let mut workers = Vec::with_capacity(count);
    for (number, inbox) in inboxes.into_iter().enumerate() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().event_interval(LOOK_AT_SOCKETS).build()?;
        let (acceptors, stopped) = (acceptors.take(), stopped.clone());
        workers.push(spawn(&format!("worker-{number}"), move || work(&runtime, inbox, acceptors, stopped))?);
    }
    Ok(workers)
}

/// Accepting is done by the first worker; connections are dealt to all in turn.
struct Acceptors {
    listeners: Vec<(Arc<Shared>, Vec<Opened>)>,
    outboxes: Vec<mpsc::UnboundedSender<Accepted>>,
}

fn work(
    runtime: &Runtime,
    mut inbox: mpsc::UnboundedReceiver<Accepted>,
    acceptors: Option<Acceptors>,
    mut stopped: watch::Receiver<bool>,
) {
    runtime.block_on(async {
        tokio::spawn(connection::drive());
        if let Some(acceptors) = acceptors {
            acceptors.spawn();
        }
        let mut tidy = tokio::time::interval(TIDY);
        loop {
            tokio::select! {
                Some(accepted) = inbox.recv() => match accepted.socket.put_down() {
                    Ok(socket) => {
                        tokio::spawn(handshake::serve(socket, accepted.peer, accepted.on, accepted.permit));
                    }
                    Err(error) => tracing::warn!("a connection cannot be served: {error}"),
                },
                _ = tidy.tick() => worker::tidy(),
                _ = stopped.changed() => break,
            }
        }
    });
}

impl Acceptors {
    fn spawn(self) {
        let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        for (on, sockets) in self.listeners {
            let (all, with_one) = on.listener.bounds.handshakes(&on.broker.config.limits);
            // All who come by a proxy, or by a Unix socket, have one address here.
            let shared_address = on.listener.proxy_protocol || matches!(on.listener.place, Place::Unix(_));
            let handshakes = Handshakes::new(all, if shared_address { all } else { with_one });
            let turnstile = on.listener.admission.connects_per_s.map(|per_s| Arc::new(Turnstile::new(per_s)));
            for socket in sockets {
                match Acceptor::new(socket) {
                    Ok(acceptor) => {
                        let entry = Entry { acceptor, handshakes: handshakes.clone(), turnstile: turnstile.clone() };
                        tokio::spawn(accept(entry, on.clone(), self.outboxes.clone(), next.clone()));
                    }
                    Err(error) => tracing::error!(listener = on.listener.url, "cannot be served: {error}"),
                }
            }
        }
    }
}

/// One socket that listens, and what those who come by it have to pass.
struct Entry {
    acceptor: Acceptor,
    handshakes: Arc<Handshakes>,
    turnstile: Option<Arc<Turnstile>>,
}

/// Accepts while there are permits for handshakes of this listener: more wait in the system's backlog, which costs nobody
/// anything.
async fn accept(
    entry: Entry,
    on: Arc<Shared>,
    outboxes: Vec<mpsc::UnboundedSender<Accepted>>,
    next: Arc<std::sync::atomic::AtomicUsize>,
) {
    loop {
        let (socket, peer) = match entry.acceptor.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(listener = on.listener.url, "cannot accept: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let wait = entry.turnstile.as_ref().map_or(Duration::ZERO, |turnstile| turnstile.wait(Instant::now()));
        if !wait.is_zero() {
            on.broker.counters.sockets_delayed.add(1);
            tokio::time::sleep(wait).await;
        }
        let Some(permit) = entry.handshakes.enter(peer.counted_as()).await else {
            on.broker.counters.handshakes_refused.add(1);
            continue;
        };
        on.broker.counters.sockets_accepted.add(1);
        on.sockets.fetch_add(1, Ordering::Relaxed);
        let turn = next.fetch_add(1, Ordering::Relaxed) % outboxes.len().max(1);
        if turn == 0 {
            // This worker's own.
            tokio::spawn(handshake::serve(socket, peer, on.clone(), permit));
            continue;
        }
        if let (Ok(socket), Some(outbox)) = (socket.carry(), outboxes.get(turn)) {
            let _ = outbox.send(Accepted { socket, peer, on: on.clone(), permit });
        }
    }
}

impl Running {
    /// The broker.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Reads queues from disk.
    #[must_use]
    pub fn reader(&self) -> &Arc<dyn crate::store::Reader> {
        &self.reader
    }

    /// What operators may do with the store.
    #[must_use]
    pub fn upkeep(&self) -> Option<&Arc<dyn crate::store::upkeep::Upkeep>> {
        self.upkeep.as_ref()
    }

    /// Tells every client, waits (for as long as the configuration says) until they are gone, makes the last commit and
    /// ends all threads.
    pub fn stop(self) {
        let broker = &self.broker;
        broker.stopping.store(true, Ordering::Relaxed);
        let until = Instant::now() + broker.live().shutdown_grace;
        while broker.connections.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            for slot in broker.all_slots() {
                if slot.online() && slot.kicked().is_none() {
                    slot.kick(ReasonCode::ServerShuttingDown as u8);
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(bridges) = self.bridges {
            bridges.stop();
        }
        let _ = self.stop_workers.send(true);
        for worker in self.workers {
            let _ = worker.join();
        }
        broker.queues.inbox().stop();
        if let Some(queues) = self.queues {
            let _ = queues.join();
        }
        broker.close_queues();
        self.stop_keeper.stop();
        broker.pager.stop();
        broker.stop_dynamic();
        for other in self.others {
            let _ = other.join();
        }
        broker.close_all_windows();
        broker.writer.stop();
        let _ = self.writer.join();
    }
}
