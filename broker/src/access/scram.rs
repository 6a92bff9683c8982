//! SCRAM-SHA-256 (RFC 5802, RFC 7677) by enhanced authentication: the password never travels, and the client sees that the broker
//! knows it as well. For users whose line in the password file was made with `forebay passwd --scram`.

use std::num::NonZeroU32;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use forebay_wire::reason::ReasonCode;
use ring::rand::SecureRandom;
use ring::{digest, hmac, rand};

use super::Policy;
use super::auth::{Exchange, Step};
use super::password::{ScramSecret, Stored};
use super::sources::{Credential, Identity};

/// The longest message of a client, in bytes.
const MESSAGE_MAX: usize = 4 * 1024;
/// Bytes of the broker's part of the nonce.
const NONCE_LEN: usize = 18;

/// As it is called in the registry of SASL mechanisms.
pub const NAME: &str = "SCRAM-SHA-256";

/// Begins an exchange with a client, for the users of this policy.
#[must_use]
pub fn begin(policy: Arc<Policy>) -> Box<dyn Exchange> {
    Box::new(Scram::new(policy))
}

/// One exchange with one client.
///
/// ```text
///   Begin ──client-first──► Challenged ──client-final──► over
/// ```
struct Scram {
    policy: Arc<Policy>,
    state: State,
    identity: Option<Identity>,
}

enum State {
    Begin,
    Challenged(Box<Challenge>),
    Over,
}

struct Challenge {
    user: String,
    /// What the proof is made of: `client-first-bare,server-first`.
    messages: String,
    nonce: String,
    secret: ScramSecret,
    /// `None`: there is no such user, and no proof is right.
    stored: Option<Arc<Stored>>,
}

impl Scram {
    fn new(policy: Arc<Policy>) -> Self {
        Self { policy, state: State::Begin, identity: None }
    }

    /// `n,,n=USER,r=NONCE`.
    fn first(&self, data: &[u8]) -> Option<(Challenge, String)> {
        let text = text(data)?;
        // Channel binding is not offered; who says that it saw it is not refused for the words.
        let bare = text.strip_prefix("n,,").or_else(|| text.strip_prefix("y,,"))?;
        let (user, rest) = bare.strip_prefix("n=")?.split_once(',')?;
        let client_nonce = rest.strip_prefix("r=").filter(|nonce| !nonce.is_empty() && !nonce.contains(','))?;
        let user = unescaped(user)?;
        let mut random = [0; NONCE_LEN];
        rand::SystemRandom::new().fill(&mut random).ok()?;
        let nonce = format!("{client_nonce}{}", STANDARD.encode(random));
        let passwords = self.policy.passwords()?;
        let stored = passwords.get(&user).filter(|stored| stored.scram().is_some()).cloned();
        let secret = match stored.as_ref().and_then(|stored| stored.scram()) {
            Some(secret) => secret,
            None => decoy(&user, passwords.decoy().map_or("", |stored| stored.text())),
        };
        let server_first = format!("r={nonce},s={},i={}", STANDARD.encode(&secret.salt), secret.iterations);
        let messages = format!("{bare},{server_first}");
        Some((Challenge { user, messages, nonce, secret, stored }, server_first))
    }

    /// `c=BINDING,r=NONCE,p=PROOF`; the answer is the broker's own proof.
    fn last(challenge: Challenge, data: &[u8]) -> Option<(Identity, String)> {
        let text = text(data)?;
        let (without_proof, proof) = text.rsplit_once(",p=")?;
        let (binding, rest) = without_proof.strip_prefix("c=")?.split_once(',')?;
        // `n,,` and `y,,`.
        if !["biws", "eSws"].contains(&binding) || rest.strip_prefix("r=") != Some(&challenge.nonce) {
            return None;
        }
        let proof = STANDARD.decode(proof).ok()?;
        let message = format!("{},{without_proof}", challenge.messages);
        let signature = hmac::sign(&key(&challenge.secret.stored_key), message.as_bytes());
        if proof.len() != signature.as_ref().len() {
            return None;
        }
        let client_key: Vec<u8> = proof.iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let right = same(digest::digest(&digest::SHA256, &client_key).as_ref(), &challenge.secret.stored_key);
        let stored = challenge.stored.filter(|_| right)?;
        let server = hmac::sign(&key(&challenge.secret.server_key), message.as_bytes());
        let identity =
            Identity { user: Some(challenge.user.into()), credential: Credential::Hash(stored), ..Identity::default() };
        Some((identity, format!("v={}", STANDARD.encode(server))))
    }
}

impl Exchange for Scram {
    fn step(&mut self, data: &[u8]) -> Step {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Begin => match self.first(data) {
                Some((challenge, answer)) => {
                    self.state = State::Challenged(Box::new(challenge));
                    Step::Continue(answer.into_bytes())
                }
                None => Step::Refused(ReasonCode::NotAuthorized),
            },
            State::Challenged(challenge) => match Self::last(*challenge, data) {
                Some((identity, answer)) => {
                    self.identity = Some(identity);
                    Step::Done(Some(answer.into_bytes()))
                }
                None => Step::Refused(ReasonCode::NotAuthorized),
            },
            State::Over => Step::Refused(ReasonCode::NotAuthorized),
        }
    }

    fn identity(&mut self) -> Option<Identity> {
        self.identity.take()
    }
}

/// What is sent for a user that does not exist: the same at each try, and nothing that anybody can tell from a real one.
fn decoy(user: &str, key_of_file: &str) -> ScramSecret {
    let tag = hmac::sign(&key(key_of_file.as_bytes()), user.as_bytes());
    let (salt, rest) = tag.as_ref().split_at_checked(16).unwrap_or_default();
    let iterations = NonZeroU32::new(super::password::SCRAM_ITERATIONS).unwrap_or(NonZeroU32::MIN);
    ScramSecret { iterations, salt: salt.to_vec(), stored_key: rest.to_vec(), server_key: rest.to_vec() }
}

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok().filter(|text| text.len() <= MESSAGE_MAX && !text.contains('\0'))
}

/// `=2C` is a comma, `=3D` an equals sign, and no other `=` may be there [RFC 5802, 5.1].
fn unescaped(name: &str) -> Option<String> {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, behind)) = rest.split_once('=') {
        out.push_str(before);
        rest = match (behind.strip_prefix("2C"), behind.strip_prefix("3D")) {
            (Some(rest), _) => {
                out.push(',');
                rest
            }
            (_, Some(rest)) => {
                out.push('=');
                rest
            }
            (None, None) => return None,
        };
    }
    out.push_str(rest);
    (!out.is_empty()).then_some(out)
}

pub(super) fn key(bytes: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, bytes)
}

/// In a time that does not depend on where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm)]
    use ring::pbkdf2;

    use super::*;
    use crate::access::password::Passwords;

    /// The client's side, as RFC 5802 says it.
    fn final_message(first_bare: &str, server_first: &str, password: &[u8]) -> (String, String) {
        let part = |name: &str| server_first.split(',').find_map(|part| part.strip_prefix(name)).unwrap();
        let (nonce, salt, iterations) = (part("r="), STANDARD.decode(part("s=")).unwrap(), part("i=").parse().unwrap());
        let mut salted = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password, &mut salted);
        let client_key = hmac::sign(&key(&salted), b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
        let without_proof = format!("c=biws,r={nonce}");
        let message = format!("{first_bare},{server_first},{without_proof}");
        let signature = hmac::sign(&key(stored_key.as_ref()), message.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let server_key = hmac::sign(&key(&salted), b"Server Key");
        let expected = hmac::sign(&key(server_key.as_ref()), message.as_bytes());
        (format!("{without_proof},p={}", STANDARD.encode(proof)), format!("v={}", STANDARD.encode(expected)))
    }

    fn policy() -> Arc<Policy> {
        let line = |name: &str| format!("{name}:{}\n", Stored::scram_of(b"pencil").unwrap().text());
        let text = line("user") + &line("a,b=c") + "plain:$6$AAAA$AAAA\n";
        Arc::new(Policy::with_passwords(Passwords::parse(&text).unwrap()))
    }

    fn begin(user: &str) -> (Scram, String) {
        let mut scram = Scram::new(policy());
        match scram.step(format!("n,,n={user},r=fyko+d2lbbFgONRv9qkxdawL").as_bytes()) {
            Step::Continue(answer) => (scram, String::from_utf8(answer).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_sides_prove_that_they_know_the_password() {
        for (name, user) in [("user", "user"), ("a=2Cb=3Dc", "a,b=c")] {
            let (mut scram, challenge) = begin(name);
            let (last, expected) =
                final_message(&format!("n={name},r=fyko+d2lbbFgONRv9qkxdawL"), &challenge, b"pencil");
            assert_eq!(scram.step(last.as_bytes()), Step::Done(Some(expected.into_bytes())));
            assert_eq!(scram.identity().unwrap().user.as_deref(), Some(user));
            assert_eq!(scram.step(last.as_bytes()), Step::Refused(ReasonCode::NotAuthorized), "it is over");
        }
    }

    #[test]
    fn what_is_not_right_is_refused() {
        let refused = Step::Refused(ReasonCode::NotAuthorized);
        for user in ["user", "plain", "nobody"] {
            let (mut scram, challenge) = begin(user);
            let password: &[u8] = if user == "user" { b"pencils" } else { b"pencil" };
            let (last, _) = final_message(&format!("n={user},r=fyko+d2lbbFgONRv9qkxdawL"), &challenge, password);
            assert_eq!(scram.step(last.as_bytes()), refused, "{user}");
            assert!(scram.identity().is_none());
        }
        let salt = |user| begin(user).1.split(',').nth(1).unwrap().to_owned();
        assert_eq!(salt("nobody").len(), salt("user").len());
        for bad in [
            "",
            "n,,",
            "n,,n=user",
            "n,,n=user,r=",
            "p=tls-unique,,n=user,r=x",
            "n,,n=us=er,r=x",
            "n,a=x,n=user,r=x",
            "n,,n=,r=x",
        ] {
            assert_eq!(Scram::new(policy()).step(bad.as_bytes()), refused, "{bad}");
        }
        for change in [
            |last: &str| last.replace("c=biws", "c=cD0"),
            |last: &str| last.replace("r=fyko", "r=fykq"),
            |last: &str| last.replace(",p=", ",p=A"),
            |last: &str| last.replace(",p=", ",q="),
        ] {
            let (mut scram, challenge) = begin("user");
            let (last, _) = final_message("n=user,r=fyko+d2lbbFgONRv9qkxdawL", &challenge, b"pencil");
            assert_eq!(scram.step(change(&last).as_bytes()), refused, "{}", change(&last));
        }
    }

    #[test]
    fn a_name_that_is_not_there_has_a_salt_that_stays() {
        let policy = policy();
        let salt = |user: &str| match Scram::new(policy.clone()).step(format!("n,,n={user},r=x").as_bytes()) {
            Step::Continue(answer) => String::from_utf8(answer).unwrap().split(',').nth(1).unwrap().to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(salt("nobody"), salt("nobody"));
        assert_ne!(salt("nobody"), salt("somebody"));
    }
}
