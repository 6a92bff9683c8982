//! URLs of servers.

use std::fmt;

use crate::error::InvalidOptions;

/// How to reach a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) scheme: Scheme,
    /// Host name or address, without the brackets of IPv6; the path for a Unix socket.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path of a WebSocket, with its slash.
    pub(crate) path: String,
}

/// What carries MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Mqtt,
    Mqtts,
    Ws,
    Wss,
    Unix,
}

impl Scheme {
    const ALL: [(&'static str, Self); 7] = [
        ("mqtt", Self::Mqtt),
        ("mqtts", Self::Mqtts),
        ("ws", Self::Ws),
        ("wss", Self::Wss),
        ("unix", Self::Unix),
        ("tcp", Self::Mqtt),
        ("ssl", Self::Mqtts),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, scheme)| *scheme == self).map_or("", |(name, _)| name)
    }

    fn port(self) -> u16 {
        match self {
            Self::Mqtt => 1883,
            Self::Mqtts => 8883,
            Self::Ws => 80,
            Self::Wss => 443,
            Self::Unix => 0,
        }
    }
}

/// A URL, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) address: Address,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.scheme.name();
        if self.scheme == Scheme::Unix {
            write!(f, "{name}://{}", self.host)
        } else if self.host.contains(':') {
            write!(f, "{name}://[{}]:{}{}", self.host, self.port, self.path)
        } else {
            write!(f, "{name}://{}:{}{}", self.host, self.port, self.path)
        }
    }
}

/// Takes a URL apart. What is wrong with it is said without its password.
pub(crate) fn parse(url: &str) -> Result<Parsed, InvalidOptions> {
    const EXAMPLE: &str = "mqtts://user@broker.example:8883";
    let invalid =
        |what: &str| InvalidOptions(format!("the URL {}: {what}; for example {EXAMPLE}", without_password(url)));
    let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("it does not begin with mqtt:// or the like"))?;
    let scheme = Scheme::ALL
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(scheme))
        .map(|(_, scheme)| *scheme)
        .ok_or_else(|| invalid("its scheme is none of mqtt, mqtts, ws, wss and unix"))?;
    if scheme == Scheme::Unix {
        if !rest.starts_with('/') {
            return Err(InvalidOptions(format!("the URL {url}: a Unix socket is a path, unix:///run/mqtt.sock")));
        }
        let address = Address { scheme, host: rest.to_owned(), port: 0, path: String::new() };
        return Ok(Parsed { address, username: None, password: None });
    }
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let is_ws = matches!(scheme, Scheme::Ws | Scheme::Wss);
    if !is_ws && !matches!(path, "" | "/") {
        return Err(invalid("only a WebSocket has a path"));
    }
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let (username, password) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
        None => (None, None),
        Some((name, password)) => {
            let decode =
                |text: &str| decoded(text).ok_or_else(|| invalid("its user name or password is not %-encoded UTF-8"));
            (Some(decode(name)?), if password.is_empty() { None } else { Some(decode(password)?) })
        }
    };
    let (host, port) = host_and_port(host).ok_or_else(|| invalid("its port is not a number from 1 to 65535"))?;
    if host.is_empty() {
        return Err(invalid("it has no host"));
    }
    let path = if is_ws && path.is_empty() {
        "/mqtt"
    } else if is_ws {
        path
    } else {
        ""
    };
    let port = port.unwrap_or(scheme.port());
    Ok(Parsed { address: Address { scheme, host: host.to_owned(), port, path: path.to_owned() }, username, password })
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`; `None` for a port that is not one.
fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) }),
        None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    match port {
        None => Some((host, None)),
        Some(port) => port.parse().ok().filter(|port| *port > 0).map(|port| (host, Some(port))),
    }
}

/// %-decoding (RFC 3986, section 2.1).
fn decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    match rest.rsplit_once('@') {
        Some((user, host)) => {
            let name = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{name}@{host}")
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_urls_apart() {
        let parsed = parse("mqtts://us%40er:pa:ss@broker.example").unwrap();
        assert_eq!(parsed.address.to_string(), "mqtts://broker.example:8883");
        assert_eq!((parsed.username.as_deref(), parsed.password.as_deref()), (Some("us@er"), Some("pa:ss")));
        assert_eq!(parse("MQTT://[::1]:99").unwrap().address.to_string(), "mqtt://[::1]:99");
        assert_eq!(parse("ws://h/x?y").unwrap().address.path, "/x?y");
        assert_eq!(parse("wss://h").unwrap().address.path, "/mqtt");
        assert_eq!(parse("unix:///run/m.sock").unwrap().address.host, "/run/m.sock");
        assert_eq!(parse("mqtt://h").unwrap().address.port, 1883);
    }

    #[test]
    fn says_what_is_wrong_without_the_password() {
        for (url, what) in [
            ("broker", "begin with"),
            ("http://x", "scheme"),
            ("mqtt://:1883", "no host"),
            ("mqtt://h:0", "port"),
            ("mqtt://h:x", "port"),
            ("mqtt://[::1]x", "port"),
            ("mqtt://h/path", "path"),
            ("unix://run", "path"),
            ("mqtt://%zz@h", "encoded"),
            ("mqtt://me:secret@h:x", "port"),
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains(what), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
