//! Tokens and the keys that they are signed with: nothing panics, nothing counts that is not signed, and what is signed says
//! what it is taken for. The input is text: the header, the claims in the line behind it, then anything.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use forebay::access::jwt::{self, Keys};
use forebay::config::JwtConfig;
use libfuzzer_sys::fuzz_target;
use ring::hmac;

const SECRET: &str = "a secret that is long enough for HS256";
const NOW_S: u64 = 1_800_000_000;
const LEEWAY_S: u64 = 30;

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::of_secret(SECRET).expect("a key"));

fn config() -> JwtConfig {
    JwtConfig {
        key_file: None,
        secret_file: None,
        issuer: None,
        audience: None,
        user_claim: "sub".to_owned(),
        client_id_claim: None,
        groups_claim: "groups".to_owned(),
        leeway: Duration::from_secs(LEEWAY_S),
        require_expiry: true,
    }
}

fuzz_target!(|text: &str| {
    let mut lines = text.splitn(3, '\n');
    let mut next = || lines.next().unwrap_or_default();
    let (header, claims, rest) = (next(), next(), next());
    let now = UNIX_EPOCH + Duration::from_secs(NOW_S);
    let verify = |token: &str| jwt::verify(token.as_bytes(), &KEYS, &config(), "client", now);

    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), signed.as_bytes());
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    if let Ok(claims) = verify(&token) {
        assert!(jwt::is_token(token.as_bytes()), "{header:?} counts and is none");
        assert!(!claims.user.is_empty());
        assert!(claims.expires.is_some_and(|at| at + Duration::from_secs(LEEWAY_S) > now), "{claims:?}");
    }
    // Signed by nobody who has the key, whatever the header says.
    for unsigned in [rest.to_owned(), format!("{signed}."), format!("{signed}.{}", URL_SAFE_NO_PAD.encode(rest))] {
        assert!(unsigned == token || verify(&unsigned).is_err(), "{unsigned:?}");
        let _ = jwt::is_token(unsigned.as_bytes());
    }
    let _ = (Keys::parse(text), Keys::of_secret(rest));
});
