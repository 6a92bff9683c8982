//! What stands behind the outbox.

use crate::client::Client;

/// A way to the client, for a moment.
pub trait Access {
    /// Calls `f` with the time that it is and the client; `None` when the client is not to be had, and `f` was not called.
    fn client<R>(&mut self, f: impl FnOnce(u64, &mut Client<'_>) -> R) -> Option<R>;
}

/// A client and the time, for whoever has both.
#[allow(missing_debug_implementations, reason = "a client has none")]
pub struct Now<'c, 'a>(pub u64, pub &'c mut Client<'a>);

impl Access for Now<'_, '_> {
    fn client<R>(&mut self, f: impl FnOnce(u64, &mut Client<'_>) -> R) -> Option<R> {
        Some(f(self.0, self.1))
    }
}

/// The store failed. What is in the outbox stays there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct StoreFailed;

impl core::fmt::Display for StoreFailed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the store behind the outbox failed")
    }
}

impl core::error::Error for StoreFailed {}

/// A store behind the outbox. The [flash tier](crate::flash) is one; `()` is none.
#[allow(async_fn_in_trait, reason = "whoever drives it knows whether its futures cross threads")]
pub trait Store {
    /// Before the client is asked what to send: moves messages out of the outbox and back.
    ///
    /// # Errors
    /// The store does not work; the client goes on without it.
    async fn settle(&mut self, access: &mut impl Access) -> Result<(), StoreFailed>;

    /// In the very moment in which the client is asked what to send: what was published since [`settle`](Self::settle) by
    /// somebody of a higher priority may have to wait.
    fn allow(&mut self, client: &mut Client<'_>) {
        let _ = client;
    }

    /// After the client has said what to send and before that is sent: keeps what must not be forgotten then.
    ///
    /// # Errors
    /// It could not, and nothing may be sent: the connection is given up.
    async fn seal(&mut self, access: &mut impl Access) -> Result<(), StoreFailed>;
}

impl Store for () {
    async fn settle(&mut self, _: &mut impl Access) -> Result<(), StoreFailed> {
        Ok(())
    }

    async fn seal(&mut self, _: &mut impl Access) -> Result<(), StoreFailed> {
        Ok(())
    }
}
