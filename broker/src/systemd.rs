//! What systemd is told of the broker: that it is ready, that it lives, that it needs time, that it ends. Everything is one datagram to a
//! socket that systemd names in the environment; where it names none, nothing is told.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The socket that systemd listens on.
const SOCKET: &str = "NOTIFY_SOCKET";
/// Microseconds after which a silent broker is started anew, and the process that is meant.
const WATCHDOG: &str = "WATCHDOG_USEC";
const WATCHDOG_OF: &str = "WATCHDOG_PID";

/// Tells systemd; what goes wrong is logged, since it is no reason to stop.
pub fn tell(state: &str) {
    let Some(socket) = std::env::var_os(SOCKET).filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!("systemd cannot be told {state}: {error}");
    }
}

/// How long systemd is asked to wait for the next word from a broker that is [`Busy`], and how often it is asked.
const MORE: Duration = Duration::from_secs(30);
const ASK_EACH: Duration = Duration::from_secs(10);

/// Until this is dropped systemd hears that the broker lives and takes its time: a store that is opened or closed, which may take
/// minutes, is no broker that hangs.
#[derive(Debug)]
pub struct Busy(Option<(mpsc::Sender<()>, JoinHandle<()>)>);

impl Drop for Busy {
    fn drop(&mut self) {
        let Some((alive, asks)) = self.0.take() else { return };
        drop(alive);
        // What is told from now on comes after its last word.
        let _ = asks.join();
    }
}

/// Asks systemd for patience, for so long at most.
#[must_use]
pub fn busy(at_most: Duration) -> Busy {
    if std::env::var_os(SOCKET).is_none() {
        return Busy(None);
    }
    let (alive, ended) = mpsc::channel();
    // So that its last word is young enough for whoever speaks next.
    let each = watchdog().map_or(ASK_EACH, |period| ASK_EACH.min(period / 2));
    let ask = move || {
        let until = Instant::now().checked_add(at_most);
        while until.is_none_or(|until| Instant::now() < until) {
            tell(&format!("WATCHDOG=1\nEXTEND_TIMEOUT_USEC={}", MORE.as_micros()));
            if ended.recv_timeout(each) != Err(mpsc::RecvTimeoutError::Timeout) {
                break;
            }
        }
    };
    let asks = std::thread::Builder::new().name("systemd".to_owned()).spawn(ask);
    if let Err(error) = &asks {
        tracing::warn!("systemd is not asked for patience: {error}");
    }
    Busy(asks.ok().map(|asks| (alive, asks)))
}

/// How often systemd wants to hear that the broker lives: twice as often as it must.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    let var = |name: &str| std::env::var(name).ok();
    period(var(WATCHDOG).as_deref(), var(WATCHDOG_OF).as_deref(), std::process::id())
}

fn period(limit_us: Option<&str>, meant: Option<&str>, me: u32) -> Option<Duration> {
    if meant.is_some_and(|meant| meant.parse() != Ok(me)) {
        return None;
    }
    let limit: u64 = limit_us?.parse().ok()?;
    (limit > 0).then(|| Duration::from_micros(limit / 2))
}

#[cfg(unix)]
fn send(socket: &std::ffi::OsStr, state: &str) -> std::io::Result<()> {
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let from = UnixDatagram::unbound()?;
    from.set_nonblocking(true)?;
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(socket);
    // A name that begins with @ is in the abstract name space.
    let to = match bytes.strip_prefix(b"@") {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        Some(name) => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    from.send_to_addr(state.as_bytes(), &to).map(drop)
}

#[cfg(not(unix))]
fn send(_: &std::ffi::OsStr, _: &str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_for_the_process_that_it_names() {
        let half = Some(Duration::from_secs(15));
        assert_eq!(period(Some("30000000"), None, 7), half);
        assert_eq!(period(Some("30000000"), Some("7"), 7), half);
        assert_eq!(period(Some("30000000"), Some("8"), 7), None);
        for none in [None, Some("0"), Some("soon")] {
            assert_eq!(period(none, None, 7), None);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn both_kinds_of_socket_are_told() {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::{SocketAddr, UnixDatagram};
        let name = format!("forebay-test-{}", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        let heard = |socket: &UnixDatagram, at: &str| {
            assert!(send(at.as_ref(), "READY=1").is_ok());
            let mut text = [0; 64];
            let n = socket.recv(&mut text).unwrap_or_default();
            assert_eq!(text.get(..n), Some(&b"READY=1"[..]));
        };
        let abstract_one = SocketAddr::from_abstract_name(&name).and_then(|addr| UnixDatagram::bind_addr(&addr));
        heard(&abstract_one.unwrap_or_else(|_| unreachable!()), &format!("@{name}"));
        let path = UnixDatagram::bind(&folder);
        heard(&path.unwrap_or_else(|_| unreachable!()), &folder.display().to_string());
        let _ = std::fs::remove_file(&folder);
        assert!(send(folder.as_os_str(), "READY=1").is_err());
    }
}
