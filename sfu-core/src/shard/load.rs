//! How busy the core is, and how long a batch may therefore be gathered.
//!
//! ```text
//! busy share   0 ─────────── 20 % ──────────── 80 % ─── 100 %
//! window       0 ──────────── 0 ──── linear ── max ──── max
//! audio hold   0 ─────────────────── 50 % ──── max ──── max
//! ```
//!
//! Nobody waits for a batch that will not come: an idle core forwards each packet at once. Under load a longer batch has
//! more segments per message, the one lever that lowers the cost of a packet.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::engine::Turn;

/// Longest gather window. A packet waits this long at most before it is sealed and sent.
pub const MAX_GATHER_WINDOW: Duration = Duration::from_micros(1500);
/// Busy share below which the window is zero.
const IDLE_SHARE: f64 = 0.20;
/// Busy share from which the window is full.
const FULL_SHARE: f64 = 0.80;
/// Time constant of the average: long enough to bridge a frame interval, short against a join.
const TIME_CONSTANT: Duration = Duration::from_millis(200);

/// Longest that audio may wait for a frame to go behind: half of a usual packet's 20 ms, a fraction of what a jitter buffer
/// holds.
pub const MAX_AUDIO_HOLD: Duration = Duration::from_millis(10);
/// Busy share below which audio never waits.
const HOLD_FROM_SHARE: f64 = 0.50;

/// Exponentially decaying busy share of one core.
#[derive(Debug, Default)]
pub struct LoadMeter {
    share: f64,
}

impl LoadMeter {
    /// Adds one turn.
    pub fn on_turn(&mut self, turn: &Turn) {
        let wall = turn.wall.as_secs_f64();
        if wall > 0.0 {
            let weight = 1.0 - (-wall / TIME_CONSTANT.as_secs_f64()).exp();
            let share = (turn.busy.as_secs_f64() / wall).min(1.0);
            self.share += weight * (share - self.share);
        }
    }

    /// Busy share, 0.0..=1.0.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// How long the reactor may gather now.
    pub fn gather_window(&self) -> Duration {
        MAX_GATHER_WINDOW.mul_f64(self.fraction(IDLE_SHARE))
    }

    /// How long audio may wait for a frame now.
    pub fn audio_hold(&self) -> Duration {
        MAX_AUDIO_HOLD.mul_f64(self.fraction(HOLD_FROM_SHARE))
    }

    /// Where the busy share stands between `from` and full, 0.0..=1.0.
    fn fraction(&self, from: f64) -> f64 {
        ((self.share - from) / (FULL_SHARE - from)).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(busy_us: u64, wall_us: u64) -> Turn {
        Turn { busy: Duration::from_micros(busy_us), wall: Duration::from_micros(wall_us), ..Turn::default() }
    }

    #[test]
    fn window_follows_the_load_and_is_bounded() {
        let mut meter = LoadMeter::default();
        assert_eq!(meter.gather_window(), Duration::ZERO);
        for _ in 0..2000 {
            meter.on_turn(&turn(1000, 1000));
        }
        assert_eq!((meter.gather_window(), meter.audio_hold()), (MAX_GATHER_WINDOW, MAX_AUDIO_HOLD));
        for _ in 0..2000 {
            meter.on_turn(&turn(500, 1000));
        }
        let half = meter.gather_window();
        assert!(half > Duration::ZERO && half < MAX_GATHER_WINDOW, "{half:?}");
        assert!(meter.audio_hold() < MAX_AUDIO_HOLD / 100, "{:?}", meter.audio_hold());
        for _ in 0..2000 {
            meter.on_turn(&turn(10, 1000));
        }
        assert_eq!(meter.gather_window(), Duration::ZERO);
    }

    #[test]
    fn one_long_idle_turn_weighs_as_much_as_many_short_ones() {
        let (mut long, mut short) = (LoadMeter { share: 1.0 }, LoadMeter { share: 1.0 });
        long.on_turn(&turn(0, 100_000));
        for _ in 0..100 {
            short.on_turn(&turn(0, 1_000));
        }
        assert!((long.share() - short.share()).abs() < 0.01);
    }
}
