//! WebSocket: the client library, paho, MQTT.js in Node and in a browser, and what is not to be.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use forebay_client::{Options, Tls};
use forebay_tests::absence::panicking;
use forebay_tests::broker::Broker;
use forebay_tests::browser::{self, Browser};
use forebay_tests::packet::Version;
use forebay_tests::peer::Connect;
use libtest_mimic::Trial;

use crate::{LIMIT, block_on, cache, logged, refused, run, talk};

pub(crate) fn trials() -> Vec<Trial> {
    let modules = cache().join("node").join("node_modules").join("mqtt");
    let no_mqttjs = (!modules.exists()).then(|| format!("no mqtt in {}", modules.display()));
    let python = cache().join("venv").join("bin").join("python");
    let no_paho = (!python.exists()).then(|| format!("no paho-mqtt for {}", python.display()));
    let no_browser = no_mqttjs.clone().or_else(browser::absent);
    vec![
        panicking("transport", "ws_and_wss_carry_mqtt", None, carry),
        panicking("transport", "mqttjs_in_node_over_ws_and_wss", no_mqttjs.as_deref(), node),
        panicking("transport", "paho_over_ws_and_wss", no_paho.as_deref(), paho),
        panicking("transport", "mqttjs_in_a_browser", no_browser.as_deref(), in_a_browser),
        panicking("transport", "frames_of_any_size_and_order", None, frames),
        panicking("transport", "what_is_no_websocket_is_told", None, told),
        panicking("transport", "what_frames_may_not_be_ends_the_connection", None, violations),
        panicking("transport", "an_idle_websocket_owns_little", None, idle),
    ]
}

fn broker(more: &str) -> Broker {
    let ws = format!("[[listeners]]\nurl = \"ws://127.0.0.1:PORT/mqtt\"\nanonymous = true\n{more}\n");
    Broker::with_config(&format!("{ws}[[listeners]]\nurl = \"wss://127.0.0.1:TLS_PORT\"\nanonymous = true\n"))
}

fn ws(broker: &Broker) -> String {
    format!("ws://127.0.0.1:{}/mqtt", broker.port())
}

fn wss(broker: &Broker) -> String {
    format!("wss://localhost:{}/any", broker.tls_port())
}

fn carry() {
    let broker = broker("");
    block_on(async {
        talk(Options::new(&ws(&broker)).unwrap()).await;
        let tls = Tls::new().ca_file(broker.ca()).unwrap();
        talk(Options::new(&wss(&broker)).unwrap().tls(tls)).await;
        let elsewhere = format!("ws://127.0.0.1:{}/elsewhere", broker.port());
        let error = refused(Options::new(&elsewhere).unwrap()).await;
        assert!(error.to_string().contains("404"), "{error}");
    });
    logged(&broker, &["no WebSocket at this path", "from=127.0.0.1:"]);
}

/// A publisher and a subscriber in one, with QoS 2 and a payload of some hundred kilobytes.
const SCRIPT: &str = "
const client = (typeof mqtt === 'undefined' ? require('mqtt') : mqtt).connect(URL, OPTIONS)
client.on('error', (error) => finish('error: ' + error))
client.on('connect', () => client.subscribe('page/#', { qos: 2 }, () => {
  client.publish('page/big', 'x'.repeat(300000), { qos: 2 })
}))
client.on('message', (topic, payload) => { client.end(false, () => finish(topic + ' ' + payload.length)) })
";

fn node() {
    let broker = broker("");
    for (url, version) in [(ws(&broker), 4), (wss(&broker), 5), (ws(&broker), 5)] {
        let ca = format!("require('fs').readFileSync('{}')", broker.ca().display());
        let script = SCRIPT
            .replace("URL", &format!("'{url}'"))
            .replace("OPTIONS", &format!("{{ protocolVersion: {version}, reconnectPeriod: 0, ca: {ca} }}"));
        let script = format!("function finish (text) {{ console.log(text); process.exit(0) }}\n{script}");
        let mut command = Command::new("node");
        command.args(["-e", &script]).env("NODE_PATH", cache().join("node").join("node_modules"));
        assert_eq!(run(&mut command).trim(), "page/big 300000", "{url}");
    }
}

fn paho() {
    let broker = broker("");
    for (port, path, ca) in [(broker.port(), "/mqtt", None), (broker.tls_port(), "/any", Some(broker.ca()))] {
        let tls = ca.map_or_else(String::new, |ca| format!("c.tls_set(ca_certs='{}')\n", ca.display()));
        let script = format!(
            "import paho.mqtt.client as mqtt\n\
             c = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, transport='websockets', protocol=mqtt.MQTTv5)\n\
             c.ws_set_options(path='{path}')\n{tls}\
             def connected(c, u, f, reason, p): c.subscribe('p/#', 2)\n\
             def subscribed(c, u, mid, reasons, p): c.publish('p/big', b'x' * 300000, 2)\n\
             def message(c, u, m): print(m.topic, len(m.payload)); c.disconnect()\n\
             c.on_connect, c.on_subscribe, c.on_message = connected, subscribed, message\n\
             c.connect('localhost', {port}); c.loop_forever()\n"
        );
        let mut command = Command::new(cache().join("venv").join("bin").join("python"));
        assert_eq!(run(command.args(["-c", &script])).trim(), "p/big 300000");
    }
}

/// Serves files over HTTP for as long as the test's process lives; the port.
fn serve(files: Vec<(&'static str, &'static str, Vec<u8>)>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let Ok(n) = stream.read(&mut request) else { continue };
            let path = String::from_utf8_lossy(&request[..n]).split(' ').nth(1).unwrap_or_default().to_owned();
            let found = files.iter().find(|(name, _, _)| *name == path);
            let (kind, body) = found.map_or(("text/plain", &b""[..]), |(_, kind, body)| (kind, body));
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    port
}

/// The page is not the broker's, but of the same host; another host's page is refused.
fn in_a_browser() {
    let broker = broker("");
    let library = std::fs::read(cache().join("node/node_modules/mqtt/dist/mqtt.min.js")).unwrap();
    let script = SCRIPT.replace("URL", &format!("'{}'", ws(&broker))).replace("OPTIONS", "{ reconnectPeriod: 0 }");
    let page = format!(
        "<body><p id=result>waiting</p><script src=/mqtt.js></script><script>\n\
         function finish (text) {{ document.getElementById('result').textContent = text }}\n{script}</script>"
    );
    let port = serve(vec![
        ("/", "text/html", page.clone().into_bytes()),
        ("/mqtt.js", "text/javascript", library),
        ("/favicon.ico", "image/png", Vec::new()),
    ]);
    let browser = Browser::start(false);
    browser.open(&format!("http://127.0.0.1:{port}/"));
    browser.until_text("page/big 300000");
    // `localhost` is another host than the one that the WebSocket is asked of.
    browser.open(&format!("http://localhost:{port}/"));
    logged(&broker, &["may not connect", &format!("http://localhost:{port}")]);
}

/// A socket after the opening handshake.
fn opened(broker: &Broker, more: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let head = asked(&mut stream, &format!("Sec-WebSocket-Protocol: mqtt\r\n{more}"));
    assert!(head.starts_with("HTTP/1.1 101 ") && !head.to_lowercase().contains("extensions"), "{head}");
    stream
}

/// The head of the answer to a request with these lines.
fn asked(stream: &mut TcpStream, lines: &str) -> String {
    let request = format!(
        "GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{lines}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// A client's frame; its mask is not zero.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | short as u8),
        middle @ 126..=65535 => {
            bytes.push(0x80 | 126);
            bytes.extend((middle as u16).to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().enumerate().map(|(n, byte)| byte ^ mask[n % 4]));
    bytes
}

fn frames() {
    let broker = broker("");
    let mut stream = opened(&broker, "Sec-WebSocket-Extensions: permessage-deflate\r\n");
    // CONNECT in three frames of one message with a Ping between them, each byte of the first in a write of its own.
    let connect = Connect::clean(Version::V4, "frames").packet();
    for byte in frame(0x02, &connect[..3]) {
        stream.write_all(&[byte]).unwrap();
    }
    stream.write_all(&frame(0x89, b"ping")).unwrap();
    stream.write_all(&frame(0x00, &connect[3..9])).unwrap();
    // Its end shares a frame with two PINGREQs.
    stream.write_all(&frame(0x80, &[&connect[9..], b"\xc0\0\xc0\0"].concat())).unwrap();
    let mut answer = [0; 6 + 6 + 6];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer[..6], b"\x8a\x04ping");
    assert_eq!(&answer[6..12], b"\x82\x04\x20\x02\0\0");
    // One frame or two, as they were written.
    let mut rest = answer[12..].to_vec();
    if rest.starts_with(b"\x82\x02") {
        rest.extend([0; 2]);
        stream.read_exact(&mut rest[6..]).unwrap();
        assert_eq!(rest, b"\x82\x02\xd0\0\x82\x02\xd0\0");
    } else {
        assert_eq!(rest, b"\x82\x04\xd0\0\xd0\0");
    }
    stream.write_all(&frame(0x88, &[3, 232])).unwrap();
    let mut end = Vec::new();
    stream.read_to_end(&mut end).unwrap();
    assert_eq!(end, b"\x88\x02\x03\xe8");
}

fn told() {
    let broker = broker("origins = [\"https://panel.example\"]");
    for (lines, status) in [
        ("", "400"),
        ("Sec-WebSocket-Protocol: xmpp\r\n", "400"),
        ("Sec-WebSocket-Protocol: mqtt\r\nOrigin: https://other.example\r\n", "403"),
        ("Sec-WebSocket-Protocol: mqtt\r\nOrigin: https://panel.example\r\n", "101"),
        ("Sec-WebSocket-Protocol: mqttv3.1\r\n", "101"),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
        let head = asked(&mut stream, lines);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{lines}: {head}");
    }
    // MQTT without WebSocket.
    let mut stream = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(&Connect::clean(Version::V4, "plain").packet()).unwrap();
    stream.write_all(b"\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    logged(&broker, &["no HTTP request"]);
}

fn violations() {
    let broker = broker("");
    let connect = Connect::clean(Version::V4, "bad").packet();
    for (bytes, code) in [
        (frame(0x81, b"text"), 1003_u16),
        (frame(0xc2, b"compressed"), 1002),
        (b"\x82\x01a".to_vec(), 1002),
        (frame(0x80, b"continued"), 1002),
        (b"\x82\xff\0\0\0\0\x10\0\0\0\0\0\0\0".to_vec(), 1009),
    ] {
        let mut stream = opened(&broker, "");
        stream.write_all(&frame(0x82, &connect)).unwrap();
        let mut connack = [0; 6];
        stream.read_exact(&mut connack).unwrap();
        stream.write_all(&bytes).unwrap();
        let mut end = Vec::new();
        stream.read_to_end(&mut end).unwrap();
        assert_eq!(end, [&[0x88, 2][..], &code.to_be_bytes()].concat(), "{bytes:?}");
    }
    block_on(talk(Options::new(&ws(&broker)).unwrap()));
}

/// A thousand of them, each of which has had a large packet, take no more than what the system's own sockets take.
fn idle() {
    let broker = broker("");
    let idle = |n: usize| {
        let mut stream = opened(&broker, "");
        stream.write_all(&frame(0x82, &Connect::clean(Version::V4, &format!("idle-{n}")).packet())).unwrap();
        stream.read_exact(&mut [0; 6]).unwrap();
        let packet = forebay_tests::peer::publish(Version::V4, 1, 1, "big", &[], &[b'x'; 200_000]);
        stream.write_all(&frame(0x82, &packet)).unwrap();
        stream.read_exact(&mut [0; 6]).unwrap();
        stream
    };
    let mut open: Vec<TcpStream> = (0..50).map(idle).collect();
    let before = broker.resident_kb();
    open.extend((50..550).map(idle));
    let each = broker.resident_kb().saturating_sub(before) * 1024 / 500;
    println!("an idle WebSocket: {each} bytes");
    assert!(each < 8 * 1024, "{each} bytes for each idle WebSocket");
    assert!(Path::new("/proc/self").exists());
}
