//! What an operator asks of a bridge while it runs. A pause is a file of the data directory, so that it outlives a restart.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::identity;
use crate::broker::Replay;

/// Whether a bridge sends, told to it by others.
#[derive(Debug)]
pub struct Control {
    paused: AtomicBool,
    file: PathBuf,
    waker: Mutex<Option<Waker>>,
    replay: Mutex<Option<Replay>>,
    replay_is_asked: Notify,
}

impl Control {
    /// The bridge of this name, as it was left.
    #[must_use]
    pub fn of(data_dir: &Path, bridge: &str) -> Self {
        let file = identity::folder(data_dir).join(format!("{bridge}.paused"));
        Self {
            paused: AtomicBool::new(file.exists()),
            file,
            waker: Mutex::new(None),
            replay: Mutex::new(None),
            replay_is_asked: Notify::new(),
        }
    }

    /// Sends nothing from now on, over restarts too, until [`Control::resume`].
    ///
    /// # Errors
    /// The data directory cannot be written: nothing has changed.
    pub fn pause(&self) -> io::Result<()> {
        File::create(&self.file)?.sync_all()?;
        identity::sync_folder(&self.file)?;
        self.set(true);
        Ok(())
    }

    /// Sends again.
    ///
    /// # Errors
    /// The data directory cannot be written: nothing has changed.
    pub fn resume(&self) -> io::Result<()> {
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => identity::sync_folder(&self.file)?,
        }
        self.set(false);
        Ok(())
    }

    /// Whether it is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Whether it is paused; the waker of the last call is woken when that changes.
    pub fn poll_paused(&self, cx: &Context<'_>) -> bool {
        self.waker.lock().replace(cx.waker().clone());
        self.is_paused()
    }

    /// Puts dead letters back into the queue; a replay that is under way is replaced.
    pub fn replay(&self, what: Replay) {
        *self.replay.lock() = Some(what);
        self.replay_is_asked.notify_one();
    }

    /// The next replay that is asked for. Dropping it loses none.
    pub async fn replay_asked(&self) -> Replay {
        loop {
            let asked = self.replay.lock().take();
            if let Some(asked) = asked {
                return asked;
            }
            self.replay_is_asked.notified().await;
        }
    }

    fn set(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
        if let Some(waker) = self.waker.lock().take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_outlives_a_restart() {
        let scratch = tempfile::tempdir().unwrap();
        identity::gateway(scratch.path()).unwrap();
        let control = Control::of(scratch.path(), "up");
        assert!(!control.is_paused());
        control.pause().unwrap();
        assert!(control.is_paused() && Control::of(scratch.path(), "up").is_paused());
        assert!(!Control::of(scratch.path(), "other").is_paused());
        control.resume().unwrap();
        control.resume().unwrap();
        assert!(!control.is_paused() && !Control::of(scratch.path(), "up").is_paused());
    }

    #[test]
    fn a_pause_that_cannot_be_written_is_none() {
        let scratch = tempfile::tempdir().unwrap();
        let control = Control::of(scratch.path(), "up");
        control.pause().unwrap_err();
        assert!(!control.is_paused());
    }
}
