//! What has happened, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of the broker, since its start.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        impl Counters {
            /// All of them, by name.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.get()),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Connections accepted by a listener.
    sockets_accepted,
    /// Connections closed at once: the listener has as many as it may have.
    sockets_refused,
    /// Connections that did not finish TLS and CONNECT in time.
    handshakes_timed_out,
    /// TLS handshakes that failed.
    tls_failed,
    /// CONNECTs accepted.
    connects_accepted,
    /// CONNECTs refused, for any reason.
    connects_refused,
    /// Sessions taken over by another connection of the same client.
    sessions_taken_over,
    /// Connections ended for what the client sent: malformed, protocol error, over a limit.
    packets_refused,
    /// Connections ended because nothing came for one and a half keep alives.
    keep_alive_timeouts,
    /// Bytes read.
    bytes_received,
    /// Bytes written.
    bytes_sent,
    /// PUBLISH packets read.
    publish_received,
    /// PUBLISH packets refused with a reason code.
    publish_refused,
    /// PUBLISH packets of MQTT 3.1 and 3.1.1 that had to wait for room.
    publish_parked,
    /// Reads put off because a connection was over its rate.
    reads_delayed,
    /// Acks for packet identifiers that are not in flight.
    acks_unexpected,
    /// Retained messages refused at the limit.
    retained_refused,
    /// Wills published.
    wills_published,
    /// Sessions that ended at their expiry.
    sessions_expired,
}
