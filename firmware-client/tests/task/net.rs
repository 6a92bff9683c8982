//! A network of one link, a clock, and an executor that polls only what was woken.

use crate::broker::Broker;
use embedded_io_async::{ErrorKind, ErrorType, Read, Write};
use forebay_firmware::adapter::task::{Connector, Time};
use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

pub struct State {
    pub now: u64,
    pub broker: Broker,
    down: VecDeque<u8>,
    up: VecDeque<u8>,
    /// There is a connection.
    open: bool,
    carries: bool,
    /// Nobody answers.
    gone: bool,
    /// The connection is broken.
    broken: bool,
    /// It takes nothing any more; what was on its way comes.
    deaf: bool,
    reader: Option<Waker>,
    alarms: Vec<(u64, Waker)>,
    /// The next call of the transport waits for its second poll.
    lazy: bool,
    unflushed: bool,
}

#[derive(Clone)]
pub struct Net(Rc<RefCell<State>>);

impl Net {
    pub fn new(v5: bool) -> Self {
        Self(Rc::new(RefCell::new(State {
            now: 1_000,
            broker: Broker::new(v5),
            down: VecDeque::new(),
            up: VecDeque::new(),
            open: false,
            carries: true,
            gone: false,
            broken: false,
            deaf: false,
            reader: None,
            alarms: Vec::new(),
            lazy: false,
            unflushed: false,
        })))
    }

    pub fn now(&self) -> u64 {
        self.0.borrow().now
    }

    pub fn broker(&self) -> RefMut<'_, Broker> {
        RefMut::map(self.0.borrow_mut(), |state| &mut state.broker)
    }

    /// Numbers of the messages that the broker took.
    pub fn taken(&self) -> Vec<u32> {
        let number = |payload: &[u8]| u32::from_be_bytes(payload[..4].try_into().unwrap());
        self.0.borrow().broker.taken.iter().map(|taken| number(&taken.payload)).collect()
    }

    pub fn carries(&self, carries: bool) {
        self.0.borrow_mut().carries = carries;
    }

    /// The broker can be reached, or not; a connection that there is breaks then.
    pub fn reachable(&self, reachable: bool) {
        let mut state = self.0.borrow_mut();
        state.gone = !reachable;
        if !reachable && state.open {
            state.broken = true;
            state.reader.take().into_iter().for_each(Waker::wake);
        }
    }

    /// The server has hung up: this connection takes nothing any more, and what was said before still comes.
    pub fn deafen(&self) {
        let mut state = self.0.borrow_mut();
        state.deaf = true;
        let out = std::mem::take(&mut state.broker.out);
        state.down.extend(out);
    }

    pub fn connector(&self) -> Net {
        self.clone()
    }

    pub async fn sleep(&self, ms: u64) {
        let at = self.now() + ms;
        self.wait_until(at).await;
    }

    /// Moves what is on its way; whether anything did. What was written and not flushed stays where it is.
    pub fn carry(&self) -> bool {
        let mut state = self.0.borrow_mut();
        if !state.open || !state.carries || state.broken {
            return false;
        }
        let mut moved = false;
        if !state.unflushed && !state.up.is_empty() {
            let bytes: Vec<u8> = state.up.drain(..).collect();
            let now = state.now;
            state.broker.bytes(now, &bytes);
            moved = true;
        }
        let out = std::mem::take(&mut state.broker.out);
        moved |= !out.is_empty();
        state.down.extend(out);
        if (!state.down.is_empty() || state.broker.hang_up)
            && let Some(reader) = state.reader.take()
        {
            reader.wake();
            moved = true;
        }
        moved
    }

    /// Lets time pass until the next alarm; whether there is one.
    pub fn pass(&self) -> bool {
        let mut state = self.0.borrow_mut();
        let Some(next) = state.alarms.iter().map(|(at, _)| *at).min() else { return false };
        state.now = state.now.max(next);
        let now = state.now;
        let (due, later) = std::mem::take(&mut state.alarms).into_iter().partition(|(at, _)| *at <= now);
        state.alarms = later;
        let due: Vec<(u64, Waker)> = due;
        due.into_iter().for_each(|(_, waker)| waker.wake());
        true
    }

    pub fn block_on<R>(&self, future: impl Future<Output = R>) -> R {
        self.block_on_while(future, std::future::pending::<()>())
    }

    pub fn block_on_while<R, B>(&self, future: impl Future<Output = R>, background: impl Future<Output = B>) -> R {
        let mut background = Task::new(Box::pin(background));
        let mut task = Task::new(Box::pin(future));
        for _ in 0..1_000_000 {
            let mut polled = background.poll().is_some();
            if let Some(poll) = task.poll() {
                polled = true;
                if let Poll::Ready(result) = poll {
                    return result;
                }
            }
            if !polled && !self.carry() {
                assert!(self.pass(), "nobody will ever wake anybody");
            }
        }
        panic!("it never ends");
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A future that is polled when it was woken.
pub struct Task<'f, R> {
    pub future: Pin<Box<dyn Future<Output = R> + 'f>>,
    woken: Arc<Flag>,
    pub polls: usize,
}

impl<'f, R> Task<'f, R> {
    pub fn new(future: Pin<Box<dyn Future<Output = R> + 'f>>) -> Self {
        Self { future, woken: Arc::new(Flag(AtomicBool::new(true))), polls: 0 }
    }

    /// `None`: it was not woken.
    pub fn poll(&mut self) -> Option<Poll<R>> {
        if !self.woken.0.swap(false, Ordering::SeqCst) {
            return None;
        }
        self.polls += 1;
        // A copy, as those that are registered are: to Miri the first one is another waker, and who waits in the place of
        // another wakes it.
        let waker = Waker::from(Arc::clone(&self.woken)).clone();
        Some(self.future.as_mut().poll(&mut Context::from_waker(&waker)))
    }
}

impl Time for Net {
    fn now(&self) -> u64 {
        Net::now(self)
    }

    async fn wait_until(&self, at: u64) {
        poll_fn(|context| {
            let mut state = self.0.borrow_mut();
            if state.now >= at {
                return Poll::Ready(());
            }
            state.alarms.push((at, context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

pub struct Link(Net);

impl Drop for Link {
    fn drop(&mut self) {
        let mut state = self.0.0.borrow_mut();
        // What was flushed is on its way, and arrives.
        let bytes: Vec<u8> = if state.unflushed { Vec::new() } else { state.up.drain(..).collect() };
        let now = state.now;
        if state.carries && !state.broken {
            state.broker.bytes(now, &bytes);
        }
        state.open = false;
        state.up.clear();
        state.down.clear();
        state.reader = None;
        state.broker.out.clear();
        state.broker.cut();
    }
}

impl Connector for Net {
    type Error = ErrorKind;
    type Transport<'c> = Link;

    async fn connect(&mut self) -> Result<Link, ErrorKind> {
        once(self).await;
        let mut state = self.0.borrow_mut();
        assert!(!state.open, "one connection at a time");
        if state.gone {
            return Err(ErrorKind::ConnectionRefused);
        }
        (state.open, state.broken, state.deaf) = (true, false, false);
        state.unflushed = false;
        state.broker.accept();
        drop(state);
        Ok(Link(self.clone()))
    }
}

/// Is ready at the second poll.
async fn once(net: &Net) {
    let mut first = true;
    poll_fn(|context| {
        if std::mem::take(&mut first) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        net.0.borrow_mut().lazy = false;
        Poll::Ready(())
    })
    .await;
}

impl ErrorType for Link {
    type Error = ErrorKind;
}

impl Read for Link {
    async fn read(&mut self, buf: &mut [u8]) -> Result<usize, ErrorKind> {
        poll_fn(|context| {
            let mut state = self.0.0.borrow_mut();
            if state.broken {
                return Poll::Ready(Err(ErrorKind::ConnectionReset));
            }
            if state.down.is_empty() {
                if state.broker.hang_up {
                    return Poll::Ready(Ok(0));
                }
                state.reader = Some(context.waker().clone());
                return Poll::Pending;
            }
            let len = buf.len().min(state.down.len()).min(11);
            for (to, from) in buf.iter_mut().zip(state.down.drain(..len)) {
                *to = from;
            }
            Poll::Ready(Ok(len))
        })
        .await
    }
}

impl Write for Link {
    async fn write(&mut self, buf: &[u8]) -> Result<usize, ErrorKind> {
        once(&self.0).await;
        let mut state = self.0.0.borrow_mut();
        if state.broken || state.deaf {
            return Err(ErrorKind::ConnectionReset);
        }
        let len = buf.len().min(17);
        state.up.extend(&buf[..len]);
        state.unflushed = true;
        Ok(len)
    }

    async fn flush(&mut self) -> Result<(), ErrorKind> {
        once(&self.0).await;
        self.0.0.borrow_mut().unflushed = false;
        Ok(())
    }
}
