//! The log: lines to standard error. Whoever writes a line never waits for whoever reads it, and never panics: lines go
//! through a bounded queue to one thread. A line that finds no room, or that cannot be written, is lost and counted.

mod format;
mod watch;

use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::config::{LogFormat, LogLevel};
pub use watch::{WATCH_MAX, is_watched, unwatch, watch, watched, watches};

use format::{ForJournal, Shape};

/// Lines that may wait for the writer: some seconds of a busy log, and a few hundred kilobytes when its reader hangs.
const WAITING_LINES: usize = 1024;
/// Lines that were left out are reported at most this often.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How long the end of the program waits for the last lines. Their reader may be one that has stopped reading.
const LAST_LINES: Duration = Duration::from_secs(1);
/// The exit code after a panic.
const PANICKED: i32 = 4;

static LOG: OnceLock<Log> = OnceLock::new();
static FILTER: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// The target of lines about log-ins: fail2ban acts on them, and no other lines may be in their way.
pub const LOG_INS: &str = "forebay::log_in";

/// The log of this process.
#[derive(Clone, Debug)]
struct Log {
    queue: SyncSender<Entry>,
    figures: Arc<Figures>,
    begun: Instant,
    lines_per_s: u64,
    shape: Shape,
}

#[derive(Debug, Default)]
struct Figures {
    /// No room in the queue, or an error of the standard error.
    lost: AtomicU64,
    /// More than there may be in one second.
    suppressed: AtomicU64,
    /// The second since the start in the upper half, its lines in the lower one.
    this_second: AtomicU64,
    /// The same of [`LOG_INS`].
    log_ins: AtomicU64,
}

impl Figures {
    /// Lines lost, and lines left out.
    fn left(&self) -> (u64, u64) {
        (self.lost.load(Ordering::Relaxed), self.suppressed.load(Ordering::Relaxed))
    }
}

enum Entry {
    Line(Box<[u8]>),
    /// Everything before it is written: the other end is dropped then.
    Flush(#[allow(dead_code, reason = "what matters is that it is dropped")] SyncSender<()>),
}

/// Starts the log of this process: its thread, and the subscriber of all threads. A second call does nothing.
///
/// # Errors
/// No thread can be made.
pub fn start(level: LogLevel, format: LogFormat, lines_per_s: u64) -> io::Result<()> {
    let shape = Shape::of(format);
    let (log, lines) = new_log(lines_per_s, shape);
    let figures = log.figures.clone();
    if LOG.set(log.clone()).is_err() {
        return Ok(());
    }
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_lines(&lines, &mut io::stderr(), &figures, shape))?;
    let colours = io::IsTerminal::is_terminal(&io::stderr());
    let (filter, handle) = reload::Layer::new(filter(level));
    let lines = tracing_subscriber::fmt::layer().with_writer(log);
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(is_wanted));
    match shape {
        Shape::Text => registry.with(lines.with_ansi(colours)).init(),
        Shape::Json => registry.with(lines.json().flatten_event(true)).init(),
        Shape::Journald => registry.with(lines.with_ansi(false).event_format(ForJournal::new())).init(),
    }
    let _ = FILTER.set(handle);
    Ok(())
}

/// Libraries say only their errors: whoever uses one says what follows from the rest. Some warn ten times a second while a
/// cluster is away, and what they tell at length may hold what a client has published.
fn is_wanted(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("forebay") || *metadata.level() == Level::ERROR
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// How much goes to the log now; `None` when there is no log.
#[must_use]
pub fn level() -> Option<LogLevel> {
    let filter = FILTER.get()?.clone_current()?;
    LogLevel::WORDS.iter().map(|(_, level)| *level).find(|level| self::filter(*level) == filter)
}

/// From now on so much goes to the log. False: there is no log.
pub fn set_level(level: LogLevel) -> bool {
    FILTER.get().is_some_and(|handle| handle.reload(filter(level)).is_ok())
}

/// Lines of the log that nobody could read: no room for them, or they could not be written.
#[must_use]
pub fn lost() -> u64 {
    LOG.get().map_or(0, |log| log.figures.lost.load(Ordering::Relaxed))
}

/// Lines that were left out because there were too many in one second.
#[must_use]
pub fn suppressed() -> u64 {
    LOG.get().map_or(0, |log| log.figures.suppressed.load(Ordering::Relaxed))
}

/// Waits until all lines so far are written, for a second at most.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.flush();
    }
}

/// From now on a panic in any thread ends the program, with a message and exit code 4: a broker with a thread missing
/// accepts and does not answer, and no supervisor starts it again.
pub fn end_at_panic() {
    std::panic::set_hook(Box::new(|panic| {
        last_words(panic);
        std::process::exit(PANICKED);
    }));
}

fn last_words(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let words = format!(
        "a fault of the program: {panic} (thread {thread}). It ends with exit code {PANICKED}; what was \
         acknowledged is in the store. Please report this line."
    );
    match LOG.get() {
        Some(log) => {
            log.push(log.shape.own(Level::ERROR, &words));
            log.flush();
        }
        None => {
            let _ = io::stderr().write_all(&Shape::Text.own(Level::ERROR, &words));
        }
    }
}

fn new_log(lines_per_s: u64, shape: Shape) -> (Log, Receiver<Entry>) {
    let (queue, lines) = sync_channel(WAITING_LINES);
    (Log { queue, figures: Arc::default(), begun: Instant::now(), lines_per_s, shape }, lines)
}

impl Log {
    fn push(&self, line: Vec<u8>) {
        let line = self.shape.cut(line);
        if self.queue.try_send(Entry::Line(line.into())).is_err() {
            self.figures.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        let until = Instant::now() + LAST_LINES;
        let (done, wait) = sync_channel(1);
        let mut entry = Entry::Flush(done);
        while let Err(TrySendError::Full(back)) = self.queue.try_send(entry) {
            if Instant::now() >= until {
                return;
            }
            entry = back;
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = wait.recv_timeout(until.saturating_duration_since(Instant::now()));
    }

    /// Whether one more line with this target may be written in this second.
    fn counted(&self, target: &str) -> bool {
        let count = if target == LOG_INS { &self.figures.log_ins } else { &self.figures.this_second };
        let second = self.begun.elapsed().as_secs() << 32;
        let next = |seen: u64| if seen & !0xffff_ffff == second { seen + 1 } else { second + 1 };
        let seen = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seen| Some(next(seen)));
        let (Ok(seen) | Err(seen)) = seen;
        (next(seen) & 0xffff_ffff) <= self.lines_per_s
    }
}

/// Takes one line.
#[derive(Debug)]
pub struct LineWriter<'a>(Option<&'a Log>);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(log) = self.0 {
            log.push(line.to_vec());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter(Some(self))
    }

    fn make_writer_for(&'a self, of: &Metadata<'_>) -> Self::Writer {
        // What the operator must act on is never left out: no peer can cause many of these.
        if *of.level() == Level::ERROR || self.counted(of.target()) {
            return LineWriter(Some(self));
        }
        self.figures.suppressed.fetch_add(1, Ordering::Relaxed);
        LineWriter(None)
    }
}

/// The log's thread: writes until nobody can send any more.
fn write_lines(lines: &Receiver<Entry>, out: &mut impl Write, figures: &Figures, shape: Shape) {
    let mut reported = (0, 0);
    let mut report_at = Instant::now();
    loop {
        if figures.left() != reported && Instant::now() >= report_at {
            report_at = Instant::now() + REPORT_EVERY;
            catch_up(out, figures, &mut reported, shape);
        }
        let entry = if figures.left() == reported {
            lines.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            lines.recv_timeout(REPORT_EVERY)
        };
        match entry {
            Ok(Entry::Line(line)) => {
                if out.write_all(&line).is_err() {
                    figures.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(Entry::Flush(_)) => {
                // The program may end after this.
                catch_up(out, figures, &mut reported, shape);
                let _ = out.flush();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Says what was left out since it was said.
fn catch_up(out: &mut impl Write, figures: &Figures, reported: &mut (u64, u64), shape: Shape) {
    let now = figures.left();
    if now != *reported && report(out, shape, now.0 - reported.0, now.1 - reported.1).is_ok() {
        *reported = now;
    }
}

fn report(out: &mut impl Write, shape: Shape, lost: u64, suppressed: u64) -> io::Result<()> {
    let mut words = Vec::new();
    if lost > 0 {
        words.push(format!("{lost} lines of the log could not be written"));
    }
    if suppressed > 0 {
        words.push(format!("{suppressed} lines of the log were left out, see limits.log_lines_per_s"));
    }
    out.write_all(&shape.own(Level::WARN, &words.join("; ")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    /// A standard error whose reader is gone until it is told otherwise.
    #[derive(Default)]
    struct Broken {
        works: bool,
        written: Vec<u8>,
    }

    impl Write for Broken {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.works {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.written.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted_and_said_later() {
        let (log, lines) = new_log(10, Shape::Text);
        log.push(b"one\n".to_vec());
        log.push(b"two\n".to_vec());
        let figures = log.figures.clone();
        drop(log);
        let mut out = Broken::default();
        write_lines(&lines, &mut out, &figures, Shape::Text);
        assert_eq!(figures.lost.load(Ordering::Relaxed), 2);

        let (log, lines) = new_log(10, Shape::Text);
        log.figures.lost.store(2, Ordering::Relaxed);
        log.push(b"three\n".to_vec());
        let figures = log.figures.clone();
        drop(log);
        out.works = true;
        write_lines(&lines, &mut out, &figures, Shape::Text);
        let written = String::from_utf8(out.written).unwrap();
        assert_eq!(written, "forebay: 2 lines of the log could not be written\nthree\n");
    }

    #[test]
    fn what_was_left_out_is_said_before_the_program_ends() {
        let (log, lines) = new_log(10, Shape::Text);
        let (figures, mut out) = (log.figures.clone(), Broken { works: true, ..Broken::default() });
        // The first report is at once, the next one much later.
        figures.suppressed.store(1, Ordering::Relaxed);
        let writer = std::thread::spawn({
            let figures = figures.clone();
            move || {
                write_lines(&lines, &mut out, &figures, Shape::Text);
                out.written
            }
        });
        log.flush();
        figures.suppressed.store(8, Ordering::Relaxed);
        log.flush();
        drop(log);
        let written = writer.join().unwrap();
        let left_out = |n| format!("forebay: {n} lines of the log were left out, see limits.log_lines_per_s\n");
        assert_eq!(String::from_utf8(written).unwrap(), [left_out(1), left_out(7)].concat());
    }

    #[test]
    fn nobody_waits_for_a_reader_that_hangs() {
        let (log, lines) = new_log(10, Shape::Text);
        for _ in 0..WAITING_LINES + 7 {
            log.push(b"line\n".to_vec());
        }
        assert_eq!(log.figures.lost.load(Ordering::Relaxed), 7);
        drop(lines);
        log.push(b"line\n".to_vec());
        assert_eq!(log.figures.lost.load(Ordering::Relaxed), 8);
        log.flush();
    }

    #[test]
    fn so_many_lines_a_second_and_no_more() {
        let (mut log, _lines) = new_log(3, Shape::Text);
        let passed = (0..10).filter(|_| log.counted("")).count();
        // A second may end in between.
        assert!((3..=6).contains(&passed), "{passed}");
        assert!(log.counted(LOG_INS), "noise hides who guesses passwords");
        log.begun = Instant::now().checked_sub(Duration::from_secs(100)).unwrap();
        assert!(log.counted(""), "a later second has its own");
    }
}
