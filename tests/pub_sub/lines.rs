//! Command lines and what is said to people.

use forebay_tests::broker::Broker;

use super::{Subscriber, code, forebay, output, publish, words};

pub(super) fn values_begin_with_a_hyphen() {
    let broker = Broker::start();
    let subscriber = Subscriber::start(broker.port(), &["-t", "-x/#", "-q", "1", "-C", "3", "-F", "-%t %p %P"]);
    publish(broker.port(), &["-t", "-x/1", "-q", "1", "-m", "-5"]);
    publish(broker.port(), &["-t", "-x/2", "-q", "1", "-m", "-t", "-i", "-me", "--user-property", "-k=-v"]);
    publish(broker.port(), &["-t", "-x/3", "-q", "1", "-m", "--", "-D", "publish", "user-property", "k", "-7"]);
    assert_eq!(subscriber.lines(), ["--x/1 -5 ", "--x/2 -t -k:-v", "--x/3 -- k:-7"]);
}

pub(super) fn a_url_may_end_with_the_topic() {
    let broker = Broker::start();
    let url = format!("mqtt://127.0.0.1:{}/site/7", broker.port());
    let subscriber = Subscriber::start(broker.port(), &["-t", "site/#", "-q", "1", "-C", "1", "-v"]);
    assert_eq!(code(&["pub", "-L", &url, "-q", "1", "-r", "-m", "here"]).0, 0);
    assert_eq!(subscriber.lines(), ["site/7 here"]);
    let printed = output(forebay(&["sub", "-L", &url, "-C", "1", "-W", "20", "-v"]));
    assert_eq!((printed.status.code(), &printed.stdout[..]), (Some(0), &b"site/7 here\n"[..]), "{}", words(&printed));
    let (exit, said) = code(&["pub", "-L", &url, "-t", "other", "-m", "x"]);
    assert!(exit == 2 && said.contains("more than one topic"), "{exit}: {said}");
}

pub(super) fn options_without_effect_are_refused() {
    for line in [
        &["pub", "-t", "t", "-m", "x", "-e", "5"][..],
        &["pub", "-t", "t", "-m", "x", "-i", "me", "-x", "5"],
        &["pub", "-t", "t", "-m", "x", "--will-topic", "w", "--will-delay", "5"],
        &["pub", "-t", "t", "-m", "x", "-D", "publish", "message-expiry-interval", "5"],
        &["sub", "-t", "t", "--no-local"],
        &["sub", "-t", "t", "--retain-as-published"],
        &["sub", "-t", "t", "--retain-handling", "never"],
    ] {
        for version in ["3.1", "3.1.1"] {
            let (exit, said) = code(&[line, &["-V", version, "-p", "1"]].concat());
            assert!(exit == 2 && said.contains("needs MQTT 5"), "{line:?} {version}: {exit}: {said}");
        }
    }
}

pub(super) fn help_fits_80_columns() {
    for (tool, first) in [
        (&[][..], "A small, durable MQTT edge broker"),
        (&["pub"], "Publish messages"),
        (&["sub"], "Subscribe to topics"),
        (&["bench"], "Put load on any MQTT broker"),
        (&["bench", "run"], "Put one load on one broker"),
        (&["bench", "compare"], "Start brokers"),
        (&["demo"], "Show in a minute"),
        (&["store"], "Look at"),
    ] {
        let help = output(forebay(&[tool, &["--help"]].concat()));
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(help.status.success() && text.starts_with(first), "{tool:?}: {text}");
        let long = text.lines().find(|line| line.chars().count() > 80);
        assert_eq!(long, None, "{tool:?}");
    }
    let help = output(forebay(&["--help"]));
    assert!(String::from_utf8(help.stdout).unwrap().contains("3  the configuration file is wrong"));
}

pub(super) fn each_step_is_a_line_with_debug() {
    let broker = Broker::start();
    let port = broker.port().to_string();
    let published = output(forebay(&["pub", "-p", &port, "-i", "me", "-t", "t", "-q", "1", "-r", "-m", "x", "-d"]));
    let said = words(&published);
    let lines: Vec<&str> = said.lines().collect();
    let wanted = [
        format!("connecting to mqtt://127.0.0.1:{port}"),
        "connected as \"me\"".to_owned(),
        "message 1 has arrived".to_owned(),
        "disconnected".to_owned(),
    ];
    assert_eq!(lines, wanted);
    let printed = output(forebay(&["sub", "-p", &port, "-i", "me", "-t", "t", "-q", "1", "-C", "1", "-d"]));
    let said = words(&printed);
    let lines: Vec<&str> = said.lines().skip(1).collect();
    let wanted =
        ["connected as \"me\"", "subscribed to t: QoS 1 granted", "received t: QoS 1, 1 bytes", "disconnected"];
    assert_eq!(lines, wanted);
}

/// The broker takes each number once, sends what is delayed later, and a key travels as a property.
pub(super) fn delay_number_and_key() {
    let broker = Broker::start();
    let subscriber = Subscriber::start(broker.port(), &["-t", "q", "-q", "1", "-C", "5", "-F", "%p %P"]);
    publish(broker.port(), &["-t", "q", "-m", "late", "-q", "1", "--delay", "1"]);
    let numbered = ["-t", "q", "-m", "n", "-q", "1", "--origin", "pump", "--seq", "7", "--repeat", "2"];
    publish(broker.port(), &numbered);
    publish(broker.port(), &numbered);
    publish(broker.port(), &["-t", "q", "-m", "n", "-q", "1", "--origin", "pump", "--epoch", "1", "--seq", "7"]);
    publish(broker.port(), &["-t", "q", "-m", "keyed", "-q", "1", "-V", "5", "--order-key", "k"]);
    let mut lines = subscriber.lines();
    lines.sort();
    assert_eq!(lines.iter().filter(|line| line.starts_with("n ")).count(), 3, "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("late")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("keyed") && line.contains("key")), "{lines:?}");
}
