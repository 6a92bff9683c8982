//! Where to listen, as a URL: `mqtt://127.0.0.1:1883`, `mqtts://[::]:8883`, `wss://eth0/mqtt`, `unix:///run/mqtt.sock`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Bytes of a Unix socket's path that every system takes.
const SOCKET_PATH_MAX: usize = 100;
/// Bytes of a host name.
const NAME_MAX: usize = 253;

/// A listener's URL, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenUrl {
    /// As it was written.
    pub url: String,
    /// Where it is.
    pub place: Place,
    /// Whether it is `mqtts` or `wss`.
    pub tls: bool,
    /// Present for `ws` and `wss`: the path that requests must have; empty for any.
    pub websocket: Option<String>,
}

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An address of this machine.
    Addr(SocketAddr),
    /// A network interface of this machine, or a host name that is looked up when the listener is opened; and a port.
    Name(String, u16),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Place {
    /// Whether only this machine reaches it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Addr(addr) => addr.ip().is_loopback(),
            Self::Name(name, _) => name == "lo",
            Self::Unix(_) => true,
        }
    }

    /// Whether the two cannot be open at once. `[::]` takes IPv4 as well; port 0 is a new port each time.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Addr(a), Self::Addr(b)) => overlap(*a, *b),
            (Self::Name(_, a), Self::Name(_, b)) => self == other && a == b && *a != 0,
            (Self::Unix(a), Self::Unix(b)) => a == b,
            _ => false,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => addr.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl FromStr for ListenUrl {
    type Err = String;

    /// The host is an IP address, `localhost` (127.0.0.1), an interface or a host name. Without a port it is 1883, 8883 for
    /// `mqtts`, 80 for `ws`, 443 for `wss`.
    fn from_str(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wanted(url))?;
        let (tls, web, default_port) = match scheme {
            "mqtt" => (false, false, 1883),
            "mqtts" => (true, false, 8883),
            "ws" => (false, true, 80),
            "wss" => (true, true, 443),
            "unix" => return unix(url, rest),
            _ => {
                return Err(format!(
                    "\"{scheme}\" is not a scheme that can be listened on (mqtt, mqtts, ws, wss, unix)"
                ));
            }
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let websocket = match (web, path) {
            (false, "" | "/") => None,
            (false, _) => return Err(format!("{scheme}:// has no path; write ws:// or wss:// for WebSocket")),
            (true, path) if path.contains(|c: char| !c.is_ascii_graphic() || c == '?' || c == '#') => {
                return Err(format!("\"{path}\" is not a path, such as \"/mqtt\""));
            }
            (true, path) => Some(path.to_owned()),
        };
        let (host, port) = split_port(authority).ok_or_else(|| wanted(url))?;
        let port = match port {
            None => default_port,
            Some(text) => text.parse().map_err(|_| format!("\"{text}\" is not a port (0 to 65535)"))?,
        };
        Ok(Self { url: url.to_owned(), place: place(host, port)?, tls, websocket })
    }
}

fn unix(url: &str, path: &str) -> Result<ListenUrl, String> {
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(format!("\"{url}\" needs a whole path, such as \"unix:///run/forebay/mqtt.sock\""));
    }
    if path.len() > SOCKET_PATH_MAX {
        return Err(format!("the path of a Unix socket has at most {SOCKET_PATH_MAX} bytes, this one {}", path.len()));
    }
    let place = Place::Unix(Path::new(path).to_owned());
    Ok(ListenUrl { url: url.to_owned(), place, tls: false, websocket: None })
}

fn wanted(url: &str) -> String {
    format!("\"{url}\" is not an address to listen on, such as \"mqtt://127.0.0.1:1883\" or \"mqtts://[::]:8883\"")
}

/// The host without its brackets, and the port if there is one; `None` for an open bracket or more after it.
fn split_port(rest: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = rest.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        return match after.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None => after.is_empty().then_some((host, None)),
        };
    }
    Some(match rest.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (rest, None),
    })
}

fn place(host: &str, port: u16) -> Result<Place, String> {
    if host == "localhost" {
        return Ok(Place::Addr(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)));
    }
    if let Ok(ip) = host.parse() {
        return Ok(Place::Addr(SocketAddr::new(ip, port)));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if (1..=NAME_MAX).contains(&host.len()) && host.bytes().all(plain) && host.bytes().any(|b| b.is_ascii_alphabetic())
    {
        return Ok(Place::Name(host.to_owned(), port));
    }
    Err(format!(
        "\"{host}\" is no IP address, host name or interface of this machine; 127.0.0.1 is this machine only, 0.0.0.0 \
         every IPv4 network, [::] every network"
    ))
}

fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let every = |addr: SocketAddr| addr.ip().is_unspecified();
    let hosts =
        a.ip() == b.ip() || (every(a) && (a.is_ipv6() || b.is_ipv4())) || (every(b) && (b.is_ipv6() || a.is_ipv4()));
    hosts && a.port() == b.port() && a.port() != 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_every_form() {
        for (url, addr, tls) in [
            ("mqtt://127.0.0.1:1883", "127.0.0.1:1883", false),
            ("ws://127.0.0.1/mqtt", "127.0.0.1:80", false),
            ("wss://[::1]", "[::1]:443", true),
            ("mqtt://127.0.0.1", "127.0.0.1:1883", false),
            ("mqtts://127.0.0.1", "127.0.0.1:8883", true),
            ("mqtt://localhost:0", "127.0.0.1:0", false),
            ("mqtt://0.0.0.0:1884/", "0.0.0.0:1884", false),
            ("mqtts://[::]:8884", "[::]:8884", true),
            ("mqtts://[::1]", "[::1]:8883", true),
        ] {
            let read: ListenUrl = url.parse().unwrap();
            assert_eq!((read.url.as_str(), read.place, read.tls), (url, Place::Addr(addr.parse().unwrap()), tls));
        }
        let read = |url: &str| url.parse::<ListenUrl>().unwrap();
        assert_eq!(read("mqtt://gateway.site:1").place, Place::Name("gateway.site".to_owned(), 1));
        assert_eq!(read("mqtts://eth0").place, Place::Name("eth0".to_owned(), 8883));
        assert_eq!(read("unix:///run/mqtt.sock").place, Place::Unix("/run/mqtt.sock".into()));
        assert_eq!(read("ws://[::]:8083").websocket.as_deref(), Some(""));
        assert_eq!(read("wss://[::]:8083/a/b").websocket.as_deref(), Some("/a/b"));
        assert_eq!(read("mqtt://[::]:8083/").websocket, None);
    }

    #[test]
    fn says_what_is_wrong() {
        let form = "is not an address to listen on, such as \"mqtt://127.0.0.1:1883\" or \"mqtts://[::]:8883\"";
        let host = "is no IP address, host name or interface of this machine; 127.0.0.1 is this machine only, 0.0.0.0 \
                    every IPv4 network, [::] every network";
        for (url, message) in [
            ("1883", format!("\"1883\" {form}")),
            ("mqtt://[::1", format!("\"mqtt://[::1\" {form}")),
            ("mqtt://[::1]1883", format!("\"mqtt://[::1]1883\" {form}")),
            ("http://h", "\"http\" is not a scheme that can be listened on (mqtt, mqtts, ws, wss, unix)".to_owned()),
            ("mqtt://h/mqtt", "mqtt:// has no path; write ws:// or wss:// for WebSocket".to_owned()),
            ("ws://h/a?b", "\"/a?b\" is not a path, such as \"/mqtt\"".to_owned()),
            ("unix://a", "\"unix://a\" needs a whole path, such as \"unix:///run/forebay/mqtt.sock\"".to_owned()),
            ("mqtt://127.0.0.1:99999", "\"99999\" is not a port (0 to 65535)".to_owned()),
            ("mqtt://127.0.0.1:", "\"\" is not a port (0 to 65535)".to_owned()),
            ("mqtt://gate way:1883", format!("\"gate way\" {host}")),
            ("mqtt://1.2.3:1883", format!("\"1.2.3\" {host}")),
            ("mqtt://:1883", format!("\"\" {host}")),
        ] {
            assert_eq!(url.parse::<ListenUrl>().unwrap_err(), message);
        }
    }

    #[test]
    fn sees_what_cannot_be_open_at_once() {
        for (a, b, clash) in [
            ("127.0.0.1:1883", "127.0.0.1:1883", true),
            ("127.0.0.1:1883", "127.0.0.1:1884", false),
            ("127.0.0.1:1883", "127.0.0.2:1883", false),
            ("0.0.0.0:1883", "127.0.0.1:1883", true),
            ("127.0.0.1:1883", "[::]:1883", true),
            ("0.0.0.0:1883", "[::1]:1883", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            let (one, other) = (Place::Addr(a.parse().unwrap()), Place::Addr(b.parse().unwrap()));
            assert_eq!(one.overlaps(&other), clash, "{a} {b}");
            assert_eq!(other.overlaps(&one), clash, "{b} {a}");
        }
    }
}
