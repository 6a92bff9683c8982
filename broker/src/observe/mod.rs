//! What can be known of a running broker: one typed [`Snapshot`], and the [`figures`] that are made from it. `$SYS`,
//! Prometheus and the API all show these figures, so that none is missing in one of them.

mod bridges;
mod counters;
mod figures;
mod histogram;
mod process;
pub mod prometheus;
pub mod schema;
mod snapshot;

pub use bridges::{BridgePart, OpenBridge, Said};
pub use counters::{Counter, Counters};
pub use figures::{Figure, Kind, Sample, Unit, figures};
pub use histogram::{Counted, Histogram};
pub use process::Process;
pub use snapshot::{
    BrokerPart, CounterValue, DelayedPart, DropCount, LedgerPart, ListenerPart, LogPart, MemoryPart, Observed,
    OriginsPart, QueuesPart, RetainedPart, SessionsPart, Snapshot, StorePart, SubscriptionsPart,
};
