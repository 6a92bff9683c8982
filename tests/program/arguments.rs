//! The command line.

use std::net::TcpStream;

use forebay_tests::broker::{Broker, free_port};

use crate::{Case, run};

pub(crate) fn trials() -> Vec<Case> {
    vec![
        ("version", None, version),
        ("help_names_every_option", None, help),
        ("bad_usage_ends_with_2", None, bad_usage),
        ("listen_replaces_the_configured_listeners", None, listen_replaces),
    ]
}

fn version() {
    let ended = run(&["--version"]);
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (Some(0), "forebay 0.1.0\n", ""));
}

fn help() {
    let ended = run(&["--help"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    for option in ["--config", "--data-dir", "--listen", "--log", "--help", "--version"] {
        assert!(ended.out.contains(option), "{option} in\n{}", ended.out);
    }
}

fn bad_usage() {
    for (arguments, named) in [
        (&["--confg", "x"][..], "--confg"),
        (&["--listen", "example.com"], "example.com"),
        (&["--listen", "http://127.0.0.1:80"], "http"),
        (&["--listen", "mqtt://127.0.0.1:70000"], "70000"),
        (&["--log", "loud"], "loud"),
        (&["--config"], "--config"),
        (&["stray"], "stray"),
        (&["--listen", "mqtt://127.0.0.1:1", "--listen", "mqtt://0.0.0.0:1"], "mqtt://0.0.0.0:1"),
        (&["--listen", "mqtt://127.0.0.1:1", "store", "verify"], "--listen"),
        (&["store", "verify", "--listen", "mqtt://127.0.0.1:1"], "--listen"),
    ] {
        let ended = run(arguments);
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{arguments:?}: {ended:?}");
        assert!(ended.err.contains(named), "{arguments:?}: {}", ended.err);
    }
}

fn listen_replaces() {
    let configured = free_port();
    let mut broker = Broker::prepare(None);
    broker.configure(&format!("listeners = [{{ url = \"mqtt://127.0.0.1:{configured}\" }}]\n"));
    broker.run();
    for port in [broker.port(), broker.tls_port()] {
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok(), "--listen twice: {port}\n{}", broker.log());
    }
    assert!(TcpStream::connect(("127.0.0.1", configured)).is_err(), "the configured listener is open as well");
    assert!(!broker.log().contains(&configured.to_string()), "{}", broker.log());
}
