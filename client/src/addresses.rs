//! Which server is tried next.

use std::time::{Duration, Instant};

use crate::url::{self, Address, Scheme};

/// Addresses in turn; one that a server referred to comes first, once. One that asked for patience is passed over meanwhile.
pub(crate) struct Addresses {
    all: Vec<Candidate>,
    next: usize,
    referred: Option<Address>,
    /// The last address came from a server.
    was_referred: bool,
}

struct Candidate {
    address: Address,
    /// In this round.
    tried: bool,
    /// What its server asked for.
    not_before: Option<Instant>,
}

impl Candidate {
    fn is_due(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| now >= at)
    }
}

impl Addresses {
    pub(crate) fn new(all: &[Address]) -> Self {
        let candidate = |address: &Address| Candidate { address: address.clone(), tried: false, not_before: None };
        Self { all: all.iter().map(candidate).collect(), next: 0, referred: None, was_referred: false }
    }

    pub(crate) fn next(&mut self, now: Instant) -> Address {
        self.was_referred = self.referred.is_some();
        if let Some(address) = self.referred.take() {
            return address;
        }
        if self.untried(now).is_none() {
            self.all.iter_mut().for_each(|candidate| candidate.tried = false);
        }
        let at = self.untried(now).unwrap_or_else(|| self.earliest());
        self.next = at + 1;
        // There is one at least: the options were made with it.
        let candidate = self.all.get_mut(at).map(|candidate| {
            candidate.tried = true;
            candidate.address.clone()
        });
        candidate.unwrap_or(Address { scheme: Scheme::Mqtt, host: String::new(), port: 0, path: String::new() })
    }

    /// Where the next one of this round is.
    fn untried(&self, now: Instant) -> Option<usize> {
        let mut places = (0..self.all.len()).map(|at| (self.next + at) % self.all.len());
        let is_next = |at: &usize| self.all.get(*at).is_some_and(|next| !next.tried && next.is_due(now));
        places.find(is_next)
    }

    fn earliest(&self) -> usize {
        let all = self.all.iter().enumerate();
        all.min_by_key(|(_, candidate)| candidate.not_before).map_or(0, |(at, _)| at)
    }

    pub(crate) fn has_untried(&self, now: Instant) -> bool {
        match &self.referred {
            // Servers that refer to each other would have no end: the second reference is followed after a wait.
            Some(address) => !self.was_referred && self.of(address).is_none_or(|candidate| candidate.is_due(now)),
            None => self.untried(now).is_some(),
        }
    }

    fn of(&self, address: &Address) -> Option<&Candidate> {
        self.all.iter().find(|candidate| candidate.address == *address)
    }

    /// The server at an address is not to be asked again before.
    pub(crate) fn hold(&mut self, address: &Address, until: Instant) {
        for candidate in self.all.iter_mut().filter(|candidate| candidate.address == *address) {
            candidate.not_before = Some(until);
        }
    }

    /// How long the next one is not to be asked.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        let next = match &self.referred {
            Some(address) => self.of(address),
            None => self.all.iter().min_by_key(|candidate| candidate.not_before),
        };
        let at = next.and_then(|candidate| candidate.not_before);
        at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// A server reference is `host[:port]`, several of them apart by spaces [MQTT5-4.13.2]; the first is followed, with the
    /// scheme of the server that said so.
    pub(crate) fn refer(&mut self, reference: Option<&str>, from: &Address) {
        let Some(first) = reference.and_then(|text| text.split_whitespace().next()) else { return };
        let scheme = from.to_string();
        let scheme = scheme.split("://").next().unwrap_or("mqtt");
        match url::parse(&format!("{scheme}://{first}")) {
            Ok(parsed) if parsed.address != *from => self.referred = Some(parsed.address),
            Ok(_) => {}
            Err(error) => tracing::warn!("the server referred to something that is no address: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(hosts: &[&str]) -> Addresses {
        let parsed = hosts.iter().map(|host| url::parse(&format!("mqtt://{host}")).unwrap().address);
        Addresses::new(&parsed.collect::<Vec<_>>())
    }

    #[test]
    fn each_is_tried_once_a_round() {
        let (mut addresses, now) = (addresses(&["a", "b"]), Instant::now());
        for _ in 0..3 {
            assert_eq!(addresses.next(now).host, "a");
            assert!(addresses.has_untried(now));
            assert_eq!(addresses.next(now).host, "b");
            assert!(!addresses.has_untried(now));
        }
    }

    #[test]
    fn one_that_asked_for_patience_is_passed_over() {
        const S: Duration = Duration::from_secs(1);
        let (mut addresses, now) = (addresses(&["a", "b"]), Instant::now());
        let first = addresses.next(now);
        addresses.hold(&first, now + S * 30);
        for second in 0..30 {
            assert_eq!(addresses.wait(now + S * second), Duration::ZERO);
            assert_eq!(addresses.next(now + S * second).host, "b");
            assert!(!addresses.has_untried(now + S * second));
        }
        assert!(addresses.has_untried(now + S * 30));
        assert_eq!(addresses.next(now + S * 30).host, "a");
        // When all did, the one whose time comes first is next.
        let second = addresses.next(now + S * 30);
        addresses.hold(&first, now + S * 90);
        addresses.hold(&second, now + S * 60);
        assert_eq!(addresses.wait(now + S * 31), S * 29);
        assert_eq!(addresses.next(now + S * 60).host, "b");
        // Another's word does not change that.
        addresses.refer(Some("a"), &second);
        assert!(!addresses.has_untried(now + S * 60));
        assert_eq!((addresses.wait(now + S * 60), addresses.next(now + S * 90).host.as_str()), (S * 30, "a"));
    }
}
