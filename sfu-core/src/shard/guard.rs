//! The DTLS engine is the one outside state machine that works on what a stranger sent. Should it panic, now or at its next
//! timer, one peer is lost and the core goes on.
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::drop_reason::DropReason;
use crate::transport::outbox::Outbox;
use crate::transport::{StateChange, Transport};

use super::Shard;

impl Shard {
    /// Lets a peer's transport do what may reach its DTLS engine. `Err`: that panicked; the transport has failed, which is
    /// counted, and this is the change to tell.
    pub(super) fn guarded<T>(
        &mut self,
        index: u32,
        work: impl FnOnce(&mut Transport, &mut Outbox) -> T,
    ) -> Result<T, Option<StateChange>> {
        let transport = &mut self.peers[index as usize].transport;
        let outbox = &mut self.outbox;
        // What the panic left half done is thrown away with the transport; the outbox takes whole datagrams only.
        catch_unwind(AssertUnwindSafe(|| work(transport, outbox))).map_err(|_| {
            self.counters.drop(DropReason::Internal);
            self.peers[index as usize].transport.fail("DTLS engine failed")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::buf::RxPool;
    use crate::control::proto::{DtlsRole, Fingerprint, IceCredentials, Op, RemoteTransport, TransportState};
    use crate::crypto::{Certificate, MasterKey, SrtpProfile, SrtpRx, SrtpTx};
    use crate::engine::Engine;
    use crate::ids::{CoreId, LocalId};
    use crate::shard::{Command, Event, Limits, ShardConfig};
    use crate::time::Timestamp;
    use crate::transport::{DtlsContext, Pair, SrtpPair};

    struct Bench {
        shard: Shard,
        pool: RxPool,
    }

    /// A shard with two connected peers, the first of which has a DTLS engine that panics when it is used.
    fn bench() -> Bench {
        let certificate = Arc::new(Certificate::generate().expect("a key can be made"));
        let fingerprint =
            Fingerprint { algorithm: "sha-256".into(), value: certificate.fingerprint().into() };
        let dtls = DtlsContext { certificate, epoch: crate::reactor::clock::epoch() };
        let shard = Shard::new(ShardConfig { core: CoreId(0), dtls, limits: Limits::default(), seed: 1 });
        let mut bench = Bench { shard, pool: RxPool::new(64).expect("memory") };
        bench.apply(Op::OpenRoom { core: 0 });
        for (index, name) in ["broken", "sound"].into_iter().enumerate() {
            let ice = IceCredentials { ufrag: format!("{name}-u"), pwd: "0123456789012345678901".into() };
            let remote = RemoteTransport {
                ice_ufrag: "peer".into(),
                fingerprints: vec![fingerprint.clone()],
                dtls_role: DtlsRole::Client,
            };
            bench.apply(Op::OpenTransport { transport: name.into(), ice, remote: Some(remote) });
            let pair = Pair { remote: ([192, 0, 2, 1], 9 + index as u16).into(), local: LocalId(0) };
            let transport = &mut bench.shard.peers[index].transport;
            transport.ice.on_check(Timestamp::ZERO, pair, true);
            transport.srtp = Some(keys());
            bench.shard.demux.insert_pair(pair, index as u32);
            bench.shard.reschedule(Timestamp::ZERO, index as u32);
        }
        bench.shard.peers[0].transport.break_dtls();
        bench
    }

    fn keys() -> SrtpPair {
        let profile = SrtpProfile::AeadAes128Gcm;
        let key = MasterKey::new(profile, &[1; 16], &[2; 12]).expect("of the profile's lengths");
        SrtpPair { rx: SrtpRx::new(profile, &key), tx: SrtpTx::new(profile, &key) }
    }

    impl Bench {
        fn apply(&mut self, op: Op) {
            let command = Command::Apply { token: 0, room: "r".into(), ops: vec![op] };
            self.shard.handle_command(Timestamp::ZERO, &mut self.pool, command);
            let answer = self.shard.events.pop_back();
            assert!(matches!(answer, Some(Event::Reply { result: Ok(_), .. })), "{answer:?}");
        }

        /// The broken one has failed, and nothing else has happened.
        fn assert_one_failed(&mut self) {
            let told: Vec<_> = self.shard.events.drain(..).collect();
            let [Event::TransportState { transport, state: TransportState::Failed, reason, .. }] = &told[..]
            else {
                panic!("{told:?}")
            };
            assert_eq!((&**transport, *reason), ("broken", "DTLS engine failed"));
            assert!(self.shard.peers[0].transport.is_over() && self.shard.peers[0].transport.srtp.is_none());
            assert!(!self.shard.peers[1].transport.is_over());
            assert_eq!(self.shard.counters.dropped(DropReason::Internal), 1);
        }
    }

    #[test]
    fn an_engine_that_panics_in_a_timer_costs_one_peer() {
        let mut bench = bench();
        bench.shard.handle_timeout(Timestamp::from_millis(1_000), &mut bench.pool);
        bench.assert_one_failed();
        bench.shard.handle_timeout(Timestamp::from_millis(2_000), &mut bench.pool);
        assert_eq!(bench.shard.counters.dropped(DropReason::Internal), 1, "it is not used again");
    }

    #[test]
    fn an_engine_that_panics_at_a_datagram_costs_one_peer() {
        let mut bench = bench();
        let slot = bench.pool.alloc().expect("a slot");
        let from = ([192, 0, 2, 1], 9).into();
        let datagram = crate::buf::Datagram { slot, start: 0, len: 0, from, local: LocalId(0) };
        bench.shard.handshake_queue.push_back((0, datagram));
        bench.shard.work_on_handshakes(Timestamp::ZERO, &mut bench.pool);
        bench.assert_one_failed();
        assert_eq!(bench.pool.free(), bench.pool.capacity());
    }

    #[test]
    fn an_engine_that_panics_at_its_end_costs_nothing() {
        let mut bench = bench();
        bench.apply(Op::CloseTransport { transport: "broken".into() });
        assert_eq!(bench.shard.counters.dropped(DropReason::Internal), 1);
        assert_eq!(bench.shard.peers.len(), 1);
        bench.apply(Op::CloseRoom);
        assert!(bench.shard.peers.is_empty() && bench.shard.rooms.is_empty());
    }
}
