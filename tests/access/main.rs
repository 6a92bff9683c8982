//! Who may connect, and what they may do: the real program, mosquitto's clients, and mosquitto itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]
#![allow(clippy::print_stdout, clippy::wildcard_enum_match_arm)]

mod dynamic;
mod login;
mod mosquitto;
mod policy;
mod recent;
mod rules;
mod scram;
mod service;
mod tokens;
mod tool;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use forebay_tests::absence::{of_program, panicking};
use forebay_tests::broker::{Broker, program};
use forebay_tests::scratch::Scratch;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let (clients, server) = (of_program("mosquitto_pub"), of_program("mosquitto"));
    let mut trials = Vec::new();
    for (name, run) in all_tests() {
        trials.push(panicking("access", name, None, *run));
    }
    let fail2ban = of_program("fail2ban-regex");
    trials.push(panicking(
        "access",
        "fail2ban_finds_who_guesses",
        fail2ban.as_deref(),
        login::fail2ban_finds_who_guesses,
    ));
    let ctrl = of_program("mosquitto_ctrl");
    for (name, run) in dynamic::WITH_MOSQUITTO_CTRL {
        trials.push(panicking("access", name, ctrl.as_deref(), *run));
    }
    let absent = ctrl.or_else(dynamic::no_plug_in).or_else(|| server.clone());
    let run = dynamic::mosquitto_ctrl_works_as_it_is;
    trials.push(panicking("access", "mosquitto_ctrl_works_as_it_is", absent.as_deref(), run));
    trials.push(panicking("access", "mosquittos_clients_log_in", clients.as_deref(), login::mosquittos_clients_log_in));
    trials.push(panicking("access", "answers_are_mosquittos", server.as_deref(), mosquitto::answers_are_mosquittos));
    libtest_mimic::run(&arguments, trials).exit();
}

fn all_tests() -> impl Iterator<Item = &'static (&'static str, fn())> {
    let lists = [
        dynamic::TESTS,
        login::TESTS,
        policy::TESTS,
        recent::TESTS,
        rules::TESTS,
        scram::TESTS,
        service::TESTS,
        tokens::TESTS,
        tool::TESTS,
    ];
    lists.into_iter().flatten()
}

/// A broker with a password file and, if given, an ACL; in a folder of its own.
struct Site {
    broker: Broker,
    folder: Scratch,
}

impl Site {
    /// `extra` is more of `[access]`.
    fn start(users: &[(&str, &str)], acl: Option<&str>, extra: &str) -> Self {
        let folder = Scratch::new("access");
        let passwords = folder.path().join("passwords");
        fs::write(&passwords, "# users\n").unwrap();
        for (name, password) in users {
            assert!(passwd(&passwords, &["add", name], password).status.success());
        }
        let acl_line = acl.map(|text| {
            fs::write(folder.path().join("acl"), text).unwrap();
            format!("acl_file = \"{}\"\n", folder.path().join("acl").display())
        });
        let text = format!(
            "sys_interval = \"1s\"\n[access]\npassword_file = \"{}\"\n{}{extra}\n\
             [[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\n",
            passwords.display(),
            acl_line.unwrap_or_default()
        );
        Self { broker: Broker::with_config(&text), folder }
    }

    /// With these files in its folder, which stands for `DIR` in `access`; `listener` is more of the listener.
    fn of_files(files: &[(&str, &str)], access: &str, listener: &str) -> Self {
        let folder = Scratch::new("access");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let text =
            format!("sys_interval = \"1s\"\n{access}\n[[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\n{listener}\n");
        let text = text.replace("DIR", &folder.path().display().to_string());
        Self { broker: Broker::with_config(&text), folder }
    }

    /// Another text of a file, put in place as editors do.
    fn change(&self, name: &str, text: &str) {
        let (new, path) = (self.folder.path().join("new"), self.folder.path().join(name));
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn port(&self) -> u16 {
        self.broker.port()
    }

    fn passwords(&self) -> PathBuf {
        self.folder.path().join("passwords")
    }

    /// Waits until the log says something.
    #[track_caller]
    fn until_logged(&self, what: &str) -> String {
        let begun = Instant::now();
        loop {
            let log = self.broker.log();
            if log.contains(what) {
                return log;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "the log never says {what:?}:\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Another ACL, put in place as editors do, and in force when this returns.
    #[track_caller]
    fn change_acl(&self, text: &str) {
        let (new, path) = (self.folder.path().join("acl.new"), self.folder.path().join("acl"));
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
        self.until_logged("access changed: the ACL");
    }
}

/// `forebay passwd` with the password on its standard input.
fn passwd(file: &Path, words: &[&str], password: &str) -> Output {
    let mut command = Command::new(program());
    command.arg("passwd").args(words).arg("--stdin").arg("--file").arg(file);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes());
    child.wait_with_output().unwrap()
}
