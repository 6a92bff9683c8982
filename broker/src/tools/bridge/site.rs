//! A broker for a trial, in this process: one listener on loopback, a store in a temporary folder, one bridge.

use std::net::SocketAddr;
use std::sync::Arc;

use forebay_client::{Client, Options, Version};

use super::failed;
use crate::access::auth::Mechanisms;
use crate::bridge::outward::State;
use crate::bridge::{Bridges, Open};
use crate::broker::Taker;
use crate::config::{self, Bridge, Config, Overrides};
use crate::observe::OpenBridge;
use crate::start::{self, RunArgs, Running};
use crate::store::journal::store::JournaledStore;
use crate::tools::exit::Failure;
use crate::transport;

pub(super) struct Site {
    address: SocketAddr,
    bridges: Bridges,
    running: Running,
    name: String,
    /// Last: it is removed when nobody writes into it any more.
    _folder: tempfile::TempDir,
}

impl Site {
    /// Starts it; `open` makes the bridge's upstream.
    pub(super) fn start(config: &Config, bridge: &Bridge, open: &Open) -> Result<Self, Failure> {
        let folder = tempfile::tempdir().map_err(|error| failed("a temporary folder", &error))?;
        let config = Arc::new(config_of(config, folder.path())?);
        let options = config.store.options();
        let (store, recovered) =
            JournaledStore::open(&config.data_dir, &options, 0).map_err(|error| failed("its store", &error))?;
        let listeners =
            transport::bind(&config.listeners, &config.data_dir).map_err(|error| failed("a listener", &error))?;
        let address = listeners.iter().find_map(transport::BoundListener::addr);
        let address = address.ok_or_else(|| Failure::failed("loopback has no address"))?;
        let gauge = Some(store.gauge());
        let args = RunArgs {
            config,
            listeners,
            store: Box::new(store),
            gauge,
            recovered,
            mechanisms: Mechanisms::default(),
            access: None,
        };
        let running = start::start(args).map_err(|error| failed("the broker of the trial", &error))?;
        let bridges = Bridges::start_one(running.broker(), bridge, open.clone());
        let bridges = bridges.map_err(|error| failed("the bridge", &error))?;
        Ok(Self { address, bridges, running, name: bridge.name.clone(), _folder: folder })
    }

    /// Somebody who publishes there.
    pub(super) async fn client(&self) -> Result<Client, Failure> {
        let options = Options::new(&format!("mqtt://{}", self.address)).map_err(|error| failed("a client", &error))?;
        let connected = options.version(Version::V5).client_id("trial").connect().await;
        connected.map_err(|error| failed("a client of the trial", &error))
    }

    /// The bridge and its queue; `None` until it runs.
    pub(super) fn bridge(&self) -> Option<(Arc<OpenBridge>, Arc<Taker>)> {
        self.running.broker().observed.open_bridge(&self.name)
    }

    /// How the bridge is.
    pub(super) fn state(&self) -> State {
        self.bridge().map_or(State::Connecting, |(bridge, _)| bridge.state())
    }

    pub(super) fn stop(self) {
        self.bridges.stop();
        self.running.stop();
    }
}

/// The configuration of the site, as far as it matters to a bridge.
fn config_of(config: &Config, folder: &std::path::Path) -> Result<Config, Failure> {
    let listen = "mqtt://127.0.0.1:0".parse().map_err(|error| failed("loopback", &error))?;
    let overrides = Overrides { data_dir: Some(folder.to_owned()), listen: vec![listen], log: None };
    let mut own = config::load(None, &overrides).map_err(|error| failed("the trial's configuration", &error))?;
    own.limits = config.limits.clone();
    own.store = config.store.clone();
    own.durability.clone_from(&config.durability);
    Ok(own)
}
