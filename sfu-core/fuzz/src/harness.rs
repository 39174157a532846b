//! One function per fuzz target: a datagram in, panics out.
//!
//! Also compiled into `sfu-core/tests/fuzz_seeds.rs`, so it may use `sfu_core`'s public items and `std` only, and the
//! simulated network of `sfu-core/tests/sim/support`.

use sfu_core::control::{proto::error_code, rpc as control_rpc};
use sfu_core::crypto::dtls::{MIN_POLL_BYTES, plausible};
use sfu_core::crypto::{Dtls, DtlsEndpoint, DtlsOutput, MasterKey, Role, SrtpProfile, SrtpRx, SrtpTx};
use sfu_core::drop_reason::DropReason;
use sfu_core::ids::{ExtSeq, Ssrc};
use sfu_core::time::Timestamp;
use sfu_core::wire::demux::{Protocol, classify};
use sfu_core::wire::payload::{VideoFormat, vp8, vp9};
use sfu_core::wire::rtcp::{self, Compound, CompoundWriter, Message};
use sfu_core::wire::rtp::RtpHeader;
use sfu_core::wire::rtp_ext::{self, ExtWriter, Form};
use sfu_core::wire::stun::{self, client};

use crate::support::ms;
use crate::support::peer::{NODE, certificate, epoch};

/// Takes one datagram, and panics when something does not hold.
pub type Target = fn(&[u8]);

/// Every target: its name, which is also that of its seed folder, and its function.
pub const TARGETS: &[(&str, Target)] = &[
    ("demux", demux),
    ("stun", stun),
    ("rtp", rtp),
    ("rtp_ext", rtp_ext),
    ("rtcp", rtcp),
    ("payload", payload),
    ("srtp", srtp),
    ("dtls", dtls),
    ("rpc", rpc),
    ("shard_ops", shard_ops),
];

/// The password of RFC 5769's vectors, so that seeds can carry a right seal.
const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";

/// The way of a datagram: to the parser that its first bytes name.
pub fn demux(data: &[u8]) {
    match classify(data) {
        Protocol::Stun => stun(data),
        Protocol::Rtp => {
            rtp(data);
            rtp_ext(data);
        }
        Protocol::Rtcp => rtcp(data),
        Protocol::Dtls => dtls(data),
        Protocol::Unknown => {}
    }
}

/// A request is peeked at, verified and answered; the client reads the answer, and the bytes themselves as an answer.
pub fn stun(data: &[u8]) {
    let peeked = stun::peek_username(data);
    let mut out = [0; 512];
    match stun::parse_request(data, PASSWORD) {
        Ok(request) => {
            assert_eq!(peeked, Some((request.local_ufrag, request.remote_ufrag)));
            let mapped = ([192, 0, 2, 1], 9).into();
            let len = stun::write_success(&mut out, request.transaction, mapped, PASSWORD)
                .expect("512 bytes hold a response");
            let expected = client::Response::Success { transaction: request.transaction, mapped };
            assert_eq!(client::parse_response(&out[..len], PASSWORD), Some(expected));
            let error = stun::ErrorResponse::UnknownAttribute(request.unknown.as_slice());
            let len = stun::write_error(&mut out, request.transaction, error, Some(PASSWORD))
                .expect("512 bytes hold a response");
            assert!(client::parse_response(&out[..len], PASSWORD).is_some());
        }
        Err(refused) => {
            let _ = refused.drop_reason();
        }
    }
    let _ = client::parse_response(data, PASSWORD);
}

/// A header is read, and the same header is written again.
pub fn rtp(data: &[u8]) {
    let Ok(header) = RtpHeader::parse(data) else { return };
    assert!(header.header_len <= data.len());
    if let Ok(payload) = header.payload(data) {
        assert!(header.header_len + payload.len() <= data.len());
        payload_of_any_format(payload);
    }
    let mut out = [0; 72];
    let csrcs = header.csrc_bytes(data);
    let len = header.fields().write(&mut out, csrcs).expect("72 bytes hold any header without extension");
    let again = RtpHeader::parse(&out[..len]).expect("just written");
    assert_eq!(again.fields(), header.fields());
    assert_eq!(again.csrc_bytes(&out), csrcs);
    assert_eq!(len, header.ext.map_or(header.header_len, |ext| usize::from(ext.start) - 4));
}

/// Extension elements are read, and a block of the same elements is written again.
pub fn rtp_ext(data: &[u8]) {
    let Ok(header) = RtpHeader::parse(data) else { return };
    let Some(form) = header.ext.and_then(|ext| Form::of_profile(ext.profile)) else {
        assert_eq!(rtp_ext::elements(&header, data).count(), 0);
        return;
    };
    let mut out = vec![0; data.len() + 8];
    let len = header.fields().write(&mut out, &[]).expect("there is room");
    let mut block = ExtWriter::new(&mut out, len, form).expect("a header was written");
    for (id, value) in rtp_ext::elements(&header, data) {
        assert!(form.fits(id, value.len()));
        block.push(id, value).expect("it fitted before");
        let _ = rtp_ext::AudioLevel::parse(value);
        let _ = (rtp_ext::transport_seq(value), rtp_ext::abs_send_time(value));
    }
    let len = block.finish().expect("it fitted before");
    let again = RtpHeader::parse(&out[..len]).expect("just written");
    assert!(rtp_ext::elements(&again, &out).eq(rtp_ext::elements(&header, data)));
}

/// Every packet of a compound is read, and written again where we have a writer.
pub fn rtcp(data: &[u8]) {
    let Ok(compound) = Compound::parse(data) else { return };
    assert_eq!(compound.messages().count(), compound.packets().count());
    for message in compound.messages().flatten() {
        let mut out = vec![0; 2 * data.len() + 64];
        let mut writer = CompoundWriter::new(&mut out);
        rewrite(&message, &mut writer);
        let len = writer.len();
        if len > 0 {
            let again = Compound::parse(&out[..len]).expect("just written");
            let again = again.messages().next().expect("one message").expect("just written");
            assert_eq!(summary(&again), summary(&message));
        }
    }
}

/// Writes `message` again; nothing where it cannot be written as it was read.
fn rewrite(message: &Message<'_>, writer: &mut CompoundWriter<'_>) {
    let written = writer.push(|out| match message {
        Message::SenderReport(m) => {
            rtcp::write_sender_report(out, m.ssrc, &m.info, &m.blocks().collect::<Vec<_>>())
        }
        Message::ReceiverReport(m) => {
            rtcp::write_receiver_report(out, m.ssrc, &m.blocks().collect::<Vec<_>>())
        }
        Message::Nack(m) if m.lost().next().is_some() => rtcp::write_nack(
            out,
            m.sender,
            m.media,
            sorted(m.lost().map(|seq| seq.0)).into_iter().map(sfu_core::ids::SeqNo),
        ),
        Message::Pli(m) => rtcp::write_pli(out, m.sender, m.media),
        Message::Fir(m) if m.entries().len() > 0 => {
            rtcp::write_fir(out, m.sender, &m.entries().collect::<Vec<_>>())
        }
        Message::Remb(m) => rtcp::write_remb(out, m.sender, m.bitrate_bps, &m.sources().collect::<Vec<_>>()),
        Message::Bye(m) => rtcp::write_bye(out, &m.sources().collect::<Vec<_>>(), ""),
        Message::Twcc(m) => rewrite_twcc(m, out),
        _ => Ok(0),
    });
    // A TWCC message of ours may take more chunks than the one it was read from.
    assert!(written.is_ok() || matches!(message, Message::Twcc(_)), "{message:?}");
}

/// Writes the same arrivals. The reporter's clock may be negative here and ours not, so times are moved by whole
/// reference units; a message whose last packets did not arrive cannot be written by us and is left out.
fn rewrite_twcc(message: &rtcp::Twcc<'_>, out: &mut [u8]) -> Result<usize, sfu_core::wire::WriteError> {
    const UNIT_US: i64 = 64_000;
    let base = ExtSeq(u64::from(message.base.0));
    let moved_us = (1 << 24) * UNIT_US;
    let arrivals: Vec<_> = message
        .arrivals()
        .map(|a| {
            let seq = base.0 + u64::from(a.seq.0.wrapping_sub(message.base.0));
            (ExtSeq(seq), Timestamp((a.time_us + moved_us) as u64 * 1000))
        })
        .collect();
    let Some((last, _)) = arrivals.last() else { return Ok(0) };
    if last.0 - base.0 + 1 != u64::from(message.status_count) {
        return Ok(0);
    }
    let head = rtcp::TwccFeedback {
        sender: message.sender,
        media: message.media,
        base,
        feedback_count: message.feedback_count,
    };
    let written = rtcp::write_twcc(out, &head, &arrivals)?;
    Ok(if written.arrivals == arrivals.len() { written.len } else { 0 })
}

/// What must survive reading, writing and reading again.
fn summary(message: &Message<'_>) -> (u8, Vec<u64>) {
    let ssrc = |ssrc: Ssrc| u64::from(ssrc.0);
    let block = |b: rtcp::ReportBlock| {
        let loss = (b.cumulative_lost as u32 as u64) << 8 | u64::from(b.fraction_lost);
        [
            ssrc(b.ssrc),
            loss,
            b.highest_seq.into(),
            b.jitter.into(),
            b.last_sr.into(),
            b.delay_since_last_sr.into(),
        ]
    };
    match message {
        Message::SenderReport(m) => {
            let info = [
                ssrc(m.ssrc),
                m.info.ntp.0,
                m.info.rtp_timestamp.into(),
                m.info.packets.into(),
                m.info.octets.into(),
            ];
            (0, info.into_iter().chain(m.blocks().flat_map(block)).collect())
        }
        Message::ReceiverReport(m) => {
            (1, [ssrc(m.ssrc)].into_iter().chain(m.blocks().flat_map(block)).collect())
        }
        Message::Nack(m) => {
            let lost = sorted(m.lost().map(|seq| seq.0)).into_iter().map(u64::from);
            (2, [ssrc(m.sender), ssrc(m.media)].into_iter().chain(lost).collect())
        }
        Message::Pli(m) => (3, vec![ssrc(m.sender), ssrc(m.media)]),
        Message::Fir(m) => {
            let entries = m.entries().flat_map(|e| [ssrc(e.media), e.command.into()]);
            (4, [ssrc(m.sender)].into_iter().chain(entries).collect())
        }
        Message::Remb(m) => {
            (5, [ssrc(m.sender), capped(m.bitrate_bps)].into_iter().chain(m.sources().map(ssrc)).collect())
        }
        Message::Bye(m) => (6, m.sources().map(ssrc).collect()),
        Message::Twcc(m) => {
            let arrivals: Vec<_> = m.arrivals().collect();
            let first_us = arrivals.first().map_or(0, |a| a.time_us);
            // Only distances: our clock starts elsewhere.
            let arrivals = arrivals.iter().flat_map(|a| [u64::from(a.seq.0), (a.time_us - first_us) as u64]);
            let head = [ssrc(m.sender), ssrc(m.media), m.base.0.into(), m.feedback_count.into()];
            (7, head.into_iter().chain(arrivals).collect())
        }
        Message::Sdes(_) | Message::Other(_) => (8, Vec::new()),
    }
}

/// A bitrate that does not fit 64 bits is read as the largest, which is written with 18 bits again.
fn capped(bitrate_bps: u64) -> u64 {
    bitrate_bps.min(0x3_ffff << 46)
}

fn sorted(seqs: impl Iterator<Item = u16>) -> Vec<u16> {
    let mut seqs: Vec<_> = seqs.collect();
    seqs.sort_unstable();
    seqs.dedup();
    seqs
}

/// Every format reads the same payload.
pub fn payload(data: &[u8]) {
    payload_of_any_format(data);
}

fn payload_of_any_format(payload: &[u8]) {
    for format in [VideoFormat::Vp8, VideoFormat::Vp9, VideoFormat::H264, VideoFormat::Av1] {
        assert!(!format.is_key_frame(payload) || format.starts_frame(payload));
    }
    if let Some(descriptor) = vp8::Descriptor::parse(payload) {
        assert!(descriptor.len <= payload.len());
        assert!(descriptor.tl0_pic_idx.is_none_or(|(value, at)| payload[at] == value));
    }
    if let Some(descriptor) = vp9::Descriptor::parse(payload) {
        assert!(descriptor.tl0_pic_idx.is_none_or(|(value, at)| payload[at] == value));
        assert!(descriptor.picture_id.is_none_or(|id| id.at < payload.len()));
    }
}

/// A profile byte and a packet: opened as it is, which must fail and change nothing; then sealed, opened, opened again,
/// and opened with a bit turned.
pub fn srtp(data: &[u8]) {
    let Some((&head, packet)) = data.split_first() else { return };
    let profile = SrtpProfile::ALL[usize::from(head) % SrtpProfile::ALL.len()];
    let key = MasterKey::new(profile, &vec![0x11; profile.key_len()], &vec![0x22; profile.salt_len()])
        .expect("of the profile's lengths");
    let (mut tx, mut rx) = (SrtpTx::new(profile, &key), SrtpRx::new(profile, &key));
    let mut bytes = packet.to_vec();
    if let Ok(header) = RtpHeader::parse(packet) {
        assert!(rx.unprotect_rtp(&mut bytes, header.header_len, header.ssrc, header.seq).is_err());
        assert_eq!(rx.streams(), 0);
    }
    let mut bytes = packet.to_vec();
    assert!(rx.unprotect_rtcp(&mut bytes).is_err());
    srtp_rtp(packet, head, &mut tx, &mut rx);
    srtp_rtcp(packet, head, &mut tx, &mut rx);
}

fn srtp_rtp(packet: &[u8], head: u8, tx: &mut SrtpTx, rx: &mut SrtpRx) {
    let Ok(header) = RtpHeader::parse(packet) else { return };
    let (plain, payload) = packet.split_at(header.header_len);
    // The first packet of a stream has a rollover count of zero.
    let index = ExtSeq(u64::from(header.seq.0));
    let mut sealed = vec![0; packet.len() + tx.rtp_overhead()];
    sealed[..plain.len()].copy_from_slice(plain);
    let len = tx.protect_rtp(&mut sealed, plain.len(), payload, header.ssrc, index);
    assert_eq!(len, sealed.len());
    let mut open = |mut bytes: Vec<u8>| {
        let header = RtpHeader::parse(&bytes)?;
        let (len, index) = rx.unprotect_rtp(&mut bytes, header.header_len, header.ssrc, header.seq)?;
        bytes.truncate(len);
        Ok((bytes, index))
    };
    assert!(open(turned(&sealed, head)).is_err());
    assert_eq!(open(sealed.clone()), Ok((packet.to_vec(), index)));
    assert_eq!(open(sealed), Err(DropReason::Replayed));
}

fn srtp_rtcp(packet: &[u8], head: u8, tx: &mut SrtpTx, rx: &mut SrtpRx) {
    if packet.len() < 8 {
        return;
    }
    let mut sealed = packet.to_vec();
    sealed.resize(packet.len() + tx.rtcp_overhead(), 0);
    let len = tx.protect_rtcp(&mut sealed, packet.len());
    assert_eq!(len, sealed.len());
    let mut open = |mut bytes: Vec<u8>| {
        let len = rx.unprotect_rtcp(&mut bytes)?;
        bytes.truncate(len);
        Ok(bytes)
    };
    assert!(open(turned(&sealed, head)).is_err());
    assert_eq!(open(sealed.clone()), Ok(packet.to_vec()));
    assert_eq!(open(sealed), Err(DropReason::Replayed));
}

/// The same with one bit turned, somewhere.
fn turned(bytes: &[u8], head: u8) -> Vec<u8> {
    let mut turned = bytes.to_vec();
    let at = usize::from(head).wrapping_mul(37) % bytes.len();
    turned[at] ^= 1 << (head >> 5);
    turned
}

/// Records are told from anything else as a plain reference does it; then both ends of a fresh association take the
/// datagram, and let time pass.
pub fn dtls(data: &[u8]) {
    assert_eq!(plausible(data), is_row_of_records(data));
    for role in [Role::Server, Role::Client] {
        let now = Timestamp::from_millis(1_000);
        let mut endpoint = Dtls::new(role, &certificate(NODE), epoch(), now);
        poll_dtls(&mut endpoint);
        // An association that came to its end is not used any more.
        if endpoint.handle_datagram(now, data).is_err() {
            continue;
        }
        poll_dtls(&mut endpoint);
        if endpoint.handle_timeout(now + ms(1_000)).is_ok() {
            poll_dtls(&mut endpoint);
        }
    }
}

fn poll_dtls(endpoint: &mut Dtls) {
    let mut buf = [0; MIN_POLL_BYTES];
    for _ in 0..64 {
        match endpoint.poll(&mut buf) {
            DtlsOutput::Datagram(len) => assert!(plausible(&buf[..len]), "what we send we would take"),
            DtlsOutput::Keys { .. } => panic!("keys without a handshake"),
            DtlsOutput::PeerCertificate(_) => {}
            DtlsOutput::Closed | DtlsOutput::Timeout(_) => return,
        }
    }
    panic!("output without end");
}

/// RFC 6347 §4.1, §4.2.2 and RFC 9147 §4 written down once more, byte by byte.
fn is_row_of_records(data: &[u8]) -> bool {
    let number = |at: usize, bytes: usize| {
        let field = data.get(at..at + bytes)?;
        Some(field.iter().fold(0, |value, byte| value * 256 + usize::from(*byte)))
    };
    let record = |at: usize| -> Option<usize> {
        let first = data[at];
        if first >> 4 == 0b0010 {
            let header = 1 + if first & 8 == 0 { 1 } else { 2 };
            return match first & 4 {
                0 => Some(data.len().max(at + header)),
                _ => Some(at + header + 2 + number(at + header, 2)?),
            };
        }
        let body = at + 13;
        let end = body + number(at + 11, 2)?;
        if !(20..=26).contains(&first) || data[at + 1] != 0xfe {
            return None;
        }
        match (number(at + 3, 2)?, first) {
            (0, 23) => None,
            (0, 22) => {
                let mut message = body;
                while message < end {
                    let (kind, total) = (number(message, 1)?, number(message + 1, 3)?);
                    let (offset, len) = (number(message + 6, 3)?, number(message + 9, 3)?);
                    message += 12 + len;
                    if kind > 20 || offset + len > total || message > end {
                        return None;
                    }
                }
                (body < end).then_some(end)
            }
            _ => Some(end),
        }
    };
    let mut at = 0;
    while at < data.len() {
        match record(at) {
            Some(end) if end <= data.len() => at = end,
            _ => return false,
        }
    }
    at > 0
}

/// A frame of the control protocol is read; the same request is written and read again, or a refusal is written.
pub fn rpc(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match control_rpc::parse(text) {
        Ok(call) => {
            assert!(call.id.is_number() || call.id.is_string());
            // An answer that repeats the request, without the braces around it, is the request's frame.
            let answer = control_rpc::result(&call.id, &call.request);
            let frame = answer.replacen("\"result\":{", "", 1);
            let again = control_rpc::parse(&frame[..frame.len() - 1]).expect("just written");
            assert_eq!(again.request, call.request);
        }
        Err((id, failure)) => {
            assert!([error_code::BAD_REQUEST, error_code::INVALID].contains(&failure.code));
            let answer = control_rpc::error(&id, &failure);
            let (echoed, _) = control_rpc::parse(&answer).expect_err("an answer is no request");
            assert!(id.is_null() || id.is_f64() || echoed == id);
        }
    }
}

/// One life of a shard, with peers around it; see `tests/sim/support/history.rs`.
pub fn shard_ops(data: &[u8]) {
    crate::support::history::run(data);
}
