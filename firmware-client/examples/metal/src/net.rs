//! TCP/IP over the controller: one connection at a time, as a blocking stream.

use crate::clock;
use crate::mac::{FRAME_MAX, Frame, Mac};
use embedded_io::{ErrorKind, ErrorType, Read, ReadReady, Write};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet, SocketStorage};
use smoltcp::socket::tcp;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

const ADDRESS: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
/// What QEMU's user network gives its first machine, and where it puts the host.
const DEVICE: IpAddress = IpAddress::v4(10, 0, 2, 15);
const HOST: IpAddress = IpAddress::v4(10, 0, 2, 2);
/// Where a connection's own port is taken from.
const FIRST_PORT: u16 = 49_152;
const PORTS: u16 = 16_000;
/// How long a peer may say nothing when it is to say something.
const PATIENCE_MS: u64 = 10_000;

/// Bytes of a connection, each way.
pub const BUFFER: usize = 2_048;

/// The network interface and its one socket.
pub struct Net<'a> {
    mac: Mac,
    interface: Interface,
    sockets: SocketSet<'a>,
    socket: SocketHandle,
    ports_used: u16,
}

/// What the interface keeps outside itself.
pub struct Memory {
    frames: [Frame; 2],
    sockets: [SocketStorage<'static>; 1],
    receive: [u8; BUFFER],
    transmit: [u8; BUFFER],
}

impl Memory {
    /// Empty.
    pub const fn new() -> Self {
        Self {
            frames: [[0; FRAME_MAX]; 2],
            sockets: [SocketStorage::EMPTY],
            receive: [0; BUFFER],
            transmit: [0; BUFFER],
        }
    }
}

impl Net<'static> {
    /// Starts the interface. `seed` makes its numbers others than at the last start.
    pub fn start(memory: &'static mut Memory, seed: u32) -> Self {
        let mut mac = Mac::start(ADDRESS, &mut memory.frames);
        let mut config = Config::new(EthernetAddress(ADDRESS).into());
        config.random_seed = seed.into();
        let mut interface = Interface::new(config, &mut mac, instant());
        interface.update_ip_addrs(|addresses| {
            let _ = addresses.push(IpCidr::new(DEVICE, 24));
        });
        let receive = tcp::SocketBuffer::new(&mut memory.receive[..]);
        let transmit = tcp::SocketBuffer::new(&mut memory.transmit[..]);
        let mut sockets = SocketSet::new(&mut memory.sockets[..]);
        let socket = sockets.add(tcp::Socket::new(receive, transmit));
        Self { mac, interface, sockets, socket, ports_used: seed as u16 % PORTS }
    }

    /// Lets the stack work.
    fn poll(&mut self) -> &mut tcp::Socket<'static> {
        self.interface.poll(instant(), &mut self.mac, &mut self.sockets);
        self.sockets.get_mut(self.socket)
    }

    /// Connects to a port of the host.
    pub fn connect(&mut self, port: u16) -> Result<Stream<'_>, ErrorKind> {
        self.ports_used = (self.ports_used + 1) % PORTS;
        let own = FIRST_PORT + self.ports_used;
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.socket);
        socket.abort();
        socket.set_timeout(Some(Duration::from_millis(PATIENCE_MS)));
        socket.set_nagle_enabled(false);
        socket.connect(self.interface.context(), (HOST, port), own).map_err(|_| ErrorKind::AddrInUse)?;
        let mut stream = Stream(self);
        stream.wait(|socket| match socket.state() {
            tcp::State::SynSent | tcp::State::SynReceived => None,
            tcp::State::Closed => Some(Err(ErrorKind::ConnectionRefused)),
            _ => Some(Ok(())),
        })?;
        Ok(stream)
    }
}

fn instant() -> Instant {
    Instant::from_millis(clock::now() as i64)
}

/// A connection. Dropped, it is aborted.
pub struct Stream<'n>(&'n mut Net<'static>);

impl Stream<'_> {
    /// Works until `ask` has an answer, at most as long as a peer may take.
    fn wait<R>(
        &mut self,
        mut ask: impl FnMut(&mut tcp::Socket<'static>) -> Option<Result<R, ErrorKind>>,
    ) -> Result<R, ErrorKind> {
        let begun = clock::now();
        loop {
            if let Some(answer) = ask(self.0.poll()) {
                return answer;
            }
            if clock::now() - begun > PATIENCE_MS {
                return Err(ErrorKind::TimedOut);
            }
            clock::sleep();
        }
    }

    /// Sends what is left and closes.
    pub fn close(mut self) {
        self.0.poll().close();
        let _ = self.wait(|socket| (!socket.may_send() && socket.send_queue() == 0).then_some(Ok(())));
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.0.poll().abort();
        self.0.poll();
    }
}

impl ErrorType for Stream<'_> {
    type Error = ErrorKind;
}

impl ReadReady for Stream<'_> {
    fn read_ready(&mut self) -> Result<bool, ErrorKind> {
        let socket = self.0.poll();
        Ok(socket.can_recv() || !socket.may_recv())
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ErrorKind> {
        self.wait(|socket| match socket.recv_slice(buffer) {
            Ok(0) => None,
            Ok(len) => Some(Ok(len)),
            Err(tcp::RecvError::Finished) => Some(Ok(0)),
            Err(tcp::RecvError::InvalidState) => Some(Err(ErrorKind::ConnectionReset)),
        })
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        self.wait(|socket| match socket.send_slice(bytes) {
            Ok(0) => None,
            Ok(len) => Some(Ok(len)),
            Err(tcp::SendError::InvalidState) => Some(Err(ErrorKind::ConnectionReset)),
        })
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        self.0.poll();
        Ok(())
    }
}
