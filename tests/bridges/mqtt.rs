//! What a bridge to an MQTT broker carries, and how it says how it is.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use forebay_client::{Message, Properties, QoS, Version};
use forebay_tests::absence::of_program;
use forebay_tests::broker::{Broker, Kind};

use crate::{Case, block_on, bridge, client, gateway, options, soon, state, subscribed};

pub(crate) fn trials() -> Vec<Case> {
    let no_mosquitto = of_program("mosquitto");
    vec![
        ("carries_up_and_down_to_forebay", None, || block_on(both_ways(Kind::Forebay, "5"))),
        ("carries_up_and_down_to_forebay_by_3_1_1", None, || block_on(both_ways(Kind::Forebay, "3.1.1"))),
        ("carries_up_and_down_to_mosquitto", no_mosquitto.clone(), || block_on(both_ways(Kind::Mosquitto, "5"))),
        ("carries_up_and_down_to_mosquitto_by_3_1_1", no_mosquitto, || block_on(both_ways(Kind::Mosquitto, "3.1.1"))),
        ("properties_and_origin_are_carried", None, || block_on(properties())),
        ("a_payload_is_wrapped", None, || block_on(wrapped())),
        ("the_bytes_of_a_day_survive_a_restart", None, || block_on(budget())),
        ("a_loop_of_three_brokers_ends", None, || block_on(looped())),
        ("tls_is_verified", None, || block_on(tls())),
        ("the_state_says_how_it_is", None, || block_on(states())),
        ("what_cannot_be_mapped_is_a_dead_letter", None, || block_on(dead_letters())),
        ("the_example_works_when_it_is_copied", None, || block_on(example())),
        ("an_outbox_that_was_never_finished_is_made_anew", None, || block_on(unfinished())),
        ("a_full_queue_refuses_and_nothing_is_lost", None, || block_on(full())),
    ]
}

async fn text(of: &mut forebay_client::Subscription) -> (String, String, QoS, bool) {
    let message = soon(of.recv()).await.expect("a message");
    let payload = String::from_utf8(message.payload().to_vec()).unwrap();
    (message.topic().to_owned(), payload, message.qos(), message.retain())
}

/// Remapped topics, every QoS, retained messages and their removal, in both directions.
async fn both_ways(kind: Kind, version: &str) {
    let upstream = Broker::start_as(kind);
    let rules = "[[bridges.out]]\nfilter = 't/#'\ntopic = 'up/{topic/2..}'\nqos = 2\n\
                 [[bridges.in]]\nfilter = 'down/#'\ntopic = 'from/{bridge}/{topic/2..}'\nqos = 2";
    let mut broker = gateway(&bridge(upstream.port(), &format!("version = '{version}'"), rules));
    broker.run();
    assert_eq!(state(broker.port(), "connected").await, "connected");
    let (here, there) = (client(broker.port(), "here").await, client(upstream.port(), "there").await);
    let (mut down, mut up) = (subscribed(&here, "from/#").await, subscribed(&there, "up/#").await);
    for (n, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().enumerate() {
        let message = |topic: &str| Message::new(format!("{topic}/{n}/é"), format!("{n}")).qos(qos);
        soon(soon(here.publish(message("t"))).await.unwrap()).await.unwrap();
        assert_eq!(text(&mut up).await, (format!("up/{n}/é"), format!("{n}"), qos, false));
        soon(soon(there.publish(message("down"))).await.unwrap()).await.unwrap();
        assert_eq!(text(&mut down).await, (format!("from/up/{n}/é"), format!("{n}"), qos, false));
    }
    for payload in ["on", ""] {
        let message = |topic: &str| Message::new(topic, payload).qos(QoS::AtLeastOnce).retain(true);
        soon(soon(here.publish(message("t/lamp"))).await.unwrap()).await.unwrap();
        assert_eq!(text(&mut up).await, ("up/lamp".into(), payload.into(), QoS::AtLeastOnce, true));
        soon(soon(there.publish(message("down/lamp"))).await.unwrap()).await.unwrap();
        let came = text(&mut down).await;
        assert_eq!((came.0.as_str(), came.1.as_str(), came.2), ("from/up/lamp", payload, QoS::AtLeastOnce));
        // Only MQTT 5 says that a message is to be retained here as well.
        assert_eq!(came.3, version == "5");
        let later = client(upstream.port(), "later").await;
        let mut kept = subscribed(&later, "up/lamp").await;
        soon(soon(later.publish(Message::new("up/lamp", "mark").qos(QoS::AtLeastOnce))).await.unwrap()).await.unwrap();
        let first = if payload.is_empty() { "mark" } else { payload };
        assert_eq!(text(&mut kept).await.1, first, "it is retained there until it is removed");
        // The mark came to `up` as well.
        assert_eq!(text(&mut up).await.1, "mark");
    }
    assert!(up.try_recv().is_none() && down.try_recv().is_none());
}

async fn properties() {
    let upstream = Broker::start_as(Kind::Forebay);
    let mut broker = gateway(&bridge(upstream.port(), "", "[[bridges.out]]\nfilter = '#'\ntopic = 'up/{user.line}'"));
    broker.run();
    let there = client(upstream.port(), "there").await;
    let mut up = subscribed(&there, "up/#").await;
    state(broker.port(), "connected").await;
    let here = client(broker.port(), "here").await;
    let sent = Properties {
        payload_is_utf8: true,
        content_type: Some("text/plain".into()),
        response_topic: Some("answers/7".into()),
        correlation_data: Some(bytes::Bytes::from_static(b"\x00\x01")),
        user: vec![("line".into(), "3".into()), ("line".into(), "4".into())],
    };
    let mut places = Vec::new();
    for _ in 0..3 {
        let message = Message::new("a/b", "x").qos(QoS::AtLeastOnce).expires_after(Duration::from_secs(500));
        soon(soon(here.publish(message.properties(sent.clone()))).await.unwrap()).await.unwrap();
        let came = soon(up.recv()).await.unwrap();
        assert_eq!(came.topic(), "up/3");
        let left = came.expiry_s().expect("an expiry interval");
        // A client that is asked while it writes rounds up once more; there are two on the way.
        assert!((1..=502).contains(&left), "{left} s of 500 are left");
        let mut properties = came.properties();
        let mut own: BTreeMap<String, String> = properties.user.split_off(2).into_iter().collect();
        assert_eq!(properties, sent);
        places.push(own.remove("seq").unwrap().parse::<u64>().unwrap());
        let gateway = own.remove("via").unwrap();
        assert_eq!(own.remove("origin").unwrap(), format!("{gateway}.up"));
        assert!(own.remove("epoch").unwrap().parse::<u64>().unwrap() > 1_700_000_000);
        assert_eq!(own, BTreeMap::new());
    }
    assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
}

/// As JSON and as a CloudEvent, with the same identity as beside it, and the trace where it was said.
async fn wrapped() {
    let upstream = Broker::start_as(Kind::Forebay);
    let rules = "[[bridges.out]]\nfilter = 'j/#'\npayload = 'json'\n\
                 [[bridges.out]]\nfilter = 'e/#'\npayload = 'cloudevents'\nevent_type = 'reading.{json/kind}'\n\
                 [[bridges.out]]\nfilter = '#'";
    let mut broker = gateway(&bridge(upstream.port(), "delivery = 'exactly-once'", rules));
    broker.run();
    let there = client(upstream.port(), "there").await;
    let mut up = subscribed(&there, "#").await;
    state(broker.port(), "connected").await;
    let here = client(broker.port(), "here").await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let traced = [("traceparent", trace), ("tracestate", "a=1")].map(|(name, value)| (name.into(), value.into()));
    let sent = Properties { user: traced.to_vec(), ..Properties::default() };
    for topic in ["j/1", "e/1", "raw"] {
        let message = Message::new(topic, r#"{"kind":"t","v":1.50}"#).qos(QoS::ExactlyOnce).properties(sent.clone());
        soon(soon(here.publish(message)).await.unwrap()).await.unwrap();
        let came = soon(up.recv()).await.unwrap();
        let properties = came.properties();
        let user = |wanted| properties.user.iter().find(|(name, _)| name == wanted).map(|(_, value)| &**value).unwrap();
        assert_eq!((came.topic(), user("traceparent"), user("tracestate")), (topic, trace, "a=1"));
        let payload = String::from_utf8(came.payload().to_vec()).unwrap();
        let value: serde_json::Value = serde_json::from_str(&payload).unwrap();
        let content_type = properties.content_type.as_deref();
        match topic {
            "j/1" => {
                assert!(payload.contains(r#""payload":{"kind":"t","v":1.50}"#), "{payload}");
                assert_eq!((&value["topic"], content_type), (&topic.into(), Some("application/json")));
                assert_eq!(
                    (value["origin"].as_str(), value["seq"].to_string().as_str()),
                    (Some(user("origin")), user("seq"))
                );
                assert_eq!(value["user_properties"]["tracestate"][0], "a=1");
            }
            "e/1" => {
                assert!(payload.contains(r#""data":{"kind":"t","v":1.50}"#), "{payload}");
                assert_eq!(content_type, Some("application/cloudevents+json; charset=UTF-8"));
                assert_eq!(value["id"], [user("origin"), user("epoch"), user("seq")].join("."));
                assert_eq!((&value["type"], &value["traceparent"]), (&"reading.t".into(), &trace.into()));
            }
            _ => assert_eq!((payload.as_str(), content_type), (r#"{"kind":"t","v":1.50}"#, None)),
        }
        assert_eq!(value.get("time").is_some(), topic != "raw");
    }
}

/// What was used of the day's bytes is used after `kill -9`, too.
async fn budget() {
    let upstream = Broker::start_as(Kind::Forebay);
    // It is about noon there: the day does not end meanwhile.
    let hour = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / 3_600 % 24;
    let offset = if hour > 12 { format!("-{:02}:00", hour - 12) } else { format!("+{:02}:00", 12 - hour) };
    let keys = format!("bytes_per_day = '100B'\nutc_offset = '{offset}'");
    let mut broker = gateway(&bridge(upstream.port(), &keys, "[[bridges.out]]\nfilter = 't/#'"));
    broker.run();
    let there = client(upstream.port(), "there").await;
    let mut up = subscribed(&there, "t/#").await;
    state(broker.port(), "connected").await;
    let here = client(broker.port(), "here").await;
    for n in 0..3 {
        let message = Message::new("t/1", format!("{n:040}")).qos(QoS::AtLeastOnce);
        soon(soon(here.publish(message)).await.unwrap()).await.unwrap();
    }
    for n in 0..2 {
        assert_eq!(text(&mut up).await.1, format!("{n:040}"));
    }
    let why = "blocked: the bytes of the day are used up, until ";
    let until = state(broker.port(), why).await;
    assert!(until.ends_with(&format!("T00:00:00{}", if offset == "+00:00" { "Z" } else { &offset })), "{until}");
    broker.kill();
    broker.run();
    assert_eq!(state(broker.port(), why).await, until);
    let here = client(broker.port(), "here").await;
    let mut used = subscribed(&here, "$SYS/broker/bridge/up/budget used bytes").await;
    let used: u64 = text(&mut used).await.1.parse().unwrap();
    assert!((86..=88).contains(&used), "{used}");
    assert!(up.try_recv().is_none());
}

/// Each carries everything to the next: without a guard the first message would go round for ever.
async fn looped() {
    let mut brokers: Vec<Broker> = (0..3).map(|_| Broker::prepare_as(Kind::Forebay, None)).collect();
    let ports: Vec<u16> = brokers.iter().map(Broker::port).collect();
    for (n, broker) in brokers.iter_mut().enumerate() {
        broker.plain_only();
        let rules = "[[bridges.out]]\nfilter = 't/#'\n[[bridges.in]]\nfilter = 't/#'";
        broker.configure(&format!("sys_interval = '1s'\n{}", bridge(ports[(n + 1) % 3], "", rules)));
        broker.run();
    }
    for port in &ports {
        state(*port, "connected").await;
    }
    let mut all = Vec::new();
    for port in &ports {
        let client = client(*port, "watch").await;
        all.push((subscribed(&client, "t/#").await, subscribed(&client, "$SYS/broker/bridge/up/looped").await, client));
    }
    for n in 0..20 {
        let message = Message::new("t/x", format!("{n}")).qos(QoS::AtLeastOnce);
        soon(soon(all[n % 3].2.publish(message)).await.unwrap()).await.unwrap();
    }
    // The guard has met what came round, and from then on nothing moves any more.
    let mut quiet = 0;
    let mut seen = vec![0u32; 3];
    let mut met = 0;
    while quiet < 15 || met == 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = seen.clone();
        for (at, (messages, looped, _)) in all.iter_mut().enumerate() {
            while messages.try_recv().is_some() {
                seen[at] += 1;
            }
            while let Some(figure) = looped.try_recv() {
                met = met.max(String::from_utf8(figure.payload().to_vec()).unwrap().parse::<u64>().unwrap());
            }
        }
        quiet = if seen == before { quiet + 1 } else { 0 };
        assert!(seen.iter().all(|count| *count <= 20 * 6), "it goes round and round: {seen:?}");
    }
    assert!(seen.iter().all(|count| *count >= 20), "everybody has all: {seen:?}");
}

async fn tls() {
    let upstream = Broker::start_as(Kind::Forebay);
    let url = format!("mqtts://localhost:{}", upstream.tls_port());
    let config =
        |more: &str| format!("[[bridges]]\nname = 'up'\nurl = '{url}'\n{more}\n[[bridges.out]]\nfilter = 't/#'\n");
    let mut broker = gateway(&config(&format!("ca_file = '{}'", upstream.ca().display())));
    broker.run();
    assert_eq!(state(broker.port(), "connected").await, "connected");
    let there = client(upstream.port(), "there").await;
    let mut up = subscribed(&there, "t/#").await;
    let here = client(broker.port(), "here").await;
    soon(soon(here.publish(Message::new("t/1", "x").qos(QoS::AtLeastOnce))).await.unwrap()).await.unwrap();
    assert_eq!(text(&mut up).await.0, "t/1");
    // Somebody whom nobody vouches for.
    let mut broker = gateway(&config(""));
    broker.run();
    let why = state(broker.port(), "backing off").await;
    assert!(why.contains("TLS"), "{why}");
}

/// Away, there, away again; a message that waits meanwhile arrives.
async fn states() {
    let mut upstream = Broker::prepare_as(Kind::Forebay, None);
    upstream.plain_only();
    let rules = "[[bridges.out]]\nfilter = 't/#'\nqos = 1";
    let mut broker = gateway(&bridge(upstream.port(), "stalled_after = '1s'", rules));
    broker.run();
    let why = state(broker.port(), "backing off").await;
    assert!(why.contains("refused") && why.contains(&upstream.port().to_string()), "{why}");
    let here = client(broker.port(), "here").await;
    let message = |n: u32| Message::new("t/1", format!("{n}")).qos(QoS::AtLeastOnce);
    soon(soon(here.publish(message(1))).await.unwrap()).await.unwrap();
    upstream.run();
    assert_eq!(state(broker.port(), "connected").await, "connected");
    let there = client(upstream.port(), "there").await;
    let mut up = subscribed(&there, "t/#").await;
    soon(soon(here.publish(message(2))).await.unwrap()).await.unwrap();
    // The first one may have arrived before anybody was there to have it.
    let first = text(&mut up).await.1;
    if first == "1" {
        assert_eq!(text(&mut up).await.1, "2");
    } else {
        assert_eq!(first, "2");
    }
    // Stopped: its socket takes what is sent, and nobody answers.
    let stop = |signal: &str| {
        let pid = upstream.pid().unwrap().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    };
    stop("-STOP");
    soon(soon(here.publish(message(3))).await.unwrap()).await.unwrap();
    let why = state(broker.port(), "blocked").await;
    assert!(why.starts_with("blocked: nothing was confirmed for 1 s"), "{why}");
    stop("-CONT");
    assert_eq!(state(broker.port(), "connected").await, "connected");
    assert_eq!(text(&mut up).await.1, "3");
}

async fn dead_letters() {
    let upstream = Broker::start_as(Kind::Forebay);
    let rules = "[[bridges.out]]\nfilter = 't/#'\ntopic = 'up/{json.site}'";
    let mut broker = gateway(&bridge(upstream.port(), "dead_letters = 5", rules));
    broker.run();
    state(broker.port(), "connected").await;
    let there = client(upstream.port(), "there").await;
    let mut up = subscribed(&there, "up/#").await;
    let here = client(broker.port(), "here").await;
    let mut dead = subscribed(&here, "$dead/up/#").await;
    for payload in ["no JSON", r#"{"site":"+"}"#, r#"{"site":"seven"}"#] {
        soon(soon(here.publish(Message::new("t/1", payload).qos(QoS::AtLeastOnce))).await.unwrap()).await.unwrap();
    }
    // They do not stop the one behind them.
    assert_eq!(text(&mut up).await, ("up/seven".into(), r#"{"site":"seven"}"#.into(), QoS::AtLeastOnce, false));
    for (payload, reason) in [("no JSON", "field site in a JSON payload"), (r#"{"site":"+"}"#, "wildcard")] {
        let letter = soon(dead.recv()).await.unwrap();
        assert_eq!((letter.topic(), letter.payload()), ("$dead/up/t/1", payload.as_bytes()));
        let properties = letter.properties();
        let value = |wanted| properties.user.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        assert_eq!((value("dead-reason"), value("dead-from")), (Some("refused"), Some("up")));
        let why = value("dead-detail").expect("what it lacks");
        assert!(why.contains(reason), "{why}");
    }
    let mut figures = subscribed(&here, "$SYS/broker/bridge/up/dead letters").await;
    while text(&mut figures).await.1 != "2" {}
}

/// A bridge's queue has limits of its own: its publisher is refused, whoever does not go through it is not.
async fn full() {
    let mut upstream = Broker::prepare_as(Kind::Forebay, None);
    upstream.plain_only();
    let rules = "[bridges.queue]\nmax_messages = 10\n[[bridges.out]]\nfilter = 't/#'";
    let mut broker = gateway(&bridge(upstream.port(), "", rules));
    broker.run();
    state(broker.port(), "backing off").await;
    let here = client(broker.port(), "here").await;
    let mut tickets = Vec::new();
    for n in 0..30 {
        let message = Message::new("t/1", format!("{n}")).qos(QoS::AtLeastOnce);
        tickets.push(soon(here.publish(message)).await.unwrap());
    }
    for ticket in tickets.drain(..10) {
        soon(ticket).await.unwrap();
    }
    soon(soon(here.publish(Message::new("other", "x"))).await.unwrap()).await.unwrap();
    assert!(tickets.iter_mut().all(|ticket| ticket.try_outcome().is_none()), "the others wait");
    upstream.run();
    let there = soon(options(upstream.port(), "there").version(Version::V5).connect()).await.unwrap();
    let _up = subscribed(&there, "t/#").await;
    for ticket in tickets {
        soon(ticket).await.unwrap();
    }
}

async fn example() {
    let upstream = Broker::start_as(Kind::Forebay);
    let mut broker = gateway(&crate::example("bridge-mqtt.toml", "127.0.0.1:1884", upstream.port()));
    broker.run();
    let (here, there) = (client(broker.port(), "here").await, client(upstream.port(), "there").await);
    let (mut down, mut up) = (subscribed(&here, "command/#").await, subscribed(&there, "gateway/#").await);
    let message = |topic: &str| Message::new(topic, "x").qos(QoS::ExactlyOnce);
    soon(soon(here.publish(message("site/7/temperature"))).await.unwrap()).await.unwrap();
    assert_eq!(text(&mut up).await, ("gateway/site/7/temperature".into(), "x".into(), QoS::ExactlyOnce, false));
    soon(soon(there.publish(message("command/7"))).await.unwrap()).await.unwrap();
    assert_eq!(text(&mut down).await, ("command/7".into(), "x".into(), QoS::ExactlyOnce, false));
}

/// As a kill at the first start leaves it. What is published meanwhile is acknowledged and arrives.
async fn unfinished() {
    let upstream = Broker::start_as(Kind::Forebay);
    let rules = "[[bridges.out]]\nfilter = 't/#'";
    let mut broker = gateway(&bridge(upstream.port(), "delivery = 'exactly-once'", rules));
    let folder = broker.data().join("bridges");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("up.outbox"), [0; 4096]).unwrap();
    broker.run();
    let (here, there) = (client(broker.port(), "here").await, client(upstream.port(), "there").await);
    let mut up = subscribed(&there, "t/#").await;
    soon(soon(here.publish(Message::new("t/1", "x").qos(QoS::ExactlyOnce))).await.unwrap()).await.unwrap();
    assert_eq!(text(&mut up).await, ("t/1".into(), "x".into(), QoS::ExactlyOnce, false));
    assert!(std::fs::read(folder.join("up.outbox")).unwrap().starts_with(b"redb"), "the file is an outbox now");
}
