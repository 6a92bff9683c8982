//! Streams and what surrounds them: a taker's queue that brings the messages, the store that keeps them, readers.
//!
//! A message enters the stream's queue with its publisher's ack, and moves from there into the stream in one commit. Readers
//! are lent it like members of a declared queue, each in order and each all of it; a session that outlives its connection
//! finds its place again. The thread of the queues serves streams as well.

mod readers;
mod serve;

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use smallvec::smallvec;

use super::queues::{Event, Found};
use super::{Broker, TakerFilter, TakerOptions, millis, queue_limits};
use crate::config;
use crate::message::Message;
use crate::session::Urgency;
use crate::store::{Keyed, KeyedChange, Reader};
use crate::streams::{Collected, Limits, Log, Now, Start, Wanted};
use serve::Work;

/// How the client identifier of a stream's queue begins, and the filters of readers.
pub const STREAM_PREFIX: &str = "$stream/";
/// Streams are told from declared queues by numbers from here on.
pub(super) const FIRST: usize = 1 << 32;

/// The streams of a broker.
pub struct Streams {
    names: Vec<Box<str>>,
    /// The writer takes it in its cut: nobody who has it may wait for the writer's gate, or change a session.
    logs: Mutex<Vec<Log>>,
    work: Mutex<Vec<Work>>,
    reader: OnceLock<Arc<dyn Reader>>,
}

/// What a commit has of streams.
pub(crate) struct StreamWork(Vec<(usize, Collected)>);

impl Streams {
    pub(super) fn new(declared: &[config::Stream]) -> Self {
        let log = |stream: &config::Stream| {
            let max_age_ms = stream.max_age.map(millis);
            Log::new(
                &stream.name,
                Limits { max_messages: stream.max_messages, max_bytes: stream.max_bytes, max_age_ms },
            )
        };
        Self {
            names: declared.iter().map(|stream| stream.name.as_str().into()).collect(),
            logs: Mutex::new(declared.iter().map(log).collect()),
            work: Mutex::new(Vec::new()),
            reader: OnceLock::new(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn declares(&self, name: &str) -> bool {
        self.names.iter().any(|known| **known == *name)
    }

    /// What a filter is to them: `$stream/<name>`, `$stream/<name>/@<start>` or `$stream/<name>/@<start>..<end>`.
    pub(super) fn find(&self, filter: &str) -> Found {
        let Some(rest) = filter.strip_prefix(STREAM_PREFIX) else { return Found::Topics };
        let name = rest.split('/').next().unwrap_or_default();
        let at = self.names.iter().position(|known| **known == *name);
        match (at, wanted_by(filter)) {
            (Some(at), Some(_)) => Found::Queues(smallvec![FIRST + at]),
            (..) => Found::Unknown,
        }
    }

    pub(super) fn read_from(&self, reader: Arc<dyn Reader>) {
        let _ = self.reader.set(reader);
    }
}

/// What a reader wants, by its filter.
fn wanted_by(filter: &str) -> Option<Wanted> {
    match filter.strip_prefix(STREAM_PREFIX)?.split_once('/') {
        None => Some(Wanted { start: Start::Latest, until: None }),
        Some((_, part)) => Wanted::parse(part).ok(),
    }
}

/// The filter with the place that the user properties of its SUBSCRIBE say, if it names a stream and no place in it.
pub(crate) fn with_place_of(filter: &str, user: &[(String, String)]) -> Option<String> {
    let name = filter.strip_prefix(STREAM_PREFIX)?;
    let part = Wanted::of_properties(user).filter(|_| !name.contains('/'))?;
    Some(format!("{filter}/{part}"))
}

/// Whether both filters name the same stream: a session reads it once.
pub(crate) fn is_same_stream(one: &str, other: &str) -> bool {
    let name =
        |filter: &str| filter.strip_prefix(STREAM_PREFIX).map(|rest| rest.split('/').next().unwrap_or(rest).len());
    match (name(one), name(other)) {
        (Some(length), Some(other_length)) => {
            let end = STREAM_PREFIX.len() + length;
            length == other_length && one.get(..end) == other.get(..end)
        }
        _ => false,
    }
}

impl Broker {
    /// Opens the streams that the configuration names. To be called once, before anybody can publish.
    pub(super) fn open_streams(self: &Arc<Self>) {
        let mut work = self.streams.work.lock();
        for declared in &self.config.streams {
            let filters = vec![TakerFilter { filter: declared.filter.clone(), qos: 2, no_local: false }];
            let queue = config::QueueLimits { stall_limit: None, queue_qos0: true, ..config::QueueLimits::default() };
            let limits = queue_limits(&queue, &self.config.limits);
            let options = TakerOptions { filters, limits, window: serve::WINDOW, committed_only: true };
            let taker = self.open_taker_as(format!("{STREAM_PREFIX}{}", declared.name), &options);
            work.push(Work::new(taker, declared));
        }
    }

    /// Nobody serves them any more.
    pub(super) fn close_streams(&self) {
        let closed = std::mem::take(&mut *self.streams.work.lock());
        drop(closed);
    }

    pub(super) fn collect_streams(&self, changes: &mut Vec<KeyedChange>) -> StreamWork {
        let mut logs = self.streams.logs.lock();
        let mut all = Vec::new();
        for (at, log) in logs.iter_mut().enumerate() {
            let collected = log.collect();
            if collected.changes.is_empty() {
                continue;
            }
            let rows = collected.changes.iter().cloned();
            changes.extend(rows.map(|(key, value)| KeyedChange { of: Keyed::Streams, key, value }));
            all.push((at, collected));
        }
        StreamWork(all)
    }

    pub(super) fn streams_committed(&self, work: StreamWork) {
        let mut logs = self.streams.logs.lock();
        let mut ready = Vec::new();
        for (at, collected) in work.0 {
            if logs.get_mut(at).is_some_and(|log| log.committed(&collected)) {
                ready.push(Event::Ready(FIRST + at));
            }
        }
        drop(logs);
        if !ready.is_empty() {
            self.queues.inbox().post(ready);
        }
    }

    pub(super) fn streams_not_committed(&self, work: StreamWork) {
        let mut logs = self.streams.logs.lock();
        for (at, collected) in work.0 {
            if let Some(log) = logs.get_mut(at) {
                log.not_committed(collected);
            }
        }
    }

    fn stream_now(&self) -> Now {
        Now { clock_ms: self.clock.now().0, wall_ms: self.clock.wall_ms() }
    }

    /// Messages that have left the stream's queue are in the stream, in one commit.
    fn append(&self, at: usize, messages: Vec<Arc<Message>>) {
        let now = self.stream_now();
        let mut logs = self.streams.logs.lock();
        if let Some(log) = logs.get_mut(at) {
            messages.into_iter().for_each(|message| log.append(now, message));
        }
        drop(logs);
        self.writer.mark_retained(Urgency::Now);
    }
}
