//! Settings from every source, their precedence, and what is refused.

use super::*;

fn around(vars: &[(&str, &str)]) -> Surroundings {
    let environment = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Surroundings { environment, directory: PathBuf::from("/nonexistent"), ..Surroundings::default() }
}

fn load(vars: &[(&str, &str)]) -> Config {
    Config::load(&around(vars)).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn without_settings_it_is_safe() {
    let config = load(&[]);
    assert_eq!(config.listen.to_string(), "127.0.0.1:4443");
    assert_eq!(config.secret.expose(), "MY_SECRET");
    assert_eq!(
        (config.public.http(), config.public.ws()),
        ("http://localhost:4443".into(), "ws://localhost:4443".into())
    );
    assert!(config.demo && config.force_plain_http && config.warnings.is_empty());
    assert_eq!(config.data_dir, PathBuf::from("/nonexistent/weir-data"));
    assert_eq!(config.media.server_name, "kurento");
    assert_eq!(config.webhook.events.len(), 15);
}

#[test]
fn listening_beyond_loopback_needs_a_secret() {
    for vars in [
        &[("WEIR_LISTEN", "0.0.0.0:4443")][..],
        &[("DOMAIN_OR_PUBLIC_IP", "example.org")],
        &[("WEIR_LISTEN", "[::]:1"), ("OPENVIDU_SECRET", "MY_SECRET")],
        &[("WEIR_LISTEN", "127.0.0.1:1"), ("DOMAIN_OR_PUBLIC_IP", "example.org")],
    ] {
        let error = Config::load(&around(vars)).expect_err("refused");
        assert!(
            error.0[0].contains("OPENVIDU_SECRET") && error.0[0].contains("secret of your own"),
            "{error}"
        );
        assert_eq!(error.0.len(), 1, "{error}");
    }
    let config =
        load(&[("DOMAIN_OR_PUBLIC_IP", "example.org"), ("OPENVIDU_SECRET", "s"), ("HTTPS_PORT", "443")]);
    assert_eq!(config.listen.to_string(), "0.0.0.0:443");
    assert_eq!(
        (config.public.http(), config.public.ws()),
        ("https://example.org".into(), "wss://example.org".into())
    );
    assert!(!config.demo && !config.force_plain_http);
    let proxied = load(&[
        ("WEIR_LISTEN", "127.0.0.1:5443"),
        ("DOMAIN_OR_PUBLIC_IP", "example.org"),
        ("HTTPS_PORT", "443"),
        ("OPENVIDU_SECRET", "s"),
    ]);
    assert_eq!(
        (proxied.listen.to_string(), proxied.public.ws()),
        ("127.0.0.1:5443".into(), "wss://example.org".into())
    );
    assert!(!proxied.demo, "a proxy makes it reachable");
    let local = load(&[("DOMAIN_OR_PUBLIC_IP", "localhost")]);
    assert!(local.demo && local.listen.ip().is_loopback());
}

#[test]
fn public_url_follows_the_listener() {
    let machine = Some("192.0.2.7".parse().unwrap());
    let table = [
        (&[("WEIR_LISTEN", "0.0.0.0:9000")][..], "https://192.0.2.7:9000"),
        (&[("WEIR_LISTEN", "[2001:db8::1]:9000")], "https://[2001:db8::1]:9000"),
        (&[("WEIR_LISTEN", "10.0.0.1:5443"), ("HTTPS_PORT", "443")], "https://10.0.0.1"),
        (&[("SERVER_PORT", "5443"), ("HTTPS_PORT", "443"), ("DOMAIN_OR_PUBLIC_IP", "a.b")], "https://a.b"),
        (&[("WEIR_LISTEN", "10.0.0.1:80"), ("FORCE_PLAIN_HTTP", "true")], "http://10.0.0.1"),
    ];
    for (vars, expected) in table {
        let mut around = around(vars);
        around.environment.insert("OPENVIDU_SECRET".into(), "own".into());
        around.machine_address = machine;
        assert_eq!(Config::load(&around).unwrap().public.http(), expected, "{vars:?}");
    }
}

#[test]
fn every_error_is_reported_with_property_value_and_allowed() {
    let table: &[(&str, &str, &str)] = &[
        ("WEIR_LISTEN", "example.org:1", "ADDR:PORT"),
        ("OPENVIDU_CDR", "yes", "true or false"),
        ("OPENVIDU_CDR_PATH", "", "a path"),
        ("OPENVIDU_WEBHOOK_ENDPOINT", "localhost", "absolute"),
        ("OPENVIDU_WEBHOOK_EVENTS", "[sessionCreated,nope]", "sessionDestroyed"),
        ("OPENVIDU_STREAMS_VIDEO_MAX_RECV_BANDWIDTH", "-1", "an integer"),
        ("OPENVIDU_STREAMS_FORCED_VIDEO_CODEC", "vp8", "MEDIA_SERVER_PREFERRED, NONE, VP8, VP9, H264"),
        ("OPENVIDU_SESSIONS_GARBAGE_INTERVAL", "1.5", "an integer"),
        ("OPENVIDU_RECORDING_NOTIFICATION", "ALL", "publisher_moderator"),
        ("OPENVIDU_PRO_CLUSTER_RECONNECTION_TIMEOUT", "2", "-1, or an integer >= 3"),
        ("OPENVIDU_PRO_CLUSTER_AUTOSCALING_MAX_LOAD", "101", "a number of 0 to 100"),
        ("OPENVIDU_PRO_CLUSTER_LOAD_STRATEGY", "none", "cpu, streams, sessions"),
        ("KMS_URIS", "[http://x]", "ws:// or wss://"),
        ("HTTPS_PORT", "0", "a port"),
        ("COTURN_IP", "auto", "auto-ipv4"),
        ("WEIR_REACTOR", "epoll", "auto, io_uring, mmsg"),
        ("WEIR_SEND_PATH", "raw", "auto, frames, sockets"),
        ("WEIR_CORES", "0", "auto, or an integer"),
        ("WEIR_MEDIA_ADDRESSES", "0.0.0.0", "auto and IP addresses"),
        ("WEIR_MEDIA_SERVER_NAME", "janus", "kurento, mediasoup"),
        ("OPENVIDU_EDITION", "ce", "pro, enterprise"),
        ("SUPPORT_DEPRECATED_API", "", "true or false"),
    ];
    for (name, value, allowed) in table {
        let error = Config::load(&around(&[(name, value)])).expect_err(name);
        assert_eq!(error.0.len(), 1, "{error}");
        let text = &error.0[0];
        assert!(text.starts_with(name) && text.contains(value) && text.contains(allowed), "{text}");
    }
    let all: Vec<(&str, &str)> = table.iter().map(|(name, value, _)| (*name, *value)).collect();
    let error = Config::load(&around(&all)).expect_err("all together");
    assert_eq!(error.0.len(), table.len(), "{error}");
}

#[test]
fn what_a_value_names_must_be_there() {
    for (vars, parts) in [
        (
            &[("OPENVIDU_CDR", "true"), ("OPENVIDU_CDR_PATH", "/proc/nowhere")][..],
            ["OPENVIDU_CDR_PATH = /proc/nowhere", "can be written"],
        ),
        (
            &[("OPENVIDU_PRO_CLUSTER_ENVIRONMENT", "aws"), ("OPENVIDU_PRO_CLUSTER_PATH", "/no/such/place")],
            ["OPENVIDU_PRO_CLUSTER_ENVIRONMENT = aws", "/no/such/place/aws/openvidu_launch_kms.sh"],
        ),
    ] {
        let error = Config::load(&around(vars)).expect_err("refused");
        assert_eq!(error.0.len(), 1, "{error}");
        assert!(parts.iter().all(|part| error.0[0].contains(part)), "{error}");
    }
    assert!(!load(&[("OPENVIDU_CDR_PATH", "/proc/nowhere")]).cdr.enabled, "nothing is written there");
}

#[test]
fn published_values_are_taken() {
    let config = load(&[
        ("OPENVIDU_PRO_CLUSTER_LOAD_INTERVAL", "0"),
        ("OPENVIDU_PRO_CLUSTER_LOAD_STRATEGY", "mediaObjects"),
    ]);
    assert_eq!((config.cluster.load_interval_s, config.cluster.load_strategy), (0, LoadStrategy::Streams));
}

#[test]
fn secrets_stay_out_of_errors_and_print_out() {
    let error =
        Config::load(&around(&[("OPENVIDU_SECRET", "not allowed!")])).expect_err("refused").to_string();
    assert!(!error.contains("not allowed!") && error.contains("****"), "{error}");
    let config = load(&[("OPENVIDU_SECRET", "topsecret"), ("OPENVIDU_WEBRTC_ICE_SERVERS", ICE)]);
    let print = resolve::print_out(&config.resolved);
    assert!(!print.contains("topsecret") && !print.contains("south") && !print.contains("north"));
    let debug = format!("{config:?}");
    assert!(!debug.contains("topsecret") && !debug.contains("south"), "{debug}");
    assert!(print.contains("OPENVIDU_SECRET=****  (environment)\n"), "{print}");
    assert!(
        print.contains("OPENVIDU_CDR=false  (default)\n")
            && print.contains("WEIR_LISTEN=127.0.0.1:4443  (derived)\n")
    );
}

const ICE: &str = "[\"url=turn:t:3478,username=north,credential=south\",\"url=stun:s\"]";

#[test]
fn ice_servers_quoted_or_not() {
    for text in [ICE, "[url=turn:t:3478,username=north,credential=south,url=stun:s]"] {
        let servers = load(&[("OPENVIDU_WEBRTC_ICE_SERVERS", text)]).ice_servers;
        assert_eq!(
            servers.iter().map(|s| s.url.as_str()).collect::<Vec<_>>(),
            ["turn:t:3478", "stun:s"],
            "{text}"
        );
    }
    assert!(Config::load(&around(&[("OPENVIDU_WEBRTC_ICE_SERVERS", "[\"url=turn:t\"]")])).is_err());
}

#[test]
fn precedence_is_flag_environment_file_default() {
    let dir = std::env::temp_dir().join(format!("weir-config-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    std::fs::write(dir.join(".env"), "OPENVIDU_CDR=true\nOPENVIDU_RECORDING_VERSION=dotenv\nOPENVIDU_X=1\n")
        .unwrap();
    std::fs::write(dir.join("sub/.env"), "OPENVIDU_RECORDING_VERSION=sub\n").unwrap();
    std::fs::write(dir.join("weir.toml"), "OPENVIDU_RECORDING_VERSION = \"toml\"\nHTTPS_PORT = 5000\n")
        .unwrap();
    let mut around = Surroundings { directory: dir.clone(), ..Surroundings::default() };
    let version = |around: &Surroundings| Config::load(around).unwrap().recording.version;
    assert_eq!(version(&around), "dotenv");
    let config = Config::load(&around).unwrap();
    assert_eq!(config.listen.port(), 5000);
    let expected = [
        "OPENVIDU_RECORDING_VERSION: accepted, no effect yet: there is no recorder",
        "OPENVIDU_X: ignored: no such property",
    ];
    assert_eq!(config.warnings, expected);
    around.environment.insert("DOTENV_PATH".into(), "sub".into());
    assert_eq!(version(&around), "sub");
    around.environment.insert("DOTENV_PATH".into(), "sub/.env".into());
    assert_eq!(version(&around), "sub");
    around.environment.insert("OPENVIDU_RECORDING_VERSION".into(), "environment".into());
    assert_eq!(version(&around), "environment");
    around.flags.insert("OPENVIDU_RECORDING_VERSION".into(), "flag".into());
    assert_eq!(version(&around), "flag");
    around.environment.insert("DOTENV_PATH".into(), "missing".into());
    assert!(Config::load(&around).expect_err("missing file").0[0].contains("missing/.env"));
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn media_addresses_and_node_uris() {
    let config = load(&[
        ("WEIR_MEDIA_ADDRESSES", "10.0.0.5=198.51.100.5, 2001:db8::5"),
        ("KMS_URIS", "[\"ws://10.0.0.1:8888/kurento\", \\\"wss://n2/kurento\\\"]"),
    ]);
    assert_eq!(config.media.addresses, "10.0.0.5=198.51.100.5,2001:db8::5");
    assert_eq!(load(&[]).media.addresses, "auto,127.0.0.1");
    assert_eq!(load(&[("WEIR_LISTEN", "0.0.0.0:1"), ("OPENVIDU_SECRET", "own")]).media.addresses, "auto");
    assert_eq!(config.cluster.kms_uris, ["ws://10.0.0.1:8888/kurento", "wss://n2/kurento"]);
}

#[test]
fn an_enabled_webhook_needs_an_endpoint() {
    let error = Config::load(&around(&[("OPENVIDU_WEBHOOK", "true")])).expect_err("no endpoint");
    assert!(error.0[0].starts_with("OPENVIDU_WEBHOOK_ENDPOINT"), "{error}");
    let config = load(&[
        ("OPENVIDU_WEBHOOK", "true"),
        ("OPENVIDU_WEBHOOK_ENDPOINT", "http://127.0.0.1:7777/webhook"),
        ("OPENVIDU_WEBHOOK_HEADERS", "[\"Authorization: Basic a: b\"]"),
    ]);
    assert_eq!(config.webhook.headers, [("Authorization".to_owned(), "Basic a: b".to_owned())]);
}
