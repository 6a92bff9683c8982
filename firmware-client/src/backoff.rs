//! When to try again.

use crate::options::Ladder;
use forebay_wire::ReasonCode;

/// Which ladder a failure is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Rung {
    Network = 0,
    Busy = 1,
    Refused = 2,
}

impl Rung {
    /// The ladder for what the server said.
    #[allow(clippy::wildcard_enum_match_arm, reason = "what is not said to be the device's own fault is the network's")]
    pub(crate) const fn of(reason: ReasonCode) -> Self {
        match reason {
            ReasonCode::ServerUnavailable
            | ReasonCode::ServerBusy
            | ReasonCode::ServerShuttingDown
            | ReasonCode::MessageRateTooHigh
            | ReasonCode::QuotaExceeded
            | ReasonCode::UseAnotherServer
            | ReasonCode::ServerMoved
            | ReasonCode::ConnectionRateExceeded => Self::Busy,
            ReasonCode::UnsupportedProtocolVersion
            | ReasonCode::ClientIdentifierNotValid
            | ReasonCode::BadUserNameOrPassword
            | ReasonCode::NotAuthorized
            | ReasonCode::Banned
            | ReasonCode::BadAuthenticationMethod
            | ReasonCode::SessionTakenOver
            | ReasonCode::AdministrativeAction => Self::Refused,
            _ => Self::Network,
        }
    }
}

/// The last wait on each ladder, and the device's dice.
#[derive(Debug)]
pub(crate) struct Backoff {
    last_ms: [u32; 3],
    dice: u32,
}

impl Backoff {
    pub(crate) const fn new(seed: u32) -> Self {
        // Serial numbers that follow each other must not begin alike; and zero would stay zero.
        let mixed = (seed ^ seed >> 16).wrapping_mul(0x85eb_ca6b);
        let mixed = (mixed ^ mixed >> 13).wrapping_mul(0xc2b2_ae35);
        Self { last_ms: [0; 3], dice: (mixed ^ mixed >> 16) | 1 }
    }

    /// A number from 0 to `most`.
    pub(crate) fn roll(&mut self, most: u32) -> u32 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 17;
        self.dice ^= self.dice << 5;
        ((u64::from(self.dice) * (u64::from(most) + 1)) >> 32) as u32
    }

    /// The next wait on a ladder.
    pub(crate) fn next(&mut self, rung: Rung, ladder: &Ladder) -> u32 {
        let last = self.last_ms.get(rung as usize).copied().unwrap_or_default().max(ladder.base_ms);
        let most = last.saturating_mul(3).min(ladder.cap_ms);
        let wait = ladder.base_ms.saturating_add(self.roll(most.saturating_sub(ladder.base_ms)));
        if let Some(last) = self.last_ms.get_mut(rung as usize) {
            *last = wait;
        }
        wait
    }

    /// The server said how long: at least that, and up to a quarter more, so that not all come back at once.
    pub(crate) fn after(&mut self, asked_ms: u32) -> u32 {
        asked_ms.saturating_add(self.roll(asked_ms / 4))
    }

    /// All of it, for a sleep.
    pub(crate) fn state(&self) -> [u32; 4] {
        let [a, b, c] = self.last_ms;
        [a, b, c, self.dice]
    }

    pub(crate) fn set_state(&mut self, state: &[u32; 4]) {
        let [a, b, c, dice] = *state;
        self.last_ms = [a, b, c];
        self.dice = dice | 1;
    }

    /// A connection held.
    pub(crate) fn reset(&mut self) {
        self.last_ms = [0; 3];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const LADDER: Ladder = Ladder { base_ms: 100, cap_ms: 10_000 };

    #[test]
    fn waits_grow_stay_in_bounds_and_start_again() {
        let mut backoff = Backoff::new(7);
        let mut last = 100;
        let mut reached = 0;
        for _ in 0..1_000 {
            let wait = backoff.next(Rung::Network, &LADDER);
            assert!((100..=10_000).contains(&wait) && wait <= 3 * last, "{wait} after {last}");
            last = wait;
            reached = reached.max(wait);
        }
        assert!(reached > 9_000);
        assert!(backoff.next(Rung::Busy, &LADDER) <= 300, "each ladder has its own steps");
        backoff.reset();
        assert!(backoff.next(Rung::Network, &LADDER) <= 300);
    }

    #[test]
    fn devices_whose_numbers_follow_each_other_do_not_wait_alike() {
        let mut seen = [0u8; 8];
        for seed in 0..800 {
            let wait = Backoff::new(seed).next(Rung::Network, &LADDER);
            let bucket = (wait - 100) * 8 / 201;
            seen[bucket as usize] += 1;
        }
        assert!(seen.iter().all(|count| (60..=150).contains(count)), "{seen:?}");
    }

    #[test]
    fn a_server_is_never_asked_before_the_time_it_said() {
        let mut backoff = Backoff::new(1);
        for _ in 0..1_000 {
            assert!((8_000..=10_000).contains(&backoff.after(8_000)));
        }
        assert_eq!(Backoff::new(3).after(u32::MAX), u32::MAX);
    }
}
