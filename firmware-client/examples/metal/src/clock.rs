//! Milliseconds since start, counted by an interrupt.

use core::sync::atomic::{AtomicU32, Ordering};
use cortex_m::peripheral::{SYST, syst::SystClkSource};

/// The LM3S6965 starts with 12.5 MHz.
const TICKS_PER_MS: u32 = 12_500;

static NOW_MS: AtomicU32 = AtomicU32::new(0);

/// Starts the interrupt.
pub fn start(mut systick: SYST) {
    systick.set_clock_source(SystClkSource::Core);
    systick.set_reload(TICKS_PER_MS - 1);
    systick.clear_current();
    systick.enable_counter();
    systick.enable_interrupt();
}

/// One millisecond has gone; for the interrupt.
pub fn tick() -> u32 {
    // No compare-and-swap is needed: only the interrupt writes.
    let now = NOW_MS.load(Ordering::Relaxed).wrapping_add(1);
    NOW_MS.store(now, Ordering::Relaxed);
    now
}

/// Now. A device that runs for more than 49 days makes it 64 bits.
pub fn now() -> u64 {
    u64::from(NOW_MS.load(Ordering::Relaxed))
}

/// Sleeps until the next interrupt, which is at most a millisecond away.
pub fn sleep() {
    cortex_m::asm::wfi();
}
