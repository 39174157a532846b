//! Connections to media nodes: up, lost, back, crashed (`cluster.md` section 6).
//!
//! ```text
//! NodeUp ──▶ connected ──NodeDown──▶ lost ──within 3 s──▶ connected, reconciled; no event
//!                                     │
//!                                    3 s: nodeCrashed, its sessions end ──▶ crashed ──NodeUp──▶ nodeRecovered, empty
//!                                                                             │
//!                                       reconnection timeout, if there is one ▼ (3 s at the least: together with nodeCrashed)
//!                                                           terminating, sessions end, terminated
//! ```
#![forbid(unsafe_code)]

use serde_json::json;
use sfu_core::control::proto::{NodeInfo, NodeLoad, Notification, TransportState};

use super::cluster::{cluster_record, node_fields};
use super::{Engine, Output, Timer};
use crate::cluster::{Event, Status};
use crate::ids::NodeId;
use crate::session::Reason;

/// How long a lost node may be away without anybody hearing of it, milliseconds.
pub const SILENT_MS: u64 = 3_000;

impl Engine {
    pub(super) fn on_node_up(&mut self, now_ms: u64, id: &NodeId, info: NodeInfo, out: &mut Vec<Output>) {
        let known = self.nodes.media(id.as_str());
        let restarted = known.is_some_and(|known| known.info.process != info.process);
        let alive = |status: Status| !status.is_final() && status != Status::Terminating;
        let Some(node) = self.nodes.get_mut(id).filter(|node| alive(node.status())) else {
            tracing::debug!(node = %id, "a media node that nobody waits for");
            return;
        };
        tracing::info!(node = %id, process = %info.process, restarted, "media node connected");
        node.connect(now_ms);
        let recovered = std::mem::take(&mut node.crashed);
        if recovered {
            let fields = node_fields(node, &self.config.cluster.id);
            out.push(Output::Record(cluster_record("nodeRecovered", now_ms, fields)));
        }
        // Whatever was asked before is answered by what runs there now.
        self.fail_replies_of(now_ms, id, out);
        let there = info.rooms.clone();
        let rooms = self.rooms_of(id);
        self.nodes.introduce(id, info, rooms);
        // Before anybody asks whether it is busy.
        self.adopt(id, &there);
        self.launch_done(now_ms, id, out);
        if self.nodes.get(id.as_str()).is_some_and(|node| node.connected) {
            self.reconcile(now_ms, id, restarted, &there, out);
            // One that drained in an earlier life of the server may have nothing left.
            self.idle_check(now_ms, id, out);
        }
    }

    pub(super) fn on_node_down(&mut self, now_ms: u64, id: &NodeId, out: &mut Vec<Output>) {
        let Some(node) = self.nodes.get_mut(id).filter(|node| node.connected) else { return };
        tracing::warn!(node = %id, "media node lost");
        node.disconnect(now_ms);
        self.timers.set(now_ms + SILENT_MS, Timer::NodeLost(id.clone()));
        if let Some(total) = self.config.node_reconnection_ms.filter(|total| *total > SILENT_MS) {
            self.timers.set(now_ms + total, Timer::NodeLost(id.clone()));
        }
        self.fail_replies_of(now_ms, id, out);
    }

    pub(super) fn on_node_lost_timer(&mut self, now_ms: u64, id: &NodeId, out: &mut Vec<Output>) {
        // Only sessions of an earlier life of the server can be on a node that never came.
        let node = self.nodes.get(id.as_str());
        if node.is_none_or(|node| !node.connected && node.lost_at_ms.is_none()) {
            return self.end_sessions_of(now_ms, id, Reason::NodeCrashed, out);
        }
        let Some(node) = node.filter(|node| !node.connected) else { return };
        let Some(lost_at) = node.lost_at_ms.filter(|_| node.status().can_have_load()) else { return };
        let (away, crashed) = (now_ms.saturating_sub(lost_at), node.crashed);
        if away < SILENT_MS {
            return;
        }
        if !crashed {
            self.record_crash(now_ms, id, lost_at, out);
        }
        if self.config.node_reconnection_ms.is_some_and(|total| away >= total) {
            self.terminate(now_ms, id, Event::Terminate, Reason::NodeCrashed, out);
        } else if !crashed {
            self.end_sessions_of(now_ms, id, Reason::NodeCrashed, out);
            // A draining node whose last session this was, or that had none left.
            self.idle_check(now_ms, id, out);
        }
    }

    fn record_crash(&mut self, now_ms: u64, id: &NodeId, lost_at: u64, out: &mut Vec<Output>) {
        let sessions = self.sessions_on(id);
        if let Some(media) = self.nodes.media_mut(id) {
            media.load = NodeLoad::default();
        }
        let Some(node) = self.nodes.get_mut(id) else { return };
        tracing::error!(node = %id, sessions = sessions.len(), "media node crashed");
        node.crashed = true;
        let mut fields = node_fields(node, &self.config.cluster.id);
        fields["sessionIds"] = json!(sessions);
        fields["recordingIds"] = json!([]);
        fields["broadcasts"] = json!([]);
        fields["timeOfDisconnection"] = lost_at.into();
        out.push(Output::Record(cluster_record("nodeCrashed", now_ms, fields)));
    }

    pub(super) fn on_node_notification(&mut self, now_ms: u64, id: &NodeId, notification: Notification) {
        match notification {
            Notification::Load(load) => {
                if let Some(media) = self.nodes.media_mut(id) {
                    media.load = load;
                    media.load_at_ms = Some(now_ms);
                }
            }
            Notification::TransportState { room, transport, state, reason } => {
                log_transport(id, &room, &transport, state, &reason);
            }
        }
    }
}

/// A failed or closed peer connection changes nothing here: the client notices by itself and comes with
/// `reconnectStream`, or its socket dies as well and it is evicted.
fn log_transport(node: &NodeId, room: &str, transport: &str, state: TransportState, reason: &str) {
    match state {
        TransportState::Failed | TransportState::Disconnected => {
            tracing::info!(%node, room, transport, ?state, reason, "peer connection");
        }
        _ => tracing::debug!(%node, room, transport, ?state, reason, "peer connection"),
    }
}
