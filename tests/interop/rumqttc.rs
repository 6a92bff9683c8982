//! rumqttc, Rust's own client, in both protocols.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_tests::link;
use libtest_mimic::{Failed, Trial};
use rumqttc::{TlsConfiguration, Transport};

use crate::{Target, trial};

/// How long anything may take until the test gives up on it.
const LIMIT: Duration = Duration::from_secs(30);

type Scenario = fn(&Target, &str) -> Result<(), Failed>;

pub(crate) fn trials(target: &Arc<Target>) -> Vec<Trial> {
    let mut trials = Vec::new();
    let mut add = |name: String, run: Scenario| {
        let target = target.clone();
        let prefix = name.replace("::", "-");
        trials.push(trial(name, None, move || run(&target, &prefix)));
    };
    let scenarios: [(&str, Scenario, Scenario); 7] = [
        ("qos0", v311::qos0, v5::qos0),
        ("qos1", v311::qos1, v5::qos1),
        ("qos2", v311::qos2, v5::qos2),
        ("will", v311::will, v5::will),
        ("retained", v311::retained, v5::retained),
        ("resume", v311::resume, v5::resume),
        ("tls", v311::tls, v5::tls),
    ];
    for (scenario, v311, v5) in scenarios {
        add(format!("rumqttc::v311::{scenario}"), v311);
        add(format!("rumqttc::v5::{scenario}"), v5);
    }
    trials
}

/// What a scenario wants of a connection.
#[derive(Clone, Copy, Default)]
struct Wanted<'a> {
    kept: bool,
    tls: bool,
    will: Option<&'a str>,
}

fn transport(target: &Target) -> Transport {
    Transport::Tls(TlsConfiguration::Rustls(link::tls_config(&target.ca)))
}

fn until<T>(what: &str, mut step: impl FnMut() -> Result<Option<T>, Failed>) -> Result<T, Failed> {
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        if let Some(value) = step()? {
            return Ok(value);
        }
    }
    Err(format!("{what}: nothing came").into())
}

fn expect<T: PartialEq + std::fmt::Debug>(came: T, wanted: T) -> Result<(), Failed> {
    if came == wanted { Ok(()) } else { Err(format!("{came:?} came instead of {wanted:?}").into()) }
}

/// The same scenarios on two sets of types that have the same names. A client runs in its own thread's turn: nothing moves
/// but while it is polled.
macro_rules! scenarios {
    ($name:ident, $types:path, $packet:path, $options:expr, $topic:expr) => {
        mod $name {
            use packet::Packet;
            use $packet as packet;
            use $types::{Client, Connection, Event, LastWill, MqttOptions, QoS};

            use super::*;

            struct Device {
                client: Client,
                connection: Connection,
            }

            impl Device {
                fn open(target: &Target, id: &str, wanted: Wanted<'_>) -> Result<Self, Failed> {
                    let port = if wanted.tls { target.tls_port } else { target.port };
                    let mut options = MqttOptions::new(id, "localhost", port);
                    if wanted.tls {
                        options.set_transport(transport(target));
                    }
                    $options(&mut options, wanted);
                    let (client, connection) = Client::new(options, 100);
                    let mut device = Self { client, connection };
                    device.until("CONNACK", |packet| matches!(packet, Packet::ConnAck(_)).then_some(()))?;
                    Ok(device)
                }

                fn until<T>(&mut self, what: &str, is: impl Fn(&Packet) -> Option<T>) -> Result<T, Failed> {
                    until(what, || match self.connection.recv_timeout(Duration::from_millis(100)) {
                        Ok(Ok(Event::Incoming(packet))) => Ok(is(&packet)),
                        Ok(Ok(Event::Outgoing(_))) | Err(_) => Ok(None),
                        Ok(Err(why)) => Err(format!("{what}: {why}").into()),
                    })
                }

                fn subscribe(&mut self, filter: &str, qos: QoS) -> Result<(), Failed> {
                    self.client.subscribe(filter, qos)?;
                    self.until("SUBACK", |packet| matches!(packet, Packet::SubAck(_)).then_some(()))
                }

                /// Publishes, and waits until the exchange is over.
                fn publish(&mut self, topic: &str, qos: QoS, retain: bool, payload: &str) -> Result<(), Failed> {
                    self.client.publish(topic, qos, retain, payload.as_bytes().to_vec())?;
                    match qos {
                        QoS::AtMostOnce => until("PUBLISH", || {
                            let event = self.connection.recv_timeout(Duration::from_millis(100));
                            let sent = matches!(event, Ok(Ok(Event::Outgoing(rumqttc::Outgoing::Publish(_)))));
                            Ok(sent.then_some(()))
                        }),
                        QoS::AtLeastOnce => {
                            self.until("PUBACK", |packet| matches!(packet, Packet::PubAck(_)).then_some(()))
                        }
                        QoS::ExactlyOnce => {
                            self.until("PUBCOMP", |packet| matches!(packet, Packet::PubComp(_)).then_some(()))
                        }
                    }
                }

                /// The next message: topic, payload, QoS, RETAIN.
                fn message(&mut self) -> Result<(String, String, u8, bool), Failed> {
                    self.until("a message", |packet| match packet {
                        Packet::Publish(p) => {
                            let payload = String::from_utf8_lossy(&p.payload).into_owned();
                            Some(($topic(p), payload, p.qos as u8, p.retain))
                        }
                        _ => None,
                    })
                }

                fn leave(mut self) -> Result<(), Failed> {
                    self.client.disconnect()?;
                    until("the end", || Ok(matches!(self.connection.recv(), Ok(Err(_)) | Err(_)).then_some(())))
                }
            }

            fn messages(target: &Target, prefix: &str, qos: QoS, tls: bool) -> Result<(), Failed> {
                let wanted = Wanted { tls, ..Wanted::default() };
                let topic = format!("{prefix}/é");
                let mut subscriber = Device::open(target, &format!("{prefix}-sub"), wanted)?;
                subscriber.subscribe(&format!("{prefix}/#"), qos)?;
                let mut publisher = Device::open(target, &format!("{prefix}-pub"), wanted)?;
                for n in 0..20 {
                    publisher.publish(&topic, qos, false, &n.to_string())?;
                }
                for n in 0..20 {
                    expect(subscriber.message()?, (topic.clone(), n.to_string(), qos as u8, false))?;
                }
                // Its acks go out, and the broker has no objection.
                subscriber.leave()?;
                publisher.leave()
            }

            pub(super) fn qos0(target: &Target, prefix: &str) -> Result<(), Failed> {
                messages(target, prefix, QoS::AtMostOnce, false)
            }

            pub(super) fn qos1(target: &Target, prefix: &str) -> Result<(), Failed> {
                messages(target, prefix, QoS::AtLeastOnce, false)
            }

            pub(super) fn qos2(target: &Target, prefix: &str) -> Result<(), Failed> {
                messages(target, prefix, QoS::ExactlyOnce, false)
            }

            pub(super) fn tls(target: &Target, prefix: &str) -> Result<(), Failed> {
                messages(target, prefix, QoS::ExactlyOnce, true)
            }

            pub(super) fn will(target: &Target, prefix: &str) -> Result<(), Failed> {
                let topic = format!("{prefix}/gone");
                let mut watcher = Device::open(target, &format!("{prefix}-watcher"), Wanted::default())?;
                watcher.subscribe(&topic, QoS::AtLeastOnce)?;
                let wanted = Wanted { will: Some(&topic), ..Wanted::default() };
                // One that says goodbye leaves no will; one whose connection breaks does.
                Device::open(target, &format!("{prefix}-polite"), wanted)?.leave()?;
                drop(Device::open(target, &format!("{prefix}-dying"), wanted)?);
                expect(watcher.message()?, (topic.clone(), format!("{prefix}-dying"), 1, false))
            }

            pub(super) fn retained(target: &Target, prefix: &str) -> Result<(), Failed> {
                let topic = format!("{prefix}/state");
                let mut publisher = Device::open(target, &format!("{prefix}-pub"), Wanted::default())?;
                publisher.publish(&topic, QoS::AtLeastOnce, true, "first")?;
                publisher.publish(&topic, QoS::AtLeastOnce, true, "second")?;
                let mut late = Device::open(target, &format!("{prefix}-late"), Wanted::default())?;
                late.subscribe(&topic, QoS::AtLeastOnce)?;
                expect(late.message()?, (topic.clone(), "second".to_owned(), 1, true))?;
                publisher.publish(&topic, QoS::AtLeastOnce, true, "")?;
                expect(late.message()?, (topic.clone(), String::new(), 1, false))?;
                let mut later = Device::open(target, &format!("{prefix}-later"), Wanted::default())?;
                later.subscribe(&topic, QoS::AtLeastOnce)?;
                publisher.publish(&topic, QoS::AtLeastOnce, false, "live")?;
                expect(later.message()?, (topic, "live".to_owned(), 1, false))
            }

            pub(super) fn resume(target: &Target, prefix: &str) -> Result<(), Failed> {
                let (topic, id) = (format!("{prefix}/while-away"), format!("{prefix}-sub"));
                let wanted = Wanted { kept: true, ..Wanted::default() };
                let mut subscriber = Device::open(target, &id, wanted)?;
                subscriber.subscribe(&topic, QoS::ExactlyOnce)?;
                subscriber.leave()?;
                let mut publisher = Device::open(target, &format!("{prefix}-pub"), Wanted::default())?;
                for n in 0..10 {
                    publisher.publish(&topic, QoS::ExactlyOnce, false, &n.to_string())?;
                }
                let mut subscriber = Device::open(target, &id, wanted)?;
                for n in 0..10 {
                    expect(subscriber.message()?, (topic.clone(), n.to_string(), 2, false))?;
                }
                subscriber.leave()
            }
        }
    };
}

/// Rust's name of a scenario's types.
mod types_of_5 {
    pub(super) use rumqttc::v5::mqttbytes::QoS;
    pub(super) use rumqttc::v5::mqttbytes::v5::LastWill;
    pub(super) use rumqttc::v5::{Client, Connection, Event, MqttOptions};
}

scenarios!(
    v311,
    rumqttc,
    rumqttc,
    |options: &mut MqttOptions, wanted: Wanted<'_>| {
        options.set_clean_session(!wanted.kept);
        if let Some(topic) = wanted.will {
            let id = options.client_id();
            options.set_last_will(LastWill::new(topic, id, QoS::AtLeastOnce, false));
        }
    },
    |p: &packet::Publish| p.topic.clone()
);

scenarios!(
    v5,
    super::types_of_5,
    rumqttc::v5::mqttbytes::v5,
    |options: &mut MqttOptions, wanted: Wanted<'_>| {
        options.set_clean_start(!wanted.kept);
        if wanted.kept {
            options.set_session_expiry_interval(Some(3600));
        }
        if let Some(topic) = wanted.will {
            let id = options.client_id();
            options.set_last_will(LastWill::new(topic, id, QoS::AtLeastOnce, false, None));
        }
    },
    |p: &packet::Publish| String::from_utf8_lossy(&p.topic).into_owned()
);
