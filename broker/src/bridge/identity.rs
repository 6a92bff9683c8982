//! Who a gateway is towards its upstreams, and which life of a queue its numbers belong to. Both are small files of the data
//! directory.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::beside;

const GATEWAY: &str = "gateway-id";

/// The folder of everything that bridges keep outside the store.
#[must_use]
pub fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("bridges")
}

/// The gateway's name: 16 hexadecimal digits, drawn once.
///
/// # Errors
/// It can be neither read nor written.
pub fn gateway(data_dir: &Path) -> io::Result<String> {
    let folder = folder(data_dir);
    fs::create_dir_all(&folder)?;
    let file = folder.join(GATEWAY);
    if let Some(known) = read(&file)?.filter(|text| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Ok(known);
    }
    let drawn = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
    write(&file, &drawn)?;
    Ok(drawn)
}

/// Which life of a bridge's queue its numbers belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Seconds of Unix time, and never the one before.
    pub number: u64,
    /// What an outbox remembers is of an earlier one: it is to be reset, and [`settle`] called then.
    pub unsettled: bool,
}

/// How the name of an outbox ends.
const OUTBOX: &str = ".outbox";
/// What follows a number that is not settled.
const UNSETTLED: &str = " unsettled";

/// The epoch of a bridge's queue. A queue that is new (the first start, or a store that was lost) counts its places anew, so it
/// gets a new one: otherwise a receiver would take its messages for repetitions.
///
/// # Errors
/// It can be neither read nor written.
pub fn epoch(data_dir: &Path, bridge: &str, queue_is_new: bool) -> io::Result<Epoch> {
    let file = epoch_file(data_dir, bridge);
    let text = read(&file)?;
    let unsettled = text.as_ref().is_some_and(|text| text.ends_with(UNSETTLED));
    let known: Option<u64> = text.and_then(|text| text.trim_end_matches(UNSETTLED).parse().ok());
    if let Some(number) = known.filter(|_| !queue_is_new) {
        return Ok(Epoch { number, unsettled });
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
    let number = known.map_or(now, |before| now.max(before.saturating_add(1)));
    write(&file, &format!("{number}{UNSETTLED}"))?;
    Ok(Epoch { number, unsettled: true })
}

/// The outbox has been reset for this epoch.
///
/// # Errors
/// It cannot be written.
pub fn settle(data_dir: &Path, bridge: &str, number: u64) -> io::Result<()> {
    write(&epoch_file(data_dir, bridge), &number.to_string())
}

/// The file of the messages that have left a bridge's queue for an MQTT broker, and have not arrived.
#[must_use]
pub fn outbox(data_dir: &Path, bridge: &str) -> PathBuf {
    folder(data_dir).join(format!("{bridge}{OUTBOX}"))
}

/// Outboxes of bridges that the configuration does not name: what is in them goes nowhere.
#[must_use]
pub fn forgotten_outboxes(data_dir: &Path, is_known: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(files) = fs::read_dir(folder(data_dir)) else { return Vec::new() };
    let forgotten = |file: &PathBuf| {
        let name = file.file_name().and_then(|name| name.to_str());
        name.and_then(|name| name.strip_suffix(OUTBOX)).is_some_and(|bridge| !is_known(bridge))
    };
    let mut all: Vec<PathBuf> = files.flatten().map(|entry| entry.path()).filter(forgotten).collect();
    all.sort();
    all
}

fn epoch_file(data_dir: &Path, bridge: &str) -> PathBuf {
    folder(data_dir).join(format!("{bridge}.epoch"))
}

fn read(file: &Path) -> io::Result<Option<String>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whole or not at all, whenever the power fails.
pub(super) fn write(file: &Path, text: &str) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut opened = beside::create(&new, 0o666)?;
    opened.write_all(text.as_bytes())?;
    opened.sync_all()?;
    fs::rename(&new, file)?;
    sync_folder(file)
}

/// A file that was made or removed is so after a power cut too.
pub(super) fn sync_folder(file: &Path) -> io::Result<()> {
    match file.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_keeps_its_name() {
        let scratch = tempfile::tempdir().unwrap();
        let name = gateway(scratch.path()).unwrap();
        assert_eq!(name.len(), 16);
        assert_eq!(gateway(scratch.path()).unwrap(), name);
        fs::write(folder(scratch.path()).join(GATEWAY), "\0\0\0").unwrap();
        let other = gateway(scratch.path()).unwrap();
        assert_eq!(gateway(scratch.path()).unwrap(), other, "what is damaged is drawn anew, once");
    }

    #[test]
    fn an_outbox_without_a_bridge_is_found() {
        let scratch = tempfile::tempdir().unwrap();
        assert!(forgotten_outboxes(scratch.path(), |_| false).is_empty());
        gateway(scratch.path()).unwrap();
        for bridge in ["up", "gone"] {
            fs::write(outbox(scratch.path(), bridge), "").unwrap();
            epoch(scratch.path(), bridge, true).unwrap();
        }
        let found = forgotten_outboxes(scratch.path(), |bridge| bridge == "up");
        assert_eq!(found, [outbox(scratch.path(), "gone")]);
    }

    #[test]
    fn a_new_queue_has_a_new_epoch() {
        let scratch = tempfile::tempdir().unwrap();
        gateway(scratch.path()).unwrap();
        let first = epoch(scratch.path(), "b", true).unwrap();
        assert!(first.unsettled);
        assert_eq!(epoch(scratch.path(), "b", false).unwrap(), first, "it was killed before it settled");
        settle(scratch.path(), "b", first.number).unwrap();
        assert_eq!(epoch(scratch.path(), "b", false).unwrap(), Epoch { unsettled: false, ..first });
        let second = epoch(scratch.path(), "b", true).unwrap();
        assert!(second.number > first.number && second.unsettled, "within the same second, too");
        // A clock that has gone back.
        settle(scratch.path(), "b", 99_999_999_999).unwrap();
        assert_eq!(epoch(scratch.path(), "b", true).unwrap().number, 100_000_000_000);
    }
}
