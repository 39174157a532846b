//! Reading and writing RTP and RTCP allocates nothing: counted by the allocator of this test program.

mod counting;

use std::hint::black_box;

use sfu_core::ids::{ExtSeq, PayloadType, SeqNo, Ssrc};
use sfu_core::time::Timestamp;
use sfu_core::wire::demux::{Protocol, classify};
use sfu_core::wire::payload::VideoFormat;
use sfu_core::wire::rtcp::*;
use sfu_core::wire::rtp::{HeaderFields, RtpHeader};
use sfu_core::wire::rtp_ext::{ExtWriter, Form, elements};
use sfu_core::wire::{WriteError, stun};

/// How many allocations `work` makes on this thread.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = counting::allocations();
    work();
    counting::allocations() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(black_box(Box::new(1)))), 1);
}

#[test]
fn rtp_in_and_out() {
    let fields = HeaderFields {
        marker: true,
        padding: false,
        payload_type: PayloadType(96),
        seq: SeqNo(1),
        timestamp: 2,
        ssrc: Ssrc(3),
    };
    let mut packet = [0; 256];
    let mut seen = 0;
    let count = allocations(|| {
        let len = fields.write(&mut packet, &[0; 8]).unwrap();
        let mut block = ExtWriter::new(&mut packet, len, Form::OneByte).unwrap();
        block.push(1, &[0x85]).unwrap();
        block.push(3, &[0, 7]).unwrap();
        block.finish().unwrap();
        let header = RtpHeader::parse(&packet).unwrap();
        seen = elements(&header, &packet).count();
        let payload = header.payload(&packet).unwrap();
        for format in [VideoFormat::Vp8, VideoFormat::Vp9, VideoFormat::H264, VideoFormat::Av1] {
            black_box(format.is_key_frame(payload));
        }
    });
    assert_eq!((count, seen, classify(&packet)), (0, 2, Protocol::Rtp));
}

#[test]
fn rtcp_in_and_out() {
    let arrivals: Vec<_> = (0..100).map(|i| (ExtSeq(2 * i), Timestamp(1_000_000 * i))).collect();
    let twcc = TwccFeedback { sender: Ssrc(1), media: Ssrc(2), base: ExtSeq(0), feedback_count: 0 };
    let block = ReportBlock { ssrc: Ssrc(2), ..ReportBlock::default() };
    let mut datagram = [0; 1400];
    let mut read = (0, 0);
    let count = allocations(|| {
        let mut compound = CompoundWriter::new(&mut datagram);
        let written: Result<(), WriteError> = (|| {
            compound.push(|out| write_sender_report(out, Ssrc(1), &SenderInfo::default(), &[block; 31]))?;
            compound.push(|out| write_receiver_report(out, Ssrc(1), &[block]))?;
            compound.push(|out| write_sdes_cname(out, Ssrc(1), "name"))?;
            compound.push(|out| write_nack(out, Ssrc(1), Ssrc(2), (0..60).map(SeqNo)))?;
            compound.push(|out| write_pli(out, Ssrc(1), Ssrc(2)))?;
            compound.push(|out| write_fir(out, Ssrc(1), &[FirEntry { media: Ssrc(2), command: 1 }]))?;
            compound.push(|out| write_twcc(out, &twcc, &arrivals).map(|written| written.len))?;
            compound.push(|out| write_remb(out, Ssrc(1), 1_000_000, &[Ssrc(2)]))?;
            compound.push(|out| write_bye(out, &[Ssrc(1)], "done"))
        })();
        written.unwrap();
        let len = compound.len();
        for message in Compound::parse(&datagram[..len]).unwrap().messages() {
            read.0 += 1;
            read.1 += match message.unwrap() {
                Message::SenderReport(m) => m.blocks().count(),
                Message::ReceiverReport(m) => m.blocks().count(),
                Message::Sdes(m) => m.chunks().filter(|chunk| chunk.cname().is_some()).count(),
                Message::Nack(m) => m.lost().count(),
                Message::Fir(m) => m.entries().count(),
                Message::Twcc(m) => m.arrivals().count(),
                Message::Remb(m) => m.sources().count(),
                Message::Bye(m) => m.sources().count(),
                Message::Pli(_) | Message::Other(_) => 0,
            };
        }
    });
    assert_eq!(count, 0);
    assert_eq!(read, (9, 31 + 1 + 1 + 60 + 1 + 100 + 1 + 1));
}

#[test]
fn peeking_at_a_check() {
    let mut out = [0; 256];
    let check = stun::client::Check {
        transaction: stun::TransactionId([1; 12]),
        local_ufrag: "peer",
        remote_ufrag: "ours",
        priority: 1,
        role: stun::Role::Controlling(1),
        use_candidate: true,
    };
    let len = stun::client::write_request(&mut out, &check, "password").unwrap();
    let count = allocations(|| assert_eq!(stun::peek_username(&out[..len]), Some(("ours", "peer"))));
    assert_eq!(count, 0);
}
