//! Connections that are to be polled, by place.

use std::task::Waker;

use parking_lot::Mutex;

/// Who of one worker is woken. Any thread adds to it.
#[derive(Default)]
pub(crate) struct Woken {
    list: Mutex<Vec<u32>>,
    driver: Mutex<Option<Waker>>,
}

impl Woken {
    /// The connection in this place is to be polled. Whoever has left it empty is not looked for.
    pub(crate) fn add(&self, place: u32) {
        let first = {
            let mut list = self.list.lock();
            list.push(place);
            list.len() == 1
        };
        if first && let Some(driver) = &*self.driver.lock() {
            driver.wake_by_ref();
        }
    }

    /// Whom to wake when the list is empty no longer.
    pub(crate) fn driven_by(&self, waker: &Waker) {
        let mut driver = self.driver.lock();
        if !driver.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *driver = Some(waker.clone());
        }
    }

    /// Those that are woken, in exchange for an empty list.
    pub(crate) fn take(&self, empty: Vec<u32>) -> Vec<u32> {
        std::mem::replace(&mut *self.list.lock(), empty)
    }
}
