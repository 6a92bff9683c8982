#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

use super::*;

/// A token, its key and its JWK for each algorithm, made by Python's `cryptography`; they are valid from 1,700,000,000 on, for an hour.
fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

const NOW: u64 = 1_700_000_100;
const SECRET: &str = "a secret of thirty-two bytes or more";

fn secret() -> Keys {
    Keys::of_secret(SECRET).unwrap()
}

fn token(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn reads_what_others_sign() {
    let vectors = vectors();
    let config = JwtConfig {
        issuer: Some("https://issuer.example".into()),
        audience: Some("forebay".into()),
        client_id_claim: Some("client".into()),
        ..JwtConfig::default()
    };
    let all = json!({"keys": vectors.as_object().unwrap().values().map(|of| of["jwk"].clone()).collect::<Vec<_>>()});
    for (algorithm, of) in vectors.as_object().unwrap() {
        let text = of["token"].as_str().unwrap();
        let pem = of["pem"].as_str().unwrap();
        let own = if algorithm == "HS256" { Keys::of_secret(pem) } else { Keys::parse(pem) }.unwrap();
        for keys in [
            own,
            Keys::parse(&json!({"keys": [of["jwk"]]}).to_string()).unwrap(),
            Keys::parse(&all.to_string()).unwrap(),
        ] {
            let claims = verify(text.as_bytes(), &keys, &config, "c1", at(NOW)).unwrap();
            assert_eq!((claims.user.as_str(), claims.expires), ("pump-7", Some(at(1_700_003_630))), "{algorithm}");
            assert!(*claims.groups[0] == *"pumps" && claims.rules.unwrap().len() == 2 && keys.has(&claims.key));
            assert!(verify(text.as_bytes(), &keys, &config, "c2", at(NOW)).is_err());
        }
        // The signature is another one, or is of something else.
        for (place, _) in text.char_indices().filter(|(_, c)| *c != '.').step_by(7) {
            let mut other = text.as_bytes().to_vec();
            other[place] = if other[place] == b'A' { b'B' } else { b'A' };
            if other != text.as_bytes() {
                let same = Keys::parse(&all.to_string()).unwrap();
                // The last character of a part has bits that mean nothing: then it is refused as well.
                assert!(verify(&other, &same, &config, "c1", at(NOW)).is_err(), "{algorithm} {place}");
            }
        }
    }
}

/// The oldest trick: a public key taken for a shared secret, or no signature at all.
#[test]
fn a_key_is_for_one_algorithm() {
    let vectors = vectors();
    let pem = vectors["RS256"]["pem"].as_str().unwrap();
    let claims = json!({"sub": "a", "exp": NOW + 60});
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "HS256"})), part(&claims));
    let keys = Keys::parse(pem).unwrap();
    for secret in [pem, pem.trim_end()] {
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
        let forged = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        assert!(verify(forged.as_bytes(), &keys, &JwtConfig::default(), "c", at(NOW)).is_err());
    }
    for algorithm in ["none", "None", "HS512", "RS512", "PS256", ""] {
        let unsigned = format!("{}.{}.", part(&json!({"alg": algorithm})), part(&claims));
        assert!(verify(unsigned.as_bytes(), &secret(), &JwtConfig::default(), "c", at(NOW)).is_err(), "{algorithm}");
    }
    assert!(
        verify(token(&json!({"alg": "HS256"}), &claims).as_bytes(), &secret(), &JwtConfig::default(), "c", at(NOW))
            .is_ok()
    );
}

#[test]
fn says_why_a_token_does_not_count() {
    let config = JwtConfig { issuer: Some("i".into()), audience: Some("a".into()), ..JwtConfig::default() };
    let good = json!({"sub": "u", "iss": "i", "aud": "a", "exp": NOW + 60});
    let with = |more: Value| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims
    };
    let header = json!({"alg": "HS256"});
    let check = |header: &Value, claims: &Value| {
        verify(token(header, claims).as_bytes(), &secret(), &config, "c", at(NOW)).map(|_| ())
    };
    assert_eq!(check(&header, &good), Ok(()));
    assert_eq!(check(&header, &with(json!({"exp": NOW - 29, "nbf": NOW + 30}))), Ok(()), "the clocks may be apart");
    for (claims, why) in [
        (json!({"exp": NOW - 30}), "expired"),
        (json!({"exp": NOW as f64 - 31.5}), "expired"),
        (json!({"exp": "soon"}), "no number"),
        (json!({"exp": -1}), "no number"),
        (json!({"nbf": NOW + 31}), "not valid yet"),
        (json!({"iss": "j"}), "another issuer"),
        (json!({"aud": ["b"]}), "another audience"),
        (json!({"aud": 1}), "another audience"),
        (json!({"sub": ""}), "names no user"),
        (json!({"sub": 7}), "names no user"),
        (json!({"groups": "g"}), "groups"),
        (json!({"groups": [1]}), "group"),
        (json!({"acl": {"pub": ["a#"]}}), "ACL is wrong"),
    ] {
        let said = check(&header, &with(claims.clone())).unwrap_err();
        assert!(said.contains(why), "{claims}: {said}");
    }
    let mut endless = good.clone();
    endless.as_object_mut().unwrap().remove("exp");
    assert!(check(&header, &endless).unwrap_err().contains("no expiry"));
    let lax = JwtConfig { require_expiry: false, ..JwtConfig::default() };
    assert!(verify(token(&header, &endless).as_bytes(), &secret(), &lax, "c", at(NOW)).is_ok());
    assert!(check(&json!({"alg": "HS256", "crit": ["x"]}), &good).unwrap_err().contains("crit"));
    assert!(check(&header, &json!(["sub"])).unwrap_err().contains("not an object"));
    for text in ["", ".", "..", "a.b.c", &"x".repeat(TOKEN_MAX + 1)] {
        assert!(verify(text.as_bytes(), &secret(), &config, "c", at(NOW)).is_err());
    }
}

#[test]
fn knows_a_token_from_a_password() {
    assert!(is_token(token(&json!({"alg": "HS256"}), &json!({})).as_bytes()));
    for password in ["", "secret", "a.b.c", "e30.e30", "e30.e30.x.y", "..", "\u{e4}.b.c"] {
        assert!(!is_token(password.as_bytes()), "{password}");
    }
}

#[test]
fn says_what_is_wrong_with_keys() {
    let short = URL_SAFE_NO_PAD.encode("short");
    for (text, why) in [
        ("", "has no key"),
        ("nonsense", "has no key"),
        ("{", "not JSON"),
        ("{}", "no list"),
        (r#"{"keys": [{"kty": "RSA"}, {"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}, 1]}"#, "has no key"),
        (&format!(r#"{{"keys": [{{"kty": "oct", "k": "{short}"}}]}}"#), "has no key"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "neither RSA"),
    ] {
        let said = Keys::parse(text).unwrap_err();
        assert!(said.contains(why), "{text}: {said}");
    }
    assert!(Keys::of_secret("short").unwrap_err().contains("32"));
    assert!(!format!("{:?}", secret()).contains("secret"));
}
