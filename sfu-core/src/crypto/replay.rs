//! Replay protection (RFC 3711 §3.3.2): a sliding window of indexes that were seen.
//!
//! ```text
//!   too old   │◀── (WORDS - 1) * 64 indexes ──▶│   not seen yet
//! ────────────┼────────────────────────────────┼──────────────▶ index
//!             │ one bit each, a ring of words   highest
//! ```
//!
//! One word more than the window needs, because the ring is cleared a whole word at a time: the word that `highest`
//! lies in must not be the word of an index that still counts.
//!
//! [`ReplayWindow::check`] comes before authentication and changes nothing; [`ReplayWindow::accept`] comes after it.
//! So no forged packet can move the window.
#![forbid(unsafe_code)]

use crate::drop_reason::DropReason;

/// Window for RTP: 1024 packets. RFC 3711 asks for at least 64; retransmissions on the media SSRC come late.
pub type RtpWindow = ReplayWindow<17>;
/// Window for RTCP: 128 packets.
pub type RtcpWindow = ReplayWindow<3>;

/// Which of the last [`ReplayWindow::LEN`] indexes were seen.
#[derive(Clone, Debug)]
pub struct ReplayWindow<const WORDS: usize> {
    /// Highest index accepted.
    highest: u64,
    /// Bit `index % 64` of word `index / 64 % WORDS`. Bits of indexes below the window are stale and never read.
    seen: [u64; WORDS],
}

impl<const WORDS: usize> ReplayWindow<WORDS> {
    /// How many indexes the window covers, the highest included.
    pub const LEN: u64 = (WORDS as u64 - 1) * 64;

    /// A window that has seen `first` and nothing else; all indexes below it that it covers count as unseen.
    pub fn starting_at(first: u64) -> Self {
        let mut window = ReplayWindow { highest: first, seen: [0; WORDS] };
        window.set(first);
        window
    }

    /// A window that has seen `highest` and everything below it: only what comes after may still be accepted.
    pub fn behind(highest: u64) -> Self {
        let mut window = ReplayWindow { highest, seen: [u64::MAX; WORDS] };
        window.seen[Self::word(highest)] = u64::MAX >> (63 - highest % 64);
        window
    }

    /// The highest index accepted.
    #[inline]
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// Whether a packet with this index may be looked at. Changes nothing.
    ///
    /// # Errors
    /// [`DropReason::Replayed`] if the index was accepted before, [`DropReason::TooOld`] if it is below the window.
    #[inline]
    pub fn check(&self, index: u64) -> Result<(), DropReason> {
        if index > self.highest {
            Ok(())
        } else if self.highest - index >= Self::LEN {
            Err(DropReason::TooOld)
        } else if self.seen[Self::word(index)] & Self::bit(index) != 0 {
            Err(DropReason::Replayed)
        } else {
            Ok(())
        }
    }

    /// Notes an index whose packet was authenticated. It must have passed [`ReplayWindow::check`].
    #[inline]
    pub fn accept(&mut self, index: u64) {
        if index > self.highest {
            self.advance(index);
        }
        self.set(index);
    }

    /// Moves the window up to `index` and clears what comes in.
    #[inline]
    fn advance(&mut self, index: u64) {
        let (old, new) = (self.highest / 64, index / 64);
        if new - old >= WORDS as u64 {
            self.seen = [0; WORDS];
        } else {
            for word in old + 1..=new {
                self.seen[word as usize % WORDS] = 0;
            }
        }
        self.highest = index;
    }

    #[inline]
    fn set(&mut self, index: u64) {
        self.seen[Self::word(index)] |= Self::bit(index);
    }

    #[inline]
    fn word(index: u64) -> usize {
        (index / 64) as usize % WORDS
    }

    #[inline]
    fn bit(index: u64) -> u64 {
        1 << (index % 64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn edges() {
        let mut window = RtcpWindow::starting_at(1000);
        assert_eq!(RtcpWindow::LEN, 128);
        for (index, expected) in [
            (1000, Err(DropReason::Replayed)),
            (1001, Ok(())),
            (999, Ok(())),
            (873, Ok(())),
            (872, Err(DropReason::TooOld)),
            (0, Err(DropReason::TooOld)),
            (u64::MAX, Ok(())),
        ] {
            assert_eq!(window.check(index), expected, "{index}");
        }
        window.accept(5000);
        assert_eq!(window.highest(), 5000);
        assert_eq!(window.check(1000), Err(DropReason::TooOld));
        assert_eq!(window.check(4999), Ok(()));
    }

    #[test]
    fn behind_an_index_only_later_ones_are_open() {
        for highest in [0, 5, 63, 64, 1000, 65_535] {
            let mut window = RtcpWindow::behind(highest);
            let below = (0..highest + 1).rev().take(300);
            assert!(below.clone().all(|index| window.check(index).is_err()), "{highest}");
            let ahead = highest + 40;
            window.accept(ahead);
            for index in highest + 1..ahead {
                assert_eq!(window.check(index), Ok(()), "{index} behind {highest}");
            }
            assert!(below.clone().chain([ahead]).all(|index| window.check(index).is_err()), "{highest}");
        }
    }

    #[test]
    fn a_check_alone_changes_nothing() {
        let window = RtpWindow::starting_at(7);
        window.check(90_000).unwrap();
        assert_eq!(window.highest(), 7);
        assert_eq!(window.check(8), Ok(()));
    }

    /// The same by a set of everything that was ever accepted.
    fn reference(seen: &HashSet<u64>, highest: u64, index: u64) -> Result<(), DropReason> {
        if index + RtcpWindow::LEN <= highest {
            Err(DropReason::TooOld)
        } else if seen.contains(&index) {
            Err(DropReason::Replayed)
        } else {
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(first in 0u64..300, steps in prop::collection::vec(-200i64..260, 1..400)) {
            let mut window = RtcpWindow::starting_at(first);
            let mut seen = HashSet::from([first]);
            let mut highest = first;
            for step in steps {
                let index = highest.saturating_add_signed(step);
                let expected = reference(&seen, highest, index);
                prop_assert_eq!(window.check(index), expected, "{} {}", highest, index);
                if expected.is_ok() {
                    window.accept(index);
                    seen.insert(index);
                    highest = highest.max(index);
                }
            }
        }
    }
}
