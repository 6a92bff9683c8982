//! The keys that tokens are signed with: PEM, JWKS (RFC 7517), or a shared secret.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

/// Keys of one file: each may be tried for each token that names none.
const KEYS_MAX: usize = 64;
/// A shorter secret can be guessed from one token [RFC 7518, 3.2].
const SECRET_MIN: usize = 32;

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// RSA PKCS #1 1.5 with SHA-256.
    Rs256,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "HS256" => Self::Hs256,
            "RS256" => Self::Rs256,
            "ES256" => Self::Es256,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}

#[derive(Clone, PartialEq, Eq)]
enum Material {
    Secret(Vec<u8>),
    /// PKCS #1: modulus and exponent.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// One key.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    kid: Option<String>,
    material: Material,
}

/// No key in a log.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl Key {
    fn algorithm(&self) -> Algorithm {
        match self.material {
            Material::Secret(_) => Algorithm::Hs256,
            Material::Rsa { .. } => Algorithm::Rs256,
            Material::P256(_) => Algorithm::Es256,
            Material::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Secret(secret) => {
                hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret), message, signature).is_ok()
            }
            Material::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
            Material::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            Material::Ed25519(point) => UnparsedPublicKey::new(&ED25519, point).verify(message, signature).is_ok(),
        }
    }
}

/// The keys of one configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(Vec<Arc<Key>>);

impl Keys {
    /// Public keys: PEM, or a JWKS.
    ///
    /// # Errors
    /// What is wrong with the text; never the text itself.
    pub fn parse(text: &str) -> Result<Self, String> {
        let keys = if text.trim_start().starts_with('{') { Self::of_jwks(text)? } else { Self::of_pem(text)? };
        if keys.0.len() > KEYS_MAX {
            return Err(format!("has more than {KEYS_MAX} keys"));
        }
        if keys.0.is_empty() {
            return Err(
                "has no key for HS256, RS256, ES256 or EdDSA; it is PEM (BEGIN PUBLIC KEY) or a JWKS".to_owned()
            );
        }
        Ok(keys)
    }

    /// A shared secret: the whole text, without the line end behind it.
    ///
    /// # Errors
    /// It is too short.
    pub fn of_secret(text: &str) -> Result<Self, String> {
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.len() < SECRET_MIN {
            return Err(format!("a secret for HS256 has at least {SECRET_MIN} bytes"));
        }
        let material = Material::Secret(secret.as_bytes().to_vec());
        Ok(Self(vec![Arc::new(Key { kid: None, material })]))
    }

    /// These and others.
    #[must_use]
    pub fn with(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a key is still there.
    pub(in crate::access) fn has(&self, key: &Key) -> bool {
        self.0.iter().any(|own| **own == *key)
    }

    /// The key that a message is signed with. A key with an identifier is not tried for a token that names another.
    pub(super) fn signed_by(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Option<&Arc<Key>> {
        let named = |key: &Key| match (&key.kid, kid) {
            (Some(own), Some(kid)) => own == kid,
            _ => true,
        };
        self.0.iter().find(|key| key.algorithm() == algorithm && named(key) && key.verify(message, signature))
    }

    fn of_pem(text: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        for key in SubjectPublicKeyInfoDer::pem_slice_iter(text.as_bytes()) {
            let key = key.map_err(|error| format!("is not PEM: {error}"))?;
            let material = public_key(&key).ok_or("has a key that is neither RSA, P-256 nor Ed25519")?;
            keys.push(Arc::new(Key { kid: None, material }));
        }
        Ok(Self(keys))
    }

    fn of_jwks(text: &str) -> Result<Self, String> {
        let whole: Value = serde_json::from_str(text).map_err(|error| format!("is not JSON: line {}", error.line()))?;
        let list = whole.get("keys").and_then(Value::as_array).ok_or("is not a JWKS: it has no list `keys`")?;
        Ok(Self(list.iter().filter_map(jwk).map(Arc::new).collect()))
    }
}

/// A key of a JWKS; `None` for one that is not for signatures, or of a kind that is not known [RFC 7517, 5].
fn jwk(jwk: &Value) -> Option<Key> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let bytes = |name: &str| text(name).and_then(|text| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok());
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let material = match (text("kty")?, text("crv")) {
        ("oct", _) => Material::Secret(bytes("k").filter(|secret| secret.len() >= SECRET_MIN)?),
        ("RSA", _) => Material::Rsa { n: bytes("n")?, e: bytes("e")? },
        ("EC", Some("P-256")) => {
            let (x, y) = (bytes("x").filter(|x| x.len() == 32)?, bytes("y").filter(|y| y.len() == 32)?);
            Material::P256([&[4][..], &x, &y].concat())
        }
        ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x").filter(|x| x.len() == 32)?),
        _ => return None,
    };
    let key = Key { kid: text("kid").map(str::to_owned), material };
    let fits = text("alg").is_none_or(|name| Algorithm::named(name) == Some(key.algorithm()));
    fits.then_some(key)
}

/// The identifiers of algorithms, as DER has them.
const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 1];
const EC: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1];
const P256: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7];
const ED25519_ID: &[u8] = &[0x2B, 0x65, 0x70];

/// What is in a SubjectPublicKeyInfo [RFC 5280, 4.1].
fn public_key(der: &[u8]) -> Option<Material> {
    let (info, _) = element(der, 0x30)?;
    let (algorithm, rest) = element(info, 0x30)?;
    let (bits, _) = element(rest, 3)?;
    let key = bits.strip_prefix(&[0])?;
    let (id, parameters) = element(algorithm, 6)?;
    if id == RSA {
        let (numbers, _) = element(key, 0x30)?;
        let (n, rest) = element(numbers, 2)?;
        let (e, _) = element(rest, 2)?;
        let unsigned = |number: &[u8]| number.strip_prefix(&[0]).unwrap_or(number).to_vec();
        return Some(Material::Rsa { n: unsigned(n), e: unsigned(e) });
    }
    if id == EC {
        let on_curve = element(parameters, 6)?.0 == P256 && key.len() == 65 && key.first() == Some(&4);
        return on_curve.then(|| Material::P256(key.to_vec()));
    }
    (id == ED25519_ID && key.len() == 32).then(|| Material::Ed25519(key.to_vec()))
}

/// One element of DER with this tag: its content, and what follows.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let rest = der.strip_prefix(&[tag])?;
    let (first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7F => (usize::from(*first), rest),
        0x81..=0x83 => {
            let (len, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            (len.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(len)
}
