//! What is asked of whoever starts machines for media nodes, and what comes back.
#![forbid(unsafe_code)]

/// What a new node should be like. Launchers ignore what means nothing to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaunchRequest {
    /// Provider's machine type; the provider's default when absent.
    pub instance_type: Option<String>,
    /// Disk in GB; the provider's default when absent.
    pub volume_size: Option<u32>,
}

/// A node that a launcher knows to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchedNode {
    /// The provider's name of it, by which it is stopped.
    pub environment_id: String,
    /// Its control socket, `ws://IP:PORT/path`.
    pub uri: String,
}
