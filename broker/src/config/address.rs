//! Where to listen, as a URL: `mqtt://127.0.0.1:1883`, `mqtts://[::]:8883`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// A listener's URL, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenUrl {
    /// As it was written.
    pub url: String,
    /// The address.
    pub addr: SocketAddr,
    /// Whether it is `mqtts`.
    pub tls: bool,
}

impl FromStr for ListenUrl {
    type Err = String;

    /// The host is an IP address or `localhost` (127.0.0.1); without a port it is 1883, or 8883 for `mqtts`.
    fn from_str(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wanted(url))?;
        let (tls, default_port) = match scheme {
            "mqtt" => (false, 1883),
            "mqtts" => (true, 8883),
            _ => return Err(format!("\"{scheme}\" is not a scheme that can be listened on (mqtt, mqtts)")),
        };
        let (host, port) = split_port(rest.strip_suffix('/').unwrap_or(rest)).ok_or_else(|| wanted(url))?;
        let port = match port {
            None => default_port,
            Some(text) => text.parse().map_err(|_| format!("\"{text}\" is not a port (0 to 65535)"))?,
        };
        Ok(Self { url: url.to_owned(), addr: SocketAddr::new(ip(host)?, port), tls })
    }
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

fn ip(host: &str) -> Result<IpAddr, String> {
    if host == "localhost" {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    host.parse().map_err(|_| {
        format!(
            "\"{host}\" is not an IP address of this machine; 127.0.0.1 is this machine only, 0.0.0.0 every IPv4 \
             network, [::] every network"
        )
    })
}

/// Whether the two cannot be open at once. `[::]` takes IPv4 as well; port 0 is a new port each time.
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
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
            ("mqtt://127.0.0.1", "127.0.0.1:1883", false),
            ("mqtts://127.0.0.1", "127.0.0.1:8883", true),
            ("mqtt://localhost:0", "127.0.0.1:0", false),
            ("mqtt://0.0.0.0:1884/", "0.0.0.0:1884", false),
            ("mqtts://[::]:8884", "[::]:8884", true),
            ("mqtts://[::1]", "[::1]:8883", true),
        ] {
            let read: ListenUrl = url.parse().unwrap();
            assert_eq!((read.url.as_str(), read.addr, read.tls), (url, addr.parse().unwrap(), tls));
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let form = "is not an address to listen on, such as \"mqtt://127.0.0.1:1883\" or \"mqtts://[::]:8883\"";
        let host = "is not an IP address of this machine; 127.0.0.1 is this machine only, 0.0.0.0 every IPv4 network, \
                    [::] every network";
        for (url, message) in [
            ("1883", format!("\"1883\" {form}")),
            ("mqtt://[::1", format!("\"mqtt://[::1\" {form}")),
            ("mqtt://[::1]1883", format!("\"mqtt://[::1]1883\" {form}")),
            ("ws://127.0.0.1:80", "\"ws\" is not a scheme that can be listened on (mqtt, mqtts)".to_owned()),
            ("mqtt://127.0.0.1:99999", "\"99999\" is not a port (0 to 65535)".to_owned()),
            ("mqtt://127.0.0.1:", "\"\" is not a port (0 to 65535)".to_owned()),
            ("mqtt://gateway:1883", format!("\"gateway\" {host}")),
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
            assert_eq!(overlap(a.parse().unwrap(), b.parse().unwrap()), clash, "{a} {b}");
            assert_eq!(overlap(b.parse().unwrap(), a.parse().unwrap()), clash, "{b} {a}");
        }
    }
}
