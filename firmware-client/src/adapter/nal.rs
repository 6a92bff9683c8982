//! A connector over `embedded-nal-async`.

use super::task::Connector;
use core::net::SocketAddr;
use embedded_nal_async::TcpConnect;

/// Opens TCP connections to one address.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<S> {
    stack: S,
    server: SocketAddr,
}

impl<S: TcpConnect> Tcp<S> {
    /// Over this stack, to this address.
    pub const fn new(stack: S, server: SocketAddr) -> Self {
        Self { stack, server }
    }
}

impl<S: TcpConnect> Connector for Tcp<S> {
    type Error = S::Error;
    type Transport<'c>
        = S::Connection<'c>
    where
        S: 'c;

    async fn connect(&mut self) -> Result<Self::Transport<'_>, Self::Error> {
        self.stack.connect(self.server).await
    }
}
