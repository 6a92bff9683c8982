//! Rules without a broker: what expressions are, what they cost, what they make of messages.
#![cfg(feature = "rules")]

use super::*;
use crate::message::Time;

fn expression(source: &str) -> Expression {
    Expression::read(source, &OF_MESSAGE).unwrap_or_else(|why| panic!("{source}: {why}"))
}

fn refused(source: &str) -> String {
    Expression::read(source, &OF_MESSAGE).expect_err(source)
}

fn subject<'a>(topic: &'a str, payload: &'a str) -> Subject<'a> {
    // A user property `site` with the value `7`.
    let properties = b"\x26\x00\x04site\x00\x017";
    let (payload, client, user) = (payload.as_bytes(), "device", Some("ann"));
    Subject { topic, payload, properties, qos: 1, retain: false, client, user, now_ms: 1_000 }
}

fn rule(filter: &str, topic: &str) -> Rule {
    Rule {
        name: "r".to_owned(),
        filter: filter.to_owned(),
        condition: None,
        topic: Template::parse(topic).unwrap(),
        payload: None,
        qos: None,
        retain: false,
        max_payload: 1_000,
        window: None,
    }
}

fn judge(rule: &Rule, topic: &str, payload: &str) -> Result<Judged, String> {
    rule.judge(&Message::new(subject(topic, payload)), 100).map_err(|failed| failed.0)
}

/// What an expression makes of a message.
fn made(source: &str, payload: &str) -> Result<String, String> {
    let rule = Rule { payload: Some(expression(source)), ..rule("#", "out") };
    match judge(&rule, "a/b/c", payload)? {
        Judged::Publish(derived) => Ok(String::from_utf8(derived.payload.unwrap()).unwrap()),
        other @ (Judged::No | Judged::Collect(_)) => panic!("{other:?}"),
    }
}

#[test]
fn expressions_know_what_a_message_has() {
    let payload = r#"{"t":31,"f":2.5,"s":"é","on":true,"none":null,"list":[1,[2]],"deep":{"er":{"x":1}},"a.b":3}"#;
    for (source, is) in [
        ("payload.t", "31"),
        ("payload.deep.er.x + 1", "2"),
        ("payload.deep.er", r#"{"x":1}"#),
        ("payload.list[1][0]", "2"),
        ("payload['a.b']", "3"),
        ("payload.s + '!'", "\"é!\""),
        ("payload.none", "null"),
        ("has(payload.t) && !has(payload.nope) && !has(payload.nope.x)", "true"),
        ("size(payload.list)", "2"),
        ("2 in [1, 2] && 't' in payload", "true"),
        ("topic + ' ' + levels[1]", "\"a/b/c b\""),
        ("size(levels)", "3"),
        ("size(text) > 10", "true"),
        ("text.split(',')[0].contains('31')", "true"),
        ("[qos, retain, client, user, now]", r#"[1,false,"device","ann",1000]"#),
        ("properties.site + properties['site']", "\"77\""),
        ("payload.t > 30 ? 'hot' : 'cold'", "\"hot\""),
        ("math.round(payload.f * 10) + math.abs(-3)", "28.0"),
        ("math.greatest(payload.t, payload.f)", "31"),
        ("type(payload.t) == int", "true"),
        ("{'z': payload.t, 'a': {'x': [payload.f]}}", r#"{"z":31,"a":{"x":[2.5]}}"#),
        ("payload.deep == {'er': {'x': 1}}", "true"),
        ("18446744073709551615u", "18446744073709551615"),
    ] {
        assert_eq!(made(source, payload).as_deref(), Ok(is), "{source}");
    }
    // The keys of an object that is not written as one are in order.
    let payload = r#"{"c":1,"a":2,"b":[{"z":1,"y":2}]}"#;
    assert_eq!(made("payload", payload).as_deref(), Ok(r#"{"a":2,"b":[{"y":2,"z":1}],"c":1}"#));
}

/// A sensor says 2 or 2.0, as it happens to be.
#[test]
fn whole_numbers_and_others_are_counted_together() {
    for (source, is) in [
        ("payload.i * 1.5", "3.0"),
        ("1.5 * payload.i", "3.0"),
        ("payload.f + 1", "3.5"),
        ("1 - payload.f", "-1.5"),
        ("payload.i / payload.f", "0.8"),
        ("payload.f > 2 && payload.i < 2.5 && payload.i == 2.0", "true"),
        ("7 / payload.i", "3"),
        ("7 % payload.i", "1"),
    ] {
        assert_eq!(made(source, r#"{"i":2,"f":2.5}"#).as_deref(), Ok(is), "{source}");
    }
}

#[test]
fn what_a_message_lacks_is_an_error() {
    for (source, payload, why) in [
        ("payload.t", "no JSON", "`payload`: the payload is no JSON"),
        ("payload.t", "", "`payload`: the payload is no JSON"),
        ("payload.x.y", r#"{"x":{}}"#, "`payload`: No such key: y"),
        ("payload.x + 1", r#"{"x":"1"}"#, "`payload`: Unsupported binary operator 'add'"),
        ("payload.x + 1", r#"{"x":null}"#, "`payload`: found no matching overload for '+'"),
        ("payload.x / 0", r#"{"x":1}"#, "`payload`: Division by zero"),
        ("payload.x * 9223372036854775807", r#"{"x":2}"#, "`payload`: Overflow"),
        ("payload.x / 0", r#"{"x":1.5}"#, "`payload`: is not a finite number"),
        ("payload.list[7]", r#"{"list":[]}"#, "`payload`: Index out of bounds"),
        ("properties.nope", "{}", "`payload`: No such key: nope"),
        ("{'a': type(1)}", "{}", "`payload`: is of the type type"),
        ("{1: 2}", "{}", "`payload`: has a key that is no text"),
    ] {
        let error = made(source, payload).expect_err(source);
        assert!(error.starts_with(why), "{source}: {error}");
    }
}

#[test]
fn what_is_wrong_with_an_expression_is_said_when_it_is_read() {
    let long = "1+".repeat(SOURCE_MAX / 2) + "1";
    let deep = format!("{}1{}", "(".repeat(400), ")".repeat(400));
    let chain = format!("1{}", "+1".repeat(200));
    for (source, why) in [
        ("", "is empty"),
        ("payload.", "is no expression: "),
        ("payload.t >", "is no expression: "),
        ("'open", "is no expression: "),
        ("paylod.t", "\"paylod\" is not known here: there are topic, levels, payload, text, qos"),
        ("nope(1)", "has no function nope(): there are size, int"),
        ("payload.nope(1)", "has no function nope()"),
        ("math.sin(1.0)", "has no function math.sin(): there are abs, ceil"),
        ("payload.l.map(x, x + x)", "has map(): rules have no loops"),
        ("payload.l.all(x, x > 1)", "has all(): rules have no loops"),
        ("[1, 2].exists(x, x > 1)", "has exists(): rules have no loops"),
        ("text.replace('a', text)", "has no function replace()"),
        ("payload.l.join(text)", "has no function join()"),
        ("mean(payload.t)", "has mean(), which is an aggregate"),
        ("has(payload)", "has has() of something else than a field"),
        ("has(nope.x)", "\"nope\" is not known here"),
        ("b'x'", "has bytes"),
        ("payload.?x", "is no expression: "),
        ("Thing{a: 1}", "is no expression"),
        ("{'a': 1, 'b': {'c': 1, 'c': 2}}", "has the key \"c\" twice in one object"),
        (&long, "has 1001 bytes; an expression has 1000 at most"),
        (&deep, "has more than 24 brackets or conditions"),
        (&chain, "is more than 64 levels deep"),
    ] {
        let error = refused(source);
        assert!(error.starts_with(why), "{source}: {error}");
    }
}

/// Whatever is written into a configuration: it is refused, or cannot take long.
#[test]
fn the_parser_survives_what_is_no_expression() {
    let pieces =
        ["(", ")", "[", "{", "}", "'", "\"", "!", "-", "?", ":", "payload", ".", "1", "1e999", "é", "\\", "in ", ","];
    let mut seed = 1_u64;
    for _ in 0..300 {
        let mut source = String::new();
        while source.len() < 60 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            source.push_str(pieces[usize::try_from(seed >> 33).unwrap() % pieces.len()]);
        }
        if let Ok(expression) = Expression::read(&source, &OF_MESSAGE) {
            let message = Message::new(subject("t", "{}"));
            let view = View { message: &message, max_payload: 10, trouble: OnceLock::new() };
            let _ = expression.json(&view, 1_000);
        }
    }
    for source in ["!".repeat(1_000), "-".repeat(1_000), "1?".repeat(500), "[".repeat(1_000), "a.".repeat(500)] {
        assert!(Expression::read(&source, &OF_MESSAGE).is_err());
    }
}

#[test]
fn a_rule_looks_at_no_more_than_it_may_and_makes_no_more() {
    let payload = format!(r#"{{"s":"{}"}}"#, "x".repeat(989));
    assert_eq!(payload.len(), 997);
    assert!(made("size(payload.s)", &payload).is_ok());
    let payload = format!(r#"{{"s":"{}"}}"#, "x".repeat(993));
    for source in ["size(payload.s)", "size(text)", "has(payload.s)"] {
        let error = made(source, &payload).expect_err(source);
        assert_eq!(error, "`payload`: the payload has 1001 bytes; the rule looks at 1000 (max_payload)", "{source}");
    }
    // What does not look at it takes it as it is.
    assert_eq!(judge(&rule("#", "out"), "t", &payload).map(|judged| judged != Judged::No), Ok(true));
    let sum = format!("[{}]", vec!["text"; 190].join(","));
    let large = Rule { payload: Some(expression(&sum)), max_payload: 1 << 20, ..rule("#", "out") };
    let error = judge(&large, "t", &"x".repeat(2_000)).unwrap_err();
    assert_eq!(error, format!("`payload`: has more than {RESULT_MAX} bytes"));
}

#[test]
fn a_rule_picks_messages_and_says_where_to() {
    let hot = Rule { condition: Some(expression("payload.t > 30.0")), ..rule("sensors/+/temp", "alarms/{topic/2}") };
    assert!(hot.is_for("sensors/7/temp") && !hot.is_for("sensors/7/hum") && !rule("#", "t").is_for("$SYS/x"));
    assert_eq!(judge(&hot, "sensors/7/temp", r#"{"t":30}"#), Ok(Judged::No));
    let derived = Derived { topic: "alarms/7".to_owned(), payload: None };
    assert_eq!(judge(&hot, "sensors/7/temp", r#"{"t":30.5}"#), Ok(Judged::Publish(derived)));
    let error = judge(&hot, "sensors/7/temp", r#"{"t":"x"}"#).unwrap_err();
    assert!(error.starts_with("`where`: "), "{error}");
    let number = Rule { condition: Some(expression("payload.t")), ..rule("#", "out") };
    assert_eq!(judge(&number, "t", r#"{"t":1}"#).unwrap_err(), "`where`: is of the type int, not true or false");
    for (template, topic, why) in [
        ("{topic/5}", "a/b", "`topic`: the message has no topic level 5"),
        ("{topic/2..}", "a/$SYS/x", "`topic`: \"$SYS/x\" begins with $"),
        ("{json.x}", "a", "`topic`: \"a/+\": "),
    ] {
        let error = judge(&rule("#", template), topic, r#"{"x":"a/+"}"#).unwrap_err();
        assert!(error.starts_with(why), "{template}: {error}");
    }
}

fn windowed(payload: &str, by: Option<&str>, max_keys: usize) -> Rule {
    let (payload, aggregates) =
        Expression::read_aggregates(payload, &OF_MESSAGE, &OF_WINDOW).unwrap_or_else(|why| panic!("{payload}: {why}"));
    let window = WindowRule { length: Duration::from_secs(60), by: by.map(expression), aggregates, max_keys };
    Rule { payload: Some(payload), window: Some(window), ..rule("sensors/#", "mean/{topic/2}") }
}

/// Gives messages to a rule's window.
fn collect(rule: &Rule, window: &mut Window, topic: &str, payload: &str, now: Time) -> Result<(), String> {
    match judge(rule, topic, payload)? {
        Judged::Collect(entry) => window.add(rule.window.as_ref().unwrap(), entry, now, 5).map_err(|failed| failed.0),
        other @ (Judged::No | Judged::Publish(_)) => panic!("{other:?}"),
    }
}

fn results(rule: &Rule, closed: Option<Closed>) -> Vec<(String, String)> {
    let results = closed.into_iter().flat_map(|closed| closed.results(rule, 9));
    let text = |result: Result<Derived, Failed>| {
        let derived = result.unwrap();
        (derived.topic, String::from_utf8(derived.payload.unwrap()).unwrap())
    };
    results.map(text).collect()
}

#[test]
fn a_window_counts_by_topic_and_key_until_it_closes() {
    let rule = windowed(
        "{'key': key, 'n': count(), 'mean': math.round(mean(payload.t)), 'range': max(payload.t) - min(payload.t), \
         'last': last(payload).t, 'from': [start, end]}",
        Some("payload.unit"),
        10,
    );
    let mut window = Window::default();
    assert!(window.close_at(Time(u64::MAX)).is_none(), "nothing is in it");
    for (sensor, t, unit) in [(7, "20", "C"), (8, "1.5", "C"), (7, "22.5", "C"), (7, "70", "F"), (7, "21", "C")] {
        let payload = format!(r#"{{"t":{t},"unit":"{unit}"}}"#);
        collect(&rule, &mut window, &format!("sensors/{sensor}"), &payload, Time(100_000)).unwrap();
    }
    assert!(window.close_at(Time(119_999)).is_none(), "windows of a minute close at whole minutes");
    let closed = window.close_at(Time(120_000));
    assert_eq!(closed.as_ref().map(|closed| closed.messages), Some(5));
    let all = results(&rule, closed);
    let is = [
        ("mean/7", r#"{"key":"C","n":3,"mean":21.0,"range":2.5,"last":21,"from":[5,9]}"#),
        ("mean/8", r#"{"key":"C","n":1,"mean":2.0,"range":0.0,"last":1.5,"from":[5,9]}"#),
        ("mean/7", r#"{"key":"F","n":1,"mean":70.0,"range":0,"last":70,"from":[5,9]}"#),
    ];
    assert_eq!(all, is.map(|(topic, payload)| (topic.to_owned(), payload.to_owned())));
    assert!(window.close().is_none(), "the next one is empty");
}

#[test]
fn a_window_has_so_many_keys() {
    let rule = windowed("count()", None, 2);
    let mut window = Window::default();
    for sensor in [1, 2, 1] {
        collect(&rule, &mut window, &format!("sensors/{sensor}"), "", Time(0)).unwrap();
    }
    let error = collect(&rule, &mut window, "sensors/3", "", Time(0)).unwrap_err();
    assert_eq!(error, "the window has figures of 2 keys, which is all (max_keys)");
    let all = results(&rule, window.close());
    assert_eq!(all, [("mean/1", "2"), ("mean/2", "1")].map(|(topic, n)| (topic.to_owned(), n.to_owned())));
    collect(&rule, &mut window, "sensors/3", "", Time(0)).unwrap();
}

#[test]
fn what_does_not_fit_into_a_window_is_an_error() {
    let mut window = Window::default();
    let rule = windowed("max(payload.t)", None, 2);
    let error = collect(&rule, &mut window, "sensors/1", r#"{"t":"hot"}"#, Time(0)).unwrap_err();
    assert_eq!(error, "`payload`: max() is of numbers, and this is \"hot\"");
    let rule = Rule { max_payload: 2_000, ..windowed("last(text)", Some("text"), 2) };
    let error = collect(&rule, &mut window, "sensors/1", &"x".repeat(KEPT_MAX), Time(0)).unwrap_err();
    assert_eq!(error, format!("`by`: has more than {KEPT_MAX} bytes"));
    let rule = windowed("count()", None, 2);
    let error = collect(&rule, &mut window, &format!("sensors/{}", "x".repeat(KEPT_MAX)), "", Time(0)).unwrap_err();
    assert_eq!(error, "`topic`: has 1029 bytes; that of a window has 1024 at most");
    assert!(window.close().is_none(), "nothing of it is counted");
}

#[test]
fn what_is_wrong_with_aggregates_is_said_when_they_are_read() {
    for (source, why) in [
        ("count(payload)", "has count(...), which takes nothing"),
        ("mean()", "has mean() of other than one value"),
        ("mean(payload.a, payload.b)", "has mean() of other than one value"),
        ("mean(paylod.t)", "\"paylod\" is not known here: there are topic"),
        ("mean(count())", "has count(), which is an aggregate"),
        (
            "mean(payload.t) + payload.t",
            "\"payload\" is not known here: there are key, start, end, now; what a message has stands",
        ),
        ("nope(count())", "has no function nope()"),
        (&vec!["count()"; 17].join("+"), "has 17 aggregates; a window has 16 at most"),
    ] {
        let error = Expression::read_aggregates(source, &OF_MESSAGE, &OF_WINDOW).expect_err(source);
        assert!(error.starts_with(why), "{source}: {error}");
    }
}
