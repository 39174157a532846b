//! Commands: how rooms, transports, publications and subscriptions come and go.
//!
//! Everything is checked before anything changes, so that a refused op leaves the tables as they were.
#![forbid(unsafe_code)]

use crate::buf::RxPool;
use crate::control::proto::{
    IceCredentials, MAX_ID_BYTES, MediaKind, Op, PublicationTrack, RemoteTransport, SubscriptionTrack,
};
use crate::forward::feedback::ReportSchedule;
use crate::forward::pending::{FrameClock, PendingList};
use crate::forward::room::{PerKind, Publication, Room, Subscription, Track};
use crate::forward::route::RouteTable;
use crate::forward::twcc::ArrivalRecorder;
use crate::ids::Ssrc;
use crate::time::Timestamp;
use crate::transport::Transport;

use super::{Answer, Command, Event, OpError, Peer, Shard};

mod tracks;

impl Shard {
    pub(super) fn command(&mut self, now: Timestamp, pool: &mut RxPool, command: Command) {
        let (token, result) = match command {
            Command::Apply { token, room, ops } => {
                (token, self.apply(now, pool, &room, &ops).map(|()| Answer::Done))
            }
            Command::RoomStats { token, room } => (token, self.room_stats(&room).map(Answer::RoomStats)),
            Command::ListRooms { token } => (token, Ok(Answer::Rooms(self.list_rooms()))),
            Command::CloseAll { token } => {
                for index in self.rooms.iter().map(|(index, _)| index as u32).collect::<Vec<_>>() {
                    self.close_room(now, pool, index);
                }
                (token, Ok(Answer::Done))
            }
        };
        self.emit(Event::Reply { token, result });
    }

    fn apply(&mut self, now: Timestamp, pool: &mut RxPool, room: &str, ops: &[Op]) -> Result<(), OpError> {
        for (index, op) in ops.iter().enumerate() {
            self.apply_one(now, pool, room, op).map_err(|error| OpError { op: index, ..error })?;
        }
        Ok(())
    }

    fn apply_one(&mut self, now: Timestamp, pool: &mut RxPool, room: &str, op: &Op) -> Result<(), OpError> {
        if let Op::OpenRoom { core } = op {
            return self.open_room(room, *core);
        }
        let index = *self.room_ids.get(room).ok_or_else(|| OpError::not_found("room", room))?;
        match op {
            Op::OpenRoom { .. } => unreachable!("handled above"),
            Op::CloseRoom => self.close_room(now, pool, index),
            Op::OpenTransport { transport, ice, remote } => {
                self.open_transport(now, index, transport, ice, remote.as_ref())?;
            }
            Op::ConnectTransport { transport, remote } => {
                let peer = self.find_transport(index, transport)?;
                self.connect_transport(now, peer, remote)?;
            }
            Op::CloseTransport { transport } => {
                let peer = self.find_transport(index, transport)?;
                self.close_transport(now, pool, peer);
            }
            Op::Publish { transport, publication, tracks } => {
                let peer = self.find_transport(index, transport)?;
                self.publish(now, pool, index, peer, publication, tracks)?;
            }
            Op::Unpublish { publication } => {
                let publication = self.find_publication(index, publication)?;
                self.unpublish(pool, publication);
            }
            Op::Subscribe { transport, subscription, publication, tracks } => {
                let peer = self.find_transport(index, transport)?;
                let publication = self.find_publication(index, publication)?;
                self.subscribe(now, index, peer, publication, subscription, tracks)?;
            }
            Op::Unsubscribe { subscription } => {
                let subscription = self.find_subscription(index, subscription)?;
                self.unsubscribe(pool, subscription);
            }
            Op::Pause { subscription, audio, video } => {
                let subscription = self.find_subscription(index, subscription)?;
                self.pause(now, subscription, *audio, *video);
            }
            Op::RequestKeyFrame { publication } => {
                let publication = self.find_publication(index, publication)?;
                self.request_key_frame(now, publication);
            }
        }
        Ok(())
    }

    fn open_room(&mut self, id: &str, core: u16) -> Result<(), OpError> {
        if core != self.core.0 {
            return Err(OpError::invalid(format!("core {core} is not this core, {}", self.core)));
        }
        if self.room_ids.contains_key(id) {
            return Ok(());
        }
        check_id("room", id)?;
        if self.rooms.len() >= self.limits.rooms {
            return Err(OpError::overloaded("room", self.limits.rooms));
        }
        let index = self.rooms.insert(Room::new(id)) as u32;
        self.room_ids.insert(id.into(), index);
        Ok(())
    }

    fn close_room(&mut self, now: Timestamp, pool: &mut RxPool, index: u32) {
        for peer in self.rooms[index as usize].transports.values().copied().collect::<Vec<_>>() {
            self.close_transport(now, pool, peer);
        }
        let room = self.rooms.remove(index as usize);
        self.room_ids.remove(&room.id);
    }

    fn open_transport(
        &mut self,
        now: Timestamp,
        room: u32,
        id: &str,
        ice: &IceCredentials,
        remote: Option<&RemoteTransport>,
    ) -> Result<(), OpError> {
        check_id("transport", id)?;
        check_credentials(ice)?;
        if self.rooms[room as usize].transports.contains_key(id) {
            return Err(OpError::conflict("transport", id));
        }
        if self.peers.len() >= self.limits.transports {
            return Err(OpError::overloaded("transport", self.limits.transports));
        }
        let mut transport = Transport::new(now, id, room, &ice.ufrag, &ice.pwd);
        if let Some(remote) = remote {
            transport.set_remote(now, remote, &self.dtls).map_err(OpError::invalid)?;
        }
        let index = self.peers.vacant_key() as u32;
        if !self.demux.insert_ufrag(&ice.ufrag, index) {
            return Err(OpError::conflict("ice.ufrag", &ice.ufrag));
        }
        let peer = Peer {
            transport,
            routes: RouteTable::default(),
            publications: Vec::new(),
            subscriptions: Vec::new(),
            sent_ssrcs: Vec::new(),
            ssrc: Ssrc(self.random.next() as u32),
            arrivals: ArrivalRecorder::new(),
            reports: ReportSchedule::new(now, self.random.next()),
            handshaking: false,
        };
        self.peers.insert(peer);
        self.rooms[room as usize].transports.insert(id.into(), index);
        self.reschedule(now, index);
        Ok(())
    }

    fn connect_transport(
        &mut self,
        now: Timestamp,
        index: u32,
        remote: &RemoteTransport,
    ) -> Result<(), OpError> {
        let transport = &mut self.peers[index as usize].transport;
        transport.set_remote(now, remote, &self.dtls).map_err(OpError::invalid)?;
        self.reschedule(now, index);
        Ok(())
    }

    fn close_transport(&mut self, now: Timestamp, pool: &mut RxPool, index: u32) {
        for publication in self.peers[index as usize].publications.clone() {
            self.unpublish(pool, publication);
        }
        for subscription in self.peers[index as usize].subscriptions.clone() {
            self.unsubscribe(pool, subscription);
        }
        // It is over either way.
        let _ = self.guarded(index, |transport, outbox| transport.shut_down(now, outbox));
        self.note_handshake(index);
        // What still waits for this index must not reach its next owner.
        self.handshake_queue.retain(|(owner, datagram)| {
            if *owner == index {
                pool.release(datagram.slot);
            }
            *owner != index
        });
        self.timers.cancel(index);
        let peer = self.peers.remove(index as usize);
        for pair in peer.transport.ice.valid_pairs() {
            self.demux.remove_pair(pair, index);
        }
        self.demux.remove_ufrag(peer.transport.ice.ufrag());
        self.rooms[peer.transport.room as usize].transports.remove(&peer.transport.id);
    }

    fn publish(
        &mut self,
        now: Timestamp,
        pool: &mut RxPool,
        room: u32,
        peer: u32,
        id: &str,
        tracks: &[PublicationTrack],
    ) -> Result<(), OpError> {
        check_id("publication", id)?;
        let moved = self.rooms[room as usize].publications.get(id).copied();
        let index = moved.unwrap_or(self.publications.vacant_key() as u32);
        let built = tracks::build(now, tracks)?;
        let mut routes = self.peers[peer as usize].routes.clone();
        routes.remove_publication(index);
        tracks::enter_routes(&mut routes, index, tracks)?;
        self.peers[peer as usize].routes = routes;
        match moved {
            Some(index) => self.move_publication(now, pool, index, peer, built),
            None => {
                let mut publication = Publication {
                    id: id.into(),
                    room,
                    transport: peer,
                    sources: 0,
                    tracks: PerKind::default(),
                    audio_resends: false,
                    subscriptions: Vec::new(),
                    pending: PendingList::default(),
                    frames: FrameClock::default(),
                };
                publication.set_tracks(built);
                self.publications.insert(publication);
                self.rooms[room as usize].publications.insert(id.into(), index);
                self.peers[peer as usize].publications.push(index);
            }
        }
        self.reschedule(now, peer);
        Ok(())
    }

    /// The publisher has a new peer connection: everything about the source is new, the subscriptions stay.
    fn move_publication(
        &mut self,
        now: Timestamp,
        pool: &mut RxPool,
        index: u32,
        peer: u32,
        tracks: PerKind<Track>,
    ) {
        self.release_packets(pool, index);
        let publication = &mut self.publications[index as usize];
        let old = std::mem::replace(&mut publication.transport, peer);
        publication.set_tracks(tracks);
        if old != peer {
            self.peers[old as usize].routes.remove_publication(index);
            self.peers[old as usize].publications.retain(|other| *other != index);
            self.peers[peer as usize].publications.push(index);
        }
        for subscription in &publication.subscriptions {
            self.subscriptions[*subscription as usize].adopt(publication);
            // With other extension ids a packet would leave changed under the index it had.
            self.resends.forget(*subscription, |slot| pool.release(slot));
        }
        if !publication.subscriptions.is_empty() {
            self.request_key_frame(now, index);
        }
    }

    /// Gives every slot of a publication back: waiting packets and the resend caches.
    pub(super) fn release_packets(&mut self, pool: &mut RxPool, index: u32) {
        let publication = &mut self.publications[index as usize];
        for packet in publication.pending.drain() {
            pool.release(packet.slot);
        }
        for track in publication.tracks.iter_mut() {
            for layer in &mut track.layers {
                layer.cache.drain(|slot| pool.release(slot));
            }
        }
    }

    fn unpublish(&mut self, pool: &mut RxPool, index: u32) {
        for subscription in self.publications[index as usize].subscriptions.clone() {
            self.unsubscribe(pool, subscription);
        }
        self.release_packets(pool, index);
        let publication = self.publications.remove(index as usize);
        let peer = &mut self.peers[publication.transport as usize];
        peer.publications.retain(|other| *other != index);
        peer.routes.remove_publication(index);
        self.rooms[publication.room as usize].publications.remove(&publication.id);
    }

    fn subscribe(
        &mut self,
        now: Timestamp,
        room: u32,
        peer: u32,
        publication: u32,
        id: &str,
        tracks: &[SubscriptionTrack],
    ) -> Result<(), OpError> {
        check_id("subscription", id)?;
        if self.rooms[room as usize].subscriptions.contains_key(id) {
            return Err(OpError::conflict("subscription", id));
        }
        let source = &self.publications[publication as usize];
        if source.subscriptions.len() >= self.limits.fan_out {
            return Err(OpError::overloaded("subscription", self.limits.fan_out));
        }
        let sent_ssrcs = tracks::claim_ssrcs(&self.peers[peer as usize].sent_ssrcs, tracks)?;
        let (mut egress, mut accepted) = (PerKind::default(), PerKind::default());
        for track in tracks {
            let from = source.tracks.get(track.kind).ok_or_else(|| {
                OpError::invalid(format!("tracks: the publication has no {:?} track", track.kind))
            })?;
            let built = tracks::egress(track, from, self.random.next() as u32)?;
            *egress.slot(track.kind) = Some(built);
            *accepted.slot(track.kind) = Some(tracks::accepted(track));
        }
        let index = self.subscriptions.insert(Subscription {
            id: id.into(),
            room,
            transport: peer,
            publication,
            egress,
            accepted,
        }) as u32;
        let publication_of = &mut self.publications[publication as usize];
        publication_of.subscriptions.push(index);
        publication_of.audio_resends |=
            tracks.iter().any(|track| track.kind == MediaKind::Audio && track.feedback.nack);
        self.peers[peer as usize].sent_ssrcs = sent_ssrcs;
        self.peers[peer as usize].subscriptions.push(index);
        self.rooms[room as usize].subscriptions.insert(id.into(), index);
        if self.peers[peer as usize].transport.srtp.is_some() {
            self.request_key_frame(now, publication);
        }
        self.reschedule(now, peer);
        Ok(())
    }

    fn unsubscribe(&mut self, pool: &mut RxPool, index: u32) {
        let subscription = self.subscriptions.remove(index as usize);
        let source = &mut self.publications[subscription.publication as usize];
        source.subscriptions.retain(|other| *other != index);
        self.peers[subscription.transport as usize].subscriptions.retain(|other| *other != index);
        self.rooms[subscription.room as usize].subscriptions.remove(&subscription.id);
        self.resends.forget(index, |slot| pool.release(slot));
    }

    fn pause(&mut self, now: Timestamp, index: u32, audio: bool, video: bool) {
        let subscription = &mut self.subscriptions[index as usize];
        let resumes = subscription.egress.video.as_ref().is_some_and(|egress| egress.is_paused()) && !video;
        for (kind, paused) in [(MediaKind::Audio, audio), (MediaKind::Video, video)] {
            if let Some(egress) = subscription.egress.get_mut(kind) {
                egress.set_paused(paused);
            }
        }
        let publication = subscription.publication;
        if resumes {
            self.request_key_frame(now, publication);
        }
    }

    fn find_transport(&self, room: u32, id: &str) -> Result<u32, OpError> {
        let found = self.rooms[room as usize].transports.get(id);
        found.copied().ok_or_else(|| OpError::not_found("transport", id))
    }

    fn find_publication(&self, room: u32, id: &str) -> Result<u32, OpError> {
        let found = self.rooms[room as usize].publications.get(id);
        found.copied().ok_or_else(|| OpError::not_found("publication", id))
    }

    fn find_subscription(&self, room: u32, id: &str) -> Result<u32, OpError> {
        let found = self.rooms[room as usize].subscriptions.get(id);
        found.copied().ok_or_else(|| OpError::not_found("subscription", id))
    }
}

fn check_id(what: &str, id: &str) -> Result<(), OpError> {
    match id.len() {
        1..=MAX_ID_BYTES => Ok(()),
        len => Err(OpError::invalid(format!("{what}: id of {len} bytes, allowed are 1 to {MAX_ID_BYTES}"))),
    }
}

/// RFC 8445 §5.3 sets the minimum lengths; the maximum keeps STUN messages small.
fn check_credentials(ice: &IceCredentials) -> Result<(), OpError> {
    for (field, value, range) in [("ice.ufrag", &ice.ufrag, 4..=32), ("ice.pwd", &ice.pwd, 22..=64)] {
        if !range.contains(&value.len()) {
            let (min, max) = (range.start(), range.end());
            return Err(OpError::invalid(format!(
                "{field}: {} characters, allowed are {min} to {max}",
                value.len()
            )));
        }
    }
    Ok(())
}
