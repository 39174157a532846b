//! The one place that reads clocks: everything else takes time as an argument.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Now, monotonic.
#[expect(clippy::disallowed_methods, reason = "the clock adapter")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Now as nanoseconds since the epoch: the clock in which the kernel stamps received datagrams.
#[expect(clippy::disallowed_methods, reason = "the clock adapter")]
pub(crate) fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
