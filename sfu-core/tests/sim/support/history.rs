//! One random life of a shard, read from bytes: commands, media, loss, forgeries and garbage in any order.
//!
//! Every byte string is a history, so the fuzz target `shard_ops` and the seeded test run the same function. What must
//! hold at any time is asserted by the world around the shard: no panic, no endless timer, no number used twice, no
//! damaged payload; and at the end every slot is back and nothing is left to do.

use std::time::Duration;

use sfu_core::control::proto::{DtlsRole, Op};
use sfu_core::ids::{ExtSeq, LocalId, PayloadType, SeqNo, Ssrc};
use sfu_core::shard::{Command, Limits};
use sfu_core::wire::rtcp::{write_nack, write_pli};
use sfu_core::wire::rtp::HeaderFields;

use super::ms;
use super::network::Link;
use super::peer::{PEER, STRANGER};
use super::room::{Join, Publish, Subscribe};
use super::world::{Settings, World};

/// Ops of one history at most; a longer input is cut.
const OPS_MAX: usize = 120;
/// Peers that join in one history.
const PEERS_MAX: usize = 6;
/// Virtual time of one history: what makes it slow.
const TIME_MAX: Duration = Duration::from_secs(90);

/// Runs one history.
pub(crate) fn run(data: &[u8]) {
    let mut history = History::new(data);
    for _ in 0..OPS_MAX {
        if history.bytes.is_empty() {
            break;
        }
        history.op();
    }
    history.world.close_and_check();
}

struct History<'a> {
    bytes: &'a [u8],
    world: World,
    began: sfu_core::time::Timestamp,
}

impl<'a> History<'a> {
    fn new(data: &'a [u8]) -> History<'a> {
        let mut bytes = data;
        let mut head = [0; 4];
        for byte in &mut head {
            *byte = take(&mut bytes);
        }
        let mut settings = Settings::new(u64::from(u32::from_be_bytes(head)));
        settings.slots = [24, 128, 1024, 1024][usize::from(head[0] % 4)];
        settings.batch = [(2048, 2), (8192, 16), (1 << 18, 256)][usize::from(head[1] % 3)];
        if head[2].is_multiple_of(8) {
            settings.limits = Limits { transports: 3, handshakes: 1, fan_out: 2, ..Limits::default() };
        }
        let world = World::with(settings);
        History { bytes, began: world.now, world }
    }

    fn byte(&mut self) -> u8 {
        take(&mut self.bytes)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    /// One of the peers that joined.
    fn peer(&mut self) -> Option<usize> {
        let count = self.world.peers.len();
        let at = self.below(count);
        (count > 0).then_some(at)
    }

    fn subscription(&mut self) -> String {
        format!("s{}", self.below(6))
    }

    fn publication(&mut self) -> String {
        format!("p{}", self.below(3))
    }

    fn apply(&mut self, op: Op) {
        // Refused or not: the shard has to bear it.
        let _ = self.world.apply(vec![op]);
    }

    fn op(&mut self) {
        match self.byte() % 32 {
            0..=2 => self.join(),
            3..=5 => self.publish(),
            6..=9 => self.subscribe(),
            10..=14 => self.wait(),
            15 => {
                let subscription = self.subscription();
                self.apply(Op::Unsubscribe { subscription });
            }
            16 => {
                let publication = self.publication();
                self.apply(Op::Unpublish { publication });
            }
            17 => {
                if let Some(peer) = self.peer() {
                    let transport = self.world.peers[peer].name.clone();
                    self.apply(Op::CloseTransport { transport });
                }
            }
            18 | 19 => {
                let (subscription, flags) = (self.subscription(), self.byte());
                self.apply(Op::Pause { subscription, audio: flags & 1 != 0, video: flags & 2 != 0 });
            }
            20 => {
                let publication = self.publication();
                self.apply(Op::RequestKeyFrame { publication });
            }
            21 => self.link(),
            22 => self.peer_changes(),
            23 | 24 => self.leave_waiting(),
            25 => self.garbage(),
            26 | 27 => self.sealed_garbage(),
            28 => self.feedback(),
            29 => self.forge(),
            30 => self.room(),
            _ => self.mute(),
        }
    }

    /// Mutes what is sent, or goes on with it, perhaps under another SSRC.
    fn mute(&mut self) {
        let Some(peer) = self.peer() else { return };
        for at in 0..self.world.peers[peer].senders.len() {
            let tag = self.world.give();
            let sender = &mut self.world.peers[peer].senders[at];
            sender.muted = !sender.muted;
            if !sender.muted && sender.frames().is_multiple_of(2) {
                sender.change_ssrc(tag, (tag as u16).wrapping_mul(977), tag.is_multiple_of(2));
            }
        }
    }

    fn join(&mut self) {
        let flags = self.byte();
        if self.world.peers.len() == PEERS_MAX {
            return;
        }
        let name = format!("t{}", self.world.peers.len());
        let join = Join {
            role: if flags & 1 == 0 { DtlsRole::Client } else { DtlsRole::Server },
            told: if flags & 0x0e == 0x0e { STRANGER } else { PEER },
            remote_later: flags & 0x30 == 0x30,
            ipv6: flags & 0x40 != 0,
        };
        let _ = self.world.join_as(&name, join);
    }

    fn publish(&mut self) {
        let Some(peer) = self.peer() else { return };
        let (id, flags) = (self.publication(), self.byte());
        let what = Publish {
            audio: flags & 3 != 1,
            video: flags & 3 != 2,
            layers: if flags & 0x0c == 0x0c { 3 } else { 1 },
            rtx: flags & 0x10 == 0,
            signaled: flags & 0x60 != 0,
            pli: flags & 0x80 == 0,
            padding_every: flags.is_multiple_of(3).then_some(2),
            ..Publish::default()
        };
        // What is not signaled is found by MID, so two such publications on one transport would be mixed up.
        let free = self.world.peers[peer].senders.is_empty();
        let what = Publish { signaled: what.signaled || !free, ..what };
        let _ = self.world.publish(peer, &id, &what);
    }

    fn subscribe(&mut self) {
        let Some(peer) = self.peer() else { return };
        let (id, publication, flags) = (self.subscription(), self.publication(), self.byte());
        let what = Subscribe {
            audio: flags & 3 != 1,
            video: flags & 3 != 2,
            rtx: flags & 4 == 0,
            nack: flags & 0x18 != 0,
            pli: flags & 0x20 == 0,
        };
        let _ = self.world.subscribe(peer, &id, &publication, what);
    }

    fn wait(&mut self) {
        let time = match self.byte() {
            short @ 0..=199 => ms(u64::from(short)),
            long @ 200..=253 => ms(u64::from(long - 199) * 10),
            _ => ms(11_000),
        };
        if self.world.now.since(self.began) < TIME_MAX {
            self.world.run_for(time);
        }
    }

    fn link(&mut self) {
        let Some(peer) = self.peer() else { return };
        let mut link = || {
            let byte = self.byte();
            Link {
                delay: ms(u64::from(byte & 0x0f)),
                jitter: ms(u64::from(byte >> 6) * 15),
                loss: [0.0, 0.03, 0.2, 0.9][usize::from(byte >> 4 & 3)],
                duplicate: if byte & 1 == 0 { 0.0 } else { 0.1 },
            }
        };
        let (up, down) = (link(), link());
        let addr = self.world.peers[peer].addr;
        self.world.network.set_link(addr, up, down);
    }

    fn peer_changes(&mut self) {
        let Some(peer) = self.peer() else { return };
        match self.byte() % 5 {
            0 => self.world.hang_up(peer),
            1 => self.world.peers[peer].checking = !self.world.peers[peer].checking,
            2 => {
                let _ = self.world.connect(peer);
            }
            3 => {
                let port = 30_000 + self.world.give() as u16;
                self.world.rebind(peer, ([203, 0, 113, 7], port).into());
            }
            _ => {
                for sender in &mut self.world.peers[peer].senders {
                    sender.force_key_frame();
                }
            }
        }
    }

    /// Media reaches the shard, and the next op comes before its turn ends.
    fn leave_waiting(&mut self) {
        let Some(peer) = self.peer() else { return };
        self.world.now += ms(34);
        let (now, from, local) = (self.world.now, self.world.peers[peer].addr, self.world.peers[peer].local);
        self.world.peers[peer].tick(now);
        for datagram in std::mem::take(&mut self.world.peers[peer].out) {
            self.world.deliver(from, local, &datagram);
        }
    }

    fn garbage(&mut self) {
        let from = match self.peer() {
            Some(peer) if !self.byte().is_multiple_of(4) => self.world.peers[peer].addr,
            _ => ([198, 51, 100, 1], 9).into(),
        };
        let len = self.below(64).min(self.bytes.len());
        let bytes: Vec<u8> = (0..len).map(|_| self.byte()).collect();
        self.world.deliver(from, LocalId(0), &bytes);
    }

    /// Bytes nobody checks but who has the keys.
    fn sealed_garbage(&mut self) {
        let Some(peer) = self.peer() else { return };
        let (kind, number) = (self.byte(), u16::from_be_bytes([self.byte(), self.byte()]));
        let len = self.below(80);
        let payload: Vec<u8> = (0..len).map(|_| self.byte()).collect();
        let peer = &mut self.world.peers[peer];
        let (from, local) = (peer.addr, peer.local);
        let Some((_, tx)) = peer.srtp.as_mut() else { return };
        let mut out = vec![0; 512];
        let len = if kind & 1 == 0 {
            let start = 8 + payload.len();
            out[..4].copy_from_slice(&[0x80 | kind >> 3, 200 + kind % 8, 0, 1]);
            // Short of a word now and then.
            out[8..start].copy_from_slice(&payload);
            out[2..4].copy_from_slice(&((start / 4) as u16).wrapping_sub(1).to_be_bytes());
            tx.protect_rtcp(&mut out, start)
        } else {
            let fields = HeaderFields {
                marker: kind & 2 != 0,
                // The last byte of the payload says how much.
                padding: kind & 4 != 0,
                payload_type: PayloadType(64 + (kind >> 3)),
                seq: SeqNo(number),
                timestamp: 0,
                // None that is negotiated, so that only the shard has to read it.
                ssrc: Ssrc(u32::from(kind)),
            };
            let header_len = fields.write(&mut out, &[]).expect("room for a header");
            // Neither 96, 97 nor 111, which would be learnt and forwarded.
            out[1] &= 0xd7;
            tx.protect_rtp(&mut out, header_len, &payload, fields.ssrc, ExtSeq(u64::from(number)))
        };
        self.world.deliver(from, local, &out[..len]);
    }

    /// NACKs and PLIs of streams that are there or not.
    fn feedback(&mut self) {
        let Some(peer) = self.peer() else { return };
        let (which, back, count) = (self.below(8), u64::from(self.byte()), self.below(60) as u64);
        let peer = &mut self.world.peers[peer];
        let (media, newest) = match peer.receivers.get(which) {
            Some(receiver) => {
                let newest = receiver.arrivals.last_key_value().map_or(0, |(seq, _)| *seq);
                (Ssrc(receiver.spec.ssrc), newest)
            }
            None => (Ssrc(which as u32), 77),
        };
        let first = (newest + 20).saturating_sub(back);
        let wanted = (first..=first + count).map(|seq| ExtSeq(seq).seq());
        peer.send_rtcp(|out| write_nack(out, Ssrc(1), media, wanted));
        peer.send_rtcp(|out| write_pli(out, Ssrc(1), media));
        let (from, local) = (peer.addr, peer.local);
        for datagram in std::mem::take(&mut peer.out) {
            self.world.deliver(from, local, &datagram);
        }
    }

    /// A real datagram: twice, with a bit turned, cut short, or from elsewhere.
    fn forge(&mut self) {
        let (Some(peer), Some(other)) = (self.peer(), self.peer()) else { return };
        let (at, how) = (usize::from(self.byte()), self.byte());
        let (now, from, local) = (self.world.now, self.world.peers[peer].addr, self.world.peers[peer].local);
        let check = self.world.peers[peer].check();
        self.world.peers[peer].out.push(check);
        self.world.peers[peer].tick(now);
        let elsewhere = self.world.peers[other].addr;
        for mut datagram in std::mem::take(&mut self.world.peers[peer].out) {
            if how & 1 != 0 {
                self.world.deliver(from, local, &datagram);
            }
            match how >> 1 & 3 {
                0 => {
                    let at = at % datagram.len();
                    datagram[at] ^= 1 << (how >> 5);
                }
                1 => datagram.truncate(at % datagram.len()),
                _ => {}
            }
            let from = if how & 0x18 == 0x18 { elsewhere } else { from };
            self.world.deliver(from, local, &datagram);
        }
    }

    fn room(&mut self) {
        match self.byte() % 4 {
            0 => self.apply(Op::CloseRoom),
            1 => self.apply(Op::OpenRoom { core: 0 }),
            2 => {
                let _ = self.world.command(|token| Command::ListRooms { token });
            }
            _ => {
                let _ = self.world.command(|token| Command::RoomStats { token, room: "room".into() });
            }
        }
    }
}

fn take(bytes: &mut &[u8]) -> u8 {
    let Some((first, rest)) = bytes.split_first() else { return 0 };
    *bytes = rest;
    *first
}
