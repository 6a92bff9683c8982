//! Publications that say which they are, and what surrounds them: publishers, the store, whoever wants to know of gaps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay_wire::reason::ReasonCode;
use parking_lot::Mutex;

use super::Broker;
use super::fanout::{Batch, Source, Staged, Verdict};
use crate::message::{Message, Origin, Parts};
use crate::origins::{self, Collected, Gap, Id, Named, Origins, Seen};
use crate::properties::put_user;
use crate::session::{Cx, Durability, Refused, Urgency};
use crate::store::{Keyed, KeyedChange, Reader, SessionNo};

/// Rows that are read at once at the start.
const PAGE_ROWS: usize = 1024;
/// Bytes of them.
const PAGE_BYTES: usize = 1024 * 1024;

/// The origins of a broker.
pub struct OriginWindows {
    origins: Mutex<Origins>,
    /// What the store has of them is known. Until then nothing that names itself is taken.
    loaded: AtomicBool,
}

/// What a commit has of origins.
pub(crate) struct OriginWork(Collected);

impl OriginWork {
    pub(crate) fn messages(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.0.messages.iter()
    }
}

impl OriginWindows {
    pub(crate) fn new(max: usize) -> Self {
        Self { origins: Mutex::new(Origins::new(max)), loaded: AtomicBool::new(false) }
    }

    /// How many origins are known, and how many were forgotten for others.
    #[must_use]
    pub fn count(&self) -> (usize, u64) {
        let origins = self.origins.lock();
        (origins.len(), origins.forgotten)
    }
}

impl Broker {
    /// Reads what the store has. False: it could not be read, and is tried again.
    pub(super) fn load_origins(&self, reader: &dyn Reader) -> bool {
        if self.origins.loaded.load(Ordering::Acquire) {
            return true;
        }
        let mut from = Vec::new();
        loop {
            let page = match reader.keyed(Keyed::Origins, &from, PAGE_ROWS, PAGE_BYTES) {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!("the windows of origins cannot be read; it is tried again: {error}");
                    return false;
                }
            };
            let Some((last, _)) = page.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            let mut origins = self.origins.origins.lock();
            for (key, row) in &page {
                let known = std::str::from_utf8(key).is_ok_and(|name| origins.recover(name, row));
                if !known {
                    tracing::warn!("a stored window of an origin is not one; its repetitions are not known as such");
                }
            }
        }
        self.origins.loaded.store(true, Ordering::Release);
        true
    }

    /// A publication that may say which it is. False: it does not.
    pub(super) fn once(&self, batch: Batch<'_>, staged: &mut Staged<'_>, cx: Cx<'_>) -> bool {
        let named = match origins::read(staged.source.topic, staged.source.properties) {
            Ok(None) => return false,
            Ok(Some(named)) => named,
            Err(wrong) => {
                tracing::warn!(topic = staged.source.topic, "a publication that names itself is refused: {wrong}");
                staged.verdict = Verdict::Refused(ReasonCode::TopicNameInvalid);
                return true;
            }
        };
        if staged.verdict == Verdict::Full {
            return true;
        }
        let awaited = staged.source.qos > 0 && staged.durability == Durability::Commit;
        if !self.origins.loaded.load(Ordering::Acquire) || awaited && self.store_failing() {
            staged.verdict = Verdict::Full;
            return true;
        }
        let id = Id { origin: named.origin.into(), epoch: named.epoch, seq: named.seq };
        let by = batch.origin.map_or(SessionNo(0), |slot| slot.no());
        let seen = self.origins.origins.lock().take(&id, by);
        match seen {
            Seen::New(gap) => {
                self.new_of_origin(id, &named, batch, staged, cx);
                if let Some(gap) = gap {
                    self.say_gap(&named, gap);
                }
            }
            Seen::Duplicate => self.repeated(staged, None),
            Seen::Underway(message) => self.repeated(staged, Some(message)),
            Seen::Busy => staged.verdict = Verdict::Full,
        }
        true
    }

    fn repeated(&self, staged: &mut Staged<'_>, underway: Option<Arc<Message>>) {
        self.counters.duplicates.add(1);
        staged.verdict = Verdict::Duplicate;
        staged.waits = underway.is_some();
        staged.message = underway;
    }

    fn new_of_origin(&self, id: Id, named: &Named<'_>, batch: Batch<'_>, staged: &mut Staged<'_>, cx: Cx<'_>) {
        let Source { properties, payload, qos, retain, expires_at, .. } = staged.source;
        let mut with_name = Vec::new();
        if named.in_topic {
            // Whoever is next, a consumer or a cluster, can tell repetitions as well.
            with_name.extend_from_slice(properties);
            put_user(&mut with_name, origins::ORIGIN, named.origin);
            put_user(&mut with_name, origins::EPOCH, &named.epoch.to_string());
            put_user(&mut with_name, origins::SEQ, &named.seq.to_string());
        }
        let properties = if named.in_topic { &with_name } else { properties };
        let topic = named.topic;
        let parts = Parts { topic, properties, payload, qos, retain, expires_at, accepted_at: cx.now };
        let origin = batch.origin.map(|slot| slot.clone() as Arc<dyn Origin>);
        let message = Arc::new(Message::new(&parts, origin));
        let mut inner = Staged::of(&message, retain, staged.durability);
        if !self.delay(batch, &mut inner, cx) {
            self.run_one(batch, &mut inner, cx);
        }
        staged.verdict = inner.verdict;
        staged.sent_once = inner.sent_once;
        let routed = inner.message.take();
        drop(inner);
        if matches!(staged.verdict, Verdict::Full | Verdict::Refused(_)) {
            self.origins.origins.lock().give_back(&id);
            return;
        }
        let awaited = qos > 0 && staged.durability == Durability::Commit;
        let message = routed.unwrap_or(message);
        self.origins.origins.lock().routed(id, awaited.then(|| message.clone()));
        self.writer.mark_retained(if awaited { Urgency::Now } else { Urgency::Lazy });
        staged.waits = awaited;
        staged.message = Some(message);
    }

    fn say_gap(&self, named: &Named<'_>, (first, last): Gap) {
        self.counters.gaps.add(1);
        let value = format!(r#"{{"epoch":{},"first":{first},"last":{last}}}"#, named.epoch);
        self.say_now(&format!("gap/{}", named.origin), &value);
    }

    /// Whether the next commit has publications that say which they are.
    pub(super) fn has_new_of_origins(&self) -> bool {
        self.origins.origins.lock().has_new()
    }

    pub(super) fn collect_origins(&self, changes: &mut Vec<KeyedChange>) -> OriginWork {
        let collected = self.origins.origins.lock().collect();
        let rows = collected.rows.iter().map(|(name, row)| KeyedChange {
            of: Keyed::Origins,
            key: name.as_bytes().to_vec(),
            value: row.clone(),
        });
        changes.extend(rows);
        OriginWork(collected)
    }

    pub(super) fn origins_committed(&self, work: OriginWork) {
        let some = !work.0.accepted.is_empty();
        self.origins.origins.lock().committed(work.0);
        // A repetition may wait to know what became of the first.
        if some {
            self.unpark();
        }
    }

    pub(super) fn origins_not_committed(&self, work: OriginWork, refused: &Refused) {
        self.origins.origins.lock().not_committed(work.0, |message| refused.holds(message));
    }
}
