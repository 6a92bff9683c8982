//! A bad command line is answered before a connection is opened: what is wrong, and what would be right.

use std::net::TcpListener;

use forebay_tests::broker::Broker;
use forebay_tests::scratch::Scratch;

use crate::{Case, bench, bench_words};

pub(crate) fn trials() -> Vec<Case> {
    vec![
        ("a_bad_command_line", None, wrong),
        ("a_bad_certificate", None, certificates),
        ("help_says_the_exit_codes", None, help),
    ]
}

/// Exit code 2 with these words, and nobody has connected.
fn refused(words: &[&str], says: &[&str]) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let words: Vec<String> = words.iter().map(|word| word.replace("HERE", &address)).collect();
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    let url = format!("mqtt://{address}");
    if !words.contains(&"--url") && words[0] != "compare" {
        words.extend(["--url", &url]);
    }
    let ended = bench_words(&words);
    assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{words:?}: {}", ended.err);
    for word in says {
        assert!(ended.err.contains(word), "{words:?}: {word:?} in {}", ended.err);
    }
    assert!(listener.accept().is_err(), "{words:?}: it connects");
}

fn wrong() {
    let cases: &[(&str, &[&str])] = &[
        ("--qos 3", &["3 is not in 0..=2"]),
        ("--rat 5", &["--rate"]),
        ("fanin", &["fan-in"]),
        ("--url http://HERE", &["\"http\" is not a scheme of MQTT", "mqtt://"]),
        ("--url HERE", &["is not a server's URL"]),
        ("--url mqtt://HERE/topic", &["--topic"]),
        ("-V 4.2", &["3.1.1", "5"]),
        ("--size 23", &["--size 23", "24"]),
        ("--size 300000000", &["--size 300000000"]),
        ("--window 65536 -q 1", &["from 1 to 65535"]),
        ("--window 0 -q 1", &["from 1 to 65535"]),
        ("--rate 0", &["--rate 0", "above 0"]),
        ("--rate NaN", &["--rate NaN"]),
        ("--seconds -1", &["-1"]),
        ("--seconds inf", &["--seconds inf"]),
        ("--messages 0", &["1 or more"]),
        ("--topic a/+", &["--topic \"a/+\"", "no +, # or U+0000"]),
        ("one-to-one --publishers 2", &["one-to-one has no --publishers; fan-in has"]),
        ("pairs --subscribers 2", &["pairs has no --subscribers", "--clients"]),
        ("fan-out --clients 2", &["fan-out has no --clients", "--subscribers"]),
        ("pairs -c 0", &["from 1 to 1000000"]),
        ("backlog -q 0", &["--qos 1 or 2"]),
        ("connect --rate 5", &["--connect-rate"]),
        ("connect -n 5", &["--clients"]),
        ("--pid 4194304999", &["4194304999"]),
        ("--pid 4194303", &["no such process"]),
        ("--password x", &["--username"]),
        ("--cafile /nowhere/ca.pem", &["--cafile is for TLS", "mqtts://"]),
        ("--insecure", &["--insecure is for TLS"]),
        ("--cert c.pem --url mqtts://HERE", &["--key"]),
        ("--json /nowhere/figures.json", &["--json /nowhere/figures.json cannot be written"]),
        ("pairs -c 900000000", &["from 1 to 1000000"]),
        ("compare --with emqx", &["--with emqx", "it knows forebay, mosquitto"]),
        ("compare --scenarios q9", &["--scenarios q9", "q0-1-1"]),
        ("compare --rounds 0", &["0 is not in 1.."]),
        ("compare --with floor --svg /nowhere/chart.svg", &["--svg /nowhere/chart.svg cannot be written"]),
    ];
    for (line, says) in cases {
        refused(&line.split(' ').collect::<Vec<_>>(), says);
    }
    refused(&["--topic", ""], &["--topic", "is not empty"]);
}

fn certificates() {
    let (scratch, broker, other) = (Scratch::new("usage"), Broker::start(), Broker::start());
    let file = scratch.path().join("file.pem");
    std::fs::write(&file, "no certificate").unwrap();
    let (file, url) = (file.to_str().unwrap(), "mqtts://HERE");
    refused(&["--cafile", "/nowhere/ca.pem", "--url", url], &["--cafile: /nowhere/ca.pem cannot be read"]);
    refused(&["--cafile", file, "--url", url], &["--cafile", file, "holds no certificate in PEM form"]);
    let certs = |broker: &Broker, name: &str| broker.data().join("certs").join(name).display().to_string();
    let (cert, key) = (certs(&broker, "server.pem"), certs(&other, "server.key"));
    refused(&["--insecure", "--cert", &cert, "--key", file, "--url", url], &["--key", "holds no private key"]);
    refused(&["--insecure", "--cert", file, "--key", &key, "--url", url], &["--cert", "holds no certificate"]);
    refused(&["--insecure", "--cert", &cert, "--key", &key, "--url", url], &["is not the key"]);
}

fn help() {
    for line in ["--help", "run --help", "compare --help"] {
        let ended = bench(line);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{line}");
        for words in ["Exit codes:", "4  the server cannot be reached", "6  what answers there", "7  TLS failed"] {
            assert!(ended.out.contains(words), "{line}: {words:?} in\n{}", ended.out);
        }
    }
    let ended = bench("compare --scenarios help");
    assert!(ended.code == Some(0) && ended.out.contains("forebay bench pairs -c 50 -q 1 -w 20"), "{ended:?}");
}
