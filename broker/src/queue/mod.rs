//! Queues: what is kept for somebody, in order of place (`Queue`), and how the messages of one are dealt to several members.
//! Nothing here knows an MQTT version, a packet identifier or a socket.

mod ahead;
mod attend;
mod check;
mod collect;
mod fallen;
mod figures;
mod holder;
mod holes;
mod key;
mod leave;
mod limits;
pub mod members;
mod paging;
mod places;
mod priority;
mod promise;
mod refused;
mod replace;
mod room;
mod scan;
mod stall;
#[cfg(test)]
mod tests;

pub use fallen::{Fallen, Reasons, Why};
pub use figures::QueueFigures;
pub(crate) use holder::{Held, Holder};
pub use key::{KeyOf, PUBLISHER};
pub use leave::{Fate, LeavingPage, Orphan};
pub(crate) use leave::{Left, give_up};
pub use limits::{Policy, QueueLimits};
pub use places::PageWanted;
pub(crate) use places::{Arrival, Ending, Entry, Kept, Line, Paged, Presence, Queue, Rules};
pub use priority::{LEVELS_MAX, PRIORITY_MAX, Priorities};
pub use refused::Refused;
pub use room::Fill;
pub(crate) use room::HalfRoom;
pub(crate) use stall::{Look, Stall, Turnover};
