//! The media nodes outside: carries out what the engine orders about them, and turns what happens there into inputs.
//!
//! ```text
//! NodeOrder ─┬─ Connect, Disconnect, apply ─▶ NodeLinks ──▶ LinkEvent ──┐
//!            └─ Launch, Stop, Discover ─────▶ a task with the Launcher ─┴─▶ Input
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use sfu_core::control::proto::Op;
use tokio::sync::{mpsc, watch};

use crate::cluster::LaunchRequest;
use crate::engine::{Input, NodeError, NodeNews, NodeOrder};
use crate::ids::NodeId;
use crate::launcher::Launcher;
use crate::node_link::{LinkConfig, LinkEvent, NodeLinks};
use crate::shell::{Nodes, QUEUE_INPUTS_MAX};

/// What a media node said about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// `io_uring` or `mmsg`.
    pub reactor: String,
    /// How many cores it forwards on.
    pub cores: usize,
}

/// The connected media nodes.
pub type Connected = BTreeMap<NodeId, NodeFacts>;

/// Links and launcher as the shell uses them.
pub struct Fleet {
    links: NodeLinks,
    connected: watch::Sender<Connected>,
    launcher: Arc<dyn Launcher>,
    inputs: mpsc::Sender<Input>,
}

impl Fleet {
    /// No nodes yet; what happens goes to `inputs`. Must be used inside a tokio runtime.
    pub fn new(link: LinkConfig, launcher: Arc<dyn Launcher>, inputs: mpsc::Sender<Input>) -> Self {
        let (events, queue) = mpsc::channel(QUEUE_INPUTS_MAX);
        let connected = watch::Sender::default();
        tokio::spawn(forward(queue, inputs.clone(), connected.clone()));
        Self { links: NodeLinks::new(link, events), connected, launcher, inputs }
    }

    /// The connected media nodes, ahead of the inputs that tell of them.
    pub fn connected(&self) -> watch::Receiver<Connected> {
        self.connected.subscribe()
    }

    /// Lets a task tell what came of an order. The number of tasks is bounded by the number of nodes.
    fn report(&self, outcome: impl Future<Output = NodeNews> + Send + 'static) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            // The shell is gone only when the process ends.
            let _ = inputs.send(Input::NodeNews(outcome.await)).await;
        });
    }

    fn launch(&self, node: NodeId, request: LaunchRequest) {
        let launcher = self.launcher.clone();
        self.report(async move {
            match launcher.launch(request).await {
                Ok(machine) => NodeNews::Launched { node, machine },
                Err(error) => NodeNews::LaunchFailed { node, reason: error.to_string() },
            }
        });
    }

    fn stop(&self, node: NodeId, environment_id: String) {
        let launcher = self.launcher.clone();
        self.report(async move {
            let result = launcher.stop(&environment_id).await.map_err(|error| error.to_string());
            NodeNews::Stopped { node, result }
        });
    }

    fn discover(&self) {
        let launcher = self.launcher.clone();
        self.report(async move {
            let result = launcher.discover().await.map_err(|error| error.to_string());
            NodeNews::Discovered { result }
        });
    }
}

impl Nodes for Fleet {
    fn apply(&mut self, node: &NodeId, token: u64, room: String, ops: Vec<Op>) -> Result<(), NodeError> {
        self.links.apply(node, token, room, ops)
    }

    fn order(&mut self, order: NodeOrder) {
        match order {
            NodeOrder::Launch { node, request } => self.launch(node, request),
            NodeOrder::Stop { node, environment_id } => self.stop(node, environment_id),
            NodeOrder::Connect { node, uri } => self.links.connect(node, uri),
            NodeOrder::Disconnect { node } => {
                self.links.disconnect(&node);
                self.connected.send_modify(|nodes| drop(nodes.remove(&node)));
            }
            NodeOrder::Discover => self.discover(),
        }
    }

    fn can_discover(&self) -> bool {
        self.launcher.can_discover()
    }
}

/// Turns what happens on links into inputs.
async fn forward(
    mut events: mpsc::Receiver<LinkEvent>,
    inputs: mpsc::Sender<Input>,
    connected: watch::Sender<Connected>,
) {
    while let Some(event) = events.recv().await {
        note(&connected, &event);
        let input = match event {
            LinkEvent::Up { node, info } => Input::NodeUp { node, info: *info },
            LinkEvent::Down { node } => Input::NodeDown { node },
            LinkEvent::Reply { token, result } => Input::NodeReply { token, result },
            LinkEvent::Notification { node, notification } => Input::NodeNotification { node, notification },
            LinkEvent::Unreachable { node, attempt, reason } => {
                if attempt.is_power_of_two() {
                    tracing::info!(%node, attempt, reason, "media node cannot be reached");
                }
                Input::NodeNews(NodeNews::Unreachable { node, attempt, reason })
            }
        };
        if inputs.send(input).await.is_err() {
            return;
        }
    }
}

/// Keeps the list of connected nodes.
fn note(connected: &watch::Sender<Connected>, event: &LinkEvent) {
    match event {
        LinkEvent::Up { node, info } => {
            let facts = NodeFacts { reactor: info.reactor.clone(), cores: info.cores.len() };
            connected.send_modify(|nodes| drop(nodes.insert(node.clone(), facts)));
        }
        LinkEvent::Down { node } => connected.send_modify(|nodes| drop(nodes.remove(node))),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::launcher::fake::{FakeLauncher, Outcome};

    #[tokio::test]
    async fn orders_are_carried_out_and_reported() {
        let launcher = Arc::new(FakeLauncher::new());
        launcher.script(Outcome { after: Duration::from_millis(10), failure: None });
        launcher.script(Outcome { after: Duration::ZERO, failure: Some("no capacity".into()) });
        let (inputs, mut heard) = mpsc::channel(8);
        let mut fleet = Fleet::new(LinkConfig::new("secret"), launcher.clone(), inputs);
        let mut news = async || match heard.recv().await {
            Some(Input::NodeNews(news)) => news,
            other => panic!("{other:?}"),
        };
        let large = LaunchRequest { instance_type: Some("large".into()), volume_size: None };
        fleet.order(NodeOrder::Launch { node: "a".into(), request: large.clone() });
        let NodeNews::Launched { node, machine } = news().await else { panic!("it succeeds") };
        assert_eq!((node.as_str(), machine.environment_id.as_str()), ("a", "fake-1"));
        fleet.order(NodeOrder::Launch { node: "b".into(), request: LaunchRequest::default() });
        let NodeNews::LaunchFailed { node, reason } = news().await else { panic!("it fails") };
        assert_eq!((node.as_str(), reason.as_str()), ("b", "fake-2: no capacity"));
        assert_eq!(launcher.requests()[0], large);
        fleet.order(NodeOrder::Discover);
        assert_eq!(news().await, NodeNews::Discovered { result: Ok(vec![machine.clone()]) });
        fleet.order(NodeOrder::Stop { node: "a".into(), environment_id: machine.environment_id });
        assert_eq!(news().await, NodeNews::Stopped { node: "a".into(), result: Ok(()) });
        fleet.order(NodeOrder::Discover);
        assert_eq!(news().await, NodeNews::Discovered { result: Ok(Vec::new()) });
        // Nobody listens on port 1.
        let uri = "ws://127.0.0.1:1/".parse().expect("a URI");
        fleet.order(NodeOrder::Connect { node: "c".into(), uri });
        let NodeNews::Unreachable { node, attempt: 1, .. } = news().await else { panic!("nobody is there") };
        assert_eq!(node.as_str(), "c");
    }
}
