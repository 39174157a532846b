//! Frames of a video track by their clear headers: the last packet of each has the marker bit (RFC 7741 §4.1).

use crate::client::rtp::Header;
use crate::client::stats::Stats;

/// Additional pause between frames that libwebrtc counts as a freeze.
const FREEZE_EXTRA_NS: u64 = 150_000_000;

/// Frames of one track.
#[derive(Default)]
pub(super) struct Frames {
    /// Timestamp of the last one that ended.
    last: Option<u32>,
    /// Timestamp of a key frame whose first packet was seen.
    key: Option<u32>,
    complete_ns: u64,
    /// Usual pause between two frames.
    interval_ns: u64,
}

impl Frames {
    /// A key frame begins.
    pub(super) fn begin_key(&mut self, timestamp: u32) {
        self.key = Some(timestamp);
    }

    /// Whether the frame with this timestamp is the key frame that was seen to begin.
    pub(super) fn is_key(&self, timestamp: u32) -> bool {
        self.key == Some(timestamp)
    }

    /// Whether this packet ends a frame that has not ended yet.
    pub(super) fn ends(&mut self, header: &Header) -> bool {
        header.marker && self.last.replace(header.timestamp) != Some(header.timestamp)
    }

    /// Counts a frame that is shown, and whether the picture stood still before it.
    pub(super) fn count(&mut self, arrival_ns: u64, stats: &mut Stats) {
        stats.frames += 1;
        if self.complete_ns > 0 {
            let interval = arrival_ns.saturating_sub(self.complete_ns);
            let usual = self.interval_ns;
            if usual > 0 && interval > (3 * usual).max(usual + FREEZE_EXTRA_NS) {
                stats.freezes += 1;
            } else {
                self.interval_ns = if usual == 0 { interval } else { (usual * 15 + interval) / 16 };
            }
        }
        self.complete_ns = arrival_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_of_the_picture_is_a_freeze() {
        let (mut frames, mut stats) = (Frames::default(), Stats::default());
        let mut now = 1_000_000_000;
        for _ in 0..40 {
            now += 33_000_000;
            frames.count(now, &mut stats);
        }
        assert_eq!(stats.freezes, 0);
        frames.count(now + 190_000_000, &mut stats);
        assert_eq!((stats.freezes, stats.frames), (1, 41));
    }

    #[test]
    fn a_frame_ends_once() {
        let packet = |marker, timestamp| Header {
            payload_type: 96,
            marker,
            padding: false,
            sequence: 1,
            timestamp,
            ssrc: 7,
            length: 12,
        };
        let mut frames = Frames::default();
        frames.begin_key(3_000);
        let ends: Vec<_> = [(false, 3_000), (true, 3_000), (true, 3_000), (false, 6_000), (true, 6_000)]
            .map(|(marker, timestamp)| frames.ends(&packet(marker, timestamp)))
            .into();
        assert_eq!(ends, [false, true, false, false, true]);
        assert!(frames.is_key(3_000) && !frames.is_key(6_000));
    }
}
