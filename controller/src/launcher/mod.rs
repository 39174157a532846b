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

pub use crate::cluster::{LaunchRequest, LaunchedNode};

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

    /// Whether [`Launcher::discover`] can find nodes.
    fn can_discover(&self) -> bool {
        true
    }

    /// Lists the nodes that run and belong to this cluster.
    fn discover(&self) -> BoxFuture<'_, Result<Vec<LaunchedNode>, LaunchError>>;
}
