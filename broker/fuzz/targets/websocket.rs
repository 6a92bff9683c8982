//! A client's WebSocket frames: nothing panics, and what comes of them does not depend on how they are cut.
#![no_main]

use forebay::transport::websocket::{Decoder, Violation};
use libfuzzer_sys::fuzz_target;

const FRAME_MAX: u64 = 1024;

/// Payload, Pings and how it ended, with the bytes given in pieces of this size.
fn decoded(bytes: &[u8], piece: usize) -> (Vec<u8>, Option<Vec<u8>>, bool, Option<Violation>) {
    let mut decoder = Decoder::new(FRAME_MAX);
    let mut out = Vec::new();
    for piece in bytes.chunks(piece) {
        let mut piece = piece.to_vec();
        match decoder.decode(&mut piece) {
            Ok(length) => out.extend_from_slice(&piece[..length]),
            // What stood before the violation in the same piece is not given on.
            Err(violation) => return (Vec::new(), None, false, Some(violation)),
        }
    }
    (out, decoder.take_ping(), decoder.closed(), None)
}

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (piece, bytes) = input;
    let whole = decoded(&bytes, bytes.len().max(1));
    assert_eq!(whole, decoded(&bytes, usize::from(piece) + 1));
    assert_eq!(whole, decoded(&bytes, 1));
});
