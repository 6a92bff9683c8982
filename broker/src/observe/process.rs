//! What the system says of this process. Linux has it in `/proc`; elsewhere all of it is 0.

use super::schema::answer;

answer! {
    /// The process.
    Process {
        /// Bytes of it that are in memory.
        resident_bytes: u64,
        /// Milliseconds of processor time that it has used.
        cpu_ms: u64,
        /// Files and sockets that it has open.
        open_files: u64,
        /// Bytes that it caused to be written to storage, whole blocks and the file system's own data included.
        storage_written_bytes: u64,
    }
}

/// Clock ticks of `/proc/self/stat` in a second: Linux has the same for every architecture that this program runs on.
const TICKS_PER_S: u64 = 100;

impl Process {
    /// As it is now.
    #[must_use]
    pub fn look() -> Self {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        Self {
            resident_bytes: field(&read("status"), "VmRSS:").saturating_mul(1024),
            cpu_ms: cpu_ticks(&read("stat")).saturating_mul(1000 / TICKS_PER_S),
            open_files: std::fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64),
            storage_written_bytes: field(&read("io"), "write_bytes:"),
        }
    }
}

/// The number behind the first line that begins with `name`.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// User and system time. The program's name stands before them, in brackets, and may hold anything.
fn cpu_ticks(stat: &str) -> u64 {
    let Some((_, fields)) = stat.rsplit_once(')') else { return 0 };
    // Behind the name: the state is the first, user time the twelfth.
    fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_writes() {
        assert_eq!(field("VmPeak:\t 9 kB\nVmRSS:\t  4212 kB\n", "VmRSS:"), 4212);
        assert_eq!(field("", "VmRSS:"), 0);
        let stat = "12 (a ) name) S 1 12 12 0 -1 4194560 301 0 1 0 7 5 0 0 20 0 4 0 100 1000 200";
        assert_eq!(cpu_ticks(stat), 12);
        assert_eq!(cpu_ticks("nonsense"), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_and_files() {
        let process = Process::look();
        assert!(process.resident_bytes > 0 && process.open_files >= 3, "{process:?}");
    }
}
