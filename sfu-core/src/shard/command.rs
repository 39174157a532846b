//! What the control thread says to a shard and hears from it. Crosses the inbox between two batches, never a lock.
#![forbid(unsafe_code)]

use crate::control::proto::{Op, RoomInfo, RoomStats, TransportState, error_code};

/// A request to one shard. Every command is answered by one [`Event::Reply`] with its token.
#[derive(Debug)]
pub enum Command {
    /// Applies `ops` to a room in order; stops at the first one that fails.
    Apply {
        /// Echoed in the reply.
        token: u64,
        /// Room the ops are for.
        room: Box<str>,
        /// The changes.
        ops: Vec<Op>,
    },
    /// Counters of one room.
    RoomStats {
        /// Echoed in the reply.
        token: u64,
        /// Which room.
        room: Box<str>,
    },
    /// Everything that is open.
    ListRooms {
        /// Echoed in the reply.
        token: u64,
    },
    /// Closes every room; peers get a DTLS close_notify.
    CloseAll {
        /// Echoed in the reply.
        token: u64,
    },
}

/// What a shard tells the control thread.
#[derive(Debug)]
pub enum Event {
    /// Answer to a command.
    Reply {
        /// Token of the command.
        token: u64,
        /// Its outcome.
        result: Result<Answer, OpError>,
    },
    /// A transport changed its state.
    TransportState {
        /// Its room.
        room: Box<str>,
        /// Which transport.
        transport: Box<str>,
        /// New state.
        state: TransportState,
        /// Why, for people.
        reason: &'static str,
    },
}

/// Good outcomes.
#[derive(Debug)]
pub enum Answer {
    /// Applied.
    Done,
    /// For [`Command::RoomStats`].
    RoomStats(RoomStats),
    /// For [`Command::ListRooms`].
    Rooms(Vec<RoomInfo>),
}

/// Why a command was refused; becomes the `error` member of the answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct OpError {
    /// One of [`error_code`].
    pub code: i64,
    /// Names the op's field and what is wrong with it.
    pub message: String,
    /// Index of the op that failed.
    pub op: usize,
}

impl OpError {
    /// An id names nothing.
    pub fn not_found(what: &str, id: &str) -> Self {
        Self { code: error_code::NOT_FOUND, message: format!("{what} {id:?} does not exist"), op: 0 }
    }

    /// An id is taken.
    pub fn conflict(what: &str, id: &str) -> Self {
        Self { code: error_code::CONFLICT, message: format!("{what} {id:?} exists already"), op: 0 }
    }

    /// A field cannot work.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { code: error_code::INVALID, message: message.into(), op: 0 }
    }

    /// A table is full.
    pub fn overloaded(what: &str, limit: usize) -> Self {
        Self {
            code: error_code::OVERLOADED,
            message: format!("{what} limit of {limit} per core reached"),
            op: 0,
        }
    }
}
