//! SRTP contexts: everything one transport keeps to open what it receives and to seal what it sends (RFC 3711 §3.2).
//!
//! ```text
//! unprotect_rtp   estimate index ─▶ replay check ─▶ authenticate + decrypt in place ─▶ accept index
//! protect_rtp     RX payload ─▶ TX slot behind its header, one pass, index from the caller
//! ```
//!
//! A receiving stream exists from its first authentic packet on, never earlier: bytes without the key change nothing.
//! The sender keeps no per-stream state at all, because `forward/egress` already counts in extended sequence numbers.
//! Left out: MKI, key derivation rates, and rekeying (a DTLS restart makes new contexts).
#![forbid(unsafe_code)]

use super::backend::Cipher;
use super::index::estimate;
use super::kdf::SessionKeys;
use super::profile::{MasterKey, SrtpProfile};
use super::replay::RtpWindow;
use super::srtcp::{RtcpRx, RtcpTx};
use crate::drop_reason::DropReason;
use crate::ids::{ExtSeq, SeqNo, Ssrc};
use crate::prefetch::prefetch;

/// Most SSRCs that one peer may send on, for RTP and for RTCP each: three simulcast layers and audio with their
/// retransmissions are eight, twice.
pub const MAX_STREAMS: usize = 16;
/// SSRCs that one peer may leave for others in its life. Each stays known by its highest index, so that nothing recorded of
/// it can be replayed.
pub const MAX_RETIRED: usize = 512;

/// Opens what one peer sends.
pub struct SrtpRx {
    cipher: Cipher,
    streams: Vec<RxStream>,
    /// SSRCs that ended, with the highest index of each.
    retired: Vec<(Ssrc, ExtSeq)>,
    /// Position of the stream of the last packet: packets come in runs.
    last: usize,
    rtcp: RtcpRx,
}

/// One SSRC that has sent at least one authentic packet.
struct RxStream {
    ssrc: Ssrc,
    window: RtpWindow,
}

impl SrtpRx {
    /// A context for what is protected under `master`.
    pub fn new(profile: SrtpProfile, master: &MasterKey) -> SrtpRx {
        let (rtp, rtcp) = (SessionKeys::rtp(profile, master), SessionKeys::rtcp(profile, master));
        SrtpRx::from_session_keys(profile, &rtp, &rtcp)
    }

    /// A context from session keys, as test vectors give them. They must be of `profile`.
    pub fn from_session_keys(profile: SrtpProfile, rtp: &SessionKeys, rtcp: &SessionKeys) -> SrtpRx {
        SrtpRx {
            cipher: Cipher::new(profile, rtp),
            streams: Vec::with_capacity(MAX_STREAMS),
            retired: Vec::new(),
            last: 0,
            rtcp: RtcpRx::new(Cipher::new(profile, rtcp)),
        }
    }

    /// Authenticates and decrypts one RTP packet where it lies.
    ///
    /// `packet` is the whole datagram, `header_len` its header with CSRCs and extension, `ssrc` and `seq` what the
    /// header says. Returns the plaintext length (header and payload with padding, no tag) and the packet's index.
    ///
    /// # Errors
    /// [`DropReason::TooShort`], [`DropReason::Replayed`], [`DropReason::TooOld`], [`DropReason::TooManyStreams`],
    /// [`DropReason::AuthFailed`]. Streams, rollover counters and windows are left as they were; after `AuthFailed`
    /// the bytes of `packet` are unspecified. RFC 3711 §3.3, RFC 7714 §8.
    #[inline]
    pub fn unprotect_rtp(
        &mut self,
        packet: &mut [u8],
        header_len: usize,
        ssrc: Ssrc,
        seq: SeqNo,
    ) -> Result<(usize, ExtSeq), DropReason> {
        match self.position(ssrc) {
            Some(at) => {
                let window = &mut self.streams[at].window;
                let index = estimate(Some(ExtSeq(window.highest())), seq);
                window.check(index.0)?;
                let len = self.cipher.open_rtp(packet, header_len, ssrc, index)?;
                window.accept(index.0);
                self.last = at;
                Ok((len, index))
            }
            None => self.unprotect_first(packet, header_len, ssrc, seq),
        }
    }

    /// The first packet of an SSRC: the stream is created if it is authentic.
    #[cold]
    fn unprotect_first(
        &mut self,
        packet: &mut [u8],
        header_len: usize,
        ssrc: Ssrc,
        seq: SeqNo,
    ) -> Result<(usize, ExtSeq), DropReason> {
        if self.streams.len() == MAX_STREAMS {
            return Err(DropReason::TooManyStreams);
        }
        let retired = self.retired.iter().position(|(other, _)| *other == ssrc);
        let highest = retired.map(|at| self.retired[at].1);
        let index = estimate(highest, seq);
        if highest.is_some_and(|highest| index <= highest) {
            return Err(DropReason::TooOld);
        }
        let len = self.cipher.open_rtp(packet, header_len, ssrc, index)?;
        let mut window = RtpWindow::starting_at(index.0);
        if let (Some(at), Some(highest)) = (retired, highest) {
            window = RtpWindow::behind(highest.0);
            window.accept(index.0);
            self.retired.swap_remove(at);
        }
        self.last = self.streams.len();
        self.streams.push(RxStream { ssrc, window });
        Ok((len, index))
    }

    /// Makes room for another SSRC: the peer has left `ssrc`. Should it come back, it goes on behind its highest index,
    /// and what it sent before stays a replay. A peer that has left [`MAX_RETIRED`] gets no more room.
    pub fn retire(&mut self, ssrc: Ssrc) {
        self.rtcp.retire(ssrc);
        if let Some(at) = self.position(ssrc).filter(|_| self.retired.len() < MAX_RETIRED) {
            let stream = self.streams.swap_remove(at);
            self.retired.push((ssrc, ExtSeq(stream.window.highest())));
        }
    }

    /// Authenticates and decrypts one RTCP compound packet where it lies.
    ///
    /// Returns the plaintext length: the compound packet without tag and index.
    ///
    /// # Errors
    /// As [`SrtpRx::unprotect_rtp`]. RFC 3711 §3.4, RFC 7714 §9.
    pub fn unprotect_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, DropReason> {
        self.rtcp.unprotect(packet)
    }

    /// How many SSRCs have sent authentic RTP.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Where the stream of `ssrc` is: mostly where the last packet's was.
    #[inline]
    fn position(&self, ssrc: Ssrc) -> Option<usize> {
        match self.streams.get(self.last) {
            Some(stream) if stream.ssrc == ssrc => Some(self.last),
            _ => self.streams.iter().position(|stream| stream.ssrc == ssrc),
        }
    }
}

/// Seals what goes to one peer.
pub struct SrtpTx {
    profile: SrtpProfile,
    cipher: Cipher,
    rtcp: RtcpTx,
}

impl SrtpTx {
    /// A context that protects under `master`.
    pub fn new(profile: SrtpProfile, master: &MasterKey) -> SrtpTx {
        let (rtp, rtcp) = (SessionKeys::rtp(profile, master), SessionKeys::rtcp(profile, master));
        SrtpTx::from_session_keys(profile, &rtp, &rtcp)
    }

    /// A context from session keys, as test vectors give them. They must be of `profile`.
    pub fn from_session_keys(profile: SrtpProfile, rtp: &SessionKeys, rtcp: &SessionKeys) -> SrtpTx {
        SrtpTx { profile, cipher: Cipher::new(profile, rtp), rtcp: RtcpTx::new(Cipher::new(profile, rtcp)) }
    }

    /// Asks for the context, but for what is behind a pointer.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(&self.profile);
        prefetch(&self.cipher);
    }

    /// Asks for the key, when what [`SrtpTx::prefetch`] asks for is there.
    #[inline]
    pub fn prefetch_key(&self) {
        self.cipher.prefetch_key();
    }

    /// What protection adds to an RTP packet, bytes.
    #[inline]
    pub fn rtp_overhead(&self) -> usize {
        self.profile.rtp_overhead()
    }

    /// What protection adds to an RTCP compound packet, bytes.
    #[inline]
    pub fn rtcp_overhead(&self) -> usize {
        self.profile.rtcp_overhead()
    }

    /// Seals `payload` to behind the header that stands in `out[..header_len]`, and appends the tag.
    ///
    /// `payload` is everything behind the header, padding included, and is only read. `ssrc` must be the header's and
    /// `index` must continue its sequence number. Returns the length of the protected packet.
    ///
    /// **One index of one SSRC seals one payload, ever**: a second payload under it gives both away (RFC 3711 §9.1,
    /// RFC 7714 §10.1). A resend must repeat the very same bytes, or go out as RTX.
    ///
    /// # Panics
    /// If `out` is shorter than header, payload and [`SrtpTx::rtp_overhead`]: the caller's mistake.
    #[inline]
    pub fn protect_rtp(
        &mut self,
        out: &mut [u8],
        header_len: usize,
        payload: &[u8],
        ssrc: Ssrc,
        index: ExtSeq,
    ) -> usize {
        debug_assert_eq!(out.get(2..4), Some(&index.seq().0.to_be_bytes()[..]), "index of another packet");
        debug_assert_eq!(out.get(8..12), Some(&ssrc.0.to_be_bytes()[..]), "SSRC of another packet");
        self.cipher.seal_rtp(out, header_len, payload, ssrc, index)
    }

    /// Protects the RTCP compound packet in `out[..len]` in place. Returns the protected length, or 0 when all 2^31
    /// indexes are used up: then nothing may be sent under this key any more (RFC 3711 §9.2).
    ///
    /// # Panics
    /// If `len` is below 8, or `out` has no room for [`SrtpTx::rtcp_overhead`]: the caller's mistake.
    pub fn protect_rtcp(&mut self, out: &mut [u8], len: usize) -> usize {
        self.rtcp.protect(out, len)
    }

    /// Continues with this SRTCP index, as test vectors want it. Only the lower 31 bits count.
    pub fn set_rtcp_index(&mut self, index: u32) {
        self.rtcp.set_index(index);
    }
}
