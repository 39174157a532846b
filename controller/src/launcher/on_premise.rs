//! Nodes that the operator starts and stops: the cluster only connects and disconnects.
#![forbid(unsafe_code)]

use futures_util::future::{BoxFuture, ready};

use super::{LaunchError, LaunchRequest, LaunchedNode, Launcher};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct OnPremise;

impl Launcher for OnPremise {
    fn launch(&self, _: LaunchRequest) -> BoxFuture<'_, Result<LaunchedNode, LaunchError>> {
        Box::pin(ready(Err(LaunchError::Unsupported(
            "on premises a media node is started by hand and added by its uri",
        ))))
    }

    fn stop<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), LaunchError>> {
        Box::pin(ready(Ok(())))
    }

    fn discover(&self) -> BoxFuture<'_, Result<Vec<LaunchedNode>, LaunchError>> {
        Box::pin(ready(Err(LaunchError::Unsupported("on premises media nodes are not discovered"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn leaves_everything_to_the_operator() {
        let launcher: &dyn Launcher = &OnPremise;
        assert!(matches!(launcher.launch(LaunchRequest::default()).await, Err(LaunchError::Unsupported(_))));
        assert!(matches!(launcher.discover().await, Err(LaunchError::Unsupported(_))));
        assert_eq!(launcher.stop("anything").await, Ok(()));
    }
}
