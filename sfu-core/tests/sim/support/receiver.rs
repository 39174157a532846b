//! One RTP stream as a subscriber sees it: everything that arrived, what is missing, and whether it could be decoded.

use std::collections::{BTreeMap, BTreeSet};

use sfu_core::control::proto::MediaKind;
use sfu_core::ids::{ExtSeq, SeqNo, Ssrc};
use sfu_core::time::Timestamp;
use sfu_core::wire::rtcp::{ReportBlock, SenderInfo};
use sfu_core::wire::rtp::RtpHeader;
use sfu_core::wire::rtp_ext;

use super::ms;
use super::sender::Body;

/// What the subscriber negotiated.
#[derive(Clone, Debug)]
pub(crate) struct ReceiverSpec {
    pub(crate) kind: MediaKind,
    pub(crate) ssrc: u32,
    pub(crate) payload_type: u8,
    pub(crate) rtx: Option<(u32, u8)>,
    pub(crate) mid: String,
    /// Asks for what is missing.
    pub(crate) nack: bool,
    /// Asks for a key frame when a picture cannot be decoded.
    pub(crate) pli: bool,
}

/// Header extension ids of subscribers: others than the publishers'.
pub(crate) mod ext_id {
    pub(crate) const AUDIO_LEVEL: u8 = 7;
    pub(crate) const ABS_SEND_TIME: u8 = 5;
    pub(crate) const MID: u8 = 9;
}

/// One packet that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) at: Timestamp,
    pub(crate) timestamp: u32,
    pub(crate) marker: bool,
    pub(crate) body: Body,
    /// By RTX.
    pub(crate) resent: bool,
}

struct Missing {
    found: Timestamp,
    due: Timestamp,
}

/// One received stream.
pub(crate) struct Receiver {
    pub(crate) spec: ReceiverSpec,
    pub(crate) arrivals: BTreeMap<u64, Arrival>,
    /// Numbers that came without a payload: padding whose number was spent before it was known to be that.
    pub(crate) empty: BTreeSet<u64>,
    /// Packets that came again under a number that had come.
    pub(crate) duplicates: u32,
    /// Lowest and highest number that came.
    range: Option<(ExtSeq, ExtSeq)>,
    missing: BTreeMap<u64, Missing>,
    /// A key frame has begun.
    can_start: bool,
    /// When the first packet came.
    waits_since: Option<Timestamp>,
    /// Sequence numbers given up.
    pub(crate) given_up: u32,
    pub(crate) nacks_sent: u32,
    pub(crate) plis_sent: u32,
    next_pli: Timestamp,
    pub(crate) sender_reports: Vec<(Timestamp, SenderInfo)>,
}

impl Receiver {
    pub(crate) fn new(spec: ReceiverSpec) -> Receiver {
        Receiver {
            spec,
            arrivals: BTreeMap::new(),
            empty: BTreeSet::new(),
            duplicates: 0,
            range: None,
            missing: BTreeMap::new(),
            can_start: false,
            waits_since: None,
            given_up: 0,
            nacks_sent: 0,
            plis_sent: 0,
            next_pli: Timestamp::ZERO,
            sender_reports: Vec::new(),
        }
    }

    /// Whether a packet of `ssrc` is for this stream.
    pub(crate) fn takes(&self, ssrc: Ssrc) -> bool {
        ssrc.0 == self.spec.ssrc || self.spec.rtx.is_some_and(|(rtx, _)| rtx == ssrc.0)
    }

    /// Takes one packet, opened. `index` is its SRTP index on its own SSRC.
    pub(crate) fn on_packet(&mut self, now: Timestamp, header: &RtpHeader, packet: &[u8], index: ExtSeq) {
        self.check_extensions(header, packet);
        let payload = header.payload(packet).expect("a packet from the shard is well-formed");
        let (seq, payload, resent) = if header.ssrc.0 == self.spec.ssrc {
            assert_eq!(header.payload_type.0, self.spec.payload_type);
            (index, payload, false)
        } else {
            let (_, payload_type) = self.spec.rtx.expect("the SSRC matched");
            assert_eq!(header.payload_type.0, payload_type);
            let original = SeqNo(u16::from_be_bytes([payload[0], payload[1]]));
            let (_, highest) = self.range.expect("nothing is sent again that was not sent");
            (highest.extend(original), &payload[2..], true)
        };
        if payload.is_empty() {
            self.missing.remove(&seq.0);
            self.note_gap(now, seq);
            self.empty.insert(seq.0);
            return;
        }
        let body = Body::read(self.spec.kind, payload);
        let arrival = Arrival { at: now, timestamp: header.timestamp, marker: header.marker, body, resent };
        if let Some(before) = self.arrivals.get(&seq.0) {
            assert_eq!(before.body, arrival.body, "two packets under number {}", seq.0);
            self.duplicates += 1;
            return;
        }
        self.missing.remove(&seq.0);
        self.note_gap(now, seq);
        self.can_start |= arrival.body.begins_key_frame();
        self.waits_since.get_or_insert(now);
        self.arrivals.insert(seq.0, arrival);
    }

    fn check_extensions(&self, header: &RtpHeader, packet: &[u8]) {
        let find = |id| rtp_ext::find(header, packet, id);
        assert_eq!(find(ext_id::MID), Some(self.spec.mid.as_bytes()), "MID of the subscriber's m-line");
        assert_eq!(find(ext_id::ABS_SEND_TIME).map(<[u8]>::len), Some(3));
        if self.spec.kind == MediaKind::Audio {
            assert_eq!(find(ext_id::AUDIO_LEVEL), Some(&[0x80 | 30][..]));
        }
        let known = [ext_id::MID, ext_id::ABS_SEND_TIME, ext_id::AUDIO_LEVEL];
        assert!(rtp_ext::elements(header, packet).all(|(id, _)| known.contains(&id)));
    }

    fn note_gap(&mut self, now: Timestamp, seq: ExtSeq) {
        let Some((lowest, highest)) = self.range else {
            self.range = Some((seq, seq));
            return;
        };
        // The very first packet may have been overtaken too.
        for missing in (highest.0 + 1..seq.0).chain(seq.0 + 1..lowest.0) {
            self.missing.insert(missing, Missing { found: now, due: now + ms(10) });
        }
        self.range = Some((lowest.min(seq), highest.max(seq)));
    }

    /// What to ask for now: missing packets, and whether for a key frame.
    pub(crate) fn poll(&mut self, now: Timestamp) -> (Vec<SeqNo>, bool) {
        let before = self.missing.len();
        self.missing.retain(|_, missing| now.since(missing.found) < ms(1500));
        let given_up = before - self.missing.len();
        self.given_up += given_up as u32;
        let mut asked = Vec::new();
        if self.spec.nack {
            for (seq, missing) in self.missing.iter_mut().filter(|(_, missing)| missing.due <= now) {
                missing.due = now + ms(60);
                asked.push(ExtSeq(*seq).seq());
            }
            asked.truncate(100);
            self.nacks_sent += asked.len() as u32;
        }
        let waits = self.start_due().is_some_and(|due| due <= now);
        let pli = self.spec.pli && (given_up > 0 || waits) && self.next_pli <= now;
        if pli {
            self.next_pli = now + ms(300);
            self.plis_sent += 1;
        }
        (asked, pli)
    }

    /// When a decoder without a key frame asks for one.
    fn start_due(&self) -> Option<Timestamp> {
        let since = self.waits_since.filter(|_| !self.can_start && self.spec.pli)?;
        Some(self.next_pli.max(since + ms(200)))
    }

    /// When [`Receiver::poll`] has something to do.
    pub(crate) fn next_timeout(&self) -> Option<Timestamp> {
        let next = |missing: &Missing| {
            let over = missing.found + ms(1500);
            if self.spec.nack { over.min(missing.due) } else { over }
        };
        self.missing.values().map(next).chain(self.start_due()).min()
    }

    pub(crate) fn report_block(&self, now: Timestamp) -> Option<ReportBlock> {
        let (_, highest) = self.range?;
        let (last_sr, delay) = match self.sender_reports.last() {
            Some((at, info)) => {
                (info.ntp.middle(), (now.since(*at).as_nanos() * 65_536 / 1_000_000_000) as u32)
            }
            None => (0, 0),
        };
        Some(ReportBlock {
            ssrc: Ssrc(self.spec.ssrc),
            highest_seq: highest.0 as u32,
            last_sr,
            delay_since_last_sr: delay,
            ..ReportBlock::default()
        })
    }

    /// Packets still missing.
    pub(crate) fn missing(&self) -> usize {
        self.missing.len()
    }

    /// Packets that arrived.
    pub(crate) fn len(&self) -> usize {
        self.arrivals.len()
    }

    pub(crate) fn first(&self) -> &Arrival {
        self.arrivals.first_key_value().expect("something arrived").1
    }

    pub(crate) fn last(&self) -> &Arrival {
        self.arrivals.last_key_value().expect("something arrived").1
    }

    /// Arrivals of the source stream `tag`.
    pub(crate) fn of(&self, tag: u32) -> impl Iterator<Item = &Arrival> {
        self.arrivals.values().filter(move |arrival| arrival.body.tag == tag)
    }

    /// No number between the first and the last is missing.
    pub(crate) fn assert_gap_free(&self) {
        let (first, last) = (self.arrivals.first_key_value(), self.arrivals.last_key_value());
        let (Some((first, _)), Some((last, _))) = (first, last) else { panic!("nothing arrived") };
        let holes: Vec<u64> = (*first..=*last)
            .filter(|seq| !self.arrivals.contains_key(seq) && !self.empty.contains(seq))
            .collect();
        assert!(holes.is_empty(), "numbers {holes:?} of {first}..={last} are missing");
    }

    /// A decoder that gets the packets in the order of their numbers always has what it needs: it starts at a key frame,
    /// gets every part of every frame in order, and frames are left out only in front of a key frame.
    pub(crate) fn assert_decodable(&self) {
        assert_eq!(self.skipped_to_key(), 0, "begins with {:?}", self.first());
        self.assert_decodable_from_key();
    }

    /// Packets in front of the first key frame.
    pub(crate) fn skipped_to_key(&self) -> usize {
        self.arrivals.values().take_while(|arrival| !arrival.body.begins_key_frame()).count()
    }

    /// The same from the first key frame on.
    pub(crate) fn assert_decodable_from_key(&self) {
        let mut before: Option<&Body> = None;
        for (seq, arrival) in self.arrivals.iter().skip(self.skipped_to_key()) {
            let body = &arrival.body;
            let follows = match before {
                Some(last) if last.tag == body.tag && last.part + 1 < last.parts => {
                    body.frame == last.frame && body.part == last.part + 1
                }
                Some(last) if last.tag == body.tag && !body.key => {
                    body.frame == last.frame + 1 && body.part == 0
                }
                Some(last) if last.tag == body.tag => body.frame > last.frame && body.part == 0,
                _ => body.begins_key_frame(),
            };
            assert!(follows, "number {seq}: {body:?} after {before:?}");
            assert_eq!(arrival.marker, body.part + 1 == body.parts, "marker of {seq}");
            before = Some(body);
        }
    }

    /// Within one source timestamps keep their distance; to the next source they move on by about the time that passed.
    pub(crate) fn assert_timestamps(&self, clock_rate: u32) {
        let mut before: Option<&Arrival> = None;
        for (seq, arrival) in &self.arrivals {
            if let Some(last) = before {
                let step = arrival.timestamp.wrapping_sub(last.timestamp);
                if last.body.tag == arrival.body.tag {
                    let expected = arrival.body.timestamp.wrapping_sub(last.body.timestamp);
                    assert_eq!(step, expected, "timestamp of {seq}");
                } else {
                    let passed = arrival.at.since(last.at).as_secs_f64() * f64::from(clock_rate);
                    let error = (f64::from(step) - passed).abs() / f64::from(clock_rate);
                    assert!(step > 0 && error < 0.1, "timestamp of {seq}: {step} ticks over {passed}");
                }
            }
            before = Some(arrival);
        }
    }
}
