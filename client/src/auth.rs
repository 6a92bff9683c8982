//! Enhanced authentication of MQTT 5 [MQTT5-4.12].

/// One mechanism, for example SCRAM-SHA-256. Each connection begins with [`Authenticator::start`].
pub trait Authenticator: Send + Sync {
    /// The authentication method's name.
    fn method(&self) -> &str;

    /// Authentication data of CONNECT, or of the AUTH that starts a re-authentication.
    ///
    /// # Errors
    /// Why it cannot be made; the connection is given up.
    fn start(&self) -> Result<Vec<u8>, String>;

    /// The answer to an AUTH of the server.
    ///
    /// # Errors
    /// Why the server's data cannot be right; the connection is given up.
    fn answer(&self, data: &[u8]) -> Result<Vec<u8>, String>;

    /// The server says that it is satisfied: is this side, too?
    ///
    /// # Errors
    /// Why not; the connection is given up.
    fn finish(&self, data: &[u8]) -> Result<(), String>;
}
