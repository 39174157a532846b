//! Subscribing in both flows, and a subscriber's `reconnectStream` (`signaling.md` section 3, 4.11).
//!
//! Which flow is used shows in the request: an `sdpOffer` means that the client offers, `prepareReceiveVideoFrom` that it waits
//! for ours. There is one peer connection per subscriber and publisher: a new one replaces the older.
#![forbid(unsafe_code)]

use serde_json::{Value, json};
use sfu_core::control::proto::{Op, RemoteTransport};

use super::dispatch::{Done, Request};
use super::envelope::notification;
use super::error::{RpcError, code};
use super::params::{PrepareReceive, ReceiveVideoFrom, ReconnectStream, Unsubscribe};
use super::pending::Then;
use crate::engine::{Engine, NodeError, Output, subscription_record};
use crate::ids::{ConnectionId, SessionId, StreamId};
use crate::sdp::{self, LocalTransport, Offer, PendingOffer, PublishPlan, SubscribePlan};
use crate::session::{Phase, Reason, SdpTexts, Session, Subscriber, TransportUse};

/// A step of a subscription that the node is asked for.
#[derive(Debug)]
pub(crate) struct Subscribe {
    request: Request,
    publisher: ConnectionId,
    transport: String,
    /// What comes after it: `Offered` or `Live`.
    next: Phase,
    result: Value,
}

/// A peer connection that the server offers on its own.
#[derive(Debug)]
pub(crate) struct ForceOffer {
    session: SessionId,
    subscriber: ConnectionId,
    publisher: ConnectionId,
    transport: String,
    offer: String,
}

/// Whose stream is meant.
struct Source {
    publisher: ConnectionId,
    stream: StreamId,
    plan: PublishPlan,
}

impl Engine {
    pub(super) fn on_receive_video_from(
        &mut self,
        now_ms: u64,
        request: Request,
        params: ReceiveVideoFrom,
        out: &mut Vec<Output>,
    ) -> Result<Done, RpcError> {
        let source = self.source(&request, &params.sender)?;
        match (params.sdp_offer, params.sdp_answer) {
            (Some(offer), _) => self.subscribe_with_offer(now_ms, request, source, &offer, out),
            (None, Some(answer)) => self.subscribe_with_answer(now_ms, request, source, &answer, out),
            (None, None) => Err(RpcError::params("sdpOffer or sdpAnswer is missing")),
        }
    }

    pub(super) fn on_prepare_receive(
        &mut self,
        now_ms: u64,
        request: Request,
        params: PrepareReceive,
        out: &mut Vec<Output>,
    ) -> Result<Done, RpcError> {
        let source = self.source(&request, &params.sender)?;
        let place = self.place_of(&request.session)?;
        let local = self.local_transport(&place)?;
        let ids = self.send_ids(source.stream.as_str());
        let (text, offer) = sdp::subscribe_offer(&source.plan, &local, &ids);
        let transport =
            self.replace_subscriber(now_ms, &request, &source, Some(offer), None, Some(&text), out);
        let ops = vec![open(&transport, &local, None)];
        let result = json!({ "sdpOffer": text });
        self.ask(now_ms, request, source.publisher, transport, ops, Phase::Offered, result, out)
    }

    fn subscribe_with_offer(
        &mut self,
        now_ms: u64,
        request: Request,
        source: Source,
        offer: &str,
        out: &mut Vec<Output>,
    ) -> Result<Done, RpcError> {
        let parsed = Offer::parse(offer)?;
        let place = self.place_of(&request.session)?;
        let local = self.local_transport(&place)?;
        let ids = self.send_ids(source.stream.as_str());
        let (answer, plan) = sdp::subscribe_answer(&parsed, &source.plan, &local, &ids)?;
        let transport =
            self.replace_subscriber(now_ms, &request, &source, None, Some(offer), Some(&answer), out);
        let SubscribePlan { remote, tracks } = plan;
        let ops = vec![
            open(&transport, &local, Some(remote)),
            Op::Subscribe {
                transport: transport.clone(),
                subscription: transport.clone(),
                publication: source.stream.as_str().to_owned(),
                tracks,
            },
        ];
        let result = json!({ "sdpAnswer": answer });
        self.ask(now_ms, request, source.publisher, transport, ops, Phase::Live, result, out)
    }

    fn subscribe_with_answer(
        &mut self,
        now_ms: u64,
        request: Request,
        source: Source,
        answer: &str,
        out: &mut Vec<Output>,
    ) -> Result<Done, RpcError> {
        let keep = self.config.keep_sdp;
        let subscriber = self.subscriber_mut(&request.session, &request.connection, &source.publisher);
        let subscriber = subscriber.filter(|subscriber| subscriber.phase == Phase::Offered);
        let offered = subscriber.and_then(|subscriber| Some((subscriber.offer.clone()?, subscriber)));
        let Some((offer, subscriber)) = offered else {
            return Err(RpcError::new(code::MEDIA_SDP, "There is no offer that this SDP could answer"));
        };
        let SubscribePlan { remote, tracks } = sdp::accept_answer(&offer, answer)?;
        subscriber.phase = Phase::Answered;
        subscriber.offer = None;
        subscriber.sdp.remote = keep.then(|| answer.into());
        let transport = subscriber.transport.clone();
        let ops = vec![
            Op::ConnectTransport { transport: transport.clone(), remote },
            Op::Subscribe {
                transport: transport.clone(),
                subscription: transport.clone(),
                publication: source.stream.as_str().to_owned(),
                tracks,
            },
        ];
        self.ask(now_ms, request, source.publisher, transport, ops, Phase::Live, json!({}), out)
    }

    pub(super) fn on_unsubscribe(
        &mut self,
        now_ms: u64,
        request: &Request,
        params: Unsubscribe,
        out: &mut Vec<Output>,
    ) -> Result<Done, RpcError> {
        let session = self.registry.get(request.session.as_str());
        let found = session.and_then(|session| session.participant(&params.sender));
        let Some(publisher) = found.map(|found| found.id.clone()) else {
            let message = format!("Participant {} not found", params.sender);
            return Err(RpcError::new(code::USER_NOT_FOUND, message));
        };
        self.unsubscribe(now_ms, &request.session, &request.connection, &publisher, Reason::Unsubscribe, out);
        Ok(Done::empty())
    }

    /// `reconnectStream`: of one's own stream, or of one that is received.
    pub(super) fn on_reconnect_stream(
        &mut self,
        now_ms: u64,
        request: Request,
        params: ReconnectStream,
        out: &mut Vec<Output>,
    ) -> Result<Done, RpcError> {
        let own = self.participant(&request)?.stream();
        if own.is_some_and(|stream| stream.as_str() == params.stream) {
            return self.reconnect_publisher(now_ms, request, params, out);
        }
        let source = self.source(&request, &params.stream).map_err(|_| not_streaming(&params.stream))?;
        match (params.sdp_offer, params.sdp_string) {
            (Some(offer), _) => self.subscribe_with_offer(now_ms, request, source, &offer, out),
            (None, Some(answer)) => self.subscribe_with_answer(now_ms, request, source, &answer, out),
            (None, None) => Err(RpcError::params("sdpString or sdpOffer is missing")),
        }
    }

    /// The publisher of a stream id that the sender may subscribe to.
    fn source(&self, request: &Request, stream: &str) -> Result<Source, RpcError> {
        self.participant(request)?;
        let session = self.registry.get(request.session.as_str());
        let publisher = session.and_then(|session| session.publisher_of(stream));
        let Some(publisher) = publisher else {
            return Err(match session.and_then(|session| owner_of(session, stream)) {
                Some(_) => not_streaming(stream),
                None => RpcError::new(code::USER_NOT_FOUND, format!("Publisher of {stream} not found")),
            });
        };
        let live = publisher.live_publisher().filter(|_| publisher.id != request.connection);
        let live = live.ok_or_else(|| not_streaming(stream))?;
        Ok(Source { publisher: publisher.id.clone(), stream: live.stream.clone(), plan: live.plan.clone() })
    }

    /// Puts a new peer connection in the place of an older one, whose transport is closed. What was recorded stays so.
    #[expect(clippy::too_many_arguments, reason = "one call per flow, each with its own SDP side")]
    fn replace_subscriber(
        &mut self,
        now_ms: u64,
        request: &Request,
        source: &Source,
        offer: Option<PendingOffer>,
        remote: Option<&str>,
        local: Option<&str>,
        out: &mut Vec<Output>,
    ) -> String {
        let sdp = if self.config.keep_sdp {
            SdpTexts { remote: remote.map(Into::into), local: local.map(Into::into), trickled: Vec::new() }
        } else {
            SdpTexts::default()
        };
        let purpose = TransportUse::Subscribe(source.publisher.clone());
        let transport = self.new_transport(&request.session, &request.connection, purpose);
        let session = self.registry.get_mut(request.session.as_str());
        let found = session.and_then(|session| session.connections.get_mut(request.connection.as_str()));
        let Some(active) = found.and_then(|found| found.active.as_mut()) else { return transport };
        let older = active.subscribers.get(&source.publisher);
        let (created_at, recorded) =
            older.map_or((now_ms, false), |older| (older.created_at, older.recorded));
        let subscriber = Subscriber {
            stream: source.stream.clone(),
            created_at,
            phase: Phase::Opening,
            recorded,
            transport: transport.clone(),
            offer,
            sdp,
        };
        if let Some(older) = active.subscribers.insert(source.publisher.clone(), subscriber) {
            self.close_transport(&request.session, &older.transport, out);
        }
        transport
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the continuation")]
    fn ask(
        &mut self,
        now_ms: u64,
        request: Request,
        publisher: ConnectionId,
        transport: String,
        ops: Vec<Op>,
        next: Phase,
        result: Value,
        out: &mut Vec<Output>,
    ) -> Result<Done, RpcError> {
        let place = self.place_of(&request.session)?;
        let (session, connection) = (request.session.clone(), request.connection.clone());
        let subscribe =
            Subscribe { request, publisher: publisher.clone(), transport: transport.clone(), next, result };
        let asked = self.apply_then(now_ms, &place, ops, Then::Subscribe(subscribe), out);
        if let Err(error) = asked {
            self.forget_subscriber(now_ms, &session, &connection, &publisher, &transport, out);
            return Err(error);
        }
        Ok(Done::Later)
    }

    /// The node did its step, or did not.
    pub(super) fn on_subscribed(
        &mut self,
        now_ms: u64,
        subscribe: Subscribe,
        result: Result<(), NodeError>,
        out: &mut Vec<Output>,
    ) {
        let Subscribe { request, publisher, transport, next, result: answer } = subscribe;
        let (session, connection) = (&request.session, &request.connection);
        let subscriber = self.subscriber_mut(session, connection, &publisher);
        let subscriber = subscriber.filter(|subscriber| subscriber.transport == transport);
        let result = match (result, subscriber) {
            (Err(error), _) => Err(RpcError::from(error)),
            (Ok(()), None) => {
                Err(RpcError::new(code::MEDIA_ENDPOINT, "The subscription is not wanted any more"))
            }
            (Ok(()), Some(subscriber)) => {
                subscriber.phase = next;
                Ok(answer)
            }
        };
        if result.is_err() {
            self.forget_subscriber(now_ms, session, connection, &publisher, &transport, out);
        }
        let live = result.is_ok() && next == Phase::Live;
        self.peers.respond(&request.call, result, out);
        if live {
            self.record_subscribed(now_ms, session, connection, &publisher, out);
        }
    }

    /// `webrtcConnectionCreated`, once per subscription: a peer connection that is established again is none.
    fn record_subscribed(
        &mut self,
        now_ms: u64,
        session: &SessionId,
        connection: &ConnectionId,
        publisher: &ConnectionId,
        out: &mut Vec<Output>,
    ) {
        let Some(subscriber) = self.subscriber_mut(session, connection, publisher) else { return };
        if std::mem::replace(&mut subscriber.recorded, true) {
            return;
        }
        subscriber.created_at = now_ms;
        let subscriber = subscriber.clone();
        let Some(found) = self.registry.get(session.as_str()) else { return };
        let event = "webrtcConnectionCreated";
        let record = subscription_record(found, event, now_ms, connection, publisher, &subscriber);
        out.extend(record.map(Output::Record));
    }

    /// Takes back a subscription that did not come about, unless a newer one has its place.
    fn forget_subscriber(
        &mut self,
        now_ms: u64,
        session: &SessionId,
        connection: &ConnectionId,
        publisher: &ConnectionId,
        transport: &str,
        out: &mut Vec<Output>,
    ) {
        let subscriber = self.subscriber_mut(session, connection, publisher);
        if subscriber.is_some_and(|subscriber| subscriber.transport == transport) {
            self.unsubscribe(now_ms, session, connection, publisher, Reason::Unsubscribe, out);
        }
    }

    /// What a publisher sends now is nothing that its subscribers have negotiated: each gets a new offer.
    pub(super) fn force_subscribers(
        &mut self,
        now_ms: u64,
        session: &SessionId,
        publisher: &ConnectionId,
        out: &mut Vec<Output>,
    ) {
        let Some(found) = self.registry.get(session.as_str()) else { return };
        let subscribers: Vec<_> = found
            .connections
            .active()
            .filter(|(_, active)| active.subscribers.contains_key(publisher))
            .map(|(connection, active)| (connection.id.clone(), active.rpc.clone()))
            .collect();
        for (connection, rpc) in subscribers {
            let call = super::client::Call::nobody(rpc);
            let request = Request { call, session: session.clone(), connection };
            if let Err(error) = self.force_subscriber(now_ms, &request, publisher, out) {
                tracing::warn!(%session, subscriber = %request.connection, %error, "cannot be offered again");
            }
        }
    }

    fn force_subscriber(
        &mut self,
        now_ms: u64,
        request: &Request,
        publisher: &ConnectionId,
        out: &mut Vec<Output>,
    ) -> Result<(), RpcError> {
        let subscriber = self.subscriber_mut(&request.session, &request.connection, publisher);
        let Some(stream) = subscriber.map(|subscriber| subscriber.stream.clone()) else { return Ok(()) };
        let source = self.source(request, stream.as_str())?;
        let place = self.place_of(&request.session)?;
        let local = self.local_transport(&place)?;
        let ids = self.send_ids(stream.as_str());
        let (offer, state) = sdp::subscribe_offer(&source.plan, &local, &ids);
        let transport =
            self.replace_subscriber(now_ms, request, &source, Some(state), None, Some(&offer), out);
        let ops = vec![open(&transport, &local, None)];
        let (session, own) = (&request.session, &request.connection);
        let then = Then::ForceOffer(ForceOffer {
            session: session.clone(),
            subscriber: own.clone(),
            publisher: publisher.clone(),
            transport: transport.clone(),
            offer,
        });
        self.apply_then(now_ms, &place, ops, then, out).inspect_err(|_| {
            self.forget_subscriber(now_ms, session, own, publisher, &transport, out);
        })
    }

    /// The transport of a forced offer is there, or is not.
    pub(super) fn on_force_offer(
        &mut self,
        now_ms: u64,
        force: ForceOffer,
        result: Result<(), NodeError>,
        out: &mut Vec<Output>,
    ) {
        let ForceOffer { session, subscriber: own, publisher, transport, offer } = force;
        if result.is_err() {
            return self.forget_subscriber(now_ms, &session, &own, &publisher, &transport, out);
        }
        let subscriber = self.subscriber_mut(&session, &own, &publisher);
        let Some(subscriber) = subscriber.filter(|subscriber| subscriber.transport == transport) else {
            return;
        };
        subscriber.phase = Phase::Offered;
        let params = json!({ "connectionId": publisher, "streamId": subscriber.stream, "sdpOffer": offer });
        let found = self.registry.get(session.as_str());
        let active = found.and_then(|found| found.connections.get(own.as_str())?.active.as_ref());
        if let Some(active) = active {
            self.peers.notify(&active.rpc, &notification("forciblyReconnectSubscriber", params), out);
        }
    }

    fn subscriber_mut(
        &mut self,
        session: &SessionId,
        connection: &ConnectionId,
        publisher: &ConnectionId,
    ) -> Option<&mut Subscriber> {
        let session = self.registry.get_mut(session.as_str())?;
        session.connections.get_mut(connection.as_str())?.active.as_mut()?.subscribers.get_mut(publisher)
    }
}

/// Connection that a stream id ends with, if it is in the session.
fn owner_of<'a>(session: &'a Session, stream: &str) -> Option<&'a ConnectionId> {
    let owner = &stream[stream.rfind("con_")?..];
    session.participant(owner).map(|connection| &connection.id)
}

fn not_streaming(stream: &str) -> RpcError {
    RpcError::new(code::USER_NOT_STREAMING, format!("Stream {stream} is not published"))
}

fn open(transport: &str, local: &LocalTransport, remote: Option<RemoteTransport>) -> Op {
    Op::OpenTransport { transport: transport.to_owned(), ice: local.ice.clone(), remote }
}
