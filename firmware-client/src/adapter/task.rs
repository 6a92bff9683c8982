//! The client as a task, over `embedded-io-async`, and a handle that any number of other tasks can have. No executor is
//! asked for: [`Runner::run`] is a future.
//!
//! ```
//! use core::cell::Cell;
//! use embassy_sync::blocking_mutex::raw::NoopRawMutex;
//! use forebay_firmware::adapter::task::{Connector, Device, Handle, Memory, Time};
//! use forebay_firmware::{Message, Options, PublishError};
//!
//! async fn sensor<T: Time>(handle: Handle<'_, '_, NoopRawMutex, T>) -> Result<(), PublishError> {
//!     loop {
//!         // Waits for room; what is published waits for the connection by itself.
//!         let ticket = handle.publish_wait(&Message::new("sensor-17/temperature"), b"21.5").await?;
//!         // Until it is safe with the server.
//!         handle.ended(ticket).await;
//!     }
//! }
//!
//! async fn commands<T: Time>(handle: Handle<'_, '_, NoopRawMutex, T>) {
//!     let mut buffer = [0; 256];
//!     loop {
//!         if let Ok(message) = handle.receive(&mut buffer).await {
//!             // It is acknowledged when the next one is asked for.
//!             let _ = (message.topic, message.payload);
//!         }
//!     }
//! }
//!
//! async fn connection<T: Time>(time: T, mut network: impl Connector) {
//!     let options = Options::new("sensor-17");
//!     let (mut outbox, mut receive, mut scratch) = ([0; 2048], [0; 512], [0; 512]);
//!     let memory = Memory { outbox: &mut outbox, receive: &mut receive, scratch: &mut scratch };
//!     let mut device = Device::<NoopRawMutex, _>::new(&options, memory, time);
//!     let (mut runner, handle) = device.split();
//!     // In embassy each of them is a task of its own, and the device lies in a `StaticCell`.
//!     let _ = (runner.run(&mut network), sensor(handle), commands(handle));
//! }
//! ```
//!
//! # Cancelling
//!
//! Every future here may be dropped at every await. A [`Runner::run`] that is dropped takes the connection with it, and the
//! next one goes on with the session; a message is handed to a receiver, or a ticket to a publisher, in the same poll that
//! completes its future.
//!
//! # What it asks of a transport
//!
//! A read that is dropped before it is done has taken nothing (as in `embassy-net` and `embedded-tls`): the task reads until
//! something is to be sent. Writes are never dropped, unless the connection is given up with them.

mod drive;
mod handle;

pub use drive::{Connector, Runner, Time};
pub use handle::{Delivery, Handle, TooLarge};

use crate::store::Store;
use crate::{Client, Event, Input, Options};
use core::cell::RefCell;
use embassy_sync::blocking_mutex::Mutex;
use embassy_sync::blocking_mutex::raw::RawMutex;
use embassy_sync::waitqueue::{MultiWakerRegistration, WakerRegistration};

/// How many tasks can wait without being woken in vain.
const WAITERS: usize = 8;

/// What a device lends its client.
#[derive(Debug)]
pub struct Memory<'a> {
    /// Messages and subscriptions, see [`Client::new`].
    pub outbox: &'a mut [u8],
    /// What has come, see [`Input`].
    pub receive: &'a mut [u8],
    /// What passes between the client and the transport: one half each way. From 128 bytes on; the larger, the fewer
    /// calls.
    pub scratch: &'a mut [u8],
}

/// A client that tasks share. `M` says who they are: `NoopRawMutex` for tasks of one executor, a mutex of critical sections
/// for others. The mutex is held while the client works, which includes moving messages in the outbox, and never over an
/// await; for interrupts there is the [mailbox](crate::mailbox).
pub struct Device<'a, M: RawMutex, T> {
    shared: Shared<'a, M, T>,
    scratch: &'a mut [u8],
}

/// What the runner and the handles share.
pub(super) struct Shared<'a, M: RawMutex, T> {
    inner: Mutex<M, RefCell<Inner<'a>>>,
    time: T,
}

struct Inner<'a> {
    client: Client<'a>,
    input: Input<'a>,
    on_event: Option<fn(&Event<'_>)>,
    /// Something is to be done.
    work: bool,
    task: WakerRegistration,
    waiters: MultiWakerRegistration<WAITERS>,
}

impl Inner<'_> {
    fn call_task(&mut self) {
        self.work = true;
        self.task.wake();
    }
}

impl<'a, M: RawMutex, T: Time> Device<'a, M, T> {
    /// A client that has nothing yet, see [`Client::new`].
    pub fn new(options: &'a Options<'a>, memory: Memory<'a>, time: T) -> Self {
        let client = Client::new(options, memory.outbox);
        let inner = Inner {
            client,
            input: Input::new(memory.receive),
            on_event: None,
            work: false,
            task: WakerRegistration::new(),
            waiters: MultiWakerRegistration::new(),
        };
        Self { shared: Shared { inner: Mutex::new(RefCell::new(inner)), time }, scratch: memory.scratch }
    }

    /// Calls `on_event` for every event that is not a message. It must not use a handle.
    #[must_use]
    pub fn on_event(mut self, on_event: fn(&Event<'_>)) -> Self {
        self.shared.inner.get_mut().get_mut().on_event = Some(on_event);
        self
    }

    /// The client itself, before it is shared: to [import](Client::import) a session.
    pub fn client(&mut self) -> &mut Client<'a> {
        &mut self.shared.inner.get_mut().get_mut().client
    }

    /// The part that serves the connection, and the part that everyone else has.
    pub fn split(&mut self) -> (Runner<'_, 'a, M, T>, Handle<'_, 'a, M, T>) {
        let shared = &self.shared;
        (Runner::new(shared, self.scratch, ()), Handle::new(shared))
    }

    /// The same, with a store behind the outbox.
    pub fn split_with<S: Store>(&mut self, store: S) -> (Runner<'_, 'a, M, T, S>, Handle<'_, 'a, M, T>) {
        let shared = &self.shared;
        (Runner::new(shared, self.scratch, store), Handle::new(shared))
    }
}

impl<'a, M: RawMutex, T: Time> Shared<'a, M, T> {
    /// `None` only from within a call-back of the client.
    fn with<R>(&self, f: impl FnOnce(u64, &mut Inner<'a>) -> R) -> Option<R> {
        let now = self.time.now();
        self.inner.lock(|inner| inner.try_borrow_mut().ok().map(|mut inner| f(now, &mut inner)))
    }
}
