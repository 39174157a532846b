//! Starting and stopping the machines or processes that media nodes run on.
//!
//! | launcher | who starts a node | for |
//! |---|---|---|
//! | [`process`] | this program, as a child process | one machine, development |
//! | [`script`] | the operator's scripts, `cluster.md` section 4.1 | clouds |
//! | [`on_premise`] | the operator, by hand | `OPENVIDU_PRO_CLUSTER_ENVIRONMENT=on_premise` |
//! | [`fake`] | nobody | tests and simulations |
//!
//! A launcher knows nothing of sessions: when it is safe to stop a node is the cluster's to say. A launched node still has
//! to be connected to (`node_link`) before it is running.

pub mod fake;
pub mod on_premise;
pub mod process;
pub mod script;

use std::time::Duration;

use futures_util::future::BoxFuture;

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
    /// The provider's name of it, for [`Launcher::stop`].
    pub environment_id: String,
    /// Its control socket, `ws://IP:PORT/path`.
    pub uri: String,
}

/// Why a launcher did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// This kind of launcher cannot do that.
    #[error("{0}")]
    Unsupported(&'static str),
    /// It did not end in time, and was ended.
    #[error("{what} did not end within {} s", after.as_secs_f64())]
    TimedOut {
        /// Program or script.
        what: String,
        /// The limit.
        after: Duration,
    },
    /// It failed.
    #[error("{what}: {reason}")]
    Failed {
        /// Program, script or node.
        what: String,
        /// Its own words, cut to a sensible length.
        reason: String,
    },
}

/// Starts, stops and finds media nodes.
pub trait Launcher: Send + Sync {
    /// Starts one node; done when it runs.
    fn launch(&self, request: LaunchRequest) -> BoxFuture<'_, Result<LaunchedNode, LaunchError>>;

    /// Ends a node; done when it is gone. A node that is gone already is no error.
    fn stop<'a>(&'a self, environment_id: &'a str) -> BoxFuture<'a, Result<(), LaunchError>>;

    /// Lists the nodes that run and belong to this cluster.
    fn discover(&self) -> BoxFuture<'_, Result<Vec<LaunchedNode>, LaunchError>>;
}
