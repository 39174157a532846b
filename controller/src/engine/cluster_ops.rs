//! What the REST API asks of media nodes (`rest-api.md` section 8, `cluster.md` sections 4 and 5). Statuses are the contract's.
#![forbid(unsafe_code)]

use super::cluster::Machine;
use super::{ApiError, Engine, Output};
use crate::cluster::{DeletionStrategy, Event, LaunchRequest, NodeUri, Origin, Removal, Status};
use crate::ids::NodeId;
use crate::session::Reason;

/// Body of `POST /media-nodes`, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NewNode {
    /// A node that is there.
    At {
        /// Where.
        uri: NodeUri,
        /// The operator's name of it.
        environment_id: Option<String>,
    },
    /// A node to be launched.
    Launched(LaunchRequest),
}

/// What became of a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    /// It has begun, or was under way.
    Begun,
    /// The node drains first.
    Later,
}

impl Engine {
    /// Adds a node.
    /// # Errors
    /// 409: there is one at this place. 501: nodes are not launched here. 502: there are too many.
    pub(crate) fn add_media_node(
        &mut self,
        now_ms: u64,
        new: NewNode,
        out: &mut Vec<Output>,
    ) -> Result<NodeId, ApiError> {
        if self.nodes.len() >= self.config.cluster.nodes_max {
            return Err(ApiError::with(502, "there are too many media nodes"));
        }
        match new {
            NewNode::At { uri, environment_id } => {
                if let Some(known) = self.nodes.at(&uri) {
                    return Err(ApiError::with(409, format!("{uri} is media node {}", known.id)));
                }
                let id = self.free_node_id();
                let machine = Machine { id: id.clone(), uri, environment_id, origin: Origin::Joined };
                self.join_node(now_ms, machine, 1, out);
                Ok(id)
            }
            NewNode::Launched(request) if self.config.cluster.launches => {
                Ok(self.launch_node(now_ms, request, out))
            }
            NewNode::Launched(_) => Err(ApiError::with(
                501,
                "on premises a media node is started by hand and added by its \"uri\"",
            )),
        }
    }

    /// Removes a node.
    /// # Errors
    /// 404: unknown or gone. 409: busy, and the strategy does not allow for that.
    pub(crate) fn remove_media_node(
        &mut self,
        now_ms: u64,
        id: &str,
        strategy: DeletionStrategy,
        out: &mut Vec<Output>,
    ) -> Result<Removed, ApiError> {
        let node = self.nodes.get(id).ok_or(ApiError::status(404))?;
        let (id, status) = (node.id.clone(), node.status());
        match status.removal(strategy, self.nodes.is_busy(id.as_str())) {
            Removal::Starts(Event::Terminate) => {
                self.terminate(now_ms, &id, Event::Terminate, Reason::MediaServerDisconnect, out);
            }
            Removal::Starts(event) => {
                self.change(now_ms, &id, event, out);
            }
            Removal::Later(event) => {
                if let Some(event) = event {
                    self.change(now_ms, &id, event, out);
                }
                return Ok(Removed::Later);
            }
            Removal::UnderWay => {}
            Removal::Busy => {
                return Err(ApiError::with(409, format!("Media node {id} hosts sessions")));
            }
            Removal::NotThere => return Err(ApiError::status(404)),
        }
        Ok(Removed::Begun)
    }

    /// Changes a node's status; false: it had it already.
    /// # Errors
    /// 400: there is no such way. 404: unknown.
    pub(crate) fn patch_media_node(
        &mut self,
        now_ms: u64,
        id: &str,
        target: Status,
        out: &mut Vec<Output>,
    ) -> Result<bool, ApiError> {
        let node = self.nodes.get(id).ok_or(ApiError::status(404))?;
        let id = node.id.clone();
        let refused = |error| ApiError::with(400, format!("Property 'status': {error}"));
        let event = node.status().patch(target).map_err(refused)?;
        match event {
            None => return Ok(false),
            Some(Event::Terminate) => {
                self.terminate(now_ms, &id, Event::Terminate, Reason::MediaServerDisconnect, out);
            }
            Some(event) => {
                self.change(now_ms, &id, event, out);
                self.idle_check(now_ms, &id, out);
            }
        }
        Ok(true)
    }
}
