//! What one client may do, as its session and its connection ask it: a decision is remembered with the policy's version.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use forebay_wire::topic;
use parking_lot::{Mutex, RwLock};

use super::acl::Answer;
use super::auth::Exchange;
use super::rules::Ask;
use super::sources::{Credential, Identity};
use super::{Access, Claim, Entrance, Principal, destination};
use crate::message::Message;
use crate::session::Authority;

/// Seeded by chance: nobody can choose topics that push each other out.
static HASH: LazyLock<foldhash::quality::RandomState> = LazyLock::new(foldhash::quality::RandomState::default);
/// Decisions that a client has remembered; a topic has one place.
const PLACES: usize = 8;

/// What is remembered of a question, beside its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Receive,
    Publish { qos: u8, retain: bool },
    Will { qos: u8, retain: bool },
}

impl Kind {
    fn ask(self, topic: &str) -> Ask<'_> {
        match self {
            Self::Receive => Ask::Receive { topic },
            Self::Publish { qos, retain } => Ask::Publish { topic, qos, retain },
            Self::Will { qos, retain } => Ask::Will { topic, qos, retain },
        }
    }
}

#[derive(Clone, Debug)]
struct Decision {
    hash: u64,
    kind: Kind,
    topic: Box<str>,
    allowed: bool,
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
    memory: Mutex<Memory>,
}

impl Rights {
    pub(super) fn new(access: Arc<Access>, who: Principal, entrance: Arc<Entrance>, identity: Identity) -> Arc<Self> {
        let ruled = access.dynamic.is_some() || entrance.acl.is_some() || identity.rules.is_some();
        let identity = RwLock::new(identity);
        Arc::new(Self { access, who, entrance, identity, ruled: AtomicBool::new(ruled), memory: Mutex::default() })
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
        self.memory.lock().places.clear();
        true
    }

    /// Whether the client may be there at all.
    #[must_use]
    pub fn may_connect(&self) -> bool {
        let by_token = self.identity.read().rules.as_ref().map(|rules| rules.check(&self.who, Ask::Connect));
        let policy = self.access.policy();
        let by_file = self.entrance.acl.as_deref().and_then(|path| policy.acl(path));
        by_token.is_none_or(|answer| answer.allowed)
            && by_file.is_none_or(|acl| acl.check(&self.who, Ask::Connect).allowed)
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

    /// Whether the client may have a subscription.
    #[must_use]
    pub fn may_subscribe(&self, filter: &str) -> bool {
        let shared = topic::split_share(filter);
        let ask = Ask::Subscribe { filter: shared.map_or(filter, |shared| shared.filter), shared: shared.is_some() };
        !self.ruled.load(Ordering::Acquire) || self.ask(ask).allowed
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
    fn ask(&self, ask: Ask<'_>) -> Answer {
        let rules = self.identity.read().rules.clone();
        if let Some(rules) = &rules {
            let answer = rules.check(&self.who, ask);
            if answer.line.is_some() {
                return answer;
            }
        }
        let dynamic = self.access.dynamic_state();
        if let Some(allowed) = dynamic.as_ref().and_then(|state| state.check(&self.who, ask)) {
            return Answer { allowed, line: None };
        }
        let policy = self.access.policy();
        match self.entrance.acl.as_deref().and_then(|path| policy.acl(path)) {
            Some(acl) => acl.check(&self.who, ask),
            None => Answer { allowed: rules.is_none() && dynamic.is_none(), line: None },
        }
    }

    fn allows(&self, kind: Kind, topic: &str) -> bool {
        if !self.ruled.load(Ordering::Acquire) {
            return true;
        }
        // Before the policy is asked: a decision is never remembered as newer than it is.
        let version = self.access.version();
        let hash = HASH.hash_one(topic);
        let place = hash as usize % PLACES;
        let mut memory = self.memory.lock();
        if memory.version != version {
            memory.version = version;
            memory.places.clear();
        }
        if let Some(Some(known)) = memory.places.get(place)
            && known.hash == hash
            && known.kind == kind
            && *known.topic == *topic
        {
            return known.allowed;
        }
        let allowed = self.ask(kind.ask(topic)).allowed;
        if memory.places.is_empty() {
            memory.places.resize(PLACES, None);
        }
        if let Some(slot) = memory.places.get_mut(place) {
            *slot = Some(Decision { hash, kind, topic: topic.into(), allowed });
        }
        allowed
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

    fn may_subscribe(&self, filter: &str) -> bool {
        Self::may_subscribe(self, filter)
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
