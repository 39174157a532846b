//! Benchmarks of Weir. Every figure is a ratio to a baseline that runs in turns with it, on the same core.

pub mod controller;
pub mod fanout;
