//! SCRAM-SHA-256: nothing panics, nobody is let in without the password, and whoever has it is, whatever the nonce. The input
//! is text: the first message, then the last one.
#![no_main]

use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use forebay::access::Policy;
use forebay::access::auth::Step;
use forebay::access::password::{Passwords, Stored};
use forebay::access::scram;
use libfuzzer_sys::fuzz_target;
use ring::{digest, hmac, pbkdf2};

const PASSWORD: &[u8] = b"pencil";

/// The broker's users, and the client's salted password: its salt is in the file.
static WORLD: LazyLock<(Arc<Policy>, [u8; 32])> = LazyLock::new(|| {
    let stored = Stored::scram_of(PASSWORD).expect("a secret");
    let mut parts = stored.text().rsplit('$').skip(2);
    let salt = STANDARD.decode(parts.next().expect("a salt")).expect("base64");
    let iterations: NonZeroU32 = parts.next().expect("iterations").parse().expect("a number");
    let mut salted = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, PASSWORD, &mut salted);
    let passwords = Passwords::parse(&format!("user:{}\n", stored.text())).expect("a file");
    (Arc::new(Policy::with_passwords(passwords)), salted)
});

fuzz_target!(|text: &str| {
    let (first, last) = text.split_once('\n').unwrap_or((text, ""));
    let mut exchange = scram::begin(WORLD.0.clone());
    if matches!(exchange.step(first.as_bytes()), Step::Continue(_)) {
        assert!(matches!(exchange.step(last.as_bytes()), Step::Refused(_)), "{first:?} {last:?}");
    }
    assert!(exchange.identity().is_none());
    assert!(matches!(exchange.step(last.as_bytes()), Step::Refused(_)), "it is over");

    let nonce: String = last.chars().filter(|c| *c != ',' && *c != '\0').take(64).collect();
    if !nonce.is_empty() {
        with_the_password(&nonce);
    }
});

fn with_the_password(nonce: &str) {
    let mut exchange = scram::begin(WORLD.0.clone());
    let bare = format!("n=user,r={nonce}");
    let Step::Continue(challenge) = exchange.step(format!("n,,{bare}").as_bytes()) else {
        panic!("refused at once: {nonce:?}")
    };
    let challenge = String::from_utf8(challenge).expect("text");
    let both = challenge.strip_prefix("r=").and_then(|rest| rest.split(',').next()).expect("a nonce");
    let without_proof = format!("c=biws,r={both}");
    let key = |bytes: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
    let client_key = hmac::sign(&key(&WORLD.1), b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
    let signature = hmac::sign(&key(stored_key.as_ref()), format!("{bare},{challenge},{without_proof}").as_bytes());
    let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
    let last = format!("{without_proof},p={}", STANDARD.encode(proof));
    assert!(matches!(exchange.step(last.as_bytes()), Step::Done(Some(_))), "{nonce:?}");
    assert!(exchange.identity().is_some(), "{nonce:?}");
}
