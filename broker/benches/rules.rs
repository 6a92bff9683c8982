//! What a rule costs a message: `cargo bench -p forebay --bench rules`. A filter and a projection, as in docs/rules.md: the payload is
//! read, the condition asked, the topic and the payload of what is published are made. Nothing is published.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use forebay::config::{self, Overrides};
use forebay::message::Time;
use forebay::rules::{Judged, Message, Rule, Subject, Window};

const RULES: &str = r#"
[[rules]]
name = "projection"
filter = "sensors/+/temp"
where = "payload.t > 30"
topic = "alarms/{topic/2}"
payload = "{'t': payload.t, 'site': levels[1], 'max': 30}"

[[rules]]
name = "window"
filter = "sensors/+/temp"
topic = "minutes/{topic/2}"
payload = "{'n': count(), 'mean': mean(payload.t), 'max': max(payload.t)}"
window = "1min"
"#;

fn subject(payload: &str) -> Subject<'_> {
    let (topic, payload, properties) = ("sensors/7/temp", payload.as_bytes(), &[][..]);
    Subject { topic, payload, properties, qos: 1, retain: false, client: "device", user: None, now_ms: 0 }
}

fn judge(rule: &Rule, payload: &str) -> Judged {
    assert!(rule.is_for("sensors/7/temp"));
    rule.judge(&Message::new(subject(payload)), 128).unwrap()
}

fn rules(c: &mut Criterion) {
    let config = config::parse(RULES, Path::new("rules.toml"), &Overrides::default()).unwrap();
    let [projection, window] = &config.rules[..] else { unreachable!() };
    let mut group = c.benchmark_group("a message of a rule");
    group.throughput(Throughput::Elements(1));
    let (hot, cold) = (r#"{"t":31.5,"h":40,"unit":"C","seq":12345}"#, r#"{"t":21.5,"h":40,"unit":"C","seq":12345}"#);
    group.bench_function("filter and projection", |b| b.iter(|| judge(projection, black_box(hot))));
    group.bench_function("filter, not for it", |b| b.iter(|| judge(projection, black_box(cold))));
    group.bench_function("into a window", |b| {
        let mut open = Window::default();
        b.iter(|| {
            let Judged::Collect(entry) = judge(window, black_box(hot)) else { unreachable!() };
            open.add(window.window.as_ref().unwrap(), entry, Time(0), 0).unwrap();
        });
    });
    group.finish();
}

criterion_group!(benches, rules);
criterion_main!(benches);
