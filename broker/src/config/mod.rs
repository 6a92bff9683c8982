//! The configuration: read into a raw form, checked, and only then seen by the rest of the broker.

mod checked;
mod defaults;

pub use checked::{
    Config, Durability, DurabilityRule, Limits, Listener, LogLevel, NEVER, QueueLimits, QueuePolicy, Rate, StoreConfig,
    Tls, TlsFiles,
};
