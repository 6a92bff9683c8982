//! `[[listeners]]`.

use std::time::Duration;

use forebay_wire::types::Version;

use super::{Checker, bytes, expiry, number, packet_size};
use crate::config::address::{ListenUrl, Place};
use crate::config::checked::{AccessConfig, Limits};
use crate::config::listener::{
    Admission, Bounds, ClientCertificates, Listener, SocketFile, Tls, TlsFiles, TlsRules, UserFrom, WebSocketRules,
};
use crate::config::problem::no_such;
use crate::config::raw::{RawListener, RawPair};
use crate::config::table::At;
use crate::config::units::show_duration;
use crate::network::Network;

/// What is written for the certificate that the program makes itself.
const DEVELOPMENT: &str = "development";
/// Bytes of a mount point.
const MOUNT_POINT_MAX: usize = 1024;

impl Checker<'_> {
    pub(super) fn listeners(
        &mut self,
        raw: Option<At<Vec<At<RawListener>>>>,
        limits: &Limits,
        access: &AccessConfig,
    ) -> Option<Vec<Listener>> {
        let raw = raw?;
        if raw.value.is_empty() {
            self.wrong(&raw, "there must be at least one; leave the key out for the built-in ones");
        }
        let mut listeners: Vec<Listener> = Vec::with_capacity(raw.value.len());
        for at in raw.value {
            let place = at.value.url.as_ref().map_or_else(|| at.place(), At::place);
            let Some(listener) = self.listener(at, limits, access) else { continue };
            if let Some(other) = listeners.iter().find(|other| other.place.overlaps(&listener.place)) {
                self.wrong(&place, format!("{} is taken by {} already", listener.place, other.url));
            }
            listeners.push(listener);
        }
        Some(listeners)
    }

    fn listener(&mut self, at: At<RawListener>, limits: &Limits, access: &AccessConfig) -> Option<Listener> {
        let place = at.place();
        let mut raw = at.value;
        let RawListener { url, anonymous, durability, max_connections, max_fragment_size, rate, .. } = &mut raw;
        let (url, anonymous, durability) = (url.take(), anonymous.take(), durability.take());
        let (max_connections, max_fragment_size, rate) =
            (max_connections.take(), max_fragment_size.take(), rate.take());
        let sources = raw.sources.take().map(|at| self.sources(at, access));
        let acl_file = self.path(raw.acl_file.take());
        let durability = self.durability(durability);
        let most = u64::try_from(limits.max_connections).unwrap_or(u64::MAX);
        let max_connections = match max_connections {
            Some(at) if at.value > most => {
                let is = at.value;
                self.wrong(&at, format!("must be at most limits.max_connections ({most}), is {is}"));
                limits.max_connections
            }
            other => number(other, limits.max_connections),
        };
        let rate = rate.and_then(|at| self.rate(at));
        let rate_out = raw.rate_out.take().and_then(|at| self.rate(at));
        let mount_point = raw.mount_point.take().map(|at| self.mount_point(at));
        let bounds = self.bounds(&mut raw, limits);
        let Some(url) = url else {
            self.wrong(&place, "needs `url`, such as \"mqtt://127.0.0.1:1883\"");
            return None;
        };
        let parsed = match url.value.parse::<ListenUrl>() {
            Ok(parsed) => parsed,
            Err(why) => {
                self.wrong(&url, why);
                return None;
            }
        };
        if let Some(at) = max_fragment_size.as_ref().filter(|_| !parsed.tls) {
            self.wrong(at, not_encrypted(&url));
        }
        let max_fragment_size = max_fragment_size.map(|at| bytes(Some(at), 16 << 10));
        let before = self.problems.len();
        let tls = self.tls(&url, &parsed, raw.certificate.take(), raw.key.take());
        let tls_rules = self.tls_rules(&url, &parsed, &mut raw);
        let user_from = self.user_from(&parsed, tls_rules.clients.is_some(), raw.user_from.take());
        let anonymous = match anonymous {
            // One complaint about a place is enough.
            _ if self.problems.len() > before => true,
            other => {
                let authenticated = !sources.as_ref().unwrap_or(&access.sources).is_empty() || user_from.is_some();
                // Whoever has a certificate has shown who it is, with a user name or without.
                let only_certificates = tls_rules.clients.as_ref().is_some_and(|clients| clients.required);
                match other {
                    None if only_certificates && !authenticated => true,
                    other => self.anonymous(&url, &parsed, other, authenticated),
                }
            }
        };
        let websocket = parsed.websocket.clone().map(|path| WebSocketRules { path, origins: None });
        Some(Listener {
            anonymous,
            sources,
            acl_file,
            websocket: self.websocket(&url, websocket, raw.origins.take()),
            socket: self.socket_file(&url, &parsed, &mut raw),
            user_from,
            client_id_is_user: raw.client_id_is_user.take().is_some_and(|at| at.value),
            proxy_protocol: self.proxy_protocol(&parsed, &raw),
            trusted_proxies: raw.trusted_proxies.take().map(|list| self.networks(list.value)).unwrap_or_default(),
            admission: self.admission(&mut raw),
            tls,
            tls_rules,
            durability,
            max_fragment_size,
            rate,
            rate_out,
            mount_point,
            bounds,
            ..Listener::new(&parsed.url, parsed.place, max_connections)
        })
    }

    fn proxy_protocol(&mut self, parsed: &ListenUrl, raw: &RawListener) -> bool {
        let Some(at) = raw.proxy_protocol.as_ref().filter(|at| at.value) else { return false };
        let some = raw.trusted_proxies.as_ref().is_some_and(|list| !list.value.is_empty());
        if !some && !matches!(parsed.place, Place::Unix(_)) {
            self.wrong(at, "nobody could connect: set `trusted_proxies` to the addresses of the proxies");
        }
        true
    }

    fn networks(&mut self, list: Vec<At<String>>) -> Vec<Network> {
        let mut networks = Vec::with_capacity(list.len());
        for at in list {
            match Network::parse(&at.value) {
                Some(network) => networks.push(network),
                None => {
                    let is = at.value.clone();
                    self.wrong(&at, format!("\"{is}\" is neither an address nor a network such as \"10.0.0.0/8\""));
                }
            }
        }
        networks
    }

    fn admission(&mut self, raw: &mut RawListener) -> Admission {
        let versions = raw.versions.take().map(|list| list.value).unwrap_or_default();
        let client_ids = raw.client_ids.take().map(|list| list.value).unwrap_or_default();
        let version = |at: At<String>| self.word(Some(at), "version of MQTT", Admission::VERSIONS, Version::V5);
        let versions = versions.into_iter().map(version).collect();
        Admission {
            versions,
            client_ids: client_ids.into_iter().map(|at| at.value).collect(),
            connects_per_s: raw.connects_per_s.take().map(|at| number(Some(at), 1)),
        }
    }

    fn mount_point(&mut self, at: At<String>) -> String {
        if let Some(why) = why_no_mount_point(&at.value) {
            self.wrong(&at, format!("\"{}\" {why}", at.value));
        }
        at.value
    }

    fn bounds(&mut self, raw: &mut RawListener, limits: &Limits) -> Bounds {
        self.no_more_than(raw.max_handshakes_per_address.as_ref(), raw.max_handshakes.as_ref());
        let times = |at: &Option<At<Duration>>| at.as_ref().map(|at| at.place().map(|()| at.value));
        let (min, max) = (times(&raw.min_keep_alive), times(&raw.max_keep_alive));
        self.no_longer_than(min.as_ref(), max.as_ref());
        let expiries = raw.max_session_expiry.as_ref().map(|at| at.place().map(|()| at.value.0));
        // 0 leaves it to the client: whatever a listener says is less.
        let keep_alive = Some(limits.max_keep_alive).filter(|time| !time.is_zero());
        for (at, most, key) in [
            (min, keep_alive, "limits.max_keep_alive"),
            (max, keep_alive, "limits.max_keep_alive"),
            (expiries, Some(limits.max_session_expiry), "limits.max_session_expiry"),
        ] {
            if let (Some(at), Some(most)) = (at, most)
                && at.value > most
            {
                self.wrong(&at, format!("must be at most {key} ({})", show_duration(most)));
            }
        }
        let bounds = Bounds {
            connections_per_address: raw.max_connections_per_address.take().map(|at| number(Some(at), 1)),
            handshakes: raw.max_handshakes.take().map(|at| number(Some(at), 1)),
            handshakes_per_address: raw.max_handshakes_per_address.take().map(|at| number(Some(at), 1)),
            keep_alive_min: raw.min_keep_alive.take().map(|at| at.value),
            keep_alive_max: raw.max_keep_alive.take().map(|at| at.value),
            packet_size: raw
                .max_packet_size
                .as_ref()
                .map(|at| packet_size(u32::try_from(at.value.0).unwrap_or(u32::MAX))),
            session_expiry: raw.max_session_expiry.take().map(|at| expiry(Some(at), limits.max_session_expiry)),
        };
        if let (Some(at), Some(size)) = (raw.max_packet_size.take(), bounds.packet_size)
            && size > limits.max_packet_size
        {
            self.wrong(&at, format!("must be at most limits.max_packet_size ({} bytes)", limits.max_packet_size));
        }
        bounds
    }

    fn websocket(
        &mut self,
        url: &At<String>,
        rules: Option<WebSocketRules>,
        origins: Option<At<Vec<At<String>>>>,
    ) -> Option<WebSocketRules> {
        let Some(origins) = origins else { return rules };
        let Some(rules) = rules else {
            self.wrong(&origins, format!("{} is no WebSocket; write ws:// or wss:// or leave the key out", url.value));
            return None;
        };
        for at in &origins.value {
            let is_origin =
                |text: &str| text.split_once("://").is_some_and(|(_, host)| !host.is_empty() && !host.contains('/'));
            if at.value != "*" && !is_origin(&at.value) {
                self.wrong(at, format!("\"{}\" is no origin, such as \"https://panel.example\"", at.value));
            }
        }
        Some(WebSocketRules { origins: Some(origins.value.into_iter().map(|at| at.value).collect()), ..rules })
    }

    fn socket_file(&mut self, url: &At<String>, parsed: &ListenUrl, raw: &mut RawListener) -> SocketFile {
        let (mode, owner, group) = (raw.mode.take(), raw.owner.take(), raw.group.take());
        if !matches!(parsed.place, Place::Unix(_)) {
            for at in [&mode, &owner, &group].into_iter().flatten() {
                self.wrong(at, format!("{} is no Unix socket; write unix:///PATH or leave the key out", url.value));
            }
            return SocketFile::default();
        }
        let mode = match mode {
            None => SocketFile::default().mode,
            Some(at) => u32::from_str_radix(&at.value, 8).ok().filter(|mode| *mode <= 0o777).unwrap_or_else(|| {
                self.wrong(&at, format!("must be permissions such as \"660\", is \"{}\"", at.value));
                0
            }),
        };
        SocketFile { mode, owner: owner.map(|at| at.value), group: group.map(|at| at.value) }
    }

    fn user_from(&mut self, parsed: &ListenUrl, certificates: bool, at: Option<At<String>>) -> Option<UserFrom> {
        let at = at?;
        let place = at.place();
        let words: Vec<_> = UserFrom::WORDS.iter().map(|(word, from)| (*word, Some(*from))).collect();
        let from = self.word(Some(at), "source of a user name", &words, None)?;
        if from == UserFrom::Peer && !matches!(parsed.place, Place::Unix(_)) {
            self.wrong(&place, "only a Unix socket tells who is at its other end");
        }
        if from != UserFrom::Peer && !certificates {
            self.wrong(&place, "clients are not asked for certificates here: set `client_ca`");
        }
        Some(from)
    }

    fn tls_rules(&mut self, url: &At<String>, parsed: &ListenUrl, raw: &mut RawListener) -> TlsRules {
        let (ca, crl) = (raw.client_ca.take(), raw.crl.take());
        let (clients, expired) = (raw.client_certificates.take(), raw.crl_expired.take());
        let (more, suites, min) = (raw.more_certificates.take(), raw.cipher_suites.take(), raw.min_tls.take());
        if !parsed.tls {
            let places = [&ca, &crl, &clients, &expired, &min].into_iter().flatten().map(At::place);
            let lists = more.as_ref().map(At::place).into_iter().chain(suites.as_ref().map(At::place));
            for at in places.chain(lists).collect::<Vec<_>>() {
                self.wrong(&at, not_encrypted(url));
            }
            return TlsRules::default();
        }
        for (at, needs) in [(&clients, "client_ca"), (&crl, "client_ca"), (&expired, "crl")] {
            let there = if needs == "crl" { crl.is_some() } else { ca.is_some() };
            if let Some(at) = at.as_ref().filter(|_| !there) {
                self.wrong(at, format!("says nothing without `{needs}`"));
            }
        }
        let required = self.word(clients, "word", TlsRules::CLIENTS, true);
        let refuse_after_crl = self.word(expired, "word", TlsRules::CRL_EXPIRED, false);
        let (ca, crl) = (self.path(ca), self.path(crl));
        TlsRules {
            more: more.map(|list| self.pairs(list.value)).unwrap_or_default(),
            clients: ca.map(|ca| ClientCertificates { ca, required, crl, refuse_after_crl }),
            only_tls13: self.word(min, "version of TLS", TlsRules::VERSIONS, false),
            cipher_suites: suites.map(|list| self.cipher_suites(list.value)).unwrap_or_default(),
        }
    }

    fn pairs(&mut self, list: Vec<At<RawPair>>) -> Vec<TlsFiles> {
        let mut pairs = Vec::with_capacity(list.len());
        for at in list {
            let place = at.place();
            match (self.path(at.value.certificate), self.path(at.value.key)) {
                (Some(certificate), Some(key)) => pairs.push(TlsFiles { certificate, key }),
                _ => self.wrong(&place, "needs `certificate` and `key`"),
            }
        }
        pairs
    }

    fn cipher_suites(&mut self, list: Vec<At<String>>) -> Vec<String> {
        let known = crate::transport::cipher_suites();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        for at in &list {
            if !known.contains(&at.value.as_str()) {
                self.wrong(at, no_such("cipher suite", &at.value, &known));
            }
        }
        list.into_iter().map(|at| at.value).collect()
    }

    fn tls(
        &mut self,
        url: &At<String>,
        parsed: &ListenUrl,
        certificate: Option<At<String>>,
        key: Option<At<String>>,
    ) -> Option<Tls> {
        if !parsed.tls {
            for at in [certificate, key].iter().flatten() {
                self.wrong(at, not_encrypted(url));
            }
            return None;
        }
        match (certificate, key) {
            (Some(certificate), None) if certificate.value == DEVELOPMENT => {}
            (Some(certificate), Some(key)) if certificate.value == DEVELOPMENT => {
                self.wrong(&key, "a development certificate has a key of its own; leave this one out");
            }
            (Some(certificate), Some(key)) => {
                let files = (self.path(Some(certificate)), self.path(Some(key)));
                if let (Some(certificate), Some(key)) = files {
                    return Some(Tls::Files(TlsFiles { certificate, key }));
                }
            }
            (Some(certificate), None) => self.wrong(&certificate, "needs its private key: set `key`"),
            (None, Some(key)) => self.wrong(&key, "needs its certificate: set `certificate`"),
            (None, None) if parsed.place.is_local() => {}
            (None, None) => self.wrong(
                url,
                "others can reach this address: set `certificate` and `key`, or certificate = \"development\"",
            ),
        }
        Some(Tls::Development)
    }
}

/// What is wrong with a mount point.
pub(crate) fn why_no_mount_point(is: &str) -> Option<&'static str> {
    if !is.ends_with('/') {
        return Some("must end with /, so that it is whole levels of a topic");
    }
    if is.starts_with('$') {
        return Some("must not begin with $: those topics are the broker's own");
    }
    let fits = forebay_wire::topic::check_name(is, usize::MAX).is_ok() && is.len() <= MOUNT_POINT_MAX;
    (!fits).then_some("must be the beginning of a topic, without wildcards, of at most 1024 bytes")
}

fn not_encrypted(url: &At<String>) -> String {
    format!("{} is not encrypted; write mqtts:// or wss:// or leave the key out", url.value)
}
