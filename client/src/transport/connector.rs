//! Byte streams that the program opens itself.

use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

/// What a [`Connector`] gives: any byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The future of [`Connector::connect`].
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send + 'a>>;

/// Opens the byte stream to a server in place of a plain TCP connection: through a proxy, from a certain interface or
/// address, with socket options, over another transport, or to a server that lives in a test. TLS and WebSocket are put on
/// top of it where the URL says so. The client's connect timeout ends what takes too long.
///
/// ```
/// use forebay_client::{Connecting, Connector};
/// /// Leaves through one address of several that this machine has.
/// struct From(std::net::SocketAddr);
///
/// impl Connector for From {
///     fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a> {
///         Box::pin(async move {
///             let mut error = std::io::Error::other("the name has no address");
///             for to in tokio::net::lookup_host((host, port)).await? {
///                 let socket = tokio::net::TcpSocket::new_v4()?;
///                 socket.bind(self.0)?;
///                 match socket.connect(to).await {
///                     Ok(stream) => {
///                         stream.set_nodelay(true)?;
///                         return Ok(Box::new(stream) as _);
///                     }
///                     Err(failed) => error = failed,
///                 }
///             }
///             Err(error)
///         })
///     }
/// }
/// ```
pub trait Connector: Send + Sync {
    /// Connects to the host and port of the URL.
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a>;
}
