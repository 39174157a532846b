//! What the walk over the subscribers reads is asked for a few subscribers before it gets there.
//!
//! ```text
//! subscribers    n            n+1            n+2              n+3
//! asked for      (sealing)    its key  ◀──   its transport ◀──  its stream     each behind a pointer in the one before
//! ```
//!
//! One subscriber is some twenty cache lines that nobody has touched since its last frame.
#![forbid(unsafe_code)]

use slab::Slab;

use crate::control::proto::MediaKind;
use crate::forward::room::{Publication, Subscription};
use crate::prefetch::prefetch;
use crate::transport::Transport;

use super::Peer;
use super::drain::Cursor;

/// Subscribers between the walk and the first that is asked for.
pub(super) const DISTANCE: usize = 3;

/// Runs before the walk over the publications that wait and their subscribers.
#[derive(Default)]
pub(super) struct Lookahead {
    publication: usize,
    subscriber: usize,
    /// Subscriptions that the walk is about to come to, the farthest first.
    near: [Option<u32>; DISTANCE],
}

impl Lookahead {
    /// Runs before a walk that begins at `cursor`; call [`Lookahead::advance`] [`DISTANCE`] times before the walk.
    pub(super) fn from(cursor: &Cursor) -> Lookahead {
        Lookahead { publication: cursor.publication, subscriber: cursor.subscriber, near: [None; DISTANCE] }
    }

    /// The walk comes to another subscriber.
    #[inline]
    pub(super) fn advance(
        &mut self,
        dirty: &[u32],
        publications: &Slab<Publication>,
        subscriptions: &Slab<Subscription>,
        peers: &Slab<Peer>,
    ) {
        let far = self.next(dirty, publications, subscriptions);
        let [stream, transport, _] = self.near;
        let of = |subscription: Option<u32>| -> Option<&Transport> {
            Some(&peers[subscriptions[subscription? as usize].transport as usize].transport)
        };
        if let Some(transport) = of(stream) {
            transport.prefetch();
        }
        if let Some(transport) = of(transport) {
            transport.prefetch_key();
        }
        self.near = [far, stream, transport];
    }

    /// Asks for the state of the next subscriber's stream.
    #[inline]
    fn next(
        &mut self,
        dirty: &[u32],
        publications: &Slab<Publication>,
        subscriptions: &Slab<Subscription>,
    ) -> Option<u32> {
        loop {
            let publication = publications.get(*dirty.get(self.publication)? as usize);
            if let Some(publication) = publication
                && let Some(&index) = publication.subscriptions.get(self.subscriber)
            {
                self.subscriber += 1;
                let subscription = &subscriptions[index as usize];
                prefetch(&subscription.transport);
                // A frame and the audio behind it, or audio alone.
                match publication.pending.get(0).map(|packet| packet.kind) {
                    Some(MediaKind::Video) => prefetch(&subscription.egress.video),
                    _ => prefetch(&subscription.egress.audio),
                }
                return Some(index);
            }
            (self.publication, self.subscriber) = (self.publication + 1, 0);
            // The one behind the next is read when the walk comes near.
            if let Some(publication) =
                dirty.get(self.publication + 1).and_then(|&at| publications.get(at as usize))
            {
                prefetch(&publication.subscriptions);
                prefetch(&publication.pending);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read once in a while belongs elsewhere (`Box`): it would only keep what every packet reads apart.
    #[test]
    fn what_the_walk_reads_lies_close_together() {
        let sizes = [size_of::<Subscription>(), size_of::<Peer>()];
        assert!(sizes.iter().all(|size| *size < 1_200), "{sizes:?} bytes");
    }
}
