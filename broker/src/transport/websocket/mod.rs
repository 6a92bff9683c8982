//! MQTT over WebSocket [MQTT5-6.0.0-1]: the opening handshake, then binary frames whose payloads are one byte stream.
//!
//! The `tungstenite` library reads requests and frame headers. The bytes of a frame are not collected, as that library would:
//! they are unmasked where they were read, so that an idle connection owns no buffer and a large frame costs no memory
//! (docs/decisions/0008).

mod frames;
mod opening;
mod stream;

pub use frames::{Decoder, Violation};
pub(crate) use opening::client_of;
pub use opening::{Entry, Refusal, open};
pub use stream::WebSocket;
