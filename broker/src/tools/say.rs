//! What a tool says on the standard error, by a thread of its own: a reader that is gone is no reason to fail, and one that has
//! stopped reading holds up neither the connection nor the end of the tool. A text that finds no room is left out, and that is
//! said.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Texts that may wait for their reader.
const WAITING: usize = 1024;
/// How long the end of the tool waits for the last of them.
const LAST_TEXTS: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<SyncSender<Entry>> = OnceLock::new();
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

enum Entry {
    Text(String),
    /// Everything before it is written: the other end is dropped then.
    Flush(#[allow(dead_code, reason = "what matters is that it is dropped")] SyncSender<()>),
}

/// Says a line.
pub(super) fn line(text: impl AsRef<str>) {
    put(format!("{}\n", text.as_ref()));
}

/// Says a text as it is.
pub(super) fn put(text: String) {
    if queue().try_send(Entry::Text(text)).is_err() {
        LEFT_OUT.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until all is written that was said so far, for a second at most.
pub(super) fn flush() {
    let Some(queue) = QUEUE.get() else { return };
    let until = Instant::now() + LAST_TEXTS;
    let (done, wait) = sync_channel(1);
    let mut entry = Entry::Flush(done);
    while let Err(TrySendError::Full(back)) = queue.try_send(entry) {
        if Instant::now() >= until {
            return;
        }
        entry = back;
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = wait.recv_timeout(until.saturating_duration_since(Instant::now()));
}

fn queue() -> &'static SyncSender<Entry> {
    QUEUE.get_or_init(|| {
        let (queue, texts) = sync_channel(WAITING);
        // Without it what is said is left out.
        let _ = std::thread::Builder::new().name("said".to_owned()).spawn(move || write(&texts, &mut io::stderr()));
        queue
    })
}

fn write(texts: &Receiver<Entry>, out: &mut impl Write) {
    while let Ok(entry) = texts.recv() {
        let left_out = LEFT_OUT.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            let _ = writeln!(out, "{left_out} lines were left out: nobody was reading");
        }
        if let Entry::Text(text) = entry {
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        }
    }
}
