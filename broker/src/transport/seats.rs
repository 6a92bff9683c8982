//! How many connections each address has on one listener.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::network::of_one_party;

/// The connections of one listener, by address.
#[derive(Debug)]
pub(crate) struct Seats {
    max: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Seat {
    of: Arc<Seats>,
    from: IpAddr,
}

/// Whether one may be taken though all are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// As many as there are.
    New,
    /// Its client takes the place of a connection that is there already.
    InsteadOfAnother,
}

impl Seats {
    /// So many for each address (a /64 of IPv6).
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: Mutex::default() })
    }

    /// `None`: the address has as many as it may have.
    pub(crate) fn take(self: &Arc<Self>, from: IpAddr, claimed: Claimed) -> Option<Seat> {
        let from = of_one_party(from);
        let mut taken = self.taken.lock();
        let count = taken.entry(from).or_default();
        if *count >= self.max && claimed == Claimed::New {
            return None;
        }
        *count += 1;
        Some(Seat { of: self.clone(), from })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.of.taken.lock();
        if let Some(count) = taken.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_address_has_so_many() {
        let seats = Seats::new(2);
        let of = |text: &str| -> IpAddr { text.parse().unwrap() };
        let take = |text: &str, claimed| seats.take(of(text), claimed);
        let first = take("10.0.0.1", Claimed::New).unwrap();
        let second = take("::ffff:10.0.0.1", Claimed::New).unwrap();
        assert!(take("10.0.0.1", Claimed::New).is_none());
        let third = take("10.0.0.1", Claimed::InsteadOfAnother).unwrap();
        let other = take("10.0.0.2", Claimed::New).unwrap();
        drop((first, second));
        let again = take("10.0.0.1", Claimed::New).unwrap();
        assert!(take("10.0.0.1", Claimed::New).is_none());
        drop((third, again, other));
        assert!(seats.taken.lock().is_empty());
    }
}
