//! A part of a session that an idle client has no use for.

use std::ops::{Deref, DerefMut};

/// What a part is before it is first changed.
pub(crate) trait Blank: Default + 'static {
    /// The same as `default`, for reading.
    fn blank() -> &'static Self;
}

/// Made on its own when it is first changed; until then reading it reads the blank one, and it takes one pointer.
pub(crate) struct Lazy<T>(Option<Box<T>>);

impl<T> Lazy<T> {
    /// Whether it has been changed since it was made or cleared.
    pub(crate) fn is_made(&self) -> bool {
        self.0.is_some()
    }

    /// Blank again; its memory is given back.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }
}

impl<T> Default for Lazy<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Blank> Deref for Lazy<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or_else(|| T::blank())
    }
}

impl<T: Blank> DerefMut for Lazy<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}
