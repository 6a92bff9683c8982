//! A window: what comes in a time is counted together, by topic and key. It knows no clock and no store; what is in it is in memory
//! only.

use hashbrown::HashMap;
use serde_json::Value as Json;

use super::aggregate::Aggregate;
use super::expression::aggregate_name;
use super::{Derived, Fact, Facts, Failed, RESULT_MAX, Rule, WindowRule, millis};
use crate::message::Time;

/// What one message brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The topic of what is published when the window closes.
    pub topic: String,
    /// What `by` says; null without.
    pub key: Json,
    /// A value for each aggregate.
    pub values: Vec<Json>,
}

/// The open window of a rule.
#[derive(Debug, Default)]
pub struct Window {
    /// By topic and key as JSON. In the order of their first messages.
    groups: Vec<Group>,
    places: HashMap<(String, String), usize>,
    times: Option<Times>,
    messages: u64,
}

#[derive(Debug)]
struct Group {
    topic: String,
    key: Json,
    aggregates: Vec<Aggregate>,
}

/// When it was opened and closes.
#[derive(Clone, Copy, Debug)]
struct Times {
    ends: Time,
    /// Milliseconds since 1970.
    start_ms: u64,
}

/// A window that has closed.
#[derive(Debug)]
pub struct Closed {
    groups: Vec<Group>,
    start_ms: u64,
    /// Messages that were in it.
    pub messages: u64,
}

impl Window {
    /// Takes what a message brings.
    ///
    /// # Errors
    /// It has figures of as many keys as it may have.
    pub fn add(&mut self, rule: &WindowRule, entry: Entry, now: Time, wall_ms: u64) -> Result<(), Failed> {
        let length = u64::try_from(rule.length.as_millis()).unwrap_or(u64::MAX).max(1);
        // Windows of one length close together, and at the same times whenever the broker was started.
        let ends = Time((now.0 / length).saturating_add(1).saturating_mul(length));
        let place = (entry.topic, entry.key.to_string());
        let at = match self.places.get(&place) {
            Some(at) => *at,
            None if self.groups.len() >= rule.max_keys => {
                return Err(Failed(format!(
                    "the window has figures of {} keys, which is all (max_keys)",
                    rule.max_keys
                )));
            }
            None => {
                let aggregates = rule.aggregates.iter().map(|(kind, _)| Aggregate::new(*kind)).collect();
                self.groups.push(Group { topic: place.0.clone(), key: entry.key, aggregates });
                self.places.insert(place, self.groups.len() - 1);
                self.groups.len() - 1
            }
        };
        self.times.get_or_insert(Times { ends, start_ms: wall_ms });
        self.messages += 1;
        let aggregates = self.groups.get_mut(at).map(|group| &mut group.aggregates);
        for (aggregate, value) in aggregates.into_iter().flatten().zip(entry.values) {
            aggregate.add(value);
        }
        Ok(())
    }

    /// What is in it, if its time is over.
    pub fn close_at(&mut self, now: Time) -> Option<Closed> {
        if self.times?.ends > now { None } else { self.close() }
    }

    /// What is in it.
    pub fn close(&mut self) -> Option<Closed> {
        let times = self.times.take()?;
        self.places = HashMap::new();
        let (groups, messages) = (std::mem::take(&mut self.groups), std::mem::take(&mut self.messages));
        Some(Closed { groups, start_ms: times.start_ms, messages })
    }
}

impl Closed {
    /// What is to be published, one for each topic and key; and what could not be made.
    pub fn results(self, rule: &Rule, wall_ms: u64) -> impl Iterator<Item = Result<Derived, Failed>> {
        let start_ms = self.start_ms;
        self.groups.into_iter().map(move |group| {
            let Group { topic, key, aggregates } = group;
            let values = aggregates.into_iter().map(Aggregate::end).collect();
            let facts = AtEnd { key, values, start_ms, end_ms: wall_ms };
            let payload = rule.payload.as_ref().map(|expression| expression.json(&facts, RESULT_MAX)).transpose();
            Ok(Derived { topic, payload: payload.map_err(|failed| failed.of("payload"))? })
        })
    }
}

/// What is known when a window closes.
struct AtEnd {
    key: Json,
    values: Vec<Json>,
    start_ms: u64,
    end_ms: u64,
}

impl Facts for AtEnd {
    fn find(&self, name: &str) -> Option<Fact<'_>> {
        let (of, path) = name.split_once('.').map_or((name, None), |(of, path)| (of, Some(path)));
        let json = match of {
            "start" if path.is_none() => return Some(Fact::Number(millis(self.start_ms))),
            "end" | "now" if path.is_none() => return Some(Fact::Number(millis(self.end_ms))),
            "key" => &self.key,
            _ => self.values.iter().enumerate().find(|(at, _)| aggregate_name(*at) == of).map(|(_, value)| value)?,
        };
        let fields = path.into_iter().flat_map(|path| path.split('.'));
        fields.into_iter().try_fold(json, |json, field| json.get(field)).map(Fact::Json)
    }

    fn trouble(&self) -> Option<String> {
        None
    }
}
