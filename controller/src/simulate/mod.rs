//! `weir simulate`: a load scenario through the real placement, autoscaler and node life cycle, on a virtual clock.
//!
//! ```text
//!  scenario ──▶ queue of instants ──▶ [launch done | gone] ─▶ load report ─▶ autoscaler ─▶ sessions end ─▶ sessions start
//!   (TOML)                              └────────────────── order within one instant ──────────────────┘
//! ```
//!
//! A load report shows what ran up to its instant, so a session shows one report after it began, and no longer one report after it
//! ended. Each run of the autoscaler gives one [`Row`]: load and average as it saw them, numbers of nodes after its action.
//! What is simulated is the decisions, not the media: a session brings the load that the scenario says, and a node's load has
//! no upper bound.
#![forbid(unsafe_code)]

mod output;
mod picture;
mod run;
mod scenario;
#[cfg(test)]
mod tests;
mod trace;

pub use output::{csv, table};
pub use picture::svg;
pub use run::{Outcome, Row, simulate};
pub use scenario::{Scenario, ScenarioError, Session};
pub use trace::sessions_of_trace;
