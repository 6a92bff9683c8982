//! The memory that the program takes: counted where it is taken, in the allocator, so that nothing that a client can
//! cause is forgotten; bounded by `limits.memory`; and given back to the system after a peak.

#![allow(
    unsafe_code,
    reason = "an allocator is unsafe by its nature; each call is the system's own, with its proof beside it"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicIsize, Ordering};

/// What a thread counts by itself before all see it: a shared counter for each allocation would be a bottleneck.
const OWN_COUNT: isize = 64 * 1024;
/// What the C library's allocator takes beside what it is asked for, and what sizes are multiples of.
const CHUNK: usize = 16;
/// A limit above this is none, in bytes.
const NO_MACHINE_HAS: u64 = 1 << 50;

static USED: AtomicIsize = AtomicIsize::new(0);

thread_local! {
    static OWN: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, which counts.
#[derive(Clone, Copy, Debug)]
pub struct Counting;

fn note(bytes: isize) {
    // A thread that ends has no count of its own any more.
    let counted = OWN.try_with(|own| {
        let sum = own.get() + bytes;
        if sum.abs() < OWN_COUNT {
            own.set(sum);
        } else {
            own.set(0);
            USED.fetch_add(sum, Ordering::Relaxed);
        }
    });
    if counted.is_err() {
        USED.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What an allocation of this size takes.
fn taken(size: usize) -> isize {
    isize::try_from(size.saturating_add(CHUNK / 2).next_multiple_of(CHUNK)).unwrap_or(isize::MAX)
}

// SAFETY: each call goes to the system's allocator with the arguments as they came, and its answer comes back as it is; the
// counting beside it allocates nothing and does not panic (`try_with` on a constant without destructor).
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(taken(layout.size()));
        // SAFETY: the caller's promise about the layout is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(taken(layout.size()));
        // SAFETY: the caller's promise about the layout is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note(-taken(layout.size()));
        // SAFETY: the block came from the system's allocator with this layout.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(taken(size) - taken(layout.size()));
        // SAFETY: the block came from the system's allocator with this layout; the size is the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// Bytes that the program has from the allocator, to within 64 KiB for each thread. 0 where [`Counting`] is not the
/// program's allocator, as in unit tests.
#[must_use]
pub fn used() -> usize {
    usize::try_from(USED.load(Ordering::Relaxed)).unwrap_or(0)
}

/// Bytes of the program's own memory (not of files) that the system holds for it; `None` where it does not say.
#[must_use]
pub fn resident() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split(' ').skip(1).map(str::parse::<usize>);
    let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
    Some(resident.saturating_sub(shared).saturating_mul(page_bytes()))
}

#[cfg(unix)]
fn page_bytes() -> usize {
    rustix::param::page_size()
}

#[cfg(not(unix))]
fn page_bytes() -> usize {
    4096
}

/// How much of the limit is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// There is room.
    Roomy,
    /// More than 80 %: those who subscribe to the pressure are told.
    High,
    /// More than 95 %: what would add to it is refused; what exists goes on.
    Full,
}

impl Level {
    /// Of `used` bytes where there may be `limit`.
    #[must_use]
    pub fn of(used: usize, limit: usize) -> Self {
        if used > limit / 100 * 95 {
            Self::Full
        } else if used > limit / 100 * 80 {
            Self::High
        } else {
            Self::Roomy
        }
    }
}

/// Half of what this machine, or the container around the program, has; 512 MiB where nobody says.
#[must_use]
pub fn half_of_the_machine() -> usize {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_of(&text));
    usize::try_from(at_most(meminfo.or_else(total_of_the_system), &cgroup_limits()) / 2).unwrap_or(usize::MAX)
}

/// The least of what the machine has and what its control groups allow. A group that allows more than there is allows all: the
/// older generation writes nearly 2^63 for that.
fn at_most(machine: Option<u64>, groups: &[u64]) -> u64 {
    const UNKNOWN: u64 = 1 << 30;
    let most = machine.unwrap_or(NO_MACHINE_HAS);
    let least = groups.iter().copied().filter(|limit| *limit <= most).min();
    least.or(machine).unwrap_or(UNKNOWN)
}

/// As the kernel says it, where `/proc` is not shown to the program, or only processes are.
#[cfg(target_os = "linux")]
fn total_of_the_system() -> Option<u64> {
    let said = rustix::system::sysinfo();
    // The types are other ones on machines of 32 bits.
    #[allow(clippy::useless_conversion, reason = "it is u64 here, and u32 elsewhere")]
    let units = u64::from(said.totalram);
    units.checked_mul(u64::from(said.mem_unit)).filter(|bytes| *bytes > 0)
}

/// Elsewhere nobody says.
#[cfg(not(target_os = "linux"))]
fn total_of_the_system() -> Option<u64> {
    None
}

/// MemTotal in bytes.
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the control groups around this process allow, of both generations.
fn cgroup_limits() -> Vec<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut limits = Vec::new();
    for (folder, file) in groups.lines().filter_map(group_of) {
        // A limit holds for all groups below it. A container sees its own group as the root.
        for folder in folder.ancestors().take_while(|folder| folder.starts_with("/sys/fs/cgroup")) {
            let text = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
            // "max" is none, and no number.
            limits.extend(text.trim().parse::<u64>().ok());
        }
    }
    limits
}

/// The folder of a line of `/proc/self/cgroup`, and the name of the file with the limit in it.
fn group_of(line: &str) -> Option<(std::path::PathBuf, &'static str)> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
    if controllers.is_empty() {
        return Some((std::path::Path::new("/sys/fs/cgroup").join(path), "memory.max"));
    }
    let memory = controllers.split(',').any(|name| name == "memory");
    memory.then(|| (std::path::Path::new("/sys/fs/cgroup/memory").join(path), "memory.limit_in_bytes"))
}

/// Gives memory that is free inside the allocator back to the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back() {
    // SAFETY: `malloc_trim` may be called at any time from any thread; it touches only free memory of the allocator.
    unsafe { libc::malloc_trim(0) };
}

/// Elsewhere the allocator does as it likes.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}

/// Large blocks come from the system one by one, and go back as soon as they are free: left to itself the C library
/// raises this threshold to 32 MiB at the first large block that is freed, and keeps what lies below others.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_little() {
    const LARGE: libc::c_int = 128 * 1024;
    // SAFETY: `mallopt` sets a parameter of the allocator; it is called before any other thread runs.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
    }
}

/// Elsewhere the allocator does as it likes.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_little() {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_taken_is_counted_and_given_back() {
        let before = USED.load(Ordering::Relaxed);
        let layout = Layout::from_size_align(10 << 20, 8).unwrap();
        // SAFETY: the layout is not empty, and the block is given back with it.
        unsafe {
            let block = Counting.alloc(layout);
            assert!(!block.is_null());
            assert!(USED.load(Ordering::Relaxed) - before >= 10 << 20);
            let block = Counting.realloc(block, layout, 20 << 20);
            assert!(USED.load(Ordering::Relaxed) - before >= 20 << 20);
            Counting.dealloc(block, Layout::from_size_align(20 << 20, 8).unwrap());
        }
        assert!((USED.load(Ordering::Relaxed) - before).abs() <= OWN_COUNT);
    }

    #[test]
    fn levels() {
        let of = |percent: usize| Level::of(percent * 10_000, 1_000_000);
        assert_eq!([80, 81, 95, 96, 200].map(of), [Level::Roomy, Level::High, Level::High, Level::Full, Level::Full]);
    }

    #[test]
    fn a_container_s_limit_is_found() {
        assert_eq!(total_of("MemTotal:        1000 kB\nMemFree: 7 kB\n"), Some(1_024_000));
        let found = |line: &str| group_of(line).map(|(folder, file)| folder.join(file).display().to_string());
        assert_eq!(found("0::/a/b").as_deref(), Some("/sys/fs/cgroup/a/b/memory.max"));
        assert_eq!(found("4:cpu,memory:/x").as_deref(), Some("/sys/fs/cgroup/memory/x/memory.limit_in_bytes"));
        assert_eq!(found("4:cpu:/x"), None);
        assert!(half_of_the_machine() > 0);
    }

    #[test]
    fn a_limit_above_what_the_machine_has_is_none() {
        let none = 0x7fff_ffff_ffff_f000;
        assert_eq!(at_most(Some(8 << 30), &[none, 2 << 30]), 2 << 30);
        assert_eq!(at_most(Some(8 << 30), &[none, 9 << 30]), 8 << 30);
        assert_eq!(at_most(None, &[none]), 1 << 30);
        assert_eq!(at_most(None, &[none, 4 << 30]), 4 << 30);
        assert_eq!(at_most(None, &[]), 1 << 30);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_says_what_meminfo_says() {
        let meminfo = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_of(&text)).unwrap();
        assert_eq!(total_of_the_system().unwrap() / 1024, meminfo / 1024);
    }
}
