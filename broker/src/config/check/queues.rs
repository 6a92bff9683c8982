//! `[[queues]]`, `[[dead_letters]]` and `[[streams]]`.

use super::super::checked::{Bridge, DeadLetterRule, Queue, QueueLimits, Stream};
use super::super::raw::{RawDeadLetters, RawPriority, RawQueue, RawQueues, RawStream};
use super::super::table::At;
use super::{Checker, bytes, defaults, duration, number, or_never, topic_filter};
use crate::queue::members::Share;
use crate::queue::{KeyOf, Priorities, Reasons, Why};

/// Declared queues of one broker.
const QUEUES_MAX: usize = 1_000;

impl Checker<'_> {
    pub(super) fn queues(&mut self, raw: Vec<At<RawQueues>>, bridges: &[Bridge]) -> Vec<Queue> {
        let mut queues: Vec<Queue> = Vec::with_capacity(raw.len());
        for at in raw {
            let place = at.place();
            let Some((queue, name)) = self.declared_queue(at) else { continue };
            if queues.iter().any(|other| other.name == queue.name) {
                self.wrong(&name, format!("there is a queue \"{}\" already", queue.name));
            } else if bridges.iter().any(|bridge| bridge.name == queue.name) {
                self.wrong(&name, format!("there is a bridge \"{}\": both would have $dead/{0}/...", queue.name));
            } else if queues.len() >= QUEUES_MAX {
                self.wrong(&place, format!("there may be {QUEUES_MAX} queues at most"));
            }
            queues.push(queue);
        }
        queues
    }

    pub(super) fn dead_letters(
        &mut self,
        raw: Vec<At<RawDeadLetters>>,
        queues: &[Queue],
        bridges: &[Bridge],
    ) -> Vec<DeadLetterRule> {
        let mut all: Vec<DeadLetterRule> = Vec::with_capacity(raw.len());
        for at in raw {
            let place = at.place();
            let named = at.value.name.as_ref().map_or_else(|| place.clone(), At::place);
            let Some(rule) = self.dead_letter_rule(at) else { continue };
            let others = queues.iter().map(|queue| ("queue", &queue.name));
            let others = others.chain(bridges.iter().map(|bridge| ("bridge", &bridge.name)));
            if all.iter().any(|other| other.name == rule.name) {
                self.wrong(&named, format!("there are dead letters \"{}\" already", rule.name));
            } else if let Some((what, name)) = others.into_iter().find(|(_, name)| **name == rule.name) {
                self.wrong(&named, format!("there is a {what} \"{name}\": both would have $dead/{name}/..."));
            } else if all.len() >= QUEUES_MAX {
                self.wrong(&place, format!("there may be {QUEUES_MAX} of them at most"));
            }
            all.push(rule);
        }
        all
    }

    fn dead_letter_rule(&mut self, at: At<RawDeadLetters>) -> Option<DeadLetterRule> {
        let place = at.place();
        let RawDeadLetters { name, filter, clients, reasons, max_messages, max_bytes, max_age } = at.value;
        let name = self.name(&place, name)?;
        let filter = filter.unwrap_or_else(|| place.map(|()| "#".to_owned()));
        let words = Why::OF_SESSIONS;
        let reasons: Reasons = match reasons {
            Some(at) => at.value.into_iter().map(|at| self.reason(at, &words)).collect(),
            None => words.into_iter().filter(|why| *why != Why::Undeliverable).collect(),
        };
        Some(DeadLetterRule {
            name,
            filter: self.queue_filter(&filter.place(), Some(filter))?,
            clients: clients.map_or_else(|| "*".to_owned(), |at| at.value),
            reasons,
            max_messages: number(max_messages, defaults::QUEUE_DEAD_LETTERS),
            max_bytes: bytes(max_bytes, defaults::DEAD_LETTER_BYTES),
            max_age: or_never(max_age, None),
        })
    }

    pub(super) fn streams(&mut self, raw: Vec<At<RawStream>>) -> Vec<Stream> {
        let mut streams: Vec<Stream> = Vec::with_capacity(raw.len());
        for at in raw {
            let place = at.place();
            let RawStream { name, filter, max_messages, max_bytes, max_age } = at.value;
            let named = name.as_ref().map_or_else(|| place.clone(), At::place);
            let (Some(name), Some(filter)) = (self.name(&place, name), self.queue_filter(&place, filter)) else {
                continue;
            };
            if streams.iter().any(|other| other.name == name) {
                self.wrong(&named, format!("there is a stream \"{name}\" already"));
            } else if streams.len() >= QUEUES_MAX {
                self.wrong(&place, format!("there may be {QUEUES_MAX} streams at most"));
            }
            streams.push(Stream {
                name,
                filter,
                max_messages: number(max_messages, defaults::STREAM_MAX_MESSAGES),
                max_bytes: bytes(max_bytes, defaults::STREAM_MAX_BYTES),
                max_age: or_never(max_age, None),
            });
        }
        streams
    }

    fn declared_queue(&mut self, at: At<RawQueues>) -> Option<(Queue, At<()>)> {
        let place = at.place();
        let raw = at.value;
        let named = raw.name.as_ref().map_or_else(|| place.clone(), At::place);
        let name = self.name(&place, raw.name)?;
        let filter = self.queue_filter(&place, raw.filter)?;
        let limits = RawQueue {
            max_messages: raw.max_messages,
            max_bytes: raw.max_bytes,
            max_age: raw.max_age,
            policy: raw.policy,
            ..RawQueue::default()
        };
        // It exists without consumers: it holds publishers up, or drops, as its policy says, and not after a time.
        let limits = QueueLimits { stall_limit: None, queue_qos0: true, ..self.queue(limits) };
        let first = duration(raw.backoff, defaults::QUEUE_BACKOFF);
        let queue = Queue {
            name,
            filter,
            limits,
            keep_last_by: raw.keep_last_by.and_then(|at| self.key_of(at)),
            order_by: raw.order_by.and_then(|at| self.key_of(at)),
            exclusive: self.word(raw.access, "access", Queue::ACCESS, false),
            share: self.word(raw.share, "share", Queue::SHARES, Share::RoundRobin),
            ack_timeout: or_never(raw.ack_timeout, Some(defaults::QUEUE_ACK_TIMEOUT)),
            max_deliveries: number(raw.max_deliveries, defaults::QUEUE_MAX_DELIVERIES),
            backoff: first,
            backoff_max: duration(raw.backoff_max, defaults::QUEUE_BACKOFF_MAX).max(first),
            window: number(raw.window, defaults::QUEUE_WINDOW),
            priorities: Priorities {
                levels: number(raw.priority_levels, 1),
                by_filter: raw.priorities.map(|at| self.priorities(at.value)).unwrap_or_default(),
            },
            lower_each: 100_u64.checked_div(number(raw.priority_share, defaults::QUEUE_PRIORITY_SHARE)),
            dead_letters: match raw.dead_letters {
                Some(at) => at.value.into_iter().map(|at| self.reason(at, &Why::OF_QUEUES)).collect(),
                None => default_reasons(),
            },
            max_dead_letters: number(raw.max_dead_letters, defaults::QUEUE_DEAD_LETTERS),
        };
        Some((queue, named))
    }

    pub(super) fn queue_filter(&mut self, place: &At<()>, filter: Option<At<String>>) -> Option<String> {
        let Some(filter) = filter else {
            self.wrong(place, "needs `filter`: the topics whose messages it keeps");
            return None;
        };
        if let Err(why) = topic_filter(&filter.value) {
            self.wrong(&filter, format!("\"{}\" {why}", filter.value));
        } else if filter.value.starts_with('$') {
            self.wrong(&filter, format!("\"{}\" begins with $: such topics are the broker's own", filter.value));
        }
        Some(filter.value)
    }

    /// `topic`, `client`, `key`, or `property:NAME`.
    fn key_of(&mut self, at: At<String>) -> Option<KeyOf> {
        match (at.value.as_str(), at.value.strip_prefix("property:")) {
            ("topic", _) => Some(KeyOf::Topic),
            ("client", _) => Some(KeyOf::Client),
            ("key", _) => Some(KeyOf::Property("key".into())),
            (_, Some(name)) if !name.is_empty() => Some(KeyOf::Property(name.into())),
            _ => {
                let what = "is not \"topic\", \"client\", \"key\" or \"property:\" and the name of a user property";
                self.wrong(&at, format!("\"{}\" {what}", at.value));
                None
            }
        }
    }

    fn priorities(&mut self, raw: Vec<At<RawPriority>>) -> Vec<(String, u8)> {
        let mut all = Vec::with_capacity(raw.len());
        for at in raw {
            let place = at.place();
            let RawPriority { filter, priority } = at.value;
            if priority.is_none() {
                self.wrong(&place, "needs `priority`, 0 to 31");
            }
            let Some(filter) = filter else {
                self.wrong(&place, "needs `filter`");
                continue;
            };
            if let Err(why) = topic_filter(&filter.value) {
                self.wrong(&filter, format!("\"{}\" {why}", filter.value));
            }
            all.push((filter.value, number(priority, 0)));
        }
        all
    }

    fn reason(&mut self, at: At<String>, all: &[Why]) -> Why {
        let words: Vec<(&str, Why)> = all.iter().map(|why| (why.name(), *why)).collect();
        self.word(Some(at), "reason", &words, Why::Refused)
    }
}

/// What nobody has wanted is worth a look; what was too old is not.
fn default_reasons() -> Reasons {
    [Why::Refused, Why::TooOften, Why::TooLarge, Why::NotAllowed].into_iter().collect()
}
