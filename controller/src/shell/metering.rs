//! What the meter sees of the inputs.

use crate::config::Config;
use crate::engine::Input;
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

/// Media nodes count while their control connection is up, with the cores they forward media on.
pub(super) fn observe(meter: &mut Meter, now_ms: u64, input: &Input) {
    match input {
        Input::NodeUp { node, info } => {
            let address = info.cores.iter().flat_map(|core| &core.candidates).next();
            let member = Member {
                node: node.clone(),
                environment_id: None,
                role: NodeRole::MediaNode,
                ip: address.map(|candidate| candidate.address.to_string()),
                cores: u32::try_from(info.cores.len()).unwrap_or(u32::MAX),
                reason: StartReason::Autodiscovery,
            };
            meter.connected(now_ms, member);
        }
        Input::NodeDown { node } => meter.disconnected(now_ms, node, EndReason::Crashed),
        Input::Tick => meter.tick(now_ms),
        _ => {}
    }
}
