//! Which server: the URL, and what is trusted.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use forebay_client::{InvalidOptions, Tls};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;

use crate::tools::exit::{Exit, Failure};

/// A server's URL, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// As it was written, without what stands before an `@`.
    pub shown: String,
    /// Name or address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether it is `mqtts`.
    pub tls: bool,
    /// The user name in it.
    pub username: Option<String>,
    /// The password in it.
    pub password: Option<String>,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let wanted =
            || format!("\"{url}\" is not a server's URL, such as mqtt://127.0.0.1:1883 or mqtts://broker:8883");
        let (scheme, rest) = url.split_once("://").ok_or_else(wanted)?;
        let (tls, default_port) = match scheme {
            "mqtt" | "tcp" => (false, 1883),
            "mqtts" | "ssl" | "tls" => (true, 8883),
            "ws" | "wss" => return Err(format!("{scheme}: WebSocket is not supported; use mqtt:// or mqtts://")),
            _ => return Err(format!("\"{scheme}\" is not a scheme of MQTT; use mqtt:// or mqtts://")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, address) = rest.rsplit_once('@').map_or((None, rest), |(login, address)| (Some(login), address));
        if address.contains(['/', '?', '#']) {
            return Err(format!("\"{url}\": a path is not part of it; a topic is given with --topic"));
        }
        let (host, port) = match address.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or_else(wanted)?,
            None => address.split_at_checked(address.find(':').unwrap_or(address.len())).ok_or_else(wanted)?,
        };
        let port = match port.strip_prefix(':') {
            Some(text) => text.parse().ok().filter(|port| *port > 0),
            None => port.is_empty().then_some(default_port),
        };
        let port = port.ok_or_else(|| format!("\"{url}\": a port is a number from 1 to 65535"))?;
        if host.is_empty() {
            return Err(wanted());
        }
        let (username, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, "")) => (Some(decoded(user)?), None),
            Some((user, password)) => (Some(decoded(user)?), Some(decoded(password)?)),
            None => (None, None),
        };
        Ok(Self { shown: format!("{scheme}://{address}"), host: host.to_owned(), port, tls, username, password })
    }
}

/// `%40` is `@`.
fn decoded(text: &str) -> Result<String, String> {
    let wrong = || format!("\"{text}\": % is followed by two hexadecimal digits; a % itself is written %25");
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or_else(wrong)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// What the command line says about TLS.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Whom to trust; the platform's roots if it is not given.
    pub ca: Option<PathBuf>,
    /// The client's certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Trust anyone.
    pub insecure: bool,
}

/// A server's address, and how to speak TLS to it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it is.
    pub addr: SocketAddr,
    /// With TLS: the configuration, and the name that its certificate must have.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Endpoint {
    /// Looks the name up.
    ///
    /// # Errors
    /// It has no address.
    pub fn new(url: &Url, tls: Option<Arc<ClientConfig>>) -> Result<Self, Failure> {
        let unknown = |why: String| Failure::new(Exit::Unreachable, format!("{}: no address: {why}", url.host));
        let mut found = (url.host.as_str(), url.port).to_socket_addrs().map_err(|why| unknown(why.to_string()))?;
        let addr = found.next().ok_or_else(|| unknown("the name has none".to_owned()))?;
        let tls = match tls {
            None => None,
            Some(config) => {
                let name = ServerName::try_from(url.host.clone())
                    .map_err(|_| Failure::usage(format!("{} cannot be the name in a certificate", url.host)))?;
                Some((config, name))
            }
        };
        Ok(Self { addr, tls })
    }
}

/// The configuration of a TLS client. Nothing is resumed: each handshake is a whole one.
///
/// # Errors
/// A file cannot be read, or holds something else.
pub fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, Failure> {
    let wrong = |flag: &'static str| move |error: InvalidOptions| Failure::usage(format!("{flag}: {error}"));
    let mut tls = Tls::new();
    if let Some(ca) = &files.ca {
        tls = tls.ca_file(ca).map_err(wrong("--cafile"))?;
    }
    if let Some((certificate, key)) = &files.client {
        tls = tls.identity(certificate, key).map_err(wrong("--cert, --key"))?;
    }
    if files.insecure {
        tls = tls.without_verification();
    }
    let mut config = tls.client_config().map_err(wrong("--cafile"))?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form() {
        for (url, host, port, tls) in [
            ("mqtt://127.0.0.1:1884", "127.0.0.1", 1884, false),
            ("mqtt://broker", "broker", 1883, false),
            ("mqtts://broker/", "broker", 8883, true),
            ("mqtts://[::1]:8884", "::1", 8884, true),
            ("mqtt://[::1]", "::1", 1883, false),
        ] {
            let read: Url = url.parse().unwrap();
            assert_eq!((read.host.as_str(), read.port, read.tls), (host, port, tls), "{url}");
            assert_eq!((read.username, read.password), (None, None), "{url}");
        }
        let read: Url = "mqtt://b%40r:p%25@[::1]:7".parse().unwrap();
        assert_eq!((read.username.as_deref(), read.password.as_deref()), (Some("b@r"), Some("p%")));
        assert_eq!(read.shown, "mqtt://[::1]:7", "the password is not shown");
    }

    #[test]
    fn says_what_is_wrong() {
        for (url, says) in [
            ("broker:1883", "is not a server's URL"),
            ("http://broker", "\"http\" is not a scheme of MQTT"),
            ("ws://broker", "WebSocket is not supported"),
            ("mqtt://:1883", "is not a server's URL"),
            ("mqtt://broker:0", "a port is a number from 1 to 65535"),
            ("mqtt://broker:99999", "a port is a number"),
            ("mqtt://[::1", "is not a server's URL"),
            ("mqtt://[::1]1883", "a port is a number"),
            ("mqtt://broker/topic", "a path is not part of it"),
            ("mqtt://a%4@broker", "two hexadecimal digits"),
            ("mqtt://a%é@broker", "two hexadecimal digits"),
        ] {
            let error = url.parse::<Url>().unwrap_err();
            assert!(error.contains(says), "{url}: {error}");
        }
    }
}
