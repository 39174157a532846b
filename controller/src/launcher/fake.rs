//! A launcher with scripted delays and failures, for tests and simulations. Waits on tokio's clock only.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{LaunchError, LaunchRequest, LaunchedNode, Launcher};

/// How one launch goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How long it takes.
    pub after: Duration,
    /// Fails with this reason.
    pub failure: Option<String>,
}

/// Launches nothing; hands out `fake-1`, `fake-2`, ...
#[derive(Debug, Default)]
pub struct FakeLauncher {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    outcomes: VecDeque<Outcome>,
    requests: Vec<LaunchRequest>,
    running: BTreeMap<String, LaunchedNode>,
    launched: u32,
}

impl FakeLauncher {
    /// Every launch succeeds at once until [`FakeLauncher::script`] says otherwise.
    pub fn new() -> FakeLauncher {
        FakeLauncher::default()
    }

    /// How the next launch that has no outcome yet goes.
    pub fn script(&self, outcome: Outcome) {
        self.state().outcomes.push_back(outcome);
    }

    /// A node that is simply there, as after a restart of the controller.
    pub fn add(&self, node: LaunchedNode) {
        self.state().running.insert(node.environment_id.clone(), node);
    }

    /// All launches asked for, in order.
    pub fn requests(&self) -> Vec<LaunchRequest> {
        self.state().requests.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }
}

impl Launcher for FakeLauncher {
    fn launch(&self, request: LaunchRequest) -> BoxFuture<'_, Result<LaunchedNode, LaunchError>> {
        let (outcome, number) = {
            let mut state = self.state();
            state.requests.push(request);
            state.launched += 1;
            (state.outcomes.pop_front().unwrap_or_default(), state.launched)
        };
        Box::pin(async move {
            tokio::time::sleep(outcome.after).await;
            let environment_id = format!("fake-{number}");
            if let Some(reason) = outcome.failure {
                return Err(LaunchError::Failed { what: environment_id, reason });
            }
            let uri = format!("ws://10.0.{}.{}:8888/kurento", number / 250, number % 250 + 1);
            let node = LaunchedNode { environment_id, uri };
            self.add(node.clone());
            Ok(node)
        })
    }

    fn stop<'a>(&'a self, environment_id: &'a str) -> BoxFuture<'a, Result<(), LaunchError>> {
        Box::pin(async move {
            self.state().running.remove(environment_id);
            Ok(())
        })
    }

    fn discover(&self) -> BoxFuture<'_, Result<Vec<LaunchedNode>, LaunchError>> {
        Box::pin(async move { Ok(self.state().running.values().cloned().collect()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn follows_the_script_and_remembers() {
        let launcher = FakeLauncher::new();
        launcher.script(Outcome { after: Duration::from_millis(20), failure: None });
        launcher.script(Outcome { after: Duration::ZERO, failure: Some("no capacity".into()) });
        let large = LaunchRequest { instance_type: Some("large".into()), volume_size: Some(20) };
        let begun = tokio::time::Instant::now();
        let first = launcher.launch(large.clone()).await.expect("scripted to succeed");
        assert!(begun.elapsed() >= Duration::from_millis(20));
        let refused = launcher.launch(LaunchRequest::default()).await.expect_err("scripted to fail");
        assert_eq!(refused.to_string(), "fake-2: no capacity");
        let third = launcher.launch(LaunchRequest::default()).await.expect("no script, no failure");
        assert_ne!(first.uri, third.uri);
        assert_eq!(launcher.discover().await.expect("always works"), [first.clone(), third.clone()]);
        launcher.stop(&first.environment_id).await.expect("always works");
        assert_eq!(launcher.discover().await.expect("always works"), [third]);
        assert_eq!(launcher.requests().first(), Some(&large));
        assert_eq!(launcher.requests().len(), 3);
    }
}
