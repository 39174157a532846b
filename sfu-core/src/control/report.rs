//! Load reports: two readings of a core's counters and of its thread's CPU time make one [`CoreLoad`]. Pure.
//!
//! `load` is the busy share as the reactor measures it, `cpu` what the operating system charged the thread with. They must
//! agree within a few percent; both go out so that anybody can see it.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::proto::{CoreLoad, NodeLoad};
use crate::shard::Counters;

/// One reading of one core.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The shard's published counters.
    pub counters: Counters,
    /// CPU time of the shard's thread since it began, where the operating system tells.
    pub cpu: Option<Duration>,
}

/// Makes load reports out of successive readings.
#[derive(Debug, Default)]
pub struct Reporter {
    last: Vec<Reading>,
}

impl Reporter {
    /// A reporter that compares its first report with `readings`, one per core.
    pub fn new(readings: Vec<Reading>) -> Self {
        Reporter { last: readings }
    }

    /// The load over `elapsed`, the time since the last call or [`Reporter::new`].
    pub fn report(&mut self, readings: Vec<Reading>, elapsed: Duration, resident_bytes: u64) -> NodeLoad {
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let pairs = self.last.iter().zip(&readings).enumerate();
        let cores: Vec<CoreLoad> =
            pairs.map(|(core, (then, now))| core_load(core as u16, then, now, seconds)).collect();
        let load = cores.iter().map(|core| core.load).sum::<f64>() / cores.len().max(1) as f64;
        self.last = readings;
        NodeLoad { load, cores, resident_bytes }
    }
}

fn core_load(core: u16, then: &Reading, now: &Reading, seconds: f64) -> CoreLoad {
    let grown = |now: u64, then: u64| now.saturating_sub(then) as f64;
    let (a, b) = (&then.counters, &now.counters);
    let cpu = match (then.cpu, now.cpu) {
        (Some(then), Some(now)) => now.saturating_sub(then).as_secs_f64(),
        _ => 0.0,
    };
    CoreLoad {
        core,
        load: percent(grown(b.busy_ns, a.busy_ns) / 1e9 / seconds),
        cpu: percent(cpu / seconds),
        rooms: b.rooms as u32,
        transports: b.transports as u32,
        publications: b.publications as u32,
        subscriptions: b.subscriptions as u32,
        packets_in_per_s: grown(b.packets_in, a.packets_in) / seconds,
        packets_out_per_s: grown(b.packets_out, a.packets_out) / seconds,
        bits_in_per_s: grown(b.bytes_in, a.bytes_in) * 8.0 / seconds,
        bits_out_per_s: grown(b.bytes_out, a.bytes_out) * 8.0 / seconds,
    }
}

/// A share as 0.0..=100.0 with two decimals, as `load` is documented.
fn percent(share: f64) -> f64 {
    (share.clamp(0.0, 1.0) * 10_000.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(busy_ms: u64, cpu_ms: u64, packets: u64) -> Reading {
        let counters = Counters {
            busy_ns: busy_ms * 1_000_000,
            packets_in: packets,
            bytes_in: packets * 100,
            packets_out: packets * 6,
            bytes_out: packets * 600,
            rooms: 3,
            transports: 4,
            publications: 5,
            subscriptions: 6,
            ..Counters::default()
        };
        Reading { counters, cpu: Some(Duration::from_millis(cpu_ms)) }
    }

    #[test]
    fn reports_differences_over_the_interval() {
        let mut reporter = Reporter::new(vec![reading(1000, 900, 50), reading(0, 0, 0)]);
        let load =
            reporter.report(vec![reading(1500, 1440, 150), reading(100, 120, 0)], Duration::from_secs(2), 7);
        assert_eq!((load.load, load.resident_bytes), (15.0, 7));
        let core = &load.cores[0];
        assert_eq!((core.core, core.load, core.cpu), (0, 25.0, 27.0));
        assert_eq!((core.rooms, core.transports, core.publications, core.subscriptions), (3, 4, 5, 6));
        assert_eq!((core.packets_in_per_s, core.packets_out_per_s), (50.0, 300.0));
        assert_eq!((core.bits_in_per_s, core.bits_out_per_s), (40_000.0, 240_000.0));
        assert_eq!((load.cores[1].core, load.cores[1].load, load.cores[1].cpu), (1, 5.0, 6.0));
        // The next report starts where this one ended.
        let idle =
            reporter.report(vec![reading(1500, 1440, 150), reading(100, 120, 0)], Duration::from_secs(1), 7);
        assert_eq!((idle.load, idle.cores[0].cpu, idle.cores[0].packets_in_per_s), (0.0, 0.0, 0.0));
    }

    #[test]
    fn shares_stay_in_range_whatever_the_readings_say() {
        for (then, now, elapsed_ms, load) in [
            (reading(0, 0, 0), reading(5000, 5000, 0), 1000, 100.0),
            (reading(5000, 5000, 9), reading(0, 0, 0), 1000, 0.0),
            (reading(0, 0, 0), reading(0, 0, 0), 0, 0.0),
        ] {
            let report = Reporter::new(vec![then]).report(vec![now], Duration::from_millis(elapsed_ms), 0);
            assert_eq!((report.cores[0].load, report.cores[0].cpu), (load, load));
        }
        assert_eq!(Reporter::new(vec![]).report(vec![], Duration::from_secs(1), 0).load, 0.0);
    }
}
