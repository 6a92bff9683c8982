//! The development CA and server certificate, made on first start: for this machine only, never for a device in the field.
//! What a site makes for itself is in `authority`.

pub mod authority;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::beside;
use crate::config::TlsFiles;

/// The server certificate is made anew this long after it was made; it is valid for a year.
const RENEW_AFTER: Duration = Duration::from_secs(300 * 24 * 60 * 60);
const CA_DAYS: i64 = 3650;
const SERVER_DAYS: i64 = 365;

/// The development certificates cannot be made or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertsError {
    /// A file cannot be read or written.
    #[error("the development certificate {path} cannot be read or written: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file holds something else.
    #[error(
        "the development certificates in {path} are damaged ({source}): remove that folder, and they are made anew"
    )]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: rcgen::Error,
    },
}

/// Where the CA's certificate is.
#[must_use]
pub fn ca_path(data_dir: &Path) -> PathBuf {
    folder(data_dir).join("ca.pem")
}

fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("certs")
}

/// The development certificate and its key; made, with a CA, if they are not there, and made anew when they are old.
///
/// # Errors
/// See [`CertsError`].
pub fn development(data_dir: &Path) -> Result<TlsFiles, CertsError> {
    let folder = folder(data_dir);
    std::fs::create_dir_all(&folder).map_err(|source| CertsError::Io { path: folder.clone(), source })?;
    let damaged = |source| CertsError::Damaged { path: folder.clone(), source };
    let (ca_pem, ca_key) = (ca_path(data_dir), folder.join("ca.key"));
    // The certificate is written last: it is there only when its key is.
    if !ca_pem.exists() {
        let key = KeyPair::generate().map_err(damaged)?;
        let certificate = ca_params().self_signed(&key).map_err(damaged)?;
        write(&ca_key, &key.serialize_pem(), true)?;
        write(&ca_pem, &certificate.pem(), false)?;
        remove(&folder.join("server.pem"))?;
    }
    let files = TlsFiles { certificate: folder.join("server.pem"), key: folder.join("server.key") };
    if !fresh(&files.certificate) {
        let ca = KeyPair::from_pem(&read(&ca_key)?).map_err(damaged)?;
        let issuer = Issuer::new(ca_params(), ca);
        let key = KeyPair::generate().map_err(damaged)?;
        let certificate = server_params().and_then(|params| params.signed_by(&key, &issuer)).map_err(damaged)?;
        remove(&files.certificate)?;
        write(&files.key, &key.serialize_pem(), true)?;
        write(&files.certificate, &certificate.pem(), false)?;
    }
    Ok(files)
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("forebay development CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, CA_DAYS);
    params
}

fn server_params() -> Result<CertificateParams, rcgen::Error> {
    let names = ["localhost", "127.0.0.1", "::1"].into_iter().map(str::to_owned);
    let mut params = CertificateParams::new(names.chain(host_name()).collect::<Vec<_>>())?;
    params.distinguished_name = name("forebay");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, SERVER_DAYS);
    Ok(params)
}

/// From a day ago, for clocks that are a little behind. A board whose clock is in 1970 makes certificates that are valid
/// from 1970, and makes them anew when its clock is right and they are old.
fn validity(params: &mut CertificateParams, days: i64) {
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::days(1);
    params.not_after = now + time::Duration::days(days);
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/etc/hostname").ok()?;
    let name = name.trim();
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    (plain && name != "localhost").then(|| name.to_owned())
}

fn fresh(path: &Path) -> bool {
    let Ok(modified) = std::fs::metadata(path).and_then(|meta| meta.modified()) else { return false };
    // A file from the future was made under another clock.
    SystemTime::now().duration_since(modified).is_ok_and(|age| age < RENEW_AFTER)
}

fn read(path: &Path) -> Result<String, CertsError> {
    std::fs::read_to_string(path).map_err(|source| CertsError::Io { path: path.to_owned(), source })
}

fn remove(path: &Path) -> Result<(), CertsError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(CertsError::Io { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Whole or not at all, also when the power goes.
fn write(path: &Path, text: &str, secret: bool) -> Result<(), CertsError> {
    let attempt = || -> io::Result<()> {
        let new = path.with_extension("new");
        let mut file = beside::create(&new, if secret { 0o600 } else { 0o644 })?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    attempt().map_err(|source| CertsError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn are_made_once_and_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let files = development(dir.path()).unwrap();
        let before = (read(&ca_path(dir.path())).unwrap(), read(&files.certificate).unwrap());
        development(dir.path()).unwrap();
        assert_eq!(before, (read(&ca_path(dir.path())).unwrap(), read(&files.certificate).unwrap()));
    }

    #[test]
    fn what_a_cut_left_undone_is_done_again() {
        let dir = tempfile::tempdir().unwrap();
        let files = development(dir.path()).unwrap();
        let ca = read(&ca_path(dir.path())).unwrap();
        std::fs::remove_file(&files.certificate).unwrap();
        development(dir.path()).unwrap();
        assert!(files.certificate.exists());
        assert_eq!(ca, read(&ca_path(dir.path())).unwrap());
    }

    #[cfg(unix)]
    #[test]
    fn keys_are_for_the_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let files = development(dir.path()).unwrap();
        assert_eq!(std::fs::metadata(&files.key).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
