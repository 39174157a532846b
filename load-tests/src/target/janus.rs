//! Janus: the videoroom over its WebSocket API. Each stream is received on a peer connection of its own, as with the others.
//!
//! ```text
//! participant ── session ─┬─ handle: join as publisher, publish (our offer, its answer)
//!                         └─ a handle for each stream: join as subscriber (its offer), start (our answer)
//! ```

mod config;
mod socket;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::process::{Launch, Process, Scratch, until_ready};
use super::tls::Trust;
use super::{Joined, Offer, Participant, PcKey, Placement, StreamRef, Target};
use socket::{Session, publishers_of};

/// How long a started Janus may take until it takes sessions.
const READY_TIMEOUT: Duration = Duration::from_secs(15);
/// Publishers that a room takes; more than any scenario has.
const PUBLISHERS_MAX: u32 = 2_000;

/// A Janus, ours or somebody's.
pub(crate) struct Janus {
    /// WebSocket address.
    url: String,
    trust: Trust,
    loops: usize,
    version: Option<String>,
    running: Option<Process>,
}

impl Janus {
    /// `url`: `ws://` or `wss://` address of a server that runs already; else [`Target::start`] starts one.
    ///
    /// # Errors
    /// There is none to start, or no address but loopback (`netns` gives another) to start it on.
    pub(crate) fn new(url: Option<String>, netns: bool, trust: Trust) -> Result<Janus> {
        if url.is_none() {
            anyhow::ensure!(netns, "janus gathers no candidates on loopback: add --netns");
            binary()?;
        }
        Ok(Janus { url: url.unwrap_or_default(), trust, loops: 0, version: None, running: None })
    }

    /// A room's requests go through a handle in nobody's name.
    async fn control(&self, body: Value) -> Result<Value> {
        let (session, _events) = Session::open(&self.url, &self.trust).await?;
        let handle = session.attach().await?;
        let (data, _) = session.message(handle, body, None).await?;
        let _ = session.destroy().await;
        Ok(data)
    }
}

/// The program on the path.
///
/// # Errors
/// Says how to get it.
fn binary() -> Result<PathBuf> {
    super::process::on_path("janus").context("no `janus` on the path; Debian's package is called janus")
}

/// "1.1.2" of `janus --version`.
fn version(binary: &Path) -> Option<String> {
    let output = std::process::Command::new(binary).arg("--version").output().ok()?;
    version_in(&String::from_utf8_lossy(&output.stdout))
}

fn version_in(text: &str) -> Option<String> {
    Some(text.lines().find(|line| line.contains("ersion"))?.split_once('(')?.1.split_once(')')?.0.to_owned())
}

#[async_trait]
impl Target for Janus {
    fn label(&self) -> String {
        "janus".to_owned()
    }

    fn version(&self) -> Option<String> {
        self.version.clone()
    }

    fn options(&self) -> Vec<(String, String)> {
        let ours = (self.loops > 0).then(|| ("event_loops".to_owned(), self.loops.to_string()));
        ours.into_iter().chain(std::iter::once(("debug_level".to_owned(), "1".to_owned()))).collect()
    }

    async fn start(&mut self, placement: &Placement) -> Result<()> {
        let binary = binary()?;
        self.version = version(&binary);
        self.loops = placement.cores.len();
        let scratch = Scratch::new("janus")?;
        let folder = scratch.file("");
        let folder =
            folder.to_str().context("a temporary directory with a strange name")?.trim_end_matches('/');
        let files = config::files(folder, self.loops, placement);
        for (name, content) in files {
            std::fs::write(scratch.file(name), content).with_context(|| format!("writing {name}"))?;
        }
        let mut process = Process::start(Launch {
            program: &binary,
            arguments: vec![format!("--configs-folder={folder}"), "--disable-colors".into()],
            environment: Vec::new(),
            cores: &placement.cores,
            netns: placement.netns.as_deref(),
            nice: placement.nice,
            scratch: &scratch,
            log: "janus.log",
        })?;
        self.url = format!("ws://{}:{}", placement.address, placement.tcp_port);
        let ready = until_ready(READY_TIMEOUT, &mut [&mut process], async || {
            let (session, _events) = Session::open(&self.url, &self.trust).await?;
            session.destroy().await
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

    async fn create_room(&self, name: &str) -> Result<String> {
        let body = json!({
            "request": "create", "description": name, "publishers": PUBLISHERS_MAX, "bitrate": 0, "bitrate_cap": false,
            "fir_freq": 0, "record": false, "audiocodec": "opus", "videocodec": "vp8", "permanent": false,
            "notify_joining": false, "audiolevel_event": false, "is_private": true,
        });
        let data = self.control(body).await?;
        Ok(data["room"].as_u64().with_context(|| format!("no room in {data}"))?.to_string())
    }

    async fn join(&self, room: &str, name: &str, _publishes: bool) -> Result<Joined> {
        let (session, events) = Session::open(&self.url, &self.trust).await?;
        let handle = session.attach().await?;
        let room: u64 = room.parse().context("a room's number")?;
        // Who does not publish joins like this too: only a publisher's handle is told of the others.
        let body = json!({ "request": "join", "ptype": "publisher", "room": room, "display": name });
        let (data, _) = session.message(handle, body, None).await?;
        let id = data["id"].as_u64().with_context(|| format!("no id in {data}"))?.to_string();
        let user = User { session, handle, room, subscriptions: HashMap::new() };
        Ok(Joined { id, streams: publishers_of(&data), participant: Box::new(user), events })
    }

    async fn close_room(&self, room: &str) -> Result<()> {
        let room: u64 = room.parse().context("a room's number")?;
        self.control(json!({ "request": "destroy", "room": room, "permanent": false })).await.map(drop)
    }
}

/// One participant's signaling.
struct User {
    session: Session,
    handle: u64,
    room: u64,
    /// The handle of each stream.
    subscriptions: HashMap<PcKey, u64>,
}

#[async_trait]
impl Participant for User {
    async fn publish(&mut self, offer: &str) -> Result<String> {
        // Left the choice, Janus takes the DTLS client's part; the clients of all targets shall do the same work.
        let offer = offer.replace("a=setup:actpass", "a=setup:active");
        let jsep = json!({ "type": "offer", "sdp": offer });
        let (_, sdp) = self.session.message(self.handle, json!({ "request": "publish" }), Some(jsep)).await?;
        sdp.context("an answer without SDP")
    }

    async fn subscribe(&mut self, stream: &StreamRef) -> Result<Option<Offer>> {
        let feed: u64 = stream.id.parse().context("a feed's number")?;
        let handle = self.session.attach().await?;
        let body = json!({
            "request": "join", "ptype": "subscriber", "room": self.room, "streams": [{ "feed": feed }],
        });
        let (_, sdp) = self.session.message(handle, body, None).await?;
        self.subscriptions.insert(stream.id.clone(), handle);
        Ok(Some(Offer { pc: stream.id.clone(), sdp: sdp.context("no offer came")? }))
    }

    async fn answer(&mut self, pc: &PcKey, answer: &str) -> Result<()> {
        let handle = *self.subscriptions.get(pc).with_context(|| format!("no subscription {pc}"))?;
        let jsep = json!({ "type": "answer", "sdp": answer });
        self.session.message(handle, json!({ "request": "start" }), Some(jsep)).await.map(drop)
    }

    async fn leave(&mut self) -> Result<()> {
        // Said explicitly the others hear of it at once; an ended session is noticed some time later.
        self.session.message(self.handle, json!({ "request": "leave" }), None).await?;
        self.session.destroy().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs Debian's `janus`; says so and passes where it is not installed.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_users_see_each_other_through_a_real_janus() {
        if binary().is_err() {
            eprintln!("skipped: no janus on the path");
            return;
        }
        let mut janus = Janus::new(None, true, Trust::nobody().unwrap()).unwrap();
        crate::target::testing::two_users_see_each_other(&mut janus, 25_100, 35_000).await;
        assert!(janus.version().is_some());
    }

    #[test]
    fn the_version_is_read() {
        assert_eq!(version_in("Janus version: 1102 (1.1.2)\nJanus commit: x"), Some("1.1.2".into()));
        assert_eq!(version_in("nothing"), None);
    }
}
