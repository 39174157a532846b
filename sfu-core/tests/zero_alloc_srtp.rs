//! Protecting and opening packets allocates nothing: counted by the allocator of this test program.

mod counting;

use sfu_core::crypto::{MasterKey, SrtpProfile, SrtpRx, SrtpTx};
use sfu_core::drop_reason::DropReason;
use sfu_core::ids::{ExtSeq, SeqNo, Ssrc};

/// How many allocations `work` makes on this thread.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = counting::allocations();
    work();
    counting::allocations() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

/// Note that this program counts Rust's allocations only; aws-lc's own would go to malloc, but its AEAD calls make none.
#[test]
fn no_packet_allocates() {
    for profile in SrtpProfile::ALL {
        let key = MasterKey::new(profile, &vec![1; profile.key_len()], &vec![2; profile.salt_len()]).unwrap();
        let (mut tx, mut rx) = (SrtpTx::new(profile, &key), SrtpRx::new(profile, &key));
        let payload = [7; 1200];
        let mut out = [0; 1500];
        let mut opened = 0;
        let count = allocations(|| {
            for round in 0..300u16 {
                // The first round opens sixteen streams, which is when tables would grow.
                for ssrc in 0..16u32 {
                    out[..2].copy_from_slice(&[0x80, 96]);
                    out[2..4].copy_from_slice(&round.to_be_bytes());
                    out[8..12].copy_from_slice(&ssrc.to_be_bytes());
                    let len = tx.protect_rtp(&mut out, 12, &payload, Ssrc(ssrc), ExtSeq(u64::from(round)));
                    let result = rx.unprotect_rtp(&mut out[..len], 12, Ssrc(ssrc), SeqNo(round));
                    opened += usize::from(result == Ok((1212, ExtSeq(u64::from(round)))));
                    let again = rx.unprotect_rtp(&mut out[..len], 12, Ssrc(ssrc), SeqNo(round));
                    opened += usize::from(again == Err(DropReason::Replayed));
                    let forged = rx.unprotect_rtp(&mut out[..len], 12, Ssrc(ssrc), SeqNo(round + 1));
                    opened += usize::from(forged == Err(DropReason::AuthFailed));

                    let len = tx.protect_rtcp(&mut out, 60);
                    opened += usize::from(rx.unprotect_rtcp(&mut out[..len]) == Ok(60));
                }
            }
        });
        assert_eq!(opened, 300 * 16 * 4, "{profile:?}");
        assert_eq!(count, 0, "{profile:?}");
    }
}
