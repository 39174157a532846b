//! SRTP and SRTCP against published vectors (RFC 3711 appendix B, RFC 7714 §16 and §17) and, packet by packet and in
//! both directions, against `webrtc-srtp`.

use proptest::prelude::*;
use sfu_core::crypto::kdf::{Label, SessionKeys, derive};
use sfu_core::crypto::srtp::MAX_STREAMS;
use sfu_core::crypto::{MasterKey, SrtpProfile, SrtpRx, SrtpTx};
use sfu_core::drop_reason::DropReason;
use sfu_core::ids::{ExtSeq, SeqNo, Ssrc};
use webrtc_srtp::context::Context as Oracle;
use webrtc_srtp::protection_profile::ProtectionProfile;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Session keys with this encryption key and salt, and no authentication key.
fn session_keys(key: &[u8], salt: &[u8]) -> SessionKeys {
    let mut keys = SessionKeys { encryption: [0; 32], authentication: [0; 20], salt: [0; 14] };
    keys.encryption[..key.len()].copy_from_slice(key);
    keys.salt[..salt.len()].copy_from_slice(salt);
    keys
}

fn master(profile: SrtpProfile) -> MasterKey {
    let bytes: Vec<u8> = (0..64u32).map(|i| (i * 7 + 3) as u8).collect();
    MasterKey::new(profile, &bytes[..profile.key_len()], &bytes[40..40 + profile.salt_len()])
        .expect("the profile's lengths")
}

/// A header of 12 bytes.
fn header(seq: u16, ssrc: u32) -> Vec<u8> {
    let mut bytes = vec![0x80, 96];
    bytes.extend(seq.to_be_bytes());
    bytes.extend(0x1234_5678u32.to_be_bytes());
    bytes.extend(ssrc.to_be_bytes());
    bytes
}

fn protect(tx: &mut SrtpTx, header: &[u8], payload: &[u8], ssrc: u32, index: u64) -> Vec<u8> {
    let mut out = header.to_vec();
    out.resize(header.len() + payload.len() + tx.rtp_overhead(), 0xee);
    let len = tx.protect_rtp(&mut out, header.len(), payload, Ssrc(ssrc), ExtSeq(index));
    assert_eq!(len, out.len());
    out
}

/// A packet of one payload byte.
fn packet(tx: &mut SrtpTx, ssrc: u32, index: u64) -> Vec<u8> {
    protect(tx, &header(index as u16, ssrc), &[index as u8], ssrc, index)
}

/// Opens a copy of a packet with a 12-byte header.
fn unprotect(rx: &mut SrtpRx, packet: &[u8]) -> Result<(Vec<u8>, u64), DropReason> {
    let mut copy = packet.to_vec();
    let seq = SeqNo(u16::from_be_bytes([packet[2], packet[3]]));
    let ssrc = Ssrc(u32::from_be_bytes([packet[8], packet[9], packet[10], packet[11]]));
    let (len, index) = rx.unprotect_rtp(&mut copy, 12, ssrc, seq)?;
    copy.truncate(len);
    Ok((copy, index.0))
}

fn protect_rtcp(tx: &mut SrtpTx, plain: &[u8]) -> Vec<u8> {
    let mut out = plain.to_vec();
    out.resize(plain.len() + tx.rtcp_overhead(), 0xee);
    let len = tx.protect_rtcp(&mut out, plain.len());
    assert_eq!(len, out.len());
    out
}

fn unprotect_rtcp(rx: &mut SrtpRx, packet: &[u8]) -> Result<Vec<u8>, DropReason> {
    let mut copy = packet.to_vec();
    let len = rx.unprotect_rtcp(&mut copy)?;
    copy.truncate(len);
    Ok(copy)
}

// RFC 3711.

#[test]
fn rfc3711_b3_key_derivation() {
    let key = hex("E1F97A0D3E018BE0D64FA32C06DE4139");
    let salt = hex("0EC675AD498AFEEBB6960B3AABE6");
    let master = MasterKey::new(SrtpProfile::Aes128CmHmacSha1_80, &key, &salt).unwrap();
    for (label, expected) in [
        (Label::RtpEncryption, "C61E7A93744F39EE10734AFE3FF7A087"),
        (Label::RtpSalt, "30CBBC08863D8C85D49DB34A9AE1"),
        (
            Label::RtpAuthentication,
            "CEBE321F6FF7716B6FD4AB49AF256A15 6D38BAA48F0A0ACF3C34E2359E6CDBCE
             E049646C43D9327AD175578EF7227098 6371C10C9A369AC2F94A8C5FBCDDDC25
             6D6E919A48B610EF17C2041E47403576 6B68642C59BBFC2F34DB60DBDFB2",
        ),
    ] {
        let expected = hex(expected);
        let mut got = vec![0; expected.len()];
        derive(&master, label, &mut got);
        assert_eq!(got, expected, "{label:?}");
    }
}

#[test]
fn rfc3711_b2_keystream() {
    let keys = session_keys(&hex("2B7E151628AED2A6ABF7158809CF4F3C"), &hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD"));
    let mut tx = SrtpTx::from_session_keys(SrtpProfile::Aes128CmHmacSha1_80, &keys, &keys);
    // Zeros sealed under SSRC 0, index 0 are the keystream itself.
    let sealed = protect(&mut tx, &header(0, 0), &vec![0; 0xff02 * 16], 0, 0);
    let keystream = &sealed[12..sealed.len() - 10];
    for (block, expected) in [
        (0, "E03EAD0935C95E80E166B16DD92B4EB4"),
        (1, "D23513162B02D0F72A43A2FE4A5F97AB"),
        (2, "41E95B3BB0A2E8DD477901E4FCA894C0"),
        (0xfeff, "EC8CDF7398607CB0F2D21675EA9EA1E4"),
        (0xff00, "362B7C3C6773516318A077D7FC5073AE"),
        (0xff01, "6A2CC3787889374FBEB4C81B17BA6C44"),
    ] {
        assert_eq!(keystream[block * 16..][..16], hex(expected), "block {block:x}");
    }
}

// RFC 7714.

const RFC7714_SALT: &str = "517569642070726f2071756f";
const RFC7714_RTP: &str = "8040f17b 8041f8d3 5501a0b2 47616c6c 69612065 7374206f 6d6e6973 20646976
     69736120 696e2070 61727465 73207472 6573";
const RFC7714_RTCP: &str = "81c8000d 4d617273 4e545031 4e545032 52545020 0000042a 0000e930 4c756e61
     deadbeef deadbeef deadbeef deadbeef deadbeef";

fn rfc7714_contexts(profile: SrtpProfile) -> (SrtpTx, SrtpRx) {
    let key: Vec<u8> = (0..profile.key_len() as u8).collect();
    let keys = session_keys(&key, &hex(RFC7714_SALT));
    (SrtpTx::from_session_keys(profile, &keys, &keys), SrtpRx::from_session_keys(profile, &keys, &keys))
}

#[test]
fn rfc7714_16_rtp() {
    for (profile, expected) in [
        (
            SrtpProfile::AeadAes128Gcm,
            "8040f17b 8041f8d3 5501a0b2 f24de3a3 fb34de6c acba861c 9d7e4bca be633bd5
             0d294e6f 42a5f47a 51c7d19b 36de3adf 8833899d 7f27beb1 6a9152cf 765ee439 0cce",
        ),
        (
            SrtpProfile::AeadAes256Gcm,
            "8040f17b 8041f8d3 5501a0b2 32b1de78 a822fe12 ef9f78fa 332e33aa b1801238
             9a58e2f3 b50b2a02 76ffae0f 1ba63799 b87b7aa3 db36dfff d6b0f9bb 7878d7a7 6c13",
        ),
    ] {
        let (mut tx, mut rx) = rfc7714_contexts(profile);
        let (plain, expected) = (hex(RFC7714_RTP), hex(expected));
        let sealed = protect(&mut tx, &plain[..12], &plain[12..], 0x5501_a0b2, 0xf17b);
        assert_eq!(sealed, expected, "{profile:?}");
        assert_eq!(unprotect(&mut rx, &expected), Ok((plain, 0xf17b)), "{profile:?}");
    }
}

/// RFC 7714 §16.1.3: everything is associated data and the payload is empty.
#[test]
fn rfc7714_16_rtp_tag_only() {
    let (mut tx, _) = rfc7714_contexts(SrtpProfile::AeadAes128Gcm);
    let plain = hex(RFC7714_RTP);
    let tagged = protect(&mut tx, &plain, &[], 0x5501_a0b2, 0xf17b);
    assert_eq!(tagged[plain.len()..], hex("22493f82d2bce397e9d79e3b19aa4216"));
}

#[test]
fn rfc7714_17_rtcp() {
    for (profile, expected) in [
        (
            SrtpProfile::AeadAes128Gcm,
            "81c8000d 4d617273 63e94885 dcdab67c a727d766 2f6b7e99 7ff5c0f7 6c06f32d
             c676a5f1 730d6fda 4ce09b46 86303ded 0bb9275b c84aa458 96cf4d2f c5abf872 45d9eade 800005d4",
        ),
        (
            SrtpProfile::AeadAes256Gcm,
            "81c8000d 4d617273 d50ae4d1 f5ce5d30 4ba297e4 7d470c28 2c3ece5d bffe0a50
             a2eaa5c1 110555be 8415f658 c61de047 6f1b6fad 1d1eb30c 4446839f 57ff6f6c b26ac3be 800005d4",
        ),
    ] {
        let (mut tx, mut rx) = rfc7714_contexts(profile);
        let (plain, expected) = (hex(RFC7714_RTCP), hex(expected));
        tx.set_rtcp_index(0x5d4);
        assert_eq!(protect_rtcp(&mut tx, &plain), expected, "{profile:?}");
        assert_eq!(unprotect_rtcp(&mut rx, &expected), Ok(plain), "{profile:?}");
        assert_eq!(unprotect_rtcp(&mut rx, &expected), Err(DropReason::Replayed), "{profile:?}");
    }
}

/// RFC 7714 §17.3, §17.4: the E flag is off.
#[test]
fn rfc7714_17_rtcp_tag_only() {
    for (profile, tag) in [
        (SrtpProfile::AeadAes128Gcm, "841dd968 3dd78ec9 2ae58790 125f62b3"),
        (SrtpProfile::AeadAes256Gcm, "91db4afb feee5a97 8fab4393 ed2615fe"),
    ] {
        let (_, mut rx) = rfc7714_contexts(profile);
        let plain = hex(RFC7714_RTCP);
        let tagged = [plain.clone(), hex(tag), hex("000005d4")].concat();
        for at in 0..tagged.len() {
            let mut forged = tagged.clone();
            forged[at] ^= 1;
            assert_eq!(unprotect_rtcp(&mut rx, &forged), Err(DropReason::AuthFailed), "{profile:?} {at}");
        }
        assert_eq!(unprotect_rtcp(&mut rx, &tagged), Ok(plain), "{profile:?}");
    }
}

// Streams, rollover, replay.

#[test]
fn a_stream_may_start_anywhere_and_wrap() {
    for profile in SrtpProfile::ALL {
        let (mut tx, mut rx) =
            (SrtpTx::new(profile, &master(profile)), SrtpRx::new(profile, &master(profile)));
        for index in 65_530..65_545 {
            let sealed = packet(&mut tx, 7, index);
            assert_eq!(unprotect(&mut rx, &sealed).unwrap().1, index, "{profile:?}");
        }
    }
}

#[test]
fn packets_swapped_across_the_wrap_get_their_own_rollover_counter() {
    for profile in SrtpProfile::ALL {
        let (mut tx, mut rx) =
            (SrtpTx::new(profile, &master(profile)), SrtpRx::new(profile, &master(profile)));
        for index in [65_534, 65_536, 65_535, 65_538, 65_533, 65_537, 91_000, 120_000, 131_072, 131_071] {
            let sealed = packet(&mut tx, 7, index);
            assert_eq!(unprotect(&mut rx, &sealed).unwrap().1, index, "{profile:?}");
            assert_eq!(unprotect(&mut rx, &sealed), Err(DropReason::Replayed), "{profile:?} {index}");
        }
        let old = packet(&mut tx, 7, 131_072 - 1024);
        assert_eq!(unprotect(&mut rx, &old), Err(DropReason::TooOld), "{profile:?}");
    }
}

#[test]
fn streams_have_their_own_windows_and_a_bound() {
    for profile in SrtpProfile::ALL {
        let (mut tx, mut rx) =
            (SrtpTx::new(profile, &master(profile)), SrtpRx::new(profile, &master(profile)));
        for ssrc in 0..MAX_STREAMS as u32 {
            for index in [9, 10] {
                assert!(unprotect(&mut rx, &packet(&mut tx, ssrc, index)).is_ok());
            }
        }
        let one_more = packet(&mut tx, 99, 9);
        assert_eq!(unprotect(&mut rx, &one_more), Err(DropReason::TooManyStreams), "{profile:?}");
        assert!(unprotect(&mut rx, &packet(&mut tx, 3, 11)).is_ok(), "known streams go on");
        for ssrc in 0..MAX_STREAMS as u8 {
            let sealed = protect_rtcp(&mut tx, &[0x80, 201, 0, 1, 0, 0, 0, ssrc]);
            assert!(unprotect_rtcp(&mut rx, &sealed).is_ok());
        }
        let sealed = protect_rtcp(&mut tx, &[0x80, 201, 0, 1, 0, 0, 0, 99]);
        assert_eq!(unprotect_rtcp(&mut rx, &sealed), Err(DropReason::TooManyStreams), "{profile:?}");
    }
}

#[test]
fn a_stream_that_ended_makes_room_and_is_never_replayed() {
    for profile in SrtpProfile::ALL {
        let (mut tx, mut rx) =
            (SrtpTx::new(profile, &master(profile)), SrtpRx::new(profile, &master(profile)));
        let mut recorded = Vec::new();
        for ssrc in 0..200 {
            for index in [65_000, 65_535, 65_536, 65_540] {
                let sealed = packet(&mut tx, ssrc, index);
                assert_eq!(unprotect(&mut rx, &sealed).map(|(_, got)| got), Ok(index));
                recorded.push(sealed);
            }
            let report = [&[0x80, 201, 0, 1][..], &ssrc.to_be_bytes()].concat();
            let sealed = protect_rtcp(&mut tx, &report);
            assert!(unprotect_rtcp(&mut rx, &sealed).is_ok());
            rx.retire(Ssrc(ssrc));
            assert!(unprotect_rtcp(&mut rx, &sealed).is_err());
            // A goodbye is still heard, once.
            let sealed = protect_rtcp(&mut tx, &report);
            assert!(unprotect_rtcp(&mut rx, &sealed).is_ok());
            assert!(unprotect_rtcp(&mut rx, &sealed).is_err());
        }
        assert_eq!(rx.streams(), 0);
        for sealed in &recorded {
            assert!(unprotect(&mut rx, sealed).is_err());
        }
        // It comes back: behind what it had sent, over a wrap it missed.
        let sealed = packet(&mut tx, 7, 65_541);
        assert_eq!(unprotect(&mut rx, &sealed).map(|(_, got)| got), Ok(65_541));
        assert_eq!(unprotect(&mut rx, &sealed), Err(DropReason::Replayed));
        assert_eq!(unprotect(&mut rx, &recorded[7 * 4 + 1]), Err(DropReason::Replayed));
        assert_eq!(rx.streams(), 1);
    }
}

#[test]
fn forged_packets_open_no_stream_and_move_no_window() {
    for profile in SrtpProfile::ALL {
        let (mut tx, mut rx) =
            (SrtpTx::new(profile, &master(profile)), SrtpRx::new(profile, &master(profile)));
        for ssrc in 0..100 {
            let mut forged = packet(&mut tx, ssrc, 5);
            forged[12] ^= 0x80;
            assert_eq!(unprotect(&mut rx, &forged), Err(DropReason::AuthFailed));
        }
        assert_eq!(rx.streams(), 0, "{profile:?}");
        assert!(unprotect(&mut rx, &packet(&mut tx, 1, 5)).is_ok());
        // Far ahead, but forged: what comes next in order is neither too old nor of another cycle.
        let mut forged = packet(&mut tx, 1, 30_000);
        forged[12] ^= 0x80;
        assert_eq!(unprotect(&mut rx, &forged), Err(DropReason::AuthFailed));
        assert_eq!(unprotect(&mut rx, &packet(&mut tx, 1, 6)).unwrap().1, 6, "{profile:?}");
        assert_eq!(unprotect(&mut rx, &packet(&mut tx, 1, 30_000)).unwrap().1, 30_000, "{profile:?}");
    }
}

#[test]
fn every_bit_of_a_packet_is_authenticated() {
    for profile in SrtpProfile::ALL {
        let (mut tx, mut rx) =
            (SrtpTx::new(profile, &master(profile)), SrtpRx::new(profile, &master(profile)));
        let rtp = protect(&mut tx, &header(77, 5), b"some payload", 5, 77);
        for bit in 0..rtp.len() * 8 {
            let mut forged = rtp.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unprotect(&mut rx, &forged), Err(DropReason::AuthFailed), "{profile:?} bit {bit}");
        }
        assert!(unprotect(&mut rx, &rtp).is_ok());
        let rtcp = protect_rtcp(&mut tx, &hex(RFC7714_RTCP));
        for bit in 0..rtcp.len() * 8 {
            let mut forged = rtcp.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                unprotect_rtcp(&mut rx, &forged),
                Err(DropReason::AuthFailed),
                "{profile:?} bit {bit}"
            );
        }
        assert!(unprotect_rtcp(&mut rx, &rtcp).is_ok());
    }
}

#[test]
fn keys_of_another_direction_do_not_open() {
    for profile in SrtpProfile::ALL {
        let other =
            MasterKey::new(profile, &vec![9; profile.key_len()], &vec![9; profile.salt_len()]).unwrap();
        let (mut tx, mut rx) = (SrtpTx::new(profile, &other), SrtpRx::new(profile, &master(profile)));
        assert_eq!(unprotect(&mut rx, &packet(&mut tx, 1, 5)), Err(DropReason::AuthFailed));
    }
}

#[test]
fn rtcp_index_ends_at_31_bits() {
    let profile = SrtpProfile::AeadAes128Gcm;
    let (mut tx, mut rx) = (SrtpTx::new(profile, &master(profile)), SrtpRx::new(profile, &master(profile)));
    tx.set_rtcp_index(u32::MAX);
    let last = protect_rtcp(&mut tx, &hex(RFC7714_RTCP));
    assert_eq!(last[last.len() - 4..], [0xff; 4]);
    assert!(unprotect_rtcp(&mut rx, &last).is_ok());
    let mut out = vec![0; 100];
    assert_eq!(tx.protect_rtcp(&mut out, 8), 0, "the key is used up");
    assert_eq!(out, vec![0; 100]);
}

// Against webrtc-srtp.

fn oracle(profile: SrtpProfile) -> Oracle {
    let theirs = match profile {
        SrtpProfile::Aes128CmHmacSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
        SrtpProfile::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
        SrtpProfile::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
    };
    Oracle::new(master(profile).key(), master(profile).salt(), theirs, None, None)
        .expect("the profile's lengths")
}

fn any_profile() -> impl Strategy<Value = SrtpProfile> {
    prop::sample::select(SrtpProfile::ALL.to_vec())
}

prop_compose! {
    /// A header with up to three CSRCs and perhaps a one-byte header extension, sequence number left zero.
    fn any_header()(csrcs in prop::collection::vec(any::<u32>(), 0..4), ext in prop::option::of(0usize..4), pt in 0u8..128)
        -> Vec<u8> {
        let mut bytes = header(0, 0xdead_beef);
        bytes[0] |= csrcs.len() as u8 | if ext.is_some() { 0x10 } else { 0 };
        bytes[1] = pt;
        bytes.extend(csrcs.iter().flat_map(|csrc| csrc.to_be_bytes()));
        if let Some(words) = ext {
            bytes.extend([0xbe, 0xde, 0, words as u8]);
            for word in 0..words {
                // Element of id 1..=3 with three bytes.
                bytes.extend([(word as u8 + 1) << 4 | 2, 1, 2, 3]);
            }
        }
        bytes
    }
}

prop_compose! {
    /// Indexes of one stream in sending order over at least one wrap, in steps of up to 3000.
    fn any_indexes()(first in 0u64..65_536, steps in prop::collection::vec(1u64..3000, 1..40)) -> Vec<u64> {
        steps.iter().scan(first, |at, step| { let here = *at; *at += step; Some(here) }).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn rtp_agrees_with_webrtc_srtp(
        profile in any_profile(), template in any_header(), indexes in any_indexes(),
        payload in prop::collection::vec(any::<u8>(), 0..1400),
    ) {
        let (mut their_tx, mut their_rx) = (oracle(profile), oracle(profile));
        let (mut tx, mut rx) = (SrtpTx::new(profile, &master(profile)), SrtpRx::new(profile, &master(profile)));
        for index in indexes {
            let mut header = template.clone();
            header[2..4].copy_from_slice(&(index as u16).to_be_bytes());
            let plain = [&header[..], &payload].concat();
            let sealed = protect(&mut tx, &header, &payload, 0xdead_beef, index);
            // webrtc-srtp writes the header anew from what it parsed; ours must be the same bytes.
            prop_assert_eq!(&their_tx.encrypt_rtp(&plain).unwrap()[..], &sealed[..]);
            prop_assert_eq!(&their_rx.decrypt_rtp(&sealed).unwrap()[..], &plain[..]);
            let mut packet = sealed.clone();
            let (len, got) =
                rx.unprotect_rtp(&mut packet, header.len(), Ssrc(0xdead_beef), SeqNo(index as u16)).unwrap();
            prop_assert_eq!(&packet[..len], &plain[..]);
            prop_assert_eq!(got.0, index);
        }
    }

    #[test]
    fn rtcp_agrees_with_webrtc_srtp(
        profile in any_profile(), bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..10),
    ) {
        let (mut their_tx, mut their_rx) = (oracle(profile), oracle(profile));
        let (mut tx, mut rx) = (SrtpTx::new(profile, &master(profile)), SrtpRx::new(profile, &master(profile)));
        for body in bodies {
            let mut plain = vec![0x80, 200, 0, 1, 0xde, 0xad, 0xbe, 0xef];
            plain.extend(body);
            let sealed = protect_rtcp(&mut tx, &plain);
            prop_assert_eq!(&their_rx.decrypt_rtcp(&sealed).unwrap()[..], &plain[..]);
            prop_assert_eq!(&unprotect_rtcp(&mut rx, &sealed).unwrap(), &plain);
            let theirs = their_tx.encrypt_rtcp(&plain).unwrap();
            // Both count from 1, so that the packets are the same.
            prop_assert_eq!(&theirs[..], &sealed[..]);
        }
    }

    /// Whatever comes in: no panic, and afterwards everything that was expected still is.
    #[test]
    fn mangled_input_changes_nothing(
        profile in any_profile(),
        garbage in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
        header_len in 0usize..300, seq in any::<u16>(), ssrc in prop::sample::select(vec![5u32, 6]),
        cut in 0usize..60,
    ) {
        let (mut tx, mut rx) = (SrtpTx::new(profile, &master(profile)), SrtpRx::new(profile, &master(profile)));
        unprotect(&mut rx, &packet(&mut tx, 5, 1000)).unwrap();
        let first = protect_rtcp(&mut tx, &hex(RFC7714_RTCP));
        unprotect_rtcp(&mut rx, &first).unwrap();
        for bytes in garbage {
            prop_assert!(rx.unprotect_rtp(&mut bytes.clone(), header_len, Ssrc(ssrc), SeqNo(seq)).is_err());
            prop_assert!(rx.unprotect_rtcp(&mut bytes.clone()).is_err());
        }
        let next = packet(&mut tx, 5, 1001);
        let mut short = next[..cut.min(next.len() - 1)].to_vec();
        prop_assert!(rx.unprotect_rtp(&mut short, 12, Ssrc(5), SeqNo(1001)).is_err());
        let mut short = first[..cut.min(first.len() - 1)].to_vec();
        prop_assert!(rx.unprotect_rtcp(&mut short).is_err());

        prop_assert_eq!(rx.streams(), 1);
        prop_assert_eq!(unprotect(&mut rx, &next).unwrap().1, 1001);
        prop_assert!(unprotect_rtcp(&mut rx, &protect_rtcp(&mut tx, &hex(RFC7714_RTCP))).is_ok());
        prop_assert_eq!(unprotect(&mut rx, &next), Err(DropReason::Replayed));
    }
}
