//! The broker's threads: workers, the store's writer, the pager, the keeper.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use forebay_wire::reason::ReasonCode;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::auth::Mechanisms;
use crate::broker::{Broker, Pager, Stop};
use crate::config::Config;
use crate::connection::{self, Shared, handshake, worker};
use crate::listener::BoundListener;
use crate::store::{Recovered, Store};

/// Between two looks for routes that an idle worker still holds.
const TIDY: Duration = Duration::from_secs(10);
/// Polls of tasks between two looks at the sockets: one task is all connections.
const LOOK_AT_SOCKETS: u32 = 2;
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
    pub gauge: Option<Arc<crate::store::redb::Gauge>>,
    /// What the store had.
    pub recovered: Recovered,
    /// Enhanced authentication.
    pub mechanisms: Mechanisms,
}

/// A running broker.
pub struct Running {
    broker: Arc<Broker>,
    stop_workers: watch::Sender<bool>,
    stop_keeper: Arc<Stop>,
    workers: Vec<JoinHandle<()>>,
    writer: JoinHandle<()>,
    others: Vec<JoinHandle<()>>,
}

struct Accepted {
    socket: std::net::TcpStream,
    on: Arc<Shared>,
    permit: OwnedSemaphorePermit,
}

/// Starts all threads.
///
/// # Errors
/// A thread or a runtime cannot be made, or a listener cannot be given to it.
pub fn start(args: RunArgs) -> std::io::Result<Running> {
    let (pager, requests) = Pager::new();
    let broker = Broker::new(args.config.clone(), args.recovered, pager, args.mechanisms, args.gauge);
    let mut store = args.store;
    let reader = store.reader();
    let writer = spawn("writer", {
        let broker = broker.clone();
        move || broker.writer.run(&broker, &mut *store)
    })?;
    let stop_keeper = Arc::new(Stop::default());
    let others = vec![
        spawn("pager", {
            let broker = broker.clone();
            move || Pager::run(&broker, &*reader, &requests)
        })?,
        spawn("keeper", {
            let (broker, stop) = (broker.clone(), stop_keeper.clone());
            move || broker.keep(&stop)
        })?,
    ];
    let (stop_workers, stopped) = watch::channel(false);
    let workers = start_workers(&broker, args.listeners, &stopped)?;
    Ok(Running { broker, stop_workers, stop_keeper, workers, writer, others })
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
    let handshakes = Arc::new(Semaphore::new(broker.config.limits.max_handshakes));
    let mut inboxes = Vec::with_capacity(count);
    let mut outboxes = Vec::with_capacity(count);
    for _ in 0..count {
        // Bounded by the handshake permits that travel with what it holds.
        let (send, receive) = mpsc::unbounded_channel();
        outboxes.push(send);
        inboxes.push(receive);
    }
    let mut acceptors = Some(Acceptors { broker: broker.clone(), listeners, outboxes, handshakes });
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
    broker: Arc<Broker>,
    listeners: Vec<BoundListener>,
    outboxes: Vec<mpsc::UnboundedSender<Accepted>>,
    handshakes: Arc<Semaphore>,
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
                Some(accepted) = inbox.recv() => match TcpStream::from_std(accepted.socket) {
                    Ok(socket) => {
                        tokio::spawn(handshake::serve(socket, accepted.on, accepted.permit));
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
        for bound in self.listeners {
            let on = Shared::new(&self.broker, bound.config, bound.tls);
            match TcpListener::from_std(bound.listener) {
                Ok(listener) => {
                    let (outboxes, handshakes) = (self.outboxes.clone(), self.handshakes.clone());
                    tokio::spawn(accept(listener, on, outboxes, handshakes, next.clone()));
                }
                Err(error) => tracing::error!(listener = on.listener.url, "cannot be served: {error}"),
            }
        }
    }
}

/// Accepts while there are permits: more wait in the system's backlog, which costs nobody anything.
async fn accept(
    listener: TcpListener,
    on: Arc<Shared>,
    outboxes: Vec<mpsc::UnboundedSender<Accepted>>,
    handshakes: Arc<Semaphore>,
    next: Arc<std::sync::atomic::AtomicUsize>,
) {
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(listener = on.listener.url, "cannot accept: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        on.broker.counters.sockets_accepted.add(1);
        on.sockets.fetch_add(1, Ordering::Relaxed);
        let turn = next.fetch_add(1, Ordering::Relaxed) % outboxes.len().max(1);
        if turn == 0 {
            // This worker's own.
            tokio::spawn(handshake::serve(socket, on.clone(), permit));
            continue;
        }
        if let (Ok(socket), Some(outbox)) = (socket.into_std(), outboxes.get(turn)) {
            let _ = outbox.send(Accepted { socket, on: on.clone(), permit });
        }
    }
}

impl Running {
    /// The broker.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Tells every client, waits (for as long as the configuration says) until they are gone, makes the last commit and
    /// ends all threads.
    pub fn stop(self) {
        let broker = &self.broker;
        broker.stopping.store(true, Ordering::Relaxed);
        let until = Instant::now() + broker.config.shutdown_grace;
        while broker.connections.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            for slot in broker.all_slots() {
                if slot.online() && slot.kicked().is_none() {
                    slot.kick(ReasonCode::ServerShuttingDown as u8);
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.stop_workers.send(true);
        for worker in self.workers {
            let _ = worker.join();
        }
        self.stop_keeper.stop();
        broker.pager.stop();
        for other in self.others {
            let _ = other.join();
        }
        broker.writer.stop();
        let _ = self.writer.join();
    }
}
