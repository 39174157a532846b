//! The same bytes through `rtcp-types` and `rtcp`.
//!
//! `rtcp-types` gets any bytes. `rtcp` panics on some malformed input, so it only gets what our writers made.

use ::rtcp::payload_feedbacks::full_intra_request::FullIntraRequest;
use ::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use ::rtcp::payload_feedbacks::receiver_estimated_maximum_bitrate::ReceiverEstimatedMaximumBitrate;
use ::rtcp::transport_feedbacks::transport_layer_cc::TransportLayerCc;
use ::rtcp::transport_feedbacks::transport_layer_nack::TransportLayerNack;
use rtcp_types::prelude::*;
use webrtc_util::Unmarshal;

use super::twcc::any_arrivals;
use super::*;
use crate::wire::rtcp::twcc::{TwccFeedback, write_twcc};

/// Compares one message with what `rtcp-types` reads from the same packet.
fn agree(ours: &Message<'_>, theirs: &rtcp_types::Packet<'_>) {
    use rtcp_types::Packet as P;
    match (ours, theirs) {
        (Message::SenderReport(ours), P::Sr(theirs)) => {
            assert_eq!((ours.ssrc.0, ours.info.ntp.0), (theirs.ssrc(), theirs.ntp_timestamp()));
            assert_eq!(ours.info.rtp_timestamp, theirs.rtp_timestamp());
            assert_eq!((ours.info.packets, ours.info.octets), (theirs.packet_count(), theirs.octet_count()));
            assert_eq!(ours.blocks().len(), theirs.report_blocks().count());
            ours.blocks().zip(theirs.report_blocks()).for_each(|(ours, theirs)| same_block(ours, theirs));
        }
        (Message::ReceiverReport(ours), P::Rr(theirs)) => {
            assert_eq!(ours.ssrc.0, theirs.ssrc());
            assert_eq!(ours.blocks().len(), theirs.report_blocks().count());
            ours.blocks().zip(theirs.report_blocks()).for_each(|(ours, theirs)| same_block(ours, theirs));
        }
        (Message::Bye(ours), P::Bye(theirs)) => {
            assert!(ours.sources().map(|s| s.0).eq(theirs.ssrcs()));
        }
        (Message::Nack(ours), P::TransportFeedback(theirs)) => {
            assert_eq!((ours.sender.0, ours.media.0), (theirs.sender_ssrc(), theirs.media_ssrc()));
            // They refuse one that asks for nothing.
            match theirs.parse_fci::<rtcp_types::Nack<'_>>() {
                Ok(theirs) => assert!(ours.lost().map(|seq| seq.0).eq(theirs.entries())),
                Err(_) => assert_eq!(ours.lost().count(), 0),
            }
        }
        (Message::Twcc(ours), P::TransportFeedback(theirs)) => {
            let theirs = theirs.parse_fci::<rtcp_types::Twcc<'_>>().unwrap();
            same_twcc(ours, &theirs);
        }
        (Message::Pli(ours), P::PayloadFeedback(theirs)) => {
            assert_eq!((ours.sender.0, ours.media.0), (theirs.sender_ssrc(), theirs.media_ssrc()));
        }
        (Message::Fir(ours), P::PayloadFeedback(theirs)) => {
            let theirs = theirs.parse_fci::<rtcp_types::Fir<'_>>();
            // They refuse one that asks nobody.
            let theirs: Vec<_> = theirs
                .map_or_else(|_| Vec::new(), |fir| fir.entries().map(|e| (e.ssrc(), e.sequence())).collect());
            assert_eq!(ours.entries().map(|e| (e.media.0, e.command)).collect::<Vec<_>>(), theirs);
        }
        (Message::Sdes(ours), P::Sdes(theirs)) => {
            let ours: Vec<_> = ours.chunks().map(|c| (c.ssrc.0, c.items().collect::<Vec<_>>())).collect();
            let theirs: Vec<_> = theirs
                .chunks()
                .map(|c| (c.ssrc(), c.items().map(|i| (i.type_(), i.value())).collect::<Vec<_>>()))
                .collect();
            // They take a last chunk whose list of items does not end with a null (RFC 3550 §6.5), we do not.
            assert!(theirs.starts_with(&ours), "{ours:?} against {theirs:?}");
            assert!(theirs.len() - ours.len() <= 1, "{ours:?} against {theirs:?}");
        }
        (Message::Remb(_) | Message::Other(_), _) => {}
        (ours, theirs) => panic!("{ours:?} against {theirs:?}"),
    }
}

fn same_block(ours: ReportBlock, theirs: rtcp_types::ReportBlock<'_>) {
    assert_eq!((ours.ssrc.0, ours.fraction_lost), (theirs.ssrc(), theirs.fraction_lost()));
    assert_eq!(ours.cumulative_lost as u32 & 0xff_ffff, theirs.cumulative_lost());
    assert_eq!(
        (ours.highest_seq, ours.jitter),
        (theirs.extended_sequence_number(), theirs.interarrival_jitter())
    );
    assert_eq!(ours.last_sr, theirs.last_sender_report_timestamp());
    assert_eq!(ours.delay_since_last_sr, theirs.delay_since_last_sender_report_timestamp());
}

fn same_twcc(ours: &Twcc<'_>, theirs: &rtcp_types::Twcc<'_>) {
    assert_eq!(ours.base.0, theirs.base_sequence_number());
    assert_eq!(ours.reference_time as u32 & 0xff_ffff, theirs.reference_time());
    assert_eq!(ours.feedback_count, theirs.feedback_packet_count());
    let mut time_us = i64::from(ours.reference_time) * 64_000;
    let theirs: Vec<_> = theirs.packets().map(|p| p.expect("we accepted it")).collect();
    assert_eq!(theirs.len(), usize::from(ours.status_count));
    let theirs: Vec<_> = theirs
        .into_iter()
        .filter_map(|(seq, status)| match status {
            rtcp_types::TwccPacketStatus::NotReceived => None,
            rtcp_types::TwccPacketStatus::Received { delta } => {
                time_us += i64::from(delta) * 250;
                Some((seq, time_us))
            }
        })
        .collect();
    assert_eq!(ours.arrivals().map(|a| (a.seq.0, a.time_us)).collect::<Vec<_>>(), theirs);
}

/// One valid message of any family.
fn any_message() -> impl Strategy<Value = Vec<u8>> {
    fn written(write: impl FnOnce(&mut [u8]) -> Result<usize, WriteError>) -> Vec<u8> {
        let mut out = vec![0xff; 4096];
        let len = write(&mut out).expect("there is room");
        out.truncate(len);
        out
    }
    let block = any::<[u32; 6]>().prop_map(|[ssrc, loss, highest_seq, jitter, last_sr, delay]| ReportBlock {
        ssrc: Ssrc(ssrc),
        fraction_lost: loss as u8,
        cumulative_lost: (loss as i32) >> 8,
        highest_seq,
        jitter,
        last_sr,
        delay_since_last_sr: delay,
    });
    let blocks = prop::collection::vec(block, 0..32);
    let ssrcs = prop::collection::vec(any::<u32>().prop_map(Ssrc), 1..32);
    prop_oneof![
        (any::<(u32, u64, u32, u32, u32)>(), blocks.clone()).prop_map(
            |((s, ntp, rtp, packets, octets), blocks)| {
                let info = SenderInfo { ntp: NtpTime(ntp), rtp_timestamp: rtp, packets, octets };
                written(|out| write_sender_report(out, Ssrc(s), &info, &blocks))
            }
        ),
        (any::<u32>(), blocks).prop_map(|(s, blocks)| written(|out| write_receiver_report(
            out,
            Ssrc(s),
            &blocks
        ))),
        (any::<u32>(), "[a-z]{1,40}").prop_map(|(s, name)| written(|out| write_sdes_cname(
            out,
            Ssrc(s),
            &name
        ))),
        (ssrcs.clone(), "[a-z]{0,40}").prop_map(|(list, why)| written(|out| write_bye(out, &list, &why))),
        (any::<[u32; 2]>(), prop::collection::btree_set(0u16..300, 1..60)).prop_map(|([s, m], lost)| {
            written(|out| write_nack(out, Ssrc(s), Ssrc(m), lost.into_iter().map(SeqNo)))
        }),
        any::<[u32; 2]>().prop_map(|[s, m]| written(|out| write_pli(out, Ssrc(s), Ssrc(m)))),
        (any::<u32>(), ssrcs.clone()).prop_map(|(s, list)| {
            let entries: Vec<_> =
                list.into_iter().map(|media| FirEntry { media, command: media.0 as u8 }).collect();
            written(|out| write_fir(out, Ssrc(s), &entries))
        }),
        (any::<(u32, u64)>(), ssrcs).prop_map(|((s, bps), list)| written(|out| write_remb(
            out,
            Ssrc(s),
            bps,
            &list
        ))),
        any_arrivals().prop_map(|(base, list)| {
            let head = TwccFeedback {
                sender: Ssrc(1),
                media: Ssrc(2),
                base: crate::ids::ExtSeq(base),
                feedback_count: 3,
            };
            written(|out| write_twcc(out, &head, &list).map(|written| written.len))
        }),
    ]
}

/// `rtcp-types` refuses padding it finds in the middle, and reads it as content of feedback messages: leave it out.
fn padded(bytes: &[u8]) -> bool {
    bytes[0] & PADDING_BIT != 0
}

/// RFC 4585 §6.2.1 and RFC 5104 §4.3.1 want at least one entry; a message without any asks for nothing.
#[test]
fn rtcp_types_refuses_requests_without_entries_and_we_take_them_as_nothing() {
    for first in [[0x81, 205], [0x84, 206]] {
        let bytes = [&first[..], &[0, 2], &[0; 8]].concat();
        let compound = Compound::parse(&bytes).expect("a whole packet");
        let packet = compound.packets().next().expect("one packet");
        let (ours, theirs) =
            (packet.message().expect("ours"), rtcp_types::Packet::parse(&bytes).expect("theirs"));
        agree(&ours, &theirs);
    }
}

proptest! {
    #[test]
    fn rtcp_types_reads_what_we_write(list in prop::collection::vec(any_message(), 1..4)) {
        for bytes in &list {
            let ours = read(bytes).unwrap();
            agree(&ours, &rtcp_types::Packet::parse(bytes).unwrap());
        }
        let unpadded: Vec<u8> = list.iter().filter(|bytes| !padded(bytes)).flatten().copied().collect();
        if let (Ok(ours), Ok(theirs)) = (Compound::parse(&unpadded), rtcp_types::Compound::parse(&unpadded)) {
            let theirs: Vec<_> = theirs.map(|packet| packet.unwrap()).collect();
            prop_assert_eq!(ours.packets().count(), theirs.len());
            for (ours, theirs) in ours.messages().zip(&theirs) {
                agree(&ours.unwrap(), theirs);
            }
        }
    }

    /// What both accept after a few bytes were changed, both read alike.
    #[test]
    fn rtcp_types_agrees_on_mangled_messages(mut bytes in any_message(),
                                             edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let Ok(compound) = Compound::parse(&bytes) else { return Ok(()) };
        for packet in compound.packets() {
            if padded(&bytes) {
                continue;
            }
            let whole = whole_packet(&bytes, packet);
            if let (Ok(ours), Ok(theirs)) = (packet.message(), rtcp_types::Packet::parse(whole)) {
                // They count reserved TWCC symbols behind the last status as packets, and take odd FCI lengths.
                agree(&ours, &theirs);
            }
        }
    }

    #[test]
    fn rtcp_reads_what_we_write(bytes in any_message()) {
        let mut raw = &bytes[..];
        match read(&bytes).unwrap() {
            Message::Nack(ours) => {
                let theirs = TransportLayerNack::unmarshal(&mut raw).unwrap();
                let lost: Vec<_> = theirs.nacks.iter().flat_map(|pair| pair.packet_list()).collect();
                prop_assert_eq!(ours.lost().map(|seq| seq.0).collect::<Vec<_>>(), lost);
            }
            Message::Twcc(ours) => {
                let theirs = TransportLayerCc::unmarshal(&mut raw).unwrap();
                prop_assert_eq!(ours.status_count, theirs.packet_status_count);
                prop_assert_eq!(ours.base.0, theirs.base_sequence_number);
                let mut time_us = i64::from(ours.reference_time) * 64_000;
                let arrivals: Vec<_> = ours.arrivals().collect();
                prop_assert_eq!(arrivals.len(), theirs.recv_deltas.len());
                for (ours, theirs) in arrivals.iter().zip(&theirs.recv_deltas) {
                    time_us += theirs.delta;
                    prop_assert_eq!(ours.time_us, time_us);
                }
            }
            Message::Pli(ours) => {
                let theirs = PictureLossIndication::unmarshal(&mut raw).unwrap();
                prop_assert_eq!((ours.sender.0, ours.media.0), (theirs.sender_ssrc, theirs.media_ssrc));
            }
            Message::Fir(ours) => {
                let theirs = FullIntraRequest::unmarshal(&mut raw).unwrap();
                let theirs: Vec<_> = theirs.fir.iter().map(|e| (e.ssrc, e.sequence_number)).collect();
                prop_assert_eq!(ours.entries().map(|e| (e.media.0, e.command)).collect::<Vec<_>>(), theirs);
            }
            Message::Remb(ours) => {
                let theirs = ReceiverEstimatedMaximumBitrate::unmarshal(&mut raw).unwrap();
                prop_assert_eq!(ours.bitrate_bps as f32, theirs.bitrate);
                prop_assert_eq!(ours.sources().map(|s| s.0).collect::<Vec<_>>(), theirs.ssrcs);
            }
            _ => {}
        }
    }
}

/// The bytes of `packet` with its header, found by where its body lies in `bytes`.
fn whole_packet<'a>(bytes: &'a [u8], packet: Packet<'_>) -> &'a [u8] {
    let body = packet.body.as_ptr().addr() - bytes.as_ptr().addr();
    &bytes[body - HEADER_BYTES..body + packet.body.len()]
}
