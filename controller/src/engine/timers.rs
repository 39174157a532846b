//! Deadlines of the engine. An entry is a hint: whoever it names checks whether its time has really come, so that a
//! deadline which moves all the time (pings) costs nothing until it fires.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::{Engine, Output};
use crate::ids::{ClientId, NodeId, RpcId};

/// What a deadline is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A socket has to ping, to join, or to go.
    Socket(ClientId),
    /// A participant without a socket has to come back.
    Lost(RpcId),
    /// A node has to answer.
    Reply(u64),
    /// A node has to come back.
    NodeLost(NodeId),
    /// A node has to be launched and connected.
    Launch(NodeId),
    /// A node that failed was shown for long enough.
    Failed(NodeId),
    /// A machine that could not be stopped is tried again.
    StopNode(NodeId),
    /// The autoscaler runs.
    Autoscale,
    /// The collector of not-active sessions runs.
    Garbage,
}

/// Deadlines in order.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: BTreeSet<(u64, Timer)>,
}

impl Timers {
    pub(crate) fn set(&mut self, deadline_ms: u64, timer: Timer) {
        self.queue.insert((deadline_ms, timer));
    }

    pub(crate) fn next(&self) -> Option<u64> {
        self.queue.first().map(|(deadline, _)| *deadline)
    }

    fn take_due(&mut self, now_ms: u64) -> Option<Timer> {
        if self.next()? > now_ms {
            return None;
        }
        self.queue.pop_first().map(|(_, timer)| timer)
    }
}

impl Engine {
    pub(super) fn on_tick(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        while let Some(timer) = self.timers.take_due(now_ms) {
            match timer {
                Timer::Socket(client) => self.on_socket_timer(now_ms, client, out),
                Timer::Lost(rpc) => self.on_lost_timer(now_ms, &rpc, out),
                Timer::Reply(token) => self.on_reply_timer(now_ms, token, out),
                Timer::NodeLost(node) => self.on_node_lost_timer(now_ms, &node, out),
                Timer::Launch(node) => self.on_launch_timer(now_ms, &node, out),
                Timer::Failed(node) => self.on_failed_timer(&node),
                Timer::StopNode(node) => self.on_stop_timer(&node, out),
                Timer::Autoscale => self.on_autoscale_timer(now_ms, out),
                Timer::Garbage => self.collect_garbage(now_ms),
            }
        }
    }

    /// Removes sessions that were never joined and are strictly older than the threshold. Silent: no event.
    fn collect_garbage(&mut self, now_ms: u64) {
        let threshold = self.config.garbage_threshold_ms;
        let old: Vec<_> = self
            .sessions()
            .filter(|session| session.place().is_none())
            .filter(|session| now_ms.saturating_sub(session.created_at) > threshold)
            .map(|session| session.id.clone())
            .collect();
        for id in old {
            tracing::info!(session = %id, "never joined, removed");
            self.registry.remove(id.as_str());
        }
        self.timers.set(now_ms + self.config.garbage_interval_ms, Timer::Garbage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineConfig, Input};
    use crate::session::SessionProperties;

    #[test]
    fn timers_come_out_in_order_and_not_early() {
        let mut timers = Timers::default();
        timers.set(30, Timer::Garbage);
        timers.set(10, Timer::Reply(1));
        timers.set(20, Timer::Reply(2));
        assert_eq!(timers.next(), Some(10));
        assert_eq!(timers.take_due(9), None);
        assert_eq!(timers.take_due(25), Some(Timer::Reply(1)));
        assert_eq!(timers.take_due(25), Some(Timer::Reply(2)));
        assert_eq!(timers.take_due(25), None);
        assert_eq!(timers.next(), Some(30));
    }

    #[test]
    fn old_sessions_that_nobody_joined_go_silently() {
        let config =
            EngineConfig { garbage_interval_ms: 100, garbage_threshold_ms: 150, ..Default::default() };
        let (mut engine, mut out) = (Engine::new(config, [0; 32], 0), Vec::new());
        engine.create_session(50, SessionProperties::default(), &mut out).expect("created");
        out.clear();
        engine.handle(200, Input::Tick, &mut out);
        assert_eq!(engine.sessions().count(), 1, "exactly as old as the threshold is not older");
        engine.handle(engine.next_timeout().expect("runs again"), Input::Tick, &mut out);
        assert_eq!(engine.sessions().count(), 0);
        assert_eq!(out, []);
    }
}
