//! Media nodes as the engine knows them: the [`Cluster`] is the one truth about their life, beside it is kept what the media
//! processes said.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use sfu_core::control::proto::{CoreInfo, NodeInfo, NodeLoad};

use crate::cluster::{Cluster, Event, Illegal, Node, NodeUri, Origin, StatusChange};
use crate::ids::NodeId;
use crate::session::Place;

/// What a media process said, and what runs there.
#[derive(Clone, Debug)]
pub struct MediaNode {
    /// What it told about itself.
    pub info: NodeInfo,
    /// Last load report.
    pub load: NodeLoad,
    /// When it came, UTC milliseconds.
    pub load_at_ms: Option<u64>,
    /// Rooms that the engine has there, by core.
    pub rooms: BTreeMap<u16, u32>,
}

impl MediaNode {
    /// Rooms that the engine has on a core.
    pub fn rooms_on(&self, core: u16) -> u32 {
        self.rooms.get(&core).copied().unwrap_or(0)
    }
}

/// All media nodes.
#[derive(Debug, Default)]
pub struct Nodes {
    cluster: Cluster,
    /// Of nodes that said hello at least once.
    media: BTreeMap<NodeId, MediaNode>,
    /// Nodes that placement has to look at again.
    changed: BTreeSet<NodeId>,
    /// Nodes whose row may have changed.
    unsaved: BTreeSet<NodeId>,
}

impl Nodes {
    /// Looks a node up.
    pub fn get(&self, id: &str) -> Option<&Node> {
        self.cluster.get(id)
    }

    /// What the node's media process said. `None`: it was never connected.
    pub fn media(&self, id: &str) -> Option<&MediaNode> {
        self.media.get(id)
    }

    /// All of them by id.
    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.cluster.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.cluster.iter().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a new session may be placed there.
    pub fn takes_sessions(&self, id: &str) -> bool {
        let refuses = self.media.get(id).is_none_or(|media| media.info.draining);
        !refuses && self.cluster.get(id).is_some_and(Node::takes_sessions)
    }

    /// CPU load in the last report, percent.
    pub fn load(&self, id: &str) -> f64 {
        self.media.get(id).map_or(0.0, |media| media.load.load)
    }

    /// Whether the engine has a room there.
    pub fn is_busy(&self, id: &str) -> bool {
        self.media.get(id).is_some_and(|media| media.rooms.values().any(|rooms| *rooms > 0))
    }

    /// The node at a place, if there is one whose life is not over.
    pub fn at(&self, uri: &NodeUri) -> Option<&Node> {
        let here = |node: &&Node| {
            let known = node.uri.as_deref().and_then(|text| text.parse::<NodeUri>().ok());
            known.is_some_and(|known| known.same_place(uri))
        };
        self.cluster.iter().filter(|node| !node.status().is_final()).find(here)
    }

    pub(super) fn launch(&mut self, now_ms: u64, id: NodeId) -> Option<StatusChange> {
        self.unsaved.insert(id.clone());
        self.cluster.launch(now_ms, id)
    }

    pub(super) fn join(
        &mut self,
        now_ms: u64,
        id: NodeId,
        uri: &NodeUri,
        environment_id: Option<String>,
        origin: Origin,
    ) -> Option<StatusChange> {
        self.unsaved.insert(id.clone());
        self.cluster.join(now_ms, id, uri, environment_id, origin)
    }

    pub(super) fn apply(
        &mut self,
        now_ms: u64,
        id: &NodeId,
        event: Event,
    ) -> Result<Option<StatusChange>, Illegal> {
        self.changed.insert(id.clone());
        self.unsaved.insert(id.clone());
        self.cluster.apply(now_ms, id.as_str(), event)
    }

    pub(super) fn get_mut(&mut self, id: &NodeId) -> Option<&mut Node> {
        self.changed.insert(id.clone());
        self.cluster.get_mut(id.as_str())
    }

    pub(super) fn media_mut(&mut self, id: &NodeId) -> Option<&mut MediaNode> {
        self.changed.insert(id.clone());
        self.media.get_mut(id.as_str())
    }

    /// A media process said hello. `rooms`: what sessions have there; reports of the time before are not kept.
    pub(super) fn introduce(&mut self, id: &NodeId, info: NodeInfo, rooms: BTreeMap<u16, u32>) {
        self.changed.insert(id.clone());
        let media = MediaNode { info, load: NodeLoad::default(), load_at_ms: None, rooms };
        self.media.insert(id.clone(), media);
    }

    /// Forgets a node that is gone for good.
    pub(crate) fn remove(&mut self, id: &NodeId) {
        self.changed.insert(id.clone());
        self.unsaved.insert(id.clone());
        self.cluster.remove(id.as_str());
        self.media.remove(id.as_str());
    }

    /// Nodes whose row may have changed since the last call.
    pub(super) fn take_unsaved(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.unsaved)
    }

    /// Nodes that changed, came or went since the last call.
    pub(super) fn take_changed(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.changed)
    }

    pub(super) fn core(&self, place: &Place) -> Option<&CoreInfo> {
        let id = place.node.as_str();
        self.cluster.get(id).filter(|node| node.connected)?;
        self.media.get(id)?.info.cores.iter().find(|core| core.core == place.core)
    }

    pub(crate) fn room_opened(&mut self, place: &Place) {
        if let Some(media) = self.media_mut(&place.node) {
            *media.rooms.entry(place.core).or_default() += 1;
        }
    }

    pub(crate) fn room_closed(&mut self, place: &Place) {
        let rooms = self.media_mut(&place.node).and_then(|media| media.rooms.get_mut(&place.core));
        if let Some(rooms) = rooms {
            *rooms = rooms.saturating_sub(1);
        }
    }
}
