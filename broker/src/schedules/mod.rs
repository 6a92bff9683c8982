//! Messages that are published again and again, at the times of a cron line: what a schedule says, and when it is due. It
//! knows no store, no clock and no client ([`crate::broker`] ties it to them).

mod description;
mod timetable;
mod utc;

pub use description::{Body, Description, PREFIX, Wrong, name_of};
pub use timetable::{Due, Mark, Timetable};
