//! A line to a broker that can be cut.

use std::io::copy;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Passes connections on; it ends when this is dropped.
#[derive(Debug)]
pub struct Line {
    port: u16,
    shared: Arc<Shared>,
}

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
                    own.pass(near, TcpStream::connect(("127.0.0.1", to)).unwrap());
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
    fn pass(&self, near: TcpStream, far: TcpStream) {
        let clone = |end: &TcpStream| end.try_clone().unwrap();
        self.open.lock().unwrap().extend([clone(&near), clone(&far)]);
        for (mut from, mut to) in [(clone(&near), clone(&far)), (far, near)] {
            std::thread::spawn(move || {
                let _ = copy(&mut from, &mut to);
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            });
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
