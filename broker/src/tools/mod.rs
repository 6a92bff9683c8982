//! What people type: tools in the program that are not the broker.

pub mod bench;
pub mod bridge;
mod columns;
pub mod demo;
pub mod exit;
mod format;
mod printer;
mod properties;
pub mod publish;
pub mod rest;
pub mod rule;
mod say;
mod server;
pub mod shell;
mod stop;
pub mod subscribe;

use exit::Failure;
use forebay_client::{Client, Event};

/// Columns of a help text.
const WIDTH: usize = 80;

/// Runs a tool on this thread.
fn block_on<T>(tool: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("this machine gives no event queue: {error}")))?;
    let done = runtime.block_on(tool);
    // Whatever a thread still waits for: the tool is done.
    runtime.shutdown_background();
    done
}

/// Says what happens to the connection: with `-d` all of it, else only that it is lost and that it is back.
fn tell_events(client: &Client, all: bool) {
    let mut events = client.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                Event::Connected(connected) if all => say::line(connected_line(&connected)),
                Event::Connected(_) => say::line("connected again"),
                Event::Lost(reason) => say::line(format!("the connection is lost: {reason}")),
                Event::Failed(error) => say::line(format!("no connection: {error}")),
                Event::TooLarge { topic, size } => {
                    say::line(format!("a message of {topic} is left out: its {size} bytes are more than is taken"));
                }
                Event::Waiting(time) if all => say::line(format!("the next attempt is made in {time:.1?}")),
                Event::Waiting(_) | Event::Ended(_) | _ => {}
            }
        }
    });
}

/// What `-d` says of a connection.
fn connected_line(connected: &forebay_client::Connected) -> String {
    let session = if connected.resumed { "its session goes on" } else { "with a new session" };
    let at_once = connected.receive_maximum;
    format!("connected as \"{}\", {session}; the server takes {at_once} messages at once", connected.client_id)
}
