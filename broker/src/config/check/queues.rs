//! `[[queues]]` and `[[streams]]`.

use super::super::checked::{Bridge, Queue, QueueLimits, Stream};
use super::super::raw::{RawQueue, RawQueues, RawStream};
use super::super::table::At;
use super::{Checker, bytes, defaults, duration, number, or_never, topic_filter};
use crate::queue::KeyOf;
use crate::queue::members::{Share, Why};

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
            dead_letters: raw.dead_letters.map_or_else(default_reasons, |at| self.reasons(at.value)),
            max_dead_letters: number(raw.max_dead_letters, defaults::QUEUE_DEAD_LETTERS),
        };
        Some((queue, named))
    }

    fn queue_filter(&mut self, place: &At<()>, filter: Option<At<String>>) -> Option<String> {
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

    /// `topic`, `key`, or `property:NAME`.
    fn key_of(&mut self, at: At<String>) -> Option<KeyOf> {
        match (at.value.as_str(), at.value.strip_prefix("property:")) {
            ("topic", _) => Some(KeyOf::Topic),
            ("key", _) => Some(KeyOf::Property("key".into())),
            (_, Some(name)) if !name.is_empty() => Some(KeyOf::Property(name.into())),
            _ => {
                let what = "is not \"topic\", \"key\" or \"property:\" and the name of a user property";
                self.wrong(&at, format!("\"{}\" {what}", at.value));
                None
            }
        }
    }

    fn reasons(&mut self, raw: Vec<At<String>>) -> Vec<Why> {
        raw.into_iter()
            .map(|at| self.word(Some(at), "reason", &Why::ALL.map(|why| (why.name(), why)), Why::Refused))
            .collect()
    }
}

/// What nobody has wanted is worth a look; what was too old is not.
fn default_reasons() -> Vec<Why> {
    vec![Why::Refused, Why::TooOften, Why::TooLarge]
}
