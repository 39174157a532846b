//! What the meter sees of inputs and of what they led to.

use crate::cluster::Origin;
use crate::config::Config;
use crate::engine::{Engine, Input, NodeOrder, Output};
use crate::ids::NodeId;
use crate::metering::{EndReason, MASTER, Member, Meter, MeterConfig, NodeRole, StartReason};

/// The meter's part of the configuration.
pub(super) fn config(config: &Config, cluster_id: &str) -> MeterConfig {
    MeterConfig {
        cluster_id: cluster_id.to_owned(),
        price_per_core_minute: config.price_per_core_minute,
        edition: config.edition.clone(),
    }
}

/// This machine, with all its cores.
pub(super) fn master(config: &Config) -> Member {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Member {
        node: MASTER.into(),
        environment_id: None,
        role: NodeRole::MasterNode,
        ip: Some(config.public.host.clone()),
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        reason: StartReason::Launch,
    }
}

/// What of an input is the meter's business.
#[derive(Debug)]
pub(super) enum Seen {
    Up(NodeId),
    Down(NodeId),
    Other,
}

impl Seen {
    pub(super) fn of(input: &Input) -> Self {
        match input {
            Input::NodeUp { node, .. } => Self::Up(node.clone()),
            Input::NodeDown { node } => Self::Down(node.clone()),
            _ => Self::Other,
        }
    }
}

/// After the engine took an input. Media nodes count while their control connection is up, with the cores they forward
/// media on; one that is let go is removed.
pub(super) fn observe(meter: &mut Meter, now_ms: u64, seen: &Seen, engine: &Engine, out: &[Output]) {
    match seen {
        Seen::Up(id) => {
            if let Some(member) = member(engine, id) {
                meter.connected(now_ms, member);
            }
        }
        Seen::Down(id) => meter.disconnected(now_ms, id, EndReason::Crashed),
        Seen::Other => {}
    }
    for output in out {
        if let Output::Node(NodeOrder::Disconnect { node }) = output {
            meter.disconnected(now_ms, node, EndReason::Removed);
        }
    }
    meter.tick(now_ms);
}

/// `None`: the node is none of ours.
fn member(engine: &Engine, id: &NodeId) -> Option<Member> {
    let node = engine.nodes().get(id.as_str()).filter(|node| node.connected)?;
    let cores = engine.nodes().media(id.as_str())?.info.cores.len();
    Some(Member {
        node: id.clone(),
        environment_id: node.environment_id.clone(),
        role: NodeRole::MediaNode,
        ip: node.ip.clone(),
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        reason: match node.origin {
            Origin::Launched => StartReason::Launch,
            Origin::Joined => StartReason::Autodiscovery,
        },
    })
}
