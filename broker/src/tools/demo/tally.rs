//! Which messages were published and which arrived: each carries its device and its number.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// Devices with an even number publish at QoS 1, the others at QoS 2.
pub(super) fn is_exactly_once(device: u32) -> bool {
    device % 2 == 1
}

pub(super) struct Tally {
    devices: Vec<Device>,
    received: AtomicU64,
    repeated: AtomicU64,
}

#[derive(Default)]
struct Device {
    published: AtomicU64,
    arrived: Mutex<Arrived>,
}

#[derive(Default)]
struct Arrived {
    /// The number that comes next.
    next: u64,
    /// Numbers before it that have not come.
    missing: BTreeSet<u64>,
    repeated: u64,
    out_of_order: u64,
}

/// What became of all messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    published: u64,
    acked: u64,
    arrived: u64,
    lost: u64,
    repeated_qos1: u64,
    repeated_qos2: u64,
    out_of_order: u64,
}

impl Tally {
    pub(super) fn new(devices: u32) -> Self {
        let devices = (0..devices).map(|_| Device::default()).collect();
        Self { devices, received: AtomicU64::new(0), repeated: AtomicU64::new(0) }
    }

    /// The number of a device's next message.
    pub(super) fn publish(&self, device: u32) -> u64 {
        self.devices.get(device as usize).map_or(0, |device| device.published.fetch_add(1, Relaxed))
    }

    /// A message arrived; false when it names no device of ours.
    pub(super) fn arrive(&self, device: u32, number: u64) -> bool {
        let Some(device) = self.devices.get(device as usize) else { return false };
        let mut arrived = device.arrived.lock();
        if number >= arrived.next {
            let skipped = arrived.next..number;
            arrived.missing.extend(skipped);
            arrived.next = number + 1;
        } else if arrived.missing.remove(&number) {
            arrived.out_of_order += 1;
        } else {
            arrived.repeated += 1;
            self.repeated.fetch_add(1, Relaxed);
            return true;
        }
        self.received.fetch_add(1, Relaxed);
        true
    }

    pub(super) fn published(&self) -> u64 {
        self.devices.iter().map(|device| device.published.load(Relaxed)).sum()
    }

    /// Different messages that arrived.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    pub(super) fn repeated(&self) -> u64 {
        self.repeated.load(Relaxed)
    }

    pub(super) fn account(&self, acked: u64) -> Account {
        let mut account =
            Account { published: self.published(), acked, arrived: self.received(), ..Account::default() };
        account.lost = account.published.saturating_sub(account.arrived);
        for (number, device) in (0u32..).zip(&self.devices) {
            let arrived = device.arrived.lock();
            account.out_of_order += arrived.out_of_order;
            if is_exactly_once(number) {
                account.repeated_qos2 += arrived.repeated;
            } else {
                account.repeated_qos1 += arrived.repeated;
            }
        }
        account
    }
}

impl Account {
    /// Nothing lost, QoS 2 exactly once, all in order.
    pub(super) fn is_right(&self) -> bool {
        self.lost == 0 && self.repeated_qos2 == 0 && self.out_of_order == 0 && self.acked == self.published
    }

    /// `ledger`: what the broker says.
    pub(super) fn text(&self, ledger: &[(String, String)]) -> String {
        let mut lines = vec![
            format!("published by the devices      {:>9}", self.published),
            format!("acknowledged by the broker    {:>9}", self.acked),
            format!("arrived at the upstream       {:>9}", self.arrived),
            format!("lost                          {:>9}", self.lost),
            format!("QoS 2: arrived twice          {:>9}", self.repeated_qos2),
            format!("QoS 1: arrived twice          {:>9}   (allowed)", self.repeated_qos1),
            format!("out of order                  {:>9}", self.out_of_order),
        ];
        if !ledger.is_empty() {
            lines.push("the broker's ledger since it was started again:".to_owned());
            lines.extend(ledger.iter().map(|(name, value)| format!("  {name:<28}{value:>9}")));
        }
        lines.push(if self.is_right() { "nothing was lost".to_owned() } else { "THIS IS NOT RIGHT".to_owned() });
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(arrivals: &[(u32, u64)]) -> Account {
        let tally = Tally::new(2);
        for device in 0..2 {
            for _ in 0..3 {
                tally.publish(device);
            }
        }
        for (device, number) in arrivals {
            assert!(tally.arrive(*device, *number));
        }
        tally.account(6)
    }

    #[test]
    fn all_in_order_is_right_and_so_is_qos_1_twice() {
        let all = [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2), (0, 2)];
        assert!(account(&all).is_right());
        let twice = [&all[..], &[(0, 1), (0, 2)]].concat();
        assert!(account(&twice).is_right() && account(&twice).repeated_qos1 == 2);
    }

    #[test]
    fn each_fault_is_found() {
        let lost = account(&[(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)]);
        assert!(!lost.is_right() && lost.lost == 1);
        let doubled = account(&[(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 2)]);
        assert!(!doubled.is_right() && doubled.repeated_qos2 == 1);
        let swapped = account(&[(0, 1), (0, 0), (0, 2), (1, 0), (1, 1), (1, 2)]);
        assert!(!swapped.is_right() && swapped.out_of_order == 1);
        let tally = Tally::new(1);
        assert!(!tally.arrive(1, 0));
        tally.publish(0);
        tally.arrive(0, 0);
        assert!(!tally.account(0).is_right(), "a message that arrived and was not acknowledged");
    }
}
