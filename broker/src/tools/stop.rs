//! SIGINT and SIGTERM: a tool leaves its server with DISCONNECT, so that no session of it is left behind.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use super::exit::{Exit, Failure};

/// What a shell expects of a program that SIGINT has ended (128 and the signal's number).
const ENDED_BY_SIGNAL: i32 = 130;

/// For a tool without a runtime of its own: somebody wants it to stop.
static WANTED: AtomicBool = AtomicBool::new(false);

/// Becomes ready when the tool is asked to stop.
#[derive(Clone, Debug)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Listens from now on. The first signal asks the tool to stop; a second one ends the process at once.
    pub(super) fn listen() -> Result<Self, Failure> {
        let signals =
            Signals::new().map_err(|error| Failure::failed(format!("no signals from this system: {error}")))?;
        let (sender, stop) = watch::channel(false);
        tokio::spawn(signals.tell(move || {
            // Whoever waited has ended by itself.
            let _ = sender.send(true);
        }));
        Ok(Self(stop))
    }

    /// Waits for the signal.
    pub(super) async fn wanted(&mut self) {
        if self.0.wait_for(|wanted| *wanted).await.is_err() {
            std::future::pending().await
        }
    }
}

/// For a loop that polls: a thread listens, and [`check`] says what it has heard.
pub(super) fn listen_beside() -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("no signals from this system: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let signals = runtime.block_on(async { Signals::new() }).map_err(failed)?;
    let listen = move || runtime.block_on(signals.tell(|| WANTED.store(true, Ordering::Relaxed)));
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen).map_err(failed)?;
    Ok(())
}

/// Fails once the tool is asked to stop.
pub(super) fn check() -> Result<(), Failure> {
    if WANTED.load(Ordering::Relaxed) {
        return Err(Failure::new(Exit::Failed, "stopped by a signal"));
    }
    Ok(())
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Signals {
    async fn tell(mut self, first: impl FnOnce()) {
        self.next().await;
        first();
        self.next().await;
        std::process::exit(ENDED_BY_SIGNAL);
    }
}
