//! Publishing from an interrupt.
//!
//! The outbox itself may not be touched from an interrupt: making room moves memory, and guarding that with a critical
//! section would hold up every other interrupt for as long. So an interrupt puts its messages into a mailbox, which is a
//! ring of bytes with one writer and one reader that never wait for each other, and the main loop takes them over with
//! [`Client::take_mail`](crate::Client::take_mail).
//!
//! The ring is made of atomic bytes. That costs a copy byte by byte, which is little for what an interrupt has to say,
//! and needs neither `unsafe`, nor a critical section, nor compare-and-swap, which a Cortex-M0 does not have. One mailbox
//! belongs to one priority: [`Mailbox::split`] gives out one [`Sender`] and one [`Receiver`], and neither can be copied.
//!
//! ```
//! use forebay_firmware::{Client, Message, Options, mailbox::Mailbox};
//!
//! let options = Options::new("device");
//! let mut outbox = [0; 1024];
//! let mut client = Client::new(&options, &mut outbox);
//!
//! let mut mailbox = Mailbox::<256>::new();
//! let (mut sender, mut receiver) = mailbox.split();
//! // In the interrupt:
//! sender.publish(&Message::new("door").ttl_ms(60_000), b"open").unwrap();
//! // In the main loop:
//! client.take_mail(0, &mut receiver);
//! assert_eq!(client.pending(), 1);
//! ```

mod ring;

use crate::client::Client;
use crate::message::{CLASSES, Class, DropReason, Dropped, Message, Policy, PublishError};
use core::sync::atomic::{self, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use forebay_wire::types::QoS;
use ring::Ends;

/// The longest topic name of a message in a mailbox, in bytes.
pub const TOPIC_MAX: usize = 128;

/// Before the topic: length of the payload, of the topic, how it is published, time to live.
const HEAD: usize = 2 + 1 + 1 + 4;

/// A ring of `N - 1` bytes between an interrupt and the main loop. A message takes 8 bytes beside topic and payload.
#[derive(Debug)]
pub struct Mailbox<const N: usize> {
    bytes: [AtomicU8; N],
    ends: Ends,
}

impl<const N: usize> Mailbox<N> {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [const { AtomicU8::new(0) }; N],
            ends: Ends {
                read: AtomicUsize::new(0),
                written: AtomicUsize::new(0),
                lost: [const { AtomicU32::new(0) }; CLASSES],
            },
        }
    }

    /// Its two ends.
    pub fn split(&mut self) -> (Sender<'_>, Receiver<'_>) {
        let seen =
            core::array::from_fn(|class| self.ends.lost.get(class).map_or(0, |lost| lost.load(Ordering::Relaxed)));
        (Sender { bytes: &self.bytes, ends: &self.ends }, Receiver { bytes: &self.bytes, ends: &self.ends, seen })
    }
}

impl<const N: usize> Default for Mailbox<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// The end for the interrupt.
#[derive(Debug)]
pub struct Sender<'m> {
    bytes: &'m [AtomicU8],
    ends: &'m Ends,
}

/// The end for the main loop.
#[derive(Debug)]
pub struct Receiver<'m> {
    bytes: &'m [AtomicU8],
    ends: &'m Ends,
    seen: [u32; CLASSES],
}

impl Sender<'_> {
    /// Puts a message into the mailbox. Its properties stay behind, and its time to live begins when it is taken.
    ///
    /// # Errors
    /// There is no room, which is counted; or the topic is longer than [`TOPIC_MAX`].
    pub fn publish(&mut self, message: &Message<'_>, payload: &[u8]) -> Result<(), PublishError> {
        let topic = message.topic.as_bytes();
        if topic.len() > TOPIC_MAX {
            return Err(PublishError::Topic);
        }
        let class = message.class as usize;
        if payload.len() > usize::from(u16::MAX) {
            // It would not fit any mailbox that is worth it: lost like others.
            let lost = self.ends.lost.get(class);
            lost.iter().for_each(|lost| lost.store(lost.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release));
            return Err(PublishError::Full);
        }
        let [a, b] = (payload.len() as u16).to_le_bytes();
        let [c, d, e, f] = message.ttl_ms.to_le_bytes();
        let how = message.qos as u8
            | u8::from(message.retain) << 2
            | (message.class as u8) << 3
            | match message.policy {
                Policy::DropOldest => 0,
                Policy::DropNewest => 1 << 5,
                Policy::KeepLast => 2 << 5,
            };
        let head = [a, b, topic.len() as u8, how, c, d, e, f];
        if ring::put(self.bytes, self.ends, class, [&head, topic, payload]) { Ok(()) } else { Err(PublishError::Full) }
    }
}

impl Receiver<'_> {
    fn byte(&self, at: &mut usize) -> u8 {
        ring::byte(self.bytes, at)
    }

    fn newly_lost(&mut self, class: Class) -> u32 {
        let lost = ring::lost(self.ends, class as usize);
        let seen = self.seen.get_mut(class as usize).map_or(lost, |seen| core::mem::replace(seen, lost));
        lost.wrapping_sub(seen)
    }
}

impl Client<'_> {
    /// Publishes all that is in a mailbox, in order, and counts what had no room in it. How many messages were taken over;
    /// what the outbox refuses is counted there.
    pub fn take_mail(&mut self, now: u64, mail: &mut Receiver<'_>) -> usize {
        for class in Class::ALL {
            for _ in 0..mail.newly_lost(class) {
                self.count_drop(Dropped { reason: DropReason::Mailbox, class, ticket: None });
            }
        }
        let mut taken = 0usize;
        loop {
            let Some(mut at) = ring::pending(mail.ends) else { return taken };
            let mut head = [0u8; HEAD];
            for byte in &mut head {
                *byte = mail.byte(&mut at);
            }
            let [a, b, topic_len, how, c, d, e, f] = head;
            let mut name = [0u8; TOPIC_MAX];
            for byte in name.iter_mut().take(usize::from(topic_len)) {
                *byte = mail.byte(&mut at);
            }
            let topic = name.get(..usize::from(topic_len)).unwrap_or_default();
            let message = Message {
                topic: core::str::from_utf8(topic).unwrap_or_default(),
                qos: QoS::try_from(how & 3).unwrap_or(QoS::AtMostOnce),
                retain: how & 4 != 0,
                class: Class::from_bits(how >> 3),
                policy: match how >> 5 {
                    0 => Policy::DropOldest,
                    1 => Policy::DropNewest,
                    _ => Policy::KeepLast,
                },
                ttl_ms: u32::from_le_bytes([c, d, e, f]),
                properties: &[],
            };
            let len = usize::from(u16::from_le_bytes([a, b]));
            let mut end = at;
            let written = self.try_publish(now, &message, len, |room| {
                for to in room.iter_mut() {
                    *to = mail.byte(&mut end);
                }
                len
            });
            if written.is_ok() {
                taken = taken.wrapping_add(1);
                at = end;
            } else {
                for _ in 0..len {
                    at = ring::next(at, mail.bytes.len());
                }
            }
            ring::done(mail.ends, at);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::{Options, Status};
    use std::vec::Vec;

    #[test]
    fn messages_come_out_as_they_went_in_and_what_has_no_room_is_counted() {
        let options = Options::new("d");
        let mut outbox = [0; 32_768];
        let mut client = Client::new(&options, &mut outbox);
        let mut mailbox = Mailbox::<64>::new();
        let (mut sender, mut receiver) = mailbox.split();
        let mut lost = 0;
        for round in 0..if cfg!(miri) { 60u32 } else { 300 } {
            let message = Message::new("t/é").class(Class::State).retain(true).qos(QoS::AtMostOnce);
            let payload = [round as u8; 40];
            let len = (round % 40) as usize;
            lost += u32::from(sender.publish(&message, &payload[..len]).is_err());
            if round % 3 == 0 {
                let before = client.pending();
                let taken = client.take_mail(u64::from(round), &mut receiver);
                assert_eq!(client.pending(), before + taken);
            }
        }
        client.take_mail(300, &mut receiver);
        assert!(lost > 10 && lost < 200, "{lost}");
        assert_eq!(client.counters().dropped(DropReason::Mailbox), lost);
        assert_eq!(sender.publish(&Message::new(&"x".repeat(129)), b""), Err(PublishError::Topic));
    }

    #[test]
    fn a_full_outbox_takes_the_mail_and_counts_it() {
        let options = Options::new("d");
        let mut outbox = [0; 64];
        let mut client = Client::new(&options, &mut outbox);
        let mut mailbox = Mailbox::<128>::new();
        let (mut sender, mut receiver) = mailbox.split();
        for _ in 0..9 {
            let _ = sender.publish(&Message::new("t").policy(Policy::DropNewest), b"0123456789");
        }
        assert_eq!(client.take_mail(0, &mut receiver), 2);
        assert_eq!(client.counters().dropped(DropReason::Full), 4);
        assert_eq!(client.counters().dropped(DropReason::Mailbox), 3);
        assert_eq!(client.take_mail(0, &mut receiver), 0);
    }

    #[test]
    fn two_threads_lose_nothing_in_silence() {
        let options = Options::new("d");
        let mut outbox = std::vec![0; 1 << 20];
        let mut client = Client::new(&options, &mut outbox);
        let mut mailbox = Mailbox::<200>::new();
        let (mut sender, mut receiver) = mailbox.split();
        let total = if cfg!(miri) { 200u32 } else { 20_000 };
        let mut tickets = Vec::new();
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || {
                for number in 0..total {
                    let _ = sender.publish(&Message::new("t"), &number.to_be_bytes());
                }
            });
            while !writer.is_finished() {
                tickets.push(client.take_mail(0, &mut receiver));
                std::thread::yield_now();
            }
        });
        client.take_mail(0, &mut receiver);
        let lost = client.counters().dropped(DropReason::Mailbox);
        assert_eq!(client.counters().accepted + lost, total);
        assert_eq!(client.status(crate::Ticket(1)), Status::Queued);
    }
}
