//! Which protocol a datagram speaks, from its first two bytes.
//!
//! ```text
//! first byte     0..=3        20..=63     128..=191                    others
//!                STUN         DTLS        RTP or RTCP (version 2)      unknown
//! second byte                             192..=223: RTCP, else RTP
//! ```
//!
//! RFC 7983 §7 gives the ranges of the first byte, RFC 5761 §4 those of the second. ZRTP (16..=19), TURN channel data
//! (64..=79) and QUIC are not spoken here and count as unknown.
#![forbid(unsafe_code)]

/// What a datagram claims to be. Says nothing about the rest of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// STUN, in our case ICE connectivity checks.
    Stun,
    /// A DTLS record.
    Dtls,
    /// RTP or SRTP.
    Rtp,
    /// RTCP or SRTCP, multiplexed on the same port.
    Rtcp,
    /// Nothing we speak, or empty.
    Unknown,
}

/// Names the protocol of one datagram. A datagram of one byte in the RTP range is [`Protocol::Unknown`].
#[inline]
pub fn classify(datagram: &[u8]) -> Protocol {
    // RTP first: nearly every datagram is.
    match datagram {
        [128..=191, 192..=223, ..] => Protocol::Rtcp,
        [128..=191, _, ..] => Protocol::Rtp,
        [0..=3, ..] => Protocol::Stun,
        [20..=63, ..] => Protocol::Dtls,
        _ => Protocol::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_byte_ranges() {
        for first in 0..=255u8 {
            let expected = match first {
                0..=3 => Protocol::Stun,
                20..=63 => Protocol::Dtls,
                128..=191 => Protocol::Rtp,
                _ => Protocol::Unknown,
            };
            assert_eq!(classify(&[first, 96]), expected, "{first}");
        }
    }

    #[test]
    fn second_byte_tells_rtcp_from_rtp() {
        for second in 0..=255u8 {
            let rtcp = (192..=223).contains(&second);
            let expected = if rtcp { Protocol::Rtcp } else { Protocol::Rtp };
            assert_eq!(classify(&[0x80, second]), expected, "{second}");
        }
    }

    #[test]
    fn too_short_to_tell() {
        assert_eq!(classify(&[]), Protocol::Unknown);
        assert_eq!(classify(&[0x80]), Protocol::Unknown);
        assert_eq!(classify(&[0]), Protocol::Stun);
    }
}
