//! Time from `embassy-time`.

use super::task::Time;
use embassy_time::{Instant, Timer};

/// The clock of `embassy-time`.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmbassyTime;

impl Time for EmbassyTime {
    fn now(&self) -> u64 {
        Instant::now().as_millis()
    }

    async fn wait_until(&self, at: u64) {
        Timer::at(Instant::from_millis(at)).await;
    }
}
