//! `forebay passwd` and `forebay acl test`.

use std::fs;
use std::process::Command;

use forebay_tests::broker::program;
use forebay_tests::scratch::Scratch;

use crate::{Site, passwd};

pub const TESTS: &[(&str, fn())] = &[
    ("acl_test_says_the_line", acl_test_says_the_line),
    ("acl_test_asks_the_running_broker", acl_test_asks_the_running_broker),
    ("passwd_makes_changes_and_lists", passwd_makes_changes_and_lists),
    ("passwd_follows_links", passwd_follows_links),
    ("an_open_address_beyond_this_machine_is_refused", an_open_address_beyond_this_machine_is_refused),
];

fn acl_test_says_the_line() {
    let scratch = Scratch::new("acl");
    let (config, acl) = (scratch.path().join("f.toml"), scratch.path().join("rules"));
    fs::write(&config, "[access]\nacl_file = \"rules\"\n").unwrap();
    fs::write(&acl, "user u\ntopic read a/#\ntopic deny a/b\npattern write up/%c\n").unwrap();
    let ask = |words: &str| {
        let mut command = Command::new(program());
        command.args(["acl", "test", "--config"]).arg(&config).args(words.split(' '));
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let file = acl.display();
    for (words, code, said) in [
        ("--user u --client c subscribe a/c", 0, format!("allowed: {file}:2: topic read a/#\n")),
        ("--user u --client c subscribe #", 0, format!("allowed: {file}:2: topic read a/#\n")),
        ("--user u --client c subscribe a/b", 1, format!("denied: {file}:3: topic deny a/b\n")),
        ("--user u --client c publish a/c", 1, format!("denied: no line of {file} allows it\n")),
        ("--user u --client c publish up/c", 0, format!("allowed: {file}:4: pattern write up/%c\n")),
        ("--client d publish up/c", 1, format!("denied: no line of {file} allows it\n")),
        ("--client d publish a/#", 2, String::new()),
    ] {
        assert_eq!(ask(words), (code, said), "{words}");
    }
}

/// What is in force counts, not what the file says: a broken file changes nothing there, and roles made meanwhile are asked first.
fn acl_test_asks_the_running_broker() {
    let acl = "user u\ntopic read a/#\ntopic deny a/b\n";
    let files = [("acl", acl), ("passwords", "# users\n")];
    let access = "[access]\nacl_file = \"DIR/acl\"\npassword_file = \"DIR/passwords\"\ndynamic_security = true\n\
                  [admin]\nsocket = \"DIR/admin.sock\"";
    let site = Site::of_files(&files, access, "anonymous = true");
    let socket = site.folder.path().join("admin.sock");
    let run = |words: &str| {
        let output = Command::new(program()).args(words.split(' ')).arg("--socket").arg(&socket).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    };
    let ask = |words: &str| run(&format!("acl test --running {words}"));
    let file = site.folder.path().join("acl").display().to_string();
    let says = |words: &str, code: i32, by: &str| {
        let (came, said) = ask(words);
        assert!(came == code && said.contains(by), "{words}: {came} {said}");
    };
    says("--user u --client c subscribe a/c", 0, &format!("allowed: {file}:2 (version "));
    says("--user u --client c subscribe a/b", 1, &format!("denied: {file}:3 (version "));
    says("--user u --client c publish a/c", 1, &format!("denied: no line of {file} allows it"));
    says("--user u --client c connect", 0, "allowed");
    says("--client d publish a/#", 1, "wildcard");

    site.change("acl", "nonsense\n");
    site.until_logged("access not changed");
    says("--user u --client c subscribe a/c", 0, &format!("allowed: {file}:2 "));
    site.change_acl("user u\ntopic write a/c\n");
    says("--user u --client c publish a/c", 0, &format!("allowed: {file}:2 "));
    // What mosquitto's plug-in allows by default.
    says("--user u --client c receive a/c", 0, "allowed: dynamic security");

    says("--user u --client c publish made/x", 1, &format!("denied: no line of {file} allows it"));
    for command in [
        r#"{"command":"createRole","rolename":"r","acls":[{"acltype":"publishClientSend","topic":"made/#","allow":true}]}"#,
        r#"{"command":"createClient","username":"u","password":"p","roles":[{"rolename":"r"}]}"#,
    ] {
        let (code, said) = run(&format!("ctl users run {command}"));
        assert_eq!(code, 0, "{command}: {said}");
    }
    says("--user u --client c publish made/x", 0, "allowed: dynamic security");
}

fn passwd_makes_changes_and_lists() {
    let scratch = Scratch::new("passwd");
    let file = scratch.path().join("passwords");
    let run = |words: &[&str], password: &str| {
        let output = passwd(&file, words, password);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    assert_eq!(run(&["list"], "").0, 1, "there is no file");
    assert_eq!(run(&["add", "b"], "one"), (0, String::new()));
    assert_eq!(run(&["add", "a"], "two"), (0, String::new()));
    let (code, said) = run(&["add", "a"], "three");
    assert!(code == 1 && said.contains("already") && !said.contains("three"), "{said}");
    assert_eq!(run(&["list"], ""), (0, "a\nb\n".to_owned()));
    let before = fs::read_to_string(&file).unwrap();
    assert_eq!(run(&["change", "a"], "four").0, 0);
    let after = fs::read_to_string(&file).unwrap();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&before)[0], lines(&after)[0]);
    assert_ne!(lines(&before)[1], lines(&after)[1]);
    assert!(after.lines().all(|line| line.contains(":$argon2id$v=19$")), "{after}");
    assert_eq!(run(&["delete", "b"], "").0, 0);
    assert_eq!(run(&["delete", "b"], "").0, 1);
    assert_eq!(run(&["list"], ""), (0, "a\n".to_owned()));
}

/// A mounted secret is a link; it may lead to where nothing is yet.
fn passwd_follows_links() {
    let scratch = Scratch::new("passwd-link");
    let (link, target) = (scratch.path().join("passwords"), scratch.path().join("kept"));
    std::os::unix::fs::symlink("kept", &link).unwrap();
    for name in ["a", "b"] {
        let output = passwd(&link, &["add", name], "one");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&target).unwrap().lines().count(), 2);
    let (null, device) = (scratch.path().join("null"), std::path::Path::new("/dev/null"));
    std::os::unix::fs::symlink(device, &null).unwrap();
    let output = passwd(&null, &["add", "a"], "one");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("no regular file"), "{said}");
}

fn an_open_address_beyond_this_machine_is_refused() {
    let scratch = Scratch::new("open");
    let data = scratch.path().join("data");
    let output =
        Command::new(program()).args(["--listen", "mqtt://0.0.0.0:0", "--data-dir"]).arg(&data).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("nothing says who may connect") && said.contains("password_file"), "{said}");
    assert!(!data.exists());
}
