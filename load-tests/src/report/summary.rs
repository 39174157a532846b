//! What the turns of one target have in common (median and spread), and how targets compare.
//!
//! A ratio is taken inside each round, where both ran one after the other on the same cores, and then summed up: so a machine
//! that gets slower during the run does not look like a difference between targets.

use super::model::{Report, Step, Target, Turn};

/// Median and spread of some figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// How many there were.
    pub(crate) count: usize,
}

impl Spread {
    /// Of finite figures; none for none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = figures.into_iter().filter(|figure| figure.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Spread { median, min, max, count: sorted.len() })
    }

    /// Half the distance of the outermost figures, as a share of the median.
    pub(crate) fn share(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.max - self.min) / 2.0 / self.median }
    }
}

/// All turns of one target.
pub(crate) struct TargetSummary<'report> {
    pub(crate) target: &'report Target,
    /// In rounds' order.
    pub(crate) turns: Vec<&'report Turn>,
}

impl<'report> TargetSummary<'report> {
    /// The largest steps that held, of the turns that have one.
    pub(crate) fn capacities(&self) -> impl Iterator<Item = &'report Step> {
        self.turns.iter().filter_map(|turn| turn.capacity())
    }

    /// A figure of each turn at its capacity.
    pub(crate) fn at_capacity(&self, figure: impl Fn(&Step) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.capacities().filter_map(figure))
    }

    /// Some turn ended before the target did: it carries at least what was held.
    pub(crate) fn at_least(&self) -> bool {
        self.turns.iter().any(|turn| !turn.stop.is_the_targets())
    }

    /// Sessions held. A turn that held not even its first step counts as 0, one that came to no step (nothing to start, no
    /// time) does not count.
    pub(crate) fn sessions(&self) -> Option<Spread> {
        let measured = self.turns.iter().filter(|turn| !turn.steps.is_empty() || turn.stop.is_the_targets());
        Spread::of(measured.map(|turn| turn.capacity().map_or(0.0, |step| f64::from(step.sessions))))
    }
}

/// One target's figures over another's.
pub(crate) struct Ratio<'report> {
    pub(crate) of: &'report Target,
    pub(crate) to: &'report Target,
    /// Sessions held, `of` / `to`: more is better.
    pub(crate) sessions: Option<Spread>,
    /// `of` was not at its end in some round: it carries at least so many.
    pub(crate) at_least: bool,
    /// CPU per packet out, `to` / `of`, each at its capacity: how many times cheaper `of` is.
    pub(crate) cpu_at_capacity: Option<Spread>,
    /// The same with the same number of sessions in both.
    pub(crate) cpu_at_same_load: Option<Spread>,
    /// Those numbers of sessions, smallest and largest over the rounds.
    pub(crate) same_load: Option<(u32, u32)>,
}

/// Targets in the order of their first turns.
pub(crate) fn targets(report: &Report) -> Vec<TargetSummary<'_>> {
    let mut targets: Vec<TargetSummary<'_>> = Vec::new();
    for turn in &report.turns {
        match targets.iter_mut().find(|one| one.target.label() == turn.target.label()) {
            Some(one) => one.turns.push(turn),
            None => targets.push(TargetSummary { target: &turn.target, turns: vec![turn] }),
        }
    }
    targets
}

/// Every pair of targets, the first named over the later ones.
pub(crate) fn ratios<'report>(targets: &[TargetSummary<'report>]) -> Vec<Ratio<'report>> {
    let mut ratios = Vec::new();
    for (index, of) in targets.iter().enumerate() {
        ratios.extend(targets[index + 1..].iter().map(|to| ratio(of, to)));
    }
    ratios
}

fn ratio<'report>(of: &TargetSummary<'report>, to: &TargetSummary<'report>) -> Ratio<'report> {
    let pairs: Vec<(&Turn, &Turn)> = of
        .turns
        .iter()
        .filter_map(|one| Some((*one, *to.turns.iter().find(|other| other.round == one.round)?)))
        .collect();
    // What the generator or the list of steps ended is no capacity: as a divisor it says nothing.
    let found = || pairs.iter().filter(|(_, b)| b.stop.is_the_targets());
    let sessions = found()
        .filter_map(|(a, b)| Some(f64::from(a.capacity()?.sessions) / f64::from(b.capacity()?.sessions)));
    let capacity = pairs.iter().filter_map(|(a, b)| {
        Some(b.capacity()?.cpu_ns_per_packet_out? / a.capacity()?.cpu_ns_per_packet_out?)
    });
    let same: Vec<(u32, f64)> = pairs.iter().filter_map(|(a, b)| at_same_load(a, b)).collect();
    let loads = same.iter().map(|(sessions, _)| *sessions);
    Ratio {
        of: of.target,
        to: to.target,
        sessions: Spread::of(sessions),
        at_least: found().any(|(a, _)| !a.stop.is_the_targets()),
        cpu_at_capacity: Spread::of(capacity),
        cpu_at_same_load: Spread::of(same.iter().map(|(_, ratio)| *ratio)),
        same_load: loads.clone().min().zip(loads.max()),
    }
}

/// The largest number of sessions that both held, and what a packet cost `b` over what it cost `a` there.
fn at_same_load(a: &Turn, b: &Turn) -> Option<(u32, f64)> {
    let cost = |turn: &Turn, sessions: u32| {
        turn.steps.iter().find(|step| step.held && step.sessions == sessions)?.cpu_ns_per_packet_out
    };
    a.steps
        .iter()
        .filter_map(|step| Some((step.sessions, cost(b, step.sessions)? / cost(a, step.sessions)?)))
        .max_by_key(|(sessions, _)| *sessions)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::model::*;
    use super::*;

    fn step(sessions: u32, held: bool, ns: f64) -> Step {
        Step {
            sessions,
            publishers: sessions * 7,
            subscribers: sessions * 42,
            seconds: 10.0,
            held,
            cpu_ns_per_packet_out: Some(ns),
            ..Step::default()
        }
    }

    fn turn(name: &str, round: u32, steps: Vec<Step>) -> Turn {
        let target = Target { name: name.into(), variant: None, version: None, options: Default::default() };
        Turn { target, round, steps, stop: Stop::CpuFull { share: 1.0 } }
    }

    /// Two rounds of two targets, on one core.
    pub(crate) fn report() -> Report {
        Report {
            format: FORMAT,
            machine: Machine {
                cpu: "test CPU".into(),
                cores: 2,
                memory_bytes: 4 << 30,
                kernel: "6.18".into(),
            },
            commit: None,
            command: "load-tests run 7-to-7".into(),
            started: "2026-01-01T00:00:00Z".into(),
            setup: Setup { network: Network::Loopback, target_cpus: vec![0], generator_cpus: vec![1] },
            scenario: Scenario {
                name: "7-to-7".into(),
                publishers: 7,
                subscribers: 42,
                media: "VP8".into(),
                users: 7,
            },
            turns: vec![
                turn("weir", 1, vec![step(4, true, 3000.0), step(80, true, 2000.0), step(90, false, 1900.0)]),
                turn("janus", 1, vec![step(2, true, 40_000.0), step(4, true, 30_000.0)]),
                turn("weir", 2, vec![step(4, true, 3000.0), step(100, true, 2000.0)]),
                turn("janus", 2, vec![step(4, true, 33_000.0), step(5, true, 20_000.0)]),
            ],
            skipped: Vec::new(),
        }
    }

    #[test]
    fn spreads() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([f64::NAN]), None);
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0, count: 3 }));
        assert_eq!(Spread::of([4.0, 1.0]).map(|spread| spread.median), Some(2.5));
        assert_eq!(Spread::of([8.0, 10.0, 12.0]).map(|spread| spread.share()), Some(0.2));
    }

    #[test]
    fn ratios_are_taken_inside_rounds() {
        let report = report();
        let targets = targets(&report);
        assert_eq!(targets.iter().map(|one| one.turns.len()).collect::<Vec<_>>(), [2, 2]);
        assert_eq!(targets[0].sessions(), Some(Spread { median: 90.0, min: 80.0, max: 100.0, count: 2 }));
        let ratios = ratios(&targets);
        assert_eq!(ratios.len(), 1);
        assert_eq!(ratios[0].sessions, Spread::of([20.0, 20.0]));
        assert_eq!(ratios[0].cpu_at_capacity, Spread::of([15.0, 10.0]));
        assert_eq!(ratios[0].cpu_at_same_load, Spread::of([10.0, 11.0]));
        assert_eq!(ratios[0].same_load, Some((4, 4)));
    }

    #[test]
    fn a_capacity_that_was_not_found_is_no_divisor() {
        let mut report = report();
        report.turns[1].stop = Stop::StepsDone;
        report.turns[2].stop = Stop::GeneratorFull;
        let ratio = &ratios(&targets(&report))[0];
        assert_eq!((ratio.sessions.map(|spread| spread.count), ratio.at_least), (Some(1), true));
        report.turns[3].stop = Stop::StepsDone;
        assert_eq!(ratios(&targets(&report))[0].sessions, None);
    }

    #[test]
    fn a_turn_that_measured_nothing_does_not_count() {
        let mut report = report();
        report.turns[0].steps.clear();
        report.turns[0].stop = Stop::Failed { error: "no such program".into() };
        let summaries = targets(&report);
        assert_eq!(summaries[0].sessions(), Spread::of([100.0]));
        report.turns[0].stop = Stop::Unstable { streams: 3, limit_s: 40 };
        assert_eq!(targets(&report)[0].sessions().map(|spread| spread.min), Some(0.0), "it was tried");
    }

    #[test]
    fn a_turn_that_held_nothing_counts_as_none() {
        let mut report = report();
        report.turns[0].steps.iter_mut().for_each(|step| step.held = false);
        let targets = targets(&report);
        assert_eq!(targets[0].sessions().map(|spread| spread.min), Some(0.0));
        assert_eq!(ratios(&targets)[0].sessions, Spread::of([20.0]));
    }
}
