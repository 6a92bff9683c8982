//! The one thread that reads queues back from disk, so that no worker waits for a disk.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;

use crate::broker::Broker;
use crate::broker::Slot;
use crate::session::{Cx, PageWanted};
use crate::store::{Reader, StoreError};

/// After a page that could not be read: the session asks for it again at once.
const RETRY: Duration = Duration::from_millis(200);

/// A session, and the page that it wants.
pub type Request = (Arc<Slot>, PageWanted);

/// Asks for pages.
pub struct Pager {
    requests: Mutex<Option<Sender<Request>>>,
}

impl Pager {
    /// The asking side, and what [`Pager::run`] needs.
    #[must_use]
    pub fn new() -> (Self, Receiver<Request>) {
        let (sender, receiver) = channel();
        (Self { requests: Mutex::new(Some(sender)) }, receiver)
    }

    /// Asks for a page; the answer goes to the session. One request a session is under way at most: the session sees
    /// to that, so the channel is bounded by the number of sessions.
    pub fn ask(&self, slot: &Arc<Slot>, page: PageWanted) {
        if let Some(sender) = &*self.requests.lock() {
            // An error means that the broker is stopping.
            let _ = sender.send((slot.clone(), page));
        }
    }

    /// Ends the thread.
    pub fn stop(&self) {
        *self.requests.lock() = None;
    }

    /// The thread.
    pub fn run(broker: &Arc<Broker>, reader: &dyn Reader, requests: &Receiver<Request>) {
        while let Ok((slot, page)) = requests.recv() {
            Self::serve(broker, reader, &slot, page);
        }
    }

    /// One page.
    pub fn serve(broker: &Arc<Broker>, reader: &dyn Reader, slot: &Arc<Slot>, page: PageWanted) {
        let settings = &broker.settings;
        let found = reader.page(slot.no(), page.from, settings.memory_messages / 2 + 1, settings.memory_bytes / 2 + 1);
        let cx = Cx { now: broker.clock.now(), settings };
        let found = match found {
            Ok(entries) => Ok(entries),
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::error!("{error}; the rest of this queue is counted as damaged");
                Err(())
            }
            Err(error) => {
                tracing::error!("{error}; reading the queue is tried again");
                std::thread::sleep(RETRY);
                slot.with(broker, |session| session.page_failed());
                return;
            }
        };
        if slot.look(|session| session.leaving()) {
            broker.lead_out(slot, page.from, found.unwrap_or_default());
            return;
        }
        slot.with(broker, |session| session.page_in(page.from, found, cx));
        slot.wake();
    }
}
