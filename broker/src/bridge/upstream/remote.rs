//! The servers of an upstream, and who this gateway is there: what the configuration says in the same words for every kind.

use std::path::PathBuf;
use std::sync::Arc;

use hyper::Uri;

use super::marks::Marks;
use super::refused::RefusedTopics;
use super::{Setup, address};
use crate::config::TlsFiles;

/// What a connection needs to know, whatever the kind of upstream.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Addresses; at least one.
    pub urls: Vec<String>,
    /// User name.
    pub username: Option<String>,
    /// Read at each connection: it may change while the gateway runs.
    password_file: Option<PathBuf>,
    /// NATS: the file of the user's JWT and of the seed of its key; read at each connection.
    pub credentials_file: Option<PathBuf>,
    /// Whom to trust; `None` for the platform's roots.
    pub ca_file: Option<PathBuf>,
    /// The certificate that this side shows.
    pub identity: Option<TlsFiles>,
    /// What this gateway's bridge is called there.
    pub name: String,
    /// Messages in flight.
    pub window: usize,
    /// What messages say of where they come from.
    pub marks: Marks,
    /// Topics that it says it does not have, or does not let this bridge write to.
    pub refused: Arc<RefusedTopics>,
}

impl Remote {
    /// From the configuration of a bridge.
    #[must_use]
    pub fn of(setup: Setup<'_>) -> Self {
        let bridge = setup.bridge;
        Self {
            urls: bridge.urls.clone(),
            username: bridge.username.clone(),
            password_file: bridge.password_file.clone(),
            credentials_file: bridge.credentials_file.clone(),
            ca_file: bridge.ca_file.clone(),
            identity: bridge.identity.clone(),
            name: format!("forebay-{}-{}", setup.gateway, bridge.name),
            window: usize::from(bridge.window),
            marks: setup.origin(),
            refused: Arc::new(RefusedTopics::new(bridge.refused_topic)),
        }
    }

    /// The address of an attempt: all are tried in turn.
    #[must_use]
    pub fn address(&self, attempt: u32) -> &str {
        address(&self.urls, attempt)
    }

    /// The password, without its last line break.
    ///
    /// # Errors
    /// The file cannot be read, or is not UTF-8.
    pub fn password(&self) -> Result<Option<String>, String> {
        super::password(self.password_file.as_deref())
    }
}

/// Whether the other side has ended a connection: neither a time-out, nor a network that is away.
#[must_use]
pub fn is_ended(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof
    )
}

/// An error and what it came from, without a colon for those who say nothing.
#[must_use]
pub fn because(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    text
}

/// Host and port of an address that says nothing else.
///
/// # Errors
/// It says something else, or has no host.
pub fn host_and_port(url: &str, port: u16) -> Result<(String, u16), String> {
    let wrong = || {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        format!("\"{url}\" is not {scheme}://HOST or {scheme}://HOST:PORT")
    };
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if host.is_empty() || has_user || uri.query().is_some() || !matches!(uri.path(), "" | "/") {
        return Err(wrong());
    }
    Ok((host.to_owned(), uri.port_u16().unwrap_or(port)))
}

/// Why a connection was lost, in the same words for every kind of upstream where it is a certificate.
#[must_use]
pub fn in_plain_words(why: String) -> String {
    if let Some((_, fault)) = why.split_once("invalid peer certificate: ") {
        return format!("the server's certificate is not trusted: {fault}");
    }
    match why.split_once("received fatal alert: ") {
        Some((_, alert)) if alert.contains("Certificate") || alert.contains("UnknownCA") => {
            format!("the server does not take this side's certificate: {alert}")
        }
        _ => why,
    }
}

/// Why there is no connection: the user name, the password, the token or the credentials are not what the server knows. It says
/// so in these words.
#[cfg(any(feature = "rabbitmq", feature = "nats", feature = "kafka"))]
#[must_use]
pub fn login_refused(words: &str) -> String {
    format!("the login is refused: {words}")
}

/// Why something is not taken: this side is known, and may not do that. The server says so in these words.
#[cfg(any(feature = "bridge-mqtt", feature = "rabbitmq", feature = "nats", feature = "kafka"))]
#[must_use]
pub fn not_allowed(words: &str) -> String {
    format!("not allowed: {words}")
}

#[cfg(any(feature = "amqp1", feature = "rocketmq", feature = "rabbitmq", feature = "nats", feature = "kafka"))]
impl Remote {
    /// TLS as the configuration has it: whom to trust, and what this side shows.
    ///
    /// # Errors
    /// A file cannot be read, or does not hold what it should; or the platform has no certificates, where none are named.
    pub fn tls(&self) -> Result<rustls::ClientConfig, String> {
        let text = |error: forebay_client::InvalidOptions| error.to_string();
        let mut tls = forebay_client::Tls::new();
        if let Some(file) = &self.ca_file {
            tls = tls.ca_file(file).map_err(text)?;
        }
        if let Some(files) = &self.identity {
            tls = tls.identity(&files.certificate, &files.key).map_err(text)?;
        }
        tls.client_config().map_err(text)
    }
}

#[cfg(any(feature = "amqp1", feature = "rocketmq"))]
pub use stream::{Stream, connect};

#[cfg(any(feature = "amqp1", feature = "rocketmq"))]
mod stream {
    use std::fmt::Debug;
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use tokio::io::{AsyncRead, AsyncWrite};
    use tokio::net::TcpStream;
    use tokio_rustls::TlsConnector;

    use super::Remote;

    /// What bytes go through.
    pub trait Io: AsyncRead + AsyncWrite + Debug + Send + Unpin {}

    impl<T: AsyncRead + AsyncWrite + Debug + Send + Unpin> Io for T {}

    /// TCP, or TLS over it.
    pub type Stream = Box<dyn Io>;

    /// Connects to a host, with TLS when its protocol inside of TLS is named (`Some(&[])` for none in particular).
    ///
    /// # Errors
    /// There is no connection, a file of the configuration cannot be read, or TLS refuses.
    pub async fn connect(remote: &Remote, (host, port): (&str, u16), tls: Option<&[&[u8]]>) -> Result<Stream, String> {
        let text = |error: std::io::Error| format!("{host}:{port}: {error}");
        let socket = TcpStream::connect((host, port)).await.map_err(text)?;
        socket.set_nodelay(true).map_err(text)?;
        let Some(protocols) = tls else { return Ok(Box::new(socket)) };
        let mut config = remote.tls()?;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("\"{host}\" is neither a DNS name nor an address"))?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await.map_err(text)?;
        Ok(Box::new(stream))
    }
}

/// One that is nowhere.
#[cfg(test)]
#[must_use]
pub fn nowhere(policy: crate::config::RefusedTopic) -> Remote {
    Remote {
        urls: Vec::new(),
        username: None,
        password_file: None,
        credentials_file: None,
        ca_file: None,
        identity: None,
        name: "forebay-g-up".to_owned(),
        window: 1,
        marks: Marks { origin: "g.up".into(), epoch: 3 },
        refused: Arc::new(RefusedTopics::new(policy)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_refused_is_said_in_plain_words() {
        let said = |why: &str| in_plain_words(why.to_owned());
        let untrusted =
            "could not connect to any of [a:1]: TLS handshake failed: invalid peer certificate: UnknownIssuer";
        assert_eq!(said(untrusted), "the server's certificate is not trusted: UnknownIssuer");
        let own = "IO error: received fatal alert: CertificateRequired";
        assert_eq!(said(own), "the server does not take this side's certificate: CertificateRequired");
        let other = "IO error: received fatal alert: HandshakeFailure";
        assert_eq!(said(other), other);
    }

    #[test]
    fn an_address_is_a_host_and_perhaps_a_port() {
        assert_eq!(host_and_port("amqp1://a.example", 5672), Ok(("a.example".to_owned(), 5672)));
        assert_eq!(host_and_port("amqp1s://[::1]:1/", 5671), Ok(("::1".to_owned(), 1)));
        for wrong in ["amqp1://", "amqp1://u:p@h", "amqp1://h/queue", "amqp1://h?x=1", "amqp1://:5"] {
            assert!(host_and_port(wrong, 1).is_err(), "{wrong}");
        }
    }
}
