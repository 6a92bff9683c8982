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
pub enum Scheme {
    /// `mqtt://`, also `tcp://`.
    Mqtt,
    /// `mqtts://`, also `ssl://` and `tls://`.
    Mqtts,
    /// `ws://`.
    Ws,
    /// `wss://`.
    Wss,
    /// `unix://`.
    Unix,
}

impl Scheme {
    const ALL: [(&'static str, Self); 8] = [
        ("mqtt", Self::Mqtt),
        ("mqtts", Self::Mqtts),
        ("ws", Self::Ws),
        ("wss", Self::Wss),
        ("unix", Self::Unix),
        ("tcp", Self::Mqtt),
        ("ssl", Self::Mqtts),
        ("tls", Self::Mqtts),
    ];

    /// Whether TLS is below MQTT.
    #[must_use]
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

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

/// A server's URL, taken apart: `mqtts://user:password@host:8883`. It is shown without user name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    pub(crate) address: Address,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
}

impl Url {
    /// What carries MQTT.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.address.scheme
    }

    /// Host name or address, without the brackets of IPv6; the path of a Unix socket.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.address.host
    }

    /// Port, the scheme's own where none is written.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port
    }

    /// User name.
    #[must_use]
    pub fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// Password.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }
}

impl std::str::FromStr for Url {
    type Err = InvalidOptions;

    fn from_str(url: &str) -> Result<Self, InvalidOptions> {
        parse(url)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
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
pub(crate) fn parse(url: &str) -> Result<Url, InvalidOptions> {
    let shown = without_password(url);
    let invalid = |what: &str| InvalidOptions(format!("the URL \"{shown}\": {what}"));
    let Some((scheme, rest)) = url.split_once("://") else {
        // A host alone is what most people mean by this.
        let example = if host_and_port(url).is_ok() { url } else { "broker.example" };
        return Err(InvalidOptions(format!("\"{shown}\" is not a server's URL, such as mqtt://{example}")));
    };
    let known = Scheme::ALL.iter().find(|(name, _)| name.eq_ignore_ascii_case(scheme)).map(|(_, scheme)| *scheme);
    let scheme = known.ok_or_else(|| {
        invalid(&format!("\"{scheme}\" is not a scheme of MQTT; use mqtt://, mqtts://, ws://, wss:// or unix://"))
    })?;
    if scheme == Scheme::Unix {
        if !rest.starts_with('/') {
            return Err(invalid("a Unix socket is a whole path, such as unix:///run/mqtt.sock"));
        }
        let address = Address { scheme, host: rest.to_owned(), port: 0, path: String::new() };
        return Ok(Url { address, username: None, password: None });
    }
    let (authority, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
    if path.contains('@') && !authority.contains('@') {
        return Err(invalid("a /, ? or # in a user name or password is written %2F, %3F or %23"));
    }
    let is_ws = matches!(scheme, Scheme::Ws | Scheme::Wss);
    if !is_ws && !matches!(path, "" | "/") {
        return Err(invalid(
            "a path is not part of it, except for WebSocket; a topic is given with --topic or by the program",
        ));
    }
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let (username, password) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
        None => (None, None),
        Some((name, password)) => {
            let wrong = "% in a user name or password is followed by two hexadecimal digits; a % itself is written %25";
            let decode = |text: &str| decoded(text).ok_or_else(|| invalid(wrong));
            (Some(decode(name)?), if password.is_empty() { None } else { Some(decode(password)?) })
        }
    };
    let (host, port) = host_and_port(host).map_err(invalid)?;
    let path = match path {
        "" if is_ws => "/mqtt",
        path if is_ws => path,
        _ => "",
    };
    let port = port.unwrap_or(scheme.port());
    Ok(Url { address: Address { scheme, host: host.to_owned(), port, path: path.to_owned() }, username, password })
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`; or what is wrong.
fn host_and_port(text: &str) -> Result<(&str, Option<u16>), &'static str> {
    const WRONG_PORT: &str = "a port is a number from 1 to 65535";
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("its [ has no ]")?;
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or(WRONG_PORT)?) };
            (host, port)
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if port.is_some_and(|port| port.contains(':')) {
        return Err("an IPv6 address stands in brackets, such as mqtt://[::1]:1883");
    }
    if host.is_empty() {
        return Err("it has no host");
    }
    if host.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("its host has a blank in it");
    }
    match port {
        None => Ok((host, None)),
        Some(port) if !port.bytes().all(|digit| digit.is_ascii_digit()) => Err(WRONG_PORT),
        Some(port) => port.parse().ok().filter(|port| *port > 0).map(|port| (host, Some(port))).ok_or(WRONG_PORT),
    }
}

/// %-decoding (RFC 3986, section 2.1).
fn decoded(text: &str) -> Option<String> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let decoded = if byte == b'%' { (digit(bytes.next())? * 16 + digit(bytes.next())?) as u8 } else { byte };
        out.push(decoded);
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
    fn reads_every_form() {
        for (url, host, port, tls) in [
            ("mqtt://127.0.0.1:1884", "127.0.0.1", 1884, false),
            ("mqtts://broker/", "broker", 8883, true),
            ("tls://[::1]:8884", "::1", 8884, true),
            ("tcp://[::1]", "::1", 1883, false),
            ("wss://broker/x", "broker", 443, true),
        ] {
            let read: Url = url.parse().unwrap();
            assert_eq!((read.host(), read.port(), read.scheme().is_tls()), (host, port, tls), "{url}");
            assert_eq!((read.username(), read.password()), (None, None), "{url}");
        }
        let read: Url = "mqtt://b%40r:p%25@[::1]:7".parse().unwrap();
        assert_eq!((read.username(), read.password()), (Some("b@r"), Some("p%")));
        assert_eq!((read.to_string(), format!("{read:?}")), ("mqtt://[::1]:7".into(), "Url(mqtt://[::1]:7)".into()));
    }

    #[test]
    fn says_what_is_wrong_without_the_password() {
        for (url, what) in [
            ("broker", "such as mqtt://broker"),
            ("broker:1884", "is not a server's URL, such as mqtt://broker:1884"),
            ("", "such as mqtt://broker.example"),
            ("http://x", "\"http\" is not a scheme of MQTT"),
            ("mqtt://", "no host"),
            ("mqtt://:1883", "no host"),
            ("mqtt://user@:1883", "no host"),
            ("mqtt://my broker", "blank"),
            ("mqtt://h:0", "a port is a number from 1 to 65535"),
            ("mqtt://h:99999", "port"),
            ("mqtt://h:x", "port"),
            ("mqtt://h:+5", "port"),
            ("mqtt://h:", "port"),
            ("mqtt://[::1]x", "port"),
            ("mqtt://[::1", "has no ]"),
            ("mqtt://::1:1883", "stands in brackets"),
            ("mqtt://h/path", "a path is not part of it"),
            ("mqtt://h?x", "a path is not part of it"),
            ("unix://run", "path"),
            ("mqtt://%zz@h", "two hexadecimal digits"),
            ("mqtt://%+1@h", "two hexadecimal digits"),
            ("mqtt://a%4@h", "two hexadecimal digits"),
            ("mqtt://a%é@h", "two hexadecimal digits"),
            ("mqtt://me:secret@h:x", "port"),
            ("mqtt://me:secret/more@h", "%2F"),
            ("me:secret@h", "is not a server's URL"),
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains(what), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
