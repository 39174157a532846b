//! Monotonic time as a plain number, so that tests can make any moment without a clock.
#![forbid(unsafe_code)]

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// Nanoseconds since the process's epoch (`reactor/clock.rs`). Monotonic; says nothing about the calendar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The epoch itself.
    pub const ZERO: Timestamp = Timestamp(0);

    /// `ms` milliseconds after the epoch.
    pub const fn from_millis(ms: u64) -> Timestamp {
        Timestamp(ms * 1_000_000)
    }

    /// Whole milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Whole microseconds since the epoch.
    pub const fn as_micros(self) -> u64 {
        self.0 / 1_000
    }

    /// Time since `earlier`; zero when `earlier` is later.
    pub const fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, rhs: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(rhs.as_nanos() as u64))
    }
}

impl AddAssign<Duration> for Timestamp {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;
    fn sub(self, rhs: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(rhs.as_nanos() as u64))
    }
}

/// Wall-clock time in NTP format, 32.32 fixed point seconds since 1900 (RFC 3550 §4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NtpTime(pub u64);

impl NtpTime {
    /// The middle 32 bits, as LSR fields carry them (RFC 3550 §6.4.1).
    pub const fn middle(self) -> u32 {
        (self.0 >> 16) as u32
    }

    /// This time moved on by `elapsed`.
    pub fn advanced(self, elapsed: Duration) -> NtpTime {
        let fraction = (u128::from(elapsed.subsec_nanos()) << 32) / 1_000_000_000;
        NtpTime(self.0.wrapping_add((elapsed.as_secs() << 32) | fraction as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtraction_saturates() {
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
        assert_eq!(Timestamp(5) - Duration::from_secs(1), Timestamp::ZERO);
    }

    #[test]
    fn ntp_advances_by_fractions() {
        let t = NtpTime(10 << 32).advanced(Duration::from_millis(1500));
        assert_eq!(t.0 >> 32, 11);
        assert_eq!(t.middle() & 0xffff, 0x8000);
    }
}
