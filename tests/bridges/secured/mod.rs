//! Clusters with TLS, that want to know who somebody is and what they may do. One gateway has several bridges to the same cluster,
//! each wrong in another way, and `forebay ctl bridges` says of each what it is.

mod kafka;
mod mqtt;
mod nats;
mod rabbitmq;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use forebay_tests::broker::{Broker, program};
use forebay_tests::scratch::Scratch;
use forebay_tests::server::make_certificates;
use forebay_tests::server::secured::{PASSWORD, USER};

use crate::{Case, gateway};

pub(crate) fn trials() -> Vec<Case> {
    [kafka::trials(), mqtt::trials(), nats::trials(), rabbitmq::trials()].concat()
}

/// How long a state may take to be so: waits between two attempts may have grown to a minute.
const PATIENCE: Duration = Duration::from_secs(120);

/// Files that bridges are configured with.
struct Files {
    /// The server's.
    folder: PathBuf,
    /// Of somebody whom the server does not know.
    others: Scratch,
}

impl Files {
    fn of(server: &Path) -> Self {
        let others = Scratch::new("bridges");
        make_certificates(others.path());
        for (name, text) in [("right", PASSWORD), ("wrong", "another-word")] {
            std::fs::write(others.path().join(name), format!("{text}\n")).unwrap();
        }
        Self { folder: server.to_owned(), others }
    }

    /// The user, with this file as its password.
    fn user(&self, password: &str) -> String {
        format!("username = '{USER}'\npassword_file = '{}'\n", self.others.path().join(password).display())
    }

    /// Whoever has the password as a token.
    fn token(&self, password: &str) -> String {
        format!("password_file = '{}'\n", self.others.path().join(password).display())
    }

    /// The server's certificate is to be trusted.
    fn trusted(&self) -> String {
        format!("ca_file = '{}/ca.pem'\n", self.folder.display())
    }

    /// Another one is.
    fn distrusted(&self) -> String {
        format!("ca_file = '{}/ca.pem'\n", self.others.path().display())
    }

    /// A certificate that the server knows.
    fn certificate(&self) -> String {
        let folder = self.folder.display();
        format!("certificate = '{folder}/client.pem'\nkey = '{folder}/client.key'\n")
    }
}

/// `[[bridges]]` of this name.
fn bridge(name: &str, urls: &[String], more: &str, rules: &str) -> String {
    format!("[[bridges]]\nname = '{name}'\nurls = {urls:?}\n{more}\n{rules}\n")
}

/// A gateway with these bridges, running.
pub(crate) fn running(bridges: &[String]) -> Broker {
    let mut broker = gateway("");
    configure(&mut broker, bridges);
    broker.run();
    broker
}

/// Gives a gateway these bridges, and a socket for `forebay ctl`.
pub(crate) fn configure(broker: &mut Broker, bridges: &[String]) {
    let socket = broker.data().join("admin.sock");
    broker.configure(&format!("[admin]\nsocket = '{}'\n{}", socket.display(), bridges.concat()));
}

/// Waits until `forebay ctl bridges` says this of the bridge.
fn says(broker: &Broker, bridge: &str, state: &str) {
    let socket = broker.data().join("admin.sock");
    let begun = std::time::Instant::now();
    loop {
        let arguments = ["ctl", "--socket", socket.to_str().unwrap(), "bridges"];
        let output = Command::new(program()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let shown = String::from_utf8(output.stdout).unwrap();
        if shown.lines().any(|line| line.split_whitespace().next() == Some(bridge) && line.contains(state)) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{bridge} is not \"{state}\":\n{shown}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// No password is in the log, whatever was refused.
fn told_no_secret(broker: &Broker) {
    let log = broker.log();
    assert!(log.contains("login is refused"), "{log}");
    assert!(!log.contains(PASSWORD) && !log.contains("another-word"), "{log}");
}
