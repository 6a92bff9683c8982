//! Any bytes through the guard, in any version: nothing panics, and what it lets pass keeps the rules that the broker
//! relies on. The first byte chooses the version and whether a CONNECT comes first; the rest is what a socket brings.
#![no_main]

use forebay::codec::{self, Connect, Limits, Packet};
use forebay_wire::frame::{self, Frame};
use forebay_wire::property::{Place, Properties};
use forebay_wire::publish::{From, Publish};
use forebay_wire::topic;
use forebay_wire::types::{QoS, Version};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits =
    Limits { max_user_properties: 4, max_filters_per_packet: 4, max_topic_levels: 8, max_client_id_len: 30 };
const PACKET_MAX: u32 = 100_000;

fuzz_target!(|data: &[u8]| {
    let Some((choice, mut rest)) = data.split_first() else { return };
    let mut version = [Version::V31, Version::V311, Version::V5][usize::from(choice % 3)];
    let mut first = choice & 0x80 != 0;
    while let Ok(Some(frame)) = frame::peek(rest, PACKET_MAX) {
        assert!(frame.total() >= 2 && frame.total() <= PACKET_MAX as usize);
        let Some((packet, after)) = rest.split_at_checked(frame.total()) else { return };
        if first {
            let Ok(connect) = codec::read_connect(&frame, packet, &LIMITS) else { return };
            check_connect(&connect);
            (first, version) = (false, connect.version);
        } else if frame.check(version).is_err() || !read(version, &frame, packet) {
            return;
        }
        rest = after;
    }
});

/// False: refused.
fn read(version: Version, frame: &Frame, packet: &[u8]) -> bool {
    if frame.packet_type() == frame::PUBLISH {
        let publish = Publish::parse(
            version,
            From::Client,
            frame.first_byte,
            &packet[frame.header_len..],
            LIMITS.max_topic_levels,
        );
        publish.iter().for_each(|publish| check_publish(version, publish));
        return publish.is_ok();
    }
    match codec::read_packet(version, frame, packet, &LIMITS) {
        Err(_) => return false,
        Ok(Packet::Subscribe(subscribe)) => {
            assert!((1..=LIMITS.max_filters_per_packet).contains(&subscribe.filters.len()));
            assert!(subscribe.subscription_id.is_none_or(|id| version.is_v5() && id > 0));
            for filter in &subscribe.filters {
                assert!(filter.retain_handling < 3);
                assert_eq!(filter.valid.is_ok(), topic::check_filter(&filter.filter, LIMITS.max_topic_levels).is_ok());
                assert!(version.is_v5() || !filter.no_local && !filter.retain_as_published);
            }
        }
        Ok(Packet::Unsubscribe(unsubscribe)) => {
            assert!((1..=LIMITS.max_filters_per_packet).contains(&unsubscribe.filters.len()));
        }
        Ok(Packet::Auth(_)) => assert!(version.is_v5()),
        Ok(Packet::Ack { .. } | Packet::PingReq | Packet::Disconnect(_)) => {}
    }
    true
}

fn check_publish(version: Version, publish: &Publish<'_>) {
    assert_eq!(publish.packet_id.is_some(), publish.qos != QoS::AtMostOnce);
    assert!(!publish.dup || publish.qos != QoS::AtMostOnce);
    if publish.topic.is_empty() {
        assert!(version.is_v5() && publish.topic_alias.is_some());
    } else {
        topic::check_name(publish.topic, LIMITS.max_topic_levels).expect("a topic name");
    }
    assert!(version.is_v5() || publish.properties.is_empty());
    let mut forwarded = Vec::new();
    publish.each_forwarded(|bytes| forwarded.extend_from_slice(bytes));
    check_properties(&forwarded, Place::Publish);
    if let Some(all) = publish.forwarded() {
        assert_eq!(all, forwarded);
    }
}

fn check_connect(connect: &Connect) {
    assert!(connect.client_id.len() <= LIMITS.max_client_id_len);
    assert!(connect.version.is_v5() || connect.clean_start || !connect.client_id.is_empty());
    assert!(connect.receive_maximum > 0 && connect.maximum_packet_size > 0);
    assert!(connect.user_properties.len() <= LIMITS.max_user_properties);
    assert!(connect.auth_data.is_none() || connect.auth_method.is_some());
    if let Some(will) = &connect.will {
        topic::check_name(&will.topic, LIMITS.max_topic_levels).expect("a will's topic name");
        check_properties(&will.properties, Place::Will);
    }
}

fn check_properties(section: &[u8], place: Place) {
    assert!(Properties::new(section, place).all(|property| property.is_ok()), "{section:?} is forwarded");
}
