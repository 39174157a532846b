//! What the cluster wants done about media nodes outside, and what it hears of it.
//!
//! ```text
//! Launch ──▶ Launched, LaunchFailed      Connect ──▶ NodeUp, Unreachable (as often as it is tried), NodeDown
//! Stop ────▶ Stopped                     Disconnect ──▶ nothing more of that link
//! Discover ▶ Discovered
//! ```
#![forbid(unsafe_code)]

use crate::cluster::{LaunchRequest, LaunchedNode, NodeUri};
use crate::ids::NodeId;

/// Something to do about a media node. Orders never wait for each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeOrder {
    /// Start a machine for a new node.
    Launch {
        /// Which node it is for.
        node: NodeId,
        /// What it shall be like.
        request: LaunchRequest,
    },
    /// End a node's machine.
    Stop {
        /// Which node.
        node: NodeId,
        /// Its launcher's name of it.
        environment_id: String,
    },
    /// Connect to a node, and keep at it until told to disconnect.
    Connect {
        /// Which node.
        node: NodeId,
        /// Its control socket.
        uri: NodeUri,
    },
    /// Close the connection after what was sent before, or stop trying.
    Disconnect {
        /// Which node.
        node: NodeId,
    },
    /// List the machines that run and belong to this cluster.
    Discover,
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeNews {
    /// A machine runs.
    Launched {
        /// For which node.
        node: NodeId,
        /// What it is.
        machine: LaunchedNode,
    },
    /// No machine came up.
    LaunchFailed {
        /// For which node.
        node: NodeId,
        /// Why, for people.
        reason: String,
    },
    /// An attempt to connect failed. The next one follows.
    Unreachable {
        /// Which node.
        node: NodeId,
        /// Counted from 1 since the connection was ordered or lost.
        attempt: u32,
        /// Why, for people.
        reason: String,
    },
    /// A machine is gone, or could not be ended.
    Stopped {
        /// Which node.
        node: NodeId,
        /// Why not, for people.
        result: Result<(), String>,
    },
    /// Answer to [`NodeOrder::Discover`].
    Discovered {
        /// The machines, or why they are not known.
        result: Result<Vec<LaunchedNode>, String>,
    },
}
