//! IP addresses and networks of them, as configurations and rules name them.

use std::net::{IpAddr, Ipv6Addr};

/// An address, or a network of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    addr: IpAddr,
    bits: u8,
}

/// What one party has, who counts as one: an IPv4 address, or the /64 of an IPv6 address.
pub(crate) fn of_one_party(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
    }
}

/// Whether an authority (`HOST` or `HOST:PORT`) names its machine so that nobody else can give that name another meaning. A page
/// on the Internet can have its own name point to 127.0.0.1, and then reach this machine as if it came from it; an address, and
/// what is resolved on the same machine or link, cannot be had by a page.
pub(crate) fn is_own_name(authority: &str) -> bool {
    let name = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let local = name.get(name.len().saturating_sub(".local".len())..);
    name.eq_ignore_ascii_case("localhost")
        || local.is_some_and(|end| end.eq_ignore_ascii_case(".local"))
        || name.parse::<IpAddr>().is_ok()
}

impl Network {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (addr, bits) = match text.split_once('/') {
            Some((addr, bits)) => (addr, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().ok()?;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Self { addr, bits })
    }

    pub(crate) fn has(self, addr: IpAddr) -> bool {
        match (self.addr, addr.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(addr)) => {
                (net.to_bits() ^ addr.to_bits()).checked_shr(32 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(addr)) => {
                (net.to_bits() ^ addr.to_bits()).checked_shr(128 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}
