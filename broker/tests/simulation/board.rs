//! A broker without connections, its disk, and the pages that it asks for: for a story that needs no seed.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use forebay::access::auth::Mechanisms;
use forebay::broker::{Broker, Pager, Request, Slot};
use forebay::clock::Clock;
use forebay::config;
use forebay::message::{Message, Parts, Time};
use forebay::session::{Authority, Link};
use forebay::store::memory::MemoryStore;
use forebay::store::{Store, StoredSubscription};
use forebay_wire::types::Version;

use crate::turns::split;

pub struct Board {
    pub broker: Arc<Broker>,
    store: MemoryStore,
    requests: Receiver<Request>,
}

impl Board {
    /// With this configuration, on what the store has.
    pub fn start(text: &str, store: &MemoryStore, clock: Clock) -> Self {
        let config = config::parse(text, Path::new("simulated"), &config::Overrides::default()).unwrap();
        let (pager, requests) = Pager::new();
        let broker = Broker::with_clock(Arc::new(config), store.crash(), pager, Mechanisms::default(), None, clock);
        broker.read_keyed_from(store.reader());
        broker.open_queues();
        Self { broker, store: store.clone(), requests }
    }

    pub fn commit(&mut self) {
        assert!(self.broker.writer.round(&self.broker, &mut self.store, Time(u64::MAX)));
    }

    /// Commits, and does what the threads of queues and pages do.
    pub fn turn(&mut self) {
        self.commit();
        self.broker.serve_queues();
        for (slot, page) in self.requests.try_iter() {
            Pager::serve(&self.broker, &*self.store.reader(), &slot, page);
        }
    }

    /// A message of QoS 1 with this topic.
    pub fn message(&self, topic: &str) -> Arc<Message> {
        let accepted_at = self.broker.clock.now();
        let parts =
            Parts { topic, properties: &[], payload: &[1], qos: 1, retain: false, expires_at: None, accepted_at };
        Arc::new(Message::new(&parts, None))
    }

    /// How many PUBLISHes wait for the client's socket; they do so no more.
    pub fn take(&self, slot: &Arc<Slot>) -> usize {
        let bytes = slot.with(&self.broker, |session| session.take_all_out());
        split(&bytes).0.iter().filter(|(first, _)| first >> 4 == 3).count()
    }
}

/// Of MQTT 5, with a session that ends with its connection.
pub fn link() -> Link {
    Link {
        version: Version::V5,
        expiry_s: 0,
        receive_maximum: 100,
        maximum_packet_size: u32::MAX,
        topic_alias_maximum: 0,
        problem_information: true,
        will: None,
        authority: None,
        egress: None,
    }
}

/// RETAIN is kept as published.
pub fn subscription(filter: &str, qos: u8) -> StoredSubscription {
    StoredSubscription {
        filter: filter.to_owned(),
        qos,
        no_local: false,
        retain_as_published: true,
        subscription_id: 0,
        retained_behind: None,
    }
}

/// What a client may read is what this says of the topic; everything else is allowed.
pub struct Reads<F>(pub F);

impl<F> std::fmt::Debug for Reads<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reads").finish_non_exhaustive()
    }
}

impl<F: Fn(&str) -> bool + Send + Sync> Authority for Reads<F> {
    fn user(&self) -> Option<&str> {
        None
    }

    fn may_receive(&self, topic: &str) -> bool {
        self.0(topic)
    }

    fn may_leave_will(&self, _: &Message) -> bool {
        true
    }

    fn may_keep(&self, _: &str) -> bool {
        true
    }

    fn is_valid(&self) -> bool {
        true
    }

    fn expires(&self) -> Option<std::time::SystemTime> {
        None
    }

    fn depends_on(&self) -> u64 {
        0
    }
}
