//! The description of the API is held against its real answers.

use forebay_tests::broker::free_port;
use serde_json::Value;

use crate::Site;

/// What of `value` is not as `schema` says: the keywords that the description uses, and no others.
fn complaints(schema: &Value, value: &Value, root: &Value, at: &str, out: &mut Vec<String>) {
    let schema = match schema["$ref"].as_str() {
        Some(to) => root.pointer(to.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    for keyword in schema.as_object().unwrap().keys() {
        let known =
            ["type", "description", "properties", "required", "additionalProperties", "items", "anyOf", "minimum"];
        assert!(known.contains(&keyword.as_str()), "{at}: this test does not know {keyword}");
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let fits = |schema: &Value| {
            let mut found = Vec::new();
            complaints(schema, value, root, at, &mut found);
            found.is_empty()
        };
        if !any.iter().any(fits) {
            out.push(format!("{at}: {value} is none of {any:?}"));
        }
        return;
    }
    let is = match schema["type"].as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.as_u64().is_some(),
        other => panic!("{at}: this test does not know the type {other}"),
    };
    if !is {
        out.push(format!("{at}: {value} is no {}", schema["type"]));
        return;
    }
    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
        complaints(&schema["items"], item, root, &format!("{at}[{n}]"), out);
    }
    let Some(object) = value.as_object() else { return };
    for name in schema["required"].as_array().unwrap() {
        if !object.contains_key(name.as_str().unwrap()) {
            out.push(format!("{at}: {name} is missing"));
        }
    }
    for (name, value) in object {
        match schema["properties"].get(name) {
            Some(schema) => complaints(schema, value, root, &format!("{at}.{name}"), out),
            None => out.push(format!("{at}: {name} is not described")),
        }
    }
}

#[test]
fn every_answer_is_as_it_is_described() {
    // Nobody is there: its bridge is never connected.
    let bridge = format!("name = \"up\"\nurl = \"mqtt://127.0.0.1:{}\"", free_port());
    let queue = "[[queues]]\nname = \"jobs\"\nfilter = \"job/#\"";
    let site = Site::start(&format!("{queue}\n[[bridges]]\n{bridge}\n[[bridges.out]]\nfilter = \"up/#\""), "");
    let socket = site.socket();
    let mut here = site.subscriber("here", "t/#");
    site.subscriber("away", "t/#").leave();
    let mut publisher = site.publisher();
    publisher.publish(1, "t/1", b"text");
    publisher.publish(2, "t/2", &[0xff]);
    here.message();
    assert_eq!(socket.ask("PUT", "/api/retained/t%2F3", &[], b"kept").status, 200);
    for number in [5, 6] {
        publisher.publish(number, "$delayed/1000/later", b"x");
    }
    let delayed = socket.get("/api/delayed").json();
    let keys = [0, 1].map(|at| delayed["delayed"][at]["key"].as_str().unwrap().to_owned());
    let description = site.http().get("/api/openapi.json").json();
    assert_eq!(description["openapi"], "3.1.0");
    let mut asked = 0;
    let mut changes = Vec::new();
    for (path, operations) in description["paths"].as_object().unwrap() {
        let mut real = path.replace("{client}", "away").replace("{topic}", "t%2F3").replace("{queue}", "jobs");
        real = real.replace("{key}", &keys[usize::from(path.ends_with("/move"))]);
        real = real.replace("{address}", "192.0.2.1").replace("{bridge}", "up");
        if path == "/api/store/backup" {
            real.push_str(&format!("?to={}/copy.redb", site.broker.data().display()));
        }
        if path == "/api/why" {
            real.push_str("?client=away&topic=t/1");
        }
        if path == "/api/access/test" {
            real.push_str("?action=publish&topic=t/1");
        }
        // This broker has no dynamic security; tests/access asks one that has.
        if path == "/api/access/dynamic" {
            check(
                &socket.ask("POST", &real, &[], b"{}"),
                409,
                &description["components"]["schemas"]["Failure"],
                &description,
                &real,
            );
            continue;
        }
        for (method, operation) in operations.as_object().unwrap() {
            let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
            if method == "get" {
                check(&socket.get(&real), 200, schema, &description, &real);
                asked += 1;
            } else {
                changes.push((method.to_uppercase(), path.clone(), real.clone(), schema.clone()));
            }
        }
    }
    assert!(asked >= 12, "{asked} answers");
    let failure = &description["components"]["schemas"]["Failure"];
    check(&socket.get("/api/sessions/nobody"), 404, failure, &description, "nobody");
    check(&socket.get("/api/sessions?limit=0"), 400, failure, &description, "limit=0");
    // What changes something, the end last.
    changes.sort_by_key(|(method, path, ..)| (path == "/api/shutdown", method == "DELETE"));
    for (method, path, real, schema) in changes {
        let real = if path.ends_with("/kick") { real.replace("away", "here") } else { real };
        let query = match (&*method, &*path) {
            ("PUT", "/api/log") => "?level=debug",
            (_, path) if path.ends_with("/move") => "?after_s=5",
            ("PUT", "/api/log/client") => "?client=here&for_s=60",
            _ => "",
        };
        let body: &[u8] = if method == "PUT" && query.is_empty() { b"x" } else { b"" };
        let real = format!("{real}{query}");
        check(&socket.ask(&method, &real, &[], body), 200, &schema, &description, &real);
    }
}

fn check(answer: &forebay_tests::http::Answer, status: u16, schema: &Value, root: &Value, what: &str) {
    assert_eq!(answer.status, status, "{what}: {}", answer.body);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let mut found = Vec::new();
    complaints(schema, &answer.json(), root, what, &mut found);
    assert_eq!(found, Vec::<String>::new());
}
