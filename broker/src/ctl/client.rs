//! One request over the Unix socket. The broker closes the connection behind its answer, so the answer ends where the
//! stream ends; its length is held against what the head says.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// How long the broker may be silent.
const SILENCE: Duration = Duration::from_secs(120);

/// Asks, and reads the answer.
pub(super) fn ask(socket: &Path, method: &str, path: &str, body: &[u8]) -> Result<Value, String> {
    let failed = |error: std::io::Error| {
        use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
        let (name, kind) = (socket.display(), error.kind());
        if kind == NotFound {
            format!("{name} is not there: is the broker running with admin.socket? (--socket says where it is)")
        } else if kind == PermissionDenied {
            format!("{name} is for the broker's user and for root only: {error}")
        } else if kind == ConnectionRefused {
            format!("nobody answers at {name}: the broker is not running")
        } else {
            format!("{name}: {error}")
        }
    };
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(SILENCE)).map_err(failed)?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).map_err(failed)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(failed)?;
    read(&answer)
}

fn read(answer: &[u8]) -> Result<Value, String> {
    let odd = || "the broker's answer is not complete".to_owned();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(odd)?;
    let (head, body) = answer.split_at_checked(end + 4).ok_or_else(odd)?;
    let head = std::str::from_utf8(head).map_err(|_| odd())?;
    let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(odd)?;
    let length = head.lines().filter_map(|line| line.split_once(':'));
    let length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.filter_map(|(_, value)| value.trim().parse::<usize>().ok()).next();
    if length != Some(body.len()) {
        return Err(odd());
    }
    let value: Value = serde_json::from_slice(body).map_err(|error| format!("the broker's answer: {error}"))?;
    match value.get("error").and_then(Value::as_str) {
        Some(error) if status != 200 => Err(error.to_owned()),
        _ if status != 200 => Err(format!("the broker answered {status}")),
        _ => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_or_an_error() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"a\": 1}";
        assert_eq!(read(answer), Ok(serde_json::json!({ "a": 1 })));
        for end in 0..answer.len() {
            assert!(read(answer.get(..end).unwrap_or_default()).is_err(), "{end}");
        }
        let refused = b"HTTP/1.1 404 Not Found\r\ncontent-length: 15\r\n\r\n{\"error\":\"why\"}";
        assert_eq!(read(refused), Err("why".to_owned()));
    }
}
