//! Transport-wide congestion control (draft-holmer-rmcat-transport-wide-cc-extensions-01): arrivals to be reported when the
//! server asked for that feedback.

use crate::client::{rtcp, rtp};

/// Arrivals since the last feedback.
pub(super) struct TransportCc {
    id: u8,
    base: Option<u16>,
    arrivals: Vec<Option<i64>>,
    reference_ns: u64,
    count: u8,
}

impl TransportCc {
    /// For the header extension that was negotiated with this number.
    pub(super) fn new(id: u8) -> TransportCc {
        TransportCc { id, base: None, arrivals: Vec::new(), reference_ns: 0, count: 0 }
    }

    /// Notes a packet's arrival, if it has the extension.
    pub(super) fn on_packet(&mut self, packet: &[u8], arrival_ns: u64) {
        let Some(sequence) = one_byte_extension(packet, self.id).and_then(|value| value.try_into().ok())
        else {
            return;
        };
        let sequence = u16::from_be_bytes(sequence);
        let base = *self.base.get_or_insert_with(|| {
            self.reference_ns = arrival_ns / 64_000_000 * 64_000_000;
            sequence
        });
        let at = usize::from(sequence.wrapping_sub(base));
        // Older than the base, or a jump that one message cannot hold.
        if at >= 512 {
            return;
        }
        if self.arrivals.len() <= at {
            self.arrivals.resize(at + 1, None);
        }
        self.arrivals[at] = Some((arrival_ns.saturating_sub(self.reference_ns) / 250_000) as i64);
    }

    /// Appends the feedback on what has arrived since the last one.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>, own: u32, media: u32) {
        let Some(base) = self.base.take() else { return };
        let feedback = rtcp::TransportFeedback {
            base,
            reference: (self.reference_ns / 64_000_000) as u32,
            count: self.count,
            arrivals: &self.arrivals,
        };
        rtcp::transport_feedback(out, own, media, &feedback);
        self.count = self.count.wrapping_add(1);
        self.arrivals.clear();
    }
}

/// Value of a one-byte header extension (RFC 8285 §4.2).
fn one_byte_extension(packet: &[u8], id: u8) -> Option<&[u8]> {
    let start = rtp::FIXED_HEADER + 4 * usize::from(packet[0] & 0x0F);
    if packet[0] & 0x10 == 0 || packet.get(start..start + 2)? != [0xBE, 0xDE] {
        return None;
    }
    let end = start + 4 + 4 * usize::from(u16::from_be_bytes([packet[start + 2], packet[start + 3]]));
    let mut at = start + 4;
    while at < end {
        let byte = *packet.get(at)?;
        let length = if byte == 0 { 0 } else { usize::from(byte & 0x0F) + 1 };
        if byte >> 4 == id && byte != 0 {
            return packet.get(at + 1..at + 1 + length);
        }
        at += 1 + length;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(transport_sequence: &[u8]) -> Vec<u8> {
        let header = rtp::Header {
            payload_type: 96,
            marker: true,
            padding: false,
            sequence: 1,
            timestamp: 3_000,
            ssrc: 7,
            length: 12,
        };
        let mut out = Vec::new();
        let extensions = [
            rtp::Extension { id: 2, value: &[1, 2, 3] },
            rtp::Extension { id: 3, value: transport_sequence },
        ];
        rtp::write(&mut out, &header, &extensions);
        out
    }

    #[test]
    fn the_extension_is_found() {
        let packet = packet(&[4, 5]);
        assert_eq!(one_byte_extension(&packet, 3), Some(&[4, 5][..]));
        assert_eq!(one_byte_extension(&packet, 5), None);
    }

    #[test]
    fn arrivals_are_kept_until_they_are_reported() {
        let mut feedback = TransportCc::new(3);
        let (second, quarter_ms) = (1_000_000_000, 250_000);
        for (sequence, at) in [(65_535u16, 0), (1, 8), (0, 4), (600, 9)] {
            feedback.on_packet(&packet(&sequence.to_be_bytes()), second + at * quarter_ms);
        }
        // 600 is too far from the first; times are from a multiple of 64 ms on.
        let first = (second % 64_000_000 / quarter_ms) as i64;
        assert_eq!(feedback.arrivals, [Some(first), Some(first + 4), Some(first + 8)]);
        let mut out = Vec::new();
        feedback.flush(&mut out, 9, 7);
        assert!(!out.is_empty() && feedback.arrivals.is_empty());
        let length = out.len();
        feedback.flush(&mut out, 9, 7);
        assert_eq!((out.len(), feedback.count), (length, 1));
    }
}
