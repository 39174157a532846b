//! What the operator needs to know once the server runs, in at most ten lines: where the page is, which secret is in use,
//! which reactor runs and on how many cores.

use std::collections::BTreeMap;

use controller::config::{Config, DEFAULT_SECRET, PROCESS};
use controller::fleet::Connected;

/// The lines. `nodes`: who is connected; `None` when that takes long.
pub(super) fn start_lines(config: &Config, nodes: Option<&Connected>) -> Vec<String> {
    let url = config.public.http();
    vec![
        format!("Weir {}", env!("CARGO_PKG_VERSION")),
        format!("  page      {url}/"),
        format!("  REST API  {url}/openvidu/api  (user OPENVIDUAPP)"),
        format!("  secret    {}", secret(config)),
        format!("  media     {}", nodes.map_or_else(not_yet, |nodes| media(config, nodes))),
        format!("  data      {}", config.data_dir.display()),
        "  stop      Ctrl-C".to_owned(),
    ]
}

fn secret(config: &Config) -> String {
    if config.secret.is_well_known() {
        return format!("{DEFAULT_SECRET} (well known: good for this machine only)");
    }
    let origin = config.resolved.get("OPENVIDU_SECRET").map(|resolved| resolved.origin.to_string());
    format!("your own, from {}", origin.unwrap_or_default())
}

fn not_yet() -> String {
    "the media nodes are not all up yet; see the log".to_owned()
}

fn media(config: &Config, nodes: &Connected) -> String {
    let (cluster, media) = (&config.cluster, &config.media);
    match cluster.environment.as_str() {
        _ if nodes.is_empty() => "no media node yet".to_owned(),
        PROCESS if cluster.is_auto() => {
            let port = if media.port == 0 {
                "any UDP port".to_owned()
            } else {
                format!("UDP {} and up", media.port)
            };
            format!("{} of this machine, {port} at {}", reactors(nodes), media.addresses)
        }
        _ => format!("{}, {}", count(nodes.len(), "media node"), reactors(nodes)),
    }
}

/// As `io_uring on 12 cores, mmsg on 4 cores`.
fn reactors(nodes: &Connected) -> String {
    let mut cores: BTreeMap<&str, usize> = BTreeMap::new();
    for node in nodes.values() {
        *cores.entry(&node.reactor).or_default() += node.cores;
    }
    let each = cores.into_iter().map(|(reactor, cores)| format!("{reactor} on {}", count(cores, "core")));
    each.collect::<Vec<_>>().join(", ")
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use controller::config::Surroundings;
    use controller::fleet::NodeFacts;

    use super::*;

    fn config(vars: &[(&str, &str)]) -> Config {
        let environment = vars.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let around = Surroundings { environment, directory: "/nonexistent".into(), ..Default::default() };
        let mut config = Config::load(&around).unwrap();
        config.cluster.on_this_machine();
        config
    }

    fn nodes(all: &[(&str, &str, usize)]) -> Connected {
        let facts = |(id, reactor, cores): &(&str, &str, usize)| {
            ((*id).into(), NodeFacts { reactor: (*reactor).into(), cores: *cores })
        };
        all.iter().map(facts).collect()
    }

    #[test]
    fn the_lines_say_page_secret_reactor_and_cores() {
        let lines = start_lines(&config(&[]), Some(&nodes(&[("a", "io_uring", 1)])));
        assert!(lines.len() <= 10);
        assert_eq!(lines[1], "  page      http://localhost:4443/");
        assert_eq!(lines[3], "  secret    MY_SECRET (well known: good for this machine only)");
        let media = "  media     io_uring on 1 core of this machine, UDP 40000 and up at auto,127.0.0.1";
        assert_eq!(lines[4], media);
    }

    #[test]
    fn other_machines_and_other_secrets() {
        let mut config = config(&[("OPENVIDU_SECRET", "own")]);
        config.cluster.environment = "on_premise".into();
        let all = nodes(&[("a", "mmsg", 4), ("b", "io_uring", 8), ("c", "io_uring", 8)]);
        let text = start_lines(&config, Some(&all)).join("\n");
        assert!(text.contains("media     3 media nodes, io_uring on 16 cores, mmsg on 4 cores"), "{text}");
        assert!(
            text.contains("secret    your own, from environment") && !text.contains("own\n  own"),
            "{text}"
        );
        let text = start_lines(&config, Some(&nodes(&[]))).join("\n");
        assert!(text.contains("no media node yet"), "{text}");
        assert!(start_lines(&config, None)[4].contains("not all up yet"));
    }
}
