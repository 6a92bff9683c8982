//! Tables for people.

/// Rows under their titles, each column as wide as its widest cell. Titles that begin with `>` are of numbers: those
/// stand on the right.
pub(super) fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = titles.iter().map(|title| title.trim_start_matches('>').chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let head: Vec<String> = titles.iter().map(|title| title.trim_start_matches('>').to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for ((cell, width), title) in row.iter().zip(&widths).zip(titles) {
            let space = " ".repeat(width.saturating_sub(cell.chars().count()));
            let (before, after) = if title.starts_with('>') { (space.as_str(), "") } else { ("", space.as_str()) };
            line.push_str(&format!("{before}{cell}{after}  "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// What a peer may have chosen must not move the cursor of a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A time in its two largest units.
pub(super) fn time(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")];
    for (n, (size, name)) in UNITS.iter().enumerate() {
        if ms >= *size {
            let rest = UNITS.get(n + 1).map(|(less, name)| (ms % size / less, name)).filter(|(rest, _)| *rest > 0);
            let rest = rest.map_or_else(String::new, |(rest, name)| format!(" {rest} {name}"));
            return format!("{} {name}{rest}", ms / size);
        }
    }
    format!("{ms} ms")
}

/// A size with three digits.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut whole, mut tenths, mut unit) = (bytes, 0, 0);
    while whole >= 1000 && unit + 1 < UNITS.len() {
        (whole, tenths, unit) = (whole / 1000, whole % 1000 / 100, unit + 1);
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit > 0 && whole < 100 { format!("{whole}.{tenths} {name}") } else { format!("{whole} {name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["naïve".to_owned(), "7".to_owned()], vec!["b".to_owned(), "1234".to_owned()]];
        assert_eq!(table(&["client", ">queued"], &rows), "client  queued\nnaïve        7\nb         1234\n");
    }

    #[test]
    fn times_and_sizes_are_short() {
        for (ms, text) in
            [(0, "0 ms"), (999, "999 ms"), (61_000, "1 min 1 s"), (3_600_000, "1 h"), (90_000_000, "1 d 1 h")]
        {
            assert_eq!(time(ms), text);
        }
        for (bytes, text) in [(0, "0 B"), (999, "999 B"), (1_234, "1.2 kB"), (123_456, "123 kB"), (5_000_000, "5.0 MB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_name_cannot_move_the_cursor() {
        assert_eq!(plain("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
