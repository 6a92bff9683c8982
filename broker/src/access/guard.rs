//! Against guessing: wrong passwords slow down the address that they come from, then ban it for a time.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::network::of_one_party;

/// Addresses that are remembered. Beyond this the one that is forgotten is one that is not banned.
const ADDRESSES_MAX: usize = 10_000;
/// The answer to the first wrong password is put off by so much, to each further one by twice as much.
const DELAY: Duration = Duration::from_millis(50);
const DELAY_MAX: Duration = Duration::from_secs(2);

/// The limits.
#[derive(Clone, Copy, Debug)]
pub struct GuardLimits {
    /// Failures within the window, after which an address is banned.
    pub max_failures: u32,
    /// How long a failure counts.
    pub window: Duration,
    /// How long a ban lasts; zero for none.
    pub ban: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    first: Instant,
    banned_until: Option<Instant>,
}

/// What follows from one more failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consequence {
    /// How long the answer is put off.
    pub delay: Duration,
    /// The address is banned from now on.
    pub banned: bool,
}

/// The addresses that failed.
#[derive(Debug)]
pub struct Guard {
    limits: Mutex<GuardLimits>,
    addresses: Mutex<HashMap<IpAddr, Failures>>,
}

impl Guard {
    /// Nobody has failed.
    #[must_use]
    pub fn new(limits: GuardLimits) -> Self {
        Self { limits: Mutex::new(limits), addresses: Mutex::new(HashMap::new()) }
    }

    /// Whether an address is banned.
    #[must_use]
    pub fn is_banned(&self, addr: IpAddr, now: Instant) -> bool {
        let failures = self.addresses.lock().get(&of_one_party(addr)).copied();
        failures.and_then(|failures| failures.banned_until).is_some_and(|until| until > now)
    }

    /// Other limits, from the next wrong password on.
    pub fn set_limits(&self, limits: GuardLimits) {
        *self.limits.lock() = limits;
    }

    /// One more wrong password.
    pub fn failed(&self, addr: IpAddr, now: Instant) -> Consequence {
        let mut addresses = self.addresses.lock();
        let addr = of_one_party(addr);
        if addresses.len() >= ADDRESSES_MAX && !addresses.contains_key(&addr) {
            self.make_room(&mut addresses, now);
        }
        let fresh = Failures { count: 0, first: now, banned_until: None };
        let failures = addresses.entry(addr).or_insert(fresh);
        if self.is_over(failures, now) {
            *failures = fresh;
        }
        failures.count = failures.count.saturating_add(1);
        let doubled = DELAY.saturating_mul(1 << (failures.count - 1).min(10));
        let limits = *self.limits.lock();
        let over = failures.count >= limits.max_failures && !limits.ban.is_zero();
        // Guesses that were under way make a ban longer, and no other.
        let banned = over && failures.banned_until.is_none();
        if over {
            failures.banned_until = Some(now + limits.ban);
        }
        Consequence { delay: doubled.min(DELAY_MAX), banned }
    }

    /// The banned addresses, and for how much longer.
    #[must_use]
    pub fn banned(&self, now: Instant) -> Vec<(IpAddr, Duration)> {
        let addresses = self.addresses.lock();
        let banned = addresses.iter().filter_map(|(addr, failures)| {
            failures.banned_until.filter(|until| *until > now).map(|until| (*addr, until - now))
        });
        banned.collect()
    }

    /// Forgets what an address did; all of them with `None`. True if there was something.
    pub fn forgive(&self, addr: Option<IpAddr>) -> bool {
        let mut addresses = self.addresses.lock();
        if let Some(addr) = addr {
            return addresses.remove(&of_one_party(addr)).is_some();
        }
        let some = !addresses.is_empty();
        addresses.clear();
        some
    }

    fn is_over(&self, failures: &Failures, now: Instant) -> bool {
        match failures.banned_until {
            Some(until) => until <= now,
            None => now.saturating_duration_since(failures.first) > self.limits.lock().window,
        }
    }

    fn make_room(&self, addresses: &mut HashMap<IpAddr, Failures>, now: Instant) {
        addresses.retain(|_, failures| !self.is_over(failures, now));
        if addresses.len() >= ADDRESSES_MAX {
            let one = addresses.iter().min_by_key(|(_, failures)| (failures.banned_until.is_some(), failures.first));
            if let Some(one) = one.map(|(addr, _)| *addr) {
                addresses.remove(&one);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn guard() -> Guard {
        let (window, ban) = (Duration::from_secs(60), Duration::from_secs(600));
        Guard::new(GuardLimits { max_failures: 3, window, ban })
    }

    #[test]
    fn slows_down_then_bans_then_forgives() {
        let (guard, start) = (guard(), Instant::now());
        let addr: IpAddr = "192.0.2.7".parse().unwrap();
        let delays: Vec<_> = (0..3).map(|_| guard.failed(addr, start)).map(|c| (c.delay, c.banned)).collect();
        assert_eq!(delays, [(DELAY, false), (DELAY * 2, false), (DELAY * 4, true)]);
        assert!(guard.is_banned(addr, start) && guard.is_banned("::ffff:192.0.2.7".parse().unwrap(), start));
        assert!(!guard.is_banned("192.0.2.8".parse().unwrap(), start));
        assert_eq!(guard.banned(start), [(addr, Duration::from_secs(600))]);
        let later = start + Duration::from_secs(600);
        assert!(!guard.is_banned(addr, later));
        assert!(!guard.failed(addr, later).banned, "it begins anew");
        assert!(guard.forgive(Some(addr)) && !guard.forgive(Some(addr)));
    }

    #[test]
    fn a_failure_counts_for_a_time() {
        let (guard, start) = (guard(), Instant::now());
        let addr: IpAddr = "2001:db8::1".parse().unwrap();
        let same: IpAddr = "2001:db8::2".parse().unwrap();
        guard.failed(addr, start);
        guard.failed(same, start);
        assert!(!guard.failed(addr, start + Duration::from_secs(61)).banned);
        guard.failed(same, start + Duration::from_secs(62));
        assert!(guard.failed(addr, start + Duration::from_secs(63)).banned, "one /64 is one address");
    }

    #[test]
    fn remembers_so_many_and_keeps_the_bans() {
        let (guard, start) = (guard(), Instant::now());
        let bad: IpAddr = "192.0.2.7".parse().unwrap();
        for _ in 0..3 {
            guard.failed(bad, start);
        }
        for n in 0..2 * ADDRESSES_MAX as u32 {
            guard.failed(IpAddr::V4((0x0a00_0000 + n).into()), start);
        }
        assert!(guard.addresses.lock().len() <= ADDRESSES_MAX);
        assert!(guard.is_banned(bad, start));
    }
}
