//! `store.wear`: how much the device may be written in a year, and what the writer does to keep it. What has been written is
//! held against a line that rises evenly; the nearer it is, the longer commits wait for company.

use std::time::Duration;

use std::sync::atomic::Ordering;

use super::Broker;
use super::writer::WriterOptions;
use crate::message::Time;

/// An ack waits no longer for company than this, however much has been written.
const GATHER_MAX: Duration = Duration::from_millis(500);
/// What may be written ahead of the line: what a day may have, and at least this.
const AHEAD_MIN: u64 = 64 * 1024;
const YEAR_MS: u64 = 365 * 24 * 3_600_000;
/// The least that a commit writes.
const APPEND: u64 = crate::store::journal::file::BLOCK as u64;

/// Whether what was written is below the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is above, although commits wait as long as they may.
    Over,
    /// It is below again, by a fair part.
    Kept,
}

/// Plans how long commits wait. The caller says what time it is.
#[derive(Debug)]
pub(crate) struct Wear {
    /// Bytes.
    per_year: u64,
    /// As configured: never less.
    least: WriterOptions,
    /// `interval` durability may wait so long.
    lazy_max: Duration,
    began: Option<Time>,
    over: bool,
}

impl Wear {
    /// `lazy_max` is what `interval` durability promises.
    pub(crate) fn new(per_year: u64, least: WriterOptions, lazy_max: Duration) -> Self {
        Self { per_year, least, lazy_max: lazy_max.max(least.lazy), began: None, over: false }
    }

    /// What the start says.
    pub(crate) fn opening(&self) -> String {
        let most = self.most().gather.as_millis();
        let of_year = |bytes: u64| format!("{}.{} GB", bytes / 1_000_000_000, bytes / 100_000_000 % 10);
        let without_pause = self.without_pause();
        let budget = format!("store.wear: the device may be written {} a year", of_year(self.per_year));
        if self.is_certain() {
            return format!("{budget}: a commit waits up to {most} ms for others, as this needs it");
        }
        let needed = of_year(without_pause);
        let percent = self.per_year.saturating_mul(100) / without_pause.max(1);
        format!(
            "{budget}. It cannot be kept if durable messages come all the time: also with {most} ms between commits that is \
             {needed}. It is kept when they come in {percent} % of the time"
        )
    }

    /// It is kept whatever comes, as long as a commit fits into a block.
    fn is_certain(&self) -> bool {
        self.without_pause() <= self.per_year
    }

    /// Bytes of a year in which commits wait as long as they may and never have nothing to do.
    fn without_pause(&self) -> u64 {
        let gather = u64::try_from(self.most().gather.as_millis()).unwrap_or(u64::MAX);
        APPEND.saturating_mul(YEAR_MS) / gather.max(1)
    }

    fn most(&self) -> WriterOptions {
        let gather = self.least.gather.max(GATHER_MAX);
        WriterOptions { gather, lazy: self.lazy_max, ..self.least }
    }

    fn ahead(&self) -> u64 {
        (self.per_year / 365).max(AHEAD_MIN)
    }

    /// What may have been written by now.
    fn line(&self, now: Time) -> u64 {
        let elapsed = u128::from(now.since(self.began.unwrap_or(now)));
        let risen = u128::from(self.per_year) * elapsed / u128::from(YEAR_MS);
        u64::try_from(risen).unwrap_or(u64::MAX).saturating_add(self.ahead())
    }

    /// How long commits wait from now on, when so many bytes have been written since the start; and what is to be said.
    pub(crate) fn plan(&mut self, now: Time, written: u64) -> (WriterOptions, Option<Turn>) {
        self.began.get_or_insert(now);
        let (line, half) = (self.line(now), self.ahead() / 2);
        let left = line.saturating_sub(written);
        let turn = match self.over {
            false if written > line => Some(Turn::Over),
            true if left > half / 2 => Some(Turn::Kept),
            true | false => None,
        };
        self.over = turn.map_or(self.over, |turn| turn == Turn::Over);
        // Nothing while half of what may be written ahead is left; all of it when nothing is.
        let pressed = half.saturating_sub(left);
        let part = |from: Duration, to: Duration| {
            let more = u128::from(u64::try_from((to - from).as_micros()).unwrap_or(u64::MAX));
            let micros = more * u128::from(pressed) / u128::from(half.max(1));
            from + Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
        };
        let most = self.most();
        let gather = part(self.least.gather, most.gather);
        (WriterOptions { gather, lazy: part(self.least.lazy, most.lazy), ..self.least }, turn)
    }
}

impl Broker {
    /// The planner, where the configuration wants one. The start says what it will come to.
    pub(super) fn begin_wear(&self) -> Option<Wear> {
        let wear = Wear::new(self.config.store.wear?, self.writer.options(), super::lazy_max(&self.config));
        if wear.is_certain() {
            tracing::info!("{}", wear.opening());
        } else {
            tracing::warn!("{}", wear.opening());
        }
        Some(wear)
    }

    /// Has commits wait as long as the budget needs.
    pub(super) fn keep_wear(&self, wear: &mut Wear) {
        let written = self.gauge().map_or(0, |gauge| gauge.journal_written().saturating_add(gauge.file_written()));
        let (options, turn) = wear.plan(self.clock.now(), written);
        self.writer.set_options(&options);
        match turn {
            Some(Turn::Over) => tracing::warn!(
                "store.wear cannot be kept: {written} bytes were given to the device since the start, more than its line, \
                 although commits wait {} ms for others",
                options.gather.as_millis()
            ),
            Some(Turn::Kept) => tracing::warn!("store.wear is kept again: {written} bytes since the start"),
            None => {}
        }
        self.writer.counters.wear_over.store(wear.over, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    /// A device that is written a block for each commit; messages come so far apart.
    struct Site {
        wear: Wear,
        now: Time,
        written: u64,
        turns: Vec<Turn>,
        gather: Duration,
        lazy: Duration,
    }

    impl Site {
        fn new(per_year: u64) -> Self {
            let options = WriterOptions::default();
            let wear = Wear::new(per_year, options, Duration::from_secs(1));
            Self { wear, now: Time(1000), written: 0, turns: Vec::new(), gather: options.gather, lazy: options.lazy }
        }

        /// Seconds with messages so many milliseconds apart.
        fn run(&mut self, seconds: u64, apart_ms: u64) {
            for _ in 0..seconds {
                let (options, turn) = self.wear.plan(self.now, self.written);
                (self.gather, self.lazy) = (options.gather, options.lazy);
                self.turns.extend(turn);
                let gather_us = u64::try_from(options.gather.as_micros()).unwrap_or(u64::MAX);
                let between_us = gather_us.max(apart_ms * 1000);
                self.written += APPEND * 1_000_000 / between_us;
                self.now.0 += 1000;
            }
        }
    }

    #[test]
    fn commits_wait_as_long_as_the_line_needs() {
        let mut site = Site::new(500 * GB);
        site.run(900, 10);
        assert_eq!(
            site.gather,
            Duration::ZERO,
            "a busy quarter of an hour after the start may have what a day may have"
        );
        site.run(5 * 86_400, 10);
        // 500 GB a year are 3.87 blocks a second.
        assert!((240..280).contains(&site.gather.as_millis()), "{:?}", site.gather);
        assert!((500..700).contains(&site.lazy.as_millis()), "{:?}", site.lazy);
        assert!(site.written <= site.wear.line(site.now), "{} of {}", site.written, site.wear.line(site.now));
        assert_eq!(site.turns, []);
        site.run(86_400, 60_000);
        assert_eq!((site.gather, site.lazy), (Duration::ZERO, WriterOptions::default().lazy), "a quiet day");
    }

    #[test]
    fn what_cannot_be_kept_is_said_once_and_so_is_its_end() {
        let mut site = Site::new(20 * GB);
        site.run(86_400, 10);
        assert_eq!(site.turns, [Turn::Over]);
        assert_eq!((site.gather, site.lazy), (GATHER_MAX, Duration::from_secs(1)), "never longer");
        site.run(30 * 86_400, 60_000);
        assert_eq!(site.turns, [Turn::Over, Turn::Kept]);
        assert_eq!(site.gather, Duration::ZERO);
    }

    #[test]
    fn what_is_configured_is_the_least() {
        let least =
            WriterOptions { gather: Duration::from_secs(1), lazy: Duration::from_secs(1), ..Default::default() };
        let mut wear = Wear::new(1, least, Duration::from_millis(5));
        wear.plan(Time(0), 0);
        let (options, turn) = wear.plan(Time(1), u64::MAX);
        assert_eq!((options.gather, options.lazy, turn), (least.gather, least.lazy, Some(Turn::Over)));
    }

    #[test]
    fn the_start_says_what_cannot_be_kept() {
        let opening = |per_year| Wear::new(per_year, WriterOptions::default(), Duration::from_secs(1)).opening();
        assert!(
            opening(300 * GB).ends_with("300.0 GB a year: a commit waits up to 500 ms for others, as this needs it")
        );
        assert!(opening(20 * GB).contains("that is 258.3 GB. It is kept when they come in 7 % of the time"));
    }
}
