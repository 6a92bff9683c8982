//! To wake up on time: the system's poll counts milliseconds, and a message that is due counts microseconds.

use std::io;

use mio::{Registry, Token};

/// A timer beside the sockets. Where there is none, the loop does not sleep for the last millisecond.
#[derive(Debug)]
pub struct Alarm {
    #[cfg(target_os = "linux")]
    timer: std::os::fd::OwnedFd,
}

#[cfg(target_os = "linux")]
impl Alarm {
    /// Wakes the poll of this registry.
    ///
    /// # Errors
    /// The system has no timer.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        use std::os::fd::AsRawFd;

        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut mio::unix::SourceFd(&timer.as_raw_fd()), token, mio::Interest::READABLE)?;
        Ok(Self { timer })
    }

    /// In so many nanoseconds, once. Setting it again makes its event an edge again, so that it is never read.
    ///
    /// # Errors
    /// The system does not set it.
    pub fn set(&self, ns: u64) -> io::Result<Option<std::time::Duration>> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        let it_value = Timespec { tv_sec: (ns / 1_000_000_000) as _, tv_nsec: (ns % 1_000_000_000).max(1) as _ };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value })?;
        Ok(None)
    }
}

#[cfg(not(target_os = "linux"))]
impl Alarm {
    /// There is none.
    ///
    /// # Errors
    /// Never.
    pub fn new(_: &Registry, _: Token) -> io::Result<Self> {
        Ok(Self {})
    }

    /// How long to poll.
    ///
    /// # Errors
    /// Never.
    pub fn set(&self, ns: u64) -> io::Result<Option<std::time::Duration>> {
        Ok(Some(std::time::Duration::from_millis(ns / 1_000_000)))
    }
}
