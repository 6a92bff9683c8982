//! Who a client is, as far as rules can tell clients apart.

use std::net::IpAddr;
use std::sync::Arc;

use crate::certificate::Certificate;

/// Who a client is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The user name; `None` for a client that came without.
    pub user: Option<Arc<str>>,
    /// The client identifier.
    pub client_id: Arc<str>,
    /// Its groups, as the source that let it in names them. An ACL may have more.
    pub groups: Vec<Arc<str>>,
    /// The certificate that it showed.
    pub certificate: Option<Arc<Certificate>>,
    /// Where it comes from.
    pub addr: Option<IpAddr>,
    /// The listener that it came in by, as its `url` is written.
    pub listener: Arc<str>,
}

/// Who is known by these names only.
#[cfg(test)]
pub(super) fn who(user: Option<&str>, client_id: &str) -> Principal {
    Principal { user: user.map(Into::into), client_id: client_id.into(), ..Principal::default() }
}
