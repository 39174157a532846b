//! LiveKit: its client protocol (JWT, protobuf over WebSocket) to a `livekit-server` that the user has on the path.
//!
//! ```text
//! user ── WebSocket /rtc ─┬─ peer connection that sends: add tracks, our offer, its answer
//!                         └─ peer connection that receives everybody: its offers, our answers, again whenever a track comes
//! ```
//!
//! That is LiveKit's own shape: two peer connections a user, not one a stream. A server of several nodes (Redis) is not driven.

mod config;
mod pb;
mod socket;
mod token;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;

use self::pb::Writer;
use self::socket::{Reply, Socket, description};
use self::token::ApiKey;
use super::process::{Launch, Process, Scratch, on_path, until_ready};
use super::tls::Trust;
use super::{Joined, Offer, Participant, PcKey, Placement, StreamRef, Target};
use crate::clock;

const PROGRAM: &str = "livekit-server";
/// Version of the client protocol: transceivers are used again, ICE-lite, fast start.
const PROTOCOL: u32 = 9;
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// Fields of `SignalRequest`.
const OFFER: u32 = 1;
const ANSWER: u32 = 2;
const ADD_TRACK: u32 = 4;
const LEAVE: u32 = 8;
/// Values of `TrackType` and `TrackSource`.
const AUDIO: (u64, u64) = (0, 2);
const VIDEO: (u64, u64) = (1, 1);

/// A LiveKit, ours or somebody's.
pub(crate) struct LiveKit {
    /// `ws://` address.
    url: String,
    trust: Trust,
    key: ApiKey,
    version: Option<String>,
    running: Option<Process>,
}

impl LiveKit {
    /// `url`: `ws://` or `wss://` address of a server that runs already, with `secret` as "KEY:SECRET" of its configuration; else
    /// [`Target::start`] starts one with a pair of its own.
    ///
    /// # Errors
    /// When there is neither an address nor a `livekit-server` on the path, or the secret is no pair.
    pub(crate) fn new(url: Option<String>, secret: &str, trust: Trust) -> Result<LiveKit> {
        let key = match &url {
            Some(_) => {
                let (name, secret) =
                    secret.split_once(':').context("livekit: --secret KEY:SECRET is needed with --url")?;
                ApiKey { name: name.to_owned(), secret: secret.to_owned() }
            }
            None => {
                on_path(PROGRAM).with_context(|| format!("livekit: no `{PROGRAM}` on the path"))?;
                ApiKey { name: "load".into(), secret: format!("{:032x}", rand::random::<u128>()) }
            }
        };
        Ok(LiveKit { url: url.unwrap_or_default(), trust, key, version: None, running: None })
    }

    async fn connect(&self, room: &str, name: &str, publishes: bool) -> Result<Joined> {
        let token = self.key.join(room, name, publishes, clock::wall_ns() / 1_000_000_000);
        let url = format!("{}/rtc?access_token={token}&protocol={PROTOCOL}&auto_subscribe=1", self.url);
        let (mut socket, events) = Socket::connect(&url, &self.trust).await?;
        let joined = |reply| if let Reply::Joined(id) = reply { Some(id) } else { None };
        let id = socket.reply("joining", joined).await?;
        // Everybody else's are offered.
        Ok(Joined { id, streams: Vec::new(), participant: Box::new(User { socket }), events })
    }
}

/// "1.9.11" of `livekit-server --version`.
fn version(binary: &Path) -> Option<String> {
    let output = std::process::Command::new(binary).arg("--version").output().ok()?;
    String::from_utf8_lossy(&output.stdout).split_ascii_whitespace().last().map(str::to_owned)
}

#[async_trait]
impl Target for LiveKit {
    fn label(&self) -> String {
        "livekit".to_owned()
    }

    fn version(&self) -> Option<String> {
        self.version.clone()
    }

    fn options(&self) -> Vec<(String, String)> {
        let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![option("batch_io", "128, 2 ms"), option("peer connections", "two a user, LiveKit's own shape")]
    }

    fn bundles_streams(&self) -> bool {
        true
    }

    async fn start(&mut self, placement: &Placement) -> Result<()> {
        let binary = on_path(PROGRAM).with_context(|| format!("no `{PROGRAM}` on the path"))?;
        self.version = version(&binary);
        let scratch = Scratch::new("livekit")?;
        let config = config::yaml(&self.key, placement);
        let file = scratch.file("livekit.yaml");
        std::fs::write(&file, config).context("writing livekit.yaml")?;
        let mut process = Process::start(Launch {
            program: &binary,
            arguments: vec!["--config".into(), file.display().to_string()],
            environment: Vec::new(),
            cores: &placement.cores,
            netns: placement.netns.as_deref(),
            nice: placement.nice,
            scratch: &scratch,
            log: "livekit.log",
        })?;
        self.url = format!("ws://{}:{}", placement.address, placement.tcp_port);
        let ready = until_ready(READY_TIMEOUT, &mut [&mut process], async || {
            self.connect("ready", "ready", false).await?.participant.leave().await
        })
        .await;
        self.running = Some(process);
        ready
    }

    async fn stop(&mut self) -> Result<()> {
        if let Some(process) = self.running.take() {
            process.stop().await;
        }
        Ok(())
    }

    fn media_pids(&self) -> Vec<u32> {
        self.running.iter().map(Process::pid).collect()
    }

    /// LiveKit makes a room when somebody joins it.
    async fn create_room(&self, name: &str) -> Result<String> {
        Ok(name.to_owned())
    }

    async fn join(&self, room: &str, name: &str, publishes: bool) -> Result<Joined> {
        self.connect(room, name, publishes).await
    }

    /// And ends it when nobody is left.
    async fn close_room(&self, _room: &str) -> Result<()> {
        Ok(())
    }
}

/// One participant's signaling.
struct User {
    socket: Socket,
}

impl User {
    async fn add_track(&mut self, id: &str, (kind, source): (u64, u64)) -> Result<()> {
        let mut track = Writer::default().text(1, id).text(2, id).number(3, kind).number(8, source);
        track = match (kind, source) {
            // No redundant coding of Opus: the other targets have none.
            AUDIO => track.number(13, 1),
            _ => track.number(4, 540).number(5, 360),
        };
        self.socket.send(ADD_TRACK, track).await?;
        let published = |reply| matches!(reply, Reply::TrackPublished(of) if of == id).then_some(());
        self.socket.reply("adding a track", published).await
    }
}

#[async_trait]
impl Participant for User {
    async fn publish(&mut self, offer: &str) -> Result<String> {
        let (audio, video) = (track_id(offer, "audio")?, track_id(offer, "video")?);
        self.add_track(&audio, AUDIO).await?;
        self.add_track(&video, VIDEO).await?;
        // The DTLS roles are fixed as with the other targets.
        let offer = offer.replace("a=setup:actpass", "a=setup:active");
        self.socket.send(OFFER, description("offer", &offer, 1)).await?;
        let answer = |reply| if let Reply::Answer(sdp) = reply { Some(sdp) } else { None };
        self.socket.reply("publishing", answer).await
    }

    /// Everybody is subscribed to everything; offers come by themselves.
    async fn subscribe(&mut self, _stream: &StreamRef) -> Result<Option<Offer>> {
        Ok(None)
    }

    async fn answer(&mut self, _pc: &PcKey, answer: &str) -> Result<()> {
        let number = self.socket.last_offer();
        self.socket.send(ANSWER, description("answer", answer, number)).await
    }

    async fn leave(&mut self) -> Result<()> {
        // Reason 1: the client's own wish.
        self.socket.send(LEAVE, Writer::default().number(2, 1)).await
    }
}

/// The track's id in `a=msid:STREAM TRACK` of the m-line of a kind.
fn track_id(offer: &str, kind: &str) -> Result<String> {
    let section = offer.split("\nm=").skip(1).find(|section| section.starts_with(kind));
    let msid = section.and_then(|section| section.lines().find_map(|line| line.strip_prefix("a=msid:")));
    let id = msid.and_then(|msid| msid.split_ascii_whitespace().nth(1));
    Ok(id.with_context(|| format!("no a=msid for {kind} in our offer"))?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracks_are_named_by_the_offer() {
        let offer = "v=0\r\nm=audio 9 x 111\r\na=msid:s a\r\nm=video 9 x 96\r\na=msid:s v\r\n";
        assert_eq!(track_id(offer, "audio").expect("an id"), "a");
        assert_eq!(track_id(offer, "video").expect("an id"), "v");
        assert!(track_id("v=0\r\nm=audio 9 x 111\r\n", "audio").is_err());
    }

    #[test]
    fn a_running_server_needs_a_pair() {
        let new =
            |secret| LiveKit::new(Some("ws://x".into()), secret, Trust::nobody().expect("a configuration"));
        let error = new("MY_SECRET").err().map(|error| error.to_string());
        assert!(error.is_some_and(|text| text.contains("KEY:SECRET")));
        assert!(new("key:secret").is_ok());
    }
}
