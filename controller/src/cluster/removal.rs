//! What `DELETE /media-nodes/ID` does, by status, strategy and whether the node hosts anything.
#![forbid(unsafe_code)]

use std::str::FromStr;

use super::{Event, Status};

/// `deletion-strategy` of `DELETE /media-nodes/ID`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionStrategy {
    /// Only an idle node goes.
    #[default]
    IfNoSessions,
    /// A busy node drains first.
    WhenNoSessions,
    /// It goes, and its sessions end.
    Now,
}

impl FromStr for DeletionStrategy {
    type Err = UnknownStrategy;

    fn from_str(text: &str) -> Result<Self, UnknownStrategy> {
        match text {
            "if-no-sessions" => Ok(Self::IfNoSessions),
            "when-no-sessions" => Ok(Self::WhenNoSessions),
            "now" => Ok(Self::Now),
            _ => Err(UnknownStrategy),
        }
    }
}

/// Text that names no strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("one of if-no-sessions, when-no-sessions, now")]
pub struct UnknownStrategy;

/// What a removal comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It starts with this event (200, or 204 once the node is gone).
    Starts(Event),
    /// The node drains first (202); the event is `None` when it drains already.
    Later(Option<Event>),
    /// It is on its way already (200).
    UnderWay,
    /// The node hosts something and the strategy does not allow for that (409).
    Busy,
    /// The node is gone (404).
    NotThere,
}

impl Status {
    /// What removing a node in this status comes to. `busy`: it hosts a session, a recording or a broadcast.
    pub fn removal(self, strategy: DeletionStrategy, busy: bool) -> Removal {
        match self {
            Self::Failed | Self::Terminated => Removal::NotThere,
            Self::Canceled | Self::Terminating => Removal::UnderWay,
            Self::Launching => Removal::Starts(Event::Cancel),
            Self::Running | Self::WaitingIdleToTerminate if !busy => Removal::Starts(Event::Terminate),
            Self::Running | Self::WaitingIdleToTerminate => match strategy {
                DeletionStrategy::IfNoSessions => Removal::Busy,
                DeletionStrategy::WhenNoSessions => {
                    Removal::Later((self == Self::Running).then_some(Event::Drain))
                }
                DeletionStrategy::Now => Removal::Starts(Event::Terminate),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_by_status_strategy_and_work() {
        use DeletionStrategy::{IfNoSessions, Now, WhenNoSessions};
        use Removal::{Busy, Later, NotThere, Starts, UnderWay};
        let (drain, terminate) = (Later(Some(Event::Drain)), Starts(Event::Terminate));
        // For a busy node by strategy, and for an idle one whatever the strategy.
        let table = [
            (Status::Launching, [Starts(Event::Cancel); 3], Starts(Event::Cancel)),
            (Status::Canceled, [UnderWay; 3], UnderWay),
            (Status::Failed, [NotThere; 3], NotThere),
            (Status::Running, [Busy, drain, terminate], terminate),
            (Status::WaitingIdleToTerminate, [Busy, Later(None), terminate], terminate),
            (Status::Terminating, [UnderWay; 3], UnderWay),
            (Status::Terminated, [NotThere; 3], NotThere),
        ];
        assert_eq!(table.map(|row| row.0), Status::ALL);
        for (status, busy, idle) in table {
            for (strategy, expected) in [IfNoSessions, WhenNoSessions, Now].into_iter().zip(busy) {
                assert_eq!(status.removal(strategy, true), expected, "{status} {strategy:?}");
                assert_eq!(status.removal(strategy, false), idle, "{status} {strategy:?}");
            }
            for removal in busy.into_iter().chain([idle]) {
                if let Starts(event) | Later(Some(event)) = removal {
                    assert!(status.on(event).is_ok(), "{status} {event:?}");
                }
            }
        }
    }

    #[test]
    fn strategies_by_name() {
        let named = ["if-no-sessions", "when-no-sessions", "now", "later"].map(|name| name.parse().ok());
        let expected = [
            Some(DeletionStrategy::IfNoSessions),
            Some(DeletionStrategy::WhenNoSessions),
            Some(DeletionStrategy::Now),
            None,
        ];
        assert_eq!(named, expected);
    }
}
