//! Tokens (JWT, RFC 7519): who the client is, until when, and what it may do. Signed with HS256, RS256, ES256 or EdDSA.
//!
//! A key is for one algorithm, whatever the token's header says: a public key is never taken for a shared secret.

mod keys;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::access::rules::Rules;
use crate::config::JwtConfig;

pub use keys::Keys;
pub(in crate::access) use keys::{Algorithm, Key};

/// The longest token, in bytes.
const TOKEN_MAX: usize = 16 * 1024;
/// Groups of one token.
const GROUPS_MAX: usize = 64;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The user name.
    pub user: String,
    /// Its groups.
    pub groups: Vec<Arc<str>>,
    /// What it may do, if the token says so.
    pub rules: Option<Arc<Rules>>,
    /// When it ends.
    pub expires: Option<SystemTime>,
    /// The key that it is signed with.
    pub(in crate::access) key: Arc<Key>,
}

/// Whether something looks like a token: then nothing but a token is made of it.
#[must_use]
pub fn is_token(text: &[u8]) -> bool {
    let mut parts = text.splitn(4, |byte| *byte == b'.');
    let header = parts.next().and_then(decoded);
    let is_object = |bytes: Vec<u8>| bytes.first() == Some(&b'{');
    header.is_some_and(is_object) && parts.next().is_some() && parts.next().is_some() && parts.next().is_none()
}

/// What a token says, if it is one that counts for this client identifier.
///
/// # Errors
/// Why it does not count.
pub fn verify(
    token: &[u8],
    keys: &Keys,
    config: &JwtConfig,
    client_id: &str,
    now: SystemTime,
) -> Result<Claims, &'static str> {
    if token.len() > TOKEN_MAX {
        return Err("the token is too long");
    }
    let text = std::str::from_utf8(token).map_err(|_| "the token is no text")?;
    let (signed, signature) = text.rsplit_once('.').ok_or("not a token")?;
    let (header, payload) = signed.split_once('.').ok_or("not a token")?;
    let object = |part: &str| decoded(part.as_bytes()).and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let header = object(header).filter(Value::is_object).ok_or("the token's header is not one")?;
    let signature = decoded(signature.as_bytes()).ok_or("the token's signature is not one")?;
    if header.get("crit").is_some() {
        return Err("the token asks for what is not known here (crit)");
    }
    let algorithm = header.get("alg").and_then(Value::as_str).and_then(Algorithm::named);
    let algorithm = algorithm.ok_or("the token's algorithm is not HS256, RS256, ES256 or EdDSA")?;
    let kid = header.get("kid").and_then(Value::as_str);
    let key = keys.signed_by(algorithm, kid, signed.as_bytes(), &signature);
    let key = key.ok_or("the token is signed by no key that is known")?;
    let claims = object(payload).filter(Value::is_object).ok_or("the token's claims are not an object")?;
    claimed(&claims, key.clone(), config, client_id, now)
}

fn decoded(part: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

fn claimed(
    claims: &Value,
    key: Arc<Key>,
    config: &JwtConfig,
    client_id: &str,
    now: SystemTime,
) -> Result<Claims, &'static str> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let expires = time(claims, "exp")?;
    match expires {
        Some(at) if at + config.leeway <= now => return Err("the token has expired"),
        None if config.require_expiry => return Err("the token has no expiry (exp)"),
        _ => {}
    }
    if time(claims, "nbf")?.is_some_and(|from| from > now + config.leeway) {
        return Err("the token is not valid yet (nbf)");
    }
    if config.issuer.as_deref().is_some_and(|issuer| text("iss") != Some(issuer)) {
        return Err("the token has another issuer");
    }
    if config.audience.as_deref().is_some_and(|audience| !is_for(claims, audience)) {
        return Err("the token is for another audience");
    }
    if config.client_id_claim.as_deref().is_some_and(|name| text(name) != Some(client_id)) {
        return Err("the token is for another client identifier");
    }
    let user = text(&config.user_claim).filter(|user| !user.is_empty() && user.len() <= usize::from(u16::MAX));
    let user = user.ok_or("the token names no user")?.to_owned();
    let groups = match claims.get(&config.groups_claim) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) if list.len() <= GROUPS_MAX => list
            .iter()
            .map(|group| group.as_str().map(Into::into))
            .collect::<Option<_>>()
            .ok_or("a group is no string")?,
        Some(_) => return Err("the token's groups are not a list, or too many"),
    };
    let rules = match claims.get("acl") {
        None | Some(Value::Null) => None,
        Some(acl) => Some(Arc::new(Rules::of_claims(acl).map_err(|_| "the token's ACL is wrong")?)),
    };
    // The end of the connection, as it was judged here.
    let expires = expires.map(|at| at + config.leeway);
    Ok(Claims { user, groups, rules, expires, key })
}

fn is_for(claims: &Value, audience: &str) -> bool {
    match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(list)) => list.iter().any(|one| one.as_str() == Some(audience)),
        _ => false,
    }
}

/// A NumericDate: seconds since 1970, perhaps with a fraction.
fn time(claims: &Value, name: &str) -> Result<Option<SystemTime>, &'static str> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..1e11).contains(seconds));
    let seconds = seconds.ok_or("a time of the token is no number of seconds")?;
    Ok(Some(UNIX_EPOCH + Duration::from_secs_f64(seconds)))
}
