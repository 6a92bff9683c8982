//! 4.8.2: shared subscriptions.

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_share_name_is_needed, "MQTT5-4.8.2-1"),
        case!(a_share_name_has_no_wildcard, "MQTT5-4.8.2-2"),
        case!(each_message_goes_to_one_member),
        case!(groups_and_others_are_apart),
        case!(each_member_has_its_own_qos, "MQTT5-4.8.2-3"),
        case!(a_qos_2_exchange_is_finished_with_the_same_member, "MQTT5-4.8.2-4"),
        case!(a_qos_2_message_of_a_dead_member_goes_to_nobody, "MQTT5-4.8.2-5"),
        case!(a_qos_1_message_of_a_dead_member_goes_to_another),
        case!(a_qos_1_message_of_a_clean_member_goes_to_another),
        case!(the_queue_of_a_dead_member_goes_to_another),
        case!(a_refused_message_goes_to_nobody, "MQTT5-4.8.2-6"),
        case!(an_absent_member_is_passed_over),
    ]
}

fn a_share_name_is_needed(target: &Target) {
    for filter in ["$share//a", "$share/", "$share/g", "$share/g/"] {
        let mut client = clean(target, "a_share_name_is_needed");
        client.send(&subscribe(1).filter(filter, 0).packet());
        client.expect_disconnect(0x81);
    }
    let mut client = clean(target, "a_share_name_is_needed");
    client.send(&subscribe(1).filter("$share/g/a_share_name", 0).packet());
    client.expect_suback(1, &[0]);
    // Another first level is only a topic.
    client.subscribe("$shared/g/a_share_name", 0);
    client.publish("$shared/g/a_share_name", 0, b"x");
    client.expect_message("$shared/g/a_share_name", b"x");
}

fn a_share_name_has_no_wildcard(target: &Target) {
    for filter in ["$share/+/a", "$share/#", "$share/g+/a", "$share/g#/a", "$share/g/a#"] {
        let mut client = clean(target, "a_share_name_has_no_wildcard");
        client.send(&subscribe(1).filter(filter, 0).packet());
        client.expect_disconnect(0x81);
    }
    let mut client = clean(target, "a_share_name_has_no_wildcard");
    client.send(&subscribe(1).filter("$share/g/a_share_name/+/#", 0).packet());
    client.expect_suback(1, &[0]);
}

/// Members of the group `$share/{me}/{me}`.
fn members(target: &Target, me: &str, count: usize, qos: u8) -> Vec<Raw> {
    let member = |n: usize| {
        let mut client = open(target, &lasting(&format!("{me}-{n}")));
        client.subscribe(&format!("$share/{me}/{me}"), qos);
        client
    };
    (0..count).map(member).collect()
}

/// What each has got by now, answered at QoS 1.
fn payloads(members: &mut [Raw]) -> Vec<Vec<Vec<u8>>> {
    let one = |client: &mut Raw| {
        let mut found = Vec::new();
        for packet in client.receive_all() {
            let Packet::Publish(message) = packet else { panic!("{packet:?}") };
            if message.qos == 1 {
                client.send(&packet::ack(Ack::Puback, message.id));
            }
            found.push(message.payload);
        }
        found
    };
    members.iter_mut().map(one).collect()
}

fn each_message_goes_to_one_member(target: &Target) {
    let me = "each_message_goes_to_one";
    let mut members = members(target, me, 3, 1);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for n in 0..30_u8 {
        publisher.publish(me, n % 2, &[n]);
    }
    let found = payloads(&mut members);
    assert!(found.iter().all(|got| !got.is_empty()), "{found:?}");
    assert!(found.iter().all(|got| got.is_sorted()), "each in order: {found:?}");
    let mut all = found.concat();
    all.sort();
    assert_eq!(all, (0..30_u8).map(|n| vec![n]).collect::<Vec<_>>());
}

fn groups_and_others_are_apart(target: &Target) {
    let me = "groups_and_others";
    let mut all = Vec::new();
    for filter in ["$share/a/groups_and_others", "$share/b/groups_and_others", "$share/b/groups_and_others/#", me] {
        let mut client = clean(target, &format!("{me}-{}", all.len()));
        client.subscribe(filter, 1);
        all.push(client);
    }
    clean(target, &format!("{me}-publisher")).publish(me, 1, b"x");
    assert!(payloads(&mut all).iter().all(|got| *got == [b"x"]));
}

fn each_member_has_its_own_qos(target: &Target) {
    let me = "each_member_has_its_own_qos";
    let mut members: Vec<Raw> = (0..3)
        .map(|qos| {
            let mut client = clean(target, &format!("{me}-{qos}"));
            client.subscribe("$share/g/each_member_has_its_own_qos", qos);
            client
        })
        .collect();
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for _ in 0..12 {
        publisher.publish(me, 2, b"x");
    }
    for (qos, client) in members.iter_mut().enumerate() {
        let got = client.receive_all();
        assert!(!got.is_empty());
        for packet in got {
            assert!(matches!(&packet, Packet::Publish(m) if usize::from(m.qos) == qos), "{packet:?}");
        }
    }
}

/// Two members; which of them has the one message, what it is, and the other.
fn one_of_two(target: &Target, me: &str, qos: u8) -> (usize, Message, Vec<Raw>) {
    let mut members = members(target, me, 2, 2);
    clean(target, &format!("{me}-publisher")).publish(me, qos, b"x");
    for n in 0..2 {
        if let Some(Packet::Publish(message)) = members[n].receive_all().pop() {
            members[1 - n].expect_nothing();
            return (n, message, members);
        }
    }
    panic!("nobody got it");
}

fn a_qos_2_exchange_is_finished_with_the_same_member(target: &Target) {
    let me = "a_qos_2_exchange_is_finished";
    let (n, message, mut members) = one_of_two(target, me, 2);
    members.remove(n).drop_connection();
    members[0].expect_nothing();
    let mut again = open(target, &lasting(&format!("{me}-{n}")));
    let repeated = again.take_message(me, b"x");
    assert!(repeated.dup && repeated.id == message.id);
    members[0].expect_nothing();
}

fn a_qos_2_message_of_a_dead_member_goes_to_nobody(target: &Target) {
    let me = "a_qos_2_message_of_a_dead";
    let (n, _, mut members) = one_of_two(target, me, 2);
    let mut dying = members.remove(n);
    dying.send(&build::disconnect(0, &[Property::SessionExpiry(0)]));
    dying.expect_closed();
    let (_, present, _) = Raw::open(target.port, &lasting(&format!("{me}-{n}")));
    assert!(!present);
    members[0].expect_nothing();
}

fn a_qos_1_message_of_a_dead_member_goes_to_another(target: &Target) {
    let me = "a_qos_1_message_of_a_dead";
    let (n, _, mut members) = one_of_two(target, me, 1);
    let mut dying = members.remove(n);
    dying.send(&build::disconnect(0, &[Property::SessionExpiry(0)]));
    dying.expect_closed();
    members[0].take_message(me, b"x");
}

/// A member whose session ends with its connection.
fn a_qos_1_message_of_a_clean_member_goes_to_another(target: &Target) {
    let me = "a_qos_1_message_of_a_clean";
    let mut members = members(target, me, 1, 1);
    let mut dying = clean(target, &format!("{me}-dying"));
    dying.subscribe(&format!("$share/{me}/{me}"), 1);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for n in 0..2_u8 {
        publisher.publish(me, 1, &[n]);
    }
    let first = payloads(&mut members).concat();
    assert_eq!(first.len(), 1, "they take turns");
    let Packet::Publish(message) = dying.receive() else { panic!("not a PUBLISH") };
    dying.drop_connection();
    members[0].take_message(me, &message.payload);
}

fn the_queue_of_a_dead_member_goes_to_another(target: &Target) {
    let me = "the_queue_of_a_dead";
    for member in members(target, me, 2, 1) {
        member.leave();
    }
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for n in 0..10_u8 {
        publisher.publish(me, 1, &[n]);
    }
    // Whoever has them: one session ends, the other is resumed.
    open(target, &connect(&format!("{me}-0"))).leave();
    let mut left = open(target, &lasting(&format!("{me}-1")));
    let mut found: Vec<u8> = Vec::new();
    while found.len() < 10 {
        let Packet::Publish(message) = left.receive() else { panic!("not a PUBLISH") };
        left.send(&packet::ack(Ack::Puback, message.id));
        found.push(message.payload[0]);
    }
    found.sort_unstable();
    assert_eq!(found, (0..10).collect::<Vec<u8>>());
}

fn a_refused_message_goes_to_nobody(target: &Target) {
    let me = "a_refused_message_goes";
    for (round, kind) in [(1, Ack::Puback), (2, Ack::Pubrec)] {
        let (n, message, mut members) = one_of_two(target, &format!("{me}-{round}"), round);
        members[n].send(&build::ack(kind, message.id, 0x83, &[]));
        members[n].expect_nothing();
        members[1 - n].expect_nothing();
        for (n, client) in members.into_iter().enumerate() {
            client.leave();
            let mut again = open(target, &lasting(&format!("{me}-{round}-{n}")));
            again.subscribe("a_refused_message_goes/marker", 1);
            clean(target, &format!("{me}-marker")).publish("a_refused_message_goes/marker", 1, b"the next");
            again.take_message("a_refused_message_goes/marker", b"the next");
        }
    }
}

fn an_absent_member_is_passed_over(target: &Target) {
    let me = "an_absent_member";
    let mut members = members(target, me, 2, 1);
    members.remove(0).leave();
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for n in 0..6_u8 {
        publisher.publish(me, 1, &[n]);
        members[0].take_message(me, &[n]);
    }
    // With nobody there the group's messages wait.
    members.remove(0).leave();
    publisher.publish(me, 1, b"waits");
    let mut back = [0, 1].map(|n| open(target, &lasting(&format!("{me}-{n}"))));
    let found = loop {
        let found = payloads(&mut back).concat();
        if !found.is_empty() {
            break found;
        }
    };
    assert_eq!(found, [b"waits"]);
}
