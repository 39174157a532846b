//! The sending side of a light client: the clip as RTP, paced as a browser's camera and microphone would, and its reports.

use std::sync::Arc;

use super::rtcp::{self, Item, SenderInfo};
use super::rtp::{self, Extension, Header, VP8_DESCRIPTOR};
use super::sdp::{Kind, Remote, Section, Ssrcs, extension};
use super::srtp::Srtp;
use super::stats::Stats;
use super::units::{SendLog, Units};
use crate::media::VideoCursor;

/// Sent video packets that can be repeated, a power of two: 3 s of the clip.
const HISTORY: usize = 512;
/// Packets that carry the MID extension, until the other side surely knows the SSRC.
const PACKETS_WITH_MID: u64 = 150;
/// RTP ticks of 20 ms of Opus.
const OPUS_TICKS: u32 = 960;
const VIDEO_CLOCK: u32 = 90_000;
/// Seconds from 1900 to 1970.
const NTP_EPOCH: u64 = 2_208_988_800;
/// Audio level of the extension: voice, -30 dBov.
const AUDIO_LEVEL: u8 = 0x80 | 30;

/// One m-line as negotiated.
struct Line {
    ssrc: u32,
    payload_type: u8,
    mid: Vec<u8>,
    mid_id: Option<u8>,
    abs_send_time_id: Option<u8>,
    transport_cc_id: Option<u8>,
    audio_level_id: Option<u8>,
    /// Index of the next packet; its low 16 bits are the sequence number.
    index: u64,
    first_index: u64,
    timestamp: u32,
    packets: u32,
    octets: u32,
}

/// A video packet as it was sent; enough to make the same bytes again.
#[derive(Clone, Copy, Default)]
struct Sent {
    index: u64,
    frame: usize,
    fragment: usize,
    timestamp: u32,
    picture: u16,
    transport_cc: u16,
    abs_send_time: u32,
}

/// Sender of one audio and one video track.
pub(crate) struct Publisher {
    units: Arc<Units>,
    log: Arc<SendLog>,
    audio: Line,
    video: Line,
    rtx: Option<(u32, u8)>,
    rtx_index: u64,
    cursor: VideoCursor,
    next_audio: usize,
    picture: u16,
    transport_cc: u16,
    history: Box<[Sent]>,
}

/// Packets ready to be sent, one after the other, and the lengths of runs of equal size.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    /// End of each packet.
    ends: Vec<usize>,
}

impl Batch {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Runs that may leave as one message: equal sizes, the last may be shorter. (start, end, size)
    pub(crate) fn runs(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let mut at = 0;
        let mut start = 0;
        std::iter::from_fn(move || {
            let size = self.ends.get(at)? - start;
            let (first, mut end) = (start, start);
            while let Some(next) = self.ends.get(at) {
                let length = next - end;
                if length > size {
                    break;
                }
                (end, at) = (*next, at + 1);
                if length < size {
                    break;
                }
            }
            start = end;
            Some((first, end, size))
        })
    }

    fn len(&self) -> usize {
        self.ends.len()
    }
}

impl Publisher {
    /// From the answer to our offer. `seed` sets where in the clip it begins and its random starting numbers.
    pub(crate) fn new(
        units: Arc<Units>,
        log: Arc<SendLog>,
        ssrcs: Ssrcs,
        answer: &Remote,
        seed: u64,
    ) -> Publisher {
        let line = |kind, ssrc, salt: u64| Line::new(answer.section(kind), ssrc, seed.rotate_left(11) ^ salt);
        let rtx = answer.section(Kind::Video).and_then(|video| video.rtx_payload_type);
        let clip = units.clip.clone();
        Publisher {
            cursor: VideoCursor::starting_at(&clip, seed as usize % clip.video.len()),
            next_audio: seed as usize % clip.audio.len(),
            audio: line(Kind::Audio, ssrcs.audio, 0x5bd1),
            video: line(Kind::Video, ssrcs.video, 0xe995),
            rtx: rtx.map(|payload_type| (ssrcs.video_rtx, payload_type)),
            rtx_index: 1,
            picture: seed as u16 & 0x7FFF,
            transport_cc: 1,
            history: vec![Sent::default(); HISTORY].into_boxed_slice(),
            units,
            log,
        }
    }

    /// Puts the next video frame into the batch.
    pub(crate) fn video_frame(&mut self, batch: &mut Batch, tx: &Srtp, now_ns: u64) {
        let units = self.units.clone();
        let frame = self.cursor.advance(&units.clip);
        let (first_unit, fragments) = units.frame(frame);
        self.video.timestamp = self.video.timestamp.wrapping_add(VIDEO_CLOCK / units.clip.video_fps.max(1));
        self.picture = self.picture.wrapping_add(1) & 0x7FFF;
        for fragment in 0..fragments.len() {
            let sent = Sent {
                index: self.video.index,
                frame,
                fragment,
                timestamp: self.video.timestamp,
                picture: self.picture,
                transport_cc: self.transport_cc,
                abs_send_time: abs_send_time(now_ns),
            };
            self.video.index += 1;
            self.transport_cc = self.transport_cc.wrapping_add(1);
            self.history[sent.index as usize % HISTORY] = sent;
            self.log.sent(first_unit + fragment as u32, now_ns);
            let payload = self.write_video(batch, &sent, None, tx);
            self.video.count(payload);
        }
    }

    /// Puts the next 20 ms of audio into the batch.
    pub(crate) fn audio_packet(&mut self, batch: &mut Batch, tx: &Srtp, now_ns: u64) {
        let units = self.units.clone();
        let index = self.next_audio;
        self.next_audio = (index + 1) % units.clip.audio.len();
        self.audio.timestamp = self.audio.timestamp.wrapping_add(OPUS_TICKS);
        self.log.sent(units.audio(index), now_ns);
        let start = batch.bytes.len();
        let line = &mut self.audio;
        let sequence = line.index;
        line.index += 1;
        let numbers = Numbers { transport_cc: self.transport_cc, abs_send_time: abs_send_time(now_ns) };
        self.transport_cc = self.transport_cc.wrapping_add(1);
        let header = header(line.payload_type, false, sequence, line.timestamp, line.ssrc);
        let length = line.write_header(&mut batch.bytes, &header, sequence, &numbers);
        batch.bytes.extend_from_slice(&units.clip.audio[index]);
        tx.seal_rtp(&mut batch.bytes, start, length, line.ssrc, sequence);
        batch.ends.push(batch.bytes.len());
        line.count(units.clip.audio[index].len());
    }

    /// Appends one video packet, as it was first sent or wrapped for retransmission; its payload's length.
    fn write_video(&self, batch: &mut Batch, sent: &Sent, rtx: Option<(u32, u8, u64)>, tx: &Srtp) -> usize {
        let (_, fragments) = self.units.frame(sent.frame);
        let range = fragments[sent.fragment].clone();
        let marker = sent.fragment + 1 == fragments.len();
        let (ssrc, payload_type, index) =
            rtx.unwrap_or((self.video.ssrc, self.video.payload_type, sent.index));
        let start = batch.bytes.len();
        let header = header(payload_type, marker, index, sent.timestamp, ssrc);
        let numbers = Numbers { transport_cc: sent.transport_cc, abs_send_time: sent.abs_send_time };
        let length = self.video.write_header(&mut batch.bytes, &header, sent.index, &numbers);
        if rtx.is_some() {
            batch.bytes.extend_from_slice(&(sent.index as u16).to_be_bytes());
        }
        batch.bytes.extend_from_slice(&rtp::vp8_descriptor(sent.fragment == 0, sent.picture));
        batch.bytes.extend_from_slice(&self.units.clip.video[sent.frame].data[range.clone()]);
        tx.seal_rtp(&mut batch.bytes, start, length, ssrc, index);
        batch.ends.push(batch.bytes.len());
        range.len() + VP8_DESCRIPTOR
    }

    /// Takes what the server's RTCP says; repeated packets go into the batch.
    pub(crate) fn on_rtcp(&mut self, item: &Item, batch: &mut Batch, tx: &Srtp, stats: &mut Stats) {
        match item {
            Item::KeyFrame(_) => {
                stats.key_frames_asked += 1;
                self.cursor.want_key_frame();
            }
            Item::Nack(ssrc, sequence) if *ssrc == self.video.ssrc => {
                stats.nacks_received += 1;
                self.repeat(*sequence, batch, tx);
            }
            _ => {}
        }
    }

    fn repeat(&mut self, sequence: u16, batch: &mut Batch, tx: &Srtp) {
        let back = (self.video.index as u16).wrapping_sub(sequence);
        let Some(index) = self.video.index.checked_sub(u64::from(back)) else { return };
        let sent = self.history[index as usize % HISTORY];
        if sent.index != index || usize::from(back) >= HISTORY || back == 0 {
            return;
        }
        let rtx = self.rtx.map(|(ssrc, payload_type)| (ssrc, payload_type, self.rtx_index));
        if let Some((ssrc, payload_type, index)) = rtx {
            self.rtx_index += 1;
            // A retransmission is a packet of its own: it has its own transport-wide number.
            let sent = Sent { transport_cc: self.transport_cc, ..sent };
            self.transport_cc = self.transport_cc.wrapping_add(1);
            self.write_video(batch, &sent, Some((ssrc, payload_type, index)), tx);
        } else {
            self.write_video(batch, &sent, None, tx);
        }
    }

    /// Appends sender reports of both tracks.
    pub(crate) fn reports(&self, out: &mut Vec<u8>, now_ns: u64) {
        let ntp =
            ((now_ns / 1_000_000_000 + NTP_EPOCH) << 32) | (((now_ns % 1_000_000_000) << 32) / 1_000_000_000);
        for line in [&self.audio, &self.video] {
            if line.packets > 0 {
                let info = SenderInfo {
                    ssrc: line.ssrc,
                    ntp,
                    timestamp: line.timestamp,
                    packets: line.packets,
                    octets: line.octets,
                };
                rtcp::sender_report(out, &info);
                rtcp::description(out, line.ssrc);
            }
        }
    }

    /// Packets and bytes of a batch, for the counters.
    pub(crate) fn tally(batch: &Batch) -> (u64, u64) {
        (batch.len() as u64, batch.bytes.len() as u64)
    }
}

/// Values of the extensions that change with each packet.
struct Numbers {
    transport_cc: u16,
    abs_send_time: u32,
}

impl Line {
    fn new(section: Option<&Section>, ssrc: u32, seed: u64) -> Line {
        let id = |uri| section.and_then(|section| section.extension(uri));
        // Below half, so that the first packets of both ends agree on the rollover count (RFC 3711 §3.3.1).
        let index = seed & 0x7FFF;
        Line {
            ssrc,
            payload_type: section.and_then(|section| section.payload_type).unwrap_or(0),
            mid: section.map(|section| section.mid.clone().into_bytes()).unwrap_or_default(),
            mid_id: id(extension::MID),
            abs_send_time_id: id(extension::ABS_SEND_TIME),
            transport_cc_id: id(extension::TRANSPORT_CC),
            audio_level_id: id(extension::AUDIO_LEVEL),
            index,
            first_index: index,
            timestamp: (seed >> 16) as u32,
            packets: 0,
            octets: 0,
        }
    }

    /// `index`: of the packet in this line, which decides whether the MID is still said.
    fn write_header(&self, out: &mut Vec<u8>, header: &Header, index: u64, numbers: &Numbers) -> usize {
        let transport_cc = numbers.transport_cc.to_be_bytes();
        let abs_send_time = numbers.abs_send_time.to_be_bytes();
        let with_mid = index - self.first_index < PACKETS_WITH_MID && !self.mid.is_empty();
        let all: [(Option<u8>, &[u8]); 4] = [
            (self.audio_level_id, &[AUDIO_LEVEL]),
            (self.abs_send_time_id, &abs_send_time[1..]),
            (self.transport_cc_id, &transport_cc),
            (self.mid_id.filter(|_| with_mid), &self.mid),
        ];
        let mut extensions = [const { Extension { id: 0, value: &[] } }; 4];
        let mut count = 0;
        for (id, value) in all {
            if let Some(id) = id {
                extensions[count] = Extension { id, value };
                count += 1;
            }
        }
        rtp::write(out, header, &extensions[..count])
    }

    fn count(&mut self, payload: usize) {
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(payload as u32);
    }
}

fn header(payload_type: u8, marker: bool, index: u64, timestamp: u32, ssrc: u32) -> Header {
    Header { payload_type, marker, padding: false, sequence: index as u16, timestamp, ssrc, length: 0 }
}

/// 24 bits, 6.18 fixed point seconds.
fn abs_send_time(now_ns: u64) -> u32 {
    let (seconds, rest) = (now_ns / 1_000_000_000, now_ns % 1_000_000_000);
    (((seconds << 18) | ((rest << 18) / 1_000_000_000)) & 0xFF_FFFF) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ice::Credentials;
    use crate::client::sdp;
    use crate::client::srtp::{Profile, from_keying_material};
    use crate::media::{Clip, VideoFrame};

    fn publisher() -> (Publisher, Arc<Units>) {
        let ssrcs = Ssrcs { audio: 11, video: 22, video_rtx: 33 };
        let local = sdp::Local {
            ice: Credentials { ufrag: "abcd".into(), pwd: "0123456789012345678901".into() },
            fingerprint: vec!["AB"; 32].join(":"),
            address: "127.0.0.1:4000".parse().expect("address"),
            ssrcs: Some(ssrcs),
        };
        let answer = Remote::parse(&sdp::publish_offer(&local).expect("offer")).expect("read");
        let frame = |key, size: usize| VideoFrame { key, data: (0..size).map(|i| (i % 251) as u8).collect() };
        let clip = Clip {
            label: "test".into(),
            video: vec![frame(true, 3_301), frame(false, 900), frame(false, 901)],
            video_fps: 30,
            audio: vec![vec![9; 80]],
        };
        let units = Arc::new(Units::new(Arc::new(clip)));
        (Publisher::new(units.clone(), units.log(), ssrcs, &answer, 3), units)
    }

    fn keys() -> (Srtp, Srtp) {
        let material: Vec<u8> = (0..88).collect();
        let pair = || from_keying_material(Profile::Gcm256, &material).expect("long enough").0;
        (pair(), pair())
    }

    #[test]
    fn a_frame_becomes_packets_that_decrypt_to_it() {
        let ((mut publisher, units), (tx, rx)) = (publisher(), keys());
        let mut batch = Batch::default();
        publisher.video_frame(&mut batch, &tx, 1_000);
        assert_eq!(Publisher::tally(&batch).0, 3);
        let mut frame = Vec::new();
        let mut start = 0;
        for (number, end) in batch.ends.clone().into_iter().enumerate() {
            let packet = &mut batch.bytes[start..end];
            let header = rtp::read(packet).expect("a header");
            assert_eq!(header.marker, number == 2);
            let index = u64::from(header.sequence);
            let end_of_plain = rx.open_rtp(packet, header.length, header.ssrc, index).expect("authentic");
            let payload = &packet[header.length..end_of_plain];
            let (descriptor, starts) = rtp::read_vp8_descriptor(payload).expect("descriptor");
            assert_eq!(starts, number == 0);
            assert_eq!(units.find(&payload[descriptor..]), Some(number as u32));
            frame.extend_from_slice(&payload[descriptor..]);
            start = end;
        }
        assert_eq!(frame, units.clip.video[0].data);
        let runs: Vec<_> = batch.runs().map(|(start, end, size)| (end - start) / size).collect();
        assert_eq!(runs, [2, 1], "two equal fragments, then one that is a byte longer");
    }

    #[test]
    fn a_nack_is_answered_on_the_retransmission_stream_and_a_key_frame_request_with_a_key_frame() {
        let ((mut publisher, units), (tx, rx)) = (publisher(), keys());
        let (mut batch, mut stats) = (Batch::default(), Stats::default());
        publisher.video_frame(&mut batch, &tx, 1_000);
        let wanted = rtp::read(&batch.bytes).expect("a header").sequence;
        publisher.video_frame(&mut batch, &tx, 1_000);
        batch.clear();
        publisher.on_rtcp(&Item::Nack(22, wanted), &mut batch, &tx, &mut stats);
        publisher.on_rtcp(&Item::Nack(22, wanted.wrapping_sub(1)), &mut batch, &tx, &mut stats);
        publisher.on_rtcp(&Item::Nack(22, wanted.wrapping_add(9)), &mut batch, &tx, &mut stats);
        assert_eq!(batch.len(), 1, "only what was sent can be repeated");
        let header = rtp::read(&batch.bytes).expect("a header");
        assert_eq!((header.ssrc, header.payload_type), (33, 97));
        let end =
            rx.open_rtp(&mut batch.bytes, header.length, 33, u64::from(header.sequence)).expect("authentic");
        let payload = &batch.bytes[header.length..end];
        assert_eq!(payload[..2], wanted.to_be_bytes());
        assert_eq!(units.find(&payload[2 + VP8_DESCRIPTOR..]), Some(0));
        publisher.on_rtcp(&Item::KeyFrame(22), &mut batch, &tx, &mut stats);
        batch.clear();
        publisher.video_frame(&mut batch, &tx, 2_000);
        assert_eq!(Publisher::tally(&batch).0, 3, "frame 0, the key frame");
    }
}
