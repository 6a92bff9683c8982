//! How far the store had come, noted outside of its file: a file that has come to nothing, or an older copy that was put
//! in its place, is known by it. The note is in the file that is locked: `commit`, a number of a commit that the store has
//! had for certain, and a checksum of it; always as long, so that it is written in place.

use std::fs::File;
use std::io;
use std::io::{Read, Seek, SeekFrom, Write};

/// The note is written again after so many commits, and when the store is closed.
pub(super) const COMMITS: u64 = 4096;
const DIGITS: usize = 20;

fn line(commit: u64) -> String {
    let text = format!("commit {commit:0DIGITS$}");
    let sum = crc32fast::hash(text.as_bytes());
    format!("{text} {sum:08x}\n")
}

/// `None`: there is none, or a power cut has torn it.
pub(super) fn read(mut file: &File) -> Option<u64> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(line(0).len() as u64).read_to_string(&mut text).ok()?;
    let number = text.strip_prefix("commit ")?.get(..DIGITS)?.parse().ok()?;
    (text == line(number)).then_some(number)
}

pub(super) fn write(mut file: &File, commit: u64) -> io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    file.write_all(line(commit).as_bytes())?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_noted_is_read_and_what_is_torn_is_not() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let file = File::options().read(true).write(true).open(path.path()).unwrap();
        assert_eq!(read(&file), None);
        for commit in [0, 7, u64::MAX, 3] {
            write(&file, commit).unwrap();
            assert_eq!(read(&file), Some(commit));
        }
        let whole = line(3);
        for len in 0..whole.len() {
            std::fs::write(path.path(), whole.get(..len).unwrap()).unwrap();
            assert_eq!(read(&file), None, "{len} bytes");
        }
        std::fs::write(path.path(), whole.replace('3', "4")).unwrap();
        assert_eq!(read(&file), None);
    }
}
