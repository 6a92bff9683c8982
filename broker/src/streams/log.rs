//! One stream: which offsets there are, in segments of some hundred messages; what is new and what is to go since the last
//! commit. The messages themselves are in the store, one row each, by offset.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::Start;
use crate::clock::may_be_right;
use crate::message::Message;
use crate::store::{KeyedRow, message_value};

/// Messages of one segment at most: retention removes whole segments.
const SEGMENT_MESSAGES: u64 = 1_000;
/// Bytes of one segment at most.
const SEGMENT_BYTES: u64 = 1 << 20;
/// A stream has about so many segments at least, so that retention is as fine.
const SEGMENTS: u64 = 16;

/// Rows that one commit removes, beside as many as it brings: what is due beyond that goes with the next ones.
const RETIRED_AT_ONCE: u64 = 4_096;

/// What a row of the store is for, behind the stream's name and a zero.
#[derive(Clone, Copy)]
enum Row {
    /// The next offset.
    Next = 0,
    /// A segment, by its first offset.
    Segment = 1,
    /// A message, by its offset.
    Message = 2,
    /// A reader's place, by its client identifier.
    Place = 3,
}

/// What time it is, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Milliseconds on the broker's own clock, which no step of the wall clock moves: messages age by it.
    pub clock_ms: u64,
    /// Milliseconds since 1970 on the wall clock, right or wrong: readers are told it, and begin by it.
    pub wall_ms: u64,
}

/// What a stream keeps. There is always the newest message, however large.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages.
    pub max_messages: u64,
    /// Bytes of them: topics, properties, payloads.
    pub max_bytes: u64,
    /// Milliseconds.
    pub max_age_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    first: u64,
    count: u64,
    bytes: u64,
    /// When its last message came, in milliseconds since 1970.
    last_ms: u64,
    /// The same on the broker's own clock.
    aged_from_ms: u64,
    /// The store does not know of it as it is.
    changed: bool,
}

impl Segment {
    fn encode(self) -> Vec<u8> {
        [self.count, self.bytes, self.last_ms, self.aged_from_ms]
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect()
    }

    fn decode(first: u64, value: &[u8], now: Now) -> Option<Self> {
        let mut numbers = value.chunks_exact(8).map(number);
        let (count, bytes, last_ms) = (numbers.next()??, numbers.next()??, numbers.next()??);
        // A row of before has the wall clock's time only. Where that cannot be believed, the segment is as if it had come now.
        let age_ms = now.wall_ms.checked_sub(last_ms).filter(|_| may_be_right(last_ms)).unwrap_or(0);
        let aged_from_ms = numbers.next().flatten().unwrap_or_else(|| now.clock_ms.saturating_sub(age_ms));
        Some(Self { first, count, bytes, last_ms, aged_from_ms: aged_from_ms.min(now.clock_ms), changed: false })
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_le_bytes)
}

/// A change of a row: key, and its value or `None`.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// What one commit has of a stream.
#[derive(Debug, Default)]
pub struct Collected {
    /// Rows to set and to remove, in this order.
    pub changes: Vec<Change>,
    next: u64,
    new: Vec<(u64, u64, Arc<Message>)>,
    removed: Vec<(u64, u64)>,
    places: BTreeMap<Box<str>, Option<u64>>,
}

/// One stream.
#[derive(Debug)]
pub struct Log {
    name: Box<str>,
    limits: Limits,
    segments: VecDeque<Segment>,
    messages: u64,
    bytes: u64,
    next: u64,
    /// Offsets below are in the store.
    committed: u64,
    /// Offset, time and message of what no commit has.
    new: Vec<(u64, u64, Arc<Message>)>,
    /// First offset and length of what is to be removed from the store.
    removed: Vec<(u64, u64)>,
    /// Rows of these.
    removed_rows: u64,
    /// More is due than one commit removes.
    overdue: bool,
    /// Places of readers by client identifier that are to be stored, or forgotten.
    places: BTreeMap<Box<str>, Option<u64>>,
}

impl Log {
    /// A stream without messages.
    #[must_use]
    pub fn new(name: &str, limits: Limits) -> Self {
        Self {
            name: name.into(),
            limits,
            segments: VecDeque::new(),
            messages: 0,
            bytes: 0,
            next: 0,
            committed: 0,
            new: Vec::new(),
            removed: Vec::new(),
            removed_rows: 0,
            overdue: false,
            places: BTreeMap::new(),
        }
    }

    fn key(&self, row: Row, rest: &[u8]) -> Vec<u8> {
        [self.name.as_bytes(), &[0, row as u8], rest].concat()
    }

    /// The key of a message's row: what is read from it on comes in order.
    #[must_use]
    pub fn message_key(&self, offset: u64) -> Vec<u8> {
        self.key(Row::Message, &offset.to_be_bytes())
    }

    /// Where rows are read from at the start: [`Log::recover`] takes them until it says no.
    #[must_use]
    pub fn first_key(&self) -> Vec<u8> {
        self.key(Row::Next, &[])
    }

    /// The same for the places of readers.
    #[must_use]
    pub fn places_key(&self) -> Vec<u8> {
        self.key(Row::Place, &[])
    }

    /// A row that the store has: the next offset, or a segment. False: it is none of these.
    pub fn recover(&mut self, (key, value): &KeyedRow, now: Now) -> bool {
        let Some([kind, rest @ ..]) = key.strip_prefix(self.key_prefix().as_slice()) else { return false };
        if *kind == Row::Next as u8 {
            self.next = number(value).unwrap_or_default().max(self.next);
            self.committed = self.next;
            return true;
        }
        if *kind != Row::Segment as u8 {
            return false;
        }
        let first = rest.try_into().ok().map(u64::from_be_bytes);
        if let Some(segment) = first.and_then(|first| Segment::decode(first, value, now)) {
            self.messages += segment.count;
            self.bytes += segment.bytes;
            self.next = self.next.max(segment.first + segment.count);
            self.committed = self.next;
            self.segments.push_back(segment);
        }
        true
    }

    /// A reader's place, and whose; `None`: the row is none.
    #[must_use]
    pub fn place_of(&self, (key, value): &KeyedRow) -> Option<(Box<str>, u64)> {
        let client = key.strip_prefix(self.places_key().as_slice())?;
        Some((std::str::from_utf8(client).ok()?.into(), number(value)?))
    }

    /// Time and message of a row; `None`: the row is not of this stream, or damaged.
    #[must_use]
    pub fn message_of(&self, (key, value): &KeyedRow) -> Option<(u64, u64, Arc<Message>)> {
        let offset = key.strip_prefix(self.key(Row::Message, &[]).as_slice())?;
        let (time, message) = value.split_at_checked(8)?;
        Some((u64::from_be_bytes(offset.try_into().ok()?), number(time)?, crate::store::message_of(message)?))
    }

    fn key_prefix(&self) -> Vec<u8> {
        [self.name.as_bytes(), &[0]].concat()
    }

    /// The first offset that is kept, and the first that readers may not have yet.
    #[must_use]
    pub fn range(&self) -> (u64, u64) {
        (self.segments.front().map_or(self.next, |segment| segment.first), self.committed)
    }

    /// Messages and bytes that are kept.
    #[must_use]
    pub fn size(&self) -> (u64, u64) {
        (self.messages, self.bytes)
    }

    /// One more message.
    pub fn append(&mut self, now: Now, message: Arc<Message>) {
        let size = message.size() as u64;
        let bytes_max = (self.limits.max_bytes / SEGMENTS).clamp(1, SEGMENT_BYTES);
        let messages_max = (self.limits.max_messages / SEGMENTS).clamp(1, SEGMENT_MESSAGES);
        let full = |last: &Segment| last.count >= messages_max || last.bytes + size > bytes_max;
        // Times ascend, whatever the wall clock does.
        let last_ms = self.segments.back().map_or(0, |last| last.last_ms).max(now.wall_ms);
        let aged_from_ms = now.clock_ms;
        if self.segments.back().is_none_or(full) {
            let first = self.next;
            self.segments.push_back(Segment { first, count: 0, bytes: 0, last_ms, aged_from_ms, changed: true });
        }
        if let Some(last) = self.segments.back_mut() {
            let (count, bytes) = (last.count + 1, last.bytes + size);
            *last = Segment { count, bytes, last_ms, aged_from_ms, changed: true, ..*last };
        }
        self.new.push((self.next, last_ms, message));
        self.next += 1;
        self.messages += 1;
        self.bytes += size;
        self.retire(now.clock_ms);
    }

    /// What is too old, or too much, goes, as far as it fits into one commit; the time is the broker's own clock's. True: something
    /// did.
    pub fn retire(&mut self, clock_ms: u64) -> bool {
        let before = self.removed.len();
        let rows_max = RETIRED_AT_ONCE + self.new.len() as u64;
        self.overdue = false;
        while let Some(first) = self.segments.front().copied() {
            let old = self.limits.max_age_ms.is_some_and(|age| first.aged_from_ms.saturating_add(age) <= clock_ms);
            let much = self.bytes > self.limits.max_bytes || self.messages > self.limits.max_messages;
            if !old && (!much || self.segments.len() == 1) {
                break;
            }
            if self.removed_rows >= rows_max {
                self.overdue = true;
                break;
            }
            self.segments.pop_front();
            self.messages -= first.count;
            self.bytes -= first.bytes;
            self.removed.push((first.first, first.count));
            // Its messages, and itself.
            self.removed_rows += first.count + 1;
        }
        self.removed.len() > before
    }

    /// The offset at which a reader begins, and the time before which it wants nothing.
    #[must_use]
    pub fn begin(&self, start: Start, now_ms: u64) -> (u64, u64) {
        let (first, end) = self.range();
        let at = |time: u64| {
            let segment = self.segments.iter().find(|segment| segment.last_ms >= time);
            (segment.map_or(end, |segment| segment.first), time)
        };
        match start {
            Start::Latest => (end, 0),
            Start::Earliest => (first, 0),
            Start::Offset(offset) => (offset.min(end), 0),
            Start::Last(count) => (end.saturating_sub(count).max(first), 0),
            Start::Time(time) => at(time),
            Start::Ago(ms) => at(now_ms.saturating_sub(ms)),
        }
    }

    /// A reader's place is to be stored; `None`: forgotten.
    pub fn keep_place(&mut self, client_id: &str, place: Option<u64>) {
        self.places.insert(client_id.into(), place);
    }

    /// What the next commit has to write.
    pub fn collect(&mut self) -> Collected {
        let (new, removed) = (std::mem::take(&mut self.new), std::mem::take(&mut self.removed));
        self.removed_rows = 0;
        let places = std::mem::take(&mut self.places);
        let mut changes = Vec::new();
        for (offset, time, message) in &new {
            let value = [&time.to_le_bytes()[..], &message_value(message)].concat();
            changes.push((self.message_key(*offset), Some(value)));
        }
        let segment_key = |first: u64| [self.name.as_bytes(), &[0, Row::Segment as u8], &first.to_be_bytes()].concat();
        for segment in self.segments.iter_mut().rev().take_while(|segment| segment.changed) {
            segment.changed = false;
            changes.push((segment_key(segment.first), Some(segment.encode())));
        }
        if !new.is_empty() {
            changes.push((self.first_key(), Some(self.next.to_le_bytes().to_vec())));
        }
        // Behind what is set: of what came and went since the last commit nothing stays.
        for (first, count) in &removed {
            changes.push((segment_key(*first), None));
            changes.extend((*first..first + count).map(|offset| (self.message_key(offset), None)));
        }
        for (client_id, place) in &places {
            let value = place.map(|place| place.to_le_bytes().to_vec());
            changes.push((self.key(Row::Place, client_id.as_bytes()), value));
        }
        Collected { changes, next: self.next, new, removed, places }
    }

    /// The commit is done. True: there is more for readers, or for [`Log::retire`].
    pub fn committed(&mut self, collected: &Collected) -> bool {
        let more = collected.next > self.committed;
        self.committed = self.committed.max(collected.next);
        more || self.overdue
    }

    /// The commit failed: the next one has it all again.
    pub fn not_committed(&mut self, collected: Collected) {
        let Collected { new, removed, places, .. } = collected;
        if let Some((first, ..)) = new.first() {
            self.segments.iter_mut().filter(|segment| segment.first + segment.count > *first).for_each(|segment| {
                segment.changed = true;
            });
        }
        self.new.splice(0..0, new);
        self.removed_rows += removed.iter().map(|(_, count)| count + 1).sum::<u64>();
        self.removed.splice(0..0, removed);
        for (client_id, place) in places {
            self.places.entry(client_id).or_insert(place);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::message::{Parts, Time};

    const LIMITS: Limits = Limits { max_messages: 64, max_bytes: 1 << 20, max_age_ms: Some(10_000) };

    /// The wall clock is far ahead of the broker's own.
    const WALL: u64 = 1_800_000_000_000;

    fn at(clock_ms: u64) -> Now {
        Now { clock_ms, wall_ms: WALL + clock_ms }
    }

    fn message(text: &str) -> Arc<Message> {
        let parts = Parts {
            topic: "t",
            properties: &[],
            payload: text.as_bytes(),
            qos: 1,
            retain: false,
            expires_at: None,
            accepted_at: Time(0),
        };
        Arc::new(Message::new(&parts, None))
    }

    type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

    fn write(rows: &mut Rows, collected: &Collected) {
        for (key, value) in &collected.changes {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
    }

    fn read(rows: &Rows) -> Log {
        let mut log = Log::new("s", LIMITS);
        for (key, value) in rows {
            if !log.recover(&(key.clone(), value.clone()), at(1_000)) {
                break;
            }
        }
        log
    }

    fn offsets(rows: &Rows, log: &Log) -> Vec<u64> {
        let row = |(key, value): (&Vec<u8>, &Vec<u8>)| log.message_of(&(key.clone(), value.clone()));
        rows.iter().filter_map(row).map(|(offset, ..)| offset).collect()
    }

    #[test]
    fn what_is_kept_is_found_again_and_the_rest_leaves_no_row() {
        let (mut log, mut rows) = (Log::new("s", LIMITS), Rows::new());
        for n in 0..200 {
            log.append(at(n), message("x"));
            // Some commits fail, and what they had is in the next.
            let collected = log.collect();
            if n % 3 == 0 {
                log.not_committed(collected);
            } else if n % 3 == 1 {
                write(&mut rows, &collected);
                log.not_committed(collected);
            } else {
                write(&mut rows, &collected);
                assert!(log.committed(&collected));
            }
        }
        let rest = log.collect();
        write(&mut rows, &rest);
        log.committed(&rest);
        let (first, end) = log.range();
        assert_eq!(end, 200);
        assert!((60..=64).contains(&log.size().0), "{:?}", log.size());
        assert_eq!(offsets(&rows, &log), (first..end).collect::<Vec<_>>());
        let again = read(&rows);
        assert_eq!((again.range(), again.size()), (log.range(), log.size()));
        assert!(log.retire(100_000));
        write(&mut rows, &log.collect());
        assert!(offsets(&rows, &log).is_empty());
        assert_eq!(read(&rows).range(), (200, 200), "an offset is never used again");
    }

    #[test]
    fn readers_begin_where_they_say() {
        let mut log = Log::new("s", LIMITS);
        (0..50).for_each(|n| log.append(Now { clock_ms: n, wall_ms: n * 10 }, message("x")));
        assert_eq!(log.begin(Start::Earliest, 490), (0, 0));
        assert_eq!(log.begin(Start::Latest, 490), (0, 0), "nothing is committed");
        let collected = log.collect();
        log.committed(&collected);
        assert_eq!(log.begin(Start::Latest, 490), (50, 0));
        assert_eq!(log.begin(Start::Last(7), 490), (43, 0));
        assert_eq!(log.begin(Start::Offset(99), 490), (50, 0));
        let (offset, time) = log.begin(Start::Ago(100), 490);
        assert!(offset <= 39 && time == 390, "{offset}");
        assert_eq!(log.begin(Start::Time(491), 500), (50, 491));
    }
    #[test]
    fn messages_age_by_the_own_clock() {
        let (mut log, mut rows) = (Log::new("s", LIMITS), Rows::new());
        // The board begins in 1970, and its clock is set then.
        log.append(Now { clock_ms: 1_000, wall_ms: 5_000 }, message("x"));
        log.append(Now { clock_ms: 2_000, wall_ms: WALL }, message("x"));
        write(&mut rows, &log.collect());
        assert_eq!(log.size().0, 2);
        let mut again = Log::new("s", LIMITS);
        for (key, value) in rows.range(log.first_key()..log.message_key(0)) {
            again.recover(&(key.clone(), value.clone()), Now { clock_ms: 3_000, wall_ms: 7_000 });
        }
        assert!(!again.retire(11_999), "ten seconds are not over");
        assert!(again.retire(12_000));
    }

    #[test]
    fn a_segment_of_before_ages_by_the_wall_clock_where_that_may_be_right() {
        let decode = |last_ms: u64, now: Now| {
            let row: Vec<u8> = [3, 30, last_ms].iter().flat_map(|number: &u64| number.to_le_bytes()).collect();
            Segment::decode(0, &row, now).unwrap().aged_from_ms
        };
        assert_eq!(decode(WALL - 400, Now { clock_ms: 1_000, wall_ms: WALL }), 600);
        assert_eq!(decode(WALL - 4_000, Now { clock_ms: 1_000, wall_ms: WALL }), 0);
        assert_eq!(decode(5_000, Now { clock_ms: 1_000, wall_ms: WALL }), 1_000, "it came in 1970");
        assert_eq!(decode(WALL, Now { clock_ms: 1_000, wall_ms: 5_000 }), 1_000, "it is 1970");
    }
    #[test]
    fn what_is_due_at_once_goes_in_many_commits() {
        let limits = Limits { max_messages: 1 << 20, ..LIMITS };
        let (mut log, mut rows) = (Log::new("s", limits), Rows::new());
        (0..20_000).for_each(|_| log.append(at(0), message("x")));
        let collected = log.collect();
        write(&mut rows, &collected);
        assert!(log.committed(&collected));
        let mut commits = 0;
        loop {
            // One that fails has no more in the next try.
            assert!(log.retire(10_000));
            let failed = log.collect();
            log.not_committed(failed);
            log.retire(10_000);
            let collected = log.collect();
            commits += 1;
            assert!(collected.changes.len() as u64 <= RETIRED_AT_ONCE + SEGMENT_MESSAGES + 1);
            write(&mut rows, &collected);
            assert_eq!(offsets(&rows, &log).first(), (log.size().0 > 0).then_some(&log.range().0));
            if !log.committed(&collected) {
                break;
            }
        }
        assert_eq!((log.size(), commits), ((0, 0), 4));
        assert_eq!(rows.keys().collect::<Vec<_>>(), [&log.first_key()]);
    }
}
