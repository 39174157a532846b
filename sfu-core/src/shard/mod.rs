//! The engine of one core: everything it owns, and nothing that another core touches.

mod command;
mod load;
mod stats;

pub use command::{Answer, Command, Event, OpError};
pub use load::{LoadMeter, MAX_GATHER_WINDOW};
pub use stats::{Counters, Gauges};
