//! The connections of one worker. They are not tasks of the runtime: one task polls those that were woken, and a
//! connection's waker is its slot. An idle connection so owns no task, and a wake-up is a place in a list.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::{Connection, Stream, worker};
use crate::broker::{Slot, Woken};

/// Rounds over the woken before the runtime looks at the sockets again.
const ROUNDS: usize = 4;
/// Woken connections whose list's memory is kept for the next round.
const LIST_KEPT: usize = 1024;

/// A connection, whatever it runs on.
trait Member {
    fn slot(&self) -> &Arc<Slot>;
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

impl<S: Stream> Member for Connection<S> {
    fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_turn(cx)
    }
}

#[derive(Default)]
struct Executor {
    /// `None` while the connection is being polled.
    members: Slab<Option<Box<dyn Member>>>,
    woken: Arc<Woken>,
}

thread_local! {
    static EXECUTOR: RefCell<Executor> = RefCell::new(Executor::default());
}

/// Serves a connection on this thread, whose [`drive`] polls it.
pub(super) fn add<S: Stream>(connection: Connection<S>) {
    EXECUTOR.with_borrow_mut(|executor| {
        let entry = executor.members.vacant_entry();
        let place = u32::try_from(entry.key()).unwrap_or(u32::MAX);
        connection.slot.serve(executor.woken.clone(), place);
        entry.insert(Some(Box::new(connection)));
    });
}

/// Polls this thread's connections when they are woken. There must be one on each runtime that serves connections;
/// they end with it.
pub fn drive() -> impl Future<Output = ()> + Send {
    // A connection takes turns by itself; the runtime's own budget is for tasks.
    tokio::task::unconstrained(Driver { spare: Vec::new() })
}

struct Driver {
    spare: Vec<u32>,
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let woken = EXECUTOR.with_borrow(|executor| executor.woken.clone());
        woken.driven_by(cx.waker());
        for _ in 0..ROUNDS {
            let mut list = woken.take(std::mem::take(&mut self.spare));
            if list.is_empty() {
                self.spare = list;
                return Poll::Pending;
            }
            list.drain(..).for_each(poll_one);
            list.shrink_to(LIST_KEPT);
            self.spare = list;
            // Whoever has just sent something must not wait for four rounds of those who flood.
            if worker::round_was_long() {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Each tells its session; none of them may find it borrowed.
        let executor = EXECUTOR.try_with(|executor| std::mem::take(&mut *executor.borrow_mut()));
        drop(executor);
    }
}

fn poll_one(place: u32) {
    let place = place as usize;
    let member = EXECUTOR.with_borrow_mut(|executor| executor.members.get_mut(place).and_then(Option::take));
    let Some(mut member) = member else { return };
    let waker = Waker::from(member.slot().clone());
    member.slot().polled();
    let over = member.poll(&mut Context::from_waker(&waker)).is_ready();
    EXECUTOR.with_borrow_mut(|executor| {
        if over {
            executor.members.try_remove(place);
            // A storm of clients must not keep its table for ever.
            if executor.members.is_empty() {
                executor.members.shrink_to_fit();
            }
        } else if let Some(entry) = executor.members.get_mut(place) {
            *entry = Some(member);
        }
    });
}
