//! One measured interval: counters of the clients, CPU and memory of the target, CPU of the generator itself.

use std::collections::HashMap;

use hdrhistogram::Histogram;

use crate::client::stats::Stats;
use crate::host::{self, CoreTime};
use crate::report::model::{CoreBusy, Percentiles, Step, ThreadBusy};
use crate::scenario::{Limits, Scenario};

/// Fewer samples than this make no 99.9th percentile.
const P999_SAMPLES: u64 = 10_000;
/// A generator's thread that is busier than this distorts what it measures.
const GENERATOR_BUSY: f64 = 0.90;
/// A worker that was behind its timetable by more than this sends bursts and answers late.
const GENERATOR_LATE_MS: u64 = 100;
/// More than this share of the target's core used by others makes a step doubtful.
const FOREIGN_SHARE: f64 = 0.10;

/// Clocks of processes and cores at one moment.
pub(crate) struct Meters {
    at: std::time::Instant,
    media_cpu_s: Option<f64>,
    control_cpu_s: f64,
    cores: Vec<(usize, CoreTime)>,
    own: HashMap<String, f64>,
}

impl Meters {
    /// Reads them now.
    pub(crate) fn read(
        media_pids: &[u32],
        control_pids: &[u32],
        cores: &[usize],
        now: std::time::Instant,
    ) -> Meters {
        let fine: Option<Vec<f64>> = media_pids.iter().map(|pid| host::process_cpu_s(*pid)).collect();
        let mut own = HashMap::new();
        for (name, seconds) in host::own_threads() {
            *own.entry(name).or_insert(0.0) += seconds;
        }
        Meters {
            at: now,
            media_cpu_s: fine.filter(|all| !all.is_empty()).map(|all| all.iter().sum()),
            control_cpu_s: control_pids.iter().filter_map(|pid| host::process_cpu_s(*pid)).sum(),
            cores: cores.iter().filter_map(|core| Some((*core, host::core_time(*core)?))).collect(),
            own,
        }
    }
}

/// What happened between two readings, as a step of the report. `held` and the limits are not judged yet.
pub(crate) fn step(
    scenario: &Scenario,
    sessions: u32,
    stats: &Stats,
    (before, after): (&Meters, &Meters),
    media_pids: &[u32],
) -> Step {
    let seconds = after.at.duration_since(before.at).as_secs_f64();
    let rate = |count: u64| Some(count as f64 / seconds);
    let cpu_s = after.media_cpu_s.zip(before.media_cpu_s).map(|(after, before)| after - before);
    let memory: u64 = media_pids.iter().filter_map(|pid| host::resident_bytes(*pid)).sum();
    Step {
        sessions,
        publishers: sessions * scenario.publishers,
        subscribers: sessions * scenario.subscriptions(),
        seconds,
        packets_in_per_s: rate(stats.sent_packets),
        packets_out_per_s: rate(stats.received_packets),
        bits_in_per_s: rate(stats.sent_bytes * 8),
        bits_out_per_s: rate(stats.received_bytes * 8),
        target_cpu_cores: cpu_s.map(|cpu| cpu / seconds),
        core_busy: core_busy(before, after),
        cpu_ns_per_packet_out: cpu_s
            .filter(|_| stats.received_packets > 0)
            .map(|cpu| cpu * 1e9 / stats.received_packets as f64),
        memory_bytes: (memory > 0).then_some(memory),
        delay_ms: percentiles(&stats.delay_us),
        verified: (stats.received_packets > 0).then(|| stats.sampled as f64 / stats.received_packets as f64),
        repaired: Some(stats.repaired),
        reordered: Some(stats.reordered),
        jitter_ms: percentiles(&stats.jitter_us),
        loss: (stats.expected > 0).then(|| stats.loss()),
        freezes: Some(stats.freezes),
        generator: thread_busy(before, after, seconds),
        ..Step::default()
    }
}

fn core_busy(before: &Meters, after: &Meters) -> Vec<CoreBusy> {
    let share = |a: &CoreTime, b: &CoreTime| (b.busy - a.busy) / (b.total - a.total).max(1.0);
    let pairs = before.cores.iter().zip(&after.cores);
    pairs.map(|((cpu, a), (_, b))| CoreBusy { cpu: *cpu as u32, share: share(a, b) }).collect()
}

fn thread_busy(before: &Meters, after: &Meters, seconds: f64) -> Vec<ThreadBusy> {
    let mut threads: Vec<_> = after
        .own
        .iter()
        .map(|(name, cpu)| ThreadBusy {
            name: name.clone(),
            share: (cpu - before.own.get(name).copied().unwrap_or(0.0)).max(0.0) / seconds,
        })
        .collect();
    // It runs on the generator's cores and takes from them.
    let control = (after.control_cpu_s - before.control_cpu_s).max(0.0);
    if control > 0.0 {
        threads.push(ThreadBusy { name: "control plane of the target".to_owned(), share: control / seconds });
    }
    threads.sort_by(|a, b| a.name.cmp(&b.name));
    threads
}

/// Microseconds to a distribution in milliseconds.
fn percentiles(histogram: &Histogram<u32>) -> Option<Percentiles> {
    let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    (!histogram.is_empty()).then(|| Percentiles {
        p50: ms(0.5),
        p99: ms(0.99),
        p999: (histogram.len() >= P999_SAMPLES).then(|| ms(0.999)),
        samples: histogram.len(),
    })
}

/// Percentiles of a few values.
pub(crate) fn of_values(mut values: Vec<f64>) -> Option<Percentiles> {
    values.sort_by(f64::total_cmp);
    let at = |quantile: f64| values[((values.len() - 1) as f64 * quantile).round() as usize];
    (!values.is_empty()).then(|| Percentiles {
        p50: at(0.5),
        p99: at(0.99),
        p999: (values.len() as u64 >= P999_SAMPLES).then(|| at(0.999)),
        samples: values.len() as u64,
    })
}

/// Why a step is not held.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Broken {
    CpuFull(f64),
    Loss(f64),
    Delay(f64),
    Stalled(u32),
}

/// Compares a step with the limits. `cores`: how many the target was given.
pub(crate) fn judge(step: &Step, stats: &Stats, limits: &Limits, cores: usize) -> Option<Broken> {
    let cpu = step.target_cpu_cores.map(|busy| busy / cores as f64).filter(|share| *share >= limits.cpu);
    let loss = step.loss.filter(|loss| *loss > limits.loss);
    let delay = step.delay_ms.map(|delay| delay.p99).filter(|p99| *p99 > limits.delay_p99_ms);
    if stats.stalled > 0 {
        return Some(Broken::Stalled(stats.stalled as u32));
    }
    cpu.map(Broken::CpuFull).or(loss.map(Broken::Loss)).or(delay.map(Broken::Delay))
}

/// What makes a step doubtful.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Doubts {
    /// The generator itself was the bottleneck.
    pub(crate) full: bool,
    /// It was behind its timetable.
    pub(crate) late: bool,
    /// Others used the target's cores.
    pub(crate) foreign: bool,
    /// All of it, in sentences.
    pub(crate) warnings: Vec<String>,
}

/// Looks for them.
pub(crate) fn doubts(step: &Step, stats: &Stats, scenario: &Scenario, clip_rate: f64) -> Doubts {
    let mut warnings = Vec::new();
    let (mut full, mut foreign_use) = (false, false);
    for thread in step.generator.iter().filter(|thread| thread.share > GENERATOR_BUSY) {
        full = true;
        warnings.push(format!(
            "THE GENERATOR IS THE BOTTLENECK: its thread {} was {:.0} % busy; this is no capacity of the target",
            thread.name,
            thread.share * 100.0
        ));
    }
    let late = stats.late_ms > GENERATOR_LATE_MS;
    if late {
        full = true;
        warnings.push(format!(
            "THE GENERATOR WAS LATE by up to {} ms: its core is taken, or too slow; delay and loss may be its own",
            stats.late_ms
        ));
    }
    if stats.overflowed > 0 {
        full = true;
        warnings.push(format!(
            "THE GENERATOR LOST {} datagrams in its own full queues; they are in the loss but not the target's",
            stats.overflowed
        ));
    }
    let wanted = f64::from(step.publishers) * clip_rate;
    if let Some(sent) =
        step.packets_in_per_s.filter(|sent| *sent < wanted * 0.97 && scenario.replaced_per_s == 0.0)
    {
        full = true;
        warnings.push(format!("THE GENERATOR SENT {sent:.0} packets/s instead of {wanted:.0}"));
    }
    let busy: f64 = step.core_busy.iter().map(|core| core.share).sum();
    if let Some(foreign) = step.target_cpu_cores.map(|cpu| busy - cpu)
        && foreign > FOREIGN_SHARE * step.core_busy.len() as f64
    {
        foreign_use = true;
        warnings.push(format!(
            "{foreign:.2} cores of the target's {} were used by others (or by interrupts)",
            step.core_busy.len()
        ));
    }
    // Where people leave, the server closes their connections and those to them, often before it is announced.
    let closed = if scenario.replaced_per_s == 0.0 { stats.closed } else { 0 };
    for (count, what) in [
        (closed, "connections were closed by the server"),
        (stats.auth_failed, "packets failed authentication"),
        (stats.corrupt, "frames that full clients put together were not what was sent"),
        (stats.unknown, "packets belonged to no stream"),
        (stats.failed, "connections ended by themselves"),
        (stats.send_refused, "packets could not be sent"),
    ] {
        if count > 0 {
            warnings.push(format!("{count} {what}"));
        }
    }
    Doubts { full, late, foreign: foreign_use, warnings }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario() -> Scenario {
        Scenario::load("7-to-7").unwrap()
    }

    #[test]
    fn a_step_is_broken_by_the_first_limit_it_passes() {
        let limits = Limits::default();
        let delay = |p99| Some(Percentiles { p50: 1.0, p99, p999: None, samples: 9 });
        let step = |cpu, loss, p99| Step {
            target_cpu_cores: Some(cpu),
            loss: Some(loss),
            delay_ms: delay(p99),
            ..Step::default()
        };
        let stats = Stats::default();
        let cases = [
            (step(0.9, 0.004, 99.0), 1, None),
            (step(0.99, 0.1, 99.0), 1, Some(Broken::CpuFull(0.99))),
            (step(0.99, 0.1, 99.0), 2, Some(Broken::Loss(0.1))),
            (step(0.5, 0.0, 101.0), 1, Some(Broken::Delay(101.0))),
        ];
        for (step, cores, broken) in cases {
            assert_eq!(judge(&step, &stats, &limits, cores), broken);
        }
        let stalled = Stats { stalled: 3, ..Stats::default() };
        assert_eq!(judge(&step(0.1, 0.0, 1.0), &stalled, &limits, 1), Some(Broken::Stalled(3)));
    }

    #[test]
    fn a_busy_or_late_generator_is_said_loudly() {
        let busy = ThreadBusy { name: "clients-1".into(), share: 0.95 };
        let step = Step { generator: vec![busy], ..Step::default() };
        let seen = doubts(&step, &Stats::default(), &scenario(), 140.0);
        assert!(seen.full && seen.warnings[0].contains("BOTTLENECK"), "{seen:?}");
        let idle = Step { packets_in_per_s: Some(1_400.0), publishers: 10, ..Step::default() };
        assert_eq!(doubts(&idle, &Stats::default(), &scenario(), 140.0), Doubts::default());
        let starved = Step { packets_in_per_s: Some(1_000.0), publishers: 10, ..Step::default() };
        assert!(doubts(&starved, &Stats::default(), &scenario(), 140.0).full);
        let late = Stats { late_ms: 500, ..Stats::default() };
        let seen = doubts(&idle, &late, &scenario(), 140.0);
        assert!(seen.late && seen.full && !seen.foreign, "{seen:?}");
    }

    #[test]
    fn connections_that_the_server_closes_are_doubtful_unless_people_leave() {
        let stats = Stats { closed: 3, ..Stats::default() };
        let warnings = |scenario: &str| {
            doubts(&Step::default(), &stats, &Scenario::load(scenario).unwrap(), 140.0).warnings
        };
        assert!(warnings("7-to-7")[0].contains("3 connections were closed"));
        assert!(warnings("churn").is_empty());
    }

    #[test]
    fn percentiles_of_few_values() {
        let few = of_values((1..=100).map(f64::from).collect()).expect("some");
        assert_eq!((few.p50, few.p99, few.p999, few.samples), (51.0, 99.0, None, 100));
        assert_eq!(of_values(Vec::new()), None);
    }
}
