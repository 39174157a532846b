//! DTLS against the `openssl` command on loopback, as client and as server: handshake, SRTP profile, certificate, keys.
//! Without that command the tests say so and pass.

// The network with faults is for the other test of this helper.
#[allow(dead_code)]
mod dtls_common;

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use dtls_common::{Peer, epoch};
use sfu_core::crypto::{DtlsVersion, MasterKey, Role, SrtpProfile, split_keying_material};
use sfu_core::time::Timestamp;

/// How long one handshake may take, on a machine that is busy with something else.
const LIMIT: Duration = Duration::from_secs(20);

/// Profiles by OpenSSL's names, and what our server makes of them.
const OFFERS: [(&str, SrtpProfile); 4] = [
    ("SRTP_AES128_CM_SHA1_80:SRTP_AEAD_AES_256_GCM:SRTP_AEAD_AES_128_GCM", SrtpProfile::AeadAes256Gcm),
    ("SRTP_AEAD_AES_256_GCM", SrtpProfile::AeadAes256Gcm),
    ("SRTP_AEAD_AES_128_GCM", SrtpProfile::AeadAes128Gcm),
    ("SRTP_AES128_CM_SHA1_80", SrtpProfile::Aes128CmHmacSha1_80),
];

/// A directory with a certificate and key that `openssl` made; removed at the end.
struct Files {
    dir: PathBuf,
}

impl Files {
    /// `None`, with a line that says so, if there is no `openssl`.
    fn new(name: &str) -> Option<Files> {
        if Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_err() {
            eprintln!("skipped: there is no `openssl` command on this machine");
            return None;
        }
        let dir = std::env::temp_dir().join(format!("weir-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("the temporary directory can be written");
        let files = Files { dir };
        let made = Command::new("openssl")
            .args(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=peer"
                    .split(' '),
            )
            .args([Path::new("-keyout"), &files.key(), Path::new("-out"), &files.certificate()])
            .stderr(Stdio::null())
            .status()
            .expect("openssl starts");
        assert!(made.success(), "openssl makes a certificate");
        Some(files)
    }

    fn key(&self) -> PathBuf {
        self.dir.join("key.pem")
    }

    fn certificate(&self) -> PathBuf {
        self.dir.join("certificate.pem")
    }

    /// The certificate's fingerprint in OpenSSL's own words.
    fn fingerprint(&self) -> String {
        let output = Command::new("openssl")
            .args("x509 -noout -fingerprint -sha256 -in".split(' '))
            .arg(self.certificate())
            .output()
            .expect("openssl starts");
        let text = String::from_utf8(output.stdout).expect("text");
        text.trim().split_once('=').expect("name=value").1.to_owned()
    }

    /// `openssl` with the arguments that both ends share.
    fn command(&self, end: &str, offer: &str, keying_material_len: usize) -> Command {
        let mut command = Command::new("openssl");
        command.args([end, "-dtls1_2", "-use_srtp", offer, "-keymatexport", "EXTRACTOR-dtls_srtp"]);
        command.args(["-keymatexportlen", &keying_material_len.to_string()]);
        command.args([Path::new("-cert"), &self.certificate(), Path::new("-key"), &self.key()]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A running `openssl`; ended with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> (Running, BufReader<ChildStdout>) {
        let mut child = command.spawn().expect("openssl starts");
        let output = child.stdout.take().expect("its output is piped");
        (Running(child), BufReader::new(output))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `openssl` says it exported. Blocks until it says so or ends.
fn exported(output: &mut impl BufRead) -> Vec<u8> {
    let line = output
        .lines()
        .map(|line| line.expect("text"))
        .find(|line| line.contains("Keying material:"))
        .expect("openssl prints what it exported");
    let digits = line.rsplit(' ').next().expect("a last word").as_bytes();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("text"), 16).expect("hexadecimal"))
        .collect()
}

/// Drives `peer` over `socket` until `done` or [`LIMIT`]. `to`: where to send before anything has come in.
fn drive(peer: &mut Peer, socket: &UdpSocket, mut to: Option<SocketAddr>, done: impl Fn(&Peer) -> bool) {
    let start = epoch();
    let mut buf = [0; 2048];
    loop {
        for datagram in peer.drain() {
            let to = to.expect("a server speaks after the client");
            // Nobody may listen there yet; that is a lost datagram.
            let _ = socket.send_to(&datagram, to);
        }
        assert_eq!(peer.error, None);
        if done(peer) {
            return;
        }
        let now = || Timestamp(start.elapsed().as_nanos() as u64);
        let wait = peer.timeout.since(now()).clamp(Duration::from_millis(1), Duration::from_millis(100));
        socket.set_read_timeout(Some(wait)).expect("more than zero");
        match socket.recv_from(&mut buf) {
            Ok((len, from)) => {
                to = Some(from);
                peer.receive(now(), &buf[..len]);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                peer.tick(now())
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => panic!("{error}"),
        }
        assert!(start.elapsed() < LIMIT, "no handshake in {LIMIT:?}");
    }
}

/// The keys that `openssl` exported, as our end should have them.
fn expected_keys(role: Role, profile: SrtpProfile, material: &[u8]) -> (SrtpProfile, MasterKey, MasterKey) {
    let (client, server) = split_keying_material(profile, material).expect("the profile's length");
    match role {
        Role::Client => (profile, client, server),
        Role::Server => (profile, server, client),
    }
}

#[test]
fn openssl_as_client() {
    let Some(files) = Files::new("openssl-client") else { return };
    for (offer, profile) in OFFERS {
        for version in [DtlsVersion::V12, DtlsVersion::Auto] {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
            let address = socket.local_addr().expect("it is bound").to_string();
            let mut command = files.command("s_client", offer, profile.keying_material_len());
            // At the end of its input it sends close_notify and goes.
            let (_running, mut output) =
                Running::start(command.args(["-connect", &address]).stdin(Stdio::null()));
            let mut server = Peer::new(Role::Server, version, epoch());
            drive(&mut server, &socket, None, |peer| peer.keys.is_some() && peer.closed > 0);
            let expected = expected_keys(Role::Server, profile, &exported(&mut output));
            assert_eq!(server.keys, Some(expected), "{offer} {version:?}");
            let seen = server.seen_certificate.expect("it has shown one");
            assert_eq!(sfu_core::crypto::certificate::format_fingerprint(&seen), files.fingerprint());
            assert_eq!(server.closed, 1);
        }
    }
}

#[test]
fn openssl_as_server() {
    let Some(files) = Files::new("openssl-server") else { return };
    for (offer, profile) in OFFERS[1..].iter().copied() {
        let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = free.local_addr().expect("it is bound");
        drop(free);
        let mut command = files.command("s_server", offer, profile.keying_material_len());
        let arguments = ["-accept", &address.to_string(), "-Verify", "1"];
        let (_running, mut output) = Running::start(command.args(arguments).stdin(Stdio::piped()));
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let mut client = Peer::new(Role::Client, DtlsVersion::V12, epoch());
        drive(&mut client, &socket, Some(address), |peer| peer.keys.is_some());
        let expected = expected_keys(Role::Client, profile, &exported(&mut output));
        assert_eq!(client.keys, Some(expected), "{offer}");
        let seen = client.seen_certificate.expect("it has shown one");
        assert_eq!(sfu_core::crypto::certificate::format_fingerprint(&seen), files.fingerprint());
    }
}
