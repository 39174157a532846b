//! Which publication a received packet belongs to: by SSRC, and the first time by MID, RID and payload type (RFC 9143 §9.2).
//!
//! One table per transport. Signaled SSRCs are entered at once; others are learnt from an authenticated packet, never
//! from a forged one.
#![forbid(unsafe_code)]

use crate::control::proto::MediaKind;
use crate::ids::{PayloadType, Ssrc};
use crate::wire::rtp::RtpHeader;
use crate::wire::rtp_ext;

/// SSRCs of one peer: as many as its SRTP context opens.
const MAX_ROUTES: usize = 16;
/// What a peer may publish on one transport: tracks times layers.
const MAX_CANDIDATES: usize = 16;

/// Where packets of an SSRC go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Index of the publication.
    pub publication: u32,
    /// Which of its tracks.
    pub kind: MediaKind,
    /// Which of the track's encodings.
    pub encoding: u8,
    /// The SSRC carries retransmissions (RFC 4588).
    pub repair: bool,
}

/// Header extension ids that tell where a packet belongs. Zero: not negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteExtensions {
    /// `urn:ietf:params:rtp-hdrext:sdes:mid`
    pub mid: u8,
    /// `urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id`
    pub rid: u8,
    /// `urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id`
    pub repaired_rid: u8,
}

/// One encoding that may turn up under an SSRC nobody has announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where its packets go; `repair` is false.
    pub target: Target,
    /// Value of its MID extension.
    pub mid: Option<Box<str>>,
    /// Value of its RID extension, with simulcast.
    pub rid: Option<Box<str>>,
    /// Payload type of its media.
    pub payload_type: PayloadType,
    /// Payload type of its retransmissions.
    pub rtx_payload_type: Option<PayloadType>,
    /// Extension ids its m-line negotiated.
    pub extensions: RouteExtensions,
}

/// SSRC to target, for one transport.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    routes: Vec<(Ssrc, Target)>,
    candidates: Vec<Candidate>,
}

impl RouteTable {
    /// Enters a signaled SSRC. False: the table is full.
    pub fn insert(&mut self, ssrc: Ssrc, target: Target) -> bool {
        if let Some((_, known)) = self.routes.iter_mut().find(|(known, _)| *known == ssrc) {
            *known = target;
            return true;
        }
        let room = self.routes.len() < MAX_ROUTES;
        if room {
            self.routes.push((ssrc, target));
        }
        room
    }

    /// Enters an encoding whose SSRC may be unknown. False: the table is full.
    pub fn add_candidate(&mut self, candidate: Candidate) -> bool {
        let room = self.candidates.len() < MAX_CANDIDATES;
        if room {
            self.candidates.push(candidate);
        }
        room
    }

    /// Forgets everything about a publication.
    pub fn remove_publication(&mut self, publication: u32) {
        self.routes.retain(|(_, target)| target.publication != publication);
        self.candidates.retain(|candidate| candidate.target.publication != publication);
    }

    /// Where packets of `ssrc` go.
    #[inline]
    pub fn lookup(&self, ssrc: Ssrc) -> Option<Target> {
        self.routes.iter().find(|(known, _)| *known == ssrc).map(|(_, target)| *target)
    }

    /// Where an authenticated packet of an SSRC nobody has announced belongs. Changes nothing.
    pub fn recognise(&self, header: &RtpHeader, packet: &[u8]) -> Option<Target> {
        self.candidates.iter().find_map(|candidate| candidate.matches(header, packet))
    }

    /// Enters a learnt SSRC in place of the one that went there. False: the table is full. Returns the other one by `left`.
    pub fn replace(&mut self, ssrc: Ssrc, target: Target, mut left: impl FnMut(Ssrc)) -> bool {
        self.routes.retain(|(known, other)| {
            let leaves = *other == target && *known != ssrc;
            if leaves {
                left(*known);
            }
            !leaves
        });
        self.insert(ssrc, target)
    }
}

impl Candidate {
    fn matches(&self, header: &RtpHeader, packet: &[u8]) -> Option<Target> {
        let repair = match header.payload_type {
            pt if pt == self.payload_type => false,
            pt if Some(pt) == self.rtx_payload_type => true,
            _ => return None,
        };
        let text = |id: u8| if id == 0 { None } else { rtp_ext::find(header, packet, id) };
        if let (Some(mid), Some(carried)) = (&self.mid, text(self.extensions.mid))
            && carried != mid.as_bytes()
        {
            return None;
        }
        if let Some(rid) = &self.rid {
            let id = if repair { self.extensions.repaired_rid } else { self.extensions.rid };
            if text(id) != Some(rid.as_bytes()) {
                return None;
            }
        }
        Some(Target { repair, ..self.target })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SeqNo;
    use crate::wire::rtp::HeaderFields;
    use crate::wire::rtp_ext::{ExtWriter, Form};

    const EXTENSIONS: RouteExtensions = RouteExtensions { mid: 4, rid: 10, repaired_rid: 11 };

    fn target(kind: MediaKind, encoding: u8) -> Target {
        Target { publication: 7, kind, encoding, repair: false }
    }

    fn candidate(mid: &str, rid: Option<&str>, payload_type: u8, encoding: u8) -> Candidate {
        Candidate {
            target: target(MediaKind::Video, encoding),
            mid: Some(mid.into()),
            rid: rid.map(Into::into),
            payload_type: PayloadType(payload_type),
            rtx_payload_type: Some(PayloadType(payload_type + 1)),
            extensions: EXTENSIONS,
        }
    }

    fn packet(payload_type: u8, ssrc: u32, elements: &[(u8, &str)]) -> (RtpHeader, Vec<u8>) {
        let mut out = vec![0; 200];
        let fields = HeaderFields {
            marker: false,
            padding: false,
            payload_type: PayloadType(payload_type),
            seq: SeqNo(1),
            timestamp: 0,
            ssrc: Ssrc(ssrc),
        };
        let mut len = fields.write(&mut out, &[]).expect("fits");
        if !elements.is_empty() {
            let mut writer = ExtWriter::new(&mut out, len, Form::OneByte).expect("fits");
            for (id, value) in elements {
                writer.push(*id, value.as_bytes()).expect("fits");
            }
            len = writer.finish().expect("fits");
        }
        out.truncate(len);
        (RtpHeader::parse(&out).expect("valid"), out)
    }

    #[test]
    fn learns_layers_by_rid_and_repairs_by_repaired_rid() {
        let mut table = RouteTable::default();
        assert!(table.add_candidate(candidate("1", Some("rdiv2"), 96, 0)));
        assert!(table.add_candidate(candidate("1", Some("rdiv1"), 96, 1)));
        for (payload_type, ssrc, elements, expected) in [
            (96, 100, &[(4, "1"), (10, "rdiv1")][..], Some((1, false))),
            (97, 101, &[(4, "1"), (11, "rdiv2")], Some((0, true))),
            (96, 102, &[(4, "0"), (10, "rdiv1")], None),
            (96, 103, &[(4, "1")], None),
            (99, 104, &[(4, "1"), (10, "rdiv1")], None),
        ] {
            let (header, bytes) = packet(payload_type, ssrc, elements);
            let found = table.recognise(&header, &bytes);
            assert_eq!(found.map(|target| (target.encoding, target.repair)), expected, "{ssrc}");
        }
    }

    #[test]
    fn a_new_ssrc_takes_the_place_of_the_old_one() {
        let mut table = RouteTable::default();
        let media = target(MediaKind::Video, 0);
        for other in [target(MediaKind::Video, 1), Target { repair: true, ..media }] {
            assert!(table.insert(Ssrc(10 + u32::from(other.encoding)), other));
        }
        for ssrc in 100..200 {
            let mut left = Vec::new();
            assert!(table.replace(Ssrc(ssrc), media, |ssrc| left.push(ssrc.0)));
            assert_eq!(left, if ssrc == 100 { vec![] } else { vec![ssrc - 1] });
            assert_eq!((table.lookup(Ssrc(ssrc)), table.lookup(Ssrc(ssrc - 1))), (Some(media), None));
        }
        assert!(table.lookup(Ssrc(10)).is_some() && table.lookup(Ssrc(11)).is_some());
    }

    #[test]
    fn table_is_bounded_and_forgets_a_publication() {
        let mut table = RouteTable::default();
        for ssrc in 0..MAX_ROUTES as u32 {
            assert!(table.insert(Ssrc(ssrc), target(MediaKind::Audio, 0)));
        }
        assert!(!table.insert(Ssrc(99), target(MediaKind::Audio, 0)));
        table.remove_publication(7);
        assert_eq!(table.lookup(Ssrc(3)), None);
        assert!(table.insert(Ssrc(99), target(MediaKind::Audio, 0)));
    }
}
