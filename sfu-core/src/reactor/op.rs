//! What a completion belongs to, packed into the 64 bits the kernel hands back.
//!
//! ```text
//! 63      56 55            32 31                        0
//! ├─ kind ──┼─ generation ───┼─ socket or message index ─┤
//! ```

use crate::ids::LocalId;

/// One operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// Multishot receive on a socket.
    Receive(LocalId),
    /// Multishot poll of the inbox's eventfd.
    Wake,
    /// One message of the chunk with this generation (24 bits).
    Send {
        /// Which chunk; a completion of an older one is not of this one.
        generation: u32,
        /// Position in the chunk.
        index: u32,
    },
}

const RECEIVE: u64 = 1 << 56;
const WAKE: u64 = 2 << 56;
const SEND: u64 = 3 << 56;
const KIND: u64 = 0xff << 56;

/// Generations wrap at this.
pub(super) const GENERATIONS: u32 = 1 << 24;

impl Op {
    pub(super) fn encode(self) -> u64 {
        match self {
            Op::Receive(local) => RECEIVE | u64::from(local.0),
            Op::Wake => WAKE,
            Op::Send { generation, index } => {
                SEND | u64::from(generation % GENERATIONS) << 32 | u64::from(index)
            }
        }
    }

    pub(super) fn decode(user_data: u64) -> Option<Op> {
        match user_data & KIND {
            RECEIVE => Some(Op::Receive(LocalId(user_data as u8))),
            WAKE => Some(Op::Wake),
            SEND => {
                Some(Op::Send { generation: (user_data >> 32) as u32 % GENERATIONS, index: user_data as u32 })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        for op in [
            Op::Receive(LocalId(0)),
            Op::Receive(LocalId(255)),
            Op::Wake,
            Op::Send { generation: 0, index: 0 },
            Op::Send { generation: GENERATIONS - 1, index: u32::MAX },
        ] {
            assert_eq!(Op::decode(op.encode()), Some(op));
        }
        assert_eq!(Op::decode(0), None);
        assert_eq!(Op::decode(9 << 56), None);
    }
}
