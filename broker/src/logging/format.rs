//! How a line of the log looks.

use std::fmt;

use serde_json::json;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFormat;

/// A line is cut here: what a peer sends may be part of one.
const LINE_BYTES: usize = 4096;
/// So much of a line is said when it is too long to be an object of its own.
const CUT_BYTES: usize = 1000;

/// What a line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Text,
    Json,
    Journald,
}

impl Shape {
    /// systemd says in `JOURNAL_STREAM` which device and inode its journal reads (systemd.exec(5)).
    pub(super) fn of(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
            LogFormat::Journald => Self::Journald,
            LogFormat::Auto if is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref()) => Self::Journald,
            LogFormat::Auto => Self::Text,
        }
    }

    /// A line that the log itself has to say.
    pub(super) fn own(self, level: Level, words: &str) -> Vec<u8> {
        match self {
            Self::Text => format!("forebay: {words}\n"),
            Self::Journald => format!("{}forebay: {words}\n", priority(level)),
            Self::Json => {
                let mut timestamp = String::new();
                let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
                let line = json!({
                    "timestamp": timestamp, "level": level.as_str(), "target": "forebay::logging", "message": words,
                });
                format!("{line}\n")
            }
        }
        .into_bytes()
    }

    /// The line, or as much of it as one may have. An object that is too long becomes one that says how it begins.
    pub(super) fn cut(self, mut line: Vec<u8>) -> Vec<u8> {
        if line.len() <= LINE_BYTES {
            return line;
        }
        if self == Self::Json {
            let begins = String::from_utf8_lossy(line.get(..CUT_BYTES).unwrap_or_default());
            return self.own(Level::WARN, &format!("a line of {} bytes is cut, it begins: {begins}", line.len()));
        }
        line.truncate(LINE_BYTES);
        line.extend_from_slice(b"...\n");
        line
    }
}

#[cfg(unix)]
fn is_journal(stream: Option<&str>) -> bool {
    let Some((device, inode)) = stream.and_then(|stream| stream.split_once(':')) else { return false };
    let stderr = rustix::fs::fstat(std::io::stderr());
    stderr.is_ok_and(|stat| device == stat.st_dev.to_string() && inode == stat.st_ino.to_string())
}

#[cfg(not(unix))]
fn is_journal(_: Option<&str>) -> bool {
    false
}

/// The priority of syslog as the journal reads it (sd-daemon(3)).
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

/// Lines for systemd's journal: no time, no level in words, no colours.
pub(super) struct ForJournal(Format<Full, ()>);

impl ForJournal {
    pub(super) fn new() -> Self {
        Self(Format::default().without_time().with_level(false).with_ansi(false))
    }
}

impl<S, N> FormatEvent<S, N> for ForJournal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, cx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        out.write_str(priority(*event.metadata().level()))?;
        self.0.format_event(cx, out, event)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_long_line_is_cut() {
        let text = Shape::Text.cut(vec![b'x'; 1_000_000]);
        assert!(text.len() <= LINE_BYTES + 4 && text.ends_with(b"...\n"));
        let object = Shape::Json.cut(vec![b'"'; 1_000_000]);
        let read: serde_json::Value = serde_json::from_slice(&object).unwrap();
        assert!(object.len() <= LINE_BYTES && read["message"].as_str().unwrap().contains("1000000 bytes"));
        assert_eq!(Shape::Json.cut(b"{}\n".to_vec()), b"{}\n");
    }

    #[test]
    fn the_logs_own_lines_have_its_shape() {
        let own = |shape: Shape| String::from_utf8(shape.own(Level::WARN, "7 \"lines\"")).unwrap();
        assert_eq!(own(Shape::Text), "forebay: 7 \"lines\"\n");
        assert_eq!(own(Shape::Journald), "<4>forebay: 7 \"lines\"\n");
        let read: serde_json::Value = serde_json::from_str(&own(Shape::Json)).unwrap();
        assert_eq!((&read["level"], &read["message"]), (&"WARN".into(), &"7 \"lines\"".into()));
        assert!(read["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn another_stream_is_not_the_journal() {
        assert!(!is_journal(None) && !is_journal(Some("0:0")) && !is_journal(Some("nonsense")));
    }
}
