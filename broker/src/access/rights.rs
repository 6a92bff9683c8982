//! What one client may do, as its session and its connection ask it: a decision is remembered with the policy's version.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};

use super::auth::Exchange;
use super::recent::{By, Kind, NOTE_EVERY_S, Note, Recent};
use super::rules::Ask;
use super::sources::{Credential, Identity};
use super::{Access, Claim, Entrance, Principal, destination};
use crate::message::Message;
use crate::session::Authority;

/// Seeded by chance: nobody can choose topics that push each other out.
static HASH: LazyLock<foldhash::quality::RandomState> = LazyLock::new(foldhash::quality::RandomState::default);
/// Decisions that a client has remembered; a topic has one place.
const PLACES: usize = 8;

#[derive(Clone, Debug)]
struct Decision {
    hash: u64,
    kind: Kind,
    topic: Box<str>,
    allowed: bool,
    by: By,
    /// Questions since it was noted, and when that was.
    unnoted: u32,
    noted_s: u32,
}

#[derive(Debug, Default)]
struct Memory {
    version: u64,
    places: Vec<Option<Decision>>,
}

/// A client's rights. Shared by its connection and its session.
#[derive(Debug)]
pub struct Rights {
    access: Arc<Access>,
    who: Principal,
    entrance: Arc<Entrance>,
    /// As its source knows it; another one after it has authenticated again.
    identity: RwLock<Identity>,
    /// There are rules at all: otherwise everything is allowed.
    ruled: AtomicBool,
    /// Its ACL is its listener's own.
    own_acl: bool,
    memory: Mutex<Memory>,
}

impl Rights {
    pub(super) fn new(access: Arc<Access>, who: Principal, entrance: Arc<Entrance>, identity: Identity) -> Arc<Self> {
        let ruled = access.dynamic.is_some() || entrance.acl.is_some() || identity.rules.is_some();
        let (identity, own_acl) = (RwLock::new(identity), entrance.acl != access.config.acl_file);
        let (ruled, memory) = (AtomicBool::new(ruled), Mutex::default());
        Arc::new(Self { access, who, entrance, identity, ruled, own_acl, memory })
    }

    /// Who it is.
    #[must_use]
    pub fn who(&self) -> &Principal {
        &self.who
    }

    /// Which way it came in.
    #[must_use]
    pub fn entrance(&self) -> &Arc<Entrance> {
        &self.entrance
    }

    /// When its connection ends, because what it logged in with does.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        self.identity.read().expires
    }

    /// Whatever its answers depend on beside the policy: two with the same answer the same.
    #[must_use]
    pub fn depends_on(&self) -> u64 {
        let rules = self.identity.read().rules.as_ref().map(|rules| format!("{rules:?}"));
        HASH.hash_one((&self.who, &self.entrance.acl, rules))
    }

    /// Begins an exchange by which the client proves anew who it is.
    pub(crate) fn prove_anew(&self, method: &str) -> Option<Box<dyn Exchange>> {
        let claim = Claim {
            client_id: &self.who.client_id,
            user: None,
            vouched: false,
            password: None,
            addr: self.who.addr,
            certificate: self.who.certificate.as_ref(),
            entrance: &self.entrance,
        };
        self.access.begin(method, &claim)
    }

    /// Takes what the client has proved anew. False: it is somebody else now, or in other groups, and must connect anew.
    #[must_use]
    pub fn renew(&self, identity: Identity) -> bool {
        if identity.user != self.who.user || identity.groups != self.who.groups {
            return false;
        }
        let ruled = self.access.dynamic.is_some() || self.entrance.acl.is_some() || identity.rules.is_some();
        self.ruled.store(ruled, Ordering::Release);
        *self.identity.write() = identity;
        self.forget(&mut self.memory.lock());
        true
    }

    /// Whether the client may be there at all.
    #[must_use]
    pub fn may_connect(&self) -> bool {
        self.ask_connect().0
    }

    /// The same, of a client that connects: it is noted.
    #[must_use]
    pub(super) fn lets_connect(&self) -> bool {
        let (allowed, by) = self.ask_connect();
        if !self.may_all() {
            self.note(Note { kind: Kind::Connect, topic: "", allowed, by, times: 1 });
        }
        allowed
    }

    fn ask_connect(&self) -> (bool, By) {
        let by_token = self.identity.read().rules.as_ref().map(|rules| rules.check(&self.who, Ask::Connect));
        if by_token.is_some_and(|answer| !answer.allowed) {
            return (false, By::Source);
        }
        let policy = self.access.policy();
        match self.entrance.acl.as_deref().and_then(|path| policy.acl(path)) {
            Some(acl) => (acl.check(&self.who, Ask::Connect).allowed, By::Acl),
            None => (true, By::Nobody),
        }
    }

    /// Whether a message may go to the client.
    #[must_use]
    pub fn may_receive(&self, topic: &str) -> bool {
        self.allows(Kind::Receive, topic)
    }

    /// Whether the client may publish: on the topic that the message will have.
    #[must_use]
    pub fn may_publish(&self, topic: &str, qos: u8, retain: bool) -> bool {
        self.allows(Kind::Publish { qos, retain }, destination(topic))
    }

    /// Whether the client may have this will.
    #[must_use]
    pub fn may_leave_will(&self, topic: &str, qos: u8, retain: bool) -> bool {
        self.allows(Kind::Will { qos, retain }, destination(topic))
    }

    /// Whether the client may have a subscription that it asks for.
    #[must_use]
    pub fn may_subscribe(&self, filter: &str) -> bool {
        self.asks_for(filter, 1)
    }

    /// Whether the client may keep a subscription that it has.
    #[must_use]
    pub fn may_keep(&self, filter: &str) -> bool {
        self.asks_for(filter, 0)
    }

    fn asks_for(&self, filter: &str, times: u32) -> bool {
        if self.may_all() {
            return true;
        }
        let (allowed, by) = self.ask(Kind::Subscribe.ask(filter));
        self.note(Note { kind: Kind::Subscribe, topic: filter, allowed, by, times });
        allowed
    }

    /// Whether its source would let it in again: the user still exists, with the password that was checked, and may connect.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let credential = self.identity.read().credential.clone();
        let policy = self.access.policy();
        let stands = match (&self.who.user, &credential) {
            (Some(user), Credential::Hash(stored)) => {
                policy.passwords().is_none_or(|passwords| passwords.get(user) == Some(stored))
            }
            (Some(user), Credential::Dynamic(stored)) => {
                let state = self.access.dynamic_state();
                state.is_some_and(|state| state.admits(user, &self.who.client_id, stored))
            }
            (_, Credential::Key(key)) => policy.keys().is_some_and(|keys| keys.has(key)),
            (None, Credential::Hash(_) | Credential::Dynamic(_)) | (_, Credential::None) => true,
        };
        stands && self.may_connect()
    }

    /// Whether an MQTT 3.1.1 client is disconnected for a PUBLISH that it may not make.
    #[must_use]
    pub fn disconnects(&self) -> bool {
        self.access.disconnects()
    }

    /// The source's own rules first, then dynamic security, then the ACL.
    fn ask(&self, ask: Ask<'_>) -> (bool, By) {
        let rules = self.identity.read().rules.clone();
        if let Some(rules) = &rules {
            let answer = rules.check(&self.who, ask);
            if answer.line.is_some() {
                return (answer.allowed, By::Source);
            }
        }
        let dynamic = self.access.dynamic_state();
        if let Some(allowed) = dynamic.as_ref().and_then(|state| state.check(&self.who, ask)) {
            return (allowed, By::Dynamic);
        }
        let policy = self.access.policy();
        match self.entrance.acl.as_deref().and_then(|path| policy.acl(path)) {
            Some(acl) => (acl.check(&self.who, ask).allowed, By::Acl),
            None => (rules.is_none() && dynamic.is_none(), By::Nobody),
        }
    }

    /// Nothing is to be asked, nor noted.
    fn may_all(&self) -> bool {
        !self.ruled.load(Ordering::Acquire) && !self.access.config.learn
    }

    fn recent(&self) -> Option<&Recent> {
        self.access.recent()
    }

    fn note(&self, note: Note<'_>) {
        if let Some(recent) = self.recent() {
            recent.note(&self.who, self.own_acl, note);
        }
    }

    /// How often it was asked since it was noted.
    fn note_again(&self, decision: &mut Decision) {
        let Decision { kind, allowed, by, .. } = *decision;
        let times = std::mem::take(&mut decision.unnoted);
        self.note(Note { kind, topic: &decision.topic, allowed, by, times });
    }

    fn forget(&self, memory: &mut Memory) {
        self.note_all(memory);
        memory.places.clear();
    }

    fn note_all(&self, memory: &mut Memory) {
        for decision in memory.places.iter_mut().flatten().filter(|decision| decision.unnoted > 0) {
            self.note_again(decision);
        }
    }

    fn allows(&self, kind: Kind, topic: &str) -> bool {
        if self.may_all() {
            return true;
        }
        // Before the policy is asked: a decision is never remembered as newer than it is.
        let version = self.access.version();
        let hash = HASH.hash_one(topic);
        let place = hash as usize % PLACES;
        let now_s = self.recent().map_or(0, Recent::now_s);
        let mut memory = self.memory.lock();
        if memory.version != version {
            memory.version = version;
            self.forget(&mut memory);
        }
        if let Some(Some(known)) = memory.places.get_mut(place)
            && known.hash == hash
            && known.kind == kind
            && *known.topic == *topic
        {
            known.unnoted = known.unnoted.saturating_add(1);
            if now_s.saturating_sub(known.noted_s) >= NOTE_EVERY_S {
                known.noted_s = now_s;
                self.note_again(known);
            }
            return known.allowed;
        }
        let (allowed, by) = self.ask(kind.ask(topic));
        self.note(Note { kind, topic, allowed, by, times: 1 });
        if memory.places.is_empty() {
            memory.places.resize(PLACES, None);
        }
        if let Some(slot) = memory.places.get_mut(place) {
            if let Some(before) = slot.as_mut().filter(|before| before.unnoted > 0) {
                self.note_again(before);
            }
            *slot = Some(Decision { hash, kind, topic: topic.into(), allowed, by, unnoted: 0, noted_s: now_s });
        }
        allowed
    }
}

/// What it asked in its last minute counts as well.
impl Drop for Rights {
    fn drop(&mut self) {
        let mut memory = std::mem::take(self.memory.get_mut());
        self.note_all(&mut memory);
    }
}

impl Authority for Rights {
    fn user(&self) -> Option<&str> {
        self.who().user.as_deref()
    }

    fn may_receive(&self, topic: &str) -> bool {
        Self::may_receive(self, topic)
    }

    fn may_leave_will(&self, will: &Message) -> bool {
        Self::may_leave_will(self, will.topic(), will.qos, will.retain)
    }

    fn may_keep(&self, filter: &str) -> bool {
        Self::may_keep(self, filter)
    }

    fn note_standing(&self, filters: &[String]) {
        self.note_all(&mut self.memory.lock());
        for filter in filters {
            let _ = self.may_keep(filter);
        }
    }

    fn is_valid(&self) -> bool {
        Self::is_valid(self)
    }

    fn expires(&self) -> Option<SystemTime> {
        Self::expires(self)
    }

    fn depends_on(&self) -> u64 {
        Self::depends_on(self)
    }
}
