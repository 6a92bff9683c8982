//! A session from anywhere, and records from a damaged store: taken over or refused, and the client goes on working. The
//! checksum is made right, so that what is behind it is reached.
#![no_main]

use forebay_firmware::{Client, Input, Message, Options};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let options = Options::new("d");
    let (mut outbox, mut receive, mut out) = ([0; 512], [0; 96], [0; 64]);
    let mut client = Client::new(&options, &mut outbox);
    let _ = client.restore(0, 0, data);
    let sum = data.iter().fold(0x811c_9dc5u32, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    let image = [&0x4642_4631u32.to_be_bytes()[..], &sum.to_be_bytes(), data].concat();
    let _ = client.import(0, 1_000, &image);
    let mut input = Input::new(&mut receive);
    let _ = client.publish(0, &Message::new("t"), b"payload");
    client.connected(0);
    for now in 0..100 {
        client.poll_transmit(now * 1_000, &mut out);
        if now == 0 {
            input.fill(&[0x20, 3, 1, 0, 0]);
        }
        while client.poll_event(now * 1_000, &mut input).is_some() {}
    }
    client.disconnected(200_000);
    let mut image = [0; 1_024];
    let _ = client.export(200_000, &mut image);
    let (used, capacity) = client.fill();
    assert!(used <= capacity);
});
