//! Child processes, pinned.
