//! Rules: what a message says becomes another message, in the same commit, over a `kill -9` after the ack, for MQTT 3.1.1 and 5.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use forebay_tests::broker::{Broker, program};
use forebay_tests::packet::Version;
use forebay_tests::peer::{Came, Connect, Peer, Publish, publish, user};
use forebay_tests::scratch::Scratch;
use forebay_tests::sys::{Sys, assert_balanced, figure};

use crate::{crash, publisher, tcp};

const HOT: &str = r#"
[[rules]]
name = "hot"
filter = "sensors/+/temp"
where = "payload.t > 30.0"
topic = "q/alarm/{topic/2}"
payload = "{'t': payload.t, 'max': 30}"
"#;

fn with(text: &str) -> Broker {
    Broker::with_config(&format!("sys_interval = \"1s\"\n{text}"))
}

/// Makes a session that is subscribed to this, and leaves.
fn absent(broker: &Broker, client: &str, filter: &str) {
    let (mut subscriber, _) = Peer::open(&tcp(broker), &Connect::kept(Version::V5, client));
    assert_eq!(subscriber.subscribe(&[(filter, 2)]), [2]);
    subscriber.leave();
}

/// It comes and takes what there is.
fn taken(broker: &Broker, client: &str) -> Vec<Publish> {
    let (mut subscriber, present) = Peer::open(&tcp(broker), &Connect::kept(Version::V5, client));
    assert!(present, "the session is there");
    let messages = subscriber.drain(Duration::from_millis(500));
    subscriber.leave();
    messages
}

fn texts(messages: &[Publish]) -> Vec<(&str, &str)> {
    messages.iter().map(|m| (m.topic.as_str(), std::str::from_utf8(&m.payload).unwrap())).collect()
}

fn said<'m>(message: &'m Publish, name: &str) -> Option<&'m str> {
    message.properties.user.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// The ack says that both are on disk: the message, which nobody else has, and what comes of it.
#[test]
fn what_a_message_becomes_is_safe_with_its_ack() {
    for version in [Version::V4, Version::V5] {
        let mut broker = with(HOT);
        absent(&broker, "pager", "q/alarm/#");
        let mut peer = publisher(&broker, version);
        let properties = [user("unit", "C"), user("seq", "no number")].concat();
        peer.send(&publish(version, 1, 1, "sensors/7/temp", &properties, br#"{"t":31}"#));
        assert!(matches!(peer.answer(), Came::Ack(_, 1, 0, _)), "a rule has use for it");
        crash(&mut broker);
        let mut peer = publisher(&broker, version);
        let (reason, _) = peer.publish(2, "sensors/8/temp", br#"{"t":30}"#);
        assert_eq!(reason, if version == Version::V5 { 0x10 } else { 0 }, "nobody has use for it");
        assert_eq!(peer.publish(3, "sensors/9/temp", br#"{"t":30.5}"#).0, 0);
        assert_eq!(
            peer.publish(4, "sensors/9/humidity", br#"{"t":99}"#).0,
            if version == Version::V5 { 0x10 } else { 0 }
        );
        crash(&mut broker);
        let came = taken(&broker, "pager");
        let is = [("q/alarm/7", r#"{"t":31,"max":30}"#), ("q/alarm/9", r#"{"t":30.5,"max":30}"#)];
        assert_eq!(texts(&came), is);
        assert!(came.iter().all(|message| message.qos == 1 && said(message, "rule") == Some("hot")));
        assert_eq!(said(&came[0], "unit"), (version == Version::V5).then_some("C"));
        assert_eq!(said(&came[0], "seq"), None, "it is another message, with no number of its own");
        assert!(taken(&broker, "pager").is_empty(), "twice");
        assert_balanced(&Sys::open(&tcp(&broker)).figures());
    }
}

/// Exactly once through QoS 2, its subscriber as well.
#[test]
fn qos_2_makes_one() {
    let mut broker = with(HOT);
    absent(&broker, "pager", "q/alarm/#");
    absent(&broker, "archive", "sensors/#");
    let mut peer = publisher(&broker, Version::V5);
    let frame = publish(Version::V5, 2, 1, "sensors/7/temp", &[], br#"{"t":31}"#);
    peer.send(&frame);
    assert!(matches!(peer.answer(), Came::Ack(_, 1, 0, _)));
    crash(&mut broker);
    // It has not heard of the ack.
    let mut peer = publisher(&broker, Version::V5);
    let mut again = frame.clone();
    again[0] |= 8;
    peer.send(&again);
    assert!(matches!(peer.answer(), Came::Ack(_, 1, 0, _)));
    assert_eq!(texts(&taken(&broker, "pager")), [("q/alarm/7", r#"{"t":31,"max":30}"#)]);
    assert_eq!(texts(&taken(&broker, "archive")), [("sensors/7/temp", r#"{"t":31}"#)]);
}

#[test]
fn what_a_rule_has_made_is_not_given_to_rules() {
    let broker = with("[[rules]]\nname = \"copy\"\nfilter = \"#\"\ntopic = \"q/{topic}\"\nqos = 0\nretain = true\n");
    let mut peer = publisher(&broker, Version::V5);
    assert_eq!(peer.publish(1, "a", b"as it is").0, 0);
    let (mut reader, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "reader"));
    assert_eq!(reader.subscribe(&[("#", 1)]), [1]);
    let kept = reader.message();
    assert_eq!((kept.topic.as_str(), kept.payload.as_slice(), kept.retain), ("q/a", &b"as it is"[..], true));
    assert!(reader.drain(Duration::from_millis(300)).is_empty());
    // A will is a message as well.
    peer.leave();
    let will = Connect::clean(Version::V4, "w");
    let mut packet = will.packet();
    // Flags: a will at QoS 0; its topic and payload follow the client identifier.
    packet[9] |= 0x04;
    packet.extend([0, 1, b'd', 0, 1, b'x']);
    packet[1] += 6;
    let (mut dies, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "unused"));
    dies.send(&[0xE0, 0]);
    let mut dies = Peer::silent(&tcp(&broker), Version::V4).unwrap();
    dies.send(&packet);
    assert!(matches!(dies.answer(), Came::Connack(_, 0, _)));
    drop(dies);
    let came = [reader.message(), reader.message()].map(|message| message.topic);
    assert_eq!(came, ["d", "q/d"]);
}

/// What comes of it finds no room: then it goes nowhere either, and its publisher sends it again.
#[test]
fn a_message_is_refused_as_a_whole() {
    let broker = with(&format!("[queue]\nmax_messages = 1\npolicy = \"reject\"\n{HOT}"));
    absent(&broker, "pager", "q/alarm/#");
    let (mut archive, _) = Peer::open(&tcp(&broker), &Connect::kept(Version::V5, "archive"));
    assert_eq!(archive.subscribe(&[("sensors/#", 0)]), [0]);
    let mut peer = publisher(&broker, Version::V5);
    assert_eq!(peer.publish(1, "sensors/1/temp", br#"{"t":31}"#).0, 0);
    let (reason, properties) = peer.publish(2, "sensors/2/temp", br#"{"t":32}"#);
    assert_eq!((reason, properties.retry_after_ms().is_some()), (0x97, true));
    assert_eq!(peer.publish(3, "sensors/3/temp", br#"{"t":3}"#).0, 0, "nothing comes of this one");
    let topics: Vec<String> = archive.drain(Duration::from_millis(300)).into_iter().map(|m| m.topic).collect();
    assert_eq!(topics, ["sensors/1/temp", "sensors/3/temp"]);
    // In 3.1.1 the ack is withheld until there is room.
    let (mut old, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "old"));
    old.send(&publish(Version::V4, 1, 1, "sensors/4/temp", &[], br#"{"t":34}"#));
    Sys::open(&tcp(&broker)).until("it waits", |f| figure(f, "counters/publish_parked") == 1);
    assert_eq!(texts(&taken(&broker, "pager"))[0].0, "q/alarm/1");
    assert!(matches!(old.answer(), Came::Ack(_, 1, 0, _)));
    assert_eq!(archive.message().topic, "sensors/4/temp");
    let alarms = texts(&taken(&broker, "pager")).iter().map(|(topic, _)| (*topic).to_owned()).collect::<Vec<_>>();
    assert!(alarms.is_empty() || alarms == ["q/alarm/4"], "{alarms:?}");
    assert_balanced(&Sys::open(&tcp(&broker)).figures());
}

/// Kept before its publisher is told, at QoS 0 as well; those who subscribed have it.
#[test]
fn a_message_that_a_rule_cannot_be_applied_to_is_a_dead_letter() {
    let mut broker = with(&format!("[[dead_letters]]\nname = \"kept\"\nclients = \"publ*\"\n{HOT}"));
    absent(&broker, "archive", "sensors/#");
    let mut peer = publisher(&broker, Version::V5);
    peer.send(&publish(Version::V5, 0, 0, "sensors/0/temp", &[], b"cold"));
    assert_eq!(peer.publish(1, "sensors/1/temp", b"hot").0, 0);
    assert_eq!(peer.publish(2, "sensors/2/temp", br#"{"t":"hot"}"#).0, 0);
    crash(&mut broker);
    let (mut reader, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "reader"));
    assert_eq!(reader.subscribe(&[("$dead/kept/#", 1)]), [1]);
    let letters = reader.drain(Duration::from_millis(500));
    let topics: Vec<&str> = letters.iter().map(|letter| letter.topic.as_str()).collect();
    assert_eq!(topics, ["$dead/kept/sensors/0/temp", "$dead/kept/sensors/1/temp", "$dead/kept/sensors/2/temp"]);
    for (letter, payload, why) in [
        (&letters[1], &b"hot"[..], "`where`: the payload is no JSON"),
        (&letters[2], &br#"{"t":"hot"}"#[..], "`where`: "),
    ] {
        assert_eq!(letter.payload, payload);
        assert_eq!((said(letter, "dead-reason"), said(letter, "dead-from")), (Some("rule"), Some("hot")));
        assert!(said(letter, "dead-detail").is_some_and(|detail| detail.starts_with(why)), "{letter:?}");
    }
    let archived: Vec<String> = taken(&broker, "archive").into_iter().map(|message| message.topic).collect();
    assert_eq!(archived, ["sensors/1/temp", "sensors/2/temp"]);
}

#[test]
fn without_dead_letters_it_is_counted_and_said_now_and_then() {
    let broker = with(HOT);
    let mut peer = publisher(&broker, Version::V5);
    for id in 1..=20 {
        peer.publish(id, "sensors/1/temp", b"hot");
    }
    Sys::open(&tcp(&broker)).until("all failed", |f| figure(f, "counters/rules_failed") == 20);
    let lines = broker.log().lines().filter(|line| line.contains("the rule cannot be applied")).count();
    assert_eq!(lines, 1, "{}", broker.log());
}

const PER: &str = r#"
[[rules]]
name = "per"
filter = "sensors/+/temp"
topic = "q/mean/{topic/2}"
payload = "{'n': count(), 'mean': mean(payload.t), 'least': min(payload.t), 'most': max(payload.t), 'last': last(payload.t)}"
max_keys = 2
"#;

#[test]
fn a_window_closes_on_time() {
    let broker = with(&format!("{PER}window = \"1s\"\n"));
    let (mut reader, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "reader"));
    assert_eq!(reader.subscribe(&[("q/mean/#", 1)]), [1]);
    let mut peer = publisher(&broker, Version::V4);
    let mut sent = 0;
    for id in 1..=30_u16 {
        assert_eq!(peer.publish(id, "sensors/7/temp", format!("{{\"t\":{id}}}").as_bytes()).0, 0);
        sent += 1;
    }
    // They may lie in two windows: together they are all.
    let (mut counted, mut last) = (0, 0);
    while counted < sent {
        let message = reader.message();
        assert_eq!((message.topic.as_str(), message.qos, said(&message, "rule")), ("q/mean/7", 1, Some("per")));
        let of = |name: &str| number(&message.payload, name);
        assert!(of("n") > 0.0 && of("least") <= of("mean") && of("mean") <= of("most") && of("last") == of("most"));
        assert!(of("last") > f64::from(last), "in order");
        (counted, last) = (counted + of("n") as u64, of("last") as u32);
    }
    assert_eq!((counted, last), (30, 30));
    let figures = Sys::open(&tcp(&broker)).until("it has closed", |f| figure(f, "counters/rules_closed") == 30);
    assert_eq!(figure(&figures, "counters/rules_collected"), 30);
}

/// A number of a flat JSON object.
fn number(json: &[u8], name: &str) -> f64 {
    let text = std::str::from_utf8(json).unwrap();
    let (_, rest) = text.split_once(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{name}: {text}"));
    rest.split([',', '}']).next().unwrap().parse().unwrap()
}

/// What is in an open window is published when the broker stops, and is lost in a crash, alone.
#[test]
fn an_open_window_is_published_at_the_end() {
    for ends_well in [true, false] {
        let mut broker = with(&format!("{PER}window = \"24h\"\n"));
        absent(&broker, "archive", "q/#");
        let mut peer = publisher(&broker, Version::V5);
        for (id, sensor, t) in [(1, 7, 20), (2, 8, 5), (3, 7, 22)] {
            let payload = format!("{{\"t\":{t}}}");
            assert_eq!(peer.publish(id, &format!("sensors/{sensor}/temp"), payload.as_bytes()).0, 0);
        }
        // One topic too many, and what is no number.
        peer.publish(4, "sensors/9/temp", br#"{"t":1}"#);
        peer.publish(5, "sensors/7/temp", br#"{"t":"warm"}"#);
        Sys::open(&tcp(&broker)).until("all are in", |f| {
            (figure(f, "counters/rules_collected"), figure(f, "counters/rules_failed")) == (3, 2)
        });
        if ends_well {
            assert_eq!(broker.terminate(), Some(0));
            broker.run();
        } else {
            crash(&mut broker);
        }
        let came = taken(&broker, "archive");
        let is = [
            ("q/mean/7", r#"{"n":2,"mean":21.0,"least":20,"most":22,"last":22}"#),
            ("q/mean/8", r#"{"n":1,"mean":5.0,"least":5,"most":5,"last":5}"#),
        ];
        assert_eq!(texts(&came), if ends_well { &is[..] } else { &[] });
    }
}

/// A result that finds no room is tried again.
#[test]
fn a_result_waits_for_room() {
    let broker = with(&format!("[queue]\nmax_messages = 1\n{PER}window = \"3s\"\n"));
    absent(&broker, "archive", "q/#");
    let mut peer = publisher(&broker, Version::V5);
    peer.publish(1, "q/full", b"x");
    assert_eq!(peer.publish(2, "sensors/7/temp", br#"{"t":20}"#).0, 0);
    Sys::open(&tcp(&broker)).until("it has closed", |f| figure(f, "counters/rules_closed") == 1);
    assert_eq!(texts(&taken(&broker, "archive"))[0], ("q/full", "x"));
    let (mut subscriber, _) = Peer::open(&tcp(&broker), &Connect::kept(Version::V5, "archive"));
    let figures = Sys::open(&tcp(&broker)).until("it is published", |f| figure(f, "counters/rules_published") == 1);
    assert_eq!(figure(&figures, "counters/rules_dropped"), 0);
    subscriber.drain(Duration::from_millis(300));
}

#[test]
fn rule_test_says_what_would_come_of_samples() {
    let scratch = Scratch::new("rule");
    let config = scratch.path().join("f.toml");
    std::fs::write(&config, format!("{HOT}{PER}window = \"1h\"\n")).unwrap();
    let samples = "sensors/7/temp {\"t\": 31}\nsensors/7/temp {\"t\": 3}\n\nsensors/7/x 1\r\nsensors/7/temp no JSON\n";
    let run = |words: &str, samples: &str| {
        let mut command = Command::new(program());
        command.args(["rule", "test", "--config"]).arg(&config).args(words.split(' '));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(samples.as_bytes());
        let output = child.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    };
    let is = "publish  q/alarm/7 {\"t\":31,\"max\":30}\n\
              nothing  sensors/7/temp: `where` is false\n\
              nothing  sensors/7/x: its filter is sensors/+/temp\n\
              failed   sensors/7/temp: `where`: the payload is no JSON; it would be a dead letter\n";
    assert_eq!(run("hot", samples), (1, is.to_owned()));
    let is = "collect  sensors/7/temp: for q/mean/7\n\
              collect  sensors/7/temp: for q/mean/7\n\
              publish  q/mean/7 {\"n\":2,\"mean\":2.0,\"least\":1,\"most\":3,\"last\":3}\n";
    let file = scratch.path().join("samples");
    std::fs::write(&file, "sensors/7/temp {\"t\": 1}\nsensors/7/temp {\"t\": 3}").unwrap();
    assert_eq!(run(&format!("per {}", file.display()), ""), (0, is.to_owned()));
    let (code, why) = run("nope", "");
    assert_eq!(code, 2);
    assert!(why.contains("has no rule \"nope\"; it has hot, per"), "{why}");
}

/// The rule was wrong, and is right now: what it could not be applied to is given to it again, and to nobody else.
#[test]
fn a_replay_gives_a_dead_letter_to_its_rule_alone() {
    let scratch = Scratch::new("replay");
    let socket = scratch.path().join("admin.sock");
    let admin = format!("[admin]\nsocket = {socket:?}\n[[dead_letters]]\nname = \"kept\"\n");
    let mut broker = with(&format!("{admin}{HOT}"));
    absent(&broker, "pager", "q/alarm/#");
    absent(&broker, "archive", "sensors/#");
    assert_eq!(publisher(&broker, Version::V4).publish(1, "sensors/7/temp", br#"{"v":31}"#).0, 0);
    assert!(taken(&broker, "pager").is_empty());
    assert_eq!(texts(&taken(&broker, "archive")), [("sensors/7/temp", r#"{"v":31}"#)]);
    assert_eq!(broker.terminate(), Some(0));
    broker.configure(&format!("sys_interval = \"1s\"\n{admin}{}", HOT.replace("payload.t", "payload.v")));
    broker.run();
    let words = ["ctl", "--socket", socket.to_str().unwrap(), "dead", "replay", "kept"];
    let output = Command::new(program()).args(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    Sys::open(&tcp(&broker)).until("it is published", |f| figure(f, "counters/rules_published") == 1);
    assert_eq!(texts(&taken(&broker, "pager")), [("q/alarm/7", r#"{"t":31,"max":30}"#)]);
    assert!(taken(&broker, "archive").is_empty());
}
