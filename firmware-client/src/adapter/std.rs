//! The client over `std`: on Linux, and in tests. A [`Driver`] belongs to one thread, which calls [`Driver::turn`] in its
//! loop and publishes between the turns.
//!
//! ```no_run
//! use forebay_firmware::adapter::std::{Driver, tcp};
//! use forebay_firmware::{Client, Event, Input, Message, Options};
//! use std::time::Duration;
//!
//! let options = Options::new("gateway-3");
//! let (mut outbox, mut receive) = (vec![0; 64 * 1024], vec![0; 4 * 1024]);
//! let client = Client::new(&options, &mut outbox);
//! let connect = tcp("broker.example:1883", Duration::from_secs(5));
//! let mut driver = Driver::new(client, Input::new(&mut receive), connect);
//! driver.client().subscribe("gateway-3/set/#", forebay_firmware::QoS::AtLeastOnce)?;
//! loop {
//!     driver.publish(&Message::new("gateway-3/temperature"), b"21.5")?;
//!     driver.turn(Duration::from_secs(1), |_, event| {
//!         if let Event::Message(message) = event {
//!             println!("{} {:?}", message.topic, message.payload);
//!         }
//!     });
//! }
//! # Ok::<(), forebay_firmware::PublishError>(())
//! ```

extern crate std;

use crate::{Client, Event, Input, Message, PublishError, Ticket};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};
use std::vec::Vec;

/// Bytes that are written at once at most.
const BATCH: usize = 4 * 1024;
/// How long a server that takes nothing any more is listened to.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// The shortest wait: a socket cannot wait for no time at all.
const SHORTEST: Duration = Duration::from_millis(1);

/// Bytes both ways. What cannot be read or written in time answers [`ErrorKind::WouldBlock`] or [`ErrorKind::TimedOut`],
/// and has then read or written nothing.
pub trait Transport: Read + Write {
    /// How long the next read or write waits, at least about.
    ///
    /// # Errors
    /// The transport is of no use any more.
    fn set_wait(&mut self, wait: Duration) -> io::Result<()>;
}

impl Transport for TcpStream {
    fn set_wait(&mut self, wait: Duration) -> io::Result<()> {
        let wait = wait.max(SHORTEST);
        self.set_read_timeout(Some(wait))?;
        self.set_write_timeout(Some(wait))
    }
}

/// Any `Read + Write` whose reads and writes give up by themselves.
#[derive(Debug)]
pub struct Impatient<T>(pub T);

impl<T: Read> Read for Impatient<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<T: Write> Write for Impatient<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<T: Read + Write> Transport for Impatient<T> {
    fn set_wait(&mut self, _: Duration) -> io::Result<()> {
        Ok(())
    }
}

/// Opens TCP connections to the first address of `server` that answers, without Nagle's delay. All addresses together are
/// given `limit`: so long may a [`Driver::turn`] that connects take, beside its own time. A host name's look-up comes on top, and
/// has the system's limits; an address needs none.
pub fn tcp(server: impl ToSocketAddrs, limit: Duration) -> impl FnMut() -> io::Result<TcpStream> {
    move || {
        let mut last = io::Error::from(ErrorKind::AddrNotAvailable);
        let begun = Instant::now();
        for address in server.to_socket_addrs()? {
            let left = limit.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            match TcpStream::connect_timeout(&address, left) {
                Ok(stream) => return stream.set_nodelay(true).map(|()| stream),
                Err(why) => last = why,
            }
        }
        Err(last)
    }
}

/// A client, its receive buffer, and the transport that `C` opens when the client wants one.
pub struct Driver<'a, C, T> {
    client: Client<'a>,
    input: Input<'a>,
    connect: C,
    transport: Option<T>,
    /// What the client has handed out and the transport has not taken yet.
    out: Vec<u8>,
    begun: Instant,
}

impl<'a, C, T> Driver<'a, C, T>
where
    C: FnMut() -> io::Result<T>,
    T: Transport,
{
    /// It connects at the first turn.
    pub fn new(client: Client<'a>, input: Input<'a>, connect: C) -> Self {
        Self { client, input, connect, transport: None, out: Vec::new(), begun: Instant::now() }
    }

    /// Milliseconds since it was made: the client's `now`.
    pub fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The client itself.
    pub fn client(&mut self) -> &mut Client<'a> {
        &mut self.client
    }

    /// The connection, while there is one.
    pub fn transport(&mut self) -> Option<&mut T> {
        self.transport.as_mut()
    }

    /// [`Client::publish`] with the time that it is.
    ///
    /// # Errors
    /// Why the message was not taken.
    pub fn publish(&mut self, message: &Message<'_>, payload: &[u8]) -> Result<Ticket, PublishError> {
        let now = self.now();
        self.client.publish(now, message, payload)
    }

    /// One round: connects when it is time, sends what is there, waits at most `wait` for something to come, and handles
    /// it. Connecting comes on top of `wait`, and takes as long as the transport's `connect` does. `on_event` is given the client, to [refuse](Client::refuse) a message or to publish; the time is the round's.
    /// Whether there is a connection.
    ///
    /// What goes wrong with the transport is not an error here: the client waits and tries again, see
    /// [`Client::connect_at`].
    pub fn turn(&mut self, wait: Duration, mut on_event: impl FnMut(&mut Client<'a>, Event<'_>)) -> bool {
        self.open();
        if self.exchange(wait, &mut on_event).is_err() {
            self.hear_out(&mut on_event);
            self.close();
        } else if self.client.should_close() {
            self.close();
        }
        if self.transport.is_none() && !self.is_due() {
            std::thread::sleep(self.patience(wait));
        }
        self.transport.is_some()
    }

    /// Ends the connection in order, at the latest after `limit`, and makes no other. What is in the outbox stays.
    pub fn leave(&mut self, limit: Duration) {
        let begun = Instant::now();
        self.client.disconnect(self.now());
        while self.transport.is_some() && begun.elapsed() < limit {
            self.turn(SHORTEST, |_, _| {});
        }
        self.close();
    }

    fn is_due(&self) -> bool {
        self.client.connect_at().is_some_and(|at| at <= self.now())
    }

    fn open(&mut self) {
        if self.transport.is_some() || !self.is_due() {
            return;
        }
        self.input.clear();
        self.out.clear();
        match (self.connect)() {
            Ok(transport) => {
                self.client.connected(self.now());
                self.transport = Some(transport);
            }
            Err(_) => self.client.disconnected(self.now()),
        }
    }

    fn close(&mut self) {
        if self.transport.take().is_some() {
            self.client.disconnected(self.now());
        }
    }

    /// How long nothing happens by itself.
    fn patience(&self, wait: Duration) -> Duration {
        let next = [self.client.next_timeout(), self.client.connect_at()].into_iter().flatten().min();
        let next = next.map_or(wait, |at| Duration::from_millis(at.saturating_sub(self.now())));
        wait.min(next)
    }

    fn exchange(&mut self, wait: Duration, on_event: &mut impl FnMut(&mut Client<'a>, Event<'_>)) -> io::Result<()> {
        self.handle(on_event)?;
        let wait = if self.out.is_empty() { self.patience(wait) } else { SHORTEST };
        let Some(transport) = self.transport.as_mut() else { return Ok(()) };
        if self.client.should_close() {
            return Ok(());
        }
        transport.set_wait(wait)?;
        let space = self.input.space();
        // What is not handled because an answer is stuck on its way out is not read over.
        if !space.is_empty() {
            match transport.read(space) {
                Ok(0) => {
                    // The server's last words come before its silence.
                    self.handle(on_event)?;
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                Ok(len) => self.input.commit(len),
                Err(why) if is_patience(&why) => {}
                Err(why) => return Err(why),
            }
        }
        self.handle(on_event)
    }

    /// Events, then what is to be sent, until there is neither; and a flush.
    fn handle(&mut self, on_event: &mut impl FnMut(&mut Client<'a>, Event<'_>)) -> io::Result<()> {
        let mut written = false;
        loop {
            let now = self.now();
            self.events(now, on_event);
            let Some(transport) = self.transport.as_mut() else { return Ok(()) };
            if self.out.is_empty() {
                self.out.resize(BATCH, 0);
                let len = self.client.poll_transmit(now, &mut self.out);
                self.out.truncate(len);
            }
            if self.out.is_empty() {
                return if written { flush(transport) } else { Ok(()) };
            }
            match transport.write(&self.out) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(len) => drop(self.out.drain(..len)),
                Err(why) if is_patience(&why) => return flush(transport),
                Err(why) => return Err(why),
            }
            written = true;
        }
    }

    fn events(&mut self, now: u64, on_event: &mut impl FnMut(&mut Client<'a>, Event<'_>)) {
        // The event borrows the input, not the client.
        while let Some(event) = self.client.poll_event(now, &mut self.input) {
            on_event(&mut self.client, event);
        }
    }

    /// A write fails once the server has hung up. Why it did, and for how long it wants to be left alone, may still be there to
    /// be read.
    fn hear_out(&mut self, on_event: &mut impl FnMut(&mut Client<'a>, Event<'_>)) {
        let begun = Instant::now();
        while !self.client.should_close() && begun.elapsed() < LAST_WORDS {
            let Some(transport) = self.transport.as_mut() else { return };
            let space = self.input.space();
            if space.is_empty() || transport.set_wait(SHORTEST).is_err() {
                return;
            }
            match transport.read(space) {
                Ok(len @ 1..) => self.input.commit(len),
                Ok(_) | Err(_) => return,
            }
            self.events(self.now(), on_event);
        }
    }
}

fn flush(transport: &mut impl Write) -> io::Result<()> {
    match transport.flush() {
        Err(why) if !is_patience(&why) => Err(why),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn is_patience(why: &io::Error) -> bool {
    matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests;
