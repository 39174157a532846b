//! Janus' configuration as this harness wants it: nothing but the videoroom and its WebSocket, in the form that costs least.
//!
//! | setting | why |
//! |---|---|
//! | `event_loops` = cores | handles share a loop per core; by default each has a thread of its own |
//! | `debug_level = 1` | fatal messages only |
//! | `ice_lite`, no trickling | as other servers do it: one host candidate in the SDP; Janus gathers none on loopback |
//! | `slowlink_threshold = 0`, no statistics, no event handlers | no work beside the media |
//! | `bitrate` 0, `record` off, `fir_freq` 0 in rooms | streams pass as publishers send them |
//!
//! Congestion feedback (transport-wide) and audio levels stay on, as in the other targets.

use crate::target::Placement;

/// Where Debian's package has its plugins and transports.
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu/janus";
/// UDP ports for one handle each.
const UDP_PORTS: u16 = 15_000;

/// The three files: name and content.
pub(super) fn files(folder: &str, loops: usize, placement: &Placement) -> [(&'static str, String); 3] {
    let Placement { address, media, tcp_port, udp_port, .. } = placement;
    let last_udp = udp_port.saturating_add(UDP_PORTS);
    let core = format!(
        "general: {{\n\tconfigs_folder = \"{folder}\"\n\tplugins_folder = \"{libraries}/plugins\"\n\
         \ttransports_folder = \"{libraries}/transports\"\n\tdebug_level = 1\n\tevent_loops = {loops}\n\
         \tsession_timeout = 0\n\tserver_name = \"load-tests\"\n}}\n\
         media: {{\n\trtp_port_range = \"{udp_port}-{last_udp}\"\n\tslowlink_threshold = 0\n}}\n\
         nat: {{\n\tice_lite = true\n\tfull_trickle = false\n\tignore_mdns = true\n\tice_enforce_list = \"{media}\"\n}}\n\
         plugins: {{\n\tdisable = \"{plugins}\"\n}}\n\
         transports: {{\n\tdisable = \"{transports}\"\n}}\n",
        libraries = LIBRARIES,
        plugins = library_names(&[
            "audiobridge",
            "duktape",
            "echotest",
            "lua",
            "nosip",
            "recordplay",
            "sip",
            "streaming",
            "textroom",
            "videocall",
            "voicemail",
        ]),
        transports = library_names(&["http", "mqtt", "nanomsg", "pfunix", "rabbitmq"]),
    );
    let videoroom = "general: {\n}\n".to_owned();
    let websockets = format!(
        "general: {{\n\tjson = \"compact\"\n\tws = true\n\tws_port = {tcp_port}\n\tws_ip = \"{address}\"\n\twss = false\n\
         \tws_logging = \"none\"\n}}\nadmin: {{\n\tadmin_ws = false\n\tadmin_wss = false\n}}\n"
    );
    [
        ("janus.jcfg", core),
        ("janus.plugin.videoroom.jcfg", videoroom),
        ("janus.transport.websockets.jcfg", websockets),
    ]
}

fn library_names(names: &[&str]) -> String {
    names.iter().map(|name| format!("libjanus_{name}.so")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_ports_and_addresses_are_in_the_files() {
        let placement = Placement {
            cores: vec![0],
            control_cores: vec![1],
            address: "10.9.0.1".parse().expect("an address"),
            media: "10.8.0.1".parse().expect("an address"),
            netns: None,
            nice: 0,
            tcp_port: 25_000,
            udp_port: 35_000,
        };
        let [core, _, websockets] = files("/tmp/x", 2, &placement);
        for expected in [
            "event_loops = 2",
            "rtp_port_range = \"35000-50000\"",
            "ice_enforce_list = \"10.8.0.1\"",
            "configs_folder = \"/tmp/x\"",
        ] {
            assert!(core.1.contains(expected), "{expected}\n{}", core.1);
        }
        assert!(
            websockets.1.contains("ws_port = 25000") && websockets.1.contains("ws_ip = \"10.9.0.1\""),
            "{}",
            websockets.1
        );
        assert_eq!(core.1.matches('{').count(), core.1.matches('}').count());
    }
}
