//! The data of one run, as it is kept in JSON. What was not measured is an absent field, and no output shows it.
//!
//! ```text
//! Report ── Turn (one target, started fresh) ── Step (a number of sessions, held for some seconds)
//! ```
//!
//! "In" and "out" are seen from the target: in is what publishers send, out is what it forwards to subscribers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the JSON form; a reader refuses others.
pub(crate) const FORMAT: u32 = 1;

/// One run of the load test: where, with what, and what came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// [`FORMAT`].
    pub(crate) format: u32,
    /// The machine that ran target and generator.
    pub(crate) machine: Machine,
    /// Commit of the tree the program was built from, with `+` behind it when files were changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) commit: Option<String>,
    /// The command line.
    pub(crate) command: String,
    /// Start of the run, UTC, RFC 3339.
    pub(crate) started: String,
    /// How generator and target were connected and pinned.
    pub(crate) setup: Setup,
    /// What was played.
    pub(crate) scenario: Scenario,
    /// Turns in the order they ran: A B A B.
    pub(crate) turns: Vec<Turn>,
    /// What was asked for and could not run, one sentence each ("livekit: no `livekit-server` on the path").
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) skipped: Vec<String>,
}

/// A machine, as far as figures depend on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// "AMD EPYC 9354, 2 cores".
    pub(crate) cpu: String,
    /// Logical CPUs.
    pub(crate) cores: u32,
    /// Memory, bytes.
    pub(crate) memory_bytes: u64,
    /// `uname -r`.
    pub(crate) kernel: String,
}

/// How packets went between generator and target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Network {
    /// The loopback device.
    Loopback,
    /// A pair of network namespaces on one machine.
    Netns,
    /// The same for signaling; media over a TAP device that ends in the generator.
    Wire,
    /// A network: the target was there before (`--url`).
    Remote,
}

/// Network and pinning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// How they were connected.
    pub(crate) network: Network,
    /// CPUs the target was pinned to; empty where it was not ours to pin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) target_cpus: Vec<u32>,
    /// CPUs of the generator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) generator_cpus: Vec<u32>,
}

/// What was played.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scenario {
    /// Name of its file, without extension: "7-to-7".
    pub(crate) name: String,
    /// Publishers of one session.
    pub(crate) publishers: u32,
    /// Subscriptions of one session (7-to-7: 42).
    pub(crate) subscribers: u32,
    /// What each publisher sends: "VP8 540x360 30 fps 800 kbit/s + Opus 20 ms".
    pub(crate) media: String,
    /// Users of one session: those who only listen too.
    pub(crate) users: u32,
}

/// A target with its version and what was set on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    /// "weir", "janus", "livekit".
    pub(crate) name: String,
    /// What tells variants of one target apart in a run ("io_uring", "mmsg").
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
    /// As the program says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
    /// Settings that matter for the figures.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) options: BTreeMap<String, String>,
}

impl Target {
    /// Name and variant, as a column is headed.
    pub(crate) fn label(&self) -> String {
        match &self.variant {
            Some(variant) => format!("{} {variant}", self.name),
            None => self.name.clone(),
        }
    }
}

/// One target from its start to its end: sessions are added step by step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Turn {
    /// What ran.
    pub(crate) target: Target,
    /// Which time it ran in this run, from 1.
    pub(crate) round: u32,
    /// In the order they were reached.
    pub(crate) steps: Vec<Step>,
    /// Why it ended.
    pub(crate) stop: Stop,
}

impl Turn {
    /// The step with the most sessions of those that were within all limits; browsers had no part in it.
    pub(crate) fn capacity(&self) -> Option<&Step> {
        let plain = self.steps.iter().filter(|step| step.witnesses.is_none());
        plain.filter(|step| step.held).max_by_key(|step| step.sessions)
    }

    /// Notes a doubt about the whole turn, where it will be read: at its last step.
    pub(crate) fn doubt(&mut self, text: String) {
        if let Some(step) = self.steps.last_mut() {
            step.warnings.push(text);
        }
    }
}

/// Why a turn ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub(crate) enum Stop {
    /// The target's CPU reached its limit.
    CpuFull {
        /// Share of the cores it was given, 0..=1.
        share: f64,
    },
    /// More was lost than the limit allows.
    Loss {
        /// Share of packets, 0..=1.
        share: f64,
    },
    /// One-way delay went past the limit.
    Delay {
        /// p99 in ms.
        p99_ms: f64,
    },
    /// A remote stream did not play in time.
    Unstable {
        /// How many did not.
        streams: u32,
        /// The limit in s.
        limit_s: u32,
    },
    /// The generator could not give more.
    GeneratorFull,
    /// All steps of the scenario were held.
    StepsDone,
    /// The run's time was over.
    TimeLimit,
    /// Something failed.
    Failed {
        /// What.
        error: String,
    },
}

impl Stop {
    /// Whether the target was at its end: otherwise its capacity is at least what was held.
    pub(crate) fn is_the_targets(&self) -> bool {
        matches!(self, Stop::CpuFull { .. } | Stop::Loss { .. } | Stop::Delay { .. } | Stop::Unstable { .. })
    }
}

/// Measurement of a fixed number of sessions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Sessions that ran.
    pub(crate) sessions: u32,
    /// Streams into the target.
    pub(crate) publishers: u32,
    /// Streams out of it.
    pub(crate) subscribers: u32,
    /// How long it was measured, s.
    pub(crate) seconds: f64,
    /// All limits were kept.
    pub(crate) held: bool,
    /// Packets per second from publishers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) packets_in_per_s: Option<f64>,
    /// Packets per second that arrived at subscribers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) packets_out_per_s: Option<f64>,
    /// Bits per second from publishers, RTP packets with SRTP tag, without UDP and IP headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bits_in_per_s: Option<f64>,
    /// Bits per second to subscribers, counted like `bits_in_per_s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bits_out_per_s: Option<f64>,
    /// CPU time of the target's processes per wall time, in cores (1.0 = one core full).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) target_cpu_cores: Option<f64>,
    /// Busy share of each CPU the target is pinned to, 0..=1, all that runs there and interrupts included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) core_busy: Vec<CoreBusy>,
    /// The target's CPU time per packet out, ns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_ns_per_packet_out: Option<f64>,
    /// Resident memory of the target, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory_bytes: Option<u64>,
    /// Growth of the target's memory since it was started, for each peer connection (streams in and out), bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory_per_pc_bytes: Option<f64>,
    /// From a publisher's socket to a subscriber's, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delay_ms: Option<Percentiles>,
    /// Share of the packets to subscribers that did not come, 0..=1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) loss: Option<f64>,
    /// Times a subscriber's picture stood still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) freezes: Option<u64>,
    /// Share of the received packets that were decrypted and verified; the others were counted by their clear headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) verified: Option<f64>,
    /// Packets that came only after they were asked for again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) repaired: Option<u64>,
    /// Packets that came out of order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reordered: Option<u64>,
    /// Interarrival jitter of the video streams at the end of the step, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) jitter_ms: Option<Percentiles>,
    /// From the start of a join to the first media of each stream, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) join_ms: Option<Percentiles>,
    /// Busy share of each of the generator's threads, 0..=1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) generator: Vec<ThreadBusy>,
    /// What makes this step's figures doubtful, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
    /// What browsers in one of the sessions saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) witnesses: Option<Witnesses>,
}

/// A distribution by its percentiles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    /// Median.
    pub(crate) p50: f64,
    /// 99 %.
    pub(crate) p99: f64,
    /// 99.9 %, where there were enough samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) p999: Option<f64>,
    /// How many samples.
    pub(crate) samples: u64,
}

/// One CPU's busy share.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct CoreBusy {
    /// Number of the CPU.
    pub(crate) cpu: u32,
    /// Busy share, 0..=1.
    pub(crate) share: f64,
}

/// One thread's busy share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ThreadBusy {
    /// Its name.
    pub(crate) name: String,
    /// Busy share, 0..=1.
    pub(crate) share: f64,
}

/// What headless browsers saw that took part in one loaded session.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Witnesses {
    /// How many browsers.
    pub(crate) browsers: u32,
    /// How long they were watched, s.
    pub(crate) seconds: f64,
    /// One for each stream that a browser received.
    pub(crate) streams: Vec<WitnessStream>,
}

/// One stream as one browser received it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct WitnessStream {
    /// Which browser, from 0.
    pub(crate) browser: u32,
    /// The stream's id.
    pub(crate) stream: String,
    /// Decoded frames per second.
    pub(crate) frames_per_s: f64,
    /// Width and height of the picture as decoded.
    pub(crate) width: u32,
    /// See `width`.
    pub(crate) height: u32,
    /// Freezes, as the browser counts them.
    pub(crate) freezes: u64,
    /// Length of all freezes, s.
    pub(crate) frozen_s: f64,
    /// Frames the browser dropped.
    pub(crate) frames_dropped: u64,
    /// Video packets it says were lost.
    pub(crate) packets_lost: i64,
    /// Mean time a frame spent in the jitter buffer, ms.
    pub(crate) jitter_buffer_ms: f64,
    /// Share of audio samples that were made up, 0..=1.
    pub(crate) concealed: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(sessions: u32, held: bool) -> Step {
        Step { sessions, held, ..Step::default() }
    }

    #[test]
    fn capacity_is_the_largest_step_that_held() {
        let target = Target {
            name: "weir".into(),
            variant: Some("mmsg".into()),
            version: None,
            options: BTreeMap::new(),
        };
        let mut turn = Turn {
            target,
            round: 1,
            steps: vec![step(1, true), step(4, true), step(8, false)],
            stop: Stop::GeneratorFull,
        };
        assert_eq!(turn.capacity().map(|step| step.sessions), Some(4));
        turn.steps = vec![step(1, false)];
        assert_eq!(turn.capacity(), None);
        assert_eq!(turn.target.label(), "weir mmsg");
    }

    #[test]
    fn what_was_not_measured_is_absent_and_comes_back_absent() {
        let text = serde_json::to_string(&step(3, true)).expect("plain data");
        assert!(!text.contains("loss") && !text.contains("null") && !text.contains("core_busy"), "{text}");
        assert_eq!(serde_json::from_str::<Step>(&text).expect("its own form"), step(3, true));
    }

    #[test]
    fn a_stop_names_its_reason() {
        let text = serde_json::to_string(&Stop::Unstable { streams: 2, limit_s: 40 }).expect("plain data");
        assert_eq!(text, r#"{"reason":"unstable","streams":2,"limit_s":40}"#);
    }
}
