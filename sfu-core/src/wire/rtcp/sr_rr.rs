//! Sender and receiver reports (RFC 3550 §6.4).
//!
//! ```text
//! SR  ssrc | NTP time (2 words) | RTP time | packets | octets | report block * count | profile extension
//! RR  ssrc |                                                    report block * count | profile extension
//! report block: ssrc | fraction lost, cumulative lost | highest seq | jitter | LSR | DLSR
//! ```
//!
//! Profile extensions are skipped.
#![forbid(unsafe_code)]

use super::{COUNT_BITS, frame, packet_bytes, packet_type};
use crate::ids::Ssrc;
use crate::time::NtpTime;
use crate::wire::WriteError;

/// Most report blocks one packet can carry: its count field has five bits.
pub const REPORT_BLOCKS_MAX: usize = COUNT_BITS as usize;

const BLOCK_WORDS: usize = 6;
const SENDER_INFO_WORDS: usize = 5;
/// Cumulative loss is a signed 24-bit number (RFC 3550 §6.4.1).
const CUMULATIVE_MAX: i32 = 0x7f_ffff;

type BlockWords = [[u8; 4]; BLOCK_WORDS];

/// Reception of one source as its receiver saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportBlock {
    /// The source reported on.
    pub ssrc: Ssrc,
    /// Share lost since the report before, in 1/256.
    pub fraction_lost: u8,
    /// Packets lost since the start; negative when duplicates outnumber losses. Clamped to 24 bits when written.
    pub cumulative_lost: i32,
    /// Highest sequence number received, extended by 16 bits of cycles.
    pub highest_seq: u32,
    /// Interarrival jitter in RTP ticks.
    pub jitter: u32,
    /// Middle 32 bits of the NTP time of the last SR; 0 when there was none.
    pub last_sr: u32,
    /// Time from receiving that SR to sending this block, in 1/65536 s.
    pub delay_since_last_sr: u32,
}

impl ReportBlock {
    fn parse(words: &BlockWords) -> ReportBlock {
        let [ssrc, [fraction_lost, c0, c1, c2], highest, jitter, last_sr, delay] = *words;
        ReportBlock {
            ssrc: Ssrc(u32::from_be_bytes(ssrc)),
            fraction_lost,
            // Shifted up and back down again, so that the sign of the 24 bits spreads.
            cumulative_lost: i32::from_be_bytes([c0, c1, c2, 0]) >> 8,
            highest_seq: u32::from_be_bytes(highest),
            jitter: u32::from_be_bytes(jitter),
            last_sr: u32::from_be_bytes(last_sr),
            delay_since_last_sr: u32::from_be_bytes(delay),
        }
    }

    fn to_words(self) -> BlockWords {
        let cumulative = self.cumulative_lost.clamp(-CUMULATIVE_MAX - 1, CUMULATIVE_MAX);
        let [_, c0, c1, c2] = cumulative.to_be_bytes();
        [
            self.ssrc.0.to_be_bytes(),
            [self.fraction_lost, c0, c1, c2],
            self.highest_seq.to_be_bytes(),
            self.jitter.to_be_bytes(),
            self.last_sr.to_be_bytes(),
            self.delay_since_last_sr.to_be_bytes(),
        ]
    }
}

/// What a sender says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderInfo {
    /// Wall-clock time of this report.
    pub ntp: NtpTime,
    /// The same moment in ticks of the stream's RTP clock.
    pub rtp_timestamp: u32,
    /// Packets sent since the start.
    pub packets: u32,
    /// Payload bytes sent since the start, without headers and padding.
    pub octets: u32,
}

/// View of a sender report.
#[derive(Clone, Copy, Debug)]
pub struct SenderReport<'a> {
    /// Who sends.
    pub ssrc: Ssrc,
    /// Its clocks and counters.
    pub info: SenderInfo,
    blocks: &'a [BlockWords],
}

impl<'a> SenderReport<'a> {
    pub(super) fn parse(words: &'a [[u8; 4]], count: u8) -> Option<SenderReport<'a>> {
        let [ssrc, ntp_seconds, ntp_fraction, rtp_timestamp, packets, octets, rest @ ..] = words else {
            return None;
        };
        let ntp =
            u64::from(u32::from_be_bytes(*ntp_seconds)) << 32 | u64::from(u32::from_be_bytes(*ntp_fraction));
        Some(SenderReport {
            ssrc: Ssrc(u32::from_be_bytes(*ssrc)),
            info: SenderInfo {
                ntp: NtpTime(ntp),
                rtp_timestamp: u32::from_be_bytes(*rtp_timestamp),
                packets: u32::from_be_bytes(*packets),
                octets: u32::from_be_bytes(*octets),
            },
            blocks: take_blocks(rest, count)?,
        })
    }

    /// Its report blocks.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = ReportBlock> + use<'a> {
        self.blocks.iter().map(ReportBlock::parse)
    }
}

/// View of a receiver report.
#[derive(Clone, Copy, Debug)]
pub struct ReceiverReport<'a> {
    /// Who reports.
    pub ssrc: Ssrc,
    blocks: &'a [BlockWords],
}

impl<'a> ReceiverReport<'a> {
    pub(super) fn parse(words: &'a [[u8; 4]], count: u8) -> Option<ReceiverReport<'a>> {
        let (ssrc, rest) = words.split_first()?;
        Some(ReceiverReport { ssrc: Ssrc(u32::from_be_bytes(*ssrc)), blocks: take_blocks(rest, count)? })
    }

    /// Its report blocks.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = ReportBlock> + use<'a> {
        self.blocks.iter().map(ReportBlock::parse)
    }
}

fn take_blocks(words: &[[u8; 4]], count: u8) -> Option<&[BlockWords]> {
    words.as_chunks::<BLOCK_WORDS>().0.get(..usize::from(count))
}

/// Writes a sender report to the front of `out`; returns its length in bytes.
///
/// # Errors
/// `OutOfRange` beyond [`REPORT_BLOCKS_MAX`] blocks, `NoSpace`.
pub fn write_sender_report(
    out: &mut [u8],
    ssrc: Ssrc,
    info: &SenderInfo,
    blocks: &[ReportBlock],
) -> Result<usize, WriteError> {
    let body_words = 1 + SENDER_INFO_WORDS + BLOCK_WORDS * blocks.len();
    let body = frame(out, block_count(blocks)?, packet_type::SENDER_REPORT, body_words)?;
    let (head, rest) =
        body.split_first_chunk_mut::<{ 1 + SENDER_INFO_WORDS }>().expect("body_words counts them");
    *head = [
        ssrc.0.to_be_bytes(),
        ((info.ntp.0 >> 32) as u32).to_be_bytes(),
        (info.ntp.0 as u32).to_be_bytes(),
        info.rtp_timestamp.to_be_bytes(),
        info.packets.to_be_bytes(),
        info.octets.to_be_bytes(),
    ];
    fill_blocks(rest, blocks);
    Ok(packet_bytes(body_words))
}

/// Writes a receiver report to the front of `out`; returns its length in bytes. Without blocks it is the empty report
/// that opens a compound packet.
///
/// # Errors
/// `OutOfRange` beyond [`REPORT_BLOCKS_MAX`] blocks, `NoSpace`.
pub fn write_receiver_report(
    out: &mut [u8],
    ssrc: Ssrc,
    blocks: &[ReportBlock],
) -> Result<usize, WriteError> {
    let body_words = 1 + BLOCK_WORDS * blocks.len();
    let body = frame(out, block_count(blocks)?, packet_type::RECEIVER_REPORT, body_words)?;
    let (head, rest) = body.split_first_mut().expect("body_words counts the SSRC");
    *head = ssrc.0.to_be_bytes();
    fill_blocks(rest, blocks);
    Ok(packet_bytes(body_words))
}

fn block_count(blocks: &[ReportBlock]) -> Result<u8, WriteError> {
    if blocks.len() > REPORT_BLOCKS_MAX {
        return Err(WriteError::OutOfRange);
    }
    Ok(blocks.len() as u8)
}

fn fill_blocks(words: &mut [[u8; 4]], blocks: &[ReportBlock]) {
    for (slot, block) in words.as_chunks_mut::<BLOCK_WORDS>().0.iter_mut().zip(blocks) {
        *slot = block.to_words();
    }
}
