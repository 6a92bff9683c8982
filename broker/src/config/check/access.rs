//! `[access]`, and what a listener says of access.

use std::path::PathBuf;
use std::time::Duration;

use super::{Checker, duration, number};
use crate::config::address::ListenUrl;
use crate::config::checked::{AccessConfig, DeniedPublish, HttpConfig, HttpFormat, JwtConfig, Source};
use crate::config::defaults;
use crate::config::listener::Listener;
use crate::config::problem::no_such;
use crate::config::raw::{RawAccess, RawHttp, RawJwt};
use crate::config::table::At;
use crate::config::units::Bytes;

impl Checker<'_> {
    pub(super) fn access(&mut self, raw: RawAccess) -> AccessConfig {
        let d = AccessConfig::default();
        let mut access = AccessConfig {
            sources: Vec::new(),
            jwt: raw.jwt.and_then(|at| self.jwt(at)),
            http: raw.http.and_then(|at| self.http(at)),
            dynamic_security: raw.dynamic_security.is_some_and(|at| at.value),
            dynamic_security_import: self.path(raw.dynamic_security_import),
            listener_acl_files: Vec::new(),
            password_file: self.path(raw.password_file),
            acl_file: self.path(raw.acl_file),
            denied_publish: self.word(raw.denied_publish, "answer", DeniedPublish::WORDS, d.denied_publish),
            max_failures: number(raw.max_failures, d.max_failures),
            failure_window: duration(raw.failure_window, d.failure_window),
            ban: duration(raw.ban, d.ban),
            max_hashing: number(raw.max_hashing, d.max_hashing),
            recent_memory: self.recent_memory(raw.recent_memory.as_ref(), raw.learn.as_ref()),
            learn: raw.learn.is_some_and(|at| at.value),
        };
        access.sources = match raw.sources {
            Some(at) => self.sources(at, &access),
            None => Source::WORDS.iter().map(|(_, source)| *source).filter(|source| access.has(*source)).collect(),
        };
        access
    }

    fn recent_memory(&mut self, memory: Option<&At<Bytes>>, learn: Option<&At<bool>>) -> usize {
        let Some(at) = memory else { return defaults::RECENT_MEMORY };
        let bytes = usize::try_from(at.value.0).unwrap_or(usize::MAX);
        if let Some(learn) = learn.filter(|learn| learn.value && bytes == 0) {
            self.wrong(learn, "`recent_memory = \"0B\"` leaves nothing to learn from");
        }
        bytes
    }

    /// Each of them configured, none twice.
    pub(super) fn sources(&mut self, at: At<Vec<At<String>>>, access: &AccessConfig) -> Vec<Source> {
        let mut sources = Vec::new();
        for at in at.value {
            let Some((_, source)) = Source::WORDS.iter().find(|(word, _)| *word == at.value) else {
                let valid: Vec<&str> = Source::WORDS.iter().map(|(word, _)| *word).collect();
                self.wrong(&at, format!("\"{}\": {}", at.value, no_such("source", &at.value, &valid)));
                continue;
            };
            if sources.contains(source) {
                self.wrong(&at, format!("\"{}\" is there already", at.value));
            } else if access.has(*source) {
                sources.push(*source);
            } else {
                self.wrong(&at, format!("\"{}\" is not configured: set `{}` in [access]", at.value, source.key()));
            }
        }
        sources
    }

    fn jwt(&mut self, at: At<RawJwt>) -> Option<JwtConfig> {
        let place = at.place();
        let (raw, d) = (at.value, JwtConfig::default());
        let text = |at: Option<At<String>>| at.map(|at| at.value);
        let config = JwtConfig {
            key_file: self.path(raw.key_file),
            secret_file: self.path(raw.secret_file),
            issuer: text(raw.issuer),
            audience: text(raw.audience),
            user_claim: text(raw.user_claim).unwrap_or(d.user_claim),
            client_id_claim: text(raw.client_id_claim),
            groups_claim: text(raw.groups_claim).unwrap_or(d.groups_claim),
            leeway: duration(raw.leeway, d.leeway),
            require_expiry: raw.require_expiry.map_or(d.require_expiry, |at| at.value),
        };
        if config.key_file.is_none() && config.secret_file.is_none() {
            self.wrong(&place, "needs `key_file` (PEM or JWKS), `secret_file` or both");
            return None;
        }
        Some(config)
    }

    fn http(&mut self, at: At<RawHttp>) -> Option<HttpConfig> {
        let place = at.place();
        let raw = at.value;
        let Some(url) = raw.url else {
            self.wrong(&place, "needs `url`, such as \"https://auth.example/mqtt\"");
            return None;
        };
        let host = url.value.strip_prefix("http://").or_else(|| url.value.strip_prefix("https://"));
        if host.is_none_or(|host| host.is_empty() || host.starts_with('/') || host.contains(['@', ' '])) {
            self.wrong(&url, format!("\"{}\" is not http:// or https:// with a host", url.value));
        }
        if let Some(at) = raw.ca_file.as_ref().filter(|_| url.value.starts_with("http://")) {
            self.wrong(at, format!("{} is not encrypted; write https:// or leave the key out", url.value));
        }
        Some(HttpConfig {
            url: url.value,
            format: self.word(raw.format, "format", HttpFormat::WORDS, HttpFormat::Json),
            ca_file: self.path(raw.ca_file),
            token_file: self.path(raw.token_file),
            timeout: duration(raw.timeout, defaults::HTTP_TIMEOUT),
            max_requests: number(raw.max_requests, defaults::HTTP_REQUESTS),
            last_answer: duration(raw.last_answer, Duration::ZERO),
        })
    }

    /// Beyond this machine nobody is let in by default.
    pub(super) fn anonymous(
        &mut self,
        url: &At<String>,
        parsed: &ListenUrl,
        said: Option<At<bool>>,
        authenticated: bool,
    ) -> bool {
        match said {
            Some(at) if !at.value && !authenticated => {
                self.wrong(&at, "nobody could connect: set `password_file` in [access]");
                true
            }
            Some(at) => at.value,
            None if !authenticated && !parsed.place.is_local() => {
                self.wrong(
                    url,
                    "others can reach this address, and nothing says who may connect: set `password_file` in \
                     [access], or `anonymous = true` here to let everybody in",
                );
                true
            }
            None => !authenticated,
        }
    }
}

/// The ACLs that listeners have for themselves.
pub(super) fn listener_acl_files(listeners: &[Listener], own: Option<&PathBuf>) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    for file in listeners.iter().filter_map(|listener| listener.acl_file.as_ref()) {
        if Some(file) != own && !files.contains(file) {
            files.push(file.clone());
        }
    }
    files
}

impl AccessConfig {
    /// Whether a source is configured.
    fn has(&self, source: Source) -> bool {
        match source {
            Source::Password => self.password_file.is_some(),
            Source::Jwt => self.jwt.is_some(),
            Source::Dynamic => self.dynamic_security,
            Source::Http => self.http.is_some(),
        }
    }
}

impl Source {
    /// As they are written, in the order that holds where none is stated.
    pub const WORDS: &[(&str, Self)] =
        &[("password", Self::Password), ("jwt", Self::Jwt), ("dynamic", Self::Dynamic), ("http", Self::Http)];

    /// What configures it.
    fn key(self) -> &'static str {
        match self {
            Self::Password => "password_file",
            Self::Jwt => "jwt",
            Self::Dynamic => "dynamic_security",
            Self::Http => "http",
        }
    }

    /// As it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, source)| *source == self).map_or("", |(word, _)| word)
    }
}

impl DeniedPublish {
    /// As they are written.
    pub(in crate::config) const WORDS: &[(&str, Self)] =
        &[("discard", Self::Discard), ("disconnect", Self::Disconnect)];
}

impl HttpFormat {
    /// As they are written.
    pub(in crate::config) const WORDS: &[(&str, Self)] = &[("json", Self::Json), ("form", Self::Form)];
}
