//! Topic filters: what is one, what it matches, and who is routed to, each held against the plainest code that says the
//! same. The input is text: lines of filters, the last of them topics.
#![no_main]

use std::collections::BTreeSet;

use forebay::router::{Limits, Options, Retained, Router, Subscriber};
use forebay_wire::topic;
use libfuzzer_sys::fuzz_target;

const LEVELS_MAX: usize = 12;
const TOPICS: usize = 2;

#[derive(Clone)]
struct Who(u64);

impl Subscriber for Who {
    fn key(&self) -> u64 {
        self.0
    }
}

/// A subscriber, the filter without its share, and whether it is shared.
type Subscription<'a> = (u64, &'a str, bool);

fuzz_target!(|text: &str| {
    let lines: Vec<&str> = text.split('\n').take(24).collect();
    let (filters, topics) = lines.split_at(lines.len().saturating_sub(TOPICS));
    for filter in filters {
        assert_eq!(topic::check_filter(filter, LEVELS_MAX).is_ok(), is_filter(filter), "{filter:?}");
    }
    let topics: Vec<&str> = topics.iter().copied().filter(|name| is_name(name)).collect();
    for line in &lines {
        assert_eq!(topic::check_name(line, LEVELS_MAX).is_ok(), is_name(line), "{line:?}");
    }
    let router = Router::<Who>::new();
    let mut subscribed: Vec<Subscription<'_>> = Vec::new();
    for (at, filter) in filters.iter().enumerate().filter(|(_, filter)| is_filter(filter)) {
        subscribed.push(subscribe(&router, at as u64 % 5, filter));
    }
    for name in &topics {
        check_route(&router, &subscribed, name);
        check_retained(&topics, filters);
    }
    // Half of them go again.
    for (at, filter) in filters.iter().enumerate().filter(|(_, filter)| is_filter(filter)) {
        if at % 2 == 0 {
            let (who, plain, shared) = parts(at as u64 % 5, filter);
            let is_it = |s: &Subscription<'_>| *s == (who, plain, shared);
            // Two groups of one filter are two subscriptions; this check tells them not apart, so it leaves them.
            if !shared {
                let was = subscribed.iter().any(is_it);
                assert_eq!(router.unsubscribe(filter, who), was, "{filter:?}");
                subscribed.retain(|s| !is_it(s));
            }
        }
    }
    for name in &topics {
        check_route(&router, &subscribed, name);
    }
});

fn subscribe<'a>(router: &Router<Who>, who: u64, filter: &'a str) -> Subscription<'a> {
    let options = Options { qos: 1, no_local: false, retain_as_published: false, subscription_id: 0 };
    router.subscribe(filter, Who(who), options);
    parts(who, filter)
}

fn parts(who: u64, filter: &str) -> Subscription<'_> {
    topic::split_share(filter).map_or((who, filter, false), |shared| (who, shared.filter, true))
}

fn check_route(router: &Router<Who>, subscribed: &[Subscription<'_>], name: &str) {
    let wanted = |share: bool| -> BTreeSet<u64> {
        let those = subscribed.iter().filter(|(_, filter, shared)| *shared == share && matches(filter, name));
        those.map(|(who, ..)| *who).collect()
    };
    let route = router.route(name);
    let targets: Vec<u64> = route.targets.iter().map(|target| target.subscriber.0).collect();
    let once: BTreeSet<u64> = targets.iter().copied().collect();
    assert_eq!(once.len(), targets.len(), "{name:?}: a subscriber is there twice");
    assert_eq!(once, wanted(false), "{name:?} {subscribed:?}");
    let members = route.groups.iter().flat_map(|group| group.members()).map(|member| member.subscriber.0);
    assert_eq!(members.collect::<BTreeSet<u64>>(), wanted(true), "{name:?} {subscribed:?}");
    for (_, filter, _) in subscribed {
        assert_eq!(topic::matches(filter, name), matches(filter, name), "{filter:?} {name:?}");
    }
}

fn check_retained(topics: &[&str], filters: &[&str]) {
    let mut retained = Retained::new(Limits { messages_max: 10, bytes_max: 1000, nodes_max: usize::MAX });
    for name in topics {
        let _ = retained.set(name, (), 1);
    }
    for filter in filters.iter().filter(|filter| is_filter(filter) && topic::split_share(filter).is_none()) {
        let mut found = Vec::new();
        retained.matching(filter, &mut |name, ()| found.push(name.to_owned()));
        found.sort();
        let wanted: BTreeSet<String> =
            topics.iter().filter(|name| matches(filter, name)).map(|name| (*name).to_owned()).collect();
        assert_eq!(found, wanted.into_iter().collect::<Vec<_>>(), "{filter:?} {topics:?}");
    }
    for name in topics {
        retained.remove(name);
    }
    assert_eq!((retained.len(), retained.bytes(), retained.nodes()), (0, 0, 0));
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(['+', '#', '\0']) && text.split('/').count() <= LEVELS_MAX
}

fn is_filter(text: &str) -> bool {
    let plain = match text.strip_prefix("$share/") {
        None => text,
        Some(rest) => match rest.split_once('/') {
            Some((name, filter)) if !name.is_empty() && !name.contains(['+', '#']) => filter,
            _ => return false,
        },
    };
    let levels: Vec<&str> = plain.split('/').collect();
    let fits = |(at, level): (usize, &&str)| match *level {
        "#" => at + 1 == levels.len(),
        "+" => true,
        other => !other.contains(['+', '#', '\0']),
    };
    !plain.is_empty() && levels.len() <= LEVELS_MAX && levels.iter().enumerate().all(fits)
}

/// Section 4.7, by recursion over the levels.
fn matches(filter: &str, name: &str) -> bool {
    fn rest(filter: &[&str], name: &[&str]) -> bool {
        match (filter, name) {
            (["#"], _) | ([], []) => true,
            (["+", filter @ ..], [_, name @ ..]) => rest(filter, name),
            ([level, filter @ ..], [first, name @ ..]) => level == first && rest(filter, name),
            ([], _) | (_, []) => false,
        }
    }
    let split = |text| -> Vec<&str> { str::split(text, '/').collect() };
    !(name.starts_with('$') && filter.starts_with(['+', '#'])) && rest(&split(filter), &split(name))
}
