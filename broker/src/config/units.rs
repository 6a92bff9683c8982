//! Durations and sizes as people write them: `10s`, `1MiB`.

use std::time::Duration;

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) u64);

pub(super) const DURATION_UNITS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000), ("d", 24 * 3_600_000)];

pub(super) const SIZE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// A whole number and a unit, with or without a space between them.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse(text, DURATION_UNITS, "a duration such as \"10s\"").map(Duration::from_millis)
}

/// A whole number and a unit, with or without a space between them.
pub(super) fn bytes(text: &str) -> Result<Bytes, String> {
    parse(text, SIZE_UNITS, "a size such as \"1MiB\"").map(Bytes)
}

/// A size in a time, `20 GB/year`, as bytes in a year of 365 days; `None` for `unlimited`.
pub(super) fn wear(text: &str) -> Result<Option<u64>, String> {
    if text == "unlimited" {
        return Ok(None);
    }
    let wrong = || format!("must be a size in a day, month or year such as \"20 GB/year\", is \"{text}\"");
    let (size, time) = text.split_once('/').ok_or_else(wrong)?;
    let times = match time.trim() {
        "day" => 365,
        "month" => 12,
        "year" => 1,
        _ => return Err(wrong()),
    };
    let Bytes(size) = bytes(size.trim())?;
    match size.checked_mul(times) {
        Some(0) => Err(format!("\"{text}\" is nothing; \"unlimited\" is for as much as it takes")),
        Some(per_year) => Ok(Some(per_year)),
        None => Err(format!("\"{text}\" is too large")),
    }
}

fn parse(text: &str, units: &[(&str, u64)], wanted: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
    let names = || units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    if number.is_empty() {
        return Err(format!("must be {wanted}, is \"{text}\" (units: {})", names()));
    }
    let unit = unit.trim_start();
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(match unit {
            "" => format!("\"{text}\" has no unit (units: {})", names()),
            _ => format!("\"{unit}\" is not a unit (units: {})", names()),
        });
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(*factor)).ok_or_else(|| format!("\"{text}\" is too large"))
}

/// A duration as people write it, in the largest unit that divides it.
pub(super) fn show_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    show(ms, DURATION_UNITS, "0s")
}

/// A size as people write it, in the largest unit that divides it.
pub(super) fn show_bytes(bytes: u64) -> String {
    show(bytes, SIZE_UNITS, "0B")
}

fn show(amount: u64, units: &[(&str, u64)], zero: &str) -> String {
    let largest = units.iter().filter(|(_, factor)| amount.is_multiple_of(*factor)).max_by_key(|(_, factor)| *factor);
    match largest {
        Some((unit, factor)) if amount > 0 => format!("{}{unit}", amount / factor),
        _ => zero.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_durations() {
        for (text, ms) in [
            ("0s", 0),
            ("250ms", 250),
            ("10s", 10_000),
            ("10 s", 10_000),
            ("2min", 120_000),
            ("1h", 3_600_000),
            ("30d", 2_592_000_000),
        ] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
    }

    #[test]
    fn reads_sizes() {
        for (text, n) in [
            ("0B", 0),
            ("512B", 512),
            ("1kB", 1_000),
            ("64KiB", 65_536),
            ("1MiB", 1_048_576),
            ("3 GB", 3_000_000_000),
            ("2GiB", 2_147_483_648),
            ("1TiB", 1_099_511_627_776),
        ] {
            assert_eq!(bytes(text).unwrap(), Bytes(n), "{text}");
        }
    }

    #[test]
    fn reads_wear() {
        assert_eq!(wear("20 GB/year"), Ok(Some(20_000_000_000)));
        assert_eq!(wear("1MiB / day"), Ok(Some(365 << 20)));
        assert_eq!(wear("1GB/month"), Ok(Some(12_000_000_000)));
        assert_eq!(wear("unlimited"), Ok(None));
        for (text, message) in [
            ("20 GB", "must be a size in a day, month or year such as \"20 GB/year\", is \"20 GB\""),
            ("20 GB/week", "must be a size in a day, month or year such as \"20 GB/year\", is \"20 GB/week\""),
            ("0B/year", "\"0B/year\" is nothing; \"unlimited\" is for as much as it takes"),
            ("100000 TiB/day", "\"100000 TiB/day\" is too large"),
        ] {
            assert_eq!(wear(text).unwrap_err(), message);
        }
        assert!(wear("20/year").unwrap_err().contains("has no unit"));
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, message) in [
            ("10", "\"10\" has no unit (units: ms, s, min, h, d)"),
            ("10m", "\"m\" is not a unit (units: ms, s, min, h, d)"),
            ("1.5s", "\".5s\" is not a unit (units: ms, s, min, h, d)"),
            ("soon", "must be a duration such as \"10s\", is \"soon\" (units: ms, s, min, h, d)"),
            ("-1s", "must be a duration such as \"10s\", is \"-1s\" (units: ms, s, min, h, d)"),
            ("", "must be a duration such as \"10s\", is \"\" (units: ms, s, min, h, d)"),
            ("99999999999999999999s", "\"99999999999999999999s\" is too large"),
            ("18446744073709551615h", "\"18446744073709551615h\" is too large"),
            ("5é", "\"é\" is not a unit (units: ms, s, min, h, d)"),
        ] {
            assert_eq!(duration(text).unwrap_err(), message);
        }
        assert_eq!(bytes("1mb").unwrap_err(), "\"mb\" is not a unit (units: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)");
    }

    #[test]
    fn writes_what_it_reads() {
        for text in ["0s", "250ms", "10s", "2min", "36h", "30d"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
        for text in ["0B", "512B", "64KiB", "1MiB", "1000B", "3GiB"] {
            let shown = show_bytes(bytes(text).unwrap().0);
            assert_eq!(bytes(&shown).unwrap(), bytes(text).unwrap(), "{shown}");
        }
    }
}
