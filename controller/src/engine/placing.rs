//! Placement as the engine uses it: what changed about media nodes is told before each choice.
#![forbid(unsafe_code)]

use super::nodes::{MediaNode, NoNode, Nodes, Placer};
use super::{Engine, Session};
use crate::ids::NodeId;
use crate::placement::{CoreState, NodeState, Placement};

impl Placer for Placement {
    fn node_changed(&mut self, id: &NodeId, node: Option<&MediaNode>) {
        match node {
            Some(node) => self.update(id, &node.placement_state()),
            None => self.remove(id),
        }
    }

    fn place(&mut self, now_ms: u64, session: &Session, _nodes: &Nodes) -> Result<(NodeId, u16), NoNode> {
        let pinned = session.properties.media_node.as_ref();
        Self::place(self, now_ms, pinned).map_err(|error| NoNode(error.to_string()))
    }
}

impl Engine {
    /// Chooses node and core for a session.
    pub(crate) fn place(&mut self, now_ms: u64, session: &str) -> Result<(NodeId, u16), NoNode> {
        let Some(session) = self.registry.get(session) else {
            return Err(NoNode(format!("Session {session} not found")));
        };
        for id in self.nodes.take_changed() {
            self.placer.node_changed(&id, self.nodes.get(id.as_str()));
        }
        self.placer.place(now_ms, session, &self.nodes)
    }
}

impl MediaNode {
    fn placement_state(&self) -> NodeState {
        let cores = self.info.cores.iter().map(|core| {
            let reported = self.load.cores.iter().find(|load| load.core == core.core);
            CoreState {
                core: core.core,
                load: reported.map_or(0.0, |load| load.load),
                streams: reported.map_or(0, |load| load.publications.saturating_add(load.subscriptions)),
                reported_sessions: reported.map_or(0, |load| load.rooms),
                sessions: self.rooms_on(core.core),
            }
        });
        NodeState { eligible: self.takes_sessions(), reported_at_ms: self.load_at_ms, cores: cores.collect() }
    }
}
