//! `[[listeners]]`

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::RawRate;
use crate::config::checked::Source;
use crate::config::key::{Key, NEVER_MS, SECOND, about};
use crate::config::listener::{Admission, TlsRules, UserFrom};
use crate::config::table::{At, Reader, Shown, Table, Value, below, key_about, key_name, show_key, table};
use crate::config::units::Bytes;
use crate::config::value::Expiry;

table!(
    /// `[[listeners]]`
    RawListener {
        /// mqtt://ADDRESS:PORT, mqtts:// with TLS, ws:// and wss:// (WebSocket; with a path behind the port only this path), or
        /// unix:///PATH. The address is an IP address, the name of an interface (eth0: whatever addresses it has), localhost or a
        /// host name: 127.0.0.1 is this machine only, 0.0.0.0 every IPv4 network, [::] every network. Without a port: 1883, 8883
        /// with TLS, 80 for ws, 443 for wss.
        url: String = about().needed(),
        /// Whether clients without a user name may connect. A user name needs its password all the same, if there is a
        /// password_file. Default: false with one; without one true on 127.0.0.1, and elsewhere it must be said.
        anonymous: bool = about().otherwise("false where something says who a client is; true on 127.0.0.1 otherwise"),
        /// Who says who a client is on this listener, in this order. Default: as in [access].
        sources: Vec<At<String>> = about().words(Source::WORDS).otherwise("access.sources"),
        /// What clients of this listener may do, instead of access.acl_file. Default: that one.
        acl_file: String = about().otherwise("access.acl_file"),
        /// The certificate chain (PEM, the server's own first), or "development" for one that the broker makes itself.
        /// Without it a listener on 127.0.0.1 gets a development certificate, and any other is refused.
        certificate: String,
        /// The certificate's private key (PEM). Must be readable by the broker and should be by nobody else.
        key: String,
        /// When a publish is acknowledged: "commit" (it is on disk, or all its receivers have acknowledged it), "interval 1s"
        /// (at once, written at least that often: a power cut loses at most that much; 1ms to 1h), "memory" (at once, never
        /// written: a restart loses it). Default: commit.
        durability: String = about().is("commit"),
        /// Connections at once on this listener. Default: limits.max_connections.
        max_connections: u64 = about().within(1..=10_000_000).otherwise("limits.max_connections"),
        /// TLS records that are sent have at most so many bytes, header included, 128B to 16KiB: for devices with small buffers.
        /// Default: 16KiB and what TLS adds.
        max_fragment_size: Bytes = about().within(128..=16 << 10).otherwise("16KiB and what TLS adds"),
        /// What one connection may send; past it the socket is read later, nothing is lost. One of the two or both.
        /// Default: no limit.
        ///   messages_per_s   PUBLISH packets a second
        ///   bytes_per_s      bytes a second
        rate: RawRate = about().optional(),
        /// The origins of the pages that may connect, "*" for all. Default: all where a user name is needed, otherwise pages of the
        /// host that is asked.
        origins: Vec<At<String>>,
        /// Who may open it: its permissions, its owner and its group (names or numbers; others than the broker's own need root).
        mode: String = about().is("660"),
        /// Default: the broker's user.
        owner: String,
        /// Default: the broker's group.
        group: String,
        /// Where the user name comes from: of the certificate "cn", "subject", "dns", "uri", "email" (the first of them), "serial" or
        /// "fingerprint"; of a Unix socket "peer". Nobody needs a password then. Default: what CONNECT says.
        user_from: String = about().words(UserFrom::WORDS),
        /// Whether the client identifier must be the user name; a client that says none gets it.
        client_id_is_user: bool = about().is(false),
        /// More certificates, for other names: a client gets the one that is for the name it asks for, otherwise the first.
        /// Default: none.
        more_certificates: Vec<At<RawPair>>,
        /// The CAs of certificates that clients show (PEM). Default: clients are not asked for any.
        client_ca: String,
        /// "required", or "optional": a client without a certificate then needs what [access] asks for.
        client_certificates: String = about().words(TlsRules::CLIENTS).is("required"),
        /// What those CAs have revoked (PEM, X509 CRL). Whoever is connected with such a certificate is disconnected. Default: nothing.
        crl: String,
        /// What a revocation list does when its time is over: "accept" (it holds as it is) or "refuse" (nobody is let in). It is
        /// warned of seven days before.
        crl_expired: String = about().words(TlsRules::CRL_EXPIRED).is("accept"),
        /// The lowest version of TLS: "1.2" or "1.3".
        min_tls: String = about().words(TlsRules::VERSIONS).is("1.2"),
        /// Cipher suites by name. Default: all that there are, which are all sound.
        cipher_suites: Vec<At<String>>,
        /// Whether it says whom it speaks for by the PROXY protocol, 1 or 2. Then nobody else may connect. Default: false.
        proxy_protocol: bool = about().is(false),
        /// The proxies whose word counts: addresses, or networks. For WebSocket also what they say in X-Forwarded-For, read from the
        /// right. Default: none.
        trusted_proxies: Vec<At<String>>,
        /// Versions of MQTT: "3.1", "3.1.1", "5". Default: all.
        versions: Vec<At<String>> = about().words(Admission::VERSIONS),
        /// Patterns of client identifiers, in which * is any text. Default: all.
        client_ids: Vec<At<String>>,
        /// New connections a second; what is more waits. A second's worth may come at once. Default: no limit.
        connects_per_s: u64 = about().within(1..=1_000_000),
        /// What stands before every topic, filter and will of its clients, and is taken away from what they get: they see nothing
        /// else, and nothing that begins with $. Ends with "/". Default: none.
        mount_point: String,
        /// Connections at once with one address (a /64 of IPv6). Default: no limit.
        max_connections_per_address: u64 = about().within(1..=10_000_000),
        /// As in [limits], for this listener. Default: limits.max_handshakes.
        max_handshakes: u64 = about().within(1..=10_000_000).otherwise("limits.max_handshakes"),
        /// As in [limits], for this listener; at most its max_handshakes. Default: limits.max_handshakes_per_address.
        max_handshakes_per_address: u64 = about().within(1..=10_000_000).otherwise("limits.max_handshakes_per_address"),
        /// What one connection is sent; past it the socket is written later, and what is for it waits in its queue. One of the two or
        /// both. Default: no limit.
        rate_out: RawRate = about().optional(),
        /// The shortest keep alive of an MQTT 5 client; one that asks for less is told to use this. In whole seconds, at most
        /// max_keep_alive. Default: any.
        min_keep_alive: Duration = about().within(SECOND..=65_535 * SECOND).whole_seconds().otherwise("any"),
        /// As in [limits], for this listener; at most that. Default: limits.max_keep_alive.
        max_keep_alive: Duration = about().within(SECOND..=65_535 * SECOND).whole_seconds().otherwise("limits.max_keep_alive"),
        /// As in [limits], for this listener; at most that. Default: limits.max_packet_size.
        max_packet_size: Bytes = about().within(128..=268_435_460).otherwise("limits.max_packet_size"),
        /// As in [limits], for this listener, and for MQTT 3.1 and 3.1.1 as well; at most that. Default: limits.max_session_expiry.
        max_session_expiry: Expiry = about().within(0..=NEVER_MS).whole_seconds().otherwise("limits.max_session_expiry"),
    }
);

table!(
    /// One of `more_certificates` of a listener
    RawPair {
        /// The certificate chain (PEM, the server's own first).
        certificate: String = about().needed(),
        /// The certificate's private key (PEM).
        key: String = about().needed(),
    }
);
