//! RTCP that clients send and understand: SR, RR, SDES, NACK, PLI, FIR, REMB, transport-wide feedback.

const SR: u8 = 200;
const RR: u8 = 201;
const SDES: u8 = 202;
const RTPFB: u8 = 205;
const PSFB: u8 = 206;
const NACK: u8 = 1;
const TRANSPORT_CC: u8 = 15;
const PLI: u8 = 1;
const FIR: u8 = 4;
const APPLICATION_LAYER: u8 = 15;

/// One report block (RFC 3550 §6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReportBlock {
    pub(crate) ssrc: u32,
    pub(crate) fraction_lost: u8,
    pub(crate) total_lost: u32,
    pub(crate) highest: u32,
    pub(crate) jitter: u32,
    pub(crate) last_sr: u32,
    pub(crate) delay_since_sr: u32,
}

/// What the other side asks for or says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// Sender report: SSRC and the middle 32 bits of its NTP time.
    SenderReport(u32, u32),
    /// Retransmission wanted: media SSRC, sequence number.
    Nack(u32, u16),
    /// Key frame wanted: media SSRC.
    KeyFrame(u32),
    /// Transport-wide feedback came.
    TransportFeedback,
    /// Receiver's estimated maximum bit rate, bits per second.
    Remb(u64),
}

/// Walks a compound packet.
pub(crate) fn walk(mut packet: &[u8], mut on_item: impl FnMut(Item)) {
    while packet.len() >= 8 && packet[0] >> 6 == 2 {
        let length = 4 + 4 * usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        let Some((one, rest)) = packet.split_at_checked(length) else { return };
        if one.len() >= 8 {
            read_one(one, &mut on_item);
        }
        packet = rest;
    }
}

fn read_one(packet: &[u8], on_item: &mut impl FnMut(Item)) {
    let count = packet[0] & 0x1F;
    match (packet[1], count) {
        (SR, _) => {
            if let (Some(seconds), Some(fraction)) = (word(packet, 8), word(packet, 12)) {
                on_item(Item::SenderReport(word(packet, 4).unwrap_or(0), seconds << 16 | fraction >> 16));
            }
        }
        (RTPFB, NACK) => {
            let ssrc = word(packet, 8).unwrap_or(0);
            for entry in packet[8..].chunks_exact(4).skip(1) {
                let first = u16::from_be_bytes([entry[0], entry[1]]);
                let mask = u16::from_be_bytes([entry[2], entry[3]]);
                on_item(Item::Nack(ssrc, first));
                for bit in (0..16).filter(|bit| mask >> bit & 1 == 1) {
                    on_item(Item::Nack(ssrc, first.wrapping_add(bit + 1)));
                }
            }
        }
        (RTPFB, TRANSPORT_CC) => on_item(Item::TransportFeedback),
        (PSFB, PLI) => on_item(Item::KeyFrame(word(packet, 8).unwrap_or(0))),
        (PSFB, FIR) => {
            for entry in packet.get(12..).unwrap_or_default().chunks_exact(8) {
                on_item(Item::KeyFrame(word(entry, 0).unwrap_or(0)));
            }
        }
        (PSFB, APPLICATION_LAYER) if packet.get(12..16) == Some(b"REMB") => {
            if let Some(&[_, a, b, c]) = packet.get(16..20) {
                let mantissa = u64::from(a & 3) << 16 | u64::from(b) << 8 | u64::from(c);
                on_item(Item::Remb(mantissa << (a >> 2).min(44)));
            }
        }
        _ => {}
    }
}

fn word(packet: &[u8], at: usize) -> Option<u32> {
    packet.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes)
}

fn begin(out: &mut Vec<u8>, count: u8, kind: u8, ssrc: u32) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0x80 | count, kind, 0, 0]);
    out.extend_from_slice(&ssrc.to_be_bytes());
    start
}

fn finish(out: &mut Vec<u8>, start: usize) {
    out.resize(start + (out.len() - start).next_multiple_of(4), 0);
    let words = ((out.len() - start) / 4 - 1) as u16;
    out[start + 2..start + 4].copy_from_slice(&words.to_be_bytes());
}

/// What a sender report says.
pub(crate) struct SenderInfo {
    pub(crate) ssrc: u32,
    /// 32.32 fixed point since 1900.
    pub(crate) ntp: u64,
    pub(crate) timestamp: u32,
    pub(crate) packets: u32,
    pub(crate) octets: u32,
}

/// Appends a sender report without report blocks.
pub(crate) fn sender_report(out: &mut Vec<u8>, info: &SenderInfo) {
    let start = begin(out, 0, SR, info.ssrc);
    out.extend_from_slice(&info.ntp.to_be_bytes());
    for value in [info.timestamp, info.packets, info.octets] {
        out.extend_from_slice(&value.to_be_bytes());
    }
    finish(out, start);
}

/// Appends a receiver report; at most 31 blocks.
pub(crate) fn receiver_report(out: &mut Vec<u8>, ssrc: u32, blocks: &[ReportBlock]) {
    let blocks = &blocks[..blocks.len().min(31)];
    let start = begin(out, blocks.len() as u8, RR, ssrc);
    for block in blocks {
        out.extend_from_slice(&block.ssrc.to_be_bytes());
        out.push(block.fraction_lost);
        out.extend_from_slice(&block.total_lost.min(0x7F_FFFF).to_be_bytes()[1..]);
        for value in [block.highest, block.jitter, block.last_sr, block.delay_since_sr] {
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
    finish(out, start);
}

/// Appends the SDES with a canonical name that each compound packet carries.
pub(crate) fn description(out: &mut Vec<u8>, ssrc: u32) {
    let start = begin(out, 1, SDES, ssrc);
    out.extend_from_slice(&[1, 1, b'c', 0]);
    finish(out, start);
}

/// Appends a picture loss indication.
pub(crate) fn picture_loss(out: &mut Vec<u8>, ssrc: u32, media: u32) {
    let start = begin(out, PLI, PSFB, ssrc);
    out.extend_from_slice(&media.to_be_bytes());
    finish(out, start);
}

/// Appends a NACK; `sequences` ascend.
pub(crate) fn nack(out: &mut Vec<u8>, ssrc: u32, media: u32, sequences: &[u16]) {
    let start = begin(out, NACK, RTPFB, ssrc);
    out.extend_from_slice(&media.to_be_bytes());
    let mut rest = sequences;
    while let Some((first, tail)) = rest.split_first() {
        let within = |next: &&u16| (1..=16).contains(&next.wrapping_sub(*first));
        let followers = tail.iter().take_while(within).count();
        let mask =
            tail[..followers].iter().fold(0_u16, |mask, next| mask | 1 << (next.wrapping_sub(*first) - 1));
        out.extend_from_slice(&first.to_be_bytes());
        out.extend_from_slice(&mask.to_be_bytes());
        rest = &tail[followers..];
    }
    finish(out, start);
}

/// Appends a receiver's estimated maximum bit rate (draft-alvestrand-rmcat-remb).
pub(crate) fn remb(out: &mut Vec<u8>, ssrc: u32, bits_per_second: u64, media: u32) {
    let start = begin(out, APPLICATION_LAYER, PSFB, ssrc);
    out.extend_from_slice(&[0, 0, 0, 0]);
    out.extend_from_slice(b"REMB");
    let exponent = (64 - bits_per_second.leading_zeros()).saturating_sub(18);
    let mantissa = (bits_per_second >> exponent) as u32;
    out.extend_from_slice(&(1 << 24 | exponent << 18 | mantissa).to_be_bytes());
    out.extend_from_slice(&media.to_be_bytes());
    finish(out, start);
}

/// Appends transport-wide feedback for a run of packets that all arrived.
///
/// `arrivals`: times in units of 250 us since `reference` (units of 64 ms), of consecutive sequence numbers from `base` on.
pub(crate) fn transport_feedback(out: &mut Vec<u8>, ssrc: u32, media: u32, feedback: &TransportFeedback<'_>) {
    let start = begin(out, TRANSPORT_CC, RTPFB, ssrc);
    out.extend_from_slice(&media.to_be_bytes());
    out.extend_from_slice(&feedback.base.to_be_bytes());
    out.extend_from_slice(&(feedback.arrivals.len() as u16).to_be_bytes());
    out.extend_from_slice(&feedback.reference.to_be_bytes()[1..]);
    out.push(feedback.count);
    // Two-bit status vector chunks: 0 lost, 2 large or negative delta (which fits any).
    for chunk in feedback.arrivals.chunks(7) {
        let symbols = chunk.iter().enumerate().fold(0_u16, |symbols, (index, arrival)| {
            symbols | u16::from(arrival.is_some()) << 1 << (12 - 2 * index)
        });
        out.extend_from_slice(&(0xC000 | symbols).to_be_bytes());
    }
    let mut last = 0_i64;
    for arrival in feedback.arrivals.iter().flatten() {
        let delta = (arrival - last).clamp(i64::from(i16::MIN), i64::from(i16::MAX)) as i16;
        out.extend_from_slice(&delta.to_be_bytes());
        last = *arrival;
    }
    finish(out, start);
}

/// Content of [`transport_feedback`].
pub(crate) struct TransportFeedback<'a> {
    /// Transport-wide sequence number of the first packet.
    pub(crate) base: u16,
    /// Time base, units of 64 ms.
    pub(crate) reference: u32,
    /// Number of this feedback packet.
    pub(crate) count: u8,
    /// Per sequence number from `base` on: arrival after the time base, units of 250 us; `None` for lost.
    pub(crate) arrivals: &'a [Option<i64>],
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(packet: &[u8]) -> Vec<Item> {
        let mut items = Vec::new();
        walk(packet, |item| items.push(item));
        items
    }

    #[test]
    fn a_compound_packet_is_walked_whole() {
        let mut out = Vec::new();
        let info = SenderInfo { ssrc: 5, ntp: 0x0001_0002_0003_0004, timestamp: 1, packets: 2, octets: 3 };
        sender_report(&mut out, &info);
        description(&mut out, 5);
        receiver_report(&mut out, 5, &[ReportBlock { ssrc: 6, total_lost: 1, ..ReportBlock::default() }]);
        picture_loss(&mut out, 5, 6);
        remb(&mut out, 5, 1_500_000, 6);
        assert_eq!(out.len() % 4, 0);
        let seen = items(&out);
        assert_eq!(seen[..2], [Item::SenderReport(5, 0x0002_0003), Item::KeyFrame(6)]);
        let Item::Remb(bits) = seen[2] else { panic!("{seen:?}") };
        assert!((1_490_000..=1_500_000).contains(&bits), "{bits}");
    }

    #[test]
    fn nacks_come_back_number_by_number() {
        let sequences = [65_530, 65_535, 9, 10, 200];
        let mut out = Vec::new();
        nack(&mut out, 1, 2, &sequences);
        let expected: Vec<_> = sequences.iter().map(|sequence| Item::Nack(2, *sequence)).collect();
        assert_eq!(items(&out), expected);
    }

    #[test]
    fn broken_packets_end_the_walk() {
        let mut out = Vec::new();
        picture_loss(&mut out, 1, 2);
        for length in 0..out.len() {
            assert_eq!(items(&out[..length]), []);
        }
        assert_eq!(items(&[0x81, PSFB, 0, 1, 0, 0, 0, 0]), [Item::KeyFrame(0)]);
        assert_eq!(items(&[0x80, SR, 0, 0, 0x80, SR, 0, 0]), []);
    }

    #[test]
    fn feedback_has_one_delta_for_each_that_arrived() {
        let arrivals = [Some(4), None, Some(8), Some(7)];
        let mut out = Vec::new();
        let feedback = TransportFeedback { base: 65_535, reference: 3, count: 1, arrivals: &arrivals };
        transport_feedback(&mut out, 1, 2, &feedback);
        assert_eq!(items(&out), [Item::TransportFeedback]);
        assert_eq!(&out[12..16], [0xFF, 0xFF, 0, 4]);
        assert_eq!(&out[20..28], [0b1110_0010, 0b1000_0000, 0, 4, 0, 4, 0xFF, 0xFF]);
    }
}
