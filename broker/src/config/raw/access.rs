//! `[access]`

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::config::checked::{DeniedPublish, HttpFormat, Source};
use crate::config::defaults;
use crate::config::key::{DAY, Key, SECOND, about};
use crate::config::table::{At, Reader, Shown, Table, Value, below, key_about, key_name, show_key, table};
use crate::config::units::Bytes;

table!(
    /// `[access]`
    RawAccess {
        /// Who says who a client is, in this order: "password" (password_file), "jwt" ([access.jwt]), "dynamic"
        /// (dynamic_security), "http" ([access.http]). Each lets the client in, refuses it, or leaves it to the next; the end of the list refuses. A listener may have its own list.
        /// Default: those that are configured, in this order.
        sources: Vec<At<String>> = about().words(Source::WORDS).otherwise("those that are configured, in this order"),
        /// Users and the hashes of their passwords: made by `forebay passwd`; mosquitto's files are read as they are. A user who
        /// is taken out, or whose password changes, is disconnected. Default: none.
        password_file: String,
        /// What users may do, in mosquitto's syntax: user, topic, pattern; read, write, readwrite, deny; %u and %c. A file whose name
        /// ends with .toml has rules of our own instead: groups, addresses, QoS and more (docs/access.md). What nothing
        /// allows is denied, so an empty file denies everything. Default: none, and everybody may do everything.
        acl_file: String,
        /// Whether users, groups and roles may be made while the broker runs, by `mosquitto_ctrl dynsec` (docs/access.md). They are in the store.
        /// What neither a role nor the ACL allows is denied then. Default: false.
        dynamic_security: bool = about().is(false),
        /// A file of mosquitto's dynamic security, or of `mosquitto_ctrl dynsec init`, that is taken over once: when the store has nothing of it.
        /// Default: none, and there is a user `admin` whose password is in the data directory, in dynamic-security.pw.
        dynamic_security_import: String,
        /// Tokens (JWT: HS256, RS256, ES256, EdDSA), given as password. The connection ends when its token does. Default: none.
        jwt: RawJwt = about().optional(),
        /// A service that is asked: it gets username, password, clientid, peerhost and listener, and says who may connect. Default: none.
        http: RawHttp = about().optional(),
        /// A PUBLISH that an MQTT 3.1.1 client may not make: "discard" (acknowledged, not delivered, counted) or "disconnect".
        /// MQTT 5 clients are told (0x87), and stay.
        denied_publish: String = about().words(DeniedPublish::WORDS).is("discard"),
        /// Wrong passwords from one address within failure_window, 1 to 1000000, after which it is banned: nothing that it says in
        /// CONNECT is looked at. Each wrong password is answered later than the one before.
        max_failures: u64 = about().reload().within(1..=1_000_000).is(defaults::MAX_FAILURES),
        /// How long a wrong password counts, 1s to 1d.
        failure_window: Duration = about().reload().within(SECOND..=DAY).is(defaults::FAILURE_WINDOW),
        /// How long a ban lasts, at most 30d; "0s" for none.
        ban: Duration = about().reload().within(0..=30 * DAY).is(defaults::BAN),
        /// Passwords that are checked at once, 1 to 64, on threads of their own: each takes a core and 9 MiB meanwhile.
        max_hashing: u64 = about().within(1..=64).is(defaults::MAX_HASHING),
        /// Memory for what clients did lately, and whether they might: user, client identifier, topic; no payloads. `forebay acl replay`
        /// and `acl learn` ask for it. What is oldest goes when it is full. 64KiB to 16MiB; "0B" for none.
        recent_memory: Bytes = about().within(64 << 10..=16 << 20).or_zero().is(defaults::RECENT_MEMORY),
        /// Whether it is kept of clients too for whom there are no rules, which then is looked at with each message: before there is an
        /// ACL, for `forebay acl learn` to write one.
        learn: bool = about().is(false),
    }
);

table!(
    /// `[access.jwt]`
    RawJwt {
        /// Public keys: PEM, or a JWKS. One of the two files or both. Default: none.
        key_file: String,
        /// A secret of at least 32 bytes, for HS256. Default: none.
        secret_file: String,
        /// Who must have issued the token (iss). Default: anyone who has a key.
        issuer: String,
        /// Whom the token must be for (aud). Default: anybody.
        audience: String,
        /// The claim that is the user name. A client that gives a user name as well must give the same.
        user_claim: String = about().is(defaults::JWT_USER_CLAIM),
        /// The claim that must be the client identifier. Default: none, and every client identifier is right.
        client_id_claim: String,
        /// The claim that lists the groups of an ACL in TOML.
        groups_claim: String = about().is(defaults::JWT_GROUPS_CLAIM),
        /// How far the clocks may be apart, at most 10min.
        leeway: Duration = about().within(0..=600 * SECOND).is(defaults::JWT_LEEWAY),
        /// Whether a token without an expiry (exp) is refused.
        require_expiry: bool = about().is(true),
    }
);

table!(
    /// `[access.http]`
    RawHttp {
        /// http:// or https://. The service must be as near as its answers are needed: every connection waits for one.
        url: String = about().needed(),
        /// How it is asked: "json" or "form".
        format: String = about().words(HttpFormat::WORDS).is("json"),
        /// The certificates of CAs that it may have one of, PEM. Needed for https://.
        ca_file: String,
        /// The file of a token that the service asks for, sent as `Authorization: Bearer`. Default: none.
        token_file: String,
        /// How long an answer may take, 100ms to 1min. Without one nobody is let in.
        timeout: Duration = about().within(100..=60 * SECOND).is(defaults::HTTP_TIMEOUT),
        /// Questions at once, 1 to 4096. More wait, within their time.
        max_requests: u64 = about().within(1..=4_096).is(defaults::HTTP_REQUESTS),
        /// When the service fails, a client is let in that it let in with the same password at most so long ago, up to 7d. "0s" for never.
        last_answer: Duration = about().within(0..=7 * DAY).is(Duration::ZERO),
    }
);
