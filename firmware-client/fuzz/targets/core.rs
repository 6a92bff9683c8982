//! The whole core: every call there is, in any order, at any time; two bytes are a call. The ledger always adds up.
#![no_main]

use forebay_firmware::{Class, Client, Input, Message, Options, Policy, Protocol, QoS, ReasonCode, Ticket};
use libfuzzer_sys::fuzz_target;

const QOS: [QoS; 4] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtLeastOnce];
const CLASSES: [Class; 4] = [Class::Alarm, Class::State, Class::Telemetry, Class::Bulk];
const POLICIES: [Policy; 4] = [Policy::DropOldest, Policy::DropNewest, Policy::KeepLast, Policy::DropOldest];
const TOPICS: [&str; 4] = ["a", "a/b", "$SYS/broker/pressure", "long/long/long/long"];

fn check(client: &Client<'_>) {
    let counters = client.counters();
    let ended = counters.sent + counters.acknowledged + counters.dropped_with_ticket();
    assert_eq!(counters.accepted, ended + client.pending() as u32 + counters.spilled);
    let (used, capacity) = client.fill();
    assert!(used <= capacity);
}

fuzz_target!(|data: &[u8]| {
    let Some((how, calls)) = data.split_first() else { return };
    let mut options = Options::new("d");
    options.protocol = if how & 1 == 0 { Protocol::V5 } else { Protocol::V311 };
    options.in_flight_max = 1 + u16::from(how >> 1 & 3);
    options.rate_per_s = u16::from(how >> 3 & 1) * 10;
    options.tell_lost = how & 16 != 0;
    options.topic_aliases = &["a", "a/b"];
    options.reserve = [64, 0, 0, 0];
    let (mut outbox, mut second, mut receive) = ([0; 400], [0; 400], [0; 80]);
    let mut client = Client::new(&options, &mut outbox);
    let mut spare = Some(&mut second);
    let mut input = Input::new(&mut receive);
    let mut out = [0; 64];
    let mut now = 0u64;
    let mut last: Option<Ticket> = None;
    let mut away: Option<Vec<u8>> = None;
    for call in calls.chunks_exact(2) {
        let (which, value) = (call[0] & 15, call[1]);
        let pick = usize::from(value & 3);
        match which {
            0..=3 => {
                let message = Message::new(TOPICS[pick])
                    .qos(QOS[usize::from(value >> 2 & 3)])
                    .class(CLASSES[usize::from(value >> 4 & 3)])
                    .policy(POLICIES[usize::from(value >> 6)])
                    .ttl_ms(u32::from(which) * 500);
                last = client.publish(now, &message, &[value; 30][..usize::from(value) % 30]).ok().or(last);
            }
            4 => drop(client.subscribe(["t/#", "+", "t", "#"][pick], QOS[pick])),
            5 => drop(client.unsubscribe(["t/#", "+", "t", "#"][pick])),
            6 if client.connect_at().is_some() => {
                input.clear();
                client.connected(now);
            }
            7 => client.disconnected(now),
            8 => drop(client.poll_transmit(now, &mut out[..1 + usize::from(value) % 64])),
            9 => drop(input.fill(&[value, call[0]])),
            10 => drop(input.fill(match value & 7 {
                0 if how & 1 == 0 => &[0x20, 3, 1, 0, 0],
                0 => &[0x20, 2, 1, 0],
                1 => &[0x40, 2, 0, 1],
                2 => &[0x50, 2, 0, 2],
                3 => &[0x70, 2, 0, 2],
                4 => &[0x90, 4, 0, 1, 0, 1],
                5 => &[0x62, 2, 0, 9],
                6 if how & 1 == 0 => &[0x34, 7, 0, 1, b'a', 0, 9, 0, b'x'],
                6 => &[0x34, 6, 0, 1, b'a', 0, 9, b'x'],
                _ => &[0xd0, 0],
            })),
            11 => {
                for _ in 0..1_000 {
                    if client.poll_event(now, &mut input).is_none() {
                        break;
                    }
                }
            }
            12 => now = now.wrapping_add(u64::from(value) << (value >> 5)),
            // A clock may go back.
            13 => now = now.saturating_sub(u64::from(value) * 100),
            14 => match value & 7 {
                0 => client.disconnect(now),
                1 => client.connect(now),
                2 => client.refuse(ReasonCode::QuotaExceeded),
                3 => drop(last.map(|ticket| (client.cancel(ticket), client.status(ticket)))),
                4 => client.disconnect_with_will(now),
                _ => {
                    let mut image = [0; 1_024];
                    client.disconnected(now);
                    if let (Some(len), Some(memory)) = (client.export(now, &mut image), spare.take()) {
                        client = Client::new(&options, memory);
                        client.import(0, u64::from(value) * 100, &image[..len]).unwrap();
                        now = 0;
                    }
                }
            },
            _ => {
                let mut record = [0; 256];
                if let Some(raw) = away.take() {
                    if client.restore(now, u32::from(value) * 50, &raw).is_err() {
                        away = Some(raw);
                    }
                } else if let Some(waiting) = client.waiting(None)
                    && let Some(len) = client.copy_out(now, waiting.ticket, &mut record)
                    && client.remove_spilled(waiting.ticket)
                {
                    away = Some(record[..len].to_vec());
                }
            }
        }
        check(&client);
    }
});
