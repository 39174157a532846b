//! Which simulcast layer of a track is forwarded. All subscribers get the same one; without simulcast there is no choice.
//!
//! A change happens at a key frame of the new layer, so that no decoder sees half of each:
//!
//! ```text
//! larger layer sends a key frame ─▶ go up
//! current layer silent for 1 s, another one sends a key frame ─▶ go there
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
    /// Whether a packet of `encoding` is forwarded. May change the current layer.
    #[inline]
    pub fn forwards(&mut self, now: Timestamp, encoding: u8, key_frame: bool) -> bool {
        encoding == self.current || (key_frame && self.changes_to(now, encoding))
    }

    #[cold]
    fn changes_to(&mut self, now: Timestamp, encoding: u8) -> bool {
        let ingress = &self.layers[usize::from(self.current)].ingress;
        let silent = ingress.highest().is_none() || now.since(ingress.last_packet_at()) >= SILENT_AFTER;
        let change = encoding > self.current || silent;
        if change {
            self.current = encoding;
        }
        change
    }
}
