use super::*;
use crate::router::{CACHED_TARGETS_MAX, CACHED_TOPIC_BYTES_MAX, RouteCache};

#[test]
fn a_repeated_topic_is_answered_from_the_cache() {
    let router = router(&[("a/+", 1)]);
    let mut cache = RouteCache::default();
    let first = Arc::clone(cache.get(&router, "a/b"));
    assert_eq!(keys(&first), [1]);
    assert!(Arc::ptr_eq(&first, cache.get(&router, "a/b")));
    assert!(cache.get(&router, "b").is_empty());
    assert_eq!(keys(cache.get(&router, "a/b")), [1]);
}

#[test]
fn a_change_of_the_router_is_seen_and_lets_go_of_subscribers() {
    let router = Router::new();
    let one = client(1);
    router.subscribe("a/+", one.clone(), qos(0));
    let mut cache = RouteCache::default();
    for topic in ["a/b", "a/c", "a/d"] {
        assert_eq!(keys(cache.get(&router, topic)), [1]);
    }
    assert!(router.unsubscribe("a/+", 1));
    assert!(cache.get(&router, "a/b").is_empty());
    assert_eq!(Arc::strong_count(&one.0), 1, "all entries were forgotten, not only the one asked for");
}

#[test]
fn clear_lets_go_at_once() {
    let router = Router::new();
    let one = client(1);
    let long = "x".repeat(CACHED_TOPIC_BYTES_MAX + 1);
    router.subscribe("#", one.clone(), qos(0));
    let mut cache = RouteCache::new(8);
    cache.get(&router, "a");
    cache.get(&router, &long);
    assert_eq!(Arc::strong_count(&one.0), 4, "mine, the router's, the entry's, the last long topic's");
    cache.clear();
    assert_eq!(Arc::strong_count(&one.0), 2);
    assert_eq!(keys(cache.get(&router, "a")), [1]);
}

#[test]
fn topics_that_share_a_place_do_not_share_a_route() {
    let router = Router::new();
    for key in 0..100 {
        router.subscribe(&format!("t/{key}"), client(key), qos(0));
    }
    for entries in [0, 1, 3, 64] {
        let mut cache = RouteCache::new(entries);
        for round in 0..3 {
            for key in 0..100 {
                assert_eq!(keys(cache.get(&router, &format!("t/{key}"))), [key], "round {round}, {entries} entries");
            }
        }
    }
}

#[test]
fn a_long_topic_is_routed_and_not_kept() {
    let router = router(&[("#", 1)]);
    let mut cache = RouteCache::new(16);
    let kept = "x".repeat(CACHED_TOPIC_BYTES_MAX);
    let first = Arc::clone(cache.get(&router, &kept));
    assert!(Arc::ptr_eq(&first, cache.get(&router, &kept)));
    let long = "x".repeat(CACHED_TOPIC_BYTES_MAX + 1);
    let first = Arc::clone(cache.get(&router, &long));
    assert_eq!(keys(&first), [1]);
    assert!(!Arc::ptr_eq(&first, cache.get(&router, &long)));
}

#[test]
fn kept_targets_are_bounded() {
    let router = Router::new();
    let one = client(1);
    let many = CACHED_TARGETS_MAX as u64 / 4;
    for key in 0..many {
        router.subscribe("#", client(key + 10), qos(0));
    }
    router.subscribe("#", one.clone(), qos(0));
    // So many places that topics do not take each other's: hashes are seeded anew in each run.
    let mut cache = RouteCache::new(1 << 20);
    let mut most = 0;
    for topic in 0..20 {
        assert_eq!(cache.get(&router, &topic.to_string()).targets.len() as u64, many + 1);
        most = most.max(Arc::strong_count(&one.0));
    }
    assert_eq!(most, 5, "mine, the router's, and three routes: a fourth would go past the limit");
}

#[test]
fn one_route_beyond_the_limit_is_kept_alone() {
    let router = Router::new();
    for key in 0..=CACHED_TARGETS_MAX as u64 {
        router.subscribe("#", client(key), qos(0));
    }
    let mut cache = RouteCache::new(64);
    let first = Arc::clone(cache.get(&router, "a"));
    assert_eq!(first.targets.len(), CACHED_TARGETS_MAX + 1);
    assert!(Arc::ptr_eq(&first, cache.get(&router, "a")));
    cache.get(&router, "b");
    assert_eq!(Arc::strong_count(&first), 1, "the other took its place");
}

/// What the documentation of `RouteCache` and the design's memory figures count on.
#[cfg(target_pointer_width = "64")]
#[test]
fn targets_and_options_are_small() {
    assert_eq!(size_of::<crate::router::Target<Client>>(), 24);
    assert_eq!(size_of::<Options>(), 8);
}

/// What a route costs is known to who asked for it: many filters that look alike, and nothing once it is remembered.
#[test]
fn what_was_looked_at_is_counted() {
    let router = Router::new();
    for bits in 0..64 {
        let levels: Vec<&str> = (0..6).map(|level| if bits >> level & 1 == 0 { "a" } else { "+" }).collect();
        router.subscribe(&levels.join("/"), client(1), qos(0));
    }
    let mut cache = RouteCache::new(64);
    cache.get(&router, "b/a");
    assert_eq!(cache.take_visited(), 4, "the root, `+`, `+/a` and `+/+`");
    cache.get(&router, "a/a/a/a/a/a");
    assert_eq!(cache.take_visited(), 127);
    cache.get(&router, "a/a/a/a/a/a");
    assert_eq!(cache.take_visited(), 0);
}
