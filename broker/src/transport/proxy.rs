//! The PROXY protocol, versions 1 and 2: a proxy says, before anything else, whom it speaks for.
//! <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest line of version 1, its end included.
const LINE_MAX: usize = 107;
/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// What comes behind the signature: version and command, family, length.
const FIXED: usize = 16;
/// The longest rest of a header of version 2: addresses, and what a proxy says of itself.
const REST_MAX: usize = 2048;

/// Whom a proxy speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// A client at this address.
    For(SocketAddr),
    /// The proxy itself (a look whether the broker is there), or a client whose address it does not know.
    Itself,
}

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoHeader {
    /// The connection ended.
    #[error("the proxy went away: {0}")]
    Gone(#[from] std::io::Error),
    /// Something else came.
    #[error("what came is no header of the PROXY protocol: {0}")]
    Wrong(&'static str),
}

/// Reads the header, and not a byte more.
///
/// # Errors
/// There is none, or it is wrong.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Spoken, NoHeader> {
    // Every header has at least so many bytes.
    let mut bytes = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut bytes).await?;
    if bytes == SIGNATURE {
        bytes.resize(FIXED, 0);
        stream.read_exact(bytes.get_mut(SIGNATURE.len()..).unwrap_or_default()).await?;
        let rest = length(&bytes);
        if rest > REST_MAX {
            return Err(NoHeader::Wrong("it is too long"));
        }
        bytes.resize(FIXED + rest, 0);
        stream.read_exact(bytes.get_mut(FIXED..).unwrap_or_default()).await?;
        return version_2(&bytes);
    }
    if !bytes.starts_with(b"PROXY ") {
        return Err(NoHeader::Wrong("it begins with something else"));
    }
    while !bytes.ends_with(b"\n") {
        if bytes.len() >= LINE_MAX {
            return Err(NoHeader::Wrong("the line is too long"));
        }
        bytes.push(stream.read_u8().await?);
    }
    version_1(&bytes)
}

/// The bytes behind the fixed part of a header of version 2.
fn length(header: &[u8]) -> usize {
    header.get(14..FIXED).unwrap_or_default().iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

/// A whole line.
fn version_1(line: &[u8]) -> Result<Spoken, NoHeader> {
    let wrong = || NoHeader::Wrong("the line is wrong");
    let line = std::str::from_utf8(line).ok().and_then(|line| line.strip_suffix("\r\n")).ok_or_else(wrong)?;
    let words: Vec<&str> = line.split(' ').collect();
    let [_, family, from, to, port, to_port] = words[..] else {
        return if words.get(1) == Some(&"UNKNOWN") { Ok(Spoken::Itself) } else { Err(wrong()) };
    };
    let known = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse().ok().map(IpAddr::V4),
            "TCP6" => text.parse().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    if family == "UNKNOWN" {
        return Ok(Spoken::Itself);
    }
    let (from, _to) = known(from).zip(known(to)).ok_or_else(wrong)?;
    let (port, _to_port) = port.parse().ok().zip(to_port.parse::<u16>().ok()).ok_or_else(wrong)?;
    Ok(Spoken::For(SocketAddr::new(from, port)))
}

/// A whole header.
fn version_2(header: &[u8]) -> Result<Spoken, NoHeader> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    const TCP4: u8 = 0x11;
    const TCP6: u8 = 0x21;
    let short = || NoHeader::Wrong("it is too short for its addresses");
    let (command, family) = match header.get(12..14) {
        Some(&[command, family]) => (command, family),
        _ => return Err(short()),
    };
    let rest = header.get(FIXED..).unwrap_or_default();
    let port = |at: usize| rest.get(at..at + 2).map(|two| two.iter().fold(0, |sum, byte| sum << 8 | u16::from(*byte)));
    match (command, family) {
        (LOCAL, _) => Ok(Spoken::Itself),
        (PROXY, TCP4) => {
            let from: [u8; 4] = rest.get(..4).and_then(|from| from.try_into().ok()).ok_or_else(short)?;
            let from = IpAddr::V4(Ipv4Addr::from(from));
            Ok(Spoken::For(SocketAddr::new(from, port(8).filter(|_| rest.len() >= 12).ok_or_else(short)?)))
        }
        (PROXY, TCP6) => {
            let from: [u8; 16] = rest.get(..16).and_then(|from| from.try_into().ok()).ok_or_else(short)?;
            let from = IpAddr::V6(Ipv6Addr::from(from));
            Ok(Spoken::For(SocketAddr::new(from, port(32).filter(|_| rest.len() >= 36).ok_or_else(short)?)))
        }
        // Of other families only the length counts.
        (PROXY, _) => Ok(Spoken::Itself),
        _ => Err(NoHeader::Wrong("its version or its command is not known")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The outcome, and what is left behind the header.
    async fn reading(bytes: &[u8]) -> (Result<Spoken, String>, Vec<u8>) {
        let mut stream = bytes;
        let outcome = read(&mut stream).await.map_err(|error| error.to_string());
        (outcome, stream.to_vec())
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest, b"MQTT"].concat()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn both_versions_are_read_and_nothing_behind_them() {
        let four = [&[192, 0, 2, 1][..], &[10, 0, 0, 1], &[0x13, 0x88], &[0, 80]].concat();
        let mut six = [0; 36];
        (six[0], six[1], six[15], six[32], six[33]) = (0x20, 0x01, 7, 0x13, 0x88);
        let with_more = [&four[..], b"\x04\0\x01x"].concat();
        for (bytes, from) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 5000 1883\r\nMQTT".to_vec(), Some("192.0.2.1:5000")),
            (b"PROXY TCP6 2001::7 ::1 5000 1883\r\nMQTT".to_vec(), Some("[2001::7]:5000")),
            (b"PROXY UNKNOWN\r\nMQTT".to_vec(), None),
            (b"PROXY UNKNOWN a b c d\r\nMQTT".to_vec(), None),
            (v2(0x21, 0x11, &four), Some("192.0.2.1:5000")),
            (v2(0x21, 0x11, &with_more), Some("192.0.2.1:5000")),
            (v2(0x21, 0x21, &six), Some("[2001::7]:5000")),
            (v2(0x20, 0, b""), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ] {
            let (outcome, rest) = reading(&bytes).await;
            let expected = from.map_or(Spoken::Itself, |from| Spoken::For(from.parse().unwrap()));
            assert_eq!((outcome, rest.as_slice()), (Ok(expected), &b"MQTT"[..]), "{from:?}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_no_header_is_refused() {
        let long = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat();
        let mut too_long = v2(0x21, 0x11, &[0; 12]);
        (too_long[14], too_long[15]) = (0xff, 0xff);
        for bytes in [
            b"\x10\x12\0\x04MQTT\x04\x02\0\x3c\0\x06abcdef".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 5000\r\n".to_vec(),
            b"PROXY TCP4 2001::7 10.0.0.1 5000 80\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 99999 80\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 5000 80\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 10.0.0.1 5000 80\r\n".to_vec(),
            long,
            too_long,
            v2(0x31, 0x11, &[0; 12]),
            v2(0x21, 0x11, &[0; 8]),
            v2(0x21, 0x21, &[0; 20]),
            b"PROXY".to_vec(),
        ] {
            assert!(reading(&bytes).await.0.is_err(), "{bytes:?}");
        }
    }
}
