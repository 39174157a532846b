//! One browser: ICE checks, DTLS, SRTP, and the streams it sends and receives.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use sfu_core::control::proto::{DtlsRole, IceCredentials};
use sfu_core::crypto::dtls::MIN_POLL_BYTES;
use sfu_core::crypto::{Certificate, Dtls, DtlsEndpoint, DtlsOutput, Role, SrtpRx, SrtpTx};
use sfu_core::ids::{LocalId, Ssrc};
use sfu_core::time::{NtpTime, Timestamp};
use sfu_core::wire::WriteError;
use sfu_core::wire::demux::{Protocol, classify};
use sfu_core::wire::rtcp::{
    Compound, CompoundWriter, Message, SenderInfo, write_nack, write_pli, write_receiver_report,
    write_sender_report,
};
use sfu_core::wire::rtp::RtpHeader;
use sfu_core::wire::stun::client::{Check, Response, parse_response, write_request};
use sfu_core::wire::stun::{Role as IceRole, TransactionId};

use super::ms;
use super::receiver::Receiver;
use super::rng::Rng;
use super::sender::{Sender, Wire};

/// One real instant; all time in a simulation is counted from it.
#[allow(
    clippy::disallowed_methods,
    reason = "dimpl wants an Instant, and there is no other way to make the first"
)]
pub(crate) fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// Certificates are dear to make and tell nothing about a run: three for all.
pub(crate) fn certificate(which: usize) -> Arc<Certificate> {
    static ALL: OnceLock<[Arc<Certificate>; 3]> = OnceLock::new();
    let make = |_| Arc::new(Certificate::generate().expect("a key can be made"));
    Arc::clone(&ALL.get_or_init(|| std::array::from_fn(make))[which])
}

/// Certificate of the node.
pub(crate) const NODE: usize = 0;
/// Certificate of every peer.
pub(crate) const PEER: usize = 1;
/// A certificate that signaling does not know.
pub(crate) const STRANGER: usize = 2;

/// Between two checks before the first answer, and after it.
const CHECK_PACE: Duration = ms(50);
const CHROMIUM_PACE: Duration = ms(2500);
const FIREFOX_PACE: Duration = ms(5000);
const REPORT_PACE: Duration = ms(1000);

/// How far a peer got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// No check was answered yet.
    Checking,
    /// The handshake is under way.
    Handshaking,
    /// Keys are there.
    Connected,
    /// Closed by the node, by itself, or failed.
    Over,
}

/// Feedback a peer has received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    /// STUN error codes.
    pub(crate) ice_errors: Vec<u16>,
    /// Transport-wide feedback messages, and packets they told of.
    pub(crate) twcc: u32,
    pub(crate) twcc_arrivals: u32,
    /// Receiver reports with a block.
    pub(crate) report_blocks: u32,
    /// Highest loss any block told, and the last one by SSRC.
    pub(crate) lost_max: i32,
    pub(crate) lost: HashMap<u32, i32>,
    /// Last bitrate allowed.
    pub(crate) remb: Option<u64>,
    /// SRTP that did not open: 0 unless the network forges.
    pub(crate) srtp_errors: u32,
    /// RTP of an SSRC nobody announced.
    pub(crate) strange: u32,
}

/// A peer.
pub(crate) struct SimPeer {
    /// Its transport's id.
    pub(crate) name: String,
    pub(crate) addr: SocketAddr,
    /// Every address it ever had.
    pub(crate) addrs: Vec<SocketAddr>,
    pub(crate) local: LocalId,
    pub(crate) node: IceCredentials,
    pub(crate) ufrag: String,
    pub(crate) dtls_role: DtlsRole,
    pub(crate) certificate: Arc<Certificate>,
    pub(crate) state: State,
    /// Sends checks.
    pub(crate) checking: bool,
    /// Nominates with every check, and not only until the first answer.
    renominates: bool,
    consent_pace: Duration,
    pub(crate) ice_role: IceRole,
    pub(crate) senders: Vec<Sender>,
    pub(crate) receivers: Vec<Receiver>,
    pub(crate) heard: Heard,
    /// Datagrams for the node.
    pub(crate) out: Vec<Vec<u8>>,
    pub(crate) srtp: Option<(SrtpRx, SrtpTx)>,
    dtls: Option<Dtls>,
    dtls_timeout: Timestamp,
    next_check: Timestamp,
    next_report: Timestamp,
    transport_seq: u16,
    rng: Rng,
}

impl SimPeer {
    pub(crate) fn new(
        now: Timestamp,
        name: &str,
        addr: SocketAddr,
        node: IceCredentials,
        ufrag: &str,
        rng: Rng,
    ) -> SimPeer {
        SimPeer {
            name: name.into(),
            addr,
            addrs: vec![addr],
            local: LocalId(0),
            node,
            ufrag: ufrag.into(),
            dtls_role: DtlsRole::Client,
            certificate: certificate(PEER),
            state: State::Checking,
            checking: true,
            renominates: true,
            consent_pace: CHROMIUM_PACE,
            ice_role: IceRole::Controlling(7),
            senders: Vec::new(),
            receivers: Vec::new(),
            heard: Heard::default(),
            out: Vec::new(),
            srtp: None,
            dtls: None,
            dtls_timeout: now,
            next_check: now,
            next_report: now + REPORT_PACE,
            transport_seq: 0xfff0,
            rng,
        }
    }

    /// Checks for consent as Firefox and aiortc do: half as often as Chromium, and without a nomination.
    pub(crate) fn nominate_once(&mut self) {
        self.renominates = false;
        self.consent_pace = FIREFOX_PACE;
    }

    /// A check as this peer would send it now.
    pub(crate) fn check(&mut self) -> Vec<u8> {
        let nominates = self.renominates || self.state == State::Checking;
        self.check_that(nominates)
    }

    /// A check of this peer that nominates its pair or does not.
    pub(crate) fn check_that(&mut self, nominates: bool) -> Vec<u8> {
        let mut id = [0; 12];
        id.copy_from_slice(&self.rng.bytes(12));
        let check = Check {
            transaction: TransactionId(id),
            local_ufrag: &self.ufrag,
            remote_ufrag: &self.node.ufrag,
            priority: 1,
            role: self.ice_role,
            use_candidate: nominates && matches!(self.ice_role, IceRole::Controlling(_)),
        };
        let mut out = [0; 512];
        let len = write_request(&mut out, &check, &self.node.pwd).expect("512 bytes hold a check");
        out[..len].to_vec()
    }

    /// Takes one datagram from the node.
    pub(crate) fn handle(&mut self, now: Timestamp, mut datagram: Vec<u8>) {
        match classify(&datagram) {
            Protocol::Stun => self.on_stun(now, &datagram),
            Protocol::Dtls => {
                if let Some(dtls) = &mut self.dtls {
                    if dtls.handle_datagram(now, &datagram).is_err() {
                        self.state = State::Over;
                    }
                    self.poll_dtls();
                }
            }
            Protocol::Rtp => self.on_rtp(now, &mut datagram),
            Protocol::Rtcp => self.on_rtcp(now, &mut datagram),
            Protocol::Unknown => panic!("the shard sent {datagram:?}"),
        }
    }

    fn on_stun(&mut self, now: Timestamp, datagram: &[u8]) {
        // None: the answer to a check that was sent from here with another peer's password.
        let Some(response) = parse_response(datagram, &self.node.pwd) else { return };
        match response {
            Response::Success { mapped, .. } => {
                assert!(self.addrs.contains(&mapped), "{mapped} is none of {:?}", self.addrs);
                if self.state == State::Checking {
                    self.state = State::Handshaking;
                    let role = match self.dtls_role {
                        DtlsRole::Client => Role::Client,
                        DtlsRole::Server => Role::Server,
                    };
                    self.dtls = Some(Dtls::new(role, &self.certificate, epoch(), now));
                    self.next_check = now + self.consent_pace;
                    self.poll_dtls();
                }
            }
            Response::Error { code, .. } => self.heard.ice_errors.push(code),
        }
    }

    fn poll_dtls(&mut self) {
        let mut buf = [0; MIN_POLL_BYTES];
        while let Some(dtls) = &mut self.dtls {
            match dtls.poll(&mut buf) {
                DtlsOutput::Datagram(len) => self.out.push(buf[..len].to_vec()),
                DtlsOutput::PeerCertificate(digest) => assert_eq!(digest, certificate(NODE).digest()),
                DtlsOutput::Keys { profile, local, remote } => {
                    self.srtp = Some((SrtpRx::new(profile, &remote), SrtpTx::new(profile, &local)));
                    self.state = State::Connected;
                }
                DtlsOutput::Closed => self.state = State::Over,
                DtlsOutput::Timeout(at) => {
                    self.dtls_timeout = at;
                    return;
                }
            }
        }
    }

    fn on_rtp(&mut self, now: Timestamp, datagram: &mut [u8]) {
        let header = RtpHeader::parse(datagram).expect("the shard writes headers that parse");
        let Some((rx, _)) = &mut self.srtp else { return };
        let opened = rx.unprotect_rtp(datagram, header.header_len, header.ssrc, header.seq);
        let Ok((len, index)) = opened else {
            self.heard.srtp_errors += 1;
            return;
        };
        match self.receivers.iter_mut().find(|receiver| receiver.takes(header.ssrc)) {
            Some(receiver) => receiver.on_packet(now, &header, &datagram[..len], index),
            None => self.heard.strange += 1,
        }
    }

    fn on_rtcp(&mut self, now: Timestamp, datagram: &mut [u8]) {
        let Some((rx, tx)) = &mut self.srtp else { return };
        let Ok(len) = rx.unprotect_rtcp(datagram) else {
            self.heard.srtp_errors += 1;
            return;
        };
        let mut wire = Wire { srtp: tx, transport_seq: &mut self.transport_seq, out: &mut self.out };
        let compound = Compound::parse(&datagram[..len]).expect("the shard writes RTCP that parses");
        for message in compound.messages() {
            match message.expect("the shard writes RTCP that parses") {
                Message::Pli(pli) => key_frame_request(&mut self.senders, now, pli.media),
                Message::Fir(fir) => {
                    fir.entries().for_each(|entry| key_frame_request(&mut self.senders, now, entry.media));
                }
                Message::Nack(nack) => {
                    let sender = self.senders.iter_mut().find(|sender| sender.has(nack.media.0));
                    let sender = sender.expect("only streams of ours are asked for");
                    let current = sender.spec.ssrc == nack.media.0;
                    nack.lost().filter(|_| current).for_each(|seq| sender.on_nack(now, seq, &mut wire));
                }
                Message::Twcc(twcc) => {
                    self.heard.twcc += 1;
                    self.heard.twcc_arrivals += twcc.arrivals().count() as u32;
                }
                Message::ReceiverReport(report) => {
                    for block in report.blocks() {
                        self.heard.report_blocks += 1;
                        self.heard.lost.insert(block.ssrc.0, block.cumulative_lost);
                        self.heard.lost_max = self.heard.lost_max.max(block.cumulative_lost);
                    }
                }
                Message::SenderReport(report) => {
                    for receiver in &mut self.receivers {
                        if receiver.spec.ssrc == report.ssrc.0 {
                            receiver.sender_reports.push((now, report.info));
                        }
                    }
                }
                Message::Remb(remb) => self.heard.remb = Some(remb.bitrate_bps),
                Message::Sdes(_) | Message::Bye(_) | Message::Other(_) => {}
            }
        }
    }

    /// Does everything that is due.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        if self.state == State::Over {
            return;
        }
        if self.checking && self.next_check <= now {
            let check = self.check();
            self.out.push(check);
            self.next_check =
                now + if self.state == State::Checking { CHECK_PACE } else { self.consent_pace };
        }
        if self.dtls_timeout <= now
            && let Some(dtls) = &mut self.dtls
        {
            if dtls.handle_timeout(now).is_err() {
                self.state = State::Over;
            }
            self.poll_dtls();
        }
        self.send_media(now);
        self.send_feedback(now);
        if self.next_report <= now {
            self.next_report = now + REPORT_PACE;
            self.send_reports(now);
        }
    }

    /// When [`SimPeer::tick`] has something to do.
    pub(crate) fn next_timeout(&self) -> Option<Timestamp> {
        if self.state == State::Over {
            return None;
        }
        let check = self.checking.then_some(self.next_check);
        let dtls = self.dtls.is_some().then_some(self.dtls_timeout);
        let frames = self.senders.iter().map(|sender| sender.next_frame);
        let repairs = self.receivers.iter().filter_map(Receiver::next_timeout);
        let times = frames.chain(repairs).chain(Some(self.next_report));
        let times = times.filter(|_| self.srtp.is_some());
        times.chain(check).chain(dtls).min()
    }

    fn send_media(&mut self, now: Timestamp) {
        let Some((_, tx)) = &mut self.srtp else { return };
        let mut wire = Wire { srtp: tx, transport_seq: &mut self.transport_seq, out: &mut self.out };
        for sender in &mut self.senders {
            // What was to be sent before there were keys is not made up for.
            if now.since(sender.next_frame) > ms(100) {
                sender.next_frame = now;
            }
            sender.tick(now, &mut wire);
        }
    }

    fn send_feedback(&mut self, now: Timestamp) {
        for at in 0..self.receivers.len() {
            let (missing, pli) = self.receivers[at].poll(now);
            let media = Ssrc(self.receivers[at].spec.ssrc);
            if !missing.is_empty() {
                self.send_rtcp(|out| write_nack(out, Ssrc(1), media, missing.iter().copied()));
            }
            if pli {
                self.send_rtcp(|out| write_pli(out, Ssrc(1), media));
            }
        }
    }

    fn send_reports(&mut self, now: Timestamp) {
        let infos: Vec<_> =
            self.senders.iter().map(|sender| (Ssrc(sender.spec.ssrc), info(now, sender))).collect();
        for (ssrc, info) in infos {
            self.send_rtcp(|out| write_sender_report(out, ssrc, &info, &[]));
        }
        let blocks: Vec<_> =
            self.receivers.iter().filter_map(|receiver| receiver.report_block(now)).collect();
        if !blocks.is_empty() {
            self.send_rtcp(|out| {
                let mut compound = CompoundWriter::new(out);
                compound.push(|out| write_receiver_report(out, Ssrc(1), &blocks[..blocks.len().min(31)]))?;
                Ok(compound.len())
            });
        }
    }

    /// Seals and sends what `write` makes.
    pub(crate) fn send_rtcp(&mut self, write: impl FnOnce(&mut [u8]) -> Result<usize, WriteError>) {
        let Some((_, tx)) = &mut self.srtp else { return };
        let mut out = vec![0; 1400];
        let len = write(&mut out).expect("1400 bytes hold our RTCP");
        let len = tx.protect_rtcp(&mut out, len);
        out.truncate(len);
        self.out.push(out);
    }

    /// Says nothing more in DTLS, and goes on with its checks.
    pub(crate) fn abandon_handshake(&mut self) {
        self.dtls = None;
    }

    /// Says goodbye.
    pub(crate) fn close(&mut self, now: Timestamp) {
        if let Some(dtls) = &mut self.dtls {
            dtls.close(now);
        }
        self.poll_dtls();
        self.state = State::Over;
    }

    /// The receiver of `kind` that belongs to the `nth` subscription.
    pub(crate) fn receiver(&self, ssrc: u32) -> &Receiver {
        self.receivers.iter().find(|receiver| receiver.spec.ssrc == ssrc).expect("subscribed")
    }
}

fn key_frame_request(senders: &mut [Sender], now: Timestamp, media: Ssrc) {
    let sender = senders.iter_mut().find(|sender| sender.has(media.0));
    let sender = sender.expect("only streams of ours are asked for");
    if sender.spec.ssrc == media.0 {
        sender.on_key_frame_request(now);
    }
}

/// The peers' wall clock: it began 1000 s after 1900.
pub(crate) fn ntp(now: Timestamp) -> NtpTime {
    NtpTime(1000 << 32).advanced(Duration::from_nanos(now.0))
}

fn info(now: Timestamp, sender: &Sender) -> SenderInfo {
    SenderInfo {
        ntp: ntp(now),
        rtp_timestamp: sender.timestamp(),
        packets: sender.packets,
        octets: sender.octets,
    }
}
