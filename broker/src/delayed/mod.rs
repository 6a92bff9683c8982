//! Messages that are sent later: committed before their publisher's ack, sent once, in order of due time and then of arrival.

mod index;
#[cfg(test)]
mod tests;
mod when;

pub use index::{Collected, Gone, Index, Key, Limits, Line, Totals};
pub use when::{DELIVER_AFTER, DELIVER_AT, Delayed, MAX_S, PREFIX, When, Wrong, read};
