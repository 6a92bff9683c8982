//! MQTT 3.1 and 3.1.1 cannot refuse a PUBLISH: its ack is withheld until there is room for it. What a turn had no time for
//! waits here as well, in every version.

use std::collections::VecDeque;
use std::sync::Arc;

use forebay_wire::reason::ReasonCode;
use forebay_wire::types::PacketId;

use super::end::End;
use super::input::{acknowledge, count_qos2, is_to_wait, may_schedule, settle_taken_over};
use super::worker::Scratch;
use super::{Connection, Stream};
use crate::broker::{Batch, Broker, Budget, Staged, Verdict};
use crate::codec::{AckKind, CodecError};
use crate::message::Message;
use crate::session::Durability;

/// Messages that are tried together.
const AT_ONCE: usize = 64;

struct One {
    message: Arc<Message>,
    /// `None` at QoS 0: it waits behind others.
    ack: Option<(AckKind, PacketId)>,
    durability: Durability,
}

/// Messages that wait for room, in order; those behind them wait as well.
#[derive(Default)]
pub(crate) struct Parked {
    waiting: VecDeque<One>,
    bytes: usize,
}

impl Parked {
    /// As much is parked as may be: the socket is read no further. With no memory left that is what there is.
    pub(crate) fn full(&self, broker: &Broker) -> bool {
        self.waiting.len() >= usize::from(broker.settings.receive_maximum)
            || self.bytes >= broker.settings.queue.memory_bytes
            || broker.memory_full()
    }

    pub(crate) fn push(&mut self, message: Arc<Message>, ack: Option<(AckKind, PacketId)>, durability: Durability) {
        self.bytes += message.size();
        self.waiting.push_back(One { message, ack, durability });
    }

    /// Takes so many of the first away; returns the last of them.
    fn pop(&mut self, count: usize) -> Option<One> {
        let popped =
            self.waiting.drain(..count).inspect(|one| self.bytes = self.bytes.saturating_sub(one.message.size()));
        popped.last()
    }
}

impl<S: Stream> Connection<S> {
    /// Whether as much is parked as may be.
    pub(super) fn is_parked_full(&self) -> bool {
        self.parked.as_ref().is_some_and(|parked| parked.full(&self.on.broker))
    }

    /// Tries what is parked again, in order, until one finds no room or the turn is over.
    pub(super) fn retry_parked(&mut self, scratch: &mut Scratch, budget: &Budget) -> Result<(), End> {
        let Some(mut parked) = self.parked.take() else { return Ok(()) };
        let broker = self.on.broker.clone();
        // On the list before the try: room that comes in between is not missed.
        let behind = broker.park(&self.slot);
        let before = parked.waiting.len();
        let tried = self.try_parked(&mut parked, &broker, scratch, budget);
        let left = parked.waiting.len();
        if left == 0 {
            broker.forget_parked(&self.slot);
        } else {
            broker.park_on(&self.slot, left < before);
            self.parked = Some(parked);
        }
        if let Some(no) = behind {
            broker.unpark_next(no);
        }
        tried
    }

    fn try_parked(
        &mut self,
        parked: &mut Parked,
        broker: &Broker,
        scratch: &mut Scratch,
        budget: &Budget,
    ) -> Result<(), End> {
        while !parked.waiting.is_empty() {
            if budget.is_spent() {
                self.goes_on = true;
                return Ok(());
            }
            let allowed = parked.waiting.iter().take(AT_ONCE).take_while(|one| self.may_publish(one)).count();
            if allowed == 0 {
                self.deny_first(parked, broker)?;
                continue;
            }
            let gate = broker.writer.gate();
            let done = self.retry_some(parked, allowed, broker, scratch, budget);
            drop(gate);
            parked.pop(done);
            if done < allowed && !budget.is_spent() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The right to publish it may have been withdrawn since it came.
    fn may_publish(&self, one: &One) -> bool {
        let message = &one.message;
        self.rights.as_ref().is_none_or(|rights| {
            rights.may_publish(message.topic(), message.qos, message.retain)
                && may_schedule(rights, message.topic(), message.payload())
        })
    }

    /// The client is told what it would have been told if the message had come now.
    fn deny_first(&self, parked: &mut Parked, broker: &Broker) -> Result<(), End> {
        let (Some(one), Some(rights)) = (parked.pop(1), &self.rights) else { return Ok(()) };
        broker.counters.publish_denied.add(1);
        let (who, topic) = (rights.who(), one.message.topic());
        tracing::info!(client = &*who.client_id, user = ?who.user, ?topic, "PUBLISH denied by the ACL");
        if !self.version.is_v5() && rights.disconnects() {
            let detail = "a PUBLISH that the client may not make";
            return Err(End::Peer(CodecError::new(ReasonCode::NotAuthorized, "MQTT-3.3.5-2", detail)));
        }
        let mut staged = Staged::of(&one.message, one.message.retain, one.durability);
        (staged.ack, staged.verdict) = (one.ack, Verdict::Refused(ReasonCode::NotAuthorized));
        self.slot.with(broker, |session| {
            if session.epoch() == self.epoch {
                acknowledge(broker, session, &mut staged);
            }
        });
        Ok(())
    }

    /// How many of the first `most` of them are done with.
    fn retry_some(
        &self,
        parked: &Parked,
        most: usize,
        broker: &Broker,
        scratch: &mut Scratch,
        budget: &Budget,
    ) -> usize {
        let staged = parked.waiting.iter().take(most).map(|one| {
            let staged = Staged::of(&one.message, one.message.retain, one.durability);
            Staged { ack: one.ack, ..staged }
        });
        let mut staged: Vec<Staged<'_>> = staged.collect();
        let qos2 = count_qos2(&staged);
        let is_served = self.slot.with(broker, |session| {
            let is_served = session.epoch() == self.epoch;
            for (kind, packet_id) in staged.iter().filter_map(|staged| staged.ack).filter(|_| is_served) {
                if kind == AckKind::Pubrec {
                    session.take_qos2(packet_id);
                }
            }
            session.begin_qos2(if is_served { qos2 } else { 0 });
            is_served
        });
        if !is_served {
            // Another connection has taken over, and its client sends them again.
            return 0;
        }
        let batch = Batch { origin: Some(&self.slot), version: self.version, budget: Some(budget), ..Batch::OWN };
        broker.fan_out(&mut scratch.cache, batch, &mut staged);
        let v5 = self.version.is_v5();
        let done = staged.iter().position(|staged| is_to_wait(staged, v5)).unwrap_or(staged.len());
        self.slot.with(broker, |session| {
            let is_served = session.epoch() == self.epoch;
            session.end_qos2(qos2);
            for (at, staged) in staged.iter_mut().enumerate() {
                if at >= done {
                    // On disk the identifier must never be there without the message.
                    staged.ack.iter().for_each(|(_, id)| session.forget_qos2(*id));
                } else if is_served {
                    acknowledge(broker, session, staged);
                } else {
                    settle_taken_over(session, staged);
                }
            }
        });
        done
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::SystemTime;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::access::Access;
    use crate::broker::by_hand;
    use crate::connection::{Shared, drive, serve_stream};
    use crate::session::{Authority, Link};

    const RULES: &str = "topic readwrite #\ntopic readwrite $schedule/#\n";

    async fn come(stream: &mut DuplexStream, expected: &[u8]) {
        let mut found = vec![0; expected.len()];
        stream.read_exact(&mut found).await.unwrap();
        assert_eq!(found, expected);
    }

    /// A broker whose rules for publishing are in this file.
    fn with_rules(file: &Path) -> Arc<Broker> {
        std::fs::write(file, RULES).unwrap();
        let text = format!("[queue]\nmax_messages = 1\n[access]\nacl_file = {file:?}");
        let (broker, _store) = by_hand::broker_with(&text);
        broker.set_access(Access::load(&broker.config.access).unwrap());
        broker
    }

    /// A client of MQTT 3.1.1, connected.
    async fn client_of(broker: &Arc<Broker>) -> DuplexStream {
        let shared = Shared::new(broker, broker.config.listeners[0].clone(), None);
        let (mut client, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(drive());
        tokio::spawn(async move { serve_stream(far, &shared).await });
        client.write_all(&[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 1, b'c']).await.unwrap();
        come(&mut client, &[0x20, 2, 0, 0]).await;
        client
    }

    /// Each connection may park as much as a queue has in memory: ten thousand of them would be far over the limit.
    #[tokio::test(flavor = "current_thread")]
    async fn with_no_memory_left_what_is_parked_does_not_grow() {
        let (broker, _store) = by_hand::broker();
        let queue = by_hand::queue_of(&broker, "t");
        let mut client = client_of(&broker).await;
        broker.pretend_memory_full(true);
        for id in 1..=3 {
            client.write_all(&[0x32, 6, 0, 1, b't', 0, id, b'x']).await.unwrap();
            // All that is ready to go on has gone on.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(broker.counters.publish_parked.get(), 1);
        broker.pretend_memory_full(false);
        broker.look_at_memory();
        while queue.figures().messages < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(broker.counters.publish_parked.get(), 1, "the others came when there was room");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_its_publisher_may_not_publish_any_more_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("acl");
        let broker = with_rules(&file);
        let queue = by_hand::queue_of(&broker, "t");
        let mut client = client_of(&broker).await;
        for id in 1..=3 {
            client.write_all(&[0x32, 6, 0, 1, b't', 0, id, b'x']).await.unwrap();
        }
        while broker.counters.publish_parked.get() < 2 {
            tokio::task::yield_now().await;
        }
        std::fs::write(&file, "topic read #\n").unwrap();
        broker.reload().unwrap();
        assert_eq!(queue.purge(), 1);
        while broker.counters.publish_denied.get() < 2 {
            assert_eq!(queue.figures().messages, 0, "it was published all the same");
            tokio::task::yield_now().await;
        }
        assert_eq!(queue.figures().messages, 0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_schedule_that_waited_may_do_what_its_publisher_may_do_now() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("acl");
        let broker = with_rules(&file);
        let queue = by_hand::queue_of(&broker, "t");
        let shared = Shared::new(&broker, broker.config.listeners[0].clone(), None);
        let (mut client, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(drive());
        tokio::spawn(async move { serve_stream(far, &shared).await });
        client.write_all(&[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 1, b'c']).await.unwrap();
        come(&mut client, &[0x20, 2, 0, 0]).await;
        for id in 1..=2 {
            client.write_all(&[0x32, 6, 0, 1, b't', 0, id, b'x']).await.unwrap();
        }
        let (topic, id, schedule) =
            (b"\0\x0B$schedule/s", b"\0\x03", br#"{"cron":"0 0 1 1 *","topic":"secret","payload":"x"}"#);
        let rest = [&topic[..], id, schedule].concat();
        client.write_all(&[&[0x33, u8::try_from(rest.len()).unwrap()], &rest[..]].concat()).await.unwrap();
        while broker.counters.publish_parked.get() < 2 {
            tokio::task::yield_now().await;
        }
        std::fs::write(&file, "topic readwrite t\ntopic readwrite $schedule/#\n").unwrap();
        broker.reload().unwrap();
        assert_eq!(queue.purge(), 1);
        let schedules = || broker.retained.matching("$schedule/#", broker.clock.now()).len();
        while broker.counters.publish_denied.get() == 0 {
            assert_eq!(schedules(), 0, "it was set all the same");
            tokio::task::yield_now().await;
        }
        assert_eq!((queue.figures().messages, schedules()), (1, 0));
    }

    /// A subscriber that is asked about its rights while a message is routed: the publisher's session is taken over then.
    #[derive(Debug)]
    struct TakesOver {
        broker: std::sync::Weak<Broker>,
        link: Link,
        asked: AtomicBool,
    }

    impl Authority for TakesOver {
        fn user(&self) -> Option<&str> {
            None
        }

        fn may_receive(&self, _: &str) -> bool {
            if let (false, Some(broker)) = (self.asked.swap(true, Ordering::Relaxed), self.broker.upgrade()) {
                broker.open("c", false, self.link.clone(), 0);
            }
            true
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

        fn expires(&self) -> Option<SystemTime> {
            None
        }

        fn depends_on(&self) -> u64 {
            0
        }
    }

    /// A client publishes at QoS 2, and is taken over while that is routed. How many messages the queue has then, and
    /// whether the identifier is taken.
    async fn taken_over_while_routing(queue_text: &str, before: usize, level: u8) -> (u64, bool) {
        let (broker, _store) = by_hand::broker_with(queue_text);
        let queue = by_hand::queue_of(&broker, "t");
        for _ in 0..before {
            by_hand::publish(&broker, "t");
        }
        let shared = Shared::new(&broker, broker.config.listeners[0].clone(), None);
        let (mut client, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(drive());
        tokio::spawn(async move { serve_stream(far, &shared).await });
        let connect: &[u8] = match level {
            5 => &[0x10, 19, 0, 4, b'M', b'Q', b'T', b'T', 5, 0, 0, 0, 5, 0x11, 0, 0, 0, 60, 0, 1, b'c'],
            _ => &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 0, 0, 1, b'c'],
        };
        client.write_all(connect).await.unwrap();
        let mut answer = [0; 2];
        client.read_exact(&mut answer).await.unwrap();
        let link = by_hand::link(60);
        let takes_over =
            TakesOver { broker: Arc::downgrade(&broker), link: link.clone(), asked: AtomicBool::new(false) };
        let authority: Arc<dyn Authority> = Arc::new(takes_over);
        let watcher = broker.open("watcher", true, Link { authority: Some(authority), ..link }, 0);
        broker.subscribe(&watcher.slot, by_hand::subscription("t", 0));
        let publisher = broker.all_slots().into_iter().find(|slot| slot.look(|s| &**s.client_id() == "c")).unwrap();
        let publish: &[u8] = match level {
            5 => &[0x34, 7, 0, 1, b't', 0, 9, 0, b'x'],
            _ => &[0x34, 6, 0, 1, b't', 0, 9, b'x'],
        };
        client.write_all(publish).await.unwrap();
        while broker.connections.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
        assert!(publisher.look(|session| session.epoch() == 2 && !session.has_undecided()));
        (queue.figures().messages, publisher.look(|session| session.has_received(PacketId::new(9).unwrap())))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_taken_over_identifier_stays_taken_with_its_message() {
        assert_eq!(taken_over_while_routing("", 0, 5).await, (1, true));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_taken_over_identifier_is_free_again_when_its_message_was_refused() {
        assert_eq!(taken_over_while_routing("[queue]\nmax_messages = 1", 1, 5).await, (1, false));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_taken_over_identifier_is_free_again_when_its_message_would_be_parked() {
        assert_eq!(taken_over_while_routing("[queue]\nmax_messages = 1", 1, 4).await, (1, false));
    }
}
