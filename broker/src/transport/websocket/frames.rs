//! A client's frames: what is payload, what is not, and what must not be [RFC 6455, 5].

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// The longest header that a client can send.
const HEADER_MAX: usize = 14;
/// The longest payload of a control frame.
const CONTROL_MAX: u64 = 125;

/// What a client did that it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Against the protocol.
    Protocol(&'static str),
    /// A text frame [MQTT5-6.0.0-1].
    Text,
    /// A frame over the limit.
    TooLarge,
}

impl Violation {
    /// What a Close frame says of it.
    #[must_use]
    pub fn code(self) -> CloseCode {
        match self {
            Self::Protocol(_) => CloseCode::Protocol,
            Self::Text => CloseCode::Unsupported,
            Self::TooLarge => CloseCode::Size,
        }
    }

    /// In words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Protocol(what) => what,
            Self::Text => "a text frame of WebSocket: MQTT is sent in binary frames",
            Self::TooLarge => "a frame of WebSocket that is larger than the largest packet",
        }
    }
}

/// The frame that is being read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Data,
    Ping,
    Pong,
    Close,
}

/// Takes a client's bytes as they come, in pieces of any size. Holds no payload but that of a control frame.
#[derive(Debug)]
pub struct Decoder {
    /// The largest data frame.
    frame_max: u64,
    /// Of a header that is not complete.
    header: [u8; HEADER_MAX],
    header_len: u8,
    /// Where the mask goes on.
    mask_at: u8,
    mask: [u8; 4],
    kind: Kind,
    /// A data frame has come that was not the last of its message.
    in_message: bool,
    /// The client has said Close.
    closed: bool,
    /// Bytes of this frame that have not come.
    left: u64,
    /// The payload of the control frame that is being read.
    control: Vec<u8>,
    /// The payload of a Ping that was not answered; a newer one takes its place [RFC 6455, 5.5.3].
    ping: Option<Vec<u8>>,
}

impl Decoder {
    /// For a connection whose data frames have at most so many bytes.
    #[must_use]
    pub fn new(frame_max: u64) -> Self {
        Self {
            frame_max,
            header: [0; HEADER_MAX],
            header_len: 0,
            mask_at: 0,
            mask: [0; 4],
            kind: Kind::Data,
            in_message: false,
            closed: false,
            left: 0,
            control: Vec::new(),
            ping: None,
        }
    }

    /// Whether the client has said Close: nothing that comes after it counts.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// The payload of the last Ping, if it has not been asked for yet.
    pub fn take_ping(&mut self) -> Option<Vec<u8>> {
        self.ping.take()
    }

    /// Moves the payloads in `bytes` to its beginning, unmasked; returns their length.
    ///
    /// # Errors
    /// The client did what it may not: nothing more is to be read from it.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<usize, Violation> {
        let (mut at, mut out) = (0, 0);
        while at < bytes.len() && !self.closed {
            if self.left == 0 {
                at += self.read_header(bytes.get(at..).unwrap_or_default())?;
                continue;
            }
            let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
            let piece = bytes.get_mut(at..at + here).unwrap_or_default();
            self.unmask(piece);
            if self.kind == Kind::Data {
                bytes.copy_within(at..at + here, out);
                out += here;
            } else {
                self.control.extend_from_slice(piece);
            }
            at += here;
            self.left -= here as u64;
            if self.left == 0 {
                self.frame_ended();
            }
        }
        Ok(out)
    }

    fn unmask(&mut self, piece: &mut [u8]) {
        let mut at = usize::from(self.mask_at);
        for byte in piece {
            *byte ^= self.mask.get(at).copied().unwrap_or_default();
            at = (at + 1) % 4;
        }
        self.mask_at = u8::try_from(at).unwrap_or_default();
    }

    /// Takes bytes of a header; returns how many.
    fn read_header(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let had = usize::from(self.header_len);
        let room = self.header.get_mut(had..).unwrap_or_default();
        let taken = room.len().min(bytes.len());
        room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let mut cursor = Cursor::new(self.header.get(..had + taken).unwrap_or_default());
        let read = FrameHeader::parse(&mut cursor);
        let used = usize::try_from(cursor.position()).unwrap_or_default();
        match read {
            Ok(None) => {
                self.header_len = u8::try_from(had + taken).unwrap_or_default();
                Ok(taken)
            }
            Ok(Some((header, length))) => {
                self.header_len = 0;
                self.begin(&header, length)?;
                Ok(used.saturating_sub(had))
            }
            Err(_) => Err(Violation::Protocol("a frame of WebSocket of a kind that is not known")),
        }
    }

    fn begin(&mut self, header: &FrameHeader, length: u64) -> Result<(), Violation> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(Violation::Protocol("a frame of WebSocket with an extension that was not agreed on"));
        }
        // [RFC 6455, 5.1]
        let Some(mask) = header.mask else {
            return Err(Violation::Protocol("a frame of WebSocket that is not masked"));
        };
        self.kind = match header.opcode {
            OpCode::Control(control) => {
                if !header.is_final || length > CONTROL_MAX {
                    return Err(Violation::Protocol("a control frame of WebSocket that is too long, or in pieces"));
                }
                match control {
                    Control::Ping => Kind::Ping,
                    Control::Pong => Kind::Pong,
                    Control::Close | Control::Reserved(_) => Kind::Close,
                }
            }
            OpCode::Data(Data::Text | Data::Reserved(_)) => return Err(Violation::Text),
            OpCode::Data(data) => {
                if self.in_message != (data == Data::Continue) {
                    return Err(Violation::Protocol("frames of WebSocket that are not in order"));
                }
                if length > self.frame_max {
                    return Err(Violation::TooLarge);
                }
                self.in_message = !header.is_final;
                Kind::Data
            }
        };
        (self.mask, self.mask_at, self.left) = (mask, 0, length);
        if length == 0 {
            self.frame_ended();
        }
        Ok(())
    }

    fn frame_ended(&mut self) {
        match self.kind {
            Kind::Data => {}
            Kind::Ping => self.ping = Some(std::mem::take(&mut self.control)),
            // What it says is not looked at: a Close is answered with a normal one.
            Kind::Pong => self.control = Vec::new(),
            Kind::Close => {
                self.control = Vec::new();
                self.closed = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use tungstenite::protocol::frame::Frame;

    use super::*;

    fn frame(opcode: OpCode, is_final: bool, payload: &[u8]) -> Vec<u8> {
        let mask = [7, 1, 250, 99];
        let header = FrameHeader { is_final, opcode, mask: Some(mask), ..FrameHeader::default() };
        let mut bytes = Vec::new();
        header.format(payload.len() as u64, &mut bytes).unwrap();
        bytes.extend(payload.iter().enumerate().map(|(n, byte)| byte ^ mask[n % 4]));
        bytes
    }

    fn binary(payload: &[u8]) -> Vec<u8> {
        frame(OpCode::Data(Data::Binary), true, payload)
    }

    /// What comes of the bytes, given in pieces of this size.
    fn decoded(bytes: &[u8], piece: usize) -> (Vec<u8>, Decoder, Result<(), Violation>) {
        let mut decoder = Decoder::new(100_000);
        let mut out = Vec::new();
        for piece in bytes.chunks(piece) {
            let mut piece = piece.to_vec();
            match decoder.decode(&mut piece) {
                Ok(length) => out.extend_from_slice(&piece[..length]),
                Err(violation) => return (out, decoder, Err(violation)),
            }
        }
        (out, decoder, Ok(()))
    }

    #[test]
    fn frames_and_packets_need_not_coincide() {
        let long = vec![b'l'; 70_000];
        let parts = [
            binary(b"one"),
            frame(OpCode::Data(Data::Binary), false, b"tw"),
            frame(OpCode::Control(Control::Ping), true, b"are you there"),
            frame(OpCode::Data(Data::Continue), true, b"o"),
            binary(b""),
            binary(&long),
            frame(OpCode::Control(Control::Pong), true, b""),
            binary(&[b'm'; 200]),
        ];
        let expected = [&b"onetwo"[..], &long, &[b'm'; 200]].concat();
        for piece in [1, 2, 3, 7, 64, 1000, 1 << 20] {
            let (out, mut decoder, outcome) = decoded(&parts.concat(), piece);
            assert!(out == expected && outcome.is_ok(), "{piece}");
            assert_eq!(decoder.take_ping().as_deref(), Some(&b"are you there"[..]));
            assert_eq!(decoder.take_ping(), None);
            assert!(!decoder.closed());
        }
    }

    #[test]
    fn nothing_counts_after_close() {
        let bytes = [binary(b"a"), frame(OpCode::Control(Control::Close), true, &[3, 232]), binary(b"b")].concat();
        let (out, decoder, outcome) = decoded(&bytes, 5);
        assert_eq!((out.as_slice(), outcome), (&b"a"[..], Ok(())));
        assert!(decoder.closed());
    }

    #[test]
    fn what_a_client_may_not_do_is_refused() {
        let mut unmasked = Vec::new();
        Frame::message(&b"a"[..], OpCode::Data(Data::Binary), true).format(&mut unmasked).unwrap();
        let mut compressed = binary(b"a");
        compressed[0] |= 0x40;
        let cases: [(Vec<u8>, CloseCode); 9] = [
            (unmasked, CloseCode::Protocol),
            (compressed, CloseCode::Protocol),
            (frame(OpCode::Data(Data::Text), true, b"a"), CloseCode::Unsupported),
            (frame(OpCode::Data(Data::Continue), true, b"a"), CloseCode::Protocol),
            ([frame(OpCode::Data(Data::Binary), false, b"a"), binary(b"b")].concat(), CloseCode::Protocol),
            (frame(OpCode::Control(Control::Ping), false, b"a"), CloseCode::Protocol),
            (frame(OpCode::Control(Control::Ping), true, &[0; 126]), CloseCode::Protocol),
            (vec![0x83, 0x80, 0, 0, 0, 0], CloseCode::Protocol),
            (binary(&[0; 100_001]), CloseCode::Size),
        ];
        for (n, (bytes, code)) in cases.into_iter().enumerate() {
            for piece in [1, 1 << 20] {
                let (_, _, outcome) = decoded(&bytes, piece);
                assert_eq!(outcome.map_err(Violation::code), Err(code), "{n}");
            }
        }
    }
}
