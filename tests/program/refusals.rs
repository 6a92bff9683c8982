//! What of this machine stands in the way: exit code 1 and one line that says what, where and what to do.

use std::net::TcpListener;
use std::path::Path;

use forebay_tests::broker::{Broker, free_port};
use forebay_tests::scratch::Scratch;

use crate::{Case, run};

pub(crate) fn trials() -> Vec<Case> {
    vec![
        ("a_configuration_that_is_not_there", None, no_configuration_file),
        ("a_port_in_use", None, port_in_use),
        ("a_data_directory_that_another_broker_holds", None, data_in_use),
        ("a_data_directory_that_cannot_be_made", None, data_is_a_file),
        ("a_certificate_or_key_that_cannot_be_read", None, no_key),
        ("a_key_that_is_not_pem", None, not_pem),
        ("a_key_of_another_certificate", None, another_key),
    ]
}

/// One line with all of `words` in it, exit code 1, and nothing said of being open.
fn refused(arguments: &[&str], words: &[&str]) {
    let ended = run(arguments);
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{arguments:?}: {ended:?}");
    assert_eq!(ended.err.lines().count(), 1, "{arguments:?}: one line\n{}", ended.err);
    assert!(ended.err.starts_with("forebay: "), "{}", ended.err);
    for word in words {
        assert!(ended.err.contains(word), "{arguments:?}: {word:?} in {}", ended.err);
    }
}

fn no_configuration_file() {
    let scratch = Scratch::new("refused");
    let file = scratch.path().join("none.toml");
    refused(&["--config", file.to_str().unwrap()], &[file.to_str().unwrap(), "cannot be read", "--config"]);
}

fn port_in_use() {
    let scratch = Scratch::new("refused");
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let url = format!("mqtt://{address}");
    let arguments = ["--data-dir", scratch.path().to_str().unwrap(), "--listen", &url];
    refused(&arguments, &[&address, "in use", &url, "choose another address with --listen"]);
}

fn data_in_use() {
    let broker = Broker::start();
    let url = format!("mqtt://127.0.0.1:{}", free_port());
    let data = broker.data().to_str().unwrap();
    refused(&["--data-dir", data, "--listen", &url], &[data, "in use by another broker", "choose another --data-dir"]);
}

fn data_is_a_file() {
    let scratch = Scratch::new("refused");
    let file = scratch.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (file, url) = (file.to_str().unwrap(), format!("mqtt://127.0.0.1:{}", free_port()));
    refused(&["--data-dir", file, "--listen", &url], &[file, "cannot be made", "choose another --data-dir"]);
}

/// A configuration of one TLS listener; the answer is its file's name.
fn tls_config(folder: &Path, certificate: &str, key: &str) -> String {
    let port = free_port();
    let text = format!(
        "data_dir = \"data\"\n[[listeners]]\nurl = \"mqtts://127.0.0.1:{port}\"\n\
         certificate = \"{certificate}\"\nkey = \"{key}\"\n"
    );
    let file = folder.join("forebay.toml");
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

/// A certificate and its key, `NAME.pem` and `NAME.key`.
fn certificate(folder: &Path, name: &str) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join(format!("{name}.pem")), made.cert.pem()).unwrap();
    std::fs::write(folder.join(format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
}

fn no_key() {
    let scratch = Scratch::new("refused");
    certificate(scratch.path(), "a");
    for (certificate, key, missing, what) in
        [("a.pem", "none.key", "none.key", "`key`"), ("none.pem", "a.key", "none.pem", "`certificate`")]
    {
        let config = tls_config(scratch.path(), certificate, key);
        let missing = scratch.path().join(missing);
        let words = [missing.to_str().unwrap(), "cannot be read", "No such file", what, "listener mqtts://127.0.0.1:"];
        refused(&["--config", &config], &words);
    }
    // A folder can be opened and not read, by anyone.
    std::fs::create_dir(scratch.path().join("folder.key")).unwrap();
    let config = tls_config(scratch.path(), "a.pem", "folder.key");
    refused(&["--config", &config], &["folder.key", "cannot be read", "`key`"]);
}

fn not_pem() {
    let scratch = Scratch::new("refused");
    certificate(scratch.path(), "a");
    std::fs::write(scratch.path().join("words"), "not a key\n").unwrap();
    let torn = "-----BEGIN PRIVATE KEY-----\n!!!!\n-----END PRIVATE KEY-----\n";
    std::fs::write(scratch.path().join("torn"), torn).unwrap();
    for (certificate, key, wrong, what) in [
        ("a.pem", "words", "words", "private key"),
        ("a.pem", "a.pem", "a.pem", "private key"),
        ("words", "a.key", "words", "certificate"),
        ("a.pem", "torn", "torn", "PEM"),
    ] {
        let config = tls_config(scratch.path(), certificate, key);
        let wrong = scratch.path().join(wrong);
        refused(
            &["--config", &config],
            &[wrong.to_str().unwrap(), what, "PEM", "listener mqtts://127.0.0.1:", "set `"],
        );
    }
}

fn another_key() {
    let scratch = Scratch::new("refused");
    certificate(scratch.path(), "a");
    certificate(scratch.path(), "b");
    let config = tls_config(scratch.path(), "a.pem", "b.key");
    let (key, pem) = (scratch.path().join("b.key"), scratch.path().join("a.pem"));
    let words =
        [key.to_str().unwrap(), pem.to_str().unwrap(), "not the key of", "listener mqtts://127.0.0.1:", "set `"];
    refused(&["--config", &config], &words);
}
