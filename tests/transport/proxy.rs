//! Behind proxies: haproxy with the PROXY protocol and with X-Forwarded-For, and those who only say that they are one.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use forebay_client::Options;
use forebay_tests::absence::{of_program, panicking};
use forebay_tests::broker::{Broker, free_port};
use forebay_tests::packet::Version;
use forebay_tests::peer::Connect;
use forebay_tests::scratch::Scratch;
use libtest_mimic::Trial;

use crate::{LIMIT, block_on, logged, refused, talk};

pub(crate) fn trials() -> Vec<Trial> {
    let absent = of_program("haproxy");
    vec![
        panicking("transport", "haproxy_says_who_connects", absent.as_deref(), haproxy),
        panicking("transport", "a_ban_meets_the_client_and_not_the_proxy", None, ban),
        panicking("transport", "only_trusted_proxies_are_believed", None, untrusted),
    ]
}

struct Haproxy(Child, #[allow(dead_code)] Scratch);

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One with these pairs of a port and what stands behind it.
fn start(ways: &[(u16, String)]) -> Haproxy {
    let folder = Scratch::new("haproxy");
    let mut text =
        "global\n  maxconn 100\ndefaults\n  timeout connect 10s\n  timeout client 60s\n  timeout server 60s\n"
            .to_owned();
    for (n, (port, behind)) in ways.iter().enumerate() {
        text += &format!("listen way{n}\n  bind 127.0.0.1:{port}\n{behind}\n");
    }
    let file = folder.path().join("haproxy.cfg");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = Haproxy(command.spawn().unwrap(), folder);
    let begun = std::time::Instant::now();
    while ways.iter().any(|(port, _)| TcpStream::connect(("127.0.0.1", *port)).is_err()) {
        assert!(begun.elapsed() < LIMIT, "haproxy does not listen");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child
}

fn haproxy() {
    let (first, second, tls, web) = (free_port(), free_port(), free_port(), free_port());
    let broker = Broker::with_config(&format!(
        "[[listeners]]\nurl = \"mqtts://127.0.0.1:{tls}\"\nproxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]\n\
         [[listeners]]\nurl = \"ws://127.0.0.1:{web}\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n\
         [[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\nproxy_protocol = true\ntrusted_proxies = [\"127.0.0.0/8\"]\n"
    ));
    let port = broker.port();
    let (over_tls, over_web) = (free_port(), free_port());
    let _haproxy = start(&[
        (first, format!("  mode tcp\n  server b 127.0.0.1:{port} send-proxy")),
        (second, format!("  mode tcp\n  server b 127.0.0.1:{port} send-proxy-v2")),
        (over_tls, format!("  mode tcp\n  server b 127.0.0.1:{tls} send-proxy-v2")),
        // A client that says whom it speaks for itself is not believed: the last entry is haproxy's.
        (over_web, format!("  mode http\n  option forwardfor\n  server b 127.0.0.1:{web}")),
    ]);
    let own = |name: &str, url: String| Options::new(&url).unwrap().client_id(name);
    block_on(async {
        talk(own("by-v1", format!("mqtt://127.0.0.1:{first}")).connector(From2::connector())).await;
        talk(own("by-v2", format!("mqtt://127.0.0.1:{second}")).connector(From2::connector())).await;
        let ca = forebay_client::Tls::new().ca_file(broker.ca()).unwrap();
        talk(own("by-tls", format!("mqtts://127.0.0.1:{over_tls}")).tls(ca).connector(From2::connector())).await;
        let web = own("by-web", format!("ws://127.0.0.1:{over_web}/"));
        talk(web.websocket_header("X-Forwarded-For", "203.0.113.9").unwrap().connector(From2::connector())).await;
    });
    for name in ["by-v1", "by-v2", "by-tls"] {
        logged(&broker, &["connected", name, "from=127.0.0.2:"]);
    }
    // 127.0.0.2 is trusted as well here, so what stands before it counts.
    logged(&broker, &["connected", "by-web", "from=203.0.113.9:"]);
}

/// Connects from 127.0.0.2.
struct From2;

impl From2 {
    fn connector() -> std::sync::Arc<dyn forebay_client::Connector> {
        std::sync::Arc::new(Self)
    }
}

impl forebay_client::Connector for From2 {
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> forebay_client::Connecting<'a> {
        Box::pin(async move {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind(([127, 0, 0, 2], 0).into())?;
            let to = tokio::net::lookup_host((host, port)).await?.find(|addr| addr.is_ipv4());
            let stream = socket.connect(to.ok_or(std::io::ErrorKind::NotFound)?).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as _)
        })
    }
}

/// A CONNECT behind a header that says this address; the CONNACK.
fn connack(port: u16, address: &str, user: Option<(&str, &str)>) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let header = format!("PROXY TCP4 {address} 127.0.0.1 5000 1883\r\n");
    let mut connect = Connect::clean(Version::V4, "c").packet();
    if let Some((name, password)) = user {
        let fields = [name, password].iter().flat_map(|text| forebay_tests::peer::string(text)).collect::<Vec<_>>();
        connect[9] |= 0xc0;
        connect[1] += u8::try_from(fields.len()).unwrap();
        connect.extend(fields);
    }
    stream.write_all(&[header.as_bytes(), &connect].concat()).unwrap();
    let mut answer = Vec::new();
    let mut four = [0; 4];
    if stream.read_exact(&mut four).is_ok() {
        answer.extend(four);
    }
    answer
}

fn ban() {
    let folder = Scratch::new("ban");
    let passwords = folder.path().join("passwords");
    std::fs::write(&passwords, "").unwrap();
    let broker = Broker::with_config(&format!(
        "[access]\npassword_file = \"{}\"\nmax_failures = 2\n[[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\n\
         proxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]\nanonymous = true\n",
        passwords.display()
    ));
    for _ in 0..2 {
        assert_eq!(connack(broker.port(), "192.0.2.66", Some(("a", "wrong")))[3], 4);
    }
    logged(&broker, &["the address is banned", "from=192.0.2.66:5000"]);
    assert_eq!(connack(broker.port(), "192.0.2.66", None)[3], 5, "it is banned");
    assert_eq!(connack(broker.port(), "192.0.2.67", None), [0x20, 2, 0, 0], "another client behind the same proxy");
}

fn untrusted() {
    let web = free_port();
    let broker = Broker::with_config(&format!(
        "[[listeners]]\nurl = \"ws://127.0.0.1:{web}\"\ntrusted_proxies = [\"192.0.2.0/24\"]\n\
         [[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\nproxy_protocol = true\ntrusted_proxies = [\"192.0.2.1\"]\n"
    ));
    assert_eq!(connack(broker.port(), "203.0.113.7", None), b"");
    logged(&broker, &["from=127.0.0.1:", "no trusted proxy"]);
    block_on(async {
        refused(Options::new(&format!("mqtt://127.0.0.1:{}", broker.port())).unwrap()).await;
        let options = Options::new(&format!("ws://127.0.0.1:{web}")).unwrap().client_id("liar");
        talk(options.websocket_header("X-Forwarded-For", "203.0.113.7").unwrap()).await;
    });
    logged(&broker, &["connected", "liar", "from=127.0.0.1:"]);
    // A trusted proxy that says nothing of the kind.
    let broker = Broker::with_config(
        "[[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\nproxy_protocol = true\ntrusted_proxies = [\"::1\", \"127.0.0.1\"]\n",
    );
    let error = block_on(refused(Options::new(&format!("mqtt://127.0.0.1:{}", broker.port())).unwrap()));
    drop(error);
    logged(&broker, &["no header of the PROXY protocol"]);
}
