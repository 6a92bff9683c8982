use std::collections::BTreeMap;

use super::*;
use crate::router::{Group, Readiness, Stats};

fn group(members: u64) -> (Router<Client>, Arc<Group<Client>>) {
    let router = Router::new();
    for key in 0..members {
        router.subscribe("$share/workers/jobs/#", client(key), qos(1));
    }
    let group = Arc::clone(&router.route("jobs/1").groups[0]);
    (router, group)
}

fn counts(group: &Group<Client>, picks: usize, usable: impl Fn(u64) -> Readiness) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..picks {
        if let Some(target) = group.pick(|client| usable(client.key())) {
            *counts.entry(target.subscriber.key()).or_default() += 1;
        }
    }
    counts
}

#[test]
fn a_group_is_known_by_its_name_and_its_filter() {
    let router = router(&[
        ("$share/one/jobs/#", 1),
        ("$share/two/jobs/#", 1),
        ("$share/one/jobs/+", 2),
        ("$share/one/jobs/#", 3),
        ("jobs/#", 1),
    ]);
    assert_eq!(router.stats(), Stats { subscriptions: 5, nodes: 2, groups: 3 });
    let route = router.route("jobs/7");
    assert_eq!(keys(&route), [1], "a member's own subscription is apart from the group's");
    let mut groups: Vec<(&str, &str, usize)> =
        route.groups.iter().map(|group| (&*group.name, &*group.filter, group.members().len())).collect();
    groups.sort_unstable();
    assert_eq!(groups, [("one", "jobs/#", 2), ("one", "jobs/+", 1), ("two", "jobs/#", 1)]);
}

#[test]
fn a_wildcard_in_a_group_does_not_see_system_topics() {
    let router = router(&[("$share/g/#", 1), ("$share/g/$SYS/#", 2)]);
    assert_eq!(router.route("a").groups.len(), 1);
    let route = router.route("$SYS/x");
    assert_eq!(route.groups.len(), 1);
    assert_eq!(&*route.groups[0].filter, "$SYS/#");
}

#[test]
fn ready_members_take_turns() {
    let (_, group) = group(20);
    let turns = counts(&group, 2_000, |_| Readiness::Ready);
    assert_eq!(turns, (0..20).map(|key| (key, 100)).collect());
}

#[test]
fn whoever_follows_an_absent_member_gets_no_more_than_the_others() {
    let (_, group) = group(5);
    let turns = counts(&group, 300, |key| if key == 1 || key == 2 { Readiness::Offline } else { Readiness::Ready });
    assert_eq!(turns, BTreeMap::from([(0, 100), (3, 100), (4, 100)]));
}

#[test]
fn busy_before_offline_before_nobody() {
    let (_, group) = group(6);
    let turns = counts(&group, 90, |key| if key < 3 { Readiness::Busy } else { Readiness::Offline });
    assert_eq!(turns, BTreeMap::from([(0, 30), (1, 30), (2, 30)]));
    let turns = counts(&group, 90, |key| if key < 3 { Readiness::Never } else { Readiness::Offline });
    assert_eq!(turns, BTreeMap::from([(3, 30), (4, 30), (5, 30)]));
    let turns = counts(&group, 90, |key| if key == 4 { Readiness::Ready } else { Readiness::Busy });
    assert_eq!(turns, BTreeMap::from([(4, 90)]));
    assert!(counts(&group, 90, |_| Readiness::Never).is_empty());
}

#[test]
fn a_turn_survives_a_change_of_members_and_a_new_route() {
    let (router, group) = group(3);
    let first = group.pick(|_| Readiness::Ready).unwrap().subscriber.key();
    let again = Arc::clone(&router.route("jobs/2").groups[0]);
    assert!(Arc::ptr_eq(&group, &again), "made once for each change");
    router.subscribe("$share/workers/jobs/#", client(9), qos(1));
    let group = Arc::clone(&router.route("jobs/2").groups[0]);
    assert_eq!(group.members().len(), 4);
    let second = group.pick(|_| Readiness::Ready).unwrap().subscriber.key();
    assert_ne!(first, second);
    assert!(router.unsubscribe("$share/workers/jobs/#", 0));
    let group = Arc::clone(&router.route("jobs/2").groups[0]);
    let turns = counts(&group, 300, |_| Readiness::Ready);
    assert_eq!(turns, BTreeMap::from([(1, 100), (2, 100), (9, 100)]));
}

#[test]
fn threads_share_a_groups_turns() {
    let (_, group) = group(4);
    let picks: Vec<BTreeMap<u64, usize>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| counts(&group, 1_000, |_| Readiness::Ready))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for key in 0..4 {
        assert_eq!(picks.iter().filter_map(|counts| counts.get(&key)).sum::<usize>(), 1_000);
    }
}
