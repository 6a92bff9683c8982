#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::{Value, json};

use super::commands::Work;
use super::*;
use crate::access::principal::who;
use crate::store::KeyedChange;

fn run(work: &mut Work, name: &str, arguments: Value) -> Result<Option<Value>, String> {
    let mut command = arguments;
    command["command"] = json!(name);
    work.run(&command)
}

#[track_caller]
fn done(work: &mut Work, name: &str, arguments: Value) {
    assert_eq!(run(work, name, arguments), Ok(None), "{name}");
}

fn asked(work: &mut Work, name: &str, arguments: Value) -> Value {
    run(work, name, arguments).unwrap().unwrap()
}

fn publish(topic: &str) -> Ask<'_> {
    Ask::Publish { topic, qos: 0, retain: false }
}

/// Two roles, a group with one of them, two clients.
fn site() -> Work {
    let mut work = Work::new(State::default());
    let acls = json!([
        {"acltype": "publishClientSend", "topic": "data/%u/#", "allow": true},
        {"acltype": "publishClientSend", "topic": "data/+/secret", "allow": false, "priority": 5},
        {"acltype": "subscribePattern", "topic": "commands/%c/#", "allow": true},
        {"acltype": "subscribeLiteral", "topic": "all/#", "allow": true},
    ]);
    done(&mut work, "createRole", json!({"rolename": "device", "acls": acls}));
    done(&mut work, "createRole", json!({"rolename": "locked"}));
    done(
        &mut work,
        "addRoleACL",
        json!({"rolename": "locked", "acltype": "publishClientSend", "topic": "#", "allow": false}),
    );
    done(&mut work, "createGroup", json!({"groupname": "pumps", "roles": [{"rolename": "device"}]}));
    done(&mut work, "createClient", json!({"username": "pump", "password": "p", "groups": [{"groupname": "pumps"}]}));
    done(&mut work, "createClient", json!({"username": "valve", "clientid": "v1", "textname": "A valve"}));
    work
}

#[test]
fn roles_decide_by_priority_and_defaults_after_them() {
    let mut work = site();
    let pump = who(Some("pump"), "c");
    let check = |work: &Work, ask| work.state.check(&pump, ask);
    let subscribe = |filter| Ask::Subscribe { filter, shared: false };
    assert_eq!(check(&work, publish("data/pump/x")), Some(true));
    assert_eq!(check(&work, publish("data/pump/secret")), Some(false));
    assert_eq!(check(&work, publish("data/valve/x")), None);
    assert_eq!(check(&work, subscribe("commands/c/+")), Some(true));
    assert_eq!(check(&work, subscribe("all/#")), Some(true));
    assert_eq!(check(&work, subscribe("all/x")), None, "literal");
    assert_eq!(check(&work, Ask::Receive { topic: "anything" }), Some(true), "the default");
    assert_eq!(check(&work, Ask::Receive { topic: "$CONTROL/x" }), None);
    done(&mut work, "setDefaultACLAccess", json!({"acls": [{"acltype": "publishClientSend", "allow": true}]}));
    assert_eq!(check(&work, publish("other")), Some(true));
    assert_eq!(check(&work, publish("$CONTROL/dynamic-security/v1")), None, "never by default");
    // A client's own role is before those of its groups.
    done(&mut work, "addClientRole", json!({"username": "pump", "rolename": "locked", "priority": -5}));
    assert_eq!(check(&work, publish("data/pump/x")), Some(false));
    done(&mut work, "removeClientRole", json!({"username": "pump", "rolename": "locked"}));
    done(&mut work, "addGroupRole", json!({"groupname": "pumps", "rolename": "locked", "priority": 9}));
    assert_eq!(check(&work, publish("data/pump/x")), Some(false));
    done(&mut work, "removeGroupRole", json!({"groupname": "pumps", "rolename": "locked"}));
    done(&mut work, "setAnonymousGroup", json!({"groupname": "pumps"}));
    assert_eq!(work.state.check(&who(None, "c"), subscribe("commands/c/x")), Some(true));
    assert_eq!(work.state.check(&who(Some("nobody"), "c"), subscribe("commands/c/x")), None);
}

#[test]
fn answers_are_mosquittos() {
    let mut work = site();
    let client = asked(&mut work, "getClient", json!({"username": "valve"}));
    assert_eq!(
        client,
        json!({"client": {"username": "valve", "clientid": "v1", "textname": "A valve", "roles": [], "groups": []}})
    );
    let names = asked(&mut work, "listClients", json!({"count": 1, "offset": 1}));
    assert_eq!(names, json!({"totalCount": 2, "clients": ["valve"]}));
    let group = asked(&mut work, "listGroups", json!({"verbose": true}));
    let expected = json!({"groupname": "pumps", "roles": [{"rolename": "device"}], "clients": [{"username": "pump"}]});
    assert_eq!(group, json!({"totalCount": 1, "groups": [expected]}));
    let role = asked(&mut work, "getRole", json!({"rolename": "locked"}));
    let acl = json!({"acltype": "publishClientSend", "topic": "#", "priority": 0, "allow": false});
    assert_eq!(role, json!({"role": {"rolename": "locked", "acls": [acl]}}));
    let defaults = asked(&mut work, "getDefaultACLAccess", json!({}));
    assert_eq!(defaults["acls"][0], json!({"acltype": "publishClientSend", "allow": false}));
    assert!(!format!("{}", asked(&mut work, "listClients", json!({"verbose": true}))).contains("argon2"));
    for (name, arguments, why) in [
        ("createClient", json!({"username": "pump"}), "Client already exists"),
        ("createClient", json!({}), "Invalid/missing username"),
        ("createClient", json!({"username": "x", "roles": [{"rolename": "none"}]}), "Role not found"),
        ("deleteClient", json!({"username": "x"}), "Client not found"),
        ("createGroup", json!({"groupname": "pumps"}), "Group already exists"),
        ("addGroupClient", json!({"groupname": "pumps", "username": "pump"}), "Client is already in this group"),
        (
            "addRoleACL",
            json!({"rolename": "locked", "acltype": "publishClientSend", "topic": "#", "allow": true}),
            "ACL with this topic already exists",
        ),
        (
            "addRoleACL",
            json!({"rolename": "locked", "acltype": "fly", "topic": "#", "allow": true}),
            "Invalid acltype \"fly\"",
        ),
        (
            "addRoleACL",
            json!({"rolename": "locked", "acltype": "publishClientSend", "topic": "a#", "allow": true}),
            "Invalid topic \"a#\"",
        ),
        ("removeRoleACL", json!({"rolename": "locked", "acltype": "publishClientSend", "topic": "a"}), "ACL not found"),
        ("getRole", json!({"rolename": "x"}), "Role not found"),
        ("fly", json!({}), "Unknown command"),
    ] {
        assert_eq!(run(&mut work, name, arguments), Err(why.to_owned()), "{name}");
    }
}

#[test]
fn what_refers_to_something_goes_with_it() {
    let mut work = site();
    done(&mut work, "addClientRole", json!({"username": "valve", "rolename": "device"}));
    work.changed.clear();
    done(&mut work, "deleteRole", json!({"rolename": "device"}));
    assert_eq!(work.changed.len(), 3, "the role, the group and the client: {:?}", work.changed);
    done(&mut work, "addGroupClient", json!({"groupname": "pumps", "username": "valve", "priority": 3}));
    done(&mut work, "deleteClient", json!({"username": "pump"}));
    let group = asked(&mut work, "getGroup", json!({"groupname": "pumps"}));
    assert_eq!(group["group"]["clients"], json!([{"username": "valve"}]));
    done(&mut work, "modifyGroup", json!({"groupname": "pumps", "clients": [], "textname": "none"}));
    assert!(work.state.clients["valve"].groups.is_empty());
    done(&mut work, "modifyClient", json!({"username": "valve", "groups": [{"groupname": "pumps"}], "disabled": true}));
    done(&mut work, "deleteGroup", json!({"groupname": "pumps"}));
    assert!(work.state.clients["valve"].groups.is_empty() && work.state.groups.is_empty());
    // Half of a command is none of it.
    let before = work.state.clone();
    let bad = json!({"username": "valve", "textname": "x", "groups": [{"groupname": "none"}]});
    assert!(run(&mut work, "modifyClient", bad).is_err());
    assert_eq!(work.state, before);
}

#[test]
fn who_may_log_in() {
    let mut work = site();
    assert!(matches!(work.state.find("pump", "any"), Found::Client(stored) if stored.verify(b"p")));
    assert_eq!(work.state.find("nobody", "c"), Found::Unknown);
    assert_eq!(work.state.find("valve", "v1"), Found::Shut("the user has no password"));
    done(&mut work, "setClientPassword", json!({"username": "valve", "password": "q"}));
    assert!(matches!(work.state.find("valve", "v1"), Found::Client(_)));
    assert_eq!(work.state.find("valve", "v2"), Found::Shut("the user has another client identifier"));
    let Found::Client(stored) = work.state.find("pump", "c") else { panic!() };
    assert!(work.state.admits("pump", "c", &stored) && !work.state.admits("valve", "v1", &stored));
    done(&mut work, "disableClient", json!({"username": "pump"}));
    assert!(!work.state.admits("pump", "c", &stored));
    done(&mut work, "enableClient", json!({"username": "pump"}));
    assert!(work.state.admits("pump", "c", &stored));
}

#[test]
fn rows_bring_it_back() {
    let mut work = site();
    done(&mut work, "setAnonymousGroup", json!({"groupname": "pumps"}));
    let mut state = State::default();
    for key in &work.changed {
        let KeyedChange { key, value, .. } = work.state.change(key);
        assert!(state.recover(&key, &value.unwrap()));
    }
    state.gather();
    assert_eq!(state, work.state);
    for (key, value) in [
        (&b""[..], &b"{}"[..]),
        (b"c\xff", b"{}"),
        (b"zx", b"{}"),
        (b"ca", b"nonsense"),
        (b"ca", br#"{"password":"plain"}"#),
        (b"ra", br#"{"acls":[{"acltype":"fly","topic":"a","priority":0,"allow":true}]}"#),
    ] {
        assert!(!State::default().recover(key, value), "{key:?}");
    }
}

#[test]
fn takes_over_what_mosquitto_has() {
    let theirs = json!({
        "defaultACLAccess": {"publishClientSend": true, "publishClientReceive": false, "subscribe": false, "unsubscribe": true},
        "anonymousGroup": "g",
        "clients": [{
            "username": "admin", "textname": "Dynsec admin user", "password": "P0R/FDz1G/9VD9VZtyHqqWmB6JBN8ULEKA7Q6OJzvdWz+CQuPjmpXbIJnVMdnZpMSC3mI5wjwGMqHJ/MRpR6jQ==",
            "salt": "c2FsdHNhbHQ=", "iterations": 101, "roles": [{"rolename": "admin"}],
        }],
        "groups": [{"groupname": "g", "roles": [], "clients": [{"username": "admin"}]}],
        "roles": [{"rolename": "admin", "acls": [{"acltype": "publishClientSend", "topic": "$CONTROL/#", "priority": 0, "allow": true}]}],
    });
    let work = import::work(&theirs).unwrap();
    let state = &work.state;
    assert!(state.defaults.send && !state.defaults.receive && state.anonymous.as_deref() == Some("g"));
    assert!(state.groups["g"].clients.contains("admin"));
    assert!(matches!(state.find("admin", "c"), Found::Client(stored) if stored.text().starts_with("$7$101$")));
    let wrong = json!({"groups": [{"groupname": "g", "roles": [{"rolename": "none"}]}]});
    assert_eq!(import::work(&wrong).err().unwrap(), "createGroup \"g\": Role not found");
}
