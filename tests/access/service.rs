//! A service that says over HTTP who may connect.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Barrier, Mutex};

use forebay_tests::packet::build::{Connect, Publish};
use forebay_tests::packet::{Ack, Version};
use forebay_tests::raw::Raw;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::Site;

pub const TESTS: &[(&str, fn())] = &[
    ("a_service_decides", a_service_decides),
    ("a_slow_service_holds_no_handshake_up", a_slow_service_holds_no_handshake_up),
    ("a_service_of_mosquitto_go_auth_decides", a_service_of_mosquitto_go_auth_decides),
    ("a_service_that_fails_lets_nobody_in", a_service_that_fails_lets_nobody_in),
    ("an_answer_from_before_counts_if_it_may", an_answer_from_before_counts_if_it_may),
    ("a_service_is_asked_over_tls", a_service_is_asked_over_tls),
];

/// What was asked: head and body.
type Asked = Arc<Mutex<Vec<(String, String)>>>;

/// A service on a port of its own, for as long as the test runs; `answer` makes status and body of a body. Status 0: none.
struct Service {
    port: u16,
    asked: Asked,
}

impl Service {
    fn start(
        tls: Option<Arc<rustls::ServerConfig>>,
        answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, asked) = (listener.local_addr().unwrap().port(), Asked::default());
        let (all, answer) = (asked.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (all, answer, tls) = (all.clone(), answer.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    None => serve(stream, &all, &*answer),
                    Some(tls) => {
                        let connection = rustls::ServerConnection::new(tls).unwrap();
                        serve(rustls::StreamOwned::new(connection, stream), &all, &*answer);
                    }
                });
            }
        });
        Self { port, asked }
    }

    fn last(&self) -> (String, String) {
        self.asked.lock().unwrap().last().cloned().expect("it was asked")
    }
}

fn serve(stream: impl Read + Write, asked: &Asked, answer: &dyn Fn(&str) -> (u16, String)) {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if line == "\r\n" {
            break;
        }
        if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body = String::from_utf8(body).unwrap();
    asked.lock().unwrap().push((head, body.clone()));
    let (status, text) = answer(&body);
    if status > 0 {
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        let _ = reader.get_mut().write_all(answer.as_bytes()).and_then(|()| reader.get_mut().flush());
    } else {
        // Until whoever asked has had enough.
        let _ = reader.read(&mut [0]);
    }
}

fn site(service: &Service, more: &str) -> Site {
    let access = format!(
        "[access]\nmax_failures = 1000\n[access.http]\nurl = \"http://127.0.0.1:{}/mqtt?x=1\"\n{more}",
        service.port
    );
    Site::of_files(&[("token", "service-token\n")], &access, "")
}

fn connect(client: &str, user: &str, password: &str) -> Connect {
    Connect::new(Version::V5, client).user(user).password(password.as_bytes())
}

fn a_service_decides() {
    let service = Service::start(None, |body| {
        let asked: serde_json::Value = serde_json::from_str(body).unwrap();
        if asked["username"] != "pump" || asked["password"] != "s\u{e4}cret" {
            return (200, r#"{"result": "deny"}"#.to_owned());
        }
        let acl = r#"[{"permission": "allow", "action": "publish", "topic": "data/${username}/#"}]"#;
        (200, format!(r#"{{"result": "allow", "acl": {acl}}}"#))
    });
    let site = site(&service, "token_file = \"DIR/token\"\n");
    let (mut raw, ..) = Raw::open(site.port(), &connect("c1", "pump", "s\u{e4}cret"));
    let (head, body) = service.last();
    assert!(head.starts_with("POST /mqtt?x=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("authorization: bearer service-token\r\n"), "{head}");
    let asked: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&asked["clientid"], &asked["peerhost"]), (&"c1".into(), &"127.0.0.1".into()), "{body}");
    for (topic, reason) in [("data/pump/x", 0x10), ("data/valve/x", 0x87)] {
        raw.send(&Publish::new(Version::V5, topic, b"x").qos(1, 5).packet());
        raw.expect_ack(Ack::Puback, 5, reason);
    }
    Raw::begin(site.port(), &connect("c2", "pump", "wrong-secret")).expect_refused(0x86);
    let log = site.until_logged("the service says no");
    assert!(
        log.contains("source=\"http\"") && !log.contains("wrong-secret") && !log.contains("service-token"),
        "{log}"
    );
}

fn a_service_of_mosquitto_go_auth_decides() {
    let service = Service::start(None, |body| match body.contains("username=a+user&password=p%26+ss&") {
        true => (200, r#"{"Ok": true, "Error": ""}"#.to_owned()),
        false => (403, String::new()),
    });
    let site = site(&service, "format = \"form\"\n");
    Raw::open(site.port(), &connect("c", "a user", "p& ss"));
    assert!(service.last().0.to_lowercase().contains("content-type: application/x-www-form-urlencoded"));
    Raw::begin(site.port(), &connect("c", "a user", "p")).expect_refused(0x86);
}

/// It answers the first when the second has come as well, for whom there is no permit before.
fn a_slow_service_holds_no_handshake_up() {
    let both = Barrier::new(2);
    let service = Service::start(None, move |_| {
        both.wait();
        (204, String::new())
    });
    let site = site(&service, "timeout = \"1min\"\n[limits]\nmax_handshakes = 1\nconnect_timeout = \"1h\"\n");
    let [mut first, mut second] = ["a", "b"].map(|name| Raw::begin(site.port(), &connect(name, name, "p")));
    first.expect_connack(0);
    second.expect_connack(0);
}

fn a_service_that_fails_lets_nobody_in() {
    let service = Service::start(None, |body| match body {
        body if body.contains("status") => (500, String::new()),
        body if body.contains("silent") => (0, String::new()),
        _ => (200, "{}".to_owned()),
    });
    let site = site(&service, "timeout = \"500ms\"\nlast_answer = \"1h\"\n");
    for (user, why) in
        [("status", "says that it failed"), ("silent", "not answer in time"), ("odd", "neither allow nor deny")]
    {
        Raw::begin(site.port(), &connect(user, user, "p")).expect_refused(0x88);
        let log = site.until_logged(&format!("client=\"{user}\""));
        assert!(log.contains(why), "{log}");
    }
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let access = format!("[access.http]\nurl = \"http://127.0.0.1:{nowhere}/\"\n");
    let alone = Site::of_files(&[], &access, "");
    Raw::begin(alone.port(), &connect("c", "u", "p")).expect_refused(0x88);
    let v4 = Connect::new(Version::V4, "c").user("u").password(b"p");
    Raw::begin(alone.port(), &v4).expect_refused(3);
}

fn an_answer_from_before_counts_if_it_may() {
    let fails = Arc::new(Mutex::new(false));
    let state = fails.clone();
    let service =
        Service::start(None, move |_| if *state.lock().unwrap() { (503, String::new()) } else { (204, String::new()) });
    let site = site(&service, "last_answer = \"1h\"\n");
    Raw::open(site.port(), &connect("c", "pump", "one"));
    *fails.lock().unwrap() = true;
    Raw::open(site.port(), &connect("c", "pump", "one"));
    site.until_logged("let in by an answer from before");
    for (client, user, password) in [("c", "pump", "two"), ("c", "valve", "one"), ("d", "pump", "one")] {
        Raw::begin(site.port(), &connect(client, user, password)).expect_refused(0x88);
    }
}

fn a_service_is_asked_over_tls() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let service = Service::start(Some(Arc::new(config)), |_| (200, "ok".to_owned()));
    let start = |host: &str| {
        let access = format!("[access.http]\nurl = \"https://{host}:{}/\"\nca_file = \"DIR/ca.pem\"\n", service.port);
        Site::of_files(&[("ca.pem", &made.cert.pem())], &access, "")
    };
    let site = start("localhost");
    Raw::open(site.port(), &connect("c", "pump", "one"));
    // The certificate is not for this name.
    let site = start("127.0.0.1");
    Raw::begin(site.port(), &connect("c", "pump", "one")).expect_refused(0x88);
    site.until_logged("certificate is not trusted");
    drop(TcpStream::connect(("127.0.0.1", service.port)));
}
