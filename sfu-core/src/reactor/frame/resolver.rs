//! The thread that asks the kernel for hops, for all shards of a node.
//!
//! Shards ask and take answers through bounded queues and never wait. A question that finds the queue full is dropped: the
//! shard asks again half a second later, and sends by its UDP sockets until then.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, bounded};
use crossbeam::queue::ArrayQueue;

use super::netlink::Kernel;
use super::socket::PacketSocket;
use super::{Frames, Hop};
use crate::ids::LocalId;
use crate::reactor::thread;

/// Questions that may wait for the thread.
const QUESTIONS: usize = 4096;
/// Answers that may wait for one shard.
const ANSWERS: usize = 4096;

/// Why frames cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error("frames cannot be sent ({step}: {source}); {remedy}")]
pub struct ResolverError {
    step: &'static str,
    source: io::Error,
    remedy: &'static str,
}

impl ResolverError {
    fn at(step: &'static str) -> impl FnOnce(io::Error) -> ResolverError {
        move |source| {
            let remedy = match source.kind() {
                io::ErrorKind::PermissionDenied => "give the process the capability CAP_NET_RAW",
                _ => "set the send path to socket",
            };
            ResolverError { step, source, remedy }
        }
    }
}

struct Question {
    answers: Arc<ArrayQueue<Answer>>,
    local: LocalId,
    from: IpAddr,
    to: IpAddr,
}

/// What the kernel says of a destination.
pub(super) struct Answer {
    pub(super) local: LocalId,
    pub(super) to: IpAddr,
    /// `None`: it is not reached by Ethernet, or the neighbour is not known yet.
    pub(super) hop: Option<Hop>,
}

/// A node's resolver. Its thread ends when this and all [`Frames`] made from it are gone.
pub struct Resolver {
    questions: Sender<Question>,
}

impl Resolver {
    /// Starts the thread, in the network namespace of the caller.
    ///
    /// # Errors
    /// The process may not open packet sockets, or the kernel has no rtnetlink.
    pub fn start() -> Result<Resolver, ResolverError> {
        PacketSocket::open().map_err(ResolverError::at("packet socket"))?;
        let kernel = Kernel::open().map_err(ResolverError::at("rtnetlink"))?;
        let (questions, asked) = bounded(QUESTIONS);
        thread::spawn("weir-resolver", None, move || answer_all(kernel, &asked))
            .map_err(ResolverError::at("thread"))?;
        Ok(Resolver { questions })
    }

    /// What one shard needs.
    ///
    /// # Errors
    /// No packet socket to be had.
    pub fn frames(&self) -> Result<Frames, ResolverError> {
        let socket = PacketSocket::open().map_err(ResolverError::at("packet socket"))?;
        let asker = Asker { questions: self.questions.clone(), answers: Arc::new(ArrayQueue::new(ANSWERS)) };
        Ok(Frames::new(socket, asker))
    }
}

fn answer_all(mut kernel: Kernel, questions: &Receiver<Question>) {
    for Question { answers, local, from, to } in questions {
        let hop = kernel.hop(from, to).unwrap_or_else(|error| {
            tracing::debug!(%to, %error, "no hop");
            None
        });
        // A shard that does not take its answers asks again.
        let _ = answers.push(Answer { local, to, hop });
    }
}

/// A shard's end of both queues.
pub(super) struct Asker {
    questions: Sender<Question>,
    answers: Arc<ArrayQueue<Answer>>,
}

impl Asker {
    pub(super) fn ask(&self, local: LocalId, from: IpAddr, to: IpAddr) {
        let _ = self.questions.try_send(Question { answers: Arc::clone(&self.answers), local, from, to });
    }

    pub(super) fn answer(&self) -> Option<Answer> {
        self.answers.pop()
    }
}
