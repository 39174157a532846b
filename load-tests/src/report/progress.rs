//! What a run is doing, while it does it: two bars on a terminal, plain lines elsewhere.

use std::io::IsTerminal as _;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::figures;
use super::model::{Step, Turn};

/// Progress of a whole run.
pub(crate) struct Progress {
    bars: MultiProgress,
    turns: ProgressBar,
    step: ProgressBar,
}

impl Progress {
    /// For a run of `turns` turns.
    pub(crate) fn new(turns: u32) -> Progress {
        let bars = MultiProgress::new();
        let bar = |length: u64, template: &str| {
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            bars.add(ProgressBar::new(length).with_style(style.progress_chars("█▌ ")))
        };
        let all = bar(u64::from(turns), "{elapsed_precise} turn {pos}/{len} {bar:24} {msg}");
        let step = bar(1, "         {prefix:22} {bar:24} {msg}");
        Progress { turns: all, step, bars }
    }

    /// A turn starts.
    pub(crate) fn begin_turn(&self, label: &str, round: u32) {
        self.turns.set_message(format!("{label}, round {round}"));
        self.turns.tick();
    }

    /// Sessions are being joined: `done` of `wanted` streams play.
    pub(crate) fn joining(&self, sessions: u32, done: u64, wanted: u64) {
        self.step.set_prefix(format!("{sessions} sessions join"));
        self.step.set_length(wanted);
        self.step.set_position(done);
        self.step.set_message("streams playing");
    }

    /// A step is being measured; `seen` is a short line about it.
    pub(crate) fn measuring(&self, sessions: u32, elapsed_s: f64, seconds: f64, seen: &str) {
        self.step.set_prefix(format!("{sessions} sessions hold"));
        self.step.set_length((seconds * 10.0) as u64);
        self.step.set_position((elapsed_s * 10.0) as u64);
        self.step.set_message(seen.to_owned());
    }

    /// A step is done.
    pub(crate) fn end_step(&self, turn: &str, step: &Step) {
        let held = if step.held { "held" } else { "not held" };
        self.say(&format!("{turn}: {} sessions {held}{}", step.sessions, brief(step)));
        for warning in &step.warnings {
            self.say(&format!("{turn}: WARNING {warning}"));
        }
    }

    /// A turn is done.
    pub(crate) fn end_turn(&self, turn: &Turn) {
        let sessions = turn.capacity().map_or(0, |step| step.sessions);
        self.say(&format!(
            "{}, round {}: {sessions} sessions; {}",
            turn.target.label(),
            turn.round,
            figures::stop(&turn.stop)
        ));
        self.turns.inc(1);
    }

    /// A line above the bars, also where no terminal is.
    pub(crate) fn say(&self, line: &str) {
        if std::io::stderr().is_terminal() {
            self.bars.suspend(|| eprintln!("{line}"));
        } else {
            eprintln!("{line}");
        }
    }

    /// The run is over: the bars go.
    pub(crate) fn finish(&self) {
        self.step.finish_and_clear();
        self.turns.finish_and_clear();
    }
}

/// What of a step was measured, in half a line.
fn brief(step: &Step) -> String {
    let mut text = String::new();
    let mut add = |figure: Option<String>| text.extend(figure.map(|figure| format!(", {figure}")));
    add(step.target_cpu_cores.map(|cores| format!("CPU {cores:.2} cores")));
    add(step.cpu_ns_per_packet_out.map(|ns| format!("{:.2} us/packet", ns / 1e3)));
    add(step.packets_out_per_s.map(|rate| format!("{} packets/s out", figures::count(rate))));
    add(step.delay_ms.map(|delay| format!("delay p99 {:.1} ms", delay.p99)));
    add(step.loss.map(|loss| format!("loss {:.3} %", loss * 100.0)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_names_what_was_measured_only() {
        assert_eq!(brief(&Step::default()), "");
        let step = Step { loss: Some(0.001), packets_out_per_s: Some(12_345.0), ..Step::default() };
        assert_eq!(brief(&step), ", 12 345 packets/s out, loss 0.100 %");
    }
}
