//! OpenMetrics text of a media node, and the operating system's figures behind it.
//!
//! Everything is read at the moment of the scrape: shards publish their counters anyway, so a scrape costs them nothing.

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::control::report::Reading;
use crate::drop_reason::DropReason;
use crate::shard::{Counters, Gauges};

/// Content type of [`NodeMetrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Fields of [`Counters`] that go up and down.
const SIZES: [&str; 6] =
    ["gather_window_us", "slots_free", "rooms", "transports", "publications", "subscriptions"];

/// Where the figures of one core are read.
#[derive(Clone, Debug)]
pub struct CoreProbe {
    /// Index of the core.
    pub core: u16,
    /// What its shard publishes.
    pub gauges: Arc<Gauges>,
    /// Kernel id of the shard's thread; `None` in tests without one.
    pub thread: Option<u32>,
}

impl CoreProbe {
    /// Reads counters and CPU time.
    pub fn read(&self) -> Reading {
        Reading { counters: self.gauges.snapshot(), cpu: self.thread.and_then(thread_cpu) }
    }
}

/// Counters of the control socket.
#[derive(Debug, Default)]
pub struct ControlCounters {
    /// Controllers that connected.
    pub connections: AtomicU64,
    /// Upgrades refused for a missing or wrong secret.
    pub unauthorized: AtomicU64,
    /// Connections cut because the controller did not read.
    pub slow: AtomicU64,
    /// Commands refused because a core's inbox was full.
    pub inbox_full: AtomicU64,
    /// Events lost because the control thread did not keep up.
    pub events_lost: AtomicU64,
    /// 1 while a controller is connected.
    pub connected: AtomicU64,
}

/// All figures of a node.
#[derive(Clone, Debug)]
pub struct NodeMetrics {
    /// One per core.
    pub cores: Arc<[CoreProbe]>,
    /// Of the control socket.
    pub control: Arc<ControlCounters>,
}

impl NodeMetrics {
    /// The exposition text, ending with `# EOF`.
    pub fn encode(&self) -> String {
        let mut registry = Registry::with_prefix("weir_node");
        registry.register_collector(Box::new(self.clone()));
        let mut out = String::with_capacity(16 * 1024);
        text::encode(&mut out, &registry).expect("writing to a String does not fail");
        out
    }
}

impl Collector for NodeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let readings: Vec<(String, Reading)> =
            self.cores.iter().map(|probe| (probe.core.to_string(), probe.read())).collect();
        encode_counters(&mut encoder, &readings)?;
        encode_drops(&mut encoder, &readings)?;
        encode_cpu(&mut encoder, &readings)?;
        encode_control(&mut encoder, &self.control)?;
        if let Some(bytes) = resident_bytes() {
            let help = "Resident memory of the process.";
            let gauge = ConstGauge::new(bytes);
            gauge.encode(encoder.encode_descriptor("resident_bytes", help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

/// One family per field of [`Counters`], one line per core.
fn encode_counters(encoder: &mut DescriptorEncoder, readings: &[(String, Reading)]) -> fmt::Result {
    let fields: Vec<Vec<(&str, u64)>> = readings.iter().map(|(_, r)| Gauges::fields(&r.counters)).collect();
    for (i, (field, _)) in Gauges::fields(&Counters::default()).into_iter().enumerate() {
        let (name, scale) = in_base_units(field);
        let help = format!("{} per core; see shard/stats.rs.", name.replace('_', " "));
        let kind = if SIZES.contains(&field) { MetricType::Gauge } else { MetricType::Counter };
        let mut family = encoder.encode_descriptor(&name, &help, None, kind)?;
        for ((core, _), values) in readings.iter().zip(&fields) {
            let value = values[i].1;
            let labels = [("core", core.as_str())];
            let metric = family.encode_family(&labels)?;
            match (SIZES.contains(&field), scale) {
                (true, None) => ConstGauge::new(value).encode(metric)?,
                (true, Some(scale)) => ConstGauge::new(value as f64 * scale).encode(metric)?,
                (false, None) => ConstCounter::new(value).encode(metric)?,
                (false, Some(scale)) => ConstCounter::new(value as f64 * scale).encode(metric)?,
            }
        }
    }
    Ok(())
}

/// OpenMetrics wants seconds: the name to show, and what to multiply with.
fn in_base_units(field: &str) -> (String, Option<f64>) {
    match (field.strip_suffix("_ns"), field.strip_suffix("_us")) {
        (Some(stem), _) => (format!("{stem}_seconds"), Some(1e-9)),
        (_, Some(stem)) => (format!("{stem}_seconds"), Some(1e-6)),
        _ => (field.to_owned(), None),
    }
}

fn encode_drops(encoder: &mut DescriptorEncoder, readings: &[(String, Reading)]) -> fmt::Result {
    let help = "Datagrams not forwarded, by reason.";
    let mut family = encoder.encode_descriptor("dropped", help, None, MetricType::Counter)?;
    for (core, reading) in readings {
        for &reason in DropReason::ALL {
            let labels = [("core", core.as_str()), ("reason", reason.label())];
            ConstCounter::new(reading.counters.dropped(reason)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn encode_cpu(encoder: &mut DescriptorEncoder, readings: &[(String, Reading)]) -> fmt::Result {
    let help = "CPU time of the core's thread as the operating system counts it.";
    let mut family = encoder.encode_descriptor("thread_cpu_seconds", help, None, MetricType::Counter)?;
    for (core, reading) in readings {
        if let Some(cpu) = reading.cpu {
            let labels = [("core", core.as_str())];
            ConstCounter::new(cpu.as_secs_f64()).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn encode_control(encoder: &mut DescriptorEncoder, control: &ControlCounters) -> fmt::Result {
    for (name, help, value) in [
        ("control_connections", "Controllers that connected.", &control.connections),
        ("control_unauthorized", "Connections refused for a wrong secret.", &control.unauthorized),
        ("control_slow", "Connections cut because the controller did not read.", &control.slow),
        ("control_inbox_full", "Commands refused because a core's inbox was full.", &control.inbox_full),
        ("control_events_lost", "Events the control thread could not take.", &control.events_lost),
    ] {
        let counter = ConstCounter::new(value.load(Ordering::Relaxed));
        counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
    }
    let gauge = ConstGauge::new(control.connected.load(Ordering::Relaxed));
    let help = "1 while a controller is connected.";
    gauge.encode(encoder.encode_descriptor("control_connected", help, None, MetricType::Gauge)?)
}

/// CPU time of a thread of this process. From the scheduler's own counter (ns) where the kernel keeps it, else from `stat`.
pub fn thread_cpu(thread: u32) -> Option<Duration> {
    let read = |file: &str| fs::read_to_string(format!("/proc/self/task/{thread}/{file}")).ok();
    read("schedstat").and_then(|text| parse_schedstat(&text)).or_else(|| parse_stat(&read("stat")?))
}

/// First field: nanoseconds on a CPU.
fn parse_schedstat(text: &str) -> Option<Duration> {
    text.split_ascii_whitespace().next()?.parse().ok().filter(|&ns| ns > 0).map(Duration::from_nanos)
}

/// Fields 14 and 15: user and system time in ticks, of which Linux has 100 per second on every architecture we know.
fn parse_stat(text: &str) -> Option<Duration> {
    // The name in parentheses may hold blanks and parentheses itself.
    let mut fields = text.rsplit_once(") ")?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 10))
}

/// Resident memory of this process.
pub fn resident_bytes() -> Option<u64> {
    parse_rss(&fs::read_to_string("/proc/self/status").ok()?)
}

fn parse_rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_every_figure_once_per_core() {
        let probe = |core| {
            let gauges = Gauges::default();
            let mut counters =
                Counters { busy_ns: 1_500_000_000, packets_in: 7, rooms: 2, ..Counters::default() };
            counters.drop(DropReason::Replayed);
            gauges.publish(&counters);
            CoreProbe { core, gauges: Arc::new(gauges), thread: None }
        };
        let control = ControlCounters { connections: AtomicU64::new(3), ..ControlCounters::default() };
        let text = NodeMetrics { cores: [probe(0), probe(1)].into(), control: Arc::new(control) }.encode();
        for line in [
            "# TYPE weir_node_packets_in counter",
            "weir_node_packets_in_total{core=\"0\"} 7",
            "weir_node_packets_in_total{core=\"1\"} 7",
            "weir_node_busy_seconds_total{core=\"0\"} 1.5",
            "# TYPE weir_node_rooms gauge",
            "weir_node_rooms{core=\"1\"} 2",
            "weir_node_dropped_total{core=\"0\",reason=\"replayed\"} 1",
            "weir_node_dropped_total{core=\"0\",reason=\"too_old\"} 0",
            "weir_node_control_connections_total 3",
            "weir_node_control_connected 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn reads_the_operating_systems_figures() {
        let stat = "12 (a b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0 100";
        assert_eq!(parse_stat(stat), Some(Duration::from_secs(2)));
        assert_eq!(parse_stat("nonsense"), None);
        assert_eq!(parse_schedstat("1500 20 3\n"), Some(Duration::from_nanos(1500)));
        assert_eq!(parse_schedstat("0 0 0\n"), None);
        assert_eq!(parse_rss("Name:\tx\nVmRSS:\t    1024 kB\n"), Some(1 << 20));
        assert_eq!(parse_rss("Name:\tx\n"), None);
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
        let own = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        assert!(thread_cpu(own).is_some());
        assert_eq!(thread_cpu(u32::MAX), None);
    }
}
