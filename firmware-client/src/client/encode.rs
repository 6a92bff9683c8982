//! Packets as bytes.

use super::transmit::What;
use super::{Client, QOS2};
use crate::arena::{Head, Parts, RETAIN, State};
use crate::inbound::{Entry, Owed};
use crate::write::Out;
use forebay_wire::ReasonCode;
use forebay_wire::property::id;

impl Client<'_> {
    /// Writes the packet that is being sent from where it was left. How much was written, and whether that was all of it.
    /// `None`: what was being sent is gone.
    #[inline(never)]
    pub(super) fn emit(&self, room: &mut [u8]) -> Option<(usize, bool)> {
        let mut out = Out::new(room, self.tx.done as usize);
        self.frame(&mut out)?;
        let written = out.written();
        Some((written, (self.tx.done as usize).wrapping_add(written) == out.seen()))
    }

    /// Bytes of the packet that is being sent.
    pub(super) fn frame_len(&self) -> usize {
        let mut out = Out::counting();
        let _ = self.frame(&mut out);
        out.seen()
    }

    fn frame(&self, out: &mut Out<'_>) -> Option<()> {
        let (at, head) = match self.tx.what {
            What::Record => self.arena.find_ticket(self.tx.ticket)?,
            What::Nothing | What::Connect | What::Disconnect | What::Ping | What::Answer(_) => (0, Head::NONE),
        };
        let mut len = Out::counting();
        self.body(at, &head, &mut len);
        out.u8(self.first_byte(&head));
        out.varint(len.seen());
        self.body(at, &head, out);
        Some(())
    }

    fn first_byte(&self, head: &Head) -> u8 {
        match self.tx.what {
            What::Connect => 0x10,
            What::Ping => 0xc0,
            What::Nothing | What::Disconnect => 0xe0,
            What::Answer(Entry { owed: Owed::Ack, .. }) => 0x40,
            What::Answer(Entry { owed: Owed::Rec, .. }) => 0x50,
            What::Answer(Entry { owed: Owed::Comp, .. }) => 0x70,
            What::Answer(_) => 0x62,
            What::Record => match head.state {
                State::SubSent => 0x82,
                State::UnsubSent => 0xa2,
                State::Released => 0x62,
                State::Dead
                | State::Queued
                | State::InFlight
                | State::SubWanted
                | State::SubGranted
                | State::UnsubWanted => {
                    let retain = u8::from(head.has(RETAIN));
                    0x30 | u8::from(self.tx.dup) << 3 | head.qos() << 1 | retain
                }
            },
        }
    }

    #[inline(never)]
    fn body(&self, at: usize, head: &Head, out: &mut Out<'_>) {
        match self.tx.what {
            What::Connect => self.connect_body(out),
            What::Nothing | What::Ping => {}
            What::Disconnect => {
                if self.v5() && self.leave != ReasonCode::Success {
                    out.u8(self.leave as u8);
                }
            }
            What::Answer(entry) => {
                out.u16(entry.id);
                if self.v5() && entry.reason != ReasonCode::Success {
                    out.u8(entry.reason as u8);
                }
            }
            What::Record if QOS2 && head.state == State::Released => out.u16(head.id),
            What::Record if head.state == State::InFlight => self.publish_body(head, &self.arena.parts(at, head), out),
            What::Record => {
                out.u16(head.id);
                if self.v5() {
                    out.u8(0);
                }
                let parts = self.arena.parts(at, head);
                out.field(parts.topic);
                if head.state == State::SubSent {
                    out.bytes(parts.payload);
                }
            }
        }
    }

    fn publish_body(&self, head: &Head, parts: &Parts<'_>, out: &mut Out<'_>) {
        out.field(if self.tx.known { &[] } else { parts.topic });
        if head.qos() > 0 {
            out.u16(head.id);
        }
        if self.v5() {
            let mut len = Out::counting();
            self.publish_properties(parts, &mut len);
            out.varint(len.seen());
            self.publish_properties(parts, out);
        }
        out.bytes(parts.payload);
    }

    #[inline(never)]
    fn publish_properties(&self, parts: &Parts<'_>, out: &mut Out<'_>) {
        if let Some(seconds) = self.tx.expiry_s {
            out.u8(id::MESSAGE_EXPIRY_INTERVAL);
            out.u32(seconds);
        }
        if self.tx.alias > 0 {
            out.u8(id::TOPIC_ALIAS);
            out.u16(self.tx.alias);
        }
        out.bytes(parts.properties);
        if self.tx.lost > 0 {
            out.u8(id::USER_PROPERTY);
            out.field(b"lost");
            digits(self.tx.lost, out);
        }
    }

    fn connect_body(&self, out: &mut Out<'_>) {
        let options = self.options;
        let v5 = self.v5();
        // 3.1.1 has no password without a user name [MQTT-3.1.2-22].
        let password = options.password.filter(|_| v5 || options.user_name.is_some());
        let mut flags = u8::from(options.user_name.is_some()) << 7 | u8::from(password.is_some()) << 6;
        if let Some(will) = &options.will {
            flags |= 0x04 | (will.qos as u8) << 3 | u8::from(will.retain) << 5;
        }
        flags |= u8::from(self.starts_clean()) << 1;
        out.field(b"MQTT");
        out.u8(if v5 { 5 } else { 4 });
        out.u8(flags);
        out.u16(options.keep_alive_s);
        if v5 {
            let mut len = Out::counting();
            self.connect_properties(&mut len);
            out.varint(len.seen());
            self.connect_properties(out);
        }
        out.field(options.client_id.as_bytes());
        if let Some(will) = &options.will {
            if v5 {
                out.u8(if will.delay_s > 0 { 5 } else { 0 });
                if will.delay_s > 0 {
                    out.u8(id::WILL_DELAY_INTERVAL);
                    out.u32(will.delay_s);
                }
            }
            out.field(will.topic.as_bytes());
            out.field(will.payload);
        }
        if let Some(user_name) = options.user_name {
            out.field(user_name.as_bytes());
        }
        if let Some(password) = password {
            out.field(password);
        }
    }

    fn connect_properties(&self, out: &mut Out<'_>) {
        out.u8(id::SESSION_EXPIRY_INTERVAL);
        out.u32(self.options.session_expiry_s);
        out.u8(id::RECEIVE_MAXIMUM);
        out.u16(self.receive_maximum() as u16);
        if self.options.maximum_packet_size > 0 {
            out.u8(id::MAXIMUM_PACKET_SIZE);
            out.u32(self.options.maximum_packet_size);
        }
    }
}

/// A number in digits, as a string of MQTT.
fn digits(number: u32, out: &mut Out<'_>) {
    let mut text = [0u8; 10];
    let mut rest = number;
    let mut len = 0usize;
    for digit in text.iter_mut().rev() {
        *digit = b'0'.wrapping_add((rest % 10) as u8);
        rest /= 10;
        len = len.wrapping_add(1);
        if rest == 0 {
            break;
        }
    }
    out.field(text.get(10usize.wrapping_sub(len)..).unwrap_or_default());
}
