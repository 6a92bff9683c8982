//! Panics of others' code that end where it was called.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls it; a panic ends here, and is what it said. What it may have left half done must not be used any more.
///
/// # Errors
/// It panicked.
pub fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    let outer = CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    CONTAINED.set(outer);
    result.map_err(|panic| {
        let what = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let what = what.or_else(|| panic.downcast_ref::<String>().cloned());
        what.unwrap_or_else(|| "no reason given".to_owned())
    })
}

thread_local! {
    /// A panic of this thread would end in [`caught`].
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Lets panics that end here be said as what they are, not as a crash of the program. For the program's start: the hook is the
/// process's.
pub fn contain_quietly() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if CONTAINED.get() {
            tracing::debug!("{panic}");
        } else {
            before(panic);
        }
    }));
}
