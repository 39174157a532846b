//! RTCP: a walk over the compound packet that checks every length once, and one file per family of messages.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! |V=2|P| count/fmt|  packet type  |   length in words, minus one   |   repeated to the end of the datagram
//! |                       body, length words                       |
//! ```
//!
//! Readers are views into the datagram; writers fill a `&mut [u8]`; neither allocates. Reduced-size packets (RFC 5506)
//! are accepted: what comes first does not matter. XR and APP are walked over and handed out as [`Message::Other`].
#![forbid(unsafe_code)]

mod nack;
mod pli_fir;
mod remb;
mod sdes_bye;
mod sr_rr;
#[cfg(test)]
mod tests;
mod twcc;

pub use nack::{Nack, write_nack};
pub use pli_fir::{Fir, FirEntry, Pli, write_fir, write_pli};
pub use remb::{Remb, write_remb};
pub use sdes_bye::{Bye, Sdes, SdesChunk, write_bye, write_sdes_cname};
pub use sr_rr::{
    REPORT_BLOCKS_MAX, ReceiverReport, ReportBlock, SenderInfo, SenderReport, write_receiver_report,
    write_sender_report,
};
pub use twcc::{Arrival, Twcc, TwccFeedback, TwccWritten, write_twcc};

use crate::drop_reason::DropReason;
use crate::wire::WriteError;

/// Bytes of the common header.
pub const HEADER_BYTES: usize = 4;

const VERSION_BITS: u8 = 2 << 6;
const PADDING_BIT: u8 = 1 << 5;
const COUNT_BITS: u8 = 0x1f;

/// Packet types (RFC 3550 §12.1, RFC 4585 §6.1).
mod packet_type {
    pub(super) const SENDER_REPORT: u8 = 200;
    pub(super) const RECEIVER_REPORT: u8 = 201;
    pub(super) const SDES: u8 = 202;
    pub(super) const BYE: u8 = 203;
    pub(super) const TRANSPORT_FEEDBACK: u8 = 205;
    pub(super) const PAYLOAD_FEEDBACK: u8 = 206;
}

/// Feedback formats: the count field of the two feedback packet types.
mod format {
    pub(super) const NACK: u8 = 1;
    pub(super) const TWCC: u8 = 15;
    pub(super) const PLI: u8 = 1;
    pub(super) const FIR: u8 = 4;
    pub(super) const APPLICATION: u8 = 15;
}

/// A whole plaintext RTCP datagram whose packet lengths add up.
#[derive(Clone, Copy, Debug)]
pub struct Compound<'a> {
    bytes: &'a [u8],
}

impl<'a> Compound<'a> {
    /// Checks version, length and padding of every packet in `bytes`.
    ///
    /// # Errors
    /// `TooShort` below one header, else `RtcpMalformed`.
    pub fn parse(bytes: &'a [u8]) -> Result<Compound<'a>, DropReason> {
        if bytes.len() < HEADER_BYTES {
            return Err(DropReason::TooShort);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = split_packet(rest).ok_or(DropReason::RtcpMalformed)?.1;
        }
        Ok(Compound { bytes })
    }

    /// The packets in order, bodies not looked into.
    pub fn packets(&self) -> Packets<'a> {
        Packets { rest: self.bytes }
    }

    /// The packets in order, each read as what it is.
    ///
    /// An item is `Err(RtcpMalformed)` when a body contradicts its own type; the packets behind it can still be read.
    pub fn messages(&self) -> impl Iterator<Item = Result<Message<'a>, DropReason>> + use<'a> {
        self.packets().map(|packet| packet.message())
    }
}

/// Iterator over the packets of a [`Compound`].
#[derive(Clone, Debug)]
pub struct Packets<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Packets<'a> {
    type Item = Packet<'a>;

    fn next(&mut self) -> Option<Packet<'a>> {
        let (packet, rest) = split_packet(self.rest)?;
        self.rest = rest;
        Some(packet)
    }
}

impl std::iter::FusedIterator for Packets<'_> {}

/// Takes the first packet off `bytes`; `None` when it does not fit, or nothing is left.
fn split_packet(bytes: &[u8]) -> Option<(Packet<'_>, &[u8])> {
    let &[first, packet_type, l0, l1] = bytes.first_chunk()?;
    if first & !(PADDING_BIT | COUNT_BITS) != VERSION_BITS {
        return None;
    }
    let len = HEADER_BYTES + 4 * usize::from(u16::from_be_bytes([l0, l1]));
    let (packet, rest) = bytes.split_at_checked(len)?;
    let mut body = &packet[HEADER_BYTES..];
    if first & PADDING_BIT != 0 {
        // Only the last packet should be padded (RFC 3550 §6.4.1); padding elsewhere is unambiguous all the same.
        let padding = usize::from(*body.last()?);
        if padding == 0 || padding > body.len() {
            return None;
        }
        body = &body[..body.len() - padding];
    }
    Some((Packet { packet_type, count: first & COUNT_BITS, body }, rest))
}

/// One RTCP packet without header and padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Packet type, 200 = SR and so on.
    pub packet_type: u8,
    /// Report or source count, or the format of a feedback message; 0..=31.
    pub count: u8,
    /// What follows the common header.
    pub body: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads the body as the packet type says.
    ///
    /// # Errors
    /// `RtcpMalformed` when the body contradicts its type.
    pub fn message(&self) -> Result<Message<'a>, DropReason> {
        let words = self.body.as_chunks::<4>().0;
        let message = match (self.packet_type, self.count) {
            (packet_type::SENDER_REPORT, count) => {
                SenderReport::parse(words, count).map(Message::SenderReport)
            }
            (packet_type::RECEIVER_REPORT, count) => {
                ReceiverReport::parse(words, count).map(Message::ReceiverReport)
            }
            (packet_type::SDES, count) => Sdes::parse(self.body, count).map(Message::Sdes),
            (packet_type::BYE, count) => Bye::parse(self.body, count).map(Message::Bye),
            (packet_type::TRANSPORT_FEEDBACK, format::NACK) => Nack::parse(words).map(Message::Nack),
            (packet_type::TRANSPORT_FEEDBACK, format::TWCC) => Twcc::parse(self.body).map(Message::Twcc),
            (packet_type::PAYLOAD_FEEDBACK, format::PLI) => Pli::parse(words).map(Message::Pli),
            (packet_type::PAYLOAD_FEEDBACK, format::FIR) => Fir::parse(words).map(Message::Fir),
            (packet_type::PAYLOAD_FEEDBACK, format::APPLICATION) if remb::is_remb(words) => {
                Remb::parse(words).map(Message::Remb)
            }
            _ => Some(Message::Other(*self)),
        };
        message.ok_or(DropReason::RtcpMalformed)
    }
}

/// What one RTCP packet says.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// Sender report.
    SenderReport(SenderReport<'a>),
    /// Receiver report.
    ReceiverReport(ReceiverReport<'a>),
    /// Source description.
    Sdes(Sdes<'a>),
    /// Sources that leave.
    Bye(Bye<'a>),
    /// Packets asked for again.
    Nack(Nack<'a>),
    /// Arrival times per transport-wide sequence number.
    Twcc(Twcc<'a>),
    /// Key frame asked for.
    Pli(Pli),
    /// Key frame demanded.
    Fir(Fir<'a>),
    /// Receiver's bandwidth estimate.
    Remb(Remb<'a>),
    /// Anything else: XR, APP, formats not spoken here.
    Other(Packet<'a>),
}

/// Lines up several messages in one datagram.
///
/// ```
/// # use sfu_core::{ids::Ssrc, wire::rtcp::*};
/// let mut datagram = [0u8; 256];
/// let mut compound = CompoundWriter::new(&mut datagram);
/// compound.push(|out| write_receiver_report(out, Ssrc(1), &[]))?;
/// compound.push(|out| write_pli(out, Ssrc(1), Ssrc(2)))?;
/// let len = compound.len();
/// assert_eq!(Compound::parse(&datagram[..len]).expect("just written").packets().count(), 2);
/// # Ok::<(), sfu_core::wire::WriteError>(())
/// ```
#[derive(Debug)]
pub struct CompoundWriter<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl<'a> CompoundWriter<'a> {
    /// Starts at the front of `out`.
    pub fn new(out: &'a mut [u8]) -> CompoundWriter<'a> {
        CompoundWriter { out, len: 0 }
    }

    /// Lets `write` fill what is left of the buffer and keeps what it says it wrote.
    ///
    /// # Errors
    /// What `write` returned; nothing is kept then.
    pub fn push(
        &mut self,
        write: impl FnOnce(&mut [u8]) -> Result<usize, WriteError>,
    ) -> Result<(), WriteError> {
        let written = write(&mut self.out[self.len..])?;
        assert!(written <= self.out.len() - self.len, "a writer reported more than it had");
        self.len += written;
        Ok(())
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Writes a common header for `body_words` words and returns the body to be filled.
fn frame(
    out: &mut [u8],
    count: u8,
    packet_type: u8,
    body_words: usize,
) -> Result<&mut [[u8; 4]], WriteError> {
    let length = u16::try_from(body_words).map_err(|_| WriteError::OutOfRange)?;
    if count > COUNT_BITS {
        return Err(WriteError::OutOfRange);
    }
    let words = out.as_chunks_mut::<4>().0.get_mut(..=body_words).ok_or(WriteError::NoSpace)?;
    let (header, body) = words.split_first_mut().expect("a frame has its header word");
    let [l0, l1] = length.to_be_bytes();
    *header = [VERSION_BITS | count, packet_type, l0, l1];
    Ok(body)
}

/// Bytes of a packet with `body_words` words behind the common header.
const fn packet_bytes(body_words: usize) -> usize {
    HEADER_BYTES + 4 * body_words
}
