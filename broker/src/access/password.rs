//! The password file: a line `NAME:HASH` for each user. New hashes are argon2id; mosquitto's are read as they are:
//! `$7$` (PBKDF2-HMAC-SHA-512), `$6$` (SHA-512 of password and salt) and `$argon2id$`. `$scram-sha-256$` is for those who
//! log in by SCRAM.

use std::num::NonZeroU32;
use std::sync::Arc;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hashbrown::HashMap;
use ring::rand::SecureRandom;
use ring::{digest, hmac, pbkdf2, rand};

use super::acl::BadLine;
use super::scram;

/// What a secret for SCRAM-SHA-256 begins with: iterations, salt, StoredKey and ServerKey [RFC 5803].
const SCRAM: &str = "$scram-sha-256$";
/// What a new hash costs: 9 MiB and four passes, about what 19 MiB and two cost, on boards that have little memory.
const MEMORY_KIB: u32 = 9 * 1024;
const PASSES: u32 = 4;
/// More memory than this would stop the broker at each CONNECT.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
/// The same for time.
const ITERATIONS_MAX: u32 = 10_000_000;
const PASSES_MAX: u32 = 100;
const SALT_LEN: usize = 16;
/// The longest user name in a file, in bytes: what MQTT can say.
const NAME_MAX: usize = 65_535;

/// What a new SCRAM secret costs: a client, perhaps a small one, has to compute it as well.
pub(super) const SCRAM_ITERATIONS: u32 = 15_000;

/// What SCRAM-SHA-256 needs of a password.
pub(super) struct ScramSecret {
    pub(super) iterations: NonZeroU32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: Vec<u8>,
    pub(super) server_key: Vec<u8>,
}

impl ScramSecret {
    fn of(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        let mut salted = [0; digest::SHA256_OUTPUT_LEN];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password, &mut salted);
        let client_key = hmac::sign(&scram::key(&salted), b"Client Key");
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: digest::digest(&digest::SHA256, client_key.as_ref()).as_ref().to_vec(),
            server_key: hmac::sign(&scram::key(&salted), b"Server Key").as_ref().to_vec(),
        }
    }
}

/// A hash as it stands in a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Stored {
    text: Box<str>,
}

/// No hash in a log.
impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stored(..)")
    }
}

/// There is no source of random numbers, or the hash cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the password cannot be hashed: no random numbers, or no memory")]
pub struct CannotHash;

/// A hash of no form that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnknownForm;

impl Stored {
    /// A new argon2id hash.
    ///
    /// # Errors
    /// No random numbers.
    pub fn of(password: &[u8]) -> Result<Self, CannotHash> {
        Self::with_cost(password, MEMORY_KIB, PASSES)
    }

    fn with_cost(password: &[u8], memory_kib: u32, passes: u32) -> Result<Self, CannotHash> {
        let mut salt = [0; SALT_LEN];
        rand::SystemRandom::new().fill(&mut salt).map_err(|_| CannotHash)?;
        let salt = SaltString::encode_b64(&salt).map_err(|_| CannotHash)?;
        let params = Params::new(memory_kib, passes, 1, None).map_err(|_| CannotHash)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let hash = argon2.hash_password(password, &salt).map_err(|_| CannotHash)?;
        Ok(Self { text: hash.to_string().into() })
    }

    /// A secret that SCRAM-SHA-256 can use; the password itself is right for it as well.
    ///
    /// # Errors
    /// No random numbers.
    pub fn scram_of(password: &[u8]) -> Result<Self, CannotHash> {
        let mut salt = [0; SALT_LEN];
        rand::SystemRandom::new().fill(&mut salt).map_err(|_| CannotHash)?;
        let iterations = NonZeroU32::new(SCRAM_ITERATIONS).ok_or(CannotHash)?;
        let secret = ScramSecret::of(password, &salt, iterations);
        let [salt, stored, server] =
            [&secret.salt, &secret.stored_key, &secret.server_key].map(|part| STANDARD.encode(part));
        Ok(Self { text: format!("{SCRAM}{iterations}${salt}${stored}${server}").into() })
    }

    /// What SCRAM needs, if it was made for it.
    pub(super) fn scram(&self) -> Option<ScramSecret> {
        match Form::read(&self.text)? {
            Form::Scram(secret) => Some(secret),
            Form::Argon2(_) | Form::Pbkdf2 { .. } | Form::Sha512 { .. } => None,
        }
    }

    /// A hash as it stands in a file.
    ///
    /// # Errors
    /// It is of no form that is known.
    pub(super) fn read(text: &str) -> Result<Self, UnknownForm> {
        Form::read(text).map(|_| Self { text: text.into() }).ok_or(UnknownForm)
    }

    /// As it stands in the file.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is the hash of this password. Takes as long as the hash was made to take.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        match Form::read(&self.text) {
            Some(Form::Argon2(hash)) => Argon2::default().verify_password(password, &hash).is_ok(),
            Some(Form::Pbkdf2 { iterations, salt, hash }) => {
                pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA512, iterations, &salt, password, &hash).is_ok()
            }
            Some(Form::Sha512 { salt, hash }) => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(&salt);
                same(context.finish().as_ref(), &hash)
            }
            Some(Form::Scram(secret)) => {
                same(&ScramSecret::of(password, &secret.salt, secret.iterations).stored_key, &secret.stored_key)
            }
            None => false,
        }
    }
}

/// In a time that does not depend on where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// A hash, taken apart.
enum Form<'a> {
    Argon2(PasswordHash<'a>),
    Pbkdf2 { iterations: NonZeroU32, salt: Vec<u8>, hash: Vec<u8> },
    Sha512 { salt: Vec<u8>, hash: Vec<u8> },
    Scram(ScramSecret),
}

impl<'a> Form<'a> {
    /// About how long it takes to verify, in microseconds of a usual machine.
    fn cost(&self) -> u64 {
        match self {
            // A KiB in one pass.
            Self::Argon2(hash) => {
                Params::try_from(hash).map_or(0, |of| u64::from(of.m_cost()) * u64::from(of.t_cost()))
            }
            Self::Pbkdf2 { iterations, .. } => u64::from(iterations.get()),
            Self::Scram(secret) => u64::from(secret.iterations.get()),
            Self::Sha512 { .. } => 1,
        }
    }

    fn read(text: &'a str) -> Option<Self> {
        let decoded = |text: &str| STANDARD.decode(text).ok().filter(|bytes| !bytes.is_empty());
        if text.starts_with("$argon2") {
            let hash = PasswordHash::new(text).ok().filter(|hash| hash.hash.is_some())?;
            let params = Params::try_from(&hash).ok()?;
            let bounded = params.m_cost() <= MEMORY_KIB_MAX && params.t_cost() <= PASSES_MAX;
            return bounded.then_some(Self::Argon2(hash));
        }
        if let Some(rest) = text.strip_prefix(SCRAM) {
            let mut parts = rest.split('$');
            let key = |part: Option<&str>| decoded(part?).filter(|key| key.len() == digest::SHA256_OUTPUT_LEN);
            let secret = ScramSecret {
                iterations: parts.next()?.parse().ok().filter(|n: &NonZeroU32| n.get() <= ITERATIONS_MAX)?,
                salt: decoded(parts.next()?)?,
                stored_key: key(parts.next())?,
                server_key: key(parts.next())?,
            };
            return parts.next().is_none().then_some(Self::Scram(secret));
        }
        let mut parts = text.strip_prefix('$')?.split('$');
        let form = match parts.next()? {
            "7" => Self::Pbkdf2 {
                iterations: parts.next()?.parse().ok().filter(|n: &NonZeroU32| n.get() <= ITERATIONS_MAX)?,
                salt: decoded(parts.next()?)?,
                hash: decoded(parts.next()?)?,
            },
            "6" => Self::Sha512 { salt: decoded(parts.next()?)?, hash: decoded(parts.next()?)? },
            _ => return None,
        };
        parts.next().is_none().then_some(form)
    }
}

/// The users of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passwords {
    users: HashMap<Box<str>, Arc<Stored>>,
    /// What a name that does not exist is checked against, so that it takes as long as one that does.
    decoy: Option<Arc<Stored>>,
}

impl Passwords {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// The first line that is wrong. A password is never part of it.
    pub fn parse(text: &str) -> Result<Self, BadLine> {
        let (mut passwords, mut costliest) = (Self::default(), None);
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim_end();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let bad = |why: &'static str| BadLine { line, why: why.into() };
            let (name, hash) = text.split_once(':').ok_or_else(|| bad("is not NAME:HASH"))?;
            if name.is_empty() || name.len() > NAME_MAX {
                return Err(bad("the user name is empty or too long"));
            }
            let Some(form) = Form::read(hash) else {
                return Err(bad(
                    "the password is not hashed in a way that is known ($argon2id$, $scram-sha-256$, $7$, $6$); \
                                set it anew with `forebay passwd`",
                ));
            };
            let stored = Arc::new(Stored { text: hash.into() });
            if costliest < Some(form.cost()) {
                costliest = Some(form.cost());
                passwords.decoy = Some(stored.clone());
            }
            passwords.users.insert(name.into(), stored);
        }
        passwords.users.shrink_to_fit();
        Ok(passwords)
    }

    /// The hash of a user.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Stored>> {
        self.users.get(name)
    }

    /// What takes as long as the slowest of the users who exist; `None` in an empty file.
    #[must_use]
    pub fn decoy(&self) -> Option<&Arc<Stored>> {
        self.decoy.as_ref()
    }

    /// The users' names, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(|name| &**name)
    }

    /// How many users there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

/// Whether a name can stand in a file.
///
/// # Errors
/// Why not.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > NAME_MAX {
        Err("a user name has 1 to 65535 bytes")
    } else if name.contains(':') || name.chars().any(char::is_control) {
        Err("a user name has neither `:` nor control characters in it")
    } else if name.starts_with('#') || name.trim() != name {
        Err("a user name neither begins with `#` nor with or ends in a blank")
    } else {
        Ok(())
    }
}

/// The text of a file with one user added, or with another hash; everything else stays as it is.
#[must_use]
pub fn with_user(text: &str, name: &str, stored: &Stored) -> String {
    let mut out = String::with_capacity(text.len() + name.len() + stored.text.len() + 2);
    let mut done = false;
    for line in text.lines() {
        if is_of(line, name) {
            if !done {
                out.push_str(&format!("{name}:{}\n", stored.text));
                done = true;
            }
            continue;
        }
        out.push_str(line);
        out.push('\n');
    }
    if !done {
        out.push_str(&format!("{name}:{}\n", stored.text));
    }
    out
}

/// The text of a file without one user; `None` if it is not there.
#[must_use]
pub fn without_user(text: &str, name: &str) -> Option<String> {
    if !text.lines().any(|line| is_of(line, name)) {
        return None;
    }
    Some(text.lines().filter(|line| !is_of(line, name)).fold(String::new(), |out, line| out + line + "\n"))
}

fn is_of(line: &str, name: &str) -> bool {
    line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Made by `mosquitto_passwd` 2.0 (`$7$`, and `$6$` with `-H sha512`) for the password `secret`.
    const FROM_MOSQUITTO: &str = include_str!("mosquitto.passwords");

    #[test]
    fn reads_what_mosquitto_writes() {
        let passwords = Passwords::parse(FROM_MOSQUITTO).unwrap();
        for name in ["seven", "six"] {
            let stored = passwords.get(name).unwrap();
            assert!(stored.verify(b"secret"), "{name}");
            for wrong in [&b"Secret"[..], b"", b"secret ", b"secre"] {
                assert!(!stored.verify(wrong), "{name} {wrong:?}");
            }
        }
        assert_eq!(passwords.len(), 2);
    }

    #[test]
    fn makes_argon2id() {
        let stored = Stored::with_cost("pässword".as_bytes(), 64, 1).unwrap();
        assert!(stored.text().starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{}", stored.text());
        assert!(stored.verify("pässword".as_bytes()) && !stored.verify(b"password"));
        assert_ne!(Stored::with_cost(b"x", 64, 1).unwrap(), Stored::with_cost(b"x", 64, 1).unwrap());
        assert!(!format!("{stored:?}").contains("argon2"));
    }

    #[test]
    fn makes_scram_secrets() {
        let stored = Stored::scram_of(b"pencil").unwrap();
        assert!(stored.verify(b"pencil") && !stored.verify(b"pencils") && !stored.verify(b""));
        assert!(Passwords::parse(&format!("a:{}", stored.text())).is_ok() && stored.scram().is_some());
        for cut in ["$scram-sha-256$4096$AAAA$AAAA$AAAA", "$scram-sha-256$0$AAAA"] {
            assert!(Passwords::parse(&format!("a:{cut}")).is_err(), "{cut}");
        }
    }

    #[test]
    fn names_the_line_and_never_the_password() {
        for (text, line) in [
            ("a", 1),
            ("# ok\n\nseven:plain-secret", 3),
            (":$6$AAAA$AAAA", 1),
            ("a:$7$0$AAAA$AAAA", 1),
            ("a:$7$10000001$AAAA$AAAA", 1),
            ("a:$7$101$AAAA$AAAA$x", 1),
            ("a:$6$AAAA$", 1),
            ("a:$5$AAAA$AAAA", 1),
            ("a:$argon2id$v=19$m=1048576,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA", 1),
        ] {
            let error = Passwords::parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text}");
            assert!(!error.to_string().contains("plain-secret"), "{error}");
        }
    }

    #[test]
    fn changes_one_line_only() {
        let stored = Stored { text: "$6$AAAA$AAAA".into() };
        let text = "# users\nab:1\na:2\na:3\nb:4";
        assert_eq!(with_user(text, "a", &stored), "# users\nab:1\na:$6$AAAA$AAAA\nb:4\n");
        assert_eq!(with_user(text, "c", &stored), "# users\nab:1\na:2\na:3\nb:4\nc:$6$AAAA$AAAA\n");
        assert_eq!(without_user(text, "a").unwrap(), "# users\nab:1\nb:4\n");
        assert_eq!(without_user(text, "x"), None);
        for bad in ["", "a:b", "a\n", "#a", " a"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
