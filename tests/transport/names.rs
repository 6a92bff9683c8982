//! Addresses of every kind: host names, interfaces, IPv6.

use std::net::TcpStream;
use std::path::Path;

use forebay_client::Options;
use forebay_tests::absence::panicking;
use forebay_tests::broker::{Broker, free_port};
use libtest_mimic::Trial;

use crate::{block_on, talk};

pub(crate) fn trials() -> Vec<Trial> {
    let ipv6 = TcpStream::connect("[::1]:1").is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
    let no_ipv6 = (!ipv6).then_some("no IPv6");
    let no_lo = (!Path::new("/sys/class/net/lo").exists()).then_some("no interface lo");
    vec![
        panicking("transport", "a_host_name_is_an_address", None, host_name),
        panicking("transport", "an_interface_is_an_address", no_lo, interface),
        panicking("transport", "ipv6_is_an_address", no_ipv6, ipv6_address),
        panicking("transport", "a_name_that_is_none_is_said", None, no_name),
        panicking("transport", "sockets_of_systemd_are_taken", None, inherited),
        panicking("transport", "versions_identifiers_and_new_connections_are_limited", None, admission),
    ]
}

fn at(host: &str) -> (Broker, u16) {
    let port = free_port();
    let mut broker = Broker::prepare(None);
    let more = if host.parse::<std::net::Ipv4Addr>().is_ok() {
        ""
    } else {
        "[[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\n"
    };
    broker.configure(&format!("{more}[[listeners]]\nurl = \"mqtt://{host}:{port}\"\nanonymous = true\n"));
    broker.run();
    (broker, port)
}

fn host_name() {
    // Another spelling of a name that every machine knows: `localhost` itself is not looked up.
    let name = "LocalHost";
    let (_broker, port) = at(name);
    block_on(talk(Options::new(&format!("mqtt://{name}:{port}")).unwrap()));
}

fn interface() {
    let (broker, port) = at("lo");
    block_on(talk(Options::new(&format!("mqtt://127.0.0.1:{port}")).unwrap()));
    assert!(broker.log().contains(&format!("mqtt://lo:{port}")), "{}", broker.log());
}

fn ipv6_address() {
    let (_broker, port) = at("[::1]");
    block_on(talk(Options::new(&format!("mqtt://[::1]:{port}")).unwrap()));
}

fn no_name() {
    let mut broker = Broker::prepare(None);
    broker.configure("[[listeners]]\nurl = \"mqtt://no-such-host.invalid:1883\"\nanonymous = true\n");
    broker.run();
    assert_eq!(broker.ended(), Some(1));
    assert!(broker.log().contains("no-such-host.invalid is no interface of this machine"), "{}", broker.log());
}

/// As systemd does it: the socket is open before the program, as descriptor 3.
fn inherited() {
    let (port, other) = (free_port(), free_port());
    let mut broker = Broker::prepare(None);
    let script = format!(
        "import os, socket, sys\n\
         for n, port in enumerate([{port}, {other}]):\n    \
             s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', port)); s.listen(); os.dup2(s.fileno(), 10 + n)\n\
         os.dup2(10, 3); os.dup2(11, 4); os.set_inheritable(3, True); os.set_inheritable(4, True)\n\
         os.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid()))\n\
         os.execv(sys.argv[1], sys.argv[1:])\n"
    );
    broker.set_wrapper(&["python3", "-c", &script]);
    // Without the socket that is handed over this would be in use.
    broker.configure(&format!(
        "[[listeners]]\nurl = \"mqtt://127.0.0.1:{port}\"\n[[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\n"
    ));
    broker.run();
    block_on(talk(Options::new(&format!("mqtt://127.0.0.1:{port}")).unwrap()));
    crate::logged(&broker, &["systemd hands over a socket", &format!("127.0.0.1:{other}")]);
}

fn admission() {
    use forebay_client::Version;
    let broker = Broker::with_config(
        "sys_interval = \"1s\"\n[[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\nversions = [\"5\"]\nclient_ids = [\"pump-*\", \"sys\"]\n\
         connects_per_s = 5\n",
    );
    let options = |id: &str| Options::new(&format!("mqtt://127.0.0.1:{}", broker.port())).unwrap().client_id(id);
    block_on(async {
        let error = crate::refused(options("pump-1").version(Version::V311)).await;
        assert!(error.to_string().contains("0x84"), "{error}");
        let error = crate::refused(options("valve-1").version(Version::V5)).await;
        assert!(error.to_string().contains("0x85"), "{error}");
        // More than come in a second: all are served, some later.
        for n in 0..8 {
            talk(options(&format!("pump-{n}")).version(Version::V5)).await;
        }
        let mut figures = crate::soon(options("sys").version(Version::V5).connect()).await.unwrap();
        let topic = "$SYS/broker/counters/sockets_delayed";
        let mut messages = crate::soon(figures.subscribe(forebay_client::Subscribe::to(topic))).await.unwrap();
        while crate::soon(messages.recv()).await.unwrap().payload() == b"0" {}
        crate::soon(figures.disconnect()).await;
        let _ = &mut figures;
    });
}
