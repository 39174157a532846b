//! AV1 (RTP Payload Format for AV1 1.0, §4.3-§4.5).
//!
//! ```text
//! |Z|Y| W |N|-|-|-|    Z: goes on with the last OBU of the packet before; Y: its own last OBU goes on
//! OBU element *        each with its size in LEB128 in front, but the last of W (1..=3) elements without; W = 0: all with
//! OBU header           |F| type (4) |X|S|-|     type 1: sequence header
//! ```
//!
//! N marks the first packet of a coded video sequence. Not every sender sets it, so a sequence header counts as well.
//! Where a frame starts the dependency descriptor extension tells; the payload alone only says where an OBU does.
#![forbid(unsafe_code)]

const CONTINUES: u8 = 0x80;
const NEW_SEQUENCE: u8 = 0x08;
const OBU_SEQUENCE_HEADER: u8 = 1;
/// LEB128 sizes have at most 8 bytes in AV1; no packet needs more than three.
const SIZE_BYTES_MAX: usize = 3;

/// Whether this packet starts a coded video sequence: it says so (N), or it holds a sequence header.
#[inline]
pub fn is_key_frame(payload: &[u8]) -> bool {
    match payload {
        [header, rest @ ..] if header & CONTINUES == 0 && !rest.is_empty() => {
            header & NEW_SEQUENCE != 0 || obu_types(*header, rest).any(|kind| kind == OBU_SEQUENCE_HEADER)
        }
        _ => false,
    }
}

/// Whether this packet starts with a new OBU, rather than with the rest of one.
#[inline]
pub fn starts_unit(payload: &[u8]) -> bool {
    matches!(payload, [header, _, ..] if header & CONTINUES == 0)
}

/// The types of the OBUs in a packet that starts with a new one, as far as their sizes fit.
fn obu_types(header: u8, mut rest: &[u8]) -> impl Iterator<Item = u8> {
    let count = usize::from(header >> 4 & 3);
    // Wider than W: a packet of W = 0 can hold more than 255 elements.
    let mut index = 0usize;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        index += 1;
        let obu = if index == count {
            std::mem::take(&mut rest)
        } else {
            let (size, behind) = read_leb128(rest)?;
            let (obu, behind) = behind.split_at_checked(size)?;
            rest = behind;
            obu
        };
        Some(obu.first()? >> 3 & 0x0f)
    })
}

/// A LEB128 number and what follows it.
fn read_leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0;
    for (i, byte) in bytes.iter().take(SIZE_BYTES_MAX).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OBU headers, without a size field of their own.
    const SEQUENCE: u8 = 1 << 3;
    const FRAME: u8 = 6 << 3;

    #[test]
    fn key_frames() {
        for (payload, key, starts) in [
            // N, as Chromium sets it; the same without N; a delta frame.
            (&[0x18, SEQUENCE, 9][..], true, true),
            (&[0x10, SEQUENCE, 9], true, true),
            (&[0x10, FRAME, 9], false, true),
            // W = 2: sequence header with its size, then a frame without.
            (&[0x20, 2, SEQUENCE, 9, FRAME, 9], true, true),
            (&[0x20, 1, FRAME, SEQUENCE, 9], true, true),
            (&[0x20, 1, FRAME, FRAME, SEQUENCE], false, true),
            // W = 0: every element with its size.
            (&[0x00, 1, FRAME, 1, SEQUENCE], true, true),
            (&[0x00, 1, FRAME, 1, FRAME], false, true),
            // Sizes of two bytes, of too many, beyond the packet, and zero.
            (&[0x20, 0x82, 0x00, FRAME, 9, SEQUENCE], true, true),
            (&[0x20, 0x80, 0x80, 0x80, 0x00, SEQUENCE], false, true),
            (&[0x20, 9, FRAME, SEQUENCE], false, true),
            (&[0x00, 0, 1, SEQUENCE], false, true),
            // Continuations, even where the bytes look like a sequence header; an empty packet.
            (&[0x90, SEQUENCE, 9], false, false),
            (&[0x98, SEQUENCE, 9], false, false),
            (&[0x18], false, false),
        ] {
            assert_eq!((is_key_frame(payload), starts_unit(payload)), (key, starts), "{payload:x?}");
        }
    }

    /// Found by fuzzing: a counter of eight bits overflowed, and wrapped to W = 0, "the last element".
    #[test]
    fn more_than_255_elements() {
        let mut payload = vec![0];
        payload.extend([1, FRAME].repeat(300));
        assert!(!is_key_frame(&payload));
        payload.extend([1, SEQUENCE]);
        assert!(is_key_frame(&payload));
    }

    #[test]
    fn leb128() {
        for (bytes, expected) in [
            (&[0x00][..], Some((0, 0))),
            (&[0x7f, 1], Some((127, 1))),
            (&[0xe5, 0x8e, 0x26], Some((624_485, 0))),
            (&[0x80], None),
            (&[0x80, 0x80, 0x80, 0], None),
            (&[], None),
        ] {
            assert_eq!(read_leb128(bytes).map(|(value, rest)| (value, rest.len())), expected, "{bytes:x?}");
        }
    }
}
