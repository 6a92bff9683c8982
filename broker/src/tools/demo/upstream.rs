//! The upstream: a consumer with a persistent session, which takes what it is sent at its own pace, or is away.

use std::sync::Arc;
use std::time::Duration;

use forebay_client::{Client, Options, QoS, Received, Reconnect, Subscribe, Subscription};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::broker::Broker;
use super::story::Upstream as Mood;
use super::tally::Tally;
use crate::tools::exit::Failure;

/// What it has been sent and has not acknowledged, at most.
const UNACKNOWLEDGED: u16 = 200;

pub(super) struct Upstream {
    mood: Arc<Mutex<Mood>>,
    options: Options,
    task: tokio::task::JoinHandle<()>,
}

impl Upstream {
    pub(super) async fn start(broker: &Broker, tally: Arc<Tally>) -> Result<Self, Failure> {
        let reconnect = Reconnect { max: Duration::from_secs(1), ..Reconnect::default() };
        let options = broker.options()?.receive_maximum(UNACKNOWLEDGED).reconnect(reconnect);
        let session = options.clone().client_id("upstream").session_expiry(Duration::from_secs(3600));
        let mood = Arc::new(Mutex::new(Mood::Quick));
        let (client, messages) = subscribe(&session).await?;
        let task = tokio::spawn(consume(session, client, messages, mood.clone(), tally));
        Ok(Self { mood, options, task })
    }

    pub(super) fn set_mood(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    pub(super) fn state(&self) -> &'static str {
        match *self.mood.lock() {
            Mood::Quick => "quick",
            Mood::Slow(_) => "at its own pace",
            Mood::Away => "away",
        }
    }

    /// What the broker says of itself.
    pub(super) async fn ledger(&self) -> Vec<(String, String)> {
        let Ok(client) = self.options.clone().connect().await else { return Vec::new() };
        let Ok(mut figures) = client.subscribe("$SYS/broker/ledger/#").await else { return Vec::new() };
        let mut lines: Vec<(String, String)> = Vec::new();
        // They are retained, and said again each second: what comes for the second time is newer than the last message.
        let _ = timeout(Duration::from_millis(2_500), async {
            while let Some(figure) = figures.recv().await {
                let name = figure.topic().trim_start_matches("$SYS/broker/ledger/").to_owned();
                let value = String::from_utf8_lossy(figure.payload()).into_owned();
                match lines.iter_mut().find(|(known, _)| *known == name) {
                    Some(line) => line.1 = value,
                    None => lines.push((name, value)),
                }
            }
        })
        .await;
        client.disconnect().await;
        lines.retain(|(name, value)| value != "0" || !name.contains('/'));
        lines
    }

    pub(super) async fn disconnect(self) {
        self.task.abort();
        // Its handles are dropped with it, and that ends the client.
        let _ = self.task.await;
    }
}

async fn subscribe(session: &Options) -> Result<(Client, Subscription), Failure> {
    let client = session.clone().connect().await?;
    let what = Subscribe::to("site/+/temperature").qos(QoS::ExactlyOnce).manual_ack();
    let messages = client.subscribe(what).await.map_err(|error| Failure::failed(error.to_string()))?;
    Ok((client, messages))
}

async fn consume(
    session: Options,
    mut client: Client,
    mut messages: Subscription,
    mood: Arc<Mutex<Mood>>,
    tally: Arc<Tally>,
) {
    let mut next = Instant::now();
    loop {
        let now = *mood.lock();
        match now {
            Mood::Away => {
                client.disconnect().await;
                drop(messages);
                while *mood.lock() == Mood::Away {
                    sleep(Duration::from_millis(50)).await;
                }
                (client, messages) = loop {
                    match subscribe(&session).await {
                        Ok(again) => break again,
                        Err(_) => sleep(Duration::from_millis(200)).await,
                    }
                };
            }
            Mood::Slow(rate) => {
                sleep_until(next).await;
                take(&client, &mut messages, &tally).await;
                next = next.max(Instant::now() - Duration::from_millis(50)) + Duration::from_secs(1) / rate.max(1);
            }
            Mood::Quick => take(&client, &mut messages, &tally).await,
        }
    }
}

/// One message: counted, then acknowledged.
async fn take(client: &Client, messages: &mut Subscription, tally: &Tally) {
    // Not for ever: the mood may change.
    if let Ok(Some(message)) = timeout(Duration::from_millis(100), messages.recv()).await {
        if let Some((device, number)) = read(&message) {
            tally.arrive(device, number);
        }
        client.ack(&message);
    }
}

fn read(message: &Received) -> Option<(u32, u64)> {
    let text = std::str::from_utf8(message.payload()).ok()?;
    let mut words = text.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}
