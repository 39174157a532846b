//! H.264 in packetization modes 0 and 1 (RFC 6184 §5.3-§5.8).
//!
//! ```text
//! |F|NRI|  type   |   1..=23 one NAL unit | 24 STAP-A: (size (16), NAL unit) * | 28 FU-A: |S|E|R| type |, fragment
//! ```
//!
//! A payload does not say where its frame starts (the timestamp does), so [`starts_unit`] only tells whether it starts a
//! NAL unit. The interleaved types (STAP-B, MTAP, FU-B) belong to mode 2, which no browser speaks: never a key frame.
#![forbid(unsafe_code)]

const TYPE_BITS: u8 = 0x1f;
const IDR: u8 = 5;
const SPS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;
const FU_START: u8 = 0x80;

/// Whether this packet holds the start of an IDR picture or a sequence parameter set, which senders put in front of it.
#[inline]
pub fn is_key_frame(payload: &[u8]) -> bool {
    match unit_type(payload) {
        Some(STAP_A) => aggregated_types(&payload[1..]).any(is_key_type),
        Some(kind) => is_key_type(kind),
        None => false,
    }
}

/// Whether this packet starts a NAL unit, rather than going on with a fragmented one.
#[inline]
pub fn starts_unit(payload: &[u8]) -> bool {
    unit_type(payload).is_some()
}

/// The type of the NAL unit that starts in this packet, or STAP-A. `None` when none starts.
fn unit_type(payload: &[u8]) -> Option<u8> {
    match payload {
        [first, header, ..] if first & TYPE_BITS == FU_A => {
            (header & FU_START != 0).then_some(header & TYPE_BITS)
        }
        [first, ..] if (1..=STAP_A).contains(&(first & TYPE_BITS)) => Some(first & TYPE_BITS),
        _ => None,
    }
}

fn is_key_type(kind: u8) -> bool {
    matches!(kind, IDR | SPS)
}

/// The types of the NAL units behind a STAP-A header, as far as their sizes fit.
fn aggregated_types(mut units: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let (size, rest) = units.split_first_chunk()?;
        let (unit, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*size)))?;
        units = rest;
        Some(unit.first()? & TYPE_BITS)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_frames() {
        for (payload, key, starts) in [
            // Single units: IDR, SPS, PPS, a slice of another picture, SEI.
            (&[0x65, 0x88][..], true, true),
            (&[0x67, 0x42], true, true),
            (&[0x68, 0xce], false, true),
            (&[0x41, 0x9a], false, true),
            (&[0x06, 0x05], false, true),
            // STAP-A: SPS and PPS, PPS and IDR, SEI and slice; one whose second size is too large.
            (&[0x78, 0, 2, 0x67, 0x42, 0, 1, 0x68], true, true),
            (&[0x78, 0, 1, 0x68, 0, 2, 0x65, 0x88], true, true),
            (&[0x78, 0, 1, 0x06, 0, 1, 0x41], false, true),
            (&[0x78, 0, 1, 0x06, 0, 9, 0x65], false, true),
            (&[0x78, 0, 0, 0, 1, 0x65], false, true),
            (&[0x78, 0], false, true),
            (&[0x78], false, true),
            // FU-A: start, middle and end of an IDR; start of another picture; torn.
            (&[0x7c, 0x85, 0x88], true, true),
            (&[0x7c, 0x05, 0x88], false, false),
            (&[0x7c, 0x45, 0x88], false, false),
            (&[0x5c, 0x81, 0x9a], false, true),
            (&[0x7c, 0x87], true, true),
            (&[0x7c], false, false),
            // Type 0, interleaved types, reserved.
            (&[0x60, 0x65], false, false),
            (&[0x79, 0, 0, 0, 1, 0x65], false, false),
            (&[0x7d, 0x85, 0, 0], false, false),
            (&[0x7f, 0x65], false, false),
        ] {
            assert_eq!((is_key_frame(payload), starts_unit(payload)), (key, starts), "{payload:x?}");
        }
    }
}
