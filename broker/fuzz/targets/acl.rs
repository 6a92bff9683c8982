//! ACL files, in mosquitto's syntax and in TOML: nothing panics, what no line allows is denied, and what is said of a subscription
//! is what is said of the messages that come of it. The first three lines of the input are who asks, and for what topic.
#![no_main]

use forebay::access::Principal;
use forebay::access::acl::{Acl, Action, Answer};
use forebay::access::rules::{Ask, Rules};
use forebay_wire::topic;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.splitn(4, '\n');
    let mut next = || lines.next().unwrap_or_default();
    let (user, client_id, asked, file) = (next(), next(), next(), next());
    let user = (!user.is_empty()).then(|| user.into());
    let who = Principal { user, client_id: client_id.into(), ..Principal::default() };
    if topic::check_name(asked, usize::MAX).is_err() {
        return;
    }
    if let Ok(acl) = Acl::parse(file) {
        check_acl(&acl, &who, asked);
    }
    if let Ok(rules) = Rules::parse(file) {
        check_rules(&rules, &who, asked);
    }
});

fn check_acl(acl: &Acl, who: &Principal, asked: &str) {
    let read = acl.check(who, Action::Read, asked);
    let write = acl.check(who, Action::Write, asked);
    let subscribe = acl.check_filter(who, asked);
    for answer in [read, write, subscribe] {
        deny_without_a_line(answer);
        assert!(!(answer.allowed && acl.is_empty()), "an empty file allows");
    }
    // Who subscribes to one topic gets its messages, or nothing.
    assert!(!read.allowed || subscribe.allowed, "{asked:?} may be read and not be subscribed to");
    assert!(!read.allowed || asked.starts_with('$') || acl.check_filter(who, "#").allowed, "{asked:?} and not #");
}

fn check_rules(rules: &Rules, who: &Principal, asked: &str) {
    for qos in 0..=2 {
        for retain in [false, true] {
            deny_without_a_line(rules.check(who, Ask::Publish { topic: asked, qos, retain }));
            deny_without_a_line(rules.check(who, Ask::Will { topic: asked, qos, retain }));
        }
    }
    deny_without_a_line(rules.check(who, Ask::Receive { topic: asked }));
    for filter in [asked, "#", "+/#"] {
        for shared in [false, true] {
            deny_without_a_line(rules.check(who, Ask::Subscribe { filter, shared }));
        }
    }
    // Without a rule about it everybody may connect.
    let _ = rules.check(who, Ask::Connect);
}

fn deny_without_a_line(answer: Answer) {
    assert!(!answer.allowed || answer.line.is_some(), "no line says so: {answer:?}");
}
