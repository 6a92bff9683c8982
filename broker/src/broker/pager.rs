//! The one thread that reads queues back from disk, so that no worker waits for a disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;

use crate::broker::Broker;
use crate::broker::Slot;
use crate::session::{Cx, PageWanted};
use crate::store::Reader;

/// After a page that could not be read: the session asks for it again at once.
const RETRY: Duration = Duration::from_millis(200);

/// A session, and the page that it wants.
pub type Request = (Arc<Slot>, PageWanted);

/// Asks for pages.
pub struct Pager {
    requests: Mutex<Option<Sender<Request>>>,
    /// It has been said that pages cannot be read.
    complained: AtomicBool,
}

impl Pager {
    /// The asking side, and what [`Pager::run`] needs.
    #[must_use]
    pub fn new() -> (Self, Receiver<Request>) {
        let (sender, receiver) = channel();
        (Self { requests: Mutex::new(Some(sender)), complained: AtomicBool::new(false) }, receiver)
    }

    /// Asks for a page; the answer goes to the session. One request a session is under way at most: the session sees
    /// to that, so the channel is bounded by the number of sessions.
    pub fn ask(&self, slot: &Arc<Slot>, page: PageWanted) {
        if let Some(sender) = &*self.requests.lock() {
            // An error means that the broker is stopping.
            let _ = sender.send((slot.clone(), page));
        }
    }

    /// Whether the last page could not be read.
    pub(crate) fn is_failing(&self) -> bool {
        self.complained.load(Ordering::Relaxed)
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
        let (messages, bytes) = (settings.queue.memory_messages / 2 + 1, settings.queue.memory_bytes / 2 + 1);
        let found = reader.page(slot.no(), page.from, messages, bytes);
        let cx = Cx { now: broker.clock.now(), settings };
        let found = match found {
            Ok(entries) => {
                broker.pager.complained.store(false, Ordering::Relaxed);
                entries
            }
            // What cannot be read now is not lost: the file is opened again, or what can be had of it is put into a new one.
            Err(error) => {
                if !broker.pager.complained.swap(true, Ordering::Relaxed) {
                    tracing::error!("{error}; reading the queue is tried again");
                }
                broker.have_committed();
                std::thread::sleep(RETRY);
                slot.with(broker, |session| session.page_failed());
                // What waited for this page does so no more.
                slot.wake();
                return;
            }
        };
        if slot.look(|session| session.leaving()) {
            broker.lead_out(slot, page.from, found);
            return;
        }
        slot.with(broker, |session| session.page_in(page.from, Ok(found), cx));
        slot.wake();
    }
}
