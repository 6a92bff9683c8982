//! Servers that are not there, refuse, or are something else: each has its exit code, and one line says which it is.

use std::io::{Read, Write};
use std::net::TcpListener;

use forebay_tests::broker::{Broker, free_port};

use crate::{Case, bench};

pub(crate) fn trials() -> Vec<Case> {
    vec![
        ("nobody_listens", None, nobody),
        ("a_name_without_an_address", None, no_address),
        ("a_server_that_says_nothing", None, silence),
        ("something_else_than_mqtt", None, not_mqtt),
        ("a_server_that_closes", None, closes),
        ("tls_and_no_tls", None, tls_mixed_up),
        ("a_connack_that_refuses", None, connack),
        ("a_suback_that_refuses", None, suback),
        ("a_server_that_grants_less", None, less),
        ("a_puback_that_refuses", None, puback),
    ]
}

/// Exit code, one line, these words in it.
fn ends(line: &str, code: i32, words: &[&str]) {
    let ended = bench(line);
    assert_eq!((ended.code, ended.out.as_str()), (Some(code), ""), "{line}: {}", ended.err);
    assert_eq!(ended.err.lines().count(), 1, "{line}: {}", ended.err);
    assert!(ended.err.starts_with("forebay bench: "), "{}", ended.err);
    for word in words {
        assert!(ended.err.contains(word), "{line}: {word:?} in {}", ended.err);
    }
}

/// The same for messages and for connections.
fn both(port: u16, more: &str, code: i32, words: &[&str]) {
    for scenario in ["one-to-one -n 10", "connect -c 3 -d 0.1", "reconnect -c 3 -n 10"] {
        ends(&format!("{scenario} {more} --url mqtt://127.0.0.1:{port}"), code, words);
    }
}

/// A server that answers each read with the next of these; an empty one closes.
fn server(answers: &'static [&'static [u8]]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            std::thread::spawn(move || {
                let (mut socket, mut buffer) = (socket.unwrap(), [0; 4096]);
                for answer in answers {
                    if answer.is_empty() {
                        return;
                    }
                    if socket.read(&mut buffer).unwrap_or(0) == 0 || socket.write_all(answer).is_err() {
                        return;
                    }
                }
                let _ = socket.read(&mut buffer);
            });
        }
    });
    port
}

fn nobody() {
    both(free_port(), "", 4, &["cannot be reached", "refused"]);
}

fn no_address() {
    ends("-n 1 --url mqtt://no-such-host.invalid", 4, &["no-such-host.invalid", "no address"]);
}

fn silence() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    both(port, "", 4, &["takes connections"]);
}

fn not_mqtt() {
    let port = server(&[b"HTTP/1.1 400 Bad Request\r\n\r\n"]);
    both(port, "", 6, &["something else than MQTT", "HTTP/1.1 400"]);
    both(server(&[b"-ERR\r\n"]), "", 6, &["-ERR"]);
    // A CONNACK that is none.
    both(server(&[b"\x20\x02\x07\x00"]), "", 6, &["something else than MQTT"]);
}

fn closes() {
    both(server(&[b""]), "", 6, &["without a CONNACK"]);
}

fn tls_mixed_up() {
    let broker = Broker::start();
    both(broker.tls_port(), "", 6, &["mqtts://"]);
    ends(&format!("-n 1 --insecure --url mqtts://127.0.0.1:{}", broker.port()), 7, &["no TLS session"]);
    ends(
        &format!("connect -c 2 -d 0.1 --insecure --url mqtts://127.0.0.1:{}", server(&[b"HTTP/1.1 400 Bad\r\n\r\n"])),
        7,
        &["mqtt://"],
    );
}

fn connack() {
    both(server(&[b"\x20\x02\x00\x05"]), "", 5, &["refuses", "CONNACK 5", "--username"]);
    both(server(&[b"\x20\x02\x00\x01"]), "", 5, &["-V"]);
    both(server(&[b"\x20\x03\x00\x87\x00"]), "-V 5", 5, &["0x87", "Not authorized"]);
}

fn suback() {
    let port = server(&[b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x80"]);
    ends(&format!("-n 1 --url mqtt://127.0.0.1:{port}"), 5, &["the subscription to forebay-bench/", "SUBACK 0x80"]);
}

fn less() {
    let port = server(&[b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x00"]);
    ends(&format!("-q 1 -n 1 --url mqtt://127.0.0.1:{port}"), 5, &["QoS 0 is all it grants"]);
    let port = server(&[b"\x20\x05\x00\x00\x02\x24\x01"]);
    ends(&format!("-q 2 -V 5 -n 1 --url mqtt://127.0.0.1:{port}"), 5, &["QoS 1 at most"]);
}

/// A full queue refuses in MQTT 5: counted, and no loss.
fn puback() {
    let broker = Broker::with_config("[queue]\nmax_messages = 50\npolicy = \"reject\"\n");
    let url = format!("--url mqtt://127.0.0.1:{} --json -", broker.port());
    let ended = bench(&format!("backlog -c 1 -q 1 -V 5 -n 400 --patience 2 {url}"));
    let json = ended.json();
    let of = |what: &str| crate::number(&json, &format!("/messages/{what}"));
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(of("refused") > 0 && of("published") == 400 && of("lost") == 0, "{json:#}");
    assert_eq!((of("acknowledged"), of("expected")), (400, 400 - of("refused")));
    assert!(ended.err.contains("refused by the server") && ended.err.contains("Quota exceeded"), "{}", ended.err);
}
