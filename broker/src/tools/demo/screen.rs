//! The screen: a block of lines that is drawn anew on a terminal, a line now and then elsewhere.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use crate::tools::columns;

/// Where the output is no terminal, a line each.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Cells of the longest bar, and what stands before it.
const BAR: usize = 40;
const BEFORE_BAR: usize = 22;

/// What is shown.
pub(super) struct Figures {
    pub(super) at: Duration,
    pub(super) says: &'static str,
    pub(super) devices_connected: usize,
    pub(super) devices: usize,
    pub(super) upstream: &'static str,
    pub(super) published: u64,
    pub(super) acked: u64,
    pub(super) received: u64,
    pub(super) repeated: u64,
    pub(super) waiting_in_devices: usize,
    pub(super) asked_to_slow_down: u64,
    pub(super) broker_kb: Option<u64>,
    pub(super) store_kb: u64,
}

pub(super) struct Screen {
    live: bool,
    /// Lines of the block that stands there.
    drawn: usize,
    last: Option<Shown>,
    last_line: Duration,
    largest: [f64; 3],
}

struct Shown {
    at: Duration,
    acked: u64,
    received: u64,
    rates: [f64; 2],
}

impl Screen {
    pub(super) fn new() -> Self {
        let live = std::io::stdout().is_terminal();
        Self { live, drawn: 0, last: None, last_line: Duration::ZERO, largest: [1.0; 3] }
    }

    /// Lines that stay.
    pub(super) fn say(&mut self, text: &str) {
        print(&format!("{text}\n"));
    }

    pub(super) fn show(&mut self, figures: &Figures) {
        let rates = self.rates(figures);
        let backlog = figures.acked.saturating_sub(figures.received);
        if self.live {
            self.draw(figures, rates, backlog);
        } else if figures.at >= self.last_line + LINE_EVERY {
            self.last_line = figures.at;
            print(&format!(
                "{:>5.1} s  in {:>6.0}/s  out {:>6.0}/s  backlog {backlog:>7}  acknowledged {:>7}  {}\n",
                figures.at.as_secs_f64(),
                rates[0],
                rates[1],
                figures.acked,
                figures.says,
            ));
        }
    }

    /// Acknowledged and received a second, smoothed.
    fn rates(&mut self, figures: &Figures) -> [f64; 2] {
        let mut rates = [0.0; 2];
        if let Some(last) = &self.last {
            let seconds = figures.at.saturating_sub(last.at).as_secs_f64().max(0.001);
            let new = [figures.acked.saturating_sub(last.acked), figures.received.saturating_sub(last.received)];
            for ((rate, new), old) in rates.iter_mut().zip(new).zip(last.rates) {
                *rate = old * 0.7 + new as f64 / seconds * 0.3;
            }
        }
        self.last = Some(Shown { at: figures.at, acked: figures.acked, received: figures.received, rates });
        rates
    }

    fn draw(&mut self, figures: &Figures, rates: [f64; 2], backlog: u64) {
        let mut text = String::new();
        if self.drawn > 0 {
            // Back to the first line of the block, and everything from there on is cleared.
            let _ = write!(text, "\x1b[{}A\x1b[J", self.drawn);
        }
        let values = [rates[0], rates[1], backlog as f64];
        for (largest, value) in self.largest.iter_mut().zip(values) {
            *largest = largest.max(value);
        }
        let rate = self.largest[0].max(self.largest[1]);
        let columns = columns::of(&std::io::stdout());
        let bar = |part: f64| bar(part, columns.saturating_sub(BEFORE_BAR).min(BAR));
        let memory =
            figures.broker_kb.map_or_else(String::new, |kb| format!("{:.1} MB of memory, ", kb as f64 / 1024.0));
        let lines = [
            format!("{:>5.1} s   {}", figures.at.as_secs_f64(), figures.says),
            format!("in       {:>8.0} /s  {}", rates[0], bar(rates[0] / rate)),
            format!("out      {:>8.0} /s  {}", rates[1], bar(rates[1] / rate)),
            format!("backlog  {backlog:>8}     {}", bar(backlog as f64 / self.largest[2])),
            format!(
                "devices  {} of {} connected; {} readings wait in them",
                figures.devices_connected, figures.devices, figures.waiting_in_devices
            ),
            format!("upstream {}", figures.upstream),
            format!(
                "broker   {memory}{:.1} MB of store; asked to slow down {} times",
                figures.store_kb as f64 / 1024.0,
                figures.asked_to_slow_down
            ),
            format!(
                "so far   {} published, {} acknowledged, {} arrived, {} repeated",
                figures.published, figures.acked, figures.received, figures.repeated
            ),
        ];
        for line in &lines {
            text.push_str(columns::cut(line, columns));
            text.push('\n');
        }
        self.drawn = lines.len();
        print(&text);
    }

    /// The block stays as it is.
    pub(super) fn finish(&mut self) {
        self.drawn = 0;
    }
}

fn bar(part: f64, longest: usize) -> String {
    let cells = (part.clamp(0.0, 1.0) * longest as f64).round() as usize;
    "█".repeat(cells)
}

fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    // Who watches may go; the account still counts.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
