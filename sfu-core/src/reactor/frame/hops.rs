//! The hops a shard knows, by destination: a table of fixed size. A destination that finds no place takes that of another,
//! which then goes by the UDP socket until it is asked for again.

use std::net::IpAddr;
use std::time::Duration;

use super::Hop;
use crate::ids::LocalId;
use crate::time::Timestamp;

/// Destinations a shard can know: as many as the transports of a full core.
const ENTRIES: usize = 1 << 14;
/// Places a destination may be in.
const WAYS: usize = 4;
/// A known hop is asked for again after this long.
const REFRESH: Duration = Duration::from_secs(3);
/// A destination without a hop is asked for again after this long, and after twice as long each time it has none: a
/// neighbour is known in a moment, a tunnel never becomes Ethernet.
const RETRY: Duration = Duration::from_millis(500);
/// How often the time is doubled.
const DOUBLINGS: u8 = 6;
/// A hop nobody has confirmed for so long is not used any more.
const LIFETIME: Duration = Duration::from_secs(10);

#[derive(Clone, Copy)]
struct Entry {
    to: IpAddr,
    local: LocalId,
    hop: Option<Hop>,
    /// Answers without a hop in a row.
    misses: u8,
    ask_at: Timestamp,
    dies_at: Timestamp,
}

/// The table.
pub(super) struct Hops {
    entries: Box<[Option<Entry>]>,
}

impl Default for Hops {
    fn default() -> Hops {
        Hops { entries: vec![None; ENTRIES].into() }
    }
}

impl Hops {
    /// The hop to `to` from socket `local`. When it is time to ask, `ask` is called, and there is no hop this once.
    pub(super) fn get(
        &mut self,
        local: LocalId,
        to: IpAddr,
        now: Timestamp,
        ask: impl FnOnce(),
    ) -> Option<Hop> {
        let Some(entry) = self.find(local, to) else {
            ask();
            *self.place(local, to, now) =
                Some(Entry { to, local, hop: None, misses: 0, ask_at: now + RETRY, dies_at: now });
            return None;
        };
        if now >= entry.ask_at {
            entry.ask_at = now + RETRY;
            ask();
            return None;
        }
        entry.hop.filter(|_| now < entry.dies_at)
    }

    /// Notes what the kernel says of a destination; `None`: it has no hop.
    pub(super) fn on_answer(&mut self, local: LocalId, to: IpAddr, hop: Option<Hop>, now: Timestamp) {
        if let Some(entry) = self.find(local, to) {
            entry.hop = hop;
            if hop.is_some() {
                (entry.misses, entry.ask_at) = (0, now + REFRESH);
            } else {
                entry.ask_at = now + RETRY * (1 << entry.misses);
                entry.misses = (entry.misses + 1).min(DOUBLINGS);
            }
            entry.dies_at = now + LIFETIME;
        }
    }

    /// Does not use the hop of a destination until it is answered anew.
    pub(super) fn forget(&mut self, local: LocalId, to: IpAddr) {
        if let Some(entry) = self.find(local, to) {
            entry.hop = None;
        }
    }

    fn find(&mut self, local: LocalId, to: IpAddr) -> Option<&mut Entry> {
        let set = set_of(local, to);
        self.entries[set..set + WAYS]
            .iter_mut()
            .flatten()
            .find(|entry| entry.to == to && entry.local == local)
    }

    /// An empty place, or that of the destination that will be missed least: the one that dies first.
    fn place(&mut self, local: LocalId, to: IpAddr, now: Timestamp) -> &mut Option<Entry> {
        let set = set_of(local, to);
        let age =
            |entry: &Option<Entry>| entry.map_or(Timestamp::ZERO, |entry| entry.dies_at.min(now + LIFETIME));
        self.entries[set..set + WAYS].iter_mut().min_by_key(|entry| age(entry)).expect("there are ways")
    }
}

/// First place of a destination's set.
fn set_of(local: LocalId, to: IpAddr) -> usize {
    let key = match to {
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        IpAddr::V6(ip) => {
            let bits = u128::from(ip);
            (bits >> 64) as u64 ^ bits as u64
        }
    };
    // Fibonacci hashing: the high bits depend on all bits of the key.
    let hash = (key ^ u64::from(local.0) << 56).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (hash >> 32) as usize % (ENTRIES / WAYS) * WAYS
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOP: Hop = Hop { interface: 1, source: [1; 6], target: [2; 6], mtu: 1500 };
    const LOCAL: LocalId = LocalId(0);

    fn ip(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_millis(ms)
    }

    /// The hop, and whether it was asked for.
    fn get(hops: &mut Hops, to: IpAddr, now: Timestamp) -> (Option<Hop>, bool) {
        let mut asked = false;
        let hop = hops.get(LOCAL, to, now, || asked = true);
        (hop, asked)
    }

    #[test]
    fn a_hop_is_asked_for_once_used_and_asked_for_again() {
        let mut hops = Hops::default();
        assert_eq!(get(&mut hops, ip(1), at(0)), (None, true));
        assert_eq!(get(&mut hops, ip(1), at(1)), (None, false));
        hops.on_answer(LOCAL, ip(1), Some(HOP), at(2));
        assert_eq!(get(&mut hops, ip(1), at(3)), (Some(HOP), false));
        assert_eq!(get(&mut hops, ip(1), at(3_002)), (None, true));
        // Used on while the answer is awaited.
        assert_eq!(get(&mut hops, ip(1), at(3_003)), (Some(HOP), false));
        // Nobody answers: asked for again and again, and in the end not used.
        assert_eq!(get(&mut hops, ip(1), at(3_502)), (None, true));
        assert_eq!(get(&mut hops, ip(1), at(10_002)), (None, true));
        assert_eq!(get(&mut hops, ip(1), at(10_003)), (None, false));
        hops.on_answer(LOCAL, ip(1), Some(HOP), at(10_004));
        assert_eq!(get(&mut hops, ip(1), at(10_005)), (Some(HOP), false));
    }

    #[test]
    fn no_hop_is_asked_for_again_soon_and_a_forgotten_one_is_not_used() {
        let mut hops = Hops::default();
        get(&mut hops, ip(1), at(0));
        hops.on_answer(LOCAL, ip(1), None, at(1));
        assert_eq!(get(&mut hops, ip(1), at(2)), (None, false));
        assert_eq!(get(&mut hops, ip(1), at(501)), (None, true));
        hops.on_answer(LOCAL, ip(1), None, at(501));
        assert_eq!(get(&mut hops, ip(1), at(1_500)), (None, false), "twice as long the second time");
        assert_eq!(get(&mut hops, ip(1), at(1_501)), (None, true));
        hops.on_answer(LOCAL, ip(1), Some(HOP), at(502));
        hops.forget(LOCAL, ip(1));
        assert_eq!(get(&mut hops, ip(1), at(503)), (None, false));
    }

    #[test]
    fn sockets_and_destinations_are_told_apart() {
        let mut hops = Hops::default();
        get(&mut hops, ip(1), at(0));
        hops.on_answer(LOCAL, ip(1), Some(HOP), at(0));
        assert_eq!(get(&mut hops, ip(2), at(1)).0, None);
        assert_eq!(hops.get(LocalId(1), ip(1), at(1), || {}), None);
        hops.on_answer(LOCAL, ip(3), Some(HOP), at(1));
        assert_eq!(get(&mut hops, ip(3), at(1)), (None, true), "an answer nobody waits for is dropped");
    }

    #[test]
    fn more_destinations_than_places_lose_hops_but_nothing_else() {
        let mut hops = Hops::default();
        let many = (ENTRIES * 2) as u32;
        for number in 0..many {
            get(&mut hops, ip(number), at(0));
            hops.on_answer(LOCAL, ip(number), Some(HOP), at(0));
        }
        let known = (0..many).filter(|number| hops.find(LOCAL, ip(*number)).is_some()).count();
        assert_eq!(known, ENTRIES);
    }
}
