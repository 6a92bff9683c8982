//! What a route costs: `cargo bench -p forebay --bench router`.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use forebay::router::{Limits, Options, Readiness, Retained, RouteCache, Router, Subscriber};

#[derive(Clone)]
struct Client(Arc<u64>);

impl Subscriber for Client {
    fn key(&self) -> u64 {
        *self.0
    }
}

const OPTIONS: Options = Options { qos: 1, no_local: false, retain_as_published: false, subscription_id: 0 };
const SIZES: [u64; 3] = [1, 1_000, 100_000];

fn client(key: u64) -> Client {
    Client(Arc::new(key))
}

/// 32 bytes, each with its own device.
fn topic(device: u64) -> String {
    format!("site/north/device/{device:06}/sensor")
}

/// One filter for each device, and two with wildcards that nobody's topic matches.
fn devices(count: u64) -> Router<Client> {
    let router = Router::new();
    for device in 0..count {
        router.subscribe(&topic(device), client(device), OPTIONS);
    }
    router.subscribe("site/+/device/+/alarm", client(count), OPTIONS);
    router.subscribe("site/south/#", client(count), OPTIONS);
    router
}

fn routes(c: &mut Criterion) {
    let mut group = c.benchmark_group("route");
    for count in SIZES {
        let router = devices(count);
        let topics: Vec<String> = (0..count.min(512)).map(|n| topic(n * count / count.min(512))).collect();
        let mut turn = topics.iter().cycle();
        group.bench_function(BenchmarkId::new("one of n filters", count), |b| {
            b.iter(|| router.route(black_box(turn.next().map_or("", String::as_str))));
        });
        group.bench_function(BenchmarkId::new("nobody among n filters", count), |b| {
            b.iter(|| router.route(black_box("site/north/device/none/sensor/x")));
        });
        let shared = Router::new();
        for key in 0..count {
            shared.subscribe("site/#", client(key), OPTIONS);
        }
        group.bench_function(BenchmarkId::new("n subscribers of one filter", count), |b| {
            b.iter(|| shared.route(black_box("site/north")));
        });
        shared.subscribe("site/north", client(0), OPTIONS);
        group.bench_function(BenchmarkId::new("n subscribers, one overlaps", count), |b| {
            b.iter(|| shared.route(black_box("site/north")));
        });
    }
    group.finish();
}

fn cache(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache");
    let router = devices(1_000);
    let mut cache = RouteCache::default();
    let one = topic(7);
    group.bench_function("hit, one topic", |b| b.iter(|| cache.get(&router, black_box(&one)).targets.len()));
    group.bench_function("hit, one topic, cloned", |b| b.iter(|| Arc::clone(cache.get(&router, black_box(&one)))));
    let topics: Vec<String> = (0..100).map(topic).collect();
    let mut turn = topics.iter().cycle();
    group.bench_function("100 topics in turn", |b| {
        b.iter(|| cache.get(&router, black_box(turn.next().map_or("", String::as_str))).targets.len());
    });
    group.bench_function("after a change", |b| {
        b.iter(|| {
            router.subscribe("other", client(1), OPTIONS);
            cache.get(&router, black_box(&one)).targets.len()
        });
    });
    group.finish();
}

fn changes(c: &mut Criterion) {
    let mut group = c.benchmark_group("subscribe and unsubscribe");
    for count in SIZES {
        let router = devices(count);
        let new = topic(999_999);
        let me = client(count + 1);
        group.bench_function(BenchmarkId::new("own filter beside n", count), |b| {
            b.iter(|| {
                router.subscribe(black_box(&new), me.clone(), OPTIONS);
                router.unsubscribe(&new, count + 1)
            });
        });
        for filter in ["site/#", "$share/g/site/#"] {
            let router = Router::new();
            for key in 0..count {
                router.subscribe(filter, client(key), OPTIONS);
            }
            group.bench_function(BenchmarkId::new(format!("joining n on {filter}"), count), |b| {
                b.iter(|| {
                    router.subscribe(black_box(filter), me.clone(), OPTIONS);
                    router.unsubscribe(filter, count + 1)
                });
            });
        }
    }
    group.sample_size(10);
    group.bench_function("100,000 filters, all", |b| {
        b.iter_batched(|| (), |()| devices(100_000), BatchSize::PerIteration);
    });
    group.finish();
}

fn shared(c: &mut Criterion) {
    let router = Router::new();
    for key in 0..100 {
        router.subscribe("$share/g/site/#", client(key), OPTIONS);
    }
    let route = router.route("site/north");
    let Some(group) = route.groups.first() else { return };
    c.bench_function("pick one of 100, all ready", |b| {
        b.iter(|| group.pick(|_| Readiness::Ready).map(|target| target.subscriber.key()));
    });
    c.bench_function("pick one of 100, one ready", |b| {
        let usable = |member: &Client| if member.key() == 50 { Readiness::Ready } else { Readiness::Offline };
        b.iter(|| group.pick(usable).map(|target| target.subscriber.key()));
    });
}

fn retained(c: &mut Criterion) {
    let mut group = c.benchmark_group("retained, 100,000 topics");
    let mut retained = Retained::new(Limits { messages_max: 1_000_000, bytes_max: usize::MAX, nodes_max: usize::MAX });
    for device in 0..100_000 {
        let site = device / 100;
        if retained.set(&format!("site/{site:03}/device/{device:06}/sensor"), device, 64).is_err() {
            return;
        }
    }
    for (name, filter) in [
        ("one topic", "site/007/device/000742/sensor"),
        ("100 of one site, +", "site/007/device/+/sensor"),
        ("100 of one site, #", "site/007/#"),
        ("all", "#"),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut sum = 0u64;
                retained.matching(black_box(filter), &mut |_, message| sum += message);
                sum
            });
        });
    }
    let topic = "site/007/device/000742/sensor";
    group.bench_function("set in place", |b| b.iter(|| retained.set(black_box(topic), 742, 64).is_ok()));
    group.bench_function("set and remove a new topic", |b| {
        b.iter(|| {
            let set = retained.set(black_box("site/007/device/new/sensor"), 1, 64);
            (set.is_ok(), retained.remove("site/007/device/new/sensor"))
        });
    });
    group.finish();
}

criterion_group!(benches, routes, cache, changes, shared, retained);
criterion_main!(benches);
