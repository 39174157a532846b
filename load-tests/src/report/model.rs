//! The data model of a run.
