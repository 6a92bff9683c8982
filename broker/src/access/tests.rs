#![allow(clippy::unwrap_used)]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use forebay_wire::reason::ReasonCode;

use super::*;
use crate::config::{Listener, Place, Source, UserFrom};

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// The way in of a listener without settings of its own.
fn entrance(config: &AccessConfig) -> Arc<Entrance> {
    let (sources, acl) = (config.sources.clone(), config.acl_file.clone());
    let believes_names = sources.is_empty();
    Arc::new(Entrance { sources, acl, believes_names, ..Entrance::default() })
}

fn claim<'a>(entrance: &'a Arc<Entrance>, user: Option<&'a str>, password: Option<&'a str>) -> Claim<'a> {
    Claim {
        client_id: "c",
        user,
        vouched: false,
        password: password.map(str::as_bytes),
        addr: None,
        certificate: None,
        entrance,
    }
}

/// A folder with a password file of mosquitto's, whose passwords are all `secret`.
fn access(acl: Option<&str>) -> (tempfile::TempDir, Arc<Access>) {
    let folder = tempfile::tempdir().unwrap();
    let (passwords, rules) = (folder.path().join("passwords"), folder.path().join("acl"));
    std::fs::write(&passwords, include_str!("mosquitto.passwords")).unwrap();
    acl.iter().for_each(|text| std::fs::write(&rules, text).unwrap());
    let config = AccessConfig {
        sources: vec![Source::Password],
        password_file: Some(passwords),
        acl_file: acl.map(|_| rules),
        max_failures: 3,
        ..AccessConfig::default()
    };
    (folder, Access::load(&config).unwrap().unwrap())
}

#[test]
fn nothing_configured_is_no_authority() {
    assert!(Access::load(&AccessConfig::default()).unwrap().is_none());
}

#[test]
fn a_user_needs_the_password() {
    let (_folder, access) = access(None);
    let way = entrance(&access.config);
    let rights = run(access.authenticate(claim(&way, Some("seven"), Some("secret")))).unwrap();
    assert!(
        rights.may_publish("a", 0, false) && rights.may_receive("a") && rights.may_subscribe("#") && rights.is_valid()
    );
    for (user, password, reason, why) in [
        (Some("seven"), Some("Secret"), ReasonCode::BadUserNameOrPassword, "wrong password"),
        (Some("seven"), None, ReasonCode::BadUserNameOrPassword, "wrong password"),
        (Some("nobody"), Some("secret"), ReasonCode::BadUserNameOrPassword, "no such user"),
        (Some(""), Some("secret"), ReasonCode::BadUserNameOrPassword, "no such user"),
        (None, None, ReasonCode::NotAuthorized, "no user name"),
        (None, Some("secret"), ReasonCode::NotAuthorized, "no user name"),
    ] {
        let denied = run(access.authenticate(claim(&way, user, password))).unwrap_err();
        assert_eq!((denied.reason, denied.why), (reason, why), "{user:?} {password:?}");
    }
    let open = Arc::new(Entrance { anonymous: true, ..(*way).clone() });
    let anonymous = claim(&open, None, None);
    assert_eq!(run(access.authenticate(anonymous)).unwrap().who().user, None);
    let wrong = claim(&open, Some("seven"), Some("x"));
    assert!(run(access.authenticate(wrong)).is_err(), "a user name needs its password all the same");
}

/// The answer is remembered for the hash that it was given for, and no other.
#[test]
fn a_right_password_is_remembered_for_its_hash() {
    let (_folder, access) = access(None);
    let passwords = access.policy().passwords().unwrap().clone();
    let (seven, six) = (passwords.get("seven").unwrap(), passwords.get("six").unwrap());
    let way = entrance(&access.config);
    let claim = claim(&way, Some("seven"), Some("secret"));
    assert!(run(access.verify(&claim, "seven", seven)));
    let remembered = |user: &str, password: &[u8], stored: &Arc<Stored>| {
        let digest = access.digest(&[user.as_bytes(), stored.text().as_bytes(), password]);
        access.verified.lock().contains(&digest)
    };
    assert!(remembered("seven", b"secret", seven));
    assert!(!remembered("seven", b"secret", six) && !remembered("six", b"secret", seven));
    assert!(!remembered("seven", b"Secret", seven) && !remembered("sevens", b"ecret", seven));
    assert!(run(access.verify(&claim, "seven", seven)));
}

#[test]
fn an_address_that_guesses_is_banned_and_another_is_not() {
    let (_folder, access) = access(None);
    let way = entrance(&access.config);
    let from =
        |addr: &str, password| Claim { addr: addr.parse::<IpAddr>().ok(), ..claim(&way, Some("six"), Some(password)) };
    let banned: Vec<bool> =
        (0..3).map(|_| run(access.authenticate(from("192.0.2.1", "guess"))).unwrap_err().banned).collect();
    assert_eq!(banned, [false, false, true]);
    let denied = run(access.authenticate(from("192.0.2.1", "secret"))).unwrap_err();
    assert_eq!(denied.reason, ReasonCode::Banned);
    assert!(run(access.authenticate(from("192.0.2.2", "secret"))).is_ok(), "its ban is the address's, not the user's");
    access.guard().forgive(None);
    assert!(run(access.authenticate(from("192.0.2.1", "secret"))).is_ok());
    // What was under way when it was banned is not hashed any more, and is no ban of its own.
    let passwords = access.policy().passwords().unwrap().clone();
    let guess = from("192.0.2.3", "secret");
    let addr = guess.addr.unwrap();
    let bans: Vec<bool> = (0..4).map(|_| access.guard().failed(addr, Instant::now()).banned).collect();
    assert_eq!(bans, [false, false, true, false]);
    assert!(!run(access.verify(&guess, "seven", passwords.get("seven").unwrap())));
}

/// Where the transport says who it is, what CONNECT says counts for nothing, even where no source is asked.
#[test]
fn a_name_is_not_believed_where_the_transport_proves_it() {
    let (_folder, access) = access(Some("topic read #\nuser admin\ntopic #\n"));
    let listener = Listener {
        anonymous: false,
        user_from: Some(UserFrom::CommonName),
        sources: None,
        ..Listener::new("mqtts://x", Place::Unix("x".into()), 1)
    };
    let none = AccessConfig { sources: Vec::new(), ..access.config.clone() };
    let way = Arc::new(Entrance::new(&listener, &none));
    assert!(run(access.authenticate(claim(&way, Some("admin"), None))).is_err());
    assert!(run(access.authenticate(claim(&way, None, None))).is_err());
    let shown = Claim { vouched: true, ..claim(&way, Some("admin"), None) };
    assert_eq!(run(access.authenticate(shown)).unwrap().who().user.as_deref(), Some("admin"));
    let plain = Arc::new(Entrance::new(&Listener { user_from: None, ..listener }, &none));
    assert!(run(access.authenticate(claim(&plain, Some("admin"), None))).is_ok(), "there a name is what is said");
}

/// Routes that are remembered are asked for again when somebody with other rights has the session.
#[test]
fn rights_that_depend_on_something_else_are_told_apart() {
    let (_folder, access) = access(None);
    let way = entrance(&access.config);
    let rights = |claim: Claim<'_>| run(access.authenticate(claim)).unwrap().depends_on();
    let seven = || claim(&way, Some("seven"), Some("secret"));
    assert_eq!(rights(seven()), rights(seven()));
    assert_ne!(rights(seven()), rights(claim(&way, Some("six"), Some("secret"))));
    assert_ne!(rights(seven()), rights(Claim { addr: "192.0.2.1".parse().ok(), ..seven() }));
    let elsewhere = Arc::new(Entrance { acl: Some("other".into()), ..(*way).clone() });
    assert_ne!(rights(seven()), rights(claim(&elsewhere, Some("seven"), Some("secret"))));
}

/// A refused reload puts nothing in force, and forgets no file: who looks at them finds them changed.
#[test]
fn what_was_read_and_not_put_in_force_is_still_changed() {
    let (folder, access) = access(None);
    let mut seen = AccessSeen::default();
    assert!(!access.has_changed(&mut seen) && !access.has_changed(&mut seen));
    std::fs::write(folder.path().join("passwords"), "").unwrap();
    drop(access.read_again().unwrap());
    assert!(!access.has_changed(&mut seen), "it may be written still");
    assert!(access.has_changed(&mut seen));
    let read = access.read_again().unwrap();
    access.put_in_force(read);
    assert!(!access.has_changed(&mut seen));
    // One that is wrong is complained of once.
    std::fs::write(folder.path().join("passwords"), "wrong\n").unwrap();
    assert!(!access.has_changed(&mut seen) && access.has_changed(&mut seen));
    assert!(access.read_again().is_err());
    assert!(!access.has_changed(&mut seen));
}

#[test]
fn rights_follow_the_policy() {
    let (folder, access) = access(Some("user six\ntopic read a/#\ntopic write b"));
    let way = entrance(&access.config);
    let rights = run(access.authenticate(claim(&way, Some("six"), Some("secret")))).unwrap();
    for _ in 0..2 {
        assert!(rights.may_receive("a/b") && !rights.may_publish("a/b", 0, false) && rights.may_publish("b", 0, false));
    }
    assert!(rights.may_subscribe("$share/g/a/+") && !rights.may_subscribe("$share/g/b"));
    assert!(rights.may_publish("$delayed/5/b", 0, false) && !rights.may_publish("$delayed/5/a/b", 0, false));
    assert!(
        rights.may_publish("$once/o/1.2/$delayed/5/b", 0, false)
            && !rights.may_publish("$once/o/1.2/$delayed/5/c", 0, false)
    );
    std::fs::write(folder.path().join("acl"), "user six\ntopic write a/#").unwrap();
    *access.policy.write() = Arc::new(Policy::read(&access.config).unwrap());
    access.version.fetch_add(1, Ordering::AcqRel);
    assert!(!rights.may_receive("a/b") && rights.may_publish("a/b", 0, false) && !rights.may_publish("b", 0, false));
}

#[test]
fn a_file_that_is_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("acl");
    let config = AccessConfig { acl_file: Some(path.clone()), ..AccessConfig::default() };
    let error = Access::load(&config).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: cannot be read: ", path.display())), "{error}");
    std::fs::write(&path, "topic a\nnonsense\n").unwrap();
    let error = Access::load(&config).unwrap_err().to_string();
    assert_eq!(error, format!("{}: line 2: begins neither with `user`, `topic` nor `pattern`", path.display()));
}

#[test]
fn what_a_message_is_delivered_with() {
    for (topic, expected) in [
        ("a", "a"),
        ("$delayed/5/a/b", "a/b"),
        ("$once/o/1.2/a", "a"),
        ("$once/o/1.2/$delayed/5/a", "a"),
        ("$delayed/5", "$delayed/5"),
        ("$once/o", "$once/o"),
        ("$SYS/a", "$SYS/a"),
    ] {
        assert_eq!(destination(topic), expected, "{topic}");
    }
}

#[cfg(unix)]
#[test]
fn the_password_file_keeps_its_mode_and_its_link() {
    use std::os::unix::fs::PermissionsExt;
    let passwd = |path: &Path, command: &PasswdCommand| passwd(path, command, HashForm::Argon2id);
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("real"), folder.path().join("link"));
    let mode = || std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    passwd(&file, &PasswdCommand::Add("a".into(), b"x".to_vec())).unwrap();
    assert_eq!(mode(), 0o600);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    passwd(&link, &PasswdCommand::Add("b".into(), b"y".to_vec())).unwrap();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!((mode(), passwd(&file, &PasswdCommand::List).unwrap().as_str()), (0o640, "a\nb\n"));
    for (command, why) in [
        (PasswdCommand::Add("a".into(), b"z".to_vec()), "already"),
        (PasswdCommand::Change("c".into(), b"z".to_vec()), "no user"),
        (PasswdCommand::Delete("c".into()), "no user"),
        (PasswdCommand::Add("d".into(), Vec::new()), "empty"),
        (PasswdCommand::Add("d:e".into(), b"z".to_vec()), "`:`"),
    ] {
        let before = std::fs::read(&file).unwrap();
        let error = passwd(&file, &command).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(std::fs::read(&file).unwrap(), before);
    }
    passwd(&file, &PasswdCommand::Delete("a".into())).unwrap();
    assert_eq!(passwd(&file, &PasswdCommand::List).unwrap(), "b\n");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside it");
}

/// Topics that are kept of clients, with how often.
fn kept(access: &Access) -> Vec<(String, u64, bool)> {
    let mut kept: Vec<_> =
        access.recent().unwrap().list(None).into_iter().map(|s| (s.topic, s.count, s.allowed)).collect();
    kept.sort();
    kept
}

#[test]
fn decisions_are_kept_and_each_question_counts_once() {
    let (_folder, access) = access(Some("user seven\ntopic readwrite a/#"));
    let way = entrance(&access.config);
    let rights = run(access.authenticate(claim(&way, Some("seven"), Some("secret")))).unwrap();
    for _ in 0..5 {
        assert!(rights.may_publish("$delayed/5/a/b", 1, false));
    }
    assert!(rights.may_subscribe("a/#") && rights.may_keep("a/#") && !rights.may_publish("b", 0, true));
    assert_eq!(kept(&access)[1], ("a/#".to_owned(), 1, true));
    assert_eq!(kept(&access)[2], ("a/b".to_owned(), 1, true), "what is remembered is noted once a minute");
    access.recent().unwrap().set_now(59_000);
    assert!(rights.may_publish("a/b", 1, false));
    assert_eq!(kept(&access)[2].1, 1);
    access.recent().unwrap().set_now(60_000);
    assert!(rights.may_publish("a/b", 1, false));
    assert_eq!(kept(&access)[2].1, 7);
    let topics = |since: u64| access.recent().unwrap().list(Some(Duration::from_secs(since))).len();
    assert_eq!((topics(10), topics(60)), (1, 4), "what goes on is recent");
    assert!(rights.may_publish("a/b", 1, false));
    drop(rights);
    let all = [("", 1, true), ("a/#", 1, true), ("a/b", 8, true), ("b", 1, false)];
    assert_eq!(kept(&access), all.map(|(topic, count, allowed)| (topic.to_owned(), count, allowed)));
}

#[test]
fn without_rules_nothing_is_kept_but_to_learn() {
    let config = AccessConfig { learn: true, ..AccessConfig::default() };
    let learning = Access::load(&config).unwrap().unwrap();
    let (_folder, ordinary) = access(None);
    for (access, password, expected) in [(learning, None, vec!["", "#", "t"]), (ordinary, Some("secret"), vec![])] {
        let way = entrance(&access.config);
        let rights = run(access.authenticate(claim(&way, Some("seven"), password))).unwrap();
        assert!(rights.may_publish("t", 0, false) && rights.may_subscribe("#"));
        assert_eq!(kept(&access).into_iter().map(|(topic, ..)| topic).collect::<Vec<_>>(), expected);
    }
    let none = AccessConfig { recent_memory: 0, acl_file: None, ..config };
    assert!(Access::load(&none).unwrap().unwrap().recent().is_none());
}
