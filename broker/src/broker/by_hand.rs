//! A broker without threads, for tests: it commits when it is told to.

use std::path::Path;
use std::sync::Arc;

use forebay_wire::types::Version;

use super::{Broker, Pager, Taker, TakerFilter, TakerOptions};
use crate::access::auth::Mechanisms;
use crate::config::{self, Overrides};
use crate::message::{Message, Parts, Time};
use crate::session::{Durability, Link};
use crate::store::memory::MemoryStore;
use crate::store::{Recovered, Store, StoredSubscription};

/// A new broker, and its store.
pub(crate) fn broker() -> (Arc<Broker>, MemoryStore) {
    broker_with("")
}

/// The same with this configuration.
pub(crate) fn broker_with(text: &str) -> (Arc<Broker>, MemoryStore) {
    let config = config::parse(text, Path::new("forebay.toml"), &Overrides::default()).unwrap();
    let (pager, _) = Pager::new();
    let broker = Broker::new(Arc::new(config), Recovered::default(), pager, Mechanisms::default(), None);
    let store = MemoryStore::default();
    broker.read_keyed_from(store.reader());
    (broker, store)
}

/// A connection of MQTT 5, to a session that lives so long without it.
pub(crate) fn link(expiry_s: u32) -> Link {
    Link {
        version: Version::V5,
        expiry_s,
        receive_maximum: 100,
        maximum_packet_size: u32::MAX,
        topic_alias_maximum: 0,
        problem_information: true,
        will: None,
        authority: None,
        egress: None,
    }
}

/// A subscription.
pub(crate) fn subscription(filter: &str, qos: u8) -> StoredSubscription {
    StoredSubscription {
        filter: filter.to_owned(),
        qos,
        no_local: false,
        retain_as_published: true,
        subscription_id: 0,
        retained_behind: None,
    }
}

/// Commits what there is.
pub(crate) fn commit(broker: &Arc<Broker>, store: &mut MemoryStore) {
    assert!(broker.writer.round(broker, store, Time(u64::MAX)));
}

/// A message of QoS 1.
pub(crate) fn message(topic: &str, properties: &[u8]) -> Message {
    let (retain, expires_at, accepted_at) = (false, None, Time(0));
    Message::new(&Parts { topic, properties, payload: b"x", qos: 1, retain, expires_at, accepted_at }, None)
}

/// The same with this payload.
pub(crate) fn saying(topic: &str, payload: &[u8]) -> Message {
    let (retain, expires_at, accepted_at) = (false, None, Time(0));
    Message::new(&Parts { topic, properties: &[], payload, qos: 1, retain, expires_at, accepted_at }, None)
}

/// The same without payload.
pub(crate) fn empty(topic: &str) -> Message {
    saying(topic, &[])
}

/// Publishes a message with this topic.
pub(crate) fn publish(broker: &Broker, topic: &str) {
    broker.publish(&Arc::new(message(topic, &[])), false, Durability::Commit, None);
}

/// A queue that gets what is published to this topic.
pub(crate) fn queue_of(broker: &Arc<Broker>, topic: &str) -> Arc<Taker> {
    let filters = vec![TakerFilter { filter: topic.to_owned(), qos: 1, no_local: false }];
    let limits = broker.settings.queue.clone();
    broker.open_taker(topic, &TakerOptions { filters, limits, window: 10, committed_only: false })
}
