//! A connection over a blocking transport: anything that is `Read + ReadReady + Write` of embedded-io 0.7.
//!
//! The transport is read only when it says that there is something, and a write may wait: give the transport a time-out
//! of its own for that, and let it answer with an error, so that a peer that has gone does not hold up the device.
//!
//! ```no_run
//! use embedded_io::{Read, ReadReady, Write};
//! use forebay_firmware::adapter::blocking::Connection;
//! use forebay_firmware::{Client, Event, Input};
//!
//! fn run<T: Read + ReadReady + Write>(
//!     client: &mut Client<'_>,
//!     input: &mut Input<'_>,
//!     dial: fn() -> Option<T>,
//!     now: fn() -> u64,
//! ) {
//!     let mut connection: Option<Connection<T>> = None;
//!     loop {
//!         if client.connect_at().is_some_and(|at| at <= now()) {
//!             connection = dial().map(|transport| Connection::open(transport, now(), client, input));
//!             if connection.is_none() {
//!                 client.disconnected(now());
//!             }
//!         }
//!         if let Some(open) = &mut connection {
//!             let result = open.run_once(now(), client, input, |_, event| {
//!                 if let Event::Message(message) = event {
//!                     // …
//! #                   let _ = message;
//!                 }
//!             });
//!             match result {
//!                 Ok(true) => continue,
//!                 Ok(false) => {}
//!                 Err(_) => connection = None,
//!             }
//!         }
//!         // Sleep until the transport has something, something is published, or `client.next_timeout()`.
//!     }
//! }
//! ```
//!
//! `firmware-client/examples/metal` in the repository is a whole device around this: a Cortex-M3 with smoltcp, with and
//! without TLS by embedded-tls. A TLS stream may have bytes to read and yet nothing for the client, so its `read_ready` has
//! to take in a record to know: `tls.rs` there does, and says what embedded-tls does not check by itself.

use crate::{Client, Event, Input};
use embedded_io::{Read, ReadReady, Write};

/// How often a server that takes nothing any more is read from at most.
const LAST_READS: u32 = 64;

/// An open connection. `OUT` is how many bytes are given to the transport at a time: for TLS, one record.
#[derive(Debug)]
pub struct Connection<T, const OUT: usize = 256> {
    transport: T,
    out: [u8; OUT],
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Ended<E> {
    /// The client has no more use for it: it has said good-bye, was refused, or the server is not to be trusted. The
    /// event has said which.
    Closed,
    /// The server has closed it.
    EndOfStream,
    /// The transport has failed.
    Transport(E),
}

impl<T: Read + ReadReady + Write, const OUT: usize> Connection<T, OUT> {
    /// Begins on a transport that has just been opened.
    pub fn open(transport: T, now: u64, client: &mut Client<'_>, input: &mut Input<'_>) -> Self {
        input.clear();
        client.connected(now);
        Self { transport, out: [0; OUT] }
    }

    /// Reads what has come, hands out what has happened, sends what there is to send, and flushes. Whether any of that
    /// was done: if so, there may be more, and if not, nothing happens before something comes, is published, or
    /// [`Client::next_timeout`].
    ///
    /// # Errors
    /// The connection is over, and the client knows: drop it, and open another when [`Client::connect_at`] says so.
    pub fn run_once<'a>(
        &mut self,
        now: u64,
        client: &mut Client<'a>,
        input: &mut Input<'_>,
        mut on_event: impl FnMut(&mut Client<'a>, Event<'_>),
    ) -> Result<bool, Ended<T::Error>> {
        let result = self.turn(now, client, input, &mut on_event);
        if matches!(result, Err(Ended::Transport(_))) {
            self.hear_out(now, client, input, &mut on_event);
        }
        if result.is_err() {
            client.disconnected(now);
        }
        result
    }

    /// The transport, to close it.
    pub fn into_transport(self) -> T {
        self.transport
    }

    /// The transport.
    pub fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    fn turn<'a>(
        &mut self,
        now: u64,
        client: &mut Client<'a>,
        input: &mut Input<'_>,
        on_event: &mut impl FnMut(&mut Client<'a>, Event<'_>),
    ) -> Result<bool, Ended<T::Error>> {
        let mut busy = self.receive(input)?;
        loop {
            while let Some(event) = client.poll_event(now, input) {
                busy = true;
                on_event(client, event);
            }
            // What was sent may be what the next event waits for.
            if !self.transmit(now, client)? {
                break;
            }
            busy = true;
        }
        if client.should_close() { Err(Ended::Closed) } else { Ok(busy) }
    }

    /// A write fails once the server has hung up. Why it did, and for how long it wants to be left alone, may still be there to
    /// be read.
    fn hear_out<'a>(
        &mut self,
        now: u64,
        client: &mut Client<'a>,
        input: &mut Input<'_>,
        on_event: &mut impl FnMut(&mut Client<'a>, Event<'_>),
    ) {
        for _ in 0..LAST_READS {
            if client.should_close() || !matches!(self.receive(input), Ok(true)) {
                return;
            }
            while let Some(event) = client.poll_event(now, input) {
                on_event(client, event);
            }
        }
    }

    fn receive(&mut self, input: &mut Input<'_>) -> Result<bool, Ended<T::Error>> {
        let space = input.space();
        if space.is_empty() || !self.transport.read_ready().map_err(Ended::Transport)? {
            return Ok(false);
        }
        match self.transport.read(space).map_err(Ended::Transport)? {
            0 => Err(Ended::EndOfStream),
            len => {
                input.commit(len);
                Ok(true)
            }
        }
    }

    /// Everything that is to be sent now, and one flush behind it.
    fn transmit(&mut self, now: u64, client: &mut Client<'_>) -> Result<bool, Ended<T::Error>> {
        let mut sent = false;
        loop {
            let len = client.poll_transmit(now, &mut self.out);
            let Some(bytes) = self.out.get(..len).filter(|bytes| !bytes.is_empty()) else { break };
            self.transport.write_all(bytes).map_err(Ended::Transport)?;
            sent = true;
        }
        if sent {
            self.transport.flush().map_err(Ended::Transport)?;
        }
        Ok(sent)
    }
}
