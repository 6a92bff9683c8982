//! Tokens: as password, by AUTH, and what happens when they end.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use forebay_tests::packet::build::{self, Connect, Publish};
use forebay_tests::packet::property::Property;
use forebay_tests::packet::{Ack, Packet, Version};
use forebay_tests::raw::Raw;
use ring::hmac;
use serde_json::{Value, json};

use crate::Site;

pub const TESTS: &[(&str, fn())] = &[
    ("a_token_is_a_password", a_token_is_a_password),
    ("a_token_that_ends_ends_the_connection", a_token_that_ends_ends_the_connection),
    ("auth_renews_a_token", auth_renews_a_token),
    ("a_client_identifier_is_the_user_who_was_proved", a_client_identifier_is_the_user_who_was_proved),
    ("a_token_within_its_leeway_stays", a_token_within_its_leeway_stays),
    ("a_key_that_goes_disconnects", a_key_that_goes_disconnects),
    ("keys_of_all_algorithms_count", keys_of_all_algorithms_count),
    ("sources_are_asked_in_their_order", sources_are_asked_in_their_order),
];

const SECRET: &str = "thirty-two bytes at least, or more";
const OTHER: &str = "another secret of thirty-two bytes";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token with these claims and, unless they have one, an expiry in an hour.
fn token(secret: &str, mut claims: Value) -> String {
    if claims.get("exp").is_none() {
        claims["exp"] = json!(now() + 3600);
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT"})), part(&claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn site(more: &str) -> Site {
    let access = format!("[access]\n[access.jwt]\nsecret_file = \"DIR/secret\"\nleeway = \"0s\"\n{more}");
    Site::of_files(&[("secret", SECRET)], &access, "")
}

fn with(version: Version, client: &str, user: &str, token: &str) -> Connect {
    let connect = Connect::new(version, client).password(token.as_bytes());
    // Before MQTT 5 there is no password without a user name.
    if user.is_empty() && version == Version::V5 { connect } else { connect.user(user) }
}

fn publishes(raw: &mut Raw, topic: &str, reason: u8) {
    raw.send(&Publish::new(Version::V5, topic, b"x").qos(1, 9).packet());
    raw.expect_ack(Ack::Puback, 9, reason);
}

fn a_token_is_a_password() {
    let site = site("audience = \"forebay\"\n");
    let claims =
        json!({"sub": "pump", "aud": "forebay", "acl": {"pub": ["data/%u/#"], "sub": ["commands/${clientid}"]}});
    let good = token(SECRET, claims.clone());
    for (version, user) in [(Version::V5, "pump"), (Version::V5, ""), (Version::V4, "pump"), (Version::V4, "")] {
        Raw::open(site.port(), &with(version, "c1", user, &good));
    }
    let (mut raw, ..) = Raw::open(site.port(), &with(Version::V5, "c1", "", &good));
    publishes(&mut raw, "data/pump/x", 0x10);
    publishes(&mut raw, "data/other/x", 0x87);
    for (id, filter, code) in [(1, "commands/c1", 0), (2, "commands/c2", 0x87), (3, "#", 0x87)] {
        raw.send(&build::Subscribe::new(Version::V5, id).filter(filter, 0).packet());
        raw.expect_suback(id, &[code]);
    }
    let mut expired = claims.clone();
    expired["exp"] = json!(now() - 1);
    let refused = [
        ("valve", good.clone(), "the user name is not the token's"),
        ("", token(OTHER, claims.clone()), "signed by no key"),
        ("", token(SECRET, expired), "has expired"),
        ("", token(SECRET, json!({"sub": "pump", "aud": "others"})), "another audience"),
        ("pump", "secret".to_owned(), "no source knows it"),
    ];
    for (n, (user, token, why)) in refused.into_iter().enumerate() {
        let client = format!("refused-{n}");
        Raw::begin(site.port(), &with(Version::V5, &client, user, &token)).expect_refused(0x86);
        let log = site.until_logged(&format!("client=\"{client}\""));
        let line = log.lines().find(|line| line.contains(&client)).unwrap();
        assert!(line.contains("log-in refused") && line.contains(why), "{line}");
        assert!(!log.contains(&token) && !log.contains(SECRET), "{log}");
    }
}

fn a_token_that_ends_ends_the_connection() {
    let site = site("");
    // The token must still count when a loaded machine comes to look at it.
    let ends = token(SECRET, json!({"sub": "pump", "exp": now() + 8}));
    let (mut v5, ..) = Raw::open(site.port(), &with(Version::V5, "v5", "", &ends));
    let (mut v4, ..) = Raw::open(site.port(), &with(Version::V4, "v4", "pump", &ends));
    let (mut stays, ..) =
        Raw::open(site.port(), &with(Version::V5, "stays", "", &token(SECRET, json!({"sub": "pump"}))));
    site.until_logged("what it logged in with has expired");
    v5.expect_disconnect(0xA0);
    v4.expect_closed();
    publishes(&mut stays, "a", 0x10);
    Raw::begin(site.port(), &with(Version::V5, "v5", "", &ends)).expect_refused(0x86);
}

fn auth_connect(client: &str, token: &str) -> Connect {
    let (method, data) = (Property::AuthMethod("JWT".to_owned()), Property::AuthData(token.into()));
    Connect::new(Version::V5, client).with(method).with(data)
}

fn auth(token: &str) -> Vec<u8> {
    build::auth(0x19, &[Property::AuthMethod("JWT".to_owned()), Property::AuthData(token.into())])
}

fn auth_renews_a_token() {
    let site = site("");
    let short = json!({"sub": "pump", "exp": now() + 8, "acl": {"pub": ["a"]}});
    let (mut renewed, ..) = Raw::open(site.port(), &auth_connect("renewed", &token(SECRET, short.clone())));
    let (mut ends, ..) = Raw::open(site.port(), &auth_connect("ends", &token(SECRET, short)));
    publishes(&mut renewed, "a", 0x10);
    publishes(&mut renewed, "b", 0x87);
    renewed.send(&auth(&token(SECRET, json!({"sub": "pump", "acl": {"pub": ["b"]}}))));
    match renewed.receive() {
        Packet::Auth(0, properties) => assert!(properties.contains(&Property::AuthMethod("JWT".to_owned()))),
        other => panic!("{other:?}"),
    }
    publishes(&mut renewed, "a", 0x87);
    publishes(&mut renewed, "b", 0x10);
    ends.expect_disconnect(0xA0);
    // Its first token has ended as well by now.
    publishes(&mut renewed, "b", 0x10);
    // Somebody else's token renews nothing.
    renewed.send(&auth(&token(SECRET, json!({"sub": "valve"}))));
    renewed.expect_disconnect(0x87);
    Raw::begin(site.port(), &auth_connect("bad", &token(OTHER, json!({"sub": "pump"})))).expect_refused(0x87);
}

/// What CONNECT says of the user proves nothing.
fn a_client_identifier_is_the_user_who_was_proved() {
    let access = "[access]\n[access.jwt]\nsecret_file = \"DIR/secret\"\n";
    let site = Site::of_files(&[("secret", SECRET)], access, "client_id_is_user = true");
    let of_pump = token(SECRET, json!({"sub": "pump"}));
    Raw::open(site.port(), &auth_connect("pump", &of_pump).user("pump"));
    Raw::begin(site.port(), &auth_connect("valve", &of_pump).user("valve")).expect_refused(0x87);
    Raw::open(site.port(), &with(Version::V5, "pump", "pump", &of_pump));
}

/// It is let in for as long as it may be late, and not sent away at once for what it was let in with.
fn a_token_within_its_leeway_stays() {
    let access = "[access]\n[access.jwt]\nsecret_file = \"DIR/secret\"\nleeway = \"5min\"\n";
    let site = Site::of_files(&[("secret", SECRET)], access, "");
    let late = token(SECRET, json!({"sub": "pump", "exp": now() - 10}));
    let (mut raw, ..) = Raw::open(site.port(), &with(Version::V5, "c", "", &late));
    std::thread::sleep(std::time::Duration::from_secs(2));
    publishes(&mut raw, "a", 0x10);
}

fn a_key_that_goes_disconnects() {
    let jwk = |secret: &str| json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(secret)});
    let both = json!({"keys": [jwk(SECRET), jwk(OTHER)]}).to_string();
    let site = Site::of_files(&[("keys", &both)], "[access.jwt]\nkey_file = \"DIR/keys\"\n", "");
    let (mut one, ..) = Raw::open(site.port(), &with(Version::V5, "one", "", &token(SECRET, json!({"sub": "pump"}))));
    let (mut two, ..) = Raw::open(site.port(), &with(Version::V5, "two", "", &token(OTHER, json!({"sub": "pump"}))));
    site.change("keys", "nonsense");
    site.until_logged("access not changed");
    publishes(&mut one, "a", 0x10);
    site.change("keys", &json!({"keys": [jwk(OTHER)]}).to_string());
    site.until_logged("the keys of tokens: 2 before, 1 now");
    one.expect_disconnect(0x87);
    publishes(&mut two, "a", 0x10);
}

/// The tokens that the unit tests have: they have expired, and that is what is said of them; with another key it would not be.
fn keys_of_all_algorithms_count() {
    let text = include_str!("../../broker/src/access/jwt/vectors.json");
    let vectors: Value = serde_json::from_str(text).unwrap();
    let vectors = vectors.as_object().unwrap();
    let pem: String =
        vectors.iter().filter(|(name, _)| *name != "HS256").map(|(_, of)| of["pem"].as_str().unwrap()).collect();
    let secret = vectors["HS256"]["pem"].as_str().unwrap();
    let access = "[access]\nmax_failures = 1000\n[access.jwt]\nkey_file = \"DIR/keys\"\nsecret_file = \"DIR/secret\"\n";
    let site = Site::of_files(&[("keys", &pem), ("secret", secret)], access, "");
    for (algorithm, of) in vectors {
        let client = format!("client-{algorithm}");
        Raw::begin(site.port(), &with(Version::V5, &client, "", of["token"].as_str().unwrap())).expect_refused(0x86);
        let log = site.until_logged(&client);
        let line = log.lines().find(|line| line.contains(&client)).unwrap();
        assert!(line.contains("the token has expired"), "{line}");
    }
}

fn sources_are_asked_in_their_order() {
    let access = "[access]\nsources = [\"jwt\", \"password\"]\npassword_file = \"DIR/passwords\"\n\
                  [access.jwt]\nsecret_file = \"DIR/secret\"\n";
    // The password of `pump` is `secret`, as mosquitto hashes it.
    let theirs = include_str!("../../broker/src/access/mosquitto.passwords");
    let own = "sources = [\"password\"]\n[[listeners]]\nurl = \"mqtt://127.0.0.1:0\"\nanonymous = true\n";
    let site = Site::of_files(&[("passwords", theirs), ("secret", SECRET)], access, own);
    let said = site.until_logged("this machine only, jwt, then password; and anyone without a user name");
    assert!(said.contains("this machine only, password\n"), "{said}");
    Raw::open(site.port(), &with(Version::V5, "c", "seven", "secret"));
    let token = token(SECRET, json!({"sub": "seven"}));
    Raw::begin(site.port(), &with(Version::V5, "c", "seven", &token)).expect_refused(0x86);
    Raw::begin(site.port(), &Connect::new(Version::V5, "c")).expect_refused(0x87);
}
