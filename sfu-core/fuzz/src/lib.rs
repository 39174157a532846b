//! What the fuzz targets run. In a library, so that each target is one line.

pub mod harness;

#[path = "../../tests/sim/support/mod.rs"]
mod support;
