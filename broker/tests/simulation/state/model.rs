//! What a broker must know, in memory and after a crash: a commit copies the one to the other, a crash copies it back.

use std::collections::{BTreeMap, BTreeSet};

/// A session expiry interval that no run outlasts.
pub const LONG_S: u32 = 1_000_000;

/// A subscription of MQTT 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sub {
    pub qos: u8,
    pub no_local: bool,
    pub retain_as_published: bool,
    /// Its identifier; 0 for none.
    pub id: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Will {
    pub number: u32,
    pub qos: u8,
    pub retain: bool,
    pub delay_s: u32,
}

/// A session that the broker has.
#[derive(Clone, Debug)]
pub struct Kept {
    pub expiry_s: u32,
    /// Since when its client is away, by the broker's clock; `None` while it is connected.
    pub away_ms: Option<u64>,
    pub subs: BTreeMap<String, Sub>,
    pub will: Option<Will>,
    /// The last SUBSCRIBE or UNSUBSCRIBE that was handled.
    pub handled: u16,
    /// It has asked for retained messages: how many messages its client had got before.
    pub asked: Option<usize>,
}

/// A retained message: its number, and when it expires by the broker's clock.
pub type Value = (u32, Option<u64>);

/// All that a run looks at.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub sessions: BTreeMap<&'static str, Kept>,
    pub retained: BTreeMap<String, Value>,
    /// The last publication with RETAIN that was handled.
    pub handled: u16,
    /// Wills that were published.
    pub published: BTreeSet<u32>,
}

/// How a client is to get a probe: QoS, RETAIN, subscription identifiers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    pub qos: u8,
    pub retain: bool,
    pub ids: Vec<u32>,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug)]
pub enum Leave {
    /// DISCONNECT with 0x00: the will is discarded.
    Quietly,
    /// DISCONNECT with 0x04: the will is published.
    WithWill,
    /// Without a word.
    Cut,
}

impl State {
    fn publish_will(&mut self, of: &str, will: Will) {
        self.published.insert(will.number);
        if will.retain {
            self.retained.insert(format!("w/{of}"), (will.number, None));
        }
    }

    fn end(&mut self, name: &'static str) {
        let gone = self.sessions.remove(name);
        if let Some(will) = gone.and_then(|gone| gone.will) {
            self.publish_will(name, will);
        }
    }

    /// What is due at this time: wills, then the ends of sessions.
    pub fn settle(&mut self, now_ms: u64) {
        let names: Vec<&'static str> = self.sessions.keys().copied().collect();
        for name in names {
            let kept = &self.sessions[name];
            let Some(away_ms) = kept.away_ms else { continue };
            let due = |s: u32| away_ms + u64::from(s) * 1000 <= now_ms;
            let over = due(kept.expiry_s);
            let will = kept.will.filter(|will| due(will.delay_s));
            if over {
                self.end(name);
            } else if let Some(will) = will {
                self.sessions.get_mut(name).unwrap().will = None;
                self.publish_will(name, will);
            }
        }
    }

    /// CONNECT has been answered; true: with Session Present.
    pub fn connect(&mut self, name: &'static str, clean: bool, expiry_s: u32, will: Option<Will>, now_ms: u64) -> bool {
        self.settle(now_ms);
        // A session that was to end with its connection is not found again, though the connection is there still.
        let present = !clean && self.sessions.get(name).is_some_and(|kept| kept.expiry_s > 0);
        if !present {
            self.end(name);
        }
        if let Some(kept) = self.sessions.get_mut(name) {
            // Taken over: the connection before has ended without a word, and a new one has come before any delay was over.
            let before = kept.will.filter(|will| kept.away_ms.is_none() && will.delay_s == 0);
            (kept.expiry_s, kept.away_ms, kept.will) = (expiry_s, None, will);
            if let Some(before) = before {
                self.publish_will(name, before);
            }
        } else {
            let kept = Kept { expiry_s, away_ms: None, subs: BTreeMap::new(), will, handled: 0, asked: None };
            self.sessions.insert(name, kept);
        }
        present
    }

    /// The connection has ended, perhaps with another session expiry interval.
    pub fn leave(&mut self, name: &'static str, how: Leave, expiry_s: Option<u32>, now_ms: u64) {
        let kept = self.sessions.get_mut(name).unwrap();
        kept.expiry_s = expiry_s.unwrap_or(kept.expiry_s);
        kept.away_ms = Some(now_ms);
        if matches!(how, Leave::Quietly) {
            kept.will = None;
        }
        self.settle(now_ms);
    }

    /// The broker has started again: everybody is away since then, and what was to end with its connection ends.
    pub fn restart(&mut self, now_ms: u64) {
        // Nothing of a session without a will is kept that ends with its connection.
        self.sessions.retain(|_, kept| kept.expiry_s > 0 || kept.will.is_some());
        for kept in self.sessions.values_mut() {
            kept.away_ms.get_or_insert(now_ms);
        }
        self.settle(now_ms);
    }

    /// What the client is to get of a message that `publisher` sends; `None`: nothing.
    pub fn terms(&self, client: &str, publisher: &str, topic: &str, qos: u8, retain: bool) -> Option<Terms> {
        let subs = &self.sessions.get(client)?.subs;
        let matching = |(filter, sub): &(&String, &Sub)| {
            forebay_wire::topic::matches(filter, topic) && !(sub.no_local && client == publisher)
        };
        let found: Vec<&Sub> = subs.iter().filter(matching).map(|(_, sub)| sub).collect();
        let most = found.iter().map(|sub| sub.qos).max()?;
        let mut ids: Vec<u32> = found.iter().map(|sub| sub.id).filter(|id| *id != 0).collect();
        ids.sort_unstable();
        let retain = retain && found.iter().any(|sub| sub.retain_as_published);
        Some(Terms { qos: qos.min(most), retain, ids })
    }

    /// Topic and number of the retained messages that a new subscriber is given.
    pub fn alive(&self, now_ms: u64) -> BTreeMap<String, u32> {
        let alive = self.retained.iter().filter(|(_, (_, expires))| expires.is_none_or(|at| now_ms < at));
        alive.map(|(topic, (number, _))| (topic.clone(), *number)).collect()
    }
}
