//! Which server: the URL, and what is trusted.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;

use forebay_client::{InvalidOptions, Scheme, Tls, Url};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;

use crate::tools::exit::{Exit, Failure};

/// Reads `--url`.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn url(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error: InvalidOptions| error.to_string())?;
    match url.scheme() {
        Scheme::Mqtt | Scheme::Mqtts => Ok(url),
        Scheme::Ws | Scheme::Wss => Err("WebSocket is not measured; use mqtt:// or mqtts://".to_owned()),
        Scheme::Unix => Err("a Unix socket is not measured; use mqtt:// or mqtts://".to_owned()),
    }
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
        let unknown = |why: String| Failure::new(Exit::Unreachable, format!("{}: no address: {why}", url.host()));
        let mut found = (url.host(), url.port()).to_socket_addrs().map_err(|why| unknown(why.to_string()))?;
        let addr = found.next().ok_or_else(|| unknown("the name has none".to_owned()))?;
        let tls = match tls {
            None => None,
            Some(config) => {
                let name = ServerName::try_from(url.host().to_owned())
                    .map_err(|_| Failure::usage(format!("{} cannot be the name in a certificate", url.host())))?;
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
    fn only_tcp_and_tls_are_measured() {
        assert_eq!(url("mqtts://me@broker").unwrap().to_string(), "mqtts://broker:8883");
        for (text, says) in [
            ("ws://broker", "WebSocket is not measured"),
            ("unix:///run/mqtt.sock", "Unix socket is not measured"),
            ("http://broker", "\"http\" is not a scheme of MQTT"),
        ] {
            let error = url(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
