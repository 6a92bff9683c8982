//! One connection: a socket that never waits, TLS on it, and what has to be written.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mio::{Events, Interest, Poll, Registry, Token};
use rustls::ClientConnection;

use super::target::Endpoint;
use super::wire::{self, Malformed};
use crate::tools::exit::{Exit, Failure};

/// Local addresses of 127.0.0.0/8 are taken in turn after so many connections: each has some 28,000 ports.
const PORTS_OF_AN_ADDRESS: usize = 20_000;

/// Waits for sockets; takes the events out of their place, to be put back when they are seen to. `None`: a signal came first.
pub fn poll_for(poll: &mut Poll, events: &mut Events, wait: Duration) -> Result<Option<Events>, Failure> {
    match poll.poll(events, Some(wait)) {
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(Failure::failed(format!("poll: {error}"))),
        Ok(()) => Ok(Some(std::mem::replace(events, Events::with_capacity(0)))),
    }
}

/// Why a connection has ended.
#[derive(Debug)]
pub enum Fault {
    /// The other side closed it.
    Closed,
    /// The system says so.
    Io(io::Error),
    /// TLS says so.
    Tls(rustls::Error),
    /// What came is no MQTT; its first bytes.
    NotMqtt(Vec<u8>),
    /// An answer that refuses.
    Refused(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Fault {
    /// As it is said; `greeted`: the server has shown before that it speaks MQTT.
    #[must_use]
    pub fn failure(&self, server: &str, tls: bool, greeted: bool) -> Failure {
        match self {
            Self::Closed if greeted => Failure::new(Exit::Refused, format!("{server} closed a connection")),
            Self::Closed => Failure::new(
                Exit::NotMqtt,
                format!(
                    "{server} closed the connection without a CONNACK: is it an MQTT server, with{} TLS?",
                    if tls { "" } else { "out" }
                ),
            ),
            Self::Io(why) if greeted => Failure::new(Exit::Refused, format!("{server} broke a connection: {why}")),
            Self::Io(why) if why.kind() == ErrorKind::ConnectionReset => Failure::new(
                Exit::NotMqtt,
                format!("{server} broke the connection off without a CONNACK: is it an MQTT server?"),
            ),
            Self::Io(why) => Failure::new(Exit::Unreachable, format!("{server} cannot be reached: {why}")),
            Self::Tls(why) => Failure::new(Exit::Tls, tls_words(server, why)),
            Self::NotMqtt(bytes) => Failure::new(Exit::NotMqtt, not_mqtt(server, bytes)),
            Self::Refused(why) => Failure::new(Exit::Refused, format!("{server} refuses: {why}")),
        }
    }
}

fn tls_words(server: &str, why: &rustls::Error) -> String {
    use rustls::CertificateError::{BadSignature, UnknownIssuer};
    let hint = if matches!(why, rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature)) {
        "; give its CA with --cafile, or --insecure to trust anyone"
    } else if matches!(why, rustls::Error::InvalidCertificate(_)) {
        "; --insecure trusts anyone"
    } else if matches!(why, rustls::Error::InvalidMessage(_) | rustls::Error::General(_)) {
        "; does it speak TLS on this port? Without TLS it is mqtt://"
    } else if matches!(why, rustls::Error::AlertReceived(_)) {
        "; does it want a client certificate (--cert, --key)?"
    } else {
        ""
    };
    format!("{server}: no TLS session: {why}{hint}")
}

fn not_mqtt(server: &str, bytes: &[u8]) -> String {
    // A TLS record of an alert.
    if bytes.starts_with(&[0x15, 3]) {
        return format!("{server} answers with TLS; use mqtts://");
    }
    let shown = bytes.get(..bytes.len().min(40)).unwrap_or_default().escape_ascii();
    format!("{server} speaks something else than MQTT; it answers \"{shown}\"")
}

/// One connection.
#[derive(Debug)]
pub struct Peer {
    socket: mio::net::TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// The beginning of a packet that is not complete.
    pub input: Vec<u8>,
    /// What is to be written, from `written` on.
    pub output: Vec<u8>,
    written: usize,
    /// The socket takes no more for now.
    pub blocked: bool,
    /// TCP is there.
    pub connected: bool,
}

impl Peer {
    /// Begins to connect; `number` spreads many connections to a loopback address over local ones.
    ///
    /// # Errors
    /// The system has no socket or port for it.
    pub fn open(endpoint: &Endpoint, number: usize, registry: &Registry, token: Token) -> Result<Self, Fault> {
        let mut socket = mio::net::TcpStream::from_std(connecting(endpoint.addr, number)?);
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        let tls = match &endpoint.tls {
            None => None,
            Some((config, name)) => {
                let mut tls = ClientConnection::new(config.clone(), name.clone()).map_err(Fault::Tls)?;
                tls.set_buffer_limit(None);
                Some(Box::new(tls))
            }
        };
        let (input, output) = (Vec::new(), Vec::new());
        Ok(Self { socket, tls, input, output, written: 0, blocked: true, connected: false })
    }

    /// Bytes that wait to be written.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.output.len() - self.written
    }

    /// The socket is writable: TCP is there, or room.
    ///
    /// # Errors
    /// The connection could not be made, or has ended.
    pub fn writable(&mut self) -> Result<(), Fault> {
        if !self.connected {
            if let Some(error) = self.socket.take_error()? {
                return Err(Fault::Io(error));
            }
            match self.socket.peer_addr() {
                Ok(_) => self.connected = true,
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
                Err(error) => return Err(Fault::Io(error)),
            }
            self.socket.set_nodelay(true)?;
        }
        self.blocked = false;
        self.flush()
    }

    /// Writes what it can.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn flush(&mut self) -> Result<(), Fault> {
        if self.blocked {
            return Ok(());
        }
        if let Some(tls) = &mut self.tls {
            if self.written < self.output.len() && !tls.is_handshaking() {
                tls.writer().write_all(self.output.get(self.written..).unwrap_or_default())?;
                self.output.clear();
                self.written = 0;
            }
            while tls.wants_write() {
                match tls.write_tls(&mut self.socket) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        self.blocked = true;
                        break;
                    }
                    Err(error) => return Err(Fault::Io(error)),
                }
            }
            return Ok(());
        }
        while let Some(rest) = self.output.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.socket.write(rest) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.blocked = true;
                    break;
                }
                Err(error) => return Err(Fault::Io(error)),
            }
        }
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        } else if self.written > self.output.len() / 2 {
            self.output.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }

    /// Reads once; `None`: there is nothing for now.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn read(&mut self, scratch: &mut [u8]) -> Result<Option<usize>, Fault> {
        let Some(tls) = &mut self.tls else {
            return taken(self.socket.read(scratch));
        };
        loop {
            match tls.reader().read(scratch) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return taken(other),
            }
            let closed = || Fault::Tls(rustls::Error::General("it closed the connection in the handshake".to_owned()));
            match tls.read_tls(&mut self.socket) {
                Ok(0) if tls.is_handshaking() => return Err(closed()),
                Ok(0) => return Err(Fault::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::ConnectionReset && tls.is_handshaking() => {
                    return Err(closed());
                }
                Err(error) => return Err(Fault::Io(error)),
            }
            if let Err(error) = tls.process_new_packets() {
                // The alert says why.
                let _ = tls.write_tls(&mut self.socket);
                return Err(Fault::Tls(error));
            }
        }
    }

    /// What is to be written after reading: acks, or the next flight of a TLS handshake.
    #[must_use]
    pub fn wants_flush(&self) -> bool {
        self.waiting() > 0 || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Reads all there is and gives each complete packet to `take`, all of one read after each other.
    ///
    /// # Errors
    /// The connection has ended, or `take` says so.
    pub fn packets(
        &mut self,
        scratch: &mut [u8],
        mut take: impl FnMut(&mut Self, &[u8]) -> Result<usize, Fault>,
    ) -> Result<(), Fault> {
        loop {
            let whole = scratch.len();
            let Some(n) = self.read(scratch)? else { return Ok(()) };
            let bytes = scratch.get(..n).unwrap_or_default();
            let mut kept = std::mem::take(&mut self.input);
            if kept.is_empty() {
                let used = take(self, bytes)?;
                kept.extend_from_slice(bytes.get(used..).unwrap_or_default());
            } else {
                kept.extend_from_slice(bytes);
                let used = take(self, &kept)?;
                kept.drain(..used);
            }
            self.input = kept;
            // Less than was asked for: the socket is empty. TLS gives a record at a time.
            if self.tls.is_none() && n < whole {
                return Ok(());
            }
        }
    }

    /// Ends it without waiting: what was written before is sent.
    pub fn close(&mut self, registry: &Registry) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        let _ = self.flush();
        let _ = registry.deregister(&mut self.socket);
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }
}

fn taken(read: io::Result<usize>) -> Result<Option<usize>, Fault> {
    match read {
        Ok(0) => Err(Fault::Closed),
        Ok(n) => Ok(Some(n)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        // TLS without its own end.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(Fault::Closed),
        Err(error) => Err(Fault::Io(error)),
    }
}

fn connecting(addr: SocketAddr, number: usize) -> io::Result<std::net::TcpStream> {
    let domain = socket2::Domain::for_address(addr);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    let turn = number / PORTS_OF_AN_ADDRESS;
    if turn > 0 && addr.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
        let local = Ipv4Addr::new(127, 0, 0, (turn % 250) as u8 + 1);
        socket.bind(&SocketAddr::new(local.into(), 0).into())?;
    }
    match socket.connect(&addr.into()) {
        Ok(()) => {}
        // EINPROGRESS is what a connection that is being made says.
        Err(error) if error.kind() == ErrorKind::WouldBlock || in_progress(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

#[cfg(unix)]
fn in_progress(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
}

#[cfg(not(unix))]
fn in_progress(_: &io::Error) -> bool {
    false
}

/// The first packet of a server: whether it is a CONNACK that accepts, and what it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// The session was there.
    pub session_present: bool,
    /// How many messages may wait for their ack; MQTT 5.
    pub receive_maximum: Option<u16>,
    /// How long it lets a client be silent, in seconds; MQTT 5.
    pub keep_alive_s: Option<u16>,
    /// The highest QoS.
    pub maximum_qos: Option<u8>,
}

/// Reads a CONNACK.
///
/// # Errors
/// It is something else, or refuses.
pub fn greeting(v5: bool, first: u8, body: &[u8]) -> Result<Greeting, Fault> {
    let (&[flags, code], rest) = body.split_first_chunk::<2>().ok_or_else(|| Fault::NotMqtt(vec![first]))?;
    if first != 0x20 || flags > 1 {
        let mut bytes = vec![first, body.len() as u8];
        bytes.extend_from_slice(body);
        return Err(Fault::NotMqtt(bytes));
    }
    if code != 0 {
        return Err(Fault::Refused(connack_words(code)));
    }
    let mut greeting = Greeting { session_present: flags == 1, ..Greeting::default() };
    if v5 {
        read_properties(rest, &mut greeting);
    }
    Ok(greeting)
}

/// What stands in the way of the load, of all that CONNACK may say. What cannot be read is left out.
fn read_properties(rest: &[u8], greeting: &mut Greeting) {
    use forebay_wire::read::Reader;
    let mut reader = Reader::new(rest);
    let Ok(_) = reader.varint() else { return };
    while let Ok(kind) = reader.u8() {
        let known = match kind {
            0x21 => reader.u16().map(|value| greeting.receive_maximum = Some(value)),
            0x13 => reader.u16().map(|value| greeting.keep_alive_s = Some(value)),
            0x24 => reader.u8().map(|value| greeting.maximum_qos = Some(value)),
            0x25 | 0x28 | 0x29 | 0x2a => reader.u8().map(drop),
            0x22 => reader.u16().map(drop),
            0x11 | 0x27 => reader.u32().map(drop),
            0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => reader.binary().map(drop),
            0x26 => reader.binary().and_then(|_| reader.binary()).map(drop),
            _ => return,
        };
        if known.is_err() {
            return;
        }
    }
}

fn connack_words(code: u8) -> String {
    let words = match code {
        1 => "it does not speak this version of MQTT; try another with -V",
        2 => "the client identifier is not valid",
        3 => "it is not available",
        4 => "bad user name or password; see --username and --password",
        5 => "not authorized; see --username and --password",
        _ => return reason_words(code),
    };
    format!("CONNACK {code}, {words}")
}

/// A reason code of MQTT 5, with its name.
#[must_use]
pub fn reason_words(code: u8) -> String {
    let name = forebay_wire::ReasonCode::from_u8(code).map_or("no reason code of MQTT 5", |reason| reason.name());
    format!("0x{code:02x}, {name}")
}

/// The bytes' first packet.
///
/// # Errors
/// They are no MQTT.
pub fn packet(bytes: &[u8]) -> Result<Option<wire::Packet<'_>>, Fault> {
    wire::packet(bytes)
        .map_err(|Malformed| Fault::NotMqtt(bytes.get(..bytes.len().min(40)).unwrap_or_default().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_connack() {
        let accepted = greeting(false, 0x20, &[1, 0]).unwrap();
        assert_eq!(accepted, Greeting { session_present: true, ..Greeting::default() });
        let properties = [0, 0, 15, 0x13, 0, 60, 0x1f, 0, 2, b'h', b'i', 0x21, 0, 20, 0x24, 1, 0x25, 1];
        let accepted = greeting(true, 0x20, &properties).unwrap();
        let found = (accepted.receive_maximum, accepted.maximum_qos, accepted.keep_alive_s);
        assert_eq!(found, (Some(20), Some(1), Some(60)));
        assert!(
            matches!(greeting(true, 0x20, &[0, 0x87, 0]), Err(Fault::Refused(why)) if why.contains("Not authorized"))
        );
        assert!(matches!(greeting(false, 0x20, &[0, 5]), Err(Fault::Refused(why)) if why.contains("--username")));
        assert!(matches!(greeting(false, b'H', b"TTP"), Err(Fault::NotMqtt(_))));
        assert!(matches!(greeting(false, 0x20, &[]), Err(Fault::NotMqtt(_))));
    }
}
