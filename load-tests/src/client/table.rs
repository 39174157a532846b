//! The clients of one worker: by key for commands, by slot for the wheel, by port for the wire.

use std::collections::HashMap;
use std::time::Instant;

use super::fetch::fetch;
use super::full::FullPeer;
use super::peer::{Context, Next, Peer};
use crate::clock;

/// No client has this slot.
const NOBODY: u32 = u32::MAX;

/// One client of either kind.
pub(crate) enum Client {
    Light(Box<Peer>),
    Full(Box<FullPeer>),
}

/// What is due of a client.
#[derive(Clone, Copy)]
pub(super) enum What {
    Visit,
    Video,
    Audio,
}

impl Client {
    pub(super) fn light(&mut self) -> Option<&mut Peer> {
        match self {
            Client::Light(peer) => Some(peer),
            Client::Full(_) => None,
        }
    }

    pub(super) fn visit(&mut self, now: Instant, now_ns: u64, context: &mut Context) -> Next {
        match self {
            Client::Light(peer) => peer.visit(now, now_ns, context),
            Client::Full(peer) => peer.visit(now, now_ns, context),
        }
    }

    /// An error ends the client.
    pub(super) fn send(&mut self, what: What, now: Instant, context: &mut Context) -> anyhow::Result<()> {
        let now_ns = clock::wall_ns();
        match (self, what) {
            (Client::Light(peer), What::Video) => peer.send_video(now_ns, context),
            (Client::Light(peer), _) => peer.send_audio(now_ns, context),
            (Client::Full(peer), What::Video) => peer.send_video(now, now_ns, context)?,
            (Client::Full(peer), _) => peer.send_audio(now, now_ns, context)?,
        }
        Ok(())
    }

    pub(super) fn is_publisher(&self) -> bool {
        match self {
            Client::Light(peer) => peer.is_publisher(),
            Client::Full(peer) => peer.is_publisher(),
        }
    }
}

/// Where a client is, as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle {
    slot: u32,
    key: u64,
}

impl Handle {
    pub(super) fn key(self) -> u64 {
        self.key
    }
}

struct Entry {
    key: u64,
    /// Port of the wire.
    port: Option<u16>,
    client: Client,
}

/// See the module.
pub(super) struct Table {
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    by_key: HashMap<u64, u32>,
    by_port: Box<[u32]>,
}

impl Table {
    pub(super) fn new() -> Table {
        let by_port = vec![NOBODY; usize::from(u16::MAX) + 1].into();
        Table { slots: Vec::new(), free: Vec::new(), by_key: HashMap::new(), by_port }
    }

    /// Adds a client, who may have a port of the wire; keys are not used twice.
    pub(super) fn insert(&mut self, key: u64, port: Option<u16>, client: Client) -> Handle {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        if let Some(port) = port {
            self.by_port[usize::from(port)] = slot;
        }
        self.slots[slot as usize] = Some(Entry { key, port, client });
        self.by_key.insert(key, slot);
        Handle { slot, key }
    }

    /// Drops a client, if it is still there.
    pub(super) fn remove(&mut self, key: u64) {
        let Some(slot) = self.by_key.remove(&key) else { return };
        self.free.push(slot);
        let Some(entry) = self.slots[slot as usize].take() else { return };
        // Ports come round again: it may be somebody else's by now.
        if let Some(port) = entry.port.map(usize::from)
            && self.by_port[port] == slot
        {
            self.by_port[port] = NOBODY;
        }
    }

    pub(super) fn get(&mut self, handle: Handle) -> Option<&mut Client> {
        match self.slots.get_mut(handle.slot as usize)? {
            Some(entry) if entry.key == handle.key => Some(&mut entry.client),
            _ => None,
        }
    }

    /// The light client with this key.
    pub(super) fn light(&mut self, key: u64) -> Option<&mut Peer> {
        let slot = *self.by_key.get(&key)?;
        self.get(Handle { slot, key })?.light()
    }

    /// The light client at a port of the wire, and its key.
    pub(super) fn at_port(&mut self, port: u16) -> Option<(u64, &mut Peer)> {
        let slot = self.by_port[usize::from(port)];
        let entry = self.slots.get_mut(slot as usize)?.as_mut()?;
        Some((entry.key, entry.client.light()?))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Client> {
        self.slots.iter_mut().flatten().map(|entry| &mut entry.client)
    }

    /// Takes one of the steps by which the client at `port` is brought close before it is used.
    pub(super) fn approach_port(&self, port: u16, step: usize) {
        self.approach(self.by_port[usize::from(port)], step);
    }

    /// The same for what is due.
    pub(super) fn approach_handle(&self, handle: Handle, step: usize) {
        self.approach(handle.slot, step);
    }

    fn approach(&self, slot: u32, step: usize) {
        match self.slots.get(slot as usize) {
            Some(Some(Entry { client: Client::Light(peer), .. })) => peer.approach(step),
            Some(Some(Entry { client: Client::Full(peer), .. })) if step == 0 => fetch(&**peer),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::client::dtls::Identity;
    use crate::client::ice::Credentials;
    use crate::client::net::Socket;
    use crate::client::peer::Role;
    use crate::client::receiver::Receiver;
    use crate::client::sdp::{self, Remote};
    use crate::client::units::Units;
    use crate::media::{Clip, VideoFrame};

    fn client() -> Client {
        let ice = Credentials { ufrag: "abcd".into(), pwd: "0123456789012345678901".into() };
        let local = sdp::Local {
            ice: ice.clone(),
            fingerprint: vec!["AB"; 32].join(":"),
            address: "127.0.0.1:4000".parse().expect("an address"),
            ssrcs: Some(sdp::Ssrcs { audio: 1, video: 2, video_rtx: 3 }),
        };
        let remote = Remote::parse(&sdp::publish_offer(&local).expect("an offer")).expect("it is read");
        let video = vec![VideoFrame { key: true, data: vec![1; 900] }];
        let clip = Clip { label: "test".into(), video, video_fps: 30, audio: vec![vec![9; 80]] };
        let receiver = Receiver::new(&remote, Arc::new(Units::new(Arc::new(clip))), None, 7);
        let socket = Socket::bind([127, 0, 0, 1].into()).expect("a socket");
        let identity = Identity::generate().expect("a certificate");
        let (sender, _) = tokio::sync::oneshot::channel();
        let role = Role::Receiver(Box::new(receiver));
        Client::Light(Box::new(Peer::new(socket, identity, &ice, remote, role, sender, clock::now())))
    }

    #[test]
    fn a_handle_is_of_one_client_and_a_port_of_the_newest() {
        let mut table = Table::new();
        let first = table.insert(1, Some(10_000), client());
        let second = table.insert(2, Some(10_001), client());
        assert_eq!(table.at_port(10_000).map(|(key, _)| key), Some(1));
        table.remove(1);
        table.remove(1);
        assert!(table.get(first).is_none() && table.light(1).is_none() && table.at_port(10_000).is_none());
        let third = table.insert(3, Some(10_001), client());
        assert_eq!((third.slot, first.slot), (0, 0));
        assert!(table.get(first).is_none() && table.get(third).is_some() && table.light(2).is_some());
        table.remove(2);
        assert_eq!(table.at_port(10_001).map(|(key, _)| key), Some(3), "the port had come round");
        assert!(table.get(second).is_none());
        assert_eq!(table.iter_mut().count(), 1);
        for step in 0..4 {
            table.approach_handle(second, step);
            table.approach_port(10_001, step);
            table.approach_port(10_002, step);
        }
    }
}
