//! Packets of a track that have not come: they are asked for again (RFC 4585 §6.2.1), and given up in the end.

use std::ops::Range;

/// Packets that may be missing at a time; beyond, the oldest are given up.
const PACKETS_MAX: usize = 256;
/// How often a packet is asked for again.
const TRIES: u8 = 8;
/// Pause between two requests for the same packet.
const ASK_INTERVAL_NS: u64 = 100_000_000;
/// A packet is given up after this.
const AGE_NS: u64 = 1_000_000_000;

/// What is missing, by extended sequence number.
#[derive(Default)]
pub(super) struct Missing {
    packets: Vec<Packet>,
}

struct Packet {
    index: u64,
    since_ns: u64,
    asked_ns: u64,
    tries: u8,
}

impl Missing {
    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.packets.clear();
    }

    /// Notes a gap; whether others had to be given up for it.
    pub(super) fn add(&mut self, gap: Range<u64>, now_ns: u64) -> bool {
        let mut gave_up = false;
        for index in gap {
            if self.packets.len() == PACKETS_MAX {
                self.packets.remove(0);
                gave_up = true;
            }
            self.packets.push(Packet { index, since_ns: now_ns, asked_ns: 0, tries: 0 });
        }
        gave_up
    }

    /// One has come: how often it was asked for, `None` when it was not missing.
    pub(super) fn take(&mut self, index: u64) -> Option<u8> {
        let at = self.packets.iter().position(|packet| packet.index == index)?;
        Some(self.packets.remove(at).tries)
    }

    /// Gives up what is missing for too long; whether there was anything.
    pub(super) fn give_up(&mut self, now_ns: u64) -> bool {
        let before = self.packets.len();
        self.packets.retain(|packet| now_ns.saturating_sub(packet.since_ns) < AGE_NS);
        self.packets.len() < before
    }

    /// Sequence numbers that have to be asked for now.
    pub(super) fn due(&mut self, now_ns: u64) -> Vec<u16> {
        let mut wanted = Vec::new();
        for packet in &mut self.packets {
            if packet.tries < TRIES && now_ns.saturating_sub(packet.asked_ns) >= ASK_INTERVAL_NS {
                (packet.tries, packet.asked_ns) = (packet.tries + 1, now_ns);
                wanted.push(packet.index as u16);
            }
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_asked_for_until_it_comes() {
        let mut missing = Missing::default();
        assert!(!missing.add(65_537..65_538, 0));
        let at = ASK_INTERVAL_NS;
        assert_eq!(missing.due(at), [1]);
        assert!(missing.due(at + 1).is_empty());
        assert_eq!((missing.take(65_537), missing.take(65_537)), (Some(1), None));
        assert!(missing.is_empty());
        missing.add(4..5, at + 2);
        assert!(!missing.give_up(at + 1 + AGE_NS) && missing.give_up(at + 2 + AGE_NS));
        assert!(missing.is_empty());
    }

    #[test]
    fn the_oldest_makes_room_and_nothing_is_asked_for_ever() {
        let mut missing = Missing::default();
        assert!(!missing.add(0..PACKETS_MAX as u64, 0));
        assert!(missing.add(300..301, 0));
        assert_eq!((missing.take(0), missing.take(300)), (None, Some(0)));
        let asked = |round| missing.due(u64::from(round) * ASK_INTERVAL_NS).len();
        assert_eq!((1..=TRIES + 2).map(asked).sum::<usize>(), usize::from(TRIES) * (PACKETS_MAX - 1));
    }
}
