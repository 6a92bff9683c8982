//! A line to a broker that can be cut, and listened to.

use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::link;

/// Passes connections on; it ends when this is dropped.
#[derive(Debug)]
pub struct Line {
    port: u16,
    shared: Arc<Shared>,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the broker.
    Up,
    /// From the broker.
    Down,
}

/// Is told what goes over a line before that is passed on.
pub type Ear = Arc<dyn Fn(Way, &[u8]) + Send + Sync>;

#[derive(Debug)]
struct Shared {
    is_cut: AtomicBool,
    is_over: AtomicBool,
    /// Both ends of what goes over it.
    open: Mutex<Vec<TcpStream>>,
}

impl Line {
    /// A line to this port.
    pub fn start(to: u16) -> Self {
        Self::listened(to, Arc::new(|_, _| {}))
    }

    /// A line to this port on which somebody listens. A panic there ends the connection.
    pub fn listened(to: u16, ear: Ear) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_cut, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Arc::new(Shared { is_cut, is_over, open: Mutex::default() });
        let own = shared.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if own.is_over.load(Ordering::SeqCst) {
                    return;
                }
                if !own.is_cut.load(Ordering::SeqCst) {
                    own.pass(near, TcpStream::connect(("127.0.0.1", to)).unwrap(), &ear);
                }
            }
        });
        Self { port, shared }
    }

    /// Where it begins.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends all that goes over it. Who comes now is let in, and gone at once.
    pub fn cut(&self) {
        self.shared.is_cut.store(true, Ordering::SeqCst);
        for end in self.shared.open.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Whole again.
    pub fn mend(&self) {
        self.shared.is_cut.store(false, Ordering::SeqCst);
    }
}

impl Shared {
    fn pass(&self, near: TcpStream, far: TcpStream, ear: &Ear) {
        let clone = |end: &TcpStream| end.try_clone().unwrap();
        self.open.lock().unwrap().extend([clone(&near), clone(&far)]);
        for (way, from, to) in [(Way::Up, clone(&near), clone(&far)), (Way::Down, far, near)] {
            let ear = ear.clone();
            std::thread::spawn(move || {
                let end = End(from, to);
                carry(&end.0, &end.1, |bytes| ear(way, bytes));
            });
        }
    }
}

/// One direction of a connection; when it ends, so does the other.
struct End(TcpStream, TcpStream);

impl Drop for End {
    fn drop(&mut self) {
        let _ = (self.0.shutdown(Shutdown::Both), self.1.shutdown(Shutdown::Both));
    }
}

fn carry(mut from: &TcpStream, mut to: &TcpStream, ear: impl Fn(&[u8])) {
    let mut buffer = [0; 8 * 1_024];
    while let Ok(len @ 1..) = link::read(&mut from, &mut buffer) {
        ear(&buffer[..len]);
        if to.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.cut();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}
