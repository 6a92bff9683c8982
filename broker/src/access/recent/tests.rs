#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;

use super::*;
use crate::access::AclFile;
use crate::access::principal::who;

const PUBLISH: Kind = Kind::Publish { qos: 1, retain: false };
const RETAIN: Kind = Kind::Publish { qos: 0, retain: true };

fn note(kind: Kind, topic: &str) -> Note<'_> {
    Note { kind, topic, allowed: true, by: By::Acl, times: 1 }
}

/// `user`, `client`, what, and whether it might.
fn seen(user: &str, client_id: &str, kind: Kind, topic: &str, allowed: bool) -> Seen {
    let who = who(Some(user).filter(|user| !user.is_empty()), client_id);
    Seen { who, own_acl: false, kind, topic: topic.to_owned(), allowed, by: By::Acl, count: 1, ago_s: 0 }
}

fn check(recent: &Recent) {
    for shard in &recent.shards {
        let shard = shard.lock();
        shard.check();
        assert!(shard.bytes <= recent.shard_bytes, "{}", shard.bytes);
    }
}

fn topics(recent: &Recent, since_s: Option<u64>) -> Vec<(String, u64)> {
    let list = recent.list(since_s.map(Duration::from_secs));
    let mut topics: Vec<_> = list.into_iter().map(|seen| (seen.topic, seen.count)).collect();
    topics.sort();
    topics
}

#[test]
fn the_same_question_is_one_entry_with_a_count_and_the_last_answer() {
    let recent = Recent::new(1 << 20);
    let pump = who(Some("pump"), "c");
    for times in [1, 5] {
        recent.note(&pump, false, Note { times, ..note(PUBLISH, "a") });
    }
    recent.note(&pump, false, note(RETAIN, "a"));
    recent.note(&who(Some("pump"), "d"), false, note(PUBLISH, "a"));
    recent.note(&pump, true, Note { allowed: false, by: By::Nobody, ..note(PUBLISH, "a") });
    check(&recent);
    let mut list = recent.list(None);
    list.sort_by_key(|seen| (seen.who.client_id.clone(), seen.kind));
    let counts: Vec<_> = list.iter().map(|seen| (&*seen.who.client_id, seen.kind, seen.count, seen.allowed)).collect();
    let expected = [("c", RETAIN, 1, true), ("c", PUBLISH, 7, false), ("d", PUBLISH, 1, true)];
    assert_eq!(counts, expected);
    assert!(list[0].own_acl && !list[2].own_acl, "the client's latest listener");
}

#[test]
fn what_is_asked_for_is_what_was_done_in_that_time() {
    let recent = Recent::new(1 << 20);
    let client = who(None, "c");
    for (topic, kind) in [("old", PUBLISH), ("gone/#", Kind::Subscribe), ("$share/g/stands/#", Kind::Subscribe)] {
        recent.note(&client, false, note(kind, topic));
    }
    recent.note(&client, false, note(Kind::Receive, "gone/x"));
    recent.note(&client, false, note(Kind::Receive, "stands/x"));
    recent.set_now(100_000);
    recent.note(&client, false, note(PUBLISH, "new"));
    // Its session has it still.
    recent.note(&client, false, Note { times: 0, ..note(Kind::Subscribe, "$share/g/stands/#") });
    let of = |since| topics(&recent, since).into_iter().map(|(topic, _)| topic).collect::<Vec<_>>();
    assert_eq!(of(Some(10)), ["$share/g/stands/#", "new", "stands/x"]);
    assert_eq!(of(Some(100)).len(), 6);
    assert_eq!(of(None).len(), 6);
    assert_eq!(topics(&recent, None)[0].1, 1, "it was asked for once");
}

/// Whatever a client does, memory is bounded, and a good part is left to the others of its shard.
#[test]
fn a_client_that_does_much_pushes_out_its_own() {
    let recent = Recent::new(256 << 10);
    let others: Vec<Principal> = (0..40).map(|n| who(Some("u"), &format!("quiet-{n}"))).collect();
    for client in &others {
        recent.note(client, false, note(PUBLISH, "quiet"));
    }
    recent.set_now(5_000);
    let loud = who(Some("u"), "loud");
    for n in 0..20_000_u64 {
        recent.set_now(5_000 + n);
        let kind = if n % 2 == 0 { PUBLISH } else { Kind::Receive };
        recent.note(&loud, false, note(kind, &format!("loud/{n}")));
    }
    check(&recent);
    let list = recent.list(None);
    assert_eq!(list.iter().filter(|seen| seen.topic == "quiet").count(), others.len());
    let kept = list.iter().filter(|seen| seen.topic.starts_with("loud/")).count();
    assert!(kept > 50 && recent.forgotten() == 20_000 - kept as u64, "{kept} {}", recent.forgotten());
    assert!(list.iter().any(|seen| seen.topic == "loud/19999"), "the latest is there");
    // A topic that is as large as a shard is not kept, and takes nothing with it but its own client's.
    recent.note(&loud, false, note(PUBLISH, &"x".repeat(65_000)));
    check(&recent);
    assert_eq!(recent.list(None).iter().filter(|seen| seen.topic == "quiet").count(), others.len());
}

#[test]
fn what_stands_pushes_nothing_out_and_the_oldest_go_first() {
    let recent = Recent::new(64 << 10);
    for n in 0..4_000_u64 {
        recent.set_now(n * 1_000);
        recent.note(&who(None, &format!("c{n}")), false, note(PUBLISH, "t"));
    }
    check(&recent);
    let before = recent.list(None);
    assert!(before.len() > 50 && before.len() < 1_000, "{}", before.len());
    assert!(before.iter().all(|seen| seen.ago_s < 2_000), "the youngest are kept");
    let forgotten = recent.forgotten();
    for n in 0..4_000 {
        recent.note(&who(None, &format!("s{n}")), false, Note { times: 0, ..note(Kind::Subscribe, "t") });
    }
    check(&recent);
    assert_eq!(recent.forgotten(), forgotten);
    assert_eq!(recent.list(None).iter().filter(|seen| seen.kind == PUBLISH).count(), before.len());
}

#[test]
fn messages_that_come_leave_room_for_what_clients_do() {
    let recent = Recent::new(256 << 10);
    for n in 0..20 {
        recent.note(&who(None, &format!("c{n}")), false, note(PUBLISH, "t"));
    }
    recent.set_now(9_000);
    for n in 0..20_000 {
        recent.note(&who(None, &format!("r{}", n % 50)), false, note(Kind::Receive, &format!("m/{n}")));
    }
    check(&recent);
    assert_eq!(recent.list(None).iter().filter(|seen| seen.kind == PUBLISH).count(), 20);
}

fn file(format: Format, text: &str) -> AclFile {
    let name = if format == Format::Toml { "acl.toml" } else { "acl" };
    AclFile::parse(Path::new(name), text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn learned(seen: &[Seen], format: Format) -> (String, AclFile) {
    let text = learn(seen, &Learn { format, most_alike: 3, when: "lately" });
    let acl = file(format, &text);
    (text, acl)
}

/// What is in the file beside comments.
fn lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

fn allows(acl: &AclFile, user: &str, client_id: &str, kind: Kind, topic: &str) -> bool {
    let seen = seen(user, client_id, kind, topic, true);
    acl.check(&seen.who, kind.ask(topic)).allowed
}

/// Everything that was allowed is allowed; messages and publications that were denied are denied.
fn holds(seen: &[Seen], acl: &AclFile, text: &str) {
    for one in seen {
        let allowed = acl.check(&one.who, one.kind.ask(&one.topic)).allowed;
        let elsewhere = one.kind == Kind::Subscribe && !one.allowed;
        assert!(elsewhere || allowed == one.allowed, "{one:?}\n{text}");
    }
}

#[test]
fn names_become_patterns_and_many_topics_one() {
    let mut all = vec![
        seen("", "guest", Kind::Subscribe, "public/#", true),
        seen("", "guest", Kind::Receive, "public/news", true),
        seen("boss", "b", Kind::Subscribe, "$share/g/data/+/temp", true),
        seen("boss", "b", Kind::Publish { qos: 0, retain: true }, "commands/all", true),
    ];
    for user in ["pump-1", "pump-2"] {
        let client = format!("{user}-c");
        all.push(seen(user, &client, Kind::Connect, "", true));
        all.push(seen(user, &client, PUBLISH, &format!("data/{user}/temp"), true));
        all.push(seen(user, &client, Kind::Will { qos: 1, retain: false }, &format!("state/{client}"), true));
        all.push(seen(user, &client, Kind::Subscribe, &format!("commands/{user}"), true));
        for room in 1..=5 {
            all.push(seen(user, &client, PUBLISH, &format!("rooms/{room}/door"), true));
        }
        for lamp in 1..=3 {
            all.push(seen(user, &client, PUBLISH, &format!("lamps/{lamp}"), true));
        }
    }
    let (text, acl) = learned(&all, Format::Mosquitto);
    holds(&all, &acl, &text);
    let pump = ["topic write lamps/1", "topic write lamps/2", "topic write lamps/3", "topic write rooms/+/door"];
    let mut expected = vec!["topic read public/#", "user boss", "topic write commands/all", "topic read data/+/temp"];
    expected.extend(["user pump-1"].iter().chain(&pump).chain(&["user pump-2"]).chain(&pump));
    expected.extend(["pattern read commands/%u", "pattern write data/%u/temp", "pattern write state/%c"]);
    assert_eq!(lines(&text), expected, "{text}");
    assert!(text.contains("# \"rooms/+/door\" is wider than what was seen"), "{text}");

    let (text, acl) = learned(&all, Format::Toml);
    holds(&all, &acl, &text);
    assert!(text.contains("users = [\"pump-1\", \"pump-2\"]"), "they share their rules: {text}");
    assert_eq!(text.matches("[[rules]]").count(), 5, "{text}");
    for (user, client, kind, topic, allowed) in [
        ("pump-1", "pump-1-c", PUBLISH, "data/pump-1/temp", true),
        ("pump-1", "pump-1-c", PUBLISH, "data/pump-2/temp", false),
        ("pump-1", "pump-1-c", PUBLISH, "rooms/77/door", true),
        ("pump-1", "pump-1-c", PUBLISH, "lamps/4", false),
        ("pump-1", "pump-1-c", RETAIN, "lamps/1", false),
        ("pump-1", "pump-1-c", Kind::Subscribe, "data/pump-1/temp", false),
        ("pump-3", "pump-3-c", PUBLISH, "data/pump-3/temp", false),
        ("boss", "b", RETAIN, "commands/all", true),
        ("", "other", Kind::Receive, "public/x", true),
        ("pump-1", "pump-1-c", Kind::Receive, "public/x", false),
    ] {
        assert_eq!(allows(&acl, user, client, kind, topic), allowed, "{user} {kind:?} {topic}\n{text}");
    }
}

#[test]
fn what_was_denied_is_not_opened_by_what_is_made_of_others() {
    let mut all: Vec<Seen> = (1..=5).map(|n| seen("a", "c", PUBLISH, &format!("data/{n}"), true)).collect();
    all.push(seen("a", "c", PUBLISH, "data/secret", false));
    all.push(seen("a", "c", PUBLISH, "own/a", true));
    all.push(seen("b", "d", PUBLISH, "own/b", false));
    all.push(seen("a", "c", Kind::Subscribe, "news/#", true));
    all.push(seen("a", "c", Kind::Receive, "news/a", true));
    all.push(seen("a", "c", Kind::Receive, "news/secret", false));
    // Only the RETAIN flag was wrong.
    all.push(seen("a", "c", RETAIN, "data/1", false));
    for format in [Format::Mosquitto, Format::Toml] {
        let (text, acl) = learned(&all, format);
        for one in &all {
            let only_toml = one.kind == RETAIN && format == Format::Mosquitto;
            assert!(
                only_toml || acl.check(&one.who, one.kind.ask(&one.topic)).allowed == one.allowed,
                "{one:?}\n{text}"
            );
        }
        assert!(!text.contains("data/+") && text.contains("3 more were denied"), "{text}");
        assert_eq!(text.contains("%u"), format == Format::Toml, "a pattern of mosquitto's would be for b: {text}");
    }
}

#[test]
fn topics_of_others_that_a_wider_rule_covers_are_named() {
    let mut all: Vec<Seen> = (1..=5).map(|n| seen("a", "c", PUBLISH, &format!("data/{n}/x"), true)).collect();
    all.push(seen("b", "d", PUBLISH, "data/private/x", true));
    all.push(seen("b", "d", PUBLISH, "data/1/x", true));
    for format in [Format::Mosquitto, Format::Toml] {
        let (text, acl) = learned(&all, format);
        holds(&all, &acl, &text);
        assert!(text.contains("only others have used: \"data/private/x\" of \"b\"\n"), "{text}");
        assert!(!allows(&acl, "b", "d", PUBLISH, "data/2/x"), "{text}");
    }
}

/// Names and topics are chosen by clients: none of them writes a rule of its own.
#[test]
fn nothing_that_a_client_says_becomes_another_rule() {
    let all = [
        seen("a", "c", PUBLISH, "x/y\ntopic readwrite z", true),
        seen("a", "c", PUBLISH, "end ", true),
        seen("a", "c", PUBLISH, "of/%u/others", true),
        seen("a", "c", PUBLISH, "q\"uo'te\\d", true),
        seen("b\nuser a", "c", PUBLISH, "b", true),
        seen("*", "c", PUBLISH, "star", true),
        seen("+", "c", PUBLISH, "c/up", true),
        seen("d", "#", PUBLISH, "d/up", true),
        seen("d", "", PUBLISH, "/d", true),
        seen("e", "$SYS", Kind::Subscribe, "$SYS/broker/x", true),
    ];
    for format in [Format::Mosquitto, Format::Toml] {
        let (text, acl) = learned(&all, format);
        for one in &all {
            let unsayable = match format {
                Format::Mosquitto => one.topic.contains('\n') || one.topic == "end " || one.topic == "b",
                Format::Toml => one.topic == "star",
            } || one.topic.contains("%u");
            assert_eq!(acl.check(&one.who, one.kind.ask(&one.topic)).allowed, !unsayable, "{one:?}\n{text}");
        }
        assert!(text.contains("Not here, of user"), "{text}");
        for (user, topic) in [
            ("a", "anything"),
            ("a", "b"),
            ("a", "z"),
            ("z", "star"),
            ("d", "x/up"),
            ("z", "c/up"),
            ("z", "of/z/others"),
        ] {
            assert!(!allows(&acl, user, "c", PUBLISH, topic), "{user} {topic}\n{text}");
        }
    }
}

/// By chance: whatever is seen, the file allows it, and denies what was denied.
#[test]
fn what_was_seen_holds_by_the_learned_file() {
    let seed = std::env::var("FOREBAY_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in seed.map_or(1..=300, |seed: u64| seed..=seed) {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |most: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % most
        };
        let users = ["", "u1", "u2", "u3"];
        let words = ["a", "b", "c", "d", "e", "u1", "u2", "u3-c", "", "f"];
        let mut all: Vec<Seen> = Vec::new();
        for _ in 0..below(60) {
            let user = users[below(4) as usize];
            let depth = 1 + below(3);
            let topic: Vec<&str> = (0..depth).map(|_| words[below(10) as usize]).collect();
            let topic = Some(topic.join("/")).filter(|topic| !topic.is_empty()).unwrap_or_else(|| "t".to_owned());
            let kind = [PUBLISH, PUBLISH, Kind::Subscribe, Kind::Receive][below(4) as usize];
            // A message that comes needs a subscription.
            let (kind, allowed) = (kind, kind == Kind::Receive || below(5) > 0);
            let same = |one: &&Seen| one.who.user.as_deref().unwrap_or("") == user && one.topic == topic;
            if all.iter().any(|one| same(&one)) {
                continue;
            }
            if kind == Kind::Receive {
                all.push(seen(user, &format!("{user}-c"), Kind::Subscribe, &topic, true));
            }
            all.push(seen(user, &format!("{user}-c"), kind, &topic, allowed));
        }
        for format in [Format::Mosquitto, Format::Toml] {
            let (text, acl) = learned(&all, format);
            holds(&all, &acl, &format!("seed {seed}\n{text}"));
        }
    }
}

#[test]
fn a_file_is_held_against_what_was_seen() {
    let mut elsewhere = seen("a", "c", PUBLISH, "other", true);
    (elsewhere.own_acl, elsewhere.who.listener) = (true, "mqtt://own".into());
    let token = Seen { by: By::Source, ..seen("a", "c", PUBLISH, "by/token", true) };
    let all = vec![
        seen("a", "c", PUBLISH, "stays", true),
        seen("a", "c", PUBLISH, "goes", true),
        seen("a", "c", PUBLISH, "comes", false),
        seen("a", "c", Kind::Subscribe, "goes/#", true),
        seen("a", "c", Kind::Connect, "", true),
        elsewhere,
        token,
    ];
    let acl = file(Format::Mosquitto, "user a\ntopic write stays\ntopic write comes\ntopic deny goes");
    let replay = super::replay(&acl, all.clone(), None);
    let changed: Vec<_> = replay.changed.iter().map(|c| (&*c.seen.topic, c.answer.allowed, c.answer.line)).collect();
    assert_eq!(changed, [("comes", true, Some(3)), ("goes", false, Some(4)), ("goes/#", false, None)]);
    assert_eq!((replay.asked, replay.before_the_file, replay.elsewhere), (5, 1, 1));
    let replay = super::replay(&acl, all, Some("mqtt://own"));
    assert_eq!((replay.asked, replay.changed.len(), replay.elsewhere), (1, 1, 6));
}
