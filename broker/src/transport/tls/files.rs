//! Certificates, keys and revocation lists, read from PEM files.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::TlsError;
use crate::certificate::{Dates, next_update};

/// A revocation list that is due within this time is said to be.
const CRL_SOON: time::Duration = time::Duration::days(7);

/// A chain, the server's own first.
pub(super) fn certificates(path: &Path, key: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path, key)?;
    let chain: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    let chain = chain.map_err(|error| not_pem(path, key, &error))?;
    if chain.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned(), key, what: "certificate" });
    }
    Ok(chain)
}

/// Refuses what no client takes, and says what clients refuse at this time: with a clock that is wrong, that is no reason
/// not to start. Returns when the first of them ends.
pub(super) fn look_at(chain: &[CertificateDer<'_>], path: &Path) -> Result<time::OffsetDateTime, TlsError> {
    let mut ends = None;
    for (index, der) in chain.iter().enumerate() {
        let read = Dates::read(der);
        let read = read.ok_or_else(|| TlsError::Damaged { path: path.to_owned(), number: index + 1 })?;
        if index == 0 && read.version == 1 {
            return Err(TlsError::Version1 { path: path.to_owned() });
        }
        if let Some(validity) = read.validity(time::OffsetDateTime::now_utc()) {
            tracing::warn!("certificate {} in {} {validity}", index + 1, path.display());
        }
        let first: time::OffsetDateTime = ends.unwrap_or(read.not_after());
        ends = Some(first.min(read.not_after()));
    }
    Ok(ends.unwrap_or(time::OffsetDateTime::UNIX_EPOCH))
}

/// A key that others can read is no secret.
pub(super) fn warn_of_readers(path: &Path) {
    #[cfg(unix)]
    if let Ok(meta) = std::fs::metadata(path) {
        use std::os::unix::fs::PermissionsExt;
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o007 != 0 {
            tracing::warn!(
                "{} can be read by every user of this machine (mode {mode:03o}): chmod 600 {}",
                path.display(),
                path.display()
            );
        }
    }
}

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let key = "key";
    let bytes = read(path, key)?;
    let text = String::from_utf8_lossy(&bytes);
    if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(TlsError::Encrypted { path: path.to_owned() });
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        if matches!(error, pem::Error::NoItemsFound) {
            TlsError::Empty { path: path.to_owned(), key, what: "private key" }
        } else {
            not_pem(path, key, &error)
        }
    })
}

/// The CAs of client certificates.
pub(super) fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let chain = certificates(path, "client_ca")?;
    look_at(&chain, path)?;
    let mut roots = RootCertStore::empty();
    for (index, certificate) in chain.into_iter().enumerate() {
        let damaged = |_| TlsError::Damaged { path: path.to_owned(), number: index + 1 };
        roots.add(certificate).map_err(damaged)?;
    }
    Ok(roots)
}

/// The revocation lists of a file; says when one is old, or will be soon.
pub(super) fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let key = "crl";
    let bytes = read(path, key)?;
    let lists: Result<Vec<_>, pem::Error> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    let lists = lists.map_err(|error| not_pem(path, key, &error))?;
    if lists.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned(), key, what: "revocation list (X509 CRL)" });
    }
    let now = time::OffsetDateTime::now_utc();
    for (index, list) in lists.iter().enumerate() {
        let Some(next) = next_update(list) else {
            return Err(TlsError::DamagedList { path: path.to_owned(), number: index + 1 });
        };
        let Some(next) = next else { continue };
        let when = next.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
        let path = path.display();
        if next < now {
            tracing::warn!("revocation list {} in {path} is old since {when}: get a new one", index + 1);
        } else if next < now + CRL_SOON {
            tracing::warn!("revocation list {} in {path} is old from {when} on: get a new one", index + 1);
        }
    }
    Ok(lists)
}

fn not_pem(path: &Path, key: &'static str, error: &pem::Error) -> TlsError {
    TlsError::NotPem { path: path.to_owned(), key, detail: error.to_string() }
}

fn read(path: &Path, key: &'static str) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), key, source })
}
