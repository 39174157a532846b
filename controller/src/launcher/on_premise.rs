//! Nodes that the operator starts and stops: the cluster only connects and disconnects. It can find them where the operator
//! gave it a script for that.
#![forbid(unsafe_code)]

use futures_util::future::{BoxFuture, ready};

use super::script::ScriptLauncher;
use super::{LaunchError, LaunchRequest, LaunchedNode, Launcher};

/// See the module.
#[derive(Clone, Debug)]
pub struct OnPremise(ScriptLauncher);

impl OnPremise {
    /// `scripts`: of which only the one that finds nodes is ever run.
    pub fn new(scripts: ScriptLauncher) -> Self {
        Self(scripts)
    }
}

impl Launcher for OnPremise {
    fn launch(&self, _: LaunchRequest) -> BoxFuture<'_, Result<LaunchedNode, LaunchError>> {
        Box::pin(ready(Err(LaunchError::Unsupported(
            "on premises a media node is started by hand and added by its uri",
        ))))
    }

    fn stop<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), LaunchError>> {
        Box::pin(ready(Ok(())))
    }

    fn can_discover(&self) -> bool {
        self.0.can_discover()
    }

    fn discover(&self) -> BoxFuture<'_, Result<Vec<LaunchedNode>, LaunchError>> {
        self.0.discover()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launcher::script::ScriptTimeouts;

    #[tokio::test]
    async fn leaves_everything_to_the_operator() {
        let scripts = ScriptLauncher::new("/no/such/directory", ScriptTimeouts::default());
        let launcher: &dyn Launcher = &OnPremise::new(scripts);
        assert!(matches!(launcher.launch(LaunchRequest::default()).await, Err(LaunchError::Unsupported(_))));
        assert!(matches!(launcher.discover().await, Err(LaunchError::Unsupported(_))));
        assert!(!launcher.can_discover());
        assert_eq!(launcher.stop("anything").await, Ok(()));
    }
}
