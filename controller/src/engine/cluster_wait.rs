//! REST requests that are answered when the outcome about a node is known. Each is bounded in time: a launch by its deadline,
//! a shutdown by its launcher.
#![forbid(unsafe_code)]

use super::{ApiError, Engine, Output, RestResponse};
use crate::cluster::{Origin, Status};
use crate::ids::{NodeId, ReplyId};

/// A request and what it waits for.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(super) reply: ReplyId,
    pub(super) node: NodeId,
    pub(super) wish: Wish,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The node runs.
    Running,
    /// The node is terminated.
    Gone,
}

impl Engine {
    /// Answers a request when the node is where it was asked to be, or cannot get there any more.
    /// # Errors
    /// 503: too many wait already.
    pub(crate) fn wait_for_node(&mut self, reply: ReplyId, node: NodeId, wish: Wish) -> Result<(), ApiError> {
        if self.work.waiters.len() >= self.config.cluster.waiters_max {
            return Err(ApiError::with(503, "too many requests wait for media nodes"));
        }
        self.work.waiters.push(Waiter { reply, node, wish });
        Ok(())
    }

    /// A node changed its status: those who waited for that hear of it.
    pub(super) fn on_status(&mut self, now_ms: u64, id: &NodeId, status: Status, out: &mut Vec<Output>) {
        if matches!(status, Status::Launching | Status::Canceled) {
            return;
        }
        let node = self.nodes.get(id.as_str());
        let joined = node.is_some_and(|node| node.origin == Origin::Joined);
        let failure = node.and_then(|node| node.failure.clone()).unwrap_or_default();
        self.answer_waiters(now_ms, id, out, |wish| match (wish, status) {
            (Wish::Running, Status::Running) => Some(Ok(200)),
            (Wish::Running, Status::Failed) => {
                Some(Err(ApiError::with(if joined { 404 } else { 502 }, failure.clone())))
            }
            (Wish::Running, Status::Terminated) => Some(Err(ApiError::with(502, "the launch was canceled"))),
            (Wish::Gone, Status::Terminated | Status::Failed) => Some(Ok(204)),
            (Wish::Gone, Status::Running) => {
                Some(Err(ApiError::with(502, "the node was needed again before it was gone")))
            }
            _ => None,
        });
        self.on_settled(now_ms, id, status, out);
    }

    /// A node cannot be stopped: 502 for whoever waits for its end.
    pub(super) fn refuse_removal(&mut self, now_ms: u64, id: &NodeId, reason: &str, out: &mut Vec<Output>) {
        self.answer_waiters(now_ms, id, out, |wish| {
            (wish == Wish::Gone).then(|| Err(ApiError::with(502, reason.to_owned())))
        });
    }

    fn answer_waiters(
        &mut self,
        now_ms: u64,
        id: &NodeId,
        out: &mut Vec<Output>,
        outcome: impl Fn(Wish) -> Option<Result<u16, ApiError>>,
    ) {
        let mine = |waiter: &mut Waiter| waiter.node == *id && outcome(waiter.wish).is_some();
        let done: Vec<Waiter> = self.work.waiters.extract_if(.., mine).collect();
        for waiter in done {
            let response = match outcome(waiter.wish).expect("asked above") {
                Ok(200) => crate::rest::media_node(self, id),
                Ok(status) => RestResponse { status, body: None },
                Err(error) => crate::rest::refusal(error, "media-nodes", now_ms),
            };
            let RestResponse { status, body } = response;
            out.push(Output::RestReply { reply: waiter.reply, status, body });
        }
    }
}
