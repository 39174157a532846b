//! The table of properties: every name Weir knows, its default, and what becomes of it.
//!
//! OpenVidu's names are taken as they are; Weir's own begin with `WEIR_`. The table serves three readers: the resolver
//! (defaults), the warning for unknown names, and `weir config check`.
#![forbid(unsafe_code)]

/// One property.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    /// Its name, as in the environment.
    pub name: &'static str,
    /// Text used when nobody sets it; empty when there is none or it is worked out from others.
    pub default: &'static str,
    /// How to print it.
    pub kind: Kind,
}

/// How a property is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Used, printed.
    Used,
    /// Used, printed masked.
    Secret,
    /// Checked, printed, told by `GET /config`, and without another effect; the text says why.
    Echoed(&'static str),
    /// Known, has no effect here; the text says why.
    Inert(&'static str),
}

const fn used(name: &'static str, default: &'static str) -> Property {
    Property { name, default, kind: Kind::Used }
}

const fn secret(name: &'static str, default: &'static str) -> Property {
    Property { name, default, kind: Kind::Secret }
}

const fn echoed(name: &'static str, default: &'static str, why: &'static str) -> Property {
    Property { name, default, kind: Kind::Echoed(why) }
}

const fn inert(name: &'static str, why: &'static str) -> Property {
    Property { name, default: "", kind: Kind::Inert(why) }
}

const NO_CONTAINERS: &str = "accepted, no effect: Weir starts no such container";
const NO_STACK: &str = "accepted, no effect: Weir has no Elastic stack";
const NO_SPEECH: &str = "accepted, no effect: Weir has no speech to text";
const NO_STATISTICS: &str = "accepted, no effect: Weir collects no such statistics";
const NO_LIMIT: &str = "accepted, no effect: only OPENVIDU_STREAMS_VIDEO_MAX_RECV_BANDWIDTH limits a stream";
const NO_RECORDER: &str = "accepted, no effect yet: there is no recorder";

/// Events a webhook may be sent, in the order of the built-in default list.
pub const WEBHOOK_EVENTS: &[&str] = &[
    "sessionCreated",
    "sessionDestroyed",
    "participantJoined",
    "participantLeft",
    "webrtcConnectionCreated",
    "webrtcConnectionDestroyed",
    "recordingStatusChanged",
    "filterEventDispatched",
    "signalSent",
    "mediaNodeStatusChanged",
    "autoscaling",
    "nodeCrashed",
    "nodeRecovered",
    "broadcastStarted",
    "broadcastStopped",
    "HANodeRegistered",
    "HANodeDeregistered",
];

/// Default of `OPENVIDU_WEBHOOK_EVENTS`: all but the two of Enterprise HA.
const DEFAULT_WEBHOOK_EVENTS: &str = "[sessionCreated,sessionDestroyed,participantJoined,participantLeft,\
    webrtcConnectionCreated,webrtcConnectionDestroyed,recordingStatusChanged,filterEventDispatched,signalSent,\
    mediaNodeStatusChanged,autoscaling,nodeCrashed,nodeRecovered,broadcastStarted,broadcastStopped]";

/// Every known property.
pub const PROPERTIES: &[Property] = &[
    // Weir's own.
    used("WEIR_LISTEN", ""),
    used("WEIR_DATA_DIR", ""),
    used("WEIR_TLS_CERT", ""),
    used("WEIR_TLS_KEY", ""),
    used("WEIR_MAX_CONNECTIONS", "10000"),
    used("WEIR_MAX_CONNECTIONS_PER_ADDRESS", "4000"),
    used("WEIR_DEMO", ""),
    used("WEIR_REACTOR", "auto"),
    used("WEIR_SEND_PATH", "auto"),
    used("WEIR_CORES", "auto"),
    used("WEIR_MEDIA_ADDRESSES", ""),
    used("WEIR_MEDIA_PORT", "40000"),
    used("WEIR_MEDIA_SERVER_NAME", "kurento"),
    used("WEIR_NODE_LISTEN", "0.0.0.0:8888"),
    secret("WEIR_CLUSTER_SECRET", ""),
    used("WEIR_PRICE_PER_CORE_MINUTE", "0.0006"),
    // Read by `weir node`, and by the children of `weir`, which have its environment.
    used("WEIR_CPUS", ""),
    used("WEIR_SLOTS_PER_CORE", ""),
    used("WEIR_TRANSPORTS_PER_CORE", ""),
    used("WEIR_ROOMS", ""),
    used("WEIR_DRAIN_S", ""),
    used("WEIR_LOG", ""),
    used("WEIR_CONFIG", ""),
    // Identity, network, security.
    used("DOMAIN_OR_PUBLIC_IP", ""),
    secret("OPENVIDU_SECRET", super::DEFAULT_SECRET),
    used("HTTPS_PORT", "4443"),
    used("SERVER_PORT", ""),
    used("FORCE_PLAIN_HTTP", ""),
    used("SUPPORT_DEPRECATED_API", "true"),
    used("OPENVIDU_EDITION", "pro"),
    inert("HTTP_PORT", "accepted, no effect: plain HTTP is redirected on the same port"),
    inert(
        "CERTIFICATE_TYPE",
        "accepted, no effect: give WEIR_TLS_CERT and WEIR_TLS_KEY, or a self-signed one is made",
    ),
    inert("OPENVIDU_PRO_LICENSE", "accepted, no effect: Weir needs no license"),
    inert("OPENVIDU_PRO_LICENSE_HTTP_PROXY", "accepted, no effect: Weir needs no license"),
    // CDR and webhook.
    used("OPENVIDU_CDR", "false"),
    used("OPENVIDU_CDR_PATH", "/opt/openvidu/cdr"),
    used("OPENVIDU_WEBHOOK", "false"),
    used("OPENVIDU_WEBHOOK_ENDPOINT", ""),
    secret("OPENVIDU_WEBHOOK_HEADERS", "[]"),
    used("OPENVIDU_WEBHOOK_EVENTS", DEFAULT_WEBHOOK_EVENTS),
    // Sessions and streams.
    used("OPENVIDU_SESSIONS_GARBAGE_INTERVAL", "900"),
    used("OPENVIDU_SESSIONS_GARBAGE_THRESHOLD", "3600"),
    used("OPENVIDU_STREAMS_VIDEO_MAX_RECV_BANDWIDTH", "1000"),
    echoed("OPENVIDU_STREAMS_VIDEO_MIN_RECV_BANDWIDTH", "300", NO_LIMIT),
    echoed("OPENVIDU_STREAMS_VIDEO_MAX_SEND_BANDWIDTH", "1000", NO_LIMIT),
    echoed("OPENVIDU_STREAMS_VIDEO_MIN_SEND_BANDWIDTH", "300", NO_LIMIT),
    used("OPENVIDU_STREAMS_FORCED_VIDEO_CODEC", "MEDIA_SERVER_PREFERRED"),
    used("OPENVIDU_STREAMS_ALLOW_TRANSCODING", "false"),
    used("OPENVIDU_WEBRTC_SIMULCAST", "false"),
    secret("OPENVIDU_WEBRTC_ICE_SERVERS", "[]"),
    // Recording.
    used("OPENVIDU_RECORDING", "false"),
    echoed("OPENVIDU_RECORDING_PATH", "/opt/openvidu/recordings", NO_RECORDER),
    echoed("OPENVIDU_RECORDING_PUBLIC_ACCESS", "false", NO_RECORDER),
    echoed("OPENVIDU_RECORDING_NOTIFICATION", "publisher_moderator", NO_RECORDER),
    echoed("OPENVIDU_RECORDING_CUSTOM_LAYOUT", "/opt/openvidu/custom-layout", NO_RECORDER),
    echoed("OPENVIDU_RECORDING_AUTOSTOP_TIMEOUT", "120", NO_RECORDER),
    echoed("OPENVIDU_RECORDING_COMPOSED_URL", "", NO_RECORDER),
    echoed("OPENVIDU_RECORDING_VERSION", super::OPENVIDU_VERSION, NO_RECORDER),
    echoed("OPENVIDU_PRO_RECORDING_STORAGE", "local", NO_RECORDER),
    inert("OPENVIDU_RECORDING_COMPOSED_BASICAUTH", NO_RECORDER),
    inert("OPENVIDU_RECORDING_IMAGE", NO_RECORDER),
    inert("OPENVIDU_RECORDING_DEBUG", NO_RECORDER),
    inert("OPENVIDU_RECORDING_ENABLE_GPU", NO_RECORDER),
    // Cluster.
    used("OPENVIDU_PRO_CLUSTER_ID", ""),
    used("OPENVIDU_PRO_CLUSTER_ENVIRONMENT", "on_premise"),
    used("OPENVIDU_PRO_CLUSTER_MODE", "manual"),
    used("OPENVIDU_PRO_CLUSTER_MEDIA_NODES", "1"),
    used("OPENVIDU_PRO_CLUSTER_PATH", "/opt/openvidu/cluster"),
    used("OPENVIDU_PRO_CLUSTER_RECONNECTION_TIMEOUT", ""),
    used("OPENVIDU_PRO_CLUSTER_LOAD_STRATEGY", "cpu"),
    used("OPENVIDU_PRO_CLUSTER_LOAD_INTERVAL", "1"),
    used("OPENVIDU_PRO_CLUSTER_AUTOSCALING", "false"),
    used("OPENVIDU_PRO_CLUSTER_AUTOSCALING_INTERVAL", "10"),
    used("OPENVIDU_PRO_CLUSTER_AUTOSCALING_MAX_NODES", "2"),
    used("OPENVIDU_PRO_CLUSTER_AUTOSCALING_MIN_NODES", "1"),
    used("OPENVIDU_PRO_CLUSTER_AUTOSCALING_MAX_LOAD", "70"),
    used("OPENVIDU_PRO_CLUSTER_AUTOSCALING_MIN_LOAD", "20"),
    used("KMS_URIS", "[]"),
    inert(
        "OPENVIDU_PRO_CLUSTER_TEST",
        "accepted, no effect: `weir config check` tells whether the set-up is valid",
    ),
    // Statistics and quality.
    echoed("OPENVIDU_PRO_STATS_SESSION_INTERVAL", "5", NO_STATISTICS),
    echoed("OPENVIDU_PRO_STATS_SERVER_INTERVAL", "10", NO_STATISTICS),
    echoed("OPENVIDU_PRO_STATS_MONITORING_INTERVAL", "10", NO_STATISTICS),
    echoed("OPENVIDU_PRO_STATS_WEBRTC_INTERVAL", "30", NO_STATISTICS),
    echoed("OPENVIDU_PRO_NETWORK_QUALITY", "false", NO_STATISTICS),
    echoed("OPENVIDU_PRO_NETWORK_QUALITY_INTERVAL", "5", NO_STATISTICS),
    echoed("OPENVIDU_BROWSER_LOGS", "disabled", "accepted, no effect: browsers send no logs here"),
    // TURN.
    used("COTURN_IP", ""),
    used("COTURN_PORT", "3478"),
    secret("COTURN_SHARED_SECRET_KEY", ""),
    inert("COTURN_INTERNAL_RELAY", "accepted, no effect: the coturn server is yours"),
    inert("OPENVIDU_PRO_COTURN_IN_MEDIA_NODES", "accepted, no effect: media nodes run no coturn"),
    inert("OPENVIDU_PRO_COTURN_PORT_MEDIA_NODES", "accepted, no effect: media nodes run no coturn"),
    inert("OPENVIDU_PRO_MEDIA_NODE_PUBLIC_IP_AUTODISCOVER", "accepted, no effect: see WEIR_MEDIA_ADDRESSES"),
    inert("MEDIA_NODES_PUBLIC_IPS", "accepted, no effect: see WEIR_MEDIA_ADDRESSES of each node"),
    // Named only.
    inert("OPENVIDU_PRO_PRIVATE_IP", "accepted, no effect: see WEIR_LISTEN"),
    inert("KMS_IMAGE", NO_CONTAINERS),
    inert("MEDIASOUP_IMAGE", NO_CONTAINERS),
    inert("OPENVIDU_PRO_DOCKER_REGISTRIES", NO_CONTAINERS),
    inert("OPENVIDU_ENTERPRISE_MEDIA_SERVER", "accepted, no effect: see WEIR_MEDIA_SERVER_NAME"),
    inert("ELASTICSEARCH_USERNAME", NO_STACK),
    inert("ELASTICSEARCH_PASSWORD", NO_STACK),
];

/// Families of names that are known but have no effect, by prefix.
const INERT_PREFIXES: &[(&str, &str)] = &[
    ("OPENVIDU_PRO_ELASTICSEARCH", NO_STACK),
    ("OPENVIDU_PRO_KIBANA", NO_STACK),
    ("OPENVIDU_PRO_SPEECH_TO_TEXT", NO_SPEECH),
    ("OPENVIDU_PRO_AWS_", "accepted, no effect yet: recordings are not uploaded"),
    ("OPENVIDU_ENTERPRISE_", "accepted, no effect: Weir has one edition"),
    ("KMS_DOCKER_ENV_", NO_CONTAINERS),
];

/// The property of that name.
pub fn find(name: &str) -> Option<&'static Property> {
    PROPERTIES.iter().find(|p| p.name == name)
}

/// What happens to a name that changes nothing: a sentence, or `None` when the name is used or is none of our business.
pub fn no_effect(name: &str) -> Option<String> {
    match find(name) {
        Some(Property { kind: Kind::Inert(why) | Kind::Echoed(why), .. }) => return Some((*why).to_owned()),
        Some(_) => return None,
        None => {}
    }
    if let Some((_, why)) = INERT_PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix)) {
        return Some((*why).to_owned());
    }
    if !name.starts_with("OPENVIDU_") && !name.starts_with("WEIR_") {
        return None;
    }
    Some(match nearest(name) {
        Some(near) => format!("ignored: no such property; did you mean {near}?"),
        None => "ignored: no such property".to_owned(),
    })
}

/// The known name within two edits, if there is one.
fn nearest(name: &str) -> Option<&'static str> {
    let scored = PROPERTIES.iter().map(|p| (edits(name, p.name), p.name));
    scored.min().filter(|(distance, _)| *distance <= 2).map(|(_, name)| name)
}

/// Levenshtein distance of two short ASCII names.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_unique() {
        let mut names: Vec<_> = PROPERTIES.iter().map(|p| p.name).collect();
        names.sort_unstable();
        let before = names.len();
        names.dedup();
        assert_eq!(names.len(), before);
    }

    #[test]
    fn names_without_effect_are_explained() {
        let table: &[(&str, Option<&str>)] = &[
            ("OPENVIDU_SECRET", None),
            ("PATH", None),
            ("OPENVIDU_PRO_LICENSE", Some("needs no license")),
            ("OPENVIDU_STREAMS_VIDEO_MAX_RECV_BANDWIDTH", None),
            ("OPENVIDU_STREAMS_VIDEO_MAX_SEND_BANDWIDTH", Some("no effect")),
            ("OPENVIDU_STREAMS_VIDEO_MIN_SEND_BANDWIDTH", Some("no effect")),
            ("OPENVIDU_STREAMS_VIDEO_MIN_RECV_BANDWIDTH", Some("no effect")),
            ("OPENVIDU_BROWSER_LOGS", Some("no effect")),
            ("OPENVIDU_PRO_NETWORK_QUALITY", Some("no effect")),
            ("WEIR_CPUS", None),
            ("WEIR_DRAIN_S", None),
            ("OPENVIDU_PRO_KIBANA_HOST", Some("Elastic")),
            ("OPENVIDU_SECRE", Some("did you mean OPENVIDU_SECRET?")),
            ("WEIR_REACTORS", Some("did you mean WEIR_REACTOR?")),
            ("OPENVIDU_NONSENSE", Some("ignored: no such property")),
        ];
        for (name, expected) in table {
            match (no_effect(name), expected) {
                (None, None) => {}
                (Some(text), Some(part)) => assert!(text.contains(part), "{name}: {text}"),
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
    }
}
