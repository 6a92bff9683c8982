//! A connection that is listened to.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::Duration;

use forebay_firmware::adapter::std::Transport;
use forebay_tests::line::Way;

use crate::log::Log;

pub struct Tap {
    stream: TcpStream,
    log: Rc<RefCell<Log>>,
}

impl Tap {
    pub fn new(stream: TcpStream, log: Rc<RefCell<Log>>) -> Self {
        log.borrow_mut().connected();
        Self { stream, log }
    }
}

impl Read for Tap {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.stream.read(buf)?;
        self.log.borrow_mut().heard(Way::Down, &buf[..len], |_, _| {});
        Ok(len)
    }
}

impl Write for Tap {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let len = self.stream.write(buf)?;
        self.log.borrow_mut().heard(Way::Up, &buf[..len], |_, _| {});
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Transport for Tap {
    fn set_wait(&mut self, wait: Duration) -> io::Result<()> {
        self.stream.set_wait(wait)
    }
}
