//! Tests of the settings.

use super::*;

fn settings() -> Settings {
    Settings { secret: Some("s3cret".into()), ..Settings::default() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = NodeConfig::parse(&settings()).expect("defaults are valid");
    assert_eq!(config.listen, "0.0.0.0:8888".parse::<SocketAddr>().expect("address"));
    assert_eq!(config.media, MediaAddresses { auto: true, explicit: vec![] });
    assert_eq!(config.media_port, Some(40_000));
    assert_eq!(config.cores, Cores::Auto);
    assert_eq!(config.reactor, ReactorChoice::Auto);
    assert_eq!(config.send_path, SendPath::Auto);
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.drain, Duration::ZERO);
    assert_eq!(config.parent, None);
}

#[test]
fn reads_every_setting() {
    let config = NodeConfig::parse(&Settings {
        listen: Some("[::1]:0".into()),
        secret: Some("x".into()),
        media_addresses: Some("auto, 10.0.0.5=203.0.113.7, fd00::5".into()),
        media_port: Some("0".into()),
        cores: Some("3".into()),
        cpus: Some("0,2-3".into()),
        reactor: Some("mmsg".into()),
        send_path: Some("sockets".into()),
        slots_per_core: Some("512".into()),
        transports_per_core: Some("7".into()),
        rooms: Some("9".into()),
        drain_s: Some("30".into()),
        parent: Some("4711".into()),
    })
    .expect("valid");
    assert_eq!(config.listen, "[::1]:0".parse::<SocketAddr>().expect("address"));
    assert!(config.media.auto);
    assert_eq!(
        config.media.explicit,
        [
            MediaAddress { bind: ip("10.0.0.5"), announced: Some(ip("203.0.113.7")) },
            MediaAddress { bind: ip("fd00::5"), announced: None },
        ]
    );
    assert_eq!(config.media_port, None);
    assert_eq!(config.cores, Cores::Cpus(vec![0, 2, 3]));
    assert_eq!(config.reactor, ReactorChoice::Mmsg);
    assert_eq!(config.send_path, SendPath::Sockets);
    assert_eq!(config.limits, Limits { slots_per_core: 512, transports_per_core: 7, rooms: 9 });
    assert_eq!(config.drain, Duration::from_secs(30));
    assert_eq!(config.parent, Some(4711));
}

/// Field, how to set it, values it must refuse.
type Mistakes<'a> = (&'a str, fn(&mut Settings, String), &'a [&'a str]);

#[test]
fn names_field_and_value_of_each_mistake() {
    let cases: &[Mistakes] = &[
        ("listen", |s, v| s.listen = Some(v), &["", "8888", "localhost:1", "1.2.3.4:70000"]),
        (
            "media-addresses",
            |s, v| s.media_addresses = Some(v),
            &["", "0.0.0.0", "::", "239.1.1.1", "1.2.3.4,1.2.3.4"],
        ),
        ("media-port", |s, v| s.media_port = Some(v), &["-1", "65536", "auto"]),
        ("cores", |s, v| s.cores = Some(v), &["0", "257", "many"]),
        ("cpus", |s, v| s.cpus = Some(v), &["", "1,1", "3-2", "0-1024", "a"]),
        ("send-path", |s, v| s.send_path = Some(v), &["frame", "UDP"]),
        ("reactor", |s, v| s.reactor = Some(v), &["IO_URING", "epoll"]),
        ("slots-per-core", |s, v| s.slots_per_core = Some(v), &["511", "1048577"]),
        ("transports-per-core", |s, v| s.transports_per_core = Some(v), &["0", "65537"]),
        ("rooms", |s, v| s.rooms = Some(v), &["0"]),
        ("drain-s", |s, v| s.drain_s = Some(v), &["-1", "86401"]),
        ("parent", |s, v| s.parent = Some(v), &["0", "x"]),
    ];
    for (field, set, values) in cases {
        for value in *values {
            let mut settings = settings();
            set(&mut settings, (*value).to_owned());
            let errors = NodeConfig::parse(&settings).expect_err(field).0;
            assert_eq!(errors.len(), 1, "{field} {value}: {errors:?}");
            assert_eq!((errors[0].field, errors[0].value.as_str()), (*field, *value));
            assert!(errors[0].to_string().contains(&errors[0].allowed));
        }
    }
}

#[test]
fn collects_all_mistakes_and_masks_the_secret() {
    let settings = Settings {
        secret: Some("with blank".into()),
        media_port: Some("65535".into()),
        cores: Some("2".into()),
        ..Settings::default()
    };
    let errors = NodeConfig::parse(&settings).expect_err("two mistakes");
    assert_eq!(errors.0.iter().map(|e| e.field).collect::<Vec<_>>(), ["secret", "media-port"]);
    let text = errors.to_string();
    assert!(!text.contains("blank\"") && text.contains("***") && text.contains("at most 65534"), "{text}");
    assert_eq!(text.lines().count(), 2);
}

#[test]
fn every_core_has_a_port() {
    let config = |port: &str| {
        NodeConfig::parse(&Settings { media_port: Some(port.into()), ..settings() }).expect("valid so far")
    };
    for (port, cores, fits) in [
        ("65535", 1, true),
        ("65535", 2, false),
        ("65520", 16, true),
        ("65521", 16, false),
        ("1", 70_000, false),
        ("0", 70_000, true),
    ] {
        let checked = config(port).check_ports(cores);
        assert_eq!(checked.is_ok(), fits, "{port} {cores}");
        let names = |error: ConfigError| error.field == "media-port" && error.to_string().contains(port);
        assert!(checked.err().is_none_or(names));
    }
}

#[test]
fn counts_and_cpu_lists_must_agree() {
    let both = |cores: &str, cpus: &str| {
        NodeConfig::parse(&Settings { cores: Some(cores.into()), cpus: Some(cpus.into()), ..settings() })
    };
    assert_eq!(both("2", "4-5").expect("agree").cores, Cores::Cpus(vec![4, 5]));
    assert_eq!(both("auto", "7").expect("agree").cores, Cores::Cpus(vec![7]));
    assert_eq!(both("2", "4").expect_err("differ").0[0].field, "cpus");
}

#[test]
fn resolves_addresses() {
    let interfaces =
        [ip("127.0.0.1"), ip("10.0.0.5"), ip("fe80::1"), ip("169.254.1.1"), ip("fd00::5"), ip("::1")];
    let parse = |text| parse_media_addresses(text).expect("valid");
    let binds = |text, interfaces: &[IpAddr]| {
        parse(text).resolve(interfaces).iter().map(|a| a.bind.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(binds("auto", &interfaces), ["10.0.0.5", "fd00::5"]);
    assert_eq!(binds("auto,127.0.0.1", &interfaces), ["127.0.0.1", "10.0.0.5", "fd00::5"]);
    assert_eq!(binds("10.0.0.5=203.0.113.7", &interfaces), ["10.0.0.5"]);
    assert_eq!(binds("auto", &[ip("127.0.0.1")]), ["127.0.0.1"]);
    let announced = parse("auto,10.0.0.5=203.0.113.7").resolve(&interfaces);
    assert_eq!(announced[0], MediaAddress { bind: ip("10.0.0.5"), announced: Some(ip("203.0.113.7")) });
    assert_eq!(announced.len(), 2);
    let many: Vec<IpAddr> = (1..100).map(|n| IpAddr::from([10, 0, 0, n])).collect();
    assert_eq!(binds("auto", &many).len(), MAX_MEDIA_ADDRESSES);
}

#[test]
fn secrets_compare_and_stay_hidden() {
    let secret = Secret::new("abc").expect("valid");
    assert!(secret.matches(b"abc"));
    for wrong in [&b""[..], b"ab", b"abd", b"abcd"] {
        assert!(!secret.matches(wrong));
    }
    assert_eq!(format!("{secret:?}"), "Secret(***)");
    for bad in ["", "a b", "a\n", "ä", &"x".repeat(257)] {
        assert!(Secret::new(bad).is_none(), "{bad}");
    }
}
