//! The media nodes of the cluster as its owner sees them: life cycle, and which of them belongs to it.
//!
//! [`Status`] and its transition table decide what may happen to a node; [`Node`] is one node with what the contract shows of
//! it; [`Cluster`] is all of them. No I/O: launches, connections and their failures come in as [`Event`]s, status changes
//! come out as [`StatusChange`]s, the body of the event `mediaNodeStatusChanged`.
#![forbid(unsafe_code)]

mod machine;
mod node;
mod removal;
mod status;
mod uri;

use std::collections::BTreeMap;

pub use machine::{LaunchRequest, LaunchedNode};
pub use node::{Node, Origin, StatusChange};
pub use removal::{DeletionStrategy, Removal, UnknownStrategy};
pub use status::{Event, Illegal, PatchRefused, Status, UnknownStatus};
pub use uri::{NodeUri, UriError};

use crate::ids::NodeId;

/// All nodes of the cluster that are not gone.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    nodes: BTreeMap<NodeId, Node>,
}

impl Cluster {
    /// Adds a node in `launching`. Returns the first status change of its life, or `None`: the id is taken.
    pub fn launch(&mut self, now_ms: u64, id: NodeId) -> Option<StatusChange> {
        self.add(now_ms, Node::launching(id, now_ms))
    }

    /// Adds a node whose place is known, which has to be connected to. Returns as [`Cluster::launch`].
    pub fn join(
        &mut self,
        now_ms: u64,
        id: NodeId,
        uri: &NodeUri,
        environment_id: Option<String>,
        origin: Origin,
    ) -> Option<StatusChange> {
        let mut node = Node::launching(id, now_ms);
        node.locate(uri, environment_id);
        node.origin = origin;
        self.add(now_ms, node)
    }

    fn add(&mut self, now_ms: u64, node: Node) -> Option<StatusChange> {
        if self.nodes.contains_key(node.id.as_str()) {
            return None;
        }
        let change = node.first_change(now_ms);
        self.nodes.insert(node.id.clone(), node);
        Some(change)
    }

    /// Lets something happen to a node. `Ok(None)`: there is no such node.
    /// # Errors
    /// [`Illegal`]: not in this status; nothing changed.
    pub fn apply(&mut self, now_ms: u64, id: &str, event: Event) -> Result<Option<StatusChange>, Illegal> {
        self.nodes.get_mut(id).map(|node| node.apply(now_ms, event)).transpose()
    }

    /// Looks a node up.
    pub fn get(&self, id: &str) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// Looks a node up for a change of what is known about it.
    pub fn get_mut(&mut self, id: &str) -> Option<&mut Node> {
        self.nodes.get_mut(id)
    }

    /// Forgets a node: at once when it is `terminated`, some time later when it `failed`.
    pub fn remove(&mut self, id: &str) -> Option<Node> {
        self.nodes.remove(id)
    }

    /// All of them by id.
    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// How many are in a status.
    pub fn count(&self, status: Status) -> usize {
        self.iter().filter(|node| node.status() == status).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_lives_from_launch_to_removal() {
        let mut cluster = Cluster::default();
        let first = cluster.launch(10, "media_1".into()).expect("new");
        assert_eq!((first.old, first.new), (None, Status::Launching));
        assert_eq!(cluster.launch(11, "media_1".into()), None, "the id is taken");
        let steps = [
            (Event::LaunchDone, Status::Running),
            (Event::Drain, Status::WaitingIdleToTerminate),
            (Event::Idle, Status::Terminating),
            (Event::Gone, Status::Terminated),
        ];
        for (event, status) in steps {
            assert_eq!(cluster.count(status), 0);
            let change = cluster.apply(20, "media_1", event).expect("legal").expect("there");
            assert_eq!((change.new, cluster.count(status)), (status, 1));
        }
        assert!(cluster.apply(30, "media_1", Event::Drain).is_err());
        assert_eq!(cluster.apply(30, "media_2", Event::Drain), Ok(None));
        assert!(cluster.remove("media_1").is_some());
        assert_eq!(cluster.iter().count(), 0);
    }
}
