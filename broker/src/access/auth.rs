//! Who may connect. Enhanced authentication's exchange is here; the mechanisms themselves are added to [`Mechanisms`].

use std::sync::Arc;

use forebay_wire::reason::ReasonCode;

use super::Identity;

/// What one step of an exchange says [MQTT5-4.12].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The client must answer this: AUTH with 0x18 [MQTT5-4.12.0-2].
    Continue(Vec<u8>),
    /// It is who it says it is; the data goes with CONNACK, or with AUTH after a re-authentication.
    Done(Option<Vec<u8>>),
    /// It is not [MQTT5-4.12.0-4].
    Refused(ReasonCode),
}

/// One exchange with one client.
pub trait Exchange: Send {
    /// The client's data: that of CONNECT first, then that of each AUTH.
    fn step(&mut self, data: &[u8]) -> Step;

    /// Who the client has proved to be, once the exchange is done. `None`: the mechanism does not know; its user name and password
    /// say it.
    fn identity(&mut self) -> Option<Identity> {
        None
    }
}

/// A method of enhanced authentication, as SCRAM-SHA-256.
pub trait Mechanism: Send + Sync {
    /// The name that the client gives as Authentication Method.
    fn name(&self) -> &str;

    /// Begins an exchange.
    fn begin(&self, client_id: &str) -> Box<dyn Exchange>;
}

/// A connection's method, and the exchange that is under way, if one is.
pub type Authentication = (String, Option<Box<dyn Exchange>>);

/// Mechanisms that the broker offers beside its own. None as it comes.
#[derive(Clone, Default)]
pub struct Mechanisms(Vec<Arc<dyn Mechanism>>);

impl Mechanisms {
    /// Offers one more.
    #[must_use]
    pub fn with(mut self, mechanism: Arc<dyn Mechanism>) -> Self {
        self.0.push(mechanism);
        self
    }

    /// The one of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<dyn Mechanism>> {
        self.0.iter().find(|m| m.name() == name)
    }
}
