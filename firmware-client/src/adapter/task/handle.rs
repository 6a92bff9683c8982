//! What the other tasks of a device have.

use super::{Inner, Shared, Time};
use crate::message::{Counters, Message, PublishError, Status, Ticket};
use crate::{Client, Event, Pressure, QoS, ReasonCode};
use core::future::poll_fn;
use core::task::{Context, Poll};
use embassy_sync::blocking_mutex::raw::RawMutex;

/// A way to the client, for any number of tasks.
pub struct Handle<'d, 'a, M: RawMutex, T> {
    shared: &'d Shared<'a, M, T>,
}

impl<M: RawMutex, T> Clone for Handle<'_, '_, M, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: RawMutex, T> Copy for Handle<'_, '_, M, T> {}

/// A message that came, in the receiver's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery<'b> {
    /// Topic name.
    pub topic: &'b str,
    /// Payload.
    pub payload: &'b [u8],
    /// QoS.
    pub qos: QoS,
    /// It was retained.
    pub retain: bool,
    /// It may have come before.
    pub dup: bool,
}

/// A message was larger than the receiver's memory, or than the receive buffer. It was refused, or read past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TooLarge {
    /// Bytes of its payload, see [`Event::MessageRefused`].
    pub payload_len: u32,
}

impl<'d, 'a, M: RawMutex, T: Time> Handle<'d, 'a, M, T> {
    pub(super) fn new(shared: &'d Shared<'a, M, T>) -> Self {
        Self { shared }
    }

    /// Does something with the client, and lets the task look at what has come of it. `None` only from within a call-back.
    pub fn with<R>(&self, f: impl FnOnce(u64, &mut Client<'a>) -> R) -> Option<R> {
        self.shared.with(|now, inner| {
            let result = f(now, &mut inner.client);
            inner.call_task();
            result
        })
    }

    /// Puts a message into the outbox, see [`Client::publish`].
    ///
    /// # Errors
    /// Why it was not taken. [`Full`](PublishError::Full) also from within a call-back.
    pub fn publish(&self, message: &Message<'_>, payload: &[u8]) -> Result<Ticket, PublishError> {
        self.with(|now, client| client.publish(now, message, payload)).unwrap_or(Err(PublishError::Full))
    }

    /// The same, but waits for room; nothing is counted as dropped meanwhile. Dropped before it is done, it has published
    /// nothing.
    ///
    /// # Errors
    /// Why it can never be taken.
    pub async fn publish_wait(&self, message: &Message<'_>, payload: &[u8]) -> Result<Ticket, PublishError> {
        self.until(|now, inner| {
            let room = inner.client.has_room(message, payload.len());
            room.then(|| {
                inner.call_task();
                inner.client.publish(now, message, payload)
            })
        })
        .await
    }

    /// Subscribes, see [`Client::subscribe`].
    ///
    /// # Errors
    /// Why it cannot.
    pub fn subscribe(&self, filter: &str, qos: QoS) -> Result<Ticket, PublishError> {
        self.with(|_, client| client.subscribe(filter, qos)).unwrap_or(Err(PublishError::Full))
    }

    /// Ends a subscription, see [`Client::unsubscribe`].
    ///
    /// # Errors
    /// Why it cannot.
    pub fn unsubscribe(&self, filter: &str) -> Result<Ticket, PublishError> {
        self.with(|_, client| client.unsubscribe(filter)).unwrap_or(Err(PublishError::Full))
    }

    /// What has become of a message.
    #[must_use]
    pub fn status(&self, ticket: Ticket) -> Status {
        self.shared.with(|_, inner| inner.client.status(ticket)).unwrap_or(Status::Unknown)
    }

    /// Waits until a message has ended, and says how. [`Unknown`](Status::Unknown): it has, but more than
    /// [`ENDED_MAX`](crate::ENDED_MAX) others have since.
    pub async fn ended(&self, ticket: Ticket) -> Status {
        self.until(|_, inner| match inner.client.status(ticket) {
            Status::Queued | Status::Sent => None,
            ended @ (Status::Done | Status::Dropped(_) | Status::Unknown) => Some(ended),
        })
        .await
    }

    /// Whether the [store](super::Device::split_with) has a message, so that it survives a power cut, or it has ended, see
    /// [`status`](Self::status). Of a message that is not stored, such as one of QoS 0, only its end is known.
    #[cfg(feature = "flash")]
    #[must_use]
    pub fn is_stored(&self, ticket: Ticket) -> bool {
        self.shared.with(|_, inner| inner.client.is_stored(ticket)).unwrap_or(false)
    }

    /// Waits until [`is_stored`](Self::is_stored).
    #[cfg(feature = "flash")]
    pub async fn stored(&self, ticket: Ticket) {
        self.until(|_, inner| inner.client.is_stored(ticket).then_some(())).await;
    }

    /// Whether all that was published is safe, and nothing is owed to the server.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.shared.with(|_, inner| inner.client.is_drained()).unwrap_or(false)
    }

    /// Waits until all that was published is safe, and nothing is owed to the server.
    pub async fn drained(&self) {
        self.until(|_, inner| inner.client.is_drained().then_some(())).await;
    }

    /// Waits until there is a connection, or none.
    pub async fn connected(&self, wanted: bool) {
        self.until(|_, inner| (inner.client.is_connected() == wanted).then_some(())).await;
    }

    /// How hard it is to get messages out.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        self.shared.with(|_, inner| inner.client.pressure()).unwrap_or(Pressure::Normal)
    }

    /// Waits until the pressure is another than `last`, and says which.
    pub async fn pressure_changed(&self, last: Pressure) -> Pressure {
        self.until(|_, inner| Some(inner.client.pressure()).filter(|pressure| *pressure != last)).await
    }

    /// What was taken and what became of it.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.with(|_, inner| *inner.client.counters()).unwrap_or_default()
    }

    /// Waits for the next message, and gives it, or the next piece of one that is larger than the receive buffer, to
    /// `take`: [`Event::Message`], [`Event::MessageStart`], [`Event::MessageChunk`], [`Event::MessageEnd`] or
    /// [`Event::MessageRefused`]. A code that it answers refuses the message, see [`Client::refuse`].
    ///
    /// The message is acknowledged when anybody asks for the next one. Until somebody asks, what is behind it waits too,
    /// the acknowledgements of what was published included. The connection is kept alive meanwhile; that the server has gone
    /// is not noticed before somebody asks, or a write fails. Dropped before it is done, it has taken nothing.
    pub async fn receive_with<R>(&self, mut take: impl FnMut(&Event<'_>) -> (R, Option<ReasonCode>)) -> R {
        poll_fn(|context| self.poll_receive(context, &mut take)).await
    }

    /// Waits for the next message, and copies it into `buffer`: the topic, and behind it the payload. What else is said at
    /// [`receive_with`](Self::receive_with) holds here too.
    ///
    /// # Errors
    /// It had no room. MQTT 5: the server was told (0x97).
    #[allow(clippy::wildcard_enum_match_arm, reason = "of a message that another task began to receive")]
    pub async fn receive<'b>(&self, buffer: &'b mut [u8]) -> Result<Delivery<'b>, TooLarge> {
        let (topic_len, payload_len, qos, retain, dup) = loop {
            let taken = self.receive_with(|event| match event {
                Event::Message(message) => {
                    let parts = buffer.split_at_mut_checked(message.topic.len());
                    let parts = parts.and_then(|(topic, rest)| Some((topic, rest.get_mut(..message.payload.len())?)));
                    let Some((topic, payload)) = parts else {
                        let too_large = TooLarge { payload_len: message.payload_len };
                        return (Some(Err(too_large)), Some(ReasonCode::QuotaExceeded));
                    };
                    topic.copy_from_slice(message.topic.as_bytes());
                    payload.copy_from_slice(message.payload);
                    let lens = (topic.len(), payload.len());
                    (Some(Ok((lens.0, lens.1, message.qos, message.retain, message.dup))), None)
                }
                Event::MessageStart(message) => {
                    (Some(Err(TooLarge { payload_len: message.payload_len })), Some(ReasonCode::QuotaExceeded))
                }
                Event::MessageRefused { payload_len } => (Some(Err(TooLarge { payload_len: *payload_len })), None),
                _ => (None, None),
            });
            if let Some(taken) = taken.await {
                break taken?;
            }
        };
        let (topic, rest) = buffer.split_at_checked(topic_len).unwrap_or_default();
        let topic = core::str::from_utf8(topic).unwrap_or_default();
        Ok(Delivery { topic, payload: rest.get(..payload_len).unwrap_or_default(), qos, retain, dup })
    }

    fn poll_receive<R>(
        &self,
        context: &mut Context<'_>,
        take: &mut impl FnMut(&Event<'_>) -> (R, Option<ReasonCode>),
    ) -> Poll<R> {
        let taken = self.shared.with(|now, inner| {
            inner.client.hold_messages(false);
            let mut taken = None;
            let mut others = false;
            while taken.is_none() {
                let Some(event) = inner.client.poll_event(now, &mut inner.input) else { break };
                if is_message(&event) {
                    let (result, refused) = take(&event);
                    if let Some(reason) = refused {
                        inner.client.refuse(reason);
                    }
                    taken = Some(result);
                } else {
                    others = true;
                    inner.on_event.iter().for_each(|on_event| on_event(&event));
                }
            }
            inner.client.hold_messages(true);
            if taken.is_some() || others || inner.client.owes() {
                inner.call_task();
            }
            if taken.is_none() {
                inner.waiters.register(context.waker());
            }
            taken
        });
        taken.flatten().map_or(Poll::Pending, Poll::Ready)
    }

    /// Waits until `f` has an answer; it is asked again whenever something has changed.
    async fn until<R>(&self, mut f: impl FnMut(u64, &mut Inner<'a>) -> Option<R>) -> R {
        poll_fn(|context| {
            let result = self.shared.with(|now, inner| {
                let result = f(now, inner);
                if result.is_none() {
                    inner.waiters.register(context.waker());
                }
                result
            });
            result.flatten().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// What a receiver is given; the rest is for everyone.
fn is_message(event: &Event<'_>) -> bool {
    matches!(
        event,
        Event::Message(_)
            | Event::MessageStart(_)
            | Event::MessageChunk(_)
            | Event::MessageEnd
            | Event::MessageRefused { .. }
    )
}
