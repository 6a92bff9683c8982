//! TLS, client certificates, WebSocket, Unix sockets, passwords: mosquitto's listeners, and TLS of this repository's broker.

use std::process::Command;

use forebay_client::{ConnectError, Message, Options, QoS, ReasonCode, Reconnect, Subscribe, Tls, Version};
use forebay_tests::absence::{of_program, panicking};
use forebay_tests::broker::{Broker, free_port};
use forebay_tests::scratch::Scratch;
use forebay_tests::server::{Program, make_certificates, write};
use libtest_mimic::Trial;

use crate::{BOTH, block_on, soon};

pub(crate) fn trials() -> Vec<Trial> {
    let absent = of_program("mosquitto");
    vec![
        panicking("servers", "every_transport_of_mosquitto", absent.as_deref(), || block_on(mosquitto())),
        panicking("servers", "tls_of_forebay", None, || block_on(forebay())),
    ]
}

/// One message there and back, of each QoS, and larger than a frame of TLS.
async fn talk(options: Options) {
    let client = soon(options.reconnect(Reconnect::never()).connect()).await.unwrap();
    let mut messages = soon(client.subscribe(Subscribe::to("talk").qos(QoS::ExactlyOnce))).await.unwrap();
    for (n, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().enumerate() {
        let payload = n.to_string().repeat(50_000);
        let message = Message::new("talk", payload.clone()).qos(qos);
        soon(soon(client.publish(message)).await.unwrap()).await.unwrap();
        let received = soon(messages.recv()).await.unwrap();
        assert!(received.payload() == payload.as_bytes() && received.qos() == qos);
    }
    soon(client.disconnect()).await;
}

async fn refused(options: Options) -> ConnectError {
    soon(options.reconnect(Reconnect::never()).connect()).await.unwrap_err()
}

async fn mosquitto() {
    let scratch = Scratch::new("servers");
    make_certificates(scratch.path());
    let folder = scratch.path().display().to_string();
    let passwords = write(&scratch, "passwords", "");
    let made = Command::new("mosquitto_passwd").args(["-b", &passwords, "me", "se:cret"]).status().unwrap();
    assert!(made.success());
    let [plain, tls, certificate, websocket, wss, password] = [(); 6].map(|()| free_port());
    let certified = format!("cafile {folder}/ca.pem\ncertfile {folder}/server.pem\nkeyfile {folder}/server.key\n");
    let listeners = format!(
        "listener {plain} 127.0.0.1\nallow_anonymous true\n\
         listener {tls} 127.0.0.1\nallow_anonymous true\n{certified}\
         listener {certificate} 127.0.0.1\nallow_anonymous true\n{certified}require_certificate true\n\
         listener {websocket} 127.0.0.1\nallow_anonymous true\nprotocol websockets\n\
         listener {wss} 127.0.0.1\nallow_anonymous true\nprotocol websockets\n{certified}\
         listener {password} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\n\
         listener 0 {folder}/socket\nallow_anonymous true\n"
    );
    let program = Program::mosquitto_with(scratch, plain, &listeners);
    let file = |name: &str| program.folder().join(name);
    let own = || Tls::new().ca_file(file("ca.pem")).unwrap();
    let known = || own().identity(file("client.pem"), file("client.key")).unwrap();
    let url = |url: String| Options::new(&url).unwrap();
    for version in BOTH {
        let url = |text: String| url(text).version(*version);
        talk(url(format!("mqtt://127.0.0.1:{plain}"))).await;
        talk(url(format!("mqtts://localhost:{tls}")).tls(own())).await;
        talk(url(format!("mqtts://127.0.0.1:{certificate}")).tls(known())).await;
        let config = std::sync::Arc::new(known().client_config().unwrap());
        talk(url(format!("mqtts://127.0.0.1:{certificate}")).tls(Tls::new().with_config(config))).await;
        talk(url(format!("ws://127.0.0.1:{websocket}"))).await;
        talk(url(format!("wss://localhost:{wss}")).tls(own())).await;
        talk(url(format!("unix://{folder}/socket"))).await;
        talk(url(format!("mqtt://me:se%3acret@127.0.0.1:{password}"))).await;
        let error = refused(url(format!("mqtt://me:wrong@127.0.0.1:{password}"))).await;
        let ConnectError::Refused { reason, .. } = error else { panic!("{error:?}") };
        assert!(matches!(reason, ReasonCode::NotAuthorized | ReasonCode::BadUserNameOrPassword), "{reason:?}");
        let error = refused(url(format!("mqtt://127.0.0.1:{password}"))).await;
        assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
        // Nobody's CA, no certificate where one is wanted, TLS where there is none and none where there is.
        for (to, tls_options) in [(tls, Tls::new()), (certificate, own()), (plain, own())] {
            let error = refused(url(format!("mqtts://127.0.0.1:{to}")).tls(tls_options)).await;
            assert!(matches!(error, ConnectError::Tls { .. }), "{to}: {error:?}");
        }
        let error = refused(url(format!("mqtts://127.0.0.1:{tls}")).tls(own().server_name("other.example"))).await;
        assert!(matches!(&error, ConnectError::Tls { detail, .. } if detail.contains("name")), "{error:?}");
        let error = refused(url(format!("mqtt://127.0.0.1:{tls}"))).await;
        assert!(matches!(error, ConnectError::Closed | ConnectError::Protocol(_)), "{error:?}");
        let error = refused(url(format!("ws://127.0.0.1:{plain}"))).await;
        assert!(matches!(error, ConnectError::WebSocket { .. }), "{error:?}");
        let error = refused(url(format!("mqtt://127.0.0.1:{websocket}"))).await;
        assert!(matches!(error, ConnectError::Closed | ConnectError::Protocol(_)), "{error:?}");
    }
}

async fn forebay() {
    let broker = Broker::start();
    let url = format!("mqtts://127.0.0.1:{}", broker.tls_port());
    for version in [Version::V311, Version::V5] {
        let own = Tls::new().ca_file(broker.ca()).unwrap();
        talk(Options::new(&url).unwrap().version(version).tls(own)).await;
        let error = refused(Options::new(&url).unwrap().version(version).tls(Tls::new())).await;
        assert!(matches!(error, ConnectError::Tls { .. }), "{error:?}");
        talk(Options::new(&url).unwrap().version(version).tls(Tls::new().without_verification())).await;
    }
}
