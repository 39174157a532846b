//! Transport-wide congestion control feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1).
//!
//! ```text
//! sender ssrc | media ssrc | base seq (16), status count (16) | reference time (24, 64 ms), feedback count (8)
//! status chunks, 16 bits each, for base seq, base seq + 1, ...:
//!     0 ss lllllllllllll    run length: l times symbol s
//!     1 0 bbbbbbbbbbbbbb    14 symbols of one bit:   0 not received, 1 small delta
//!     1 1 ssssssssssssss     7 symbols of two bits: 00 not received, 01 small delta, 10 large delta, 11 reserved
//! deltas of the received ones, in units of 250 us since the one before (the first: since the reference time):
//!     small: u8, 0..=63.75 ms      large: i16, -8192..=8191.75 ms
//! ```
#![forbid(unsafe_code)]

use super::{PADDING_BIT, format, frame, packet_bytes, packet_type};
use crate::ids::{ExtSeq, SeqNo, Ssrc};
use crate::time::Timestamp;
use crate::wire::WriteError;

/// Resolution of a delta.
const TICK_US: i64 = 250;
const TICK_NS: u64 = 250_000;
/// The reference time counts 64 ms.
const TICKS_PER_REFERENCE: u64 = 256;
/// Common header, two SSRCs and the two words in front of the chunks.
const HEAD_BYTES: usize = 20;
const HEAD_WORDS: usize = 4;
const RUN_MAX: u16 = 0x1fff;
const ONE_BIT_SYMBOLS: u16 = 14;
const TWO_BIT_SYMBOLS: u16 = 7;

/// What became of one packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Symbol {
    #[default]
    NotReceived = 0,
    SmallDelta = 1,
    LargeDelta = 2,
}

impl Symbol {
    /// `None` for the reserved value.
    fn of_bits(bits: u16) -> Option<Symbol> {
        match bits & 3 {
            0 => Some(Symbol::NotReceived),
            1 => Some(Symbol::SmallDelta),
            2 => Some(Symbol::LargeDelta),
            _ => None,
        }
    }

    fn delta_bytes(self) -> usize {
        self as usize
    }
}

/// One status chunk.
#[derive(Clone, Copy, Debug)]
enum Chunk {
    Run(u16, u16),
    OneBit(u16),
    TwoBit(u16),
}

impl Chunk {
    fn of_bytes(bytes: [u8; 2]) -> Chunk {
        let word = u16::from_be_bytes(bytes);
        match word >> 14 {
            0 | 1 => Chunk::Run(word >> 13, word & RUN_MAX),
            2 => Chunk::OneBit(word),
            _ => Chunk::TwoBit(word),
        }
    }

    /// How many symbols it holds.
    fn len(self) -> u16 {
        match self {
            Chunk::Run(_, len) => len,
            Chunk::OneBit(_) => ONE_BIT_SYMBOLS,
            Chunk::TwoBit(_) => TWO_BIT_SYMBOLS,
        }
    }

    /// The symbol at `index`, which is below [`Chunk::len`]. `None` when it is reserved.
    fn symbol(self, index: u16) -> Option<Symbol> {
        match self {
            Chunk::Run(bits, _) => Symbol::of_bits(bits),
            Chunk::OneBit(word) => Symbol::of_bits(word >> (ONE_BIT_SYMBOLS - 1 - index) & 1),
            Chunk::TwoBit(word) => Symbol::of_bits(word >> (2 * (TWO_BIT_SYMBOLS - 1 - index))),
        }
    }
}

/// View of one feedback message whose chunks and deltas were found complete.
#[derive(Clone, Copy, Debug)]
pub struct Twcc<'a> {
    /// Who reports.
    pub sender: Ssrc,
    /// A stream of the transport; carries no meaning beyond that.
    pub media: Ssrc,
    /// Transport-wide sequence number of the first packet reported on.
    pub base: SeqNo,
    /// How many packets are reported on, received or not.
    pub status_count: u16,
    /// Reference time in units of 64 ms, on the reporter's clock; wraps at 24 bits (signed).
    pub reference_time: i32,
    /// Counts this reporter's feedback messages, modulo 256.
    pub feedback_count: u8,
    chunks: &'a [[u8; 2]],
    deltas: &'a [u8],
}

/// One packet that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its transport-wide sequence number.
    pub seq: SeqNo,
    /// Arrival time in microseconds on the reporter's clock, counted from its (wrapping) epoch.
    pub time_us: i64,
}

impl<'a> Twcc<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Option<Twcc<'a>> {
        let (head, rest) = body.split_first_chunk::<{ HEAD_BYTES - 4 }>()?;
        let [s0, s1, s2, s3, m0, m1, m2, m3, b0, b1, c0, c1, r0, r1, r2, feedback_count] = *head;
        let status_count = u16::from_be_bytes([c0, c1]);
        let (chunk_count, delta_bytes) = measure(rest.as_chunks().0, status_count)?;
        let (chunks, deltas) = rest.split_at_checked(2 * chunk_count)?;
        Some(Twcc {
            sender: Ssrc(u32::from_be_bytes([s0, s1, s2, s3])),
            media: Ssrc(u32::from_be_bytes([m0, m1, m2, m3])),
            base: SeqNo(u16::from_be_bytes([b0, b1])),
            status_count,
            reference_time: i32::from_be_bytes([r0, r1, r2, 0]) >> 8,
            feedback_count,
            chunks: chunks.as_chunks().0,
            deltas: deltas.get(..delta_bytes)?,
        })
    }

    /// The packets that arrived, in sequence order. Those of `base .. base + status_count` that are left out were lost
    /// (or not there yet). The work is bounded by the message's bytes, whatever it claims.
    pub fn arrivals(&self) -> impl Iterator<Item = Arrival> + use<'a> {
        Arrivals {
            chunks: self.chunks,
            chunk: Chunk::Run(0, 0),
            index: 0,
            seq: self.base,
            remaining: self.status_count,
            deltas: self.deltas,
            time_us: i64::from(self.reference_time) * TICKS_PER_REFERENCE as i64 * TICK_US,
        }
    }
}

/// Walks chunks until they cover `status_count` packets: (chunks, delta bytes). `None` when they do not, or hold a
/// reserved symbol.
fn measure(chunks: &[[u8; 2]], status_count: u16) -> Option<(usize, usize)> {
    let mut remaining = status_count;
    let mut delta_bytes = 0;
    let mut used = 0;
    while remaining > 0 {
        let chunk = Chunk::of_bytes(*chunks.get(used)?);
        used += 1;
        let len = chunk.len().min(remaining);
        remaining -= len;
        delta_bytes += match chunk {
            Chunk::Run(bits, _) => Symbol::of_bits(bits)?.delta_bytes() * usize::from(len),
            _ => (0..len).try_fold(0, |sum, i| Some(sum + chunk.symbol(i)?.delta_bytes()))?,
        };
    }
    Some((used, delta_bytes))
}

struct Arrivals<'a> {
    chunks: &'a [[u8; 2]],
    chunk: Chunk,
    index: u16,
    seq: SeqNo,
    remaining: u16,
    deltas: &'a [u8],
    time_us: i64,
}

impl Arrivals<'_> {
    fn advance(&mut self, count: u16) {
        self.index += count;
        self.remaining -= count;
        self.seq = SeqNo(self.seq.0.wrapping_add(count));
    }

    /// Takes the delta of a received packet, in ticks.
    fn delta(&mut self, symbol: Symbol) -> Option<i64> {
        match symbol {
            Symbol::NotReceived => None,
            Symbol::SmallDelta => {
                let (&delta, rest) = self.deltas.split_first()?;
                self.deltas = rest;
                Some(i64::from(delta))
            }
            Symbol::LargeDelta => {
                let (&delta, rest) = self.deltas.split_first_chunk()?;
                self.deltas = rest;
                Some(i64::from(i16::from_be_bytes(delta)))
            }
        }
    }
}

impl Iterator for Arrivals<'_> {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        while self.remaining > 0 {
            let left = self.chunk.len() - self.index;
            if left == 0 {
                let (&chunk, rest) = self.chunks.split_first()?;
                (self.chunks, self.chunk, self.index) = (rest, Chunk::of_bytes(chunk), 0);
                continue;
            }
            let symbol = self.chunk.symbol(self.index)?;
            if symbol == Symbol::NotReceived {
                // A run of losses is one step, however long it claims to be.
                let run = if matches!(self.chunk, Chunk::Run(..)) { left } else { 1 };
                self.advance(run.min(self.remaining));
                continue;
            }
            self.time_us += self.delta(symbol)? * TICK_US;
            let arrival = Arrival { seq: self.seq, time_us: self.time_us };
            self.advance(1);
            return Some(arrival);
        }
        None
    }
}

/// What a feedback message says besides the arrivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwccFeedback {
    /// Our own SSRC.
    pub sender: Ssrc,
    /// A stream of the transport.
    pub media: Ssrc,
    /// First transport-wide sequence number reported on: one behind the last of the message before.
    pub base: ExtSeq,
    /// Number of this message, modulo 256.
    pub feedback_count: u8,
}

/// What [`write_twcc`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwccWritten {
    /// Bytes written.
    pub len: usize,
    /// How many of the arrivals are in; at least one. Report the others in a further message, whose base is the last
    /// one taken plus one.
    pub arrivals: usize,
}

/// Writes one feedback message for `arrivals`, which ascend strictly by sequence number and start at or behind the base.
/// Arrival times may go back (reordering).
///
/// Takes as many arrivals as fit: into `out`, into 65535 statuses, into deltas of 8 s. Times are rounded down to 250 us
/// without adding up errors. The message is padded to a word as RTP is, with the P bit.
/// # Errors
/// `OutOfRange` when `arrivals` is empty, out of order, or starts 65535 or more behind the base; `NoSpace` when not even
/// the first fits.
pub fn write_twcc(
    out: &mut [u8],
    feedback: &TwccFeedback,
    arrivals: &[(ExtSeq, Timestamp)],
) -> Result<TwccWritten, WriteError> {
    let &(_, first_time) = arrivals.first().ok_or(WriteError::OutOfRange)?;
    let reference = ticks(first_time) / TICKS_PER_REFERENCE;
    let plan = plan(out.len(), feedback.base, reference, arrivals)?;
    let body_words = (plan.bytes - 4).div_ceil(4);
    let body = frame(out, format::TWCC, packet_type::TRANSPORT_FEEDBACK, body_words)?;
    let [r0, r1, r2] = [(reference >> 16) as u8, (reference >> 8) as u8, reference as u8];
    let [b0, b1] = feedback.base.seq().0.to_be_bytes();
    let [c0, c1] = plan.status_count.to_be_bytes();
    let (head, rest) = body.split_first_chunk_mut::<HEAD_WORDS>().expect("the plan counts the head");
    *head = [
        feedback.sender.0.to_be_bytes(),
        feedback.media.0.to_be_bytes(),
        [b0, b1, c0, c1],
        [r0, r1, r2, feedback.feedback_count],
    ];
    let (chunks, rest) = rest.as_flattened_mut().split_at_mut(2 * plan.chunks);
    let (deltas, padding) = rest.split_at_mut(plan.delta_bytes);
    fill(chunks.as_chunks_mut().0, deltas, feedback.base, reference, &arrivals[..plan.arrivals]);
    if let Some((count, zeros)) = padding.split_last_mut() {
        *count = zeros.len() as u8 + 1;
        zeros.fill(0);
        out[0] |= PADDING_BIT;
    }
    Ok(TwccWritten { len: packet_bytes(body_words), arrivals: plan.arrivals })
}

fn ticks(time: Timestamp) -> u64 {
    time.0 / TICK_NS
}

struct Plan {
    bytes: usize,
    chunks: usize,
    delta_bytes: usize,
    arrivals: usize,
    status_count: u16,
}

/// Finds out how many arrivals fit and what they take.
fn plan(
    space: usize,
    base: ExtSeq,
    reference: u64,
    arrivals: &[(ExtSeq, Timestamp)],
) -> Result<Plan, WriteError> {
    let space = space / 4 * 4;
    let mut best: Option<Plan> = None;
    let (mut encoder, mut chunks, mut delta_bytes) = (Encoder::default(), 0, 0);
    for (taken, step) in steps(base, reference, arrivals).enumerate() {
        let Some(step) = step? else { break };
        for (symbol, count) in [(Symbol::NotReceived, step.gap), (step.symbol, 1)] {
            encoder.add(symbol, count, |_| chunks += 1);
        }
        delta_bytes += step.symbol.delta_bytes();
        // What is pending always ends in a single chunk.
        let bytes = HEAD_BYTES + 2 * (chunks + 1) + delta_bytes;
        if bytes > space {
            break;
        }
        let (arrivals, status_count) = (taken + 1, step.status_count);
        best = Some(Plan { bytes, chunks: chunks + 1, delta_bytes, arrivals, status_count });
    }
    best.ok_or(WriteError::NoSpace)
}

/// Writes chunks and deltas into exactly the room the plan found.
fn fill(
    chunks: &mut [[u8; 2]],
    deltas: &mut [u8],
    base: ExtSeq,
    reference: u64,
    arrivals: &[(ExtSeq, Timestamp)],
) {
    let mut slots = chunks.iter_mut();
    let mut emit = |chunk: u16| {
        *slots.next().expect("the plan counted the chunks") = chunk.to_be_bytes();
    };
    let mut encoder = Encoder::default();
    let mut at = 0;
    for step in steps(base, reference, arrivals) {
        let step = step.ok().flatten().expect("the plan took these arrivals");
        for (symbol, count) in [(Symbol::NotReceived, step.gap), (step.symbol, 1)] {
            encoder.add(symbol, count, &mut emit);
        }
        let bytes = step.delta.to_be_bytes();
        let len = step.symbol.delta_bytes();
        deltas[at..at + len].copy_from_slice(&bytes[2 - len..]);
        at += len;
    }
    encoder.finish(&mut emit);
}

/// One arrival as it goes on the wire.
struct Step {
    /// Packets missing before it.
    gap: u16,
    /// In ticks since the arrival before.
    delta: i16,
    symbol: Symbol,
    /// Statuses up to and including this one.
    status_count: u16,
}

/// Turns arrivals into steps. `Ok(None)`: this one belongs into the next message.
fn steps(
    base: ExtSeq,
    reference: u64,
    arrivals: &[(ExtSeq, Timestamp)],
) -> impl Iterator<Item = Result<Option<Step>, WriteError>> {
    let mut before = reference * TICKS_PER_REFERENCE;
    let mut next = base;
    arrivals.iter().map(move |&(seq, time)| {
        let gap = seq.0.checked_sub(next.0).ok_or(WriteError::OutOfRange)?;
        let Ok(status_count) = u16::try_from((seq.0 - base.0).saturating_add(1)) else {
            return if next == base { Err(WriteError::OutOfRange) } else { Ok(None) };
        };
        let Ok(delta) = i16::try_from(ticks(time).wrapping_sub(before) as i64) else {
            return Ok(None);
        };
        before = ticks(time);
        next = ExtSeq(seq.0.saturating_add(1));
        let symbol = if (0..=255).contains(&delta) { Symbol::SmallDelta } else { Symbol::LargeDelta };
        Ok(Some(Step { gap: gap as u16, delta, symbol, status_count }))
    })
}

/// Packs symbols into chunks: a run while they are all the same, else a vector.
#[derive(Clone, Copy, Default)]
struct Encoder {
    /// The first pending symbols; a run does not store those beyond.
    pending: [Symbol; ONE_BIT_SYMBOLS as usize],
    len: u16,
    mixed: bool,
    large: bool,
}

impl Encoder {
    /// Adds `symbol` `count` times and hands full chunks to `emit`.
    fn add(&mut self, symbol: Symbol, mut count: u16, mut emit: impl FnMut(u16)) {
        while count > 0 {
            let take = self.room(symbol).min(count);
            if take == 0 {
                self.emit_one(&mut emit);
                continue;
            }
            for slot in self.pending.iter_mut().skip(self.len.into()).take(take.into()) {
                *slot = symbol;
            }
            self.mixed |= self.pending[0] != symbol;
            self.large |= symbol == Symbol::LargeDelta;
            self.len += take;
            count -= take;
        }
    }

    /// How many of `symbol` the pending chunk can still take.
    fn room(&self, symbol: Symbol) -> u16 {
        if self.len == 0 || (!self.mixed && self.pending[0] == symbol) {
            return RUN_MAX - self.len;
        }
        let two_bit = self.large || symbol == Symbol::LargeDelta;
        let most = if two_bit { TWO_BIT_SYMBOLS } else { ONE_BIT_SYMBOLS };
        most.saturating_sub(self.len)
    }

    /// Emits one chunk; only a two-bit vector can leave something pending.
    fn emit_one(&mut self, emit: &mut impl FnMut(u16)) {
        if !self.mixed {
            emit((self.pending[0] as u16) << 13 | self.len);
            *self = Encoder::default();
        } else if !self.large && self.len == ONE_BIT_SYMBOLS {
            emit(self.one_bit());
            *self = Encoder::default();
        } else {
            emit(self.two_bit());
            self.keep_behind(self.len.min(TWO_BIT_SYMBOLS));
        }
    }

    /// Emits what is pending. That is one chunk at most: a mixed one with large deltas never exceeds seven symbols.
    fn finish(&mut self, emit: &mut impl FnMut(u16)) {
        if self.mixed && !self.large {
            emit(self.one_bit());
        } else if self.len > 0 {
            self.emit_one(emit);
        }
        *self = Encoder::default();
    }

    fn one_bit(&self) -> u16 {
        let symbols = self.pending.iter().take(self.len.into());
        symbols
            .zip(0..)
            .fold(0x8000, |word, (symbol, i)| word | (*symbol as u16) << (ONE_BIT_SYMBOLS - 1 - i))
    }

    fn two_bit(&self) -> u16 {
        let symbols = self.pending.iter().take(self.len.min(TWO_BIT_SYMBOLS).into());
        symbols
            .zip(0..)
            .fold(0xc000, |word, (symbol, i)| word | (*symbol as u16) << (2 * (TWO_BIT_SYMBOLS - 1 - i)))
    }

    /// Drops the first `count` symbols of a mixed chunk.
    fn keep_behind(&mut self, count: u16) {
        let mut rest = Encoder::default();
        let kept = &self.pending[usize::from(count)..usize::from(self.len)];
        for symbol in kept {
            rest.pending[usize::from(rest.len)] = *symbol;
            rest.len += 1;
            rest.mixed |= rest.pending[0] != *symbol;
            rest.large |= *symbol == Symbol::LargeDelta;
        }
        *self = rest;
    }
}
