//! What a process costs, as Linux tells it in /proc.

use std::fs;

/// A process that is measured.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    pid: u32,
}

/// What it has used since it started; what the system does not tell is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// Nanoseconds of processor time of all its threads.
    pub cpu_ns: Option<u64>,
    /// Bytes that it has given to the disk.
    pub written_bytes: Option<u64>,
}

impl Meter {
    /// Of a process.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// Of this one.
    #[must_use]
    pub fn own() -> Self {
        Self { pid: std::process::id() }
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// So far.
    #[must_use]
    pub fn used(&self) -> Used {
        Used { cpu_ns: self.cpu_ns(), written_bytes: self.written_bytes() }
    }

    /// Of the threads that live: brokers do not end theirs.
    fn cpu_ns(&self) -> Option<u64> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?;
        let of = |text: String| text.split(' ').next()?.parse::<u64>().ok();
        Some(tasks.flatten().filter_map(|task| of(fs::read_to_string(task.path().join("schedstat")).ok()?)).sum())
    }

    fn written_bytes(&self) -> Option<u64> {
        let io = fs::read_to_string(format!("/proc/{}/io", self.pid)).ok()?;
        io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
    }

    /// Kilobytes of it that are in memory.
    #[must_use]
    pub fn resident_kb(&self) -> Option<u64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).ok();
        let text = rollup.or_else(|| fs::read_to_string(format!("/proc/{}/status", self.pid)).ok())?;
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:").or_else(|| line.strip_prefix("VmRSS:")))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

impl Used {
    /// What was used since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let less = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        Self { cpu_ns: less(self.cpu_ns, before.cpu_ns), written_bytes: less(self.written_bytes, before.written_bytes) }
    }
}
