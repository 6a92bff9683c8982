//! Whatever takes an HTTP POST: one for each message, one after another. This is also the example that docs/bridges.md walks
//! through: a kind of upstream is a [`Kind`] and a future for each connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::marks::Marks;
use super::piped::{Pipe, Piped};
use super::remote::Remote;
use super::{Event, Kind, Outcome, Outgoing, Setup, Topics, Upstream};
use crate::bridge::wrap::TRACE;
use crate::store::DropReason;

/// See [`super::KINDS`].
pub const KIND: Kind = Kind {
    schemes: &[("http", false)],
    keys: &["username", "token"],
    topics: Topics::Levels,
    check_url: |url| parse(url).map(drop),
    open: |setup| Box::new(open(setup)),
};

/// How long the server may take: for a connection, and for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// For the answer of a server that is asked whether it is there.
const ASKED: Duration = Duration::from_secs(3);
/// Bytes of an answer that are read; what it says beside its status is of no use here.
const ANSWER_MAX: usize = 64 << 10;
/// The header by which a receiver knows a repetition: many take it by this name.
const ID: &str = "idempotency-key";

fn open(setup: Setup<'_>) -> impl Upstream + 'static {
    let doubted = Arc::new(AtomicBool::new(false));
    Piped::to(setup, move |remote, attempt, pipe| run(remote, doubted.clone(), attempt, pipe)).writing(write)
}

/// One connection, and those that follow it while the server closes them between two messages. Err: why it is over. `doubted`: the
/// connection before ended without an answer. What ends connections may be between here and there, a proxy whose server is away,
/// say: a message is only blamed when the server has just answered something else.
async fn run(remote: Arc<Remote>, doubted: Arc<AtomicBool>, attempt: u32, mut pipe: Pipe) -> Result<(), String> {
    let uri = parse(remote.address(attempt))?;
    let authorization = authorization(remote.username.as_deref(), remote.password()?.as_deref());
    let mut requests = connect(&uri).await?;
    let is_there = doubted.swap(false, Ordering::Relaxed) && answers(&mut requests, &uri, authorization.as_ref()).await;
    pipe.say(Event::Connected).await;
    while let Some(out) = pipe.messages.recv().await {
        if requests.ready().await.is_err() {
            requests = connect(&uri).await?;
        }
        let outcome = match request(&remote.marks, authorization.as_ref(), &uri, &out) {
            Ok(request) => post(&mut requests, request).await,
            Err(why) => Ok(Outcome::Refused(why, DropReason::Refused)),
        };
        match outcome {
            Ok(outcome) => pipe.settled(out.place, outcome).await,
            Err(Failed::Silent) => return Err(silent()),
            Err(Failed::Ended(why)) => {
                doubted.store(true, Ordering::Relaxed);
                if is_there {
                    pipe.say(Event::Ended).await;
                }
                return Err(why);
            }
        }
    }
    Ok(())
}

async fn connect(uri: &Uri) -> Result<SendRequest<Full<Bytes>>, String> {
    let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let connecting = async {
        let socket = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
        http1::handshake(TokioIo::new(socket)).await.map_err(|error| error.to_string())
    };
    let (requests, connection) = timeout(PATIENCE, connecting).await.map_err(|_| silent())??;
    tokio::spawn(connection);
    Ok(requests)
}

fn request(
    marks: &Marks,
    authorization: Option<&HeaderValue>,
    uri: &Uri,
    out: &Outgoing,
) -> Result<Request<Full<Bytes>>, String> {
    if climbs(&out.topic) {
        return Err("a level of the topic is \".\" or \"..\": servers take it for a way to another path".to_owned());
    }
    let path = format!("{}/{}", uri.path().trim_end_matches('/'), out.topic);
    let headers = marks.headers(out);
    let content_type = headers.content_type.as_deref().unwrap_or("application/octet-stream");
    let mut request =
        Request::post(path).header(HOST, host(uri)).header(CONTENT_TYPE, content_type).header(ID, &headers.id);
    if let Some(authorization) = authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    for (name, value) in &headers.all {
        // A user property that can be no header stays behind; the marks always can.
        let name = match TRACE.contains(&name.as_str()) {
            true => HeaderName::try_from(name),
            false => HeaderName::try_from(format!("mqtt-{}", name.trim_start_matches("mqtt-"))),
        };
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            request = request.header(name, value);
        }
    }
    request.body(Full::new(Bytes::copy_from_slice(out.message.payload()))).map_err(|error| error.to_string())
}

fn host(uri: &Uri) -> &str {
    uri.authority().map_or("", |authority| authority.as_str())
}

/// Why nobody knows what became of a message: the connection is given up, and the message sent again.
enum Failed {
    /// There was no answer in time.
    Silent,
    /// The connection ended without an answer, or the answer is none.
    Ended(String),
}

async fn post(requests: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> Result<Outcome, Failed> {
    let answered = timeout(PATIENCE, requests.send_request(request)).await.map_err(|_| Failed::Silent)?;
    let response = answered.map_err(|error| Failed::Ended(error.to_string()))?;
    let outcome = outcome(response.status());
    // The status says all. What cannot be read to its end closes the connection, and the next message opens one.
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect();
    let _ = timeout(PATIENCE, body).await;
    Ok(outcome)
}

/// Whether the server is there: it says anything at all.
async fn answers(requests: &mut SendRequest<Full<Bytes>>, uri: &Uri, authorization: Option<&HeaderValue>) -> bool {
    let mut request = Request::head(uri.path()).header(HOST, host(uri));
    if let Some(authorization) = authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    let Ok(request) = request.body(Full::new(Bytes::new())) else { return false };
    matches!(timeout(ASKED, requests.send_request(request)).await, Ok(Ok(_)))
}

/// The class of a status: what can pass is tried again, what cannot is a dead letter.
fn outcome(status: StatusCode) -> Outcome {
    match status.as_u16() {
        200..=299 => Outcome::Delivered,
        // Who may send may change, and so may where to: by an operator, while the messages wait.
        300..=399 | 401 | 403 | 407 | 408 | 425 | 429 | 500.. => Outcome::Retry(format!("the server answers {status}")),
        413 => Outcome::Refused(format!("the server answers {status}"), DropReason::TooLarge),
        _ => Outcome::Refused(format!("the server answers {status}"), DropReason::Refused),
    }
}

/// What a path cannot hold is written as `%` and two digits.
fn write(value: &str, path: &mut String) {
    for byte in value.bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => path.push(char::from(byte)),
            other => path.push_str(&format!("%{other:02X}")),
        }
    }
}

/// Whether a server may read a path as another one, encoded or not: whoever publishes here would choose where this bridge's
/// password goes. Some divide at `\` too, and look no further than a `;`.
fn climbs(path: &str) -> bool {
    let levels = path.split('/').flat_map(|level| level.split("%5C"));
    levels.into_iter().any(|level| matches!(level.split("%3B").next(), Some("." | "..")))
}

fn parse(url: &str) -> Result<Uri, String> {
    let uri: Uri = url.parse().map_err(|error| format!("\"{url}\": {error}"))?;
    if uri.host().is_none_or(str::is_empty) || uri.query().is_some() {
        return Err(format!("\"{url}\" is not http://HOST:PORT/PATH"));
    }
    Ok(uri)
}

fn authorization(username: Option<&str>, password: Option<&str>) -> Option<HeaderValue> {
    let text = match (username, password) {
        (Some(name), password) => {
            format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{}", password.unwrap_or_default())))
        }
        (None, Some(token)) => format!("Bearer {token}"),
        (None, None) => return None,
    };
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn silent() -> String {
    format!("no answer in {} s", PATIENCE.as_secs())
}

#[cfg(test)]
mod tests {
    use super::super::marks::{outgoing, traced};
    use super::*;

    #[test]
    fn a_status_is_classed() {
        for (status, class) in [(200, "Delivered"), (204, "Delivered"), (400, "Refused"), (404, "Refused")]
            .into_iter()
            .chain([(413, "Refused"), (401, "Retry"), (429, "Retry"), (500, "Retry"), (503, "Retry"), (301, "Retry")])
        {
            let outcome = format!("{:?}", outcome(StatusCode::from_u16(status).unwrap()));
            assert!(outcome.starts_with(class), "{status}: {outcome}");
        }
    }

    #[test]
    fn a_topic_is_a_path() {
        let mut path = String::new();
        write("a/b c/é?#", &mut path);
        assert_eq!(path, "a/b%20c/%C3%A9%3F%23");
    }

    #[test]
    fn a_topic_is_no_way_to_another_path() {
        let marks = Marks { origin: "g.up".into(), epoch: 5 };
        let uri = parse("http://h/in").unwrap();
        let written = |topic: &str| {
            let mut path = String::new();
            write(topic, &mut path);
            request(&marks, None, &uri, &outgoing(&path, &[])).map(|request| request.uri().to_string())
        };
        for topic in ["../admin", "a/../../admin", "a/./b", "a/..", ".", "a\\..\\b", "a/..;x/b"] {
            assert!(written(topic).is_err(), "{topic}");
        }
        for (topic, path) in
            [("a/...", "/in/a/..."), ("a/.b", "/in/a/.b"), ("a..b", "/in/a..b"), ("%2e%2e/a", "/in/%252e%252e/a")]
        {
            assert_eq!(written(topic).as_deref(), Ok(path));
        }
    }

    #[test]
    fn a_trace_goes_on_under_its_own_name() {
        let marks = Marks { origin: "g.up".into(), epoch: 5 };
        let uri = parse("http://h/in").unwrap();
        let (said, trace) = traced();
        let of = |said: &[u8]| request(&marks, None, &uri, &outgoing("t", said)).unwrap();
        let (traced, untraced) = (of(&said), of(&[]));
        for (name, value) in trace {
            assert_eq!(traced.headers().get(name).unwrap(), value);
            assert!(untraced.headers().get(name).is_none(), "none is made up");
        }
        assert!(traced.headers().get("mqtt-traceparent").is_none() && traced.headers().contains_key("mqtt-origin"));
    }

    #[test]
    fn who_it_is_goes_into_one_header() {
        let text = |value: Option<HeaderValue>| value.map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(text(authorization(Some("a"), Some("b"))).as_deref(), Some("Basic YTpi"));
        assert_eq!(text(authorization(None, Some("t"))).as_deref(), Some("Bearer t"));
        assert_eq!(authorization(None, None), None);
    }
}
