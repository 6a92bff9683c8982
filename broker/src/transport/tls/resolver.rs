//! Which certificate a client gets: that of the name that it asks for, or the first.

use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::certificate::Certificate;

/// Certificates with the names that they are for.
#[derive(Debug)]
pub(super) struct Resolver(Vec<(Vec<String>, Arc<CertifiedKey>)>);

impl Resolver {
    /// The first is for clients that ask for no name, or for one that is not known.
    pub(super) fn new(keys: Vec<Arc<CertifiedKey>>) -> Self {
        let names = |key: &CertifiedKey| {
            let owner = key.cert.first().and_then(|der| Certificate::read(der)).unwrap_or_default();
            owner.dns.iter().map(|name| name.to_ascii_lowercase()).collect()
        };
        Self(keys.into_iter().map(|key| (names(&key), key)).collect())
    }

    /// A name of each certificate, for a handshake with it; none for one that has no DNS name.
    pub(super) fn names(&self) -> impl Iterator<Item = Option<&str>> {
        self.0.iter().map(|(names, _)| names.iter().map(String::as_str).find(|name| !name.starts_with('*')))
    }
}

/// `*.site` is for `a.site`, and not for `a.b.site` or `site` [RFC 6125, 6.4.3].
fn is_for(pattern: &str, name: &str) -> bool {
    let rest = |name| str::split_once(name, '.').map(|(_, rest)| rest);
    pattern == name || pattern.strip_prefix("*.").is_some_and(|domain| rest(name) == Some(domain))
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let usable = |key: &CertifiedKey| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let named = |names: &[String]| name.as_ref().is_some_and(|name| names.iter().any(|is| is_for(is, name)));
        let mut of_name = self.0.iter().filter(|(names, key)| named(names) && usable(key));
        let found = of_name.next().or_else(|| self.0.iter().find(|(_, key)| usable(key))).or(self.0.first());
        found.map(|(_, key)| key.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::is_for;

    #[test]
    fn a_star_is_one_label() {
        for (pattern, name, fits) in [
            ("a.site", "a.site", true),
            ("a.site", "b.site", false),
            ("*.site", "a.site", true),
            ("*.site", "a.b.site", false),
            ("*.site", "site", false),
        ] {
            assert_eq!(is_for(pattern, name), fits, "{pattern} {name}");
        }
    }
}
