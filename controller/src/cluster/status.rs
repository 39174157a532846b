//! The life of a media node as a transition table.
//!
//! ```text
//!             ┌──Cancel──▶ canceled ──LaunchDone, LaunchFailed──────────┐
//!             │ ◀─Relaunch─┘                                            ▼
//!  ──▶ launching ──LaunchDone──▶ running ──────────Terminate──────▶ terminating ──Gone──▶ terminated
//!             │                   │ ▲                                   ▲
//!             ▼               Drain Resume                              │
//!           failed                ▼ │                                   │
//!                       waiting-idle-to-terminate ──Idle, Terminate─────┘
//! ```
//!
//! Whether the node is connected is another matter, kept beside the status: a `running` node that is lost stays `running`.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Status of a media node, in the order of its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Being started or connected to.
    Launching,
    /// Was launching, goes as soon as the launch is over.
    Canceled,
    /// The launch failed. Final.
    Failed,
    /// Takes sessions.
    Running,
    /// Keeps its sessions, takes no new ones, goes when the last one ends.
    WaitingIdleToTerminate,
    /// Being shut down or disconnected.
    Terminating,
    /// Gone. Final.
    Terminated,
}

/// What happens to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The instance runs and the connection to it is up.
    LaunchDone,
    /// The instance did not come up, or cannot be reached. A canceled one has nothing left to wait for and goes.
    LaunchFailed,
    /// It is not needed any more, before its launch is over.
    Cancel,
    /// It is needed after all.
    Relaunch,
    /// No new sessions; it goes when it is idle.
    Drain,
    /// It is needed after all; it never stopped.
    Resume,
    /// The idle check found that nothing is left on a draining node.
    Idle,
    /// It goes now, whatever runs there.
    Terminate,
    /// The shutdown is complete.
    Gone,
}

/// An event that cannot happen, or may not be asked for, in a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a media node in status {status} cannot take {event:?}")]
pub struct Illegal {
    /// The status, which stays.
    pub status: Status,
    /// What was refused.
    pub event: Event,
}

impl Status {
    /// All of them, in the order of a node's life.
    pub const ALL: [Self; 7] = [
        Self::Launching,
        Self::Canceled,
        Self::Failed,
        Self::Running,
        Self::WaitingIdleToTerminate,
        Self::Terminating,
        Self::Terminated,
    ];

    /// The status after an event.
    /// # Errors
    /// [`Illegal`]: there is no such arrow.
    pub fn on(self, event: Event) -> Result<Self, Illegal> {
        use Event::*;
        match (self, event) {
            (Self::Launching, LaunchDone) => Ok(Self::Running),
            (Self::Launching, LaunchFailed) => Ok(Self::Failed),
            (Self::Launching, Cancel) => Ok(Self::Canceled),
            (Self::Canceled, Relaunch) => Ok(Self::Launching),
            (Self::Canceled, LaunchDone | LaunchFailed) => Ok(Self::Terminating),
            (Self::Running, Drain) => Ok(Self::WaitingIdleToTerminate),
            (Self::Running, Terminate) => Ok(Self::Terminating),
            (Self::WaitingIdleToTerminate, Resume) => Ok(Self::Running),
            (Self::WaitingIdleToTerminate, Idle | Terminate) => Ok(Self::Terminating),
            (Self::Terminating, Gone) => Ok(Self::Terminated),
            (status, event) => Err(Illegal { status, event }),
        }
    }

    /// The event by which `PATCH {"status": target}` gets from here to `target`. `Ok(None)`: it is there already (204).
    /// # Errors
    /// The operator may not ask for that (400): there is no such arrow, or it is not the operator's to take.
    pub fn patch(self, target: Self) -> Result<Option<Event>, PatchRefused> {
        let event = match (self, target) {
            (status, target) if status == target => return Ok(None),
            (Self::Launching, Self::Canceled) => Event::Cancel,
            (Self::Canceled, Self::Launching) => Event::Relaunch,
            (Self::Running, Self::WaitingIdleToTerminate) => Event::Drain,
            (Self::WaitingIdleToTerminate, Self::Running) => Event::Resume,
            (Self::Running | Self::WaitingIdleToTerminate, Self::Terminating) => Event::Terminate,
            _ => return Err(PatchRefused { from: self, to: target }),
        };
        Ok(Some(event))
    }

    /// `running` and `launching` nodes are what the autoscaler counts.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Launching | Self::Running)
    }

    /// Whether sessions can live there, so that it can have load.
    pub fn can_have_load(self) -> bool {
        matches!(self, Self::Running | Self::WaitingIdleToTerminate)
    }

    /// Whether nothing can happen any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Failed | Self::Terminated)
    }

    /// As the contract spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Launching => "launching",
            Self::Canceled => "canceled",
            Self::Failed => "failed",
            Self::Running => "running",
            Self::WaitingIdleToTerminate => "waiting-idle-to-terminate",
            Self::Terminating => "terminating",
            Self::Terminated => "terminated",
        }
    }
}

/// A `PATCH` to a status that the operator cannot ask for from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a media node cannot be set from {from} to {to}")]
pub struct PatchRefused {
    /// Where it is.
    pub from: Status,
    /// What was asked for.
    pub to: Status,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, UnknownStatus> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(UnknownStatus)
    }
}

/// Text that names no status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a media node status")]
pub struct UnknownStatus;

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 9] = [
        Event::LaunchDone,
        Event::LaunchFailed,
        Event::Cancel,
        Event::Relaunch,
        Event::Drain,
        Event::Resume,
        Event::Idle,
        Event::Terminate,
        Event::Gone,
    ];

    /// Rows: status. Columns: LaunchDone LaunchFailed Cancel Relaunch Drain Resume Idle Terminate Gone. `-`: refused.
    const TABLE: &str = "
        launching                 running     failed      canceled -         -       -       -           -           -
        canceled                  terminating terminating -        launching -       -       -           -           -
        failed                    -           -           -        -         -       -       -           -           -
        running                   -           -           -        -         waiting -       -           terminating -
        waiting-idle-to-terminate -           -           -        -         -       running terminating terminating -
        terminating               -           -           -        -         -       -       -           -           terminated
        terminated                -           -           -        -         -       -       -           -           -
    ";

    /// Rows: from. Columns: to, in the order of [`Status::ALL`]. `204`: the same; `400`: refused.
    const PATCH: &str = "
        launching                 204      Cancel 400 400    400   400       400
        canceled                  Relaunch 204    400 400    400   400       400
        failed                    400      400    204 400    400   400       400
        running                   400      400    400 204    Drain Terminate 400
        waiting-idle-to-terminate 400      400    400 Resume 204   Terminate 400
        terminating               400      400    400 400    400   204       400
        terminated                400      400    400 400    400   400       204
    ";

    fn rows(table: &str) -> Vec<(Status, Vec<&str>)> {
        let lines = table.lines().map(str::trim).filter(|line| !line.is_empty());
        let rows: Vec<_> = lines
            .map(|line| {
                let mut cells = line.split_whitespace();
                let status = cells.next().expect("a status").parse().expect("a known status");
                (status, cells.collect())
            })
            .collect();
        assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), Status::ALL);
        rows
    }

    #[test]
    fn every_arrow_is_in_the_table() {
        for (status, cells) in rows(TABLE) {
            assert_eq!(cells.len(), EVENTS.len());
            for (event, cell) in EVENTS.into_iter().zip(cells) {
                let expected = match cell {
                    "-" => Err(Illegal { status, event }),
                    "waiting" => Ok(Status::WaitingIdleToTerminate),
                    name => Ok(name.parse().expect("a status")),
                };
                assert_eq!(status.on(event), expected, "{status} {event:?}");
            }
        }
    }

    #[test]
    fn every_patch_is_in_the_table() {
        for (from, cells) in rows(PATCH) {
            assert_eq!(cells.len(), Status::ALL.len());
            for (to, cell) in Status::ALL.into_iter().zip(cells) {
                let patched = from.patch(to);
                let shown = match patched {
                    Ok(None) => "204".to_owned(),
                    Ok(Some(event)) => format!("{event:?}"),
                    Err(_) => "400".to_owned(),
                };
                assert_eq!(shown, cell, "{from} to {to}");
                if let Ok(Some(event)) = patched {
                    assert_eq!(from.on(event), Ok(to), "the event leads there");
                }
            }
        }
    }

    #[test]
    fn a_node_in_a_final_status_never_changes_and_every_other_one_can_end() {
        for status in Status::ALL {
            let next: Vec<_> = EVENTS.into_iter().filter_map(|event| status.on(event).ok()).collect();
            assert_eq!(next.is_empty(), status.is_final(), "{status}");
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        assert_eq!("Running".parse::<Status>(), Err(UnknownStatus));
    }
}
