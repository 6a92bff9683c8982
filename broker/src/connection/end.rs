//! How a connection ends, and what is said to the peer then.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use forebay_wire::WireError;
use forebay_wire::reason::ReasonCode;
use tokio::io::ReadBuf;

use super::{Connection, Stream};
use crate::broker::{Budget, Ending, RETRY_AFTER_MS};
use crate::codec::encode::{self, DisconnectProperties};
use crate::codec::{self, CodecError};
use crate::session::Encoded;

/// Bytes that are read and thrown away after the last word: a socket closed with unread bytes resets the connection, and
/// the peer may never see that word.
const DRAIN_BYTES_MAX: usize = 256 * 1024;

/// Why a connection is over.
pub(crate) enum End {
    /// The peer closed it.
    Closed,
    /// It broke.
    Transport(io::Error),
    /// The peer said DISCONNECT.
    Disconnected(codec::Disconnect),
    /// The peer sent what it may not.
    Peer(CodecError),
    /// The broker wants it gone, with this reason code.
    Kicked(u8),
    /// Another connection serves the session.
    TakenOver,
}

impl From<CodecError> for End {
    fn from(error: CodecError) -> Self {
        Self::Peer(error)
    }
}

impl From<WireError> for End {
    fn from(error: WireError) -> Self {
        Self::Peer(error.into())
    }
}

impl<S: Stream> Connection<S> {
    /// Says why, if the protocol has words for it, and leaves the session.
    pub(super) fn finish(&mut self, end: End, cx: &mut Context<'_>) {
        let client = self.slot.look(|session| session.client_id().clone());
        let client = &*client;
        let farewell = match &end {
            End::Closed => {
                tracing::debug!(client, "the client closed the connection without DISCONNECT");
                None
            }
            End::Transport(error) => {
                tracing::debug!(client, "the connection broke: {error}");
                None
            }
            End::Disconnected(_) => {
                tracing::debug!(client, "disconnected");
                None
            }
            End::Peer(error) => {
                self.on.broker.counters.packets_refused.add(1);
                tracing::warn!(client, "refused: {} ({} [{}])", error.detail, error.reason.name(), error.statement);
                Some((error.reason, Some(error.detail.to_string())))
            }
            End::Kicked(reason) => {
                let reason = ReasonCode::from_u8(*reason).unwrap_or(ReasonCode::UnspecifiedError);
                tracing::info!(client, "ended by the broker: {}", reason.name());
                Some((reason, None))
            }
            End::TakenOver => {
                tracing::info!(client, "taken over by another connection");
                Some((ReasonCode::SessionTakenOver, None))
            }
        };
        if let Some((reason, words)) = farewell {
            self.say_farewell(reason, words, cx);
        }
        // Before the socket is closed: who sees that must find the session away.
        self.leave(match end {
            // 0x04 asks for the will all the same [MQTT5-3.14.2.1].
            End::Disconnected(packet) => {
                Ending { with_will: packet.reason != ReasonCode::Success, expiry_s: packet.session_expiry_s }
            }
            End::Closed | End::Transport(_) | End::Peer(_) | End::Kicked(_) | End::TakenOver => {
                Ending { with_will: true, expiry_s: None }
            }
        });
        let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.drain(cx);
    }

    /// DISCONNECT with the reason, MQTT 5 only [MQTT5-4.13.1-1], after what the socket has not taken yet.
    fn say_farewell(&mut self, reason: ReasonCode, words: Option<String>, cx: &mut Context<'_>) {
        // What the client has earned before, in the same read perhaps, is said first.
        let _ = self.write(cx, &Budget::turn());
        if !self.version.is_v5() || (!self.out.is_empty() && !self.out.rest(self.written as usize).is_empty()) {
            return;
        }
        let config = self.on.broker.live();
        let moved = reason == ReasonCode::ServerShuttingDown;
        let properties = DisconnectProperties {
            reason_string: words.filter(|_| self.problem_information),
            server_reference: config.server_reference.clone().filter(|_| moved),
            retry_after_ms: (reason == ReasonCode::ServerBusy && self.problem_information).then_some(RETRY_AFTER_MS),
        };
        self.out = Encoded::default();
        self.written = 0;
        let max = self.slot.look(|session| session.maximum_packet_size());
        encode::disconnect(&mut self.out.bytes, reason, &properties, max);
        let _ = self.write_out(cx);
        let _ = Pin::new(&mut self.stream).poll_flush(cx);
    }

    fn drain(&mut self, cx: &mut Context<'_>) {
        let mut buffer = [0; 4096];
        let mut drained = 0;
        while drained < DRAIN_BYTES_MAX {
            let mut buf = ReadBuf::new(&mut buffer);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => drained += buf.filled().len(),
                Poll::Ready(_) | Poll::Pending => return,
            }
        }
    }

    fn leave(&mut self, ending: Ending) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        if self.parked.take().is_some() {
            self.on.broker.forget_parked(&self.slot);
            // Who has taken over may wait there in its own right: it looks for itself.
            if self.slot.connection() != self.epoch {
                self.slot.wake();
            }
        }
        self.on.broker.close(&self.slot, self.epoch, ending);
        self.on.broker.connections.fetch_sub(1, Ordering::Relaxed);
        self.on.sockets.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S: Stream> Drop for Connection<S> {
    fn drop(&mut self) {
        // A worker that ends drops its connections: their sessions must not stay "connected".
        self.leave(Ending { with_will: true, expiry_s: None });
    }
}
