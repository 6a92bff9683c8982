//! The opening handshake of a WebSocket: one HTTP request, one answer.

use std::net::IpAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::http::{HeaderMap, HeaderValue, StatusCode};

use super::WebSocket;
use crate::network;
use crate::transport::Stream;

/// The longest request. Browsers send their cookies with it.
const REQUEST_MAX: usize = 16 * 1024;
/// What is read at first: nearly every request fits.
const FIRST_READ: usize = 1024;
/// Sub-protocols that are spoken; the version is CONNECT's business [MQTT5-6.0.0-3].
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// What a request must have.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The path; empty for any.
    pub path: &'a str,
    /// The origins that are allowed; `None` for that of the host that was asked.
    pub origins: Option<&'a [String]>,
    /// The largest frame.
    pub frame_max: u64,
}

/// Why there is no WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the client was told; `None`: it was told nothing.
    pub status: Option<StatusCode>,
    /// In words.
    pub why: String,
}

/// Answers the request. The addresses of `X-Forwarded-For`, in the order in which they stand, go with the WebSocket.
///
/// # Errors
/// It is no request for a WebSocket that may be had here. The answer has said so.
pub async fn open<S: Stream>(mut stream: S, entry: Entry<'_>) -> Result<(WebSocket<S>, Vec<String>), Refusal> {
    let mut bytes = Vec::with_capacity(FIRST_READ);
    let silent = |why: String| Refusal { status: None, why };
    let end = loop {
        let from = bytes.len().saturating_sub(3);
        if stream.read_buf(&mut bytes).await.map_err(|error| silent(error.to_string()))? == 0 {
            return Err(silent("the client went away".to_owned()));
        }
        let new = bytes.get(from..).unwrap_or_default();
        let end = new.windows(4).position(|four| four == b"\r\n\r\n").map(|at| from + at + 4);
        if let Some(end) = end.filter(|end| *end <= REQUEST_MAX) {
            break end;
        }
        if bytes.len() > REQUEST_MAX {
            let why = format!("a request of more than {REQUEST_MAX} bytes");
            return refuse(&mut stream, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, why).await;
        }
    };
    let request = match Request::try_parse(bytes.get(..end).unwrap_or_default()) {
        Ok(Some((_, request))) => request,
        Ok(None) | Err(_) => return refuse(&mut stream, StatusCode::BAD_REQUEST, "no HTTP request".to_owned()).await,
    };
    let response = match answer(&request, entry) {
        Ok(response) => response,
        Err((status, why)) => return refuse(&mut stream, status, why).await,
    };
    stream.write_all(&response).await.map_err(|error| silent(error.to_string()))?;
    stream.flush().await.map_err(|error| silent(error.to_string()))?;
    let early = bytes.get(end..).unwrap_or_default().to_vec();
    Ok((WebSocket::new(stream, early, entry.frame_max), forwarded_for(request.headers())))
}

async fn refuse<S: Stream, T>(stream: &mut S, status: StatusCode, why: String) -> Result<T, Refusal> {
    let reason = status.canonical_reason().unwrap_or_default();
    let upgrade = if status == StatusCode::UPGRADE_REQUIRED { "Upgrade: websocket\r\n" } else { "" };
    let text = format!(
        "HTTP/1.1 {} {reason}\r\n{upgrade}Connection: close\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{why}\n",
        status.as_u16(),
        why.len() + 1
    );
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
    Err(Refusal { status: Some(status), why })
}

/// The answer that opens the WebSocket. Extensions are not answered, and so refused: compression costs memory for each
/// connection that a board does not have.
fn answer(request: &Request, entry: Entry<'_>) -> Result<Vec<u8>, (StatusCode, String)> {
    let headers = request.headers();
    let path = request.uri().path();
    if !entry.path.is_empty() && path != entry.path {
        return Err((StatusCode::NOT_FOUND, "no WebSocket at this path".to_owned()));
    }
    if !headers.contains_key("upgrade") {
        return Err((StatusCode::UPGRADE_REQUIRED, "MQTT is spoken here, over WebSocket".to_owned()));
    }
    if let Some(origin) = headers.get("origin")
        && !allowed(origin, headers, entry.origins)
    {
        let origin = String::from_utf8_lossy(origin.as_bytes());
        return Err((
            StatusCode::FORBIDDEN,
            format!("pages of {origin:?} may not connect (`origins` of the listener)"),
        ));
    }
    let mut response = create_response(request).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    let mut offered = list(headers, "sec-websocket-protocol");
    let Some(protocol) = offered.find_map(|offered| PROTOCOLS.into_iter().find(|known| *known == offered)) else {
        let why = "the sub-protocol is not mqtt (Sec-WebSocket-Protocol)";
        return Err((StatusCode::BAD_REQUEST, why.to_owned()));
    };
    response.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(protocol));
    let mut bytes = Vec::new();
    write_response(&mut bytes, &response).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok(bytes)
}

/// The items of a header that is a list, over all of its lines.
fn list<'h>(headers: &'h HeaderMap, name: &'static str) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|item| !item.is_empty())
}

fn forwarded_for(headers: &HeaderMap) -> Vec<String> {
    list(headers, "x-forwarded-for").map(str::to_owned).collect()
}

/// A page of another site in somebody's browser reaches what that browser reaches: without a list, only pages of the host
/// that was asked may connect, and only where no page elsewhere can have its name.
fn allowed(origin: &HeaderValue, headers: &HeaderMap, origins: Option<&[String]>) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    match origins {
        Some(origins) => origins.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin)),
        None => {
            let host = headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
            let page = origin.split_once("://").map_or("", |(_, page)| page);
            network::is_own_name(host) && host_of(page).eq_ignore_ascii_case(host_of(host))
        }
    }
}

/// Without the port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// The address of the client that a chain of proxies names: from the right, the first that is no trusted proxy.
pub(crate) fn client_of(forwarded: &[String], trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let mut last = None;
    for item in forwarded.iter().rev() {
        // What cannot be read was written by somebody who is not trusted, or by nobody: what is left of it says nothing.
        let ip = item.parse().ok().or_else(|| item.parse().ok().map(|addr: std::net::SocketAddr| addr.ip()))?;
        last = Some(ip);
        if !trusted(ip) {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::duplex;

    use super::*;

    const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: broker.site:8083\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

    /// Status and text of the answer, and the outcome.
    async fn asked(request: &str, entry: Entry<'_>) -> (String, Result<Vec<String>, Refusal>) {
        let (near, mut far) = duplex(1 << 16);
        far.write_all(request.as_bytes()).await.unwrap();
        let outcome = open(near, entry).await.map(|(_, forwarded)| forwarded);
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        (text, outcome)
    }

    const ANY: Entry<'static> = Entry { path: "", origins: None, frame_max: 1024 };

    #[tokio::test(flavor = "current_thread")]
    async fn a_request_is_answered_with_the_protocol_that_was_asked_for_and_no_extension() {
        for (asked_for, answered) in [("mqtt", "mqtt"), ("mqttv3.1, mqtt", "mqttv3.1"), ("x, mqtt", "mqtt")] {
            let request = format!(
                "{REQUEST}Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: {asked_for}\r\n\
                 X-Forwarded-For: 192.0.2.1, 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\n\r\n"
            );
            let (text, outcome) = asked(&request, ANY).await;
            assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
            assert!(text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{text}");
            let line = format!("sec-websocket-protocol: {answered}\r\n");
            assert!(text.to_lowercase().contains(&line), "{text}");
            assert!(!text.to_lowercase().contains("extensions"), "{text}");
            assert_eq!(outcome.unwrap(), ["192.0.2.1", "10.0.0.1", "10.0.0.2"]);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_no_such_request_is_told() {
        let mqtt = format!("{REQUEST}Sec-WebSocket-Protocol: mqtt\r\n");
        let at = |path| Entry { path, ..ANY };
        let long = format!("{mqtt}Cookie: {}\r\n", "c".repeat(REQUEST_MAX));
        for (request, entry, status) in [
            (format!("{mqtt}\r\n"), at("/other"), 404),
            ("GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), ANY, 426),
            (format!("{REQUEST}\r\n"), ANY, 400),
            (format!("{REQUEST}Sec-WebSocket-Protocol: xmpp\r\n\r\n"), ANY, 400),
            (format!("{}\r\n", mqtt.replace("Version: 13", "Version: 8")), ANY, 400),
            ("\u{10}\u{12}\0\u{4}MQTT\r\n\r\n".to_owned(), ANY, 400),
            (format!("{mqtt}Origin: https://elsewhere.example\r\n\r\n"), ANY, 403),
            (format!("{long}\r\n"), ANY, 431),
        ] {
            let (text, outcome) = asked(&request, entry).await;
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {text}");
            assert_eq!(outcome.unwrap_err().status.map(|status| status.as_u16()), Some(status));
        }
    }

    #[test]
    fn pages_may_connect_by_their_origin() {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("broker.local:8083"));
        let list = ["https://panel.example".to_owned()];
        let every = ["*".to_owned()];
        for (origin, origins, fine) in [
            ("http://broker.local", None, true),
            ("http://Broker.local:3000", None, true),
            ("http://broker.local.evil.example", None, false),
            ("null", None, false),
            ("https://panel.example", Some(&list[..]), true),
            ("https://panel.example:444", Some(&list[..]), false),
            ("http://broker.local", Some(&list[..]), false),
            ("http://anywhere", Some(&every[..]), true),
        ] {
            assert_eq!(allowed(&HeaderValue::from_static(origin), &headers, origins), fine, "{origin}");
        }
        // A page of a name that somebody has pointed to this machine.
        headers.insert("host", HeaderValue::from_static("evil.example:8083"));
        let rebound = HeaderValue::from_static("http://evil.example:8083");
        assert!(!allowed(&rebound, &headers, None));
        assert!(allowed(&rebound, &headers, Some(&["http://evil.example:8083".to_owned()])));
    }

    #[test]
    fn the_client_is_the_first_from_the_right_that_is_no_proxy() {
        let trusted = |ip: IpAddr| ip.to_string().starts_with("10.");
        let of = |text: &str| {
            let items: Vec<String> = text.split(',').filter(|item| !item.is_empty()).map(str::to_owned).collect();
            client_of(&items, trusted).map(|ip| ip.to_string())
        };
        assert_eq!(of("192.0.2.1,10.0.0.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(
            of("1.1.1.1,192.0.2.1,10.0.0.1").as_deref(),
            Some("192.0.2.1"),
            "what a client adds is not believed"
        );
        assert_eq!(of("10.0.0.3,10.0.0.1").as_deref(), Some("10.0.0.3"));
        assert_eq!(of("192.0.2.1:5000").as_deref(), Some("192.0.2.1"));
        assert_eq!(of("unknown"), None);
        assert_eq!(of(""), None);
    }
}
