//! Dynamic security: `mosquitto_ctrl dynsec` as it is, and what its requests change for who is connected.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use forebay_tests::broker::{free_port, program};
use forebay_tests::packet::build::{self, Connect, Publish};
use forebay_tests::packet::{Ack, Version};
use forebay_tests::raw::Raw;
use forebay_tests::scratch::Scratch;
use serde_json::{Value, json};

use crate::Site;

pub const TESTS: &[(&str, fn())] = &[
    ("a_request_is_answered_after_its_commit", a_request_is_answered_after_its_commit),
    ("dynamic_security_is_for_those_who_may", dynamic_security_is_for_those_who_may),
    ("ctl_makes_users_and_forgives", ctl_makes_users_and_forgives),
    ("a_role_that_changes_reaches_who_is_connected", a_role_that_changes_reaches_who_is_connected),
];

pub const WITH_MOSQUITTO_CTRL: &[(&str, fn())] =
    &[("a_file_of_mosquitto_ctrl_is_taken_over", a_file_of_mosquitto_ctrl_is_taken_over)];

const ON: &str = "[access]\ndynamic_security = true\n";
const REQUEST: &str = "$CONTROL/dynamic-security/v1";
const RESPONSE: &str = "$CONTROL/dynamic-security/v1/response";

fn site() -> Site {
    Site::of_files(&[], ON, "")
}

/// The first user's password, from its file.
fn admin_password(site: &Site) -> String {
    let path = site.broker.data().join("dynamic-security.pw");
    // The port is open before the first user is made.
    let begun = std::time::Instant::now();
    while !fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')) {
        assert!(begun.elapsed().as_secs() < 20, "there is no {}", path.display());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let text = fs::read_to_string(&path).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    text.trim().strip_prefix("admin ").unwrap().to_owned()
}

fn login(client: &str, user: &str, password: &str) -> Connect {
    Connect::new(Version::V5, client).user(user).password(password.as_bytes())
}

/// The admin, who has subscribed to answers.
fn admin(site: &Site) -> Raw {
    let (mut admin, ..) = Raw::open(site.port(), &login("admin", "admin", &admin_password(site)));
    admin.subscribe(RESPONSE, 0);
    admin
}

/// What the commands are answered.
fn ask(admin: &mut Raw, commands: Value) -> Vec<Value> {
    let payload = json!({ "commands": commands }).to_string();
    admin.send(&Publish::new(Version::V5, REQUEST, payload.as_bytes()).qos(1, 7).packet());
    admin.expect_ack(Ack::Puback, 7, 0);
    let answer = admin.take_any();
    assert_eq!(answer.topic, RESPONSE);
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    answer["responses"].as_array().unwrap().clone()
}

#[track_caller]
fn done(admin: &mut Raw, commands: Value) {
    for response in ask(admin, commands) {
        assert!(response.get("error").is_none(), "{response}");
    }
}

fn pump() -> Value {
    json!([
        {"command": "createRole", "rolename": "device", "acls": [
            {"acltype": "publishClientSend", "topic": "data/%u", "allow": true},
            {"acltype": "subscribePattern", "topic": "commands/#", "allow": true},
        ]},
        {"command": "createClient", "username": "pump", "password": "secret-1", "roles": [{"rolename": "device"}]},
    ])
}

#[track_caller]
fn publishes(raw: &mut Raw, topic: &str, reason: u8) {
    raw.send(&Publish::new(Version::V5, topic, b"x").qos(1, 9).packet());
    raw.expect_ack(Ack::Puback, 9, reason);
}

/// Killed right behind the answer, it is all there; and no password is in an answer or in the log.
fn a_request_is_answered_after_its_commit() {
    let mut site = site();
    let mut admin = admin(&site);
    done(&mut admin, pump());
    site.broker.kill();
    site.broker.run();
    let (mut raw, ..) = Raw::open(site.port(), &login("c", "pump", "secret-1"));
    publishes(&mut raw, "data/pump", 0x10);
    publishes(&mut raw, "data/other", 0x87);
    Raw::begin(site.port(), &login("c2", "pump", "secret-2")).expect_refused(0x86);
    let mut admin = self::admin(&site);
    let answers = ask(
        &mut admin,
        json!([
            {"command": "getClient", "username": "pump", "correlationData": "mine"},
            {"command": "createClient", "username": "pump", "password": "secret-3"},
        ]),
    );
    assert_eq!(answers[0]["correlationData"], "mine");
    assert_eq!(answers[0]["data"]["client"]["roles"], json!([{"rolename": "device"}]));
    assert_eq!(answers[1], json!({"command": "createClient", "error": "Client already exists"}));
    let log = site.broker.log();
    assert!(!log.contains("secret-") && !log.contains("argon2") && !log.contains(&admin_password(&site)), "{log}");
    let said: String = answers.iter().map(Value::to_string).collect();
    assert!(!said.contains("argon2") && !said.contains("secret"), "{said}");
}

fn dynamic_security_is_for_those_who_may() {
    let site = site();
    let mut admin = admin(&site);
    done(&mut admin, pump());
    done(
        &mut admin,
        json!([{"command": "setDefaultACLAccess", "acls": [
            {"acltype": "publishClientSend", "allow": true}, {"acltype": "subscribe", "allow": true},
        ]}]),
    );
    let (mut raw, ..) = Raw::open(site.port(), &login("c", "pump", "secret-1"));
    publishes(&mut raw, "anything", 0x10);
    // Nothing below $CONTROL is allowed by default, and nothing of it is a message.
    for topic in [REQUEST, RESPONSE, "$CONTROL/other"] {
        publishes(&mut raw, topic, 0x87);
    }
    for (id, filter) in [(1, "$CONTROL/#"), (2, RESPONSE), (3, "$share/g/$CONTROL/#")] {
        raw.send(&build::Subscribe::new(Version::V5, id).filter(filter, 0).packet());
        raw.expect_suback(id, &[0x87]);
    }
    publishes(&mut admin, "$CONTROL/other", 0x87);
    admin.send(&Publish::new(Version::V5, REQUEST, b"nonsense").packet());
    let answer = admin.take_any();
    assert!(String::from_utf8_lossy(&answer.payload).contains("not JSON"));
    Raw::begin(site.port(), &Connect::new(Version::V5, "c3")).expect_refused(0x87);
}

fn a_role_that_changes_reaches_who_is_connected() {
    let site = site();
    let mut admin = admin(&site);
    done(&mut admin, pump());
    let (mut raw, ..) = Raw::open(site.port(), &login("c", "pump", "secret-1"));
    raw.subscribe("commands/#", 0);
    let acl =
        json!({"command": "removeRoleACL", "rolename": "device", "acltype": "subscribePattern", "topic": "commands/#"});
    done(&mut admin, json!([acl]));
    site.until_logged("subscription removed: not allowed any more");
    publishes(&mut raw, "data/pump", 0x10);
    done(&mut admin, json!([{"command": "setClientPassword", "username": "pump", "password": "secret-2"}]));
    raw.expect_disconnect(0x87);
    let (mut raw, ..) = Raw::open(site.port(), &login("c", "pump", "secret-2"));
    done(&mut admin, json!([{"command": "disableClient", "username": "pump"}]));
    raw.expect_disconnect(0x87);
    Raw::begin(site.port(), &login("c", "pump", "secret-2")).expect_refused(0x86);
    done(
        &mut admin,
        json!([{"command": "enableClient", "username": "pump"}, {"command": "setClientId", "username": "pump", "clientid": "only"}]),
    );
    Raw::begin(site.port(), &login("c", "pump", "secret-2")).expect_refused(0x86);
    let (mut raw, ..) = Raw::open(site.port(), &login("only", "pump", "secret-2"));
    done(&mut admin, json!([{"command": "deleteClient", "username": "pump"}]));
    raw.expect_disconnect(0x87);
}

/// `forebay ctl users`, `bans`, `reload` and `access`.
fn ctl_makes_users_and_forgives() {
    let files = [("acl", "user pump\ntopic data\n")];
    let access = "[admin]\nsocket = \"DIR/admin.sock\"\n[access]\ndynamic_security = true\nacl_file = \"DIR/acl\"\nmax_failures = 2\n";
    let site = Site::of_files(&files, access, "");
    let socket = site.folder.path().join("admin.sock");
    let ctl = |words: &str, input: &str| {
        let mut command = Command::new(program());
        command.arg("ctl").arg("--socket").arg(&socket).args(words.split(' '));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    admin_password(&site);
    assert_eq!(ctl("users add pump --client c", "secret-1\n"), "createClient: done\n");
    assert_eq!(ctl("users add pump", "secret-1\n"), "createClient: not done: Client already exists\n");
    assert!(ctl("users add valve", "").contains("the password is empty"));
    assert_eq!(ctl("users list", ""), "admin\npump\n");
    assert!(ctl("users show pump", "").contains("\"clientid\": \"c\""));
    let (mut raw, ..) = Raw::open(site.port(), &login("c", "pump", "secret-1"));
    publishes(&mut raw, "data", 0x10);
    assert_eq!(ctl("users password pump", "secret-2\n"), "setClientPassword: done\n");
    raw.expect_disconnect(0x87);
    for _ in 0..2 {
        Raw::begin(site.port(), &login("c", "pump", "secret-1")).expect_refused(0x86);
    }
    Raw::begin(site.port(), &login("c", "pump", "secret-2")).expect_refused(0x8A);
    assert!(ctl("bans", "").starts_with("127.0.0.1  "), "{}", ctl("bans", ""));
    assert!(ctl("access", "").contains("2 made while the broker runs, 1 rules; 1 addresses banned"));
    assert_eq!(ctl("bans clear 127.0.0.1", ""), "127.0.0.1 may log in again\n");
    let (mut raw, ..) = Raw::open(site.port(), &login("c", "pump", "secret-2"));
    fs::write(site.folder.path().join("acl"), "user pump\ntopic other\n").unwrap();
    // The broker may have seen it itself.
    let said = ctl("reload", "");
    assert!(said.contains("1 rules before, 1 now") || said == "nothing is different\n", "{said}");
    publishes(&mut raw, "data", 0x87);
    publishes(&mut raw, "other", 0x10);
    let run = ctl(r#"users run {"command":"createRole","rolename":"r"}"#, "");
    assert_eq!(run, "createRole: done\n");
    assert!(!site.broker.log().contains("secret-"));
}

/// What the tool prints.
fn ctrl(port: u16, password: &str, words: &str) -> String {
    let port = port.to_string();
    let mut command = Command::new("timeout");
    command.args(["60", "mosquitto_ctrl", "-h", "127.0.0.1", "-p", &port, "-u", "admin", "-P", password, "dynsec"]);
    let output = command.args(words.split(' ')).output().unwrap();
    let warnings = String::from_utf8_lossy(&output.stderr);
    let wrong: Vec<&str> = warnings.lines().filter(|line| line.contains("rror")).collect();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_ne!(output.status.code(), Some(124), "{words}: it does not end");
    text + &wrong.join("\n")
}

/// A file of the plug-in with one user.
fn initial(scratch: &Scratch) -> String {
    let file = scratch.path().join("theirs.json");
    let mut command = Command::new("mosquitto_ctrl");
    let made = command.args(["dynsec", "init"]).arg(&file).args(["admin", "their-secret"]).output().unwrap();
    fs::read_to_string(&file).unwrap_or_else(|why| panic!("{why}: {made:?}"))
}

/// The plug-in that mosquitto has for it, where Debian puts it.
pub fn no_plug_in() -> Option<String> {
    plug_in().is_none().then(|| "no mosquitto_dynamic_security.so".to_owned())
}

fn plug_in() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let folders = folders.chain(["/usr/lib".into(), "/usr/local/lib".into()]);
    folders.map(|folder| folder.join("mosquitto_dynamic_security.so")).find(|path| path.exists())
}

/// Every command that the tool has, in an order in which each finds what it needs.
const COMMANDS: [&str; 42] = [
    "createRole r",
    "addRoleACL r publishClientSend data/# allow 5",
    "addRoleACL r subscribePattern data/# deny",
    "createClient u -c c1 -p secret",
    "addClientRole u r 1",
    "getClient u",
    "listClients",
    "listClients 1 1",
    "createGroup g",
    "createGroup g",
    "addGroupClient g u 3",
    "addGroupRole g r",
    "getGroup g",
    "listGroups",
    "getRole r",
    "getRole admin",
    "listRoles",
    "getDefaultACLAccess",
    // mosquitto 2.0.11 crashes when the anonymous group is deleted.
    "createGroup h",
    "setAnonymousGroup h",
    "getAnonymousGroup",
    "setClientId u c2",
    "setClientPassword u other",
    "disableClient u",
    "getClient u",
    "getClient admin",
    "enableClient u",
    "createClient u -p x",
    "createRole r",
    "removeClientRole u r",
    "removeGroupRole g r",
    "removeGroupClient g u",
    "removeRoleACL r publishClientSend data/#",
    "deleteGroup g",
    "deleteGroup g",
    "getGroup g",
    "deleteRole r",
    "deleteRole r",
    "getRole r",
    "deleteClient u",
    "deleteClient u",
    "listClients",
];

/// What the tool prints is what it prints of mosquitto.
pub fn mosquitto_ctrl_works_as_it_is() {
    let scratch = Scratch::new("dynsec");
    let text = initial(&scratch);
    let port = free_port();
    let config = scratch.path().join("mosquitto.conf");
    let theirs = format!(
        "user root\nper_listener_settings false\nallow_anonymous false\nlistener {port} 127.0.0.1\nplugin {}\nplugin_opt_config_file {}\n",
        plug_in().unwrap().display(),
        scratch.path().join("theirs.json").display()
    );
    fs::write(&config, theirs).unwrap();
    let _mosquitto = crate::mosquitto::run(&config, port);
    let access = "[access]\ndynamic_security = true\ndynamic_security_import = \"DIR/theirs.json\"\n";
    let site = Site::of_files(&[("theirs.json", &text)], access, "");
    for words in COMMANDS {
        let (own, theirs) = (ctrl(site.port(), "their-secret", words), ctrl(port, "their-secret", words));
        assert_eq!(own, theirs, "{words}");
    }
    // The tool of 2.0 does not say it as its own broker wants it: there it changes nothing.
    assert_eq!(ctrl(site.port(), "their-secret", "setDefaultACLAccess subscribe allow"), "");
    let defaults = ctrl(site.port(), "their-secret", "getDefaultACLAccess");
    assert!(defaults.contains("subscribe            : allow"), "{defaults}");
}

/// `mosquitto_ctrl dynsec init` makes a file without a broker.
fn a_file_of_mosquitto_ctrl_is_taken_over() {
    let text = initial(&Scratch::new("dynsec"));
    let access = "[access]\ndynamic_security = true\ndynamic_security_import = \"DIR/theirs.json\"\n";
    let site = Site::of_files(&[("theirs.json", &text)], access, "");
    assert!(!site.broker.data().join("dynamic-security.pw").exists());
    assert_eq!(ctrl(site.port(), "their-secret", "listClients"), "admin\n");
    assert_eq!(ctrl(site.port(), "their-secret", "createClient u -p x"), "");
    Raw::open(site.port(), &login("c", "u", "x"));
}
