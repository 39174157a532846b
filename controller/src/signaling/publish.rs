//! Publishing: `publishVideo`, `unpublishVideo`, and a publisher's `reconnectStream` (`signaling.md` 2.1, 2.4, 3.4).
//!
//! ```text
//! client              controller                                   node
//!   │ publishVideo(offer) │ answer made up, publisher is Opening      │
//!   ├────────────────────▶├──────────── openTransport, publish ──────▶│
//!   │      {sdpAnswer, id}│◀──────────────────────────────────────────┤ publisher is Live
//!   │◀────────────────────┤ then participantPublished to the others   │
//! ```
#![forbid(unsafe_code)]

use serde_json::json;
use sfu_core::control::proto::{MediaKind, Op};

use super::dispatch::{Done, Request};
use super::envelope::notification;
use super::error::{RpcError, code};
use super::params::{OnIceCandidate, PublishVideo, ReconnectStream};
use super::pending::Then;
use crate::engine::{Engine, NodeError, Output, publication_record};
use crate::ids::{ConnectionId, SessionId, StreamId};
use crate::sdp::{
    self, CodecPolicy, IceCandidate, LocalTransport, Offer, PublishPlan, SendIds, SubscribePlan, VideoChoice,
};
use crate::session::{Connection, Phase, Place, Publisher, Reason, Role, SdpTexts, TransportUse};

/// A publication that the node is asked for.
#[derive(Debug)]
pub(crate) struct Publish {
    request: Request,
    stream: StreamId,
    answer: String,
}

/// A publication that shall move to a new transport.
#[derive(Debug)]
pub(crate) struct Republish {
    request: Request,
    transport: String,
    plan: PublishPlan,
    sdp: SdpTexts,
    answer: String,
}

/// What a publisher's offer came to.
struct Negotiated {
    answer: String,
    plan: PublishPlan,
    /// For loopback.
    back: Option<SubscribePlan>,
    local: LocalTransport,
}

impl Engine {
    pub(super) fn on_publish_video(
        &mut self,
        now_ms: u64,
        request: Request,
        params: PublishVideo,
        out: &mut Vec<Output>,
    ) -> Result<Done, RpcError> {
        let own = self.participant(&request)?;
        may_publish(own)?;
        if own.stream().is_some() {
            let message = format!("Participant {} is publishing already", request.connection);
            return Err(RpcError::new(code::USER_ALREADY_STREAMING, message));
        }
        let place = self.place_of(&request.session)?;
        let policy = self.policy_of(&request.session);
        let loopback = params.do_loopback.unwrap_or(false);
        let negotiated = self.negotiate(&request, &place, &params.sdp_offer, &policy, loopback)?;
        let Negotiated { answer, plan, back, local } = negotiated;
        let options =
            params.options(plan.track(MediaKind::Audio).is_some(), plan.track(MediaKind::Video).is_some());
        let stream = self.ids.stream(options.stream_kind(), &request.connection);
        let sdp = self.keep_sdp(&params.sdp_offer, &answer);
        let transport = self.new_transport(&request.session, &request.connection, TransportUse::Publish);
        let ops = publish_ops(&transport, stream.as_str(), &local, &plan, back);
        let publisher = Publisher {
            stream: stream.clone(),
            created_at: now_ms,
            options,
            phase: Phase::Opening,
            transport: transport.clone(),
            replacing: Vec::new(),
            loopback,
            plan,
            sdp,
        };
        self.set_publisher(&request, publisher);
        let then = Then::Publish(Publish { request: request.clone(), stream: stream.clone(), answer });
        if let Err(error) = self.apply_then(now_ms, &place, ops, then, out) {
            self.forget_publisher(now_ms, &request, &stream, out);
            return Err(error);
        }
        Ok(Done::Later)
    }

    /// The node took the publication, or did not. Order: response, event, `participantPublished`.
    pub(super) fn on_published(
        &mut self,
        now_ms: u64,
        publish: Publish,
        result: Result<(), NodeError>,
        out: &mut Vec<Output>,
    ) {
        let Publish { request, stream, answer } = publish;
        let result = result.map_err(RpcError::from).and_then(|()| {
            let gone = || RpcError::new(code::MEDIA_ENDPOINT, "The publisher is closing");
            let publisher = self.publisher_mut(&request).filter(|publisher| publisher.stream == stream);
            let publisher = publisher.ok_or_else(gone)?;
            publisher.phase = Phase::Live;
            publisher.created_at = now_ms;
            Ok(publisher.to_stream_json())
        });
        let stream_json = match result {
            Ok(stream_json) => stream_json,
            Err(error) => {
                self.forget_publisher(now_ms, &request, &stream, out);
                return self.peers.respond(&request.call, Err(error), out);
            }
        };
        let result = json!({ "sdpAnswer": answer, "id": stream, "createdAt": now_ms });
        self.peers.respond(&request.call, Ok(result), out);
        let Some(found) = self.registry.get(request.session.as_str()) else { return };
        let Some(own) = found.connections.get(request.connection.as_str()) else { return };
        if let Some(publisher) = own.live_publisher() {
            let event = "webrtcConnectionCreated";
            out.push(Output::Record(publication_record(found, event, now_ms, &own.id, publisher)));
        }
        let params = json!({ "id": request.connection, "streams": [stream_json] });
        let text = notification("participantPublished", params);
        self.notify_all(&request.session, &text, Some(&request.connection), out);
    }

    pub(super) fn on_unpublish_video(
        &mut self,
        now_ms: u64,
        request: &Request,
        out: &mut Vec<Output>,
    ) -> Result<Done, RpcError> {
        let (session, own) = (&request.session, &request.connection);
        let removed = self.unpublish(now_ms, session, own, Reason::Unpublish, out).ok_or_else(|| {
            RpcError::new(code::USER_NOT_STREAMING, format!("Participant {own} is not publishing"))
        })?;
        self.peers.respond(&request.call, Ok(json!({})), out);
        if removed.phase == Phase::Live {
            self.notify_unpublished(session, own, Reason::Unpublish, Some(own), out);
        }
        Ok(Done::Later)
    }

    /// A publisher's new peer connection for the same stream. The old one stays until the node has taken the new one.
    pub(super) fn reconnect_publisher(
        &mut self,
        now_ms: u64,
        request: Request,
        params: ReconnectStream,
        out: &mut Vec<Output>,
    ) -> Result<Done, RpcError> {
        let own = self.participant(&request)?;
        may_publish(own)?;
        let Some(publisher) = own.live_publisher() else {
            return Err(RpcError::new(code::MEDIA_ENDPOINT, "The stream is not ready to be reconnected"));
        };
        let (stream, loopback) = (publisher.stream.clone(), publisher.loopback);
        let earlier = publisher.plan.clone();
        let offer = params.sdp_string.or(params.sdp_offer);
        let offer = offer.ok_or_else(|| RpcError::params("sdpString is missing"))?;
        let place = self.place_of(&request.session)?;
        let negotiated = self.renegotiate(&request, &place, &offer, &earlier, loopback)?;
        let Negotiated { answer, plan, back, local } = negotiated;
        let sdp = self.keep_sdp(&offer, &answer);
        let transport = self.new_transport(&request.session, &request.connection, TransportUse::Publish);
        if let Some(publisher) = self.publisher_mut(&request) {
            publisher.replacing.push(transport.clone());
            // From here on its candidates are those of the new peer connection.
            publisher.sdp.trickled.clear();
        }
        let ops = publish_ops(&transport, stream.as_str(), &local, &plan, back);
        let republish =
            Republish { request: request.clone(), transport: transport.clone(), plan, sdp, answer };
        let asked = self.apply_then(now_ms, &place, ops, Then::Republish(republish), out);
        if let Err(error) = asked {
            self.drop_replacement(&request, &transport, out);
            return Err(error);
        }
        Ok(Done::Later)
    }

    /// The publication has moved, or has not.
    pub(super) fn on_republished(
        &mut self,
        now_ms: u64,
        republish: Republish,
        result: Result<(), NodeError>,
        out: &mut Vec<Output>,
    ) {
        let Republish { request, transport, plan, sdp, answer } = republish;
        // A node that has not answered may do it still, and the client has closed its old peer connection in any case: the
        // new transport counts. If the node turns out to be without it, the stream ends when that is seen.
        let unknown = result.as_ref().is_err_and(|error| error.code == NodeError::LOST);
        if let Err(error) = &result
            && !unknown
        {
            self.drop_replacement(&request, &transport, out);
            return self.peers.respond(&request.call, Err(error.clone().into()), out);
        }
        let publisher = self.publisher_mut(&request);
        let Some(publisher) = publisher.filter(|publisher| publisher.replacing.contains(&transport)) else {
            let error = RpcError::new(code::MEDIA_ENDPOINT, "The publisher is closing");
            return self.peers.respond(&request.call, Err(error), out);
        };
        publisher.replacing.retain(|other| *other != transport);
        let continues = plan.continues(&publisher.plan);
        let old = std::mem::replace(&mut publisher.transport, transport);
        let trickled = std::mem::take(&mut publisher.sdp.trickled);
        (publisher.plan, publisher.sdp) = (plan, SdpTexts { trickled, ..sdp });
        let (stream, created_at) = (publisher.stream.clone(), publisher.created_at);
        self.close_transport(&request.session, &old, out);
        let answer = json!({ "sdpAnswer": answer, "id": stream, "createdAt": created_at });
        self.peers.respond(&request.call, result.map(|()| answer).map_err(RpcError::from), out);
        if !continues {
            self.force_subscribers(now_ms, &request.session, &request.connection, out);
        }
    }

    fn drop_replacement(&mut self, request: &Request, transport: &str, out: &mut Vec<Output>) {
        if let Some(publisher) = self.publisher_mut(request) {
            publisher.replacing.retain(|other| other != transport);
        }
        self.close_transport(&request.session, transport, out);
    }

    /// The same codec again if the client still has it, so that subscribers can go on; else whatever the session takes.
    fn renegotiate(
        &mut self,
        request: &Request,
        place: &Place,
        offer: &str,
        earlier: &PublishPlan,
        loopback: bool,
    ) -> Result<Negotiated, RpcError> {
        let policy = self.policy_of(&request.session);
        let before = earlier.format(MediaKind::Video).and_then(|format| format.video_codec());
        if let Some(codec) = before {
            let same = CodecPolicy { video: VideoChoice::Forced(codec), allow_transcoding: false };
            if let Ok(mut negotiated) = self.negotiate(request, place, offer, &same, loopback) {
                negotiated.plan.forced = earlier.forced;
                return Ok(negotiated);
            }
        }
        self.negotiate(request, place, offer, &policy, loopback)
    }

    fn negotiate(
        &mut self,
        request: &Request,
        place: &Place,
        offer: &str,
        policy: &CodecPolicy,
        loopback: bool,
    ) -> Result<Negotiated, RpcError> {
        let offer = Offer::parse(offer)?;
        let local = self.local_transport(place)?;
        let (answer, mut plan, back) = if loopback {
            let ids = self.send_ids("loopback");
            let (answer, plan, back) = sdp::loopback_answer(&offer, &local, policy, &ids)?;
            (answer, plan, Some(back).filter(|back| !back.tracks.is_empty()))
        } else {
            let (answer, plan) = sdp::publish_answer(&offer, &local, policy)?;
            (answer, plan, None)
        };
        let limit = self.publish_limit_bps(request);
        for track in plan.tracks.iter_mut().filter(|track| track.kind == MediaKind::Video) {
            track.max_bitrate_bps = limit;
        }
        Ok(Negotiated { answer, plan, back, local })
    }

    /// `videoMaxRecvBandwidth` of the connection, else that of the configuration; `None`: unlimited.
    fn publish_limit_bps(&self, request: &Request) -> Option<u64> {
        let own = self.participant(request).ok()?;
        let options = own.properties.kurento_options.as_ref();
        let kbps = options.and_then(|options| options.video_max_recv_bandwidth);
        let kbps = kbps.unwrap_or(self.config.max_publish_kbps);
        (kbps > 0).then(|| kbps.saturating_mul(1_000))
    }

    fn policy_of(&self, session: &SessionId) -> CodecPolicy {
        let Some(session) = self.registry.get(session.as_str()) else { return CodecPolicy::default() };
        let forced = session.properties.forced_video_codec.as_str();
        CodecPolicy {
            video: VideoChoice::from_name(forced).unwrap_or_default(),
            allow_transcoding: session.properties.allow_transcoding,
        }
    }

    /// Takes back a publication that did not come about.
    fn forget_publisher(&mut self, now_ms: u64, request: &Request, stream: &StreamId, out: &mut Vec<Output>) {
        if self.publisher_mut(request).is_some_and(|publisher| publisher.stream == *stream) {
            self.unpublish(now_ms, &request.session, &request.connection, Reason::Unpublish, out);
        }
    }

    fn set_publisher(&mut self, request: &Request, publisher: Publisher) {
        let session = self.registry.get_mut(request.session.as_str());
        let found = session.and_then(|session| session.connections.get_mut(request.connection.as_str()));
        if let Some(active) = found.and_then(|found| found.active.as_mut()) {
            active.publisher = Some(publisher);
        }
    }

    fn publisher_mut(&mut self, request: &Request) -> Option<&mut Publisher> {
        let session = self.registry.get_mut(request.session.as_str())?;
        session.connections.get_mut(request.connection.as_str())?.active.as_mut()?.publisher.as_mut()
    }
}

/// What all media requests need.
impl Engine {
    /// A candidate of the client. The node is ICE-lite and finds its peer by the checks: it is kept to be shown only.
    pub(super) fn on_ice_candidate(&mut self, request: &Request, params: OnIceCandidate) {
        if !self.config.keep_sdp {
            return;
        }
        let (session, own) = (request.session.as_str(), request.connection.as_str());
        let found = self.registry.connection_mut_unsaved(session, own);
        let Some(active) = found.and_then(|found| found.active.as_mut()) else { return };
        let sdp = if params.endpoint_name == own {
            active.publisher.as_mut().map(|publisher| &mut publisher.sdp)
        } else {
            active.subscribers.get_mut(params.endpoint_name.as_str()).map(|subscriber| &mut subscriber.sdp)
        };
        if let Some(sdp) = sdp {
            let OnIceCandidate { candidate, sdp_mid, line, .. } = params;
            sdp.trickle(IceCandidate { candidate, mid: sdp_mid, line });
        }
    }

    /// The sender's connection.
    pub(super) fn participant(&self, request: &Request) -> Result<&Connection, RpcError> {
        let session = self.registry.get(request.session.as_str());
        let found = session.and_then(|session| session.connections.get(request.connection.as_str()));
        found.filter(|found| found.active.is_some()).ok_or_else(|| {
            RpcError::new(code::ROOM_NOT_FOUND, format!("Session {} not found", request.session))
        })
    }

    /// Where the session lives.
    pub(super) fn place_of(&self, session: &SessionId) -> Result<Place, RpcError> {
        let place = self.registry.get(session.as_str()).and_then(|session| session.place()).cloned();
        place.ok_or_else(|| RpcError::new(code::ROOM_NOT_FOUND, format!("Session {session} not found")))
    }

    /// Our end of a new peer connection.
    pub(super) fn local_transport(&mut self, place: &Place) -> Result<LocalTransport, RpcError> {
        let ice = self.ids.ice();
        let core = self.core_of(place).filter(|(_, core)| !core.candidates.is_empty());
        let (info, core) = core.ok_or_else(|| {
            RpcError::new(code::MEDIA_ENDPOINT, format!("Media node {} is not connected", place.node))
        })?;
        let (candidates, fingerprint) = (core.candidates.clone(), info.fingerprint.clone());
        Ok(LocalTransport { ice, candidates, fingerprint })
    }

    /// SSRCs for what goes out to one peer connection. `stream`: groups its tracks, letters, digits, `-` and `_`.
    pub(super) fn send_ids(&mut self, stream: &str) -> SendIds {
        let stream = stream.chars().take(64).collect();
        SendIds { audio: self.ids.ssrc(), video: self.ids.ssrc(), video_rtx: self.ids.ssrc(), stream }
    }

    pub(super) fn new_transport(
        &mut self,
        session: &SessionId,
        connection: &ConnectionId,
        purpose: TransportUse,
    ) -> String {
        let session = self.registry.get_mut(session.as_str());
        session.map(|session| session.new_transport(connection, purpose)).unwrap_or_default()
    }

    /// Forgets a transport and closes it on the node.
    pub(super) fn close_transport(&mut self, session: &SessionId, transport: &str, out: &mut Vec<Output>) {
        let Some(found) = self.registry.get_mut(session.as_str()) else { return };
        if found.transports.remove(transport).is_some() {
            self.apply_to(session, vec![Op::CloseTransport { transport: transport.to_owned() }], out);
        }
    }

    pub(super) fn keep_sdp(&self, remote: &str, local: &str) -> SdpTexts {
        if !self.config.keep_sdp {
            return SdpTexts::default();
        }
        SdpTexts { remote: Some(remote.into()), local: Some(local.into()), trickled: Vec::new() }
    }
}

fn may_publish(own: &Connection) -> Result<(), RpcError> {
    if own.properties.role == Role::Subscriber {
        let message = "Unable to publish video. The user does not have a valid token";
        return Err(RpcError::new(code::UNAUTHORIZED, message));
    }
    Ok(())
}

fn publish_ops(
    transport: &str,
    publication: &str,
    local: &LocalTransport,
    plan: &PublishPlan,
    back: Option<SubscribePlan>,
) -> Vec<Op> {
    let (transport, publication) = (transport.to_owned(), publication.to_owned());
    let mut ops = vec![
        Op::OpenTransport {
            transport: transport.clone(),
            ice: local.ice.clone(),
            remote: Some(plan.remote.clone()),
        },
        Op::Publish {
            transport: transport.clone(),
            publication: publication.clone(),
            tracks: plan.tracks.clone(),
        },
    ];
    ops.extend(back.map(|back| Op::Subscribe {
        subscription: format!("{transport}.loopback"),
        transport,
        publication,
        tracks: back.tracks,
    }));
    ops
}
