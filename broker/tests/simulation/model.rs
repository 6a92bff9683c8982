//! What must be true at the end, in terms that need no broker: who was acknowledged what, and who has taken what.

use std::collections::BTreeMap;

use forebay::config::QueuePolicy;

use crate::client::Taken;
use crate::world::World;

/// Checks what every subscriber has taken against what publishers were acknowledged.
pub fn check(world: &World) {
    let acknowledged: Vec<&Taken> = world.clients.iter().flat_map(|c| &c.acknowledged).collect();
    let mut missing = 0;
    for client in world.clients.iter().filter(|c| !c.plan.filters.is_empty()) {
        let (name, limit) = (&client.plan.name, client.plan.filters[0].1);
        let mut times: BTreeMap<(&str, u32), u32> = BTreeMap::new();
        let mut last: BTreeMap<(&str, u8), u32> = BTreeMap::new();
        for (topic, number, qos) in &client.taken {
            let count = times.entry((topic, *number)).or_default();
            *count += 1;
            let late = may_be_late(world, topic, *number, *qos);
            if *count == 1 && !late {
                let before = last.insert((topic, *qos), *number);
                assert!(before.is_none_or(|b| b < *number), "{name}: {topic} {number} comes after {before:?}");
            }
            assert!(*qos < 2 || *count == 1, "{name}: {topic} {number} came twice at QoS 2");
        }
        for (topic, number, qos) in &acknowledged {
            if times.contains_key(&(topic.as_str(), *number)) {
                continue;
            }
            missing += 1;
            assert!(world.policy != QueuePolicy::Reject, "{name}: {topic} {number} of QoS {qos}/{limit} is lost");
        }
    }
    let (ledger, queued) = world.broker().ledger();
    let dropped = ledger.dropped.iter().sum::<u64>() + ledger.expired + world.forgotten;
    assert!(missing <= dropped, "{missing} are missing, {dropped} were counted");
    assert_eq!(queued, 0, "something is queued still");
    let (found, reader) = world.disk.found();
    for session in &found.sessions {
        let rows = reader.page(session.no, 0, usize::MAX, usize::MAX).unwrap();
        assert!(rows.is_empty(), "rows left in the store: {rows:?}");
        assert_eq!(session.state.queued, 0, "the store believes that something is queued");
        assert!(session.state.inbound.is_empty(), "inbound identifiers left: {:?}", session.state.inbound);
    }
}

/// Whether a message that its publisher repeated may come after later ones: the first copy was dropped by a policy while a
/// later message was sent, at QoS 1, before the commit that a crash prevented, or before the repetition; or MQTT 5 refused the first copy with 0x97, and the answer was lost with the connection.
fn may_be_late(world: &World, topic: &str, number: u32, qos: u8) -> bool {
    let Some(publisher) = world.clients.iter().find(|c| c.repeated.contains(&number)) else { return false };
    let dropped = (qos < 2 || topic.ends_with("/1")) && world.policy != QueuePolicy::Reject;
    dropped || publisher.plan.version.is_v5() && world.refused > 0
}
