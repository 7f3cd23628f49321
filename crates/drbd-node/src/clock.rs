//! The clock the engine is fed with.

use drbd_engine::Instant;
use rustix::time::{ClockId, clock_gettime};

/// Now, on `CLOCK_MONOTONIC`.
pub fn now() -> Instant {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    Instant::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}
