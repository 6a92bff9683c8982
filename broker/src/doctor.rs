//! `forebay doctor`: what of this machine breaks a promise of the broker's, and how to mend it.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::store::space::Space;
use crate::transport;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Fine,
    /// It costs something.
    Warning,
    /// A promise does not hold.
    Broken,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub grade: Grade,
    /// What was looked at.
    pub what: &'static str,
    /// What was found, and how to mend it.
    pub text: String,
}

fn finding(grade: Grade, what: &'static str, text: impl Into<String>) -> Finding {
    Finding { grade, what, text: text.into() }
}

/// Files of one connection, and of the broker itself.
const FILES_BESIDE: u64 = 64;
/// A clock before this has not been set since the board was started: seconds since 1970, the beginning of 2026.
const CLOCK_S_MIN: u64 = 1_767_225_600;

/// Looks at everything.
#[must_use]
pub fn examine(config: &Config) -> Vec<Finding> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let dir = existing(&config.data_dir);
    let mut all = Vec::new();
    match mount_of(&read("/proc/self/mountinfo"), &dir) {
        Some(mount) => {
            all.push(of_mount(&mount));
            all.extend(of_disk(&mount, &|name| std::fs::read_to_string(name).ok()));
        }
        None => all.push(finding(Grade::Warning, "disk", "what lies below the data directory is not known here")),
    }
    all.push(of_room(&dir, config));
    let connections = config.limits.max_connections as u64;
    all.extend(open_files(&read("/proc/self/limits")).map(|limit| of_files(limit, connections)));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    all.push(of_clock(now, Path::new("/sys/class/rtc/rtc0").exists()));
    all.push(of_swap(&read("/proc/swaps")));
    all.extend(of_certificates(config));
    all
}

fn of_certificates(config: &Config) -> Vec<Finding> {
    let wrong = transport::problems(&config.listeners);
    let wrong: Vec<_> = wrong.map(|error| finding(Grade::Broken, "certificates", error.to_string())).collect();
    if wrong.is_empty() {
        return vec![finding(Grade::Fine, "certificates", "they can be read and go with their keys")];
    }
    wrong
}

/// The part of a path that is there.
fn existing(path: &Path) -> PathBuf {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    there.canonicalize().unwrap_or_else(|_| there.to_owned())
}

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    at: PathBuf,
    kind: String,
    options: Vec<String>,
    /// Major and minor number of its device.
    device: String,
}

/// The file system that holds a path, out of `/proc/self/mountinfo`.
fn mount_of(mountinfo: &str, path: &Path) -> Option<Mount> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let before: Vec<&str> = before.split(' ').collect();
        let mut after = after.split(' ');
        let kind = after.next()?.to_owned();
        let super_options = after.nth(1).unwrap_or_default();
        let options = before.get(5)?.split(',').chain(super_options.split(','));
        let at = PathBuf::from(before.get(4)?.replace("\\040", " "));
        Some(Mount { at, kind, options: options.map(str::to_owned).collect(), device: (*before.get(2)?).to_owned() })
    });
    // Of two at one place the later hides the earlier.
    mounts.filter(|mount| path.starts_with(&mount.at)).max_by_key(|mount| mount.at.components().count())
}

fn of_mount(mount: &Mount) -> Finding {
    let at = mount.at.display();
    let has = |option: &str| mount.options.iter().any(|have| have == option);
    if has("ro") {
        return finding(Grade::Broken, "file system", format!("{at} is mounted read-only: mount it with rw"));
    }
    match mount.kind.as_str() {
        "tmpfs" | "ramfs" => {
            let text = format!(
                "{at} is in memory ({}): a restart of the machine loses all; choose a data_dir on a disk",
                mount.kind
            );
            finding(Grade::Broken, "file system", text)
        }
        "overlay" => {
            let text =
                format!("{at} is a container's own layer: it goes with the container; mount a volume for data_dir");
            finding(Grade::Broken, "file system", text)
        }
        "nfs" | "nfs4" | "cifs" | "fuse.sshfs" | "9p" => {
            let text = format!(
                "{at} is on another machine ({}): its locks and syncs may not hold; use a disk of this one",
                mount.kind
            );
            finding(Grade::Warning, "file system", text)
        }
        _ if has("nobarrier") || has("barrier=0") => {
            let text = format!(
                "{at} is mounted without write barriers: a power cut loses what was acknowledged; remove the option"
            );
            finding(Grade::Broken, "file system", text)
        }
        kind => finding(Grade::Fine, "file system", format!("{at} is {kind}")),
    }
}

/// What `/sys` says of the device.
fn of_disk(mount: &Mount, read: &dyn Fn(&str) -> Option<String>) -> Option<Finding> {
    let base = format!("/sys/dev/block/{}", mount.device);
    // A partition has its disk's queue one folder up.
    let queue = |name: &str| read(&format!("{base}/queue/{name}")).or_else(|| read(&format!("{base}/../queue/{name}")));
    let uevent = read(&format!("{base}/uevent")).unwrap_or_default();
    let name = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME=")).unwrap_or("a disk").to_owned();
    let cache = queue("write_cache")?;
    let cache = match cache.trim() {
        "write back" => "it has a write cache, which each commit has written out",
        _ => "it has no write cache",
    };
    let text = if name.starts_with("mmcblk") {
        format!("{name} is an SD card or eMMC, {cache}; store.commit_wait and durability \"interval\" spare it")
    } else if queue("rotational").is_some_and(|spins| spins.trim() == "1") {
        format!("{name} says that it turns, {cache}; a commit then takes some milliseconds")
    } else {
        format!("{name}, {cache}")
    };
    Some(finding(Grade::Fine, "disk", text))
}

fn of_room(dir: &Path, config: &Config) -> Finding {
    let Ok(space) = Space::of(dir, dir) else {
        return finding(Grade::Warning, "room", "how much there is on the disk cannot be read");
    };
    let (free, kept) = (space.free / 1_000_000, config.store.min_free_bytes / 1_000_000);
    if space.free <= config.store.min_free_bytes {
        let text = format!(
            "{free} MB free, {kept} MB are left to others (store.min_free_bytes): durable messages are refused"
        );
        return finding(Grade::Broken, "room", text);
    }
    if space.free < config.store.min_free_bytes.saturating_mul(2) {
        return finding(Grade::Warning, "room", format!("{free} MB free, of which {kept} MB are left to others"));
    }
    finding(Grade::Fine, "room", format!("{free} MB free, of which {kept} MB are left to others"))
}

/// The soft and the hard limit of open files, out of `/proc/self/limits`.
fn open_files(limits: &str) -> Option<(u64, u64)> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let mut numbers = line.split_whitespace().map(|number| number.parse().unwrap_or(u64::MAX));
    Some((numbers.next()?, numbers.next()?))
}

fn of_files((soft, hard): (u64, u64), connections: u64) -> Finding {
    let wanted = connections.saturating_add(FILES_BESIDE);
    if hard < wanted {
        let text = format!(
            "{hard} files may be open, {connections} connections are allowed: set LimitNOFILE={wanted}, or a smaller \
             limits.max_connections"
        );
        return finding(Grade::Warning, "open files", text);
    }
    finding(Grade::Fine, "open files", format!("{soft} may be open, up to {hard}"))
}

fn of_clock(now_s: u64, has_rtc: bool) -> Finding {
    match (now_s < CLOCK_S_MIN, has_rtc) {
        (true, _) => finding(
            Grade::Warning,
            "clock",
            "it is wrong: certificates cannot be checked, and the time away of devices is not known; set it up with NTP",
        ),
        (false, true) => finding(Grade::Fine, "clock", "it is set, and a battery keeps it"),
        (false, false) => finding(
            Grade::Fine,
            "clock",
            "it is set, and no battery keeps it: after a power cut it is wrong until NTP answers, which the broker bears",
        ),
    }
}

fn of_swap(swaps: &str) -> Finding {
    let on_disk = swaps.lines().skip(1).filter(|line| !line.starts_with("/dev/zram")).count();
    if on_disk > 0 {
        return finding(Grade::Warning, "swap", "there is swap on a disk: it wears an SD card, and makes commits wait");
    }
    finding(Grade::Fine, "swap", "none on a disk")
}

/// As it is printed.
#[must_use]
pub fn report(findings: &[Finding]) -> String {
    let line = |found: &Finding| {
        let mark = match found.grade {
            Grade::Fine => "fine",
            Grade::Warning => "warning",
            Grade::Broken => "broken",
        };
        format!("{mark:<8} {:<13} {}\n", found.what, found.text)
    };
    findings.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MOUNTS: &str = "\
        22 1 179:2 / / rw,noatime shared:1 - ext4 /dev/root rw\n\
        30 22 0:26 / /run rw,nosuid - tmpfs tmpfs rw,size=100k\n\
        31 22 8:1 / /mnt/my\\040disk rw shared:3 - ext4 /dev/sda1 rw,nobarrier\n\
        32 22 0:40 / /ro ro - squashfs /dev/loop0 ro\n\
        33 22 0:41 / /c rw - overlay overlay rw,lowerdir=/x\n";

    fn grade(path: &str) -> Grade {
        of_mount(&mount_of(MOUNTS, Path::new(path)).unwrap()).grade
    }

    #[test]
    fn file_systems_that_keep_nothing_are_found() {
        assert_eq!(grade("/var/lib/forebay"), Grade::Fine);
        for path in ["/run/forebay", "/mnt/my disk/x", "/ro/data", "/c/data"] {
            assert_eq!(grade(path), Grade::Broken, "{path}");
        }
        assert_eq!(grade("/runtime"), Grade::Fine, "only whole names count");
        assert_eq!(mount_of("nonsense", Path::new("/")), None);
    }

    #[test]
    fn a_partition_is_its_disks() {
        let mount = mount_of(MOUNTS, Path::new("/var")).unwrap();
        let found = of_disk(&mount, &|name| match name {
            "/sys/dev/block/179:2/uevent" => Some("MAJOR=179\nDEVNAME=mmcblk0p2\n".to_owned()),
            "/sys/dev/block/179:2/../queue/write_cache" => Some("write back\n".to_owned()),
            _ => None,
        });
        assert!(found.unwrap().text.starts_with("mmcblk0p2 is an SD card or eMMC, it has a write cache"));
        assert_eq!(of_disk(&mount, &|_| None), None);
    }

    #[test]
    fn limits_clock_and_swap() {
        let limits = "Max processes   10  10  processes\nMax open files            1024                 4096                 files\n";
        assert_eq!(open_files(limits), Some((1024, 4096)));
        assert_eq!(of_files((1024, 4096), 10_000).grade, Grade::Warning);
        assert_eq!(of_files((1024, 524_288), 10_000).grade, Grade::Fine);
        assert_eq!(of_clock(0, true).grade, Grade::Warning);
        assert_eq!(of_clock(CLOCK_S_MIN, false).grade, Grade::Fine);
        let head = "Filename Type Size Used Priority\n";
        assert_eq!(of_swap(&format!("{head}/dev/zram0 partition 1 0 100\n")).grade, Grade::Fine);
        assert_eq!(of_swap(&format!("{head}/var/swap file 1 0 -2\n")).grade, Grade::Warning);
    }
}
