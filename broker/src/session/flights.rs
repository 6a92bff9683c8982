//! What is in flight to the client: sent, and not acknowledged. A message's place in the queue makes its packet identifier,
//! so that it is the same after a crash without being stored.
//!
//! ```text
//!   QoS 1, and what is taken as a value
//!
//!     ──PUBLISH──► Sent ──PUBACK──► Done
//!
//!   QoS 2
//!
//!     ──PUBLISH──► Sent ──PUBREC──► Received(mark) ──commit of mark──► Released ──PUBCOMP──► Done
//!                   │ │                                                ▲  ▲
//!                   │ └──PUBREC, session not in the store──────────────┘  │
//!                   └──PUBREC that refuses──► Done                        │
//!     PUBREC had come before a restart: ──PUBREL──────────────────────────┘
//!
//!   On a resumed connection, in order: Sent is sent again with DUP, Received waits on for its commit, Released sends PUBREL.
//! ```

use std::collections::VecDeque;
use std::sync::LazyLock;

use forebay_wire::types::PacketId;

use crate::lazy::Blank;
use crate::queue::{Entry, Held, Holder, Orphan, Refused, give_up};
use crate::store::QueueEntry;

/// How many places may lie between the oldest message in flight and the next: packet identifiers must differ.
pub(super) const SPAN_MAX: u64 = 65_000;

/// How far the exchange of one message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// PUBLISH sent: PUBACK or PUBREC is owed to us.
    Sent,
    /// PUBREC has come; PUBREL waits for the commit of this delta number.
    Received(u64),
    /// PUBREL sent.
    Released,
    /// Over; the place waits for older ones.
    Done,
}

/// One message in flight.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) seq: u64,
    pub(super) state: State,
    /// `settle` is owed to the message.
    pub(super) awaiting: bool,
    pub(super) qos: u8,
    pub(super) size: u32,
    /// Kept for a session that may resume, or for another member of a shared subscription, until PUBREC says that it is
    /// not needed any more.
    pub(super) item: Option<QueueEntry>,
}

impl InFlight {
    pub(super) fn live(&self) -> bool {
        self.state != State::Done
    }

    fn received(&self) -> bool {
        matches!(self.state, State::Received(_) | State::Released)
    }
}

/// What was in flight, and is over.
pub(super) struct Over {
    pub(super) seq: u64,
    pub(super) size: u32,
    /// The message, where it is known still: `settle` may be owed to it.
    pub(super) entry: Option<Entry>,
}

/// All that is in flight. A client that is only ever sent QoS 0 has none of this.
#[derive(Default)]
pub(super) struct Flights {
    /// By place. The first is not over.
    list: VecDeque<InFlight>,
    /// PUBLISHes that count for the Receive Maximum, those of declared queues among them.
    pub(super) unacked: u16,
    /// In flight from this index on: to be sent again on the resumed connection.
    pub(super) resend_from: Option<usize>,
    /// Places whose PUBREC had come before the broker started, and that are not in flight again yet.
    pub(super) released_before: Vec<u64>,
    /// The delta that says that a client is there: before it is committed nothing is sent at QoS 2.
    pub(super) connected_mark: u64,
}

impl Blank for Flights {
    fn blank() -> &'static Self {
        static BLANK: LazyLock<Flights> = LazyLock::new(Flights::default);
        &BLANK
    }
}

impl Holder for Flights {
    fn held(&self) -> impl Iterator<Item = Held<'_>> {
        self.live().map(|flight| Held { seq: flight.seq, size: flight.size, item: flight.item.as_ref() })
    }

    fn taken_to(&self) -> Option<u64> {
        self.list.back().map(|flight| flight.seq + 1)
    }
}

/// The packet identifier of a place.
pub(super) fn packet_id(seq: u64) -> PacketId {
    let id = u16::try_from(seq % 65_535).unwrap_or(0).saturating_add(1);
    PacketId::new(id).unwrap_or(PacketId::MIN)
}

impl Flights {
    /// Those that are not over, by place.
    pub(super) fn live(&self) -> impl Iterator<Item = &InFlight> {
        self.list.iter().filter(|flight| flight.live())
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn first(&self) -> Option<&InFlight> {
        self.list.front()
    }

    pub(super) fn last(&self) -> Option<&InFlight> {
        self.list.back()
    }

    pub(super) fn get(&self, at: usize) -> Option<&InFlight> {
        self.list.get(at)
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut InFlight> {
        self.list.get_mut(at)
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut InFlight> {
        self.list.iter_mut()
    }

    /// Where the message with this packet identifier is.
    pub(super) fn find(&self, id: PacketId) -> Option<usize> {
        let front = self.list.front()?;
        let want = u64::from(id.get() - 1);
        let guess = (want + 65_535 - front.seq % 65_535) % 65_535;
        let fits = |at: usize| self.list.get(at).is_some_and(|f| f.seq % 65_535 == want && f.live());
        let guess = usize::try_from(guess).unwrap_or(usize::MAX);
        if fits(guess) {
            return Some(guess);
        }
        // Places are ascending, with gaps where messages expired or were replaced.
        let seq = front.seq + guess as u64;
        self.find_place(seq).filter(|at| fits(*at))
    }

    /// Where the message of this place is, over or not.
    pub(super) fn find_place(&self, seq: u64) -> Option<usize> {
        self.list.binary_search_by(|flight| flight.seq.cmp(&seq)).ok()
    }

    /// The next place is in flight.
    pub(super) fn start(&mut self, flight: InFlight) {
        self.unacked += 1;
        self.list.push_back(flight);
    }

    /// The exchange at this index is over.
    pub(super) fn end(&mut self, at: usize) -> Option<Over> {
        let flight = self.list.get_mut(at)?;
        flight.state = State::Done;
        let awaiting = std::mem::take(&mut flight.awaiting);
        let entry = flight.item.take().map(|item| Entry { item, awaiting });
        let over = Over { seq: flight.seq, size: flight.size, entry };
        // What a resume has not sent again yet is not counted yet.
        if self.resend_from.is_none_or(|from| at < from) {
            self.unacked = self.unacked.saturating_sub(1);
        }
        self.forget_first();
        Some(over)
    }

    /// What is over and waits for nothing older goes.
    fn forget_first(&mut self) {
        while self.list.front().is_some_and(|flight| !flight.live()) {
            self.list.pop_front();
            if let Some(from) = self.resend_from {
                self.resend_from = Some(from.saturating_sub(1));
            }
        }
    }

    /// A new connection: everything in flight is to be sent again.
    pub(super) fn resume(&mut self) {
        self.forget_first();
        self.resend_from = (!self.list.is_empty()).then_some(0);
        self.unacked = 0;
    }

    /// The client is away.
    pub(super) fn rest(&mut self) {
        self.unacked = 0;
        self.resend_from = None;
        if self.list.is_empty() {
            self.list = VecDeque::new();
        }
    }

    /// Everything below `upto` is committed.
    pub(super) fn committed(&mut self, upto: u64) {
        for flight in self.list.iter_mut().filter(|flight| flight.awaiting && flight.seq < upto) {
            flight.awaiting = false;
            if let Some(item) = &flight.item {
                item.message.settle();
            }
        }
    }

    /// Nobody waits any more for what was refused; it stays in flight until the client acknowledges it.
    pub(super) fn take_back(&mut self, refused: &Refused) {
        for flight in self.list.iter_mut().filter(|flight| flight.awaiting) {
            if let Some(item) = flight.item.as_ref().filter(|item| refused.holds(&item.message)) {
                item.message.settle();
                flight.awaiting = false;
            }
        }
    }

    /// PUBREC of the message at this place had come before the broker started.
    pub(super) fn was_released(&self, seq: u64) -> bool {
        self.released_before.contains(&seq)
    }

    /// Places whose PUBREC has come, for the store: those of an earlier run that are not in flight again yet are still
    /// owed their PUBREL.
    pub(super) fn released(&self) -> Vec<u64> {
        let again = self.live().filter(|flight| flight.received()).map(|flight| flight.seq);
        again.chain(self.released_before.iter().copied()).collect()
    }

    /// Gives everything up: returns place and size of each. What came through shared subscriptions becomes an orphan; at QoS 2
    /// it is for nobody else [MQTT5-4.8.2-5].
    pub(super) fn give_up(&mut self, orphans: &mut Vec<Orphan>) -> Vec<(u64, u32)> {
        let mut over = Vec::new();
        for flight in std::mem::take(&mut self.list) {
            if !flight.live() {
                continue;
            }
            over.push((flight.seq, flight.size));
            if let Some(item) = flight.item {
                give_up(item, flight.awaiting, flight.qos == 2, orphans);
            }
        }
        over
    }

    /// What must hold after every step of a session whose client is there: the first that does not. `lent`: messages of
    /// declared queues that the client has.
    pub(super) fn check(&self, lent: usize) -> Result<(), &'static str> {
        let must = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(what) };
        must(self.list.front().is_none_or(InFlight::live), "the first in flight is not over")?;
        let ids = self.live().map(|flight| packet_id(flight.seq)).collect::<std::collections::BTreeSet<_>>();
        must(ids.len() == self.live().count(), "packet identifiers in flight differ")?;
        let sent = self.list.iter().take(self.resend_from.unwrap_or(self.list.len()));
        let counted = sent.filter(|flight| flight.live()).count() + lent;
        must(usize::from(self.unacked) <= counted, "the window counts no more than what is in flight")
    }
}
