//! Publications and subscriptions of the rooms of one shard: plain tables, linked by index.
//!
//! ```text
//! Room ─┬─ publication ─┬─ track audio ── encoding ── ingress, nack, cache
//!       │   (transport) ├─ track video ── encodings (one per simulcast layer)
//!       │               └─ subscriptions ──┐     pending: packets received since the last drain
//!       └─ subscription (transport) ◀──────┘── egress audio, egress video
//! ```
//!
//! A received packet is put into its publication's `pending` list once. The drain walks that list once per subscriber, so
//! a subscriber's key, counters and destination stay hot, and its packets lie in a row for one GSO run.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use crate::buf::SlotId;
use crate::control::proto::{Feedback, HeaderExtension, MediaKind};
use crate::forward::egress::Egress;
use crate::forward::feedback::KeyFrameRequests;
use crate::forward::ingress::Ingress;
use crate::forward::nack::NackTracker;
use crate::forward::pending::{FrameClock, PendingList};
use crate::forward::resend_cache::ResendCache;
use crate::forward::rewrite::ExtensionMap;
use crate::forward::seq_map::SourceId;
use crate::ids::{PayloadType, Ssrc};
use crate::time::Timestamp;

/// A room: what belongs together and ends together.
#[derive(Debug)]
pub struct Room {
    /// Its id, opaque.
    pub id: Box<str>,
    /// Transports by id.
    pub transports: HashMap<Box<str>, u32>,
    /// Publications by id.
    pub publications: HashMap<Box<str>, u32>,
    /// Subscriptions by id.
    pub subscriptions: HashMap<Box<str>, u32>,
}

impl Room {
    /// An empty room.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            transports: HashMap::new(),
            publications: HashMap::new(),
            subscriptions: HashMap::new(),
        }
    }
}

/// One value per media kind.
#[derive(Debug)]
pub struct PerKind<T> {
    /// The audio one.
    pub audio: Option<T>,
    /// The video one.
    pub video: Option<T>,
}

impl<T> Default for PerKind<T> {
    fn default() -> Self {
        Self { audio: None, video: None }
    }
}

impl<T> PerKind<T> {
    /// The one of `kind`.
    #[inline]
    pub fn get(&self, kind: MediaKind) -> Option<&T> {
        match kind {
            MediaKind::Audio => self.audio.as_ref(),
            MediaKind::Video => self.video.as_ref(),
        }
    }

    /// The one of `kind`.
    #[inline]
    pub fn get_mut(&mut self, kind: MediaKind) -> Option<&mut T> {
        match kind {
            MediaKind::Audio => self.audio.as_mut(),
            MediaKind::Video => self.video.as_mut(),
        }
    }

    /// Where the one of `kind` lies.
    pub fn slot(&mut self, kind: MediaKind) -> &mut Option<T> {
        match kind {
            MediaKind::Audio => &mut self.audio,
            MediaKind::Video => &mut self.video,
        }
    }

    /// Those that are there.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.audio.iter().chain(&self.video)
    }

    /// Those that are there.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.audio.iter_mut().chain(&mut self.video)
    }
}

/// The payload formats whose key frames we recognise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Any audio: every packet stands alone.
    Audio,
    /// RFC 7741.
    Vp8,
    /// RFC 9628.
    Vp9,
    /// RFC 6184.
    H264,
    /// AV1 RTP payload format 1.0.
    Av1,
}

/// One RTP stream of a track.
#[derive(Debug)]
pub struct Layer {
    /// RID, with simulcast.
    pub rid: Option<Box<str>>,
    /// Names what is received now: another one with each SSRC and each transport.
    pub source: SourceId,
    /// SSRC, once known.
    pub ssrc: Option<Ssrc>,
    /// SSRC of its retransmissions, once known.
    pub rtx_ssrc: Option<Ssrc>,
    /// Reception state.
    pub ingress: Ingress,
    /// What to ask for again.
    pub nack: NackTracker,
    /// Packets kept to send again.
    pub cache: ResendCache,
}

impl Layer {
    /// Begins anew as `source`: another SSRC has numbers and timestamps of its own. The slots of what was kept go to
    /// `release`.
    pub fn restart(&mut self, now: Timestamp, source: SourceId, release: impl FnMut(SlotId)) {
        self.cache.drain(release);
        self.source = source;
        self.ingress = Ingress::new(self.ingress.clock_rate(), now);
        self.nack.restart();
    }
}

/// Header extension ids of a publisher's m-line; zero: not negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrackExtensions {
    /// RFC 6464.
    pub audio_level: u8,
    /// Transport-wide sequence number.
    pub transport_seq: u8,
}

/// One m-line of a publisher.
#[derive(Debug)]
pub struct Track {
    /// Audio or video.
    pub kind: MediaKind,
    /// How to find key frames.
    pub format: Format,
    /// Payload type of media.
    pub payload_type: PayloadType,
    /// Payload type of retransmissions.
    pub rtx_payload_type: Option<PayloadType>,
    /// RTP clock rate, Hz.
    pub clock_rate: u32,
    /// Extensions we read.
    pub extensions: TrackExtensions,
    /// Everything negotiated, for the subscribers' maps.
    pub header_extensions: Vec<HeaderExtension>,
    /// Feedback the publisher understands.
    pub feedback: Feedback,
    /// Bitrate cap for REMB, bit/s.
    pub max_bitrate_bps: Option<u64>,
    /// RTP streams, smallest picture first.
    pub layers: Vec<Layer>,
    /// Layer that is forwarded.
    pub current: u8,
    /// Layer that was forwarded before, and until when.
    pub left: Option<(u8, Timestamp)>,
    /// Key frame requests on their way to the publisher.
    pub key_frames: KeyFrameRequests,
}

impl Track {
    /// Whether who negotiated this can play it.
    pub fn decodes_as(&self, format: Format, clock_rate: u32) -> bool {
        (self.format, self.clock_rate) == (format, clock_rate)
    }
}

/// A stream that comes in.
#[derive(Debug)]
pub struct Publication {
    /// Its id, opaque.
    pub id: Box<str>,
    /// Its room.
    pub room: u32,
    /// Transport it comes in by.
    pub transport: u32,
    /// Sources named so far.
    pub sources: u32,
    /// Its m-lines.
    pub tracks: PerKind<Track>,
    /// Whether a subscriber may ask for audio again. Browsers do not, and a packet kept for nobody costs a whole slot.
    pub audio_resends: bool,
    /// Who gets it.
    pub subscriptions: Vec<u32>,
    /// Packets received since the last drain.
    pub pending: PendingList,
    /// When the next frame is due.
    pub frames: FrameClock,
}

impl Publication {
    /// Takes these tracks, each of whose layers is a new source.
    pub fn set_tracks(&mut self, tracks: PerKind<Track>) {
        self.tracks = tracks;
        for layer in self.tracks.iter_mut().flat_map(|track| &mut track.layers) {
            self.sources += 1;
            layer.source = SourceId(self.sources);
        }
    }
}

/// Header extensions of one m-line towards a subscriber.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// By the subscriber's ids.
    pub extensions: Vec<HeaderExtension>,
    /// Value of its MID.
    pub mid: Option<String>,
}

impl Accepted {
    /// How elements of `track` are carried to the subscriber.
    pub fn map_from(&self, track: &Track) -> ExtensionMap {
        ExtensionMap::negotiate(&track.header_extensions, &self.extensions, self.mid.as_deref())
    }
}

/// A stream that goes out.
#[derive(Debug)]
pub struct Subscription {
    /// Its id, opaque.
    pub id: Box<str>,
    /// Its room.
    pub room: u32,
    /// Transport it goes out by.
    pub transport: u32,
    /// What it forwards.
    pub publication: u32,
    /// Its m-lines.
    pub egress: PerKind<Egress>,
    /// What the subscriber negotiated for header extensions.
    pub accepted: PerKind<Accepted>,
}

impl Subscription {
    /// Takes over what a publisher has negotiated that has moved to another peer connection: extension ids, and whether its
    /// codec is still the one this subscriber can play.
    pub fn adopt(&mut self, publication: &Publication) {
        for kind in [MediaKind::Audio, MediaKind::Video] {
            if let (Some(egress), Some(track), Some(accepted)) =
                (self.egress.get_mut(kind), publication.tracks.get(kind), self.accepted.get(kind))
            {
                egress.set_extensions(accepted.map_from(track));
                egress.set_foreign(!track.decodes_as(egress.config().format, egress.config().clock_rate));
            }
        }
    }
}
