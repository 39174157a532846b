//! DTLS handshakes: our server against our client and against the `dtls` crate, over a network that loses, repeats and
//! swaps; and what forged datagrams do (nothing).

mod dtls_common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dtls_common::{Fault, From, Network, Pair, Peer, epoch};
use sfu_core::crypto::{Certificate, Dtls, DtlsEndpoint, DtlsError, DtlsVersion, Role, SrtpProfile};
use sfu_core::time::Timestamp;

const VERSIONS: [DtlsVersion; 3] = [DtlsVersion::V12, DtlsVersion::V13, DtlsVersion::Auto];

#[test]
fn every_pair_of_versions_that_can_agree_does() {
    use DtlsVersion::{Auto, V12, V13};
    for (client, server) in
        [(V12, V12), (V13, V13), (Auto, Auto), (Auto, V12), (V12, Auto), (V13, Auto), (Auto, V13)]
    {
        let mut pair = Pair::new(client, server, Fault::None);
        pair.connect(Duration::ZERO);
        assert_eq!(pair.server.keys.unwrap().0, SrtpProfile::AeadAes256Gcm, "{client:?} {server:?}");
    }
}

#[test]
fn a_handshake_of_version_1_2_takes_two_round_trips() {
    let mut pair = Pair::new(DtlsVersion::V12, DtlsVersion::V12, Fault::None);
    pair.connect(Duration::ZERO);
    let mut directions: Vec<From> = pair.network.log.iter().map(|(from, _)| *from).collect();
    directions.dedup();
    assert_eq!(directions, [From::Client, From::Server, From::Client, From::Server], "no cookie round trip");
}

#[test]
fn any_one_datagram_may_be_lost_repeated_or_swapped() {
    for version in VERSIONS {
        let mut clean = Pair::new(version, version, Fault::None);
        clean.connect(Duration::ZERO);
        let datagrams = clean.network.log.len();
        assert!(datagrams >= 3, "{datagrams}");
        for number in 0..datagrams {
            for fault in [Fault::Lose(number), Fault::Duplicate(number), Fault::Swap(number)] {
                let mut pair = Pair::new(version, version, fault);
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    pair.connect(Duration::from_secs(2));
                }));
                assert!(result.is_ok(), "{version:?} {fault:?} of {datagrams}");
            }
        }
    }
}

/// Cuts the one handshake message of a datagram in two after `at` bytes of its body (RFC 6347 §4.2.3).
fn refragment(datagram: &[u8], at: usize) -> [Vec<u8>; 2] {
    let (record, message) = datagram.split_at(13);
    let (handshake, body) = message.split_at(12);
    assert_eq!(usize::from(u16::from_be_bytes([record[11], record[12]])), message.len(), "one record");
    let fragment = |number: u8, offset: usize, part: &[u8]| {
        let mut bytes = record.to_vec();
        bytes[10] = number;
        bytes[11..13].copy_from_slice(&(12 + part.len() as u16).to_be_bytes());
        bytes.extend(&handshake[..6]);
        bytes.extend(&(offset as u32).to_be_bytes()[1..]);
        bytes.extend(&(part.len() as u32).to_be_bytes()[1..]);
        bytes.extend(part);
        bytes
    };
    [fragment(0, 0, &body[..at]), fragment(1, at, &body[at..])]
}

/// Chromium's ClientHello comes in two datagrams.
#[test]
fn a_client_hello_in_two_datagrams_is_put_together_in_either_order() {
    for version in VERSIONS {
        for order in [[0, 1], [1, 0]] {
            let mut pair = Pair::new(version, version, Fault::None);
            let hello = pair.client.drain().remove(0);
            let parts = refragment(&hello, 60);
            pair.server.receive(pair.now, &parts[order[0]]);
            assert_eq!(
                pair.server.drain(),
                Vec::<Vec<u8>>::new(),
                "{version:?} half a hello is not answered"
            );
            pair.server.receive(pair.now, &parts[order[1]]);
            pair.connect(Duration::ZERO);
        }
    }
}

#[test]
fn one_half_of_the_client_hello_lost_and_sent_again() {
    let mut pair = Pair::new(DtlsVersion::V12, DtlsVersion::V12, Fault::None);
    let hello = pair.client.drain().remove(0);
    let [first, second] = refragment(&hello, 60);
    pair.server.receive(pair.now, &second);
    pair.now = Timestamp::from_millis(300);
    pair.server.receive(pair.now, &first);
    pair.server.receive(pair.now, &second);
    pair.connect(Duration::from_secs(1));
}

fn record(content_type: u8, epoch: u16, sequence: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![content_type, 0xfe, 0xfd];
    bytes.extend(epoch.to_be_bytes());
    bytes.extend(&sequence.to_be_bytes()[2..]);
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Datagrams that anybody could send.
fn forgeries() -> Vec<Vec<u8>> {
    let mut all = vec![
        vec![],
        vec![22],
        vec![0xff; 100],
        vec![0x2c; 100],
        record(21, 0, 50, &[2, 40]),
        record(21, 0, 51, &[1, 0]),
        record(21, 1, 52, &[2, 40]),
        record(21, 1, 53, &[0x5a; 40]),
        record(22, 1, 54, &[0x5a; 60]),
        record(23, 1, 55, &[0x5a; 60]),
        record(23, 0, 56, b"plain application data"),
        record(20, 0, 57, &[1]),
        record(20, 1, 58, &[1]),
        record(22, 0, 59, &[20, 0, 0, 12, 0, 9, 0, 0, 0, 0, 0, 12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        record(22, 0, 60, &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 7]),
        record(22, 7, 61, &[0x5a; 60]),
    ];
    // And many, more than any queue holds.
    all.extend((0..200).map(|n| record(23, 0, 100 + n, &[n as u8; 20])));
    all.extend(
        (0..200).map(|n| record(22, 0, 300 + n, &[11, 0, 1, 0, 1, n as u8, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4])),
    );
    all
}

#[test]
fn forged_datagrams_after_the_handshake_are_ignored() {
    for version in VERSIONS {
        let mut pair = Pair::new(version, version, Fault::None);
        pair.connect(Duration::ZERO);
        let mut answers = 0;
        for datagram in forgeries() {
            pair.server.receive(pair.now, &datagram);
            pair.client.receive(pair.now, &datagram);
            answers += pair.server.drain().len() + pair.client.drain().len();
            assert_eq!(
                (&pair.client.error, &pair.server.error),
                (&None, &None),
                "{version:?} {datagram:02x?}"
            );
        }
        assert!(answers <= 4, "{version:?}: {answers} datagrams in answer to forgeries");
        assert_eq!((pair.client.closed, pair.server.closed), (0, 0), "{version:?}");
        // The association lives: the close that is real arrives.
        pair.client.dtls.close(pair.now);
        pair.settle();
        assert_eq!(pair.server.closed, 1, "{version:?}");
    }
}

#[test]
fn a_recorded_handshake_played_again_changes_nothing_and_is_not_amplified() {
    for version in VERSIONS {
        let mut pair = Pair::new(version, version, Fault::None);
        pair.connect(Duration::ZERO);
        let recorded: Vec<_> =
            pair.network.log.iter().filter(|(from, _)| *from == From::Client).cloned().collect();
        let (mut received, mut answered) = (0, 0);
        for _ in 0..50 {
            for (_, datagram) in &recorded {
                received += datagram.len();
                pair.server.receive(pair.now, datagram);
                answered += pair.server.drain().iter().map(Vec::len).sum::<usize>();
            }
        }
        assert_eq!(pair.server.error, None, "{version:?}");
        // DTLS 1.2 answers with at most one flight in a while, 1.3 with a short acknowledgement each.
        assert!(answered < received / 4, "{version:?}: {answered} bytes in answer to {received}");
        pair.client.dtls.close(pair.now);
        pair.settle();
        assert_eq!(pair.server.closed, 1, "{version:?}");
    }
}

#[test]
fn garbage_before_the_handshake_does_not_stop_it() {
    for version in VERSIONS {
        let mut pair = Pair::new(version, version, Fault::None);
        for datagram in [
            vec![],
            vec![22],
            vec![0xff; 100],
            vec![0x2c; 100],
            record(22, 0, 9, &[0x5a; 60]),
            record(23, 1, 9, &[7; 60]),
        ] {
            pair.server.receive(pair.now, &datagram);
            pair.client.receive(pair.now, &datagram);
        }
        pair.connect(Duration::from_secs(2));
    }
}

#[test]
fn close_notify_ends_both_ends_once() {
    for version in VERSIONS {
        for server_closes in [false, true] {
            let mut pair = Pair::new(version, version, Fault::None);
            pair.connect(Duration::ZERO);
            let closing = if server_closes { &mut pair.server } else { &mut pair.client };
            closing.dtls.close(pair.now);
            pair.settle();
            let told = if server_closes { &pair.client } else { &pair.server };
            assert_eq!(told.closed, 1, "{version:?} {server_closes}");
            // What comes later is nobody's.
            let late = record(23, 1, 9, &[1; 40]);
            pair.server.receive(pair.now, &late);
            pair.client.receive(pair.now, &late);
            pair.settle();
            assert_eq!((&pair.client.error, &pair.server.error), (&None, &None));
            assert!(pair.client.closed <= 1 && pair.server.closed <= 1);
        }
    }
}

#[test]
fn a_handshake_without_a_peer_ends_in_time() {
    for version in VERSIONS {
        let mut client = Peer::new(Role::Client, version, epoch());
        let (mut now, mut datagrams) = (Timestamp::ZERO, 0);
        while client.error.is_none() {
            datagrams += client.drain().len();
            assert!(client.timeout > now, "a timer in the past would spin");
            now = client.timeout;
            client.tick(now);
        }
        assert_eq!(client.error, Some(DtlsError::Timeout), "{version:?}");
        assert!((5_000..=30_000).contains(&now.as_millis()), "{version:?} {now:?}");
        assert!((5..=12).contains(&datagrams), "{version:?} {datagrams}");
    }
}

/// A server that nobody talks to wants no attention.
#[test]
fn an_idle_server_has_no_timer() {
    for version in VERSIONS {
        let mut server = Peer::new(Role::Server, version, epoch());
        assert!(server.drain().is_empty());
        assert!(server.timeout > Timestamp::from_millis(3_600_000), "{version:?} {:?}", server.timeout);
    }
}

#[test]
fn versions_that_do_not_meet_end_in_an_error_not_in_keys() {
    for (client, server) in [(DtlsVersion::V12, DtlsVersion::V13), (DtlsVersion::V13, DtlsVersion::V12)] {
        let mut pair = Pair::new(client, server, Fault::None);
        while pair.client.error.is_none() {
            pair.settle();
            pair.pass_time();
            assert!(pair.now <= Timestamp::from_millis(40_000), "{client:?} {server:?}");
        }
        assert!(pair.client.keys.is_none() && pair.server.keys.is_none());
    }
}

// Against the `dtls` crate, on tokio and in real time: an independent client.

use async_trait::async_trait;
use tokio::sync::{Mutex, mpsc};
use webrtc_util::KeyingMaterialExporter;

/// How long such a handshake may take, on a machine that is busy with something else.
const LIMIT: Duration = Duration::from_secs(15);

/// The client's end of the network.
struct Pipe {
    to_server: mpsc::UnboundedSender<Vec<u8>>,
    from_server: Mutex<mpsc::UnboundedReceiver<Vec<u8>>>,
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9))
}

#[async_trait]
impl webrtc_util::Conn for Pipe {
    async fn connect(&self, _: SocketAddr) -> Result<(), webrtc_util::Error> {
        Ok(())
    }

    async fn recv(&self, buf: &mut [u8]) -> Result<usize, webrtc_util::Error> {
        let datagram =
            self.from_server.lock().await.recv().await.ok_or(webrtc_util::Error::ErrClosedListener)?;
        buf[..datagram.len()].copy_from_slice(&datagram);
        Ok(datagram.len())
    }

    async fn recv_from(&self, buf: &mut [u8]) -> Result<(usize, SocketAddr), webrtc_util::Error> {
        Ok((self.recv(buf).await?, anywhere()))
    }

    async fn send(&self, buf: &[u8]) -> Result<usize, webrtc_util::Error> {
        self.to_server.send(buf.to_vec()).map_err(|_| webrtc_util::Error::ErrClosedListener)?;
        Ok(buf.len())
    }

    async fn send_to(&self, buf: &[u8], _: SocketAddr) -> Result<usize, webrtc_util::Error> {
        self.send(buf).await
    }

    fn local_addr(&self) -> Result<SocketAddr, webrtc_util::Error> {
        Ok(anywhere())
    }

    fn remote_addr(&self) -> Option<SocketAddr> {
        Some(anywhere())
    }

    async fn close(&self) -> Result<(), webrtc_util::Error> {
        Ok(())
    }

    fn as_any(&self) -> &(dyn std::any::Any + Send + Sync) {
        self
    }
}

/// Our server behind a network with one fault, until an empty datagram says that the client has gone, or has had far too much time.
async fn serve(
    version: DtlsVersion,
    fault: Fault,
    mut from_client: mpsc::UnboundedReceiver<Vec<u8>>,
    to_client: mpsc::UnboundedSender<Vec<u8>>,
) -> (Peer, usize) {
    let start = tokio::time::Instant::now();
    let mut server = Peer::new(Role::Server, version, start.into_std());
    let mut network = Network::new(fault);
    loop {
        for datagram in server.drain() {
            network.send(From::Server, datagram);
        }
        let now = || Timestamp(start.elapsed().as_nanos() as u64);
        match network.next() {
            Some((From::Client, datagram)) => server.receive(now(), &datagram),
            // A client that has what it wants may be gone.
            Some((From::Server, datagram)) => drop(to_client.send(datagram)),
            None => {
                let timer = start + Duration::from_nanos(server.timeout.0.min(LIMIT.as_nanos() as u64));
                tokio::select! {
                    datagram = from_client.recv() => match datagram {
                        Some(datagram) if !datagram.is_empty() => network.send(From::Client, datagram),
                        _ => return (server, network.log.len()),
                    },
                    () = tokio::time::sleep_until(timer) => {
                        server.tick(now());
                        match network.late() {
                            Some((From::Client, datagram)) => server.receive(now(), &datagram),
                            Some((From::Server, datagram)) => drop(to_client.send(datagram)),
                            None => {}
                        }
                    }
                }
            }
        }
        if now() > Timestamp::ZERO + LIMIT || server.error.is_some() {
            return (server, network.log.len());
        }
    }
}

fn client_config(
    profiles: &[dtls::extension::extension_use_srtp::SrtpProtectionProfile],
) -> dtls::config::Config {
    // `dtls` asks rustls for the process's provider, and in a build of the whole workspace rustls has two to choose from.
    // Only the first of several tests in this process sets it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let certificate =
        dtls::crypto::Certificate::generate_self_signed(vec!["client".to_owned()]).expect("a key");
    dtls::config::Config {
        certificates: vec![certificate],
        srtp_protection_profiles: profiles.to_vec(),
        extended_master_secret: dtls::config::ExtendedMasterSecretType::Require,
        flight_interval: Duration::from_millis(100),
        insecure_skip_verify: true,
        ..Default::default()
    }
}

/// One handshake with the `dtls` crate. Gives our server's end, the client's connection if it came to one, and how many
/// datagrams were sent.
async fn handshake(
    version: DtlsVersion,
    fault: Fault,
    config: dtls::config::Config,
) -> (Peer, Option<dtls::conn::DTLSConn>, usize) {
    let (to_server, from_client) = mpsc::unbounded_channel();
    let (to_client, from_server) = mpsc::unbounded_channel();
    let pipe = Arc::new(Pipe { to_server: to_server.clone(), from_server: Mutex::new(from_server) });
    let client = async {
        let connecting = dtls::conn::DTLSConn::new(pipe, config, true, None);
        let conn = tokio::time::timeout(LIMIT, connecting).await.ok().and_then(Result::ok);
        if let Some(conn) = &conn {
            conn.close().await.expect("a memory pipe takes the close_notify");
        }
        // The server may be gone first, when it refused the client. The client's own tasks keep the pipe open.
        let _ = to_server.send(Vec::new());
        conn
    };
    let ((server, datagrams), client) = tokio::join!(serve(version, fault, from_client, to_client), client);
    (server, client, datagrams)
}

use dtls::extension::extension_use_srtp::SrtpProtectionProfile as Theirs;

const CHROMIUMS_ORDER: [Theirs; 3] =
    [Theirs::Srtp_Aes128_Cm_Hmac_Sha1_80, Theirs::Srtp_Aead_Aes_256_Gcm, Theirs::Srtp_Aead_Aes_128_Gcm];

#[tokio::test]
async fn the_dtls_crate_connects_with_each_profile_and_exports_the_same_keys() {
    for (offered, expected) in [
        (&CHROMIUMS_ORDER[..], SrtpProfile::AeadAes256Gcm),
        (&CHROMIUMS_ORDER[2..], SrtpProfile::AeadAes128Gcm),
        (&CHROMIUMS_ORDER[..1], SrtpProfile::Aes128CmHmacSha1_80),
    ] {
        for version in [DtlsVersion::V12, DtlsVersion::Auto] {
            let (server, client, _) = handshake(version, Fault::None, client_config(offered)).await;
            assert_eq!(server.error, None, "{version:?}");
            let (profile, local, remote) = server.keys.expect("keys");
            assert_eq!(profile, expected, "{version:?}");
            let state = client.expect("connected").connection_state().await;
            let material = state
                .export_keying_material("EXTRACTOR-dtls_srtp", &[], profile.keying_material_len())
                .await
                .unwrap();
            let (client_key, server_key) =
                sfu_core::crypto::split_keying_material(profile, &material).unwrap();
            assert_eq!((local, remote), (server_key, client_key), "{version:?}");
            assert_eq!(server.closed, 1, "its close_notify arrived");
        }
    }
}

#[tokio::test]
async fn the_dtls_crate_completes_whatever_one_datagram_suffers() {
    let config = client_config(&CHROMIUMS_ORDER);
    let (_, _, datagrams) = handshake(DtlsVersion::V12, Fault::None, config.clone()).await;
    let mut cases = Vec::new();
    for number in 0..datagrams - 1 {
        for fault in [Fault::Lose(number), Fault::Duplicate(number), Fault::Swap(number)] {
            cases.push((fault, handshake(DtlsVersion::V12, fault, config.clone())));
        }
    }
    assert!(cases.len() >= 3 * 4, "{datagrams} datagrams");
    let (faults, handshakes): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let results = futures_util::future::join_all(handshakes).await;
    for (fault, (server, client, _)) in faults.iter().zip(results) {
        assert!(server.keys.is_some(), "{fault:?}: our server has keys, {:?}", server.error);
        assert!(client.is_some(), "{fault:?}: the client connects");
    }
}

#[tokio::test]
async fn a_client_without_srtp_is_told_closed() {
    let (server, _, _) = handshake(DtlsVersion::V12, Fault::None, client_config(&[])).await;
    assert!(server.keys.is_none());
    assert!(server.closed == 1 || server.error.is_some(), "closed {}, {:?}", server.closed, server.error);
}

#[tokio::test]
async fn a_client_without_a_certificate_gets_no_keys() {
    let config = dtls::config::Config { certificates: vec![], ..client_config(&CHROMIUMS_ORDER) };
    let (server, _, _) = handshake(DtlsVersion::V12, Fault::None, config).await;
    assert!(server.keys.is_none() && server.seen_certificate.is_none());
}

/// The endpoint goes where its shard goes.
#[test]
fn endpoints_and_certificates_can_be_moved_between_threads() {
    fn assert_send<T: Send>() {}
    fn assert_shared<T: Send + Sync>() {}
    assert_send::<Dtls>();
    assert_shared::<Certificate>();
    // And are made without a thread of their own.
    let certificate = Arc::new(Certificate::generate().unwrap());
    drop(Dtls::new(Role::Server, &certificate, epoch(), Timestamp::ZERO));
}
