//! MQTT 3.1.1 by hand, for load: nothing is allocated for a message.

/// Bytes of the payload of every message.
pub const PAYLOAD: usize = 64;

/// CONNECT.
pub fn connect(out: &mut Vec<u8>, client_id: &str, clean: bool) {
    let id = client_id.as_bytes();
    out.extend_from_slice(&[0x10, (12 + id.len()) as u8]);
    out.extend_from_slice(b"\0\x04MQTT\x04");
    out.extend_from_slice(&[if clean { 2 } else { 0 }, 0, 0]);
    out.extend_from_slice(&(id.len() as u16).to_be_bytes());
    out.extend_from_slice(id);
}

/// SUBSCRIBE to one filter.
pub fn subscribe(out: &mut Vec<u8>, filter: &str, qos: u8) {
    out.extend_from_slice(&[0x82, (5 + filter.len()) as u8, 0, 1]);
    out.extend_from_slice(&(filter.len() as u16).to_be_bytes());
    out.extend_from_slice(filter.as_bytes());
    out.push(qos);
}

/// PUBLISH: the payload holds publisher, number and time.
pub fn publish(out: &mut Vec<u8>, topic: &str, qos: u8, id: u16, publisher: u32, number: u64, now_ns: u64) {
    let remaining = 2 + topic.len() + 2 * usize::from(qos > 0) + PAYLOAD;
    out.extend_from_slice(&[0x30 | qos << 1, remaining as u8]);
    out.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    out.extend_from_slice(topic.as_bytes());
    if qos > 0 {
        out.extend_from_slice(&id.to_be_bytes());
    }
    out.extend_from_slice(&publisher.to_be_bytes());
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&now_ns.to_be_bytes());
    out.extend_from_slice(&[b'x'; PAYLOAD - 20]);
}

/// An ack: PUBACK 0x40, PUBREC 0x50, PUBREL 0x62, PUBCOMP 0x70.
pub fn ack(out: &mut Vec<u8>, first: u8, id: [u8; 2]) {
    out.extend_from_slice(&[first, 2, id[0], id[1]]);
}

/// The packet that the bytes begin with: its first byte, its body, its length. `None`: not complete.
pub fn packet(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (mut len, mut at) = (0usize, 1usize);
    loop {
        let byte = *bytes.get(at)?;
        len |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    bytes.get(at..at + len).map(|body| (bytes[0], body, at + len))
}

/// Publisher, number and time of a PUBLISH's body; and its packet identifier.
pub fn stamp(first: u8, body: &[u8]) -> (u32, u64, u64, [u8; 2]) {
    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let mut at = 2 + topic;
    let mut id = [0; 2];
    if first & 0x06 != 0 {
        id = [body[at], body[at + 1]];
        at += 2;
    }
    let u64_at = |at: usize| u64::from_be_bytes(body[at..at + 8].try_into().unwrap());
    (u32::from_be_bytes(body[at..at + 4].try_into().unwrap()), u64_at(at + 4), u64_at(at + 12), id)
}
