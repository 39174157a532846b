//! How many sessions the next step has: fast at first, then finer, down again after a step that was not held.

/// A step that is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) sessions: u32,
    pub(crate) held: bool,
    /// CPU share of the cores that the target was given; `None` when it is not measured.
    pub(crate) cpu: Option<f64>,
}

/// Below this share of the limit the number is doubled.
const DOUBLE_BELOW: f64 = 0.45;
/// The search ends when it is known to one part in so many.
const PRECISION: u32 = 25;

/// The next number of sessions, `None` when the capacity is known or `max` is held.
pub(crate) fn next(points: &[Point], start: u32, max: u32, cpu_limit: f64) -> Option<u32> {
    let held = points.iter().filter(|point| point.held).max_by_key(|point| point.sessions);
    let broken = points.iter().filter(|point| !point.held).map(|point| point.sessions).min();
    match (held, broken) {
        (None, None) => Some(start.clamp(1, max.max(1))),
        (None, Some(1)) => None,
        (None, Some(broken)) => Some(broken / 2),
        (Some(held), Some(broken)) => {
            let gap = broken.saturating_sub(held.sessions);
            (gap > (broken / PRECISION).max(1)).then_some(held.sessions + gap / 2)
        }
        (Some(held), None) if held.sessions >= max => None,
        (Some(held), None) => Some(up(held, cpu_limit).min(max)),
    }
}

/// From a held step: double while there is plenty of room, else half way to where the CPU would be full.
fn up(held: &Point, cpu_limit: f64) -> u32 {
    let now = held.sessions;
    let share = held.cpu.map_or(0.0, |cpu| cpu / cpu_limit);
    if share < DOUBLE_BELOW {
        return now * 2;
    }
    let full = (f64::from(now) / share) as u32;
    now + (full.saturating_sub(now) / 2).max(now / PRECISION).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A target that is full at `capacity` sessions; the steps until the search ends.
    fn search(capacity: u32, max: u32, with_cpu: bool) -> Vec<u32> {
        let mut points = Vec::new();
        while let Some(sessions) = next(&points, 1, max, 1.0) {
            assert!(points.len() < 40, "{points:?}");
            let cpu = with_cpu.then(|| (f64::from(sessions) / f64::from(capacity)).min(1.0));
            points.push(Point { sessions, held: sessions < capacity, cpu });
        }
        points.iter().map(|point| point.sessions).collect()
    }

    #[test]
    fn the_capacity_is_found_from_below_to_one_part_in_25() {
        assert_eq!(search(5, 400, true), [1, 2, 4, 5]);
        for (capacity, with_cpu) in [(1, true), (2, true), (7, false), (60, true), (130, true), (130, false)]
        {
            let steps = search(capacity, 400, with_cpu);
            let best = steps.iter().copied().filter(|sessions| *sessions < capacity).max().unwrap_or(0);
            assert!(capacity - best <= (capacity / PRECISION).max(1) + 1, "{capacity}: {steps:?}");
            assert!(steps.len() <= 16, "{steps:?}");
        }
    }

    #[test]
    fn the_search_stays_below_the_maximum() {
        assert_eq!(search(1_000, 6, true), [1, 2, 4, 6]);
        assert_eq!(next(&[], 8, 4, 1.0), Some(4));
    }
}
