//! A listener, checked.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use forebay_wire::types::Version;

use super::address::{ListenUrl, Place};
use super::checked::{Durability, Limits, Rate, Source};
use crate::network::Network;

/// One address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// As it was written, for messages: `mqtts://0.0.0.0:8883`.
    pub url: String,
    /// Where it is.
    pub place: Place,
    /// Clients without a user name may connect; without any source of authentication everybody may.
    pub anonymous: bool,
    /// Who says who a client is, in this order; `None` for those of [`AccessConfig::sources`](super::AccessConfig::sources).
    pub sources: Option<Vec<Source>>,
    /// Its own ACL, instead of [`AccessConfig::acl_file`](super::AccessConfig::acl_file).
    pub acl_file: Option<PathBuf>,
    /// Present for `ws` and `wss`.
    pub websocket: Option<WebSocketRules>,
    /// Who may open a Unix socket; nothing for other listeners.
    pub socket: SocketFile,
    /// Where the user name comes from, if it is not CONNECT's: nobody needs a password then.
    pub user_from: Option<UserFrom>,
    /// The client identifier must be the user name; a client that says none gets it.
    pub client_id_is_user: bool,
    /// Each connection begins with a header of the PROXY protocol; nobody but trusted proxies may connect.
    pub proxy_protocol: bool,
    /// The proxies whose word counts.
    pub trusted_proxies: Vec<Network>,
    /// Who may connect at all.
    pub admission: Admission,
    /// Present for `mqtts` and `wss`.
    pub tls: Option<Tls>,
    /// What else holds for TLS.
    pub tls_rules: TlsRules,
    /// When a publish on this listener is acknowledged, unless a [`DurabilityRule`](super::DurabilityRule) matches its topic.
    pub durability: Durability,
    /// Connections at once on this listener; at most [`Limits::max_connections`](super::Limits::max_connections).
    pub max_connections: usize,
    /// Bytes of the largest TLS record that is sent, its header included; `None` for TLS's own limit.
    pub max_fragment_size: Option<usize>,
    /// Rate of each of its connections; `None` for no limit. Past it the socket is read later.
    pub rate: Option<Rate>,
    /// The same for what each of them is sent. Past it the socket is written later.
    pub rate_out: Option<Rate>,
    /// Stands before all topics of its clients; ends with a slash.
    pub mount_point: Option<String>,
    /// What else holds for its clients.
    pub bounds: Bounds,
}

impl Listener {
    /// With the defaults: plain MQTT, everybody may connect.
    #[must_use]
    pub fn new(url: &str, place: Place, max_connections: usize) -> Self {
        Self {
            url: url.to_owned(),
            place,
            anonymous: true,
            sources: None,
            acl_file: None,
            websocket: None,
            socket: SocketFile::default(),
            user_from: None,
            client_id_is_user: false,
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
            admission: Admission::default(),
            tls: None,
            tls_rules: TlsRules::default(),
            durability: Durability::Commit,
            max_connections,
            max_fragment_size: None,
            rate: None,
            rate_out: None,
            mount_point: None,
            bounds: Bounds::default(),
        }
    }

    /// Whether what this address says of others counts. Whoever may open a Unix socket is trusted.
    #[must_use]
    pub fn trusts(&self, addr: Option<IpAddr>) -> bool {
        addr.map_or(matches!(self.place, Place::Unix(_)), |addr| self.trusted_proxies.iter().any(|net| net.has(addr)))
    }

    /// All files that its TLS is made of.
    #[must_use]
    pub fn tls_files(&self) -> Vec<PathBuf> {
        let own = match &self.tls {
            Some(Tls::Files(files)) => Some(files),
            Some(Tls::Development) | None => None,
        };
        let pairs = own.into_iter().chain(&self.tls_rules.more);
        let mut all: Vec<PathBuf> = pairs.flat_map(|pair| [pair.certificate.clone(), pair.key.clone()]).collect();
        if let Some(clients) = &self.tls_rules.clients {
            all.push(clients.ca.clone());
            all.extend(clients.crl.clone());
        }
        all
    }

    /// What the URL says; TLS apart, which needs a certificate.
    #[must_use]
    pub fn at(url: &ListenUrl, max_connections: usize) -> Self {
        let websocket = url.websocket.as_ref().map(|path| WebSocketRules { path: path.clone(), origins: None });
        Self { websocket, ..Self::new(&url.url, url.place.clone(), max_connections) }
    }
}

/// Limits that a listener may have of its own; `None` for those of all listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Connections at once with one address; `None` for no limit.
    pub connections_per_address: Option<usize>,
    /// Connections at once that have not finished their handshake.
    pub handshakes: Option<usize>,
    /// The same with one address.
    pub handshakes_per_address: Option<usize>,
    /// The shortest keep alive of an MQTT 5 client; `None` for any.
    pub keep_alive_min: Option<Duration>,
    /// The longest keep alive of an MQTT 5 client.
    pub keep_alive_max: Option<Duration>,
    /// Bytes of the largest packet that is accepted.
    pub packet_size: Option<u32>,
    /// How long a session outlives its connection at most.
    pub session_expiry: Option<Duration>,
}

impl Bounds {
    /// Handshakes in progress, all together and with one address.
    #[must_use]
    pub fn handshakes(&self, limits: &Limits) -> (usize, usize) {
        let all = self.handshakes.unwrap_or(limits.max_handshakes);
        (all, self.handshakes_per_address.unwrap_or(limits.max_handshakes_per_address).min(all))
    }

    /// The shortest and the longest keep alive of an MQTT 5 client, in seconds; a longest of 0 leaves it to the client.
    #[must_use]
    pub fn keep_alive_s(&self, limits: &Limits) -> (u16, u16) {
        let seconds = |time: Duration| u16::try_from(time.as_secs()).unwrap_or(u16::MAX);
        let max = self.keep_alive_max.unwrap_or(limits.max_keep_alive);
        (self.keep_alive_min.map_or(0, seconds), seconds(max))
    }

    /// The largest packet that is accepted, in bytes.
    #[must_use]
    pub fn packet_size(&self, limits: &Limits) -> u32 {
        self.packet_size.unwrap_or(limits.max_packet_size)
    }

    /// How long a session outlives its connection at most.
    #[must_use]
    pub fn session_expiry(&self, limits: &Limits) -> Duration {
        self.session_expiry.unwrap_or(limits.max_session_expiry)
    }
}

/// Who may connect to a listener, whoever it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Versions of MQTT; empty for all.
    pub versions: Vec<Version>,
    /// Patterns of client identifiers, in which `*` is any text; empty for all.
    pub client_ids: Vec<String>,
    /// New connections a second; what is more waits.
    pub connects_per_s: Option<u32>,
}

impl Admission {
    /// Whether a client of this version may connect.
    #[must_use]
    pub fn admits(&self, version: Version) -> bool {
        self.versions.is_empty() || self.versions.contains(&version)
    }

    /// Whether a client with this identifier may connect.
    #[must_use]
    pub fn admits_client(&self, client_id: &str) -> bool {
        self.client_ids.is_empty() || self.client_ids.iter().any(|pattern| fits(pattern, client_id))
    }

    /// As they are written.
    pub(super) const VERSIONS: &[(&str, Version)] =
        &[("3.1", Version::V31), ("3.1.1", Version::V311), ("5", Version::V5)];
}

/// `*` is any text, also none.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

/// What a request for a WebSocket must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketRules {
    /// The path; empty for any.
    pub path: String,
    /// The pages that may connect, as browsers name them in `Origin`: `https://panel.example`; `*` for all. `None`: all
    /// where a user name is needed, otherwise those of the host that the request is for.
    pub origins: Option<Vec<String>>,
}

/// Who may open a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketFile {
    /// Its permissions.
    pub mode: u32,
    /// Its owner: a name of /etc/passwd, or a number; `None` for the broker's user.
    pub owner: Option<String>,
    /// Its group: a name of /etc/group, or a number.
    pub group: Option<String>,
}

impl Default for SocketFile {
    fn default() -> Self {
        Self { mode: 0o660, owner: None, group: None }
    }
}

/// Where a user name comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserFrom {
    /// The user that the process at the other end of a Unix socket runs as.
    Peer,
    /// The common name of the client's certificate.
    CommonName,
    /// Its whole subject.
    Subject,
    /// Its first DNS name.
    Dns,
    /// Its first URI.
    Uri,
    /// Its first e-mail address.
    Email,
    /// Its serial number.
    Serial,
    /// Its SHA-256.
    Fingerprint,
}

impl UserFrom {
    /// As they are written.
    pub(super) const WORDS: &[(&str, Self)] = &[
        ("peer", Self::Peer),
        ("cn", Self::CommonName),
        ("subject", Self::Subject),
        ("dns", Self::Dns),
        ("uri", Self::Uri),
        ("email", Self::Email),
        ("serial", Self::Serial),
        ("fingerprint", Self::Fingerprint),
    ];

    /// As it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, from)| *from == self).map_or("", |(word, _)| word)
    }
}

/// What holds for TLS beside the first certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsRules {
    /// Certificates for other names than the first one's.
    pub more: Vec<TlsFiles>,
    /// Certificates of clients; `None`: they are not asked for any.
    pub clients: Option<ClientCertificates>,
    /// TLS 1.2 is not spoken.
    pub only_tls13: bool,
    /// The cipher suites, by name; empty for all that there are.
    pub cipher_suites: Vec<String>,
}

impl TlsRules {
    /// Whether clients need a certificate, as it is written.
    pub(super) const CLIENTS: &[(&str, bool)] = &[("required", true), ("optional", false)];
    /// What an old revocation list does, as it is written; whether it refuses.
    pub(super) const CRL_EXPIRED: &[(&str, bool)] = &[("accept", false), ("refuse", true)];
    /// The lowest version of TLS, as it is written; whether it is 1.3.
    pub(super) const VERSIONS: &[(&str, bool)] = &[("1.2", false), ("1.3", true)];
}

/// Certificates that clients show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// The CAs that they come from.
    pub ca: PathBuf,
    /// A client without one is not let in.
    pub required: bool,
    /// What the CAs have revoked.
    pub crl: Option<PathBuf>,
    /// A revocation list that is old lets nobody in; otherwise it holds as it is.
    pub refuse_after_crl: bool,
}

/// Where a TLS listener's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// The user's files.
    Files(TlsFiles),
    /// Made by the program under the data directory, for this machine only.
    Development,
}

/// A user's certificate and key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, the server's own first.
    pub certificate: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_star_is_any_text() {
        for (pattern, text, fits) in [
            ("pump-7", "pump-7", true),
            ("pump-7", "pump-70", false),
            ("pump-*", "pump-", true),
            ("pump-*", "pump-77", true),
            ("pump-*", "valve", false),
            ("*-7", "pump-7", true),
            ("*-7", "pump-77", false),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("ab*ba", "aba", false),
            ("*", "", true),
        ] {
            assert_eq!(super::fits(pattern, text), fits, "{pattern} {text}");
        }
    }
}
