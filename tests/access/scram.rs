//! SCRAM-SHA-256 by enhanced authentication.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use forebay_tests::packet::build::{self, Connect};
use forebay_tests::packet::property::Property;
use forebay_tests::packet::{Packet, Version};
use forebay_tests::raw::Raw;
use ring::{digest, hmac, pbkdf2};

use crate::{Site, passwd};

pub const TESTS: &[(&str, fn())] = &[
    ("scram_lets_in_and_proves_the_broker", scram_lets_in_and_proves_the_broker),
    ("scram_refuses_and_bans", scram_refuses_and_bans),
    ("scram_authenticates_again", scram_authenticates_again),
];

const BARE: &str = "n=pump,r=rOprNGfwEbeRWgbNEkqO";

fn properties(data: &str) -> [Property; 2] {
    [Property::AuthMethod("SCRAM-SHA-256".to_owned()), Property::AuthData(data.into())]
}

fn data(properties: &[Property]) -> String {
    let data = properties.iter().find_map(|property| match property {
        Property::AuthData(data) => Some(String::from_utf8(data.clone()).unwrap()),
        _ => None,
    });
    data.unwrap_or_else(|| panic!("{properties:?}"))
}

fn hmac_sha256(key: &[u8], data: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data)
}

/// The client's last message, and what the broker must answer.
fn proof(challenge: &str, password: &str) -> (String, String) {
    let part = |name: &str| challenge.split(',').find_map(|part| part.strip_prefix(name)).unwrap();
    let iterations: NonZeroU32 = part("i=").parse().unwrap();
    assert!(iterations.get() >= 4096);
    let mut salted = [0; 32];
    let salt = STANDARD.decode(part("s=")).unwrap();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
    let without = format!("c=biws,r={}", part("r="));
    let message = format!("{BARE},{challenge},{without}");
    let client_key = hmac_sha256(&salted, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
    let signature = hmac_sha256(stored_key.as_ref(), message.as_bytes());
    let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
    let server = hmac_sha256(hmac_sha256(&salted, b"Server Key").as_ref(), message.as_bytes());
    (format!("{without},p={}", STANDARD.encode(proof)), format!("v={}", STANDARD.encode(server)))
}

fn site(extra: &str) -> Site {
    let site = Site::start(&[("plain", "pencil")], Some("user pump\ntopic own\n"), extra);
    assert!(passwd(&site.passwords(), &["--scram", "add", "pump"], "pencil").status.success());
    site.until_logged("users added: \"pump\"");
    site
}

fn begin(site: &Site, client: &str) -> (Raw, String) {
    let [method, first] = properties(&format!("n,,{BARE}"));
    let mut raw = Raw::begin(site.port(), &Connect::new(Version::V5, client).with(method).with(first));
    match raw.receive() {
        Packet::Auth(0x18, properties) => {
            let challenge = data(&properties);
            (raw, challenge)
        }
        other => panic!("{other:?}"),
    }
}

fn scram_lets_in_and_proves_the_broker() {
    let site = site("");
    let (mut raw, challenge) = begin(&site, "c");
    let (last, expected) = proof(&challenge, "pencil");
    raw.send(&build::auth(0x18, &properties(&last)));
    let (_, connack) = raw.expect_connack(0);
    assert_eq!(data(&connack), expected);
    raw.subscribe("own", 0);
    // The same secret is right for a password as well, and who goes is disconnected.
    Raw::open(site.port(), &Connect::new(Version::V5, "p").user("pump").password(b"pencil"));
    assert!(passwd(&site.passwords(), &["delete", "pump"], "").status.success());
    raw.expect_disconnect(0x87);
}

fn scram_refuses_and_bans() {
    let site = site("max_failures = 2\n");
    for _ in 0..2 {
        let (mut raw, challenge) = begin(&site, "c");
        raw.send(&build::auth(0x18, &properties(&proof(&challenge, "pencils").0)));
        raw.expect_refused(0x87);
    }
    let [method, first] = properties(&format!("n,,{BARE}"));
    Raw::begin(site.port(), &Connect::new(Version::V5, "c").with(method).with(first)).expect_refused(0x8A);
    site.until_logged("the address is banned");
    assert!(!site.broker.log().contains("pencil"));
}

fn scram_authenticates_again() {
    let site = site("");
    let (mut raw, challenge) = begin(&site, "c");
    raw.send(&build::auth(0x18, &properties(&proof(&challenge, "pencil").0)));
    raw.expect_connack(0);
    for (password, right) in [("pencil", true), ("pencils", false)] {
        raw.send(&build::auth(0x19, &properties(&format!("n,,{BARE}"))));
        let Packet::Auth(0x18, challenge) = raw.receive() else { panic!() };
        let (last, expected) = proof(&data(&challenge), password);
        raw.send(&build::auth(0x18, &properties(&last)));
        if right {
            let Packet::Auth(0, done) = raw.receive() else { panic!() };
            assert_eq!(data(&done), expected);
        } else {
            raw.expect_disconnect(0x87);
        }
    }
}
