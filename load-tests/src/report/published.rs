//! The published capacity table: 7-to-7 sessions until the media node's CPU is full, OpenVidu 2.x with Kurento on AWS.
//!
//! Each participant sends one audio+video stream (540x360, 30 fps) and receives six. The study behind it is of December 2018.

/// One column of the table.
pub(crate) struct Published {
    /// The machine.
    pub(crate) machine: &'static str,
    pub(crate) cores: u32,
    pub(crate) memory_gb: u32,
    pub(crate) sessions: u32,
}

/// Streams into the node in one session.
pub(crate) const PUBLISHERS: u32 = 7;
/// Streams out of it.
pub(crate) const SUBSCRIBERS: u32 = 42;

/// Where the figures are from.
pub(crate) const SOURCE: &str = "OpenVidu 2.x (Kurento), published table, AWS, media node at 100 % CPU";

/// All columns.
pub(crate) const TABLE: [Published; 4] = [
    Published { machine: "c5.large", cores: 2, memory_gb: 4, sessions: 4 },
    Published { machine: "c5.xlarge", cores: 4, memory_gb: 8, sessions: 7 },
    Published { machine: "c5.2xlarge", cores: 8, memory_gb: 16, sessions: 15 },
    Published { machine: "c5.4xlarge", cores: 16, memory_gb: 32, sessions: 26 },
];

/// How much of linear growth is left from the smallest machine to the largest: 26 of 32.
pub(crate) fn scaling() -> f64 {
    let [first, .., last] = &TABLE;
    let per_core = |column: &Published| f64::from(column.sessions) / f64::from(column.cores);
    per_core(last) / per_core(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_agree_with_the_published_streams() {
        let streams: Vec<_> = TABLE
            .iter()
            .map(|column| (column.sessions * PUBLISHERS, column.sessions * SUBSCRIBERS))
            .collect();
        assert_eq!(streams, [(28, 168), (49, 294), (105, 630), (182, 1092)]);
        assert!((scaling() - 26.0 / 32.0).abs() < 1e-9);
    }
}
