//! Which simulcast layer of a track is forwarded. All subscribers get the same one; without simulcast there is no choice.
//!
//! A change happens at a key frame of the new layer, so that no decoder sees half of each:
//!
//! ```text
//! larger layer sends a key frame ─▶ go up
//! current layer silent for 1 s ─▶ ask the largest that is heard for a key frame ─▶ go there
//! ```
//!
//! The first packet of that key frame says what it is, and on a bad path it is not always the first to come. A layer that
//! may be gone to is therefore kept, and what came too early follows.
//!
//! Left out: a choice per subscriber by its bandwidth.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::forward::room::{Layer, Track};
use crate::time::Timestamp;

/// A publisher that is short of bandwidth stops its largest layer first; a pause of this length is no jitter.
const SILENT_AFTER: Duration = Duration::from_secs(1);
/// As long after its last packet, an SSRC keeps its place against another one that claims it: longer than frames are
/// apart, so that a stray packet, or two senders for one place, cannot toss the track to and fro.
const LIVE_FOR: Duration = Duration::from_millis(100);

/// As long after a change, late packets of the layer that was left still go out: subscribers ask for them.
const FILLS_FOR: Duration = Duration::from_secs(1);

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It is of the current layer.
    Forward,
    /// Its layer is the current one from this packet on.
    Switch,
    /// Its layer was the current one a moment ago, and it fills a hole there.
    Fill,
    /// Its layer may be the next, once the beginning of its key frame is here.
    Keep,
    /// Nobody gets it.
    Skip,
}

impl Track {
    /// What to do with a packet of `encoding`. May change the current layer, or ask for a key frame to do so.
    ///
    /// `late`: a later packet of its layer came before.
    #[inline]
    pub fn choose(&mut self, now: Timestamp, encoding: u8, key_frame: bool, late: bool) -> Choice {
        if encoding == self.current {
            Choice::Forward
        } else {
            self.choose_other(now, encoding, key_frame, late)
        }
    }

    fn choose_other(&mut self, now: Timestamp, encoding: u8, key_frame: bool, late: bool) -> Choice {
        let silent = self.is_silent(now, self.current);
        let may_be_next = encoding > self.current || silent;
        if may_be_next && key_frame {
            self.left = Some((self.current, now));
            self.current = encoding;
            return Choice::Switch;
        }
        if may_be_next && silent {
            self.key_frames.request(now);
        }
        match self.left {
            Some((left, at)) if late && left == encoding && now.since(at) < FILLS_FOR => Choice::Fill,
            _ if may_be_next => Choice::Keep,
            _ => Choice::Skip,
        }
    }

    /// Layer to ask for a key frame: the current one, or the largest that is still heard.
    pub fn key_frame_layer(&self, now: Timestamp) -> u8 {
        if !self.is_silent(now, self.current) {
            return self.current;
        }
        (0..self.layers.len() as u8).rev().find(|layer| !self.is_silent(now, *layer)).unwrap_or(self.current)
    }

    fn is_silent(&self, now: Timestamp, layer: u8) -> bool {
        let ingress = &self.layers[usize::from(layer)].ingress;
        ingress.highest().is_none() || now.since(ingress.last_packet_at()) >= SILENT_AFTER
    }
}

impl Layer {
    /// Whether its SSRC was heard a moment ago.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.ingress.highest().is_some() && now.since(self.ingress.last_packet_at()) < LIVE_FOR
    }
}
