//! Who may ask for what. The Unix socket is the broker's own user's: everything. HTTP with a token: everything for whoever
//! has it. HTTP without one is on this machine only: it shows figures, but no payloads, and changes nothing.

use std::net::SocketAddr;

use hyper::header::{AUTHORIZATION, HOST};
use hyper::http::request::Parts;

use super::bind::Token;
use super::routes::Needs;
use crate::logging::LOG_INS;
use crate::network;

/// What a request came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    Http(SocketAddr),
    #[cfg(unix)]
    Socket,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It has no token, or a wrong one.
    Token,
    /// Without a token in the configuration this is not to be had.
    NoToken,
    /// It names this machine as no program on it would: a page of somebody else's, see [`is_own_name`].
    Host,
}

/// Whether the request may have what it asks for.
pub(super) fn check(parts: &Parts, via: Via, token: Option<&Token>, needs: Needs) -> Result<(), Refused> {
    let from = match via {
        #[cfg(unix)]
        Via::Socket => return Ok(()),
        Via::Http(from) => from,
    };
    if needs == Needs::Nothing {
        return Ok(());
    }
    match token {
        Some(token) if token.now().is_some_and(|token| has_token(parts, &token)) => Ok(()),
        Some(_) => {
            // Whoever has none yet is told to send one. In words that config/fail2ban/ knows.
            if parts.headers.contains_key(AUTHORIZATION) {
                let (listener, client) = ("admin", "");
                tracing::warn!(target: LOG_INS, listener, %from, client, "log-in refused: a wrong token");
            }
            Err(Refused::Token)
        }
        None if !is_own_name(parts) => Err(Refused::Host),
        None if needs == Needs::Look => Ok(()),
        None => Err(Refused::NoToken),
    }
}

fn has_token(parts: &Parts, token: &str) -> bool {
    let header = parts.headers.get(AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    let given = header.strip_prefix(b"Bearer ").unwrap_or_default();
    same(given, token.as_bytes())
}

/// Takes as long for any wrong token of the right length.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// Whether `Host` is a name that no page can have.
fn is_own_name(parts: &Parts) -> bool {
    let host = parts.headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    network::is_own_name(host)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HTTP: Via = Via::Http(SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5));
    const TOKEN: &str = "0123456789abcdef";

    /// The token, and the folder of its file.
    fn token() -> (tempfile::TempDir, Token) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, TOKEN).unwrap();
        let token = Token::open(&path).unwrap();
        (folder, token)
    }

    fn parts(host: &str, authorization: Option<&str>) -> Parts {
        let mut request = hyper::Request::get("/api/status").header(HOST, host);
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn with_a_token_nothing_goes_without_it() {
        let (_folder, token) = token();
        for needs in [Needs::Look, Needs::Payload, Needs::Change] {
            let with = |value: Option<&str>| check(&parts("gateway:1", value), HTTP, Some(&token), needs);
            assert_eq!(with(Some("Bearer 0123456789abcdef")), Ok(()));
            for wrong in [None, Some(""), Some("Bearer "), Some(TOKEN), Some("Bearer 0123456789abcdeF")] {
                assert_eq!(with(wrong), Err(Refused::Token), "{needs:?} {wrong:?}");
            }
        }
        assert_eq!(check(&parts("x", None), HTTP, Some(&token), Needs::Nothing), Ok(()));
    }

    #[test]
    fn without_a_token_this_machine_may_look() {
        let with = |host: &str, needs| check(&parts(host, None), HTTP, None, needs);
        for host in ["127.0.0.1:9883", "localhost:9883", "[::1]:9883", "localhost"] {
            assert_eq!(with(host, Needs::Look), Ok(()), "{host}");
            assert_eq!(with(host, Needs::Payload), Err(Refused::NoToken), "{host}");
            assert_eq!(with(host, Needs::Change), Err(Refused::NoToken), "{host}");
        }
        for host in ["evil.example:9883", "", "localhost.evil.example"] {
            assert_eq!(with(host, Needs::Look), Err(Refused::Host), "{host}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_socket_is_the_owners() {
        let (_folder, token) = token();
        assert_eq!(check(&parts("", None), Via::Socket, Some(&token), Needs::Change), Ok(()));
    }
}
