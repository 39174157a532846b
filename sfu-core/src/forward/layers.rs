//! Which simulcast layer of a track is forwarded. All subscribers get the same one; without simulcast there is no choice.
//!
//! A change happens at a key frame of the new layer, so that no decoder sees half of each:
//!
//! ```text
//! larger layer sends a key frame ─▶ go up
//! current layer silent for 1 s ─▶ ask the largest that is heard for a key frame ─▶ go there
//! ```
//!
//! Left out: a choice per subscriber by its bandwidth.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::forward::room::Track;
use crate::time::Timestamp;

/// A publisher that is short of bandwidth stops its largest layer first; a pause of this length is no jitter.
const SILENT_AFTER: Duration = Duration::from_secs(1);

impl Track {
    /// Whether a packet of `encoding` is forwarded. May change the current layer, or ask for a key frame to do so.
    #[inline]
    pub fn forwards(&mut self, now: Timestamp, encoding: u8, key_frame: bool) -> bool {
        encoding == self.current || self.changes_to(now, encoding, key_frame)
    }

    fn changes_to(&mut self, now: Timestamp, encoding: u8, key_frame: bool) -> bool {
        let silent = self.is_silent(now, self.current);
        if !key_frame && silent {
            self.key_frames.request(now);
        }
        let change = key_frame && (encoding > self.current || silent);
        if change {
            self.current = encoding;
        }
        change
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
