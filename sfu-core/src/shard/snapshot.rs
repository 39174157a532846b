//! What runs on the shard, for a controller that comes back and for statistics. Off the packet path: these allocate.
#![forbid(unsafe_code)]

use crate::control::proto::{MediaKind, RoomInfo, RoomStats, StreamStats, TransportInfo};
use crate::forward::room::{Publication, Subscription, Track};

use super::{OpError, Shard};

impl Shard {
    /// Everything that is open.
    pub(super) fn list_rooms(&self) -> Vec<RoomInfo> {
        let info = |room: &crate::forward::room::Room| RoomInfo {
            room: room.id.to_string(),
            core: self.core.0,
            transports: room.transports.values().map(|index| self.transport_info(*index)).collect(),
            publications: room.publications.keys().map(ToString::to_string).collect(),
            subscriptions: room.subscriptions.keys().map(ToString::to_string).collect(),
        };
        self.rooms.iter().map(|(_, room)| info(room)).collect()
    }

    fn transport_info(&self, index: u32) -> TransportInfo {
        let transport = &self.peers[index as usize].transport;
        TransportInfo { transport: transport.id.to_string(), state: transport.state() }
    }

    /// Counters of one room's streams.
    pub(super) fn room_stats(&self, id: &str) -> Result<RoomStats, OpError> {
        let index = self.room_ids.get(id).ok_or_else(|| OpError::not_found("room", id))?;
        let room = &self.rooms[*index as usize];
        let publications = room.publications.values().map(|index| &self.publications[*index as usize]);
        let subscriptions = room.subscriptions.values().map(|index| &self.subscriptions[*index as usize]);
        Ok(RoomStats {
            inbound: publications.flat_map(inbound).collect(),
            outbound: subscriptions.flat_map(outbound).collect(),
        })
    }
}

fn label(kind: MediaKind) -> String {
    match kind {
        MediaKind::Audio => "audio".into(),
        MediaKind::Video => "video".into(),
    }
}

fn inbound(publication: &Publication) -> Vec<StreamStats> {
    let layers = |track: &Track| -> Vec<StreamStats> {
        let stats = |layer: &crate::forward::room::Layer| {
            let received = layer.ingress.counters();
            StreamStats {
                id: publication.id.to_string(),
                kind: label(track.kind),
                ssrc: layer.ssrc.map_or(0, |ssrc| ssrc.0),
                packets: received.packets,
                bytes: received.bytes,
                lost: layer.ingress.lost(),
                retransmitted: received.recovered,
                nacked: layer.nack.counters().requested,
                key_frame_requests: track.key_frames.sent(),
                jitter: layer.ingress.jitter(),
                rtt_us: 0,
            }
        };
        track.layers.iter().map(stats).collect()
    };
    publication.tracks.iter().flat_map(layers).collect()
}

fn outbound(subscription: &Subscription) -> Vec<StreamStats> {
    let stats = |kind: MediaKind| {
        let egress = subscription.egress.get(kind)?;
        let sent = egress.counters();
        let heard = egress.peer_report().unwrap_or_default();
        Some(StreamStats {
            id: subscription.id.to_string(),
            kind: label(kind),
            ssrc: egress.config().ssrc.0,
            packets: sent.packets,
            bytes: sent.bytes,
            lost: i64::from(heard.cumulative_lost),
            retransmitted: sent.resent,
            nacked: sent.nacked,
            key_frame_requests: sent.key_frame_requests,
            jitter: heard.jitter,
            rtt_us: egress.rtt().map_or(0, |rtt| rtt.as_micros() as u64),
        })
    };
    [MediaKind::Audio, MediaKind::Video].into_iter().filter_map(stats).collect()
}
