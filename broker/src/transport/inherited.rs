//! Sockets that systemd has opened for the broker (socket activation, `LISTEN_FDS`): a listener of the same address takes
//! its socket instead of opening one.

use super::Opened;
use crate::config::Place;

/// What was handed over, and nobody has taken.
#[derive(Debug)]
pub(super) struct Inherited(Vec<Opened>);

impl Inherited {
    /// Takes all of them; there are none where systemd has opened none, or for another process.
    #[cfg(unix)]
    pub(super) fn take() -> Self {
        let mut from = listenfd::ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..from.len() {
            match from.take_tcp_listener(index) {
                Ok(Some(socket)) => {
                    if socket.set_nonblocking(true).is_ok() {
                        sockets.push(Opened::Tcp(socket));
                    }
                }
                // What is no TCP socket is left where it is.
                Ok(None) | Err(_) => match from.take_unix_listener(index) {
                    Ok(Some(socket)) if socket.set_nonblocking(true).is_ok() => {
                        sockets.push(Opened::Unix(socket, None))
                    }
                    _ => tracing::warn!(
                        "socket {index} that systemd hands over is not one to listen on: it is left alone"
                    ),
                },
            }
        }
        Self(sockets)
    }

    /// Elsewhere there is no systemd.
    #[cfg(not(unix))]
    pub(super) fn take() -> Self {
        Self(Vec::new())
    }

    /// The socket that is open at this place.
    pub(super) fn find(&mut self, place: &Place) -> Option<Opened> {
        let at = self.0.iter().position(|socket| match (place, socket) {
            (Place::Addr(addr), Opened::Tcp(_)) => socket.addr() == Some(*addr),
            #[cfg(unix)]
            (Place::Unix(path), Opened::Unix(socket, _)) => {
                socket.local_addr().is_ok_and(|addr| addr.as_pathname() == Some(path.as_path()))
            }
            _ => false,
        })?;
        Some(self.0.swap_remove(at))
    }

    /// A socket that nobody serves keeps its clients waiting for ever.
    pub(super) fn warn_of_rest(&self) {
        for socket in &self.0 {
            tracing::warn!(
                "systemd hands over a socket at {} that no listener has: write a listener with this address",
                socket.addr().map_or_else(|| "a path".to_owned(), |addr| addr.to_string())
            );
        }
    }
}
