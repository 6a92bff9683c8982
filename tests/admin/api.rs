use forebay_tests::packet::Version;
use forebay_tests::peer::{Came, Connect, Peer};
use serde_json::Value;

use crate::{Site, until};

fn strings<'a>(list: &'a Value, field: &str) -> Vec<&'a str> {
    list.as_array().unwrap().iter().map(|row| row[field].as_str().unwrap()).collect()
}

#[test]
fn sessions_come_in_pages_by_state_and_name() {
    let site = Site::start("", "");
    for n in 0..25 {
        site.subscriber(&format!("Away-{n:02}"), "x").leave();
    }
    let _one = site.subscriber("here/1", "x");
    let socket = site.socket();
    let mut seen = Vec::new();
    let mut path = "/api/sessions?limit=10".to_owned();
    loop {
        let page = socket.get(&path).json();
        assert_eq!(page["total"], 26);
        seen.extend(strings(&page["sessions"], "client_id").into_iter().map(str::to_owned));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/sessions?limit=10&after={next}");
    }
    let mut wanted: Vec<String> = (0..25).map(|n| format!("Away-{n:02}")).collect();
    wanted.push("here/1".to_owned());
    assert_eq!(seen, wanted);
    let names = |query: &str| {
        let page = socket.get(&format!("/api/sessions?{query}")).json();
        strings(&page["sessions"], "client_id").into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names("state=connected"), ["here/1"]);
    assert_eq!(names("search=away-07"), ["Away-07"]);
    assert_eq!(names("state=away&limit=3").len(), 3);
    assert!(names("away_s=3600").is_empty());
    for wrong in ["state=gone", "limit=0", "limit=5000", "serach=x", "away_s=soon"] {
        assert_eq!(socket.get(&format!("/api/sessions?{wrong}")).status, 400, "{wrong}");
    }
}

#[test]
fn a_session_is_shown_with_its_queue_and_why_it_waits() {
    let site = Site::start("", "");
    site.subscriber("a/b", "t/#").leave();
    let mut publisher = site.publisher();
    for id in 1..=30 {
        publisher.publish(id, &format!("t/{id}"), format!("payload {id}").as_bytes());
    }
    let socket = site.socket();
    let shown = socket.get("/api/sessions/a%2Fb").json();
    assert_eq!(shown["session"]["queued_messages"], 30);
    assert_eq!(shown["waits"], "its client is away");
    assert_eq!(strings(&shown["subscriptions"], "filter"), ["t/#"]);
    assert_eq!(shown["ledger"]["accepted"], 30);
    assert!(shown["session"]["oldest_ms"].is_u64(), "its age is known though it is on disk: {shown}");
    let queue = socket.get("/api/sessions/a%2Fb/queue?limit=20").json();
    assert_eq!(queue["total"], 30);
    let wanted: Vec<String> = (1..=20).map(|id| format!("payload {id}")).collect();
    assert_eq!(strings(&queue["messages"], "text"), wanted, "the first are looked at, in their order");
    let queues = socket.get("/api/queues").json();
    assert_eq!((&queues["total"], &queues["queues"][0]["client_id"]), (&1.into(), &"a/b".into()));
    // They are still there.
    let (mut back, present) = Peer::open(&site.tcp(), &Connect::kept(Version::V5, "a/b"));
    assert!(present);
    assert_eq!(back.message().topic, "t/1");
    assert_eq!(socket.get("/api/sessions/nobody").status, 404);
}

#[test]
fn a_kicked_client_is_told_and_its_session_stays() {
    let site = Site::start("", "");
    let mut peer = site.subscriber("victim", "t");
    let socket = site.socket();
    assert_eq!(socket.ask("POST", "/api/sessions/victim/kick", &[], b"").status, 200);
    match peer.answer() {
        Came::Disconnect(reason, _) => assert_eq!(reason, 0x98),
        other => panic!("{other:?}"),
    }
    until("it is away", || socket.get("/api/sessions/victim").json(), |shown| shown["session"]["connected"] == false);
    assert_eq!(socket.ask("POST", "/api/sessions/victim/kick", &[], b"").status, 409);
    assert_eq!(socket.ask("DELETE", "/api/sessions/victim", &[], b"").status, 200);
    assert_eq!(socket.get("/api/sessions/victim").status, 404);
}

#[test]
fn retained_messages_are_listed_set_and_cleared() {
    let site = Site::start("", "");
    let socket = site.socket();
    for topic in ["b/2", "a/1", "b/1"] {
        let path = format!("/api/retained/{}", topic.replace('/', "%2F"));
        assert_eq!(socket.ask("PUT", &path, &[], topic.as_bytes()).status, 200);
    }
    let listed = socket.get("/api/retained").json();
    assert_eq!(strings(&listed["retained"], "topic"), ["a/1", "b/1", "b/2"]);
    let some = socket.get("/api/retained?filter=b/%2B&limit=1").json();
    assert_eq!((&some["total"], &some["next"]), (&2.into(), &"b/1".into()));
    assert_eq!(socket.get("/api/retained/b%2F1").json()["text"], "b/1");
    assert_eq!(socket.ask("PUT", "/api/retained/raw", &[], &[0xff, 0]).status, 200);
    assert_eq!(socket.get("/api/retained/raw").json()["base64"], "/wA=");
    assert_eq!(socket.ask("DELETE", "/api/retained/b%2F1", &[], b"").status, 200);
    assert_eq!(socket.get("/api/retained/b%2F1").status, 404);
    assert_eq!(socket.ask("DELETE", "/api/retained/b%2F1", &[], b"").status, 404);
    for (path, body) in [("/api/retained/%24SYS%2Fx", "x"), ("/api/retained/a%2F%23", "x"), ("/api/retained/a", "")] {
        assert_eq!(socket.ask("PUT", path, &[], body.as_bytes()).status, 400, "{path}");
    }
}

#[test]
fn http_without_a_token_shows_no_payload_and_changes_nothing() {
    let site = Site::start("", "");
    let (http, socket) = (site.http(), site.socket());
    site.subscriber("s", "t").leave();
    assert_eq!(socket.ask("PUT", "/api/retained/t", &[], b"x").status, 200);
    for (method, path) in [
        ("GET", "/api/retained/t"),
        ("GET", "/api/sessions/s/queue"),
        ("DELETE", "/api/sessions/s"),
        ("POST", "/api/shutdown"),
        ("PUT", "/api/retained/t"),
    ] {
        let answer = http.ask(method, path, &[], b"");
        assert_eq!(answer.status, 403, "{method} {path}");
        assert!(answer.json()["error"].as_str().unwrap().contains("admin.token_file"));
    }
    assert_eq!(http.get("/api/sessions/s").status, 200);
    // A page of the Internet whose name was made to point here.
    assert_eq!(http.ask("GET", "/api/status", &[("Host", "evil.example")], b"").status, 403);
    assert_eq!(http.ask("PATCH", "/api/status", &[], b"").header("allow"), Some("GET"));
    assert_eq!(http.get("/api/nothing").status, 404);
}

#[test]
fn the_api_ends_the_broker_as_a_signal_does() {
    let mut site = Site::start("", "");
    let mut peer = site.subscriber("s", "t");
    assert_eq!(site.socket().ask("POST", "/api/shutdown", &[], b"").status, 200);
    match peer.answer() {
        Came::Disconnect(reason, _) => assert_eq!(reason, 0x8b),
        other => panic!("{other:?}"),
    }
    assert_eq!(site.broker.ended(), Some(0));
    assert!(!site.socket_path().exists(), "its socket goes with it");
}

#[test]
fn why_a_message_does_not_arrive() {
    let site = Site::start("", "");
    let socket = site.socket();
    let why = |client: &str, topic: &str| {
        let answer = socket.get(&format!("/api/why?client={client}&topic={topic}")).json();
        (answer["reaches"].as_bool().unwrap(), answer["reasons"][0].as_str().unwrap().to_owned())
    };
    let here = site.subscriber("here", "t/+");
    site.subscriber("away", "t/#").leave();
    assert_eq!(why("here", "t/1"), (true, "it is subscribed to t/+ with QoS 1".to_owned()));
    let (reaches, reason) = why("here", "u/1");
    assert!(!reaches && reason.starts_with("no match: none of its 1 subscriptions"), "{reason}");
    let (reaches, reason) = why("away", "t/1");
    assert!(!reaches && reason.starts_with("its client is away"), "{reason}");
    let (reaches, reason) = why("nobody", "t/1");
    assert!(!reaches && reason.starts_with("there is no session"), "{reason}");
    here.leave();
    assert_eq!(socket.get("/api/why?client=here").status, 400);
    assert_eq!(socket.get("/api/why?client=here&topic=a/%23").status, 400);
}
