//! What is owed to the server: acknowledgements, and the identifiers of QoS 2 that it has not released.

use forebay_wire::ReasonCode;

/// The largest Receive Maximum.
pub const INBOUND_MAX: usize = 24;
/// Two more, so that an answer to a PUBREC or PUBREL that nobody waits for always finds a place.
const PLACES: usize = INBOUND_MAX + 2;

/// What comes next for an identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Owed {
    /// Nothing: the server sends PUBREL.
    Nothing = 0,
    /// PUBACK, once the application has handled the message.
    AckLater = 1,
    /// PUBREC, once the application has handled the message.
    RecLater = 2,
    /// PUBACK.
    Ack = 3,
    /// PUBREC.
    Rec = 4,
    /// PUBCOMP.
    Comp = 5,
    /// PUBREL for a PUBREC that fits no message.
    Rel = 6,
}

impl Owed {
    fn is_due(self) -> bool {
        matches!(self, Self::Ack | Self::Rec | Self::Comp | Self::Rel)
    }

    /// Of a QoS 2 message.
    fn is_open(self) -> bool {
        matches!(self, Self::RecLater | Self::Rec | Self::Nothing | Self::Comp)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: u16,
    pub(crate) owed: Owed,
    pub(crate) reason: ReasonCode,
}

impl Entry {
    /// A message of QoS 2 that was delivered: the server will ask for its identifier again.
    pub(crate) fn outlives_connection(&self) -> bool {
        matches!(self.owed, Owed::RecLater | Owed::Rec | Owed::Nothing) && self.reason.is_success()
    }
}

const EMPTY: Entry = Entry { id: 0, owed: Owed::Nothing, reason: ReasonCode::Success };

/// In the order of arrival, which is the order of the acknowledgements [MQTT-4.6.0-2], [MQTT-4.6.0-3].
#[derive(Debug)]
pub(crate) struct Inbound {
    entries: [Entry; PLACES],
    len: u8,
}

impl Inbound {
    pub(crate) const fn new() -> Self {
        Self { entries: [EMPTY; PLACES], len: 0 }
    }

    pub(crate) fn all(&self) -> &[Entry] {
        self.entries.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn all_mut(&mut self) -> &mut [Entry] {
        self.entries.get_mut(..usize::from(self.len)).unwrap_or_default()
    }

    /// Whether there is a place.
    pub(crate) fn has_room(&self) -> bool {
        usize::from(self.len) < PLACES
    }

    /// Messages that the server counts as in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.all().iter().filter(|entry| (entry.owed as u8) < Owed::Comp as u8).count()
    }

    /// Whether something can be sent that frees a place.
    pub(crate) fn any_due(&self) -> bool {
        self.all().iter().any(|entry| entry.owed.is_due())
    }

    /// Whether an exchange of QoS 2 is not at its end.
    pub(crate) fn any_open(&self) -> bool {
        self.all().iter().any(|entry| entry.owed.is_open())
    }

    pub(crate) fn push(&mut self, id: u16, owed: Owed, reason: ReasonCode) {
        if let Some(entry) = self.entries.get_mut(usize::from(self.len)) {
            *entry = Entry { id, owed, reason };
            self.len = self.len.wrapping_add(1);
        }
    }

    /// The open QoS 2 message with this identifier.
    pub(crate) fn open(&mut self, id: u16) -> Option<&mut Entry> {
        self.all_mut().iter_mut().find(|entry| entry.id == id && entry.owed.is_open())
    }

    /// The open message with this identifier is none any more.
    pub(crate) fn forget(&mut self, id: u16) {
        if let Some(at) = self.all().iter().position(|entry| entry.id == id && entry.owed.is_open()) {
            self.remove(at);
        }
    }

    /// The application has handled what it was given.
    pub(crate) fn release(&mut self) {
        for entry in self.all_mut() {
            match entry.owed {
                Owed::AckLater => entry.owed = Owed::Ack,
                Owed::RecLater => entry.owed = Owed::Rec,
                Owed::Ack | Owed::Rec | Owed::Nothing | Owed::Comp | Owed::Rel => {}
            }
        }
    }

    /// The answer for the message that the application has in hand.
    pub(crate) fn answer(&mut self, reason: ReasonCode) {
        for entry in self.all_mut() {
            if matches!(entry.owed, Owed::AckLater | Owed::RecLater) {
                entry.reason = reason;
            }
        }
    }

    /// What is sent next. It counts as sent: the connection that loses it is followed by one that repeats the question.
    #[inline(never)]
    pub(crate) fn take(&mut self) -> Option<Entry> {
        let at = self.all().iter().position(|entry| entry.owed.is_due())?;
        let entry = *self.entries.get(at)?;
        if entry.owed == Owed::Rec && entry.reason.is_success() {
            self.entries.get_mut(at)?.owed = Owed::Nothing;
        } else {
            self.remove(at);
        }
        Some(entry)
    }

    fn remove(&mut self, at: usize) {
        let mut next = at.wrapping_add(1);
        while let Some(entry) = self.all().get(next).copied() {
            if let Some(to) = self.entries.get_mut(next.wrapping_sub(1)) {
                *to = entry;
            }
            next = next.wrapping_add(1);
        }
        self.len = self.len.saturating_sub(1);
    }

    /// Only what the server will ask for again is kept: the identifiers of QoS 2 that were delivered. A message of QoS 1,
    /// and one that was refused, comes again.
    pub(crate) fn disconnected(&mut self) {
        let mut at = 0;
        while let Some(entry) = self.all().get(at).copied() {
            if entry.outlives_connection() {
                if let Some(entry) = self.entries.get_mut(at) {
                    entry.owed = Owed::Nothing;
                }
                at = at.wrapping_add(1);
            } else {
                self.remove(at);
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_leave_in_order_and_once() {
        let mut inbound = Inbound::new();
        inbound.push(1, Owed::AckLater, ReasonCode::Success);
        inbound.push(2, Owed::RecLater, ReasonCode::Success);
        assert_eq!(inbound.take(), None);
        inbound.release();
        inbound.push(3, Owed::Ack, ReasonCode::QuotaExceeded);
        assert_eq!(inbound.in_flight(), 3);
        assert_eq!(inbound.take().map(|entry| entry.id), Some(1));
        assert_eq!(inbound.take().map(|entry| entry.owed), Some(Owed::Rec));
        assert_eq!(inbound.take().map(|entry| entry.reason), Some(ReasonCode::QuotaExceeded));
        assert_eq!(inbound.take(), None);
        assert_eq!(inbound.all(), [Entry { id: 2, owed: Owed::Nothing, reason: ReasonCode::Success }]);
    }

    #[test]
    fn a_lost_connection_leaves_the_open_identifiers_of_qos_2() {
        let mut inbound = Inbound::new();
        for (id, owed) in [(1, Owed::Ack), (2, Owed::RecLater), (3, Owed::Comp), (4, Owed::Nothing), (5, Owed::Rel)] {
            inbound.push(id, owed, ReasonCode::Success);
        }
        inbound.push(6, Owed::Rec, ReasonCode::QuotaExceeded);
        inbound.disconnected();
        let mut ids = inbound.all().iter().map(|entry| (entry.id, entry.owed));
        assert_eq!((ids.next(), ids.next()), (Some((2, Owed::Nothing)), Some((4, Owed::Nothing))));
        assert_eq!(ids.next(), None);
    }

    #[test]
    fn a_full_table_takes_no_more() {
        let mut inbound = Inbound::new();
        for id in 0..100 {
            inbound.push(id, Owed::Nothing, ReasonCode::Success);
        }
        assert!(!inbound.has_room());
        assert_eq!(inbound.all().len(), PLACES);
        assert!(inbound.open(25).is_some() && inbound.open(26).is_none());
    }
}
