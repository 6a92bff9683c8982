//! What clients did lately and what they were answered, in bounded memory: `forebay acl replay` holds it against other rules,
//! `forebay acl learn` makes rules of it.
//!
//! ```text
//!   a decision that is made anew, or was noted a minute ago ──► Recent, a shard ──► /api/access/recent ──► replay, learn
//! ```
//!
//! Topics only; no payload comes here. A question that a client asks again is one entry with a count and the last time.

mod learn;
mod replay;
#[cfg(test)]
mod tests;

use std::hash::BuildHasher;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use std::{fmt, sync::Arc};

use forebay_wire::topic::{self, without_share};
use hashbrown::{Equivalent, HashMap};
use parking_lot::Mutex;

use super::Principal;
use super::rules::Ask;

pub(crate) use learn::{Format, Learn, learn};
pub(crate) use replay::{Changed, Replay, replay};

/// Parts with a lock of their own; a client's entries are in one of them, so that it cannot push out those of all others.
const SHARDS: usize = 8;
/// A decision that a client has remembered is noted again after so many seconds.
pub(super) const NOTE_EVERY_S: u32 = 60;

/// Seeded by chance: nobody can choose names that meet in one shard.
static HASH: LazyLock<foldhash::quality::RandomState> = LazyLock::new(foldhash::quality::RandomState::default);

/// What is asked, beside its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Connect,
    Publish { qos: u8, retain: bool },
    Will { qos: u8, retain: bool },
    Subscribe,
    Receive,
}

impl Kind {
    /// The question. A filter is as the client gave it, with `$share/NAME/`.
    pub(crate) fn ask(self, topic: &str) -> Ask<'_> {
        match self {
            Self::Connect => Ask::Connect,
            Self::Publish { qos, retain } => Ask::Publish { topic, qos, retain },
            Self::Will { qos, retain } => Ask::Will { topic, qos, retain },
            Self::Subscribe => Ask::subscribe(topic),
            Self::Receive => Ask::Receive { topic },
        }
    }

    /// As rules name it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Publish { .. } => "publish",
            Self::Will { .. } => "will",
            Self::Subscribe => "subscribe",
            Self::Receive => "receive",
        }
    }

    /// QoS and RETAIN of what is published.
    pub(crate) fn flags(self) -> Option<(u8, bool)> {
        match self {
            Self::Publish { qos, retain } | Self::Will { qos, retain } => Some((qos, retain)),
            Self::Connect | Self::Subscribe | Self::Receive => None,
        }
    }

    /// What [`Kind::word`] and [`Kind::flags`] say.
    pub(crate) fn of(word: &str, flags: Option<(u8, bool)>) -> Option<Self> {
        Some(match (word, flags) {
            ("connect", None) => Self::Connect,
            ("publish", Some((qos, retain))) => Self::Publish { qos, retain },
            ("will", Some((qos, retain))) => Self::Will { qos, retain },
            ("subscribe", None) => Self::Subscribe,
            ("receive", None) => Self::Receive,
            _ => return None,
        })
    }
}

/// Who gave an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The rules of a token, or of an HTTP service.
    Source,
    /// Users made while the broker runs.
    Dynamic,
    /// The ACL file.
    Acl,
    /// Nobody: there are no rules.
    Nobody,
}

impl By {
    const WORDS: [(&'static str, Self); 4] =
        [("source", Self::Source), ("dynamic", Self::Dynamic), ("acl", Self::Acl), ("nobody", Self::Nobody)];

    /// As the API names it.
    pub(crate) fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, by)| *by == self).map_or("", |(word, _)| word)
    }

    /// What the API names so.
    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, by)| *by)
    }

    /// Whether another ACL file would change nothing: it was not asked.
    pub(crate) fn is_before_the_file(self) -> bool {
        matches!(self, Self::Source | Self::Dynamic)
    }
}

/// One entry, for whoever asks.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) who: Principal,
    /// Its listener has an ACL file of its own.
    pub(crate) own_acl: bool,
    pub(crate) kind: Kind,
    /// The topic name, or the topic filter; empty for `connect`.
    pub(crate) topic: String,
    pub(crate) allowed: bool,
    pub(crate) by: By,
    /// How often it was asked.
    pub(crate) count: u64,
    /// How long ago it was asked the last time, in seconds.
    pub(crate) ago_s: u64,
}

/// Something that is to be noted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note<'a> {
    pub(super) kind: Kind,
    pub(super) topic: &'a str,
    pub(super) allowed: bool,
    pub(super) by: By,
    /// How often it was asked. 0: it still stands, and is noted if nothing has to go for it.
    pub(super) times: u32,
}

/// What is kept.
pub(crate) struct Recent {
    shards: [Mutex<Shard>; SHARDS],
    /// The bytes of one shard.
    shard_bytes: usize,
    /// The keeper's clock. Deciders read no other.
    now_s: AtomicU32,
    forgotten: AtomicU64,
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").field("shard_bytes", &self.shard_bytes).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Shard {
    clients: HashMap<Name, Client>,
    bytes: usize,
    /// Of these, for messages that clients get.
    received: usize,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Name {
    user: Option<Arc<str>>,
    client_id: Arc<str>,
}

struct Client {
    who: Principal,
    own_acl: bool,
    entries: HashMap<What, Entry>,
    /// With its entries.
    bytes: usize,
}

#[derive(PartialEq, Eq, Hash)]
struct What {
    kind: Kind,
    topic: Box<str>,
}

/// Hashed and compared as [`What`] is.
#[derive(Hash)]
struct WhatRef<'a> {
    kind: Kind,
    topic: &'a str,
}

impl Equivalent<What> for WhatRef<'_> {
    fn equivalent(&self, key: &What) -> bool {
        self.kind == key.kind && *self.topic == *key.topic
    }
}

struct Entry {
    allowed: bool,
    by: By,
    count: u32,
    last_s: u32,
}

/// What a piece of memory takes beside what is in it.
const PIECE: usize = 16;

impl Entry {
    /// With the room that its table keeps free: it is between half and seven eighths full.
    fn bytes(topic: &str) -> usize {
        2 * (size_of::<(What, Self)>() + 1) + topic.len() + PIECE
    }
}

impl Client {
    /// Without its entries.
    fn own_bytes(who: &Principal) -> usize {
        let text = |text: &str| text.len() + 2 * PIECE;
        let certificate = who.certificate.as_ref().map_or(0, |certificate| {
            let lists = [&certificate.dns, &certificate.uris, &certificate.emails];
            let lists = lists.into_iter().flatten().map(|name| size_of::<String>() + text(name)).sum::<usize>();
            let names = [&certificate.subject, &certificate.serial, &certificate.fingerprint];
            let names = names.into_iter().chain(&certificate.cn).map(|name| text(name)).sum::<usize>();
            size_of_val(&**certificate) + names + lists
        });
        let groups = who.groups.iter().map(|group| PIECE + text(group)).sum::<usize>();
        let names = text(who.user.as_deref().unwrap_or_default()) + text(&who.client_id) + text(&who.listener);
        // The smallest table of entries has room for four.
        let table = 4 * (size_of::<(What, Entry)>() + 1) + PIECE;
        2 * (size_of::<(Name, Self)>() + 1) + table + names + groups + certificate
    }
}

impl Recent {
    /// In so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            shard_bytes: bytes / SHARDS,
            now_s: AtomicU32::new(0),
            forgotten: AtomicU64::new(0),
        }
    }

    /// What the keeper's clock says.
    pub(crate) fn set_now(&self, now_ms: u64) {
        self.now_s.store(u32::try_from(now_ms / 1000).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    pub(super) fn now_s(&self) -> u32 {
        self.now_s.load(Ordering::Relaxed)
    }

    /// Bytes that may be taken, and those that are.
    pub(crate) fn limit_and_bytes(&self) -> (usize, usize) {
        (self.shard_bytes * SHARDS, self.shards.iter().map(|shard| shard.lock().bytes).sum())
    }

    /// Entries that had to make room for others since the start.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Remembers an answer. What there is no room for pushes out what is older.
    pub(super) fn note(&self, who: &Principal, own_acl: bool, note: Note<'_>) {
        let name = Name { user: who.user.clone(), client_id: who.client_id.clone() };
        let shard = usize::try_from(HASH.hash_one(&name) % SHARDS as u64).unwrap_or(0);
        let Some(shard) = self.shards.get(shard) else { return };
        let mut shard = shard.lock();
        if note.times == 0 && !shard.has_room(&name, who, note, self.shard_bytes) {
            return;
        }
        shard.note(&name, who, own_acl, note, self.now_s());
        if shard.bytes > self.shard_bytes {
            let gone = shard.make_room(&name, self.shard_bytes);
            self.forgotten.fetch_add(gone, Ordering::Relaxed);
        }
    }

    /// What was asked in this time, or all. A message's topic counts as long as the subscription that brings it: while a route is
    /// remembered, nobody asks for it again.
    pub(crate) fn list(&self, since: Option<Duration>) -> Vec<Seen> {
        let now = self.now_s();
        let oldest = since.map_or(0, |since| now.saturating_sub(u32::try_from(since.as_secs()).unwrap_or(u32::MAX)));
        let mut list = Vec::new();
        for shard in &self.shards {
            for client in shard.lock().clients.values() {
                client.list(oldest, now, &mut list);
            }
        }
        list
    }
}

impl Client {
    fn list(&self, oldest: u32, now: u32, list: &mut Vec<Seen>) {
        let filters =
            self.entries.iter().filter(|(what, entry)| what.kind == Kind::Subscribe && entry.last_s >= oldest);
        let filters: Vec<&str> = filters.map(|(what, _)| without_share(&what.topic)).collect();
        for (what, entry) in &self.entries {
            let is_recent = entry.last_s >= oldest
                || (what.kind == Kind::Receive && filters.iter().any(|filter| topic::matches(filter, &what.topic)));
            if is_recent {
                list.push(Seen {
                    who: self.who.clone(),
                    own_acl: self.own_acl,
                    kind: what.kind,
                    topic: what.topic.to_string(),
                    allowed: entry.allowed,
                    by: entry.by,
                    count: u64::from(entry.count),
                    ago_s: u64::from(now.saturating_sub(entry.last_s)),
                });
            }
        }
    }
}

impl Shard {
    /// Whether it is there, or nothing has to go for it.
    fn has_room(&self, name: &Name, who: &Principal, note: Note<'_>, most: usize) -> bool {
        let what = WhatRef { kind: note.kind, topic: note.topic };
        self.clients.get(name).is_some_and(|client| client.entries.contains_key(&what))
            || self.bytes + Client::own_bytes(who) + Entry::bytes(note.topic) <= most
    }

    fn note(&mut self, name: &Name, who: &Principal, own_acl: bool, note: Note<'_>, now: u32) {
        let Note { kind, topic, allowed, by, times } = note;
        let client = self.clients.entry_ref(name).or_insert_with(|| {
            let bytes = Client::own_bytes(who);
            self.bytes += bytes;
            Client { who: who.clone(), own_acl, entries: HashMap::new(), bytes }
        });
        if client.own_acl != own_acl || client.who != *who {
            let (before, after) = (Client::own_bytes(&client.who), Client::own_bytes(who));
            client.bytes = client.bytes + after - before;
            self.bytes = self.bytes + after - before;
            (client.who, client.own_acl) = (who.clone(), own_acl);
        }
        if let Some(known) = client.entries.get_mut(&WhatRef { kind, topic }) {
            (known.allowed, known.by, known.last_s) = (allowed, by, now);
            known.count = known.count.saturating_add(times);
            return;
        }
        let bytes = Entry::bytes(topic);
        client.bytes += bytes;
        self.bytes += bytes;
        if kind == Kind::Receive {
            self.received += bytes;
        }
        let entry = Entry { allowed, by, count: times.max(1), last_s: now };
        client.entries.insert(What { kind, topic: topic.into() }, entry);
    }

    /// Says how many entries are gone. A client that has more than half of the room gives its own; else messages that
    /// clients get, if they have more than an eighth; else the oldest of all.
    fn make_room(&mut self, name: &Name, most: usize) -> u64 {
        let mut gone = 0;
        while self.bytes > most {
            let greedy =
                self.clients.get(name).is_some_and(|client| client.bytes > most / 2 && !client.entries.is_empty());
            let received = !greedy && self.received > most / 8;
            let is_candidate =
                |of: &Name, what: &What| (!greedy || of == name) && (!received || what.kind == Kind::Receive);
            let mut times: Vec<u32> = Vec::new();
            for (of, client) in &self.clients {
                times.extend(
                    client.entries.iter().filter(|(what, _)| is_candidate(of, what)).map(|(_, entry)| entry.last_s),
                );
            }
            // An eighth at once, so that not every note looks at all.
            let wanted = times.len().div_ceil(8);
            if wanted == 0 {
                break;
            }
            let (_, &mut limit, _) = times.select_nth_unstable(wanted - 1);
            let mut left = wanted;
            let forgotten = self.forget(|of, what, entry| {
                let goes = left > 0 && entry.last_s <= limit && is_candidate(of, what);
                left -= usize::from(goes);
                goes
            });
            gone += u64::from(forgotten);
        }
        gone
    }

    /// Drops entries, and clients without any.
    fn forget(&mut self, mut goes: impl FnMut(&Name, &What, &Entry) -> bool) -> u32 {
        let (mut gone, bytes_all, received) = (0, &mut self.bytes, &mut self.received);
        self.clients.retain(|name, client| {
            client.entries.retain(|what, entry| {
                let goes = goes(name, what, entry);
                if goes {
                    let bytes = Entry::bytes(&what.topic);
                    gone += 1;
                    client.bytes -= bytes;
                    *bytes_all -= bytes;
                    if what.kind == Kind::Receive {
                        *received -= bytes;
                    }
                }
                !goes
            });
            if client.entries.len() * 4 < client.entries.capacity() {
                client.entries.shrink_to_fit();
            }
            if client.entries.is_empty() {
                *bytes_all -= client.bytes;
            }
            !client.entries.is_empty()
        });
        if self.clients.len() * 4 < self.clients.capacity() {
            self.clients.shrink_to_fit();
        }
        gone
    }

    /// What holds after every step.
    #[cfg(test)]
    fn check(&self) {
        let of = |client: &Client, received: bool| -> usize {
            let kept = client.entries.keys().filter(|what| !received || what.kind == Kind::Receive);
            kept.map(|what| Entry::bytes(&what.topic)).sum()
        };
        for client in self.clients.values() {
            assert_eq!(client.bytes, Client::own_bytes(&client.who) + of(client, false));
        }
        assert_eq!(self.bytes, self.clients.values().map(|client| client.bytes).sum::<usize>());
        assert_eq!(self.received, self.clients.values().map(|client| of(client, true)).sum::<usize>());
    }
}
