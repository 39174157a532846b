//! CPU time, and figures made of it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::{Sent, Shape, Variant};

/// Packets in the socket at once, up to the end of a frame.
pub const BATCHES: [usize; 4] = [1, 16, 64, 256];
/// Packets of one measurement, at least: one batch of a small size is too short to time.
const SAMPLE_PACKETS: usize = 512;

/// Packets each publisher sends before anything is measured: caches of packets for resending are full then, and every
/// page of memory has been touched.
const WARM_UP_PACKETS: usize = 300;

/// Forwards until the variant is in its steady state.
///
/// # Errors
/// The variant's.
#[expect(clippy::disallowed_methods, reason = "not measured yet")]
pub fn warm_up(variant: &mut dyn Variant, shape: Shape) -> anyhow::Result<()> {
    let mut left = shape.peers() * WARM_UP_PACKETS;
    while left > 0 {
        let count = variant.feed(BATCHES[BATCHES.len() - 1])?;
        variant.forward(count)?;
        left = left.saturating_sub(count);
        // The resolver of hops is another thread, and this CPU is all it may run on.
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// CPU time of the process, user and kernel, on all its threads.
pub fn process_cpu() -> Duration {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// What two readings of [`process_cpu`] in a row cost.
pub fn clock_cost() -> Duration {
    let mut costs: Vec<_> = (0..201)
        .map(|_| {
            let start = process_cpu();
            process_cpu() - start
        })
        .collect();
    costs.sort();
    costs[100]
}

/// One measurement: CPU nanoseconds per packet out, and segments per message.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// CPU time per forwarded copy.
    pub ns: f64,
    /// Datagrams per message.
    pub segments: f64,
}

/// Feeds and forwards batches of `batch` packets, and times the forwarding.
///
/// # Errors
/// The variant's.
pub fn sample(variant: &mut dyn Variant, batch: usize, clock: Duration) -> anyhow::Result<Sample> {
    let mut cpu = Duration::ZERO;
    let mut sum = Sent::default();
    let mut left = SAMPLE_PACKETS;
    while left > 0 {
        let count = variant.feed(batch)?;
        left = left.saturating_sub(count);
        let start = process_cpu();
        let sent = variant.forward(count)?;
        cpu += (process_cpu() - start).saturating_sub(clock);
        sum.packets += sent.packets;
        sum.datagrams += sent.datagrams;
        sum.messages += sent.messages;
    }
    Ok(Sample {
        ns: cpu.as_nanos() as f64 / sum.packets as f64,
        segments: sum.datagrams as f64 / sum.messages as f64,
    })
}

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The variant.
    pub variant: &'static str,
    /// Packets in the socket at once.
    pub batch: usize,
    /// CPU nanoseconds per packet out: median of the rounds.
    pub ns_per_packet_out: f64,
    /// Datagrams per message: median of the rounds.
    pub segments_per_message: f64,
    /// Quartiles of the CPU nanoseconds.
    #[serde(skip)]
    pub quartiles: (f64, f64),
}

impl Row {
    /// Makes the line of all rounds.
    pub fn of(variant: &'static str, batch: usize, samples: &[Sample]) -> Row {
        let ns = sorted(samples.iter().map(|s| s.ns));
        let segments = sorted(samples.iter().map(|s| s.segments));
        let round = |x: f64, unit: f64| (x / unit).round() * unit;
        Row {
            variant,
            batch,
            ns_per_packet_out: round(ns[ns.len() / 2], 0.1),
            segments_per_message: round(segments[segments.len() / 2], 0.01),
            quartiles: (ns[ns.len() / 4], ns[ns.len() * 3 / 4]),
        }
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_median_and_the_quartiles() {
        let samples = [5.0, 1.0, 3.0, 2.0, 4.0].map(|ns| Sample { ns, segments: ns / 2.0 });
        let row = Row::of("x", 16, &samples);
        assert_eq!((row.ns_per_packet_out, row.segments_per_message, row.quartiles), (3.0, 1.5, (2.0, 4.0)));
        let json = serde_json::to_value(&row).expect("plain figures");
        assert_eq!(
            json,
            serde_json::json!({"variant": "x", "batch": 16, "ns_per_packet_out": 3.0, "segments_per_message": 1.5})
        );
    }
}
