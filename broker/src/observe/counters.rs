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
    ($($(#[doc = $doc:literal])+ $name:ident,)*) => {
        /// Counters of the broker, since its start.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: Counter,)*
        }

        impl Counters {
            /// All of them, by name.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.get()),)*].into_iter()
            }

            /// What the counter of this name counts; empty when there is none.
            #[must_use]
            pub fn help(name: &str) -> &'static str {
                match name {
                    $(stringify!($name) => concat!($($doc),+).trim(),)*
                    _ => "",
                }
            }
        }
    };
}

counters! {
    /// Connections accepted by a listener.
    sockets_accepted,
    /// Connections that did not finish TLS and CONNECT in time.
    handshakes_timed_out,
    /// Connections that were ended before their CONNECT because others waited.
    handshakes_displaced,
    /// Sockets that were closed because their address had as many handshakes as it may have.
    handshakes_refused,
    /// TLS handshakes that failed.
    tls_failed,
    /// Certificates, keys, CAs or revocation lists of a listener that were read anew.
    tls_reloads,
    /// The same, but they were wrong, and the old ones stayed.
    tls_reloads_failed,
    /// Connections to a listener with the PROXY protocol that came from no trusted proxy, or without its header.
    proxies_refused,
    /// Connections that waited because of `connects_per_s` of their listener.
    sockets_delayed,
    /// Requests for a WebSocket that were refused.
    websockets_refused,
    /// CONNECTs accepted.
    connects_accepted,
    /// CONNECTs refused, for any reason.
    connects_refused,
    /// CONNECTs refused because of who they say they are.
    connects_denied,
    /// Addresses banned after wrong passwords.
    addresses_banned,
    /// PUBLISH packets that their client may not make.
    publish_denied,
    /// Subscriptions refused because they may bring nothing.
    subscribe_denied,
    /// Connections ended because their user is not valid any more.
    connections_revoked,
    /// Connections ended because what their clients logged in with has expired.
    connections_expired,
    /// Subscriptions removed because they are not allowed any more.
    subscriptions_revoked,
    /// Sessions taken over by another connection of the same client.
    sessions_taken_over,
    /// Connections ended for what the client sent: malformed, protocol error, over a limit.
    packets_refused,
    /// Connections ended because nothing came for one and a half keep alives.
    keep_alive_timeouts,
    /// Connections ended because a packet was not complete in time.
    packets_unfinished,
    /// Clients disconnected because their full queue, which ends with their connection, held publishers up for too long.
    sessions_stalled,
    /// Times that a queue was full for too long and began to drop its oldest messages.
    queues_shed,
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
    /// Writes put off because a connection was over its rate.
    writes_delayed,
    /// Acks for packet identifiers that are not in flight.
    acks_unexpected,
    /// Retained messages refused at the limit.
    retained_refused,
    /// Delayed messages of QoS 0 that were dropped for want of room; others are refused.
    delayed_refused,
    /// Messages published by schedules.
    schedule_published,
    /// Due times of schedules that passed without a message: the broker was down or the wall clock stepped over them, a queue
    /// had no room, or the payload's topic had no retained message.
    schedule_missed,
    /// Publications whose origin had sent them before: acknowledged, not delivered again.
    duplicates,
    /// Messages of declared queues that a consumer refused.
    queue_refused,
    /// Messages appended to streams.
    stream_appended,
    /// Messages that were gone from a stream before a reader had them.
    stream_missed,
    /// Messages that became dead letters.
    dead_letters,
    /// Messages that rules have made.
    rules_published,
    /// Messages that a rule could not be applied to.
    rules_failed,
    /// Messages that went into windows of rules.
    rules_collected,
    /// The same, of windows that have closed: what is between the two is in memory only.
    rules_closed,
    /// Results of windows that were dropped, because queues that were to have them were full until the next window closed.
    rules_dropped,
    /// Gaps in the sequence numbers of an origin.
    gaps,
    /// Wills published.
    wills_published,
    /// Sessions that ended at their expiry.
    sessions_expired,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    fn sources(folder: &Path, all: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, all);
            } else {
                all.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }

    #[test]
    fn every_counter_is_raised_somewhere_and_says_what_it_counts() {
        let mut all = String::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
        for (name, _) in Counters::default().each() {
            // Raised there, or chosen among several to be raised.
            let raised = [format!("counters.{name}.add("), format!("&self.counters.{name} ")];
            assert!(raised.iter().any(|text| all.contains(text)), "{name} is never raised");
            assert!(!Counters::help(name).is_empty(), "{name} has no text");
        }
    }
}
