//! Who a client is, as far as rules can tell clients apart.

use std::net::IpAddr;
use std::sync::Arc;

/// What a client certificate says of its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// The subject's common name.
    pub cn: Option<String>,
    /// The whole subject, as RFC 4514 writes it.
    pub subject: String,
    /// DNS names.
    pub dns: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
    /// E-mail addresses.
    pub emails: Vec<String>,
    /// The serial number: hexadecimal, lower case.
    pub serial: String,
    /// SHA-256 of the whole certificate: hexadecimal, lower case.
    pub fingerprint: String,
}

impl Certificate {
    /// The field of this name; of several values the first.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        match name {
            "cn" => self.cn.as_deref(),
            "subject" => Some(&self.subject),
            "dns" => self.dns.first().map(String::as_str),
            "uri" => self.uris.first().map(String::as_str),
            "email" => self.emails.first().map(String::as_str),
            "serial" => Some(&self.serial),
            "fingerprint" => Some(&self.fingerprint),
            _ => None,
        }
    }

    /// The names that [`Certificate::field`] knows.
    pub const FIELDS: [&'static str; 7] = ["cn", "subject", "dns", "uri", "email", "serial", "fingerprint"];
}

/// Who a client is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Principal {
    /// The user name; `None` for a client that came without.
    pub user: Option<Arc<str>>,
    /// The client identifier.
    pub client_id: Arc<str>,
    /// Its groups, as the source that let it in names them. An ACL may have more.
    pub groups: Vec<Arc<str>>,
    /// The certificate that it showed.
    pub certificate: Option<Arc<Certificate>>,
    /// Where it comes from.
    pub addr: Option<IpAddr>,
    /// The listener that it came in by, as its `url` is written.
    pub listener: Arc<str>,
}
