//! What the broker says of itself: the `$SYS` topics, one publication of them at a time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::link::Endpoint;
use crate::packet::Version;
use crate::peer::{Came, Connect, Peer};

/// How long a figure may take to become what it should be.
const LIMIT: Duration = Duration::from_secs(30);
const ROOT: &str = "$SYS/broker/";
/// The first and the last topic of one publication.
const FIRST: &str = "uptime";
const LAST: &str = "counters/sessions_expired";

/// A subscriber to `$SYS/#`.
#[derive(Debug)]
pub struct Sys {
    peer: Peer,
    pressures: Vec<String>,
}

/// The figures of one publication.
pub type Figures = BTreeMap<String, u64>;

impl Sys {
    /// Subscribes; the broker's `sys_interval` should be short.
    pub fn open(endpoint: &Endpoint) -> Self {
        let (mut peer, _) = Peer::open(endpoint, &Connect::clean(Version::V5, "sys"));
        assert_eq!(peer.subscribe(&[("$SYS/broker/#", 0)]), [0]);
        Self { peer, pressures: Vec::new() }
    }

    /// The next publication that begins after this call.
    pub fn figures(&mut self) -> Figures {
        // What lies in the socket's buffer was published before.
        while let Some(came) = self.peer.within(Duration::ZERO) {
            self.note(came, &mut None);
        }
        let mut figures = None;
        loop {
            let came = self.peer.answer();
            if self.note(came, &mut figures) {
                return figures.unwrap_or_default();
            }
        }
    }

    /// True: the publication is complete.
    fn note(&mut self, came: Came, figures: &mut Option<Figures>) -> bool {
        let Came::Publish(message) = came else { panic!("among $SYS: {came:?}") };
        let name = message.topic.strip_prefix(ROOT).unwrap().to_owned();
        let value = String::from_utf8(message.payload).unwrap();
        if name == "pressure" {
            self.pressures.push(value);
            return false;
        }
        // Retained ones come in no order, of a publication before.
        if message.retain {
            return false;
        }
        if name == FIRST {
            *figures = Some(Figures::new());
        }
        let Some(figures) = figures else { return false };
        let last = name == LAST;
        if let Ok(value) = value.parse() {
            figures.insert(name, value);
        }
        last
    }

    /// Waits for a publication that `is_so`; a panic says what the last one was.
    pub fn until(&mut self, what: &str, is_so: impl Fn(&Figures) -> bool) -> Figures {
        let begun = Instant::now();
        loop {
            let figures = self.figures();
            if is_so(&figures) {
                return figures;
            }
            assert!(begun.elapsed() < LIMIT, "{what}: {figures:?}");
        }
    }

    /// Waits until the pressure is this; the answer is what it was on the way, the last included.
    pub fn until_pressure(&mut self, wanted: &str) -> Vec<String> {
        let begun = Instant::now();
        while self.pressures.last().is_none_or(|last| last != wanted) {
            assert!(begun.elapsed() < LIMIT, "the pressure is not {wanted}: {:?}", self.pressures);
            if let Some(came) = self.peer.within(Duration::from_millis(100)) {
                self.note(came, &mut None);
            }
        }
        std::mem::take(&mut self.pressures)
    }
}

/// A figure, which must be there.
pub fn figure(figures: &Figures, name: &str) -> u64 {
    *figures.get(name).unwrap_or_else(|| panic!("no {name} in {figures:?}"))
}

/// All drops, whatever the reason.
pub fn dropped(figures: &Figures) -> u64 {
    figures.iter().filter(|(name, _)| name.starts_with("ledger/dropped/")).map(|(_, count)| count).sum()
}

/// accepted = delivered + queued + expired + dropped.
pub fn assert_balanced(figures: &Figures) {
    let of = |name: &str| figure(figures, &format!("ledger/{name}"));
    let (accepted, delivered, queued, expired) = (of("accepted"), of("delivered"), of("queued"), of("expired"));
    let dropped = dropped(figures);
    let ledger: Vec<_> = figures.iter().filter(|(name, _)| name.starts_with("ledger/")).collect();
    assert_eq!(accepted, delivered + queued + expired + dropped, "{ledger:?}");
}
