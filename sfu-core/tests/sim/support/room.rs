//! Joining, publishing and subscribing as the controller would do it.

use sfu_core::control::proto::{
    Codec, DtlsRole, Encoding, Feedback, Fingerprint, HeaderExtension, IceCredentials, MediaKind, Op,
    PublicationTrack, RemoteTransport, SubscriptionTrack,
};
use sfu_core::forward::rewrite::{
    URI_ABS_SEND_TIME, URI_AUDIO_LEVEL, URI_MID, URI_REPAIRED_RID, URI_RID, URI_TRANSPORT_WIDE_CC,
};
use sfu_core::shard::OpError;

use super::peer::{PEER, SimPeer, certificate};
use super::receiver::{self, Receiver, ReceiverSpec};
use super::rng::Rng;
use super::sender::{self, AUDIO_CLOCK, Sender, StreamSpec, VIDEO_CLOCK};
use super::world::World;

/// How a peer connects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Join {
    /// The peer's DTLS role.
    pub(crate) role: DtlsRole,
    /// Certificate whose fingerprint signaling tells the node.
    pub(crate) told: usize,
    /// The node hears of the peer's side only by a later `ConnectTransport`.
    pub(crate) remote_later: bool,
    /// Speaks IPv6.
    pub(crate) ipv6: bool,
}

impl Default for Join {
    fn default() -> Join {
        Join { role: DtlsRole::Client, told: PEER, remote_later: false, ipv6: false }
    }
}

/// What a peer publishes.
#[derive(Clone, Debug)]
pub(crate) struct Publish {
    pub(crate) audio: bool,
    pub(crate) video: bool,
    /// Simulcast layers; 1 without.
    pub(crate) layers: u32,
    pub(crate) rtx: bool,
    /// Signaling tells the SSRCs.
    pub(crate) signaled: bool,
    /// PLI is negotiated; FIR always is.
    pub(crate) pli: bool,
    pub(crate) max_bitrate_bps: Option<u64>,
    pub(crate) first_seq: u16,
    pub(crate) padding_every: Option<u32>,
    /// What signaling says the video is; the payload is VP8's whatever it says.
    pub(crate) video_codec: &'static str,
}

impl Default for Publish {
    fn default() -> Publish {
        Publish {
            audio: true,
            video: true,
            layers: 1,
            rtx: true,
            signaled: true,
            pli: true,
            max_bitrate_bps: None,
            // Wraps within the first second or two.
            first_seq: 0xffc0,
            padding_every: None,
            video_codec: "VP8",
        }
    }
}

/// What a subscriber takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscribe {
    pub(crate) audio: bool,
    pub(crate) video: bool,
    pub(crate) rtx: bool,
    /// Asks for missing packets.
    pub(crate) nack: bool,
    /// Asks for key frames when pictures cannot be decoded.
    pub(crate) pli: bool,
}

impl Default for Subscribe {
    fn default() -> Subscribe {
        Subscribe { audio: true, video: true, rtx: true, nack: true, pli: false }
    }
}

/// What the controller knows of a publication.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) kinds: Vec<MediaKind>,
    /// Tags of its streams: audio first, then video layers, smallest first.
    pub(crate) tags: Vec<u32>,
    pub(crate) video_codec: &'static str,
}

/// SSRCs of a subscription.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscribed {
    pub(crate) peer: usize,
    pub(crate) audio: u32,
    pub(crate) video: u32,
}

fn extension(id: u8, uri: &str) -> HeaderExtension {
    HeaderExtension { id, uri: uri.into() }
}

fn codec(kind: MediaKind, video: &str, payload_type: u8, rtx_payload_type: Option<u8>) -> Codec {
    let (name, clock_rate) = match kind {
        MediaKind::Audio => ("opus", AUDIO_CLOCK),
        MediaKind::Video => (video, VIDEO_CLOCK),
    };
    Codec { name: name.into(), payload_type, clock_rate, rtx_payload_type }
}

fn feedback(kind: MediaKind, pli: bool, remb: bool) -> Feedback {
    let video = kind == MediaKind::Video;
    Feedback { nack: video, pli: video && pli, fir: video, transport_cc: true, remb }
}

impl World {
    /// A peer that joins like a browser: its transport is opened, and it begins to send checks.
    pub(crate) fn join(&mut self, name: &str) -> usize {
        self.join_as(name, Join::default()).expect("the transport opens")
    }

    /// The same with options.
    pub(crate) fn join_as(&mut self, name: &str, join: Join) -> Result<usize, OpError> {
        let number = self.give();
        let node = IceCredentials {
            ufrag: format!("node{number:04}"),
            pwd: format!("0123456789012345678901{number:04}"),
        };
        let ufrag = format!("peer{number:04}");
        let (at, remote_later) = (number as u16, join.remote_later);
        let addr = match join.ipv6 {
            false => ([192, 0, 2, (at % 200) as u8 + 1], 20_000 + at).into(),
            true => ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 20_000 + at).into(),
        };
        let rng = Rng::new(self.rng.next());
        let mut peer = SimPeer::new(self.now, name, addr, node.clone(), &ufrag, rng);
        peer.dtls_role = join.role;
        let remote = remote(&peer, join.told);
        self.apply(vec![Op::OpenTransport {
            transport: name.into(),
            ice: node,
            remote: (!remote_later).then_some(remote),
        }])?;
        Ok(self.enter(peer))
    }

    /// Tells the node the peer's side, for [`Join::remote_later`].
    pub(crate) fn connect(&mut self, peer: usize) -> Result<(), OpError> {
        let (transport, remote) = (self.peers[peer].name.clone(), remote(&self.peers[peer], PEER));
        self.apply(vec![Op::ConnectTransport { transport, remote }])
    }

    /// Publishes, or moves a publication to `peer`. Returns the tags of the new streams.
    pub(crate) fn publish(&mut self, peer: usize, id: &str, what: &Publish) -> Result<Vec<u32>, OpError> {
        let mut tracks = Vec::new();
        let mut specs = Vec::new();
        for (kind, wanted) in [(MediaKind::Audio, what.audio), (MediaKind::Video, what.video)] {
            if wanted {
                let streams = self.streams(kind, what);
                tracks.push(publication_track(kind, what, &streams));
                specs.extend(streams);
            }
        }
        let transport = self.peers[peer].name.clone();
        let kinds = tracks.iter().map(|track| track.kind).collect();
        self.apply(vec![Op::Publish { transport, publication: id.into(), tracks }])?;
        let tags: Vec<u32> = specs.iter().map(|spec| spec.tag).collect();
        let now = self.now;
        self.peers[peer].senders.extend(specs.into_iter().map(|spec| Sender::new(spec, now)));
        self.published
            .insert(id.into(), Published { kinds, tags: tags.clone(), video_codec: what.video_codec });
        Ok(tags)
    }

    fn streams(&mut self, kind: MediaKind, what: &Publish) -> Vec<StreamSpec> {
        let layers = if kind == MediaKind::Video { what.layers } else { 1 };
        let stream = |layer: u32| {
            let tag = self.give();
            let (payload_type, rtx, bytes) = match kind {
                MediaKind::Audio => (111, None, 120),
                MediaKind::Video => (96, what.rtx.then_some((900_000 + tag, 97)), 400 + 300 * layer as usize),
            };
            StreamSpec {
                kind,
                ssrc: 100_000 + tag,
                payload_type,
                rtx,
                mid: if kind == MediaKind::Audio { "0".into() } else { "1".into() },
                rid: (layers > 1).then(|| format!("r{layer}")),
                tag,
                payload_bytes: bytes,
                even: false,
                first_seq: what.first_seq,
                padding_every: what.padding_every.filter(|_| kind == MediaKind::Video),
                key_parts: 3,
            }
        };
        (0..layers).map(stream).collect()
    }

    /// Subscribes.
    pub(crate) fn subscribe(
        &mut self,
        peer: usize,
        id: &str,
        publication: &str,
        what: Subscribe,
    ) -> Result<Subscribed, OpError> {
        let published = self.published.get(publication);
        let video_codec = published.map_or("VP8", |published| published.video_codec);
        let kinds = published.map_or(vec![MediaKind::Audio], |published| published.kinds.clone());
        let mut subscribed = Subscribed { peer, audio: 0, video: 0 };
        let mut tracks = Vec::new();
        let mut receivers = Vec::new();
        for kind in kinds {
            let ssrc = 500_000 + self.give();
            let (wanted, place) = match kind {
                MediaKind::Audio => (what.audio, &mut subscribed.audio),
                MediaKind::Video => (what.video, &mut subscribed.video),
            };
            if wanted {
                *place = ssrc;
                let spec = receiver_spec(kind, ssrc, what);
                tracks.push(subscription_track(&spec, video_codec));
                receivers.push(Receiver::new(spec));
            }
        }
        let op = Op::Subscribe {
            transport: self.peers[peer].name.clone(),
            subscription: id.into(),
            publication: publication.into(),
            tracks,
        };
        self.apply(vec![op])?;
        self.peers[peer].receivers.extend(receivers);
        Ok(subscribed)
    }

    /// The stream of `kind` that a subscriber gets.
    pub(crate) fn video(&self, subscribed: Subscribed) -> &Receiver {
        self.peers[subscribed.peer].receiver(subscribed.video)
    }

    /// The same for audio.
    pub(crate) fn audio(&self, subscribed: Subscribed) -> &Receiver {
        self.peers[subscribed.peer].receiver(subscribed.audio)
    }
}

fn remote(peer: &SimPeer, told: usize) -> RemoteTransport {
    let value = certificate(told).fingerprint().into();
    RemoteTransport {
        ice_ufrag: peer.ufrag.clone(),
        fingerprints: vec![Fingerprint { algorithm: "sha-256".into(), value }],
        dtls_role: peer.dtls_role,
    }
}

fn publication_track(kind: MediaKind, what: &Publish, streams: &[StreamSpec]) -> PublicationTrack {
    use sender::ext_id;
    let encoding = |stream: &StreamSpec| Encoding {
        ssrc: what.signaled.then_some(stream.ssrc),
        rtx_ssrc: stream.rtx.filter(|_| what.signaled).map(|(ssrc, _)| ssrc),
        rid: stream.rid.clone(),
    };
    let rtx = streams[0].rtx.map(|(_, payload_type)| payload_type);
    PublicationTrack {
        kind,
        mid: Some(streams[0].mid.clone()),
        codec: codec(kind, what.video_codec, streams[0].payload_type, rtx),
        encodings: streams.iter().map(encoding).collect(),
        extensions: vec![
            extension(ext_id::AUDIO_LEVEL, URI_AUDIO_LEVEL),
            extension(ext_id::ABS_SEND_TIME, URI_ABS_SEND_TIME),
            extension(ext_id::TRANSPORT_SEQ, URI_TRANSPORT_WIDE_CC),
            extension(ext_id::MID, URI_MID),
            extension(ext_id::RID, URI_RID),
            extension(ext_id::REPAIRED_RID, URI_REPAIRED_RID),
        ],
        feedback: feedback(kind, what.pli, what.max_bitrate_bps.is_some()),
        max_bitrate_bps: what.max_bitrate_bps,
    }
}

fn receiver_spec(kind: MediaKind, ssrc: u32, what: Subscribe) -> ReceiverSpec {
    let (payload_type, rtx) = match kind {
        MediaKind::Audio => (109, None),
        MediaKind::Video => (100, what.rtx.then_some((ssrc + 500_000, 101))),
    };
    let video = kind == MediaKind::Video;
    ReceiverSpec {
        kind,
        ssrc,
        payload_type,
        rtx,
        mid: format!("m{ssrc}"),
        nack: what.nack && video,
        pli: what.pli && video,
    }
}

fn subscription_track(spec: &ReceiverSpec, video_codec: &str) -> SubscriptionTrack {
    use receiver::ext_id;
    SubscriptionTrack {
        kind: spec.kind,
        mid: Some(spec.mid.clone()),
        codec: codec(
            spec.kind,
            video_codec,
            spec.payload_type,
            spec.rtx.map(|(_, payload_type)| payload_type),
        ),
        ssrc: spec.ssrc,
        rtx_ssrc: spec.rtx.map(|(ssrc, _)| ssrc),
        extensions: vec![
            extension(ext_id::AUDIO_LEVEL, URI_AUDIO_LEVEL),
            extension(ext_id::ABS_SEND_TIME, URI_ABS_SEND_TIME),
            extension(ext_id::MID, URI_MID),
        ],
        feedback: feedback(spec.kind, true, false),
    }
}
