//! Tells a publisher the most it may send (draft-alvestrand-rmcat-remb-03).
//!
//! The estimate itself is the publisher's, from transport-wide feedback; REMB carries the operator's cap. Chromium
//! forgets nothing but takes a new value at once, so the message is repeated in case one is lost.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::ids::Ssrc;
use crate::time::Timestamp;
use crate::wire::WriteError;
use crate::wire::rtcp::write_remb;

/// Between two messages.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// When to send which cap to one publisher.
#[derive(Clone, Copy, Debug)]
pub struct RembSchedule {
    bitrate_bps: u64,
    due: Timestamp,
}

impl RembSchedule {
    /// Sends `bitrate_bps` from `now` on.
    pub fn new(now: Timestamp, bitrate_bps: u64) -> RembSchedule {
        RembSchedule { bitrate_bps, due: now }
    }

    /// The cap, bit/s.
    pub fn bitrate_bps(&self) -> u64 {
        self.bitrate_bps
    }

    /// Changes the cap; a lower one goes out at once.
    pub fn set_bitrate(&mut self, now: Timestamp, bitrate_bps: u64) {
        if bitrate_bps < self.bitrate_bps {
            self.due = self.due.min(now);
        }
        self.bitrate_bps = bitrate_bps;
    }

    /// When the next message is due.
    pub fn next_timeout(&self) -> Timestamp {
        self.due
    }

    /// Writes the message when it is due and returns its length; `None` when it is not.
    ///
    /// `sources`: the publisher's SSRCs that share the cap.
    /// # Errors
    /// As [`write_remb`]; the next try is an interval later.
    pub fn poll(
        &mut self,
        now: Timestamp,
        out: &mut [u8],
        sender: Ssrc,
        sources: &[Ssrc],
    ) -> Option<Result<usize, WriteError>> {
        if now < self.due {
            return None;
        }
        self.due = now + INTERVAL;
        Some(write_remb(out, sender, self.bitrate_bps, sources))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::rtcp::{Compound, Message};

    fn poll(schedule: &mut RembSchedule, at: u64) -> Option<u64> {
        let mut out = [0; 64];
        let len = schedule.poll(Timestamp::from_millis(at), &mut out, Ssrc(1), &[Ssrc(2), Ssrc(3)])?.unwrap();
        let compound = Compound::parse(&out[..len]).unwrap();
        let Some(Ok(Message::Remb(remb))) = compound.messages().next() else { panic!("no REMB") };
        assert!(remb.sources().eq([Ssrc(2), Ssrc(3)]));
        Some(remb.bitrate_bps)
    }

    #[test]
    fn repeats_and_lowers_at_once() {
        let mut schedule = RembSchedule::new(Timestamp::from_millis(5), 1_000_000);
        let caps: Vec<_> = [4, 5, 6, 1004, 1005].iter().map(|at| poll(&mut schedule, *at)).collect();
        assert_eq!(caps, [None, Some(1_000_000), None, None, Some(1_000_000)]);
        schedule.set_bitrate(Timestamp::from_millis(1100), 2_000_000);
        assert_eq!(poll(&mut schedule, 1100), None);
        schedule.set_bitrate(Timestamp::from_millis(1200), 500_000);
        assert_eq!(poll(&mut schedule, 1200), Some(500_000));
        assert_eq!(schedule.next_timeout(), Timestamp::from_millis(2200));
    }
}
