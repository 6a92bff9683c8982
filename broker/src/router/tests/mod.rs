#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice)]

mod cache;
mod groups;
mod naive;
mod random;
mod retained;
mod routes;

use std::sync::Arc;

use super::{Options, Route, Router, Subscriber};

/// A subscriber whose life can be observed.
#[derive(Clone, Debug)]
struct Client(Arc<u64>);

impl Subscriber for Client {
    fn key(&self) -> u64 {
        *self.0
    }
}

fn client(key: u64) -> Client {
    Client(Arc::new(key))
}

fn qos(qos: u8) -> Options {
    Options { qos, no_local: false, retain_as_published: false, subscription_id: 0 }
}

fn router(subscriptions: &[(&str, u64)]) -> Router<Client> {
    let router = Router::new();
    for (filter, key) in subscriptions {
        assert!(!router.subscribe(filter, client(*key), qos(0)), "{filter} {key}");
    }
    router
}

fn keys(route: &Route<Client>) -> Vec<u64> {
    let mut keys: Vec<u64> = route.targets.iter().map(|target| target.subscriber.key()).collect();
    keys.sort_unstable();
    keys
}
