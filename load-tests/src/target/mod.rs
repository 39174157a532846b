//! Systems under test: how each is started, measured and spoken to, over its public wire only.
//!
//! A target hands out rooms; a room's participants exchange SDP text. All clients (light, full) make and read SDP, so an
//! adapter moves text and knows nothing of ICE, DTLS or RTP. Candidates ride in the SDP; an adapter for a server that
//! trickles waits for them, or sends [`RoomEvent::Candidate`].

pub(crate) mod janus;
pub(crate) mod livekit;
pub(crate) mod process;
pub(crate) mod tls;
pub(crate) mod websocket;
pub(crate) mod weir;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use tokio::sync::mpsc;

/// Bound of a participant's event queue; a slow reader blocks its own socket, nobody else's.
pub(crate) const EVENT_QUEUE: usize = 256;

/// Where and how a target is started.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    /// Cores of the media process; it is pinned to them and to nothing else.
    pub(crate) cores: Vec<usize>,
    /// Cores of everything that is not media (controllers, gateways' control processes).
    pub(crate) control_cores: Vec<usize>,
    /// Address to listen on and to announce in candidates: loopback, or the target's end of the veth pair.
    pub(crate) address: IpAddr,
    /// Where it takes media; the same but with a wire.
    pub(crate) media: IpAddr,
    /// Network namespace to start in (`ip netns exec NAME ...`).
    pub(crate) netns: Option<String>,
    /// Niceness of what handles media.
    pub(crate) nice: i32,
    /// First TCP port the target may use.
    pub(crate) tcp_port: u16,
    /// First UDP port the target may use; so many of them as it likes from there on.
    pub(crate) udp_port: u16,
}

/// Identity of a stream in its room, unique there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StreamRef {
    /// The target's name of the stream.
    pub(crate) id: String,
    /// The target's name of the participant who publishes it: what [`Joined::id`] said there.
    pub(crate) publisher: String,
}

/// Identity of a peer connection of one participant, chosen by the adapter.
pub(crate) type PcKey = String;

/// The server's SDP offer for a peer connection that receives.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    /// Which peer connection; the same key again is a renegotiation.
    pub(crate) pc: PcKey,
    /// SDP text.
    pub(crate) sdp: String,
}

/// What happens in a room, as one participant sees it.
#[derive(Clone, Debug)]
pub(crate) enum RoomEvent {
    /// Somebody else's stream can be subscribed to; those that were there before us are in [`Joined::streams`].
    StreamAdded(StreamRef),
    /// It ended.
    StreamRemoved(StreamRef),
    /// The server offers by itself (LiveKit); answered with [`Participant::answer`].
    Offered(Offer, Vec<StreamRef>),
    /// A trickled candidate of the server: the `candidate:...` line.
    Candidate(PcKey, String),
    /// The server closed this participant's signaling, with its reason.
    Closed(String),
}

/// A participant who is in a room.
pub(crate) struct Joined {
    /// The server's name of this participant.
    pub(crate) id: String,
    /// Streams that were there already. Not events: there may be more than the queue holds, and nobody reads it yet.
    pub(crate) streams: Vec<StreamRef>,
    /// Requests go here.
    pub(crate) participant: Box<dyn Participant>,
    /// Events come from here, in the server's order.
    pub(crate) events: mpsc::Receiver<RoomEvent>,
}

/// Signaling of one participant. Dropping it closes its connection without a goodbye.
#[async_trait]
pub(crate) trait Participant: Send {
    /// Publishes one audio+video stream: SDP offer in, SDP answer out.
    async fn publish(&mut self, offer: &str) -> Result<String>;

    /// Asks for a stream; the server's offer, or `None` when it comes as [`RoomEvent::Offered`].
    async fn subscribe(&mut self, stream: &StreamRef) -> Result<Option<Offer>>;

    /// Our answer to an offer.
    async fn answer(&mut self, pc: &PcKey, answer: &str) -> Result<()>;

    /// Leaves and says so.
    async fn leave(&mut self) -> Result<()>;
}

/// A system under test.
#[async_trait]
pub(crate) trait Target: Send + Sync {
    /// One line for reports: name, version, reactor or other choices that matter.
    fn label(&self) -> String;

    /// Version, as the program says it; known once it was started.
    fn version(&self) -> Option<String> {
        None
    }

    /// Settings that matter for the figures, for reports.
    fn options(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Whether all streams of a participant come on one peer connection (LiveKit), instead of each on its own.
    fn bundles_streams(&self) -> bool {
        false
    }

    /// Starts it pinned as placed, and waits until it takes sessions. Only called without `--url`.
    async fn start(&mut self, placement: &Placement) -> Result<()>;

    /// Stops what `start` started; harmless when nothing runs.
    async fn stop(&mut self) -> Result<()>;

    /// Processes whose CPU and memory are the media plane's; empty for a server that was not started here.
    fn media_pids(&self) -> Vec<u32>;

    /// Processes of the control plane, reported apart.
    fn control_pids(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Makes a room and returns the target's name of it.
    async fn create_room(&self, name: &str) -> Result<String>;

    /// Joins a room; `publishes` says whether this participant will.
    async fn join(&self, room: &str, name: &str, publishes: bool) -> Result<Joined>;

    /// Ends a room and everybody in it.
    async fn close_room(&self, room: &str) -> Result<()>;

    /// Address of a page with which a browser can join `room` and watch (witnesses), where the target has one.
    async fn witness_token(&self, room: &str) -> Result<Option<String>> {
        let _ = room;
        Ok(None)
    }
}

/// How long any single request of the signaling may take.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);

#[cfg(test)]
pub(crate) mod testing {
    //! What every adapter must do with a real server.

    use super::*;
    use crate::client::Clients;
    use crate::media::Clip;

    /// Starts a server, lets two users publish and receive each other's pictures, and stops it.
    pub(crate) async fn two_users_see_each_other(target: &mut dyn Target, tcp_port: u16, udp_port: u16) {
        let address = own_address();
        let placement = Placement {
            cores: vec![0],
            control_cores: vec![0],
            address,
            media: address,
            netns: None,
            nice: 0,
            tcp_port,
            udp_port,
        };
        target.start(&placement).await.unwrap();
        assert!(!target.media_pids().is_empty());
        let clients = Clients::start(&[1], address, None, Clip::load().unwrap(), 0.0).unwrap();
        let room = target.create_room("two").await.unwrap();
        let mut logs = std::collections::HashMap::new();
        let mut users = Vec::new();
        for name in ["a", "b"] {
            let mut joined = target.join(&room, name, true).await.unwrap();
            let pc = clients.offer(0).unwrap();
            logs.insert(joined.id.clone(), pc.log.clone());
            let answer = joined.participant.publish(&pc.offer).await.unwrap();
            let opened = clients.answered(pc, &answer).unwrap();
            in_time(opened.outcome).await.unwrap().unwrap();
            users.push(joined);
        }
        for user in &mut users {
            let stream = match user.streams.pop() {
                Some(stream) => stream,
                None => added(&mut user.events).await,
            };
            assert_ne!(stream.publisher, user.id);
            let offer = user.participant.subscribe(&stream).await.unwrap().unwrap();
            let log = logs.get(&stream.publisher).cloned();
            let (opened, answer) = clients.receive(0, &offer.sdp, log).unwrap();
            user.participant.answer(&offer.pc, &answer).await.unwrap();
            in_time(opened.outcome).await.unwrap().unwrap();
        }
        clients.begin_interval().unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let stats = clients.end_interval().await.unwrap();
        assert!(stats.frames >= 100 && stats.tracks == 4, "{} frames, {} tracks", stats.frames, stats.tracks);
        assert!(stats.arrived * 1000 >= stats.expected * 995, "{} of {}", stats.arrived, stats.expected);
        let mut leaver = users.remove(0);
        leaver.participant.leave().await.unwrap();
        loop {
            match in_time(users[0].events.recv()).await.unwrap() {
                RoomEvent::StreamRemoved(stream) => break assert_eq!(stream.publisher, leaver.id),
                other => eprintln!("{other:?}"),
            }
        }
        target.close_room(&room).await.unwrap();
        target.stop().await.unwrap();
    }

    async fn added(events: &mut mpsc::Receiver<RoomEvent>) -> StreamRef {
        loop {
            match in_time(events.recv()).await.unwrap() {
                RoomEvent::StreamAdded(stream) => return stream,
                other => eprintln!("{other:?}"),
            }
        }
    }

    /// This machine's address towards elsewhere: some servers gather no candidates on loopback. Nothing is sent.
    fn own_address() -> IpAddr {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        match socket.connect("198.51.100.1:9") {
            Ok(()) => socket.local_addr().unwrap().ip(),
            Err(_) => [127, 0, 0, 1].into(),
        }
    }

    async fn in_time<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(15), future).await.expect("in time")
    }
}
