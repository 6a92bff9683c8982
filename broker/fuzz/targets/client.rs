//! A server that means harm against the client library's session, its program busy meanwhile.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forebay_client::fuzz_session(data));
