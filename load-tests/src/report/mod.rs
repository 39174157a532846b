//! What a run found, and its forms: terminal table, JSON, HTML.

pub(crate) mod model;
