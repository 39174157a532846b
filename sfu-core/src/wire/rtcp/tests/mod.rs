//! Tables of bytes, round trips, and two independent codecs (`rtcp-types`, `rtcp`) as oracles.

mod oracle;
mod twcc;

use proptest::prelude::*;

use super::*;
use crate::ids::{SeqNo, Ssrc};
use crate::time::NtpTime;

/// The one message in `bytes`.
fn read(bytes: &[u8]) -> Result<Message<'_>, DropReason> {
    let compound = Compound::parse(bytes)?;
    let mut messages = compound.messages();
    let first = messages.next().expect("a compound has a packet");
    assert!(messages.next().is_none(), "more than one packet");
    first
}

macro_rules! only {
    ($bytes:expr, $variant:ident) => {
        match read($bytes) {
            Ok(Message::$variant(message)) => message,
            other => panic!("expected {}, found {other:?}", stringify!($variant)),
        }
    };
}
use only;

const BLOCK: ReportBlock = ReportBlock {
    ssrc: Ssrc(0x0102_0304),
    fraction_lost: 0x80,
    cumulative_lost: -2,
    highest_seq: 0x0001_ffff,
    jitter: 9,
    last_sr: 0xaabb_ccdd,
    delay_since_last_sr: 0x10000,
};

const INFO: SenderInfo =
    SenderInfo { ntp: NtpTime(0x1122_3344_5566_7788), rtp_timestamp: 0x99, packets: 3, octets: 4 };

#[test]
fn sender_report_bytes() {
    let mut out = [0xff; 64];
    let len = write_sender_report(&mut out, Ssrc(0xdead_beef), &INFO, &[BLOCK]).unwrap();
    #[rustfmt::skip]
    let expected = [
        0x81, 200, 0, 12,  0xde, 0xad, 0xbe, 0xef,
        0x11, 0x22, 0x33, 0x44,  0x55, 0x66, 0x77, 0x88,  0, 0, 0, 0x99,  0, 0, 0, 3,  0, 0, 0, 4,
        1, 2, 3, 4,  0x80, 0xff, 0xff, 0xfe,  0, 1, 0xff, 0xff,  0, 0, 0, 9,  0xaa, 0xbb, 0xcc, 0xdd,  0, 1, 0, 0,
    ];
    assert_eq!(out[..len], expected);
    let report = only!(&out[..len], SenderReport);
    assert_eq!((report.ssrc, report.info), (Ssrc(0xdead_beef), INFO));
    assert_eq!(report.blocks().collect::<Vec<_>>(), [BLOCK]);
}

#[test]
fn receiver_report_skips_profile_extensions() {
    let bytes = [0x80, 201, 0, 2, 0, 0, 0, 1, 9, 9, 9, 9];
    let report = only!(&bytes, ReceiverReport);
    assert_eq!((report.ssrc, report.blocks().len()), (Ssrc(1), 0));
    let mut out = [0; 8];
    assert_eq!(write_receiver_report(&mut out, Ssrc(1), &[]), Ok(8));
    assert_eq!(out, [0x80, 201, 0, 1, 0, 0, 0, 1]);
}

#[test]
fn cumulative_loss_is_clamped_to_24_bits() {
    for (given, read_back) in
        [(0x80_0000, 0x7f_ffff), (i32::MIN, -0x80_0000), (-1, -1), (0x7f_ffff, 0x7f_ffff)]
    {
        let mut out = [0; 64];
        let block = ReportBlock { cumulative_lost: given, ..BLOCK };
        let len = write_receiver_report(&mut out, Ssrc(1), &[block]).unwrap();
        let report = only!(&out[..len], ReceiverReport);
        assert_eq!(report.blocks().next().unwrap().cumulative_lost, read_back, "{given}");
    }
}

#[test]
fn too_many_report_blocks() {
    let mut out = [0; 2048];
    assert!(write_receiver_report(&mut out, Ssrc(1), &[BLOCK; 31]).is_ok());
    assert_eq!(write_receiver_report(&mut out, Ssrc(1), &[BLOCK; 32]), Err(WriteError::OutOfRange));
    assert_eq!(write_sender_report(&mut out, Ssrc(1), &INFO, &[BLOCK; 32]), Err(WriteError::OutOfRange));
}

#[test]
fn sdes_bytes() {
    // The end mark always takes at least one byte: three letters leave room for it within the word, two do not need more.
    for (name, words) in [("", 2), ("a", 2), ("ab", 3), ("abcde", 3), ("abcdef", 4)] {
        let mut out = [0xff; 32];
        let len = write_sdes_cname(&mut out, Ssrc(7), name).unwrap();
        assert_eq!(len, 4 + 4 * words, "{name}");
        let sdes = only!(&out[..len], Sdes);
        let chunks: Vec<_> = sdes.chunks().collect();
        assert_eq!(chunks.len(), 1);
        assert_eq!((chunks[0].ssrc, chunks[0].cname()), (Ssrc(7), Some(name.as_bytes())));
    }
    assert_eq!(write_sdes_cname(&mut [0; 512], Ssrc(7), &"x".repeat(256)), Err(WriteError::OutOfRange));
}

#[test]
fn sdes_with_several_sources_and_items() {
    #[rustfmt::skip]
    let bytes = [
        0x82, 202, 0, 6,
        0, 0, 0, 1,  2, 1, b'n', 1,  2, b'c', b'd', 0,
        0, 0, 0, 2,  1, 0, 0, 0,  0, 0, 0, 0,
    ];
    let sdes = only!(&bytes, Sdes);
    let chunks: Vec<_> = sdes.chunks().collect();
    assert_eq!(chunks.iter().map(|c| c.ssrc.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(chunks[0].items().collect::<Vec<_>>(), [(2, &b"n"[..]), (1, b"cd")]);
    assert_eq!(chunks[1].cname(), Some(&b""[..]));
}

#[test]
fn torn_sdes_is_refused() {
    for bytes in [
        &[0x81, 202, 0, 0][..],
        &[0x81, 202, 0, 1, 0, 0, 0, 1],
        // An item that reaches over the end, and one that fills the packet without an end mark.
        &[0x81, 202, 0, 2, 0, 0, 0, 1, 1, 9, b'x', 0],
        &[0x81, 202, 0, 2, 0, 0, 0, 1, 1, 2, b'x', b'y'],
        &[0x82, 202, 0, 2, 0, 0, 0, 1, 1, 1, b'x', 0],
    ] {
        assert_eq!(read(bytes).err(), Some(DropReason::RtcpMalformed), "{bytes:?}");
    }
}

#[test]
fn bye_bytes() {
    let mut out = [0xff; 32];
    let len = write_bye(&mut out, &[Ssrc(1), Ssrc(2)], "gone").unwrap();
    assert_eq!(out[..len], [0x82, 203, 0, 4, 0, 0, 0, 1, 0, 0, 0, 2, 4, b'g', b'o', b'n', b'e', 0, 0, 0]);
    let bye = only!(&out[..len], Bye);
    assert_eq!(bye.sources().collect::<Vec<_>>(), [Ssrc(1), Ssrc(2)]);
    assert_eq!(bye.reason(), Some(&b"gone"[..]));

    assert_eq!(write_bye(&mut out, &[], ""), Ok(4));
    assert_eq!(only!(&out[..4], Bye).reason(), None);
    assert_eq!(write_bye(&mut [0; 256], &[Ssrc(1); 32], ""), Err(WriteError::OutOfRange));
    for torn in [&[0x81, 203, 0, 0][..], &[0x80, 203, 0, 1, 4, 0, 0, 0]] {
        assert_eq!(read(torn).err(), Some(DropReason::RtcpMalformed), "{torn:?}");
    }
}

#[test]
fn nack_pairs() {
    let cases: &[(&[u16], &[[u8; 4]])] = &[
        (&[5], &[[0, 5, 0, 0]]),
        (&[5, 6, 21], &[[0, 5, 0x80, 1]]),
        (&[5, 22], &[[0, 5, 0, 0], [0, 22, 0, 0]]),
        (&[5, 5, 6], &[[0, 5, 0, 1]]),
        (&[0xfffe, 0xffff, 0, 14], &[[0xff, 0xfe, 0x80, 3]]),
        (&[0xffff, 16], &[[0xff, 0xff, 0, 0], [0, 16, 0, 0]]),
    ];
    for (lost, pairs) in cases {
        let mut out = [0xff; 64];
        let len = write_nack(&mut out, Ssrc(1), Ssrc(2), lost.iter().copied().map(SeqNo)).unwrap();
        assert_eq!(out[..12], [0x81, 205, 0, 2 + pairs.len() as u8, 0, 0, 0, 1, 0, 0, 0, 2], "{lost:?}");
        assert_eq!(out[12..len], pairs.concat(), "{lost:?}");
        let mut expected = lost.to_vec();
        expected.dedup();
        let nack = only!(&out[..len], Nack);
        assert_eq!(nack.lost().map(|seq| seq.0).collect::<Vec<_>>(), expected);
    }
    assert_eq!(write_nack(&mut [0; 64], Ssrc(1), Ssrc(2), []), Err(WriteError::OutOfRange));
}

#[test]
fn pli_and_fir_bytes() {
    let mut out = [0xff; 32];
    assert_eq!(write_pli(&mut out, Ssrc(1), Ssrc(2)), Ok(12));
    assert_eq!(out[..12], [0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2]);
    assert_eq!(only!(&out[..12], Pli), Pli { sender: Ssrc(1), media: Ssrc(2) });

    let entries = [FirEntry { media: Ssrc(3), command: 7 }];
    assert_eq!(write_fir(&mut out, Ssrc(1), &entries), Ok(20));
    assert_eq!(out[..20], [0x84, 206, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3, 7, 0, 0, 0]);
    assert_eq!(only!(&out[..20], Fir).entries().collect::<Vec<_>>(), entries);
    assert_eq!(write_fir(&mut out, Ssrc(1), &[]), Err(WriteError::OutOfRange));
}

#[test]
fn remb_bytes() {
    let mut out = [0xff; 32];
    // 8_927_168 = 139_487 << 6.
    let len = write_remb(&mut out, Ssrc(1), 8_927_168, &[Ssrc(2)]).unwrap();
    let expected =
        [0x8f, 206, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, b'R', b'E', b'M', b'B', 1, 0x1a, 0x20, 0xdf, 0, 0, 0, 2];
    assert_eq!(out[..len], expected);
    let remb = only!(&out[..len], Remb);
    assert_eq!((remb.sender, remb.bitrate_bps), (Ssrc(1), 8_927_168));
    assert_eq!(remb.sources().collect::<Vec<_>>(), [Ssrc(2)]);

    // A mantissa shifted out of 64 bits, a source that is not there, and another application's message.
    out[17..20].copy_from_slice(&[0xff; 3]);
    assert_eq!(only!(&out[..len], Remb).bitrate_bps, u64::MAX);
    out[16] = 2;
    assert_eq!(read(&out[..len]).err(), Some(DropReason::RtcpMalformed));
    out[12] = b'X';
    assert_eq!(only!(&out[..len], Other).packet_type, 206);
}

#[test]
fn the_walk_refuses_lengths_that_do_not_add_up() {
    let cases: &[(&[u8], Result<usize, DropReason>)] = &[
        (&[], Err(DropReason::TooShort)),
        (&[0x80, 201, 0], Err(DropReason::TooShort)),
        (&[0x80, 203, 0, 0], Ok(1)),
        (&[0x80, 203, 0, 0, 0x80], Err(DropReason::RtcpMalformed)),
        (&[0x80, 203, 0, 1], Err(DropReason::RtcpMalformed)),
        (&[0x40, 203, 0, 0], Err(DropReason::RtcpMalformed)),
        (&[0xc0, 203, 0, 0], Err(DropReason::RtcpMalformed)),
        (&[0x80, 203, 0, 0, 0x80, 203, 0, 0], Ok(2)),
        // Padding: none there, zero, more than the body, all of the body.
        (&[0xa0, 203, 0, 0], Err(DropReason::RtcpMalformed)),
        (&[0xa0, 203, 0, 1, 0, 0, 0, 0], Err(DropReason::RtcpMalformed)),
        (&[0xa0, 203, 0, 1, 0, 0, 0, 5], Err(DropReason::RtcpMalformed)),
        (&[0xa0, 203, 0, 1, 0, 0, 0, 4], Ok(1)),
    ];
    for (bytes, expected) in cases {
        let packets = Compound::parse(bytes).map(|compound| compound.packets().count());
        assert_eq!(packets, *expected, "{bytes:x?}");
    }
}

#[test]
fn a_body_that_contradicts_its_type_spares_the_next() {
    let bytes = [0x81, 201, 0, 1, 0, 0, 0, 1, 0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
    let compound = Compound::parse(&bytes).unwrap();
    let mut messages = compound.messages();
    assert_eq!(messages.next().unwrap().err(), Some(DropReason::RtcpMalformed));
    assert!(matches!(messages.next(), Some(Ok(Message::Pli(_)))));
}

#[test]
fn writers_refuse_small_buffers() {
    type Writer = fn(&mut [u8]) -> Result<usize, WriteError>;
    let writers: &[Writer] = &[
        |out| write_sender_report(out, Ssrc(1), &INFO, &[BLOCK]),
        |out| write_receiver_report(out, Ssrc(1), &[BLOCK]),
        |out| write_sdes_cname(out, Ssrc(1), "name"),
        |out| write_bye(out, &[Ssrc(1)], "why"),
        |out| write_nack(out, Ssrc(1), Ssrc(2), [SeqNo(1), SeqNo(100)]),
        |out| write_pli(out, Ssrc(1), Ssrc(2)),
        |out| write_fir(out, Ssrc(1), &[FirEntry { media: Ssrc(2), command: 3 }]),
        |out| write_remb(out, Ssrc(1), 1_000_000, &[Ssrc(2)]),
    ];
    for (i, write) in writers.iter().enumerate() {
        let mut out = [0; 256];
        let len = write(&mut out).unwrap();
        assert_eq!(write(&mut out[..len]), Ok(len), "writer {i}");
        for short in 0..len {
            assert_eq!(write(&mut out[..short]), Err(WriteError::NoSpace), "writer {i}, {short} of {len}");
        }
    }
}

#[test]
fn compound_writer_keeps_whole_messages_only() {
    let mut out = [0; 24];
    let mut compound = CompoundWriter::new(&mut out);
    assert!(compound.is_empty());
    compound.push(|out| write_receiver_report(out, Ssrc(1), &[])).unwrap();
    assert_eq!(compound.push(|out| write_remb(out, Ssrc(1), 1, &[])), Err(WriteError::NoSpace));
    compound.push(|out| write_pli(out, Ssrc(1), Ssrc(2))).unwrap();
    let len = compound.len();
    assert_eq!(len, 20);
    assert_eq!(Compound::parse(&out[..len]).unwrap().packets().count(), 2);
}

proptest! {
    #[test]
    fn nack_round_trip(mut lost in prop::collection::vec(any::<u16>(), 1..80), dense: bool) {
        if dense {
            lost.iter_mut().for_each(|seq| *seq = (*seq % 200).wrapping_sub(100));
        }
        let mut out = [0; 512];
        let len = write_nack(&mut out, Ssrc(1), Ssrc(2), lost.iter().copied().map(SeqNo)).unwrap();
        let mut read: Vec<_> = only!(&out[..len], Nack).lost().map(|seq| seq.0).collect();
        read.sort_unstable();
        read.dedup();
        lost.sort_unstable();
        lost.dedup();
        prop_assert_eq!(read, lost);
    }

    #[test]
    fn remb_keeps_18_significant_bits(bitrate: u64, sources in prop::collection::vec(any::<u32>(), 0..256)) {
        let sources: Vec<_> = sources.into_iter().map(Ssrc).collect();
        let mut out = [0; 2048];
        let len = write_remb(&mut out, Ssrc(1), bitrate, &sources).unwrap();
        let remb = only!(&out[..len], Remb);
        prop_assert!(remb.bitrate_bps <= bitrate);
        prop_assert!(bitrate - remb.bitrate_bps <= bitrate >> 17);
        prop_assert_eq!(remb.sources().collect::<Vec<_>>(), sources);
    }

    /// Any bytes: no panic, and what the views yield is bounded by the bytes that are there.
    #[test]
    fn any_bytes_are_walked_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 4..200), kind in 200u8..208,
                                       count in 0u8..32) {
        // A header that holds, so that the bodies are reached.
        let words = (bytes.len() / 4 - 1) as u16;
        bytes.truncate(4 * (usize::from(words) + 1));
        bytes[..4].copy_from_slice(&[0x80 | count, kind, (words >> 8) as u8, words as u8]);
        if kind == 206 && count == 15 && bytes.len() >= 16 {
            bytes[12..16].copy_from_slice(b"REMB");
        }
        let items = match read(&bytes) {
            Err(reason) => { prop_assert_eq!(reason, DropReason::RtcpMalformed); 0 }
            Ok(Message::SenderReport(m)) => m.blocks().count(),
            Ok(Message::ReceiverReport(m)) => m.blocks().count(),
            Ok(Message::Sdes(m)) => m.chunks().map(|c| c.items().count() + c.cname().map_or(0, |n| n.len())).sum(),
            Ok(Message::Bye(m)) => m.sources().count() + m.reason().map_or(0, |r| r.len()),
            Ok(Message::Nack(m)) => m.lost().count() / 17,
            Ok(Message::Twcc(m)) => m.arrivals().count(),
            Ok(Message::Pli(_)) => 0,
            Ok(Message::Fir(m)) => m.entries().count(),
            Ok(Message::Remb(m)) => m.sources().count(),
            Ok(Message::Other(m)) => m.body.len(),
        };
        prop_assert!(items <= bytes.len());
    }

    #[test]
    fn any_bytes_at_all(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(compound) = Compound::parse(&bytes) {
            prop_assert!(compound.packets().count() > 0);
            let total: usize = compound.packets().map(|p| HEADER_BYTES + p.body.len()).sum();
            prop_assert!(total <= bytes.len());
            prop_assert_eq!(compound.messages().count(), compound.packets().count());
        }
    }
}
