//! What operators see and do: metrics, health, the API, `forebay ctl`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]
#![allow(clippy::wildcard_enum_match_arm)]

mod api;
mod backup;
mod ctl;
mod health;
mod machine;
mod metrics;
mod openapi;
mod reload;
mod shipped;
mod stall;
mod store;

use std::path::PathBuf;

use forebay_tests::broker::{Broker, free_port};
use forebay_tests::http::Api;
use forebay_tests::link::Endpoint;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Connect, Peer};

/// A broker that operators reach over HTTP and over its socket.
struct Site {
    broker: Broker,
    port: u16,
}

impl Site {
    /// `more` goes into the configuration, `admin` into its `[admin]`.
    fn start(more: &str, admin: &str) -> Self {
        let mut broker = Broker::prepare(None);
        broker.plain_only();
        let port = free_port();
        let socket = broker.data().join("admin.sock");
        broker.configure(&format!(
            "{more}\n[[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\n[admin]\nhttp = \"127.0.0.1:{port}\"\nsocket = \"{}\"\n{admin}\n",
            socket.display()
        ));
        broker.run();
        Self { broker, port }
    }

    fn http(&self) -> Api {
        Api::http(self.port)
    }

    fn socket_path(&self) -> PathBuf {
        self.broker.data().join("admin.sock")
    }

    fn socket(&self) -> Api {
        Api::socket(&self.socket_path())
    }

    fn tcp(&self) -> Endpoint {
        Endpoint::tcp(self.broker.port())
    }

    /// A client with a session that is kept, subscribed at QoS 1.
    fn subscriber(&self, client: &str, filter: &str) -> Peer {
        let (mut peer, _) = Peer::open(&self.tcp(), &Connect::kept(Version::V5, client));
        assert_eq!(peer.subscribe(&[(filter, 1)]), [1]);
        peer
    }

    fn publisher(&self) -> Peer {
        Peer::open(&self.tcp(), &Connect::clean(Version::V5, "publisher")).0
    }
}

/// Asks until the answer is so.
fn until<T: std::fmt::Debug>(what: &str, mut ask: impl FnMut() -> T, is_so: impl Fn(&T) -> bool) -> T {
    let begun = std::time::Instant::now();
    loop {
        let answer = ask();
        if is_so(&answer) {
            return answer;
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{what}: {answer:?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
