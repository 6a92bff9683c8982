//! A CA of one's own: what `forebay certs` makes and looks after.
//!
//! A folder holds everything: `ca.pem`, `ca.key`, `crl.pem`, for each name `NAME.pem` and `NAME.key`, and `index.json`, which
//! says what has been issued and what is revoked.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{CertsError, name, read, validity, write};

/// How long a revocation list is valid that is written because something was revoked.
const CRL_DAYS: u32 = 90;
/// Bytes of a serial number.
const SERIAL_BYTES: usize = 16;
/// Bytes of a name: what a common name may have.
const NAME_MAX: usize = 64;

/// What `forebay certs` cannot do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// There is no CA.
    #[error("{} holds no CA: make one with `forebay certs ca`, or name its folder with --dir", dir.display())]
    NoCa {
        /// The folder.
        dir: PathBuf,
    },
    /// It would be overwritten.
    #[error("{} is there already; {hint}", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// Nothing of this name has been issued.
    #[error("nothing named {name:?} has been issued here: `forebay certs list` says what has")]
    Unknown {
        /// The name.
        name: String,
    },
    /// Not a name.
    #[error("{name:?} cannot be a name here: 1 to 64 letters, digits, and . _ - @, not with a dot in front{}", .hint)]
    BadName {
        /// What was written.
        name: String,
        /// What else may be.
        hint: &'static str,
    },
    /// The index is not what this program has written.
    #[error("{} is damaged: {source}", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// No random numbers.
    #[error("this machine gives no random numbers")]
    NoRandom,
    /// A file.
    #[error("{} cannot be read or written: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A certificate.
    #[error("the certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
}

impl From<CertsError> for AuthorityError {
    fn from(error: CertsError) -> Self {
        match error {
            CertsError::Io { path, source } => Self::Io { path, source },
            CertsError::Damaged { source, .. } => Self::Certificate(source),
        }
    }
}

/// Whom a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum For {
    /// A broker: its names are those that devices connect to.
    Server,
    /// A device: its name is its user name.
    Device,
}

/// One certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The name of its files.
    pub file: String,
    /// Whom it is for.
    pub kind: For,
    /// Its names.
    pub names: Vec<String>,
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// When it ends: seconds since 1970.
    pub ends_s: i64,
    /// When it was revoked: seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_s: Option<i64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    ca: String,
    issued: Vec<Issued>,
}

/// A CA, open.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    index: Index,
    key: String,
}

impl Authority {
    /// Makes a CA in a folder.
    ///
    /// # Errors
    /// There is one already, or it cannot be written.
    pub fn create(dir: &Path, ca: &str, days: u32) -> Result<Self, AuthorityError> {
        let (pem, key_file) = (dir.join("ca.pem"), dir.join("ca.key"));
        for path in [&pem, &key_file] {
            if path.exists() {
                let hint = "choose another folder with --dir, or move it away";
                return Err(AuthorityError::Exists { path: path.clone(), hint });
            }
        }
        make_folder(dir)?;
        let key = KeyPair::generate()?;
        let mut params = ca_params(ca);
        validity(&mut params, i64::from(days));
        let certificate = params.self_signed(&key)?;
        let key = key.serialize_pem();
        write(&key_file, &key, true)?;
        let authority = Self { dir: dir.to_owned(), index: Index { ca: ca.to_owned(), issued: Vec::new() }, key };
        authority.write_index()?;
        authority.write_crl(CRL_DAYS)?;
        write(&pem, &certificate.pem(), false)?;
        Ok(authority)
    }

    /// Opens the CA of a folder.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        if !dir.join("ca.pem").exists() {
            return Err(AuthorityError::NoCa { dir: dir.to_owned() });
        }
        let path = dir.join("index.json");
        let index = serde_json::from_str(&read(&path)?).map_err(|source| AuthorityError::Index { path, source })?;
        Ok(Self { dir: dir.to_owned(), index, key: read(&dir.join("ca.key"))? })
    }

    /// What has been issued.
    #[must_use]
    pub fn issued(&self) -> &[Issued] {
        &self.index.issued
    }

    /// The folder's file of this name, as a whole path.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        let path = self.dir.join(file);
        std::path::absolute(&path).unwrap_or(path)
    }

    /// Issues a certificate with a new key.
    ///
    /// # Errors
    /// There is one of this name, a name is none, or something cannot be written.
    pub fn issue(&mut self, kind: For, names: &[String], days: u32) -> Result<Issued, AuthorityError> {
        let file = file_of(kind, names)?;
        let path = self.dir.join(format!("{file}.pem"));
        if path.exists() || self.dir.join(format!("{file}.key")).exists() {
            let hint = "make it anew with `forebay certs renew`";
            return Err(AuthorityError::Exists { path, hint });
        }
        self.make(file, kind, names.to_vec(), days)
    }

    /// Issues a certificate anew, with a new key, for the same names. The old one stays valid until its end.
    ///
    /// # Errors
    /// None of this name has been issued, or something cannot be written.
    pub fn renew(&mut self, file: &str, days: u32) -> Result<Issued, AuthorityError> {
        let last = self.index.issued.iter().rev().find(|issued| issued.file == file).cloned();
        let last = last.ok_or_else(|| AuthorityError::Unknown { name: file.to_owned() })?;
        self.make(last.file, last.kind, last.names, days)
    }

    /// Revokes all certificates of a name, and writes the list. Returns how many were not revoked before.
    ///
    /// # Errors
    /// None of this name has been issued, or something cannot be written.
    pub fn revoke(&mut self, file: &str) -> Result<usize, AuthorityError> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let (mut known, mut count) = (false, 0);
        for issued in self.index.issued.iter_mut().filter(|issued| issued.file == file) {
            known = true;
            if issued.revoked_s.is_none() {
                issued.revoked_s = Some(now);
                count += 1;
            }
        }
        if !known {
            return Err(AuthorityError::Unknown { name: file.to_owned() });
        }
        self.write_index()?;
        self.write_crl(CRL_DAYS)?;
        Ok(count)
    }

    /// Writes the revocation list.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub fn write_crl(&self, days: u32) -> Result<(), AuthorityError> {
        let now = OffsetDateTime::now_utc();
        let mut revoked = Vec::new();
        for issued in &self.index.issued {
            let Some(at) = issued.revoked_s else { continue };
            revoked.push(RevokedCertParams {
                serial_number: serial_of(&issued.serial),
                revocation_time: OffsetDateTime::from_unix_timestamp(at).unwrap_or(now),
                reason_code: Some(RevocationReason::Unspecified),
                invalidity_date: None,
            });
        }
        let list = CertificateRevocationListParams {
            // A clock that is a little behind takes it as well.
            this_update: now - time::Duration::days(1),
            next_update: now + time::Duration::days(i64::from(days)),
            crl_number: now.unix_timestamp().to_be_bytes().to_vec().into(),
            issuing_distribution_point: None,
            revoked_certs: revoked,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let pem = list.signed_by(&self.issuer()?)?.pem()?;
        Ok(write(&self.dir.join("crl.pem"), &pem, false)?)
    }

    fn make(&mut self, file: String, kind: For, names: Vec<String>, days: u32) -> Result<Issued, AuthorityError> {
        let mut serial = [0; SERIAL_BYTES];
        SystemRandom::new().fill(&mut serial).map_err(|_| AuthorityError::NoRandom)?;
        // A serial number is positive, and does not begin with a zero.
        if let Some(first) = serial.first_mut() {
            *first = *first & 0x7f | 0x40;
        }
        let mut params = leaf_params(kind, &names)?;
        params.serial_number = Some(serial.to_vec().into());
        validity(&mut params, i64::from(days));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer()?)?;
        let serial = serial.iter().map(|byte| format!("{byte:02x}")).collect();
        let ends_s = params.not_after.unix_timestamp();
        let issued = Issued { file, kind, names, serial, ends_s, revoked_s: None };
        // The index first: what is not in it cannot be revoked.
        self.index.issued.push(issued.clone());
        self.write_index()?;
        write(&self.dir.join(format!("{}.key", issued.file)), &key.serialize_pem(), true)?;
        write(&self.dir.join(format!("{}.pem", issued.file)), &certificate.pem(), false)?;
        Ok(issued)
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, AuthorityError> {
        Ok(Issuer::new(ca_params(&self.index.ca), KeyPair::from_pem(&self.key)?))
    }

    fn write_index(&self) -> Result<(), AuthorityError> {
        let path = self.dir.join("index.json");
        let text = serde_json::to_string_pretty(&self.index)
            .map_err(|source| AuthorityError::Index { path: path.clone(), source })?;
        Ok(write(&path, &format!("{text}\n"), true)?)
    }
}

fn make_folder(dir: &Path) -> Result<(), AuthorityError> {
    let mut folder = std::fs::DirBuilder::new();
    folder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut folder, 0o700);
    folder.create(dir).map_err(|source| AuthorityError::Io { path: dir.to_owned(), source })
}

fn ca_params(ca: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(ca);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf_params(kind: For, names: &[String]) -> Result<CertificateParams, AuthorityError> {
    let alt = if kind == For::Server { names.to_vec() } else { Vec::new() };
    let mut params = CertificateParams::new(alt)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, names.first().map_or("", String::as_str));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match kind {
        For::Server => ExtendedKeyUsagePurpose::ServerAuth,
        For::Device => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The name of the files of a certificate; an error for what is no name.
fn file_of(kind: For, names: &[String]) -> Result<String, AuthorityError> {
    let plain = |name: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
        (1..=NAME_MAX).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(fits) && name != "ca"
    };
    for name in names {
        let (fits, hint) = match kind {
            For::Device => (plain(name), ""),
            For::Server => {
                let domain = name.strip_prefix("*.").unwrap_or(name);
                (name.parse::<IpAddr>().is_ok() || plain(domain), "; or *.DOMAIN, or an IP address")
            }
        };
        if !fits {
            return Err(AuthorityError::BadName { name: name.clone(), hint });
        }
    }
    Ok(names.first().map_or("", String::as_str).replace('*', "star").replace(':', "-"))
}

fn serial_of(hex: &str) -> SerialNumber {
    let digits = hex.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok());
    digits.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_ca_issues_renews_and_revokes() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("pki");
        assert!(matches!(Authority::open(&dir), Err(AuthorityError::NoCa { .. })));
        Authority::create(&dir, "a CA", 30).unwrap();
        assert!(matches!(Authority::create(&dir, "a CA", 30), Err(AuthorityError::Exists { .. })));
        let mut authority = Authority::open(&dir).unwrap();
        let first = authority.issue(For::Device, &["pump-7".to_owned()], 30).unwrap();
        let again = authority.issue(For::Device, &["pump-7".to_owned()], 30);
        assert!(matches!(again, Err(AuthorityError::Exists { .. })));
        let second = authority.renew("pump-7", 30).unwrap();
        assert_ne!(first.serial, second.serial);
        let names = ["*.site".to_owned(), "192.0.2.1".to_owned()];
        assert_eq!(authority.issue(For::Server, &names, 30).unwrap().file, "star.site");
        let mut authority = Authority::open(&dir).unwrap();
        assert_eq!(authority.issued().len(), 3);
        assert_eq!(authority.revoke("pump-7").unwrap(), 2);
        assert_eq!(authority.revoke("pump-7").unwrap(), 0);
        assert!(matches!(authority.revoke("pump-8"), Err(AuthorityError::Unknown { .. })));
        assert!(matches!(authority.renew("pump-8", 3), Err(AuthorityError::Unknown { .. })));
    }

    #[test]
    fn names_are_files_of_the_folder_and_nothing_else() {
        for name in ["", "../x", "a/b", ".hidden", "ca", "a b", "*.site", &"n".repeat(65)] {
            let outcome = file_of(For::Device, &[name.to_owned()]);
            assert!(matches!(outcome, Err(AuthorityError::BadName { .. })), "{name}");
        }
        for (name, file) in [("*.site", "star.site"), ("::1", "--1"), ("a.site", "a.site")] {
            assert_eq!(file_of(For::Server, &[name.to_owned()]).unwrap(), file);
        }
    }
}
