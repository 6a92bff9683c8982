use std::sync::Arc;

use super::*;
use crate::router::Stats;

/// Filter, topic, whether it matches: the examples of sections 4.7.1 and 4.7.2, and what is near them.
pub(super) const EXAMPLES: &[(&str, &str, bool)] = &[
    ("sport/tennis/player1/#", "sport/tennis/player1", true),
    ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
    ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
    ("sport/tennis/player1/#", "sport/tennis/player2", false),
    ("sport/tennis/player1/#", "sport/tennis", false),
    ("sport/#", "sport", true),
    ("sport/#", "sports", false),
    ("#", "sport/tennis", true),
    ("#", "/", true),
    ("sport/tennis/#", "sport/tennis/player1/ranking", true),
    ("sport/tennis/+", "sport/tennis/player1", true),
    ("sport/tennis/+", "sport/tennis/player2", true),
    ("sport/tennis/+", "sport/tennis/player1/ranking", false),
    ("sport/+", "sport", false),
    ("sport/+", "sport/", true),
    ("+", "sport", true),
    ("+/tennis/#", "sport/tennis", true),
    ("sport/+/player1", "sport/tennis/player1", true),
    ("sport/+/player1", "sport/player1", false),
    ("+/+", "/finance", true),
    ("/+", "/finance", true),
    ("+", "/finance", false),
    ("/#", "/finance", true),
    ("/#", "finance", false),
    ("+/#", "finance", true),
    ("#", "$SYS/broker/uptime", false),
    ("+/monitor/Clients", "$SYS/monitor/Clients", false),
    ("+", "$SYS", false),
    ("+/#", "$SYS/monitor", false),
    ("$SYS/#", "$SYS/monitor/Clients", true),
    ("$SYS/#", "$SYS", true),
    ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
    ("$SYS/+/Clients", "$SYS/monitor/Clients", true),
    ("a/#", "a/$b", true),
    ("a/+", "a/$b", true),
    ("ACCOUNTS", "Accounts", false),
    ("/", "/", true),
    ("a//b", "a//b", true),
    ("a/+/b", "a//b", true),
    ("a/b", "a//b", false),
    ("a/b", "a/b/", false),
    ("é/+", "é/à", true),
];

#[test]
fn the_standards_examples() {
    for (filter, topic, expected) in EXAMPLES {
        let route = router(&[(filter, 7)]).route(topic);
        assert_eq!(keys(&route), if *expected { vec![7] } else { vec![] }, "{filter} {topic}");
    }
}

#[test]
fn a_second_subscription_replaces_the_first() {
    let router = router(&[("a/b", 1), ("a/b", 2)]);
    assert!(router.subscribe("a/b", client(1), qos(2)), "MQTT5-3.8.4-3");
    let route = router.route("a/b");
    assert_eq!(keys(&route), [1, 2]);
    let target = route.targets.iter().find(|target| target.subscriber.key() == 1).unwrap();
    assert_eq!(target.options.qos, 2);
    assert_eq!(router.stats(), Stats { subscriptions: 2, nodes: 2, groups: 0 });
}

#[test]
fn a_filter_is_removed_by_its_exact_text() {
    let router = router(&[("a/+", 1), ("a/b", 1), ("$share/g/a/+", 1)]);
    assert!(!router.unsubscribe("a/#", 1));
    assert!(!router.unsubscribe("a/c", 1));
    assert!(!router.unsubscribe("a/+", 2));
    assert!(!router.unsubscribe("$share/h/a/+", 1));
    assert!(!router.unsubscribe("a", 1));
    assert!(router.unsubscribe("a/+", 1));
    assert!(!router.unsubscribe("a/+", 1));
    assert_eq!(keys(&router.route("a/b")), [1]);
    assert_eq!(router.route("a/c").targets.len(), 0);
    assert_eq!(router.route("a/c").groups.len(), 1);
}

#[test]
fn overlapping_subscriptions_are_one_target() {
    let router = Router::new();
    let ask = |filter, qos, no_local, retain_as_published, subscription_id| {
        router.subscribe(filter, client(1), Options { qos, no_local, retain_as_published, subscription_id })
    };
    ask("a/#", 0, true, false, 5);
    ask("a/+", 2, true, false, 0);
    let route = router.route("a/b");
    assert_eq!(route.targets.len(), 1);
    let options = route.targets[0].options;
    assert_eq!((options.qos, options.no_local, options.retain_as_published), (2, true, false));
    assert_eq!(route.targets[0].terms(|| false).unwrap().subscription_ids, [5]);

    // The same identifier twice is sent twice; one subscription that allows its own messages is enough.
    ask("a/b", 1, false, true, 5);
    ask("+/b", 1, true, false, 9);
    let route = router.route("a/b");
    assert_eq!(route.targets.len(), 1);
    let target = &route.targets[0];
    let mut ids = target.terms(|| false).unwrap().subscription_ids.to_vec();
    ids.sort_unstable();
    assert_eq!(ids, [5, 5, 9]);
    assert_eq!((target.options.qos, target.options.no_local, target.options.retain_as_published), (2, false, true));
}

#[test]
fn a_large_list_that_overlaps_with_others_names_everybody_once() {
    let router = Router::new();
    for key in 0..500 {
        router.subscribe("a/b", client(key), qos(0));
    }
    for key in 490..600 {
        router.subscribe("a/+", client(key), qos(1));
    }
    for key in 595..610 {
        router.subscribe("#", client(key), qos(2));
    }
    let route = router.route("a/b");
    assert_eq!(keys(&route), (0..610).collect::<Vec<u64>>());
    for target in &route.targets {
        let expected = [0..490, 490..595, 595..610].iter().position(|range| range.contains(&target.subscriber.key()));
        assert_eq!(Some(usize::from(target.options.qos)), expected, "{target:?}");
    }
}

#[test]
fn the_version_tells_of_every_change_and_of_nothing_else() {
    let router = Router::new();
    let mut last = router.version();
    let mut changed = || {
        let now = router.version();
        let changed = now > last;
        assert!(now >= last);
        last = now;
        changed
    };
    router.subscribe("a", client(1), qos(0));
    assert!(changed());
    router.subscribe("a", client(1), qos(1));
    assert!(changed(), "replaced");
    router.route("a");
    router.stats();
    assert!(!changed(), "reading changes nothing");
    assert!(!router.unsubscribe("b", 1));
    assert!(!changed(), "there was nothing to remove");
    router.remove_all(1, &mut ["b", "c/#"].into_iter());
    assert!(!changed(), "nor here");
    assert!(router.unsubscribe("a", 1));
    assert!(changed());
    for filter in ["a", "b/+", "$share/g/a"] {
        router.subscribe(filter, client(1), qos(0));
    }
    let before = router.version();
    router.remove_all(1, &mut ["a", "none", "b/+", "$share/g/a"].into_iter());
    assert_eq!(router.version(), before + 1, "one change for all of them");
    assert_eq!(router.stats(), Stats::default());
}

#[test]
fn nodes_and_handles_go_with_the_last_subscription() {
    let router = Router::new();
    let one = client(1);
    for filter in ["a/b/c/d", "a/b/#", "a/+/c", "#", "$share/g/a/b/c/d", "$share/h/x/#"] {
        router.subscribe(filter, one.clone(), qos(0));
    }
    assert_eq!(router.stats(), Stats { subscriptions: 6, nodes: 7, groups: 2 });
    drop(router.route("a/b/c/d"));
    assert!(router.unsubscribe("a/b/c/d", 1));
    assert_eq!(router.stats().nodes, 7, "the group still needs them");
    assert!(router.unsubscribe("$share/g/a/b/c/d", 1));
    assert_eq!(router.stats(), Stats { subscriptions: 4, nodes: 5, groups: 1 });
    router.remove_all(1, &mut ["a/b/#", "a/+/c", "#", "$share/h/x/#"].into_iter());
    assert_eq!(router.stats(), Stats::default());
    assert_eq!(router.trie.read().count_nodes(), 0);
    assert_eq!(Arc::strong_count(&one.0), 1, "nobody else holds the subscriber");
}

#[test]
fn a_topic_as_deep_as_can_be_needs_no_stack() {
    let deep = "/".repeat(65_535);
    let router = router(&[(&deep, 1), ("#", 2)]);
    assert_eq!(router.stats().nodes, 65_536);
    assert_eq!(keys(&router.route(&deep)), [1, 2]);
    assert!(router.unsubscribe(&deep, 1));
    assert_eq!(router.stats().nodes, 0);
    router.subscribe(&deep, client(1), qos(0));
    drop(router);
}

#[test]
fn a_subscribe_that_has_returned_is_seen_by_a_later_publish() {
    let router = Arc::new(Router::new());
    let subscribed = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let publisher = {
        let (router, subscribed) = (Arc::clone(&router), Arc::clone(&subscribed));
        std::thread::spawn(move || {
            let mut cache = crate::router::RouteCache::new(4);
            loop {
                let done = subscribed.load(std::sync::atomic::Ordering::Acquire);
                let seen = cache.get(&router, "a").targets.len() as u64;
                assert!(seen >= done, "{done} had subscribed, {seen} were seen");
                if done == 2_000 {
                    return;
                }
            }
        })
    };
    for key in 1..=2_000 {
        router.subscribe("a", client(key), qos(0));
        subscribed.store(key, std::sync::atomic::Ordering::Release);
    }
    publisher.join().unwrap();
}
