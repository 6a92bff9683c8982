//! The client for programs without tokio.

use std::time::Duration;

use forebay_client::{ConnectError, blocking};

use crate::server::Server;
use crate::{Q1, Q2, VERSIONS, message, options};

#[test]
fn a_program_without_tokio() {
    let network = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for version in VERSIONS {
        let server = network.block_on(Server::start(version));
        let client = blocking::Client::connect(options(server.port, version)).unwrap();
        let mut messages = client.subscribe("in/#").unwrap();
        client.wait(client.publish(message("hello", Q1)).unwrap()).unwrap();
        assert_eq!(server.times("hello"), 1);
        assert!(messages.try_recv().is_none());
        assert!(messages.recv_timeout(Duration::from_millis(20)).is_none());
        for n in 0..3 {
            server.send(n, Q2);
        }
        assert_eq!(messages.recv().unwrap().payload(), b"0");
        assert_eq!(messages.recv_timeout(Duration::from_secs(30)).unwrap().payload(), b"1");
        assert_eq!(messages.next().unwrap().payload(), b"2");
        client.drained();
        assert!(client.inner().is_connected());
        let second = client.clone();
        drop(client);
        messages.unsubscribe();
        assert_eq!(server.state().disconnects, 0, "there is a clone left");
        drop(second);
        network.block_on(server.until(|state| state.disconnects == 1));

        let client = blocking::Client::connect(options(server.port, version)).unwrap();
        let messages = client.subscribe("in/#").unwrap();
        let reader = std::thread::spawn(move || messages.count());
        client.disconnect();
        assert_eq!(reader.join().unwrap(), 0, "it ends with the client");
    }
    let error = blocking::Client::connect(options(1, VERSIONS[0])).unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
}
