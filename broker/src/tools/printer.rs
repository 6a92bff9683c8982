//! Writes to the standard output by a thread of its own: one that nobody reads holds up neither the connection nor a signal.

use std::io::{self, Write};

use tokio::sync::mpsc;

use super::exit::Failure;

/// Takes lines, and says of each, in order, how writing it went. Lines of which nothing was said may not be written.
pub(super) struct Printer {
    lines: mpsc::UnboundedSender<Vec<u8>>,
    written: mpsc::UnboundedReceiver<io::Result<()>>,
}

impl Printer {
    /// Starts the thread. It ends when the printer is dropped, or with the program while it waits for the output's reader.
    pub(super) fn start() -> Result<Self, Failure> {
        let (lines, mut to_write) = mpsc::unbounded_channel::<Vec<u8>>();
        let (done, written) = mpsc::unbounded_channel();
        let print = move || {
            while let Some(line) = to_write.blocking_recv() {
                let mut out = io::stdout().lock();
                let outcome = out.write_all(&line).and_then(|()| out.flush());
                if done.send(outcome).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("output".to_owned()).spawn(print);
        thread.map_err(|error| Failure::failed(format!("a thread for the output cannot be started: {error}")))?;
        Ok(Self { lines, written })
    }

    /// Has a line written. Whoever calls it bounds how many wait.
    pub(super) fn print(&self, line: Vec<u8>) {
        // Then `written` says so.
        let _ = self.lines.send(line);
    }

    /// How writing the next line went. Cancelling it loses nothing.
    pub(super) async fn written(&mut self) -> io::Result<()> {
        self.written.recv().await.unwrap_or_else(|| Err(io::ErrorKind::BrokenPipe.into()))
    }
}
