//! The realistic mix: every peer publishes 30 frames a second of three packets, 1100 to 1179 bytes and equal within a
//! frame, and 50 audio packets a second of 120 bytes. Phases are random, packets come in the order of their time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Payload type of video.
pub const VIDEO_PAYLOAD_TYPE: u8 = 96;
/// Payload type of audio.
pub const AUDIO_PAYLOAD_TYPE: u8 = 111;
/// Identifier of the transport-wide sequence number extension.
pub const TWCC_ID: u8 = 3;
/// Bytes before the payload: fixed header and one extension block of four bytes.
const HEADER_BYTES: usize = 12 + 8;

const FRAME_US: u64 = 33_333;
const AUDIO_US: u64 = 20_000;
const FRAME_PACKETS: usize = 3;
const AUDIO_BYTES: usize = 120;

/// SSRC of a publisher's video.
pub fn video_ssrc(peer: usize) -> u32 {
    0x1000_0000 + peer as u32
}

/// SSRC of a publisher's audio.
pub fn audio_ssrc(peer: usize) -> u32 {
    0x2000_0000 + peer as u32
}

/// One plaintext RTP packet.
#[derive(Debug)]
pub struct Packet {
    /// Who publishes it.
    pub peer: usize,
    /// Its SSRC.
    pub ssrc: u32,
    /// Sequence number, extended.
    pub index: u64,
    /// Header and payload.
    pub bytes: Vec<u8>,
    /// Bytes of the header.
    pub header_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Video,
    Audio,
}

#[derive(Default)]
struct Publisher {
    video: u64,
    audio: u64,
    twcc: u16,
    frames: u32,
}

/// The packets of all publishers, in order, for ever.
pub struct Traffic {
    due: BinaryHeap<Reverse<(u64, usize, Kind)>>,
    publishers: Vec<Publisher>,
    /// Packets of the frame under way, last first.
    frame: Vec<Packet>,
    random: u64,
    at_us: u64,
}

impl Traffic {
    /// Of `peers` publishers. The same seed gives the same packets.
    pub fn new(peers: usize, seed: u64) -> Traffic {
        let mut traffic = Traffic {
            due: BinaryHeap::new(),
            publishers: (0..peers).map(|_| Publisher::default()).collect(),
            frame: Vec::with_capacity(FRAME_PACKETS),
            random: seed | 1,
            at_us: 0,
        };
        for peer in 0..peers {
            let (video, audio) = (traffic.below(FRAME_US), traffic.below(AUDIO_US));
            traffic.due.push(Reverse((video, peer, Kind::Video)));
            traffic.due.push(Reverse((audio, peer, Kind::Audio)));
        }
        traffic
    }

    /// The next packet.
    pub fn next_packet(&mut self) -> Packet {
        if let Some(packet) = self.frame.pop() {
            return packet;
        }
        let Reverse((at, peer, kind)) =
            self.due.pop().expect("every publisher has its next packet in the heap");
        self.at_us = at;
        match kind {
            Kind::Audio => {
                self.due.push(Reverse((at + AUDIO_US, peer, kind)));
                self.packet(peer, kind, AUDIO_BYTES, at, 0)
            }
            Kind::Video => {
                self.due.push(Reverse((at + FRAME_US, peer, kind)));
                let bytes = 1100 + self.below(80) as usize;
                self.frame =
                    (0..FRAME_PACKETS).map(|part| self.packet(peer, kind, bytes, at, part)).collect();
                self.publishers[peer].frames += 1;
                self.frame.reverse();
                self.frame.pop().expect("a frame has packets")
            }
        }
    }

    /// When the packet that was taken last is sent, in microseconds of the traffic's own time.
    pub fn time_us(&self) -> u64 {
        self.at_us
    }

    /// Whether the next packet begins a frame or is audio: a sender puts a frame on the wire in one go.
    pub fn at_boundary(&self) -> bool {
        self.frame.is_empty()
    }

    fn packet(&mut self, peer: usize, kind: Kind, len: usize, at_us: u64, part: usize) -> Packet {
        let publisher = &mut self.publishers[peer];
        publisher.twcc = publisher.twcc.wrapping_add(1);
        let twcc = publisher.twcc;
        let key_frame = publisher.frames == 0;
        let (counter, payload_type, ssrc, clock) = match kind {
            Kind::Video => (&mut publisher.video, VIDEO_PAYLOAD_TYPE, video_ssrc(peer), 90),
            Kind::Audio => (&mut publisher.audio, AUDIO_PAYLOAD_TYPE, audio_ssrc(peer), 48),
        };
        let index = *counter;
        *counter += 1;
        let marker = kind == Kind::Video && part + 1 == FRAME_PACKETS;
        let mut bytes = vec![0; len];
        bytes[0] = 0x90;
        bytes[1] = payload_type | u8::from(marker) << 7;
        bytes[2..4].copy_from_slice(&(index as u16).to_be_bytes());
        bytes[4..8].copy_from_slice(&((at_us * clock / 1000) as u32).to_be_bytes());
        bytes[8..12].copy_from_slice(&ssrc.to_be_bytes());
        // RFC 8285: one-byte header, one word: the transport-wide sequence number.
        bytes[12..16].copy_from_slice(&[0xbe, 0xde, 0, 1]);
        bytes[16] = TWCC_ID << 4 | 1;
        bytes[17..19].copy_from_slice(&twcc.to_be_bytes());
        fill_payload(&mut bytes[HEADER_BYTES..], kind, part, key_frame);
        Packet { peer, ssrc, index, bytes, header_bytes: HEADER_BYTES }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }
}

/// A VP8 descriptor and frame tag (RFC 7741 §4.2, RFC 6386 §9.1) for video; noise for the rest.
fn fill_payload(payload: &mut [u8], kind: Kind, part: usize, key_frame: bool) {
    for (i, byte) in payload.iter_mut().enumerate() {
        *byte = (i * 37 + 11) as u8;
    }
    if kind == Kind::Video {
        payload[0] = if part == 0 { 0x10 } else { 0x00 };
        if part == 0 {
            payload[1] = if key_frame { 0x10 } else { 0x11 };
            payload[4..7].copy_from_slice(&[0x9d, 0x01, 0x2a]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_the_documented_one() {
        let mut traffic = Traffic::new(140, 1);
        // One second: 140 publishers x (90 video + 50 audio).
        let packets: Vec<_> = (0..19_600).map(|_| traffic.next_packet()).collect();
        let video = packets.iter().filter(|p| p.bytes.len() >= 1100).count();
        assert!((12_400..12_800).contains(&video), "{video}");
        assert!(packets.iter().all(|p| p.bytes.len() == 120 || (1100..1180).contains(&p.bytes.len())));
    }

    #[test]
    fn a_frame_is_three_equal_packets_in_a_row_and_begins_with_a_key_frame() {
        let mut traffic = Traffic::new(140, 2);
        let packets: Vec<_> =
            (0..5000).map(|_| traffic.next_packet()).filter(|p| p.bytes.len() > 120).collect();
        for frame in packets.chunks_exact(3) {
            assert!(frame.iter().all(|p| p.ssrc == frame[0].ssrc && p.bytes.len() == frame[0].bytes.len()));
            assert_eq!(frame.iter().map(|p| p.bytes[1] >> 7).collect::<Vec<_>>(), [0, 0, 1]);
            assert_eq!(frame[0].bytes[21] & 1, u8::from(frame[0].index != 0));
        }
    }

    #[test]
    fn sequence_numbers_have_no_gap() {
        let mut traffic = Traffic::new(140, 3);
        let mut next = std::collections::HashMap::new();
        for _ in 0..10_000 {
            let packet = traffic.next_packet();
            let expected: &mut u64 = next.entry(packet.ssrc).or_default();
            assert_eq!((packet.index, packet.bytes[3]), (*expected, *expected as u8));
            *expected += 1;
        }
    }
}
