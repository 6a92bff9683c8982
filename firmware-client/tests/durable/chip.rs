//! Flash as tasks see it: an operation takes a while, in which others have their turn.

use crate::mock::{Flash, NoPower, SECTOR};
use crate::now;
use embedded_storage_async::nor_flash::{ErrorType, NorFlash, ReadNorFlash};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

/// The chip outlives the device: what is cloned is the way to it.
#[derive(Clone)]
pub struct Chip {
    pub flash: Rc<RefCell<Flash>>,
    /// So many reads are done at once, before one takes a while.
    reads: Rc<Cell<u32>>,
    eager: u32,
}

impl Chip {
    pub fn new(sectors: usize, eager: u32) -> Self {
        Self { flash: Rc::new(RefCell::new(Flash::new(sectors))), reads: Rc::new(Cell::new(0)), eager }
    }
}

/// Lets everybody else have a turn.
pub async fn pause() {
    let mut first = true;
    poll_fn(|context| {
        if std::mem::take(&mut first) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}

impl ErrorType for Chip {
    type Error = NoPower;
}

impl ReadNorFlash for Chip {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NoPower> {
        self.reads.set(self.reads.get() + 1);
        if self.reads.get().is_multiple_of(self.eager) {
            pause().await;
        }
        now(self.flash.borrow_mut().read(offset, bytes))
    }

    fn capacity(&self) -> usize {
        self.flash.borrow().capacity()
    }
}

impl NorFlash for Chip {
    const WRITE_SIZE: usize = Flash::WRITE_SIZE;
    const ERASE_SIZE: usize = SECTOR;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), NoPower> {
        pause().await;
        now(self.flash.borrow_mut().erase(from, to))?;
        pause().await;
        Ok(())
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NoPower> {
        pause().await;
        now(self.flash.borrow_mut().write(offset, bytes))?;
        pause().await;
        Ok(())
    }
}
