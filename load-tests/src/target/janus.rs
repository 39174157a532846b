//! Adapter, see `target/mod.rs`.
