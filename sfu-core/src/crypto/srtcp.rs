//! SRTCP contexts (RFC 3711 §3.4, RFC 7714 §9): like SRTP, but the index travels in the packet.
//!
//! ```text
//! AES-CM   | header, SSRC | encrypted ... | E, index | tag |
//! GCM      | header, SSRC | encrypted ... | tag | E, index |
//! ```
//!
//! A packet with the E flag off is authenticated and taken as it is; we always send with E on. The sender counts one
//! index for all SSRCs: gaps cost nothing, receivers keep a window per SSRC.
#![forbid(unsafe_code)]

use super::backend::{Cipher, RTCP_CLEAR_BYTES};
use super::replay::RtcpWindow;
use super::srtp::{MAX_RETIRED, MAX_STREAMS};
use crate::drop_reason::DropReason;
use crate::ids::Ssrc;

/// One above the highest SRTCP index, 31 bits.
const INDEX_END: u32 = 1 << 31;

/// Opens the RTCP of one peer.
pub(super) struct RtcpRx {
    cipher: Cipher,
    streams: Vec<(Ssrc, RtcpWindow)>,
    /// SSRCs that ended, with the highest index of each: what may still come of them has to come in order.
    retired: Vec<(Ssrc, u64)>,
}

impl RtcpRx {
    pub(super) fn new(cipher: Cipher) -> RtcpRx {
        RtcpRx { cipher, streams: Vec::with_capacity(MAX_STREAMS), retired: Vec::new() }
    }

    /// See `SrtpRx::unprotect_rtcp`.
    pub(super) fn unprotect(&mut self, packet: &mut [u8]) -> Result<usize, DropReason> {
        let index = u64::from(self.cipher.rtcp_index(packet)?);
        let ssrc = Ssrc(u32::from_be_bytes(packet[4..8].try_into().expect("four bytes were taken")));
        match self.streams.iter().position(|(known, _)| *known == ssrc) {
            Some(at) => {
                let window = &mut self.streams[at].1;
                window.check(index)?;
                let len = self.cipher.open_rtcp(packet)?;
                window.accept(index);
                Ok(len)
            }
            None => self.unprotect_first(packet, ssrc, index),
        }
    }

    fn unprotect_first(&mut self, packet: &mut [u8], ssrc: Ssrc, index: u64) -> Result<usize, DropReason> {
        if let Some((_, highest)) = self.retired.iter_mut().find(|(known, _)| *known == ssrc) {
            if index <= *highest {
                return Err(DropReason::Replayed);
            }
            let len = self.cipher.open_rtcp(packet)?;
            *highest = index;
            return Ok(len);
        }
        if self.streams.len() == MAX_STREAMS {
            return Err(DropReason::TooManyStreams);
        }
        let len = self.cipher.open_rtcp(packet)?;
        self.streams.push((ssrc, RtcpWindow::starting_at(index)));
        Ok(len)
    }

    /// See `SrtpRx::retire`.
    pub(super) fn retire(&mut self, ssrc: Ssrc) {
        let at = self.streams.iter().position(|(known, _)| *known == ssrc);
        if let Some(at) = at.filter(|_| self.retired.len() < MAX_RETIRED) {
            let (_, window) = self.streams.swap_remove(at);
            self.retired.push((ssrc, window.highest()));
        }
    }
}

/// Seals the RTCP that goes to one peer.
pub(super) struct RtcpTx {
    cipher: Cipher,
    next_index: u32,
}

impl RtcpTx {
    pub(super) fn new(cipher: Cipher) -> RtcpTx {
        // libsrtp's first index, so the one every receiver has met.
        RtcpTx { cipher, next_index: 1 }
    }

    /// See `SrtpTx::protect_rtcp`.
    pub(super) fn protect(&mut self, out: &mut [u8], len: usize) -> usize {
        assert!(len >= RTCP_CLEAR_BYTES, "an RTCP packet has a header and an SSRC");
        if self.next_index == INDEX_END {
            return 0;
        }
        let index = self.next_index;
        self.next_index += 1;
        self.cipher.seal_rtcp(out, len, index)
    }

    pub(super) fn set_index(&mut self, index: u32) {
        self.next_index = index & (INDEX_END - 1);
    }
}
