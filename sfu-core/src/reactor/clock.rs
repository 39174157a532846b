//! The only place of the media node that reads a clock.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::time::Timestamp;

static EPOCH: OnceLock<Instant> = OnceLock::new();

/// The moment [`Timestamp::ZERO`] stands for: the first use of this clock in the process. A [`Timestamp`] `t` is
/// `epoch() + t.since(Timestamp::ZERO)`.
pub fn epoch() -> Instant {
    *EPOCH.get_or_init(read)
}

/// Now, by the monotonic clock. No system call (vDSO).
pub fn now() -> Timestamp {
    let since = read().saturating_duration_since(epoch());
    Timestamp(since.as_nanos() as u64)
}

/// CPU time this thread has used, user and kernel. One system call.
pub(super) fn thread_cpu() -> Duration {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

#[expect(clippy::disallowed_methods, reason = "this is the clock adapter")]
fn read() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_from_one_epoch() {
        let first = epoch();
        let a = now();
        let b = now();
        assert!(a <= b);
        assert_eq!(first, epoch());
        assert!(first + b.since(Timestamp::ZERO) <= read());
    }

    #[test]
    fn cpu_time_counts_work() {
        let before = thread_cpu();
        let mut x = 1u64;
        while thread_cpu() == before {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(thread_cpu() > before);
    }
}
