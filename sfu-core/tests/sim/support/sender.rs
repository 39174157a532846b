//! One RTP stream of a publishing peer: Opus at 50 packets a second, or VP8 at 30 frames of three packets.
//!
//! The payload says which source packet it is, so that a receiver can tell what reached it, whatever became of the
//! header on the way:
//!
//! ```text
//! video only: VP8 descriptor | S 0x10, X 0x80 | I 0x80 | picture id, 15 bits | first packet: P bit |
//! both:       tag 4 | seq 4 | timestamp 4 | frame 4 | part 1 | parts 1 | key 1 | filler by seq ...
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use sfu_core::control::proto::MediaKind;
use sfu_core::crypto::SrtpTx;
use sfu_core::ids::{ExtSeq, PayloadType, SeqNo, Ssrc};
use sfu_core::time::Timestamp;
use sfu_core::wire::rtp::HeaderFields;
use sfu_core::wire::rtp_ext::{ExtWriter, Form};

/// Header extension ids of publishers.
pub(crate) mod ext_id {
    pub(crate) const AUDIO_LEVEL: u8 = 1;
    pub(crate) const ABS_SEND_TIME: u8 = 2;
    pub(crate) const TRANSPORT_SEQ: u8 = 3;
    pub(crate) const MID: u8 = 4;
    pub(crate) const RID: u8 = 10;
    pub(crate) const REPAIRED_RID: u8 = 11;
}

/// Clock rates, Hz.
pub(crate) const AUDIO_CLOCK: u32 = 48_000;
pub(crate) const VIDEO_CLOCK: u32 = 90_000;

/// What a stream is.
#[derive(Clone, Debug)]
pub(crate) struct StreamSpec {
    pub(crate) kind: MediaKind,
    pub(crate) ssrc: u32,
    pub(crate) payload_type: u8,
    /// SSRC and payload type of retransmissions.
    pub(crate) rtx: Option<(u32, u8)>,
    pub(crate) mid: String,
    pub(crate) rid: Option<String>,
    /// Unique among all streams of a world.
    pub(crate) tag: u32,
    /// Bytes of a full packet's payload.
    pub(crate) payload_bytes: usize,
    /// The parts of a frame are of a size, but for a byte more in each, about as browsers cut them. Else the last is shorter,
    /// which ends a GSO run.
    pub(crate) even: bool,
    /// First sequence number, to try the wrap.
    pub(crate) first_seq: u16,
    /// After so many frames a packet of nothing but padding.
    pub(crate) padding_every: Option<u32>,
    /// Packets of a video key frame.
    pub(crate) key_parts: u8,
}

impl StreamSpec {
    fn interval(&self) -> Duration {
        match self.kind {
            MediaKind::Audio => Duration::from_millis(20),
            MediaKind::Video => Duration::from_nanos(33_333_333),
        }
    }

    fn ticks(&self) -> u32 {
        match self.kind {
            MediaKind::Audio => AUDIO_CLOCK / 50,
            MediaKind::Video => VIDEO_CLOCK / 30,
        }
    }

    fn parts(&self, key: bool) -> u8 {
        match self.kind {
            MediaKind::Audio => 1,
            MediaKind::Video if key => self.key_parts,
            MediaKind::Video => 3,
        }
    }
}

/// What a payload says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) tag: u32,
    pub(crate) seq: u32,
    pub(crate) timestamp: u32,
    pub(crate) frame: u32,
    pub(crate) part: u8,
    pub(crate) parts: u8,
    pub(crate) key: bool,
}

const BODY_BYTES: usize = 19;

impl Body {
    fn write(&self, out: &mut Vec<u8>, payload_bytes: usize) {
        for word in [self.tag, self.seq, self.timestamp, self.frame] {
            out.extend(word.to_be_bytes());
        }
        out.extend([self.part, self.parts, u8::from(self.key)]);
        while out.len() < payload_bytes {
            out.push(filler(self.seq, out.len()));
        }
    }

    /// A decoder can start here.
    pub(crate) fn begins_key_frame(&self) -> bool {
        self.key && self.part == 0
    }

    /// Reads a payload back and checks every byte of it.
    pub(crate) fn read(kind: MediaKind, payload: &[u8]) -> Body {
        let at = match (kind, payload[0]) {
            (MediaKind::Audio, _) => 0,
            (MediaKind::Video, 0x90) => 5,
            (MediaKind::Video, _) => 4,
        };
        let body = &payload[at..];
        let word = |i: usize| u32::from_be_bytes(body[4 * i..4 * i + 4].try_into().unwrap());
        let read = Body {
            tag: word(0),
            seq: word(1),
            timestamp: word(2),
            frame: word(3),
            part: body[16],
            parts: body[17],
            key: body[18] == 1,
        };
        for (i, byte) in payload.iter().enumerate().skip(at + BODY_BYTES) {
            assert_eq!(*byte, filler(read.seq, i), "payload of {read:?} is damaged at {i}");
        }
        read
    }
}

fn filler(seq: u32, at: usize) -> u8 {
    (seq as usize * 31 + at) as u8
}

/// A packet that was sent.
struct Sent {
    sealed: Vec<u8>,
    timestamp: u32,
    marker: bool,
    payload: Vec<u8>,
}

/// Where a sender puts its packets.
pub(crate) struct Wire<'a> {
    pub(crate) srtp: &'a mut SrtpTx,
    /// Transport-wide sequence number, shared by the streams of a peer.
    pub(crate) transport_seq: &'a mut u16,
    pub(crate) out: &'a mut Vec<Vec<u8>>,
}

/// One stream that is being sent.
pub(crate) struct Sender {
    pub(crate) spec: StreamSpec,
    pub(crate) next_frame: Timestamp,
    pub(crate) muted: bool,
    /// SSRCs it had before: feedback about them may still come.
    former: Vec<u32>,
    /// Packets sent, by extended sequence number.
    history: BTreeMap<u64, Sent>,
    next_seq: u64,
    next_rtx: u64,
    timestamp: u32,
    frame: u32,
    key_wanted: bool,
    /// Frames that were key frames, with their time.
    pub(crate) key_frames: Vec<Timestamp>,
    /// When a PLI or FIR came.
    pub(crate) key_frame_requests: Vec<Timestamp>,
    /// Sequence numbers asked for again.
    pub(crate) nacked: u64,
    pub(crate) packets: u32,
    pub(crate) octets: u32,
}

impl Sender {
    pub(crate) fn new(spec: StreamSpec, now: Timestamp) -> Sender {
        Sender {
            next_frame: now,
            muted: false,
            former: Vec::new(),
            history: BTreeMap::new(),
            next_seq: u64::from(spec.first_seq),
            next_rtx: 100,
            timestamp: spec.tag.wrapping_mul(0x1234_5677),
            frame: 0,
            key_wanted: true,
            key_frames: Vec::new(),
            key_frame_requests: Vec::new(),
            nacked: 0,
            packets: 0,
            octets: 0,
            spec,
        }
    }

    /// Goes on under another SSRC, as after a collision (RFC 3550 §8.2): new numbers, new timestamps. `tag` is new too.
    /// `rtx`: its retransmissions do likewise.
    pub(crate) fn change_ssrc(&mut self, tag: u32, first_seq: u16, rtx: bool) {
        self.former.push(self.spec.ssrc);
        (self.spec.ssrc, self.spec.tag) = (100_000 + tag, tag);
        if let Some((ssrc, _)) = self.spec.rtx.as_mut().filter(|_| rtx) {
            (*ssrc, self.next_rtx) = (900_000 + tag, 100);
        }
        (self.next_seq, self.timestamp) = (u64::from(first_seq), tag.wrapping_mul(0x1234_5677));
        self.history.clear();
    }

    /// Whether this is, or was, its SSRC.
    pub(crate) fn has(&self, ssrc: u32) -> bool {
        self.spec.ssrc == ssrc || self.former.contains(&ssrc)
    }

    /// Its last packets as they went out.
    pub(crate) fn sealed(&self) -> Vec<Vec<u8>> {
        self.history.values().map(|sent| sent.sealed.clone()).collect()
    }

    /// Media timestamp of the frame sent last.
    pub(crate) fn timestamp(&self) -> u32 {
        self.timestamp
    }

    /// Frames sent.
    pub(crate) fn frames(&self) -> u32 {
        self.frame
    }

    /// The next frame is a key frame.
    pub(crate) fn on_key_frame_request(&mut self, now: Timestamp) {
        self.key_frame_requests.push(now);
        self.key_wanted = true;
    }

    /// Makes the next frame a key frame without being asked.
    pub(crate) fn force_key_frame(&mut self) {
        self.key_wanted = true;
    }

    /// Sends every frame that is due.
    pub(crate) fn tick(&mut self, now: Timestamp, wire: &mut Wire<'_>) {
        while self.next_frame <= now {
            self.next_frame += self.spec.interval();
            self.timestamp = self.timestamp.wrapping_add(self.spec.ticks());
            if !self.muted {
                self.send_frame(now, wire);
            }
        }
    }

    fn send_frame(&mut self, now: Timestamp, wire: &mut Wire<'_>) {
        let key = self.spec.kind == MediaKind::Audio || std::mem::take(&mut self.key_wanted);
        if key {
            self.key_frames.push(now);
        }
        let parts = self.spec.parts(key);
        for part in 0..parts {
            let body = Body {
                tag: self.spec.tag,
                seq: self.next_seq as u32,
                timestamp: self.timestamp,
                frame: self.frame,
                part,
                parts,
                key,
            };
            let payload = self.payload(&body);
            self.send_packet(now, part + 1 == parts, payload, 0, wire);
        }
        self.frame += 1;
        if self.spec.padding_every.is_some_and(|every| self.frame.is_multiple_of(every)) {
            self.send_packet(now, false, Vec::new(), 200, wire);
        }
    }

    fn payload(&self, body: &Body) -> Vec<u8> {
        let mut payload = Vec::new();
        if self.spec.kind == MediaKind::Video {
            let [high, low] = (body.frame as u16).to_be_bytes();
            payload.extend([if body.part == 0 { 0x90 } else { 0x80 }, 0x80, high | 0x80, low]);
            if body.part == 0 {
                payload.push(u8::from(!body.key));
            }
        }
        let last = body.part + 1 == body.parts;
        let bytes = self.spec.payload_bytes;
        let len = if last && !self.spec.even { bytes * 2 / 3 } else { bytes + usize::from(body.part) };
        body.write(&mut payload, len);
        payload
    }

    fn send_packet(
        &mut self,
        now: Timestamp,
        marker: bool,
        mut payload: Vec<u8>,
        padding: u8,
        wire: &mut Wire<'_>,
    ) {
        let index = ExtSeq(self.next_seq);
        self.next_seq += 1;
        self.packets += 1;
        self.octets += payload.len() as u32;
        let original = payload.clone();
        if padding > 0 {
            payload.resize(payload.len() + usize::from(padding), 0);
            *payload.last_mut().unwrap() = padding;
        }
        let fields = HeaderFields {
            marker,
            padding: padding > 0,
            payload_type: PayloadType(self.spec.payload_type),
            seq: index.seq(),
            timestamp: self.timestamp,
            ssrc: Ssrc(self.spec.ssrc),
        };
        let sealed = self.seal(now, &fields, index, false, &payload, wire);
        wire.out.push(sealed.clone());
        self.history.insert(index.0, Sent { sealed, timestamp: self.timestamp, marker, payload: original });
        if self.history.len() > 2000 {
            self.history.pop_first();
        }
    }

    fn seal(
        &self,
        now: Timestamp,
        fields: &HeaderFields,
        index: ExtSeq,
        repair: bool,
        payload: &[u8],
        wire: &mut Wire<'_>,
    ) -> Vec<u8> {
        let mut out = vec![0; 1500];
        let len = fields.write(&mut out, &[]).unwrap();
        let mut block = ExtWriter::new(&mut out, len, Form::OneByte).unwrap();
        block.push(ext_id::MID, self.spec.mid.as_bytes()).unwrap();
        block.push(ext_id::TRANSPORT_SEQ, &wire.transport_seq.to_be_bytes()).unwrap();
        *wire.transport_seq = wire.transport_seq.wrapping_add(1);
        let [_, abs_send_time @ ..] = (((u128::from(now.0) << 18) / 1_000_000_000) as u32).to_be_bytes();
        block.push(ext_id::ABS_SEND_TIME, &abs_send_time).unwrap();
        if self.spec.kind == MediaKind::Audio {
            block.push(ext_id::AUDIO_LEVEL, &[0x80 | 30]).unwrap();
        }
        if let Some(rid) = &self.spec.rid {
            let id = if repair { ext_id::REPAIRED_RID } else { ext_id::RID };
            block.push(id, rid.as_bytes()).unwrap();
        }
        let header_len = block.finish().unwrap();
        let len = wire.srtp.protect_rtp(&mut out, header_len, payload, fields.ssrc, index);
        out.truncate(len);
        out
    }

    /// Sends a packet again: by RTX, or as it was.
    pub(crate) fn on_nack(&mut self, now: Timestamp, seq: SeqNo, wire: &mut Wire<'_>) {
        self.nacked += 1;
        let index = ExtSeq(self.next_seq.saturating_sub(1)).extend(seq);
        let Some(sent) = self.history.get(&index.0) else { return };
        let Some((ssrc, payload_type)) = self.spec.rtx else {
            wire.out.push(sent.sealed.clone());
            return;
        };
        // Browsers do not keep what was padding only.
        if sent.payload.is_empty() {
            return;
        }
        let rtx_index = ExtSeq(self.next_rtx);
        let fields = HeaderFields {
            marker: sent.marker,
            padding: false,
            payload_type: PayloadType(payload_type),
            seq: rtx_index.seq(),
            timestamp: sent.timestamp,
            ssrc: Ssrc(ssrc),
        };
        let mut payload = index.seq().0.to_be_bytes().to_vec();
        payload.extend(&sent.payload);
        let sealed = self.seal(now, &fields, rtx_index, true, &payload, wire);
        self.next_rtx += 1;
        wire.out.push(sealed);
    }
}
