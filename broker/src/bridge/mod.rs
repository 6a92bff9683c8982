//! Bridges: a durable, paced way upstream, and a way down.
//!
//! A bridge has a queue of its own in the store ([`crate::broker::Taker`]); what is in it leaves it when the upstream has
//! confirmed it. All bridges share one thread, which is none of the workers'.

pub mod backoff;
pub mod budget;
pub mod calendar;
pub mod control;
pub mod drain;
pub mod identity;
#[cfg(feature = "bridge-mqtt")]
pub mod inward;
pub mod outward;
pub mod pace;
mod replay;
mod run;
pub mod source;
mod suspect;
pub mod template;
pub mod timeline;
pub mod upstream;
pub mod wrap;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;

pub(crate) use run::{DEAD, Open};

use crate::broker::Broker;
use crate::config::Bridge;

/// The thread of all bridges.
pub struct Bridges {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Bridges {
    /// Starts what the configuration names; `None`: no bridge. To be called before anybody can publish: from then on their
    /// queues are open.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made, or the data directory cannot be written.
    pub fn start(broker: &Arc<Broker>) -> io::Result<Option<Self>> {
        leave_unnamed(broker);
        if broker.config.bridges.is_empty() {
            return Ok(None);
        }
        let all = broker.config.bridges.iter();
        Self::start_all(broker, all.filter_map(|bridge| Some((bridge, run::by_kind(bridge)?))).collect()).map(Some)
    }

    /// Starts this one alone, to an upstream that `open` makes: for a trial of its configuration.
    ///
    /// # Errors
    /// As for [`Bridges::start`].
    #[cfg(feature = "tools")]
    pub(crate) fn start_one(broker: &Arc<Broker>, bridge: &Bridge, open: Open) -> io::Result<Self> {
        Self::start_all(broker, vec![(bridge, open)])
    }

    fn start_all(broker: &Arc<Broker>, all: Vec<(&Bridge, Open)>) -> io::Result<Self> {
        let gateway: Arc<str> = identity::gateway(&broker.config.data_dir)?.into();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let prepared: Vec<_> = all.into_iter().map(|(bridge, open)| (run::prepare(broker, bridge), open)).collect();
        let broker = broker.clone();
        let thread = std::thread::Builder::new().name("bridges".to_owned()).spawn(move || {
            runtime.block_on(async {
                let mut all = tokio::task::JoinSet::new();
                for (bridge, open) in prepared {
                    all.spawn(run::run(broker.clone(), bridge, gateway.clone(), open, stopped.clone()));
                }
                while all.join_next().await.is_some() {}
            });
        })?;
        Ok(Self { stop, thread })
    }

    /// Ends all bridges. What is not confirmed stays in the queues.
    pub fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.thread.join();
    }
}

/// What bridges that the configuration does not name (any more) have left behind is filled no more, and said.
fn leave_unnamed(broker: &Arc<Broker>) {
    let is_known = |name: &str| broker.config.bridges.iter().any(|bridge| bridge.name == name);
    broker.leave_takers(|name| is_known(name.strip_suffix(DEAD).unwrap_or(name)));
    for file in identity::forgotten_outboxes(&broker.config.data_dir, is_known) {
        tracing::warn!(
            "{}: the configuration has no bridge of this name: what is in this outbox goes nowhere; name the bridge again, or \
             remove the file",
            file.display()
        );
    }
}
