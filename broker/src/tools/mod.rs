//! What people type: tools in the program that are not the broker.

pub mod bench;
pub mod demo;
pub mod exit;
mod format;
mod properties;
pub mod publish;
pub mod rest;
mod server;
pub mod shell;
pub mod subscribe;

use exit::{Exit, Failure};
use forebay_client::{Client, Event};

/// Runs a tool on this thread.
fn block_on(tool: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("this machine gives no event queue: {error}")))?;
    runtime.block_on(tool)
}

/// Says what happens to the connection: with `-d` all of it, else only that it is lost and that it is back.
fn tell_events(client: &Client, all: bool) {
    let mut events = client.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                Event::Connected(connected) if all => eprintln!("connected: {connected:?}"),
                Event::Connected(_) => eprintln!("connected again"),
                Event::Lost(reason) => eprintln!("the connection is lost: {reason}"),
                Event::Failed(error) => eprintln!("no connection: {error}"),
                Event::Waiting(time) if all => eprintln!("the next attempt is made in {time:.1?}"),
                Event::Waiting(_) | Event::Ended(_) | _ => {}
            }
        }
    });
}
