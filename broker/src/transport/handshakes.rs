//! Connections that are not past their CONNECT: so many for each listener and no more, and so many for each address. When
//! there is no room, the oldest of the address that has the most of them makes room, so that sockets which say nothing keep
//! nobody out. An address that has all its permits makes room among its own, or its newest socket is closed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::network::of_one_party;

/// What a handshake is left in peace before it may have to make room for another of its own address: many devices behind
/// one address that all come back at once must not end each other.
const UNDISTURBED: Duration = Duration::from_secs(1);
/// The same for one that has been looked at and has said nothing: what a client has to say is on its way when it is accepted.
const SILENT: Duration = Duration::from_millis(50);

/// The handshakes of one listener.
#[derive(Debug)]
pub struct Handshakes {
    max: usize,
    max_per_address: usize,
    state: Mutex<State>,
    /// One has ended.
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    count: usize,
    /// By address, in the order in which they began; no entry is empty.
    of: HashMap<IpAddr, BTreeMap<u64, Pending>>,
}

#[derive(Debug)]
struct Pending {
    since: Instant,
    word: Word,
    displaced: Arc<Notify>,
}

/// What it has said.
#[derive(Clone, Copy, Debug)]
enum Word {
    /// Nobody has looked.
    Unknown,
    /// Nothing, since then.
    Silent(Instant),
    Something,
}

/// The permission for one handshake; dropping it gives it back.
#[derive(Debug)]
pub struct Permit {
    of: Arc<Handshakes>,
    from: IpAddr,
    number: u64,
    displaced: Arc<Notify>,
}

impl Handshakes {
    /// At most `max` at once, and `max_per_address` with one address; at least one.
    #[must_use]
    pub fn new(max: usize, max_per_address: usize) -> Arc<Self> {
        let (max, max_per_address) = (max.max(1), max_per_address.max(1));
        Arc::new(Self { max, max_per_address, state: Mutex::default(), room: Notify::new() })
    }

    /// Waits until there is room for a handshake with this address. `None`: the address has all its permits, and nobody
    /// should wait behind it. For one caller at a time: the listener's acceptor.
    pub async fn enter(self: &Arc<Self>, from: IpAddr) -> Option<Permit> {
        let from = of_one_party(from);
        loop {
            let wait = match self.try_enter(from, Instant::now()) {
                Ok(permit) => return Some(permit),
                Err(No::Refused) => return None,
                Err(No::Wait(wait)) => wait,
            };
            let _ = tokio::time::timeout(wait, self.room.notified()).await;
        }
    }

    fn try_enter(self: &Arc<Self>, from: IpAddr, now: Instant) -> Result<Permit, No> {
        let mut state = self.state.lock();
        // Where an address may have all permits, those of the listener are what counts.
        if self.max_per_address < self.max && state.of.get(&from).is_some_and(|own| own.len() >= self.max_per_address) {
            state.displace_own(from, now)?;
        }
        if state.count >= self.max {
            state.displace(from, now).map_err(No::Wait)?;
        }
        let number = state.next;
        state.next += 1;
        state.count += 1;
        let displaced = Arc::new(Notify::new());
        state
            .of
            .entry(from)
            .or_default()
            .insert(number, Pending { since: now, word: Word::Unknown, displaced: displaced.clone() });
        Ok(Permit { of: self.clone(), from, number, displaced })
    }
}

/// Why there is no permit now.
#[derive(Debug, PartialEq, Eq)]
enum No {
    /// It takes so long until somebody has to make room.
    Wait(Duration),
    /// The address has as many as it may have, and all of them have just begun.
    Refused,
}

impl State {
    /// Ends the oldest handshake of an address that has as many as it may have.
    fn displace_own(&mut self, from: IpAddr, now: Instant) -> Result<(), No> {
        let Some(own) = self.of.get(&from) else { return Ok(()) };
        let number = first_to_go(own, now, false).map_err(|_| No::Refused)?;
        if let Some(pending) = self.remove(from, number) {
            pending.displaced.notify_one();
        }
        Ok(())
    }

    /// Ends the oldest handshake of the busiest address; an error says when there will be one that may be ended.
    fn displace(&mut self, newcomer: IpAddr, now: Instant) -> Result<(), Duration> {
        let busiest = self.of.iter().max_by_key(|(_, pending)| pending.len());
        let Some((busiest, pending)) = busiest else { return Err(UNDISTURBED) };
        // One that has a single handshake where others have many does not wait for them.
        let fair = self.of.get(&newcomer).map_or(0, BTreeMap::len) + 1 < pending.len();
        let (busiest, number) = (*busiest, first_to_go(pending, now, fair)?);
        if let Some(pending) = self.remove(busiest, number) {
            pending.displaced.notify_one();
        }
        Ok(())
    }

    fn remove(&mut self, from: IpAddr, number: u64) -> Option<Pending> {
        let here = self.of.get_mut(&from)?;
        let pending = here.remove(&number)?;
        if here.is_empty() {
            self.of.remove(&from);
        }
        self.count -= 1;
        Some(pending)
    }
}

/// The oldest that says nothing, or the oldest of all; an error says when to look again. Who has said something does not go while
/// another may prove to be silent. `at_once`: nobody has to have had its time.
fn first_to_go(of: &BTreeMap<u64, Pending>, now: Instant, at_once: bool) -> Result<u64, Duration> {
    let left = |patience: Duration, since: Instant| patience.saturating_sub(now.saturating_duration_since(since));
    let mut wait = Duration::MAX;
    for (number, pending) in of {
        match pending.word {
            Word::Silent(since) if at_once || left(SILENT, since).is_zero() => return Ok(*number),
            Word::Silent(since) => wait = wait.min(left(SILENT, since)),
            Word::Unknown if !left(UNDISTURBED, pending.since).is_zero() => wait = wait.min(SILENT),
            Word::Unknown | Word::Something => {}
        }
    }
    let Some((number, oldest)) = of.first_key_value() else { return Err(UNDISTURBED) };
    let patience = left(UNDISTURBED, oldest.since);
    if at_once || (patience.is_zero() && wait == Duration::MAX) {
        Ok(*number)
    } else {
        Err(wait.min(patience.max(SILENT)))
    }
}

impl Permit {
    /// It has been looked at, and has said something or not.
    pub fn seen(&self, says_something: bool) {
        self.seen_at(says_something, Instant::now());
    }

    fn seen_at(&self, says_something: bool, now: Instant) {
        let mut state = self.of.state.lock();
        let pending = state.of.get_mut(&self.from).and_then(|own| own.get_mut(&self.number));
        if let Some(pending) = pending {
            pending.word = if says_something { Word::Something } else { Word::Silent(now) };
        }
    }

    /// It is no handshake any more: there is room for another, and it does not have to make any.
    pub fn give_back(&self) {
        if self.of.state.lock().remove(self.from, self.number).is_some() {
            self.of.room.notify_one();
        }
    }

    /// Resolves when this handshake must make room for another.
    pub async fn displaced(&self) {
        self.displaced.notified().await;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn is_displaced(permit: &Permit) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = permit.displaced() => true,
                () = std::future::ready(()) => false,
            }
        })
    }

    #[test]
    fn the_oldest_makes_room_once_it_had_its_time() {
        let (handshakes, begun) = (Handshakes::new(2, 2), Instant::now());
        let first = handshakes.try_enter(A, begun).unwrap();
        let second = handshakes.try_enter(A, begun).unwrap();
        [&first, &second].iter().for_each(|permit| permit.seen_at(true, begun));
        let wait = handshakes.try_enter(A, begun + UNDISTURBED / 4).unwrap_err();
        assert_eq!(wait, No::Wait(UNDISTURBED / 4 * 3));
        let third = handshakes.try_enter(A, begun + UNDISTURBED).unwrap();
        assert_eq!([&first, &second, &third].map(is_displaced), [true, false, false]);
        // It has no permit to give back any more.
        drop(first);
        assert_eq!(handshakes.state.lock().count, 2);
        drop((second, third));
        assert_eq!(handshakes.state.lock().count, 0);
        assert!(handshakes.state.lock().of.is_empty());
    }

    #[test]
    fn what_says_nothing_makes_room_sooner_than_what_is_older() {
        let (handshakes, begun) = (Handshakes::new(3, 3), Instant::now());
        let three = [(); 3].map(|()| handshakes.try_enter(A, begun).unwrap());
        // The first has not been looked at.
        three[1].seen_at(false, begun);
        three[2].seen_at(false, begun);
        three[1].seen_at(true, begun + SILENT / 2);
        let wait = handshakes.try_enter(A, begun + SILENT / 2).unwrap_err();
        assert_eq!(wait, No::Wait(SILENT / 2));
        let fourth = handshakes.try_enter(A, begun + SILENT).unwrap();
        assert_eq!(three.each_ref().map(is_displaced), [false, false, true]);
        // Nobody has looked at the first and the fourth: they may be silent.
        let wait = handshakes.try_enter(A, begun + SILENT).unwrap_err();
        assert_eq!(wait, No::Wait(SILENT));
        // Who has said something stays, though it is the oldest that has.
        let fifth = handshakes.try_enter(A, begun + UNDISTURBED).unwrap_err();
        assert_eq!(fifth, No::Wait(SILENT));
        drop(fourth);
    }

    #[test]
    fn one_address_with_many_does_not_keep_another_waiting() {
        let (handshakes, now) = (Handshakes::new(3, 3), Instant::now());
        let many: Vec<_> = (0..3).map(|_| handshakes.try_enter(A, now).unwrap()).collect();
        let other = handshakes.try_enter(B, now).unwrap();
        assert!(is_displaced(&many[0]) && !is_displaced(&other));
        // B would have as many as A: nobody is better off.
        assert!(handshakes.try_enter(B, now).is_err());
    }

    #[test]
    fn an_address_has_so_many_and_no_more() {
        let (handshakes, now) = (Handshakes::new(10, 2), Instant::now());
        let two: Vec<_> = (0..2).map(|_| handshakes.try_enter(A, now).unwrap()).collect();
        assert_eq!(handshakes.try_enter(A, now).unwrap_err(), No::Refused, "there would be room for others");
        let other = handshakes.try_enter(B, now).unwrap();
        let third = handshakes.try_enter(A, now + UNDISTURBED).unwrap();
        assert_eq!([&two[0], &two[1], &third, &other].map(is_displaced), [true, false, false, false]);
    }

    #[test]
    fn an_ipv6_network_is_one_party() {
        let of = |text: &str| of_one_party(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), A);
    }
}
