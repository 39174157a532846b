//! Deadlines of one worker, a millisecond per slot. Times are microseconds since the worker's start.

/// Slots, a power of two; the longest delay is below so many milliseconds.
const SLOTS: u64 = 1024;

/// A ring of slots; entries keep their exact time.
pub(crate) struct Wheel<T> {
    slots: Vec<Vec<(u64, T)>>,
    /// Next millisecond to be drained.
    cursor: u64,
}

impl<T> Wheel<T> {
    pub(crate) fn new() -> Wheel<T> {
        Wheel { slots: (0..SLOTS).map(|_| Vec::new()).collect(), cursor: 0 }
    }

    /// Adds an entry due at `due_us`; what is due already comes with the next slot, what is further off than the wheel turns
    /// comes early, at its end.
    pub(crate) fn insert(&mut self, due_us: u64, entry: T) {
        let slot = (due_us / 1000).clamp(self.cursor, self.cursor + SLOTS - 1);
        self.slots[(slot % SLOTS) as usize].push((due_us, entry));
    }

    /// Takes the entries of the next slot, if its millisecond has begun; give the empty vector back with [`Wheel::recycle`].
    pub(crate) fn due(&mut self, now_us: u64) -> Option<Vec<(u64, T)>> {
        (self.cursor <= now_us / 1000).then(|| {
            let slot = std::mem::take(&mut self.slots[(self.cursor % SLOTS) as usize]);
            self.cursor += 1;
            slot
        })
    }

    /// Gives a drained slot's memory back.
    pub(crate) fn recycle(&mut self, mut slot: Vec<(u64, T)>) {
        slot.clear();
        let last = &mut self.slots[((self.cursor + SLOTS - 1) % SLOTS) as usize];
        if last.capacity() == 0 {
            *last = slot;
        }
    }

    /// Milliseconds by which draining is behind.
    pub(crate) fn behind_ms(&self, now_us: u64) -> u64 {
        (now_us / 1000).saturating_sub(self.cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_in_their_millisecond_and_late_ones_at_once() {
        let mut wheel = Wheel::new();
        wheel.insert(2_500, 'b');
        wheel.insert(0, 'a');
        wheel.insert(5_000_000, 'z');
        let mut seen = Vec::new();
        while let Some(mut slot) = wheel.due(2_999) {
            for (due, entry) in slot.drain(..) {
                seen.push(entry);
                if entry == 'a' {
                    wheel.insert(due, 'c');
                }
            }
            wheel.recycle(slot);
        }
        assert_eq!(seen, ['a', 'c', 'b']);
        assert_eq!(wheel.behind_ms(9_000), 6);
        let mut rest = 0;
        while let Some(slot) = wheel.due(1_100_000) {
            rest += slot.len();
            wheel.recycle(slot);
        }
        assert_eq!(rest, 1, "further off than the wheel turns");
    }
}
