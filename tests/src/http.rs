//! HTTP/1.1, one request a connection, over TCP or a Unix socket: what the broker's API is asked through.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::link;

/// How long an answer may take before the test gives up on it.
const LIMIT: Duration = Duration::from_secs(60);

/// Where the API is.
#[derive(Debug, Clone)]
pub enum Api {
    /// HTTP on this port of 127.0.0.1, with a token if there is one.
    Http(u16, Option<String>),
    /// The Unix socket.
    Socket(PathBuf),
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The head, as it came.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|why| panic!("{why}: {}", self.body))
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find_map(|(have, value)| have.eq_ignore_ascii_case(name).then_some(value.trim()))
    }
}

/// Sends a request and reads its answer, to the end that its head names: some servers leave the connection open.
fn exchange(mut stream: impl Read + Write, request: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(request)?;
    let (mut bytes, mut part) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let n = link::read(&mut stream, &mut part)?;
        bytes.extend_from_slice(&part[..n]);
        let whole = || {
            let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"))?.trim().parse::<usize>();
            Some(end + length.ok()?)
        };
        if n == 0 || whole().is_some_and(|whole| bytes.len() >= whole) {
            return Ok(bytes);
        }
    }
}

impl Api {
    /// HTTP without a token.
    pub fn http(port: u16) -> Self {
        Self::Http(port, None)
    }

    /// The Unix socket at this path.
    pub fn socket(path: &Path) -> Self {
        Self::Socket(path.to_owned())
    }

    /// GET.
    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    /// A request; the answer must come and be whole.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_ask(method, path, headers, body).unwrap_or_else(|why| panic!("{path}: {why}"))
    }

    /// The same, of a server that may close the connection before it answers.
    ///
    /// # Errors
    /// It did.
    pub fn try_ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
        let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "Host") {
            text.push_str("Host: 127.0.0.1\r\n");
        }
        if let Self::Http(_, Some(token)) = self {
            text.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        let request = [text.as_bytes(), b"\r\n", body].concat();
        let bytes = match self {
            Self::Http(port, _) => {
                let stream = TcpStream::connect(("127.0.0.1", *port))?;
                stream.set_read_timeout(Some(LIMIT))?;
                exchange(stream, &request)?
            }
            Self::Socket(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(LIMIT))?;
                exchange(stream, &request)?
            }
        };
        if bytes.is_empty() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {path}: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let answer = Answer { status, head: head.to_owned(), body: body.to_owned() };
        let length: usize = answer.header("content-length").unwrap().parse().unwrap();
        assert!(method == "HEAD" || length == body.len(), "{path}: cut off");
        Ok(answer)
    }
}
