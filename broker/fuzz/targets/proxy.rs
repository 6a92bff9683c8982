//! Headers of the PROXY protocol: nothing panics, no byte behind the header is taken, none is awaited that does not come.
#![no_main]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use forebay::transport::proxy;
use libfuzzer_sys::fuzz_target;

/// A header of version 2 has at most so many bytes, and one of version 1 fewer.
const HEADER_MAX: usize = 16 + 2048;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    let outcome = {
        let reading = pin!(proxy::read(&mut rest));
        // Memory is always ready: what it does not have is the end.
        match reading.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => unreachable!("memory is ready"),
        }
    };
    let taken = bytes.len() - rest.len();
    assert!(taken <= HEADER_MAX, "{taken}");
    if outcome.is_ok() {
        // The same with something else behind it.
        let mut other = [&bytes[..taken], b"more"].concat();
        other.truncate(taken + 4);
        let mut rest = &other[..];
        let reading = pin!(proxy::read(&mut rest));
        let Poll::Ready(again) = reading.poll(&mut Context::from_waker(Waker::noop())) else { unreachable!() };
        assert_eq!(again.ok(), outcome.ok());
    }
});
