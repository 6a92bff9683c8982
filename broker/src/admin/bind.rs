//! Opening what operators connect to.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::config::AdminConfig;
#[cfg(unix)]
use crate::config::SocketFile;
#[cfg(unix)]
use crate::transport::unix;

/// A shorter token can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// What operators connect to, open.
#[derive(Debug)]
pub struct Bound {
    pub(super) http: Option<std::net::TcpListener>,
    #[cfg(unix)]
    pub(super) socket: Option<Socket>,
    pub(super) token: Option<Token>,
}

/// The token that requests must have. Its file is read for each of them: one that an operator changes is in force at once.
#[derive(Debug)]
pub(super) struct Token {
    path: PathBuf,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    token: Option<String>,
    /// Its file could be read the last time.
    is_in_file: bool,
}

impl Token {
    pub(super) fn open(path: &Path) -> Result<Self, AdminError> {
        let token = token(path)?;
        Ok(Self { path: path.to_owned(), last: Mutex::new(Last { token: Some(token), is_in_file: true }) })
    }

    /// What the file holds; `None`: no token, and nobody has it then. A file that cannot be read at the moment holds what it held.
    pub(super) fn now(&self) -> Option<String> {
        let found = token(&self.path);
        let mut last = self.last.lock();
        let was_in_file = std::mem::replace(&mut last.is_in_file, found.is_ok());
        match found {
            Ok(token) => last.token = Some(token),
            Err(error) => {
                let is_for_now =
                    matches!(&error, AdminError::Token { source, .. } if source.kind() != io::ErrorKind::NotFound);
                if !is_for_now {
                    last.token = None;
                }
                if was_in_file {
                    tracing::error!(
                        "{error}; until it is mended {}",
                        if is_for_now { "the token before holds" } else { "nobody has the token" }
                    );
                }
            }
        }
        last.token.clone()
    }
}

/// A Unix socket; its file goes with it.
#[cfg(unix)]
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) listener: std::os::unix::net::UnixListener,
    _file: unix::OpenFile,
}

/// Why it cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The address.
    #[error("{addr} cannot be opened (admin.http): {source}; choose another address, or leave the key out")]
    Http {
        /// The address.
        addr: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The socket.
    #[cfg(unix)]
    #[error("{source} (admin.socket)")]
    Socket {
        /// The cause.
        source: unix::UnixError,
    },
    /// The token's file.
    #[error("{} cannot be read (admin.token_file): {source}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The token is too short.
    #[error("{} must hold a token of at least {TOKEN_BYTES_MIN} visible ASCII characters (admin.token_file)", path.display())]
    WeakToken {
        /// The file.
        path: PathBuf,
    },
}

/// Opens what is configured; `None` when nothing is.
///
/// # Errors
/// See [`AdminError`].
pub fn bind(config: &AdminConfig) -> Result<Option<Bound>, AdminError> {
    if config.http.is_none() && config.socket.is_none() {
        return Ok(None);
    }
    let token = config.token_file.as_deref().map(Token::open).transpose()?;
    let http = config.http.map(http).transpose()?;
    Ok(Some(Bound {
        http,
        #[cfg(unix)]
        socket: config.socket.as_deref().map(socket).transpose()?,
        token,
    }))
}

/// Whether the token can be used. Nothing is opened.
///
/// # Errors
/// See [`AdminError`].
pub fn check(config: &AdminConfig) -> Result<(), AdminError> {
    config.token_file.as_deref().map_or(Ok(()), |path| token(path).map(drop))
}

impl Bound {
    /// The address of HTTP, with the port that the system chose.
    #[must_use]
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.as_ref()?.local_addr().ok()
    }
}

fn token(path: &Path) -> Result<String, AdminError> {
    let text = std::fs::read_to_string(path).map_err(|source| AdminError::Token { path: path.to_owned(), source })?;
    let token = text.trim();
    if token.len() < TOKEN_BYTES_MIN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(AdminError::WeakToken { path: path.to_owned() });
    }
    Ok(token.to_owned())
}

fn http(addr: SocketAddr) -> Result<std::net::TcpListener, AdminError> {
    let open = || {
        let listener = std::net::TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    open().map_err(|source| AdminError::Http { addr, source })
}

/// For the broker's own user alone.
#[cfg(unix)]
fn socket(path: &Path) -> Result<Socket, AdminError> {
    let rules = SocketFile { mode: 0o600, ..SocketFile::default() };
    let (listener, file) = unix::open(path, &rules).map_err(|source| AdminError::Socket { source })?;
    Ok(Socket { listener, _file: file })
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_is_long_and_visible() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for (text, fine) in [("0123456789abcdef\n", true), ("short", false), ("0123456789 abcdef", false), ("", false)]
        {
            std::fs::write(&path, text).unwrap();
            assert_eq!(token(&path).is_ok(), fine, "{text:?}");
        }
        assert!(matches!(token(&folder.path().join("none")), Err(AdminError::Token { .. })));
    }

    #[test]
    fn a_token_that_is_changed_or_taken_away_holds_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        let token = Token::open(&path).unwrap();
        std::fs::write(&path, "fedcba9876543210").unwrap();
        assert_eq!(token.now().as_deref(), Some("fedcba9876543210"));
        std::fs::write(&path, "").unwrap();
        assert_eq!(token.now(), None);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(token.now(), None);
        // As a disk does that fails.
        std::fs::write(&path, "0123456789abcdef").unwrap();
        assert!(token.now().is_some());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(token.now().as_deref(), Some("0123456789abcdef"));
    }
}
