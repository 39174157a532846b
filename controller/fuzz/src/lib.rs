//! What the fuzz targets run. In a library, so that each target is one line.

pub mod engine;
pub mod harness;
