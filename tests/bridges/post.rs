//! A bridge to a server that takes HTTP POSTs.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use crate::upstreams::{cutting, dead_letter, dead_letters, goes_on_without_what_ends_connections};
use crate::{Case, block_on, bridge_to, client, example, gateway, publish, state};

pub(crate) fn trials() -> Vec<Case> {
    vec![("http_gets_a_post_for_each_message", None, || block_on(posts()))]
}

/// What is answered with many words begins so.
const WORDY: &[u8] = b"tell me all";

/// A request: its first line and its headers in lower case, and its body.
type Posted = (String, Vec<String>, String);

/// A server that answers these, then 204. It closes every second connection after an answer.
fn server(answers: &[u16]) -> (u16, Receiver<Posted>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answers = Arc::new(Mutex::new(VecDeque::from(answers.to_vec())));
    let (sender, posted) = channel();
    std::thread::spawn(move || {
        for (n, connection) in listener.incoming().enumerate() {
            let (answers, sender) = (answers.clone(), sender.clone());
            std::thread::spawn(move || serve(connection.unwrap(), &answers, &sender, n % 2 == 0));
        }
    });
    (port, posted)
}

fn serve(connection: TcpStream, answers: &Mutex<VecDeque<u16>>, posted: &Sender<Posted>, closes: bool) {
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    loop {
        let head: Vec<String> =
            (&mut reader).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let Some((first, headers)) = head.split_first() else { return };
        let headers: Vec<String> = headers.iter().map(|line| line.to_lowercase()).collect();
        let length = headers.iter().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        if first.starts_with("HEAD ") {
            // It answers only to say that it is there.
            let _ = (&connection).write_all(b"HTTP/1.1 405 X\r\nconnection: close\r\n\r\n");
            return;
        }
        // The status counts, however much the server says.
        let words = "x".repeat(if body.starts_with(WORDY) { 200_000 } else { 0 });
        let _ = posted.send((first.clone(), headers, String::from_utf8(body).unwrap()));
        let status = answers.lock().unwrap().pop_front().unwrap_or(204);
        let close = if closes { "connection: close\r\n" } else { "" };
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{close}\r\n{words}", words.len());
        if (&connection).write_all(answer.as_bytes()).is_err() || closes {
            return;
        }
    }
}

/// What can pass is sent again in order; what cannot is a dead letter; a connection that the server closes is made anew; what it says
/// beside a status costs nothing.
async fn posts() {
    let (port, posted) = server(&[204, 503, 503, 204, 400, 413]);
    let rules = "[[bridges.out]]\nfilter = 'n/#'\ntopic = 'readings/{topic/2..}'";
    let mut broker = gateway(&bridge_to(&format!("http://127.0.0.1:{port}/in"), "username = 'me'", rules));
    broker.run();
    assert_eq!(state(broker.port(), "connected").await, "connected");
    let mut letters = dead_letters(broker.port()).await;
    let here = client(broker.port(), "here").await;
    let mut marks = Vec::new();
    for (payload, times) in [("one", 1), ("two", 3)] {
        publish(&here, "n/a b", payload).await;
        for _ in 0..times {
            let (first, headers, body) = posted.recv().unwrap();
            assert_eq!((first.as_str(), body.as_str()), ("POST /in/readings/a%20b HTTP/1.1", payload));
            let header = |name: &str| headers.iter().find(|line| line.starts_with(name)).expect(name).clone();
            assert_eq!(header("authorization"), "authorization: basic bwu6");
            assert_eq!(header("mqtt-topic"), "mqtt-topic: n/a b");
            assert!(header("mqtt-origin").ends_with(".up"));
            marks.push(header("idempotency-key"));
        }
    }
    assert!(marks[0] != marks[1] && marks[1] == marks[2] && marks[2] == marks[3], "{marks:?}");
    for reason in ["400", "413"] {
        publish(&here, "n/bad", "x").await;
        let (topic, why) = dead_letter(&mut letters).await;
        assert!(topic == "$dead/up/n/bad" && why.contains(reason), "{topic}: {why}");
    }
    publish(&here, "n/wordy", "tell me all").await;
    publish(&here, "n/good", "three").await;
    let rest: Vec<_> = posted.iter().take(4).map(|(first, _, body)| (first, body)).collect();
    let [bad, wordy, good] = ["bad", "wordy", "good"].map(|topic| format!("POST /in/readings/{topic} HTTP/1.1"));
    let wanted = [(&bad, "x"), (&bad, "x"), (&wordy, "tell me all"), (&good, "three")];
    assert_eq!(rest, wanted.map(|(first, body)| (first.clone(), body.to_owned())));
    let (port, posted) = server(&[]);
    let url = format!("http://127.0.0.1:{}/in", cutting(port));
    goes_on_without_what_ends_connections(&url, rules, async || posted.recv().unwrap().2.into_bytes()).await;
    let (port, posted) = server(&[]);
    let mut broker = gateway(&example("bridge-http.toml", "127.0.0.1:8080", port));
    broker.run();
    publish(&client(broker.port(), "here").await, "site/7/temperature", "21").await;
    let (first, _, body) = posted.recv().unwrap();
    assert_eq!((first.as_str(), body.as_str()), ("POST /readings/site/7/temperature HTTP/1.1", "21"));
}
