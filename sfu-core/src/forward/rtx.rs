//! Sending packets again: the format they travel in (RFC 4588), the limit on how many.
//!
//! ```text
//! packet of the cache ─▶ ResendLimiter ─▶ RTX: new SSRC, PT, number; payload = OSN + payload
//!                                         else plain: the very same bytes as before
//!
//! RTX payload   | OSN (2 bytes) | original payload ...
//! ```
#![forbid(unsafe_code)]

use std::num::NonZeroU32;
use std::time::Duration;

use crate::ids::SeqNo;
use crate::time::Timestamp;

/// Bytes of the original sequence number in front of an RTX payload.
pub const OSN_BYTES: usize = 2;

/// Writes an RTX payload: the original sequence number, then the original payload. Returns its length, or `None` when
/// `out` is too small (RFC 4588 §4).
pub fn encapsulate(original: SeqNo, payload: &[u8], out: &mut [u8]) -> Option<usize> {
    let len = OSN_BYTES + payload.len();
    let out = out.get_mut(..len)?;
    out[..OSN_BYTES].copy_from_slice(&original.0.to_be_bytes());
    out[OSN_BYTES..].copy_from_slice(payload);
    Some(len)
}

/// The original sequence number of an RTX payload; the original payload follows [`OSN_BYTES`] later. `None` for
/// payloads without content: Chromium probes for bandwidth with RTX packets that are padding only.
pub fn decapsulate(payload: &[u8]) -> Option<SeqNo> {
    match payload {
        [high, low, _, ..] => Some(SeqNo(u16::from_be_bytes([*high, *low]))),
        _ => None,
    }
}

/// Shortest time between two resends of one packet.
const RESEND_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Resends whose time is remembered.
const RECENT: usize = 64;
/// Resends allowed in one go.
pub const RESEND_BURST: u32 = 128;
/// Packets that must be sent for each further resend: resends are at most half of the stream in the long run.
const PACKETS_PER_RESEND: u32 = 2;

#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    seq: SeqNo,
    /// Milliseconds plus one, modulo 2^32.
    at: Option<NonZeroU32>,
}

/// Decides whether one subscriber gets a packet again, so that a storm of NACKs cannot be turned into a flood.
#[derive(Clone, Debug)]
pub struct ResendLimiter {
    /// By `seq % RECENT`; a collision only forgets, and the budget still holds.
    recent: Box<[Recent; RECENT]>,
    /// In sent packets: a resend costs [`PACKETS_PER_RESEND`].
    budget: u32,
}

impl Default for ResendLimiter {
    fn default() -> ResendLimiter {
        ResendLimiter {
            recent: Box::new([Recent::default(); RECENT]),
            budget: RESEND_BURST * PACKETS_PER_RESEND,
        }
    }
}

impl ResendLimiter {
    /// A limiter with its full budget.
    pub fn new() -> ResendLimiter {
        ResendLimiter::default()
    }

    /// Earns budget for a packet sent the first time.
    #[inline]
    pub fn on_sent(&mut self) {
        self.budget = (self.budget + 1).min(RESEND_BURST * PACKETS_PER_RESEND);
    }

    /// Whether outgoing packet `seq` may be sent again now; if so, it counts as sent.
    ///
    /// Refuses when it was sent again less than `max(rtt / 2, 10 ms)` ago (the NACK crossed it), or without budget.
    pub fn admit(&mut self, now: Timestamp, rtt: Duration, seq: SeqNo) -> bool {
        let now_ms = now.as_millis() as u32;
        let recent = &mut self.recent[usize::from(seq.0) % RECENT];
        if let (true, Some(at)) = (recent.seq == seq, recent.at) {
            let elapsed = Duration::from_millis(u64::from(now_ms.wrapping_sub(at.get() - 1)));
            if elapsed < (rtt / 2).max(RESEND_INTERVAL_MIN) {
                return false;
            }
        }
        let Some(budget) = self.budget.checked_sub(PACKETS_PER_RESEND) else {
            return false;
        };
        self.budget = budget;
        // At the one moment in 49 days that has no successor, the entry stays empty.
        *recent = Recent { seq, at: NonZeroU32::new(now_ms.wrapping_add(1)) };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn rtx_payload() {
        let mut out = [0; 5];
        assert_eq!(encapsulate(SeqNo(0x1234), &[7, 8, 9], &mut out), Some(5));
        assert_eq!(out, [0x12, 0x34, 7, 8, 9]);
        assert_eq!(encapsulate(SeqNo(1), &[0; 4], &mut out), None);
        for (payload, expected) in
            [(&[][..], None), (&[1, 2], None), (&[1, 2, 3], Some(SeqNo(0x0102))), (&out, Some(SeqNo(0x1234)))]
        {
            assert_eq!(decapsulate(payload), expected, "{payload:?}");
        }
    }

    #[test]
    fn one_packet_is_not_sent_again_too_soon() {
        let rtt = Duration::from_millis(60);
        let mut limiter = ResendLimiter::new();
        // (at ms, seq, rtt, admitted)
        for (at, seq, rtt, admitted) in [
            (0, 7, rtt, true),
            (29, 7, rtt, false),
            (29, 8, rtt, true),
            (30, 7, rtt, true),
            (39, 7, Duration::ZERO, false),
            (40, 7, Duration::ZERO, true),
        ] {
            assert_eq!(limiter.admit(ms(at), rtt, SeqNo(seq)), admitted, "{seq} at {at}");
        }
        // The millisecond counter wraps.
        let wrap = u64::from(u32::MAX) + 1;
        assert!(limiter.admit(ms(wrap - 3), rtt, SeqNo(9)));
        assert!(!limiter.admit(ms(wrap + 3), rtt, SeqNo(9)));
        assert!(limiter.admit(ms(wrap + 30), rtt, SeqNo(9)));
    }

    #[test]
    fn a_storm_ends_with_the_budget() {
        let mut limiter = ResendLimiter::new();
        let storm = |limiter: &mut ResendLimiter, at| {
            (0..1000u16).filter(|seq| limiter.admit(ms(at), Duration::ZERO, SeqNo(*seq))).count()
        };
        assert_eq!(storm(&mut limiter, 0), RESEND_BURST as usize);
        assert_eq!(storm(&mut limiter, 10_000), 0);
        (0..20).for_each(|_| limiter.on_sent());
        assert_eq!(storm(&mut limiter, 20_000), 10);
        (0..10_000).for_each(|_| limiter.on_sent());
        assert_eq!(storm(&mut limiter, 30_000), RESEND_BURST as usize);
    }
}
