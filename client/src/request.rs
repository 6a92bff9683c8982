//! Requests and their responses [MQTT5-4.10].

use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::{PublishError, SubscribeError};
use crate::ticket::{Teller, pair};
use crate::{Client, Dropped, Message, QoS, Received, Subscribe};

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request was not accepted.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The request was accepted and did not arrive.
    #[error("the request: {0}")]
    Dropped(#[from] Dropped),
    /// Nobody answered in time.
    #[error("no response in {0:?}")]
    TimedOut(Duration),
    /// No response will come: the subscription to the response topic is over.
    #[error("no response can come: {0}")]
    Unsubscribed(SubscribeError),
}

/// Sends requests and awaits their responses, many at once. Made by [`Client::requester`].
#[derive(Clone)]
pub struct Requester {
    client: Client,
    response_topic: Arc<str>,
    waiting: Arc<Mutex<Waiting>>,
    /// Ends the reading task with the last requester.
    _reader: Arc<AbortOnDrop>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    tellers: HashMap<u64, Teller<Result<Received, SubscribeError>>>,
    /// No response comes any more.
    ended: Option<SubscribeError>,
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// Subscribes to a response topic of its own: below what the server gave as response information (see
    /// [`Options::request_response_information`](crate::Options::request_response_information)), else below
    /// `forebay/response`.
    ///
    /// # Errors
    /// The subscription's; MQTT 3.1.1 has no response topics, and its servers' answers would carry none.
    pub async fn requester(&self) -> Result<Requester, SubscribeError> {
        let base = self.response_information().unwrap_or_else(|| "forebay/response".to_owned());
        let random = RandomState::new().hash_one(0u8);
        let response_topic: Arc<str> = format!("{}/{random:016x}", base.trim_end_matches('/')).into();
        let mut responses = self.subscribe(Subscribe::to(&*response_topic).qos(QoS::AtLeastOnce)).await?;
        let waiting: Arc<Mutex<Waiting>> = Arc::default();
        let of_reader = waiting.clone();
        let reader = tokio::spawn(async move {
            while let Some(response) = responses.recv().await {
                let number = response.correlation_data().and_then(|data| data.try_into().ok()).map(u64::from_be_bytes);
                let teller = number.and_then(|number| of_reader.lock().tellers.remove(&number));
                match teller {
                    Some(teller) => teller.tell(Ok(response)),
                    None => tracing::debug!("a response to no request, or too late"),
                }
            }
            // Who still waits learns that nothing will come.
            let mut waiting = of_reader.lock();
            waiting.ended = responses.ended();
            if let Some(why) = waiting.ended.clone() {
                waiting.tellers.drain().for_each(|(_, teller)| teller.tell(Err(why.clone())));
            }
        });
        let reader = Arc::new(AbortOnDrop(reader));
        Ok(Requester { client: self.clone(), response_topic, waiting, _reader: reader })
    }
}

impl Requester {
    /// Publishes a request, with response topic and correlation data, and awaits the response. Dropping the future gives the
    /// response up, not the request.
    ///
    /// # Errors
    /// The request was not taken, did not arrive, nobody answered in time, or no answer can come.
    pub async fn request(&self, message: Message, limit: Duration) -> Result<Received, RequestError> {
        let (teller, told) = pair();
        let number = {
            let mut waiting = self.waiting.lock();
            if let Some(why) = &waiting.ended {
                return Err(RequestError::Unsubscribed(why.clone()));
            }
            waiting.next += 1;
            let number = waiting.next;
            waiting.tellers.insert(number, teller);
            number
        };
        let _forget = Forget { waiting: &self.waiting, number };
        let mut message = message;
        let mut properties = message.properties.take().unwrap_or_default();
        properties.response_topic = Some(self.response_topic.to_string());
        properties.correlation_data = Some(Bytes::copy_from_slice(&number.to_be_bytes()));
        message.properties = Some(properties);
        let answered = async {
            self.client.publish(message).await?.await?;
            poll_fn(|cx| told.poll(cx)).await.map_err(RequestError::Unsubscribed)
        };
        tokio::time::timeout(limit, answered).await.map_err(|_| RequestError::TimedOut(limit))?
    }
}

/// Takes the request off the list, however its future ends.
struct Forget<'a> {
    waiting: &'a Mutex<Waiting>,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.waiting.lock().tellers.remove(&self.number);
    }
}

impl Received {
    /// The message that answers this one, if it asks for an answer: to its response topic, with its correlation data and
    /// QoS.
    #[must_use]
    pub fn response(&self, payload: impl Into<Bytes>) -> Option<Message> {
        let asked = self.properties();
        let message = Message::new(asked.response_topic?, payload).qos(self.qos);
        Some(message.properties(crate::Properties { correlation_data: asked.correlation_data, ..Default::default() }))
    }
}

impl std::fmt::Debug for Requester {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requester").field("response_topic", &self.response_topic).finish_non_exhaustive()
    }
}
