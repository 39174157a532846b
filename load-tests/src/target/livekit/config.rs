//! LiveKit's configuration as this harness wants it.
//!
//! | setting | why |
//! |---|---|
//! | a UDP port per core, shared by all connections | what its own documentation advises |
//! | `batch_io` | sends are batched; documented as saving CPU |
//! | `use_ice_lite` | as the other targets |
//! | no track limit, no statistics, errors only in the log | the load test finds the limit |

use super::token::ApiKey;
use crate::target::Placement;

/// YAML for `--config-body`.
pub(super) fn yaml(key: &ApiKey, placement: &Placement) -> String {
    let Placement { cores, address, media, tcp_port, udp_port, .. } = placement;
    let cores = cores.len();
    let last = udp_port.saturating_add(u16::try_from(cores.saturating_sub(1)).unwrap_or(u16::MAX));
    let ports = if last == *udp_port { udp_port.to_string() } else { format!("{udp_port}-{last}") };
    format!(
        "port: {tcp_port}\nbind_addresses: [\"{address}\"]\nkeys:\n  {name}: {secret}\nlogging:\n  level: error\n\
         rtc:\n  udp_port: {ports}\n  tcp_port: 0\n  node_ip: \"{media}\"\n  use_external_ip: false\n  use_ice_lite: true\n  \
         enable_loopback_candidate: {loopback}\n  ips:\n    includes: [\"{media}/{bits}\"]\n  \
         batch_io:\n    batch_size: 128\n    max_flush_interval: 2ms\n\
         limit:\n  num_tracks: -1\n  bytes_per_sec: -1\n",
        name = key.name,
        secret = key.secret,
        loopback = media.is_loopback(),
        bits = if media.is_ipv4() { 32 } else { 128 },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_per_core() {
        let key = ApiKey { name: "k".into(), secret: "s".into() };
        let placement = |cores| Placement {
            cores: (0..cores).collect(),
            control_cores: vec![9],
            address: [10, 0, 0, 1].into(),
            media: [10, 0, 1, 1].into(),
            netns: None,
            nice: 0,
            tcp_port: 25_000,
            udp_port: 35_000,
        };
        let yaml = |cores| yaml(&key, &placement(cores));
        assert!(yaml(1).contains("udp_port: 35000\n"), "{}", yaml(1));
        assert!(yaml(4).contains("udp_port: 35000-35003\n"), "{}", yaml(4));
        assert!(yaml(1).contains("bind_addresses: [\"10.0.0.1\"]\nkeys:\n  k: s\n"));
    }
}
