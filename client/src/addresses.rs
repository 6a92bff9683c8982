//! Which server is tried next.

use crate::url::{self, Address, Scheme};

/// Addresses in turn; one that a server referred to comes first, once.
pub(crate) struct Addresses {
    all: Vec<Address>,
    next: usize,
    untried: usize,
    referred: Option<Address>,
    /// The last address came from a server.
    was_referred: bool,
}

impl Addresses {
    pub(crate) fn new(all: &[Address]) -> Self {
        Self { all: all.to_vec(), next: 0, untried: all.len(), referred: None, was_referred: false }
    }

    pub(crate) fn next(&mut self) -> Address {
        self.was_referred = self.referred.is_some();
        if let Some(address) = self.referred.take() {
            return address;
        }
        if self.untried == 0 {
            self.untried = self.all.len();
        }
        self.untried -= 1;
        let at = self.next % self.all.len().max(1);
        self.next = at + 1;
        // There is one at least: the options were made with it.
        self.all.get(at).cloned().unwrap_or(Address {
            scheme: Scheme::Mqtt,
            host: String::new(),
            port: 0,
            path: String::new(),
        })
    }

    pub(crate) fn has_untried(&self) -> bool {
        // Servers that refer to each other would have no end: the second reference is followed after a wait.
        if self.referred.is_some() { !self.was_referred } else { self.untried > 0 }
    }

    /// A server reference is `host[:port]`, several of them apart by spaces [MQTT5-4.13.2]; the first is followed, with the
    /// scheme of the server that said so.
    pub(crate) fn refer(&mut self, reference: Option<&str>, from: &Address) {
        let Some(first) = reference.and_then(|text| text.split_whitespace().next()) else { return };
        let scheme = from.to_string();
        let scheme = scheme.split("://").next().unwrap_or("mqtt");
        match url::parse(&format!("{scheme}://{first}")) {
            Ok(parsed) if parsed.address != *from => self.referred = Some(parsed.address),
            Ok(_) => {}
            Err(error) => tracing::warn!("the server referred to something that is no address: {error}"),
        }
    }
}
