//! Datagrams on their way. Each is lost, doubled and delayed by its link's figures; a jitter above the distance between
//! two packets reorders them.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use sfu_core::ids::LocalId;
use sfu_core::time::Timestamp;

use super::rng::Rng;

/// One direction of a path.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    /// Least time on the way.
    pub(crate) delay: Duration,
    /// Added to it, evenly from zero.
    pub(crate) jitter: Duration,
    /// Share lost, 0.0..=1.0.
    pub(crate) loss: f64,
    /// Share delivered twice.
    pub(crate) duplicate: f64,
}

impl Link {
    /// A clean path of so many milliseconds.
    pub(crate) fn clean(delay_ms: u64) -> Link {
        Link { delay: super::ms(delay_ms), ..Link::default() }
    }
}

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// To the shard, from this address, to this one of its sockets.
    Shard { from: SocketAddr, local: LocalId },
    /// To the peer at this address.
    Peer { at: SocketAddr, local: LocalId },
}

impl To {
    fn peer(self) -> SocketAddr {
        match self {
            To::Shard { from, .. } => from,
            To::Peer { at, .. } => at,
        }
    }
}

/// Everything between the peers and the shard.
pub(crate) struct Network {
    rng: Rng,
    on_the_way: BTreeMap<(Timestamp, u64), (To, Vec<u8>)>,
    sent: u64,
    /// (to the shard, to the peer), by the peer's address.
    links: HashMap<SocketAddr, (Link, Link)>,
    default: (Link, Link),
}

impl Network {
    pub(crate) fn new(rng: Rng) -> Network {
        Network {
            rng,
            on_the_way: BTreeMap::new(),
            sent: 0,
            links: HashMap::new(),
            default: (Link::clean(10), Link::clean(10)),
        }
    }

    /// Both directions of every path that has no link of its own.
    pub(crate) fn set_default(&mut self, link: Link) {
        self.default = (link, link);
    }

    /// Both directions of one peer's path.
    pub(crate) fn set_link(&mut self, peer: SocketAddr, up: Link, down: Link) {
        self.links.insert(peer, (up, down));
    }

    pub(crate) fn send(&mut self, now: Timestamp, to: To, datagram: Vec<u8>) {
        let (up, down) = self.links.get(&to.peer()).copied().unwrap_or(self.default);
        let link = if matches!(to, To::Shard { .. }) { up } else { down };
        if self.rng.chance(link.loss) {
            return;
        }
        let copies = if self.rng.chance(link.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let jitter = Duration::from_nanos(self.rng.below(link.jitter.as_nanos() as u64 + 1));
            self.sent += 1;
            self.on_the_way.insert((now + link.delay + jitter, self.sent), (to, datagram.clone()));
        }
    }

    /// When the next datagram arrives.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.on_the_way.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next datagram that has arrived by `now`.
    pub(crate) fn pop(&mut self, now: Timestamp) -> Option<(To, Vec<u8>)> {
        let first = self.on_the_way.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}
