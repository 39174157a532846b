//! The control protocol: what a controller says to a media node and what it hears back. No I/O in here.
//!
//! Transport: WebSocket text frames at `ws://NODE:8888/<any path>`, `Authorization: Bearer <cluster secret>`, JSON-RPC 2.0.
//!
//! ```text
//! controller                                   node
//!   │ hello {version}                            │
//!   ├───────────────────────────────────────────▶│
//!   │◀───────────────────────────────────────────┤ NodeInfo: process, cores and their addresses, fingerprint, rooms
//!   │ apply {room, ops: [...]}                   │
//!   ├───────────────────────────────────────────▶│ all ops of one message run on the room's core, in order
//!   │◀───────────────────────────────────────────┤ {} or error {code, message, data: {op: index}}
//!   │◀───────────────────────────────────────────┤ notifications: load, transportState
//! ```
//!
//! The vocabulary is ORTC-like. The controller makes up every identifier, ICE credential and SSRC, so that it can
//! answer a browser without a second round trip; to the node all of them are opaque. There is no SDP here, no user name
//! and no token. An id is 1 to [`MAX_ID_BYTES`] bytes and unique in its room.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Version of this protocol. A node refuses a `hello` with another one.
pub const VERSION: u32 = 1;
/// Longest id, in bytes.
pub const MAX_ID_BYTES: usize = 200;
/// Longest control message, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Default port of the control socket.
pub const DEFAULT_PORT: u16 = 8888;

/// Begins the line by which a node tells on stdout that it is ready; its control address follows.
const READY_LINE: &str = "weir-node ready control=";

/// The line a node writes to stdout when it is ready, for whoever started it.
pub fn ready_line(control: SocketAddr) -> String {
    format!("{READY_LINE}{control}")
}

/// Reads a [`ready_line`]: where the node's control socket listens.
pub fn parse_ready_line(line: &str) -> Option<SocketAddr> {
    line.strip_prefix(READY_LINE)?.parse().ok()
}

/// Requests, controller to node. On the wire `{"jsonrpc":"2.0","id":n,"method":...,"params":...}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", content = "params", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Request {
    /// First message on a connection. Answer: [`NodeInfo`].
    Hello {
        /// [`VERSION`] of the caller.
        version: u32,
        /// How often the node shall send [`Notification::Load`], milliseconds; 100 at least.
        load_interval_ms: u64,
    },
    /// Changes one room. Answer: `{}`. Ops before a failing one stay applied; the error's data names its index.
    Apply {
        /// Room the ops are for.
        room: String,
        /// Applied in order.
        ops: Vec<Op>,
    },
    /// Counters of one room's publications and subscriptions. Answer: [`RoomStats`].
    RoomStats {
        /// Which room.
        room: String,
    },
    /// Refuse new rooms and exit when the last one closes. Answer: `{}`.
    Drain {},
    /// Close everything and exit. Answer: `{}`.
    Shutdown {},
}

/// One change to a room.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Op {
    /// Opens the room on a core. Opening an open room on the same core changes nothing.
    OpenRoom {
        /// Index into [`NodeInfo::cores`].
        core: u16,
    },
    /// Closes the room and everything in it.
    CloseRoom,
    /// Makes one ICE + DTLS endpoint: one peer connection of a browser.
    OpenTransport {
        /// Its id.
        transport: String,
        /// Credentials the node answers ICE checks with (RFC 8445 §5.3): ufrag 4..=32, pwd 22..=64 characters.
        ice: IceCredentials,
        /// The peer's side, where the offer was the peer's.
        remote: Option<RemoteTransport>,
    },
    /// Tells the peer's side of a transport that was opened without it.
    ConnectTransport {
        /// Which transport.
        transport: String,
        /// The peer's side.
        remote: RemoteTransport,
    },
    /// Ends a transport and every publication and subscription on it.
    CloseTransport {
        /// Which transport.
        transport: String,
    },
    /// Starts a publication. Publishing an id that exists moves it to the new transport: its subscriptions stay and go
    /// on without a gap in their sequence numbers.
    Publish {
        /// Transport the media comes in by.
        transport: String,
        /// Its id.
        publication: String,
        /// One or two tracks.
        tracks: Vec<PublicationTrack>,
    },
    /// Ends a publication and its subscriptions.
    Unpublish {
        /// Which publication.
        publication: String,
    },
    /// Starts forwarding a publication. Asks for a key frame once the transport is up.
    Subscribe {
        /// Transport the media goes out by.
        transport: String,
        /// Its id.
        subscription: String,
        /// What to forward.
        publication: String,
        /// One or two tracks, of kinds the publication has.
        tracks: Vec<SubscriptionTrack>,
    },
    /// Ends a subscription.
    Unsubscribe {
        /// Which subscription.
        subscription: String,
    },
    /// Stops or goes on forwarding a subscription's tracks.
    Pause {
        /// Which subscription.
        subscription: String,
        /// Audio is held back.
        audio: bool,
        /// Video is held back; after it goes on it waits for a key frame.
        video: bool,
    },
    /// Asks the publisher for a key frame, throttled like a subscriber's PLI.
    RequestKeyFrame {
        /// Which publication.
        publication: String,
    },
}

/// ICE user fragment and password.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IceCredentials {
    /// User fragment.
    pub ufrag: String,
    /// Password.
    pub pwd: String,
}

/// What signaling told about the peer's end of a transport.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteTransport {
    /// The peer's ufrag: second half of USERNAME in its checks.
    pub ice_ufrag: String,
    /// Certificate fingerprints, any of which must match (RFC 8122).
    pub fingerprints: Vec<Fingerprint>,
    /// The peer's DTLS role.
    pub dtls_role: DtlsRole,
}

/// Digest of a certificate (RFC 8122 §5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fingerprint {
    /// `sha-256`; others are refused.
    pub algorithm: String,
    /// Upper-case hexadecimal bytes joined by colons.
    pub value: String,
}

/// Who sends the ClientHello (RFC 5763 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DtlsRole {
    /// This end sends it.
    Client,
    /// This end waits for it.
    Server,
}

/// Audio or video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MediaKind {
    /// Sound.
    Audio,
    /// Picture.
    Video,
}

/// One negotiated codec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Codec {
    /// Encoding name of the rtpmap: `opus`, `VP8`, `VP9`, `H264`, `AV1`; compared without case.
    pub name: String,
    /// Payload type, 0..=127.
    pub payload_type: u8,
    /// RTP clock rate in Hz.
    pub clock_rate: u32,
    /// Payload type of its retransmission format, where RTX is negotiated (RFC 4588).
    pub rtx_payload_type: Option<u8>,
}

/// One negotiated header extension (RFC 8285).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderExtension {
    /// Local identifier, 1..=14 for one-byte headers.
    pub id: u8,
    /// What it means.
    pub uri: String,
}

/// RTCP feedback both sides agreed on (RFC 4585, RFC 5104).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Feedback {
    /// Generic NACK.
    pub nack: bool,
    /// Picture loss indication.
    pub pli: bool,
    /// Full intra request.
    pub fir: bool,
    /// Transport-wide feedback.
    pub transport_cc: bool,
    /// Receiver estimated maximum bitrate.
    pub remb: bool,
}

/// What a publisher sends on one m-line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublicationTrack {
    /// Audio or video.
    pub kind: MediaKind,
    /// Value of the MID extension, for packets of an SSRC not named in `encodings`.
    pub mid: Option<String>,
    /// The one codec accepted.
    pub codec: Codec,
    /// One per simulcast layer, smallest first; exactly one without simulcast.
    pub encodings: Vec<Encoding>,
    /// Header extensions accepted.
    pub extensions: Vec<HeaderExtension>,
    /// RTCP feedback accepted.
    pub feedback: Feedback,
    /// Highest bitrate to allow by REMB, bit/s.
    pub max_bitrate_bps: Option<u64>,
}

/// One RTP stream of a track.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Encoding {
    /// SSRC, where signaling told it.
    pub ssrc: Option<u32>,
    /// SSRC of its retransmissions.
    pub rtx_ssrc: Option<u32>,
    /// Value of the RID extension (RFC 8851).
    pub rid: Option<String>,
}

/// What a subscriber receives on one m-line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionTrack {
    /// Audio or video.
    pub kind: MediaKind,
    /// Value for the MID extension, if that is among `extensions`.
    pub mid: Option<String>,
    /// The subscriber's numbers for the publication's codec.
    pub codec: Codec,
    /// SSRC to send with.
    pub ssrc: u32,
    /// SSRC of retransmissions, with `codec.rtx_payload_type`.
    pub rtx_ssrc: Option<u32>,
    /// Header extensions the subscriber accepts.
    pub extensions: Vec<HeaderExtension>,
    /// RTCP feedback the subscriber may send.
    pub feedback: Feedback,
}

/// Answer to [`Request::Hello`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// [`VERSION`] of the node.
    pub version: u32,
    /// Random for each process: another value means the media process was restarted and is empty.
    pub process: String,
    /// Version of the software.
    pub software: String,
    /// `io_uring` or `mmsg`.
    pub reactor: String,
    /// Fingerprint of the certificate that every transport of this process uses.
    pub fingerprint: Fingerprint,
    /// One entry per shard.
    pub cores: Vec<CoreInfo>,
    /// What runs, so that a controller that comes back can reconcile.
    pub rooms: Vec<RoomInfo>,
    /// Whether the node refuses new rooms.
    pub draining: bool,
}

/// One shard of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CoreInfo {
    /// Its index.
    pub core: u16,
    /// One host candidate per configured address.
    pub candidates: Vec<HostCandidate>,
}

/// Where a shard listens (UDP, component 1, type host).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostCandidate {
    /// Address to put into the candidate: the announced one behind a 1:1 NAT, else the bound one.
    pub address: IpAddr,
    /// Address the socket is bound to.
    pub bound: SocketAddr,
    /// UDP port to put into the candidate.
    pub port: u16,
}

/// A room that is open on the node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoomInfo {
    /// Its id.
    pub room: String,
    /// Core it lives on.
    pub core: u16,
    /// Its transports.
    pub transports: Vec<TransportInfo>,
    /// Its publications.
    pub publications: Vec<String>,
    /// Its subscriptions.
    pub subscriptions: Vec<String>,
}

/// A transport that is open on the node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TransportInfo {
    /// Its id.
    pub transport: String,
    /// How far it got.
    pub state: TransportState,
}

/// Life of a transport, in protocol order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TransportState {
    /// Waiting for the first authenticated ICE check.
    New,
    /// ICE is up, DTLS handshake under way.
    Connecting,
    /// Keys are there, media flows.
    Connected,
    /// No consent for some seconds (RFC 7675); it may come back.
    Disconnected,
    /// Consent expired, the handshake failed, or the fingerprint was wrong. Final.
    Failed,
    /// The peer closed DTLS, or the controller closed the transport. Final.
    Closed,
}

/// Notifications, node to controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", content = "params", rename_all = "camelCase")]
pub enum Notification {
    /// Periodic load report.
    Load(NodeLoad),
    /// A transport changed its state.
    TransportState {
        /// Its room.
        room: String,
        /// Which transport.
        transport: String,
        /// New state.
        state: TransportState,
        /// Why, for people.
        reason: String,
    },
}

/// Load of a node over the last interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeLoad {
    /// Mean of the cores' load, 0.0..=100.0.
    pub load: f64,
    /// Per core.
    pub cores: Vec<CoreLoad>,
    /// Resident memory of the process, bytes.
    pub resident_bytes: u64,
}

/// Load of one core over the last interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CoreLoad {
    /// Its index.
    pub core: u16,
    /// Busy share of wall time, 0.0..=100.0.
    pub load: f64,
    /// Share of CPU time as the operating system counts it, 0.0..=100.0.
    pub cpu: f64,
    /// Open rooms.
    pub rooms: u32,
    /// Open transports.
    pub transports: u32,
    /// Publications.
    pub publications: u32,
    /// Subscriptions.
    pub subscriptions: u32,
    /// Datagrams received per second.
    pub packets_in_per_s: f64,
    /// Datagrams sent per second.
    pub packets_out_per_s: f64,
    /// Bits received per second.
    pub bits_in_per_s: f64,
    /// Bits sent per second.
    pub bits_out_per_s: f64,
}

/// Answer to [`Request::RoomStats`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RoomStats {
    /// One entry per received RTP stream.
    pub inbound: Vec<StreamStats>,
    /// One entry per sent RTP stream.
    pub outbound: Vec<StreamStats>,
}

/// Counters of one RTP stream since it began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamStats {
    /// Publication or subscription id.
    pub id: String,
    /// `audio` or `video`.
    pub kind: String,
    /// SSRC on the wire.
    pub ssrc: u32,
    /// Packets forwarded.
    pub packets: u64,
    /// Payload bytes forwarded.
    pub bytes: u64,
    /// Lost: not received (inbound) or reported lost by the peer (outbound).
    pub lost: i64,
    /// Packets sent again, or received as retransmissions.
    pub retransmitted: u64,
    /// NACKed packets: sent by us (inbound) or by the peer (outbound).
    pub nacked: u64,
    /// Key frame requests: sent by us (inbound) or by the peer (outbound).
    pub key_frame_requests: u64,
    /// Interarrival jitter, RTP clock ticks (RFC 3550 §6.4.1).
    pub jitter: u32,
    /// Last round-trip time, microseconds; 0 when unknown.
    pub rtt_us: u64,
}

/// Codes of the `error` member.
pub mod error_code {
    /// No such method, or `hello` is missing.
    pub const BAD_REQUEST: i64 = -32600;
    /// Version differs.
    pub const VERSION: i64 = 1;
    /// Id unknown.
    pub const NOT_FOUND: i64 = 2;
    /// Id exists already, or the room is on another core.
    pub const CONFLICT: i64 = 3;
    /// A field has a value that cannot work; the message names it.
    pub const INVALID: i64 = 4;
    /// A table is full, or the node drains.
    pub const OVERLOADED: i64 = 5;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_lines_are_read_back() {
        for address in ["127.0.0.1:40000", "[fd00::1]:8888"] {
            let address: SocketAddr = address.parse().expect("address");
            assert_eq!(parse_ready_line(&ready_line(address)), Some(address));
        }
        for other in [
            "",
            "weir-node ready control=",
            "weir-node ready control=x:1",
            "x weir-node ready control=1.2.3.4:5",
        ] {
            assert_eq!(parse_ready_line(other), None, "{other}");
        }
    }

    #[test]
    fn requests_have_a_stable_form() {
        let json = serde_json::json!({"method": "apply", "params": {"room": "r", "ops": [
            {"op": "openRoom", "core": 0},
            {"op": "openTransport", "transport": "t", "ice": {"ufrag": "abcd", "pwd": "0123456789012345678901"},
             "remote": {"iceUfrag": "efgh", "dtlsRole": "client",
                        "fingerprints": [{"algorithm": "sha-256", "value": "AA:BB"}]}},
            {"op": "pause", "subscription": "s", "audio": false, "video": true},
        ]}});
        let request: Request = serde_json::from_value(json.clone()).expect("parses");
        assert_eq!(serde_json::to_value(&request).expect("serializes"), json);
    }
}
