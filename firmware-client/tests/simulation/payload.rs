//! Payloads that say their number, shared by the simulations.

/// A payload that says its number, and is as it should be all along.
pub fn payload(number: u32, len: usize) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.extend((4..len.max(4)).map(|at| (at as u32 ^ number) as u8));
    payload
}

pub fn number_of(bytes: &[u8]) -> u32 {
    let number = u32::from_be_bytes(bytes[..4].try_into().unwrap());
    assert_eq!(bytes, payload(number, bytes.len()), "a payload arrives as it was");
    number
}
