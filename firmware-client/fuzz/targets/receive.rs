//! Any bytes from a server, in pieces of any size: the parser, and what the client makes of it. The first byte chooses the
//! protocol and the size of the pieces.
#![no_main]

use forebay_firmware::{Client, Input, Message, Options, Protocol, QoS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((how, bytes)) = data.split_first() else { return };
    let mut options = Options::new("d");
    options.protocol = if how & 1 == 0 { Protocol::V5 } else { Protocol::V311 };
    options.adopt_session = true;
    let (mut outbox, mut receive, mut out) = ([0; 512], [0; 96], [0; 200]);
    let mut client = Client::new(&options, &mut outbox);
    let mut input = Input::new(&mut receive);
    client.subscribe("t/#", QoS::ExactlyOnce).unwrap();
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        client.publish(0, &Message::new("t").qos(qos), b"payload").unwrap();
    }
    client.connected(0);
    client.poll_transmit(0, &mut out);
    if how & 2 == 0 {
        // Most of what can go wrong does so behind a CONNACK.
        input.fill(if how & 1 == 0 { &[0x20, 3, 1, 0, 0] } else { &[0x20, 2, 1, 0] });
    }
    let mut rest = bytes;
    for now in 0..10_000 {
        let piece = rest.len().min(1 + usize::from(how >> 2));
        let taken = input.fill(&rest[..piece]);
        rest = &rest[taken..];
        let mut events = 0;
        while let Some(event) = client.poll_event(now, &mut input) {
            std::hint::black_box(&event);
            events += 1;
            assert!(events < 10_000);
        }
        let written = client.poll_transmit(now, &mut out);
        if client.should_close() || (rest.is_empty() && written == 0) {
            break;
        }
        assert!(taken > 0 || written > 0 || events > 0 || rest.is_empty(), "it does not stand still");
    }
    let (used, capacity) = client.fill();
    assert!(used <= capacity);
});
