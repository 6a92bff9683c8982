//! A server that sends what it may not.

use crate::broker::{field, packet};
use crate::protocol;
use crate::seed::Seed;
use crate::world::options;
use forebay_firmware::{Client, Event, Input, Message, Options, QoS, ReasonCode};

/// A client whose server is a list of bytes.
struct Raw {
    client: Client<'static>,
    input: Input<'static>,
    v5: bool,
}

/// What came out of the bytes, in words.
fn words(event: Event<'_>) -> String {
    match event {
        Event::Message(message) => format!("message {}", message.payload_len),
        Event::MessageStart(message) => format!("start {}", message.payload_len),
        Event::MessageChunk(bytes) => format!("chunk {}", bytes.len()),
        other => format!("{other:?}"),
    }
}

impl Raw {
    fn new(v5: bool, receive: usize, change: impl FnOnce(&mut Options<'static>)) -> Self {
        let options = options(|options| {
            options.protocol = protocol(v5);
            options.session_expiry_s = 0;
            change(options);
        });
        let mut client = Client::new(options, vec![0; 1_024].leak());
        client.connected(0);
        let mut raw = Self { client, input: Input::new(vec![0; receive].leak()), v5 };
        raw.sent();
        raw
    }

    fn up(v5: bool, receive: usize, change: impl FnOnce(&mut Options<'static>)) -> Self {
        let mut raw = Self::new(v5, receive, change);
        let said = raw.feed(if v5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] });
        assert!(said[0].starts_with("Connected"), "{said:?}");
        raw
    }

    /// Gives the client bytes as a transport would.
    fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let (mut said, mut rest) = (Vec::new(), bytes);
        for _ in 0..10_000 {
            let taken = self.input.fill(rest);
            rest = &rest[taken..];
            while let Some(event) = self.client.poll_event(0, &mut self.input) {
                said.push(words(event));
            }
            if taken == 0 {
                break;
            }
        }
        said
    }

    fn sent(&mut self) -> Vec<u8> {
        let mut out = [0; 1_024];
        let len = self.client.poll_transmit(0, &mut out);
        out[..len].to_vec()
    }

    fn publish(&self, first: u8, id: u16, payload: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        field(&mut body, b"t");
        if first & 6 != 0 {
            body.extend(id.to_be_bytes());
        }
        if self.v5 {
            body.push(0);
        }
        body.extend(payload);
        packet(first, &body)
    }
}

#[test]
fn what_is_no_packet_ends_the_connection_with_the_right_reason() {
    use ReasonCode as R;
    let both: &[(&[u8], R)] = &[
        (&[0x00, 0], R::MalformedPacket),
        (&[0x10, 0], R::ProtocolError),
        (&[0x20, 3, 0, 0, 0], R::ProtocolError),
        (&[0x21, 2, 0, 0], R::MalformedPacket),
        (&[0x36, 6, 0, 1, b't', 0, 1, b'x'], R::MalformedPacket),
        (&[0x38, 5, 0, 1, b't', 0, b'x'], R::MalformedPacket),
        (&[0x32, 6, 0, 1, b't', 0, 0, 0], R::MalformedPacket),
        (&[0x30, 4, 0, 9, b't', 0], R::MalformedPacket),
        (&[0x30, 4, 0, 1, 0xff, 0], R::MalformedPacket),
        (&[0x30, 4, 0, 1, 0x00, 0], R::MalformedPacket),
        (&[0x30, 4, 0, 1, b'#', 0], R::TopicNameInvalid),
        (&[0x40, 1, 0], R::MalformedPacket),
        (&[0x40, 2, 0, 0], R::MalformedPacket),
        (&[0x41, 2, 0, 1], R::MalformedPacket),
        (&[0x60, 2, 0, 1], R::MalformedPacket),
        (&[0x80, 2, 0, 1], R::MalformedPacket),
        (&[0x82, 2, 0, 1], R::ProtocolError),
        (&[0xa2, 2, 0, 1], R::ProtocolError),
        (&[0x90, 2, 0, 1], R::MalformedPacket),
        (&[0xc0, 0], R::ProtocolError),
        (&[0xd0, 1, 0], R::MalformedPacket),
        (&[0x30, 0xff, 0xff, 0xff, 0xff, 0x7f], R::MalformedPacket),
        // Larger than the buffer, and no PUBLISH.
        (&[0x90, 0xff, 0x7f], R::PacketTooLarge),
    ];
    let only_v5: &[(&[u8], R)] = &[
        (&[0xf0, 0], R::ProtocolError),
        (&[0x30, 0x84, 0, 0, 1, b't', 0], R::MalformedPacket),
        (&[0x40, 3, 0, 1, 0x05], R::MalformedPacket),
        (&[0x40, 4, 0, 1, 0, 9], R::MalformedPacket),
        (&[0x40, 7, 0, 1, 0, 3, 0x21, 0, 1], R::ProtocolError),
        (&[0x30, 4, 0, 0, 0, b'x'], R::ProtocolError),
        (&[0x30, 7, 0, 1, b't', 3, 0x23, 0, 1], R::TopicAliasInvalid),
        (&[0x30, 7, 0, 1, b't', 3, 0x23, 0, 0], R::TopicAliasInvalid),
        (&[0x30, 8, 0, 1, b't', 4, 0x01, 0, 0x01, 0], R::ProtocolError),
        (&[0x30, 6, 0, 1, b't', 2, 0x7f, 0], R::MalformedPacket),
        (&[0xe0, 1, 0x03], R::MalformedPacket),
        (&[0xe0, 3, 0x81, 0, 0], R::MalformedPacket),
    ];
    let only_v3: &[(&[u8], R)] = &[
        (&[0xe0, 0], R::ProtocolError),
        (&[0xf0, 0], R::MalformedPacket),
        (&[0x40, 3, 0, 1, 0], R::MalformedPacket),
        (&[0xb0, 3, 0, 1, 0], R::MalformedPacket),
        (&[0x30, 2, 0, 0], R::TopicNameInvalid),
    ];
    for v5 in [false, true] {
        for (bytes, reason) in both.iter().chain(if v5 { only_v5 } else { only_v3 }) {
            // AUTH is no packet of 3.1.1; this client calls it a protocol error in both.
            let reason = if bytes[0] == 0xf0 { R::ProtocolError } else { *reason };
            let mut raw = Raw::up(v5, 64, |_| {});
            assert_eq!(raw.feed(bytes), [format!("Fault({reason:?})")], "{v5} {bytes:02x?}");
            let expected = if v5 { vec![0xe0, 1, reason as u8] } else { Vec::new() };
            assert_eq!(raw.sent(), expected, "{bytes:02x?}");
            assert!(raw.client.should_close());
            assert!(raw.feed(&[0xd0, 0]).is_empty(), "nothing is read after it");
        }
    }
}

#[test]
fn a_connack_that_may_not_be_ends_the_connection() {
    use ReasonCode as R;
    for (v5, bytes, reason) in [
        (false, &[0x20, 2, 1, 0][..], R::ProtocolError),
        (false, &[0x20, 2, 2, 0], R::MalformedPacket),
        (false, &[0x20, 2, 0, 6], R::MalformedPacket),
        (false, &[0x20, 1, 0], R::MalformedPacket),
        (false, &[0xd0, 0], R::ProtocolError),
        (false, &[0x30, 3, 0, 1, b't'], R::ProtocolError),
        (true, &[0x20, 3, 1, 0, 0], R::ProtocolError),
        (true, &[0x20, 2, 0, 0], R::MalformedPacket),
        (true, &[0x20, 6, 0, 0, 3, 0x21, 0, 0], R::ProtocolError),
        (true, &[0x20, 5, 0, 0, 2, 0x24, 2], R::ProtocolError),
        (true, &[0x20, 3, 0, 0x33, 0], R::MalformedPacket),
    ] {
        let mut raw = Raw::new(v5, 64, |_| {});
        assert_eq!(raw.feed(bytes), [format!("Fault({reason:?})")], "{bytes:02x?}");
        assert!(raw.client.should_close() && raw.sent().is_empty());
    }
}

#[test]
fn a_server_that_says_good_bye_is_reported_with_its_reference() {
    let mut raw = Raw::new(true, 64, |_| {});
    let mut body = vec![0, 0x9c];
    body.extend(crate::broker::properties(&[], Some(700), Some("other:1883")));
    let said = raw.feed(&packet(0x20, &body));
    let farewell = "{ reason: UseAnotherServer, server_reference: Some(\"other:1883\"), retry_after_ms: Some(700) }";
    assert_eq!(said, [format!("Refused(Farewell {farewell})")]);
    let mut raw = Raw::up(true, 64, |_| {});
    let mut body = vec![0x9c];
    body.extend(crate::broker::properties(&[], Some(700), Some("other:1883")));
    assert_eq!(raw.feed(&packet(0xe0, &body)), [format!("Disconnected(Farewell {farewell})")]);
    assert!(raw.client.should_close());
    raw.client.disconnected(0);
    assert!((700..=875).contains(&raw.client.connect_at().unwrap()));
}

#[test]
fn acknowledgements_of_what_was_never_sent_are_survived() {
    for v5 in [false, true] {
        let mut raw = Raw::up(v5, 64, |_| {});
        for first in [0x40, 0x70] {
            assert!(raw.feed(&[first, 2, 0, 9]).is_empty());
        }
        assert!(raw.feed(&[0x90, if v5 { 4 } else { 3 }, 0, 9, 0, 0][..if v5 { 6 } else { 5 }]).is_empty());
        // A PUBREC is answered, so that the server is done with it.
        assert!(raw.feed(&[0x50, 2, 0, 9]).is_empty());
        assert_eq!(raw.sent(), if v5 { vec![0x62, 3, 0, 9, 0x92] } else { vec![0x62, 2, 0, 9] });
        assert!(raw.feed(&[0x62, 2, 0, 9]).is_empty());
        assert_eq!(raw.sent(), if v5 { vec![0x70, 3, 0, 9, 0x92] } else { vec![0x70, 2, 0, 9] });
        // A PUBREC for QoS 1 is none.
        raw.client.publish(0, &Message::new("t"), b"x").unwrap();
        assert!(!raw.sent().is_empty());
        assert_eq!(raw.feed(&[0x50, 2, 0, 1]), ["Fault(ProtocolError)"]);
    }
}

#[test]
fn an_acknowledgement_of_half_a_packet_is_not_believed() {
    let mut raw = Raw::up(true, 64, |_| {});
    raw.client.publish(0, &Message::new("t"), b"0123456789").unwrap();
    let mut out = [0; 9];
    assert_eq!(raw.client.poll_transmit(0, &mut out), 9);
    assert_eq!(raw.feed(&[0x40, 2, 0, 1]), ["Fault(ProtocolError)"]);
    // What was begun is sent to its end, then the reason.
    let sent = raw.sent();
    assert_eq!(sent[sent.len() - 3..], [0xe0, 1, 0x82]);
}

#[test]
fn a_server_that_exceeds_receive_maximum_is_told() {
    let mut raw = Raw::up(true, 64, |options| options.receive_maximum = 2);
    for id in 1..=2 {
        let bytes = raw.publish(0x34, id, b"x");
        assert_eq!(raw.feed(&bytes), ["message 1"]);
        assert_eq!(raw.sent(), [0x50, 2, 0, id as u8]);
    }
    // A repetition takes no place, and is not delivered again.
    let again = raw.publish(0x3c, 2, b"x");
    assert!(raw.feed(&again).is_empty());
    assert_eq!(raw.sent(), [0x50, 2, 0, 2]);
    let third = raw.publish(0x32, 3, b"x");
    assert_eq!(raw.feed(&third), ["Fault(ReceiveMaximumExceeded)"]);
    assert_eq!(raw.sent(), [0xe0, 1, 0x93]);
}

#[test]
fn acknowledgements_wait_for_room_in_3_1_1() {
    let mut raw = Raw::up(false, 512, |_| {});
    let mut bytes = Vec::new();
    for id in 1..=60 {
        bytes.extend(raw.publish(0x32, id, b"x"));
    }
    let mut messages = raw.feed(&bytes).len();
    assert!(messages < 60, "the rest is read once there is room for its acknowledgements");
    let mut acks = 0;
    while let len @ 1.. = raw.sent().len() {
        acks += len / 4;
        messages += raw.feed(&[]).len();
    }
    assert_eq!((messages, acks), (60, 60));
}

#[test]
fn a_message_is_acknowledged_once_the_next_event_is_asked_for() {
    let mut raw = Raw::up(true, 64, |_| {});
    let bytes = raw.publish(0x32, 7, b"x");
    raw.input.fill(&bytes);
    assert!(matches!(raw.client.poll_event(0, &mut raw.input), Some(Event::Message(_))));
    assert!(raw.sent().is_empty(), "it is in the application's hands");
    assert!(raw.client.poll_event(0, &mut raw.input).is_none());
    assert_eq!(raw.sent(), [0x40, 2, 0, 7]);
    raw.input.fill(&bytes);
    assert!(raw.client.poll_event(0, &mut raw.input).is_some());
    raw.client.refuse(ReasonCode::NotAuthorized);
    assert!(raw.client.poll_event(0, &mut raw.input).is_none());
    assert_eq!(raw.sent(), [0x40, 3, 0, 7, 0x87]);
}

#[test]
fn a_payload_larger_than_the_buffer_comes_in_pieces_and_one_larger_than_wanted_is_refused() {
    for v5 in [false, true] {
        let mut raw = Raw::up(v5, 64, |options| options.payload_max = 1_000);
        for first in [0x30, 0x32, 0x34] {
            let bytes = raw.publish(first, 5, &[7; 1_000]);
            let said = raw.feed(&bytes);
            assert_eq!((said[0].as_str(), said.last().unwrap().as_str()), ("start 1000", "MessageEnd"));
            let total: usize = said[1..said.len() - 1]
                .iter()
                .map(|text| text.trim_start_matches("chunk ").parse::<usize>().unwrap())
                .sum();
            assert_eq!(total, 1_000);
            let ack = raw.sent();
            assert_eq!(ack.first(), [None, Some(&0x40), Some(&0x50)][usize::from(first >> 1 & 3)]);
            assert_eq!(raw.client.is_receiving(), first == 0x34);
            raw.feed(&[0x62, 2, 0, 5]);
            raw.sent();
            assert!(!raw.client.is_receiving());

            let bytes = raw.publish(first, 6, &[7; 1_001]);
            assert_eq!(raw.feed(&bytes), ["MessageRefused { payload_len: 1001 }"]);
            let ack = raw.sent();
            match first {
                0x30 => assert!(ack.is_empty()),
                _ if v5 => assert_eq!(ack, [if first == 0x32 { 0x40 } else { 0x50 }, 3, 0, 6, 0x97]),
                _ => assert_eq!(ack, [if first == 0x32 { 0x40 } else { 0x50 }, 2, 0, 6]),
            }
            raw.feed(&[0x62, 2, 0, 6]);
            raw.sent();
            let bytes = raw.publish(0x30, 0, b"and on");
            assert_eq!(raw.feed(&bytes), ["message 6"], "the connection lives");
        }
    }
}

#[test]
fn a_message_in_pieces_can_be_refused_on_its_way() {
    let mut raw = Raw::up(true, 64, |_| {});
    let bytes = raw.publish(0x32, 5, &[7; 500]);
    let mut rest = &bytes[raw.input.fill(&bytes)..];
    assert!(matches!(raw.client.poll_event(0, &mut raw.input), Some(Event::MessageStart(_))));
    raw.client.refuse(ReasonCode::ImplementationSpecificError);
    while !rest.is_empty() {
        assert!(raw.client.poll_event(0, &mut raw.input).is_none());
        rest = &rest[raw.input.fill(rest)..];
    }
    assert!(raw.client.poll_event(0, &mut raw.input).is_none());
    assert_eq!(raw.sent(), [0x40, 3, 0, 5, 0x83]);
}

/// A PUBLISH with a topic name and user properties of these lengths.
fn with_head(v5: bool, first: u8, id: u16, topic_len: usize, value_len: usize, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    field(&mut body, &vec![b't'; topic_len]);
    if first & 6 != 0 {
        body.extend(id.to_be_bytes());
    }
    if v5 {
        let mut section = vec![0x26];
        field(&mut section, b"k");
        field(&mut section, &vec![b'v'; value_len]);
        let (len, size) = forebay_wire::varint::encode(section.len() as u32);
        body.extend([&len[..size], &section].concat());
    }
    body.extend(payload);
    packet(first, &body)
}

/// Who ends the connection for it gets it again, and again.
#[test]
fn a_head_that_does_not_fit_the_buffer_is_refused_and_read_past() {
    let heads = [(false, 80, 0), (false, 60_000, 0), (true, 80, 150), (true, 5, 300), (true, 300, 300)];
    for (v5, topic_len, value_len) in heads {
        let mut raw = Raw::up(v5, 64, |_| {});
        // Two bytes of length, and a name of one byte and its value, each with two.
        let properties_len = if v5 { 2 + 6 + value_len } else { 0 };
        for (round, first) in (1..).zip([0x30, 0x32, 0x34]) {
            let bytes = with_head(v5, first, 6, topic_len, value_len, &[7; 500]);
            let expected = format!("MessageRefused {{ payload_len: {} }}", 500 + properties_len);
            let pieces = bytes.chunks([1, 7, 100_000][round as usize % 3]);
            let said: Vec<String> = pieces.flat_map(|piece| raw.feed(piece)).collect();
            assert_eq!(said, [expected], "{v5} {first:x}");
            assert_eq!(raw.client.counters().refused_inbound, round);
            let kind = if first == 0x32 { 0x40 } else { 0x50 };
            match raw.sent()[..] {
                [] => assert_eq!(first, 0x30),
                [is, 2, 0, 6] => assert!(is == kind && !v5, "3.1.1 knows no refusal"),
                [is, 3, 0, 6, 0x97] => assert!(is == kind && v5),
                _ => panic!("{v5} {first:x}"),
            }
            assert_eq!(raw.client.is_receiving(), !v5 && first == 0x34);
            raw.feed(&[0x62, 2, 0, 6]);
            raw.sent();
            let bytes = raw.publish(0x30, 0, b"and on");
            assert_eq!(raw.feed(&bytes), ["message 6"], "the connection lives");
        }
    }
}

/// Of QoS 2, and acknowledged before the connection was lost: the buffer was larger then.
#[test]
fn a_head_that_does_not_fit_any_more_is_acknowledged_as_before() {
    let mut raw = Raw::up(false, 64, |_| {});
    let bytes = raw.publish(0x34, 6, b"x");
    raw.feed(&bytes);
    assert_eq!(raw.sent(), [0x50, 2, 0, 6]);
    raw.feed(&with_head(false, 0x3c, 6, 80, 0, b"x"));
    assert_eq!(raw.sent(), [0x50, 2, 0, 6]);
    raw.feed(&[0x62, 2, 0, 6]);
    assert_eq!(raw.sent(), [0x70, 2, 0, 6]);
    assert!(!raw.client.is_receiving());
}

/// A packet with a reason and a reason string of 300 bytes.
fn wordy(first: u8, before: &[u8]) -> Vec<u8> {
    let mut section = vec![0x1f];
    field(&mut section, &[b'w'; 300]);
    let (len, size) = forebay_wire::varint::encode(section.len() as u32);
    packet(first, &[before, &len[..size], &section].concat())
}

/// The message would come with the next connection, and its acknowledgement too.
#[test]
fn an_acknowledgement_of_many_words_is_understood_without_them() {
    for step in [1, 7, 1_000] {
        let mut raw = Raw::up(true, 64, |_| {});
        let feed = |raw: &mut Raw, bytes: &[u8]| -> Vec<String> {
            bytes.chunks(step).flat_map(|piece| raw.feed(piece)).collect()
        };
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::ExactlyOnce, QoS::AtLeastOnce] {
            raw.client.publish(0, &Message::new("t").qos(qos), b"x").unwrap();
        }
        raw.sent();
        assert_eq!(feed(&mut raw, &wordy(0x40, &[0, 1, 0x10])).len(), 1);
        assert!(feed(&mut raw, &wordy(0x50, &[0, 2, 0])).is_empty());
        assert_eq!(raw.sent(), [0x62, 2, 0, 2]);
        assert!(feed(&mut raw, &wordy(0x70, &[0, 2, 0]))[0].starts_with("Acknowledged"));
        let refused =
            [feed(&mut raw, &wordy(0x50, &[0, 3, 0x87])), feed(&mut raw, &wordy(0x40, &[0, 4, 0x99]))].concat();
        assert!(refused.len() == 2 && refused.iter().all(|said| said.starts_with("Rejected")), "{refused:?}");
        // PUBREL as well; and what comes behind it.
        let bytes = raw.publish(0x34, 9, b"x");
        raw.feed(&bytes);
        raw.sent();
        assert!(feed(&mut raw, &wordy(0x62, &[0, 9, 0])).is_empty());
        assert_eq!(raw.sent(), [0x70, 2, 0, 9]);
        assert!(raw.client.is_drained());
    }
}

#[test]
fn a_good_bye_of_many_words_is_understood_without_them() {
    let mut raw = Raw::up(true, 64, |_| {});
    let said = raw.feed(&wordy(0xe0, &[0x89]));
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("Disconnected") && said[0].contains("ServerBusy"), "{said:?}");
    assert!(raw.client.should_close());
    raw.client.disconnected(0);
    assert!(raw.client.connect_at().unwrap() >= 5_000);
    // What has the reason behind the words has to fit.
    let mut raw = Raw::up(true, 64, |_| {});
    assert_eq!(raw.feed(&wordy(0x90, &[0, 1])), ["Fault(PacketTooLarge)"]);
}

#[test]
fn a_head_that_does_not_fit_the_buffer_keeps_the_rules() {
    use ReasonCode as R;
    for v5 in [false, true] {
        // No identifier; a topic name that ends behind the packet, or leaves no room for the identifier.
        let mut no_room = vec![0x32, 101, 0, 98];
        no_room.extend([b't'; 99]);
        for bytes in [with_head(v5, 0x32, 0, 80, 80, b""), no_room, [&[0x30, 100, 0, 99][..], &[b't'; 98]].concat()] {
            let mut raw = Raw::up(v5, 64, |_| {});
            let said = raw.feed(&bytes);
            assert_eq!(said.last().unwrap(), &format!("Fault({:?})", R::MalformedPacket), "{v5} {:?}", &bytes[..5]);
        }
        // What is there is wrong, only the payload is too large.
        for (first, head) in
            [(0x32, &[0, 1, 0xff, 0, 1, 0][..]), (0x32, &[0, 1, b't', 0, 0, 0]), (0x38, &[0, 1, b't', 0])]
        {
            let mut raw = Raw::up(v5, 64, |_| {});
            let said = raw.feed(&packet(first, &[head, &[0; 100]].concat()));
            assert_eq!(said, ["Fault(MalformedPacket)"], "{v5} {head:?}");
        }
        // One more than the window.
        let mut raw = Raw::up(v5, 64, |options| options.receive_maximum = 1);
        let mut count = 0;
        let fault = loop {
            count += 1;
            let said = raw.feed(&with_head(v5, 0x34, count, 80, 80, b""));
            if !v5 {
                raw.sent();
            }
            if said.len() > 1 {
                break said[1].clone();
            }
        };
        assert_eq!((fault.as_str(), count), ("Fault(ReceiveMaximumExceeded)", if v5 { 2 } else { 25 }));
    }
    let mut raw = Raw::up(true, 64, |options| options.maximum_packet_size = 100);
    let bytes = raw.publish(0x30, 0, &[0; 100]);
    assert_eq!(raw.feed(&bytes), ["Fault(PacketTooLarge)"]);
}

/// Good packets, broken ones and garbage, in pieces of any size, to a client that publishes meanwhile.
#[test]
fn no_bytes_make_it_panic() {
    for number in 0..if cfg!(miri) { 20 } else { 20_000 } {
        let mut seed = Seed::new(number);
        let v5 = seed.below(2) == 0;
        let mut raw = Raw::up(v5, 16 + seed.below(100), |options| options.payload_max = 300);
        raw.client.subscribe("f/#", QoS::ExactlyOnce).unwrap();
        for _ in 0..30 {
            let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][seed.below(3)];
            let _ = raw.client.publish(0, &Message::new("t").qos(qos), b"payload");
            let mut out = vec![0; seed.below(40)];
            raw.client.poll_transmit(0, &mut out);
            let id = seed.below(6) as u8;
            let mut bytes = match seed.below(12) {
                11 => wordy([0x40, 0x50, 0x62, 0x70, 0x90][seed.below(5)], &[0, id, [0, 0x87][seed.below(2)]]),
                10 => with_head(
                    v5,
                    [0x30, 0x32, 0x34, 0x3c][seed.below(4)],
                    1 + u16::from(id),
                    seed.below(200),
                    seed.below(200),
                    b"x",
                ),
                0..=2 => {
                    raw.publish([0x30, 0x32, 0x34, 0x3c][seed.below(4)], 1 + u16::from(id), &vec![1; seed.below(400)])
                }
                3..=6 => vec![[0x40, 0x50, 0x62, 0x70, 0x90, 0xb0][seed.below(6)], 2, 0, id],
                7 => vec![0x90, 3, 0, id, 1],
                8 => packet([0x40, 0x50, 0xe0, 0x20, 0x90][seed.below(5)], &[0, id, 0, 3, 0x1f, 0, 0]),
                _ => (0..seed.below(30)).map(|_| seed.next() as u8).collect(),
            };
            if seed.below(6) == 0 && !bytes.is_empty() {
                let at = seed.below(bytes.len());
                bytes[at] = seed.next() as u8;
            }
            raw.feed(&bytes);
            if raw.client.should_close() {
                break;
            }
        }
        raw.client.disconnected(0);
        let counters = raw.client.counters();
        let ended = counters.sent + counters.acknowledged + counters.dropped_with_ticket();
        assert_eq!(counters.accepted, ended + raw.client.pending() as u32);
    }
}
