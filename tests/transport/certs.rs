//! `forebay certs`: a site from nothing, with the lines that it prints.

use std::process::Command;

use forebay_client::{Options, Tls};
use forebay_tests::absence::panicking;
use forebay_tests::broker::{Broker, program};
use forebay_tests::scratch::Scratch;
use libtest_mimic::Trial;

use crate::{block_on, logged, refused, run, talk};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        panicking("transport", "a_site_makes_its_own_certificates", None, site),
        panicking("transport", "certs_says_what_it_cannot_do", None, refusals),
    ]
}

fn certs(folder: &Scratch, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg("certs").args(arguments).arg("--dir").arg(folder.path().join("pki"));
    command
}

fn site() {
    let folder = Scratch::new("certs");
    let said = run(&mut certs(&folder, &["ca", "--name", "site CA"]));
    assert!(said.contains("client_ca = "), "{said}");
    let said = run(&mut certs(&folder, &["server", "localhost", "127.0.0.1", "::1"]));
    // What it prints is a configuration.
    let lines = said.split_once("[[listeners]]").unwrap().1.replace("0.0.0.0:8883", "127.0.0.1:TLS_PORT");
    let broker = Broker::with_config(&format!("[[listeners]]{lines}"));
    for device in ["pump-7", "valve-2"] {
        let said = run(&mut certs(&folder, &["device", device]));
        assert!(said.contains("mosquitto_pub") && said.contains(device), "{said}");
    }
    let file = |name: &str| folder.path().join("pki").join(name);
    let as_device = |name: &str| {
        let tls = Tls::new().ca_file(file("ca.pem")).unwrap();
        let tls = tls.identity(file(&format!("{name}.pem")), file(&format!("{name}.key"))).unwrap();
        Options::new(&format!("mqtts://127.0.0.1:{}", broker.tls_port())).unwrap().tls(tls)
    };
    block_on(async {
        talk(as_device("pump-7")).await;
        logged(&broker, &["listening", "whose cn is the user name"]);
        run(&mut certs(&folder, &["renew", "localhost"]));
        logged(&broker, &["read anew, and are in force"]);
        talk(as_device("pump-7")).await;
        let said = run(&mut certs(&folder, &["revoke", "pump-7"]));
        assert!(said.starts_with("1 revoked"), "{said}");
        let begun = std::time::Instant::now();
        while broker.log().matches("read anew, and are in force").count() < 2 {
            assert!(begun.elapsed() < crate::LIMIT, "{}", broker.log());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        refused(as_device("pump-7")).await;
        talk(as_device("valve-2")).await;
    });
    let said = run(&mut certs(&folder, &["list"]));
    assert_eq!(said.lines().count(), 4, "{said}");
    assert!(said.lines().any(|line| line.contains("pump-7") && line.contains("revoked")), "{said}");
    run(&mut certs(&folder, &["crl", "--days", "3"]));
    if Command::new("openssl").arg("version").output().is_ok() {
        let said = run(Command::new("openssl")
            .args(["verify", "-crl_check", "-CAfile"])
            .arg(file("ca.pem"))
            .arg("-CRLfile")
            .arg(file("crl.pem"))
            .arg(file("valve-2.pem")));
        assert!(said.contains("OK"), "{said}");
        let mut revoked = Command::new("openssl");
        revoked.args(["verify", "-crl_check", "-CAfile"]).arg(file("ca.pem")).arg("-CRLfile").arg(file("crl.pem"));
        let output = revoked.arg(file("pump-7.pem")).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains("certificate revoked"), "{output:?}");
    }
}

fn refusals() {
    let folder = Scratch::new("certs");
    for (arguments, says) in [
        (&["server", "a"][..], "holds no CA"),
        (&["ca"], ""),
        (&["ca"], "is there already"),
        (&["device", "../x"], "cannot be a name here"),
        (&["revoke", "nobody"], "has been issued"),
    ] {
        let output = certs(&folder, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(i32::from(!says.is_empty())), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(says), "{arguments:?}: {output:?}");
    }
    use std::os::unix::fs::PermissionsExt;
    let mode = |name: &str| folder.path().join("pki").join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ca.key"), mode("ca.pem"), mode("")), (0o600, 0o644, 0o700));
}
