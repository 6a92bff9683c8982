//! What the broker asks of its machine at the start.

use forebay::config::Config;

/// Descriptors beside those of connections: the store, listeners, runtimes, the log.
#[cfg(unix)]
const OTHER_DESCRIPTORS: u64 = 64;

/// What the broker makes from now on (its folder, the store, keys) is for its own user alone.
#[cfg(unix)]
pub(crate) fn own_files_only() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

/// Elsewhere files have what their folder gives them.
#[cfg(not(unix))]
pub(crate) fn own_files_only() {}

/// Takes as many descriptors as the system gives, and says when these are fewer than there may be connections.
#[cfg(unix)]
pub(crate) fn raise_descriptors(config: &Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    // `None` is no limit. A limit without end is not taken: some systems keep a table of that size.
    let wanted = wanted(config.limits.max_connections);
    let most = before.maximum.unwrap_or(u64::MAX);
    let new = before.current.unwrap_or(u64::MAX).max(most.min(wanted.max(1 << 16)));
    if Some(new) != before.current && before.current.is_some() {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(new), maximum: before.maximum });
        if let Err(error) = raised {
            tracing::warn!("the limit of open files cannot be raised to {new}: {error}");
        }
    }
    let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if now < wanted {
        tracing::warn!(
            "{now} open files are too few for limits.max_connections = {}: raise the hard limit (LimitNOFILE={wanted} in a \
             systemd unit), or lower max_connections",
            config.limits.max_connections
        );
    }
}

#[cfg(unix)]
fn wanted(connections: usize) -> u64 {
    u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(OTHER_DESCRIPTORS)
}

/// Elsewhere there is no such limit.
#[cfg(not(unix))]
pub(crate) fn raise_descriptors(_: &Config) {}
