//! The router against the naive matcher, by seed.

use std::collections::{BTreeMap, BTreeSet};

use super::naive::{Random, beginnings, matches};
use super::*;
use crate::router::{RouteCache, Stats};

type Asked = (u8, bool, bool, Vec<u32>);

/// Every subscription, by filter and key.
#[derive(Default)]
struct Model(BTreeMap<(String, u64), Options>);

fn split(filter: &str) -> (Option<&str>, &str) {
    let shared = filter.strip_prefix("$share/").map(|rest| rest.split_once('/').unwrap());
    shared.map_or((None, filter), |(name, filter)| (Some(name), filter))
}

fn ids(options: Options) -> Vec<u32> {
    [options.subscription_id].into_iter().filter(|id| *id != 0).collect()
}

impl Model {
    /// `own`: for messages of the subscriber's own.
    fn targets(&self, topic: &str, own: bool) -> BTreeMap<u64, Asked> {
        let mut targets: BTreeMap<u64, Asked> = BTreeMap::new();
        for ((filter, key), options) in &self.0 {
            if split(filter).0.is_some() || !matches(filter, topic) || own && options.no_local {
                continue;
            }
            let target = targets.entry(*key).or_insert((0, true, false, Vec::new()));
            target.0 = target.0.max(options.qos);
            target.1 = target.1 && options.no_local;
            target.2 = target.2 || options.retain_as_published;
            target.3.extend(ids(*options));
            target.3.sort_unstable();
        }
        targets
    }

    fn groups(&self, topic: &str) -> BTreeMap<(String, String), BTreeMap<u64, Asked>> {
        let mut groups: BTreeMap<(String, String), BTreeMap<u64, Asked>> = BTreeMap::new();
        for ((whole, key), options) in &self.0 {
            if let (Some(name), filter) = split(whole)
                && matches(filter, topic)
            {
                let asked = (options.qos, options.no_local, options.retain_as_published, ids(*options));
                groups.entry((name.to_owned(), filter.to_owned())).or_default().insert(*key, asked);
            }
        }
        groups
    }

    fn stats(&self) -> Stats {
        let groups: BTreeSet<&str> =
            self.0.keys().map(|(filter, _)| filter.as_str()).filter(|filter| split(filter).0.is_some()).collect();
        Stats {
            subscriptions: self.0.len(),
            nodes: beginnings(self.0.keys().map(|(filter, _)| split(filter).1)),
            groups: groups.len(),
        }
    }
}

fn asked(target: &crate::router::Target<Client>) -> Asked {
    asked_for(target, false).unwrap()
}

fn asked_for(target: &crate::router::Target<Client>, own: bool) -> Option<Asked> {
    let terms = target.terms(|| own)?;
    let mut ids = terms.subscription_ids.to_vec();
    ids.sort_unstable();
    Some((terms.options.qos, terms.options.no_local, terms.options.retain_as_published, ids))
}

fn check(route: &Route<Client>, model: &Model, topic: &str, seed: u64) {
    let targets: BTreeMap<u64, Asked> =
        route.targets.iter().map(|target| (target.subscriber.key(), asked(target))).collect();
    assert_eq!(targets.len(), route.targets.len(), "seed {seed}, {topic:?}: somebody is there twice");
    assert_eq!(targets, model.targets(topic, false), "seed {seed}, {topic:?}");
    let own = route.targets.iter().filter_map(|target| Some((target.subscriber.key(), asked_for(target, true)?)));
    assert_eq!(own.collect::<BTreeMap<_, _>>(), model.targets(topic, true), "seed {seed}, {topic:?}, one's own");
    let groups: BTreeMap<(String, String), BTreeMap<u64, Asked>> = route
        .groups
        .iter()
        .map(|group| {
            let members = group.members().iter().map(|target| (target.subscriber.key(), asked(target))).collect();
            ((group.name.to_string(), group.filter.to_string()), members)
        })
        .collect();
    assert_eq!(groups.len(), route.groups.len(), "seed {seed}, {topic:?}: a group is there twice");
    assert_eq!(groups, model.groups(topic), "seed {seed}, {topic:?}");
}

fn check_some(router: &Router<Client>, cache: &mut RouteCache<Client>, model: &Model, random: &mut Random, seed: u64) {
    let wide = seed % 2 == 1;
    for _ in 0..6 {
        let topic = random.topic(wide);
        check(&router.route(&topic), model, &topic, seed);
        check(cache.get(router, &topic), model, &topic, seed);
    }
}

fn step(router: &Router<Client>, model: &mut Model, random: &mut Random, seed: u64, growing: bool) {
    let wide = seed % 2 == 1;
    if random.one_in(4) != growing {
        let mut filter = random.filter(wide);
        if random.one_in(4) {
            filter = format!("$share/g{}/{filter}", random.below(3));
        }
        let key = random.below(30);
        let bits = random.next();
        let options = Options {
            qos: (bits % 3) as u8,
            no_local: bits & 0x100 != 0,
            retain_as_published: bits & 0x200 != 0,
            subscription_id: (bits >> 32) as u32 % 4,
        };
        let known = model.0.insert((filter.clone(), key), options).is_some();
        assert_eq!(router.subscribe(&filter, client(key), options), known, "seed {seed}, subscribe {filter:?} {key}");
    } else if random.one_in(50) {
        // Everything of one client, and some filters that it does not have.
        let key = random.below(30);
        let mut filters: Vec<String> = model.0.keys().filter(|(_, k)| *k == key).map(|(f, _)| f.clone()).collect();
        filters.push(random.filter(wide));
        router.remove_all(key, &mut filters.iter().map(String::as_str));
        model.0.retain(|(_, k), _| *k != key);
    } else {
        // Mostly one that is there.
        let at = random.below(model.0.len() as u64 + 1) as usize;
        let (filter, key) = model.0.keys().nth(at).cloned().unwrap_or_else(|| (random.filter(wide), random.below(30)));
        let known = model.0.remove(&(filter.clone(), key)).is_some();
        assert_eq!(router.unsubscribe(&filter, key), known, "seed {seed}, unsubscribe {filter:?} {key}");
    }
}

#[test]
fn the_router_agrees_with_the_naive_matcher() {
    for seed in 0..24 {
        let mut random = Random(seed);
        let router = Router::new();
        let mut cache = RouteCache::new(32);
        let mut model = Model::default();
        let mut most = 0;
        for round in 0..1_200 {
            step(&router, &mut model, &mut random, seed, round < 700);
            most = most.max(model.0.len());
            if round % 20 == 0 {
                check_some(&router, &mut cache, &model, &mut random, seed);
                assert_eq!(router.stats(), model.stats(), "seed {seed}, round {round}");
                assert_eq!(router.trie.read().count_nodes(), router.stats().nodes, "seed {seed}, round {round}");
            }
        }
        assert!(most > 200, "seed {seed}: the run was to have something to look at");
        for (filter, key) in model.0.keys() {
            assert!(router.unsubscribe(filter, *key), "seed {seed}, {filter:?} {key}");
        }
        assert_eq!(router.stats(), Stats::default(), "seed {seed}");
        assert_eq!(router.trie.read().count_nodes(), 0, "seed {seed}");
    }
}
