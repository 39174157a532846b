//! Placement as the engine uses it: what changed about media nodes is told before each choice.
#![forbid(unsafe_code)]

use super::Engine;
use super::nodes::MediaNode;
use crate::ids::NodeId;
use crate::placement::{CoreState, NodeState, Pin, Unplaceable};

impl Engine {
    /// Chooses node and core for a session.
    pub(crate) fn place(&mut self, now_ms: u64, session: &str) -> Result<(NodeId, u16), Unplaceable> {
        for id in self.nodes.take_changed() {
            match self.nodes.media(id.as_str()) {
                Some(media) => {
                    let state = placement_state(media, self.nodes.takes_sessions(id.as_str()));
                    self.placement.update(&id, &state);
                }
                None => self.placement.remove(&id),
            }
        }
        let properties = self.registry.get(session).map(|session| &session.properties);
        let pin = properties.and_then(|properties| {
            Some(Pin { node: properties.media_node.as_ref()?, core: properties.media_core })
        });
        self.placement.place(now_ms, pin)
    }
}

fn placement_state(media: &MediaNode, eligible: bool) -> NodeState {
    let cores = media.info.cores.iter().map(|core| {
        let reported = media.load.cores.iter().find(|load| load.core == core.core);
        CoreState {
            core: core.core,
            load: reported.map_or(0.0, |load| load.load),
            streams: reported.map_or(0, |load| load.publications.saturating_add(load.subscriptions)),
            reported_sessions: reported.map_or(0, |load| load.rooms),
            sessions: media.rooms_on(core.core),
        }
    });
    NodeState { eligible, reported_at_ms: media.load_at_ms, cores: cores.collect() }
}
