//! Lines that fit the terminal: one that is drawn anew must not take two.

use std::io::IsTerminal;

/// Where nobody says how wide it is.
const USUAL: usize = 80;

/// Columns of the terminal behind a stream.
#[cfg(unix)]
pub(super) fn of(stream: &(impl IsTerminal + std::os::fd::AsFd)) -> usize {
    let size = stream.is_terminal().then(|| rustix::termios::tcgetwinsize(stream).ok()).flatten();
    // A serial console has no size, and says 0.
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(USUAL)
}

/// Columns of the terminal behind a stream.
#[cfg(not(unix))]
pub(super) fn of(_: &impl IsTerminal) -> usize {
    USUAL
}

/// As much of a line as fits. All characters that the tools draw are one column wide.
pub(super) fn cut(line: &str, columns: usize) -> &str {
    line.char_indices().nth(columns).map_or(line, |(end, _)| line.get(..end).unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_at_a_character() {
        assert_eq!(cut("short", 60), "short");
        assert_eq!(cut("███", 2), "██");
        assert_eq!(cut("███", 3), "███");
        assert_eq!(cut("x", 0), "");
    }
}
