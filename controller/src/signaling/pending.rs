//! Requests that wait for a media node: a table of continuations, keyed by the token of the ops, with a bound and a deadline.
#![forbid(unsafe_code)]

use sfu_core::control::proto::Op;

use super::error::{RpcError, code};
use super::publish::{Publish, Republish};
use super::subscribe::{ForceOffer, Subscribe};
use crate::engine::{Engine, NodeError, Output, Timer};
use crate::ids::{NodeId, SessionId};
use crate::session::Place;

/// What a node's reply is waited for.
#[derive(Debug)]
pub(crate) struct Pending {
    node: NodeId,
    then: Then,
}

/// What goes on when the reply is there.
#[derive(Debug)]
pub(crate) enum Then {
    /// The session's room is open: those who wait can join.
    OpenRoom {
        /// Which session.
        session: SessionId,
        /// Which life of it.
        room: String,
    },
    /// A session's room is open again after its media process was restarted.
    ReopenRoom {
        /// Which session.
        session: SessionId,
        /// Which life of it.
        room: String,
    },
    /// A publication is there.
    Publish(Publish),
    /// A publication has moved to a new transport.
    Republish(Republish),
    /// A subscriber's transport is there, or its subscription.
    Subscribe(Subscribe),
    /// A subscriber's new transport is there, to be offered without having been asked for.
    ForceOffer(ForceOffer),
}

impl Engine {
    /// Sends ops to a node and goes on with `then` when it has replied, has failed, or has not replied in time.
    /// # Errors
    /// 303: the node is not connected, or too many requests wait already.
    pub(crate) fn apply_then(
        &mut self,
        now_ms: u64,
        place: &Place,
        ops: Vec<Op>,
        then: Then,
        out: &mut Vec<Output>,
    ) -> Result<(), RpcError> {
        if self.core_of(place).is_none() {
            return Err(RpcError::new(
                code::MEDIA_ENDPOINT,
                format!("Media node {} is not connected", place.node),
            ));
        }
        if self.pending.len() >= self.config.limits.pending_replies {
            return Err(RpcError::new(code::MEDIA_ENDPOINT, "Too many requests wait for media nodes"));
        }
        let token = self.apply(place, ops, out);
        self.pending.insert(token, Pending { node: place.node.clone(), then });
        self.timers.set(now_ms + self.config.limits.node_reply_ms, Timer::Reply(token));
        Ok(())
    }

    /// A node replied to the ops of this token.
    pub(crate) fn settle(
        &mut self,
        now_ms: u64,
        token: u64,
        result: Result<(), NodeError>,
        out: &mut Vec<Output>,
    ) {
        let Some(pending) = self.pending.remove(&token) else {
            // Only what ends something is not waited for, and that may have ended by itself.
            return if let Err(error) = result {
                tracing::debug!(token, %error, "ops failed");
            };
        };
        if let Err(error) = &result {
            tracing::warn!(token, node = %pending.node, %error, "ops failed");
        }
        match pending.then {
            Then::OpenRoom { session, room } => self.on_room_opened(now_ms, &session, &room, result, out),
            Then::ReopenRoom { session, room } => {
                self.on_room_reopened(now_ms, &session, &room, result, out);
            }
            Then::Publish(publish) => self.on_published(now_ms, publish, result, out),
            Then::Republish(republish) => self.on_republished(now_ms, republish, result, out),
            Then::Subscribe(subscribe) => self.on_subscribed(now_ms, subscribe, result, out),
            Then::ForceOffer(offer) => self.on_force_offer(now_ms, offer, result, out),
        }
    }

    /// Nothing will come from this node any more.
    pub(crate) fn fail_replies_of(&mut self, now_ms: u64, node: &NodeId, out: &mut Vec<Output>) {
        let waiting = self.pending.iter().filter(|(_, pending)| pending.node == *node);
        let mut tokens: Vec<_> = waiting.map(|(token, _)| *token).collect();
        tokens.sort_unstable();
        for token in tokens {
            self.settle(now_ms, token, Err(NodeError::lost("connection to the media node is lost")), out);
        }
    }

    pub(crate) fn on_reply_timer(&mut self, now_ms: u64, token: u64, out: &mut Vec<Output>) {
        if self.pending.contains_key(&token) {
            self.settle(now_ms, token, Err(NodeError::lost("the media node did not answer in time")), out);
        }
    }
}
