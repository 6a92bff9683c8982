//! Text in a fixed space.

use core::fmt;

/// At most `N` bytes; more are left out.
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

/// A topic name.
pub type Topic = Text<48>;

impl<const N: usize> Text<N> {
    /// Empty.
    pub const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    /// `first/second`.
    pub fn join(first: &str, second: &str) -> Self {
        let mut text = Self::new();
        let _ = fmt::write(&mut text, format_args!("{first}/{second}"));
        text
    }

    /// Makes it longer.
    pub fn pad(&mut self, with: u8, len: usize) {
        if let Some(rest) = self.bytes.get_mut(self.len..len) {
            rest.fill(with);
            self.len = len;
        }
    }

    /// As a string.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(self.bytes.get(..self.len).unwrap_or_default()).unwrap_or_default()
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}
