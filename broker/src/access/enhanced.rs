//! Enhanced authentication [MQTT5-4.12] by the sources: SCRAM-SHA-256 with the password file, and tokens by AUTH, so that a client can
//! renew its token without a new connection.

use std::sync::Arc;

use forebay_wire::reason::ReasonCode;

use super::auth::{Exchange, Step};
use super::scram;
use super::sources::{Claim, Identity};
use super::{Access, jwt};
use crate::config::Source;

/// The authentication method whose data is a token.
const JWT: &str = "JWT";

impl Access {
    /// Begins an exchange by this method, if the way in has its source.
    pub(crate) fn begin(self: &Arc<Self>, method: &str, claim: &Claim<'_>) -> Option<Box<dyn Exchange>> {
        let has = |source| claim.entrance.sources.contains(&source);
        match method {
            scram::NAME if has(Source::Password) => Some(scram::begin(self.policy())),
            JWT if has(Source::Jwt) => {
                Some(Box::new(Token { access: self.clone(), client_id: claim.client_id.to_owned(), identity: None }))
            }
            _ => None,
        }
    }
}

/// One step: the token.
struct Token {
    access: Arc<Access>,
    client_id: String,
    identity: Option<Identity>,
}

impl Exchange for Token {
    fn step(&mut self, data: &[u8]) -> Step {
        let verified = if jwt::is_token(data) {
            self.access.verify_token(data, None, &self.client_id)
        } else {
            Err("the authentication data is no token")
        };
        match verified {
            Ok(identity) => {
                self.identity = Some(identity);
                Step::Done(None)
            }
            Err(why) => {
                tracing::info!(client = ?self.client_id, "{why}");
                Step::Refused(ReasonCode::NotAuthorized)
            }
        }
    }

    fn identity(&mut self) -> Option<Identity> {
        self.identity.take()
    }
}
