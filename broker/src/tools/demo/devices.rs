//! The devices: each publishes the readings of a real year, in order, as fast as it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use forebay_client::{Client, Message, Outbox, QoS, Reconnect};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use super::broker::Broker;
use super::tally::{Tally, is_exactly_once};
use crate::tools::exit::Failure;

/// Hourly temperatures of Seattle in 2010, in °F; NOAA's record (tests/data/README.md).
const READINGS: &str = include_str!("../../../../tests/data/seattle-temps.csv");
/// TLS handshakes at once.
const HANDSHAKES: usize = 50;

pub(super) struct Devices {
    clients: Vec<Client>,
    /// Readings a second of all together.
    rate: Arc<AtomicU32>,
}

impl Devices {
    pub(super) async fn connect(broker: &Broker, count: u32, tally: &Arc<Tally>) -> Result<Self, Failure> {
        let rate = Arc::new(AtomicU32::new(0));
        let permits = Arc::new(Semaphore::new(HANDSHAKES));
        let reconnect = Reconnect { max: Duration::from_secs(2), ..Reconnect::default() };
        let options = broker.options()?.session_expiry(Duration::from_secs(3600)).reconnect(reconnect);
        let options = options.outbox(Outbox { max_messages: 10_000, ..Outbox::default() });
        let connecting: Vec<_> = (0..count)
            .map(|device| {
                let (options, permits) = (options.clone().client_id(format!("device-{device}")), permits.clone());
                tokio::spawn(async move {
                    let _permit = permits.acquire().await;
                    options.connect().await
                })
            })
            .collect();
        let mut clients = Vec::with_capacity(connecting.len());
        for (device, client) in (0u32..).zip(connecting) {
            let client = client.await.map_err(|error| Failure::failed(error.to_string()))??;
            tokio::spawn(publish(device, count, client.clone(), rate.clone(), tally.clone()));
            clients.push(client);
        }
        Ok(Self { clients, rate })
    }

    pub(super) fn set_rate(&self, rate: u32) {
        self.rate.store(rate, Relaxed);
    }

    pub(super) fn count(&self) -> usize {
        self.clients.len()
    }

    pub(super) fn connected(&self) -> usize {
        self.clients.iter().filter(|client| client.is_connected()).count()
    }

    /// Messages that the broker has acknowledged.
    pub(super) fn acked(&self) -> u64 {
        self.clients.iter().map(|client| client.stats().acked).sum()
    }

    /// Messages that devices hold.
    pub(super) fn waiting(&self) -> usize {
        self.clients.iter().map(|client| client.stats().outbox_messages).sum()
    }

    pub(super) fn asked_to_slow_down(&self) -> u64 {
        self.clients.iter().map(|client| client.stats().refused_for_now).sum()
    }

    pub(super) async fn disconnect(&self) {
        for client in &self.clients {
            client.disconnect().await;
        }
    }
}

/// One device, for as long as its client lives.
async fn publish(device: u32, devices: u32, client: Client, rate: Arc<AtomicU32>, tally: Arc<Tally>) {
    let topic: Arc<str> = format!("site/{device}/temperature").into();
    let qos = if is_exactly_once(device) { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
    // Each begins at another hour of the year.
    let start = device as usize * 17;
    let mut readings = READINGS.lines().skip(1).cycle().skip(start);
    let mut next = Instant::now() + Duration::from_millis(u64::from(device) * 1_000 / u64::from(devices));
    loop {
        sleep_until(next).await;
        let rate = rate.load(Relaxed);
        if rate == 0 {
            next = Instant::now() + Duration::from_millis(20);
            continue;
        }
        let pause = Duration::from_secs(1).mul_f64(f64::from(devices) / f64::from(rate));
        // A device looks at the rate often, however slow it is.
        if pause > Duration::from_millis(500) && next.elapsed().is_zero() {
            next += Duration::from_millis(100);
        }
        let Some(reading) = readings.next() else { return };
        let number = tally.publish(device);
        let message = Message::new(topic.clone(), format!("{device} {number} {reading}")).qos(qos);
        if client.publish(message).await.is_err() {
            return;
        }
        next = Instant::now().max(next + pause);
    }
}
