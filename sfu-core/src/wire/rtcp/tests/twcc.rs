//! Transport-wide feedback: bytes of each chunk kind, limits, round trips.

use super::*;
use crate::ids::ExtSeq;
use crate::time::Timestamp;
use crate::wire::rtcp::twcc::{Arrival, TwccFeedback, write_twcc};

fn feedback(base: u64) -> TwccFeedback {
    TwccFeedback { sender: Ssrc(1), media: Ssrc(2), base: ExtSeq(base), feedback_count: 5 }
}

fn at(seq: u64, time_us: u64) -> (ExtSeq, Timestamp) {
    (ExtSeq(seq), Timestamp(time_us * 1000))
}

fn write(base: u64, arrivals: &[(ExtSeq, Timestamp)]) -> Vec<u8> {
    let mut out = vec![0xff; 4096];
    let written = write_twcc(&mut out, &feedback(base), arrivals).unwrap();
    assert_eq!(written.arrivals, arrivals.len());
    out.truncate(written.len);
    out
}

fn arrivals(bytes: &[u8]) -> Vec<(u16, i64)> {
    only!(bytes, Twcc).arrivals().map(|Arrival { seq, time_us }| (seq.0, time_us)).collect()
}

#[test]
fn head_and_a_single_packet() {
    // 130 ms: two units of 64 ms, then 8 ticks of 250 us.
    let bytes = write(0x1_fffe, &[at(0x1_fffe, 130_100)]);
    #[rustfmt::skip]
    let expected = [
        0xaf, 205, 0, 5,  0, 0, 0, 1,  0, 0, 0, 2,  0xff, 0xfe, 0, 1,  0, 0, 2, 5,
        0x20, 1,  8,  1,
    ];
    assert_eq!(bytes, expected);
    let message = only!(&bytes, Twcc);
    assert_eq!((message.sender, message.media), (Ssrc(1), Ssrc(2)));
    assert_eq!((message.base, message.status_count), (SeqNo(0xfffe), 1));
    assert_eq!((message.reference_time, message.feedback_count), (2, 5));
    assert_eq!(arrivals(&bytes), [(0xfffe, 130_000)]);
}

/// The chunks that a pattern is packed into. `.` lost, `s` small delta, `L` large delta.
fn chunks(pattern: &str) -> Vec<u16> {
    let mut time_us = 0;
    let mut list = Vec::new();
    for (seq, kind) in (100..).zip(pattern.chars()) {
        match kind {
            '.' => continue,
            's' => time_us += 250,
            _ => time_us += 100_000,
        }
        list.push(at(seq, time_us));
    }
    let bytes = write(100, &list);
    assert_eq!(arrivals(&bytes).len(), list.len(), "{pattern}");
    let message = only!(&bytes, Twcc);
    assert_eq!(usize::from(message.status_count), pattern.len());
    let mut chunks = Vec::new();
    let mut covered = 0;
    for chunk in bytes[20..].as_chunks().0 {
        if covered >= pattern.len() {
            break;
        }
        let chunk = u16::from_be_bytes(*chunk);
        covered += match chunk >> 14 {
            0 | 1 => usize::from(chunk & 0x1fff),
            2 => 14,
            _ => 7,
        };
        chunks.push(chunk);
    }
    chunks
}

#[test]
fn packs_runs_and_vectors() {
    for (pattern, expected) in [
        ("s", vec![0x2001]),
        ("ssssssssssssssssssss", vec![0x2014]),
        ("..s", vec![0x8800]),
        ("s.s.s.s.s.s.s.", vec![0xaaaa]),
        ("s.s.s.s.s.s.s.s", vec![0xaaaa, 0x2001]),
        ("sL", vec![0xd800]),
        ("s.L.s.Ls", vec![0xd212, 0x2001]),
        // A long run of losses, then what follows it.
        ("s...................s", vec![0xa000, 0x8080]),
        // Ten small ones do not fit a two-bit vector: they go as a run, the large one starts the next chunk.
        ("ssssssssssL", vec![0x200a, 0x4001]),
        // Mixed one-bit symbols before a large one: seven go as two-bit, the rest stay.
        ("s.s.s.s.s.L", vec![0xd111, 0xc480]),
    ] {
        // Trailing losses cannot be reported: the last status is always a received packet.
        let pattern = pattern.trim_end_matches('.');
        let found = chunks(pattern);
        assert_eq!(found, expected, "{pattern}: {found:x?}");
    }
}

#[test]
fn a_run_ends_at_8191() {
    let list: Vec<_> = (0..8193).map(|i| at(i, 0)).collect();
    let mut out = vec![0; 20_000];
    let written = write_twcc(&mut out, &feedback(0), &list).unwrap();
    assert_eq!(written.arrivals, list.len());
    assert_eq!(out[20..24], [0x3f, 0xff, 0x20, 0x02]);
    assert_eq!(arrivals(&out[..written.len]).len(), list.len());
}

#[test]
fn deltas_small_large_negative_and_too_far() {
    let bytes = write(1, &[at(1, 63_750), at(2, 127_500), at(3, 127_749), at(4, 191_500), at(5, 190_000)]);
    assert_eq!(arrivals(&bytes), [(1, 63_750), (2, 127_500), (3, 127_500), (4, 191_500), (5, 190_000)]);
    assert_eq!(bytes[22..30], [255, 255, 0, 1, 0, 0xff, 0xfa, 0][..]);

    // 8.19175 s is the longest step; one tick more belongs into the next message.
    let mut out = [0; 64];
    let near = [at(1, 0), at(2, 8_191_750)];
    assert_eq!(write_twcc(&mut out, &feedback(1), &near).unwrap().arrivals, 2);
    let far = [at(1, 0), at(2, 8_192_000)];
    assert_eq!(write_twcc(&mut out, &feedback(1), &far).unwrap().arrivals, 1);
}

#[test]
fn takes_what_fits() {
    let list: Vec<_> = (0..100).map(|i| at(10 + i, 500 * i)).collect();
    let mut out = [0; 44];
    let written = write_twcc(&mut out, &feedback(10), &list).unwrap();
    // 20 of head, 2 of run, 22 deltas.
    assert_eq!((written.len, written.arrivals), (44, 22));
    assert_eq!(only!(&out, Twcc).status_count, 22);
    assert_eq!(write_twcc(&mut out[..23], &feedback(10), &list), Err(WriteError::NoSpace));
    assert_eq!(write_twcc(&mut out[..24], &feedback(10), &list).unwrap().arrivals, 2);
}

#[test]
fn refuses_disorder_and_distance() {
    let mut out = [0; 256];
    for (base, list) in [
        (1, vec![]),
        (2, vec![at(1, 0)]),
        (1, vec![at(5, 0), at(5, 0)]),
        (1, vec![at(5, 0), at(4, 0)]),
        (0, vec![at(65_535, 0)]),
    ] {
        assert_eq!(
            write_twcc(&mut out, &feedback(base), &list),
            Err(WriteError::OutOfRange),
            "{base} {list:?}"
        );
    }
    assert_eq!(write_twcc(&mut out, &feedback(1), &[at(65_535, 0)]).unwrap().arrivals, 1);
    let written = write_twcc(&mut out, &feedback(0), &[at(0, 0), at(65_535, 0)]).unwrap();
    assert_eq!(written.arrivals, 1);
}

#[test]
fn reference_time_wraps_and_is_signed() {
    let late = Timestamp(((1u64 << 24) + 3) * 64_000_000 + 1_000_000);
    let bytes = write(0, &[(ExtSeq(0), late)]);
    assert_eq!(only!(&bytes, Twcc).reference_time, 3);
    assert_eq!(arrivals(&bytes), [(0, 3 * 64_000 + 1000)]);
    let half = Timestamp((1u64 << 23) * 64_000_000);
    assert_eq!(only!(&write(0, &[(ExtSeq(0), half)]), Twcc).reference_time, -(1 << 23));
}

#[test]
fn refuses_incomplete_messages() {
    let head = |count: u8, tail: &[u8]| {
        let mut bytes = vec![
            0x8f,
            205,
            0,
            4 + (tail.len() / 4) as u8,
            0,
            0,
            0,
            1,
            0,
            0,
            0,
            2,
            0,
            9,
            0,
            count,
            0,
            0,
            0,
            0,
        ];
        bytes.extend(tail);
        bytes
    };
    for (count, tail, ok) in [
        (0, &[][..], true),
        (1, &[], false),
        (1, &[0x20, 1, 7, 0], true),
        // Zero-filled without the P bit, as older writers do.
        (2, &[0x20, 2, 7, 7], true),
        (3, &[0x20, 3, 7, 7], false),
        (2, &[0x40, 2, 7, 7], false),
        // Reserved symbols, as a run and inside a vector; beyond the count they do not matter.
        (1, &[0x60, 1, 7, 7], false),
        (2, &[0xdc, 0, 7, 7], false),
        (1, &[0xdc, 0, 7, 7], true),
        // Runs of length zero cover nothing.
        (1, &[0, 0, 0, 0], false),
        (1, &[0, 0, 0x20, 1, 7, 0, 0, 0], true),
    ] {
        let bytes = head(count, tail);
        let result = read(&bytes);
        assert_eq!(result.is_ok(), ok, "{count} {tail:x?} {result:?}");
    }
}

/// Arrivals with gaps and jumps in time, both ways.
pub(super) fn any_arrivals() -> impl Strategy<Value = (u64, Vec<(ExtSeq, Timestamp)>)> {
    let gap = prop_oneof![8 => Just(0u64), 2 => 1..20u64, 1 => 20..9000u64];
    let step = prop_oneof![8 => 0..20_000i64, 2 => -3000..200_000i64, 1 => -2_000_000..4_000_000i64];
    let list = prop::collection::vec((gap, step), 1..120);
    (0..1u64 << 20, 4_000_000_000..(1i64 << 40), list).prop_map(|(base, start, steps)| {
        let (mut seq, mut time_us) = (base, start);
        let list = steps
            .into_iter()
            .map(|(gap, step)| {
                seq += gap + 1;
                time_us += step;
                at(seq - 1, time_us as u64)
            })
            .collect();
        (base, list)
    })
}

proptest! {
    #[test]
    fn messages_in_a_row_report_every_arrival((base, list) in any_arrivals(), space in 26usize..400) {
        let mut out = vec![0xff; space];
        let (mut base, mut rest) = (base, &list[..]);
        while !rest.is_empty() {
            let written = match write_twcc(&mut out, &feedback(base), rest) {
                Ok(written) => written,
                // A gap that needs more chunks than the buffer holds.
                Err(error) => {
                    prop_assert_eq!(error, WriteError::NoSpace);
                    prop_assert!(rest[0].0.0 - base >= 14);
                    break;
                }
            };
            prop_assert!(written.arrivals > 0 && written.len <= space && written.len.is_multiple_of(4));
            let message = only!(&out[..written.len], Twcc);
            let (taken, behind) = rest.split_at(written.arrivals);
            let read: Vec<_> = message.arrivals().collect();
            prop_assert_eq!(read.len(), taken.len());
            let reference = (taken[0].1.0 / 64_000_000) as i64 * 64_000;
            let wrapped = i64::from(message.reference_time) * 64_000;
            for (read, (seq, time)) in read.iter().zip(taken) {
                prop_assert_eq!(read.seq, seq.seq());
                let error = (time.0 / 1000) as i64 - reference - (read.time_us - wrapped);
                prop_assert!((0..250).contains(&error), "{} us off", error);
            }
            let end = taken.last().unwrap().0.0 + 1;
            prop_assert_eq!((message.base, u64::from(message.status_count)), (ExtSeq(base).seq(), end - base));
            base = end;
            rest = behind;
        }
    }
}
