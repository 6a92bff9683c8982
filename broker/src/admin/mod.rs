//! How operators reach a running broker: metrics, health and the API, over HTTP and over a Unix socket. All of it runs on a
//! thread and a runtime of its own, and looks at one session at a time: whatever is asked here, no worker waits for it.
//!
//! HTTP/1.1 is hyper's, without a framework on it: the routes are a table (`routes`), which the description of the API is
//! made from as well, and hyper alone is a fifth of what axum and its parts would add to the program.

mod access;
pub mod answers;
mod bind;
mod bridges;
mod declared;
mod delayed;
mod guard;
mod handlers;
pub mod health;
mod openapi;
mod page;
mod query;
mod queues;
mod routes;
mod serve;
mod sessions;
mod store;
mod why;

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{Notify, watch};

pub use bind::{AdminError, Bound, bind, check};
pub use openapi::description;
pub use query::encode;

use crate::broker::Broker;
use crate::store::Reader;
use crate::store::upkeep::Upkeep;

/// What the API works on.
pub struct Surroundings {
    /// The broker.
    pub broker: Arc<Broker>,
    /// Reads queues from disk.
    pub reader: Arc<dyn Reader>,
    /// What may be done with the store; `None`: nothing, it is in memory.
    pub upkeep: Option<Arc<dyn Upkeep>>,
    /// Told when somebody asks for the broker's end.
    pub shutdown: Arc<Notify>,
}

/// The running thread.
pub struct Admin {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

/// Serves what was bound, on a thread of its own.
///
/// # Errors
/// A thread or a runtime cannot be made.
pub fn start(bound: Bound, surroundings: Surroundings) -> std::io::Result<Admin> {
    let (stop, stopped) = watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(serve::JOBS_AT_ONCE)
        .thread_name("admin-job")
        .build()?;
    let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
        runtime.block_on(serve::serve(bound, surroundings, stopped));
        // A job that reads a slow disk must not hold the broker's end up.
        runtime.shutdown_background();
    })?;
    Ok(Admin { stop, thread })
}

impl Admin {
    /// Ends the thread.
    pub fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.thread.join();
    }
}
