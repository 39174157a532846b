//! One variant per way a datagram can end unforwarded. Each such datagram counts exactly once.
#![forbid(unsafe_code)]

macro_rules! reasons {
    ($($(#[$meta:meta])* $name:ident => $text:literal,)*) => {
        /// Why a datagram was not forwarded. Indexes the counters of `shard/stats.rs`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$meta])* $name,)* }

        impl DropReason {
            /// Every reason, in counter order.
            pub const ALL: &[DropReason] = &[$(DropReason::$name,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The metric label.
            pub fn label(self) -> &'static str {
                match self { $(DropReason::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// First byte belongs to no protocol we speak (RFC 7983).
    UnknownProtocol => "unknown_protocol",
    /// Shorter than its protocol's fixed header.
    TooShort => "too_short",
    /// Larger than a slot: the kernel cut it off.
    Truncated => "truncated",
    /// A STUN message that does not parse, or is no Binding request.
    StunMalformed => "stun_malformed",
    /// STUN USERNAME names no transport here.
    StunUnknownUser => "stun_unknown_user",
    /// STUN MESSAGE-INTEGRITY or FINGERPRINT is wrong.
    StunBadIntegrity => "stun_bad_integrity",
    /// STUN from an address that another transport was checked from a moment ago.
    PairHeld => "pair_held",
    /// From an address that no transport has validated by ICE.
    UnknownAddress => "unknown_address",
    /// DTLS before the peer's fingerprint is known, or a record the engine refused.
    DtlsRefused => "dtls_refused",
    /// Too many handshakes or handshake datagrams are waiting.
    DtlsOverload => "dtls_overload",
    /// SRTP before the DTLS handshake gave keys.
    NoKeys => "no_keys",
    /// RTP header, extension or padding does not fit the datagram.
    RtpMalformed => "rtp_malformed",
    /// RTCP compound packet does not parse.
    RtcpMalformed => "rtcp_malformed",
    /// SRTP or SRTCP authentication failed.
    AuthFailed => "auth_failed",
    /// Index already seen (RFC 3711 §3.3.2).
    Replayed => "replayed",
    /// Index older than the replay window.
    TooOld => "too_old",
    /// More SSRCs from one peer than the table holds.
    TooManyStreams => "too_many_streams",
    /// SSRC, MID and payload type name no publication.
    UnknownStream => "unknown_stream",
    /// Payload type is not the negotiated one.
    UnknownPayloadType => "unknown_payload_type",
    /// A retransmission of something already received, or padding only.
    Duplicate => "duplicate",
    /// The publication has no subscriber now.
    NoSubscriber => "no_subscriber",
    /// Subscription is paused, or waits for a key frame.
    Paused => "paused",
    /// No free receive slot.
    PoolExhausted => "pool_exhausted",
    /// The batch of waiting sends is full.
    BatchFull => "batch_full",
    /// The kernel refused the send.
    SendFailed => "send_failed",
    /// The peer's state machine panicked; the transport was closed.
    Internal => "internal",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique_and_indexes_dense() {
        let labels: std::collections::HashSet<_> = DropReason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), DropReason::COUNT);
        for (i, r) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*r as usize, i);
        }
    }
}
