//! A full client: `str0m`'s whole stack instead of ours, every packet decrypted, every frame put together and compared with
//! the clip byte for byte. Dear, so a share of the clients; what they see must agree with what the light ones count.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::format::Codec;
use str0m::media::{Direction, Frequency, MediaData, MediaKind, MediaTime, Mid};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, Input, Output, Rtc};
use tokio::sync::oneshot;

use super::link::Outcome;
use super::net::Socket;
use super::peer::{Context as Lent, Next};
use super::stats::Stats;
use super::units::{SendLog, Units};
use crate::media::VideoCursor;

/// Longest pause between visits; the stack's own timers may want less.
const VISIT_MAX: Duration = Duration::from_millis(10);
const VISIT_MIN: Duration = Duration::from_millis(1);
/// A client that is not connected after this has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(40);
/// A track without data for so long has stalled.
const STALLED: Duration = Duration::from_secs(1);
/// As libwebrtc counts a freeze.
const FREEZE_EXTRA: Duration = Duration::from_millis(150);
const OPUS_TICKS: u64 = 960;
const VIDEO_CLOCK: u64 = 90_000;

/// A publisher whose offer waits for its answer.
pub(crate) struct Pending {
    rtc: Rtc,
    socket: Socket,
    address: SocketAddr,
    offer: SdpPendingOffer,
    audio: Mid,
    video: Mid,
}

/// One full peer connection.
pub(crate) struct FullPeer {
    rtc: Rtc,
    socket: Socket,
    address: SocketAddr,
    began: Instant,
    connected: bool,
    timeout: Instant,
    units: Arc<Units>,
    log: Option<Arc<SendLog>>,
    sender: Option<Sender>,
    tracks: Vec<Track>,
    playing: bool,
    outcome: Option<oneshot::Sender<Outcome>>,
}

struct Sender {
    audio: Mid,
    video: Mid,
    cursor: VideoCursor,
    next_audio: usize,
    audio_time: u64,
    video_time: u64,
}

struct Track {
    mid: Mid,
    /// The sequence number expected next.
    next: Option<u64>,
    last: Instant,
    frame_interval: Duration,
    is_video: bool,
}

fn stack(address: SocketAddr, now: Instant) -> Result<Rtc> {
    let mut rtc = Rtc::builder().clear_codecs().enable_vp8(true).enable_opus(true, false).build(now);
    let candidate = Candidate::host(address, "udp").context("a full client's candidate")?;
    rtc.add_local_candidate(candidate);
    Ok(rtc)
}

/// Makes a publisher and its offer.
///
/// # Errors
/// When the stack makes none.
pub(crate) fn offer(socket: Socket, now: Instant) -> Result<(Pending, String)> {
    let address = socket.local_address().context("reading a client's address")?;
    let mut rtc = stack(address, now)?;
    let mut change = rtc.sdp_api();
    let audio = change.add_media(MediaKind::Audio, Direction::SendOnly, None, None, None);
    let video = change.add_media(MediaKind::Video, Direction::SendOnly, None, None, None);
    let (offer, pending) = change.apply().context("a full client's offer")?;
    let text = offer.to_sdp_string();
    Ok((Pending { rtc, socket, address, offer: pending, audio, video }, text))
}

impl FullPeer {
    /// A publisher, from the answer to its offer.
    ///
    /// # Errors
    /// When the stack does not take the answer.
    pub(crate) fn publisher(
        pending: Pending,
        answer: &str,
        units: Arc<Units>,
        log: Arc<SendLog>,
        outcome: oneshot::Sender<Outcome>,
        now: Instant,
    ) -> Result<FullPeer> {
        let Pending { mut rtc, socket, address, offer, audio, video } = pending;
        let answer = SdpAnswer::from_sdp_string(answer).context("the server's answer")?;
        rtc.sdp_api().accept_answer(offer, answer).context("the server's answer")?;
        let seed = rand::random::<u16>() as usize;
        let sender = Sender {
            audio,
            video,
            cursor: VideoCursor::starting_at(&units.clip, seed % units.clip.video.len()),
            next_audio: seed % units.clip.audio.len(),
            audio_time: 0,
            video_time: 0,
        };
        Ok(FullPeer::new(rtc, socket, address, units, Some(log), Some(sender), outcome, now))
    }

    /// A receiver of what `offer` describes, and its answer.
    ///
    /// # Errors
    /// When the stack does not take the offer.
    pub(crate) fn receiver(
        socket: Socket,
        offer: &str,
        units: Arc<Units>,
        log: Option<Arc<SendLog>>,
        outcome: oneshot::Sender<Outcome>,
        now: Instant,
    ) -> Result<(FullPeer, String)> {
        let address = socket.local_address().context("reading a client's address")?;
        let mut rtc = stack(address, now)?;
        let offer = SdpOffer::from_sdp_string(offer).context("the server's offer")?;
        let answer = rtc.sdp_api().accept_offer(offer).context("the server's offer")?.to_sdp_string();
        Ok((FullPeer::new(rtc, socket, address, units, log, None, outcome, now), answer))
    }

    #[expect(clippy::too_many_arguments, reason = "private, and each is a field")]
    fn new(
        rtc: Rtc,
        socket: Socket,
        address: SocketAddr,
        units: Arc<Units>,
        log: Option<Arc<SendLog>>,
        sender: Option<Sender>,
        outcome: oneshot::Sender<Outcome>,
        now: Instant,
    ) -> FullPeer {
        FullPeer {
            rtc,
            socket,
            address,
            began: now,
            connected: false,
            timeout: now,
            units,
            log,
            sender,
            tracks: Vec::new(),
            playing: false,
            outcome: Some(outcome),
        }
    }

    /// Whether this one sends media.
    pub(crate) fn is_publisher(&self) -> bool {
        self.sender.is_some()
    }

    /// Empties the socket and does what is due.
    pub(crate) fn visit(&mut self, now: Instant, now_ns: u64, context: &mut Lent) -> Next {
        let was_connected = self.connected;
        match self.advance(now, now_ns, context) {
            Ok(()) if !self.connected && now.duration_since(self.began) > CONNECT_TIMEOUT => {
                self.fail("not connected in time".to_owned(), &mut context.stats)
            }
            Ok(()) => {
                let useful = if self.is_publisher() { self.connected } else { self.playing };
                if let Some(outcome) = self.outcome.take_if(|_| useful) {
                    let _ = outcome.send(Ok(now));
                }
                let wait = self.timeout.saturating_duration_since(now).clamp(VISIT_MIN, VISIT_MAX);
                if self.connected && !was_connected { Next::Secured(wait) } else { Next::Visit(wait) }
            }
            Err(error) => self.fail(format!("{error:#}"), &mut context.stats),
        }
    }

    fn fail(&mut self, why: String, stats: &mut Stats) -> Next {
        stats.failed += 1;
        if let Some(outcome) = self.outcome.take() {
            let _ = outcome.send(Err(why));
        }
        Next::Failed
    }

    fn advance(&mut self, now: Instant, now_ns: u64, context: &mut Lent) -> Result<()> {
        let mut received = Vec::new();
        let stats = &mut context.stats;
        self.socket.receive(&mut context.buffers, |train| {
            stats.receives += 1;
            let age = Duration::from_nanos(now_ns.saturating_sub(train.arrival_ns.unwrap_or(now_ns)));
            let Some(from) = train.from else { return Ok(()) };
            for datagram in train.bytes.chunks(train.segment) {
                if is_rtp(datagram) {
                    stats.received_packets += 1;
                    stats.received_bytes += datagram.len() as u64;
                }
                received.push((now.checked_sub(age).unwrap_or(now), from, datagram.to_vec()));
            }
            Ok::<(), anyhow::Error>(())
        })?;
        for (at, from, datagram) in received {
            // What is no packet of this protocol is skipped, as a browser does.
            if let Ok(contents) = Receive::new(Protocol::Udp, from, self.address, &datagram) {
                self.rtc.handle_input(Input::Receive(at, contents)).context("str0m")?;
                self.drain(now, now_ns, stats)?;
            }
        }
        self.rtc.handle_input(Input::Timeout(now)).context("str0m")?;
        self.drain(now, now_ns, stats)
    }

    fn drain(&mut self, now: Instant, now_ns: u64, stats: &mut Stats) -> Result<()> {
        loop {
            match self.rtc.poll_output().context("str0m")? {
                Output::Timeout(at) => {
                    self.timeout = at;
                    return Ok(());
                }
                Output::Transmit(transmit) => {
                    if is_rtp(&transmit.contents) && self.sender.is_some() {
                        stats.sent_packets += 1;
                        stats.sent_bytes += transmit.contents.len() as u64;
                    }
                    self.socket.send_to(&transmit.contents, transmit.destination);
                }
                Output::Event(event) => self.on_event(event, now, now_ns, stats)?,
            }
        }
    }

    fn on_event(&mut self, event: Event, now: Instant, now_ns: u64, stats: &mut Stats) -> Result<()> {
        match event {
            Event::Connected => self.connected = true,
            Event::Closed => anyhow::bail!("closed by the server"),
            Event::KeyframeRequest(_) => {
                stats.key_frames_asked += 1;
                if let Some(sender) = &mut self.sender {
                    sender.cursor.want_key_frame();
                }
            }
            Event::MediaAdded(added) if self.sender.is_none() => self.tracks.push(Track {
                mid: added.mid,
                next: None,
                last: now,
                frame_interval: Duration::ZERO,
                is_video: added.kind == MediaKind::Video,
            }),
            Event::MediaData(data) => self.on_media(&data, now, now_ns, stats),
            _ => {}
        }
        Ok(())
    }

    fn on_media(&mut self, data: &MediaData, now: Instant, now_ns: u64, stats: &mut Stats) {
        let Some(track) = self.tracks.iter_mut().find(|track| track.mid == data.mid) else { return };
        let (first, last) = (**data.seq_range.start(), **data.seq_range.end());
        let from = track.next.filter(|next| *next <= first).unwrap_or(first);
        track.next = Some(last + 1);
        stats.expected += last + 1 - from;
        stats.arrived += last + 1 - first;
        stats.sampled += last + 1 - first;
        let interval = data.network_time.saturating_duration_since(track.last);
        track.last = data.network_time;
        let unit = if track.is_video {
            stats.frames += 1;
            let usual = track.frame_interval;
            if usual > Duration::ZERO && interval > (usual * 3).max(usual + FREEZE_EXTRA) {
                stats.freezes += 1;
            } else {
                track.frame_interval = if usual.is_zero() { interval } else { (usual * 15 + interval) / 16 };
            }
            self.playing = true;
            self.units.find_frame(&data.data)
        } else {
            self.units.find(&data.data)
        };
        // Audio repeats itself where it is silent; a picture that is not the clip's is broken.
        stats.corrupt += u64::from(unit.is_none() && track.is_video);
        let arrival_ns =
            now_ns.saturating_sub(now.saturating_duration_since(data.network_time).as_nanos() as u64);
        if let (Some(unit), Some(log)) = (unit, &self.log)
            && let Some(delay) = log.delay_ns(unit, arrival_ns)
        {
            stats.delay(delay);
        }
    }

    /// Sends the next video frame.
    pub(crate) fn send_video(&mut self, now: Instant, now_ns: u64, context: &mut Lent) -> Result<()> {
        let Some(sender) = &mut self.sender else { return Ok(()) };
        let clip = &self.units.clip;
        let frame = sender.cursor.advance(clip);
        let (first, fragments) = self.units.frame(frame);
        if let Some(log) = &self.log {
            (0..fragments.len()).for_each(|fragment| log.sent(first + fragment as u32, now_ns));
        }
        sender.video_time += VIDEO_CLOCK / u64::from(clip.video_fps.max(1));
        let time = MediaTime::new(sender.video_time, Frequency::NINETY_KHZ);
        let (mid, data) = (sender.video, clip.video[frame].data.clone());
        self.write(mid, Codec::Vp8, time, data, now)?;
        self.drain(now, now_ns, &mut context.stats)
    }

    /// Sends the next 20 ms of audio.
    pub(crate) fn send_audio(&mut self, now: Instant, now_ns: u64, context: &mut Lent) -> Result<()> {
        let Some(sender) = &mut self.sender else { return Ok(()) };
        let index = sender.next_audio;
        sender.next_audio = (index + 1) % self.units.clip.audio.len();
        if let Some(log) = &self.log {
            log.sent(self.units.audio(index), now_ns);
        }
        sender.audio_time += OPUS_TICKS;
        let time = MediaTime::new(sender.audio_time, Frequency::FORTY_EIGHT_KHZ);
        let (mid, data) = (sender.audio, self.units.clip.audio[index].clone());
        self.write(mid, Codec::Opus, time, data, now)?;
        self.drain(now, now_ns, &mut context.stats)
    }

    fn write(&mut self, mid: Mid, codec: Codec, time: MediaTime, data: Vec<u8>, now: Instant) -> Result<()> {
        let Some(writer) = self.rtc.writer(mid) else { return Ok(()) };
        let payload = writer.payload_params().find(|params| params.spec().codec == codec).map(|p| p.pt());
        let payload = payload.context("the codec was not negotiated")?;
        writer.write(payload, now, time, data).context("str0m")
    }

    /// Adds what is only known at the end of an interval.
    pub(crate) fn end_interval(&self, now: Instant, stats: &mut Stats) {
        for track in &self.tracks {
            stats.tracks += 1;
            stats.stalled += u64::from(now.saturating_duration_since(track.last) > STALLED);
        }
    }
}

/// RTP and not RTCP (RFC 5761 §4).
fn is_rtp(datagram: &[u8]) -> bool {
    matches!(datagram, [128..=191, second, ..] if !(192..=223).contains(second))
}
